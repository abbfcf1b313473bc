"""A position and the stop that protects it: where the pair stands, where the stop lies, and what is free to sell.

PLANNED -> ENTRY_WORKING -> PROTECTING <-> PROTECTED -> EXITING -> CLOSED, and FAULT from any of them. The state is worked out from facts
each time it is asked for, so a restart forgets nothing; quantities are of one strategy in one symbol, in base and without sign.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from enum import StrEnum
from typing import Final

from regime_pipeline.errors import InvalidTransitionError, OrderValidationError
from regime_pipeline.portfolio.money import EXACT, QUOTIENT, ZERO, floor_to
from regime_pipeline.risk.purpose import Purpose, Side


class BracketState(StrEnum):
    """Where a position and its stop are."""

    PLANNED = "planned"
    ENTRY_WORKING = "entry_working"
    PROTECTING = "protecting"  # something is held that no stop covers yet
    PROTECTED = "protected"
    EXITING = "exiting"
    CLOSED = "closed"
    FAULT = "fault"


B = BracketState

BRACKET_EDGES: Final[Mapping[BracketState, frozenset[BracketState]]] = {
    B.PLANNED: frozenset({B.ENTRY_WORKING, B.CLOSED, B.FAULT}),  # closed: the entry was refused or never sent
    B.ENTRY_WORKING: frozenset({B.PROTECTING, B.CLOSED, B.FAULT}),  # closed: it ended without a fill
    B.PROTECTING: frozenset({B.PROTECTED, B.EXITING, B.CLOSED, B.FAULT}),
    B.PROTECTED: frozenset({B.PROTECTING, B.EXITING, B.CLOSED, B.FAULT}),
    B.EXITING: frozenset({B.PROTECTING, B.PROTECTED, B.CLOSED, B.FAULT}),  # back: the exit ended with something left
    B.CLOSED: frozenset({B.FAULT}),
    B.FAULT: frozenset({B.EXITING, B.CLOSED}),
}


@dataclass(frozen=True, slots=True)
class BracketFacts:
    """What is known of a position and the orders around it.

    Parameters
    ----------
    held : Decimal
        By the ledger.
    stop_qty, stop_price : Decimal, Decimal or None
        What rests at the venue as a stop, and where; 0 and None without one. A software stop covers everything.
    wanted_stop : Decimal or None
        Where the stop belongs; None while nothing is held.
    has_live_entry, has_live_exit, has_filled : bool
        Whether an entry has not ended, an exit has not ended, and anything was ever bought.
    is_software : bool
        Whether the executor itself watches the price.
    is_faulty : bool
        Whether the price is unknown, or the gate refused to sell: a person is told.
    """

    held: Decimal
    stop_qty: Decimal
    stop_price: Decimal | None
    wanted_stop: Decimal | None
    has_live_entry: bool
    has_live_exit: bool
    has_filled: bool
    is_software: bool
    is_faulty: bool = False


def judge_bracket(facts: BracketFacts) -> BracketState:
    """Say where a position and its stop are."""
    if facts.held <= 0:
        if facts.has_live_entry:
            return B.ENTRY_WORKING
        return B.CLOSED if facts.has_filled else B.PLANNED
    if facts.is_faulty:
        return B.FAULT
    if facts.has_live_exit:
        return B.EXITING
    return B.PROTECTED if is_covered(facts) else B.PROTECTING


def check_bracket_step(old: BracketState, new: BracketState) -> None:
    """Allow a change of state that has an edge, and standing still.

    Raises
    ------
    InvalidTransitionError
        When no edge leads from `old` to `new`: between two looks something happened that was not seen.
    """
    if new is not old and new not in BRACKET_EDGES[old]:
        allowed = ", ".join(sorted(BRACKET_EDGES[old]))
        raise InvalidTransitionError(f"bracket step was {old} -> {new}, allowed from {old}: {allowed}; read the orders of the symbol again")


def is_covered(facts: BracketFacts) -> bool:
    """Tell whether a stop of the right size rests at the right price."""
    return facts.is_software or (facts.stop_qty == facts.held and facts.stop_price == facts.wanted_stop)


def compute_stop_price(
    average: Decimal, planned: Iterable[tuple[Decimal, Decimal | None]], default_frac: Decimal, side: Side = Side.BUY
) -> Decimal:
    """Where the stop of a position lies, before it is put on the tick.

    Parameters
    ----------
    average : Decimal
        Average entry, quote.
    planned : iterable of (Decimal, Decimal or None)
        Filled quantity and planned stop of each entry of the open trade. Their mean by quantity is the stop, so that the loss when it is
        hit is the sum of what each entry was allowed to lose; an entry without one counts with the default.
    default_frac : Decimal
        Distance from the average entry where nothing was planned.
    side : Side
        Of the entries; the stop of a short lies above.

    Raises
    ------
    OrderValidationError
        When the average is not above 0.
    """
    if not average > 0:
        raise OrderValidationError(f"average entry was {average}, must be above 0; reconcile the fills of the position")
    default = QUOTIENT.multiply(average, QUOTIENT.subtract(Decimal(1), QUOTIENT.multiply(Decimal(side.sign), default_frac)))
    parts = [(qty, default if stop is None else stop) for qty, stop in planned if qty > 0]
    if not parts:
        return default
    with localcontext(QUOTIENT):
        return sum((qty * stop for qty, stop in parts), ZERO) / sum((qty for qty, _ in parts), ZERO)


def is_stop_hit(stop: Decimal, *, mid: Decimal | None, bar_extreme: Decimal | None, side: Side = Side.BUY) -> bool:
    """Tell whether a stop is hit by the mid, or by the low (of a long; of a short the high) of the last closed minute.

    What is unknown hits nothing; the caller tells people when both are.
    """
    seen = [price for price in (mid, bar_extreme) if price is not None]
    return any(price <= stop for price in seen) if side is Side.BUY else any(price >= stop for price in seen)


def free_to_sell(held: Decimal, claimed: Iterable[tuple[Purpose, Decimal]], step: Decimal) -> Decimal:
    """What of a position no working reduce, exit or resting stop claims, on the step; never below 0.

    Parameters
    ----------
    held : Decimal
        By ledger and venue both, whichever is less.
    claimed : iterable of (Purpose, Decimal)
        Purpose and remaining quantity of every live order of the symbol; entries claim nothing.
    """
    taken = sum((qty for purpose, qty in claimed if purpose is not Purpose.ENTRY), ZERO)
    return floor_to(max(EXACT.subtract(held, taken), ZERO), step)
