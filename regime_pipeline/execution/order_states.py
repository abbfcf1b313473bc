"""The eleven states of an order and the 43 steps between them, as data; every other pair is refused.

A step is allowed by its edge and by the guards of the edge, which the caller has proven and names. A guard that is not named
does not hold.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final

from regime_pipeline.errors import (
    BrokerConfirmationRequiredError,
    ExecutionError,
    InvalidTransitionError,
    KillSwitchActiveError,
    LeaseLostError,
    StaleDecisionError,
    TerminalStateError,
)
from regime_pipeline.portfolio.money import EXACT


class OrderState(StrEnum):
    """Where an order is; a live one counts its full remaining quantity as exposure."""

    INTENT = "INTENT"
    SUBMITTING = "SUBMITTING"
    UNKNOWN = "UNKNOWN"
    OPEN = "OPEN"
    PARTIAL = "PARTIAL"
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    FILLED = "FILLED"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    NOT_FOUND = "NOT_FOUND"

    @property
    def is_terminal(self) -> bool:
        """Tell whether the order has ended (NOT_FOUND only the reconciler reopens)."""
        return self in TERMINAL

    @property
    def is_unresolved(self) -> bool:
        """Tell whether the venue may or may not hold the order: entries on its symbol wait."""
        return self in UNRESOLVED


class Guard(StrEnum):
    """A fact that must be proven before a step."""

    CLIENT_ID_STORED = "client_id_stored"
    LEASE_HELD = "lease_held"
    BEFORE_DECIDE_BY = "before_decide_by"
    NOT_KILLED = "not_killed"
    MODE_MATCHES = "mode_matches"
    REASON_GIVEN = "reason_given"
    VENUE_ID_PRESENT = "venue_id_present"
    ECHO = "echo"
    FILLS_BOOKED = "fills_booked"
    FILLS_COVER_QTY = "fills_cover_qty"
    VENUE_ERROR_IS_FINAL = "venue_error_is_final"
    EVIDENCE_STORED = "evidence_stored"
    ABSENT_PROOF = "absent_proof"
    PERSON_IF_VENUE_ID = "person_if_venue_id"  # a row with a venue id is given up by a named person only
    FILLED_NOT_DECREASING = "filled_not_decreasing"
    STATUS_READ = "status_read"  # never the 200 of the cancel request
    BY_RECONCILER = "by_reconciler"
    INCIDENT_OPENED = "incident_opened"
    EXPOSURE_COUNTED = "exposure_counted"  # in the same transaction


S, G = OrderState, Guard

TERMINAL: Final = frozenset({S.FILLED, S.CANCELLED, S.REJECTED, S.EXPIRED, S.NOT_FOUND})
LIVE: Final = frozenset(S) - TERMINAL
UNRESOLVED: Final = frozenset({S.SUBMITTING, S.UNKNOWN})

_ANSWERED: Final = (G.VENUE_ID_PRESENT, G.ECHO)
_SURFACED: Final = (G.BY_RECONCILER, G.INCIDENT_OPENED, G.EXPOSURE_COUNTED)

# (from, to) -> guards; whatever becomes FILLED also needs FILLS_COVER_QTY.
EDGES: Final[Mapping[tuple[OrderState, OrderState], tuple[Guard, ...]]] = {
    (S.INTENT, S.SUBMITTING): (G.CLIENT_ID_STORED, G.LEASE_HELD, G.BEFORE_DECIDE_BY, G.NOT_KILLED, G.MODE_MATCHES),
    (S.INTENT, S.REJECTED): (G.REASON_GIVEN,),
    (S.INTENT, S.CANCELLED): (G.REASON_GIVEN,),
    (S.SUBMITTING, S.OPEN): _ANSWERED,
    (S.SUBMITTING, S.PARTIAL): (*_ANSWERED, G.FILLS_BOOKED),
    (S.SUBMITTING, S.FILLED): (*_ANSWERED, G.FILLS_BOOKED, G.FILLS_COVER_QTY),
    (S.SUBMITTING, S.CANCELLED): (*_ANSWERED, G.FILLS_BOOKED),
    (S.SUBMITTING, S.EXPIRED): (*_ANSWERED, G.FILLS_BOOKED),
    (S.SUBMITTING, S.REJECTED): (G.VENUE_ERROR_IS_FINAL,),
    (S.SUBMITTING, S.UNKNOWN): (),  # time-out, 5xx or restart: the venue may hold the order
    **{(S.UNKNOWN, to): (G.EVIDENCE_STORED, G.FILLS_BOOKED) for to in (S.OPEN, S.PARTIAL, S.CANCELLED, S.REJECTED, S.EXPIRED)},
    (S.UNKNOWN, S.FILLED): (G.EVIDENCE_STORED, G.FILLS_BOOKED, G.FILLS_COVER_QTY),
    (S.UNKNOWN, S.NOT_FOUND): (G.ABSENT_PROOF, G.PERSON_IF_VENUE_ID),
    **{(S.OPEN, to): (G.VENUE_ID_PRESENT, G.FILLS_BOOKED) for to in (S.PARTIAL, S.CANCELLED, S.EXPIRED, S.REJECTED, S.CANCEL_REQUESTED)},
    (S.OPEN, S.FILLED): (G.VENUE_ID_PRESENT, G.FILLS_BOOKED, G.FILLS_COVER_QTY),
    **{(S.PARTIAL, to): (G.FILLED_NOT_DECREASING,) for to in (S.PARTIAL, S.CANCELLED, S.EXPIRED, S.CANCEL_REQUESTED)},
    (S.PARTIAL, S.FILLED): (G.FILLED_NOT_DECREASING, G.FILLS_COVER_QTY),
    **{(S.CANCEL_REQUESTED, to): (G.STATUS_READ,) for to in (S.CANCEL_REQUESTED, S.CANCELLED, S.EXPIRED, S.OPEN, S.PARTIAL)},
    (S.CANCEL_REQUESTED, S.FILLED): (G.STATUS_READ, G.FILLS_COVER_QTY),
    **{(seen, S.UNKNOWN): (G.EVIDENCE_STORED,) for seen in (S.OPEN, S.PARTIAL, S.CANCEL_REQUESTED)},
    **{(S.NOT_FOUND, to): _SURFACED for to in (S.OPEN, S.PARTIAL, S.CANCELLED, S.REJECTED, S.EXPIRED)},
    (S.NOT_FOUND, S.FILLED): (*_SURFACED, G.FILLS_COVER_QTY),
}

# What is raised when a guard does not hold; for every other guard the step itself is invalid.
GUARD_ERRORS: Final[Mapping[Guard, type[ExecutionError]]] = {
    G.VENUE_ID_PRESENT: BrokerConfirmationRequiredError,
    G.ECHO: BrokerConfirmationRequiredError,
    G.LEASE_HELD: LeaseLostError,
    G.BEFORE_DECIDE_BY: StaleDecisionError,
    G.NOT_KILLED: KillSwitchActiveError,
}


def guards_for(order_id: str, old: OrderState, new: OrderState) -> tuple[Guard, ...]:
    """Name the guards that must hold before this step, or refuse the step.

    Raises
    ------
    TerminalStateError
        When the order has ended.
    InvalidTransitionError
        When no edge leads from `old` to `new`.
    """
    if (old, new) in EDGES:
        return EDGES[old, new]
    allowed = ", ".join(sorted(b for a, b in EDGES if a == old)) or "nothing"
    asked = f"order {order_id}: step was {old} -> {new}, allowed from {old}: {allowed}"
    if old.is_terminal:
        raise TerminalStateError(f"{asked}; state kept, a quantity that differs is booked as a late fill")
    raise InvalidTransitionError(f"{asked}; state kept, the venue is asked again")


def check_step(order_id: str, old: OrderState, new: OrderState, held: Collection[Guard]) -> None:
    """Allow a step whose edge exists and whose guards all hold.

    Parameters
    ----------
    order_id : str
        Named in errors.
    old, new : OrderState
        `old` comes from the table, never from the caller's memory.
    held : collection of Guard
        What the caller has proven.

    Raises
    ------
    ExecutionError
        `InvalidTransitionError` or `TerminalStateError` for a pair outside the registry, else the error of the first guard that
        does not hold: no venue id or echo, no lease, too late, killed, or simply not proven.
    """
    missing = [guard for guard in guards_for(order_id, old, new) if guard not in held]
    if missing:
        error = GUARD_ERRORS.get(missing[0], InvalidTransitionError)
        raise error(f"order {order_id}: step {old} -> {new} lacks {', '.join(missing)}; state kept, prove it or leave it to recovery")


class VenueStatus(StrEnum):
    """What a venue says of an order, in ccxt's words."""

    OPEN = "open"
    CLOSED = "closed"
    CANCELED = "canceled"
    REJECTED = "rejected"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class StatusReading:
    """What a venue's status means for an order: its next state, a code, and which quantity guards hold."""

    state: OrderState
    held: frozenset[Guard]
    code: str | None = None


