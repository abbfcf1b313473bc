"""The paper broker: W14 and W15, and everything a venue would refuse, delay or fill (specification 9)."""

import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import psycopg
import pytest

from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.execution.order_states import VenueStatus
from regime_pipeline.execution.paper import draw_latency_ms, is_rejected
from regime_pipeline.ports import Failed, Ok, OrderType, Quote, TimeInForce
from regime_pipeline.risk.purpose import Leg, Side
from tests.builders import T0
from tests.papered import START_S, WINDOW_MS, PaperDesk

D = Decimal
W2_ID = "a06aadc35b6cb2e7f590be3e9ae53602"


@pytest.fixture
def desk(database: str) -> Iterator[PaperDesk]:
    desk = PaperDesk(database)
    yield desk
    desk.broker.close()


def test_w14_latency_comes_from_the_id(desk: PaperDesk) -> None:
    key = LogicalKey("paper-main", "core-1h", "BTC/USDT", 1_795_201_200, Leg.ENTRY)
    assert key.client_order_id == W2_ID
    spec = desk.place(client_id=W2_ID, limit="90")
    with psycopg.connect(desk.url) as conn:
        assert conn.execute("select created_ms - %s, effective_ms - %s from paper.orders", (desk.now_ms,) * 2).fetchall() == [(0, 361)]
        desk.broker.cancel_order(desk.symbol, spec.client_order_id, None)
        assert conn.execute("select cancel_ms - %s from paper.orders", (desk.now_ms,)).fetchall() == [(237,)]
    assert not is_rejected(7, W2_ID)


def test_w15_a_market_buy_over_two_bars(database: str) -> None:
    desk = PaperDesk(database, "BTC", 40_000.0, cash="200000")
    spec = desk.place(qty="2", limit=None)
    desk.pass_minute(40_000, high=40_060, low=39_990, close=40_020, base=12)
    assert (desk.read(spec).status, desk.read(spec).filled) == (VenueStatus.OPEN, D("1.2"))
    desk.pass_minute(40_010, high=40_050, low=40_000, close=40_020, base=15)
    fills = desk.fills(spec)
    # the grid of this account has 5 digits of price, 1 at 40 000: against us that is one up
    assert [(fill.qty, fill.price) for fill in fills] == [(D("1.2"), D(40_021)), (D("0.8"), D(40_028))]
    assert [(fill.fee_amount, fill.fee_asset) for fill in fills] == [(D("0.0012"), "BTC"), (D("0.0008"), "BTC")]
    assert desk.read(spec).status is VenueStatus.CLOSED
    desk.broker.close()


def test_w15_on_the_grid_of_the_example(database: str) -> None:
    desk = PaperDesk(database, "BTC", 40_000.0, cash="200000")
    with psycopg.connect(database) as conn:
        conn.execute(
            "insert into instrument_rules (venue, symbol, tick, step, min_qty, min_cost, maker_bps, taker_bps, is_active, read_at)"
            " values ('paper', 'BTC/USDT', 0.05, 0.00001, 0.00001, 5, 10, 10, true, now())"
        )
    desk.place(qty="2", limit=None)
    desk.pass_minute(40_000, high=40_060, low=39_990, close=40_020, base=12)
    desk.pass_minute(40_010, high=40_050, low=40_000, close=40_020, base=15)
    fills = desk.fills()
    assert [fill.price for fill in fills] == [D("40020.65"), D("40027.25")]
    # 1.2 x 40 020.65 + 0.8 x 40 027.25 over 2
    assert sum(fill.qty * fill.price for fill in fills) / 2 == D("40023.29")
    assert desk.balance("BTC").total == D("1.998")
    assert desk.balance("USDT").total == 200_000 - D("80046.58")
    desk.broker.close()


