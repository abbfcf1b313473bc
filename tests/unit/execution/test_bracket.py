"""A position and its stop: where they stand, where the stop lies, and what is done about it."""

from dataclasses import replace
from decimal import Decimal
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regime_pipeline.errors import InvalidTransitionError, OrderValidationError
from regime_pipeline.execution.bracket import (
    BRACKET_EDGES,
    BracketFacts,
    BracketState,
    check_bracket_step,
    compute_stop_price,
    free_to_sell,
    is_stop_hit,
    judge_bracket,
)
from regime_pipeline.risk.purpose import Purpose, Side

B = BracketState
D = Decimal
HELD = BracketFacts(D(2), D(0), None, D(97), False, False, True, is_software=False)
COVERED = replace(HELD, stop_qty=D(2), stop_price=D(97))


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (replace(HELD, held=D(0), has_filled=False), B.PLANNED),
        (replace(HELD, held=D(0), has_filled=False, has_live_entry=True), B.ENTRY_WORKING),
        (HELD, B.PROTECTING),
        (replace(HELD, stop_qty=D(1), stop_price=D(97)), B.PROTECTING),  # covers half
        (replace(COVERED, stop_price=D(96)), B.PROTECTING),
        (COVERED, B.PROTECTED),
        (replace(HELD, is_software=True), B.PROTECTED),
        (replace(COVERED, has_live_exit=True), B.EXITING),
        (replace(HELD, held=D(0)), B.CLOSED),
        (replace(COVERED, is_faulty=True), B.FAULT),
    ],
)
def test_state_follows_from_what_is_held_and_what_rests(facts: BracketFacts, state: BracketState) -> None:
    assert judge_bracket(facts) is state


def test_every_pair_of_states_is_allowed_or_refused_by_name() -> None:
    for old, new in product(B, B):
        if old is new or new in BRACKET_EDGES[old]:
            check_bracket_step(old, new)
        else:
            with pytest.raises(InvalidTransitionError, match=f"{old} -> {new}"):
                check_bracket_step(old, new)
    assert all(old is B.FAULT or B.FAULT in BRACKET_EDGES[old] for old in B)


def test_stop_without_a_plan_lies_three_percent_from_the_average_entry() -> None:
    # 3 % of 100 is 3: a long is stopped at 97, a short at 103.
    assert compute_stop_price(D(100), [(D(2), None)], D("0.03")) == 97
    assert compute_stop_price(D(100), [], D("0.03"), Side.SELL) == 103


def test_planned_stops_of_several_entries_weigh_by_what_was_filled() -> None:
    # (1 x 90 + 3 x 98) / 4 is 96; an entry that was never filled weighs nothing.
    assert compute_stop_price(D(100), [(D(1), D(90)), (D(3), D(98)), (D(0), D(1))], D("0.03")) == 96


def test_an_average_of_nothing_has_no_stop() -> None:
    with pytest.raises(OrderValidationError, match="must be above 0"):
        compute_stop_price(D(0), [], D("0.03"))


@pytest.mark.parametrize(
    ("mid", "low", "hit"),
    [(D(97), None, True), (D("97.01"), D("97.01"), False), (D(99), D("96.9"), True), (None, None, False), (None, D(97), True)],
)
def test_mid_or_the_last_minute_hits_a_stop(mid: D | None, low: D | None, hit: bool) -> None:
    assert is_stop_hit(D(97), mid=mid, bar_extreme=low) is hit


def test_stop_of_a_short_lies_above() -> None:
    assert is_stop_hit(D(103), mid=D(103), bar_extreme=None, side=Side.SELL)
    assert not is_stop_hit(D(103), mid=D(102), bar_extreme=D(102), side=Side.SELL)


def test_what_other_orders_claim_is_not_sold_twice() -> None:
    # 1.0 held, 0.25 in a trim and 0.3 in a stop: 0.45 is free, 0.4 on a step of 0.1; the entry claims nothing.
    claimed = [(Purpose.REDUCE, D("0.25")), (Purpose.STOP, D("0.3")), (Purpose.ENTRY, D(5))]
    assert free_to_sell(D(1), claimed, D("0.1")) == D("0.4")


@given(
    st.decimals(0, 1000, places=4),
    st.lists(st.tuples(st.sampled_from(Purpose), st.decimals(0, 1000, places=4)), max_size=5),
    st.sampled_from([D("0.001"), D("0.1"), D(1)]),
)
def test_exits_together_never_exceed_the_position(held: D, claimed: list[tuple[Purpose, D]], step: D) -> None:
    free = free_to_sell(held, claimed, step)
    taken = sum((qty for purpose, qty in claimed if purpose is not Purpose.ENTRY), D(0))
    assert free >= 0
    assert free == 0 or free + taken <= held
