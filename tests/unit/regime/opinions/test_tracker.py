"""Tracker: example E9 and property 11 of section 19."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.regime.opinions.hmm_filter import Opinion
from regime_pipeline.regime.opinions.terms import Label, Status
from regime_pipeline.regime.opinions.tracker import TrackerState, Transition, transition_id
from tests.opinion_builders import START_S, an_opinion

LETTERS = {"U": Label.BULLISH, "R": Label.RANGING, "B": Label.BEARISH, "?": Label.UNKNOWN}
HOUR_S = 3600


def rows(text: str, models: str = "") -> list[Opinion]:
    """One hourly row per letter, under the model named by the digit below it."""
    return [an_opinion(hour, LETTERS[letter], model_id=(models or "1" * len(text))[hour]) for hour, letter in enumerate(text)]


def track(bars: list[Opinion], state: TrackerState | None = None) -> tuple[TrackerState, list[Transition]]:
    state, found = state or TrackerState(), []
    for each in bars:
        state, transition = state.step("BTC", each)
        found += [transition] if transition else []
    return state, found


def told(found: list[Transition]) -> list[tuple[str, int, int]]:
    letter = {label: name for name, label in LETTERS.items()}
    return [
        (
            f"{letter[each.from_label]}>{letter[each.to_label]}",
            (each.first_bar_s - START_S) // HOUR_S,
            (each.confirmed_bar_s - START_S) // HOUR_S,
        )
        for each in found
    ]


def test_example_e9() -> None:
    state, found = track(rows("BBRBRR?UU????BRBB"))
    assert told(found) == [("B>R", 4, 5), ("R>U", 7, 8), ("U>B", 15, 16)]
    assert state.current is Label.BEARISH
    assert {each.confirmation_count for each in found} == {2}


def test_the_id_is_that_of_the_specification() -> None:
    assert transition_id("BTC", START_S + 7 * HOUR_S, Label.RANGING, Label.BULLISH) == "3869f4f8eefc12a0"
    found = track(rows("RRRRRRRUU"))[1]
    assert [each.transition_id for each in found] == ["3869f4f8eefc12a0"]


def test_the_first_vote_is_no_transition() -> None:
    assert told(track(rows("???UU"))[1]) == []
    assert track(rows("??"))[0].current is Label.UNKNOWN


@pytest.mark.parametrize(("abstentions", "want"), [(3, [("B>U", 2, 6)]), (4, [])])
def test_the_fourth_abstention_in_a_row_clears_the_candidate_but_not_the_label(abstentions: int, want: list[tuple[str, int, int]]) -> None:
    state, found = track(rows("BBU" + "?" * abstentions + "U"))
    assert told(found) == want
    assert state.current is (Label.BULLISH if want else Label.BEARISH)
    assert state.count == (0 if want else 1)


def test_another_vote_takes_the_candidates_place() -> None:
    assert told(track(rows("BURUU"))[1]) == [("B>U", 3, 4)]


@pytest.mark.parametrize(
    "doubtful", [{"confidence": 0.19999}, {"status": Status.STALE}, {"status": Status.ERROR}, {"confidence": 0.0, "status": Status.OK}]
)
def test_a_row_that_is_not_ok_or_not_sure_abstains(doubtful: dict[str, object]) -> None:
    one, two, three = rows("BUU")
    state, found = track([one, two, replace(three, **doubtful)])
    assert (found, state.count, state.abstentions) == ([], 1, 1)
    assert told(track([one, two, replace(three, confidence=0.20)])[1]) == [("B>U", 1, 2)]


def test_a_transition_expires_a_day_after_its_confirming_close() -> None:
    (found,) = track(rows("BUU"))[1]
    assert found.expires_at_s == START_S + 3 * HOUR_S + 24 * HOUR_S
    assert found.is_consumable(found.expires_at_s - 1)
    assert not found.is_consumable(found.expires_at_s)


@pytest.mark.parametrize(
    ("bars", "models", "marked"),
    [
        ("BBUU", "1111", False),
        ("BBUU", "1222", False),  # the model was new before the bar that precedes the change
        ("BBUU", "1122", True),  # the new model's first bar is the first with the new label
        ("BBUU", "1112", True),
        ("BBU?U", "11121", True),  # in between
        ("BRUU", "1122", True),  # R was the candidate before
        ("BRUU", "1222", False),
        ("BUBUU", "12222", False),  # an earlier candidate's change of model is forgotten
    ],
)
def test_a_change_that_a_refit_may_have_made_is_marked(bars: str, models: str, marked: bool) -> None:
    (found,) = track(rows(bars, models))[1]
    assert found.refit_within is marked
    assert found.is_consumable(found.confirmed_bar_s) is not marked
    first = (found.first_bar_s - START_S) // HOUR_S
    assert (found.model_id_before, found.model_id_after) == (models[first - 1], models[-1])


def test_a_row_without_a_model_counts_as_another_model() -> None:
    one, two, three, four = rows("BB?U")
    five = an_opinion(4, Label.BULLISH, model_id="1")
    (found,) = track([one, two, replace(three, model_id=None), four, five])[1]
    assert found.refit_within


@pytest.mark.parametrize("hour", [1.0, 0.0, 1.5])
def test_a_bar_that_does_not_follow_is_refused(hour: float) -> None:
    state, _ = track(rows("BR"))
    with pytest.raises(ValueError, match="tracker bar was"):
        state.step("BTC", replace(an_opinion(0, Label.BULLISH), ts_s=START_S + int(hour * HOUR_S)))


def test_an_unknown_series_is_refused() -> None:
    with pytest.raises(ValueError, match="series was"):
        TrackerState().step("DOGE", an_opinion(0, Label.BULLISH))


@pytest.mark.parametrize("change", [{"current": "sideways"}, {"extra": 1}])
def test_a_document_that_is_no_state_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="tracker document"):
        TrackerState.from_document(TrackerState().to_document() | change)


texts = st.text("BRU?", min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(texts, st.integers(0, 59), st.text("12", min_size=60, max_size=60))
def test_a_restart_from_what_was_stored_neither_loses_nor_repeats(text: str, cut: int, models: str) -> None:
    bars = rows(text, models)
    whole = track(bars)
    state, before = track(bars[:cut])
    stored = json.loads(json.dumps(state.to_document()))
    end, after = track(bars[cut:], TrackerState.from_document(stored))
    assert (end, before + after) == whole


@settings(max_examples=100, deadline=None)
@given(texts)
def test_transitions_chain_and_stand_on_two_votes(text: str) -> None:
    _, found = track(rows(text))
    assert [each.from_label for each in found[1:]] == [each.to_label for each in found[:-1]]
    for change, first, last in told(found):
        assert change[0] != change[-1]
        assert "?" not in change
        assert text[first] == text[last] == change[-1]
        assert set(text[first + 1 : last]) <= {"?"}
        assert last - first <= 4


@settings(max_examples=50, deadline=None)
@given(st.sampled_from("BRU"), st.sampled_from("BRU"), st.integers(1, 30), st.integers(1, 30))
def test_a_blip_of_one_bar_never_emits(home: str, other: str, before: int, after: int) -> None:
    assert track(rows(home * before + other + home * after))[1] == []
