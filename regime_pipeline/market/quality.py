"""Holes in a series: grid times that should have a bar and have none."""

import numpy as np

from regime_pipeline.market.bars import IntArray
from regime_pipeline.market.timeframe import Timeframe


def find_gaps(ts_s: IntArray, timeframe: Timeframe, start_s: int, end_s: int) -> IntArray:
    """List the open times in [start_s, end_s) without a bar.

    Parameters
    ----------
    ts_s : ndarray of int64, shape (n,)
        Open times present, epoch seconds, in any order; those outside the window are ignored.
    timeframe : Timeframe
        The grid.
    start_s, end_s : int
        Half-open window in epoch seconds; its ends need not lie on the grid.

    Returns
    -------
    ndarray of int64, shape (n_missing,)
        Missing open times, ascending.
    """
    step = timeframe.seconds
    grid = np.arange(-(-start_s // step) * step, end_s, step, dtype=np.int64)
    if not len(grid):
        return grid
    inside = ts_s[(ts_s >= grid[0]) & (ts_s <= grid[-1]) & (ts_s % step == 0)]
    missing = np.ones(len(grid), dtype=np.bool_)
    missing[(inside - grid[0]) // step] = False
    return grid[missing]
