"""Protective stops: the executor compares mid and the last minute with each position's stop, and sells through the gate when it is hit.

A stop is an order outside a tick: it is named after the bar its position was entered on, and lives for a minute. On margin with real
money a stop must rest at the venue, which this product does not do: `demand_safe_stops` keeps such an account without entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import Final

from regime_pipeline.errors import CallerError, ReconciliationError
from regime_pipeline.execution.bounds import OUTSIDE_TICK_MS
from regime_pipeline.execution.bracket import BracketFacts, BracketState, compute_stop_price, free_to_sell, is_stop_hit, judge_bracket
from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.execution.order_states import Guard, OrderState
from regime_pipeline.execution.rounding import plan_qty, round_price, round_stop
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.actions import ActionKind, Funding, Signal
from regime_pipeline.portfolio.money import BPS, ONE, QUOTIENT, ZERO, to_decimal
from regime_pipeline.portfolio.plan import Bound, Outcome, Plan, Size
from regime_pipeline.ports import (
    BarTable,
    Failed,
    GuardedPosition,
    IntentOutcome,
    NewAction,
    NewIntent,
    OrderChange,
    OrderRow,
    OrderType,
    Proof,
    Quote,
    Severity,
    TimeInForce,
    Work,
)
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.gate import run_gate
from regime_pipeline.risk.gate_view import OrderRequest
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Leg, Purpose, Side
from regime_pipeline.services.trading.build_gate_view import SymbolView, build_gate_view
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.load_tick import spell_symbol, strategy_of
from regime_pipeline.services.trading.move_order import move_order
from regime_pipeline.services.trading.read_account import VenueState, read_account
from regime_pipeline.services.trading.write_intents import write_intents

STOPS_EVERY_S: Final = 5
ACTOR: Final = "stop"


@dataclass(frozen=True, slots=True)
class Guarded:
    """A position under its stop; `price` is where the stop lies, on the tick."""

    position: GuardedPosition
    strategy: str
    symbol: str
    held: Decimal
    price: Decimal
    rules: InstrumentRules


@dataclass(slots=True)
class StopSummary:
    """What a look at the stops came to.

    Parameters
    ----------
    looked, raised, blind, refused : int, list, list, dict
        Positions looked at, client order ids raised, symbols whose price is unknown, and codes by symbol where the gate refused.
    states : dict of int to BracketState
        Where each position and its stop stand, by number of the position.
    """

    looked: int = 0
    raised: list[str] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)
    refused: dict[str, tuple[str, ...]] = field(default_factory=dict)
    states: dict[int, BracketState] = field(default_factory=dict)


def guard_stops(trading: Trading) -> StopSummary:
    """Look at every position that is held and raise an exit where its stop is hit; meant for each five seconds.

    With trading switched off nothing is raised, as nothing would be sent.
    """
    summary = StopSummary()
    if not trading.terms.trading_enabled:
        return summary
    with trading.stores.open() as work:
        guarded = load_guarded(work, trading)
        lows = _load_lows(work, trading, guarded)
        live = work.orders.load_live(trading.terms.account) if guarded else []
    quotes = {symbol: trading.broker.fetch_quote(symbol) for symbol in sorted({each.symbol for each in guarded})}
    summary.looked = len(guarded)
    for each in guarded:
        n_raised = len(summary.raised)
        read = quotes[each.symbol]
        quote = None if isinstance(read, Failed) else read.value
        low = lows.get(each.position.position_id)
        if quote is None and low is None:
            _report_blind(trading, each, summary)
        elif is_stop_hit(each.price, mid=None if quote is None else quote.mid, bar_extreme=low):
            _raise_stop(trading, each, quote, low, summary)
        summary.states[each.position.position_id] = _judge_state(each, live, summary, has_raised=len(summary.raised) > n_raised)
    return summary


def demand_safe_stops(trading: Trading) -> None:
    """Refuse margin with real money: a stop that ends with this process is not enough there.

    Raises
    ------
    ReconciliationError
        Then entries stay off; exits and software stops go on.
    """
    if trading.terms.mode is Mode.LIVE and trading.broker.traits.market_type != "spot":
        kind = trading.broker.traits.market_type
        msg = f"{trading.terms.account} trades {kind} contracts with real money, where stops must rest at the venue"
        raise ReconciliationError(f"{msg}; this executor keeps them itself, so entries stay off. Trade spot, or in the sandbox")


def _judge_state(each: Guarded, live: Sequence[OrderRow], summary: StopSummary, *, has_raised: bool) -> BracketState:
    """Where a position and its stop stand, by the orders as they were before this look."""
    mine = [order for order in live if (order.intent.key.strategy, order.symbol) == (each.strategy, each.symbol)]
    purposes = {order.purpose for order in mine}
    facts = BracketFacts(
        held=each.held,
        stop_qty=ZERO,
        stop_price=None,
        wanted_stop=each.price,
        has_live_entry=Purpose.ENTRY in purposes,
        has_live_exit=has_raised or bool(purposes & {Purpose.EXIT, Purpose.STOP}),
        has_filled=True,
        is_software=True,
        is_faulty=each.symbol in summary.blind or each.symbol in summary.refused,
    )
    return judge_bracket(facts)


def load_guarded(work: Work, trading: Trading) -> list[Guarded]:
    """Load what is held with its stop: the plan of its entries, or the default distance from the average entry."""
    traits, terms = trading.broker.traits, trading.terms
    holdings = {(row.strategy, row.asset): row.qty for row in work.safety.load_holdings(terms.account)}
    rules = work.safety.load_rules(traits.venue)
    found = []
    for position in work.recon.load_guarded(terms.account, terms.book_id):
        strategy = strategy_of(terms.book_id, Timeframe(position.timeframe))
        symbol = spell_symbol(position.contract, traits.quote, traits.market_type)
        held = holdings.get((strategy, position.contract if traits.market_type == "spot" else symbol), ZERO)
        rule = rules.get(symbol)
        if rule is None or not held >= rule.step:
            continue
        stop = compute_stop_price(position.average, position.planned, terms.default_stop_frac)
        found.append(Guarded(position, strategy, symbol, held, round_stop(stop, rule.tick, Side.SELL), rule))
    return found


def _load_lows(work: Work, trading: Trading, guarded: Sequence[Guarded]) -> dict[int, Decimal]:
    """Low of the last closed minute by position; a minute that began before the newest entry says nothing about its stop."""
    if not guarded:
        return {}
    last_s = Timeframe.M1.last_closed(trading.clock.now_s())
    series = {f"token:{each.position.contract}:{each.position.chain}" for each in guarded}
    bars = work.bars.load_last(BarTable.TOKENS, Timeframe.M1, dict.fromkeys(series, last_s), 1)
    lows = {}
    for each in guarded:
        last = bars.get(f"token:{each.position.contract}:{each.position.chain}")
        if last is not None and len(last) and int(last.ts_s[-1]) == last_s and 1000 * last_s >= each.position.entered_ms:
            lows[each.position.position_id] = to_decimal(float(last.low[-1]))
    return lows


def _report_blind(trading: Trading, each: Guarded, summary: StopSummary) -> None:
    summary.blind.append(each.symbol)
    evidence = {"held": str(each.held), "stop": str(each.price)}
    with trading.stores.open() as work:
        open_incident(work, "STOP_BLIND", Severity.CRITICAL, f"{trading.terms.account}|{each.symbol}", evidence, "stop-blind")


def _raise_stop(trading: Trading, each: Guarded, quote: Quote | None, low: Decimal | None, summary: StopSummary) -> None:
    """Free what other orders of the strategy claim, and sell what is free at once."""
    mid = quote.mid if quote is not None else low
    if mid is None:
        raise CallerError(f"stop of {each.symbol} was hit without a price; look at the quote again")
    venue_qty = _venue_qty(trading, each)
    with trading.stores.open() as work:
        if not work.orders.try_lock_account(trading.terms.account):
            return  # a tick is writing; the next look is five seconds away
        live = work.orders.load_live(trading.terms.account, each.symbol)
        for order in live:
            if order.intent.key.strategy == each.strategy and order.purpose is not Purpose.STOP:
                request_cancel(work, trading, order, "STOP_HIT")
        free = _free_qty(each, venue_qty, work.orders.load_live(trading.terms.account, each.symbol))
        limit = _limit_price(mid, each, trading)
        qty = plan_qty(free, limit, each.rules)
        if qty > 0:
            _write_exit(work, trading, each, quote, limit, qty, summary)


def _free_qty(each: Guarded, venue_qty: Decimal | None, live: Sequence[OrderRow]) -> Decimal:
    """What the strategy's own orders leave of what it holds, and all orders of the symbol of what the venue holds, whichever is less."""
    mine = [(order.purpose, order.remaining) for order in live if order.intent.key.strategy == each.strategy]
    free = free_to_sell(each.held, mine, each.rules.step)
    if venue_qty is None:
        return free
    return min(free, free_to_sell(venue_qty, [(order.purpose, order.remaining) for order in live], each.rules.step))


