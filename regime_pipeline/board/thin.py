"""Fewer points for a plot without hiding what happened: every change of state stays, and so do the extremes between them."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_SPANS: Final = 400
"""Spans of equal length whose extremes are kept: more than a plot has pixels to tell apart."""


def choose_points(states: IntArray, *curves: FloatArray, max_spans: int = MAX_SPANS) -> IntArray:
    """Choose which bars to draw.

    Parameters
    ----------
    states : ndarray of int, shape (n,)
        State codes, oldest bar first.
    *curves : ndarray of float64, shape (n,)
        What is drawn over the bars; NaN where undefined.
    max_spans : int
        Number of spans whose smallest and largest value of each curve is kept.

    Returns
    -------
    ndarray of int64, shape (m,)
        Row numbers, ascending: first and last bar, both bars at every change of state, and each span's extremes. All rows when that
        would not be fewer.
    """
    n = len(states)
    if n <= 4 * max_spans:
        return np.arange(n)
    changes = np.flatnonzero(np.diff(states)) + 1
    kept = [np.array([0, n - 1]), changes - 1, changes]
    edges = np.linspace(0, n, max_spans + 1).astype(np.int64)
    for curve in curves:
        for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            span = curve[first:last]
            if not np.isnan(span).all():
                kept.append(first + np.array([np.nanargmin(span), np.nanargmax(span)]))
    return np.unique(np.concatenate(kept)).astype(np.int64)


def choose_run_starts(flags: NDArray[np.bool_]) -> IntArray:
    """Choose the first bar of every unbroken run of a flag: shape (m,), row numbers, ascending."""
    return np.flatnonzero(flags & ~np.concatenate([[False], flags[:-1]]))
