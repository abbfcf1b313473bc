"""Whole lives of a position: the worked example of trims and pool, random markets, and a market through the engine."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from regime_pipeline.errors import BadInputError
from regime_pipeline.indicators import record as ind_record
from regime_pipeline.market.bars import Bars, RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.actions import BUYS, Action, ActionKind, Signal
from regime_pipeline.portfolio.capital import Allocation, compute_cap_usd, compute_equity_usd, compute_remaining_usd
from regime_pipeline.portfolio.facts import BarFacts, read_facts
from regime_pipeline.portfolio.money import precise, to_decimal
from regime_pipeline.portfolio.plan import Book, Levers, Outcome, Plan, Rule
from regime_pipeline.portfolio.pool import Pool, fold_pool
from regime_pipeline.portfolio.position import Status
from regime_pipeline.portfolio.rules import plan_position
from regime_pipeline.portfolio.trade import fold_trade
from regime_pipeline.trend import record as trend_record
from regime_pipeline.trend.engine import SeriesEngine
from regime_pipeline.trend.profile import V5
from tests.builders import T0
from tests.unit.portfolio.desk import FINE, HOUR_S, RICH, Desk, a_bar, a_buy, a_position, bar_s

D = Decimal


# ---- worked example 10.11 -------------------------------------------------------------------------------------------------------


def levers(a: float = 0.5, e: float = 0.5) -> Levers:
    return Levers(a, e, degraded=False)


def test_worked_example_of_trims_and_pool() -> None:
    # the buy before it: 100 tokens for 1000
    desk = Desk(a_position(limits=FINE, status=Status.WATCHLIST))
    desk.position = replace(desk.position, episodes=replace(desk.position.episodes, state="S1", attempt_s=1, s2_s=2))
    opened = desk.tick(a_bar(0, "S1", 10.0, buy=True), levers(a=0.9))
    assert opened.kind is ActionKind.ENTRY
    assert desk.trade is not None
    # .90 of the cap of 1200 are 1080; the example starts from 1000 in and 100 held
    desk.trade = replace(desk.trade, trade=fold_trade(desk.trade.trade.trade_id, [a_buy(0, "100", "1000")]))
    desk.position = replace(desk.position, quantity=D(100), trade=desk.trade.trade)

    def trade() -> tuple[Decimal, Decimal, Decimal]:
        assert desk.position.trade is not None
        return desk.position.quantity, desk.position.trade.extracted_usd, desk.position.trade.allocated_usd

    def pool() -> Pool:
        assert desk.position.trade is not None
        return desk.position.trade.pool

    def close_to(value: str) -> Any:
        return pytest.approx(D(value), abs=D("5e-7"))

    # trim at 12, E .55: .30 x 1.5 = .45 of 100 = 45 tokens, +540
    desk.tick(a_bar(10, "S3", 12.0, trim=True, nearest_level=12.0), levers(e=0.55))
    assert trade() == (55, 540, 1000)
    # trim at 13, E .80: ratio .54 gives .60 x 1.0 of 55 = 33 tokens, +429
    desk.tick(a_bar(20, "S3", 13.0, trim=True, nearest_level=13.0), levers(e=0.80))
    assert trade() == (22, 969, 1000)
    # trim at 14, E .90: ratio .969 gives .60 of 22 = 13.2 tokens, +184.8
    desk.tick(a_bar(30, "S3", 14.0, trim=True, nearest_level=14.0), levers(e=0.90))
    assert trade() == (D("8.8"), D("1153.8"), 1000)
    assert pool() == Pool(D("1153.8"))
    # discount at 11, A .75, ATR .25: .20 x 1153.8 = 230.76 USD; next arm 11 - 1.5
    dx = desk.tick(a_bar(40, "S3", 11.0, dx=True, atr=0.25), levers(a=0.75))
    assert dx.size is not None
    assert dx.size.notional_usd == D("230.76")
    assert (pool().dx_next_arm, pool().usd_basis) == (close_to("9.5"), D("1153.8"))
    assert trade()[2] == close_to("1230.76")
    # discount at 10: above the arm
    blocked = desk.tick(a_bar(50, "S3", 10.0, dx=True), levers(a=0.75))
    assert (blocked.outcome, [refusal.rule for refusal in blocked.refusals]) == (Outcome.HOLD, [Rule.DX])
    # discount at 9.4, A .5: .10 x 1153.8 = 115.38 USD; next arm 9.4 - 1.5
    dx = desk.tick(a_bar(60, "S3", 9.4, dx=True, atr=0.25), levers(a=0.5))
    assert dx.size is not None
    assert dx.size.notional_usd == D("115.38")
    assert pool().dx_next_arm == close_to("7.9")
    assert (trade()[0], trade()[2]) == (close_to("42.052650"), close_to("1346.14"))
    # trim at 12.5, E .20: 1153.8 / 1346.14 = .857109, so .15 x 1.0 of the holding; a fresh pool begins
    trim = desk.tick(a_bar(70, "S3", 12.5, trim=True, nearest_level=12.5), levers(e=0.20))
    assert trim.size is not None
    assert trim.size.quantity == close_to("6.307897")
    assert (pool().usd_basis, pool().recovery_started, pool().dx_count) == (close_to("78.848719"), False, 0)


# ---- random markets -------------------------------------------------------------------------------------------------------------

NEXT = {"S0": ["S0", "S1"], "S1": ["S1", "S0", "S2"], "S2": ["S2", "S1", "S3"], "S3": ["S3", "S0"], "S4": ["S4", "S0"]}
LEVER = st.sampled_from([0.0, 0.2999, 0.3, 0.5, 0.7, 1.0])
PARTS = st.sampled_from([D(0), D("0.3"), D("0.999"), D(1), D(1), D(1)])


class PositionLife(RuleBasedStateMachine):
    """Bars of any legal history, any levers, orders that fill wholly, in part or not at all (property 14 to 16)."""

    @initialize(fine=st.booleans())
    def begin(self, fine: bool) -> None:
        self.n, self.state = 0, "S4"
        self.desk = Desk(replace(a_position(status=Status.WATCHLIST), **({"limits": FINE} if fine else {})))

    @rule(
        move=st.integers(0, 9),
        flags=st.lists(st.sampled_from(["buy", "s2_retest", "dx", "reclaim", "trim"]), min_size=1, max_size=5),
        price=st.floats(0.5, 50),
        level=st.one_of(st.none(), st.floats(1, 50)),
        emergency=st.integers(0, 9),
        a=LEVER,
        e=LEVER,
        degraded=st.integers(0, 9),
        killed=st.integers(0, 9),
        part=PARTS,
        missing=st.integers(0, 9),
    )
    def next_bar(
        self,
        move: int,
        flags: list[str],
        price: float,
        level: float | None,
        emergency: int,
        a: float,
        e: float,
        degraded: int,
        killed: int,
        part: Decimal,
        missing: int,
    ) -> None:
        self.n += 1
        self.state = NEXT[self.state][move % len(NEXT[self.state])]
        given = Levers(a, e, degraded=degraded == 0)
        self.desk.book = replace(RICH, is_killed=killed == 0)
        before = self.desk.position
        facts = a_bar(self.n, self.state, price, nearest_level=level, emergency_exit=emergency < 3, **dict.fromkeys(flags, True))
        if missing == 0:
            plan = plan_position(before, None, facts.ts_s, given, self.desk.book)
            assert plan.alert is not None
            assert plan.kind in (None, ActionKind.EMERGENCY_EXIT)
            return
        plan = self.desk.tick(facts, given, part)
        self.check(before.quantity, plan, facts, given)
        if plan.kind is not None:  # the same bar again
            again = plan_position(self.desk.position, facts, facts.ts_s, given, self.desk.book)
            assert (again.outcome, again.kind) == (Outcome.HOLD, None)

    def check(self, quantity: Decimal, plan: Plan, facts: BarFacts, given: Levers) -> None:
        book, position = self.desk.book, self.desk.position
        was_flat = position.limits.is_dust(quantity, to_decimal(facts.price))
        if facts.wants_exit:
            assert plan.kind is (None if was_flat else ActionKind.EMERGENCY_EXIT)
        if plan.outcome is Outcome.HOLD:
            assert plan.codes
            assert plan.size is None
            return
        assert plan.size is not None
        if plan.kind in BUYS:
            assert not given.degraded
            assert not book.is_killed
            cap = compute_cap_usd(book.equity_usd, position.timeframe, book.allocation)
            assert plan.size.notional_usd is not None
            assert 0 <= plan.size.notional_usd <= min(cap, book.free_cash_usd)
        else:
            assert plan.size.quantity is not None
            assert 0 <= plan.size.quantity <= quantity
            assert plan.kind is ActionKind.EMERGENCY_EXIT or plan.size.quantity <= D("0.90") * quantity

    @invariant()
    def the_book_is_the_fold_of_its_rows(self) -> None:
        if not hasattr(self, "desk") or self.desk.trade is None:
            return
        trade = self.desk.trade.trade
        rows = [action for action in self.desk.actions if action.trade_id is not None]
        assert fold_trade(trade.trade_id, rows) == trade  # rows of earlier trades among them
        own = [action for action in rows if action.trade_id == trade.trade_id]
        assert fold_pool(own) == trade.pool
        assert trade.pool.dx_count < 3
        cap = compute_cap_usd(RICH.equity_usd, Timeframe.H1, RICH.allocation)
        assert 0 <= compute_remaining_usd(cap, trade.allocated_usd, trade.extracted_usd) <= cap
        assert sum(action.signal is Signal.S1_BUY and action.is_filled for action in own) <= 1

    @invariant()
    def blocks_are_lifted_by_s3(self) -> None:
        if hasattr(self, "desk") and self.state == "S3" and self.desk.position.episodes.state == "S3":
            assert self.desk.position.block == replace(self.desk.position.block, blocked_s1=False, blocked_s2=False)


TestPositionLife = PositionLife.TestCase
TestPositionLife.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


@given(st.lists(PARTS, min_size=1, max_size=6))
@settings(max_examples=50)
def test_an_exit_is_planned_every_bar_until_flat(parts: list[Decimal]) -> None:
    desk = Desk(a_position(100, status=Status.ACTIVE))
    for n, part in enumerate([*parts, D(1)]):
        before = desk.position.quantity
        plan = desk.tick(a_bar(n, "S0"), part=part)
        if n and desk.position.trade is None:
            return
        assert plan.size is not None
        assert (plan.kind, plan.size.quantity) == (ActionKind.EMERGENCY_EXIT, before // D("0.001") * D("0.001"))
        desk.position = replace(desk.position, quantity=before * (1 - part))
        if desk.position.is_flat(D(10)):
            return
    pytest.fail("never flat")


# ---- a market through the engine ------------------------------------------------------------------------------------------------


def hourly_bars(close: np.ndarray) -> Bars:
    o = np.concatenate((close[:1], close[:-1]))
    i = np.arange(close.size)
    raw = RawBars(T0 + HOUR_S * i, o, 1.004 * np.maximum(o, close), 0.996 * np.minimum(o, close), close, 1000.0 + 10 * ((31 * i) % 53))
    return Bars.complete(raw, Timeframe.H1)


def waves(n: int = 6000) -> Bars:
    """The series of worked example 10.7, three times as long."""
    i = np.arange(n)
    swings = 0.25 * np.sin(2 * np.pi * i / 900 + 4) + 0.06 * np.sin(2 * np.pi * i / 140) + 0.02 * np.sin(2 * np.pi * i / 29)
    return hourly_bars(100 * np.exp(swings + 0.012 * (((7919 * i) % 97) / 96 - 0.5)))


def walk(n: int = 6000) -> Bars:
    """A seeded walk around a slow wave."""
    steps = np.cumsum(np.random.default_rng(2).normal(0, 0.003, n))
    return hourly_bars(100 * np.exp(steps + 0.35 * np.sin(2 * np.pi * np.arange(n) / 1500)))


@pytest.mark.parametrize(
    ("market", "expected"),
    [(waves(), {Signal.S1_BUY, Signal.S2_RETEST, Signal.DX}), (walk(), {Signal.S2_RETEST, Signal.DX, Signal.RECLAIM})],
    ids=["waves", "walk"],
)
def test_a_position_lives_through_a_market_and_its_money_adds_up(market: Bars, expected: set[Signal]) -> None:
    advance = SeriesEngine(Timeframe.H1, V5, bootstrap_s3=False).advance(market)
    desk = Desk(replace(a_position(status=Status.WATCHLIST), limits=FINE))
    cash = D(20_000)
    for ts_s, indicators, trend in zip(advance.ts_s.tolist(), advance.records, advance.states, strict=True):
        facts = read_facts(ts_s, indicators, trend)
        equity = compute_equity_usd(cash, [(desk.position.quantity, to_decimal(facts.price))])
        desk.book = Book(equity, cash, Allocation(), trading_enabled=True, allow_immature_entries=True)
        n_actions = len(desk.actions)
        desk.tick(facts)
        for action in desk.actions[n_actions:]:
            cash = add_up(cash, action)
    assert {action.signal for action in desk.actions} >= {Signal.TRIM, Signal.EMERGENCY_EXIT, *expected}
    # the trades' own sums are the cash that moved
    trades = [*desk.closed, *([desk.trade.trade] if desk.trade else [])]
    assert len(desk.closed) >= 2
    assert add_up_trades(trades) == precise(lambda: cash - 20_000)()


@precise
def add_up(cash: Decimal, action: Action) -> Decimal:
    return cash - action.net_usd if action.is_buy else cash + action.net_usd


@precise
def add_up_trades(trades: list[Any]) -> Decimal:
    return sum((trade.extracted_usd - trade.allocated_usd for trade in trades), D(0))


# ---- facts ----------------------------------------------------------------------------------------------------------------------


def rows(**says: float) -> tuple[np.ndarray, np.ndarray]:
    indicators = np.zeros(ind_record.N_FIELDS)
    trend = np.zeros(trend_record.N_FIELDS)
    known = {"latest_price": 10.0, "atr": 0.25, "ema144": 11.0, "ema333": 9.0, "bars_seen": 1234.0, "immature": 0.0}
    for name, value in {**known, "state": 3.0, "nearest_level_price": np.nan, **says}.items():
        table, index = (indicators, ind_record.INDEX) if name in ind_record.INDEX else (trend, trend_record.INDEX)
        table[index[name]] = value
    return indicators, trend


def test_facts_are_read_by_name_from_the_engines_rows() -> None:
    assert read_facts(bar_s(0), *rows()) == BarFacts(bar_s(0), "S3", 10.0, 0.25, 11.0, 9.0, 1234)
    says = {"buy": 1, "trim": 1, "emergency_exit": 1, "rebuy_s2_retest": 1, "rebuy_dx": 1, "rebuy_reclaim": 1, "immature": 1}
    facts = read_facts(bar_s(0), *rows(**says, state=2.0, nearest_level_price=10.5))
    assert (facts.state, facts.nearest_level) == ("S2", 10.5)
    assert all((facts.buy, facts.trim, facts.emergency_exit, facts.s2_retest, facts.dx, facts.reclaim, facts.immature))


@pytest.mark.parametrize("state", [np.nan, -1.0, 5.0])
def test_rows_without_a_state_are_no_facts(state: float) -> None:
    with pytest.raises(BadInputError, match="state code was"):
        read_facts(bar_s(0), *rows(state=state))


@pytest.mark.parametrize(
    "changes", [{"price": np.nan}, {"price": 0.0}, {"ema144": np.inf}, {"ema333": -1.0}, {"atr": np.nan}, {"nearest_level": 0.0}]
)
def test_numbers_that_are_none_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(BadInputError, match="finite and above 0"):
        a_bar(**changes)


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(BadInputError, match="'3', allowed: S0"):
        a_bar(state="3")
