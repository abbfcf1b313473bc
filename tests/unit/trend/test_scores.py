"""Scores: the worked examples 10.4 and 10.5, and which way each threshold moves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regime_pipeline.errors import BadInputError
from regime_pipeline.indicators.levels import LEVEL_COLUMNS
from regime_pipeline.indicators.record import INDEX, N_FIELDS
from regime_pipeline.trend import scores
from regime_pipeline.trend.profile import V4, V5, profile_named

unit = st.floats(0, 1)


def record(**fields: float) -> np.ndarray:
    rec = np.zeros(N_FIELDS)
    for name, value in fields.items():
        rec[INDEX[name]] = value
    return rec


def levels(*rows: tuple[float, float]) -> np.ndarray:
    out = np.zeros((len(rows), LEVEL_COLUMNS))
    out[:, :2] = rows
    return out


def test_boost_of_one_level_in_both_profiles() -> None:
    # 0.4 ATR away leaves 0.6; raw 6 is .3 in v5, so .3 * .6 * .25 = .045; v4 takes 6 * .6 * .25 = .9 and caps it.
    one = levels((100.4, 6.0))
    assert scores.level_boost(100.0, 1.0, one, 1, V5.constants) == pytest.approx(0.045, abs=1e-9)
    assert scores.level_boost(100.0, 1.0, one, 1, V4.constants) == 0.25
    assert 0.5 + 0.045 < V5.constants.gate < 0.5 + 0.25


def test_no_boost_without_range_or_level_in_reach() -> None:
    assert scores.level_boost(100.0, 0.0, levels((100.0, 20.0)), 1, V5.constants) == 0.0
    assert scores.level_boost(100.0, 1.0, levels((101.001, 20.0)), 1, V5.constants) == 0.0


def test_overextension_example() -> None:
    rec = record(
        latest_price=104,
        ema20=101,
        ema60=98,
        ema144=94,
        ema250=91,
        atr=2,
        atr_mean_20=1.6,
        dsep_fast_5=0.003,
        dsep_mid_5=0.0005,
        ema20_slope=0.0016,
    )
    assert scores.overextension(rec) == pytest.approx(0.765479835, abs=1e-9)
    assert scores.overextension_in_s3(rec, 0.62, V5.constants) == pytest.approx(0.795792836, abs=1e-9)


def test_overextension_of_a_flat_series() -> None:
    # No range: the distances are 0 and the rest sits at s(0) = .5 of .10 + .05 + .05 + .05.
    assert scores.overextension(record(latest_price=57.0, ema20=57.0)) == pytest.approx(0.125, abs=1e-15)


def test_discount_example_and_its_threshold() -> None:
    rec = record(
        latest_price=103,
        ema333=100,
        ema144=110,
        vo_z=0.5,
        atr=2,
        atr_mean_20=1.9,
        rsi_slope_10=1.2,
        adx=22,
        adx_slope_10=-0.3,
        d_ema144_slope=1e-4,
    )
    assert scores.discount(rec, 0.6, V5.constants) == pytest.approx(0.522666624, abs=1e-9)
    assert scores.discount(rec, 0.62, V5.constants) == pytest.approx(0.517439958, abs=1e-9)
    assert scores.discount_threshold(rec, 0.62, V5.constants) == pytest.approx(0.605, abs=1e-12)
    assert scores.discount_threshold(rec, 0.62, V4.constants) == pytest.approx(0.66, abs=1e-12)


@pytest.mark.parametrize(("price", "e144", "e333", "x"), [(95, 100, 100, 0), (101, 100, 100, 1), (105, 100, 110, 0.5), (90, 100, 110, 0)])
def test_discount_where_the_averages_are_not_in_order(price: float, e144: float, e333: float, x: float) -> None:
    rec = record(latest_price=price, ema144=e144, ema333=e333)
    width = abs(e144 - e333) or 0.01 * e144
    location = np.exp(-3 * x) * (1 + 0.3 / (1 + np.exp(-(0.03 - width / price) / 0.02)))
    relief = 0.5 / (1 + np.exp(-2.0)) + 0.25 * 0.5  # A <= 0 counts as ratio 1, ADX under 18 adds nothing
    assert scores.discount(rec, 0.5, V5.constants) == pytest.approx(min(1, 0.45 * location + 0.25 * 0.5 + 0.25 * relief), abs=1e-12)


@given(p=st.floats(90, 115), low=unit, high=unit)
def test_threshold_never_falls_with_decay(p: float, low: float, high: float) -> None:
    rec = record(latest_price=p, ema144=110, ema333=100)
    low, high = sorted((low, high))
    assert scores.discount_threshold(rec, low, V5.constants) <= scores.discount_threshold(rec, high, V5.constants)


@given(edx=unit, low=st.floats(100, 110), high=st.floats(100, 110))
def test_threshold_falls_from_ema144_down_to_ema333(edx: float, low: float, high: float) -> None:
    low, high = sorted((low, high))
    at = [scores.discount_threshold(record(latest_price=p, ema144=110, ema333=100), edx, V5.constants) for p in (low, high)]
    assert at[0] <= at[1]


def test_threshold_ends_and_step_of_the_suppression() -> None:
    at = [scores.discount_threshold(record(latest_price=p, ema144=110, ema333=100), 0.0, V5.constants) for p in (110, 100)]
    assert at == pytest.approx([0.65, 0.50], abs=1e-12)
    over = record(latest_price=120, ema144=110, ema333=100)
    assert [scores.discount_threshold(over, edx, V5.constants) for edx in (0.49, 0.5, 0.6, 0.6999999999, 0.7)] == pytest.approx(
        [0.60, 0.60, 0.65, 0.70, 0.75], abs=1e-9
    )


@given(near=st.floats(0, 1.2), far=st.floats(0, 1.2), weak=st.floats(0, 40), strong=st.floats(0, 40))
def test_boost_grows_with_strength_and_falls_with_distance(near: float, far: float, weak: float, strong: float) -> None:
    near, far = sorted((near, far))
    weak, strong = sorted((weak, strong))

    def boost(distance: float, raw: float) -> float:
        return scores.level_boost(100.0, 1.0, levels((100.0 + distance, raw)), 1, V5.constants)

    assert boost(far, weak) <= boost(near, weak) <= boost(near, strong) <= 0.25


def test_trend_strength_is_neutral_at_zero_slopes_and_clamped() -> None:
    assert scores.trend_strength(record()) == 0.5
    assert scores.trend_strength(record(rsi_slope_10=99, adx_slope_10=99)) == 1.0
    assert scores.trend_strength(record(rsi_slope_10=-99, adx_slope_10=-99)) == 0.0


def test_profiles_are_found_by_name_and_a_wrong_name_says_which_exist() -> None:
    assert profile_named("v4") is V4
    assert V5.engine_version == "m2-v5"
    with pytest.raises(BadInputError, match=r"'v6'; allowed: v5, v4"):
        profile_named("v6")
