"""Bring the bars of one timeframe up to date: roll up what we have, ask the vendors for the rest, refuse what cannot be believed."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from regime_pipeline.errors import BudgetExhaustedError, SourceError, SourceUnavailableError, VenueHaltedError
from regime_pipeline.market.bars import Bars, BoolArray, IntArray, RawBars, check_bars
from regime_pipeline.market.outliers import NEIGHBOURS, find_suspects
from regime_pipeline.market.quality import find_gaps
from regime_pipeline.market.rollup import roll_up
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarRows, BarSource, BarTable, Stage, Stores, TimeRange, Work
from regime_pipeline.services.accept_bars import SETTLED_S, Delivery, IngestSummary, SeriesRows, accept_bars, save_rows
from regime_pipeline.services.batches import find_recent, group_by_size, plan_batches
from regime_pipeline.services.derivation import CHILD, bar_timeframes
from regime_pipeline.services.window import Window

__all__ = ["Delivery", "IngestSummary", "SeriesRows", "accept_bars", "ingest_bars"]

log = logging.getLogger(__name__)

ROLLUP: Final = "rollup"
MAX_PROVISIONAL_S: Final = 900
"""A bar waits at most this long for a running backfill before it counts as final (specs 1.2)."""
LIVE_LOOKBACK_BARS: Final = 3
"""Bars a live run looks at again, in case the vendor was late with one."""
LIVE_REACH_BARS: Final = 3000
"""A live run heals an outage of so many bars by itself; what is older becomes recorded gaps, which repair asks for."""
MAX_HOLE_BARS: Final = 20_000
"""Of an outage so many gaps are recorded per series, the newest: two weeks of minutes. What is older still is for a backfill."""
MAX_SILENCES: Final = 2
"""A venue that did not answer so often in a live run is not asked again in it: forty time-outs would outlast the minute."""

Span = tuple[int, int]
OnFailure = Literal["raise", "go_on", "note"]
TABLES: Final = (BarTable.MAJORS, BarTable.TOKENS, BarTable.DRIVERS)


@dataclass(frozen=True, slots=True)
class Feed:
    """One way to ask for a series: the venue it is written down as, and the two questions."""

    venue: str
    symbol: str

    def range(self, source: BarSource, timeframe: Timeframe) -> TimeRange | None:
        """Tell what span it can give; None: it has no such bars."""
        if not self.symbol:
            return source.dominance_range(self.venue, timeframe)
        return source.time_range(self.venue, self.symbol, timeframe) if self.venue in source.venues() else None

    def fetch(self, source: BarSource, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Ask for the bars with open times in [start_s, end_s)."""
        if not self.symbol:
            return source.fetch_dominance(self.venue, timeframe, start_s, end_s)
        return source.fetch_bars(self.venue, self.symbol, timeframe, start_s, end_s)


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is wanted of a series.

    Parameters
    ----------
    feeds : sequence of Feed
        Whom to ask, best first.
    span : (int, int)
        Half-open, epoch seconds.
    wanted : ndarray of int64, shape (n,), or None
        Open times that are wanted of it; None: all.
    before : Bars
        The last stored bars before the span, to compare answers with.
    hole : (int, int), optional
        An outage before the span, too old to ask for in a live run.
    """

    table: BarTable
    series: str
    feeds: Sequence[Feed]
    span: Span
    wanted: IntArray | None
    before: Bars
    hole: Span | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What a window wants of a series: the span to ask for, in it the open times (None: all), and an older hole that it leaves out."""

    span: Span
    ts_s: IntArray | None = None
    hole: Span | None = None


@dataclass(slots=True)
class Answers:
    """What the vendors said to some questions.

    `promised` is the span of each series in which bars should exist, `is_exact` whether its vendors know since when; a series of which
    a vendor could not be asked is not in it, since an unreadable source is not an empty one. `failures` says so in words. `holes` are
    those of the series that answered: their newest bar is behind the hole from now on, so no later run would find it.
    """

    deliveries: list[Delivery] = field(default_factory=list)
    promised: dict[str, Span] = field(default_factory=dict)
    is_exact: dict[str, bool] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    holes: dict[str, Span] = field(default_factory=dict)


