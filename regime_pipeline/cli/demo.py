"""`regime demo`: a market, the three Dagster jobs over its history, and what came out. What it shows is read in `demo_report.py`."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from zlib import crc32

import typer

from regime_pipeline.market.timeframe import HORIZONS, REGIME_TIMEFRAMES, Timeframe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from regime_pipeline.adapters.postgres.checksum import TableSum
    from regime_pipeline.cli.demo_report import Findings
    from regime_pipeline.settings import Settings

DAYS: Final = {Timeframe.M1: 3, Timeframe.H1: 55, Timeframe.D1: 1100}
"""History of a generated market: more than the 1000 bars from which a record counts as mature."""


def demo(
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Recorded bars; without it a market is generated.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Page to write.")] = Path("demo/report.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON object.")] = False,
    days_macro: Annotated[int | None, typer.Option(min=1, help="Newest days of the 1d bars; default: 1100, recorded: all.")] = None,
    days_meso: Annotated[int | None, typer.Option(min=1, help="Newest days of the 1h bars; default: 55, recorded: all.")] = None,
    days_micro: Annotated[int | None, typer.Option(min=1, help="Newest days of the 1m bars; default: 3, recorded: all.")] = None,
) -> None:
    """Take a market through the three Dagster jobs and show board, levers and a report.

    The demo has its own folder under the home, with its own database server: it never touches another one. Running it again over the
    same bars changes nothing; the checksums show it.
    """
    from rich.console import Console

    from regime_pipeline.adapters.postgres.embedded import server_status, stop_server
    from regime_pipeline.settings import export_settings, load_settings

    console = Console(stderr=as_json)
    settings = demo_settings(load_settings(), data)
    export_settings(settings)  # the jobs read them where they run
    wanted = {Timeframe.D1: days_macro, Timeframe.H1: days_meso, Timeframe.M1: days_micro}
    was_running = server_status(settings.home).state == "running"
    try:
        results = _run(settings, wanted, out, console)
    finally:
        if not was_running:
            stop_server(settings.home)
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    console.print(f"report    {out.resolve()}\nsee it in the Dagster UI:\n  {ui_command(settings)}", soft_wrap=True, highlight=False)


def demo_settings(settings: "Settings", data: Path | None) -> "Settings":
    """Give a demo its own home below the given one, a new one for each market, and never an external database."""
    market = f"generated-{settings.generated_seed}" if data is None else f"recorded-{crc32(str(data.resolve()).encode()):08x}"
    changes = {
        "home": settings.home / "demo" / market,
        "database_url": None,
        "dagster_database_url": None,
        "source": "generated" if data is None else "recorded",
        "recorded_path": data,
    }
    return settings.model_copy(update=changes)


def ui_command(settings: "Settings") -> str:
    """Spell the command that serves a demo's Dagster instance."""
    variables = {"REGIME_HOME": settings.home, "REGIME_SOURCE": settings.source, "REGIME_RECORDED_PATH": settings.recorded_path}
    shown = " ".join(f"{name}='{value}'" for name, value in variables.items() if value is not None)
    return f"{shown} .venv/bin/regime up"


