"""A and E of a position over time, from the stored deltas of the drivers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES, DRIVERS
from regime_pipeline.regime.levers import STALE_AFTER_BARS
from regime_pipeline.regime.levers_vector import build_multipliers, build_weight_mask, compute_levers_vector

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class DeltaTrack:
    """Stored deltas of one driver and timeframe, oldest first, arrays of shape (n,); S4 and immature bars hold 0."""

    ts_s: IntArray
    delta_a: FloatArray
    delta_e: FloatArray


def compute_lever_history(
    deltas: Mapping[tuple[str, Timeframe], DeltaTrack], exec_timeframe: Timeframe, buckets: Sequence[str | None], at_s: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Compute the levers without intents at many instants, by the rules of `compute_levers`.

    Parameters
    ----------
    deltas : mapping of (driver, regime timeframe) to DeltaTrack
        What is missing counts as absent.
    exec_timeframe : Timeframe
        Of every position.
    buckets : sequence of N str or None
        Market-cap bucket of each position.
    at_s : ndarray of int64, shape (n_times,)
        Instants, epoch seconds. At each, a channel speaks through its newest bar that has closed, unless that is older than 3 bars.

    Returns
    -------
    A, E : ndarray of shape (n_times, N)
        In [0, 1], never NaN.
    """
    raw = np.zeros((2, len(at_s), len(DRIVERS), len(CHANNEL_TIMEFRAMES)))
    for i, driver in enumerate(DRIVERS):
        for j, timeframe in enumerate(CHANNEL_TIMEFRAMES):
            track = deltas.get((driver.name, timeframe))
            if track is None or not len(track.ts_s):
                continue
            ends_s = track.ts_s + timeframe.seconds
            newest = np.searchsorted(ends_s, at_s, side="right") - 1
            speaks = (newest >= 0) & (at_s - ends_s[newest] <= STALE_AFTER_BARS * timeframe.seconds)
            raw[0, :, i, j] = np.where(speaks, track.delta_a[newest], 0.0)
            raw[1, :, i, j] = np.where(speaks, track.delta_e[newest], 0.0)
    mult, mask, intents = build_multipliers([exec_timeframe] * len(buckets)), build_weight_mask(buckets), np.zeros((len(buckets), 2))
    a_value, e_value = np.empty((2, len(at_s), len(buckets)))
    for t in range(len(at_s)):
        a_value[t], e_value[t] = compute_levers_vector(raw[0, t], raw[1, t], mult, mask, intents)
    return a_value, e_value
