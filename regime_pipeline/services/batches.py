"""Split work into transactions: a long replay holds the marks of its own series only, so that no live minute waits for it."""

from collections.abc import Sequence
from typing import Final, TypeVar

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Stage, Stores
from regime_pipeline.services.window import Window

T = TypeVar("T")

BATCH_BARS: Final = 20_000
"""Series are taken together up to so many bars: all of them in a live minute, one in a backfill of two weeks of minutes."""
BATCH_SERIES: Final = 2_000
"""And up to so many series: each is a lock of the database, which has some six thousand for all transactions together."""
LONG_BARS: Final = 10_000
"""A replay of a week of minutes and more costs a live run seconds for every series."""
LONG_PATIENCE_S: Final = 300
"""So long a live run leaves it to whoever changed the past; then nobody seems to be at it, and it does it itself."""


def may_wait(timeframe: Timeframe, window: Window) -> bool:
    """Tell whether a run waits for a series that another one derives now.

    A live minute does not: a backfill holds a series for seconds, and the next minute makes up for it. Hours and days come too seldom.
    """
    return not window.live or timeframe.seconds >= Timeframe.H1.seconds


def plan_batches(
    stores: Stores, stage: Stage, timeframe: Timeframe, now_s: int, bars_each: int = 1, *, wait: bool = True
) -> list[list[str]]:
    """Group the marked series of a stage, each group for one transaction; a series is never split.

    What is marked later waits for the next run, and what another run has taken by then is simply not there any more.

    Parameters
    ----------
    now_s : int
        Epoch seconds; a mark is taken to mean every bar from it up to now.
    bars_each : int
        Bars read for one bar of the timeframe.
    wait : bool
        Without it (see `may_wait`) a long replay is left, at first, to the backfill that asked for it.
    """
    with stores.open() as work:
        marked = work.marks.load(stage, timeframe)
    sizes = {series: (max(0, now_s - mark.first_s) // timeframe.seconds + 1) * bars_each for series, mark in sorted(marked.items())}
    if not wait:
        sizes = {series: size for series, size in sizes.items() if size <= LONG_BARS or marked[series].age_s > LONG_PATIENCE_S}
    return group_by_size(list(sizes), list(sizes.values()))


def group_by_size(things: Sequence[T], sizes: Sequence[int]) -> list[list[T]]:
    """Group things in their order so that a group holds at most `BATCH_SERIES` things and `BATCH_BARS`, or one thing that is larger."""
    groups: list[list[T]] = []
    room = 0
    for thing, size in zip(things, sizes, strict=True):
        if not groups or size > room or len(groups[-1]) == BATCH_SERIES:
            groups.append([])
            room = BATCH_BARS
        groups[-1].append(thing)
        room -= size
    return groups
