"""A relay before Postgres that loses what a COMMIT is answered: the client is cut off, whether or not the server has committed."""

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit


class Relay:
    """Passes bytes both ways; once armed, it cuts the connection at the n-th COMMIT, before or after the server has got it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.target = (str(parts.hostname), int(parts.port or 5432))
        self.door = socket.create_server(("127.0.0.1", 0))
        self.url = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{self.door.getsockname()[1]}"))
        self.left, self.is_kept, self.lost = 0, True, 0
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def arm(self, nth: int, *, is_kept: bool) -> None:
        """Cut at the n-th COMMIT from now on; `is_kept`: the server gets it, and only the answer is lost."""
        with self._lock:
            self.left, self.is_kept, self.lost = nth, is_kept, 0

    def disarm(self) -> int:
        """Cut no more; how many COMMITs were cut."""
        with self._lock:
            self.left = 0
            return self.lost

    def close(self) -> None:
        """Take no more connections."""
        self.door.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.door.accept()
                server = socket.create_connection(self.target)
                threading.Thread(target=self._carry_requests, args=(client, server), daemon=True).start()

    def _carry_requests(self, client: socket.socket, server: socket.socket) -> None:
        is_mute = threading.Event()
        answers = threading.Thread(target=self._carry_answers, args=(server, client, is_mute), daemon=True)
        answers.start()
        with suppress(OSError):
            while data := client.recv(65536):
                if b"COMMIT" not in data or not self._is_the_one():
                    server.sendall(data)
                    continue
                is_mute.set()
                if self.is_kept:
                    server.sendall(data)
                    answers.join(5)
                break
        _shut(client, server)

    def _carry_answers(self, server: socket.socket, client: socket.socket, is_mute: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if is_mute.is_set():
                    return  # what is answered now says that it has committed: nobody hears it
                client.sendall(data)
        _shut(client, server)

    def _is_the_one(self) -> bool:
        with self._lock:
            if self.left == 0:
                return False
            self.left -= 1
            self.lost += self.left == 0
            return self.left == 0


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
