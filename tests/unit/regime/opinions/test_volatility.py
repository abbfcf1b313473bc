"""Volatility regimes: examples E2 (band) and E8, and properties 1, 2, 4, 5 and 12."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import CallerError
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.bars import OpinionBars
from regime_pipeline.regime.opinions.terms import STATUSES, Status
from regime_pipeline.regime.opinions.volatility import (
    DIRECTION_AXES,
    HOLD_UNKNOWN,
    VOL_AXES,
    VOL_REGIMES,
    WINDOW_SLOTS,
    DirectionAxis,
    VolatilityMeasures,
    VolatilityRows,
    VolAxis,
    VolHold,
    VolMethod,
    VolRegime,
    classify_volatility,
    measure_volatility,
    name_regime,
)

HOUR_S = 3600
LETTERS = {
    "L": VolRegime.NEUTRAL_LOW_VOL,
    "H": VolRegime.NEUTRAL_HIGH_VOL,
    "U": VolRegime.UP,
    "D": VolRegime.DOWN,
    "S": VolRegime.HIGH_VOL_SHOCK,
    "?": VolRegime.UNKNOWN,
}
E8 = [
    (100, 99, 0.60, 0.013, VolAxis.LOW, DirectionAxis.UP, VolRegime.UP),
    (100, 99.6, 0.60, 0.013, VolAxis.LOW, DirectionAxis.FLAT, VolRegime.NEUTRAL_LOW_VOL),
    (100, 99.6, 0.65, 0.013, VolAxis.ELEVATED, DirectionAxis.FLAT, VolRegime.NEUTRAL_HIGH_VOL),
    (100, 101, 0.65, 0.013, VolAxis.ELEVATED, DirectionAxis.DOWN, VolRegime.DOWN),
    (100, 102.5, 1.30, 0.013, VolAxis.SHOCK, DirectionAxis.DOWN, VolRegime.HIGH_VOL_SHOCK),
    (100, 97, 1.2999, 0.013, VolAxis.ELEVATED, DirectionAxis.UP, VolRegime.UP),
    (100, 97, 1.2999, np.nan, VolAxis.UNKNOWN, DirectionAxis.UNKNOWN, VolRegime.UNKNOWN),
]


def bars_of(close: np.ndarray, high: np.ndarray, low: np.ndarray, keep: np.ndarray | None = None, first_s: int = 0) -> OpinionBars:
    n = len(close)
    kept = np.ones(n, dtype=bool) if keep is None else keep
    ts_s = first_s + HOUR_S * np.arange(n, dtype=np.int64)
    columns = [column[kept] for column in (ts_s, close, high, low, close, np.ones(n))]
    return OpinionBars.take(Timeframe.H1, RawBars(*columns))


def a_year(seed: int, n: int = 9000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hourly closes, highs and lows with trends, calm and storms."""
    rng = np.random.default_rng(seed)
    days = np.exp(0.5 * rng.normal(size=n // 24 + 1))
    sd = 0.005 * np.repeat(days, 24)[:n]
    close = 100 * np.exp(np.cumsum(sd * rng.normal(size=n)))
    spread = sd * (0.3 + rng.random(n))
    return close, close * (1 + spread), close * (1 - spread)


def measured(seed: int, n: int, holes: float = 0.0) -> VolatilityMeasures:
    close, high, low = a_year(seed, n)
    keep = np.random.default_rng(seed + 1).random(n) >= holes
    return measure_volatility(bars_of(close, high, low, keep), 0, (n - 1) * HOUR_S)


def given_bands(band: np.ndarray) -> VolatilityMeasures:
    """Bars of close 100 whose EMA equals the close: only the band speaks. NaN is a missing bar."""
    status = np.where(np.isnan(band), Status.MISSING_BAR.code, Status.OK.code).astype(np.int8)
    return VolatilityMeasures(Timeframe.H1, 0, np.where(np.isnan(band), np.nan, 100.0), np.full(band.size, 100.0), 100 * band, band, status)


def cut(measures: VolatilityMeasures, first: int, last: int) -> VolatilityMeasures:
    columns = [getattr(measures, name)[first:last] for name in ("close", "ema", "atr", "band", "status")]
    return VolatilityMeasures(measures.timeframe, measures.first_s + first * HOUR_S, *columns)


COLUMNS = [name for name in VolatilityRows.__dataclass_fields__ if name != "method"]


def test_worked_example_e2() -> None:
    i = np.arange(256)
    close = 100 * np.exp(0.001 * i + 0.01 * np.sin(i / 7))
    row = measure_volatility(bars_of(close, 1.004 * close, 0.997 * close), 255 * HOUR_S, 255 * HOUR_S)
    assert row.ema[0] == pytest.approx(125.7545410649, abs=1e-10)
    assert row.atr[0] == pytest.approx(0.8886298927, abs=1e-10)
    assert row.band[0] == pytest.approx(0.0069522354, abs=1e-10)
    assert (row.close[0] - row.ema[0]) / row.atr[0] == pytest.approx(2.3235351152, abs=1e-9)


@pytest.mark.parametrize(("close", "ema", "atr", "shock", "vol", "direction", "name"), E8)
def test_worked_example_e8(
    close: float, ema: float, atr: float, shock: float, vol: VolAxis, direction: DirectionAxis, name: VolRegime
) -> None:
    axes = name_regime(float(close), float(ema), atr, atr, shock)
    assert (VOL_AXES[axes[0]], DIRECTION_AXES[axes[1]], VOL_REGIMES[axes[2]]) == (vol, direction, name)


def test_worked_example_of_the_hold() -> None:
    from regime_pipeline.regime.opinions.volatility import _hold

    held = np.array([VOL_REGIMES.index(VolRegime.UNKNOWN)] * 2 + [0, 0])
    codes = {letter: VOL_REGIMES.index(name) for letter, name in LETTERS.items()}
    letters = {code: letter for letter, code in codes.items()}
    published = [letters[_hold(codes[letter], held)] for letter in "LLUUULUUSSUUULUHUHH???H????DL"]
    assert "".join(published) == "LLLLUUUUSSSSUUUUUUU???H????DD"


@pytest.mark.parametrize("direction", [1, -1])
def test_thresholds_are_exact(direction: int) -> None:
    shock = 0.013
    for band, vol in ((shock, "shock"), (shock - 1e-9, "elevated"), (shock / 2, "elevated"), (shock / 2 - 1e-9, "low")):
        assert VOL_AXES[name_regime(100.0, 100.0, 100 * band, 100 * band, shock)[0]] == vol
    side = DirectionAxis.UP if direction > 0 else DirectionAxis.DOWN
    # a close of exactly one ATR from the mean is flat: 0.5 and 100 are exact in binary
    for distance, expected in ((0.5, DirectionAxis.FLAT), (0.5 + 1e-9, side), (0.5 - 1e-9, DirectionAxis.FLAT)):
        assert DIRECTION_AXES[name_regime(100.0, 100.0 - direction * distance, 0.5, 0.5, shock)[1]] == expected


def test_the_threshold_is_the_percentile_of_earlier_bands_only() -> None:
    band = np.random.default_rng(4).uniform(0.002, 0.02, 2700)
    band[np.random.default_rng(5).random(2700) < 0.1] = np.nan
    rows, _ = classify_volatility("SOL", given_bands(band), np.empty(0), VolHold())
    for t in (499, 700, 1500, 2160, 2161, 2699):
        past = band[max(0, t - WINDOW_SLOTS[Timeframe.H1]) : t]
        past = past[~np.isnan(past)]
        assert rows.n_bands[t] == past.size
        if past.size < 500 or np.isnan(band[t]):
            assert np.isnan([rows.shock[t], rows.band_rank[t]]).all()
        else:
            assert rows.shock[t] == pytest.approx(np.percentile(past, 95), abs=1e-15)
            assert rows.band_rank[t] == np.mean(past <= band[t])
    changed = band.copy()
    t = int(np.flatnonzero(~np.isnan(band))[-1])
    changed[t] = 0.5
    again, _ = classify_volatility("SOL", given_bands(changed), np.empty(0), VolHold())
    assert again.shock[t] == rows.shock[t]


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 1400), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_batch_equals_incremental_from_stored_rows(seed: int, cuts: list[int]) -> None:
    measures = measured(seed, 1400, holes=0.05)
    whole, _ = classify_volatility("ETH", measures, np.empty(0), VolHold())
    edges = [0, *sorted(cuts), 1400]
    hold = VolHold()
    for first, last in pairwise(edges):
        rows, hold = classify_volatility("ETH", cut(measures, first, last), measures.band[:first], hold)
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(rows, name), getattr(whole, name)[first:last], err_msg=name)
        assert rows.method == whole.method[first:last]


