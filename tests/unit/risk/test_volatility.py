"""Returns on the grid of the bars, and the median of what volatility usually is."""

import math

import numpy as np
import pytest

from regime_pipeline.risk.limits import ProtectionSettings
from regime_pipeline.risk.volatility import compute_median_volatility, spread_returns

SETTINGS = ProtectionSettings(volatility_returns=4, volatility_min_returns=3)


def test_a_move_over_a_hole_is_no_return_of_one_bar() -> None:
    ts_s = np.array([0, 3600, 10_800, 14_400])
    returns = spread_returns(ts_s, np.array([100.0, 110.0, 100.0, 105.0]), 3600)
    assert returns[0] == pytest.approx(math.log(1.1))
    assert np.isnan(returns[1:3]).all()  # into the hole, and out of it
    assert returns[3] == pytest.approx(math.log(1.05))


def test_one_bar_has_no_return() -> None:
    assert len(spread_returns(np.array([7200]), np.array([1.0]), 3600)) == 0


def test_the_median_is_over_all_windows_that_know_enough() -> None:
    # Windows of four: (1,-1,1,-1), (-1,1,-1,9), (1,-1,9,NaN) and (-1,9,NaN,NaN), of which the last knows too little.
    returns = np.array([1.0, -1, 1, -1, 9, np.nan, np.nan])
    windows = [(1.0, -1, 1, -1), (-1.0, 1, -1, 9), (1.0, -1, 9)]
    assert compute_median_volatility(returns, SETTINGS) == pytest.approx(np.median([np.std(each, ddof=1) for each in windows]))


@pytest.mark.parametrize("returns", [[], [1.0, 2, 3], [np.nan] * 9, [1.0, np.nan, np.nan, 2, np.nan, np.nan]])
def test_without_a_window_that_knows_enough_it_is_unknown(returns: list[float]) -> None:
    assert math.isnan(compute_median_volatility(np.array(returns), SETTINGS))
