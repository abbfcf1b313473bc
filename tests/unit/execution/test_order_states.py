"""Order states: all 121 pairs, every guard of every edge, and what a venue's status proves (specification 2)."""

from decimal import Decimal
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline import errors
from regime_pipeline.execution.order_states import (
    EDGES,
    LIVE,
    TERMINAL,
    UNRESOLVED,
    Guard,
    OrderState,
    VenueStatus,
    check_step,
    guards_for,
    read_status,
)

S, G = OrderState, Guard

# The table of specification 2, written down again by hand: from, to, guards.
TABLE = """
INTENT           | SUBMITTING | client_id_stored lease_held before_decide_by not_killed mode_matches
INTENT           | REJECTED CANCELLED | reason_given
SUBMITTING       | OPEN | venue_id_present echo
SUBMITTING       | PARTIAL CANCELLED EXPIRED | venue_id_present echo fills_booked
SUBMITTING       | FILLED | venue_id_present echo fills_booked fills_cover_qty
SUBMITTING       | REJECTED | venue_error_is_final
SUBMITTING       | UNKNOWN |
UNKNOWN          | OPEN PARTIAL CANCELLED REJECTED EXPIRED | evidence_stored fills_booked
UNKNOWN          | FILLED | evidence_stored fills_booked fills_cover_qty
UNKNOWN          | NOT_FOUND | absent_proof person_if_venue_id
OPEN             | PARTIAL CANCELLED EXPIRED REJECTED CANCEL_REQUESTED | venue_id_present fills_booked
OPEN             | FILLED | venue_id_present fills_booked fills_cover_qty
PARTIAL          | PARTIAL CANCELLED EXPIRED CANCEL_REQUESTED | filled_not_decreasing
PARTIAL          | FILLED | filled_not_decreasing fills_cover_qty
CANCEL_REQUESTED | CANCEL_REQUESTED CANCELLED EXPIRED OPEN PARTIAL | status_read
CANCEL_REQUESTED | FILLED | status_read fills_cover_qty
OPEN             | UNKNOWN | evidence_stored
PARTIAL          | UNKNOWN | evidence_stored
CANCEL_REQUESTED | UNKNOWN | evidence_stored
NOT_FOUND        | OPEN PARTIAL CANCELLED REJECTED EXPIRED | by_reconciler incident_opened exposure_counted
NOT_FOUND        | FILLED | by_reconciler incident_opened exposure_counted fills_cover_qty
"""


def the_table() -> dict[tuple[str, str], set[str]]:
    rows = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]
    return {(old, new): set(guards.split()) for old, news, guards in rows for new in news.split()}


def test_edges_are_the_43_of_the_specification() -> None:
    assert len(EDGES) == 43
    assert {(a.value, b.value): {guard.value for guard in guards} for (a, b), guards in EDGES.items()} == the_table()


def test_live_and_terminal_states_part_the_eleven() -> None:
    assert len(S) == 11
    assert {state.name for state in LIVE} == {"INTENT", "SUBMITTING", "UNKNOWN", "OPEN", "PARTIAL", "CANCEL_REQUESTED"}
    assert {state for state in S if state.is_terminal} == TERMINAL == set(S) - LIVE
    assert {state for state in S if state.is_unresolved} == UNRESOLVED == {S.SUBMITTING, S.UNKNOWN}


@pytest.mark.parametrize(("old", "new"), list(product(S, S)))
def test_each_of_the_121_pairs_is_an_edge_or_is_refused(old: OrderState, new: OrderState) -> None:
    if (old.value, new.value) in the_table():
        check_step("o1", old, new, set(G))
    else:
        # 78 pairs: what has ended says so, anything else names what is allowed.
        error = errors.TerminalStateError if old.is_terminal else errors.InvalidTransitionError
        with pytest.raises(error, match=f"o1: step was {old} -> {new}, allowed from {old}: .*; state kept"):
            check_step("o1", old, new, set(G))


def test_a_state_that_leads_nowhere_says_nothing_is_allowed() -> None:
    with pytest.raises(errors.TerminalStateError, match="allowed from FILLED: nothing"):
        guards_for("o1", S.FILLED, S.OPEN)


@pytest.mark.parametrize(("edge", "guard"), [(edge, guard) for edge, guards in EDGES.items() for guard in guards])
def test_each_guard_of_each_edge_is_needed(edge: tuple[OrderState, OrderState], guard: Guard) -> None:
    expected = {
        G.VENUE_ID_PRESENT: errors.BrokerConfirmationRequiredError,
        G.ECHO: errors.BrokerConfirmationRequiredError,
        G.LEASE_HELD: errors.LeaseLostError,
        G.BEFORE_DECIDE_BY: errors.StaleDecisionError,
        G.NOT_KILLED: errors.KillSwitchActiveError,
    }.get(guard, errors.InvalidTransitionError)
    with pytest.raises(expected, match=f"lacks {guard.value}; state kept"):
        check_step("o1", *edge, set(G) - {guard})


