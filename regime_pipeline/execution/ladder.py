"""Finding out what became of an order whose answer proved nothing: which looks, when, and when absence is proven.

Pure: what has been seen goes in, the next thing to do comes out. Instants are milliseconds since the epoch, UTC.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

WAITS_MS: Final = (1_000, 2_000, 4_000, 8_000, 15_000, 30_000)  # before the first look, the second ...; the last one repeats
CLOCK_BOUND_MS: Final = 1_000
MIN_CLEAN_LOOKS: Final = 3
TRADES_BACK_MS: Final = 60_000
LOOKS_PER_CYCLE: Final = 10
LOOK_GAP_MS: Final = 100


class Rung(StrEnum):
    """One question of a look, in the order they are asked."""

    VENUE_ID = "venue_id"
    CLIENT_ID = "client_id"
    OPEN_ORDERS = "open_orders"
    CLOSED_ORDERS = "closed_orders"
    OWN_TRADES = "own_trades"  # since `sent_at` - 60 s
    BALANCES = "balances"  # or the position: found means a change that nothing else explains


class Seen(StrEnum):
    """What a rung said; a read that failed or cannot be parsed says nothing."""

    FOUND = "found"
    ABSENT = "absent"
    FAILED = "failed"


class LookResult(StrEnum):
    """What a whole look said."""

    FOUND = "found"
    CLEAN = "clean"  # every rung asked, nothing there
    UNEXPLAINED = "unexplained"  # no order, but balance or position moved
    NO_INFORMATION = "no_information"


@dataclass(frozen=True, slots=True)
class Look:
    """A look that was taken."""

    started_ms: int
    result: LookResult


@dataclass(frozen=True, slots=True)
class UnknownOrder:
    """What is known of an UNKNOWN order.

    Parameters
    ----------
    unknown_at_ms : int
        When it became UNKNOWN.
    request_expires_at_ms : int or None
        When the venue stops accepting the request; None where its profile has no proven expiry.
    has_venue_id : bool
        Whether the venue ever named it.
    looks : tuple of Look
        Those taken so far, oldest first.
    """

    unknown_at_ms: int
    request_expires_at_ms: int | None
    has_venue_id: bool = False
    looks: tuple[Look, ...] = ()


class NextStep(StrEnum):
    """What to do with an UNKNOWN order."""

    ADOPT = "adopt"  # state and fills in one transaction
    NOT_FOUND = "not_found"
    LOOK = "look"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Resolution:
    """The next step, when the next look is due, and whether only a named person may give the order up."""

    step: NextStep
    next_look_ms: int | None = None
    needs_person: bool = False


def plan_rungs(*, has_venue_id: bool) -> tuple[Rung, ...]:
    """Questions of one look, in order; asking ends with the first that finds the order."""
    return tuple(Rung) if has_venue_id else tuple(rung for rung in Rung if rung is not Rung.VENUE_ID)


def judge_look(answers: Mapping[Rung, Seen], *, has_venue_id: bool) -> LookResult:
    """Say what a look proved; a rung that was not asked is one that failed."""
    rungs = plan_rungs(has_venue_id=has_venue_id)
    seen = {rung: answers.get(rung, Seen.FAILED) for rung in rungs}
    if any(seen[rung] is Seen.FOUND for rung in rungs if rung is not Rung.BALANCES):
        return LookResult.FOUND
    if seen[Rung.BALANCES] is Seen.FOUND:
        return LookResult.UNEXPLAINED
    return LookResult.NO_INFORMATION if Seen.FAILED in seen.values() else LookResult.CLEAN


def next_look_ms(order: UnknownOrder) -> int:
    """When the next look is due: 1 s after UNKNOWN, then 2, 4, 8, 15 s after the one before, then each 30 s."""
    last_ms = order.looks[-1].started_ms if order.looks else order.unknown_at_ms
    return last_ms + WAITS_MS[min(len(order.looks), len(WAITS_MS) - 1)]


def absent_from_ms(order: UnknownOrder, visibility_ms: int) -> int | None:
    """First instant at which a clean look proves absence: the request has expired, for any clock, and had time to show itself."""
    if order.request_expires_at_ms is None:
        return None
    return order.request_expires_at_ms + CLOCK_BOUND_MS + visibility_ms


def is_unexplained(order: UnknownOrder) -> bool:
    """Tell whether, by the newest look that said anything, a balance or position moved without an order to explain it."""
    telling = [look.result for look in order.looks if look.result is not LookResult.NO_INFORMATION]
    return telling[-1:] == [LookResult.UNEXPLAINED]


def is_absent(order: UnknownOrder, visibility_ms: int) -> bool:
    """Tell whether absence is proven: three clean looks, the last one late enough, and no change that nothing explains."""
    bound_ms = absent_from_ms(order, visibility_ms)
    clean = [look for look in order.looks if look.result is LookResult.CLEAN]
    return bound_ms is not None and not is_unexplained(order) and len(clean) >= MIN_CLEAN_LOOKS and clean[-1].started_ms > bound_ms


def plan_resolution(order: UnknownOrder, now_ms: int, visibility_ms: int) -> Resolution:
    """Decide the next step for an UNKNOWN order.

    Parameters
    ----------
    order : UnknownOrder
        With every look so far.
    now_ms : int
        Now, on the venue-corrected clock.
    visibility_ms : int
        Longest time in which the venue may hide a new order.

    Returns
    -------
    Resolution
        Where the venue gave an id, or has no proven expiry, or a balance moved, absence is for a named person to say: looking goes on.
    """
    if any(look.result is LookResult.FOUND for look in order.looks):
        return Resolution(NextStep.ADOPT)
    absent = is_absent(order, visibility_ms)
    if absent and not order.has_venue_id:
        return Resolution(NextStep.NOT_FOUND)
    needs_person = absent or order.request_expires_at_ms is None or is_unexplained(order)
    due_ms = next_look_ms(order)
    return Resolution(NextStep.LOOK if now_ms >= due_ms else NextStep.WAIT, due_ms, needs_person)


def plan_cycle(due: Iterable[tuple[str, int]], now_ms: int) -> list[tuple[str, int]]:
    """Spread the looks of one cycle: at most 10 orders, those that have waited longest, 100 ms apart.

    Parameters
    ----------
    due : iterable of (str, int)
        Client order id and when its next look is due.
    now_ms : int
        Start of the cycle.

    Returns
    -------
    list of (str, int)
        Client order id and when to look.
    """
    waiting = sorted((due_ms, order_id) for order_id, due_ms in due if due_ms <= now_ms)
    return [(order_id, now_ms + LOOK_GAP_MS * place) for place, (_, order_id) in enumerate(waiting[:LOOKS_PER_CYCLE])]


def is_overdue(order: UnknownOrder, now_ms: int, page_after_s: int) -> bool:
    """Tell whether an order has been UNKNOWN for so long that the account goes reduce-only and a person is paged."""
    return now_ms - order.unknown_at_ms > 1000 * page_after_s


def needs_lookup(listings: Sequence[tuple[int, bool]], *, absent_by_id: bool) -> bool:
    """Tell whether an order that should rest has vanished: absent from two clean listings 30 s apart and from a read by its id.

    Parameters
    ----------
    listings : sequence of (int, bool)
        When each clean listing began and whether the order was in it, oldest first.
    absent_by_id : bool
        Whether a clean read by id did not find it.
    """
    last_seen = max((place for place, (_, seen) in enumerate(listings) if seen), default=-1)
    absences = [started_ms for started_ms, _ in listings[last_seen + 1 :]]
    return absent_by_id and len(absences) >= 2 and absences[-1] - absences[0] >= 30_000
