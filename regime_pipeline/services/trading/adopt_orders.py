"""Orders at the venue that are ours by their key and have no row, as after a restore: the row is written, the ladder settles it.

The intent is rebuilt from the key and from what the venue shows. It goes through INTENT and SUBMITTING to UNKNOWN in one transaction,
under the lease of the executor, so that nobody can ever send it again.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from regime_pipeline.execution.bounds import OUTSIDE_TICK_MS, compute_rest_until_ms
from regime_pipeline.execution.keys import LogicalKey, find_keys
from regime_pipeline.execution.order_states import Guard, OrderState
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import IntentOutcome, NewIntent, OrderChange, OrderType, Proof, Severity, TimeInForce, VenueOrder
from regime_pipeline.risk.purpose import Leg
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.move_order import move_order
from regime_pipeline.services.trading.write_intents import write_intents

KEY_DAYS: Final = 7
RECONCILER: Final = "reconciler"
_SENT: Final = {Guard.CLIENT_ID_STORED, Guard.LEASE_HELD, Guard.BEFORE_DECIDE_BY, Guard.NOT_KILLED, Guard.MODE_MATCHES}
"""Held when it was sent: no other program makes this id, and no order of ours leaves without them."""


def find_own_keys(trading: Trading, orders: Sequence[VenueOrder]) -> dict[str, LogicalKey]:
    """Find the keys behind orders that have no row; each strategy is tried with the bar closes of its timeframe over a week."""
    wanted = {order.client_order_id for order in orders if order.client_order_id}
    if not wanted:
        return {}
    with trading.stores.open() as work:
        known = work.recon.load_strategies(trading.terms.account)
    strategies = sorted({*known, *(f"{trading.terms.book_id}-{timeframe}" for timeframe in Timeframe)})
    symbols = sorted({order.symbol for order in orders})
    newest_s = trading.clock.now_s()
    found: dict[str, LogicalKey] = {}
    for strategy in strategies:
        closes = _closes_of(strategy, newest_s)
        if closes and wanted - found.keys():
            found |= find_keys(wanted - found.keys(), [trading.terms.account], [strategy], symbols, closes)
    return found


def adopt_by_key(trading: Trading, key: LogicalKey, shown: VenueOrder) -> bool:
    """Write the rows of an order of ours that the venue has and we have not; False when its place or the lease is taken.

    An incident is opened either way: a row is never missing while all is well.
    """
    evidence = {"key": key.text, "venue_order_id": shown.venue_order_id, "qty": str(shown.qty), "filled": str(shown.filled)}
    with trading.stores.open() as work:
        open_incident(work, "ORDER_WITHOUT_ROW", Severity.CRITICAL, key.client_order_id, evidence, "order-without-row")
        before = key.client_order_id if key.seq == 0 else _predecessor(key)
        if key.seq > 0 and before not in work.orders.load_orders([before]):
            return False  # its predecessor is lost as well: a person settles it
        lease = work.orders.acquire_lease(f"dispatch:{trading.terms.account}", trading.terms.holder)
        if lease is None:
            return False
        written = write_intents(work, trading, [_rebuild(trading, key, shown)])[0]
        if written.outcome is not IntentOutcome.WRITTEN or written.order is None:
            work.orders.release_lease(lease)
            return False
        now_ms, sent_ms = trading.clock.now_ms(), shown.created_ms or trading.clock.now_ms()
        proof = Proof(code="RESTORED", evidence=evidence)
        rest_until_ms = compute_rest_until_ms(sent_ms, key.leg.purpose, is_target=key.leg is Leg.TP, limits=trading.limits)
        sent = OrderChange(
            sent_at_ms=sent_ms, request_expires_at_ms=sent_ms + 1000 * trading.limits.request_window_s, rest_until_ms=rest_until_ms
        )
        order = move_order(work, written.order, OrderState.SUBMITTING, _SENT, actor=RECONCILER, lease=lease, proof=proof, change=sent)
        doubt = OrderChange(unknown_at_ms=now_ms, next_look_at_ms=now_ms)
        move_order(work, order, OrderState.UNKNOWN, set(), actor=RECONCILER, lease=lease, proof=proof, change=doubt)
        work.orders.release_lease(lease)
    return True


def _rebuild(trading: Trading, key: LogicalKey, shown: VenueOrder) -> NewIntent:
    """The intent as it must have been, for what the venue shows."""
    kind = OrderType.STOP if shown.stop_price is not None else OrderType.MARKET if shown.limit_price is None else OrderType.LIMIT
    return NewIntent(
        key,
        shown.side,
        kind,
        shown.qty,
        trading.terms.mode,
        (shown.created_ms or trading.clock.now_ms()) + OUTSIDE_TICK_MS,
        limit_price=shown.limit_price,
        stop_price=shown.stop_price,
        tif=TimeInForce.GTC,
        reduce_only=shown.reduce_only,
        replaces_id=None if key.seq == 0 else _predecessor(key),
    )


def _predecessor(key: LogicalKey) -> str:
    return LogicalKey(key.account, key.strategy, key.symbol, key.bar_close_s, key.leg, key.seq - 1).client_order_id


def _closes_of(strategy: str, newest_s: int) -> Iterable[int]:
    """Bar closes of the last seven days on the timeframe that the strategy's name ends with; none for a name without one."""
    suffix = strategy.rpartition("-")[2]
    if suffix not in set(Timeframe):
        return ()
    length_s = Timeframe(suffix).seconds
    last_s = newest_s - newest_s % length_s
    return range(last_s - KEY_DAYS * 86_400, last_s + 1, length_s)
