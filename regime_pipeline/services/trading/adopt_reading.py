"""What a venue shows of an order becomes its fills and its state, in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from regime_pipeline.execution.fills import Fill
from regime_pipeline.execution.ladder import TRADES_BACK_MS
from regime_pipeline.execution.order_states import Guard, OrderState, StatusReading, VenueStatus, read_status
from regime_pipeline.ports import Absent, Failed, Ok, OrderChange, OrderRow, Proof, VenueOrder, Work
from regime_pipeline.risk.kill_switch import Scope, Trigger
from regime_pipeline.risk.purpose import Purpose
from regime_pipeline.services.trading.book_fills import book_fills
from regime_pipeline.services.trading.chase_exits import fetch_chase_mid, write_second_child
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.cycle import Cycle, next_look_ms
from regime_pipeline.services.trading.kill_levels import raise_level
from regime_pipeline.services.trading.move_order import NO_PROOF, move_order


@dataclass(frozen=True, slots=True)
class Reading:
    """An order as the venue showed it, with its trades where it shows more of them than we have booked."""

    seen: VenueOrder
    fills: tuple[Fill, ...]
    started_ms: int


def fetch_reading(trading: Trading, order: OrderRow) -> Reading | Absent | Failed:
    """Read an order and the trades of it that we lack."""
    started_ms = trading.clock.now_ms()
    answer = trading.broker.fetch_order(order.symbol, order.client_order_id, order.venue_order_id)
    return complete_reading(trading, order, answer.value, started_ms) if isinstance(answer, Ok) else answer


def complete_reading(trading: Trading, order: OrderRow, seen: VenueOrder, started_ms: int) -> Reading | Failed:
    """Read the trades of an order that the venue has shown."""
    if seen.filled <= order.filled:
        return Reading(seen, (), started_ms)
    since_ms = (order.sent_at_ms or order.created_at_ms) - TRADES_BACK_MS
    trades = trading.broker.fetch_fills(order.symbol, since_ms, seen.venue_order_id)
    if isinstance(trades, Failed):
        return trades
    return Reading(seen, tuple(fill for fill in trades.value if fill.venue_order_id == seen.venue_order_id), started_ms)


def adopt_reading(cycle: Cycle, order: OrderRow, reading: Reading, *, proof: Proof = NO_PROOF, is_cancel_refused: bool = False) -> OrderRow:
    """Book the trades of a reading and make the step that it proves; an exit whose time is up gets its second child.

    Parameters
    ----------
    proof : Proof
        What led to the reading; the venue's words are added to its evidence.
    is_cancel_refused : bool
        Whether the venue has refused our cancel for certain: an order that is open all the same rests on.

    Returns
    -------
    OrderRow
        The order afterwards; unchanged when the reading proves nothing new, or shows trades that the venue does not list yet.
    """
    (after,) = adopt_readings(cycle, [(order, reading)], proof=proof, is_cancel_refused=is_cancel_refused)
    return after


def adopt_readings(
    cycle: Cycle, readings: Sequence[tuple[OrderRow, Reading]], *, proof: Proof = NO_PROOF, is_cancel_refused: bool = False
) -> list[OrderRow]:
    """Do the same for several orders in one transaction: for all or for none."""
    trading = cycle.trading
    mids = [None if _is_superseded(cycle, order) else fetch_chase_mid(trading, order, reading.seen) for order, reading in readings]
    with trading.stores.open() as work:
        filled = book_trades(work, cycle, readings)
        after = [
            step_to_reading(work, cycle, order, reading, each, proof=proof, is_cancel_refused=is_cancel_refused)
            for (order, reading), each in zip(readings, filled, strict=True)
        ]
        children = [write_second_child(work, trading, order, mid) for order, mid in zip(after, mids, strict=True) if mid is not None]
        trading.at("after_step")
    for child in children:
        if child is not None:
            cycle.orders.setdefault(child.client_order_id, child)
    return [cycle.keep(order, moved) for (order, _), moved in zip(readings, after, strict=True)]


def book_reading(work: Work, cycle: Cycle, order: OrderRow, reading: Reading, *, proof: Proof = NO_PROOF) -> OrderRow:
    """Book one reading in an open transaction, without a second child."""
    (filled,) = book_trades(work, cycle, [(order, reading)])
    return step_to_reading(work, cycle, order, reading, filled, proof=proof)


def book_trades(work: Work, cycle: Cycle, readings: Sequence[tuple[OrderRow, Reading]]) -> list[Decimal]:
    """Book the trades of readings; what of each order is filled then."""
    trades = [fill for _, reading in readings for fill in reading.fills]
    if not trades:
        return [order.filled for order, _ in readings]
    known = {reading.seen.venue_order_id: order.client_order_id for order, reading in readings if reading.fills}
    booked = book_fills(work, cycle.trading.broker.traits, trades, cycle.now_ms, known=known, at=cycle.trading.at)
    if booked.overfilled:
        orders = [order for order, _ in readings if booked.filled.get(order.client_order_id, order.filled) > order.intent.qty]
        _stop_entries(work, cycle.trading, orders)
    return [booked.filled.get(order.client_order_id, order.filled) for order, _ in readings]


def _stop_entries(work: Work, trading: Trading, overfilled: Sequence[OrderRow]) -> None:
    """A venue that trades more than was asked for gets no further entry on the symbol until the passes over the fills find nothing."""
    for order in overfilled:
        reason = f"order {order.client_order_id} was filled beyond the {order.intent.qty} that it asked for"
        raise_level(work, trading, Trigger.RECON_ORDER, reason, scope=Scope(trading.terms.account, symbol=order.symbol))


def step_to_reading(
    work: Work,
    cycle: Cycle,
    order: OrderRow,
    reading: Reading,
    filled: Decimal,
    *,
    proof: Proof = NO_PROOF,
    is_cancel_refused: bool = False,
) -> OrderRow:
    """Make the step that a reading proves once its trades are booked; none where it proves nothing new."""
    seen, now_ms = reading.seen, cycle.now_ms
    read = read_status(seen.status, order.intent.qty, filled, seen.filled, order.step)
    has_news = filled > order.filled
    booked = replace(order, filled=filled)
    new = _target_of(booked, read, has_news=has_news, is_cancel_refused=is_cancel_refused)
    if new is None:
        return booked
    held = {*read.held, Guard.VENUE_ID_PRESENT, Guard.EVIDENCE_STORED, Guard.FILLED_NOT_DECREASING}
    if seen.client_order_id == order.client_order_id:
        held.add(Guard.ECHO)
    if seen.status is VenueStatus.REJECTED:
        held.add(Guard.VENUE_ERROR_IS_FINAL)
    told = replace(proof, code=proof.code or read.code, evidence={**proof.evidence, **_describe(reading, filled)})
    change = OrderChange(
        venue_order_id=seen.venue_order_id, last_seen_at_ms=reading.started_ms, next_look_at_ms=next_look_ms(order, new, now_ms)
    )
    return move_order(work, booked, new, held, lease=cycle.lease, proof=told, change=change, has_news=has_news)


def _is_superseded(cycle: Cycle, order: OrderRow) -> bool:
    """Tell whether a trim has an exit of the same holding beside it, which sells what the trim has not."""
    return order.purpose is Purpose.REDUCE and any(
        other.purpose in {Purpose.EXIT, Purpose.STOP} and not other.state.is_terminal and _holding(other) == _holding(order)
        for other in cycle.orders.values()
    )


def _holding(order: OrderRow) -> tuple[str, str]:
    return order.intent.key.strategy, order.symbol


def _target_of(order: OrderRow, read: StatusReading, *, has_news: bool, is_cancel_refused: bool) -> OrderState | None:
    """State that a reading leads to; None when it leads nowhere yet."""
    new = read.state
    if order.state is OrderState.CANCEL_REQUESTED:
        if new is OrderState.REJECTED:  # no edge: a rejection after it rested is an end like another
            new = OrderState.CANCELLED
        if not new.is_terminal and not is_cancel_refused:
            new = OrderState.CANCEL_REQUESTED
    if Guard.FILLS_BOOKED not in read.held and (new.is_terminal or order.state not in _TAKES_PARTS):
        # the venue counts trades that it does not list yet: what is listed is booked, the end waits for the rest
        return order.state if has_news and order.state in _TAKES_PARTS else None
    return new


_TAKES_PARTS: Final = frozenset({OrderState.PARTIAL, OrderState.CANCEL_REQUESTED})
"""States in which a part of the trades may be booked before the rest is listed."""


def _describe(reading: Reading, filled: Decimal) -> dict[str, str]:
    seen = reading.seen
    return {"status": seen.status.value, "venue_filled": str(seen.filled), "booked": str(filled), "venue_order_id": seen.venue_order_id}
