"""Survival of spells: example E10, strata, look-back."""

import numpy as np
import pytest

from regime_pipeline.regime.opinions.survival import LOOKBACK_S, Spell, SurvivalCurve, describe_spell
from regime_pipeline.regime.opinions.terms import Label
from regime_pipeline.regime.opinions.tracker import Transition
from tests.opinion_builders import START_S

HOUR_S = 3600
DURATIONS = np.array([4, 6, 6, 9, 12, 15, 20, 20, 30, 31])
COMPLETED = np.array([True, True, True, True, False, True, True, False, True, False])
B, R, U = Label.BEARISH, Label.RANGING, Label.BULLISH


def change(first: int, to_label: Label, series: str = "BTC") -> Transition:
    """A transition whose new spell begins at hour `first`, confirmed one hour later."""
    from_label = R if to_label is B else B
    at_s = START_S + first * HOUR_S
    return Transition(f"{first}", series, from_label, to_label, at_s, at_s + HOUR_S, 2, 0.9, "m", "m", False, at_s + 26 * HOUR_S)


def cycle(durations: list[int], labels: list[Label]) -> list[Transition]:
    """Spells of these durations, one after the other, and one that still runs."""
    begins = np.cumsum([0, *durations]).tolist()
    return [change(begin, labels[i % len(labels)]) for i, begin in enumerate(begins)]


def test_example_e10() -> None:
    curve = SurvivalCurve.fit(DURATIONS, COMPLETED)
    assert curve.durations.tolist() == [4, 6, 9, 15, 20, 30]
    np.testing.assert_allclose(curve.survival, [0.9, 0.7, 0.6, 0.48, 0.36, 0.18], atol=1e-12)
    assert curve.lasts(6, 4) == pytest.approx(0.857142857, abs=1e-9)
    assert curve.lasts(6, 24) == pytest.approx(0.257142857, abs=1e-9)
    assert curve.lasts(8, 24) is None
    assert (curve.at(3), curve.at(4), curve.longest) == (1.0, 0.9, 31)


def test_spells_that_all_ended_leave_nobody() -> None:
    curve = SurvivalCurve.fit(np.array([2, 5]), np.array([True, True]))
    assert curve.at(5) == 0
    assert (curve.lasts(5, 0), curve.lasts(4, 1)) == (None, 0.0)


@pytest.mark.parametrize(
    ("durations", "completed"), [([], []), ([1, 2], [True]), ([-1], [True])], ids=["no spell", "unequal lengths", "negative"]
)
def test_what_are_no_spells_is_refused(durations: list[int], completed: list[bool]) -> None:
    with pytest.raises(ValueError, match="durations were"):
        SurvivalCurve.fit(np.array(durations, dtype=np.int64), np.array(completed, dtype=np.bool_))


def test_before_the_first_transition_there_is_no_age() -> None:
    assert describe_spell([], START_S) == Spell(None, None, None)


def test_twenty_complete_spells_are_needed() -> None:
    few, enough = cycle([10] * 19, [B]), cycle([10] * 20, [B])
    at_s = enough[-1].first_bar_s + 2 * HOUR_S
    assert describe_spell(few, few[-1].first_bar_s + 2 * HOUR_S) == Spell(2, None, None)
    # All twenty lasted ten bars: four more than two is certain, twenty-four more was never seen.
    assert describe_spell(enough, at_s) == Spell(2, 1.0, None)


def test_the_running_label_is_its_own_stratum_once_it_has_twenty() -> None:
    # Bearish spells last 10 bars, ranging ones 6; the running one is bearish.
    history = cycle([10, 6] * 20, [B, R])
    at_s = history[-1].first_bar_s + 4 * HOUR_S
    assert describe_spell(history, at_s).p_4h == 1.0
    # With fifteen of each, all thirty are asked: of those that outlive four bars, half outlive eight.
    mixed = cycle([10, 6] * 15, [B, R])
    assert describe_spell(mixed, mixed[-1].first_bar_s + 4 * HOUR_S).p_4h == pytest.approx(0.5, abs=1e-12)


def test_the_running_spell_is_censored_at_its_age() -> None:
    history = cycle([5] * 20, [B])
    # At age 9 the running spell is the longest: 5 more bars were never observed, and S(9) is 1/21.
    spell = describe_spell(history, history[-1].first_bar_s + 9 * HOUR_S)
    assert (spell.age_bars, spell.p_4h) == (9, None)
    curve = SurvivalCurve.fit(np.array([5] * 20 + [9]), np.array([True] * 20 + [False]))
    assert curve.at(9) == pytest.approx(1 / 21, abs=1e-15)


def test_later_transitions_are_not_seen() -> None:
    history = cycle([10] * 25, [B])
    at_s = history[21].first_bar_s + 3 * HOUR_S
    assert describe_spell(history, at_s) == describe_spell(history[:22], at_s)
    # Its first bar has passed, but nobody has confirmed it yet: the older spell still runs.
    assert describe_spell(history, history[21].first_bar_s).age_bars == 10


def test_spells_begun_over_a_year_ago_are_left_out() -> None:
    history = cycle([400] * 30, [B])
    at_s = history[-1].first_bar_s
    in_reach = sum(each.first_bar_s >= at_s + HOUR_S - LOOKBACK_S for each in history)
    assert in_reach == 22
    assert describe_spell(history, at_s + HOUR_S).p_24h == 1.0
    assert describe_spell(history[9:], at_s + HOUR_S) == describe_spell(history, at_s + HOUR_S)
    assert describe_spell(history[11:], at_s + HOUR_S).p_24h is None


def test_transitions_of_two_series_or_out_of_order_are_refused() -> None:
    for wrong in ([change(5, B), change(3, R)], [change(3, B), change(5, R, "ETH")]):
        with pytest.raises(ValueError, match="one series"):
            describe_spell(wrong, START_S + 9 * HOUR_S)
