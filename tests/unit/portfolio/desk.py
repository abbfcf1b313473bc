"""A desk that plays a position bar by bar: it steps, plans, fills and closes as the services will."""

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any
from uuid import UUID

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.actions import Action, ActionKind, ActionStatus, Funding, Signal
from regime_pipeline.portfolio.capital import Allocation
from regime_pipeline.portfolio.closing import Hold, TradeSummary, close_trade, may_close
from regime_pipeline.portfolio.facts import BarFacts
from regime_pipeline.portfolio.money import precise, to_decimal
from regime_pipeline.portfolio.plan import Book, Levers, Outcome, Plan, record_plan
from regime_pipeline.portfolio.position import Position, Status, VenueLimits, step_position
from regime_pipeline.portfolio.rules import plan_position
from regime_pipeline.portfolio.trade import TradeBook
from tests.builders import T0

HOUR_S = 3600
TRADE = UUID(int=1)
FINE = VenueLimits(Decimal("1e-18"))
COARSE = VenueLimits(Decimal("0.001"), Decimal("0.01"), Decimal(5))
RICH = Book(Decimal(20_000), Decimal(20_000), Allocation(), trading_enabled=True)
CALM = Levers(0.5, 0.5, degraded=False)


def bar_s(n: int) -> int:
    return T0 + HOUR_S * n


def a_bar(n: int = 0, state: str = "S3", price: float = 10.0, **changes: Any) -> BarFacts:
    """Bar n of an hourly series; EMA333 and EMA144 lie a tenth below and above the price."""
    facts = BarFacts(bar_s(n), state, price, atr=0.25, ema144=1.1 * price, ema333=0.9 * price, bars_seen=1000 + n)
    return replace(facts, **changes)


def a_position(quantity: int = 0, **changes: Any) -> Position:
    return replace(Position(7, Status.ACTIVE, Timeframe.H1, COARSE, Decimal(quantity)), **changes)


def an_action(n: int, kind: ActionKind, signal: Signal, qty: str = "0", usd: str = "0", **changes: Any) -> Action:
    """Action of bar n with one fill, without fees; a trim is at level 10 unless told."""
    action = Action(
        bar_ts_s=bar_s(n),
        trade_id=TRADE,
        kind=kind,
        signal=signal,
        funding=Funding.HOLDING,
        status=ActionStatus.DONE,
        state="S3",
        level_price=10.0,
        atr=0.25,
        bars_seen=1000 + n,
        filled_qty=Decimal(qty),
        filled_usd=Decimal(usd),
    )
    return replace(action, **changes)


def a_buy(n: int, qty: str, usd: str, signal: Signal = Signal.S1_BUY, **changes: Any) -> Action:
    return an_action(n, ActionKind.ENTRY, signal, qty, usd, **{"funding": Funding.REMAINING, "state": "S1", **changes})


def a_trim(n: int, qty: str, usd: str, level: float = 10.0, **changes: Any) -> Action:
    return an_action(n, ActionKind.TRIM, Signal.TRIM, qty, usd, level_price=level, **changes)


def an_exit(n: int, qty: str, usd: str, signal: Signal = Signal.EMERGENCY_EXIT, **changes: Any) -> Action:
    return an_action(n, ActionKind.EMERGENCY_EXIT, signal, qty, usd, **changes)


def a_dx(n: int, qty: str, usd: str, **changes: Any) -> Action:
    return an_action(n, ActionKind.ADD, Signal.DX, qty, usd, **{"funding": Funding.POOL, **changes})


@precise
def fill(plan: Plan, price: Decimal, part: Decimal = Decimal(1)) -> Action:
    """Record a plan and fill a part of its size at one price."""
    action = record_plan(plan)
    if plan.outcome is Outcome.SKIP or part == 0:
        return action
    assert plan.size is not None
    qty = part * (plan.size.quantity if plan.size.quantity is not None else (plan.size.notional_usd or Decimal(0)) / price)
    return replace(action, status=ActionStatus.DONE, filled_qty=qty, filled_usd=qty * price)


@dataclass
class Desk:
    """One position, its open trade kept fill by fill, all actions ever recorded, and the trades closed."""

    position: Position = field(default_factory=lambda: a_position(status=Status.WATCHLIST))
    book: Book = RICH
    trade: TradeBook | None = None
    actions: list[Action] = field(default_factory=list)
    closed: list[TradeSummary] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)

    def tick(self, facts: BarFacts, levers: Levers = CALM, part: Decimal = Decimal(1), price: float | None = None) -> Plan:
        """Take a bar in, plan, fill a part in two pieces at `price` (default: the close), and close what may be closed."""
        close = to_decimal(facts.price)
        self.position = step_position(self.position, facts.ts_s, facts.state, close)
        plan = plan_position(self.position, facts, facts.ts_s, levers, self.book)
        self.plans.append(plan)
        if plan.kind is not None:
            self._book(plan, to_decimal(price or facts.price), part)
        if may_close(self.position, facts.state, close):
            hold = Hold(facts.ts_s, facts.ts_s + HOUR_S, [facts.price], [facts.price])
            self.position, summary = close_trade(self.position, facts.state, close, hold)
            assert summary is not None
            self.closed.append(summary)
            self.trade = None
        return plan

    def _book(self, plan: Plan, price: Decimal, part: Decimal) -> None:
        pieces = [fill(plan, price, part / 2), fill(plan, price, part)]
        for action in pieces:
            if self.trade is None and action.is_filled and action.is_buy:
                self.trade = TradeBook.open(UUID(int=len(self.closed) + 1))
            if self.trade is not None:
                action = replace(action, trade_id=self.trade.trade.trade_id)
                self.trade = self.trade.book(action)
        self.actions.append(action)
        trade = self.trade.trade if self.trade else None
        status = Status.ACTIVE if trade else Status.WATCHLIST
        quantity = precise(lambda: self.position.quantity + (action.net_qty if action.is_buy else -action.net_qty))()
        self.position = replace(self.position, trade=trade, status=status, quantity=quantity, last_action_s=plan.bar_ts_s)
