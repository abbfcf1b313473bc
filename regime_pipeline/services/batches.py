"""Split marked work into transactions: a long replay holds the marks of its own series only, so that no live minute waits for it."""

from typing import Final

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Stage, Stores

BATCH_BARS: Final = 20_000
"""Series are taken together up to so many bars: all of them in a live minute, one in a backfill of two weeks of minutes."""


def plan_batches(stores: Stores, stage: Stage, timeframe: Timeframe, now_s: int) -> list[list[str]]:
    """Group the marked series of a stage, each group for one transaction; a series is never split.

    What is marked later waits for the next run, and what another run has taken by then is simply not there any more.

    Parameters
    ----------
    now_s : int
        Epoch seconds; a mark is taken to mean every bar from it up to now.
    """
    with stores.open() as work:
        marked = work.marks.load(stage, timeframe)
    batches: list[list[str]] = []
    room = 0
    for series, first_s in sorted(marked.items()):
        n_bars = max(0, now_s - first_s) // timeframe.seconds + 1
        if n_bars > room:
            batches.append([])
            room = BATCH_BARS
        batches[-1].append(series)
        room -= n_bars
    return batches