@given(st.integers(0, 2**32 - 1), st.integers(300, 600))
@settings(max_examples=10, deadline=None)
def test_rows_ignore_what_comes_later_and_measure_each_alone(seed: int, t: int) -> None:
    close, high, low = a_year(seed, 700)
    keep = np.random.default_rng(seed).random(700) >= 0.03
    bars = bars_of(close, high, low, keep)
    whole = measure_volatility(bars, 0, 699 * HOUR_S)
    cut_off = measure_volatility(bars.until((t + 1) * HOUR_S), 0, t * HOUR_S)
    alone = measure_volatility(bars, t * HOUR_S, t * HOUR_S)
    for name in ("close", "ema", "atr", "band", "status"):
        np.testing.assert_array_equal(getattr(cut_off, name), getattr(whole, name)[: t + 1])
        np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name)[t : t + 1])
    rows, _ = classify_volatility("BTC", whole, np.empty(0), VolHold())
    earlier, _ = classify_volatility("BTC", cut_off, np.empty(0), VolHold())
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(earlier, name), getattr(rows, name)[: t + 1])


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
@settings(max_examples=10, deadline=None)
def test_bands_and_names_ignore_the_unit_of_the_price(seed: int, factor: float) -> None:
    close, high, low = a_year(seed, 900)
    ours = measure_volatility(bars_of(close, high, low), 0, 899 * HOUR_S)
    other = measure_volatility(bars_of(factor * close, factor * high, factor * low), 0, 899 * HOUR_S)
    np.testing.assert_allclose(other.band, ours.band, rtol=1e-9)
    a, _ = classify_volatility("HYPE", ours, np.empty(0), VolHold())
    b, _ = classify_volatility("HYPE", other, np.empty(0), VolHold())
    # a tie is a close at one ATR or a band at a threshold, to the last digits
    far = np.abs(np.abs(a.ema - ours.close) / a.atr - 1) > 1e-6
    for share in (1.0, 0.5):
        far &= ~(np.abs(a.band / (share * a.shock) - 1) < 1e-6)
    np.testing.assert_array_equal(a.raw[far], b.raw[far])


