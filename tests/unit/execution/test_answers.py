"""Answers: every line of the golden files, and that no answer whatever is taken for more than it proves."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.execution.answers import (
    BINANCE,
    MAX_BODY_BYTES,
    NEXT_STATES,
    PAPER,
    PROFILES,
    AnswerClass,
    RawAnswer,
    Transport,
    VenueProfile,
    classify_answer,
    is_cancel_echo,
    plan_pause_s,
)
from regime_pipeline.execution.keys import spell_client_id
from regime_pipeline.execution.order_states import EDGES, OrderState

GOLDEN = Path(__file__).parents[2] / "golden"
CLIENT_ID = "c579c12d0ce182e98a99629fd09bb09e"


def the_rows(profile: VenueProfile) -> list[dict]:
    name = {"paper": "binance"}.get(profile.name, profile.name)  # our own broker answers in Binance's words
    return json.loads((GOLDEN / f"answers_{name}.json").read_text())


ROWS = [(profile, row) for profile in PROFILES.values() for row in the_rows(profile)]


@pytest.mark.parametrize(("profile", "row"), ROWS, ids=[f"{profile.name}: {row['name']}" for profile, row in ROWS])
def test_each_golden_answer_keeps_its_class(profile: VenueProfile, row: dict) -> None:
    client_id = spell_client_id(CLIENT_ID, profile.client_id_form)
    answer = RawAnswer(Transport(row["transport"]), row["status"], row["body"].replace("{id}", client_id).encode())
    verdict = classify_answer(profile, answer, client_id)
    assert verdict.answer_class == row["class"]
    assert verdict.reason == row["reason"]
    assert verdict.next_state == row["next"]
    assert [action.value for action in verdict.actions] == row["actions"]
    assert verdict.venue_order_id == row.get("order_id")


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_the_golden_files_have_sixty_answers_each_and_reach_every_rule(profile: VenueProfile) -> None:
    rows = the_rows(profile)
    assert len(rows) >= 60
    assert {rule.reason for rule in profile.rules} <= {row["reason"] for row in rows}
    assert set(AnswerClass) - {AnswerClass.DUPLICATE, AnswerClass.CLOCK} <= {row["class"] for row in rows}


@pytest.mark.parametrize(
    ("status", "has_moved"), [("NEW", False), (None, False), ("PARTIALLY_FILLED", True), ("FILLED", True), ("EXPIRED", True)]
)
def test_an_acceptance_that_speaks_of_trades_or_of_an_end_asks_for_a_read(status: str | None, has_moved: bool) -> None:
    body = json.dumps({"orderId": 7, "clientOrderId": CLIENT_ID, "status": status}).encode()
    verdict = classify_answer(PAPER, RawAnswer(Transport.ANSWERED, 200, body), CLIENT_ID)
    assert (verdict.answer_class, verdict.has_moved) == (AnswerClass.ACCEPTED, has_moved)


def test_each_class_leads_along_an_edge() -> None:
    reachable = {new for old, new in EDGES if old is OrderState.SUBMITTING}
    assert {state for state in NEXT_STATES.values() if state} <= reachable
    assert set(NEXT_STATES) == set(AnswerClass)


BODIES = st.one_of(
    st.binary(max_size=60),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(CLIENT_ID),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["orderId", "clientOrderId", "code", "msg", "retCode", "result", "status", "response"]), inner
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=100)
@given(st.sampled_from(list(PROFILES.values())), st.sampled_from(Transport), st.none() | st.integers(0, 999), BODIES)
def test_no_answer_breaks_the_classifier_or_is_accepted_without_our_id(
    profile: VenueProfile, transport: Transport, status: int | None, body: bytes
) -> None:
    verdict = classify_answer(profile, RawAnswer(transport, status, body), CLIENT_ID)
    if verdict.answer_class is AnswerClass.ACCEPTED:
        assert status is not None
        assert 200 <= status < 300
        assert CLIENT_ID.encode() in body
        assert verdict.venue_order_id
    if status is not None and status >= 500 and transport is Transport.ANSWERED:
        assert verdict.answer_class is AnswerClass.UNKNOWN


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b"9" * 100_000, b'{"orderId": ' + b"9" * 4000 + b"}", b" " * (MAX_BODY_BYTES + 1), b'{"orderId": 1e400}']
)
def test_bodies_that_are_too_deep_too_long_or_too_big_prove_nothing(body: bytes) -> None:
    assert classify_answer(BINANCE, RawAnswer(Transport.ANSWERED, 200, body), CLIENT_ID).answer_class is AnswerClass.UNKNOWN


def test_a_cancel_is_about_our_order_by_its_original_id() -> None:
    # On Binance `clientOrderId` is the cancel's own.
    assert is_cancel_echo(BINANCE, json.dumps({"origClientOrderId": CLIENT_ID, "clientOrderId": "x"}).encode(), CLIENT_ID)
    assert not is_cancel_echo(BINANCE, json.dumps({"clientOrderId": CLIENT_ID}).encode(), CLIENT_ID)
    assert not is_cancel_echo(PROFILES["hyperliquid"], b'{"status":"ok"}', CLIENT_ID)


def test_creates_pause_as_long_as_the_venue_asks_else_60_s_doubling_to_15_min() -> None:
    assert plan_pause_s(7, None) == 7
    pauses = [plan_pause_s(None, None)]
    while len(pauses) < 6:
        pauses.append(plan_pause_s(None, pauses[-1]))
    assert pauses == [60, 120, 240, 480, 900, 900]
    assert plan_pause_s(0, 60) == 120  # a Retry-After of nothing asks for nothing
