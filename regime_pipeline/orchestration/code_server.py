"""One code server, for the web server and the daemon of `regime up`.

Left to itself each of them starts its own, and the daemon throws its away every minute for a new one: four seconds of a core a minute,
and a fork server (see preload.py) that is never warm when a run is due. This one is Dagster's own `dagster code-server`, so that the
reload button of the UI works: it puts a new server behind the same socket.
"""

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import yaml  # type: ignore[import-untyped]  # Dagster brings it; its stubs are no package of ours

LOCATION: Final = "regime_pipeline"
"""Pinned: a renamed location starts its sensors with empty cursors."""
MODULE: Final = "regime_pipeline.definitions"
LOOK_S: Final = 10.0
MISSES: Final = 2
"""Unanswered looks after which a code server counts as dead: its outer process may outlive the one that holds the definitions."""


def make_socket() -> Path:
    """Make a place for the socket that only we can enter; short, because addresses of sockets are."""
    return Path(tempfile.mkdtemp(prefix="regime-code-")) / "code.sock"


def serve_command(door: Path) -> list[str]:
    """Spell the command of the code server, for our own interpreter."""
    return ["-m", "dagster", "code-server", "start", "--socket", str(door), "--location-name", LOCATION, "-m", MODULE]


def write_workspace(home: Path, door: Path) -> Path:
    """Write the workspace that points web server and daemon at the code server; returns the file."""
    file = home / "workspace.yaml"
    file.write_text(yaml.safe_dump({"load_from": [{"grpc_server": {"socket": str(door), "location_name": LOCATION}}]}))
    return file


def is_answering(door: Path) -> bool:
    """Ask the server behind the socket for a sign of life; it has a minute."""
    from dagster._core.errors import DagsterUserCodeUnreachableError
    from dagster._grpc.client import DagsterGrpcClient

    try:
        DagsterGrpcClient(socket=str(door)).ping("")
    except DagsterUserCodeUnreachableError:
        return False
    return True


def watch_pulse(door: Path, stopped: threading.Event, on_death: Callable[[], None]) -> threading.Thread:
    """Start looking at a code server from a thread of its own; `on_death` is called each time it has missed enough looks in a row."""

    def look() -> None:
        missed = 0
        while not stopped.wait(LOOK_S):
            missed = 0 if is_answering(door) else missed + 1
            if missed == MISSES:
                on_death()
                missed = 0

    thread = threading.Thread(target=look, name="code-server-pulse", daemon=True)
    thread.start()
    return thread