def read_status(status: VenueStatus, qty: Decimal, booked: Decimal, venue_filled: Decimal, step: Decimal) -> StatusReading:
    """Turn a venue's status into the state it proves, given the fills that we have booked.

    Parameters
    ----------
    status : VenueStatus
        From a read of the order, never from the answer to a cancel.
    qty, booked, venue_filled : Decimal
        Ordered, the sum of our booked fills, and the venue's cumulative figure, in base.
    step : Decimal
        Quantity step of the instrument.

    Returns
    -------
    StatusReading
        `FILLS_BOOKED` is held when our fills equal the venue's figure, `FILLS_COVER_QTY` when they also complete the order.
        "closed" and "canceled" keep their fills; "rejected" with fills is a cancellation of the rest.
    """
    rest = EXACT.subtract(qty, booked)
    has_ended = status is not VenueStatus.OPEN
    covers = rest <= 0 or (has_ended and booked == venue_filled and rest < step)  # an overfill is flagged where it is booked
    held = {G.STATUS_READ} | ({G.FILLS_BOOKED} if booked >= venue_filled else set()) | ({G.FILLS_COVER_QTY} if covers else set())
    if covers:
        return StatusReading(S.FILLED, frozenset(held))
    match status:
        case VenueStatus.OPEN:
            return StatusReading(S.PARTIAL if booked > 0 else S.OPEN, frozenset(held))
        case VenueStatus.EXPIRED:
            return StatusReading(S.EXPIRED, frozenset(held))
        case VenueStatus.REJECTED if booked == 0 and venue_filled == 0:
            return StatusReading(S.REJECTED, frozenset(held))
        case VenueStatus.REJECTED:
            return StatusReading(S.CANCELLED, frozenset(held), "VENUE_REJECTED_REST")
        case VenueStatus.CLOSED:
            return StatusReading(S.CANCELLED, frozenset(held), "VENUE_CLOSED_REST")
        case VenueStatus.CANCELED:
            return StatusReading(S.CANCELLED, frozenset(held))