def _run(settings: "Settings", wanted: dict[Timeframe, int | None], out: Path, console: "Console") -> dict[str, Any]:
    from regime_pipeline.adapters.postgres.checksum import sum_tables
    from regime_pipeline.board.report import Report, render_report
    from regime_pipeline.cli.demo_report import collect_findings
    from regime_pipeline.cli.drivers import build_board, cell_document
    from regime_pipeline.cli.session import iso_time, open_migrated_stores
    from regime_pipeline.market.universe import load_universe

    seconds: dict[str, float] = {}
    with _step(console, "database", seconds):
        stores = open_migrated_stores(settings)
    universe = load_universe(settings.universe)
    _backfill(settings, wanted, console, seconds)
    with _step(console, "report", seconds):
        with stores.open() as work:
            findings = collect_findings(work, universe)
            tables = sum_tables(work.conn)
        counts = {name: table.rows for name, table in tables.items() if table.rows}
        page = Report(
            describe_market(settings), findings.as_of_s, findings.levers_at_s, findings.cells, findings.samples, findings.tracks, counts
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(render_report(page), encoding="utf-8")
    console.print(build_board(findings.cells))
    console.print(_draw_samples(findings))
    console.print(_draw_tables(tables))
    return {
        "market": describe_market(settings),
        "home": str(settings.home),
        "as_of": iso_time(findings.as_of_s),
        "board": [cell_document(cell) for cell in findings.cells],
        "levers_at": iso_time(findings.levers_at_s),
        "levers": [
            {
                "symbol": sample.symbol,
                "bucket": sample.bucket,
                "exec_timeframe": sample.exec_timeframe,
                "A_value": sample.levers.A_value,
                "E_value": sample.levers.E_value,
                "position_size_frac": sample.levers.position_size_frac,
                "degraded": sample.levers.degraded,
                "reasons": list(sample.levers.diagnostics.reasons),
            }
            for sample in findings.samples
        ],
        "tables": {name: {"rows": table.rows, "checksum": table.checksum} for name, table in tables.items()},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "report": str(out.resolve()),
    }


def describe_market(settings: "Settings") -> str:
    """Say in words where the bars come from."""
    if settings.recorded_path is None:
        return f"Generated market, seed {settings.generated_seed}"
    return f"Recorded market, folder {settings.recorded_path.resolve().name}"


def _backfill(settings: "Settings", wanted: dict[Timeframe, int | None], console: "Console", seconds: dict[str, float]) -> None:
    """Run each job over its days, in the order of `plan_history`."""
    with _step(console, "Dagster", seconds):
        from regime_pipeline.clock import now_s
        from regime_pipeline.market.universe import load_universe
        from regime_pipeline.orchestration.backfill import materialize_range
        from regime_pipeline.orchestration.instance import open_instance
        from regime_pipeline.orchestration.resources import build_source
        from regime_pipeline.services.plan_history import find_span, plan_history

        source, universe, now = build_source(settings), load_universe(settings.universe), now_s()
    spans = {}
    for timeframe in REGIME_TIMEFRAMES:
        span = find_span(source, universe, timeframe, now)
        if span is None:
            console.print(f"  {HORIZONS[timeframe]} {timeframe}: the market has no such bars")
            continue
        days = DAYS[timeframe] if settings.recorded_path is None and wanted[timeframe] is None else wanted[timeframe]
        spans[timeframe] = choose_days(span, days, now)
    with open_instance(settings) as instance, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dagster's about what it marks beta: of no concern to who runs a demo
        for timeframe, (start_s, end_s) in plan_history(spans):
            first, last = (datetime.fromtimestamp(at_s, UTC).date() for at_s in (start_s, end_s - 1))
            name = f"{HORIZONS[timeframe]} {timeframe}, {first} to {last}"
            with _step(console, name, seconds):
                materialize_range(timeframe, first, last, instance)


def choose_days(span_s: tuple[int, int], days: int | None, now_s: int) -> tuple[int, int]:
    """Choose the newest `days` (None: all) of a span: whole UTC days only, so that the same day gives the same demo twice."""
    day_s = Timeframe.D1.seconds
    start_s, end_s = Timeframe.D1.floor(span_s[0]), min(Timeframe.D1.floor(span_s[1] - 1) + day_s, Timeframe.D1.floor(now_s))
    return (start_s if days is None else max(start_s, end_s - days * day_s)), end_s


@contextmanager
def _step(console: "Console", name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Show a spinner while a step runs and its time when it is done."""
    from regime_pipeline.clock import monotonic_s

    began_s = monotonic_s()
    with console.status(f"{name} ..."):
        yield
    seconds[name] = monotonic_s() - began_s
    console.print(f"  {name}: {seconds[name]:.1f} s", highlight=False)


def _draw_samples(findings: "Findings") -> "Table":
    from rich import box
    from rich.table import Table

    from regime_pipeline.cli.session import show_time

    table = Table(title=f"Levers of sample positions, as of {show_time(findings.levers_at_s)} UTC", box=box.SIMPLE)
    for name in ("position", "bucket", "timeframe"):
        table.add_column(name)
    for name in ("A", "E", "size", "channels that count"):
        table.add_column(name, justify="right")
    for sample in findings.samples:
        levers = sample.levers
        counting = sum(channel.quality == "ok" for channel in levers.diagnostics.channels)
        numbers = (f"{levers.A_value:.4f}", f"{levers.E_value:.4f}", f"{levers.position_size_frac:.4f}")
        note = f"{counting} of {len(levers.diagnostics.channels)}" + (", degraded" if levers.degraded else "")
        table.add_row(sample.symbol, sample.bucket, sample.exec_timeframe, *numbers, note)
    return table


def _draw_tables(tables: "dict[str, TableSum]") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title="Tables", caption="checksum: of all columns but write times; the order of rows does not matter", box=box.SIMPLE)
    table.add_column("table")
    table.add_column("rows", justify="right")
    table.add_column("checksum")
    for name, found in tables.items():
        table.add_row(name, f"{found.rows:,}", found.checksum)
    return table
