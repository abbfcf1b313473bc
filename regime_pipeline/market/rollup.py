"""Longer bars from shorter ones, and the choice between ours and the vendor's (spec 1.2)."""

from math import fsum

import numpy as np

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.bars import Bars, BoolArray, FloatArray, IntArray
from regime_pipeline.market.timeframe import Timeframe


def roll_up(children: Bars, child: Timeframe, parent: Timeframe) -> Bars:
    """Roll bars of one timeframe up into a longer one; which parents are final is the caller's to know.

    Parameters
    ----------
    children : Bars
        Bars on the `child` grid, strictly ascending.
    child, parent : Timeframe
        `parent` must be a longer multiple of `child`.

    Returns
    -------
    Bars
        One bar per parent interval that holds at least one child. Close is that of the last child present, volume the exactly
        rounded sum, `bars_used` the children's sum, `expected_bars` the parent's minutes.

    Raises
    ------
    BadInputError
        When the timeframes do not nest or the children do not ascend.
    """
    if parent.seconds <= child.seconds or parent.seconds % child.seconds:
        raise BadInputError(f"rollup was {child} -> {parent}: the parent must be a longer multiple of the child; choose another pair.")
    if np.any(np.diff(children.ts_s) <= 0):
        raise BadInputError(f"rollup {child} -> {parent}: children must ascend by ts, each ts once; order and deduplicate them first.")
    if not len(children):
        return Bars.empty()
    parent_ts_s = children.ts_s - children.ts_s % parent.seconds
    first = np.flatnonzero(np.diff(parent_ts_s, prepend=parent_ts_s[0] - 1))
    last = np.append(first[1:], len(children)) - 1
    return Bars(
        ts_s=parent_ts_s[first],
        open=children.open[first],
        high=np.maximum.reduceat(children.high, first),
        low=np.minimum.reduceat(children.low, first),
        close=children.close[last],
        volume=_exact_sums(children.volume, first),
        bars_used=np.add.reduceat(children.bars_used, first),
        expected_bars=np.full(len(first), parent.minutes, dtype=np.int32),
    )


def _exact_sums(values: FloatArray, first: IntArray) -> FloatArray:
    """Sum each group with one rounding, so that neither arrival order nor platform shows in a stored volume."""
    plain, ends = values.tolist(), [*first[1:].tolist(), len(values)]
    return np.array([fsum(plain[start:end]) for start, end in zip(first.tolist(), ends, strict=True)])


def choose_bars(rolled: Bars, vendor: Bars) -> tuple[Bars, BoolArray]:
    """Pick one bar per `ts`: the rolled-up one if complete, else the vendor's, else the partial rolled-up one.

    Parameters
    ----------
    rolled, vendor : Bars
        Bars of one series and timeframe, strictly ascending.

    Returns
    -------
    Bars
        Union of both by `ts_s`, ascending.
    ndarray of bool, shape (n,)
        True where the vendor's bar was taken.
    """
    ts_s = np.union1d(rolled.ts_s, vendor.ts_s)
    chosen = Bars.concat([rolled, vendor])
    source = np.full(len(ts_s), -1, dtype=np.int64)
    # Written in ascending order of preference: a later write wins.
    source[np.searchsorted(ts_s, rolled.ts_s)] = np.arange(len(rolled))
    source[np.searchsorted(ts_s, vendor.ts_s)] = np.arange(len(vendor)) + len(rolled)
    complete = np.flatnonzero(rolled.bars_used >= rolled.expected_bars)
    source[np.searchsorted(ts_s, rolled.ts_s[complete])] = complete
    return chosen[source], source >= len(rolled)
