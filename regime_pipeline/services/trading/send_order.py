"""The only place that sends an order: committed before the wire, checked once more in memory, sent once, and its answer judged by proof."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from regime_pipeline.errors import BrokerConfirmationRequiredError, DatabaseError, LeaseLostError, RegimeError
from regime_pipeline.execution.answers import Action, AnswerClass, AnswerVerdict, RawAnswer, classify_answer, plan_pause_s
from regime_pipeline.execution.bounds import compute_rest_until_ms
from regime_pipeline.execution.keys import spell_client_id
from regime_pipeline.execution.ladder import WAITS_MS
from regime_pipeline.execution.order_states import Guard, OrderState
from regime_pipeline.execution.redact import redact_answer
from regime_pipeline.ports import CreateReply, OrderChange, OrderRow, Pause, PauseKind, Proof, Severity, Work
from regime_pipeline.risk.arm import ArmRow, Mode, missing_arm_parts
from regime_pipeline.risk.kill_switch import Switch, is_allowed, worst_level
from regime_pipeline.risk.purpose import Leg, Purpose
from regime_pipeline.services.trading.adopt_reading import Reading, book_reading, fetch_reading
from regime_pipeline.services.trading.again import run_again
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.cycle import Cycle, next_look_ms, note_pause
from regime_pipeline.services.trading.incidents import close_incident, open_incident
from regime_pipeline.services.trading.move_order import move_order

AUTH_REFUSALS: Final = 3
"""So many refusals of the key in a row stop entries and page."""
ENTRIES_OFF_S: Final = 60
"""So long entries wait after a page of somebody before the venue; then one may ask whether the venue itself speaks again."""
VENUE_INCIDENTS: Final = ("VENUE_PAGE", "VENUE_CLOSED")
"""Incidents that are over as soon as the venue takes orders again."""
_DEFECTS: Final = frozenset({"CONFIG", "FILTER", "BAD_SYMBOL", "BAD_REQUEST"})
"""Refusals that our own validation should have made."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An order that has been on the wire, and what came back; not recorded yet."""

    order: OrderRow
    reply: CreateReply
    verdict: AnswerVerdict
    reading: Reading | None


def send_orders(cycle: Cycle, orders: Iterable[OrderRow], may_be_sent: Callable[[OrderRow], bool]) -> None:
    """Send orders that are INTENT, each once, one after the other, and record what came of each.

    An acceptance is recorded in the transaction that commits the next order to be sent: a commit less per order. Every other answer
    is recorded by itself, before anything else leaves.

    Parameters
    ----------
    orders : iterable of OrderRow
        Asked for one by one, so that it may end when the time is up.
    may_be_sent : callable
        Asked before each, when the answer to the one before is known.

    Raises
    ------
    LeaseLostError
        When the lease is ours no more; a step before the wire was not made, one after it is left to recovery.
    """
    answered: Answered | None = None
    for order in orders:
        if answered is not None and not (_is_plain(answered) and answered.order.symbol != order.symbol):
            _record(cycle, answered)
            answered = None
        if not may_be_sent(order):
            continue
        before, answered = answered, None
        with cycle.handling(order):
            answered = _send(cycle, order, before)
    if answered is not None:
        _record(cycle, answered)


def _is_plain(answered: Answered) -> bool:
    return answered.verdict.answer_class is AnswerClass.ACCEPTED and not answered.verdict.actions


def _send(cycle: Cycle, order: OrderRow, before: Answered | None) -> Answered | None:
    """B to E of one order; None when it did not leave."""
    trading = cycle.trading
    sent, arm = _commit_sending(cycle, order, before)
    if sent.state is not OrderState.SUBMITTING or sent.sent_at_ms is None:
        return None
    refusal = check_wire(cycle, sent, arm)
    if refusal is not None:
        _book_unsent(cycle, sent, refusal)
        return None
    trading.at("before_wire")
    reply = trading.broker.create_order(sent.intent.spec, sent.sent_at_ms, 1000 * trading.limits.request_window_s)
    trading.at("after_wire")
    cycle.counts["sent"] += 1
    profile = trading.broker.traits.profile
    verdict = classify_answer(profile, reply.answer, spell_client_id(sent.client_order_id, profile.client_id_form))
    reading = fetch_reading(trading, sent) if verdict.has_moved else None
    return Answered(sent, reply, verdict, reading if isinstance(reading, Reading) else None)


