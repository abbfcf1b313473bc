"""Bring the bars of one timeframe up to date: roll up what we have, ask the vendors for the rest, refuse what cannot be believed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from regime_pipeline.market.bars import BarReason, Bars, IntArray, RawBars, check_bars
from regime_pipeline.market.quality import find_gaps
from regime_pipeline.market.rollup import roll_up
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarRows, BarSource, BarTable, Stage, TimeRange, Work
from regime_pipeline.services.derivation import CHILD, bar_timeframes, mark_consequences
from regime_pipeline.services.window import Window

ROLLUP: Final = "rollup"
MAX_PROVISIONAL_S: Final = 900
"""A bar waits at most this long for a running backfill before it counts as final (specs 1.2)."""
LIVE_LOOKBACK_BARS: Final = 3
"""Bars a live run looks at again, in case the vendor was late with one."""
LIVE_REACH_BARS: Final = 3000
"""A live run heals an outage of so many bars by itself; a longer hole is for a backfill."""


@dataclass(frozen=True, slots=True)
class SeriesRows:
    """Bars a run wrote or found equal for a series, and the open times of the first and last of them."""

    rows: int
    first_s: int | None
    last_s: int | None


@dataclass(slots=True)
class IngestSummary:
    """What an ingest did: rows written and found equal, bars refused, forming bars dropped, grid times without a bar."""

    written: int = 0
    unchanged: int = 0
    quarantined: int = 0
    still_open: int = 0
    gaps: int = 0
    series: dict[str, SeriesRows] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Feed:
    """One way to ask for a series: the venue it is written down as, and the two questions."""

    venue: str
    symbol: str

    def range(self, source: BarSource, timeframe: Timeframe) -> TimeRange | None:
        if not self.symbol:
            return source.dominance_range(self.venue, timeframe)
        return source.time_range(self.venue, self.symbol, timeframe) if self.venue in source.venues() else None

    def fetch(self, source: BarSource, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        if not self.symbol:
            return source.fetch_dominance(self.venue, timeframe, start_s, end_s)
        return source.fetch_bars(self.venue, self.symbol, timeframe, start_s, end_s)


def ingest_bars(work: Work, source: BarSource, universe: Universe, timeframe: Timeframe, window: Window, now_s: int) -> IngestSummary:
    """Write the closed bars of a window for majors, tokens and dominances, and mark what follows from the changes.

    Parameters
    ----------
    source : BarSource
        The first of a series' venues that has a bar gives it; venues are never added together. A live window asks only for bars
        that are missing or partial here, any other for the whole window.
    window : Window
        Bars that are not closed at `now_s` (end plus grace) are left out.

    Raises
    ------
    SourceError
        When a vendor cannot be read; nothing is written then.
    """
    summary = IngestSummary()
    end_s = min(window.end_s, timeframe.last_closed(now_s) + timeframe.seconds)
    for table in (BarTable.MAJORS, BarTable.TOKENS, BarTable.DRIVERS):
        series = [name for name, timeframes in bar_timeframes(universe, table).items() if timeframe in timeframes]
        _roll_up_marked(work, universe, table, timeframe, series, now_s, summary)
        feeds = _feeds(universe, table, series)
        spans = _spans(work, table, timeframe, series, window, end_s)
        rows = {name: _fetch(work, source, name, feeds[name], timeframe, spans[name], now_s, summary) for name in series if name in spans}
        _save(work, universe, table, timeframe, rows, summary)
        summary.gaps += _note_gaps(work, source, table, timeframe, feeds, {name: span for name, (span, _) in spans.items()})
    return summary


def _feeds(universe: Universe, table: BarTable, series: Sequence[str]) -> dict[str, list[_Feed]]:
    """Where each series can be asked for, best first. A dominance is asked for by its driver's name."""
    if table is BarTable.DRIVERS:
        return {name: [_Feed(name.partition(":")[2], "")] for name in series}
    wanted = set(series)
    return {
        instrument.series: [_Feed(source.venue, source.symbol) for source in instrument.sources]
        for instrument in universe.instruments()
        if instrument.series in wanted
    }


Span = tuple[int, int]


