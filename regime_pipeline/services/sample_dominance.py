"""Ask for dominance when it is due, keep the answers, and close the minutes of BTC.d and USDT.d from them (spec 5.3, decision 14)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from regime_pipeline.errors import SourceError
from regime_pipeline.market.dominance import MAX_AGE_S, DominanceSample, MinuteState, close_minutes
from regime_pipeline.market.quality import find_gaps
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarSource, BarTable, DominanceSampler, Question, Stores, Work
from regime_pipeline.services.accept_bars import Delivery, accept_bars
from regime_pipeline.services.derivation import driver_series
from regime_pipeline.services.window import Window

VENDOR: Final = "coingecko"
MINUTE: Final = Timeframe.M1
REACH_S: Final = 2 * 86_400
"""Minutes further back than this are not closed any more: after such an outage no answer is left that could close them."""


@dataclass(slots=True)
class DominanceSummary:
    """What a call did: whether it asked, answers kept, bars written, minutes without a bar, and why a question had no answer."""

    asked: bool = False
    samples: int = 0
    written: int = 0
    gaps: int = 0
    problem: str | None = None
    last_s: dict[str, int] = field(default_factory=dict)


def sample_in_run(
    stores: Stores, source: BarSource, universe: Universe, timeframe: Timeframe, window: Window, now_s: int, every_s: int
) -> DominanceSummary | None:
    """Do `sample_dominance` in the live run of a minute when the source can be asked for dominance; None in any other run."""
    if timeframe is not MINUTE or not window.live or not isinstance(source, DominanceSampler):
        return None
    return sample_dominance(stores, source, universe, now_s, every_s)


def sample_dominance(stores: Stores, sampler: DominanceSampler, universe: Universe, now_s: int, every_s: int) -> DominanceSummary:
    """Ask if the last question is older than `every_s`, then close every minute that has ended, and mark what follows.

    A vendor that does not answer costs its minutes, never the run: the problem is told and kept, and the question comes again after a
    minute, two, four, up to `every_s`. No transaction is open while it is asked.

    Parameters
    ----------
    now_s : int
        Epoch seconds; an answer belongs to the minute it was received in, which closes after its end and grace.
    every_s : int
        Seconds between two questions; counted in whole minutes, so that runs a second early or late do not shift them.
    """
    summary = DominanceSummary()
    drivers = [driver.name for driver in universe.drivers if driver.kind == "dominance"]
    if not drivers:
        return summary
    with stores.open() as work:
        question = work.feeds.load_question(VENDOR)
    good: Mapping[str, DominanceSample] = {}
    if is_due(question, now_s, every_s):
        good = _ask(sampler, drivers, summary)
    with stores.open() as work:
        if summary.asked:
            failures = 0 if summary.problem is None else (question.failures if question else 0) + 1
            work.feeds.save_question(VENDOR, Question(now_s, failures, summary.problem))
            summary.samples = work.feeds.save_samples(VENDOR, good)
        _close(work, universe, drivers, now_s, every_s, summary)
    return summary


def is_due(question: Question | None, now_s: int, every_s: int) -> bool:
    """Tell whether to ask again; after failures sooner than usual, but less and less so."""
    if question is None:
        return True
    wait_s = min(every_s, MINUTE.seconds * 2 ** min(question.failures - 1, 10)) if question.failures else every_s
    return MINUTE.floor(now_s) - MINUTE.floor(question.asked_s) >= wait_s - wait_s % MINUTE.seconds


def _ask(sampler: DominanceSampler, drivers: Sequence[str], summary: DominanceSummary) -> dict[str, DominanceSample]:
    summary.asked = True
    try:
        answers = sampler.fetch_samples()
    except SourceError as error:
        summary.problem = str(error)
        return {}
    good = {driver: answers[driver] for driver in drivers if driver in answers and answers[driver].is_believable()}
    missing = sorted(set(drivers) - set(good))
    if missing:
        summary.problem = f"{VENDOR} gave no believable figure of {', '.join(missing)}. It is asked again."
    return good


def _close(work: Work, universe: Universe, drivers: Sequence[str], now_s: int, every_s: int, summary: DominanceSummary) -> None:
    end_s = MINUTE.last_closed(now_s) + MINUTE.seconds
    series = {driver: driver_series(driver) for driver in drivers}
    newest = work.bars.load_newest(BarTable.DRIVERS, MINUTE, list(series.values()))
    before = work.bars.load_last(BarTable.DRIVERS, MINUTE, newest, 1) if newest else {}
    earliest_s = min([end_s, *newest.values()]) - every_s - MAX_AGE_S
    answers = work.feeds.load_samples(drivers, max(earliest_s, end_s - REACH_S))
    deliveries: list[Delivery] = []
    spans: dict[str, tuple[int, int]] = {}
    for driver, name in series.items():
        start_s = _first_minute(answers[driver], newest.get(name), end_s)
        if start_s is None or start_s >= end_s:
            continue
        state = None if name not in newest else _state(newest[name], float(before[name].close[-1]), answers[driver])
        bars = close_minutes(answers[driver], start_s, end_s, every_s, state).bars
        deliveries.append(Delivery(name, VENDOR, bars))
        spans[name] = (start_s, end_s)
    accepted = accept_bars(work, universe, MINUTE, deliveries, now_s)
    summary.written = accepted.written
    summary.last_s = {name: rows.last_s for name, rows in accepted.series.items() if rows.last_s is not None}
    summary.gaps = _note_gaps(work, spans, now_s)


def _note_gaps(work: Work, spans: Mapping[str, tuple[int, int]], now_s: int) -> int:
    """Record the minutes that no answer closes: they are the vendor's own, since it only knows the present and cannot be asked again."""
    if not spans:
        return 0
    stored = work.bars.load_coverage(BarTable.DRIVERS, MINUTE, list(spans), min(first_s for first_s, _ in spans.values()), now_s)
    missing = {name: find_gaps(stored[name].ts_s, MINUTE, *span) for name, span in spans.items()}
    noted = work.bars.record_gaps(MINUTE, VENDOR, missing, spans, now_s)
    for name, span in spans.items():
        # only the new ones: while the vendor is away this span grows to two days, and every minute looks at all of it
        fresh = [gap.ts_s for gap in work.quality.load_gaps(MINUTE, [name], span, with_own=False)]
        if fresh:
            work.quality.save_attempts(name, MINUTE, np.array(fresh), np.ones(len(fresh), dtype=np.bool_), now_s)
    return noted


def _first_minute(answers: Sequence[DominanceSample], newest_s: int | None, end_s: int) -> int | None:
    """Find the first minute to close: after the newest bar, or where the answers begin; None when there is nothing to close from."""
    if newest_s is not None:
        return max(newest_s + MINUTE.seconds, end_s - REACH_S)
    return MINUTE.floor(answers[0].fetched_at_s) if answers else None


def _state(newest_s: int, close: float, answers: Sequence[DominanceSample]) -> MinuteState:
    """Rebuild what the minute after a stored bar must know: its close, and how old the figure behind it was."""
    end_s = newest_s + MINUTE.seconds
    updated_s = max((answer.updated_at_s for answer in answers if answer.fetched_at_s < end_s), default=0)
    return MinuteState(newest_s, DominanceSample(end_s - 1, updated_s, close))