def ingest_bars(stores: Stores, source: BarSource, universe: Universe, timeframe: Timeframe, window: Window, now_s: int) -> IngestSummary:
    """Write the closed bars of a window for majors, tokens and dominances, and mark what follows from the changes.

    No transaction is open while vendors are asked, and a long history is one per series: a slow venue or a backfill locks out nobody.

    Parameters
    ----------
    source : BarSource
        The first of a series' venues that has a believable bar gives it; venues are never added together. A live window asks only for
        bars that are missing or partial here, any other for the whole window.
    window : Window
        Bars that are not closed at `now_s` (end plus grace) are left out.

    Raises
    ------
    SourceError
        When a vendor cannot be read; series written before it stay. A live window goes on without a vendor as long as one answers.
    """
    summary = IngestSummary()
    if timeframe in CHILD:
        recent_s = find_recent(timeframe, window)
        bars_each = timeframe.minutes // CHILD[timeframe].minutes
        for series in plan_batches(stores, Stage.ROLLUP, timeframe, now_s, bars_each, recent_s=recent_s):
            with stores.open() as work:
                summary = summary.plus(roll_up_marked(work, universe, timeframe, now_s, series, recent_s))
    with stores.open() as work:
        questions = plan_questions(work, universe, timeframe, window, now_s)
    for batch in group_by_size(questions, [(end_s - start_s) // timeframe.seconds for start_s, end_s in (each.span for each in questions)]):
        answers = ask_vendors(source, timeframe, batch, now_s, on_failure=_on_failure(window))
        with stores.open() as work:
            summary = summary.plus(store_answers(work, source, universe, timeframe, batch, answers, now_s))
    return summary


def _on_failure(window: Window) -> OnFailure:
    return "go_on" if window.live else "raise"


def plan_questions(work: Work, universe: Universe, timeframe: Timeframe, window: Window, now_s: int) -> list[Question]:
    """Find out what of a window has to be asked for; only reads."""
    end_s = min(window.end_s, timeframe.last_closed(now_s) + timeframe.seconds)
    questions = []
    for table in TABLES:
        feeds = find_feeds(universe, table, timeframe)
        wanted = _find_wanted(work, table, timeframe, list(feeds), window, end_s)
        before = work.bars.load_last(table, timeframe, {name: each.span[0] - 1 for name, each in wanted.items()}, NEIGHBOURS)
        questions += [
            Question(table, name, feeds[name], each.span, each.ts_s, before.get(name, Bars.empty()), each.hole)
            for name, each in wanted.items()
        ]
    return questions


def ask_vendors(source: BarSource, timeframe: Timeframe, questions: Sequence[Question], now_s: int, *, on_failure: OnFailure) -> Answers:
    """Ask the venues of each series in order until every wanted bar has a believable answer; touches no database.

    A suspect bar that is history is asked for a second time at once.

    Raises
    ------
    SourceError
        When a vendor cannot be read; with `go_on` only when none of those asked could be, with `note` never.
    """
    answers, silences = Answers(), dict[str, int]()
    first_error: SourceError | None = None
    answered = False
    for question in questions:
        known, had_failure, n_before = [], False, len(answers.deliveries)
        sure = np.empty(0, dtype=np.int64)
        for feed in question.feeds:
            if silences.get(feed.venue, 0) >= MAX_SILENCES:
                had_failure = True
                continue
            try:
                span = feed.range(source, timeframe)
                if span is None:
                    continue
                known.append(span)
                asked, sure = _ask(source, question, feed, span, timeframe, sure, now_s)
            except SourceError as error:
                if on_failure == "raise":
                    raise
                is_silent = isinstance(error, SourceUnavailableError)
                silences[feed.venue] = silences.get(feed.venue, 0) + 1 if is_silent else MAX_SILENCES * _is_about_venue(error)
                first_error, had_failure = first_error or error, True
                answers.failures.append(f"{question.series} {timeframe}: {error}")
            else:
                answered |= bool(asked)
                answers.deliveries += asked
        if known and not had_failure:
            _promise(answers, question, known, timeframe)
        if question.hole is not None and any(len(each.raw) for each in answers.deliveries[n_before:]):
            answers.holes[question.series] = question.hole
    if first_error is not None and not answered and on_failure == "go_on":
        raise first_error
    return answers


def store_answers(
    work: Work, source: BarSource, universe: Universe, timeframe: Timeframe, questions: Sequence[Question], answers: Answers, now_s: int
) -> IngestSummary:
    """Accept what was answered, and record which of the promised bars are missing."""
    summary = accept_bars(work, universe, timeframe, answers.deliveries, now_s)
    summary.failures += answers.failures
    for table in TABLES:
        promised = {
            each.series: answers.promised[each.series] for each in questions if each.table is table and each.series in answers.promised
        }
        inexact = [name for name in promised if not answers.is_exact[name]]
        oldest = work.bars.load_oldest(table, timeframe, inexact)
        for name in inexact:  # a venue that does not say since when it lists a market misses nothing before its first bar
            start_s, end_s = promised.pop(name)
            if oldest.get(name, end_s) < end_s:
                promised[name] = (max(start_s, oldest[name]), end_s)
        summary.gaps += _note_gaps(work, source.name, table, timeframe, promised, now_s)
        holes = {each.series: answers.holes[each.series] for each in questions if each.table is table and each.series in answers.holes}
        recorded = {name: (max(start_s, end_s - MAX_HOLE_BARS * timeframe.seconds), end_s) for name, (start_s, end_s) in holes.items()}
        summary.gaps += _note_gaps(work, source.name, table, timeframe, recorded, now_s)
        summary.backfills += [
            _describe_rest(name, timeframe, holes[name][0], recorded[name][0]) for name in holes if holes[name] != recorded[name]
        ]
    for words in summary.backfills:
        log.warning("%s", words)
    return summary


def _describe_rest(series: str, timeframe: Timeframe, start_s: int, end_s: int) -> str:
    first, last = (np.datetime64(at_s, "s") for at_s in (start_s, end_s - timeframe.seconds))
    return f"{series} {timeframe}: bars {first}Z to {last}Z are missing and too old for repair. Backfill these days."


def find_feeds(universe: Universe, table: BarTable, timeframe: Timeframe) -> dict[str, list[Feed]]:
    """Where each series of a table can be asked for, best first. A dominance is asked for by its driver's name."""
    wanted = {name for name, timeframes in bar_timeframes(universe, table).items() if timeframe in timeframes}
    if table is BarTable.DRIVERS:
        return {name: [Feed(name.partition(":")[2], "")] for name in sorted(wanted)}
    return {
        instrument.series: [Feed(source.venue, source.symbol) for source in instrument.sources]
        for instrument in universe.instruments()
        if instrument.series in wanted
    }


def _find_wanted(work: Work, table: BarTable, timeframe: Timeframe, series: Sequence[str], window: Window, end_s: int) -> dict[str, Wanted]:
    """Find what a window wants of each series; one that is complete is left out."""
    step = timeframe.seconds
    if not window.live:
        start_s = -(-window.start_s // step) * step
        return dict.fromkeys(series, Wanted((start_s, end_s))) if start_s < end_s else {}
    newest = work.bars.load_newest(table, timeframe, series)
    reach_s = end_s - LIVE_REACH_BARS * step
    again_s = (LIVE_LOOKBACK_BARS - 1) * step
    starts = {name: max(reach_s, newest[name] - again_s if name in newest else window.start_s) for name in series}
    coverage = work.bars.load_coverage(table, timeframe, series, min(starts.values(), default=end_s), end_s)
    wanted: dict[str, Wanted] = {}
    for name in series:
        stored = coverage[name]
        # never before the first bar there is: history is for a backfill, and would replay the whole series
        start_s = max([starts[name], *stored.ts_s[:1].tolist()])
        missing = find_gaps(stored.ts_s[stored.is_complete], timeframe, start_s, end_s)
        if len(missing):
            after_s = newest.get(name, reach_s) + step
            hole = (after_s, reach_s) if after_s < reach_s else None
            wanted[name] = Wanted((int(missing[0]), int(missing[-1]) + step), missing, hole)
    return wanted


def _ask(
    source: BarSource, question: Question, feed: Feed, known: TimeRange, timeframe: Timeframe, sure: IntArray, now_s: int
) -> tuple[list[Delivery], IntArray]:
    """Ask one venue for what is not `sure` yet; returns its answers and all open times that now have a believable bar."""
    (start_s, end_s), step = question.span, timeframe.seconds
    first_s, last_s = max(start_s, known.first_s), end_s if known.last_s is None else min(end_s, known.last_s + step)
    missing = find_gaps(sure, timeframe, first_s, last_s) if first_s < last_s else np.empty(0, dtype=np.int64)
    if question.wanted is not None:
        missing = missing[np.isin(missing, question.wanted)]
    if not len(missing):
        return [], sure
    raw = feed.fetch(source, timeframe, int(missing[0]), int(missing[-1]) + step)
    if question.wanted is not None:
        # what was not asked for is left alone, except where its time alone says that something is wrong
        raw = raw[np.isin(raw.ts_s, missing) | (raw.ts_s % step != 0) | (raw.ts_s > now_s)]
    answers = [Delivery(question.series, feed.venue, raw)]
    good = raw[check_bars(raw, timeframe, now_s).good]
    suspects = find_suspects(question.before, good, timeframe).rows
    doubtful = good.ts_s[suspects]
    settled = doubtful[doubtful + step <= now_s - SETTLED_S]
    if len(settled):
        again = feed.fetch(source, timeframe, int(settled[0]), int(settled[-1]) + step)
        answers.append(Delivery(question.series, feed.venue, again))
    return answers, np.union1d(sure, np.delete(good.ts_s, suspects))


def _is_about_venue(error: SourceError) -> bool:
    """A refusal of all our calls, where others are about one symbol."""
    return isinstance(error, VenueHaltedError | BudgetExhaustedError)


def _promise(answers: Answers, question: Question, known: Sequence[TimeRange], timeframe: Timeframe) -> None:
    """Note between which bars of its venues a series should have all; between the spans of two venues nobody has them: gaps too."""
    start_s, end_s = question.span
    last_s = max(end_s if each.last_s is None else each.last_s + timeframe.seconds for each in known)
    span = max(start_s, min(each.first_s for each in known)), min(end_s, last_s)
    if span[0] < span[1]:
        answers.promised[question.series] = span
        answers.is_exact[question.series] = all(each.is_exact for each in known)


def roll_up_marked(
    work: Work, universe: Universe, timeframe: Timeframe, now_s: int, names: Collection[str], recent_s: int | None
) -> IngestSummary:
    """Roll up those of some series whose shorter bars changed; intervals still open at `now_s` stay marked."""
    summary = IngestSummary()
    for table in TABLES:
        in_use = bar_timeframes(universe, table)
        series = [name for name in names if timeframe in in_use.get(name, ())]
        if series:
            marked = work.marks.take(Stage.ROLLUP, timeframe, series, recent_s)
            _roll_up_table(work, universe, table, timeframe, marked, now_s, summary)
    return summary


def _roll_up_table(
    work: Work, universe: Universe, table: BarTable, timeframe: Timeframe, marked: Mapping[str, int], now_s: int, summary: IngestSummary
) -> None:
    child = CHILD[timeframe]
    last_s = timeframe.last_closed(now_s)
    children = work.bars.load_after(table, child, {name: first_s - 1 for name, first_s in marked.items()})
    backfills = work.bars.load_open_backfills(child, now_s - MAX_PROVISIONAL_S)
    rows: dict[str, BarRows] = {}
    waiting: dict[str, int] = {}
    for name, bars in children.items():
        parents = roll_up(bars, child, timeframe)
        if int(parents.ts_s[-1]) > last_s:
            waiting[name] = max(marked[name], last_s + timeframe.seconds)
        parents = parents[parents.ts_s <= last_s]
        is_final = ~((parents.bars_used < parents.expected_bars) & _is_covered(parents.ts_s, timeframe, backfills.get(name, ())))
        for ts_s in parents.ts_s[~is_final][:1].tolist():  # final at the latest when the request has ended or grown old
            waiting[name] = min(ts_s, waiting.get(name, ts_s))
        rows[name] = BarRows(parents, (ROLLUP,), np.zeros(len(parents), dtype=np.int64), is_final)
    save_rows(work, universe, table, timeframe, rows, summary)
    summary.revised = 0  # a rollup changes because a bar under it did
    work.marks.add(Stage.ROLLUP, timeframe, waiting)


def _is_covered(ts_s: IntArray, timeframe: Timeframe, windows: Sequence[Span]) -> BoolArray:
    """Whether a backfill request that is still running overlaps each interval."""
    covered = np.zeros(len(ts_s), dtype=np.bool_)
    for start_s, end_s in windows:
        covered |= (ts_s < end_s) & (ts_s + timeframe.seconds > start_s)
    return covered


def _note_gaps(work: Work, source: str, table: BarTable, timeframe: Timeframe, promised: Mapping[str, Span], now_s: int) -> int:
    """Record the grid times of the promised spans without a bar; returns their number."""
    if not promised:
        return 0
    start_s, end_s = min(first for first, _ in promised.values()), max(last for _, last in promised.values())
    stored = work.bars.load_coverage(table, timeframe, list(promised), start_s, end_s)
    gaps = {name: find_gaps(stored[name].ts_s, timeframe, *span) for name, span in promised.items()}
    return work.bars.record_gaps(timeframe, source, gaps, promised, now_s)
