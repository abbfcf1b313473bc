"""One embedded server for the whole test run, and a freshly copied, migrated database for each test that asks for one."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest

from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.embedded import ServerAddress, ensure_server, stop_server
from regime_pipeline.adapters.postgres.migrate import apply_roles, migrate

_TEMPLATE = "migrated_template"
_NUMBERS = count()


_ROOM_BYTES = 3 * 2**30
_MEMORY = Path("/dev/shm")


def make_home() -> Path:
    """Make a home that an unprivileged server can reach (pytest's own temporary folders are closed), in memory where there is room.

    The server writes through all the same: what dies in tests are processes, and on a disk half of a test run is waiting for it.
    """
    has_room = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    home = Path(tempfile.mkdtemp(prefix="regime-test-", dir=_MEMORY if has_room else None))
    home.chmod(0o755)
    return home


@contextmanager
def open_home() -> Iterator[Path]:
    """Make a home, and leave nothing running."""
    home = make_home()
    try:
        yield home
    finally:
        stop_server(home)
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerAddress]:
    """Start the server, or share the one of the other xdist workers; the last one to leave stops it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        with open_home() as home:
            yield _prepare(home)
        return
    shared = tmp_path_factory.getbasetemp().parent
    with (shared / "postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        note = shared / "postgres.home"
        if not note.exists():
            home = make_home()
            note.write_text(str(home))
        home = Path(note.read_text())
        address = _prepare(home)
        mine = shared / f"postgres.user.{os.getpid()}"
        mine.touch()
        fcntl.flock(lock, fcntl.LOCK_UN)
        yield address
        fcntl.flock(lock, fcntl.LOCK_EX)
        mine.unlink()
        if not list(shared.glob("postgres.user.*")):
            stop_server(home)
            shutil.rmtree(home)
            note.unlink()


@pytest.fixture
def database(postgres_server: ServerAddress) -> Iterator[str]:
    """Address of a migrated database that nobody else uses."""
    with _named_database(postgres_server, f" template {_TEMPLATE} strategy file_copy") as url:
        yield url


@pytest.fixture(scope="module")
def lasting_database(postgres_server: ServerAddress) -> Iterator[str]:
    """Address of a migrated database that the tests of one module share: each keeps to accounts of its own."""
    with _named_database(postgres_server, f" template {_TEMPLATE} strategy file_copy") as url:
        yield url


@pytest.fixture(scope="module")
def module_database(postgres_server: ServerAddress) -> Iterator[str]:
    """Address of a migrated database that the tests of a module share."""
    with _named_database(postgres_server, f" template {_TEMPLATE} strategy file_copy") as url:
        yield url


@pytest.fixture
def empty_database(postgres_server: ServerAddress) -> Iterator[str]:
    """Address of a database without tables."""
    with _named_database(postgres_server, "") as url:
        yield url


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    """Connection to a migrated database."""
    with open_connection(database) as connection:
        yield connection


def _prepare(home: Path) -> ServerAddress:
    address = ensure_server(home)
    with psycopg.connect(address.url("postgres"), autocommit=True) as admin:
        if admin.execute("select from pg_database where datname = %s", (_TEMPLATE,)).fetchone() is None:
            admin.execute(f"create database {_TEMPLATE}")
    with open_connection(address.url(_TEMPLATE)) as template:
        migrate(template)
        apply_roles(template)
    return address


@contextmanager
def _named_database(server: ServerAddress, options: str) -> Iterator[str]:
    name = f"test_{os.getpid()}_{next(_NUMBERS)}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(f"create database {name}{options}")
        try:
            yield server.url(name)
        finally:
            admin.execute(f"drop database {name} with (force)")
