"""The ladder: example W8 to the tenth of a second, and no early NOT_FOUND whatever the looks say."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.execution.ladder import (
    Look,
    LookResult,
    NextStep,
    Resolution,
    Rung,
    Seen,
    UnknownOrder,
    absent_from_ms,
    is_overdue,
    judge_look,
    needs_lookup,
    next_look_ms,
    plan_cycle,
    plan_resolution,
    plan_rungs,
)

T0_MS = 1_795_201_260_000  # 2026-11-20T19:01:00Z
VISIBILITY_MS = 5_000
CLEAN, FOUND, UNEXPLAINED, NOTHING = LookResult.CLEAN, LookResult.FOUND, LookResult.UNEXPLAINED, LookResult.NO_INFORMATION

# Sent 19:01:12.0, so the request expires at 19:01:17.0; UNKNOWN at 19:01:16.2.
W8 = UnknownOrder(unknown_at_ms=T0_MS + 16_200, request_expires_at_ms=T0_MS + 17_000)


def looked(order: UnknownOrder, *results: LookResult) -> UnknownOrder:
    """Take the looks when they are due."""
    for result in results:
        order = replace(order, looks=(*order.looks, Look(next_look_ms(order), result)))
    return order


def after(order: UnknownOrder) -> Resolution:
    return plan_resolution(order, order.looks[-1].started_ms, VISIBILITY_MS)


def test_w8_looks_come_after_1_2_4_8_15_and_then_each_30_seconds() -> None:
    looks = looked(W8, *[CLEAN] * 8).looks
    assert [look.started_ms - T0_MS for look in looks[:4]] == [17_200, 19_200, 23_200, 31_200]
    gaps = [later.started_ms - earlier.started_ms for earlier, later in itertools.pairwise(looks)]
    assert gaps == [2_000, 4_000, 8_000, 15_000, 30_000, 30_000, 30_000]


def test_w8_absence_is_proven_at_23_2_and_not_before() -> None:
    # 17.0 expiry + 1 s of clock + 5 s until a new order shows itself: 23.0.
    assert absent_from_ms(W8, VISIBILITY_MS) == T0_MS + 23_000
    assert after(looked(W8, CLEAN, CLEAN)).step is NextStep.WAIT
    assert after(looked(W8, CLEAN, CLEAN, CLEAN)) == Resolution(NextStep.NOT_FOUND)


def test_w8_a_failed_look_does_not_count() -> None:
    # 17.2 clean, 19.2 failed, 23.2 clean are two clean looks; 31.2 is the third.
    assert after(looked(W8, CLEAN, NOTHING, CLEAN)) == Resolution(NextStep.WAIT, T0_MS + 31_200)
    assert after(looked(W8, CLEAN, NOTHING, CLEAN, CLEAN)) == Resolution(NextStep.NOT_FOUND)


def test_three_clean_looks_before_the_bound_prove_nothing() -> None:
    early = UnknownOrder(
        W8.unknown_at_ms, W8.request_expires_at_ms, looks=tuple(Look(T0_MS + ms, CLEAN) for ms in (17_200, 19_200, 23_000))
    )
    assert plan_resolution(early, T0_MS + 23_000, VISIBILITY_MS).step is NextStep.WAIT


def test_a_found_order_is_adopted_whatever_was_seen_before() -> None:
    assert after(looked(W8, CLEAN, UNEXPLAINED, FOUND)) == Resolution(NextStep.ADOPT)


def test_a_look_is_taken_when_it_is_due() -> None:
    assert plan_resolution(W8, T0_MS + 17_199, VISIBILITY_MS) == Resolution(NextStep.WAIT, T0_MS + 17_200)
    assert plan_resolution(W8, T0_MS + 17_200, VISIBILITY_MS) == Resolution(NextStep.LOOK, T0_MS + 17_200)


def test_without_a_proven_expiry_only_a_person_gives_an_order_up() -> None:
    never = replace(W8, request_expires_at_ms=None)
    assert absent_from_ms(never, VISIBILITY_MS) is None
    resolution = after(looked(never, *[CLEAN] * 20))
    assert (resolution.step, resolution.needs_person) == (NextStep.WAIT, True)


def test_an_order_that_the_venue_has_named_is_given_up_by_a_person_only() -> None:
    resolution = after(looked(replace(W8, has_venue_id=True), CLEAN, CLEAN, CLEAN))
    assert (resolution.step, resolution.needs_person) == (NextStep.WAIT, True)


def test_a_balance_that_moved_without_an_order_blocks_until_it_is_explained() -> None:
    resolution = after(looked(W8, CLEAN, CLEAN, CLEAN, UNEXPLAINED))
    assert (resolution.step, resolution.needs_person) == (NextStep.WAIT, True)
    assert after(looked(W8, CLEAN, CLEAN, CLEAN, UNEXPLAINED, NOTHING)).step is NextStep.WAIT
    assert after(looked(W8, CLEAN, CLEAN, UNEXPLAINED, CLEAN)).step is NextStep.NOT_FOUND


def test_a_look_asks_in_order_and_by_the_venues_id_only_if_there_is_one() -> None:
    assert [rung.value for rung in plan_rungs(has_venue_id=True)] == [
        "venue_id", "client_id", "open_orders", "closed_orders", "own_trades", "balances",
    ]  # fmt: skip
    assert plan_rungs(has_venue_id=False) == plan_rungs(has_venue_id=True)[1:]


ABSENT = dict.fromkeys(Rung, Seen.ABSENT)


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ({}, CLEAN),
        ({Rung.CLIENT_ID: Seen.FOUND}, FOUND),
        ({Rung.OWN_TRADES: Seen.FOUND, Rung.OPEN_ORDERS: Seen.FAILED}, FOUND),
        ({Rung.BALANCES: Seen.FOUND}, UNEXPLAINED),
        ({Rung.CLOSED_ORDERS: Seen.FAILED}, NOTHING),
    ],
)
def test_a_look_is_clean_only_if_every_rung_was_read_and_empty(change: dict[Rung, Seen], result: LookResult) -> None:
    assert judge_look(ABSENT | change, has_venue_id=True) is result


@pytest.mark.parametrize("rung", list(Rung))
def test_a_rung_that_was_not_asked_says_nothing(rung: Rung) -> None:
    asked = {name: seen for name, seen in ABSENT.items() if name is not rung}
    assert judge_look(asked, has_venue_id=True) is NOTHING
    assert judge_look(asked, has_venue_id=False) is (CLEAN if rung is Rung.VENUE_ID else NOTHING)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 60_000), st.sampled_from(LookResult)), max_size=12),
    st.booleans(),
    st.none() | st.integers(0, 30_000),
)
def test_not_found_always_has_its_whole_proof(looks: list[tuple[int, LookResult]], has_venue_id: bool, expires: int | None) -> None:
    order = UnknownOrder(0, expires, has_venue_id, tuple(Look(ms, result) for ms, result in sorted(looks, key=lambda look: look[0])))
    if plan_resolution(order, 100_000, VISIBILITY_MS).step is NextStep.NOT_FOUND:
        clean = [look.started_ms for look in order.looks if look.result is CLEAN]
        assert len(clean) >= 3
        assert expires is not None
        assert clean[-1] > expires + 6_000
        assert not has_venue_id
        assert FOUND not in {look.result for look in order.looks}


def test_a_cycle_takes_the_ten_that_have_waited_longest_100_ms_apart() -> None:
    due = [(f"o{n:02}", T0_MS - 1000 * n) for n in range(12)] + [("later", T0_MS + 1)]
    plan = plan_cycle(due, T0_MS)
    assert [order_id for order_id, _ in plan] == [f"o{n:02}" for n in range(11, 1, -1)]
    assert [at_ms - T0_MS for _, at_ms in plan] == list(range(0, 1000, 100))


def test_an_order_unknown_for_more_than_five_minutes_is_overdue() -> None:
    assert not is_overdue(W8, W8.unknown_at_ms + 300_000, 300)
    assert is_overdue(W8, W8.unknown_at_ms + 300_001, 300)


@pytest.mark.parametrize(
    ("listings", "by_id", "lost"),
    [
        ([(0, False), (30_000, False)], True, True),
        ([(0, False), (30_000, False)], False, False),  # the read by id found it, or failed
        ([(0, False), (29_999, False)], True, False),  # too close together
        ([(0, False), (10_000, True), (30_000, False)], True, False),  # seen in between
        ([(0, True), (10_000, False), (40_000, False)], True, True),
        ([], True, False),
    ],
)
def test_an_open_order_is_lost_after_two_listings_without_it_and_a_read(listings: list, by_id: bool, lost: bool) -> None:
    assert needs_lookup(listings, absent_by_id=by_id) is lost
