"""Selling what is held after a hard stop, where that is configured for what caused it: slice by slice, through the book, until flat."""

from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import Final

from regime_pipeline.execution.bounds import OUTSIDE_TICK_MS
from regime_pipeline.execution.bracket import free_to_sell
from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.execution.rounding import plan_qty, round_price
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.actions import ActionKind, Funding, Signal
from regime_pipeline.portfolio.money import BPS, ONE, QUOTIENT
from regime_pipeline.portfolio.plan import Bound, Outcome, Plan, Size
from regime_pipeline.ports import Failed, IntentOutcome, NewAction, NewIntent, OrderType, Quote, Severity, TimeInForce, Work
from regime_pipeline.risk.gate import run_gate
from regime_pipeline.risk.gate_view import OrderRequest
from regime_pipeline.risk.kill_switch import Level, Switch
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.build_gate_view import SymbolView, build_gate_view
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.guard_stops import Guarded, load_guarded
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.read_account import VenueState, read_account
from regime_pipeline.services.trading.write_intents import write_intents

LEAST_QUOTE: Final = Decimal(5)
"""What is worth less stays: it could not be sold anyway."""


@dataclass(slots=True)
class FlattenSummary:
    """What a round came to: orders written, symbols whose price is unknown, and refusals of the gate by symbol."""

    raised: list[str] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)
    refused: dict[str, tuple[str, ...]] = field(default_factory=dict)


def flatten(trading: Trading, switch: Switch) -> FlattenSummary:
    """Write one slice per position that is still held; call it again until nothing is raised.

    Only what the ledger knows is sold, never more than one slice at a time, and it does not pass the parts of the gate that the level
    itself has shut: authority, instrument, position and price are what is checked. Its orders are named after the second in which the level
    was raised, so that two executors, and one that starts again, write the same ones.

    Parameters
    ----------
    switch : Switch
        The hard stop that asks for it.
    """
    summary = FlattenSummary()
    with trading.stores.open() as work:
        held = [each for each in load_guarded(work, trading) if switch.scope.covers(trading.terms.account, each.strategy, each.symbol)]
    for each in held:
        quote = trading.broker.fetch_quote(each.symbol)
        if isinstance(quote, Failed):
            summary.blind.append(each.symbol)
            with trading.stores.open() as work:
                scope = f"{trading.terms.account}|{each.symbol}"
                open_incident(work, "FLATTEN_BLIND", Severity.CRITICAL, scope, {"held": str(each.held), "why": quote.reason}, "kill_level")
            continue
        with trading.stores.open() as work:
            if work.orders.try_lock_account(trading.terms.account):
                _sell_slice(work, trading, switch, each, quote.value, summary)
    return summary


def _sell_slice(work: Work, trading: Trading, switch: Switch, each: Guarded, quote: Quote, summary: FlattenSummary) -> None:
    terms = trading.terms
    children = work.recon.load_children(terms.account, each.strategy, each.symbol, switch.at_s, Leg.FLATTEN)
    if children and not OrderState(children[-1][2]).is_terminal:
        return
    live = [order for order in work.orders.load_live(terms.account, each.symbol) if order.intent.key.strategy == each.strategy]
    claimed = [(order.purpose, order.remaining) for order in live]  # what a stop at the venue protects is left to it
    limit = _limit_price(quote, each, trading)
    with localcontext(QUOTIENT):
        most = trading.limits.max_order_quote / quote.mid
    qty = plan_qty(min(free_to_sell(each.held, claimed, each.rules.step), most), limit, each.rules)
    if qty * quote.mid < LEAST_QUOTE:
        return
    key = LogicalKey(terms.account, each.strategy, each.symbol, switch.at_s, Leg.FLATTEN, len(children))
    now_ms = trading.clock.now_ms()
    request = OrderRequest(
        key.client_order_id, terms.account, each.strategy, each.symbol, "unknown", Leg.FLATTEN, Side.SELL, qty, limit, qty * limit, "risk",
        terms.mode, now_ms + OUTSIDE_TICK_MS,
    )  # fmt: skip
    account = read_account(work, trading, now_ms, trips=(), venue=VenueState(is_up=True))
    view = build_gate_view(account, request, SymbolView(each.rules, (), quote, None))
    verdict = run_gate(request, view, trading.limits)
    if not verdict.is_passed:
        summary.refused[each.symbol] = tuple(code.value for code in verdict.codes)
        evidence = {"codes": list(summary.refused[each.symbol]), "why": [finding.detail for finding in verdict.findings]}
        open_incident(work, "FLATTEN_REFUSED", Severity.CRITICAL, f"{terms.account}|{each.symbol}", evidence, "kill_level")
        return
    intent = NewIntent(
        key,
        Side.SELL,
        OrderType.LIMIT,
        verdict.qty,
        terms.mode,
        now_ms + OUTSIDE_TICK_MS,
        limit_price=limit,
        tif=TimeInForce.IOC,
        reduce_only=trading.broker.traits.market_type != "spot",
        origin="risk",
        decision_id=each.position.decision_id,
        action_id=_find_or_write_action(work, trading, each, key, verdict.qty),
        replaces_id=children[-1][0] if children else None,
        decision_mid=quote.mid,
    )
    if write_intents(work, trading, [intent])[0].outcome in {IntentOutcome.WRITTEN, IntentOutcome.ADOPTED}:
        summary.raised.append(intent.client_order_id)


def find_cause(switches: tuple[Switch, ...], sources: frozenset[str]) -> Switch | None:
    """The oldest hard stop in force whose source is configured to flatten; None where a higher level forbids it, or there is none."""
    if any(switch.level is Level.PROCESS_STOP for switch in switches):
        return None
    asking = [switch for switch in switches if switch.level is Level.HARD_STOP and switch.source in sources]
    return min(asking, key=lambda switch: switch.at_s, default=None)


def _find_or_write_action(work: Work, trading: Trading, each: Guarded, key: LogicalKey, qty: Decimal) -> int | None:
    """The emergency exit of the bar that is running: one action per position and bar, however many slices it takes."""
    bar_ts_s = Timeframe(each.position.timeframe).floor(trading.clock.now_s())
    plan = Plan(
        each.position.position_id,
        bar_ts_s,
        each.position.trade_id,
        a_value=0.0,
        e_value=1.0,  # whatever the levers say
        degraded=False,
        outcome=Outcome.ACT,
        kind=ActionKind.EMERGENCY_EXIT,
        signal=Signal.EMERGENCY_EXIT,
        size=Size(Funding.HOLDING, ONE, each.held, Bound.SHARE, quantity=qty),
        price=float(each.price),
    )
    written = work.portfolio.write_actions([NewAction(key.client_order_id, None, plan)])
    return written.get(each.position.position_id) or work.recon.find_action(each.position.position_id, bar_ts_s)


def _limit_price(quote: Quote, each: Guarded, trading: Trading) -> Decimal:
    with localcontext(QUOTIENT):
        return round_price(quote.mid * (ONE - trading.limits.exit_slippage_cap_bps / BPS), each.rules.tick, Side.SELL)