def test_nothing_is_ever_filled_without_fills_that_cover_the_quantity() -> None:
    assert all(G.FILLS_COVER_QTY in guards for (_, new), guards in EDGES.items() if new is S.FILLED)


def test_every_edge_can_be_reached_and_only_the_reconciler_reopens_what_ended() -> None:
    reached, frontier = {S.INTENT}, [S.INTENT]
    while frontier:
        old = frontier.pop()
        new_states = {b for a, b in EDGES if a is old} - reached
        reached |= new_states
        frontier += new_states
    assert reached == set(S)
    assert {a for a, _ in EDGES if a.is_terminal} == {S.NOT_FOUND}
    assert all(G.BY_RECONCILER in guards for (a, _), guards in EDGES.items() if a is S.NOT_FOUND)
    assert not any(b is S.INTENT for _, b in EDGES)  # an order is born only once
    assert {a for a, b in EDGES if b is S.SUBMITTING} == {S.INTENT}  # and sent only once


D = Decimal


@pytest.mark.parametrize(
    ("status", "booked", "venue_filled", "state", "code"),
    [
        ("open", "0", "0", S.OPEN, None),
        ("open", "0.4", "0.4", S.PARTIAL, None),
        ("open", "1", "1", S.FILLED, None),  # our fills complete it, whatever the venue still says
        ("closed", "1", "1", S.FILLED, None),
        ("closed", "0.9995", "0.9995", S.FILLED, None),  # the rest, 0.0005, is below the step of 0.001
        ("closed", "0.999", "0.999", S.CANCELLED, "VENUE_CLOSED_REST"),  # the rest is a whole step
        ("closed", "0.9995", "1", S.CANCELLED, "VENUE_CLOSED_REST"),  # fills are missing: its guard will not hold
        ("canceled", "0.4", "0.4", S.CANCELLED, None),
        ("canceled", "1", "1", S.FILLED, None),  # the last fill won the race
        ("canceled", "0", "0", S.CANCELLED, None),
        ("expired", "0.4", "0.4", S.EXPIRED, None),
        ("rejected", "0", "0", S.REJECTED, None),
        ("rejected", "0.4", "0.4", S.CANCELLED, "VENUE_REJECTED_REST"),
        ("rejected", "0", "0.4", S.CANCELLED, "VENUE_REJECTED_REST"),  # fills that we have not read yet
        ("open", "1.1", "1.1", S.FILLED, None),  # overfilled
    ],
)
def test_a_venue_status_passes_through_the_fills(status: str, booked: str, venue_filled: str, state: OrderState, code: str | None) -> None:
    reading = read_status(VenueStatus(status), D(1), D(booked), D(venue_filled), D("0.001"))
    assert (reading.state, reading.code) == (state, code)
    assert G.STATUS_READ in reading.held
    assert (G.FILLS_BOOKED in reading.held) == (D(booked) >= D(venue_filled))


@settings(max_examples=100)
@given(st.sampled_from(VenueStatus), st.integers(0, 2000), st.integers(0, 2000))
def test_a_status_reads_as_filled_exactly_when_the_guard_holds(status: VenueStatus, booked: int, venue_filled: int) -> None:
    reading = read_status(status, D(1), D(booked) / 1000, D(venue_filled) / 1000, D("0.01"))
    assert (reading.state is S.FILLED) == (G.FILLS_COVER_QTY in reading.held)
    if reading.state is S.FILLED:
        assert booked > 990  # less than a step is missing at most
    if booked:
        assert reading.state not in {S.OPEN, S.REJECTED}  # what has fills is never open without them, nor rejected


def test_each_error_of_the_order_path_says_what_it_stops_and_when_to_try_again() -> None:
    table = {
        "InvalidTransitionError": ("symbol", "no"),
        "TerminalStateError": ("nothing", "no"),
        "BrokerConfirmationRequiredError": ("nothing", "look-up only"),
        "TransitionConflictError": ("nothing", "once"),
        "DuplicateOrderError": ("nothing", "no"),
        "OrderValidationError": ("nothing", "no"),
        "RiskGateError": ("nothing", "exits after 15 s"),
        "StaleDecisionError": ("nothing", "never"),
        "LeaseLostError": ("process", "after recovery"),
        "KillSwitchActiveError": ("as latched", "after release"),
        "LiveNotArmedError": ("entries", "after arming"),
        "UnauthorizedAIActionError": ("nothing", "never"),
        "ReconciliationError": ("entries", "by a person"),
        "LedgerImbalanceError": ("account", "after repair"),
        "JournalIntegrityError": ("process", "by a person"),
        "ClockOffsetError": ("entries", "probe each 30 s"),
        "VenueReadError": ("per pass", "1, 2, 4, 8 s"),
    }
    assert {error.__name__: (error.halts, error.retry) for error in errors.ExecutionError.__subclasses__()} == table
