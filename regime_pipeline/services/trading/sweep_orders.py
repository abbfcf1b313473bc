"""What must leave the venue: orders past their time, those a kill level ends, and trims in the way of an exit; done by a read only."""

from dataclasses import replace
from typing import Final

from regime_pipeline.execution.answers import AnswerClass, RawAnswer, Transport, VenueProfile, classify_answer
from regime_pipeline.execution.bounds import is_cancel_stuck, is_sweep_due, next_cancel_ms
from regime_pipeline.execution.order_states import Guard, OrderState
from regime_pipeline.ports import OrderChange, OrderRow, Proof, Severity
from regime_pipeline.risk.kill_switch import Trigger, ends_order
from regime_pipeline.risk.purpose import Purpose
from regime_pipeline.services.trading.adopt_reading import Reading, adopt_reading, fetch_reading
from regime_pipeline.services.trading.cycle import Cycle
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.move_order import move_order
from regime_pipeline.services.trading.read_orders import note_quiet

STUCK_TRIES: Final = 8
"""So many cancels in a row without an end raise the kill switch."""


def sweep_orders(cycle: Cycle) -> None:
    """Request the cancel of every order that must leave."""
    exits = {
        (order.intent.key.strategy, order.symbol)
        for order in cycle.live(OrderState.INTENT)
        if order.purpose in {Purpose.EXIT, Purpose.STOP}
    }
    for order in cycle.live(OrderState.OPEN, OrderState.PARTIAL):
        code = _why(cycle, order, is_in_the_way=(order.intent.key.strategy, order.symbol) in exits)
        if code is not None and not _was_asked_lately(order, cycle.now_ms):
            with cycle.handling(order):
                request_cancel(cycle, order, code)


def request_cancel(cycle: Cycle, order: OrderRow, code: str) -> OrderRow:
    """Record that an order must leave; the wire comes after."""
    now_ms = cycle.now_ms
    held = {Guard.FILLS_BOOKED, Guard.FILLED_NOT_DECREASING} | ({Guard.VENUE_ID_PRESENT} if order.venue_order_id else set())
    change = OrderChange(cancel_requested_at_ms=now_ms, next_look_at_ms=now_ms)
    with cycle.trading.stores.open() as work:
        after = move_order(work, order, OrderState.CANCEL_REQUESTED, held, lease=cycle.lease, proof=Proof(code=code), change=change)
    return cycle.keep(order, after)


def _why(cycle: Cycle, order: OrderRow, *, is_in_the_way: bool) -> str | None:
    if is_sweep_due(order.rest_until_ms, cycle.now_ms):
        return "TTL"
    if _is_killed(cycle, order):
        return "KILLED"
    return "EXIT_FIRST" if is_in_the_way and order.purpose is Purpose.REDUCE else None


def _is_killed(cycle: Cycle, order: OrderRow) -> bool:
    return ends_order(cycle.level_of(order), order.intent.leg, by_person=order.intent.origin == "human")


def _was_asked_lately(order: OrderRow, now_ms: int) -> bool:
    asked_ms = order.cancel_asked_at_ms
    return asked_ms is not None and now_ms < next_cancel_ms(asked_ms, order.cancel_tries)


def cancel_orders(cycle: Cycle) -> None:
    """Send the cancels that are due, and read each order: only the read ends it. What was asked before is read before it is asked again."""
    due = [
        order for order in cycle.live(OrderState.CANCEL_REQUESTED) if order.next_look_at_ms is None or order.next_look_at_ms <= cycle.now_ms
    ]
    due = [order for order in due if order.cancel_tries == 0 or _is_still_there(cycle, order)]
    killed = [order for order in cycle.live(OrderState.UNKNOWN) if _is_killed(cycle, order) and not _was_asked_lately(order, cycle.now_ms)]
    asked_ms = cycle.now_ms
    if asked := [*(cycle.orders[order.client_order_id] for order in due), *killed]:
        with cycle.trading.stores.open() as work:
            work.orders.note_cancels_asked([order.client_order_id for order in asked], asked_ms)
    for order in asked:
        _cancel(cycle, replace(order, cancel_asked_at_ms=asked_ms, cancel_tries=order.cancel_tries + 1))
    _report_stuck(cycle)


def _is_still_there(cycle: Cycle, order: OrderRow) -> bool:
    after = order
    with cycle.handling(order):
        after = _read(cycle, order, is_refused=False)
    return after.state is OrderState.CANCEL_REQUESTED


def _cancel(cycle: Cycle, order: OrderRow) -> None:
    trading = cycle.trading
    with cycle.handling(order):
        cycle.keep_lease()
        trading.at("before_cancel_wire")
        reply = trading.broker.cancel_order(order.symbol, order.client_order_id, order.venue_order_id)
        trading.at("after_cancel_wire")
        cycle.counts["cancels_asked"] += 1
        cycle.orders[order.client_order_id] = order
        if order.state is OrderState.UNKNOWN:  # cancelled by our id; what it is, the ladder finds out
            return
        after = _read(cycle, order, is_refused=_is_refused(trading.broker.traits.profile, reply.answer))
        if after.version == order.version:
            note_quiet(cycle, [after], None)


def _read(cycle: Cycle, order: OrderRow, *, is_refused: bool) -> OrderRow:
    reading = fetch_reading(cycle.trading, order)
    if not isinstance(reading, Reading):
        return order
    proof = Proof(code="CANCEL_REFUSED") if is_refused else Proof()
    return adopt_reading(cycle, order, reading, proof=proof, is_cancel_refused=is_refused)


def _is_refused(profile: VenueProfile, answer: RawAnswer) -> bool:
    """Tell whether the venue itself has refused a cancel, and not its limiter, its clock or its door; by itself that proves nothing."""
    if answer.transport is not Transport.ANSWERED or answer.status is None or answer.status >= 500:
        return False
    verdict = classify_answer(profile, answer, "")
    if verdict.answer_class in {AnswerClass.LIMITED, AnswerClass.CLOCK} or verdict.reason == "AUTH":
        return False
    return verdict.code not in {"", *profile.ok_codes}


def _report_stuck(cycle: Cycle) -> None:
    """Report what was to leave a minute ago and is still there, whether its cancels are not confirmed or refused."""
    for order in cycle.live(OrderState.CANCEL_REQUESTED, OrderState.OPEN, OrderState.PARTIAL, OrderState.UNKNOWN):
        if order.cancel_tries >= STUCK_TRIES:
            cycle.triggers.add(Trigger.CANCEL_FAILURES)
        if order.cancel_requested_at_ms is not None and is_cancel_stuck(order.cancel_requested_at_ms, cycle.now_ms):
            evidence = {"symbol": order.symbol, "tries": order.cancel_tries, "first_asked_ms": order.cancel_requested_at_ms}
            with cycle.trading.stores.open() as work:
                open_incident(work, "CANCEL_UNCONFIRMED", Severity.CRITICAL, order.client_order_id, evidence)
