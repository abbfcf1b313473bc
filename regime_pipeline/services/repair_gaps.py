"""Ask again for the bars that are missing, until they come or the vendors have shown that they have none."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from regime_pipeline.market.bars import Bars
from regime_pipeline.market.outliers import NEIGHBOURS
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarSource, BarTable, Gap, Stores, Work
from regime_pipeline.services.accept_bars import Delivery, IngestSummary, accept_bars
from regime_pipeline.services.ingest_bars import TABLES, Feed, Question, ask_vendors, find_feeds

MIN_ATTEMPTS: Final = 3
MIN_PATIENCE_S: Final = 600
"""A gap is the vendors' own when it was asked for three times over ten minutes, and they had the bars on both sides each time."""
FIRST_WAIT_S: Final = 60
MAX_WAIT_S: Final = 6 * 3600
"""The wait before the next question doubles with each, from two minutes to six hours."""
JOIN_BARS: Final = 500
"""Gaps closer to each other than this are one question: a page of a venue holds as many bars."""


@dataclass(slots=True)
class RepairSummary:
    """What a repair did: gaps asked for, bars that came, gaps that are the vendors' own now, and what could not be asked, in words."""

    asked: int = 0
    found: int = 0
    vendor_none: int = 0
    still_missing: int = 0
    failures: list[str] = field(default_factory=list)
    ingest: IngestSummary = field(default_factory=IngestSummary)


Progress = Callable[[str, int, int], None]
"""Told the series, gaps asked for so far and gaps in all."""


def is_due(gap: Gap, now_s: int) -> bool:
    """Tell whether it is time to ask for a missing bar again."""
    return now_s >= gap.last_asked_s + min(MAX_WAIT_S, FIRST_WAIT_S << min(gap.attempts, 16))


def repair_gaps(
    stores: Stores,
    source: BarSource,
    universe: Universe,
    timeframe: Timeframe,
    now_s: int,
    *,
    series: Collection[str] | None = None,
    span: tuple[int, int] | None = None,
    only_due: bool = True,
    progress: Progress | None = None,
) -> RepairSummary:
    """Ask for the recorded gaps of a timeframe and write what comes; each run of gaps is a transaction of its own.

    Parameters
    ----------
    series : collection of str, optional
        Only these; default: all that the universe has.
    span : (int, int), optional
        Only gaps with open times in [start, end), epoch seconds.
    only_due : bool
        Leave out gaps that were asked for a short while ago, and those that are the vendors' own.
    progress : callable, optional
        Told after each question.

    Returns
    -------
    RepairSummary
        Whose failures name the vendors that could not be asked; such a question does not count as an attempt.
    """
    summary = RepairSummary()
    for table in TABLES:
        feeds = find_feeds(universe, table, timeframe)
        with stores.open() as work:
            names = sorted(set(feeds) if series is None else set(feeds) & set(series))
            gaps = work.quality.load_gaps(timeframe, names, span, with_own=not only_due)
        wanted = [gap for gap in gaps if not only_due or is_due(gap, now_s)]
        for name in sorted({gap.series for gap in wanted}):
            for run in split_runs([gap for gap in wanted if gap.series == name], timeframe):
                question = _open_request(stores, table, timeframe, name, feeds[name], run, now_s)
                _repair_run(stores, source, universe, timeframe, question, run, now_s, summary)
                if progress is not None:
                    progress(name, summary.asked, len(wanted))
    return summary


def split_runs(gaps: Sequence[Gap], timeframe: Timeframe) -> list[list[Gap]]:
    """Split the gaps of a series where the next one is too far away for the same question."""
    runs: list[list[Gap]] = []
    for gap in sorted(gaps, key=lambda each: each.ts_s):
        if runs and gap.ts_s - runs[-1][-1].ts_s <= JOIN_BARS * timeframe.seconds:
            runs[-1].append(gap)
        else:
            runs.append([gap])
    return runs


def _open_request(
    stores: Stores, table: BarTable, timeframe: Timeframe, series: str, feeds: Sequence[Feed], run: Sequence[Gap], now_s: int
) -> Question:
    """Open the backfill request of a run, under which unfinished rollups wait (specs 1.2), and say what to ask: one bar more each side."""
    step = timeframe.seconds
    span = run[0].ts_s - step, min(run[-1].ts_s + 2 * step, timeframe.last_closed(now_s) + step)
    with stores.open() as work:
        before = work.bars.load_last(table, timeframe, {series: span[0] - 1}, NEIGHBOURS)
        work.quality.open_backfill(series, timeframe, (run[0].ts_s, run[-1].ts_s + step), now_s)
    return Question(table, series, feeds, span, None, before.get(series, Bars.empty()))


def _repair_run(
    stores: Stores,
    source: BarSource,
    universe: Universe,
    timeframe: Timeframe,
    question: Question,
    run: Sequence[Gap],
    now_s: int,
    summary: RepairSummary,
) -> None:
    answers = ask_vendors(source, timeframe, [question], now_s, on_failure="note")
    with stores.open() as work:
        accepted = accept_bars(work, universe, timeframe, answers.deliveries, now_s)
        span = run[0].ts_s, run[-1].ts_s + timeframe.seconds
        left = {gap.ts_s for gap in work.quality.load_gaps(timeframe, [question.series], span)}
        missing = [gap for gap in run if gap.ts_s in left]
        none = _count_attempts(work, timeframe, missing, answers.deliveries, _kept_from(source, question, timeframe), now_s)
        outcome = f"failed: {answers.failures[0]}" if answers.failures and missing else "none" if missing else "data"
        work.quality.close_backfill(question.series, timeframe, span, outcome, now_s)
    summary.ingest = summary.ingest.plus(accepted)
    summary.asked += len(run)
    summary.found += len(run) - len(missing)
    summary.vendor_none += none
    summary.still_missing += len(missing) - none
    summary.failures += answers.failures


def _kept_from(source: BarSource, question: Question, timeframe: Timeframe) -> int:
    """Tell the open time before which no venue of a series keeps bars, epoch seconds; 0 while one of them cannot be asked."""
    ranges = [feed.range(source, timeframe) for feed in question.feeds]
    known = [each.first_s for each in ranges if each is not None]
    return min(known) if known and len(known) == len(ranges) else 0


def _count_attempts(
    work: Work, timeframe: Timeframe, missing: Sequence[Gap], deliveries: Sequence[Delivery], kept_from_s: int, now_s: int
) -> int:
    """Count an attempt for each gap that lay between two bars of an answer; returns how many are the vendors' own by that.

    A gap so old that nobody keeps its bar any more is one too, or it would be asked for every ten minutes for ever. A bar that is given
    each time, and refused, is nobody's gap but ours: it stays one that a person is told of.
    """
    refused = {ts_s for each in deliveries for ts_s in each.raw.ts_s.tolist()}
    spans = [(int(each.raw.ts_s.min()), int(each.raw.ts_s.max())) for each in deliveries if len(each.raw)]
    tried = [gap for gap in missing if gap.ts_s < kept_from_s or any(first_s < gap.ts_s < last_s for first_s, last_s in spans)]
    if not tried:
        return 0
    own = [
        gap.ts_s < kept_from_s
        or (gap.attempts + 1 >= MIN_ATTEMPTS and now_s - gap.detected_s >= MIN_PATIENCE_S and gap.ts_s not in refused)
        for gap in tried
    ]
    asked = np.array([gap.ts_s for gap in tried])
    work.quality.save_attempts(tried[0].series, timeframe, asked, np.array(own), now_s)
    return sum(own)
