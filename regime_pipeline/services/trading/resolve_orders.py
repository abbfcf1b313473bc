"""What became of orders whose answer proved nothing: one look after the other, until the order is found or its absence is proven."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from regime_pipeline.execution.ladder import (
    TRADES_BACK_MS,
    Look,
    LookResult,
    NextStep,
    Rung,
    Seen,
    UnknownOrder,
    is_overdue,
    judge_look,
    next_look_ms,
    plan_cycle,
    plan_resolution,
    plan_rungs,
)
from regime_pipeline.execution.ledger import LedgerAccount
from regime_pipeline.execution.order_states import Guard, OrderState
from regime_pipeline.portfolio.money import ZERO
from regime_pipeline.ports import Absent, Failed, Found, Ok, OrderRow, Proof, Seeing, Severity, VenueOrder, Work
from regime_pipeline.risk.kill_switch import Trigger
from regime_pipeline.services.trading.adopt_reading import book_reading, complete_reading
from regime_pipeline.services.trading.cycle import Cycle
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.move_order import move_order


def resolve_orders(cycle: Cycle) -> None:
    """Look for the UNKNOWN orders that are due: at most 10, those that have waited longest, 100 ms apart."""
    orders = {order.client_order_id: order for order in cycle.live(OrderState.UNKNOWN)}
    if not orders:
        return
    with cycle.trading.stores.open() as work:
        looks = work.orders.load_looks(list(orders))
    unknown = {order_id: describe_unknown(order, looks[order_id]) for order_id, order in orders.items()}
    started_ms = cycle.now_ms
    for order_id, at_ms in plan_cycle([(order_id, next_look_ms(each)) for order_id, each in unknown.items()], started_ms):
        cycle.trading.sleep(max(0, at_ms - cycle.now_ms) / 1000)
        order = orders[order_id]
        with cycle.handling(order):
            cycle.keep_lease()
            cycle.counts["looked"] += 1
            cycle.keep(order, _look(cycle, order, unknown[order_id]))
    for order in cycle.live(OrderState.UNKNOWN):
        if is_overdue(unknown[order.client_order_id], cycle.now_ms, cycle.trading.limits.unknown_page_s):
            cycle.triggers.add(Trigger.UNKNOWN_ORDER)


def describe_unknown(order: OrderRow, looks: tuple[Look, ...]) -> UnknownOrder:
    """Say what is known of an UNKNOWN order."""
    unknown_at_ms = next((ms for ms in (order.unknown_at_ms, order.sent_at_ms) if ms is not None), order.created_at_ms)
    return UnknownOrder(unknown_at_ms, order.request_expires_at_ms, order.venue_order_id is not None, looks)


def _look(cycle: Cycle, order: OrderRow, unknown: UnknownOrder) -> OrderRow:
    """Take one look through the whole ladder and book what it says."""
    started_ms = cycle.now_ms
    answers: dict[Rung, Seen] = {}
    for rung in plan_rungs(has_venue_id=unknown.has_venue_id):
        answer = _ASK[rung](cycle, order)
        answers[rung] = _seen(answer)
        if isinstance(answer, Ok):
            return _adopt(cycle, order, unknown, answer.value, answers, started_ms)
    result = judge_look(answers, has_venue_id=unknown.has_venue_id)
    with cycle.trading.stores.open() as work:
        return _conclude(work, cycle, order, unknown, Look(started_ms, result), answers)


def _adopt(
    cycle: Cycle, order: OrderRow, unknown: UnknownOrder, seen: VenueOrder, answers: Mapping[Rung, Seen], started_ms: int
) -> OrderRow:
    """Take over what was found, state and fills in one transaction; an order that is not what we sent is somebody's mistake."""
    differs = compare_payload(order, seen)
    reading = complete_reading(cycle.trading, order, seen, started_ms)
    with cycle.trading.stores.open() as work:
        if differs:
            evidence = {"venue_order_id": seen.venue_order_id, "differs": differs}
            open_incident(work, "ID_COLLISION", Severity.CRITICAL, order.client_order_id, evidence)
            return _conclude(work, cycle, order, unknown, Look(started_ms, LookResult.UNEXPLAINED), answers)
        if isinstance(reading, Failed):
            return _conclude(work, cycle, order, unknown, Look(started_ms, LookResult.NO_INFORMATION), answers)
        work.orders.add_look(order.client_order_id, Look(started_ms, LookResult.FOUND), answers)
        proof = Proof(evidence={"rungs": {rung.value: said.value for rung, said in answers.items()}})
        after = book_reading(work, cycle, order, reading, proof=proof)
        if after.state is OrderState.UNKNOWN:  # the venue counts trades that it does not list yet
            after = _schedule(work, after, _with(unknown, Look(started_ms, LookResult.FOUND)))
        cycle.trading.at("after_step")
        return after


