"""The end of a tick: each planned order through the gate and into the tables, one savepoint each, in the transaction of the decision."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from regime_pipeline.errors import DatabaseError, ExecutionError, LeaseLostError
from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.execution.order_states import Guard, OrderState
from regime_pipeline.portfolio.actions import BUYS
from regime_pipeline.portfolio.decide import LineDecision
from regime_pipeline.portfolio.documents import spell
from regime_pipeline.portfolio.plan import Outcome
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.ports import IntentOutcome, NewAction, OrderChange, OrderRow, Proof, Severity, WrittenIntent
from regime_pipeline.risk.gate_view import Finding, GateVerdict
from regime_pipeline.risk.purpose import Purpose
from regime_pipeline.services.trading.draft_order import LEGS, Draft, Instrument, build_intent
from regime_pipeline.services.trading.gate_orders import Placing
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.move_order import move_order
from regime_pipeline.services.trading.write_intents import write_intents

TICK: Final = "tick"
GIVES_WAY: Final = "EXIT_WINS"
"""Code of an order that is taken back because its symbol is to be sold."""


@dataclass(frozen=True, slots=True)
class LineResult:
    """What became of the plan of a line: its outcome, why no order was written, the verdict of the gate, and the order."""

    outcome: Outcome
    codes: tuple[ReasonCode, ...]
    gate: dict[str, Any] | None = None
    client_order_id: str | None = None

    @property
    def is_refused(self) -> bool:
        """Whether something kept a plan that acts from becoming an order."""
        return self.outcome is Outcome.ACT and self.client_order_id is None


class _BlockedError(Exception):
    """Another live order has the place of this one: nothing of it may stay."""


def place_orders(placing: Placing, lines: Sequence[LineDecision], decision_id: UUID) -> dict[str, LineResult]:
    """Take the lines of a decision that act or skip through the gate and write their actions and intents; sales come first.

    An order that fails costs itself only: everything it wrote is undone, and its line says GATE_UNAVAILABLE.

    Returns
    -------
    dict of str to LineResult
        By symbol, of all lines.
    """
    results = {line.symbol: LineResult(line.plan.outcome, line.plan.codes) for line in lines}
    wanted = [line for line in lines if line.plan.outcome is not Outcome.HOLD]
    for line in sorted(wanted, key=lambda each: each.plan.kind in BUYS):  # what is sold is not bought
        results[line.symbol] = _place(placing, line, decision_id)
    return results


def _place(placing: Placing, line: LineDecision, decision_id: UUID) -> LineResult:
    before = placing.account
    try:
        with placing.work.savepoint():
            return _place_one(placing, line, decision_id)
    except (DatabaseError, LeaseLostError):
        raise
    except _BlockedError:
        placing.account = before
        return LineResult(Outcome.ACT, (ReasonCode.LIVE_INTENT_EXISTS,), {"blocked": "another live order has its place"})
    except Exception as error:  # noqa: BLE001 - whatever breaks one order must not cost the others theirs
        placing.account = before
        return LineResult(Outcome.ACT, (ReasonCode.GATE_UNAVAILABLE,), {"error": f"{type(error).__name__}: {error}"})


def _place_one(placing: Placing, line: LineDecision, decision_id: UUID) -> LineResult:
    plan, inputs = line.plan, placing.snapshot.inputs
    if plan.outcome is Outcome.SKIP:
        return _skip(placing, line, decision_id, plan.codes)
    instrument = placing.find_instrument(line)
    if instrument is None:
        return LineResult(Outcome.ACT, (ReasonCode.SYMBOL_INACTIVE,), {"rules": f"the venue's rules of {line.symbol} were never read"})
    draft = placing.draft(line, instrument)
    if draft.request is None:
        return _skip(placing, line, decision_id, draft.codes)
    if plan.kind not in BUYS:
        _give_way(placing, line)
    verdict = placing.judge(draft.request, line, instrument)
    if verdict.needs_page:
        evidence = {"symbol": line.symbol, "findings": [finding.detail for finding in verdict.findings]}
        open_incident(placing.work, "GATE_UNAVAILABLE", Severity.CRITICAL, f"{inputs.account}|{line.symbol}", evidence)
    if not verdict.is_passed:
        return LineResult(Outcome.ACT, verdict.codes, describe_verdict(verdict))
    written = _write(placing, line, decision_id, draft, instrument, verdict)
    placing.account = placing.account.with_order(draft.request, verdict.qty)
    return LineResult(Outcome.ACT, (), describe_verdict(verdict), written.intent.client_order_id)


def _write(
    placing: Placing, line: LineDecision, decision_id: UUID, draft: Draft, instrument: Instrument, verdict: GateVerdict
) -> WrittenIntent:
    """Write action and intent; what the order is measured against later is the middle of the market, or the decided close."""
    work, request = placing.work, draft.request
    if request is None:
        raise _BlockedError
    quote = placing.venue.quotes.get(line.symbol)
    mid = instrument.mark if quote is None else quote.mid
    action = work.portfolio.write_actions([NewAction(draft.key.client_order_id, decision_id, line.plan)])
    intent = build_intent(request, draft.key, verdict.qty, mid, is_contract=not placing.is_spot)
    intent = replace(intent, decision_id=decision_id, action_id=action.get(line.plan.position_id))
    (written,) = write_intents(work, placing.trading, [intent])
    if written.outcome is IntentOutcome.BLOCKED or intent.action_id is None:
        raise _BlockedError
    return written


def _skip(placing: Placing, line: LineDecision, decision_id: UUID, codes: tuple[ReasonCode, ...]) -> LineResult:
    """Record that what was wanted is too small to send."""
    inputs, plan = placing.snapshot.inputs, line.plan
    if plan.kind is not None:
        key = LogicalKey(inputs.account, inputs.strategy, line.symbol, inputs.bar_close_s, LEGS[plan.kind])
        skipped = replace(plan, outcome=Outcome.SKIP, codes=codes)
        placing.work.portfolio.write_actions([NewAction(key.client_order_id, decision_id, skipped)])
    return LineResult(Outcome.SKIP, codes)


def _give_way(placing: Placing, line: LineDecision) -> None:
    """Take back entries in a symbol that is to be sold; the strategy's own trims are the executor's to cancel."""
    for order in placing.work.orders.load_live(placing.snapshot.inputs.account, line.symbol):
        if order.purpose is Purpose.ENTRY:
            _take_back(placing, order)


def _take_back(placing: Placing, order: OrderRow) -> None:
    """Ask for the cancel of an order that rests, end one that was never sent; one that nobody knows the whereabouts of is looked for."""
    proof = Proof(code=GIVES_WAY)
    now_ms = placing.trading.clock.now_ms()
    try:
        if order.state is OrderState.INTENT:
            move_order(placing.work, order, OrderState.CANCELLED, {Guard.REASON_GIVEN}, actor=TICK, proof=proof)
        elif order.state in {OrderState.OPEN, OrderState.PARTIAL}:
            held = {Guard.VENUE_ID_PRESENT, Guard.FILLS_BOOKED, Guard.FILLED_NOT_DECREASING}
            change = OrderChange(cancel_requested_at_ms=now_ms, next_look_at_ms=now_ms)
            move_order(placing.work, order, OrderState.CANCEL_REQUESTED, held, actor=TICK, proof=proof, change=change)
    except ExecutionError:
        return  # somebody else moves it: the gate counts it where it is


def describe_verdict(verdict: GateVerdict) -> dict[str, Any]:
    """Write a verdict as plain JSON values."""
    return {
        "codes": [code.value for code in verdict.codes],
        "findings": _describe(verdict.findings),
        "headroom": None if verdict.headroom_quote is None else spell(verdict.headroom_quote),
        "logged": _describe(verdict.logged),
        "passed": verdict.is_passed,
        "qty": spell(verdict.qty),
    }


def _describe(findings: Sequence[Finding]) -> list[list[str]]:
    return [[finding.code.value, finding.detail] for finding in findings]
