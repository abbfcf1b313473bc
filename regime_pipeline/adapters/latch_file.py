"""The kill latch: a file beside the program, so that a kill needs no database; written whole or not at all, read at every create."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from time import sleep
from typing import Final

from regime_pipeline.risk.kill_switch import Switch, read_latch, write_latch

LATCH_NAME: Final = "kill.latch"
PATIENCE_S: Final = 0.5
_LOOK_EVERY_S: Final = 0.01
Seen = tuple[int, int, int]


@dataclass(slots=True)
class LatchFile:
    """`Latch` in the file at `path`; reading costs one `stat` while it stays as it is.

    What is there and cannot be read, a folder that cannot be searched included, is L3 for everybody. That there is no file is no level.
    """

    path: Path
    _seen: Seen | None = field(default=None, init=False, repr=False)
    _levels: tuple[Switch, ...] = field(default=(), init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def read(self) -> tuple[Switch, ...]:
        """Levels in the file; an unreadable one is L3 for everybody."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return ()
        except OSError:
            return read_latch("")
        seen = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino)  # ctime: a changed permission changes what can be read
        with self._lock:
            if seen != self._seen:
                self._levels, self._seen = self._parse(), seen
            return self._levels

    def change(self, decide: Callable[[tuple[Switch, ...]], Iterable[Switch]]) -> tuple[Switch, ...]:
        """Replace the levels by what `decide` makes of those there are; processes that change it at once wait for each other.

        A holder who does not let go within half a second is not waited for: nothing may keep a kill from its file.

        Returns
        -------
        tuple of Switch
            What the file holds now; without a latched level there is no file.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.path.with_suffix(".lock")):
            text = write_latch(decide(self._parse()))
            if text:
                write_whole(self.path, text)
            else:
                self.path.unlink(missing_ok=True)
                sync_folder(self.path.parent)
        return self.read()

    def _parse(self) -> tuple[Switch, ...]:
        try:
            return read_latch(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError):
            return read_latch("")


def write_whole(path: Path, text: str) -> None:
    """Write a file for ourselves alone so that a crash leaves the old text or the new: temporary file, fsync, rename, folder fsync."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:  # mkstemp makes it 0600
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename or a removal in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that processes that rewrite the file beside it take turns; half a second at most is waited for it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for _ in range(round(PATIENCE_S / _LOOK_EVERY_S)):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                sleep(_LOOK_EVERY_S)
        yield
    finally:
        os.close(handle)
