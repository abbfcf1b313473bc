"""`regime demo`: a market, the three Dagster jobs over its history, a paper account that trades it, and what came out.

Unless told otherwise the market is made up and served by the simulated venue, and the clients of real venues ask it over sockets.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from zlib import crc32

import typer

from regime_pipeline.errors import BadInputError, SourceUnavailableError
from regime_pipeline.market.timeframe import HORIZONS, REGIME_TIMEFRAMES, Timeframe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status
    from rich.table import Table

    from regime_pipeline.adapters.postgres.checksum import TableSum
    from regime_pipeline.board.trading_report import TradingPage
    from regime_pipeline.cli.demo_report import Findings
    from regime_pipeline.market.universe import Universe
    from regime_pipeline.settings import Settings

DAYS: Final = {Timeframe.M1: 1, Timeframe.H1: 75, Timeframe.D1: 1001}
"""History of a market without end, since each page takes time: just more than the 1000 bars from which a record counts as mature, and of
hours a month more, because nothing is bought on an immature one."""

SIM_URL: Final = "http://127.0.0.1:8900"
"""Where `regime sim` listens unless told otherwise."""


def demo(
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Recorded bars, read without a venue in between.")] = None,
    live: Annotated[bool, typer.Option("--live", help="The real venues of the universe file; needs a network.")] = False,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Page to write.")] = Path("demo/report.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON object.")] = False,
    days_macro: Annotated[int | None, typer.Option(min=1, help="Newest days of the 1d bars; default: 1001, recorded: all.")] = None,
    days_meso: Annotated[int | None, typer.Option(min=1, help="Newest days of the 1h bars; default: 75, recorded: all.")] = None,
    days_micro: Annotated[int | None, typer.Option(min=1, help="Newest days of the 1m bars; default: 1, recorded: all.")] = None,
    days_traded: Annotated[int | None, typer.Option(min=0, help="Newest days that are traded on paper; default: all; 0: none.")] = None,
) -> None:
    """Take a market through the three Dagster jobs, trade it on paper, and show board, levers, the book and a report.

    The demo has its own folder under the home, with its own database server: it never touches another one. Running it again over the
    same bars changes nothing; the checksums show it.
    """
    from rich.console import Console

    from regime_pipeline.adapters.postgres.embedded import server_status, stop_server
    from regime_pipeline.settings import export_settings, load_settings

    console = Console(stderr=as_json)
    settings = demo_settings(load_settings(), data, live=live)
    wanted = {Timeframe.D1: days_macro, Timeframe.H1: days_meso, Timeframe.M1: days_micro}
    was_running = server_status(settings.home).state == "running"
    try:
        with _venue(settings, is_real=live) as served:
            export_settings(served)  # the jobs read them where they run
            results = _run(served, wanted, days_traded, out, console)
    finally:
        if not was_running:
            stop_server(settings.home)
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    console.print(f"report    {out.resolve()}\n{invite(settings)}", soft_wrap=True, highlight=False)


def demo_settings(settings: "Settings", data: Path | None, *, live: bool = False) -> "Settings":
    """Give a demo its own home below the given one, a new one for each market, and never an external database.

    Raises
    ------
    BadInputError
        When both a folder and the real venues are asked for.
    """
    from regime_pipeline.settings import Settings

    if live and data is not None:
        raise BadInputError(f"demo was asked for {data} and for the real venues: it shows one market. Leave out --data or --live.")
    # its own account, latch and book too, whatever the environment says: nothing of a demo may touch what is real
    changes: dict[str, Any] = {
        "database_url": None,
        "dagster_database_url": None,
        "state_dir": None,
        "trading_enabled": True,
        "trading_mode": "paper",
        "trading_account": Settings.model_fields["trading_account"].default,
        "trading_exchange": None,
    }
    if live:
        changes |= {"home": settings.home / "demo" / "live", "source": "live"}
    elif data is not None:
        name = f"recorded-{crc32(str(data.resolve()).encode()):08x}"
        changes |= {"home": settings.home / "demo" / name, "source": "recorded", "recorded_path": data}
    else:
        changes |= {"home": settings.home / "demo" / f"simulated-{settings.generated_seed}", "source": "live"}
        # Another address when it is served; the plan with a history.
        changes |= {"venue_url": SIM_URL, "coingecko_plan": "pro"}
    return settings.model_copy(update=changes)


def invite(settings: "Settings") -> str:
    """Spell the commands that serve a demo's Dagster instance; the simulated venue must be there for its live bars."""
    variables: dict[str, object] = {
        "REGIME_HOME": settings.home,
        "REGIME_SOURCE": settings.source,
        "REGIME_RECORDED_PATH": settings.recorded_path,
    }
    is_simulated = settings.venue_url == SIM_URL
    if is_simulated:
        variables |= {"REGIME_VENUE_URL": settings.venue_url, "REGIME_COINGECKO_PLAN": settings.coingecko_plan}
        variables |= {"REGIME_TRADING_ENABLED": "true"}
    shown = " ".join(f"{name}='{value}'" for name, value in variables.items() if value is not None)
    up = f"{shown} .venv/bin/regime up{'' if settings.source == 'recorded' else ' --live'}"
    if not is_simulated:
        return f"see it in the Dagster UI:\n  {up}"
    return (
        "see it in the Dagster UI, with new bars every minute: the venue in one terminal, the product in another\n"
        f"  REGIME_GENERATED_SEED={settings.generated_seed} .venv/bin/regime sim\n  {up}"
    )


