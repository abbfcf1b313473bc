"""A sale outside a tick, for a stop or a hard stop: through the gate, one order of its name at a time, through the book."""

from dataclasses import dataclass
from decimal import Decimal, localcontext

from regime_pipeline.execution.bounds import OUTSIDE_TICK_MS
from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.execution.rounding import round_price
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.actions import ActionKind, Funding, Signal
from regime_pipeline.portfolio.money import BPS, ONE, QUOTIENT
from regime_pipeline.portfolio.plan import Bound, Outcome, Plan, Size
from regime_pipeline.ports import IntentOutcome, NewAction, NewIntent, OrderType, Quote, Severity, TimeInForce, Work
from regime_pipeline.risk.gate import run_gate
from regime_pipeline.risk.gate_view import OrderRequest
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.build_gate_view import SymbolView, build_gate_view
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.load_guarded import Guarded
from regime_pipeline.services.trading.read_account import VenueState, read_account
from regime_pipeline.services.trading.write_intents import write_intents


@dataclass(frozen=True, slots=True)
class Demand:
    """Who asks for a sale: leg and instant (epoch seconds) that name its orders, and the incident and source of one that is refused."""

    leg: Leg
    at_s: int
    refused: str
    source: str


@dataclass(frozen=True, slots=True)
class Sale:
    """What became of it: the order that was written, or the codes of the gate that refused it; neither while another is on its way."""

    client_order_id: str | None = None
    codes: tuple[str, ...] = ()


def find_lowest_price(trading: Trading, each: Guarded, mid: Decimal) -> Decimal:
    """Find the limit of a sale: as far below the mid as an exit may slip, on the tick."""
    with localcontext(QUOTIENT):
        return round_price(mid * (ONE - trading.limits.exit_slippage_cap_bps / BPS), each.rules.tick, Side.SELL)


def sell_at_once(work: Work, trading: Trading, each: Guarded, demand: Demand, *, qty: Decimal, limit: Decimal, quote: Quote | None) -> Sale:
    """Write the next order of a demand, unless the one before is still on its way; the account's order lock must be held.

    Parameters
    ----------
    qty, limit : Decimal
        On step and tick; the gate may make the quantity less.
    quote : Quote or None
        None: the venue tells no price, and the gate judges by what it knows.
    """
    terms, now_ms = trading.terms, trading.clock.now_ms()
    children = work.recon.load_children(terms.account, each.strategy, each.symbol, demand.at_s, demand.leg)
    if children and not OrderState(children[-1][2]).is_terminal:
        return Sale()
    key = LogicalKey(terms.account, each.strategy, each.symbol, demand.at_s, demand.leg, len(children))
    request = OrderRequest(
        key.client_order_id, terms.account, each.strategy, each.symbol, "unknown", demand.leg, Side.SELL, qty, limit, qty * limit, "risk",
        terms.mode, now_ms + OUTSIDE_TICK_MS,
    )  # fmt: skip
    account = read_account(work, trading, now_ms, trips=(), venue=VenueState(is_up=quote is not None))
    verdict = run_gate(request, build_gate_view(account, request, SymbolView(each.rules, (), quote, None)), trading.limits)
    if not verdict.is_passed:
        codes = tuple(code.value for code in verdict.codes)
        why = [finding.detail for finding in verdict.findings]
        evidence = {"codes": list(codes), "why": why, "stop": str(each.price), "qty": str(qty)}
        open_incident(work, demand.refused, Severity.CRITICAL, f"{terms.account}|{each.symbol}", evidence, demand.source)
        return Sale(codes=codes)
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
        decision_mid=None if quote is None else quote.mid,
    )
    is_there = write_intents(work, trading, [intent])[0].outcome in {IntentOutcome.WRITTEN, IntentOutcome.ADOPTED}
    return Sale(intent.client_order_id if is_there else None)


def _find_or_write_action(work: Work, trading: Trading, each: Guarded, key: LogicalKey, qty: Decimal) -> int | None:
    """The emergency exit of the bar that is running: one action per position and bar, however many orders it takes."""
    bar_ts_s = Timeframe(each.position.timeframe).floor(trading.clock.now_s())
    plan = Plan(
        each.position.position_id,
        bar_ts_s,
        each.position.trade_id,
        a_value=0.0,
        e_value=1.0,  # it wants out, whatever the levers say
        degraded=False,
        outcome=Outcome.ACT,
        kind=ActionKind.EMERGENCY_EXIT,
        signal=Signal.EMERGENCY_EXIT,
        size=Size(Funding.HOLDING, ONE, each.held, Bound.SHARE, quantity=qty),
        price=float(each.price),
    )
    written = work.portfolio.write_actions([NewAction(key.client_order_id, None, plan)])
    return written.get(each.position.position_id) or work.recon.find_action(each.position.position_id, bar_ts_s)
