"""The one door through which bars enter: deliveries are checked, weighed against each other and their neighbours, and written.

A poll, a stream, a repair and a second look all come through here, so that a bar is believed for the same reasons whoever brought it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.bars import BarReason, Bars, BoolArray, RawBars, check_bars
from regime_pipeline.market.outliers import (
    NEIGHBOURS,
    SCALE_BARS,
    Suspects,
    find_suspects,
    is_confirmed_by,
    is_wrong_unit,
    measure_excursions,
    says_the_same,
)
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarRows, BarTable, Watermark, Work
from regime_pipeline.services.derivation import bar_timeframes, mark_consequences
from regime_pipeline.services.score_validity import score_written

CONFIRM_AFTER_S: Final = 45
"""A second answer of the same venue confirms a suspect when it comes so much later: a minute's run asks once a minute."""
SETTLED_S: Final = 900
"""So long after its end a bar is a venue's history: asking again at once is as good as asking later."""


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """Bars of one series as a venue gave them, in the order of arrival, volume in quote currency."""

    series: str
    venue: str
    raw: RawBars


@dataclass(frozen=True, slots=True)
class SeriesRows:
    """Bars a run wrote or found equal for a series, and the open times of the first and last of them."""

    rows: int
    first_s: int | None
    last_s: int | None


@dataclass(slots=True)
class IngestSummary:
    """What an ingest did: rows written (of those, `revised` had been final) and found equal, bars refused, forming bars dropped.

    `gaps` are grid times without a bar, `failures` what venues could not be asked, `backfills` what of an outage only a backfill brings,
    both in words.
    """

    written: int = 0
    unchanged: int = 0
    revised: int = 0
    quarantined: int = 0
    still_open: int = 0
    gaps: int = 0
    series: dict[str, SeriesRows] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    backfills: list[str] = field(default_factory=list)

    def plus(self, other: "IngestSummary") -> "IngestSummary":
        """Add up two parts of one ingest."""
        both = IngestSummary(
            *(
                getattr(self, name) + getattr(other, name)
                for name in ("written", "unchanged", "revised", "quarantined", "still_open", "gaps")
            )
        )
        both.series = {name: _join(self.series.get(name), other.series.get(name)) for name in {**self.series, **other.series}}
        both.failures = self.failures + other.failures
        both.backfills = self.backfills + other.backfills
        return both


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """The valid bars of one delivery; a later answer has a higher number."""

    venue: str
    number: int
    bars: Bars


@dataclass(frozen=True, slots=True)
class _Desk:
    """What the weighing of a series needs at hand."""

    work: Work
    table: BarTable
    timeframe: Timeframe
    now_s: int
    summary: IngestSummary


def accept_bars(work: Work, universe: Universe, timeframe: Timeframe, deliveries: Sequence[Delivery], now_s: int) -> IngestSummary:
    """Write what can be believed of some deliveries, refuse the rest with a reason, and mark what follows from the changes.

    The order of deliveries, their repetition and how they are cut into calls make no difference to the bars stored: of two venues the
    one that the universe names first gives a bar, and of two answers of one venue the later.

    Parameters
    ----------
    deliveries : sequence of Delivery
        Of one timeframe, any series and venues. Several of one series and venue are answers to the same question, later ones last.
    now_s : int
        Instant of the judgement, epoch seconds. A bar whose end and grace have not passed is dropped, not refused.

    Raises
    ------
    BadInputError
        When the universe has no such series on this timeframe.
    """
    summary = IngestSummary()
    places = {table: bar_timeframes(universe, table) for table in (BarTable.MAJORS, BarTable.TOKENS, BarTable.DRIVERS)}
    priority = {each.series: tuple(source.venue for source in each.sources) for each in universe.instruments()}
    answers: dict[BarTable, dict[str, list[_Answer]]] = {table: {} for table in places}
    for number, delivery in enumerate(deliveries):
        table = next((table for table, series in places.items() if timeframe in series.get(delivery.series, ())), None)
        if table is None:
            raise BadInputError(f"a delivery was of {delivery.series!r} in {timeframe}: the universe has no such bars. Correct the series.")
        good = _check(work, timeframe, delivery, now_s, summary)
        answers[table].setdefault(delivery.series, []).append(_Answer(delivery.venue, number, good))
    marks: dict[str, Watermark] = {}
    for table, of_series in answers.items():
        if of_series:
            desk = _Desk(work, table, timeframe, now_s, summary)
            rows = _weigh(desk, of_series, priority)
            save_rows(work, universe, table, timeframe, rows, summary)
            work.quality.settle(timeframe, {name: part.bars.ts_s for name, part in rows.items()}, now_s)
            marks |= {name: _watermark(part) for name, part in rows.items()}
    if marks:  # last, because a backfill must not hold these rows, which every minute writes, while it copies its bars
        work.quality.save_watermarks(timeframe, marks, now_s)
    return summary


