"""`regime up`: database, web server, daemon, with `live` the collector and with trading the executor; none is left behind by ctrl-C.

The web server takes launch requests from any page open in the same browser (cross-site GET and text/plain POST, any Host header), so it
binds 127.0.0.1 unless told otherwise, and `read_only` refuses launches and switches altogether.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO
from urllib.error import URLError
from urllib.request import urlopen

import dagster as dg

from regime_pipeline.adapters.postgres.connect import database_urls, open_connection
from regime_pipeline.adapters.postgres.embedded import ensure_server, server_status, stop_server
from regime_pipeline.adapters.postgres.migrate import apply_roles, migrate
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.clock import monotonic_s
from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.errors import DatabaseError, RegimeError
from regime_pipeline.market.universe import load_universe
from regime_pipeline.orchestration.code_server import is_answering, make_socket, serve_command, watch_pulse, write_workspace
from regime_pipeline.orchestration.instance import EVENT_BATCH, URL_VARIABLE, dagster_home, open_instance, write_home
from regime_pipeline.services.read_board import load_board
from regime_pipeline.settings import Settings, child_environment, executor_environment

_CLAIMS: Final[list[TextIO]] = []
FIRST_PORT: Final = 3000
START_TIMEOUT_S: Final = 180
REGIME: Final = ["-c", "from regime_pipeline.cli import main; main()"]
"""Our own command line, by the interpreter that runs us."""
HELPERS: Final = {
    "collector": "the collector listens to the venues' streams",
    "executor": "the executor looks after orders, stops and reconciliation",
}
COMEBACK_S: Final = (1.0, 60.0)
"""Shortest and longest wait before a dead helper is started again; it doubles while it dies within a minute."""
DATABASE_LOOK_S: Final = 5.0
"""How often the embedded server is looked after."""
_TETHER: Final = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
"""Asks Linux for SIGTERM when we are killed, and becomes the child: one that outlived us would hold our lock, and refuse every new start.
Not a `preexec_fn`, since we have threads. Elsewhere the children of a killed one have to be ended by hand."""
STOP_TIMEOUT_S: Final = 20
"""How long a child, and a run under way, may take to end before it is killed; the next run heals what a killed one left."""

Say = Callable[[str], None]


class UpError(RegimeError):
    """Something that `regime up` needs did not start, or ended by itself."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process of ours, its name for people and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(frozen=True, slots=True)
class UpOptions:
    """Where the web server listens (`port` None: the first free one from 3000 on), what runs, and whether bars come from live venues."""

    host: str = "127.0.0.1"
    port: int | None = None
    with_daemon: bool = True
    read_only: bool = False
    live: bool = False


def run_up(settings: Settings, options: UpOptions, say: Say) -> None:
    """Start everything, tell the address, and stop everything on SIGINT, SIGTERM or when a child ends.

    Raises
    ------
    UpError
        When another `regime up` serves this home, the port is taken, or a child ends by itself; the message names its log.
    DatabaseError
        When the database cannot be started, reached or migrated.
    """
    home = dagster_home(settings)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _only_one(home) as lock, _stop_signals() as stopped:
        was_running = settings.database_url is not None or server_status(settings.home).state == "running"
        try:
            _serve(settings, options, say, lock, stopped)
        finally:
            if not was_running and stop_server(settings.home):
                say("database stopped")