def _conclude(work: Work, cycle: Cycle, order: OrderRow, unknown: UnknownOrder, look: Look, answers: Mapping[Rung, Seen]) -> OrderRow:
    """Record a look that did not find the order, and give the order up where its absence is proven."""
    work.orders.add_look(order.client_order_id, look, answers)
    looked = _with(unknown, look)
    resolution = plan_resolution(looked, cycle.now_ms, 1000 * cycle.trading.limits.visibility_s)
    if resolution.step is NextStep.NOT_FOUND:
        evidence = {"looks": [{"started_ms": each.started_ms, "result": each.result.value} for each in looked.looks]}
        held = {Guard.ABSENT_PROOF, Guard.PERSON_IF_VENUE_ID}  # there is no venue id: `plan_resolution` would have asked for a person
        return move_order(work, order, OrderState.NOT_FOUND, held, lease=cycle.lease, proof=Proof(code="ABSENT", evidence=evidence))
    if resolution.needs_person:
        known = {"symbol": order.symbol, "has_venue_id": unknown.has_venue_id, "expires": order.request_expires_at_ms is not None}
        open_incident(work, "ORDER_NEEDS_PERSON", Severity.CRITICAL, order.client_order_id, known)
    return _schedule(work, order, looked)


def _schedule(work: Work, order: OrderRow, unknown: UnknownOrder) -> OrderRow:
    due_ms = next_look_ms(unknown)
    work.orders.note_seen([Seeing(order.client_order_id, due_ms)])
    return replace(order, next_look_at_ms=due_ms)


def _with(unknown: UnknownOrder, look: Look) -> UnknownOrder:
    return replace(unknown, looks=(*unknown.looks, look))