def save_rows(
    work: Work, universe: Universe, table: BarTable, timeframe: Timeframe, rows: Mapping[str, BarRows], summary: IngestSummary
) -> None:
    """Write bars, mark what follows from the changed ones, and add it up."""
    saved = work.bars.save(table, timeframe, rows)
    mark_consequences(work, universe, table, timeframe, saved.first_written_s)
    score_written(work, table, timeframe, {name: (at_s, int(rows[name].bars.ts_s[-1])) for name, at_s in saved.first_written_s.items()})
    summary.written += saved.written
    summary.unchanged += saved.unchanged
    summary.revised += saved.updated
    for name, part in rows.items():
        times = part.bars.ts_s
        own = SeriesRows(len(times), int(times[0]), int(times[-1])) if len(times) else SeriesRows(0, None, None)
        summary.series[name] = _join(summary.series.get(name), own)


def _join(one: SeriesRows | None, other: SeriesRows | None) -> SeriesRows:
    parts = [part for part in (one, other) if part is not None]
    firsts = [part.first_s for part in parts if part.first_s is not None]
    lasts = [part.last_s for part in parts if part.last_s is not None]
    return SeriesRows(sum(part.rows for part in parts), min(firsts, default=None), max(lasts, default=None))


def _check(work: Work, timeframe: Timeframe, delivery: Delivery, now_s: int, summary: IngestSummary) -> Bars:
    """Keep the valid bars of a delivery; forming bars are dropped, the others go to the quarantine with their reason."""
    raw = delivery.raw
    verdict = check_bars(raw, timeframe, now_s)
    refused = [row for row, reason in verdict.bad.items() if reason is not BarReason.STILL_OPEN]
    summary.still_open += len(verdict.bad) - len(refused)
    if refused:
        reasons = [verdict.bad[row].value for row in refused]
        summary.quarantined += work.bars.quarantine(delivery.series, timeframe, delivery.venue, raw[np.array(refused)], reasons, now_s)
    return Bars.complete(raw[verdict.good], timeframe)


def _weigh(desk: _Desk, of_series: Mapping[str, Sequence[_Answer]], priority: Mapping[str, tuple[str, ...]]) -> dict[str, BarRows]:
    """Choose one bar per open time of each series: of the first venue that has a believable one, its latest answer."""
    first_s = {
        name: min(int(each.bars.ts_s[0]) for each in answers if len(each.bars)) for name, answers in of_series.items() if _count(answers)
    }
    before = desk.work.bars.load_last(desk.table, desk.timeframe, {name: at_s - 1 for name, at_s in first_s.items()}, NEIGHBOURS)
    rows = {}
    for name, answers in of_series.items():
        order = priority.get(name, ())
        venues = (*order, *sorted({each.venue for each in answers} - set(order)))
        ranked = sorted(answers, key=lambda each: (venues.index(each.venue), -each.number))
        near = before.get(name, Bars.empty())
        believed = [np.ones(len(each.bars), dtype=np.bool_) for each in ranked]
        if any(len(find_suspects(near, each.bars, desk.timeframe)) for each in ranked):
            believed = _judge(desk, name, ranked, first_s[name])
        rows[name] = _choose(ranked, believed, venues)
    return rows


def _count(answers: Sequence[_Answer]) -> int:
    return sum(len(each.bars) for each in answers)


def _choose(ranked: Sequence[_Answer], believed: Sequence[BoolArray], venues: tuple[str, ...]) -> BarRows:
    """Take each open time from the first answer that has it; answers of one venue are not mixed with those of another in one bar."""
    taken = Bars.empty()
    codes = np.empty(0, dtype=np.int64)
    for answer, good in zip(ranked, believed, strict=True):
        bars = answer.bars if good.all() else answer.bars[good]
        code = np.full(len(bars), venues.index(answer.venue))
        if not len(taken):
            taken, codes = bars, code
            continue
        fresh = ~np.isin(bars.ts_s, taken.ts_s)
        joined = Bars.concat([taken, bars[fresh]])
        order = np.argsort(joined.ts_s, kind="stable")
        taken, codes = joined[order], np.concatenate([codes, code[fresh]])[order]
    return BarRows(taken, venues, codes, np.ones(len(taken), dtype=np.bool_))