def _write_exit(
    work: Work, trading: Trading, each: Guarded, quote: Quote | None, limit: Decimal, qty: Decimal, summary: StopSummary
) -> None:
    position, terms, now_ms = each.position, trading.terms, trading.clock.now_ms()
    children = work.recon.load_children(terms.account, each.strategy, each.symbol, position.bar_close_s, Leg.SL)
    if children and not OrderState(children[-1][2]).is_terminal:
        return  # the one before is still on its way
    key = LogicalKey(terms.account, each.strategy, each.symbol, position.bar_close_s, Leg.SL, len(children))
    request = OrderRequest(
        key.client_order_id, *(terms.account, each.strategy, each.symbol, "unknown", Leg.SL, Side.SELL), qty, limit, qty * limit,
        "risk", terms.mode, now_ms + OUTSIDE_TICK_MS,
    )  # fmt: skip
    account = read_account(work, trading, now_ms, trips=(), venue=VenueState(is_up=quote is not None))
    verdict = run_gate(request, build_gate_view(account, request, SymbolView(each.rules, (), quote, None)), trading.limits)
    if not verdict.is_passed:
        codes = tuple(code.value for code in verdict.codes)
        summary.refused[each.symbol] = codes
        evidence = {
            "codes": list(codes),
            "why": [finding.detail for finding in verdict.findings],
            "stop": str(each.price),
            "qty": str(qty),
        }
        open_incident(work, "STOP_REFUSED", Severity.CRITICAL, f"{terms.account}|{each.symbol}", evidence, "stop-refused")
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
        decision_id=position.decision_id,
        action_id=_find_or_write_action(work, trading, each, key, verdict.qty),
        replaces_id=children[-1][0] if children else None,
        decision_mid=None if quote is None else quote.mid,
    )
    written = write_intents(work, trading, [intent])[0]
    if written.outcome in {IntentOutcome.WRITTEN, IntentOutcome.ADOPTED}:
        summary.raised.append(intent.client_order_id)


