"""Holes on the grid."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.market.quality import find_gaps
from regime_pipeline.market.timeframe import Timeframe
from tests.builders import T0

HOUR = 3600


def test_a_missing_hour_is_found() -> None:
    present = T0 + HOUR * np.array([0, 1, 3])
    assert find_gaps(present, Timeframe.H1, T0, T0 + 4 * HOUR).tolist() == [T0 + 2 * HOUR]


def test_ends_off_the_grid_ask_only_for_bars_that_open_inside() -> None:
    assert find_gaps(np.empty(0, np.int64), Timeframe.H1, T0 + 1, T0 + HOUR + 1).tolist() == [T0 + HOUR]
    assert find_gaps(np.empty(0, np.int64), Timeframe.H1, T0 + 1, T0 + HOUR).tolist() == []


@settings(max_examples=60)
@given(st.lists(st.integers(-5, 30), max_size=40))
def test_present_and_missing_make_the_grid(hours: list[int]) -> None:
    present = T0 + HOUR * np.array(hours, dtype=np.int64)
    missing = find_gaps(present, Timeframe.H1, T0, T0 + 24 * HOUR)
    assert sorted({*missing.tolist(), *(t for t in present.tolist() if T0 <= t < T0 + 24 * HOUR)}) == [T0 + HOUR * k for k in range(24)]
    assert not set(missing.tolist()) & set(present.tolist())
