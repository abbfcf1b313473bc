"""The real ccxt client trades Binance spot at the simulated venue over sockets, and is refused as Binance refuses."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import ccxt
import pytest
import requests

from tests.trading import TradingVenue, make_instrument, serve_trading

PAIR, SYMBOL = "BTC/USDT", "BTCUSDT"


@pytest.fixture
def venue() -> Iterator[TradingVenue]:
    with serve_trading(balances={"USDT": "100000", "BTC": "1"}) as running:
        yield running


@pytest.fixture
def exchange(venue: TradingVenue) -> Any:
    return venue.exchange()


def pinned(venue: TradingVenue, client_id: str, age_ms: int = 0) -> dict[str, Any]:
    """What the product pins in a create: the client id, and until when the request is good."""
    return {"clientOrderId": client_id, "timestamp": venue.now_ms - age_ms, "recvWindow": 5000}


def test_markets_tell_the_grid(exchange: Any) -> None:
    market = exchange.load_markets()[PAIR]
    assert (market["precision"]["price"], market["precision"]["amount"]) == (0.01, 0.00001)
    assert (market["limits"]["amount"]["min"], market["limits"]["cost"]["min"]) == (0.00001, 5.0)
    assert (market["spot"], market["active"]) == (True, True)


def test_bars_are_still_served_beside_it(exchange: Any) -> None:
    assert len(exchange.fetch_ohlcv(PAIR, "1h", limit=5)) == 5


def test_an_order_is_found_by_client_id_from_create_to_cancel(venue: TradingVenue, exchange: Any) -> None:
    created = exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000, pinned(venue, "a" * 32))
    assert (created["clientOrderId"], created["status"], created["filled"]) == ("a" * 32, "open", 0)
    by_client = exchange.fetch_order(None, PAIR, {"clientOrderId": "a" * 32})
    by_id = exchange.fetch_order(created["id"], PAIR)
    assert by_client["id"] == by_id["id"] == created["id"]
    cancelled = exchange.cancel_order(None, PAIR, {"clientOrderId": "a" * 32})
    assert cancelled["info"]["origClientOrderId"] == "a" * 32
    assert cancelled["info"]["clientOrderId"] != "a" * 32
    assert exchange.fetch_order(created["id"], PAIR)["status"] == "canceled"


def test_fills_show_in_order_trades_and_balances(venue: TradingVenue, exchange: Any) -> None:
    exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000, pinned(venue, "a"))
    assert exchange.fetch_balance()["USDT"] == {"free": 96_100, "used": 3_900, "total": 100_000}
    venue.change(liquidity=Decimal("0.04"))
    venue.set_price(SYMBOL, 38_500)
    order = exchange.fetch_order(None, PAIR, {"clientOrderId": "a"})
    assert (order["status"], order["filled"], order["remaining"], order["average"]) == ("open", 0.04, 0.06, 39_000)
    venue.set_price(SYMBOL, 38_500)
    trades = exchange.fetch_my_trades(PAIR)
    assert [(trade["amount"], trade["price"], trade["takerOrMaker"], trade["order"]) for trade in trades] == [
        (0.04, 39_000, "maker", order["id"]),
        (0.04, 39_000, "maker", order["id"]),
    ]
    assert trades[0]["fee"] == {"currency": "BTC", "cost": 0.00004}
    # 1 + 0.08 - 10 bps of 0.08.
    assert exchange.fetch_balance()["BTC"]["total"] == 1.07992


def test_market_orders_answer_with_their_fills(exchange: Any) -> None:
    order = exchange.create_order(PAIR, "market", "sell", 0.5)
    assert (order["status"], order["average"], order["fees"]) == ("closed", 40_000, [{"currency": "USDT", "cost": 20}])


@pytest.mark.parametrize(("params", "status", "filled"), [({"timeInForce": "IOC"}, "expired", 0.2), ({"timeInForce": "FOK"}, "expired", 0)])
def test_orders_of_the_moment_end_at_once(venue: TradingVenue, exchange: Any, params: dict[str, str], status: str, filled: float) -> None:
    venue.change(liquidity=Decimal("0.2"))
    order = exchange.create_order(PAIR, "limit", "buy", 0.5, 41_000, params)
    assert (order["status"], order["filled"]) == (status, filled)


def test_post_only_rests_or_is_refused(exchange: Any) -> None:
    assert exchange.create_order(PAIR, "limit", "buy", 0.1, 39_999, {"postOnly": True})["status"] == "open"
    with pytest.raises(ccxt.OrderImmediatelyFillable):
        exchange.create_order(PAIR, "limit", "buy", 0.1, 40_000, {"postOnly": True})


@pytest.mark.parametrize(("kind", "price", "paid"), [("market", None, 37_500), ("limit", 37_000, 37_500)])
def test_stops_wait_for_their_price(venue: TradingVenue, exchange: Any, kind: str, price: float | None, paid: float) -> None:
    order = exchange.create_order(PAIR, kind, "sell", 1, price, {"stopLossPrice": 38_000})
    read = exchange.fetch_order(order["id"], PAIR)
    assert (read["status"], read["triggerPrice"]) == ("open", 38_000)
    venue.set_price(SYMBOL, 37_500)
    assert exchange.fetch_order(order["id"], PAIR)["average"] == paid


def test_open_orders_of_one_symbol_and_of_all(exchange: Any) -> None:
    exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000)
    exchange.create_order("ETH/USDT", "limit", "buy", 1, 1_900)
    assert [order["symbol"] for order in exchange.fetch_open_orders(PAIR)] == [PAIR]
    assert [order["symbol"] for order in exchange.fetch_open_orders()] == [PAIR, "ETH/USDT"]
    assert len(exchange.cancel_all_orders(PAIR)) == 1
    with pytest.raises(ccxt.OrderNotFound, match="-2011"):
        exchange.cancel_all_orders(PAIR)
    assert [order["status"] for order in exchange.fetch_orders(PAIR)] == ["canceled"]


def test_pages_of_trades_and_orders(exchange: Any) -> None:
    for _ in range(5):
        exchange.create_order(PAIR, "market", "buy", 0.01)
    assert [int(trade["id"]) for trade in exchange.fetch_my_trades(PAIR, limit=2)] == [4, 5]
    assert [int(trade["id"]) for trade in exchange.fetch_my_trades(PAIR, limit=2, params={"fromId": 2})] == [2, 3]
    orders = exchange.fetch_orders(PAIR)
    assert [trade["order"] for trade in exchange.fetch_my_trades(PAIR, params={"orderId": orders[3]["id"]})] == [orders[3]["id"]]
    since = exchange.fetch_my_trades(PAIR, since=orders[0]["timestamp"])
    assert len(since) == 5


def test_time_book_and_rights(venue: TradingVenue, exchange: Any) -> None:
    assert abs(exchange.fetch_time() - venue.now_ms) < 2_000
    venue.change(half_spread_bps=Decimal(5), depth_qty=Decimal(3))
    ticker = exchange.fetch_bids_asks([PAIR])[PAIR]
    assert (ticker["bid"], ticker["ask"], ticker["askVolume"]) == (39_980, 40_020, 3)
    assert exchange.fetch_order_book(PAIR, 5)["bids"][:2] == [[39_980, 3], [39_979.99, 3]]
    assert exchange.fetch_ticker(PAIR)["last"] == 40_000
    assert exchange.sapiGetAccountApiRestrictions()["enableWithdrawals"] is False
    venue.keys.grant("trader", "read", "trade", "withdraw")
    assert exchange.sapiGetAccountApiRestrictions()["enableWithdrawals"] is True


def test_flows_from_outside_are_listed(venue: TradingVenue, exchange: Any) -> None:
    venue.hand.deposit("USDT", "500")
    venue.hand.withdraw("BTC", "0.25")
    assert [(row["coin"], row["amount"]) for row in exchange.sapiGetCapitalDepositHisrec()] == [("USDT", "500")]
    assert [(row["coin"], row["amount"]) for row in exchange.sapiGetCapitalWithdrawHistory()] == [("BTC", "0.25")]


def test_a_duplicate_is_refused_and_no_second_order_exists(venue: TradingVenue, exchange: Any) -> None:
    exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000, pinned(venue, "a"))
    with pytest.raises(ccxt.InvalidOrder, match="Duplicate order sent"):
        exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000, pinned(venue, "a"))
    truth = venue.truth()
    assert (len(truth["accepted"]["a"]), len(truth["orders"])) == (1, 1)
    assert [(note["client_id"], note["code"]) for note in truth["received"]] == [("a", ""), ("a", "-2010")]


@pytest.mark.parametrize(("age_ms", "is_good"), [(4_000, True), (6_000, False), (-500, True), (-2_000, False)])
def test_a_create_is_good_for_its_window_on_the_venues_clock(venue: TradingVenue, exchange: Any, age_ms: int, is_good: bool) -> None:
    if is_good:
        assert exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000, pinned(venue, "a", age_ms))["status"] == "open"
    else:
        with pytest.raises(ccxt.InvalidNonce, match="-1021"):
            exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000, pinned(venue, "a", age_ms))
        assert venue.truth()["orders"] == []


def test_a_skewed_venue_says_so_and_refuses(venue: TradingVenue, exchange: Any) -> None:
    venue.skew(180_000)
    assert 179_000 < exchange.fetch_time() - venue.clock_ms() <= 180_500
    with pytest.raises(ccxt.InvalidNonce, match="-1021"):
        exchange.fetch_balance()
    venue.skew(-180_000)
    with pytest.raises(ccxt.InvalidNonce, match="ahead"):
        exchange.fetch_balance()
    venue.change(has_expiry=False)
    assert exchange.fetch_balance()["BTC"]["total"] == 1


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda exchange: setattr(exchange, "secret", "wrong"), "-1022"),
        (lambda exchange: setattr(exchange, "apiKey", "unknown"), "-2015"),
    ],
)
def test_a_wrong_key_or_signature_is_refused(venue: TradingVenue, exchange: Any, spoil: Any, code: str) -> None:
    exchange.load_markets()
    spoil(exchange)
    with pytest.raises(ccxt.AuthenticationError, match=code):
        exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000)
    assert venue.truth()["orders"] == []


def test_without_a_key_the_header_is_malformed(venue: TradingVenue) -> None:
    answer = requests.get(f"{venue.url}/binance/api/v3/account", params={"timestamp": venue.now_ms}, timeout=5)
    assert (answer.status_code, answer.json()["code"]) == (401, -2014)


def test_keys_may_do_what_their_kind_may(venue: TradingVenue) -> None:
    snapshot, kill = venue.exchange("snapshot"), venue.exchange("kill")
    assert snapshot.fetch_balance()["BTC"]["total"] == 1
    # After one success ccxt takes this refusal for a ban.
    with pytest.raises(ccxt.DDoSProtection, match="-2015"):
        snapshot.create_order(PAIR, "limit", "buy", 0.1, 39_000)
    kill.create_order(PAIR, "limit", "buy", 0.1, 39_000)
    venue.keys.revoke("kill")
    with pytest.raises(ccxt.DDoSProtection, match="-2015"):
        kill.cancel_all_orders(PAIR)


@pytest.mark.parametrize(
    ("qty", "price", "code"),
    [("0.1", "39000.001", "-1013"), ("0.000015", "39000", "-1013"), ("0.0001", "39000", "-1013"), ("0.1000000001", "39000", "-1111")],
)
def test_what_is_off_the_grid_is_refused(exchange: Any, qty: str, price: str, code: str) -> None:
    fields = {"symbol": SYMBOL, "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": qty, "price": price}
    with pytest.raises(ccxt.BaseError, match=code):
        exchange.privatePostOrder(fields)


def test_refusals_by_funds_symbol_and_mode(venue: TradingVenue, exchange: Any) -> None:
    with pytest.raises(ccxt.InsufficientFunds):
        exchange.create_order(PAIR, "limit", "buy", 3, 39_000)
    with pytest.raises(ccxt.BadSymbol):
        exchange.privatePostOrder({"symbol": "XXXUSDT", "side": "BUY", "type": "MARKET", "quantity": "1"})
    with pytest.raises(ccxt.BadRequest, match="-1102"):
        exchange.privatePostOrder({"symbol": SYMBOL, "side": "BUY", "type": "LIMIT", "quantity": "1", "timeInForce": "GTC"})
    with pytest.raises(ccxt.BadRequest, match="-1100"):
        exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000, {"clientOrderId": "no spaces, please"})
    venue.change(mode="maintenance")
    with pytest.raises(ccxt.MarketClosed):
        exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000)
    assert exchange.fetch_open_orders(PAIR) == []


def test_what_does_not_exist_is_not_found(venue: TradingVenue, exchange: Any) -> None:
    with pytest.raises(ccxt.OrderNotFound, match="-2013"):
        exchange.fetch_order(None, PAIR, {"clientOrderId": "nobody"})
    with pytest.raises(ccxt.OrderNotFound, match="-2011"):
        exchange.cancel_order(None, PAIR, {"clientOrderId": "nobody"})
    exchange.create_order(PAIR, "market", "buy", 0.1, None, {"clientOrderId": "old"})
    venue.change(history_ms=0)
    with pytest.raises(ccxt.BaseError, match="-2026"):
        exchange.fetch_order(None, PAIR, {"clientOrderId": "old"})
    assert len(exchange.fetch_my_trades(PAIR)) == 1


def test_weights_are_told(exchange: Any) -> None:
    exchange.fetch_balance()
    exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000)
    headers = {name.lower(): value for name, value in exchange.last_response_headers.items()}
    assert int(headers["x-mbx-used-weight-1m"]) > 20
    assert headers["x-mbx-order-count-10s"] == "1"


def test_rows_that_lie_reach_the_client(venue: TradingVenue, exchange: Any) -> None:
    exchange.create_order(PAIR, "market", "buy", 0.1)
    venue.hand.repeat_row(1)
    venue.hand.alter_row(1, is_added=True, price=Decimal(1), fee=None, fee_asset=None)
    raw = exchange.privateGetMyTrades({"symbol": SYMBOL})
    assert [(row["id"], row["price"], row.get("commission")) for row in raw] == [
        (1, "40000.00000000", "0.00010000"),
        (1, "40000.00000000", "0.00010000"),
        (1, "1.00000000", None),
    ]


def test_every_allowed_letter_of_a_client_id_survives_the_way(exchange: Any) -> None:
    name = ".:/_-" + "aZ09" * 7 + "xyz"
    assert exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000, {"clientOrderId": name})["clientOrderId"] == name
    assert exchange.fetch_order(None, PAIR, {"clientOrderId": name})["clientOrderId"] == name
    assert exchange.cancel_order(None, PAIR, {"clientOrderId": name})["info"]["origClientOrderId"] == name


def test_a_market_that_is_not_active_says_so_and_refuses() -> None:
    with serve_trading(instruments=[replace(make_instrument("AAVEUSDT", "90"), is_active=False)]) as venue:
        exchange = venue.exchange()
        assert exchange.load_markets()["AAVE/USDT"]["active"] is False
        with pytest.raises(ccxt.MarketClosed):
            exchange.create_order("AAVE/USDT", "limit", "buy", 1, 90)