def _serve(settings: Settings, options: UpOptions, say: Say, lock: TextIO, stopped: threading.Event) -> None:
    urls = database_urls(settings)
    with open_connection(urls.regime) as conn:
        applied = migrate(conn)
        apply_roles(conn)
    say(f"database ready{f', {len(applied)} migrations applied' if applied else ''}")
    home = write_home(settings)
    port = options.port if options.port is not None else _free_port(options.host)
    if not _is_free(options.host, port):
        raise UpError(f"port was {port}: something listens there on {options.host} already. Choose another with --port, or stop that.")
    variables = {
        URL_VARIABLE: urls.dagster,
        EVENT_BATCH[0]: EVENT_BATCH[1],
        "DAGSTER_HOME": str(home),
        "REGIME_HOME": str(settings.home.resolve()),
        "REGIME_UNIVERSE": str(settings.universe.resolve()),
        "REGIME_RISK_FILE": str(settings.risk_file.resolve()),
        "REGIME_STATE_DIR": str(settings.kill_dir.resolve()),
        "PYTHONUNBUFFERED": "1",
        **({"REGIME_SOURCE": "live"} if options.live else {}),
    }
    environment = child_environment(**variables)
    if _needs_bootstrap(settings, options) and _lacks_history(urls.regime, settings):
        say("no states of the required drivers yet: fetching history first")
        _bootstrap(environment, lock, stopped, say)
        if stopped.is_set():
            return
    if options.with_daemon:
        _end_dead_runs(settings, say)
    door = make_socket()
    workspace = str(write_workspace(home, door))
    web = ["-m", "dagster_webserver", "-w", workspace, "-h", options.host, "-p", str(port)]
    commands = {"web server": [*web, *(["--read-only"] if options.read_only else [])]}
    if options.with_daemon:
        commands["daemon"] = ["-m", "dagster._daemon", "run", "-w", workspace]
    children: list[Child] = []
    code = Kept("code server", serve_command(door), home / "log", environment, lock)
    helpers = [Kept("collector", [*REGIME, "collect"], home / "log", environment, lock)] if options.live else []
    if options.with_daemon and settings.with_executor:
        helpers.append(Kept("executor", [*REGIME, "executor"], home / "log", executor_environment(**variables), lock))
    try:
        code.look(say)
        _wait_for_code(code, door, stopped)
        watch_pulse(door, stopped, code.end)
        for name, command in commands.items():
            children.append(_start(name, command, home / "log", environment, lock))
        for helper in helpers:
            helper.look(say)
            say(HELPERS[helper.name])
        address = f"http://{options.host}:{port}"
        _wait_until_up(address, children, stopped)
        if not stopped.is_set():
            say(f"Dagster is at {address} {'(read only)' if options.read_only else ''}".rstrip())
            say(f"logs are in {home / 'log'}; ctrl-C stops all")
        next_look_s = 0.0
        while not stopped.wait(0.5):
            _refuse_dead(children)
            for kept in (code, *helpers):
                kept.look(say)
            if monotonic_s() >= next_look_s:
                _revive_database(settings, say)
                next_look_s = monotonic_s() + DATABASE_LOOK_S
    finally:
        _stop([*children, *(child for kept in (code, *helpers) for child in kept.children)], say)
        shutil.rmtree(door.parent, ignore_errors=True)


@dataclass(slots=True)
class Kept:
    """A process that is started again when it ends by itself: the pipeline is right without it, only slower."""

    name: str
    command: list[str]
    logs: Path
    environment: dict[str, str]
    lock: TextIO
    child: Child | None = None
    failures: int = 0
    started_s: float = 0.0
    due_s: float = 0.0
    before: list[Child] = field(default_factory=list)

    @property
    def children(self) -> list[Child]:
        """It, and those before it whose own children live on: a run outlives the code server that started it."""
        return [*filter(_has_processes, self.before), *([self.child] if self.child is not None else [])]

    def look(self, say: Say) -> None:
        """Start it if it is due; notice its end."""
        now_s = monotonic_s()
        if self.child is None:
            if now_s >= self.due_s:
                self.child, self.started_s = _start(self.name, self.command, self.logs, self.environment, self.lock), now_s
            return
        code = self.child.process.poll()
        if code is None:
            return
        shortest, longest = COMEBACK_S
        self.failures = 1 if now_s - self.started_s >= longest else self.failures + 1
        wait_s = min(longest, shortest * 2.0 ** min(self.failures - 1, 10))
        say(f"the {self.name} ended by itself with code {code}; it starts again in {wait_s:g} s. Read {self.child.log}.1")
        self.before = [*filter(_has_processes, self.before), self.child]
        self.child, self.due_s = None, now_s + wait_s

    def end(self) -> None:
        """End its process, not what that has started: whoever looks next starts it again."""
        if self.child is not None:
            self.child.process.terminate()


def _wait_for_code(code: Kept, door: Path, stopped: threading.Event) -> None:
    """Wait until the definitions are served: web server and daemon would otherwise begin with an error."""
    deadline = monotonic_s() + START_TIMEOUT_S
    while not stopped.wait(0.2) and code.child is not None:
        _refuse_dead([code.child])
        if door.exists() and is_answering(door):
            return
        if monotonic_s() > deadline:
            raise UpError(f"the code server did not answer within {START_TIMEOUT_S} s. Read {code.child.log}.")


def _revive_database(settings: Settings, say: Say) -> None:
    """Start the embedded server again when none of its processes lives: runs would do so, but without it none is launched."""
    if settings.database_url is not None or server_status(settings.home).state != "stopped":
        return
    try:
        ensure_server(settings.home, settings.postgres_bin)
    except DatabaseError as error:
        say(f"the database ended by itself and does not start: {error}")
    else:
        say("the database ended by itself; it was started again")


