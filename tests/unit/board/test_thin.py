"""Thinning for plots: what must stay stays, whatever the series."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.board.thin import choose_points, choose_run_starts


def test_a_short_series_is_kept_whole() -> None:
    np.testing.assert_array_equal(choose_points(np.zeros(8, dtype=np.int64), np.arange(8.0), max_spans=2), np.arange(8))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(50, 400), run=st.integers(1, 60))
def test_state_changes_extremes_and_ends_stay(seed: int, n: int, run: int) -> None:
    rng = np.random.default_rng(seed)
    states = np.repeat(rng.integers(0, 5, n), run)[:n]
    curve = rng.normal(size=n).cumsum()
    curve[rng.random(n) < 0.1] = np.nan
    curve[0] = 0.0
    kept = choose_points(states, curve, max_spans=7)
    changes = np.flatnonzero(np.diff(states)) + 1
    assert set(changes) | set(changes - 1) | {0, n - 1, int(np.nanargmax(curve)), int(np.nanargmin(curve))} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()


def test_a_long_calm_series_becomes_short() -> None:
    curve = np.sin(np.arange(50_000) / 500)
    assert len(choose_points(np.zeros(50_000, dtype=np.int64), curve, max_spans=100)) <= 202


def test_runs_are_marked_where_they_start() -> None:
    flags = np.array([True, True, False, False, True, False, True, True])
    assert choose_run_starts(flags).tolist() == [0, 4, 6]
    assert choose_run_starts(np.zeros(0, dtype=np.bool_)).tolist() == []
