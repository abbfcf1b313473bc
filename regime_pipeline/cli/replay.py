"""`regime replay`: a recorded folder through the services of the three jobs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import HORIZONS, REGIME_TIMEFRAMES, Timeframe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from regime_pipeline.market.universe import Universe
    from regime_pipeline.ports import BarSource, Stores
    from regime_pipeline.services.window import Window

DAYS_AT_ONCE: Final = {Timeframe.M1: 7, Timeframe.H1: 180, Timeframe.D1: 4000}
"""Length of a piece: large enough that its transactions cost nothing, small enough for memory and for a progress bar that moves."""
DAY_S: Final = Timeframe.D1.seconds


@dataclass(slots=True)
class Totals:
    """What a replay of one timeframe did; `bars` are engine steps, drivers and tokens."""

    bars: int = 0
    bars_written: int = 0
    bars_unchanged: int = 0
    quarantined: int = 0
    states_written: int = 0
    deltas_written: int = 0
    seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        """Plain JSON values, speed included."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return values | {"seconds": round(self.seconds, 3), "bars_per_s": round(self.bars / self.seconds) if self.seconds else None}


def replay(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Recorded bars: parquet or CSV files, see the README of the data.")],
    start: Annotated[str | None, typer.Option(metavar="TIME", help="First bar open, with its zone; default: what the folder has.")] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="End, exclusive, with its zone; default: what the folder has.")] = None,
    timeframes: Annotated[str, typer.Option(help="Regime timeframes to run, by commas.")] = ",".join(REGIME_TIMEFRAMES),
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Load recorded bars and run the steps of the three jobs over a range; running it again changes nothing."""
    from rich.console import Console

    from regime_pipeline.adapters.venues.recorded import RecordedMarket
    from regime_pipeline.cli.session import open_migrated_stores, read_instant
    from regime_pipeline.settings import load_settings

    chosen = read_timeframes(timeframes)
    limits = (None if start is None else read_instant(start), None if end is None else read_instant(end))
    source = RecordedMarket(folder)
    console = Console(stderr=True)
    done = _replay(open_migrated_stores(load_settings()), source, chosen, limits, console)
    if as_json:
        typer.echo(json.dumps({timeframe: totals.document() for timeframe, totals in done.items()}, indent=2))
        return
    for timeframe, totals in done.items():
        speed = f"{totals.bars / totals.seconds:,.0f} bars/s" if totals.seconds else ""
        typer.echo(
            f"{HORIZONS[timeframe]:5} {timeframe}: {totals.bars_written:,} bars written, {totals.bars_unchanged:,} unchanged, "
            f"{totals.quarantined:,} refused; {totals.bars:,} engine steps in {totals.seconds:.1f} s, {speed}"
        )


def read_timeframes(text: str) -> tuple[Timeframe, ...]:
    """Read a list of regime timeframes.

    Raises
    ------
    BadInputError
        When one is not a regime timeframe.
    """
    named = {name.strip() for name in text.split(",") if name.strip()}
    allowed = [timeframe.value for timeframe in REGIME_TIMEFRAMES]
    if not named or not named <= set(allowed):
        raise BadInputError(f"timeframes were {text!r}, allowed: {', '.join(allowed)}. Name one or more, by commas.")
    return tuple(timeframe for timeframe in REGIME_TIMEFRAMES if timeframe in named)


def _replay(
    stores: "Stores", source: "BarSource", timeframes: tuple[Timeframe, ...], limits: tuple[int | None, int | None], console: "Console"
) -> dict[Timeframe, Totals]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from regime_pipeline.clock import now_s
    from regime_pipeline.market.universe import load_universe
    from regime_pipeline.services.plan_history import find_span, plan_history
    from regime_pipeline.settings import load_settings

    universe, now = load_universe(load_settings().universe), now_s()
    found = {timeframe: find_span(source, universe, timeframe, now) for timeframe in timeframes}
    for timeframe in (timeframe for timeframe, span in found.items() if span is None):
        console.print(f"{HORIZONS[timeframe]} {timeframe}: the folder has no such bars")
    spans = {
        timeframe: (max(span[0], limits[0] or span[0]), min(span[1], limits[1] or span[1])) for timeframe, span in found.items() if span
    }
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    done = {timeframe: Totals() for timeframe in timeframes if timeframe in spans}
    with Progress(*columns, console=console) as progress:
        for timeframe, (first_s, last_s) in plan_history(spans):
            windows = list(_pieces(timeframe, first_s, last_s))
            _replay_timeframe(stores, source, universe, timeframe, windows, now, progress, done[timeframe])
    return done


def _pieces(timeframe: Timeframe, start_s: int, end_s: int) -> Iterator["Window"]:
    """Cut a span at day bounds."""
    from regime_pipeline.services.window import Window

    step_s = DAYS_AT_ONCE[timeframe] * DAY_S
    while start_s < end_s:
        cut_s = min(end_s, Timeframe.D1.floor(start_s) + step_s)
        yield Window(start_s, cut_s)
        start_s = cut_s


def _replay_timeframe(
    stores: "Stores",
    source: "BarSource",
    universe: "Universe",
    timeframe: Timeframe,
    windows: list["Window"],
    now_s: int,
    progress: "Progress",
    totals: Totals,
) -> None:
    from regime_pipeline.clock import monotonic_s
    from regime_pipeline.services.run_step import run_timeframe

    began_s, bars_before = monotonic_s(), totals.bars
    task = progress.add_task(f"{HORIZONS[timeframe]} {timeframe}", total=len(windows))

    def tell(step: str) -> None:
        stepped = totals.bars - bars_before
        speed = f", {stepped / (monotonic_s() - began_s):,.0f} bars/s" if stepped else ""
        progress.update(task, description=f"{HORIZONS[timeframe]} {timeframe}: {step}{speed}")

    for window in windows:
        summary = run_timeframe(stores, source, universe, timeframe, window, now_s, on_step=tell)
        for ingested in summary.ingest.values():
            totals.bars_written += ingested.written
            totals.bars_unchanged += ingested.unchanged
            totals.quarantined += ingested.quarantined
        for advanced in summary.trend.values():
            totals.bars += advanced.bars
            totals.states_written += advanced.written
        totals.deltas_written += summary.deltas.written
        progress.advance(task)
    totals.seconds += monotonic_s() - began_s
    progress.update(task, description=f"{HORIZONS[timeframe]} {timeframe}: {totals.bars - bars_before:,} bars")