def _spans(
    work: Work, table: BarTable, timeframe: Timeframe, series: Sequence[str], window: Window, end_s: int
) -> dict[str, tuple[Span, IntArray | None]]:
    """Span to ask for of each series, and in a live window the open times that are wanted (None: all)."""
    step = timeframe.seconds
    if not window.live:
        start_s = -(-window.start_s // step) * step
        return dict.fromkeys(series, ((start_s, end_s), None)) if start_s < end_s else {}
    newest = work.bars.load_newest(table, timeframe, series)
    reach_s = end_s - LIVE_REACH_BARS * step
    again_s = (LIVE_LOOKBACK_BARS - 1) * step
    starts = {name: max(reach_s, newest[name] - again_s if name in newest else window.start_s) for name in series}
    coverage = work.bars.load_coverage(table, timeframe, series, min(starts.values(), default=end_s), end_s)
    spans: dict[str, tuple[Span, IntArray | None]] = {}
    for name in series:
        stored = coverage[name]
        # never before the first bar there is: history is for a backfill, and would replay the whole series
        start_s = max([starts[name], *stored.ts_s[:1].tolist()])
        wanted = find_gaps(stored.ts_s[stored.is_complete], timeframe, start_s, end_s)
        if len(wanted):
            spans[name] = ((int(wanted[0]), int(wanted[-1]) + step), wanted)
    return spans


def _fetch(
    work: Work,
    source: BarSource,
    series: str,
    feeds: Sequence[_Feed],
    timeframe: Timeframe,
    span: tuple[Span, IntArray | None],
    now_s: int,
    summary: IngestSummary,
) -> BarRows:
    """Ask the venues of a series in order; a bar comes from the first that has a believable one."""
    (start_s, end_s), wanted = span
    taken = Bars.empty()
    codes = np.empty(0, dtype=np.int64)
    for at, feed in enumerate(feeds):
        known = feed.range(source, timeframe)
        if known is None:
            continue
        first_s, last_s = max(start_s, known.first_s), end_s if known.last_s is None else min(end_s, known.last_s + timeframe.seconds)
        if first_s >= last_s or not len(find_gaps(taken.ts_s, timeframe, first_s, last_s)):
            continue
        raw = feed.fetch(source, timeframe, first_s, last_s)
        good = _believed(work, series, feed.venue, timeframe, raw, now_s, summary)
        fresh = ~np.isin(good.ts_s, taken.ts_s)
        if wanted is not None:
            fresh &= np.isin(good.ts_s, wanted)
        joined = Bars.concat([taken, good[fresh]])
        order = np.argsort(joined.ts_s, kind="stable")
        taken, codes = joined[order], np.concatenate([codes, np.full(int(fresh.sum()), at)])[order]
    return BarRows(taken, tuple(feed.venue for feed in feeds), codes, np.ones(len(taken), dtype=np.bool_))


def _believed(work: Work, series: str, venue: str, timeframe: Timeframe, raw: RawBars, now_s: int, summary: IngestSummary) -> Bars:
    """Keep the valid bars of a delivery; forming bars are dropped, the others go to the quarantine with their reason."""
    verdict = check_bars(raw, timeframe, now_s)
    refused = [row for row, reason in verdict.bad.items() if reason is not BarReason.STILL_OPEN]
    summary.still_open += len(verdict.bad) - len(refused)
    if refused:
        reasons = [verdict.bad[row].value for row in refused]
        summary.quarantined += work.bars.quarantine(series, timeframe, venue, raw[np.array(refused)], reasons)
    return Bars.complete(raw[verdict.good], timeframe)


def _roll_up_marked(
    work: Work, universe: Universe, table: BarTable, timeframe: Timeframe, series: Sequence[str], now_s: int, summary: IngestSummary
) -> None:
    """Roll up the series whose shorter bars changed; intervals still open at `now_s` stay marked."""
    if timeframe not in CHILD:
        return
    marked = work.marks.take(Stage.ROLLUP, timeframe, series)
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
    _save(work, universe, table, timeframe, rows, summary)
    work.marks.add(Stage.ROLLUP, timeframe, waiting)


def _is_covered(ts_s: IntArray, timeframe: Timeframe, windows: Sequence[Span]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether a backfill request that is still running overlaps each interval."""
    covered = np.zeros(len(ts_s), dtype=np.bool_)
    for start_s, end_s in windows:
        covered |= (ts_s < end_s) & (ts_s + timeframe.seconds > start_s)
    return covered


def _save(
    work: Work, universe: Universe, table: BarTable, timeframe: Timeframe, rows: Mapping[str, BarRows], summary: IngestSummary
) -> None:
    saved = work.bars.save(table, timeframe, rows)
    mark_consequences(work, universe, table, timeframe, saved.first_written_s)
    summary.written += saved.written
    summary.unchanged += saved.unchanged
    for name, part in rows.items():
        before = summary.series.get(name, SeriesRows(0, None, None))
        if len(part.bars):
            first_s, last_s = int(part.bars.ts_s[0]), int(part.bars.ts_s[-1])
            before = SeriesRows(
                before.rows + len(part.bars),
                first_s if before.first_s is None else min(first_s, before.first_s),
                last_s if before.last_s is None else max(last_s, before.last_s),
            )
        summary.series[name] = before


def _note_gaps(
    work: Work, source: BarSource, table: BarTable, timeframe: Timeframe, feeds: Mapping[str, Sequence[_Feed]], spans: Mapping[str, Span]
) -> int:
    """Record the grid times without a bar between the first and the last that the series' venues claim to have; returns their number.

    What lies between the spans of two venues is a gap like any other: nobody has those bars.
    """
    expected: dict[str, Span] = {}
    for name, (start_s, end_s) in spans.items():
        known = [span for feed in feeds[name] if (span := feed.range(source, timeframe)) is not None]
        if known:
            last_s = max(end_s if each.last_s is None else each.last_s + timeframe.seconds for each in known)
            promised = (max(start_s, min(each.first_s for each in known)), min(end_s, last_s))
            if promised[0] < promised[1]:
                expected[name] = promised
    if not expected:
        return 0
    start_s, end_s = min(first for first, _ in expected.values()), max(last for _, last in expected.values())
    stored = work.bars.load_coverage(table, timeframe, list(expected), start_s, end_s)
    gaps = {name: find_gaps(stored[name].ts_s, timeframe, *promised) for name, promised in expected.items()}
    return work.bars.record_gaps(timeframe, source.name, gaps, (start_s, end_s))