def _commit_sending(cycle: Cycle, order: OrderRow, before: Answered | None) -> tuple[OrderRow, ArmRow | None]:
    """tx2: what says that the order is about to leave is there before it leaves, or it does not leave."""
    asked_s = cycle.trading.monotonic()

    def write() -> tuple[OrderRow | None, OrderRow, ArmRow | None]:
        with cycle.trading.stores.open() as work:
            recorded = _write_answer(work, cycle, before) if before is not None else None
            return recorded, *_begin(work, cycle, order)

    try:
        recorded, after, arm = run_again(cycle.trading, write)
    except (LeaseLostError, DatabaseError):
        raise
    except RegimeError:
        if before is None:
            raise
        _record(cycle, before)  # one of the two was refused: each by itself
        return _commit_sending(cycle, order, None)
    if before is not None and recorded is not None:
        cycle.keep(before.order, recorded)
    if after.state is OrderState.SUBMITTING:
        cycle.confirmed_s = asked_s
    return cycle.keep(order, after), arm


def _begin(work: Work, cycle: Cycle, order: OrderRow) -> tuple[OrderRow, ArmRow | None]:
    trading, intent = cycle.trading, order.intent
    cycle.switches = work.safety.load_switches(intent.key.account)
    arm = work.safety.load_arm(intent.key.account) if intent.mode is Mode.LIVE else None
    now_ms = cycle.now_ms
    reason = refuse_intent(trading, order, cycle.switches, now_ms)
    if reason is not None:
        return _drop(work, cycle, order, reason), arm
    held = {Guard.CLIENT_ID_STORED, Guard.LEASE_HELD, Guard.BEFORE_DECIDE_BY, Guard.NOT_KILLED, Guard.MODE_MATCHES}
    expires_ms = now_ms + 1000 * trading.limits.request_window_s if trading.broker.traits.profile.expires else None
    rest_ms = compute_rest_until_ms(now_ms, order.purpose, is_target=intent.leg is Leg.TP, limits=trading.limits)
    change = OrderChange(sent_at_ms=now_ms, request_expires_at_ms=expires_ms, rest_until_ms=rest_ms)
    after = move_order(work, order, OrderState.SUBMITTING, held, lease=cycle.lease, change=change, renews_lease=True)
    trading.at("before_submitting_commit")
    return after, arm


def refuse_intent(trading: Trading, order: OrderRow, switches: list[Switch], now_ms: int) -> str | None:
    """Say why an intent is not sent any more, by its time, the levels of table and file, and the mode."""
    key, intent = order.intent.key, order.intent
    if now_ms >= intent.decide_by_ms:  # first: a recovery holds entries back, and is no reason for one that was too late anyway
        return "NEVER_SENT"
    level = worst_level((*switches, *trading.latch.read()), key.account, key.strategy, key.symbol)
    if not is_allowed(level, intent.leg, by_person=intent.origin == "human"):
        return "KILLED"
    if intent.mode is not trading.terms.mode:
        return "MODE_MISMATCH"
    return None


def drop_intent(cycle: Cycle, order: OrderRow, reason: str) -> OrderRow:
    """End an order that is not to be sent: cancelled, or rejected where it should not have been written for this executor."""
    with cycle.trading.stores.open() as work:
        after = _drop(work, cycle, order, reason)
    return cycle.keep(order, after)


def _drop(work: Work, cycle: Cycle, order: OrderRow, reason: str) -> OrderRow:
    new = OrderState.REJECTED if reason == "MODE_MISMATCH" else OrderState.CANCELLED
    return move_order(work, order, new, {Guard.REASON_GIVEN}, lease=cycle.lease, proof=Proof(code=reason))


