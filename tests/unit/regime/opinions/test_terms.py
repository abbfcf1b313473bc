"""The shared words: orders that are stored, deadlines, and names that are refused."""

import pytest

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.quality import Tier, tier_of
from regime_pipeline.regime.opinions.terms import (
    GROUPS,
    LABELS,
    SERIES,
    STATUSES,
    TERMS,
    UNKNOWN_CODE,
    Label,
    Status,
    check_series,
    deadline_s,
    iso,
    terms_of,
)

E6 = {
    Timeframe.M1: {"no_model": [499], "shallow": [500, 999], "baseline": [1000, 2499], "deep": [2500, 3999], "full": [4000]},
    Timeframe.M15: {"no_model": [199], "shallow": [200, 359], "baseline": [360, 899], "deep": [900, 1439], "full": [1440]},
    Timeframe.H1: {"no_model": [149], "baseline": [150, 312], "deep": [313, 499], "full": [500]},
}


def test_labels_are_coded_in_the_order_of_a_triple() -> None:
    assert [label.code for label in LABELS] == [0, 1, 2, UNKNOWN_CODE]
    assert LABELS[:3] == (Label.BEARISH, Label.RANGING, Label.BULLISH)


def test_statuses_keep_the_order_in_which_the_first_is_stored() -> None:
    assert ",".join(STATUSES) == "ok,error,no_model,model_expired,missing_bar,nan_feature,short_history,stale"
    assert Status.OK.code == 0


def test_every_series_is_in_one_group() -> None:
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(SERIES)


def test_slots_are_given_up_after_ten_seconds_or_the_visibility_delay() -> None:
    assert [deadline_s(timeframe, 0) for timeframe in TERMS] == [60 + 10, 900 + 60, 3600 + 120]


def test_belief_weights_add_up_to_one() -> None:
    assert sum(terms.belief_weight for terms in TERMS.values()) == pytest.approx(1, abs=1e-15)


def test_instants_are_written_with_z() -> None:
    assert iso(1_746_428_400) == "2025-05-05T07:00:00Z"


@pytest.mark.parametrize("call", [lambda: terms_of(Timeframe.D1), lambda: check_series("btc"), lambda: tier_of(Timeframe.H1, -1)])
def test_a_callers_mistake_is_a_value_error_of_ours(call: object) -> None:
    with pytest.raises(ValueError, match=r"Pass .+\.$") as raised:
        call()  # type: ignore[operator]
    assert isinstance(raised.value, BadInputError)


@pytest.mark.parametrize("timeframe", E6)
def test_tiers_change_where_the_specification_says(timeframe: Timeframe) -> None:
    assert {tier: [tier_of(timeframe, n) for n in counts] for tier, counts in E6[timeframe].items()} == {
        tier: [tier] * len(counts) for tier, counts in E6[timeframe].items()
    }


@pytest.mark.parametrize("timeframe", TERMS)
def test_tiers_never_fall_with_more_rows(timeframe: Timeframe) -> None:
    modifiers = [tier_of(timeframe, n).modifier for n in range(TERMS[timeframe].window_rows + 2)]
    assert modifiers == sorted(modifiers)
    assert set(modifiers) == {tier.modifier for tier in Tier} - ({0.70} if timeframe is Timeframe.H1 else set())


def test_deep_takes_a_twentieth_of_the_confidence() -> None:
    assert 0.80 * Tier.DEEP.modifier == pytest.approx(0.76, abs=1e-15)