def _judge(desk: _Desk, series: str, answers: Sequence[_Answer], first_s: int) -> list[BoolArray]:
    """Tell which bars are believed when some of them left their neighbourhood, and quarantine the others."""
    before = desk.work.bars.load_last(desk.table, desk.timeframe, {series: first_s - 1}, SCALE_BARS + 1).get(series, Bars.empty())
    last_s = max(int(each.bars.ts_s[-1]) for each in answers if len(each.bars))
    stored = desk.work.bars.load_after(desk.table, desk.timeframe, {series: first_s - 1}, last_s).get(series, Bars.empty())
    source = desk.work.bars.load_coverage(desk.table, desk.timeframe, [series], first_s, last_s + 1)[series]
    source_of = dict(zip(source.ts_s.tolist(), source.source.tolist(), strict=True))
    pending = desk.work.quality.load_suspects(series, desk.timeframe, first_s, last_s)
    confirmed = [np.zeros(len(each.bars), dtype=np.bool_) for each in answers]
    doubted: list[tuple[Suspects, BoolArray]] = []
    while True:
        doubted, progress = [], False
        for at, answer in enumerate(answers):
            suspects = find_suspects(before, answer.bars, desk.timeframe, confirmed[at])
            mine = answer.bars[suspects.rows]
            others = [each.bars for each in answers if each.venue != answer.venue]
            by_source = np.array([source_of.get(ts_s, "") for ts_s in stored.ts_s.tolist()], dtype=object)
            others.append(stored[(by_source != answer.venue) & (by_source != "")])
            seen, agreed = _ask_witnesses(mine, suspects, others)
            repeated = _is_repeated(desk, answer, mine, answers, stored[by_source == answer.venue], pending.get(answer.venue, ()))
            ok = agreed | (repeated & ~seen & ~is_wrong_unit(mine, suspects.low, suspects.high))
            confirmed[at][suspects.rows[ok]] = True
            progress |= bool(ok.any())
            doubted.append((suspects, seen))
        if not progress:
            break
    believed = []
    for answer, sure, (suspects, seen) in zip(answers, confirmed, doubted, strict=True):
        _quarantine(desk, series, answer, suspects, seen)
        desk.work.quality.acquit(series, desk.timeframe, answer.venue, answer.bars.ts_s[sure])
        good = np.ones(len(answer.bars), dtype=np.bool_)
        good[suspects.rows] = False
        believed.append(good)
    return believed


def _ask_witnesses(mine: Bars, suspects: Suspects, others: Sequence[Bars]) -> tuple[BoolArray, BoolArray]:
    """Tell for each suspect whether another venue has that bar, and whether one of them went the same way.

    Of two bars of which one is in another unit, neither vouches for the other unless they say the very same: two venues that lie in one
    minute would.
    """
    seen, agreed = np.zeros(len(mine), dtype=np.bool_), np.zeros(len(mine), dtype=np.bool_)
    for bars in others:
        has = np.flatnonzero(np.isin(mine.ts_s, bars.ts_s))
        own, theirs = mine[has], bars[np.searchsorted(bars.ts_s, mine.ts_s[has])]
        low, high = suspects.low[has], suspects.high[has]
        identical, is_odd = says_the_same(own, theirs), is_wrong_unit(theirs, low, high)
        near = is_confirmed_by(measure_excursions(own, low, high), measure_excursions(theirs, low, high), suspects.limit[has])
        seen[has[identical | ~is_odd]] = True
        agreed[has[identical | (near & ~is_odd & ~is_wrong_unit(own, low, high))]] = True
    return seen, agreed


def _is_repeated(
    desk: _Desk, answer: _Answer, mine: Bars, answers: Sequence[_Answer], stored: Bars, pending: Sequence[tuple[RawBars, int]]
) -> BoolArray:
    """Tell which suspects their venue has said before: long enough ago, or of a bar that is history, or believed then."""
    repeated = _is_same_in(mine, stored)
    for raw, detected_s in pending:
        if detected_s <= desk.now_s - CONFIRM_AFTER_S:
            repeated |= _is_same_in(mine, raw)
    is_settled = mine.ts_s + desk.timeframe.seconds <= desk.now_s - SETTLED_S
    for other in answers:
        if other.venue == answer.venue and other.number != answer.number:
            repeated |= is_settled & _is_same_in(mine, other.bars)
    return repeated


def _is_same_in(mine: RawBars, theirs: RawBars) -> BoolArray:
    """Tell which bars are said the same by another answer, ascending like this one."""
    same = np.zeros(len(mine), dtype=np.bool_)
    has = np.flatnonzero(np.isin(mine.ts_s, theirs.ts_s))
    same[has] = says_the_same(mine[has], theirs[np.searchsorted(theirs.ts_s, mine.ts_s[has])])
    return same


def _quarantine(desk: _Desk, series: str, answer: _Answer, suspects: Suspects, seen: BoolArray) -> None:
    if not len(suspects):
        return
    mine = answer.bars[suspects.rows]
    unit = is_wrong_unit(mine, suspects.low, suspects.high)
    reasons = np.where(unit, BarReason.WRONG_UNIT, np.where(seen, BarReason.DISAGREES, BarReason.OUTLIER)).tolist()
    desk.summary.quarantined += desk.work.bars.quarantine(series, desk.timeframe, answer.venue, mine, reasons, desk.now_s)


def _watermark(rows: BarRows) -> Watermark:
    if not len(rows.bars):
        return Watermark(None, None)
    return Watermark(int(rows.bars.ts_s[-1]), rows.sources[int(rows.source_codes[-1])])