def test_a_year_of_hours_shows_all_five_names() -> None:
    rows, _ = classify_volatility("SOL", measured(2, 9000), np.empty(0), VolHold())
    assert {VOL_REGIMES[code] for code in rows.active} == set(VolRegime)
    known = rows.active[rows.active != VOL_REGIMES.index(VolRegime.UNKNOWN)]
    shock_share = np.mean(known == VOL_REGIMES.index(VolRegime.HIGH_VOL_SHOCK))
    assert 0.02 < shock_share < 0.15


def test_a_shock_is_adopted_at_once_and_left_after_three_bars() -> None:
    band = np.concatenate([np.linspace(0.004, 0.006, 600), [0.02], [0.001] * 3])
    rows, _ = classify_volatility("SOL", given_bands(band), np.empty(0), VolHold())
    names = [VOL_REGIMES[code] for code in rows.active[-4:]]
    assert names == [VolRegime.HIGH_VOL_SHOCK] * 3 + [VolRegime.NEUTRAL_LOW_VOL]


def test_before_five_hundred_bands_only_btc_and_eth_speak() -> None:
    band = np.full(501, 0.0131)
    for series, timeframe_known in (("BTC", True), ("ETH", True), ("SOL", False), ("ALT", False)):
        rows, _ = classify_volatility(series, given_bands(band), np.empty(0), VolHold())
        early = VOL_REGIMES[rows.active[499]]
        assert (early is not VolRegime.UNKNOWN) == timeframe_known
        assert STATUSES[rows.status[499]] is Status.SHORT_HISTORY
        assert np.isnan(rows.band_rank[499])
        assert rows.method[499] == (VolMethod.FALLBACK if timeframe_known else VolMethod.PERCENTILE)
        # the 501st bar has 500 bands behind it, all equal to its own
        assert (STATUSES[rows.status[500]], rows.band_rank[500], rows.shock[500]) == (Status.OK, 1.0, 0.0131)
    btc, _ = classify_volatility("BTC", given_bands(band), np.empty(0), VolHold())
    eth, _ = classify_volatility("ETH", given_bands(band), np.empty(0), VolHold())
    assert (VOL_AXES[btc.vol_axis[0]], VOL_AXES[eth.vol_axis[0]]) == (VolAxis.SHOCK, VolAxis.ELEVATED)


