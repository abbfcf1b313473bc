"""Software stops: hit by the mid or the last minute, sold through the gate, never more than is held."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from regime_pipeline.errors import ReconciliationError
from regime_pipeline.execution.bracket import BracketState
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import BarRows, BarTable, Listing, OrderType
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.kill_switch import Level, Scope, Switch
from regime_pipeline.risk.purpose import Leg
from regime_pipeline.services.trading.guard_stops import StopSummary, demand_safe_stops, guard_stops
from regime_pipeline.services.trading.load_guarded import load_guarded
from regime_pipeline.services.trading.open_account import open_account
from tests.booked import Books
from tests.builders import T0, bars
from tests.trading_desk import ACCOUNT, STRATEGY, SYMBOL, Desk

D = Decimal


class StopDesk(Desk):
    """A desk with positions, bars and prices that move."""

    def list_market(self, step: str = "0.001") -> None:
        rules = InstrumentRules(SYMBOL, tick=D("0.01"), step=D(step), min_cost_quote=D(5))
        with self.stores.open() as work:
            work.recon.save_listings("paper", {SYMBOL: Listing(rules, "AAVE", "USDT", D(10), D(10))}, self.now_ms)

    def enter(self, qty: str = "1", price: str = "100", leg: Leg = Leg.ENTRY, stop: str | None = None, bar: int = 11) -> str:
        """Buy, for a position of the portfolio."""
        books = Books(self.url)
        trade_id = None if leg is Leg.ENTRY else books.row()["current_trade_id"]
        action_id = books.action("entry" if leg is Leg.ENTRY else "add", bar, trade_id=trade_id)
        client_order_id = self.intend(
            leg,
            qty=D(qty),
            limit_price=D(price),
            action_id=action_id,
            bar_close_s=T0 + (bar + 1) * 3600,
            stop_price=None if stop is None else D(stop),
        )
        self.execute()
        self.fake.fill(client_order_id, qty)
        self.advance(3)
        self.execute()
        assert self.state(client_order_id) is OrderState.FILLED
        return client_order_id

    def close_minute(self, low: float, ts_s: int | None = None) -> None:
        """Write the minute that has closed last."""
        ts_s = Timeframe.M1.last_closed(self.now_ms // 1000) if ts_s is None else ts_s
        made = bars([100.0, 100.0], start_s=ts_s - 60)
        made.low[:] = low
        rows = BarRows(made, ("test",), np.zeros(2, dtype=np.int64), np.ones(2, dtype=np.bool_))
        with self.stores.open() as work:
            work.bars.save(BarTable.TOKENS, Timeframe.M1, {"token:AAVE:binance": rows})

    def look(self, mid: str | None) -> StopSummary:
        """Look at the stops at a price; None: the venue gives none."""
        self.fake.failing = {"fetch_quote"} if mid is None else set()
        self.fake.mid = self.fake.mid if mid is None else D(mid)
        return guard_stops(self.trading)

    def sell_all(self, client_order_id: str) -> None:
        """Send a stop and let it trade in full."""
        self.fake.fills_at_once = True
        self.execute()
        self.fake.fills_at_once = False
        self.advance(2)
        self.execute()
        assert self.state(client_order_id) is OrderState.FILLED


@pytest.fixture
def desk(database: str) -> StopDesk:
    desk = StopDesk(database)
    desk.list_market()
    open_account(desk.trading)
    return desk


def stop_of(desk: StopDesk) -> Decimal:
    with desk.stores.open() as work:
        (guarded,) = load_guarded(work, desk.trading)
    return guarded.price


def test_without_a_plan_the_stop_lies_three_percent_below_the_average_entry(desk: StopDesk) -> None:
    desk.enter()
    # 1 was paid for with 100, of which the fee left 0.999: the average is 100.10, and 3 % below it 97.097.
    assert stop_of(desk) == D("97.09")
    assert desk.look("97.10").raised == []


def test_planned_stops_are_weighted_by_what_was_filled(desk: StopDesk) -> None:
    desk.enter("1", "100", stop="90")
    desk.enter("3", "100", leg=Leg.ADD, stop="98", bar=12)
    assert stop_of(desk) == D("96")


def test_the_mid_at_the_stop_sells_what_is_held_within_the_cap(desk: StopDesk) -> None:
    desk.enter()
    (client_order_id,) = desk.look("97.09").raised
    intent = desk.order(client_order_id).intent
    # 0.999 is held; 1 % below 97.09 is 96.1191, up to the tick.
    assert (intent.qty, intent.limit_price, intent.tif, intent.origin) == (D("0.999"), D("96.12"), "IOC", "risk")
    assert (intent.leg, intent.key.seq, intent.type) == (Leg.SL, 0, OrderType.LIMIT)
    assert intent.decide_by_ms == desk.now_ms + 60_000
    desk.sell_all(client_order_id)
    assert desk.look("90").looked == 0  # flat


def test_the_low_of_the_last_minute_hits_the_stop_too(desk: StopDesk) -> None:
    desk.enter()
    desk.advance(180)
    desk.close_minute(low=96.0)
    assert len(desk.look("99").raised) == 1


def test_a_minute_from_before_the_entry_says_nothing(desk: StopDesk) -> None:
    desk.enter()
    desk.close_minute(low=90.0)
    assert desk.look("99").raised == []


def test_an_old_minute_says_nothing(desk: StopDesk) -> None:
    desk.enter()
    desk.advance(180)
    desk.close_minute(low=90.0)
    desk.advance(120)
    assert desk.look("99").raised == []


def test_a_stop_sells_at_the_minutes_low_when_the_venue_gives_no_price(desk: StopDesk) -> None:
    desk.enter()
    desk.advance(180)
    desk.close_minute(low=96.0)
    (client_order_id,) = desk.look(None).raised
    assert desk.order(client_order_id).intent.limit_price == D("95.04")


def test_without_any_price_a_person_is_told(desk: StopDesk) -> None:
    desk.enter()
    assert desk.look(None).blind == [SYMBOL]
    assert desk.incidents() == ["STOP_BLIND"]


def test_a_stop_on_its_way_is_not_raised_again(desk: StopDesk) -> None:
    desk.enter()
    assert len(desk.look("97").raised) == 1
    assert desk.look("96").raised == []
    assert desk.select("select count(*) from order_intents where leg = 'sl'") == [(1,)]


def test_what_a_stop_did_not_sell_is_tried_again_by_the_next_child(desk: StopDesk) -> None:
    desk.enter()
    (first,) = desk.look("97").raised
    desk.execute()  # nobody buys: it expires
    desk.advance(2)
    desk.execute()
    assert desk.state(first) is OrderState.EXPIRED
    (second,) = desk.look("96").raised
    intent = desk.order(second).intent
    assert (intent.key.seq, intent.replaces_id) == (1, first)
    assert desk.select("select count(*) from pm_actions where kind = 'emergency_exit'") == [(1,)]  # one action, two orders


def test_a_stop_is_an_action_of_the_running_bar_and_closes_the_trade(desk: StopDesk) -> None:
    desk.enter()
    (client_order_id,) = desk.look("97").raised
    desk.sell_all(client_order_id)
    rows = desk.select(
        "select kind, signal, extract(epoch from bar_ts)::bigint, decision_id, filled_qty from pm_actions where kind <> 'entry'"
    )
    assert rows == [("emergency_exit", "emergency_exit", T0 + 12 * 3600, None, D("0.999"))]
    assert Books(desk.url).row()["total_quantity"] == 0


def test_a_working_trim_is_cancelled_and_never_sold_twice(desk: StopDesk) -> None:
    desk.enter("2")
    trim = desk.intend(Leg.TRIM, qty=D("0.5"), limit_price=D(110))
    desk.execute()
    assert desk.state(trim) is OrderState.OPEN
    (first,) = desk.look("97").raised
    # 1.998 held, 0.5 still claimed until its cancel is read: 1.498 at once.
    assert desk.order(first).intent.qty == D("1.498")
    assert desk.state(trim) is OrderState.CANCEL_REQUESTED
    desk.sell_all(first)
    assert desk.state(trim) is OrderState.CANCELLED
    (second,) = desk.look("97").raised
    assert desk.order(second).intent.qty == D("0.5")


def test_a_live_entry_of_the_strategy_gives_way(desk: StopDesk) -> None:
    desk.enter()
    add = desk.intend(Leg.ADD, bar_close_s=T0 + 13 * 3600, decide_by_ms=desk.now_ms + 200_000)
    desk.execute()
    desk.look("97")
    assert desk.state(add) is OrderState.CANCEL_REQUESTED


def test_an_entry_that_was_not_sent_yet_never_is(desk: StopDesk) -> None:
    desk.enter()
    add = desk.intend(Leg.ADD, bar_close_s=T0 + 13 * 3600, decide_by_ms=desk.now_ms + 200_000)
    desk.look("97")
    assert desk.path(add) == ["INTENT", "CANCELLED"]


def test_what_the_venue_holds_less_is_not_sold(desk: StopDesk) -> None:
    desk.enter()
    desk.fake.balances["AAVE"] = D("0.4")
    (client_order_id,) = desk.look("97").raised
    assert desk.order(client_order_id).intent.qty == D("0.4")


def test_dust_is_left(desk: StopDesk) -> None:
    desk.enter()
    desk.fake.balances["AAVE"] = D("0.04")  # 4 USDT, below the minimum cost of 5
    assert desk.look("97").raised == []


def test_each_strategy_sells_its_own(desk: StopDesk) -> None:
    desk.enter("1")
    other = desk.intend(Leg.ENTRY, strategy="onchain_crypto-4h", qty=D(2), bar_close_s=T0 + 12 * 3600, decide_by_ms=desk.now_ms + 200_000)
    desk.execute()
    desk.fake.fill(other, "2")
    desk.advance(3)
    desk.execute()
    (client_order_id,) = desk.look("97").raised
    order = desk.order(client_order_id)
    assert (order.intent.key.strategy, order.intent.qty) == (STRATEGY, D("0.999"))


def test_a_stop_passes_a_hard_stop(desk: StopDesk) -> None:
    desk.enter()
    desk.latch.switches = (Switch(Scope(ACCOUNT), Level.HARD_STOP, "manual", "ann", "looks wrong", desk.now_ms // 1000),)
    assert len(desk.look("97").raised) == 1


def test_a_process_stop_refuses_it_and_a_person_is_told(desk: StopDesk) -> None:
    desk.enter()
    desk.latch.switches = (Switch(Scope(ACCOUNT), Level.PROCESS_STOP, "journal_broken", "executor", "chain", desk.now_ms // 1000),)
    assert desk.look("97").refused == {SYMBOL: ("KILLED",)}
    assert desk.incidents() == ["STOP_REFUSED"]


def test_the_state_of_each_position_is_told(desk: StopDesk) -> None:
    desk.enter()
    assert list(desk.look("99").states.values()) == [BracketState.PROTECTED]
    assert list(desk.look(None).states.values()) == [BracketState.FAULT]
    assert list(desk.look("97").states.values()) == [BracketState.EXITING]


def test_nothing_is_raised_while_trading_is_off(desk: StopDesk) -> None:
    desk.enter()
    desk.fake.mid = D(90)
    off = replace(desk.trading, terms=replace(desk.trading.terms, trading_enabled=False))
    assert guard_stops(off).looked == 0


@pytest.mark.parametrize(
    ("mode", "market", "is_refused"), [(Mode.LIVE, "linear", True), (Mode.LIVE, "spot", False), (Mode.PAPER, "linear", False)]
)
def test_margin_with_real_money_needs_stops_at_the_venue(desk: StopDesk, mode: Mode, market: str, is_refused: bool) -> None:
    desk.fake.traits = replace(desk.fake.traits, mode=mode, market_type=market)
    trading = replace(desk.trading, terms=replace(desk.trading.terms, mode=mode))
    if not is_refused:
        demand_safe_stops(trading)
        return
    with pytest.raises(ReconciliationError, match="must rest at the venue"):
        demand_safe_stops(trading)


def test_a_tick_that_writes_is_not_disturbed(desk: StopDesk) -> None:
    desk.enter()
    with desk.stores.open() as work:
        assert work.orders.try_lock_account(ACCOUNT)
        assert desk.look("97").raised == []
    assert len(desk.look("97").raised) == 1