def test_a_fill_is_known_when_its_bar_has_closed(desk: PaperDesk) -> None:
    spec = desk.place()
    desk.add_bar(START_S // 60 * 60 + 60, 100.0)
    desk.clock.advance(100)  # the bar opened 50 s ago
    assert desk.read(spec).filled == 0
    desk.clock.advance(9.9)
    assert desk.read(spec).filled == 0
    desk.clock.advance(0.1)
    order, (fill,) = desk.read(spec), desk.fills(spec)
    assert (order.status, order.filled) == (VenueStatus.CLOSED, 1)
    # half a spread of 5, 1 fixed and 10 x sqrt(1 / 1 000 000) bps above 100, up to the tick of 0.01
    assert (fill.price, fill.fee_amount, fill.fee_asset) == (D("100.07"), D("0.001"), "AAVE")
    assert fill.venue_ts_ms == (START_S // 60 * 60 + 60) * 1000


def test_reading_often_or_once_gives_the_same(database: str) -> None:
    desk = PaperDesk(database)
    other = PaperDesk(database, account="paper-other")
    specs = [desk.place(qty="50", limit="100.3"), desk.place(qty="30", limit="99.5"), desk.place("buy", "20", "99.9")]
    twins = [other.place(qty=str(spec.qty), limit=str(spec.limit_price), client_id=spec.client_order_id) for spec in specs]
    bars = [(100.0, 100.2, 99.8), (100.1, 100.4, 99.7), (99.6, 99.8, 99.4), (99.7, 100.0, 99.3), (100.0, 100.1, 99.2)]
    for price, high, low in bars:
        desk.pass_minute(price, high=high, low=low, base=137.0)
        for spec in specs:
            desk.read(spec)
            desk.balance("USDT")
    other.clock.advance(desk.clock.now_s() - other.clock.now_s())
    for spec, twin in zip(specs, twins, strict=True):
        mine = [(fill.qty, fill.price, fill.fee_amount, fill.venue_ts_ms) for fill in desk.fills(spec)]
        assert mine == [(fill.qty, fill.price, fill.fee_amount, fill.venue_ts_ms) for fill in other.fills(twin)]
        assert desk.read(spec).status is other.read(twin).status
    assert desk.balance("USDT") == other.balance("USDT")
    for each in (desk, other):
        each.broker.close()


def test_a_resting_limit_fills_when_the_bar_trades_through_it_by_a_tick(desk: PaperDesk) -> None:
    spec = desk.place(limit="99")
    desk.pass_minute(100, low=99.0)
    assert desk.read(spec).filled == 0
    desk.pass_minute(100, low=98.99)
    (fill,) = desk.fills(spec)
    assert (fill.price, desk.read(spec).status) == (99, VenueStatus.CLOSED)


def test_a_limit_that_rests_fills_at_its_limit_even_when_a_bar_opens_beyond_it(desk: PaperDesk) -> None:
    spec = desk.place(limit="99")
    desk.pass_minute(100)
    desk.pass_minute(95)
    assert [fill.price for fill in desk.fills(spec)] == [99]


def test_a_tenth_of_a_bar_is_all_there_is(desk: PaperDesk) -> None:
    spec = desk.place(qty="3")
    desk.pass_minute(base=10)
    desk.pass_minute(base=15)
    assert [fill.qty for fill in desk.fills(spec)] == [1, D("1.5")]
    assert (desk.read(spec).filled, desk.read(spec).status) == (D("2.5"), VenueStatus.OPEN)


def test_ioc_has_one_bar(desk: PaperDesk) -> None:
    part, none = desk.ioc(qty="3"), desk.ioc(limit="99")
    desk.pass_minute(base=10)
    assert (desk.read(part).status, desk.read(part).filled) == (VenueStatus.EXPIRED, 1)
    assert (desk.read(none).status, desk.read(none).filled) == (VenueStatus.EXPIRED, 0)


@pytest.mark.parametrize(
    ("low", "opens", "price"),
    [
        # the stop at 97 less 5 + 1 + 10 x sqrt(1 / 1 000 000) bps is 96.9408...; down to the tick
        (96.5, 98.0, "96.94"),
        # the bar jumps over it and opens at 96: 96 less the same is 95.9414...
        (95.0, 96.0, "95.94"),
    ],
)
def test_a_stop_sells_where_it_is_hit_or_where_the_market_opens_below_it(desk: PaperDesk, low: float, opens: float, price: str) -> None:
    desk.place()
    desk.pass_minute()
    spec = desk.spec("sell", "0.9", None, type=OrderType.STOP, stop_price=D(97))
    assert desk.judge(spec).answer_class.value == "ACCEPTED"
    desk.pass_minute(98)
    assert desk.read(spec).filled == 0
    desk.pass_minute(opens, low=low)
    assert [fill.price for fill in desk.fills(spec)] == [D(price)]
    assert desk.read(spec).status is VenueStatus.CLOSED


def test_a_cancel_is_confirmed_when_nothing_can_come_before_it(desk: PaperDesk) -> None:
    resting = desk.place(limit="95")
    desk.pass_minute()
    assert desk.read(resting).status is VenueStatus.OPEN
    reply = desk.broker.cancel_order(desk.symbol, resting.client_order_id, None)
    body = json.loads(reply.answer.body)
    assert body["origClientOrderId"] == resting.client_order_id != body["clientOrderId"]
    assert desk.read(resting).status is VenueStatus.OPEN  # its latency
    desk.clock.advance(1)
    assert desk.read(resting).status is VenueStatus.CANCELED
    assert desk.broker.cancel_order(desk.symbol, resting.client_order_id, None).answer.status == 400


def test_a_fill_before_the_cancel_takes_effect_wins(desk: PaperDesk) -> None:
    spec = desk.place()
    desk.clock.advance(60)  # ten seconds into the bar that fills it
    desk.broker.cancel_order(desk.symbol, spec.client_order_id, None)
    desk.clock.advance(30)
    assert desk.read(spec).status is VenueStatus.OPEN  # nobody knows that bar yet
    desk.clock.advance(20)
    desk.add_bar(START_S // 60 * 60 + 60, 100.0)
    assert (desk.read(spec).status, desk.read(spec).filled) == (VenueStatus.CLOSED, 1)


def test_a_cancel_before_the_next_bar_opens_is_confirmed_at_once(desk: PaperDesk) -> None:
    spec = desk.place()
    desk.clock.advance(20)
    desk.broker.cancel_order(desk.symbol, spec.client_order_id, None)
    desk.clock.advance(2)
    assert desk.read(spec).status is VenueStatus.CANCELED
    desk.pass_minute()
    assert (desk.read(spec).status, desk.fills(spec)) == (VenueStatus.CANCELED, [])


def test_a_cancel_for_which_no_bar_ever_comes_is_confirmed_after_ten_minutes(desk: PaperDesk) -> None:
    spec = desk.place()
    desk.clock.advance(60)
    desk.broker.cancel_order(desk.symbol, spec.client_order_id, None)
    desk.clock.advance(500)
    assert desk.read(spec).status is VenueStatus.OPEN
    desk.clock.advance(120)
    assert desk.read(spec).status is VenueStatus.CANCELED


def test_a_marketable_order_without_bars_ends_cancelled(desk: PaperDesk) -> None:
    spec = desk.place()
    desk.clock.advance(599)
    assert desk.read(spec).status is VenueStatus.OPEN
    desk.clock.advance(2)
    assert desk.read(spec).status is VenueStatus.CANCELED


def test_hours_are_walked_where_there_are_no_minutes(database: str) -> None:
    desk = PaperDesk(database, "SOL", 100.0)
    with psycopg.connect(database) as conn:
        conn.execute("delete from lowcap_price_data_ohlc")
    desk.add_bar(T0 + 10 * 3600, 100.0, timeframe="1h")
    early = desk.place()  # ten seconds after the hour
    desk.clock.advance(120)
    late = desk.place()
    desk.clock.advance(3600)
    desk.add_bar(T0 + 12 * 3600, 101.0, timeframe="1h", low=100.3)
    assert desk.read(early).filled == 0  # 101 is beyond the limit, and nothing traded through it
    assert desk.read(late).status is VenueStatus.OPEN
    desk.clock.advance(3600)
    desk.add_bar(T0 + 13 * 3600, 99.9, timeframe="1h")
    assert [fill.price for fill in desk.fills(late)] == [D("99.97")]
    desk.broker.close()


def test_an_hour_that_opened_a_minute_before_takes_the_order(database: str) -> None:
    desk = PaperDesk(database, "SOL", 100.0)
    with psycopg.connect(database) as conn:
        conn.execute("delete from lowcap_price_data_ohlc")
    desk.add_bar(T0 + 10 * 3600, 100.0, timeframe="1h")
    spec = desk.place()
    desk.clock.advance(3600)
    desk.add_bar(T0 + 12 * 3600, 100.0, timeframe="1h")
    (fill,) = desk.fills(spec)
    assert (fill.price, fill.venue_ts_ms) == (D("100.07"), START_S * 1000 + draw_latency_ms(7, spec.client_order_id, 0))
    desk.broker.close()


def test_a_known_book_is_traded_after_the_latency(desk: PaperDesk) -> None:
    desk.book = ([(D("99.9"), D(5))], [(D("100.1"), D("0.4")), (D("100.2"), D("0.4")), (D("100.5"), D(9))])
    spec, ioc, market = desk.place(), desk.ioc(), desk.place(limit=None)
    assert desk.read(spec).filled == 0
    desk.clock.advance(1)
    # 1 bps worse than each level within the limit of 100.3; the rest waits, or ends
    assert [(fill.qty, fill.price) for fill in desk.fills(spec)] == [(D("0.4"), D("100.12")), (D("0.4"), D("100.22"))]
    assert desk.read(spec).status is VenueStatus.OPEN
    assert (desk.read(ioc).status, desk.read(ioc).filled) == (VenueStatus.EXPIRED, D("0.8"))
    assert [fill.price for fill in desk.fills(market)] == [D("100.12"), D("100.22"), D("100.52")]
    assert desk.broker.fetch_quote(desk.symbol) == Ok(Quote(D("99.9"), D("100.1"), desk.now_ms))


def test_post_only_refuses_to_take(desk: PaperDesk) -> None:
    assert desk.judge(desk.spec(limit="100.06", post_only=True)).reason == "WOULD_MATCH"
    spec = desk.place(limit="100", post_only=True)
    desk.pass_minute(99)
    assert [fill.price for fill in desk.fills(spec)] == [100]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"limit": "100.001"}, "FILTER"),  # off the tick of 0.01
        ({"qty": "0.0001"}, "FILTER"),  # below the step of 0.001
        ({"qty": "0.04"}, "FILTER"),  # worth 4
        ({"qty": "1000"}, "BALANCE"),  # 100 300 of 100 000
        ({"side": "sell"}, "BALANCE"),
        ({"symbol": "NONE/USDT"}, "BAD_SYMBOL"),
        ({"symbol": "AAVE/USDC"}, "BAD_SYMBOL"),
    ],
)
def test_refusals_in_the_words_of_binance(desk: PaperDesk, changes: dict[str, str], reason: str) -> None:
    spec = desk.spec(**changes)
    verdict = desk.judge(spec)
    assert (verdict.answer_class.value, verdict.reason) == ("REFUSED", reason)
    assert desk.is_absent(spec.client_order_id)


