"""The first start on live venues: history to maturity, everything that follows from it, and a brief of what there is now.

It may be stopped and started again: every series is a transaction of its own, and what is stored is not asked for again.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from regime_pipeline.clock import Clock, monotonic_s, utc_now
from regime_pipeline.errors import SourceError
from regime_pipeline.market.bars import Bars
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarSource, BarTable, DominanceSampler, Halt, Stores, VenueLedger
from regime_pipeline.services.derivation import driver_series
from regime_pipeline.services.ingest_bars import TABLES, Answers, Question, Span, ask_vendors, find_feeds, store_answers
from regime_pipeline.services.read_board import BoardCell, load_board
from regime_pipeline.services.run_step import run_timeframe
from regime_pipeline.services.sample_dominance import sample_dominance
from regime_pipeline.services.window import Window

HISTORY_BARS: Final = 1100
"""From the 1,000th bar on a state counts as mature; the rest is for bars that a venue lacks."""
STALE_BARS: Final = 3
"""A driver whose newest bar ended longer ago than this many bars counts as missing, as for the levers (spec 7.2)."""
AHEAD: Final = 4
"""Answers fetched while earlier ones are written: the network never waits for the database, and memory stays small."""
PASSES: Final = (Timeframe.D1, Timeframe.M1, Timeframe.H1, Timeframe.D1)
"""Order of derivation: days tell the buckets, longer bars are rolled up from shorter ones, and days once more from those."""


@dataclass(frozen=True, slots=True)
class SeriesHistory:
    """How far the fetch has come: the series just done, bars written of it, what a venue could not be asked, and how many are left."""

    series: str
    timeframe: Timeframe
    written: int
    unchanged: int
    failures: tuple[str, ...]
    left: int


@dataclass(frozen=True, slots=True)
class Brief:
    """What there is after a bootstrap.

    Parameters
    ----------
    cells : list of BoardCell
        Newest state of every driver and timeframe.
    missing_required, missing_optional : tuple of str
        Drivers without a fresh state, as `ALT 1h`. With a required one missing the start is degraded: entries stop (spec 7.2).
    dominance : mapping of driver to percent
        Last believable figure; empty when there is none.
    halts : mapping of venue to Halt
        Venues that are left alone.
    problems : list of str
        What could not be asked, in words.
    asking_s, total_s : float
        Seconds in which a venue was being asked, while earlier answers were written, and in all: the difference is our own.
    """

    as_of_s: int
    cells: list[BoardCell]
    missing_required: tuple[str, ...]
    missing_optional: tuple[str, ...]
    dominance: Mapping[str, float]
    halts: Mapping[str, Halt]
    problems: list[str]
    bars_written: int
    asking_s: float
    total_s: float


@dataclass(slots=True)
class _Progress:
    on_series: Callable[[SeriesHistory], None]
    left: int
    problems: list[str] = field(default_factory=list)
    written: int = 0
    asking_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Fetch:
    """One series of one timeframe: what to ask for."""

    series: str
    timeframe: Timeframe
    questions: list[Question]


def bootstrap(
    stores: Stores,
    source: BarSource,
    universe: Universe,
    ledger: VenueLedger,
    *,
    dominance_every_s: int,
    clock: Clock = utc_now,
    on_series: Callable[[SeriesHistory], None] = lambda _: None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Brief:
    """Create driver positions, fetch what is missing of each series' newest 1,100 bars, derive everything, and tell what there is.

    Parameters
    ----------
    source : BarSource
        Repeats failed reads itself. A venue that cannot be asked is told in the brief; the others go on.
    dominance_every_s : int
        Seconds between two questions, if the source is a `DominanceSampler`.
    on_series, on_step : callable
        Told of each series as it is done, and of each step of the derivation as it begins.
    """
    began_s = monotonic_s()
    now_s = int(clock().timestamp())
    with stores.open() as work:
        for timeframe in REGIME_TIMEFRAMES:
            work.trend.ensure_positions(timeframe, {driver_series(driver.name): driver.name for driver in universe.drivers})
    fetches = [each for timeframe in reversed(Timeframe) for each in _plan(stores, universe, timeframe, now_s)]
    progress = _Progress(on_series, len(fetches))
    for fetch, answers in _fetch_ahead(source, fetches, now_s, progress):
        _store(stores, source, universe, fetch, answers, now_s, progress)
    if isinstance(source, DominanceSampler):
        on_step("dominance")
        sampled = sample_dominance(stores, source, universe, int(clock().timestamp()), dominance_every_s)
        progress.problems += [sampled.problem] if sampled.problem else []
    for timeframe in PASSES:
        try:  # an empty window: only market caps are asked for, and everything marked is derived
            run_timeframe(stores, source, universe, timeframe, Window(now_s, now_s), now_s, on_step=on_step)
        except SourceError as error:
            progress.problems.append(f"{timeframe}: {error}")
    return _tell(stores, universe, ledger, int(clock().timestamp()), progress, began_s)


def _plan(stores: Stores, universe: Universe, timeframe: Timeframe, now_s: int) -> list[_Fetch]:
    """Find what of the newest bars of each series is not stored: before the oldest and after the newest bar, holes are for a repair."""
    step = timeframe.seconds
    end_s = timeframe.last_closed(now_s) + step
    fetches = []
    for table in TABLES:
        feeds = find_feeds(universe, table, timeframe)
        with stores.open() as work:
            oldest = work.bars.load_oldest(table, timeframe, list(feeds))
            newest = work.bars.load_newest(table, timeframe, list(feeds))
        for series, ways in feeds.items():
            spans = _missing_spans((end_s - HISTORY_BARS * step, end_s), oldest.get(series), newest.get(series), step)
            questions = [Question(table, series, ways, span, None, Bars.empty()) for span in spans]
            if questions:
                fetches.append(_Fetch(series, timeframe, questions))
    return fetches


def _missing_spans(span: Span, oldest_s: int | None, newest_s: int | None, step: int) -> list[Span]:
    start_s, end_s = span
    if oldest_s is None or newest_s is None or newest_s < start_s:
        return [span]
    found = [(start_s, oldest_s), (newest_s + step, end_s)]
    return [(first_s, last_s) for first_s, last_s in found if first_s < last_s]


def _fetch_ahead(source: BarSource, fetches: Sequence[_Fetch], now_s: int, progress: _Progress) -> Iterator[tuple[_Fetch, Answers]]:
    """Ask in a thread of its own, a few series ahead of who writes them."""
    waiting: deque[tuple[_Fetch, Future[tuple[Answers, float]]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
        todo = iter(fetches)
        while True:
            while len(waiting) < AHEAD and (fetch := next(todo, None)) is not None:
                waiting.append((fetch, pool.submit(_ask, source, fetch, now_s)))
            if not waiting:
                return
            fetch, answer = waiting.popleft()
            answers, seconds = answer.result()
            progress.asking_s += seconds
            yield fetch, answers


def _ask(source: BarSource, fetch: _Fetch, now_s: int) -> tuple[Answers, float]:
    began_s = monotonic_s()
    answers = ask_vendors(source, fetch.timeframe, fetch.questions, now_s, on_failure="note")
    return answers, monotonic_s() - began_s


def _store(stores: Stores, source: BarSource, universe: Universe, fetch: _Fetch, answers: Answers, now_s: int, progress: _Progress) -> None:
    with stores.open() as work:
        summary = store_answers(work, source, universe, fetch.timeframe, fetch.questions, answers, now_s)
    progress.left -= 1
    progress.written += summary.written
    progress.problems += summary.failures
    progress.on_series(
        SeriesHistory(fetch.series, fetch.timeframe, summary.written, summary.unchanged, tuple(summary.failures), progress.left)
    )


def _tell(stores: Stores, universe: Universe, ledger: VenueLedger, now_s: int, progress: _Progress, began_s: float) -> Brief:
    with stores.open() as work:
        cells = load_board(work, now_s)
        dominances: dict[str, str] = {driver_series(driver.name): driver.name for driver in universe.drivers if driver.kind == "dominance"}
        newest = work.bars.load_newest(BarTable.DRIVERS, Timeframe.M1, list(dominances))
        last = work.bars.load_last(BarTable.DRIVERS, Timeframe.M1, newest, 1) if newest else {}
        samples = work.feeds.load_samples(list(dominances.values()), now_s - Timeframe.D1.seconds)
    percent: dict[str, float] = {dominances[series]: float(bars.close[-1]) for series, bars in last.items()}
    percent |= {driver: found[-1].percent for driver, found in samples.items() if found}
    configured: dict[str, bool] = {driver.name: driver.required for driver in universe.drivers}
    missing = [cell for cell in cells if cell.driver in configured and (cell.age_bars is None or cell.age_bars > STALE_BARS)]
    names = {
        flag: tuple(f"{each.driver} {each.timeframe}" for each in missing if configured[each.driver] is flag) for flag in (True, False)
    }
    return Brief(
        as_of_s=now_s,
        cells=cells,
        missing_required=names[True],
        missing_optional=names[False],
        dominance=percent,
        halts=ledger.load_halts(now_s),
        problems=progress.problems,
        bars_written=progress.written,
        asking_s=progress.asking_s,
        total_s=monotonic_s() - began_s,
    )
