"""The broker at both simulated venues, through real ccxt clients and sockets: what leaves, what is read, and what is never believed."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from threading import Thread
from time import monotonic
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.adapters.brokers.ccxt_broker import CcxtBroker
from regime_pipeline.execution.answers import AnswerClass, AnswerVerdict, Transport, classify_answer, is_cancel_echo
from regime_pipeline.execution.order_states import VenueStatus
from regime_pipeline.ports import Absent, Balance, CreateReply, Failed, Ok, OrderSpec, OrderType, TimeInForce
from regime_pipeline.risk.purpose import Side
from regime_pipeline.simulation.trading import ApiKeys, Instrument
from tests.brokers import SYMBOLS, connect
from tests.trading import CREATE, TradingVenue, serve_trading

ID = "c579c12d0ce182e98a99629fd09bb09e"
D = Decimal
READ_ORDER = {"spot": "GET /api/v3/order", "linear": "GET /v5/order/realtime"}


@pytest.fixture(scope="module", params=["spot", "linear"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[TradingVenue, CcxtBroker]]:
    with serve_trading(request.param) as venue:
        yield venue, connect(venue)


@pytest.fixture
def at(served: tuple[TradingVenue, CcxtBroker]) -> Iterator[tuple[TradingVenue, CcxtBroker, str]]:
    """A venue, a broker and a symbol; the book is empty of open orders, the script of faults."""
    venue, broker = served
    yield venue, broker, SYMBOLS[venue.market_type.value]
    venue.clear_script()
    venue.skew(0)
    for order in list(venue.book.list_open(None)):
        venue.hand.cancel(order.order_id)


def an_id(number: int) -> str:
    return f"{number:032x}"


def a_spec(symbol: str, client_order_id: str, **changes: Any) -> OrderSpec:
    usual: dict[str, Any] = {"side": Side.BUY, "type": OrderType.LIMIT, "qty": D("0.010"), "limit_price": D(39_000)}
    return OrderSpec(client_order_id, symbol, **{**usual, **changes})


def send(venue: TradingVenue, broker: CcxtBroker, spec: OrderSpec, age_ms: int = 0) -> AnswerVerdict:
    reply = broker.create_order(spec, venue.now_ms - age_ms, 5_000)
    return classify_answer(broker.traits.profile, reply.answer, spec.client_order_id)


_numbers = iter(range(1, 10_000))


def fresh_id() -> str:
    return an_id(next(_numbers))


# ---- creates ------------------------------------------------------------------------------------------------------------------------


def test_an_order_leaves_once_as_it_was_decided(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    order_id, sent_at_ms = fresh_id(), venue.now_ms - 700
    spec = a_spec(symbol, order_id, qty=D("0.0120"), limit_price=D("39000.50"), tif=TimeInForce.GTC)
    before = len(venue.truth()["received"])
    reply = broker.create_order(spec, sent_at_ms, 4_321)
    assert classify_answer(broker.traits.profile, reply.answer, order_id).answer_class is AnswerClass.ACCEPTED
    received = venue.truth()["received"][before:]
    assert len(received) == 1
    kept = venue.hand.order(order_id)
    assert (kept.qty, kept.asked.price, kept.side.value, kept.asked.tif.value) == (D("0.012"), D("39000.5"), "BUY", "GTC")


@pytest.mark.parametrize(("age_ms", "window_ms", "expected"), [(1_500, 1_000, "CLOCK"), (500, 1_000, "ACCEPTED"), (6_000, 5_000, "CLOCK")])
def test_the_venue_judges_the_age_by_our_stamp_and_our_window(
    at: tuple[TradingVenue, CcxtBroker, str], age_ms: int, window_ms: int, expected: str
) -> None:
    """The stamp is that of tx2, not of the moment ccxt signs: a frozen process cannot send late."""
    venue, broker, symbol = at
    order_id = fresh_id()
    reply = broker.create_order(a_spec(symbol, order_id), venue.now_ms - age_ms, window_ms)
    assert classify_answer(broker.traits.profile, reply.answer, order_id).answer_class == expected


def test_the_stamp_of_an_order_is_not_that_of_the_next_read(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    assert send(venue, broker, a_spec(symbol, fresh_id()), age_ms=60_000).answer_class is AnswerClass.CLOCK
    lane = broker._lanes.create
    assert lane.exchange.options["recvWindow"] == 5_000
    assert abs(lane.exchange.nonce() - venue.now_ms) < 1_000


@pytest.mark.parametrize("tif", list(TimeInForce))
def test_time_in_force_is_said(at: tuple[TradingVenue, CcxtBroker, str], tif: TimeInForce) -> None:
    venue, broker, symbol = at
    order_id = fresh_id()
    assert send(venue, broker, a_spec(symbol, order_id, tif=tif)).answer_class is AnswerClass.ACCEPTED
    assert venue.hand.order(order_id).asked.tif.value == tif.value


def test_market_and_stop_orders(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    bought, stopped = fresh_id(), fresh_id()
    assert send(venue, broker, a_spec(symbol, bought, type=OrderType.MARKET, limit_price=None)).answer_class is AnswerClass.ACCEPTED
    assert venue.hand.order(bought).filled == D("0.010")
    is_linear = broker.traits.has_venue_stops
    stop = a_spec(
        symbol,
        stopped,
        side=Side.SELL,
        type=OrderType.STOP,
        limit_price=None,
        stop_price=D("38000.5"),
        qty=D("0.005"),
        reduce_only=is_linear,
    )
    assert send(venue, broker, stop).answer_class is AnswerClass.ACCEPTED
    kept = venue.hand.order(stopped)
    assert kept.asked.trigger is not None
    assert (kept.asked.trigger.price, kept.asked.trigger.is_rising, kept.asked.is_reduce_only) == (D("38000.5"), False, is_linear)
    read = broker.fetch_order(symbol, stopped, None)
    assert isinstance(read, Ok)
    assert (read.value.stop_price, read.value.status, read.value.reduce_only) == (D("38000.5"), VenueStatus.OPEN, is_linear)


@pytest.mark.parametrize(
    "changes",
    [
        {"qty": D("0.0100000001")},  # ccxt would cut it to the step, silently
        {"limit_price": D("39000.123")},  # and round the price to the tick
        {"type": OrderType.LIMIT, "limit_price": None},
        {"type": OrderType.STOP, "limit_price": None},
        {"symbol": "DOGE/EUR"},
    ],
)
def test_what_would_not_leave_as_decided_does_not_leave(at: tuple[TradingVenue, CcxtBroker, str], changes: dict[str, Any]) -> None:
    venue, broker, symbol = at
    before = len(venue.truth()["received"])
    rest = {name: value for name, value in changes.items() if name != "symbol"}
    verdict = send(venue, broker, a_spec(changes.get("symbol", symbol), fresh_id(), **rest))
    assert (verdict.answer_class, verdict.reason) == (AnswerClass.REFUSED, "CONFIG")
    assert len(venue.truth()["received"]) == before


def test_why_an_order_did_not_leave_is_told(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    reply = broker.create_order(a_spec(symbol, fresh_id(), qty=D("0.0100000001")), venue.now_ms, 5_000)
    assert reply.answer.transport is Transport.NOT_BUILT
    assert b"decided was 0.0100000001" in reply.answer.body


def test_before_the_markets_are_read_nothing_is_sent() -> None:
    """ccxt would read them first, between the stamp and the order."""
    with serve_trading() as venue:
        broker = connect(venue, is_ready=False)
        assert send(venue, broker, a_spec("BTC/USDT", ID)).answer_class is AnswerClass.REFUSED
        assert venue.truth()["requests"] == {}


@pytest.mark.fault_row("X24")
@pytest.mark.parametrize(
    "trap",
    [
        lambda exchange: exchange.options.update({"maxRetriesOnFailure": 3}),
        lambda exchange: exchange.options.update({"createOrder": {"maxRetriesOnFailure": 3}}),
    ],
)
@pytest.mark.parametrize("fault", [{"status": 503, "body": ""}, {"cut": "reset"}, {"status": 504, "body": ""}])
def test_even_a_client_that_retries_sends_once(trap: Callable[[Any], None], fault: dict[str, Any]) -> None:
    """Start-up refuses such a client; if it were set later, the session still lets one request out (X24)."""
    with serve_trading() as venue:
        broker = connect(venue)
        trap(broker._lanes.create.exchange)
        venue.script_create(repeat=0, **fault)
        assert send(venue, broker, a_spec("BTC/USDT", ID)).answer_class is AnswerClass.UNKNOWN
        assert venue.truth()["requests"][CREATE[venue.market_type]] == 1


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"delay_ms": 10_000}, AnswerClass.UNKNOWN),
        ({"cut": "reset"}, AnswerClass.UNKNOWN),
        ({"cut": "fin"}, AnswerClass.UNKNOWN),
        ({"cut": "truncate"}, AnswerClass.UNKNOWN),
        ({"cut": "tls"}, AnswerClass.UNKNOWN),
        ({"status": 200, "body": "<html>maintenance</html>"}, AnswerClass.UNKNOWN),
        ({"status": 200, "body": ""}, AnswerClass.UNKNOWN),
        ({"status": 200, "body": "null"}, AnswerClass.UNKNOWN),
        ({"status": 200, "body": "[]"}, AnswerClass.UNKNOWN),
        ({"status": 200, "body": "{}"}, AnswerClass.UNKNOWN),
        ({"status": 200, "body": '{"orderId": 28, "clientOrderId": "another"}'}, AnswerClass.UNKNOWN),
        ({"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}, "body": ""}, AnswerClass.UNKNOWN),
        ({"status": 524, "body": "<html></html>"}, AnswerClass.UNKNOWN),
        ({"status": 403, "body": "<html>firewall</html>"}, AnswerClass.UNKNOWN),
        ({"status": 451, "body": "<html>restricted</html>"}, AnswerClass.UNKNOWN),
    ],
)
def test_an_order_that_was_taken_and_answered_badly_is_found_by_our_id(
    at: tuple[TradingVenue, CcxtBroker, str], fault: dict[str, Any], expected: AnswerClass
) -> None:
    venue, broker, symbol = at
    order_id, before = fresh_id(), venue.truth()["requests"].get(CREATE[venue.market_type], 0)
    for lane in broker._lanes.all():
        lane.session.timeout_s = 0.5 if "delay_ms" in fault else 4.0
    venue.script_create(**fault)
    assert send(venue, broker, a_spec(symbol, order_id)).answer_class is expected
    found = broker.fetch_order(symbol, order_id, None)
    assert isinstance(found, Ok)
    assert (found.value.client_order_id, found.value.qty) == (order_id, D("0.010"))
    assert venue.truth()["requests"][CREATE[venue.market_type]] == before + 1


def test_a_pause_that_the_venue_asks_for_is_handed_on(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    body = {"code": -1003, "msg": "Too many requests.", "retCode": 10006, "retMsg": "Too many visits!"}
    venue.script_create(accept="never", status=429, headers={"Retry-After": "23"}, body=body)
    reply = broker.create_order(a_spec(symbol, fresh_id()), venue.now_ms, 5_000)
    assert reply.retry_after_s == 23
    assert classify_answer(broker.traits.profile, reply.answer, ID).answer_class is AnswerClass.LIMITED


def test_a_repeated_id_is_a_duplicate_and_the_first_order_is_found(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    order_id = fresh_id()
    classes = [send(venue, broker, a_spec(symbol, order_id)).answer_class for _ in range(2)]
    assert classes == [AnswerClass.ACCEPTED, AnswerClass.DUPLICATE]


def test_nobody_listens_and_a_key_that_was_revoked() -> None:
    with serve_trading() as venue:
        broker = connect(venue)
        venue.keys.revoke("kill")
        assert send(venue, broker, a_spec("BTC/USDT", ID)).reason == "AUTH"
        assert broker.fetch_balances() == Failed("HTTP_401 -2015 Invalid API-key, IP, or permissions for action.")
    assert send(venue, broker, a_spec("BTC/USDT", ID)).answer_class is AnswerClass.NOT_SENT
    assert broker.fetch_time_ms() == Failed("NOT_CONNECTED")


def test_it_speaks_https() -> None:
    with serve_trading(is_tls=True) as venue:
        broker = connect(venue)
        assert venue.url.startswith("https://")
        assert send(venue, broker, a_spec("BTC/USDT", ID)).answer_class is AnswerClass.ACCEPTED
        broker.close()


# ---- cancels ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_by_venue_id", [False, True])
def test_a_cancel_by_either_id_is_answered_with_ours(at: tuple[TradingVenue, CcxtBroker, str], is_by_venue_id: bool) -> None:
    venue, broker, symbol = at
    order_id = fresh_id()
    venue_id = send(venue, broker, a_spec(symbol, order_id)).venue_order_id
    reply = broker.cancel_order(symbol, order_id, venue_id if is_by_venue_id else None)
    assert is_cancel_echo(broker.traits.profile, reply.answer.body, order_id)
    read = broker.fetch_order(symbol, order_id, None)
    assert isinstance(read, Ok)
    assert read.value.status is VenueStatus.CANCELED


def test_cancel_all_takes_triggers_too(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    bought = a_spec(symbol, fresh_id(), type=OrderType.MARKET, limit_price=None)
    stop = a_spec(symbol, fresh_id(), side=Side.SELL, type=OrderType.STOP, limit_price=None, stop_price=D(38_000))
    for spec in (bought, stop, a_spec(symbol, fresh_id())):
        assert send(venue, broker, spec).answer_class is AnswerClass.ACCEPTED
    assert broker.cancel_all(symbol).answer.status == 200
    assert broker.fetch_open_orders() == Ok([])


def test_cancels_work_before_the_markets_are_known() -> None:
    """The kill worker must not depend on a list of markets."""
    with serve_trading() as venue:
        assert send(venue, connect(venue), a_spec("BTC/USDT", ID)).answer_class is AnswerClass.ACCEPTED
        assert connect(venue, is_ready=False).cancel_order("BTC/USDT", ID, None).answer.status == 200
        assert venue.hand.order(ID).status.value == "CANCELED"


def test_a_broker_without_markets_learns_them_with_its_first_read_and_lists_without_them_too() -> None:
    """`regime kill` lists what is open to see that nothing is left, also while the venue's list of markets cannot be read."""
    with serve_trading() as venue:
        send(venue, connect(venue), a_spec("BTC/USDT", ID))
        listed = connect(venue, is_ready=False).fetch_open_orders("BTC/USDT")
        assert isinstance(listed, Ok)
        assert [order.client_order_id for order in listed.value] == [ID]
        venue.script({"on": "GET /api/v3/exchangeInfo", "status": 503, "body": "", "repeat": 0})
        broker = connect(venue, is_ready=False)
        listed = broker.fetch_open_orders()
        assert isinstance(listed, Ok)
        assert [(order.client_order_id, order.symbol) for order in listed.value] == [(ID, "BTCUSDT")]
        assert isinstance(broker.fetch_open_orders("BTC/USDT"), Failed)
        assert broker.cancel_all(listed.value[0].symbol).answer.status == 200
        assert broker.fetch_open_orders() == Ok([])


