"""From a plan to the order it asks for: leg, side, price and quantity on the venue's grid, and what the gate wants to know of it."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from regime_pipeline.errors import CallerError
from regime_pipeline.execution.bounds import compute_decide_by_ms
from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.execution.paper import FIXED_BPS, HALF_SPREAD_MAJOR_BPS, HALF_SPREAD_OTHER_BPS
from regime_pipeline.execution.rounding import plan_exit_qty, plan_qty, round_price, round_stop
from regime_pipeline.portfolio.actions import ActionKind
from regime_pipeline.portfolio.money import BPS, ONE, ZERO, precise, to_decimal
from regime_pipeline.portfolio.plan import Plan
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.ports import NewIntent, OrderType
from regime_pipeline.risk.gate_view import OrderRequest
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.limits import RiskSettings
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.context import TradingTerms

LEGS: Final = {
    ActionKind.ENTRY: Leg.ENTRY,
    ActionKind.ADD: Leg.ADD,
    ActionKind.TRIM: Leg.TRIM,
    ActionKind.EMERGENCY_EXIT: Leg.EXIT,
}
EXPECTED_ATRS: Final = 3
"""What an entry is expected to earn, in ATR of the decided bar."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """What an order is priced with.

    Parameters
    ----------
    mark : Decimal or None
        Newest close; None when no price is known, and then nothing is ordered.
    taker_bps : Decimal
        Fee of a taking order.
    held_qty : Decimal or None
        What the venue holds of it; None when it could not be asked, and then the ledger alone says what can be sold.
    """

    rules: InstrumentRules
    mark: Decimal | None
    taker_bps: Decimal
    is_major: bool
    cluster: str
    held_qty: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """An order that may be asked for, or why there is none: then `request` is None and `codes` say what it fell short of."""

    key: LogicalKey
    request: OrderRequest | None = None
    codes: tuple[ReasonCode, ...] = ()


@precise
def draft_order(
    plan: Plan,
    symbol: str,
    strategy: str,
    bar_close_s: int,
    bar_s: int,
    ledger_qty: Decimal,
    instrument: Instrument,
    terms: TradingTerms,
    limits: RiskSettings,
) -> Draft:
    """Draft the order of a plan that acts.

    An entry is a marketable limit `entry_through_bps` above the decided close, its quantity what the planned money buys at that limit.
    Trims and exits ask for the decided close first; what they do not get there goes through the book later, by the executor.

    Parameters
    ----------
    ledger_qty : Decimal
        What the strategy holds by the ledger.
    """
    if plan.kind is None or plan.size is None:
        raise CallerError(f"position {plan.position_id}, bar {plan.bar_ts_s}: a hold asks for no order. Draft plans that act.")
    leg = LEGS[plan.kind]
    key = LogicalKey(terms.account, strategy, symbol, bar_close_s, leg)
    close = to_decimal(plan.price) if plan.price is not None else instrument.mark
    if close is None:
        return Draft(key, codes=(ReasonCode.DATA_GAP,))
    decide_by_ms = compute_decide_by_ms(bar_close_s, bar_s, limits)
    if leg in {Leg.ENTRY, Leg.ADD}:
        return _draft_buy(key, plan, close, instrument, terms, limits, decide_by_ms)
    return _draft_sale(key, plan, close, ledger_qty, instrument, terms, decide_by_ms)


def _draft_buy(
    key: LogicalKey, plan: Plan, close: Decimal, instrument: Instrument, terms: TradingTerms, limits: RiskSettings, decide_by_ms: int
) -> Draft:
    rules = instrument.rules
    through = close * (1 + terms.entry_through_bps / BPS)
    limit = round_price(through, rules.tick, Side.BUY) if through >= rules.tick else ZERO
    stop = limit * (ONE - terms.default_stop_frac)
    if stop < rules.tick:
        return Draft(key, codes=(ReasonCode.BAD_TICK,))  # the grid has no price below the limit where the stop could lie
    budget = min((plan.size and plan.size.notional_usd) or ZERO, limits.max_order_quote)
    qty = plan_qty(budget / limit, limit, rules)
    if qty == 0:
        return Draft(key, codes=_shortfall(budget / limit, limit, rules))
    cost = qty * limit
    half_spread = HALF_SPREAD_MAJOR_BPS if instrument.is_major else HALF_SPREAD_OTHER_BPS
    request = OrderRequest(
        client_order_id=key.client_order_id,
        account=key.account,
        strategy=key.strategy,
        symbol=key.symbol,
        cluster=instrument.cluster,
        leg=key.leg,
        side=Side.BUY,
        qty=qty,
        price=limit,
        notional_quote=qty * through,
        origin="strategy",
        mode=terms.mode,
        decide_by_ms=decide_by_ms,
        stop_price=round_stop(stop, rules.tick, Side.SELL),
        gap_quote=cost * limits.exit_slippage_cap_bps / BPS,
        cost_quote=cost * 2 * (instrument.taker_bps + half_spread + FIXED_BPS) / BPS,
        expected_move_quote=EXPECTED_ATRS * to_decimal(plan.atr) * qty if plan.atr is not None else None,
    )
    return Draft(key, request)


def _draft_sale(
    key: LogicalKey, plan: Plan, close: Decimal, ledger_qty: Decimal, instrument: Instrument, terms: TradingTerms, decide_by_ms: int
) -> Draft:
    rules = instrument.rules
    limit = round_price(close, rules.tick, Side.SELL)
    wanted = ledger_qty if key.leg is Leg.EXIT else min(ledger_qty, (plan.size and plan.size.quantity) or ZERO)
    held = wanted if instrument.held_qty is None else instrument.held_qty
    qty = plan_exit_qty(wanted, held, limit, rules).qty
    if qty == 0:
        return Draft(key, codes=_shortfall(min(wanted, held), limit, rules))
    request = OrderRequest(
        client_order_id=key.client_order_id,
        account=key.account,
        strategy=key.strategy,
        symbol=key.symbol,
        cluster=instrument.cluster,
        leg=key.leg,
        side=Side.SELL,
        qty=qty,
        price=limit,
        notional_quote=qty * limit,
        origin="strategy",
        mode=terms.mode,
        decide_by_ms=decide_by_ms,
    )
    return Draft(key, request)


def build_intent(request: OrderRequest, key: LogicalKey, qty: Decimal, mid: Decimal | None, *, is_contract: bool) -> NewIntent:
    """Build what is written down to be sent; `qty` is what the gate left of the order."""
    return NewIntent(
        key=key,
        side=request.side,
        type=OrderType.LIMIT,
        qty=qty,
        mode=request.mode,
        decide_by_ms=request.decide_by_ms,
        limit_price=request.price,
        # a spot account cannot sell what it has not: there is nothing to ask the venue for
        reduce_only=is_contract and not request.is_entry,
        origin=request.origin,
        decision_mid=mid,
    )


def _shortfall(qty: Decimal, price: Decimal, rules: InstrumentRules) -> tuple[ReasonCode, ...]:
    """Say what the venue would refuse an order of this size for."""
    rounded = qty - qty % rules.step
    if rounded <= 0:
        return (ReasonCode.ZERO_SIZE,)
    below = {ReasonCode.BELOW_MIN_QTY: rounded < rules.min_qty, ReasonCode.BELOW_MIN_COST: rounded * price < rules.min_cost_quote}
    return tuple(code for code, is_below in below.items() if is_below) or (ReasonCode.ZERO_SIZE,)
