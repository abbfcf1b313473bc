"""Split work into transactions: a long replay holds the marks of its own series only, so that no live minute waits for it."""

from collections.abc import Sequence
from typing import Final, TypeVar

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Stage, Stores

T = TypeVar("T")

BATCH_BARS: Final = 20_000
"""Series are taken together up to so many bars: all of them in a live minute, one in a backfill of two weeks of minutes."""


def plan_batches(stores: Stores, stage: Stage, timeframe: Timeframe, now_s: int, bars_each: int = 1) -> list[list[str]]:
    """Group the marked series of a stage, each group for one transaction; a series is never split.

    What is marked later waits for the next run, and what another run has taken by then is simply not there any more.

    Parameters
    ----------
    now_s : int
        Epoch seconds; a mark is taken to mean every bar from it up to now.
    bars_each : int
        Bars read for one bar of the timeframe.
    """
    with stores.open() as work:
        marked = sorted(work.marks.load(stage, timeframe).items())
    sizes = [(max(0, now_s - first_s) // timeframe.seconds + 1) * bars_each for _, first_s in marked]
    return group_by_size([series for series, _ in marked], sizes)


def group_by_size(things: Sequence[T], sizes: Sequence[int]) -> list[list[T]]:
    """Group things in their order so that a group holds at most `BATCH_BARS`, or one thing that is larger."""
    groups: list[list[T]] = []
    room = 0
    for thing, size in zip(things, sizes, strict=True):
        if not groups or size > room:
            groups.append([])
            room = BATCH_BARS
        groups[-1].append(thing)
        room -= size
    return groups
