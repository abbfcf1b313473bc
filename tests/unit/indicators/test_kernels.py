"""Indicator kernel: the worked examples, every field against its literal definition, and one bar at a time against a batch."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.indicators.kernels import CARRY_SIZE, new_carry, run_indicators
from regime_pipeline.indicators.record import EMA_PERIODS, FIELDS, INDEX
from regime_pipeline.market.bars import Bars
from tests import reference
from tests.builders import bars, random_walk

PRICED = {*(f"ema{n}" for n in EMA_PERIODS), "atr", "atr_mean_20", "atr_peak_10", "latest_price"}
EPS, RSI_FLAT, HOUR_S = 1e-300, 50.0, 3600


def records_of(series: Bars, carry: np.ndarray | None = None, eps: float = EPS, rsi_flat: float = RSI_FLAT) -> np.ndarray:
    columns = (series.ts_s, series.high, series.low, series.close, series.volume)
    return run_indicators(new_carry() if carry is None else carry, *columns, HOUR_S, eps, rsi_flat)


def literal_record(series: Bars, eps: float, rsi_flat: float) -> dict[str, float]:
    """The newest record, recomputed from the whole history as section 2 words it."""
    h, low, c, v = (x.tolist() for x in (series.high, series.low, series.close, series.volume))
    ema = {n: reference.ema(c, n) for n in EMA_PERIODS}
    out = {f"ema{n}": e[-1] for n, e in ema.items()}
    out |= {f"ema{n}_slope": reference.nslope(ema[n], eps) for n in (20, 60, 144, 250, 333)}
    out |= {f"d_ema{n}_slope": reference.dslope(ema[n], eps) for n in (60, 144, 250, 333)}
    fast = [(a - b) / max(b, eps) for a, b in zip(ema[20], ema[60], strict=True)]
    mid = [(a - b) / max(b, eps) for a, b in zip(ema[60], ema[144], strict=True)]
    out |= {"sep_fast": fast[-1], "dsep_fast_5": fast[-1] - fast[-6], "sep_mid": mid[-1], "dsep_mid_5": mid[-1] - mid[-6]}
    atr = reference.atr_series(h, low, c)
    out |= {"atr": atr[-1], "atr_norm": atr[-1] / max(ema[50][-1], eps)}
    out |= {"atr_mean_20": sum(atr[-20:]) / len(atr[-20:]), "atr_peak_10": max(atr[-10:])}
    out |= {"rsi": reference.rsi_at(c, rsi_flat, eps), "rsi_slope_10": reference.slope(reference.rsi_series(c, rsi_flat, eps), 10)}
    adx = reference.adx_series(h, low, c, eps)
    out |= {"adx": np.nan, "adx_slope_10": np.nan} if adx is None else {"adx": adx[-1], "adx_slope_10": reference.slope(adx, 10)}
    gap = (series.ts_s[-1] - series.ts_s[-2]) / HOUR_S - 1
    out |= {"vo_z": reference.volume_z(v), "latest_price": c[-1], "bars_seen": len(c), "immature": float(len(c) < 1000), "gap_bars": gap}
    return out


def test_worked_example_of_twenty_bars() -> None:
    i = np.arange(20)
    c = 100 + 2 * ((7 * i) % 5) + 0.5 * i
    o = np.concatenate(([100.0], c[:-1]))
    high, low, volume = np.maximum(o, c) + 0.5, np.minimum(o, c) - 0.25, 1000.0 + 100 * (i % 3)
    got = run_indicators(new_carry(), i * HOUR_S, high, low, c, volume, HOUR_S, EPS, RSI_FLAT)
    expected = {
        "ema20": 109.083005100,
        "ema60": 104.557481216,
        "ema333": 101.003035586,
        "ema20_slope": 0.004591634942,
        "ema60_slope": 0.002726255708,
        "d_ema60_slope": 0.000793421987,
        "sep_fast": 0.043282640627,
        "dsep_fast_5": 0.008586974409,
        "atr": 5.615988953370,
        "atr_mean_20": 5.612107180310,
        "atr_peak_10": 5.653061224490,
        "rsi_slope_10": 1.476982097,
        "adx": 55.308907785,
        "adx_slope_10": -0.149580416,
        "vo_z": 0.826970950,
    }
    for name, value in expected.items():
        assert got[-1, INDEX[name]] == pytest.approx(value, abs=1e-9), name
    assert got[14, INDEX["atr"]] == pytest.approx(5.607142857143, abs=1e-9)
    assert got[15:, INDEX["rsi"]] == pytest.approx([52.173913043, 52.173913043, 59.558823529, 52.173913043, 59.558823529], abs=1e-9)


def test_flat_series_stays_exactly_flat() -> None:
    got = records_of(bars([57.123] * 1500, volume=0.0, wick=0.0))
    assert (got[:, : len(EMA_PERIODS)] == 57.123).all()
    for name, value in {"rsi": 50.0, "atr": 0.0, "vo_z": 0.0, "rsi_slope_10": 0.0, "ema333_slope": 0.0, "dsep_mid_5": 0.0}.items():
        assert (got[:, INDEX[name]] == value).all(), name
    assert (got[15:, INDEX["adx"]] == 0.0).all()
    assert (got[15:, INDEX["adx_slope_10"]] == 0.0).all()


def test_minutes_that_change_every_tenth_bar_give_finite_records() -> None:
    closes = 57.0 + np.repeat(np.random.default_rng(3).normal(0, 0.01, 150).cumsum(), 10)
    got = records_of(bars(closes, volume=0.0, wick=0.0))
    assert np.isfinite(got[15:]).all()
    assert (got[:, INDEX["vo_z"]] == 0.0).all()


def test_only_adx_is_undefined_and_only_below_sixteen_bars() -> None:
    got = records_of(random_walk(40, seed=1))
    undefined = np.isnan(got)
    assert undefined[:15, [INDEX["adx"], INDEX["adx_slope_10"]]].all()
    undefined[:15, [INDEX["adx"], INDEX["adx_slope_10"]]] = False
    assert not undefined.any()


def test_gap_is_counted_in_missing_bars_and_maturity_in_bars_seen() -> None:
    series = random_walk(1002, seed=2)
    series.ts_s[:] = np.arange(1002) * HOUR_S
    series.ts_s[500:] += 7 * HOUR_S
    got = records_of(series)
    assert got[[0, 499, 500, 501], INDEX["gap_bars"]].tolist() == [0, 0, 7, 0]
    assert got[[0, 998, 999, 1001], INDEX["immature"]].tolist() == [1, 1, 0, 0]
    assert got[-1, INDEX["bars_seen"]] == 1002


def make_walk(*, seed: int, n: int, price: float, drift: float, sd: float, still: float, wick: float, silent: float) -> Bars:
    """A walk of `n` bars; `still` and `silent` are shares of bars without a move or a trade."""
    rng = np.random.default_rng(seed)
    moves = rng.normal(drift, sd, n)
    moves[rng.random(n) < still] = 0.0
    made = bars(price * np.exp(moves.cumsum()), wick=wick)
    made.volume[:] = rng.uniform(0, 1e6, n) * (rng.random(n) >= silent)
    return made


recipes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "n": st.integers(10, 420),
        "price": st.sampled_from([1.0, 1e-9, 6e4]),
        "drift": st.sampled_from([0.0, 1e-3, -2e-3]),
        "sd": st.sampled_from([2e-3, 1e-5, 5e-2]),
        "still": st.sampled_from([0.0, 0.5, 0.95]),
        "wick": st.sampled_from([1e-3, 0.0, 2e-2]),
        "silent": st.sampled_from([0.0, 0.5, 1.0]),
    }
)


@settings(max_examples=60, deadline=None)
@given(recipe=recipes, rules=st.sampled_from([(1e-300, 50.0), (1e-9, 0.0)]))
def test_every_field_equals_its_definition(recipe: dict[str, Any], rules: tuple[float, float]) -> None:
    walk = make_walk(**recipe)
    got = records_of(walk, eps=rules[0], rsi_flat=rules[1])[-1]
    expected = literal_record(walk, *rules)
    assert set(expected) == set(FIELDS)
    for name, value in expected.items():
        noise = 0.0 if name in PRICED else 1e-12  # slopes and differences may cancel to nothing; prices never do
        assert got[INDEX[name]] == pytest.approx(value, rel=1e-9, abs=noise, nan_ok=True), name


@settings(max_examples=30, deadline=None)
@given(recipe=recipes, data=st.data())
def test_carry_continues_a_series_bit_for_bit_wherever_it_is_cut(recipe: dict[str, Any], data: st.DataObject) -> None:
    walk = make_walk(**recipe)
    cut = data.draw(st.integers(0, len(walk)))
    carry = new_carry()
    assert carry.shape == (CARRY_SIZE,)
    parts = [records_of(walk[:cut], carry), *(records_of(walk[i : i + 1], carry) for i in range(cut, len(walk)))]
    np.testing.assert_array_equal(np.concatenate(parts), records_of(walk))
