"""Levels: the worked example, the rules read literally, stable names."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.indicators.levels import LEVEL_COLUMNS, MAX_LEVELS, Level, build_levels, describe_levels
from tests import reference

V5_SCALE = 20.0
WAVE = np.array([0, 5, 8, 10, 8, 5, 0, -5, -8, -10, -8, -5], dtype=float)


def build(closes: np.ndarray, build_ts_s: int = 0, previous: np.ndarray | None = None) -> tuple[np.ndarray, list[Level]]:
    rows = np.zeros((MAX_LEVELS, LEVEL_COLUMNS))
    if previous is not None:
        rows[: len(previous)] = previous
    n = build_levels(closes, build_ts_s, rows, 0 if previous is None else len(previous))
    return rows[:n].copy(), describe_levels(rows[:n], V5_SCALE)


def test_worked_example_of_sixty_closes() -> None:
    closes = 100 + np.tile(WAVE, 5)
    _, levels = build(closes)
    strength = {15: 0.75, 17: 0.85, 20: 1.0}
    raw = {150: 15, 142.36: 15, 130: 15, 122.36: 15, 115.44: 17, 110: 20, 105.28: 17, 102.36: 15, 100: 15, 97.64: 15, 94.28: 17, 90: 20}
    assert [round(level.price, 6) for level in levels] == list(raw)
    assert [level.strength_raw for level in levels] == list(raw.values())
    assert [level.strength for level in levels] == [strength[value] for value in raw.values()]


def test_comparison_profile_keeps_raw_strength() -> None:
    rows, _ = build(100 + np.tile(WAVE, 5))
    assert {level.strength for level in describe_levels(rows, 0.0)} == {15.0, 17.0, 20.0}


@pytest.mark.parametrize(
    "closes",
    [100 + np.tile(WAVE, 4), np.full(200, 57.0), np.linspace(1, 2, 1000), 100 + 0.001 * np.tile(WAVE, 50)],
    ids=["48 closes", "flat", "monotone", "swings under half a percent"],
)
def test_too_little_to_go_by_gives_an_empty_set_not_the_old_one(closes: np.ndarray) -> None:
    old, _ = build(100 + np.tile(WAVE, 5))
    rows, levels = build(closes, previous=old)
    assert len(rows) == 0
    assert levels == []


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(50, 1000),
    sd=st.sampled_from([0.003, 0.01, 0.05]),
    price=st.sampled_from([1e-9, 1.0, 6e4]),
)
def test_set_equals_the_rules_read_literally(seed: int, n: int, sd: float, price: float) -> None:
    closes = price * np.exp(np.random.default_rng(seed).normal(0, sd, n).cumsum())
    rows, _ = build(closes)
    expected = reference.level_set(closes.tolist())
    assert len(rows) == len(expected)
    np.testing.assert_allclose(rows[:, :2], np.array(expected).reshape(-1, 2), rtol=1e-12)


def test_a_cluster_keeps_its_id_while_it_moves_less_than_three_percent() -> None:
    wave = np.tile(WAVE, 20)  # twenty touches of each extreme outrank the Fibonacci levels
    before, named = build(100 + wave, build_ts_s=3600)
    near, near_named = build(101 + wave, build_ts_s=7200, previous=before)
    _, far_named = build(140 + wave, build_ts_s=10800, previous=near)
    ids = [{level.level_id for level in levels if level.source == "cluster"} for levels in (named, near_named, far_named)]
    assert ids[0] == ids[1] == {"cluster_3600_0", "cluster_3600_1"}
    assert ids[2] == {"cluster_10800_0", "cluster_10800_1"}


def test_fibonacci_and_extremes_are_named_by_kind_and_ratio() -> None:
    closes = 100 * np.exp(np.random.default_rng(5).normal(0, 0.02, 400).cumsum())
    names = {level.level_id for level in build(closes)[1] if level.source != "cluster"}
    allowed = {"ath", "atl", *(f"fib_ret_{r}" for r in (0, 0.236, 0.382, 0.5, 0.618, 0.786, 1))}
    allowed |= {f"fib_ext_{r}" for r in (1.272, 1.618, 2, 2.618, 3, 4.236)}
    assert names
    assert names <= allowed
