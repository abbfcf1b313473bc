"""One tick of a strategy, decided: levers once per bucket, then a plan for every position; pure, and the same for the same inputs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from regime_pipeline.portfolio.actions import BUYS
from regime_pipeline.portfolio.money import EXACT, ZERO, to_decimal
from regime_pipeline.portfolio.plan import Levers, Outcome, Plan, Refusal
from regime_pipeline.portfolio.position import Position, step_position
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.portfolio.rules import plan_position
from regime_pipeline.portfolio.tick import LineInputs, TickInputs
from regime_pipeline.regime.levers import LeverInput, LeverResult, compute_levers

UNKNOWN_BUCKET = "unknown"
"""Group of the positions that hear no bucket driver."""


@dataclass(frozen=True, slots=True)
class LineDecision:
    """What was decided for one position, and the position with this bar taken in."""

    symbol: str
    bucket: str | None
    plan: Plan
    position: Position


@dataclass(frozen=True, slots=True)
class TickDecision:
    """Levers by bucket with what they were computed from, and a line per position in the order of the inputs."""

    levers: Mapping[str, tuple[LeverInput, LeverResult]]
    lines: tuple[LineDecision, ...]


def decide(inputs: TickInputs) -> TickDecision:
    """Decide a tick: step episodes and blocks, compute levers, plan each position.

    Buys share the free cash in the order of the lines: what one of them plans to spend, the next one does not have. A buy is refused
    where entries are off or the symbol is being sold; an exit or trim never is.
    """
    levers = {group_of(line.bucket): None for line in inputs.lines}
    found = {bucket: (given := lever_input(inputs, bucket), compute_levers(given)) for bucket in levers}
    return TickDecision(found, tuple(_decide_lines(inputs, found)))


def group_of(bucket: str | None) -> str:
    """Name the group of positions that share their levers."""
    return UNKNOWN_BUCKET if bucket is None else bucket


def lever_input(inputs: TickInputs, group: str) -> LeverInput:
    """Say what the levers of a group of positions depend on."""
    return LeverInput(
        exec_timeframe=inputs.timeframe.value,
        bucket=None if group == UNKNOWN_BUCKET else group,
        channels=inputs.channels,
        regime_strength=inputs.regime_strength,
        book_id=inputs.book_id,
        timeframes=inputs.timeframes,
        min_validity=inputs.min_validity,
    )


def _decide_lines(inputs: TickInputs, levers: Mapping[str, tuple[LeverInput, LeverResult]]) -> Iterator[LineDecision]:
    shown = {bucket: Levers(found.A_value, found.E_value, found.degraded) for bucket, (_, found) in levers.items()}
    book, opposed = inputs.book, frozenset(inputs.opposed)
    for line in inputs.lines:
        position = _step(line, inputs.bar_ts_s)
        plan = plan_position(position, line.facts, inputs.bar_ts_s, shown[group_of(line.bucket)], book)
        if plan.outcome is Outcome.ACT and plan.kind in BUYS:
            plan = _refuse_buy(plan, inputs, is_opposed=line.symbol in opposed)
            book = replace(book, free_cash_usd=EXACT.subtract(book.free_cash_usd, _spent(plan)))
        yield LineDecision(line.symbol, line.bucket, plan, position)


def _step(line: LineInputs, bar_ts_s: int) -> Position:
    facts = line.facts
    if facts is None or facts.ts_s != bar_ts_s:
        return line.position
    return step_position(line.position, bar_ts_s, facts.state, to_decimal(facts.price))


def _refuse_buy(plan: Plan, inputs: TickInputs, *, is_opposed: bool) -> Plan:
    """Hold instead of buying where something forbids it, and keep what would have been done as the refusal."""
    reasons = list(inputs.entries_off)
    if is_opposed:
        reasons.append((ReasonCode.OPPOSITE_SIGNAL, "the symbol is being sold, and the exit wins"))
    rule = plan.rule
    if not reasons or rule is None:
        return plan
    refusals = tuple(Refusal(rule, code, f"{why}, else: {plan.kind}") for code, why in reasons)
    codes = tuple(dict.fromkeys(code for code, _ in reasons))
    return replace(plan, outcome=Outcome.HOLD, kind=None, signal=None, size=None, codes=codes, refusals=(*plan.refusals, *refusals))


def _spent(plan: Plan) -> Decimal:
    return plan.size.notional_usd or ZERO if plan.size else ZERO