def _find_or_write_action(work: Work, trading: Trading, each: Guarded, key: LogicalKey, qty: Decimal) -> int | None:
    """The emergency exit of the bar that is running: one action per position and bar, however many orders it takes."""
    timeframe = Timeframe(each.position.timeframe)
    now_s = trading.clock.now_s()
    bar_ts_s = now_s - now_s % timeframe.seconds
    plan = Plan(
        each.position.position_id,
        bar_ts_s,
        each.position.trade_id,
        a_value=0.0,
        e_value=1.0,  # a stop wants out, whatever the levers say
        degraded=False,
        outcome=Outcome.ACT,
        kind=ActionKind.EMERGENCY_EXIT,
        signal=Signal.EMERGENCY_EXIT,
        size=Size(Funding.HOLDING, ONE, each.held, Bound.SHARE, quantity=qty),
        price=float(each.price),
    )
    written = work.portfolio.write_actions([NewAction(key.client_order_id, None, plan)])
    return written.get(each.position.position_id) or work.recon.find_action(each.position.position_id, bar_ts_s)


def request_cancel(work: Work, trading: Trading, order: OrderRow, code: str) -> OrderRow:
    """Ask that an order be cancelled by the executor; one that was never sent ends at once, one in doubt is left to the ladder."""
    proof = Proof(code=code)
    now_ms = trading.clock.now_ms()
    match order.state:
        case OrderState.INTENT:
            return move_order(work, order, OrderState.CANCELLED, {Guard.REASON_GIVEN}, actor=ACTOR, proof=proof)
        case OrderState.OPEN | OrderState.PARTIAL:
            # what has been filled is booked with each status that is read; asking for a cancel takes nothing away
            held = {Guard.VENUE_ID_PRESENT, Guard.FILLS_BOOKED, Guard.FILLED_NOT_DECREASING}
            change = OrderChange(cancel_requested_at_ms=now_ms, next_look_at_ms=now_ms)
            return move_order(work, order, OrderState.CANCEL_REQUESTED, held, actor=ACTOR, proof=proof, change=change)
    return order


def _limit_price(mid: Decimal, each: Guarded, trading: Trading) -> Decimal:
    with localcontext(QUOTIENT):
        return round_price(mid * (ONE - trading.limits.exit_slippage_cap_bps / BPS), each.rules.tick, Side.SELL)


def _venue_qty(trading: Trading, each: Guarded) -> Decimal | None:
    """What the venue holds of it; None when it cannot be read, and then the ledger alone says what can be sold."""
    if trading.broker.traits.market_type == "spot":
        balances = trading.broker.fetch_balances()
        if isinstance(balances, Failed):
            return None
        balance = balances.value.get(each.position.contract)
        return balance.total if balance is not None else ZERO
    positions = trading.broker.fetch_positions()
    if isinstance(positions, Failed):
        return None
    return sum((abs(p.qty) for p in positions.value if p.symbol == each.symbol), ZERO)