def test_open_orders_lock_what_they_may_cost(desk: PaperDesk) -> None:
    desk.place(qty="600", limit="100")
    assert (desk.balance("USDT").free, desk.balance("USDT").total) == (40_000, 100_000)
    assert desk.judge(desk.spec(qty="401", limit="100")).reason == "BALANCE"
    desk.place(qty="400", limit="100")
    assert desk.balance("USDT").free == 0


def test_what_is_sold_is_locked_in_the_token(desk: PaperDesk) -> None:
    desk.place(qty="2")
    desk.pass_minute()
    assert desk.balance("AAVE").total == D("1.998")
    desk.place("sell", "1.5", "110")
    assert desk.balance("AAVE").free == D("0.498")
    assert desk.judge(desk.spec("sell", "0.5", "110")).reason == "BALANCE"


def test_an_id_is_unique_for_ever(desk: PaperDesk) -> None:
    spec = desk.place()
    assert desk.judge(spec).answer_class.value == "DUPLICATE"
    desk.pass_minute()
    assert desk.read(spec).status is VenueStatus.CLOSED
    verdict = desk.judge(replace(spec, qty=D(2)))
    assert (verdict.answer_class.value, verdict.code) == ("DUPLICATE", "-2010")
    assert desk.read(spec).qty == 1