def test_a_cancel_does_not_wait_behind_a_create_or_a_read_that_hangs(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    order_id = fresh_id()
    assert send(venue, broker, a_spec(symbol, order_id)).answer_class is AnswerClass.ACCEPTED
    for lane in broker._lanes.all():
        lane.session.timeout_s = 2.0
    venue.script_create(delay_ms=10_000)
    venue.script({"on": READ_ORDER[venue.market_type.value], "delay_ms": 10_000})
    hanging = [
        Thread(target=broker.create_order, args=(a_spec(symbol, fresh_id()), venue.now_ms, 5_000)),
        Thread(target=broker.fetch_order, args=(symbol, order_id, None)),
    ]
    for thread in hanging:
        thread.start()
    started_s = monotonic()
    reply = broker.cancel_order(symbol, order_id, None)
    assert monotonic() - started_s < 1.0
    assert reply.answer.status == 200
    for thread in hanging:
        thread.join()


# ---- reads --------------------------------------------------------------------------------------------------------------------------


def test_an_order_is_read_by_either_id_and_in_lists(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    order_id, since_ms = fresh_id(), venue.now_ms
    venue_id = send(venue, broker, a_spec(symbol, order_id)).venue_order_id
    venue.hand.fill(order_id, "0.004", "38999.5")
    by_ours, by_theirs = broker.fetch_order(symbol, order_id, None), broker.fetch_order(symbol, "f" * 32, venue_id)
    assert isinstance(by_ours, Ok)
    assert by_ours == by_theirs
    found = by_ours.value
    assert (found.venue_order_id, found.client_order_id, found.symbol, found.side) == (venue_id, order_id, symbol, Side.BUY)
    assert (found.status, found.qty, found.filled, found.limit_price) == (VenueStatus.OPEN, D("0.010"), D("0.004"), D(39_000))
    for listed in (broker.fetch_open_orders(), broker.fetch_open_orders(symbol), broker.fetch_closed_orders(symbol, since_ms)):
        assert isinstance(listed, Ok)
        assert found in listed.value


def test_absent_is_said_by_the_venue_alone(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    assert broker.fetch_order(symbol, "0" * 32, None) == Absent()
    for fault in ({"status": 404, "body": "<html>not found</html>"}, {"status": 500, "body": '{"code":-2013,"retCode":110001}'}):
        venue.script({"on": READ_ORDER[venue.market_type.value], **fault})
        assert isinstance(broker.fetch_order(symbol, "0" * 32, None), Failed)


@pytest.mark.fault_row("X20")
@pytest.mark.parametrize(
    "bad", ["", "null", "[]", "{}", "<html></html>", '{"orderId": null}', "[{}]", '{"retCode":0,"result":{"list":[{}]}}', "NaN"]
)
@pytest.mark.parametrize("status", [200, 400, 404, 429, 503])
def test_a_read_that_is_answered_badly_says_nothing(at: tuple[TradingVenue, CcxtBroker, str], bad: str, status: int) -> None:
    """Not absent, not empty, not flat (X20, X37); an empty list of open orders is one only at a venue that answers with bare lists."""
    venue, broker, symbol = at
    venue.script({"on": "GET *", "status": status, "body": bad, "repeat": 0})
    reads = [
        broker.fetch_order(symbol, ID, None),
        broker.fetch_balances(),
        broker.fetch_quote(symbol),
        broker.fetch_time_ms(),
        broker.fetch_listings(),
        broker.fetch_permissions(),
        broker.fetch_account_id(),
    ]
    lists = [broker.fetch_open_orders(), broker.fetch_closed_orders(symbol, venue.now_ms), broker.fetch_fills(symbol, venue.now_ms)]
    if venue.market_type.value == "linear":
        lists += [broker.fetch_positions(), broker.fetch_funding(symbol, venue.now_ms)]
    elif (status, bad) == (200, "[]"):
        lists = []
    assert [read for read in [*reads, *lists] if not isinstance(read, Failed)] == []


def test_a_read_hands_on_how_long_the_venue_wants_rest(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, _ = at
    venue.script({"on": "GET *", "status": 418, "headers": {"Retry-After": "120"}, "body": '{"code":-1003,"msg":"banned"}'})
    read = broker.fetch_balances()
    assert isinstance(read, Failed)
    assert read.needs_rest_s == 120


@pytest.mark.fault_row("X21")
def test_an_archived_order_is_not_absent() -> None:
    """There was such an order: trades and balances must tell what became of it (X21)."""
    with serve_trading() as venue:
        broker = connect(venue)
        assert send(venue, broker, a_spec("BTC/USDT", ID)).answer_class is AnswerClass.ACCEPTED
        broker.cancel_order("BTC/USDT", ID, None)
        venue.change(history_ms=0)
        read = broker.fetch_order("BTC/USDT", ID, None)
        assert isinstance(read, Failed)
        assert "-2026" in read.reason


def test_somebody_elses_order_is_seen_and_is_not_ours(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, _ = at
    foreign = venue.hand.place("BTCUSDT", "BUY", "0.010", "38000")
    read = broker.fetch_open_orders()
    assert isinstance(read, Ok)
    seen = next(each for each in read.value if each.venue_order_id == foreign.order_id)
    assert (seen.client_order_id, seen.raw_client_id) == (None, foreign.client_id)


def test_another_order_than_asked_for_is_no_answer(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    order_id = fresh_id()
    send(venue, broker, a_spec(symbol, order_id))
    answer = broker._lanes.read.ask(broker._dialect.cancel("BTCUSDT", broker._named("0" * 32, None))).capture
    assert answer.n_sent == 1  # the lane works
    if venue.market_type.value == "spot":
        row = {
            "symbol": "BTCUSDT",
            "orderId": 7,
            "clientOrderId": order_id,
            "status": "NEW",
            "side": "BUY",
            "origQty": "1",
            "executedQty": "0",
        }
        body: object = {**row, "price": "1", "time": venue.now_ms}
    else:
        row = {
            "symbol": "BTCUSDT",
            "orderId": "7",
            "orderLinkId": order_id,
            "orderStatus": "New",
            "side": "Buy",
            "qty": "1",
            "cumExecQty": "0",
        }
        listed = {**row, "price": "1", "createdTime": str(venue.now_ms), "reduceOnly": False}
        body = {"retCode": 0, "result": {"list": [listed], "nextPageCursor": ""}}
    for asked in ((an_id(99_999), None), (order_id, "8")):
        venue.script({"on": READ_ORDER[venue.market_type.value], "status": 200, "body": body})
        read = broker.fetch_order(symbol, *asked)
        assert isinstance(read, Failed)
        assert read.reason.startswith("OTHER_ORDER")


def test_fills_carry_the_fee_or_none_while_the_venue_has_not_said(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    order_id, since_ms = fresh_id(), venue.now_ms
    venue_id = send(venue, broker, a_spec(symbol, order_id, qty=D("0.010"))).venue_order_id
    first = venue.hand.fill(order_id, "0.004", "39000")
    second = venue.hand.fill(order_id, "0.006", "38999.5")
    assert second.trade_id is not None
    venue.hand.hide_fee(second.trade_id)
    for read in (broker.fetch_fills(symbol, since_ms), broker.fetch_fills(symbol, since_ms, venue_id)):
        assert isinstance(read, Ok)
        told = [(each.qty, each.price, each.fee_amount, each.fee_asset, each.side, each.venue_order_id) for each in read.value]
        fee, asset = (first.fee, first.fee_asset)
        assert told == [
            (D("0.004"), D(39_000), fee, asset, Side.BUY, venue_id),
            (D("0.006"), D("38999.5"), None, None, Side.BUY, venue_id),
        ]
    assert broker.fetch_fills(symbol, since_ms, "999") == Ok([])


def test_reads_go_through_every_page() -> None:
    for market_type, n in (("spot", 1_050), ("linear", 130)):
        with serve_trading(market_type, balances={"USDT": "100000000"}, max_open_orders=2_000) as venue:
            broker, symbol, since_ms = connect(venue), SYMBOLS[market_type], venue.now_ms
            order_id = fresh_id()
            send(venue, broker, a_spec(symbol, order_id, qty=D(10)))
            for _ in range(n):
                venue.hand.fill(order_id, "0.001")
            read = broker.fetch_fills(symbol, since_ms)
            assert isinstance(read, Ok)
            assert len({fill.venue_trade_id for fill in read.value}) == n
            for number in range(60):
                venue.hand.place("BTCUSDT", "BUY", "0.001", "38000", client_id=f"web-{number}")
            orders = broker.fetch_closed_orders(symbol, since_ms)
            assert isinstance(orders, Ok)
            assert len(orders.value) == 61
            listed = broker.fetch_open_orders(symbol)
            assert isinstance(listed, Ok)
            assert len(listed.value) == 61


@pytest.mark.parametrize("days", [0, 3, 20, 90])
def test_history_of_any_length_is_read_in_windows_that_the_venue_allows(at: tuple[TradingVenue, CcxtBroker, str], days: int) -> None:
    venue, broker, symbol = at
    order_id = fresh_id()
    send(venue, broker, a_spec(symbol, order_id, type=OrderType.MARKET, limit_price=None))
    since_ms = venue.now_ms - days * 86_400_000 - 60_000
    fills, orders = broker.fetch_fills(symbol, since_ms), broker.fetch_closed_orders(symbol, since_ms)
    assert isinstance(fills, Ok)
    assert isinstance(orders, Ok)
    assert order_id in {order.client_order_id for order in orders.value}
    assert fills.value[-1].qty == D("0.010")


def test_numbers_are_the_venues_own_strings() -> None:
    """18 decimals survive from the venue's filters to a quantity that is ordered: no float is in between."""
    fine = Instrument("BTCUSDT", "BTC", "USDT", D("0.00000001"), D("0.00000001"), D("0.00000001"), D("0.00000001"), D("0.12345678"))
    with serve_trading(instruments=[fine], balances={"USDT": "123456789.12345678"}) as venue:
        broker = connect(venue)
        listed = broker.fetch_listings()
        assert isinstance(listed, Ok)
        rules = listed.value["BTC/USDT"].rules
        assert (rules.tick, rules.step) == (D("1e-8"), D("1e-8"))
        qty, price = D("8765.43212345"), D("0.10000007")
        assert send(venue, broker, a_spec("BTC/USDT", ID, qty=qty, limit_price=price)).answer_class is AnswerClass.ACCEPTED
        read = broker.fetch_order("BTC/USDT", ID, None)
        assert isinstance(read, Ok)
        assert (read.value.qty, read.value.limit_price) == (qty, price)
        balances = broker.fetch_balances()
        assert isinstance(balances, Ok)
        assert balances.value["USDT"].total == D("123456789.12345678")


def test_balances_tell_what_is_free(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    before = broker.fetch_balances()
    send(venue, broker, a_spec(symbol, fresh_id(), qty=D("0.010"), limit_price=D(30_000)))
    after = broker.fetch_balances()
    assert isinstance(before, Ok)
    assert isinstance(after, Ok)
    locked = D(300) if venue.market_type.value == "spot" else D(30)  # leverage is 10
    assert after.value["USDT"] == Balance(before.value["USDT"].free - locked, before.value["USDT"].total)


@pytest.mark.fault_row("X37")
def test_positions_are_signed_and_an_empty_list_is_doubted() -> None:
    with serve_trading("linear") as venue:
        broker, symbol = connect(venue), SYMBOLS["linear"]
        assert broker.fetch_positions() == Ok([])
        spec = a_spec(symbol, ID, side=Side.SELL, type=OrderType.MARKET, limit_price=None, qty=D("0.250"))
        assert send(venue, broker, spec).answer_class is AnswerClass.ACCEPTED
        read = broker.fetch_positions()
        assert isinstance(read, Ok)
        (position,) = read.value
        assert (position.symbol, position.qty, position.entry_price) == (symbol, D("-0.250"), D(40_000))
        assert position.liquidation_price is not None
        body = {"retCode": 0, "result": {"list": [], "nextPageCursor": ""}}
        venue.script({"on": "GET /v5/position/list", "status": 200, "body": body})
        assert broker.fetch_positions() == Failed("EMPTY positions while margin is bound")


def test_funding_is_negative_when_we_paid() -> None:
    with serve_trading("linear") as venue:
        broker, symbol = connect(venue), SYMBOLS["linear"]
        send(venue, broker, a_spec(symbol, ID, type=OrderType.MARKET, limit_price=None, qty=D(1)))
        venue.hand.pay_funding("BTCUSDT", "0.0001")
        read = broker.fetch_funding(symbol, venue.now_ms - 60_000)
        assert isinstance(read, Ok)
        assert [(each.symbol, each.amount_quote) for each in read.value] == [(symbol, D(-4))]
        fills = broker.fetch_fills(symbol, venue.now_ms - 60_000)
        assert isinstance(fills, Ok)
        assert len(fills.value) == 1  # the payment is none
        venue.hand.liquidate("BTCUSDT")
        fills = broker.fetch_fills(symbol, venue.now_ms - 60_000)
        assert isinstance(fills, Ok)
        assert [each.side for each in fills.value] == [Side.BUY, Side.SELL]  # a liquidation is one


def test_reads_are_stamped_by_the_venues_clock() -> None:
    """Ours may be minutes off: everything is stamped by the corrected clock that the broker was given."""
    with serve_trading() as venue:
        broker = connect(venue)
        for skew_ms in (-300_000, 300_000):
            venue.skew(skew_ms)
            assert isinstance(broker.fetch_balances(), Ok)
            read = broker.fetch_time_ms()
            assert isinstance(read, Ok)
            assert abs(read.value - venue.now_ms) < 1_000


@pytest.mark.fault_row("X18")
@pytest.mark.parametrize("skew_ms", [-300_000, 300_000])
def test_a_machine_whose_clock_is_off_can_still_cancel(skew_ms: int) -> None:
    """Signed with its own time every cancel of a kill would be refused; it asks the venue for the time first."""
    with serve_trading() as venue:
        send(venue, connect(venue), a_spec("BTC/USDT", ID))
        venue.skew(skew_ms)
        assert connect(venue, venue.clock_ms, is_ready=False).cancel_order("BTC/USDT", ID, None).answer.status == 200
        assert venue.hand.order(ID).status.value == "CANCELED"


def test_a_venue_that_tells_no_time_is_asked_for_it_three_times_and_cancels_go_out_all_the_same() -> None:
    with serve_trading() as venue:
        broker = connect(venue, is_ready=False)
        venue.script({"on": "GET /api/v3/time", "status": 503, "body": "", "repeat": 0})
        for _ in range(5):
            assert broker.cancel_all("BTC/USDT").answer.status == 400  # nothing to cancel
        assert venue.truth()["requests"] == {"GET /api/v3/time": 3, "DELETE /api/v3/openOrders": 5}


def test_quote_and_listings(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    quote, listings = broker.fetch_quote(symbol), broker.fetch_listings()
    assert isinstance(quote, Ok)
    assert isinstance(listings, Ok)
    assert (quote.value.bid, quote.value.ask) == (D(40_000), D(40_000))
    assert abs(quote.value.at_ms - venue.now_ms) < 2_000
    listing = listings.value[symbol]
    assert (listing.base, listing.quote, listing.rules.symbol, listing.rules.is_active) == ("BTC", "USDT", symbol, True)
    assert listing.rules.min_cost_quote == D(5)
    assert listing.maker_bps <= listing.taker_bps


def test_markets_that_cannot_be_read_again_leave_the_ones_we_know(at: tuple[TradingVenue, CcxtBroker, str]) -> None:
    venue, broker, symbol = at
    venue.script({"on": "GET *", "status": 200, "body": "{}", "repeat": 4})
    assert isinstance(broker.fetch_listings(), Failed)
    venue.clear_script()
    assert send(venue, broker, a_spec(symbol, fresh_id())).answer_class is AnswerClass.ACCEPTED


BODIES = st.one_of(
    st.text(max_size=40),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["code", "msg", "retCode", "result", "list", "orderId", "symbol", "balances", "coin", "price", "time"]),
                inner,
            )
        ),
        max_leaves=10,
    ),
)


@pytest.mark.parametrize("market_type", ["spot", "linear"])
def test_no_answer_whatever_breaks_a_read_or_a_create(market_type: str) -> None:
    with serve_trading(market_type) as venue:
        broker, symbol = connect(venue), SYMBOLS[market_type]

        @settings(max_examples=25, deadline=None)
        @given(st.sampled_from([200, 201, 400, 404, 429, 500]), BODIES)
        def check(status: int, body: object) -> None:
            venue.clear_script()
            text = body if isinstance(body, str) else json.dumps(body)
            venue.script({"on": "*", "status": status, "body": text, "repeat": 0})
            reply = broker.create_order(a_spec(symbol, ID), venue.now_ms, 5_000)
            assert isinstance(reply, CreateReply)
            assert not isinstance(broker.fetch_order(symbol, ID, None), Ok)
            assert not isinstance(broker.fetch_balances(), Ok)
            assert not isinstance(broker.fetch_listings(), Ok)
            for read in (broker.fetch_open_orders(), broker.fetch_fills(symbol, venue.now_ms), broker.fetch_positions()):
                assert isinstance(read, Ok | Failed)

        check()


def test_no_secret_is_in_what_is_handed_on() -> None:
    """A gateway's page may quote the request: headers, signature, private address (G12)."""
    keys = ApiKeys()
    with serve_trading() as venue:
        broker = connect(venue)
        key, secret = venue.keys["kill"].key, venue.keys["kill"].secret
        page = f"<html>X-MBX-APIKEY: {key} GET https://api.binance.com/api/v3/order?symbol=X&signature=abcdef0123 secret {secret}</html>"
        venue.script({"on": "*", "status": 403, "body": page, "repeat": 0})
        reply = broker.create_order(a_spec("BTC/USDT", ID), venue.now_ms, 5_000)
        told = [
            reply.answer.body.decode(),
            broker.cancel_all("BTC/USDT").answer.body.decode(),
            repr(broker.fetch_balances()),
            repr(broker.traits),
        ]
        assert len(keys.kinds()) == 3
        for each in told:
            assert not any(word in each for word in (key, secret, "abcdef0123"))