def test_unknown_bars_publish_unknown_and_keep_the_name_for_three() -> None:
    band = np.concatenate([np.full(600, 0.005), [np.nan] * 4])
    rows, hold = classify_volatility("SOL", given_bands(band), np.empty(0), VolHold())
    assert {VOL_REGIMES[code] for code in rows.active[600:]} == {VolRegime.UNKNOWN}
    assert VOL_REGIMES[rows.held[599 + HOLD_UNKNOWN]] is not VolRegime.UNKNOWN
    assert hold == VolHold(VolRegime.UNKNOWN, VolRegime.UNKNOWN, 0, 4)
    assert {VOL_AXES[code] for code in rows.vol_axis[600:]} == {VolAxis.UNKNOWN}
    assert {DIRECTION_AXES[code] for code in rows.direction_axis[600:]} == {DirectionAxis.UNKNOWN}


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_damaged_bars_never_give_a_name_without_a_band(seed: int) -> None:
    rng = np.random.default_rng(seed)
    close, high, low = a_year(seed, 1200)
    for column in (close, high, low):
        column[rng.random(1200) < 0.02] = rng.choice([np.nan, np.inf, -np.inf, -1.0, 0.0])
    measures = measure_volatility(bars_of(close, high, low), 0, 1199 * HOUR_S)
    rows, _ = classify_volatility("BTC", measures, np.empty(0), VolHold())
    known = rows.raw != VOL_REGIMES.index(VolRegime.UNKNOWN)
    assert np.isfinite(np.array([rows.ema, rows.atr, rows.band, rows.shock])[:, known]).all()
    assert {STATUSES[code] for code in rows.status[~known]} <= {Status.MISSING_BAR, Status.SHORT_HISTORY, Status.NAN_FEATURE}
    assert (rows.active[~known] == VOL_REGIMES.index(VolRegime.UNKNOWN)).all()


def test_prices_that_do_not_move_are_no_shock() -> None:
    rows, _ = classify_volatility("SOL", given_bands(np.zeros(600)), np.empty(0), VolHold())
    assert VOL_REGIMES[rows.active[-1]] is VolRegime.UNKNOWN
    assert STATUSES[rows.status[-1]] is Status.NAN_FEATURE


def test_the_fixed_method_is_for_minutes_alone() -> None:
    minute = VolatilityMeasures(
        Timeframe.M1,
        0,
        np.array([100.0, 100.0, 100.0]),
        np.array([100.0, 99.8, 100.0]),
        np.array([0.8, 0.3, 0.4]),
        np.array([0.008, 0.003, 0.004]),
        np.zeros(3, dtype=np.int8),
    )
    rows, _ = classify_volatility("SOL", minute, np.empty(0), VolHold(), fixed=True)
    assert [VOL_REGIMES[code] for code in rows.raw] == [VolRegime.HIGH_VOL_SHOCK, VolRegime.UP, VolRegime.NEUTRAL_HIGH_VOL]
    assert set(rows.method) == {VolMethod.FIXED}
    assert np.isnan(rows.band_rank).all()
    with pytest.raises(CallerError, match="fixed is for 1m"):
        classify_volatility("SOL", minute, np.empty(0), VolHold())
    with pytest.raises(CallerError, match="fixed is for 1m"):
        classify_volatility("SOL", given_bands(np.full(3, 0.01)), np.empty(0), VolHold(), fixed=True)


def test_callers_mistakes_are_refused() -> None:
    bars = bars_of(*a_year(0, 10))
    with pytest.raises(CallerError, match="grid"):
        measure_volatility(bars, 5, HOUR_S)
    with pytest.raises(CallerError, match="ascend"):
        measure_volatility(bars, HOUR_S, 0)
    with pytest.raises(CallerError, match="negative"):
        classify_volatility("BTC", given_bands(np.full(3, 0.01)), np.array([-0.1]), VolHold())
