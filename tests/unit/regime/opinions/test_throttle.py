"""Risk throttle: example E11 and property 13 as far as it is arithmetic."""

import math
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import CallerError
from regime_pipeline.regime.opinions.changepoint import Level
from regime_pipeline.regime.opinions.terms import Label
from regime_pipeline.regime.opinions.throttle import combine_multipliers, compute_throttle
from regime_pipeline.regime.opinions.volatility import VolRegime

E11 = [
    (0.40, VolRegime.UP, Level.NONE, False, 1.00),
    (0.85, VolRegime.UP, Level.NONE, False, 0.75),
    (0.85, VolRegime.UP, Level.URGENT, True, 0.75),
    (0.50, VolRegime.UP, Level.URGENT, True, 0.85),
    (0.50, VolRegime.UP, Level.ALERT, False, 0.90),
    (0.50, VolRegime.UP, Level.NONE, True, 0.90),
    (0.99, VolRegime.UP, Level.NONE, False, 0.50),
    (0.80, VolRegime.HIGH_VOL_SHOCK, Level.NONE, False, 0.50),
    (None, VolRegime.UNKNOWN, Level.NONE, False, 0.80),
]
any_rank = st.none() | st.floats()
regimes = st.sampled_from(VolRegime)
levels = st.sampled_from(Level)
labels = st.sampled_from(Label)
confidences = st.floats(0, 1) | st.just(math.nan)


@pytest.mark.parametrize(("rank", "regime", "level", "bearish", "expected"), E11)
def test_worked_example_e11(rank: float | None, regime: VolRegime, level: Level, bearish: bool, expected: float) -> None:
    label = Label.BEARISH if bearish else Label.BULLISH
    assert compute_throttle(regime, rank, level, label, 0.50).value == pytest.approx(expected, abs=1e-12)


@given(regimes, any_rank, levels, labels, confidences)
@settings(max_examples=100)
def test_every_part_lies_between_a_half_and_one(
    regime: VolRegime, rank: float | None, level: Level, label: Label, confidence: float
) -> None:
    throttle = compute_throttle(regime, rank, level, label, confidence)
    assert all(0.5 <= part <= 1 for part in (throttle.m_vol, throttle.m_cp, throttle.m_bear, throttle.value))
    assert throttle.value == min(throttle.m_vol, throttle.m_cp, throttle.m_bear)


def test_a_higher_rank_never_makes_an_entry_larger() -> None:
    values = [compute_throttle(VolRegime.UP, rank / 1000, Level.NONE, Label.RANGING, 0.9).m_vol for rank in range(1001)]
    assert all(after <= before for before, after in pairwise(values))
    assert (values[750], values[950], values[1000]) == (1.0, pytest.approx(0.5), 0.5)


def test_adding_an_opinion_never_makes_an_entry_larger() -> None:
    for regime, rank, level, label in product(VolRegime, (None, 0.1, 0.8, 1.0), Level, Label):
        value = compute_throttle(regime, rank, level, label, 0.9).value
        assert value <= compute_throttle(regime, rank, Level.NONE, label, 0.9).value
        assert value <= compute_throttle(regime, rank, level, Label.UNKNOWN, 0.0).value
        assert compute_throttle(VolRegime.HIGH_VOL_SHOCK, rank, level, label, 0.9).value <= value


@pytest.mark.parametrize(("confidence", "expected"), [(0.5, 0.9), (0.5 - 1e-9, 1.0), (math.nan, 1.0)])
def test_a_bearish_label_needs_its_confidence(confidence: float, expected: float) -> None:
    assert compute_throttle(VolRegime.DOWN, 0.2, Level.WARMING, Label.BEARISH, confidence).value == expected


def test_a_missing_rank_costs_what_an_unknown_regime_costs() -> None:
    for regime, rank in product(set(VolRegime) - {VolRegime.HIGH_VOL_SHOCK}, (None, math.nan)):
        assert compute_throttle(regime, rank, Level.UNKNOWN, Label.UNKNOWN, 0.0).value == 0.80


def test_the_smallest_multiplier_counts_and_none_enlarges() -> None:
    assert combine_multipliers(0.75, 0.9) == 0.75
    assert combine_multipliers(1.4, 1.2) == 1.0
    assert combine_multipliers() == 1.0
    for bad in (-0.1, math.nan):
        with pytest.raises(CallerError, match="each must be a number"):
            combine_multipliers(0.9, bad)