def check_wire(cycle: Cycle, order: OrderRow, arm: ArmRow | None) -> str | None:
    """Check in memory, just before the wire, what may have changed since the commit; None when the order may leave.

    Raises
    ------
    LeaseLostError
        When the lease had to be confirmed again and is ours no more.
    """
    trading, intent = cycle.trading, order.intent
    cycle.keep_lease()
    now_ms = cycle.now_ms
    reason = refuse_intent(trading, order, cycle.switches, now_ms)
    if reason is not None:
        return reason
    if intent.purpose is not Purpose.ENTRY:  # an account that is not armed may still reduce
        return None
    missing = missing_arm_parts(
        mode=trading.terms.mode,
        account=trading.terms.account,
        fingerprint=trading.terms.key_fingerprint,
        acknowledged_account=trading.terms.acknowledged_account,
        row=arm,
        now_s=now_ms // 1000,
    )
    return "NOT_ARMED" if missing else None


def _book_unsent(cycle: Cycle, order: OrderRow, reason: str) -> OrderRow:
    """End an order that was about to be sent and was not: we know it, because it is we who did not send it."""
    proof = Proof(AnswerClass.NOT_SENT.value, reason)
    with cycle.trading.stores.open() as work:
        after = move_order(work, order, OrderState.REJECTED, {Guard.VENUE_ERROR_IS_FINAL}, lease=cycle.lease, proof=proof)
    return cycle.keep(order, after)


def _record(cycle: Cycle, answered: Answered) -> None:
    """tx3: the step that the answer proves. Whatever fails here leaves SUBMITTING to recovery; the wire is never repeated."""

    def write() -> OrderRow:
        with cycle.trading.stores.open() as work:
            return _write_answer(work, cycle, answered)

    with cycle.handling(answered.order):
        try:
            after = run_again(cycle.trading, write)
        except BrokerConfirmationRequiredError as error:
            proof = _proof_of(answered.reply.answer, answered.verdict)
            told = replace(proof, evidence={**proof.evidence, "refused": str(error)})
            with cycle.trading.stores.open() as work:
                after = _to_unknown(work, cycle, answered.order, told)
        cycle.keep(answered.order, after)
        if Action.COUNT_AUTH_REFUSAL in answered.verdict.actions:
            _count_auth_refusals(cycle)


def _write_answer(work: Work, cycle: Cycle, answered: Answered) -> OrderRow:
    cycle.trading.at("after_answer")
    after = _step(work, cycle, answered)
    _follow(work, cycle, answered.order, answered.reply, answered.verdict)
    cycle.trading.at("after_step")
    return after


def _step(work: Work, cycle: Cycle, answered: Answered) -> OrderRow:
    order, verdict, reading = answered.order, answered.verdict, answered.reading
    proof = _proof_of(answered.reply.answer, verdict)
    if verdict.answer_class is not AnswerClass.ACCEPTED:
        if verdict.next_state is OrderState.REJECTED:
            return move_order(work, order, OrderState.REJECTED, {Guard.VENUE_ERROR_IS_FINAL}, lease=cycle.lease, proof=proof)
        return _to_unknown(work, cycle, order, proof)
    if reading is not None:
        after = book_reading(work, cycle, order, reading, proof=proof)
        if after.state is not OrderState.SUBMITTING:
            return after
        order = after
    change = OrderChange(
        venue_order_id=verdict.venue_order_id,
        last_seen_at_ms=cycle.now_ms,
        next_look_at_ms=next_look_ms(order, OrderState.OPEN, cycle.now_ms),
    )
    held = {Guard.VENUE_ID_PRESENT, Guard.ECHO} if verdict.venue_order_id else set()
    return move_order(work, order, OrderState.OPEN, held, lease=cycle.lease, proof=proof, change=change)


def _to_unknown(work: Work, cycle: Cycle, order: OrderRow, proof: Proof) -> OrderRow:
    change = OrderChange(unknown_at_ms=cycle.now_ms, next_look_at_ms=cycle.now_ms + WAITS_MS[0])
    return move_order(work, order, OrderState.UNKNOWN, (), lease=cycle.lease, proof=proof, change=change)


def settle_left_over(cycle: Cycle, order: OrderRow) -> OrderRow:
    """Turn an order that somebody was about to send, and did not record, into one to be looked for; it is never sent again."""
    with cycle.trading.stores.open() as work:
        after = _to_unknown(work, cycle, order, Proof(code="LEFT_OVER", evidence={"token": order.lease_token}))
    return cycle.keep(order, after)


