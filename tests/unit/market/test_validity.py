"""The parts of the validity score, each with the arithmetic in words."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.market.bars import Bars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.validity import WINDOW_BARS, score_bars, staleness
from tests.builders import T0, bars, random_walk

M1, H1 = Timeframe.M1, Timeframe.H1
NONE = np.empty(0, dtype=np.int64)


def without(whole: Bars, rows: list[int]) -> Bars:
    return whole[np.delete(np.arange(len(whole)), rows)]


def test_a_whole_moving_series_is_flawless_from_its_first_bar() -> None:
    assert (score_bars(random_walk(200, 1), M1, NONE, NONE).score == 1.0).all()


def test_each_missing_bar_costs_its_share_of_the_window_and_is_forgotten_after_it() -> None:
    found = score_bars(without(random_walk(200, 1), [100, 101, 102]), M1, NONE, NONE)
    # three of the last sixty minutes are missing: 57/60
    assert found.score[found.ts_s == T0 + 60 * 103].tolist() == [0.95]
    assert found.score[found.ts_s == T0 + 60 * 99].tolist() == [1.0]
    # the minute 162 is the first whose hour, 103 to 162, is whole again
    assert found.score[found.ts_s == T0 + 60 * 161].tolist() == [round(59 / 60, 9)]
    assert found.score[found.ts_s == T0 + 60 * 162].tolist() == [1.0]


def test_half_an_hour_counts_as_half_a_bar() -> None:
    whole = random_walk(60, 1, H1)
    used = whole.bars_used.copy()
    used[50] = 30
    # half of one of 48 hours is missing
    assert score_bars(replace(whole, bars_used=used), H1, NONE, NONE).score[50] == round(47.5 / 48, 9)


def test_repeated_bars_are_normal_for_half_an_hour_and_worthless_after_two() -> None:
    walk = 100 + np.cumsum(np.ones(50))
    stuck = bars([*walk, *[walk[-1]] * 150], wick=0.0)
    flat = score_bars(stuck, M1, NONE, NONE).flat
    # bar 49 is the last that moved; 30 repeats are free, 120 leave nothing, 75 are half way
    assert flat[49 + 30] == 1.0
    assert flat[49 + 75] == 0.5
    assert flat[49 + 120] == 0.0


def test_outliers_cost_a_tenth_each_and_contradictions_a_quarter_while_in_the_window() -> None:
    at = T0 + 60 * 100
    found = score_bars(random_walk(200, 1), M1, np.array([at, at]), np.array([at]))
    assert found.score[100] == pytest.approx((1 - 2 * 0.1) * (1 - 0.25))
    assert found.score[159] == found.score[100]
    assert found.score[99] == found.score[160] == 1.0


def test_what_a_bar_is_made_of_weighs_as_a_factor() -> None:
    assert score_bars(random_walk(5, 1), M1, NONE, NONE, parts=np.array([1, 1, 0.5, 1, 1])).score.tolist() == [1, 1, 0.5, 1, 1]


@given(st.lists(st.integers(0, 199), unique=True, max_size=60), st.integers(60, 198), st.lists(st.integers(0, 199), max_size=5))
@settings(max_examples=60)
def test_a_score_needs_its_window_and_nothing_later(missing: list[int], cut: int, refused: list[int]) -> None:
    whole = without(random_walk(200, 2), missing)
    outliers = np.sort(T0 + 60 * np.array(refused, dtype=np.int64))
    full = score_bars(whole, M1, outliers, NONE)
    n_seen = int((whole.ts_s <= T0 + 60 * cut).sum())
    assert np.array_equal(score_bars(whole[:n_seen], M1, outliers, NONE).score, full.score[:n_seen])
    start = max(0, n_seen - WINDOW_BARS[M1])
    piece = score_bars(whole[start:n_seen], M1, outliers, NONE).score
    if start > 0 and n_seen:
        assert piece[-1] == full.score[n_seen - 1]
    assert ((full.score >= 0) & (full.score <= 1)).all()


def test_no_bars_have_no_scores() -> None:
    assert len(score_bars(Bars.empty(), M1, NONE, NONE).score) == 0


def test_staleness_is_a_half_where_a_lever_still_listens_and_nothing_after_four_bars() -> None:
    assert [staleness(age) for age in (-1, 0, 2, 3, 4, 100)] == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