def test_a_request_that_is_too_old_or_ahead_is_refused(desk: PaperDesk) -> None:
    spec = desk.spec()
    sent_ms = desk.now_ms
    assert desk.judge(spec, desk.broker.create_order(spec, sent_ms + 1001, WINDOW_MS)).answer_class.value == "CLOCK"
    desk.clock.advance(5.001)
    assert desk.judge(spec, desk.broker.create_order(spec, sent_ms, WINDOW_MS)).answer_class.value == "CLOCK"
    assert desk.is_absent(spec.client_order_id)


def test_fifty_orders_may_be_open_in_a_symbol(desk: PaperDesk) -> None:
    for _ in range(50):
        desk.place(qty="1", limit="50")
    verdict = desk.judge(desk.spec(qty="1", limit="50"))
    assert (verdict.answer_class.value, verdict.reason) == ("REFUSED", "FILTER")
    assert desk.broker.cancel_all(desk.symbol).answer.status == 200
    desk.clock.advance(60)
    assert desk.broker.fetch_open_orders() == Ok([])


def test_soak_mode_refuses_by_draw(database: str) -> None:
    desk = PaperDesk(database, refuses_at_random=True)
    unlucky = next(name for n in range(10**6) if is_rejected(7, name := f"{n:032x}"))
    assert desk.judge(desk.spec(client_id=unlucky)).reason == "MARKET_CLOSED"
    desk.place()
    desk.broker.close()