def compare_payload(order: OrderRow, seen: VenueOrder) -> dict[str, str]:
    """Name what a venue's order has other than our intent: fields with both values; prices the venue does not show are not compared."""
    spec = order.intent.spec
    pairs = {
        "symbol": (spec.symbol, seen.symbol),
        "side": (spec.side, seen.side),
        "qty": (spec.qty, seen.qty),
        "limit_price": (spec.limit_price, seen.limit_price or spec.limit_price),
        "stop_price": (spec.stop_price, seen.stop_price or spec.stop_price),
    }
    return {name: f"ours {ours}, venue {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs}


Answer = Found[VenueOrder] | Seen
"""Of a rung: the order, nothing, no information; or only that something was found, where what it is remains unknown."""


def _seen(answer: Answer) -> Seen:
    if isinstance(answer, Seen):
        return answer
    return Seen.FAILED if isinstance(answer, Failed) else Seen.ABSENT if isinstance(answer, Absent) else Seen.FOUND


def _is_ours(order: OrderRow, seen: VenueOrder) -> bool:
    return seen.client_order_id == order.client_order_id


def _ask_by_venue_id(cycle: Cycle, order: OrderRow) -> Answer:
    return cycle.trading.broker.fetch_order(order.symbol, order.client_order_id, order.venue_order_id)


def _ask_by_client_id(cycle: Cycle, order: OrderRow) -> Answer:
    answer = cycle.trading.broker.fetch_order(order.symbol, order.client_order_id, None)
    return answer if isinstance(answer, Failed) or (isinstance(answer, Ok) and _is_ours(order, answer.value)) else Absent()


def _ask_open_orders(cycle: Cycle, order: OrderRow) -> Answer:
    answer = cycle.trading.broker.fetch_open_orders(order.symbol)
    if isinstance(answer, Failed):
        return answer
    return next((Ok(seen) for seen in answer.value if _is_ours(order, seen)), Absent())


def _ask_closed_orders(cycle: Cycle, order: OrderRow) -> Answer:
    answer = cycle.trading.broker.fetch_closed_orders(order.symbol, _since_ms(order))
    if isinstance(answer, Failed):
        return answer
    return next((Ok(seen) for seen in answer.value if _is_ours(order, seen)), Absent())


def _ask_own_trades(cycle: Cycle, order: OrderRow) -> Answer:
    """Look for trades on our side of an order that no row of ours has; whose it is, a read by the venue's id says."""
    broker, traits = cycle.trading.broker, cycle.trading.broker.traits
    answer = broker.fetch_fills(order.symbol, _since_ms(order))
    if isinstance(answer, Failed):
        return answer
    strange = {fill.venue_order_id for fill in answer.value if fill.side is order.intent.side}
    if strange:
        with cycle.trading.stores.open() as work:
            known = work.orders.load_by_venue_id(traits.venue, traits.account, strange)
        strange -= {row.venue_order_id for row in known if row.client_order_id != order.client_order_id}
    for venue_order_id in sorted(strange):
        seen = broker.fetch_order(order.symbol, order.client_order_id, venue_order_id)
        if isinstance(seen, Ok) and _is_ours(order, seen.value):
            return Ok(seen.value)
        if not isinstance(seen, Ok):  # a trade without its order says nothing for certain
            return Failed("a trade was listed whose order could not be read")
    return Absent()


def _ask_balances(cycle: Cycle, order: OrderRow) -> Answer:
    """Compare what the venue holds with the ledger: more on our side than is booked is a change that nothing explains."""
    trading, traits = cycle.trading, cycle.trading.broker.traits
    if traits.market_type == "spot":
        asset, account = order.symbol.partition("/")[0], LedgerAccount.WALLET
        balances = trading.broker.fetch_balances()
        if isinstance(balances, Failed):
            return Seen.FAILED
        at_venue = balances.value[asset].total if asset in balances.value else ZERO
    else:
        asset, account = order.symbol, LedgerAccount.POSITION
        positions = trading.broker.fetch_positions()
        if isinstance(positions, Failed):
            return Seen.FAILED
        at_venue = sum((position.qty for position in positions.value if position.symbol == asset), ZERO)
    with trading.stores.open() as work:
        booked = work.ledger.load_balances(traits.account, assets=[asset])
    ours = sum((amount for key, amount in booked.items() if key.ledger_account is account), ZERO)
    surplus = (at_venue - ours) * order.intent.side.sign
    return Seen.FOUND if surplus > 0 and surplus >= order.step else Seen.ABSENT


def _since_ms(order: OrderRow) -> int:
    return (order.sent_at_ms or order.created_at_ms) - TRADES_BACK_MS


_ASK: Final[Mapping[Rung, Callable[[Cycle, OrderRow], Answer]]] = {
    Rung.VENUE_ID: _ask_by_venue_id,
    Rung.CLIENT_ID: _ask_by_client_id,
    Rung.OPEN_ORDERS: _ask_open_orders,
    Rung.CLOSED_ORDERS: _ask_closed_orders,
    Rung.OWN_TRADES: _ask_own_trades,
    Rung.BALANCES: _ask_balances,
}
