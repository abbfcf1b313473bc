"""The second child of an exit: what a limit did not sell in its time goes through the book, within a cap; the rest is planned again."""

from decimal import Decimal, localcontext

from regime_pipeline.execution.bounds import OUTSIDE_TICK_MS
from regime_pipeline.execution.order_states import OrderState, VenueStatus
from regime_pipeline.execution.rounding import plan_qty, round_price
from regime_pipeline.portfolio.money import BPS, ONE, QUOTIENT
from regime_pipeline.ports import Failed, NewIntent, OrderRow, OrderType, TimeInForce, VenueOrder, Work
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Leg, Purpose
from regime_pipeline.services.trading.context import Trading

ENDED: dict[VenueStatus, OrderState] = {VenueStatus.CANCELED: OrderState.CANCELLED, VenueStatus.EXPIRED: OrderState.EXPIRED}


def is_chased(order: OrderRow, seen: VenueOrder, now_ms: int) -> bool:
    """Tell whether an order is the first child of an exit or a trim, over at the venue because its time ran out; targets are not chased."""
    intent = order.intent
    return (
        intent.key.seq == 0
        and intent.purpose in {Purpose.REDUCE, Purpose.EXIT}
        and intent.leg is not Leg.TP
        and (intent.type, intent.tif) == (OrderType.LIMIT, TimeInForce.GTC)
        and seen.status in ENDED
        and order.rest_until_ms is not None
        and now_ms >= order.rest_until_ms
    )


def fetch_chase_mid(trading: Trading, order: OrderRow, seen: VenueOrder) -> Decimal | None:
    """Read the mid that a second child is priced from; the first child's limit where there is no quote, None where there is no child."""
    if not is_chased(order, seen, trading.clock.now_ms()):
        return None
    quote = trading.broker.fetch_quote(order.symbol)
    return order.intent.limit_price if isinstance(quote, Failed) else quote.value.mid


def plan_second_child(order: OrderRow, mid: Decimal, rules: InstrumentRules, cap_bps: Decimal, now_ms: int) -> NewIntent | None:
    """Plan an IOC for what is left, at most `cap_bps` through the mid; None when what is left is dust.

    Parameters
    ----------
    order : OrderRow
        The first child, after its last fill.
    rules : InstrumentRules
        Grid and minimums.
    now_ms : int
        Born outside a tick, it may be sent for a minute.
    """
    intent = order.intent
    with localcontext(QUOTIENT):
        limit_price = round_price(mid * (ONE + intent.side.sign * cap_bps / BPS), rules.tick, intent.side)
    qty = plan_qty(order.remaining, limit_price, rules)
    if qty == 0:
        return None
    return NewIntent(
        intent.key.next_child(),
        intent.side,
        OrderType.LIMIT,
        qty,
        intent.mode,
        now_ms + OUTSIDE_TICK_MS,
        limit_price=limit_price,
        tif=TimeInForce.IOC,
        reduce_only=intent.reduce_only,
        origin=intent.origin,
        decision_id=intent.decision_id,
        action_id=intent.action_id,
        replaces_id=order.client_order_id,
        decision_mid=intent.decision_mid,
    )


def write_second_child(work: Work, trading: Trading, order: OrderRow, mid: Decimal) -> OrderRow | None:
    """Write the second child in the transaction that ends the first; None when nothing or dust is left, or its place is taken."""
    if order.state not in ENDED.values() or order.remaining == 0:
        return None
    rules = work.safety.load_rules(order.venue).get(order.symbol) or _guess_rules(order)
    child = plan_second_child(order, mid, rules, trading.limits.exit_slippage_cap_bps, trading.clock.now_ms())
    if child is None:
        work.orders.add_flag(order.client_order_id, "dust")
        return None
    (written,) = work.orders.write_intents(order.venue, [child])
    return written.order


def _guess_rules(order: OrderRow) -> InstrumentRules:
    """Grid of an instrument whose rules are not stored: that of the order, which the venue has taken."""
    price, qty = order.intent.limit_price or Decimal(1), order.intent.qty
    return InstrumentRules(order.symbol, _unit_of(price), _unit_of(qty))


def _unit_of(value: Decimal) -> Decimal:
    exponent = value.as_tuple().exponent
    return Decimal(1).scaleb(exponent) if isinstance(exponent, int) and exponent < 0 else Decimal(1)
