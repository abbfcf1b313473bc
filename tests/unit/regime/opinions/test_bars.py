"""Which bars count, and hours made of quarters."""

from dataclasses import replace

import numpy as np
import pytest

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.bars import OpinionBars, fill_hours
from tests.opinion_builders import START_S, raw_walk, walk

H1, M15 = Timeframe.H1, Timeframe.M15


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("open", np.nan), ("open", 0.0), ("high", np.inf), ("high", 0.1), ("low", -1.0), ("low", np.nan), ("close", 0.0),
        ("close", -np.inf), ("volume", -1.0), ("volume", np.nan), ("volume", np.inf),
    ],
)  # fmt: skip
def test_a_bar_with_an_impossible_value_is_missing(column: str, value: float) -> None:
    raw = raw_walk(10, 1)
    getattr(raw, column)[4] = value
    bars = OpinionBars.take(H1, raw)
    assert ((bars.ts_s - START_S) // 3600).tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_a_bar_without_volume_counts() -> None:
    raw = raw_walk(3, 1)
    raw.volume[:] = 0
    assert len(OpinionBars.take(H1, raw)) == 3


@pytest.mark.parametrize(("end_s", "n"), [(0, 0), (3599, 0), (3600, 1), (7199, 1), (4 * 3600, 4), (9 * 3600, 4)])
def test_bars_until_an_instant_are_those_that_closed_by_then(end_s: int, n: int) -> None:
    bars = walk(4)
    assert bars.until(START_S + end_s).ts_s.tolist() == bars.ts_s[:n].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ts_s": np.array([START_S, START_S + 3600, START_S + 3600])}, "ascend"),
        ({"ts_s": np.array([START_S, START_S + 7200, START_S + 3600])}, "ascend"),
        ({"ts_s": np.array([START_S, START_S + 3601, START_S + 7200])}, "grid"),
        ({"ts_s": np.array([START_S, START_S + 3600])}, "length"),
        ({"close": np.ones(4)}, "length"),
        ({"close": np.array([1.0, np.nan, 1.0])}, "missing"),
        ({"timeframe": Timeframe.H4}, "4h"),
    ],
)
def test_columns_that_are_no_bars_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(walk(3), **changes)


def test_an_absent_hour_is_built_of_its_four_quarters() -> None:
    quarters = walk(4 * 6, 2, M15)
    hours = fill_hours(walk(6, 3, missing=[2]), quarters)
    assert hours.built.tolist() == [False, False, True, False, False, False]
    four = slice(8, 12)
    assert (hours.high[2], hours.low[2]) == (quarters.high[four].max(), quarters.low[four].min())
    assert (hours.close[2], hours.volume[2]) == (quarters.close[11], pytest.approx(quarters.volume[four].sum(), rel=1e-15))


@pytest.mark.parametrize("quarter", range(4))
def test_three_quarters_make_no_hour(quarter: int) -> None:
    hours = fill_hours(walk(6, 3, missing=[2]), walk(4 * 6, 2, M15, missing=[8 + quarter]))
    assert ((hours.ts_s - START_S) // 3600).tolist() == [0, 1, 3, 4, 5]


def test_a_native_hour_wins_over_its_quarters() -> None:
    native = walk(6, 3)
    hours = fill_hours(native, walk(4 * 6, 2, M15))
    assert not hours.built.any()
    np.testing.assert_array_equal(hours.close, native.close)


def test_quarters_that_cross_the_hour_make_none() -> None:
    # 00:30 to 01:15 are four in a row, but no hour.
    quarters = walk(4, 2, M15, start_s=START_S + 1800)
    assert len(fill_hours(walk(1, 3, missing=[0]), quarters)) == 0


def test_an_hour_with_an_overflowing_volume_stays_missing() -> None:
    quarters = walk(4, 2, M15)
    assert len(fill_hours(walk(1, 3, missing=[0]), replace(quarters, volume=np.full(4, 1e308)))) == 0


def test_hours_and_quarters_are_not_exchanged() -> None:
    with pytest.raises(ValueError, match="must be 1h and 15m"):
        fill_hours(walk(4, 2, M15), walk(4))
