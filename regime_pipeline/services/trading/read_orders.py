"""Polling: the orders that rest at the venue are read when they are due."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from regime_pipeline.errors import DatabaseError, LeaseLostError, RegimeError
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.ports import Failed, OrderRow, Seeing
from regime_pipeline.services.trading.adopt_reading import Reading, adopt_reading, adopt_readings, fetch_reading
from regime_pipeline.services.trading.cycle import Cycle, next_look_ms

LIST_FROM: Final = 5
"""From so many orders on, one listing is cheaper than a read of each."""
TOGETHER: Final = 25
"""So many are booked in one transaction."""


def read_orders(cycle: Cycle) -> None:
    """Read the orders at the venue that are due; where they are many, one listing says of most that nothing has changed."""
    now_ms = cycle.now_ms
    due = [
        order
        for order in cycle.live(OrderState.OPEN, OrderState.PARTIAL)
        if order.next_look_at_ms is not None and order.next_look_at_ms <= now_ms
    ]
    unchanged = _list_unchanged(cycle, due) if len(due) >= LIST_FROM else []
    settled = {order.client_order_id for order in unchanged}
    note_quiet(cycle, unchanged, now_ms)
    waiting = [order for order in due if order.client_order_id not in settled]
    for start in range(0, len(waiting), TOGETHER):
        _read_some(cycle, waiting[start : start + TOGETHER])


def _read_some(cycle: Cycle, orders: Sequence[OrderRow]) -> None:
    """Read a few orders and book them together."""
    readings: list[tuple[OrderRow, Reading]] = []
    unread: list[OrderRow] = []
    now_ms = cycle.now_ms
    for order in orders:
        cycle.keep_lease()
        cycle.counts["read"] += 1
        reading = fetch_reading(cycle.trading, order)
        if isinstance(reading, Reading):
            readings.append((order, reading))
        else:
            unread.append(order)
    after = _adopt(cycle, readings)
    note_quiet(cycle, [moved for (order, _), moved in zip(readings, after, strict=True) if moved.version == order.version], now_ms)
    note_quiet(cycle, unread, None)


def _adopt(cycle: Cycle, readings: Sequence[tuple[OrderRow, Reading]]) -> list[OrderRow]:
    """Book readings in one transaction; where one of them is refused, each in its own, so that it stops no other."""
    if not readings:
        return []
    try:
        return adopt_readings(cycle, readings)
    except (LeaseLostError, DatabaseError):
        raise
    except RegimeError:
        for order, reading in readings:
            with cycle.handling(order):
                adopt_reading(cycle, order, reading)
    return [cycle.orders[order.client_order_id] for order, _ in readings]


def _list_unchanged(cycle: Cycle, due: list[OrderRow]) -> list[OrderRow]:
    listing = cycle.trading.broker.fetch_open_orders()
    if isinstance(listing, Failed):
        return []
    shown = {order.venue_order_id: order for order in listing.value}
    return [
        order
        for order in due
        if (seen := shown.get(order.venue_order_id or "")) is not None
        and seen.client_order_id == order.client_order_id
        and seen.filled == order.filled
    ]


def note_quiet(cycle: Cycle, orders: Sequence[OrderRow], seen_ms: int | None) -> None:
    """Record when orders of which nothing is new were shown (None: they were not), and when they are read next."""
    notes = [Seeing(order.client_order_id, next_look_ms(order, order.state, cycle.now_ms), seen_ms) for order in orders]
    if notes:
        with cycle.trading.stores.open() as work:
            work.orders.note_seen(notes)
    for order, note in zip(orders, notes, strict=True):
        last_seen_ms = order.last_seen_at_ms if seen_ms is None else seen_ms
        cycle.orders[order.client_order_id] = replace(order, next_look_at_ms=note.next_look_at_ms, last_seen_at_ms=last_seen_ms)
