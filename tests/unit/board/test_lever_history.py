"""Levers over time equal the levers of each instant, taken one by one from the newest closed bar of each channel."""

import numpy as np
import pytest

from regime_pipeline.board.lever_history import DeltaTrack, compute_lever_history
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES, DRIVER_NAMES
from regime_pipeline.regime.levers import Channel, LeverInput, compute_age_bars, compute_levers
from tests.builders import T0


def make_deltas(seed: int) -> dict[tuple[str, Timeframe], DeltaTrack]:
    rng = np.random.default_rng(seed)
    tracks = {}
    for driver in DRIVER_NAMES:
        for timeframe in CHANNEL_TIMEFRAMES:
            ts_s = T0 + timeframe.seconds * np.flatnonzero(rng.random(8) < 0.8)
            if driver != "small" and len(ts_s):
                tracks[driver, timeframe] = DeltaTrack(ts_s, rng.uniform(-0.3, 0.3, len(ts_s)), rng.uniform(-0.3, 0.3, len(ts_s)))
    return tracks


@pytest.mark.parametrize("exec_timeframe", [Timeframe.H1, Timeframe.M5])
def test_each_instant_equals_the_scalar_form(exec_timeframe: Timeframe) -> None:
    deltas, buckets = make_deltas(4), ["nano", "small", None]
    # bar ends, the second before and after, and the last second a minute bar still counts
    at_s = np.array([T0, T0 + 60, T0 + 119, T0 + 3600, T0 + 3601, T0 + 12 * 60, T0 + 86_400, T0 + 3 * 86_400 + 180])
    a_value, e_value = compute_lever_history(deltas, exec_timeframe, buckets, at_s)
    assert a_value.shape == (len(at_s), 3)
    for t, now_s in enumerate(at_s.tolist()):
        channels = []
        for (driver, timeframe), track in deltas.items():
            closed = np.flatnonzero(track.ts_s + timeframe.seconds <= now_s)
            if closed.size:
                at = closed[-1]
                age = compute_age_bars(int(track.ts_s[at]), timeframe, now_s)
                channels.append(Channel(driver, timeframe, age, float(track.delta_a[at]), float(track.delta_e[at])))
        for n, bucket in enumerate(buckets):
            expected = compute_levers(LeverInput(exec_timeframe, bucket, tuple(channels)))
            assert (a_value[t, n], e_value[t, n]) == pytest.approx((expected.A_value, expected.E_value), abs=1e-12)


def test_no_channel_is_neutral() -> None:
    a_value, e_value = compute_lever_history({}, Timeframe.H1, ["big"], np.array([T0]))
    assert (a_value.tolist(), e_value.tolist()) == ([[0.5]], [[0.5]])
