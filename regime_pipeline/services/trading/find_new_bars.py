"""Which strategies have a new closed bar, and whether the regime of that bar is known yet."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from regime_pipeline.execution.bounds import compute_start_by_ms
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import Work
from regime_pipeline.risk.limits import RiskSettings


@dataclass(frozen=True, slots=True)
class NewBar:
    """Newest closed bar of a strategy's timeframe: its close, epoch seconds, and whether the required drivers have deltas as of it.

    `is_ready` is about the regime timeframe whose run writes both: a tick that comes between the two would decide on the bar before.
    """

    timeframe: Timeframe
    close_s: int
    is_ready: bool


class BarDue(StrEnum):
    """What a new bar asks for."""

    WAIT = "wait"
    NOW = "now"
    LATE = "late"


def execution_timeframes(universe: Universe) -> tuple[Timeframe, ...]:
    """List the timeframes that some token trades on, shortest first: one strategy each."""
    return tuple(sorted({each for token in universe.tokens for each in token.timeframes}, key=lambda each: each.seconds))


def home_timeframe(timeframe: Timeframe) -> Timeframe:
    """Name the regime timeframe whose run makes the bars of an execution timeframe: the longest that is not longer."""
    return max((each for each in REGIME_TIMEFRAMES if each.seconds <= timeframe.seconds), key=lambda each: each.seconds)


def find_new_bars(work: Work, universe: Universe, book_id: str) -> list[NewBar]:
    """Find the newest closed bar of every strategy of a book; a strategy without any record is left out."""
    found = []
    for timeframe in execution_timeframes(universe):
        open_s = work.portfolio.find_newest_bar(book_id, timeframe)
        if open_s is None:
            continue
        close_s, home = open_s + timeframe.seconds, home_timeframe(timeframe)
        known = work.portfolio.load_closed_deltas(close_s, {home})
        needed = {(driver.name, home) for driver in universe.drivers if driver.required}
        found.append(NewBar(timeframe, close_s, needed <= known))
    return found


LAST_CHANCE_S: Final = 20
"""So long before its decision would be too late a bar is decided on without the regime's deltas: levers say themselves what they lack."""


def judge_bar(bar: NewBar, now_s: int, limits: RiskSettings) -> BarDue:
    """Tell what to do about a new bar: wait for its regime, decide on it, or leave it because its time is over."""
    start_by_s = compute_start_by_ms(bar.close_s, bar.timeframe.seconds, limits) // 1000
    if now_s > start_by_s:
        return BarDue.LATE
    return BarDue.NOW if bar.is_ready or now_s >= start_by_s - LAST_CHANCE_S else BarDue.WAIT
