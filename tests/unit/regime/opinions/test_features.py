"""Features: example E2, an independent computation, and properties 1, 2, 4 and 5 of section 19."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.bars import OpinionBars
from regime_pipeline.regime.opinions.features import LOOKBACK_SLOTS, FeatureRows, compute_features
from regime_pipeline.regime.opinions.terms import STATUSES
from tests.opinion_builders import START_S, raw_walk, walk

H1 = Timeframe.H1


def rows_of(bars: OpinionBars, first: int, last: int) -> FeatureRows:
    """Features of the slots numbered `first` to `last`."""
    return compute_features(bars, START_S + 3600 * first, START_S + 3600 * last)


def status_of(bars: OpinionBars, slot: int) -> str:
    return STATUSES[rows_of(bars, slot, slot).status[0]]


def example_bars() -> OpinionBars:
    i = np.arange(256)
    close = 100 * np.exp(0.001 * i + 0.01 * np.sin(i / 7))
    return OpinionBars.take(H1, RawBars(START_S + 3600 * i, close, 1.004 * close, 0.997 * close, close, 1000 + 200 * np.cos(i / 5)))


def test_example_e2() -> None:
    row = rows_of(example_bars(), 255, 255).x[0]
    np.testing.assert_allclose(row, [0.000217064091332, 0.00226310699625, 0.74017811778, 1.05718696997], rtol=5e-12)


def test_rows_equal_those_of_pandas() -> None:
    raw = raw_walk(400, 5)
    got = rows_of(OpinionBars.take(H1, raw), 0, 399)
    for last in (255, 256, 300, 399):
        close, volume = (pd.Series(column[last - 255 : last + 1]) for column in (raw.close, raw.volume))

        def ema(x: "pd.Series[float]", n: int) -> "pd.Series[float]":
            return x.ewm(span=n, adjust=False).mean()

        macd = ema(close, 12) - ema(close, 26)
        hist = macd - ema(macd, 9)
        change = close.diff().to_numpy()[1:]
        gain, loss = np.mean(np.maximum(change[:14], 0)), np.mean(np.maximum(-change[:14], 0))
        for each in change[14:]:
            gain, loss = (13 * gain + max(each, 0)) / 14, (13 * loss + max(-each, 0)) / 14
        want = [
            (hist.iloc[-1] - hist.iloc[-2]) / close.iloc[-1],
            ((ema(close, 9) - ema(close, 21)) / ema(close, 21)).iloc[-1],
            (100 - 100 / (1 + gain / loss) - 50) / 50,
            volume.iloc[-1] / ema(volume, 20).iloc[-1],
        ]
        np.testing.assert_allclose(got.x[last], want, rtol=1e-9)


def test_the_first_row_needs_256_bars() -> None:
    status = [STATUSES[code] for code in rows_of(walk(300), 0, 299).status]
    assert status == ["missing_bar"] + ["short_history"] * 254 + ["ok"] * 45


def test_a_missing_bar_takes_its_own_row_and_the_next() -> None:
    status = [STATUSES[code] for code in rows_of(walk(300, missing=[280]), 279, 283).status]
    assert status == ["ok", "missing_bar", "missing_bar", "ok", "ok"]


def test_a_tenth_of_the_span_may_be_absent_and_no_more() -> None:
    # 256 bars in 284 slots: 28 absent are just under a tenth; 29 in 285 are more.
    missing = list(range(100, 128))
    assert status_of(walk(284, missing=missing), 283) == "ok"
    assert status_of(walk(285, missing=[*missing, 128]), 284) == "short_history"
    assert LOOKBACK_SLOTS == 284


@pytest.mark.parametrize(("direction", "zone"), [(1, 1.0), (-1, -1.0), (0, 0.0)])
def test_one_sided_closes_have_an_extreme_rsi_and_still_ones_a_middle_one(direction: int, zone: float) -> None:
    ts_s = START_S + 3600 * np.arange(256)
    close = 1000 + direction * np.arange(256.0)
    row = rows_of(OpinionBars.take(H1, RawBars(ts_s, close, close, close, close, np.ones(256))), 255, 255)
    assert row.x[0, 2] == zone


def test_no_volume_at_all_is_no_row() -> None:
    raw = raw_walk(256, 1)
    raw.volume[:] = 0
    bars = OpinionBars.take(H1, raw)
    assert status_of(bars, 255) == "nan_feature"
    assert np.isnan(rows_of(bars, 255, 255).x).all()


def test_overflow_is_no_row() -> None:
    raw = raw_walk(256, 1)
    raw.close[254], raw.high[254] = 1e300, 1e300
    raw.close[255] = raw.low[255] = 1e-300
    assert status_of(OpinionBars.take(H1, raw), 255) == "nan_feature"


def test_rows_of_built_hours_are_marked() -> None:
    bars = walk(300)
    bars.built[290] = True
    assert np.flatnonzero(rows_of(bars, 260, 299).built).tolist() == [30]


@pytest.mark.parametrize(("first_s", "last_s"), [(START_S + 1, START_S + 3600), (START_S, START_S + 1), (START_S + 3600, START_S)])
def test_slots_off_the_grid_or_backwards_are_refused(first_s: int, last_s: int) -> None:
    with pytest.raises(ValueError, match="must lie on the 1h grid"):
        compute_features(walk(300), first_s, last_s)


gaps = st.sets(st.integers(0, 399), max_size=30)


@settings(max_examples=40, deadline=None)
@given(gaps, st.integers(0, 399), st.integers(1, 60))
def test_a_batch_equals_single_bars_from_just_enough_history(missing: set[int], slot: int, n: int) -> None:
    bars = walk(400, missing=missing)
    batch = rows_of(bars, 0, 399)
    last = min(399, slot + n - 1)
    needed = bars.ts_s > START_S + 3600 * (slot - LOOKBACK_SLOTS)
    short = OpinionBars(H1, *(getattr(bars, name)[needed] for name in ("ts_s", "high", "low", "close", "volume", "built")))
    part = rows_of(short, slot, last)
    np.testing.assert_array_equal(part.x, batch.x[slot : last + 1])
    np.testing.assert_array_equal(part.status, batch.status[slot : last + 1])


@settings(max_examples=40, deadline=None)
@given(gaps, st.integers(250, 399), st.integers(0, 2**32 - 1))
def test_later_bars_change_nothing(missing: set[int], slot: int, seed: int) -> None:
    bars = walk(400, missing=missing)
    noise = raw_walk(400, seed)
    raw = RawBars(bars.ts_s, bars.close, bars.high, bars.low, bars.close, bars.volume)
    later = raw.ts_s > START_S + 3600 * slot
    for name in ("open", "high", "low", "close", "volume"):
        getattr(raw, name)[later] = getattr(noise, name)[: int(later.sum())]
    before, after = rows_of(bars, 0, slot), rows_of(OpinionBars.take(H1, raw), 0, slot)
    np.testing.assert_array_equal(before.x, after.x)
    np.testing.assert_array_equal(before.status, after.status)


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9))
def test_scale_of_price_and_volume_does_not_matter(price: float, volume: float) -> None:
    raw = raw_walk(320, 3)
    scaled = RawBars(raw.ts_s, price * raw.open, price * raw.high, price * raw.low, price * raw.close, volume * raw.volume)
    want, got = (rows_of(OpinionBars.take(H1, each), 255, 319).x for each in (raw, scaled))
    # Differences of averages cancel: relative to the column's size, not to a value that happens to be near zero.
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9 * np.abs(want).max(axis=0).min())
