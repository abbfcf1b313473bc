"""The real ccxt client trades Bybit's linear perpetuals at the simulated venue over sockets, and is refused as Bybit refuses."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import ccxt
import pytest

from tests.trading import TradingVenue, serve_trading

PAIR, SYMBOL = "BTC/USDT:USDT", "BTCUSDT"


@pytest.fixture
def venue() -> Iterator[TradingVenue]:
    with serve_trading("linear", balances={"USDT": "100000"}) as running:
        yield running


@pytest.fixture
def exchange(venue: TradingVenue) -> Any:
    return venue.exchange()


def test_markets_tell_the_grid(exchange: Any) -> None:
    market = exchange.load_markets()[PAIR]
    assert (market["precision"]["price"], market["precision"]["amount"]) == (0.1, 0.001)
    assert (market["limits"]["amount"]["min"], market["limits"]["cost"]["min"], market["contractSize"]) == (0.001, 5, 1)
    assert (market["swap"], market["linear"], market["settle"]) == (True, True, "USDT")


def test_an_order_from_create_to_cancel(exchange: Any) -> None:
    created = exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000, {"clientOrderId": "a" * 32})
    assert created["clientOrderId"] == "a" * 32
    for params in ({"orderLinkId": "a" * 32}, {"orderId": created["id"]}, {}):
        assert [order["id"] for order in exchange.fetch_open_orders(PAIR, params=params)] == [created["id"]]
    assert exchange.fetch_open_orders(PAIR, params={"orderLinkId": "other"}) == []
    assert [order["id"] for order in exchange.fetch_open_orders()] == [created["id"]]
    assert exchange.cancel_order(None, PAIR, {"orderLinkId": "a" * 32})["id"] == created["id"]
    assert exchange.fetch_open_orders(PAIR) == []
    assert [order["status"] for order in exchange.fetch_canceled_orders(PAIR)] == ["canceled"]
    assert exchange.fetch_order(created["id"], PAIR, {"acknowledged": True})["status"] == "canceled"


def test_fills_show_in_order_trades_position_and_wallet(venue: TradingVenue, exchange: Any) -> None:
    exchange.create_order(PAIR, "limit", "sell", 0.1, 41_000)
    # 0.1 x 41 000 at leverage 10.
    assert exchange.fetch_balance()["USDT"]["used"] == 410
    venue.set_price(SYMBOL, 41_500)
    (order,) = exchange.fetch_closed_orders(PAIR)
    assert (order["status"], order["filled"], order["average"], order["fee"]["cost"]) == ("closed", 0.1, 41_000, 0.82)
    (trade,) = exchange.fetch_my_trades(PAIR)
    assert (trade["side"], trade["amount"], trade["takerOrMaker"], trade["order"]) == ("sell", 0.1, "maker", order["id"])
    assert trade["fee"]["cost"] == 0.82
    (position,) = exchange.fetch_positions()
    assert (position["side"], position["contracts"], position["entryPrice"], position["markPrice"]) == ("short", 0.1, 41_000, 41_500)
    # Entry x (1 + 1/10 - 0.5 %).
    assert position["liquidationPrice"] == 44_895
    assert position["unrealizedPnl"] == -50
    assert exchange.fetch_balance()["USDT"]["total"] == 99_999.18


def test_a_flat_symbol_has_no_side_and_no_row_among_all(exchange: Any) -> None:
    (position,) = exchange.fetch_positions([PAIR])
    assert (position["contracts"], position["side"], position["liquidationPrice"]) == (0, None, None)
    assert exchange.fetch_positions() == []


def test_reduce_only_closes_and_never_opens(exchange: Any) -> None:
    with pytest.raises(ccxt.InvalidOrder, match="110017"):
        exchange.create_order(PAIR, "market", "sell", 0.1, None, {"reduceOnly": True})
    exchange.create_order(PAIR, "market", "buy", 0.1)
    exchange.create_order(PAIR, "market", "sell", 0.3, None, {"reduceOnly": True})
    assert exchange.fetch_positions() == []


def test_a_reduce_only_stop_waits_and_closes(venue: TradingVenue, exchange: Any) -> None:
    exchange.create_order(PAIR, "market", "buy", 0.1)
    stop = exchange.create_order(PAIR, "market", "sell", 0.1, None, {"stopLossPrice": 39_000, "clientOrderId": "sl"})
    (order,) = exchange.fetch_open_orders(PAIR, params={"trigger": True})
    assert (order["id"], order["triggerPrice"], order["reduceOnly"]) == (stop["id"], 39_000, True)
    with pytest.raises(ccxt.BaseError, match="110092"):
        exchange.create_order(PAIR, "market", "sell", 0.1, None, {"stopLossPrice": 40_000})
    venue.set_price(SYMBOL, 38_900)
    assert exchange.fetch_positions() == []
    assert "sl" in [order["clientOrderId"] for order in exchange.fetch_closed_orders(PAIR)]


def test_cancel_all_of_a_symbol_of_stops_and_of_everything(exchange: Any) -> None:
    exchange.create_order(PAIR, "market", "buy", 0.1)
    for symbol, price in ((PAIR, 39_000), ("ETH/USDT:USDT", 1_900)):
        exchange.create_order(symbol, "limit", "buy", 0.1, price)
    exchange.create_order(PAIR, "market", "sell", 0.1, None, {"stopLossPrice": 38_000})
    assert len(exchange.cancel_all_orders(PAIR, {"trigger": True})) == 1
    assert len(exchange.cancel_all_orders(PAIR)) == 1
    assert len(exchange.cancel_all_orders()) == 1
    assert exchange.cancel_all_orders() == []


def test_lists_are_paged(venue: TradingVenue, exchange: Any) -> None:
    for n in range(7):
        exchange.create_order(PAIR, "market", "buy", 0.001, None, {"clientOrderId": f"m{n}"})
    seen, cursor = [], ""
    while True:
        page = exchange.privateGetV5ExecutionList({"category": "linear", "limit": 3, **({"cursor": cursor} if cursor else {})})["result"]
        seen += [row["orderLinkId"] for row in page["list"]]
        cursor = page["nextPageCursor"]
        if not cursor:
            break
    assert seen == [f"m{n}" for n in reversed(range(7))]


def test_funding_is_an_execution_and_a_flow(venue: TradingVenue, exchange: Any) -> None:
    exchange.create_order(PAIR, "market", "buy", 0.1)
    venue.hand.pay_funding(SYMBOL, "0.0001")
    (paid,) = exchange.fetch_funding_history(PAIR)
    assert paid["amount"] == 0.4
    (row,) = exchange.privateGetV5AccountTransactionLog()["result"]["list"]
    assert (row["type"], row["change"]) == ("SETTLEMENT", "-0.4")
    assert len(exchange.fetch_my_trades(PAIR)) == 1


def test_liquidation_shows_as_an_execution(venue: TradingVenue, exchange: Any) -> None:
    exchange.create_order(PAIR, "market", "buy", 0.1)
    venue.hand.liquidate(SYMBOL)
    rows = exchange.privateGetV5ExecutionList({"category": "linear"})["result"]["list"]
    assert [row["execType"] for row in rows] == ["BustTrade", "Trade"]


def test_time_ticker_and_rights(venue: TradingVenue, exchange: Any) -> None:
    assert abs(exchange.fetch_time() - venue.now_ms) < 2_000
    venue.change(half_spread_bps=Decimal(5))
    ticker = exchange.fetch_ticker(PAIR)
    assert (ticker["bid"], ticker["ask"], ticker["last"]) == (39_980, 40_020, 40_000)
    assert exchange.fetch_order_book(PAIR, 5)["asks"][0] == [40_020, 10]
    assert exchange.privateGetV5UserQueryApi()["result"]["permissions"]["Wallet"] == []
    venue.keys.grant("trader", "read", "trade", "withdraw")
    assert exchange.privateGetV5UserQueryApi()["result"]["permissions"]["Wallet"] == ["Withdraw"]


def test_a_duplicate_is_refused_for_ever(venue: TradingVenue, exchange: Any) -> None:
    exchange.create_order(PAIR, "market", "buy", 0.1, None, {"clientOrderId": "a"})
    with pytest.raises(ccxt.InvalidOrder, match="110072"):
        exchange.create_order(PAIR, "market", "buy", 0.1, None, {"clientOrderId": "a"})
    assert [len(times) for times in venue.truth()["accepted"].values()] == [1]


@pytest.mark.parametrize(("skew_ms", "is_good"), [(4_000, True), (6_000, False), (-500, True), (-2_000, False)])
def test_a_request_is_good_for_its_window(venue: TradingVenue, exchange: Any, skew_ms: int, is_good: bool) -> None:
    venue.skew(skew_ms)
    if is_good:
        assert exchange.fetch_balance()["USDT"]["total"] == 100_000
    else:
        with pytest.raises(ccxt.InvalidNonce, match="10002"):
            exchange.fetch_balance()


def test_refusals_by_key_signature_funds_grid_and_mode(venue: TradingVenue, exchange: Any) -> None:
    exchange.load_markets()
    wrong = venue.exchange()
    wrong.secret = "wrong"
    with pytest.raises(ccxt.AuthenticationError, match="10004"):
        wrong.fetch_balance()
    wrong.apiKey = "unknown"
    with pytest.raises(ccxt.AuthenticationError, match="10003"):
        wrong.fetch_balance()
    with pytest.raises(ccxt.PermissionDenied, match="10005"):
        venue.exchange("snapshot").create_order(PAIR, "market", "buy", 0.1)
    with pytest.raises(ccxt.InsufficientFunds, match="110007"):
        exchange.create_order(PAIR, "limit", "buy", 30, 39_000)
    fields = {"category": "linear", "symbol": SYMBOL, "side": "Buy", "orderType": "Limit", "qty": "0.1", "price": "39000.05"}
    with pytest.raises(ccxt.InvalidOrder, match="110003"):
        exchange.privatePostV5OrderCreate(fields)
    with pytest.raises(ccxt.BadRequest, match="10001"):
        exchange.privatePostV5OrderCreate({**fields, "price": "39000", "qty": "0.0001"})
    with pytest.raises(ccxt.BadRequest, match="10001"):
        exchange.privatePostV5OrderCreate({**fields, "price": "39000", "category": "spot"})
    venue.change(mode="maintenance")
    with pytest.raises(ccxt.BaseError, match="110066"):
        exchange.create_order(PAIR, "market", "buy", 0.1)
    venue.change(mode="normal")
    with pytest.raises(ccxt.OrderNotFound, match="110001"):
        exchange.cancel_order("nothing", PAIR)
    assert venue.truth()["orders"] == []


def test_both_venues_on_one_server() -> None:
    with serve_trading("spot", "linear") as venue:
        venue.exchange().create_order("BTC/USDT", "market", "buy", 0.1)
        perpetuals = venue.on("linear")
        perpetuals.exchange().create_order(PAIR, "market", "sell", 0.1)
        assert [order["side"] for order in venue.truth()["orders"]] == ["BUY"]
        assert [order["side"] for order in perpetuals.truth()["orders"]] == ["SELL"]
        assert (len(venue.truth()["received"]), len(perpetuals.truth()["received"])) == (1, 1)
