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
RECENT_BARS: Final = 10_000
"""A replay of a week of minutes and more costs a live run seconds for every series: it is for the backfill that asked for it."""


def find_recent(timeframe: Timeframe, window: Window) -> int | None:
    """Tell from which bar on a run takes marks without waiting for anybody; None: it takes all and waits.

    A live minute goes on from what is stored, even while a backfill rewrites the past of a series, and the next minute makes up for
    what it finds held. Hours and days come too seldom for that.
    """
    if not window.live or timeframe.seconds >= Timeframe.H1.seconds:
        return None
    return window.end_s - RECENT_BARS * timeframe.seconds


def plan_batches(
    stores: Stores, stage: Stage, timeframe: Timeframe, now_s: int, bars_each: int = 1, *, recent_s: int | None = None
) -> list[list[str]]:
    """Group the marked series of a stage, each group for one transaction; a series is never split.

    What is marked later waits for the next run, and what another run has taken by then is simply not there any more.

    Parameters
    ----------
    now_s : int
        Epoch seconds; a mark is taken to mean every bar from it up to now.
    bars_each : int
        Bars read for one bar of the timeframe.
    recent_s : int, optional
        See `find_recent`.
    """
    with stores.open() as work:
        marked = work.marks.load(stage, timeframe, recent_s)
    sizes = [(max(0, now_s - first_s) // timeframe.seconds + 1) * bars_each for first_s in marked.values()]
    return group_by_size(list(marked), sizes)


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