def test_rules_do_not_move_with_the_price(desk: PaperDesk) -> None:
    listings = desk.broker.fetch_listings()
    assert isinstance(listings, Ok)
    rules = listings.value[desk.symbol].rules
    # five digits of 100 are 0.01, and 0.001 of it is worth 0.1
    assert (rules.tick, rules.step, rules.min_cost_quote) == (D("0.01"), D("0.001"), 5)
    desk.pass_minute(2000.0)
    later = desk.open()
    assert later.fetch_listings() == listings
    later.close()


def test_contracts_are_reduced_only_and_pay_in_quote(database: str) -> None:
    desk = PaperDesk(database, market_type="linear")
    assert desk.judge(desk.spec("sell", "1", "99", reduce_only=True)).answer_class.value == "REFUSED"
    desk.place(qty="2")
    desk.pass_minute()
    (buy,) = desk.fills()
    # 6 bps of 2 x 100.07
    assert (buy.fee_amount, buy.fee_asset) == (D("0.120084"), "USDT")
    assert desk.judge(desk.spec("sell", "3", "99", reduce_only=True)).answer_class.value == "REFUSED"
    desk.place("sell", "1", "99", reduce_only=True)
    desk.pass_minute(102)
    positions = desk.broker.fetch_positions()
    assert isinstance(positions, Ok)
    (position,) = positions.value
    assert (position.qty, position.entry_price, position.mark_price) == (1, D("100.07"), 102)
    sale = desk.fills()[1]
    assert sale.fee_amount is not None
    assert desk.balance("USDT").total == 100_000 - D("0.120084") + (sale.price - D("100.07")) - sale.fee_amount
    desk.broker.close()


def test_a_symbol_without_bars_has_no_price(desk: PaperDesk) -> None:
    quote = desk.broker.fetch_quote("NONE/USDT")
    assert isinstance(quote, Failed)
    assert desk.broker.fetch_quote(desk.symbol) == Ok(Quote(D("99.95"), D("100.05"), (START_S - 10) * 1000))


def test_two_processes_walk_an_order_once(desk: PaperDesk) -> None:
    spec = desk.place(qty="2")
    other = desk.open()
    desk.pass_minute(base=10)
    with psycopg.connect(desk.url) as conn:  # the other has booked, and not committed, when we come
        conn.execute("select from paper.orders for update")
        conn.commit()
    for broker in (other, desk.broker, other):
        assert isinstance(broker.fetch_fills(desk.symbol, 0), Ok)
    assert [fill.qty for fill in desk.fills(spec)] == [1]
    assert desk.balance("AAVE").total == D("0.999")
    other.close()


def test_a_database_that_is_gone_is_a_wire_that_broke(desk: PaperDesk) -> None:
    lost = PaperDesk.open(desk)
    lost._url = "postgresql://nobody@127.0.0.1:1/regime"
    spec = desk.spec()
    assert desk.judge(spec, lost.create_order(spec, desk.now_ms, WINDOW_MS)).answer_class.value == "UNKNOWN"
    assert isinstance(lost.fetch_order(desk.symbol, spec.client_order_id, None), Failed)
    assert isinstance(lost.fetch_open_orders(), Failed)


def test_money_adds_up_over_many_orders(desk: PaperDesk) -> None:
    for n in range(12):
        desk.place("buy", f"{n + 1}", "101", tif=TimeInForce.IOC if n % 3 else TimeInForce.GTC)
        desk.pass_minute(100 + n % 4 - 2, high=104, low=96, base=60)
        if n % 2:
            desk.place("sell", "0.5", "95")
    desk.pass_minute()
    fills = desk.fills()
    base = sum(fill.side.sign * fill.qty for fill in fills) - sum(fill.fee_amount or 0 for fill in fills if fill.fee_asset == "AAVE")
    quote = sum(-fill.side.sign * fill.qty * fill.price for fill in fills) - sum(
        fill.fee_amount or 0 for fill in fills if fill.fee_asset == "USDT"
    )
    assert desk.balance("AAVE").total == base
    assert desk.balance("USDT").total == 100_000 + quote
    assert {fill.side for fill in fills} == set(Side)


def test_a_market_order_that_outruns_its_money_ends_cancelled(database: str) -> None:
    desk = PaperDesk(database, cash="1000")
    spec = desk.place(qty="9.5", limit=None)
    desk.pass_minute(120)
    assert (desk.read(spec).status, desk.fills(spec)) == (VenueStatus.CANCELED, [])
    assert desk.balance("USDT").free == 1000
    desk.broker.close()