@contextmanager
def _venue(settings: "Settings", *, is_real: bool) -> Iterator["Settings"]:
    """Start the simulated venue where the settings want it, on a port of its own, and give the settings that point at it."""
    if is_real or settings.source != "live":
        yield settings
        return
    from regime_pipeline.adapters.venues.generated import GeneratedMarket
    from regime_pipeline.clock import now_s
    from regime_pipeline.market.universe import load_universe
    from regime_pipeline.simulation.clock import VirtualClock
    from regime_pipeline.simulation.server import SimulatedVenue, serve

    universe = load_universe(settings.universe)
    venue = SimulatedVenue(GeneratedMarket(universe, settings.generated_seed), universe, VirtualClock(now_s()))
    with serve(venue) as served:
        yield settings.model_copy(update={"venue_url": served.url})


def _run(
    settings: "Settings", wanted: dict[Timeframe, int | None], days_traded: int | None, out: Path, console: "Console"
) -> dict[str, Any]:
    from regime_pipeline.adapters.postgres.checksum import sum_tables
    from regime_pipeline.board.report import Report, render_report
    from regime_pipeline.cli.demo_report import collect_findings
    from regime_pipeline.cli.demo_trading import Traded, collect_trading, trade_history, trading_document
    from regime_pipeline.cli.drivers import build_board, cell_document
    from regime_pipeline.cli.session import iso_time, open_migrated_stores
    from regime_pipeline.market.universe import load_universe

    seconds: dict[str, float] = {}
    with _step(console, "database", seconds):
        stores = open_migrated_stores(settings)
    universe = load_universe(settings.universe)
    if settings.source == "live":
        with _step(console, "venues", seconds):
            unreachable = _reach_venues(settings, universe)
        for reason in unreachable:
            console.print(f"  {reason}", soft_wrap=True, highlight=False)
        console.print(
            "  dominances: CoinGecko has days of them, hours of the last day and no minutes; those grow from samples", highlight=False
        )
    _backfill(settings, wanted, console, seconds)
    traded = Traded()
    if days_traded != 0:
        with _step(console, "paper trading", seconds) as status:
            traded = trade_history(
                settings, stores, universe, days_traded, lambda name, done, there: status.update(f"{name}: {done:,} of {there:,} bars ...")
            )
    with _step(console, "report", seconds):
        with stores.open() as work:
            findings = collect_findings(work, universe)
            book = collect_trading(settings, work, traded) if traded.strategies else None
            tables = sum_tables(work.conn)
        counts = {name: table.rows for name, table in tables.items() if table.rows}
        page = Report(
            describe_market(settings),
            findings.as_of_s,
            findings.levers_at_s,
            findings.cells,
            findings.samples,
            findings.tracks,
            counts,
            book,
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(render_report(page), encoding="utf-8")
    console.print(build_board(findings.cells))
    console.print(_draw_samples(findings))
    console.print(_draw_tables(tables))
    if book is not None:
        _tell_book(book, console)
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
        "trading": None if book is None else trading_document(book, traded),
        "tables": {name: {"rows": table.rows, "checksum": table.checksum} for name, table in tables.items()},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "report": str(out.resolve()),
    }


def _reach_venues(settings: "Settings", universe: "Universe") -> list[str]:
    """Ask each venue once and say which cannot be read, and why.

    Raises
    ------
    SourceUnavailableError
        When none can: there is no network, or none of them serves this place.
    """
    from regime_pipeline.clock import now_s
    from regime_pipeline.orchestration.resources import build_source
    from regime_pipeline.services.probe_venues import probe_venues

    probed = probe_venues(build_source(settings), universe, now_s())
    unreachable = [reason for reason in probed.values() if reason is not None]
    if len(unreachable) == len(probed):
        reasons = "\n".join(f"  {reason}" for reason in unreachable)
        raise SourceUnavailableError(
            f"no venue can be read, so there is nothing to show:\n{reasons}\n"
            "Check the network (a proxy or firewall may stand between), or run `make demo` without LIVE=1: it needs none."
        )
    return unreachable


def describe_market(settings: "Settings") -> str:
    """Say in words where the bars come from."""
    if settings.source == "recorded" and settings.recorded_path is not None:
        return f"Recorded market, folder {settings.recorded_path.resolve().name}"
    if settings.venue_url is None:
        return "The venues of the universe file"
    return f"Generated market, seed {settings.generated_seed}, through the simulated venue"


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
        days = DAYS[timeframe] if settings.source == "live" and wanted[timeframe] is None else wanted[timeframe]
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


def _tell_book(book: "TradingPage", console: "Console") -> None:
    """Say what the paper account came to."""
    from regime_pipeline.cli.book import tell_equity

    for line in (*book.traded, *tell_equity(book.equity, book.account, book.quote)):
        console.print(line, soft_wrap=True, highlight=False)
    wins = sum(row.pnl > 0 for row in book.trades)
    console.print(f"{len(book.trades)} trades closed, {wins} with a profit; orders: {book.orders}", soft_wrap=True, highlight=False)


@contextmanager
def _step(console: "Console", name: str, seconds: dict[str, float]) -> "Iterator[Status]":
    """Show a spinner while a step runs and its time when it is done."""
    from regime_pipeline.clock import monotonic_s

    began_s = monotonic_s()
    with console.status(f"{name} ...") as status:
        yield status
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