def _proof_of(answer: RawAnswer, verdict: AnswerVerdict) -> Proof:
    evidence = {"transport": answer.transport.value, "venue_code": verdict.code} if verdict.code else {"transport": answer.transport.value}
    return Proof(verdict.answer_class.value, verdict.reason, answer.status, redact_answer(answer.body), evidence)


def _follow(work: Work, cycle: Cycle, order: OrderRow, reply: CreateReply, verdict: AnswerVerdict) -> None:
    """Do in the same transaction what else an answer asks for."""
    for action in verdict.actions:
        if action in _FOLLOW:
            _FOLLOW[action](work, cycle, order, reply)
    if verdict.reason in _DEFECTS and verdict.answer_class is AnswerClass.REFUSED:
        _report_refusal(work, cycle, order, reply)
    # the venue itself has spoken, and not to say that it is closed
    if verdict.answer_class in {AnswerClass.ACCEPTED, AnswerClass.REFUSED} and Action.ENTRIES_OFF not in verdict.actions:
        for kind in list(cycle.pauses):
            note_pause(work, cycle, Pause(kind, cycle.now_ms, 0))
            del cycle.pauses[kind]
            for incident in VENUE_INCIDENTS:
                close_incident(work, incident, cycle.trading.broker.traits.venue, "executor")


def _pause_creates(work: Work, cycle: Cycle, _order: OrderRow, reply: CreateReply) -> None:
    last = cycle.pauses.get(PauseKind.CREATES)
    length_s = plan_pause_s(reply.retry_after_s, last.length_s if last else None)
    note_pause(work, cycle, Pause(PauseKind.CREATES, cycle.now_ms + 1000 * length_s, length_s))


def _pause_entries(work: Work, cycle: Cycle, order: OrderRow, reply: CreateReply) -> None:
    """Entries wait, while reads and cancels go on: somebody before the venue has answered, or the venue takes no orders."""
    note_pause(work, cycle, Pause(PauseKind.ENTRIES, cycle.now_ms + 1000 * ENTRIES_OFF_S, ENTRIES_OFF_S))
    evidence = {"order": order.client_order_id, "http_status": reply.answer.status, "raw": redact_answer(reply.answer.body)[:500]}
    traits = cycle.trading.broker.traits
    is_refusal = classify_answer(traits.profile, reply.answer, "").answer_class is AnswerClass.REFUSED
    open_incident(work, "VENUE_CLOSED" if is_refusal else "VENUE_PAGE", Severity.WARNING, traits.venue, evidence)


def _report_refusal(work: Work, _cycle: Cycle, order: OrderRow, reply: CreateReply) -> None:
    evidence = {"symbol": order.symbol, "http_status": reply.answer.status, "raw": redact_answer(reply.answer.body)[:500]}
    open_incident(work, "CONFIG_REFUSED", Severity.WARNING, order.client_order_id, evidence)


def _measure_clock(_work: Work, cycle: Cycle, _order: OrderRow, _reply: CreateReply) -> None:
    cycle.wants.add("measure_clock")


def _check_balances(_work: Work, cycle: Cycle, _order: OrderRow, _reply: CreateReply) -> None:
    cycle.wants.add("check_balances")


_FOLLOW: Final[dict[Action, Callable[[Work, Cycle, OrderRow, CreateReply], None]]] = {
    Action.PAUSE_CREATES: _pause_creates,
    Action.ENTRIES_OFF: _pause_entries,
    Action.REPORT_CONFIG: _report_refusal,
    Action.MEASURE_CLOCK: _measure_clock,
    Action.CHECK_BALANCES: _check_balances,
}


def _count_auth_refusals(cycle: Cycle) -> None:
    """Three refusals of the key in a row are no accident: entries stop until a create is taken again, and a person is paged."""
    account = cycle.trading.terms.account
    with cycle.trading.stores.open() as work:
        if work.orders.load_last_codes(account, AUTH_REFUSALS) == ["AUTH"] * AUTH_REFUSALS:
            note_pause(work, cycle, Pause(PauseKind.ENTRIES, cycle.now_ms + 1000 * ENTRIES_OFF_S, ENTRIES_OFF_S))
            open_incident(work, "AUTH_REFUSED", Severity.CRITICAL, account, {"refusals_in_a_row": AUTH_REFUSALS})
            cycle.wants.add("page_auth")
