"""Protective stops: the executor compares mid and the last minute with each position's stop, and sells through the gate when it is hit.

A stop is an order outside a tick: it is named after the bar its position was entered on, and lives for a minute. On margin with real
money a stop must rest at the venue, which this product does not do: `demand_safe_stops` keeps such an account without entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from regime_pipeline.errors import CallerError, ReconciliationError
from regime_pipeline.execution.bracket import BracketFacts, BracketState, free_to_sell, is_stop_hit, judge_bracket
from regime_pipeline.execution.order_states import Guard, OrderState
from regime_pipeline.execution.rounding import plan_qty
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.money import ZERO, to_decimal
from regime_pipeline.ports import BarTable, Failed, OrderChange, OrderRow, Proof, Quote, Severity, Work
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.purpose import Leg, Purpose
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.load_guarded import Guarded, load_guarded
from regime_pipeline.services.trading.move_order import move_order
from regime_pipeline.services.trading.sell_at_once import Demand, Sale, find_lowest_price, sell_at_once

STOPS_EVERY_S: Final = 5
ACTOR: Final = "stop"


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

    def note(self, symbol: str, sale: Sale) -> None:
        """Count a sale."""
        if sale.client_order_id is not None:
            self.raised.append(sale.client_order_id)
        if sale.codes:
            self.refused[symbol] = sale.codes


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
        limit = find_lowest_price(trading, each, mid)
        qty = plan_qty(free, limit, each.rules)
        if qty > 0:
            demand = Demand(Leg.SL, each.position.bar_close_s, "STOP_REFUSED", "stop-refused")
            summary.note(each.symbol, sell_at_once(work, trading, each, demand, qty=qty, limit=limit, quote=quote))


def _free_qty(each: Guarded, venue_qty: Decimal | None, live: Sequence[OrderRow]) -> Decimal:
    """What the strategy's own orders leave of what it holds, and all orders of the symbol of what the venue holds, whichever is less."""
    mine = [(order.purpose, order.remaining) for order in live if order.intent.key.strategy == each.strategy]
    free = free_to_sell(each.held, mine, each.rules.step)
    if venue_qty is None:
        return free
    return min(free, free_to_sell(venue_qty, [(order.purpose, order.remaining) for order in live], each.rules.step))


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
