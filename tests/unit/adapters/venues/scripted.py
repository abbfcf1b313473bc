"""A venue on a loopback port that answers what a test has written down, and remembers what it was asked."""

import json
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Reply:
    """One answer: `cut` sends only so many bytes of the body, `drip_s` one byte at a time, `is_reset` and `is_silent` none."""

    body: str | bytes = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    drip_s: float = 0.0
    is_reset: bool = False
    is_silent: bool = False

    @classmethod
    def of(cls, content: object, status: int = 200) -> "Reply":
        return cls(json.dumps(content), status, {"Content-Type": "application/json"})


@dataclass(frozen=True)
class Asked:
    path: str
    params: dict[str, str]
    body: object
    headers: Mapping[str, str]


@dataclass
class Scripted:
    """Replies are used up in their order; one that is a function is called with the request and stays for the rest."""

    url: str
    replies: deque[Reply | Callable[[Asked], Reply]] = field(default_factory=deque)
    asked: list[Asked] = field(default_factory=list)
    is_over: Event = field(default_factory=Event)

    def answer(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        if not self.replies:
            return Reply("the script has no reply left", 599)
        reply = self.replies[0]
        return reply(asked) if callable(reply) else self.replies.popleft()  # type: ignore[return-value]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    script: Scripted

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = Asked(split.path, dict(parse_qsl(split.query)), _parse(body), dict(self.headers))
        reply = self.server.script.answer(asked)
        content = reply.body.encode() if isinstance(reply.body, str) else reply.body
        if reply.is_silent:
            self.server.script.is_over.wait(10)
            self.close_connection = True
            return
        if reply.is_reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        # the base class stamps answers itself
        self.send_response_only(reply.status) if "Date" in reply.headers else self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if reply.drip_s:
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.script.is_over.wait(reply.drip_s):
                    break
        else:
            self.wfile.write(content if reply.cut is None else content[: reply.cut])
        self.close_connection = reply.cut is not None

    do_POST = do_GET  # noqa: N815 - the base class looks for this name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class has this name
        """Say nothing."""


def _parse(body: bytes) -> object:
    """A body of JSON as it is meant, a form as its fields."""
    text = body.decode()
    return dict(parse_qsl(text)) if "=" in text and not text.startswith(("{", "[", '"')) else json.loads(text) if text else None


@contextmanager
def serve(*replies: Reply | Callable[[Asked], Reply]) -> Iterator[Scripted]:
    """Serve the replies until the block is left."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        script = Scripted(f"http://127.0.0.1:{server.server_address[1]}", deque(replies))
        server.script = script
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield script
        finally:
            script.is_over.set()
            server.shutdown()
            thread.join()