def _needs_bootstrap(settings: Settings, options: UpOptions) -> bool:
    """Tell whether somebody here computes states, of bars that go on to now; recorded ones end before, and first_history asks for them."""
    return options.live or (options.with_daemon and settings.source != "recorded")


def _end_dead_runs(settings: Settings, say: Say) -> None:
    """Mark runs as failed whose processes died with an earlier `regime up`: they would keep their job's place for their maximum runtime."""
    alive = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    with open_instance(settings) as instance:
        for run in instance.get_runs(dg.RunsFilter(statuses=alive)):
            instance.report_run_failed(run, "Its process died with an earlier `regime up`; the next run does what it left.")
            say(f"run {run.run_id} of {run.job_name} had died with an earlier `regime up`")


def _lacks_history(url: str, settings: Settings) -> bool:
    """Tell whether a required driver has no state on some timeframe."""
    universe = load_universe(settings.universe)
    required = {driver.name for driver in universe.drivers if driver.required}
    with PostgresStores(url).open() as work:
        return any(cell.row is None and cell.driver in required for cell in load_board(work, read_now_s()))


def _bootstrap(environment: dict[str, str], lock: TextIO, stopped: threading.Event, say: Say) -> None:
    """Run `regime bootstrap` to its end, or to ours: what it has fetched by then stays."""
    process = subprocess.Popen(  # noqa: S603  # our own interpreter, no shell
        [sys.executable, *REGIME, "bootstrap"],
        stdin=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
        pass_fds=(lock.fileno(),),
    )
    while process.poll() is None and not stopped.wait(0.2):
        pass
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    elif process.returncode:
        say("a degraded start: the minute, hour and day jobs go on trying, and `regime bootstrap` can be run beside them")


def _start(name: str, command: list[str], logs: Path, environment: dict[str, str], lock: TextIO) -> Child:
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name.replace(' ', '-')}.log"
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter, no shell
            [sys.executable, *(["-c", _TETHER] if sys.platform == "linux" else []), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a group of its own: ctrl-C reaches us alone, and we end the group
            pass_fds=(lock.fileno(),),
        )
    return Child(name, process, log)


def _wait_until_up(address: str, children: list[Child], stopped: threading.Event) -> None:
    deadline = monotonic_s() + START_TIMEOUT_S
    while not stopped.wait(0.2):
        _refuse_dead(children)
        with suppress(URLError, OSError), urlopen(f"{address}/server_info", timeout=5) as answer:  # noqa: S310  # our own address
            if answer.status == 200:
                return
        if monotonic_s() > deadline:
            raise UpError(f"the web server did not answer at {address} within {START_TIMEOUT_S} s. Read {children[0].log}.")


def _refuse_dead(children: list[Child]) -> None:
    for child in children:
        code = child.process.poll()
        if code is not None:
            last = child.log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
            raise UpError(f"the {child.name} ended by itself with code {code}; it said last: {last[0]}. Read {child.log}.")


def _stop(children: list[Child], say: Say) -> None:
    """End every group: politely, then with the runs that are under way, then by force."""
    for step in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        alive = [child for child in children if _has_processes(child)]
        for child in alive:
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, step)
        deadline = monotonic_s() + STOP_TIMEOUT_S
        while any(_has_processes(child) for child in alive) and monotonic_s() < deadline:
            time.sleep(0.1)
    for child in children:
        child.process.wait()
        say(f"{child.name} stopped")


def _has_processes(child: Child) -> bool:
    child.process.poll()  # reap the leader, or its zombie would count
    try:
        os.killpg(child.process.pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def _only_one(home: Path) -> Iterator[TextIO]:
    """Hold the home's lock, which our children inherit: two daemons would start every tick twice."""
    with (home / "up.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UpError(
                f"another `regime up` serves {home}, or children of a killed one live on. Stop it, or set REGIME_HOME to another folder."
            ) from None
        yield lock


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    stopped = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port(host: str) -> int:
    """Find a free port that no other starting `regime up` has its eye on: the web server binds only seconds later."""
    for port in range(FIRST_PORT, FIRST_PORT + 100):
        if _is_free(host, port) and _claim(port):
            return port
    raise UpError(f"no port from {FIRST_PORT} to {FIRST_PORT + 99} is free on {host}. Name one with --port.")


def _claim(port: int) -> bool:
    """Hold a port against other processes of ours for as long as this one lives."""
    try:
        claim = (Path(tempfile.gettempdir()) / f"regime-port-{port}.lock").open("a")
    except PermissionError:  # another user's, who may or may not live
        return False
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        claim.close()
        return False
    _CLAIMS.append(claim)
    return True


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
