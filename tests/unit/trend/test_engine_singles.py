"""Many series by one bar each equals each series by itself, bit for bit."""

import numpy as np
import pytest

from regime_pipeline.market.bars import Bars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.trend.engine import SeriesEngine, step_singles
from regime_pipeline.trend.machine import S3
from regime_pipeline.trend.profile import V4, V5
from tests.builders import random_walk

N_BARS = 520


def _engines(walks: list[Bars], n_bars: int) -> list[SeriesEngine]:
    engines = [SeriesEngine(Timeframe.M1, V5, bootstrap_s3=at % 2 == 0) for at in range(len(walks))]
    for engine, walk in zip(engines, walks, strict=True):
        engine.advance(walk[:n_bars])
    return engines


@pytest.mark.parametrize("n_bars", [300, 331, 332, 400, 479, N_BARS - 1])
def test_a_bar_of_many_series_at_once_equals_one_by_one(n_bars: int) -> None:
    walks = [random_walk(N_BARS, seed) for seed in range(24)]
    together, alone = _engines(walks, n_bars), _engines(walks, n_bars)
    before = [engine.carry.to_bytes() for engine in together]
    done = step_singles(together, Bars.concat([walk[n_bars : n_bars + 1] for walk in walks]))
    for engine, other, walk, advance, carry in zip(together, alone, walks, done, before, strict=True):
        if advance is None:
            assert engine.carry.to_bytes() == carry
            continue
        expected = other.advance(walk[n_bars : n_bars + 1], walk.close[:n_bars])
        assert engine.carry.to_bytes() == other.carry.to_bytes()
        np.testing.assert_array_equal(advance.ts_s, expected.ts_s)
        np.testing.assert_array_equal(advance.records, expected.records)
        np.testing.assert_array_equal(advance.states, expected.states)
    is_rebuild = (walks[0].ts_s[n_bars] + 60) % 3600 == 0 or n_bars == 332
    taken = [advance is not None for advance in done]
    in_uptrend = [engine.carry.state == S3 for engine in alone]
    assert any(taken) != is_rebuild  # on the first record and at full hours every level set is rebuilt
    assert not any(took and stands for took, stands in zip(taken, in_uptrend, strict=True))


def test_a_bar_that_does_not_advance_is_left_to_be_refused() -> None:
    walks = [random_walk(N_BARS, seed) for seed in range(2)]
    engines = _engines(walks, 400)
    assert step_singles(engines, Bars.concat([walk[399:400] for walk in walks])) == [None, None]


def test_a_profile_that_needs_the_whole_history_is_never_stepped_together() -> None:
    walk = random_walk(10, 1)
    assert step_singles([SeriesEngine(Timeframe.M1, V4, bootstrap_s3=False)], walk[:1]) == [None]
