"""One turn of the executor: whatever an account's orders need now, by whoever calls and however often; one at a time does it."""

from contextlib import suppress
from itertools import takewhile
from typing import Final

from regime_pipeline.errors import DatabaseError, LeaseLostError, RegimeError
from regime_pipeline.execution.bounds import SWEEP_EVERY_MS
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.ports import OrderRow, PauseKind
from regime_pipeline.risk.purpose import Purpose
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.cycle import Cycle, ExecutionSummary
from regime_pipeline.services.trading.read_orders import read_orders
from regime_pipeline.services.trading.resolve_orders import resolve_orders
from regime_pipeline.services.trading.send_order import drop_intent, refuse_intent, send_orders, settle_left_over
from regime_pipeline.services.trading.sweep_orders import cancel_orders, sweep_orders

LEASE_NAME: Final = "dispatch:{account}"


def execute_pending(trading: Trading) -> ExecutionSummary:
    """Take one turn: end what must not be sent, look for what is unclear, cancel what is over, read what rests, send what is wanted.

    Any number of callers may run it at the same time: one has the lease, the others return at once.

    Returns
    -------
    ExecutionSummary
        What was done, and what ought to follow from it.

    Raises
    ------
    LeaseLostError
        When the lease was lost on the way: recover, then go on.
    DatabaseError
        When the database went away: nothing is sent without it.
    """
    cycle = _open_cycle(trading)
    if cycle is None:
        return ExecutionSummary(has_lease=False)
    try:
        _settle(cycle)
        sweep_orders(cycle)
        cancel_orders(cycle)
        resolve_orders(cycle)
        read_orders(cycle)
        _send(cycle)
    except RegimeError as error:
        if not isinstance(error, LeaseLostError):
            with suppress(DatabaseError):
                _close(cycle)
        raise
    _close(cycle)
    return cycle.summarise()


def _open_cycle(trading: Trading) -> Cycle | None:
    asked_s, account = trading.monotonic(), trading.terms.account
    with trading.stores.open() as work:
        lease = work.orders.acquire_lease(LEASE_NAME.format(account=account), trading.terms.holder)
        if lease is None:
            return None
        orders = {order.client_order_id: order for order in work.orders.load_live(account)}
        switches = work.safety.load_switches(account)
        pauses = work.orders.load_pauses(trading.broker.traits.venue)
    return Cycle(trading, lease, asked_s, trading.clock.now_ms(), orders, switches, pauses)


def _close(cycle: Cycle) -> None:
    with cycle.trading.stores.open() as work:
        work.orders.release_lease(cycle.lease)


def _settle(cycle: Cycle) -> None:
    """Settle what needs no venue: orders left over while being sent, and intents that must not be sent any more."""
    for order in cycle.live(OrderState.SUBMITTING):
        with cycle.handling(order):
            settle_left_over(cycle, order)
    for order in cycle.live(OrderState.INTENT):
        reason = refuse_intent(cycle.trading, order, cycle.switches, cycle.now_ms)
        if reason is not None:
            with cycle.handling(order):
                drop_intent(cycle, order, reason)


def _send(cycle: Cycle) -> None:
    """Send what waits, exits before entries; after 15 s the sweep has its turn first."""
    if not cycle.trading.terms.trading_enabled:
        return
    waiting = sorted(cycle.live(OrderState.INTENT), key=lambda order: order.purpose is Purpose.ENTRY)  # a stable sort: else oldest first
    in_time = takewhile(lambda _order: cycle.now_ms - cycle.started_ms < SWEEP_EVERY_MS, waiting)
    send_orders(cycle, in_time, lambda order: _may_be_sent(cycle, order))


def _may_be_sent(cycle: Cycle, order: OrderRow) -> bool:
    """Tell whether an order may leave now: no pause is on, and for an entry nothing on its symbol is unresolved."""
    paused = {kind for kind, pause in cycle.pauses.items() if cycle.now_ms < pause.until_ms}
    if PauseKind.CREATES in paused:
        return False
    if order.purpose is not Purpose.ENTRY:
        return True
    if PauseKind.ENTRIES in paused:
        return False
    return not any(other.symbol == order.symbol and other.state.is_unresolved for other in cycle.orders.values())
