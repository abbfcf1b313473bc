"""What each venue is asked, and what of its answers is believed: rare rows that no simulated venue gives."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
import requests

from regime_pipeline.adapters.brokers.binance_spot import BinanceSpot
from regime_pipeline.adapters.brokers.bybit_linear import BybitLinear
from regime_pipeline.adapters.brokers.dialect import Dialect, OrderId, Symbols
from regime_pipeline.adapters.brokers.lane import Codes, Question, find_difference
from regime_pipeline.adapters.brokers.rows import AbsentError, UnreadableError
from regime_pipeline.execution.order_states import VenueStatus
from regime_pipeline.ports import BrokerTraits, OrderSpec, OrderType
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.purpose import Side

D = Decimal
ID = "c579c12d0ce182e98a99629fd09bb09e"
FEES = D(10), D(10)
BINANCE, BYBIT = BinanceSpot(), BybitLinear()


class FakeExchange:
    """Remembers which endpoint is asked, with what."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda params=None: self.asked.append((name, params))


class FakeLane:
    """Answers from a list; an exception in it is raised."""

    def __init__(self, *answers: object) -> None:
        self.answers, self.exchange = list(answers), FakeExchange()

    @property
    def asked(self) -> list[tuple[str, Any]]:
        return self.exchange.asked

    def read(self, question: Question, codes: Codes) -> object:
        question(self.exchange)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def symbols_of(name: str) -> Symbols:
    symbols = Symbols()
    symbols.learn([{"symbol": name, "id": "BTCUSDT"}])
    return symbols


def traits_of(dialect: Dialect) -> BrokerTraits:
    return BrokerTraits(dialect.exchange_id, "main", Mode.SANDBOX, dialect.market_type, "USDT", dialect.profile)


SPOT, LINEAR = symbols_of("BTC/USDT"), symbols_of("BTC/USDT:USDT")


def said(*rows: object, **fields: object) -> dict[str, object]:
    """An answer of Bybit."""
    return {"retCode": 0, "time": 1_796_000_000_000, "result": {"list": list(rows), "nextPageCursor": "", **fields}}


def a_binance_order(**changes: object) -> dict[str, object]:
    usual = {"symbol": "BTCUSDT", "orderId": 7, "clientOrderId": ID, "status": "NEW", "side": "BUY", "origQty": "1", "executedQty": "0"}
    return {**usual, "price": "0", "stopPrice": "0.00", "time": 1_796_000_000_000, **changes}


def a_bybit_order(**changes: object) -> dict[str, object]:
    usual = {"symbol": "BTCUSDT", "orderId": "7", "orderLinkId": ID, "orderStatus": "New", "side": "Buy", "qty": "1", "cumExecQty": "0"}
    return {**usual, "price": "", "triggerPrice": "", "createdTime": "1796000000000", "reduceOnly": False, **changes}


def read_binance(**changes: object) -> Any:
    return BINANCE.fetch_order(FakeLane(a_binance_order(**changes)), SPOT, "BTC/USDT", OrderId(ID, None))  # type: ignore[arg-type]


def read_bybit(**changes: object) -> Any:
    return BYBIT.fetch_order(FakeLane(said(a_bybit_order(**changes))), LINEAR, "BTC/USDT:USDT", OrderId(ID, None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spelt", "status"),
    [
        ("NEW", "open"),
        ("PENDING_NEW", "open"),
        ("PARTIALLY_FILLED", "open"),
        ("PENDING_CANCEL", "open"),
        ("FILLED", "closed"),
        ("CANCELED", "canceled"),
        ("REJECTED", "rejected"),
        ("EXPIRED", "expired"),
        ("EXPIRED_IN_MATCH", "expired"),
    ],
)
def test_every_status_of_binance_is_known(spelt: str, status: str) -> None:
    assert read_binance(status=spelt).status is VenueStatus(status)


@pytest.mark.parametrize(
    ("spelt", "status"),
    [
        ("Created", "open"),
        ("New", "open"),
        ("Active", "open"),
        ("PartiallyFilled", "open"),
        ("Untriggered", "open"),
        ("Triggered", "open"),
        ("Filled", "closed"),
        ("Cancelled", "canceled"),
        ("PartiallyFilledCanceled", "canceled"),
        ("Deactivated", "canceled"),
        ("Rejected", "rejected"),
    ],
)
def test_every_status_of_bybit_is_known(spelt: str, status: str) -> None:
    assert read_bybit(orderStatus=spelt).status is VenueStatus(status)


@pytest.mark.parametrize("read", [lambda: read_binance(status="MELTED"), lambda: read_bybit(orderStatus="Melted")])
def test_a_status_that_is_new_to_us_says_nothing(read: Any) -> None:
    with pytest.raises(UnreadableError, match="UNKNOWN_STATUS"):
        read()


@pytest.mark.parametrize("side", ["", "BOTH", None, 1])
def test_a_side_is_one_of_two(side: object) -> None:
    with pytest.raises(UnreadableError):
        read_binance(side=side)


@pytest.mark.parametrize("field", ["symbol", "orderId", "clientOrderId", "status", "side", "origQty", "executedQty", "time"])
@pytest.mark.parametrize("value", [None, "", [], {}])
def test_an_order_of_binance_that_lacks_a_field_is_no_order(field: str, value: object) -> None:
    with pytest.raises(UnreadableError):
        read_binance(**{field: value})


@pytest.mark.parametrize("field", ["symbol", "orderId", "orderStatus", "side", "qty", "cumExecQty", "createdTime", "reduceOnly"])
@pytest.mark.parametrize("value", [None, "", [], {}])
def test_an_order_of_bybit_that_lacks_a_field_is_no_order(field: str, value: object) -> None:
    with pytest.raises(UnreadableError):
        read_bybit(**{field: value})


def test_a_lookup_at_bybit_goes_on_to_the_closed_orders() -> None:
    order = OrderId(ID, None)
    for nothing in (said(), AbsentError()):
        lane = FakeLane(nothing, said(a_bybit_order(orderStatus="Filled")))
        assert BYBIT.fetch_order(lane, LINEAR, "BTC/USDT:USDT", order).status is VenueStatus.CLOSED  # type: ignore[arg-type]
        assert [name for name, _ in lane.asked] == ["private_get_v5_order_realtime", "private_get_v5_order_history"]
        assert all(params["orderLinkId"] == ID for _, params in lane.asked)
    for nothing in (said(), AbsentError()):
        with pytest.raises(AbsentError):
            BYBIT.fetch_order(FakeLane(said(), nothing), LINEAR, "BTC/USDT:USDT", order)  # type: ignore[arg-type]
    with pytest.raises(UnreadableError):  # half a look is none
        BYBIT.fetch_order(FakeLane(said(), UnreadableError("HTTP_503")), LINEAR, "BTC/USDT:USDT", order)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["fetch_open_orders", "fetch_closed_orders"])
def test_a_list_with_another_symbol_than_asked_for_is_no_answer(method: str) -> None:
    more = () if method == "fetch_open_orders" else (1_795_999_999_000, 1_796_000_000_000)
    quote = ("USDT",) if method == "fetch_open_orders" else ()
    foreign = [a_binance_order(symbol="ETHUSDT")]
    with pytest.raises(UnreadableError, match="OTHER_SYMBOL ETHUSDT"):
        getattr(BINANCE, method)(FakeLane(foreign), SPOT, "BTC/USDT", *quote, *more)
    answers = [said(a_bybit_order(symbol="ETHUSDT"))] * 3
    with pytest.raises(UnreadableError, match="OTHER_SYMBOL ETHUSDT"):
        getattr(BYBIT, method)(FakeLane(*answers), LINEAR, "BTC/USDT:USDT", *quote, *more)


def test_an_open_list_of_bybit_that_holds_an_end_is_read_without_it() -> None:
    lane = FakeLane(said(a_bybit_order(), a_bybit_order(orderId="8", orderStatus="Cancelled")))
    assert [each.venue_order_id for each in BYBIT.fetch_open_orders(lane, LINEAR, None, "USDT")] == ["7"]  # type: ignore[arg-type]
    assert lane.asked[0][1]["settleCoin"] == "USDT"


@pytest.mark.parametrize(
    ("answer", "fees"),
    [
        ({"commissionRates": {"maker": "0.00075000", "taker": "0.00100000"}, "makerCommission": 99, "takerCommission": 99}, ("7.5", "10")),
        ({"makerCommission": 15, "takerCommission": 20}, ("15", "20")),
    ],
)
def test_fees_of_binance_in_bps(answer: object, fees: tuple[str, str]) -> None:
    assert BINANCE.fetch_fees(FakeLane(answer)) == tuple(map(D, fees))  # type: ignore[arg-type]


def test_fees_of_bybit_are_the_highest_of_any_instrument() -> None:
    rows = [{"makerFeeRate": "0.0002", "takerFeeRate": "0.00055"}, {"makerFeeRate": "-0.0001", "takerFeeRate": "0.0006"}]
    assert BYBIT.fetch_fees(FakeLane(said(*rows))) == (D(2), D(6))  # type: ignore[arg-type]
    with pytest.raises(UnreadableError, match="EMPTY"):
        BYBIT.fetch_fees(FakeLane(said()))  # type: ignore[arg-type]


def a_binance_market(**changes: object) -> dict[str, Any]:
    filters = [
        {"filterType": "PRICE_FILTER", "tickSize": "0.01"},
        {"filterType": "LOT_SIZE", "stepSize": "0.001", "minQty": "0.001", "maxQty": "9000"},
        {"filterType": "MIN_NOTIONAL", "minNotional": "10"},
    ]
    info = {"status": "TRADING", "filters": filters, **changes}
    return {"symbol": "BTC/USDT", "base": "BTC", "quote": "USDT", "spot": True, "info": info}


def test_rules_of_binance_from_either_filter_of_cost() -> None:
    listing = BINANCE.parse_listing(a_binance_market(), FEES)
    assert listing is not None
    assert (listing.rules.tick, listing.rules.step, listing.rules.min_cost_quote, listing.rules.is_active) == (
        D("0.01"),
        D("0.001"),
        D(10),
        True,
    )
    halted = BINANCE.parse_listing(a_binance_market(status="BREAK"), FEES)
    assert halted is not None
    assert not halted.rules.is_active
    closed = BINANCE.parse_listing(a_binance_market(isSpotTradingAllowed=False), FEES)
    assert closed is not None
    assert not closed.rules.is_active


def test_a_market_without_a_grid_or_of_another_kind_is_not_listed() -> None:
    no_grid = [{"filterType": "PRICE_FILTER", "tickSize": "0"}, a_binance_market()["info"]["filters"][1]]
    assert BINANCE.parse_listing(a_binance_market(filters=no_grid), FEES) is None
    assert BINANCE.parse_listing(a_binance_market(filters=[]), FEES) is None
    assert BINANCE.parse_listing({**a_binance_market(), "spot": False}, FEES) is None
    assert BYBIT.parse_listing({"swap": True, "linear": False}, FEES) is None
    lot = {"qtyStep": "0", "minOrderQty": "0.001", "maxOrderQty": "9"}
    info = {"status": "Trading", "priceFilter": {"tickSize": "0.1"}, "lotSizeFilter": lot}
    market = {"swap": True, "linear": True, "symbol": "BTC/USDT:USDT", "base": "BTC", "quote": "USDT", "info": info}
    assert BYBIT.parse_listing(market, FEES) is None
    listed = BYBIT.parse_listing({**market, "info": {**info, "lotSizeFilter": {**lot, "qtyStep": "0.001"}}}, FEES)
    assert listed is not None
    assert listed.rules.min_cost_quote == 0


@pytest.mark.parametrize("changes", [{"bidPrice": "0"}, {"askPrice": ""}, {"bidPrice": "2"}, {"symbol": "ETHUSDT"}])
def test_a_quote_without_two_sides_in_order_is_none(changes: dict[str, str]) -> None:
    row = {"symbol": "BTCUSDT", "bidPrice": "1", "askPrice": "1.5", **changes}
    with pytest.raises(UnreadableError, match=r"NO_QUOTE"):
        BINANCE.fetch_quote(FakeLane(row), "BTCUSDT", 1)  # type: ignore[arg-type]
    names = {"bidPrice": "bid1Price", "askPrice": "ask1Price"}
    with pytest.raises(UnreadableError, match=r"NO_QUOTE"):
        BYBIT.fetch_quote(FakeLane(said({names.get(name, name): value for name, value in row.items()})), "BTCUSDT", 1)  # type: ignore[arg-type]


def test_balances_that_are_nothing_are_left_out_and_an_empty_wallet_is_no_answer() -> None:
    rows = [{"asset": "BTC", "free": "1", "locked": "0.5"}, {"asset": "ETH", "free": "0", "locked": "0.00"}]
    assert {name: each.total for name, each in BINANCE.fetch_balances(FakeLane({"balances": rows})).items()} == {"BTC": D("1.5")}  # type: ignore[arg-type]
    coins = [
        {"coin": "USDT", "walletBalance": "10", "locked": "", "totalOrderIM": "1", "totalPositionIM": "2"},
        {"coin": "BTC", "walletBalance": "0"},
    ]
    found = BYBIT.fetch_balances(FakeLane(said({"coin": coins})))  # type: ignore[arg-type]
    assert {name: (each.free, each.total) for name, each in found.items()} == {"USDT": (D(7), D(10))}
    for dialect, answer in ((BINANCE, {"balances": []}), (BYBIT, said())):
        with pytest.raises(UnreadableError, match="EMPTY"):
            dialect.fetch_balances(FakeLane(answer))  # type: ignore[arg-type]


def test_a_hedged_account_is_refused_and_a_side_needs_a_size() -> None:
    row = {"symbol": "BTCUSDT", "size": "2", "side": "Sell", "avgPrice": "40000", "markPrice": "41000", "liqPrice": "", "positionIdx": 0}
    (held,) = BYBIT.fetch_positions(FakeLane(said(row, {**row, "symbol": "ETHUSDT", "size": "0", "side": ""})), LINEAR, "USDT")  # type: ignore[arg-type]
    assert (held.qty, held.entry_price, held.liquidation_price) == (D(-2), D(40_000), None)
    with pytest.raises(UnreadableError, match="HEDGED"):
        BYBIT.fetch_positions(FakeLane(said({**row, "positionIdx": 1})), LINEAR, "USDT")  # type: ignore[arg-type]
    with pytest.raises(UnreadableError):
        BYBIT.fetch_positions(FakeLane(said({**row, "side": ""})), LINEAR, "USDT")  # type: ignore[arg-type]
    assert BYBIT.fetch_positions(FakeLane(said(), said({"coin": [{"coin": "USDT", "totalPositionIM": ""}]})), LINEAR, "USDT") == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "fee"),
    [
        ({"commission": "0.1", "commissionAsset": "BNB"}, (D("0.1"), "BNB")),
        ({"commission": "-0.1", "commissionAsset": "USDT"}, (D("-0.1"), "USDT")),
        ({"commission": "0.1", "commissionAsset": None}, (None, None)),
        ({"commission": None, "commissionAsset": "BNB"}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_a_fee_is_known_as_a_whole_or_not(row: dict[str, object], fee: tuple[Decimal | None, str | None]) -> None:
    usual = {"symbol": "BTCUSDT", "id": 1, "orderId": 7, "isBuyer": False, "qty": "1", "price": "2", "time": 1_796_000_000_000}
    (fill,) = BINANCE.fetch_fills(
        FakeLane([{**usual, **row}]), SPOT, traits_of(BINANCE), "BTC/USDT", 1_795_999_999_000, 1_796_000_000_000, None
    )  # type: ignore[arg-type]
    assert (fill.fee_amount, fill.fee_asset, fill.side) == (*fee, Side.SELL)


def test_a_fee_of_bybit_is_in_quote_unless_it_says_otherwise() -> None:
    usual = {
        "symbol": "BTCUSDT",
        "execId": "1",
        "orderId": "7",
        "side": "Buy",
        "execQty": "1",
        "execPrice": "2",
        "execTime": "1796000000000",
    }
    rows = [
        {**usual, "execType": "Trade", "execFee": "0.1", "feeCurrency": ""},
        {**usual, "execId": "2", "execType": "AdlTrade", "execFee": ""},
    ]
    rows += [{**usual, "execType": "Funding", "execFee": "9"}, {**usual, "execType": "Settle", "execFee": "9"}]
    fills = BYBIT.fetch_fills(
        FakeLane(said(*rows)),
        LINEAR,
        traits_of(BYBIT),
        "BTC/USDT:USDT",
        1_795_999_999_000,
        1_796_000_000_000,
        None,  # type: ignore[arg-type]
    )
    assert {(each.venue_trade_id, each.fee_amount, each.fee_asset) for each in fills} == {("1", D("0.1"), "USDT"), ("2", None, None)}


@pytest.mark.parametrize(
    ("answer", "rights"),
    [
        ({"enableReading": True, "enableSpotAndMarginTrading": True, "ipRestrict": True}, {"read", "trade", "ip_bound"}),
        ({"enableReading": True, "enableWithdrawals": True}, {"read", "withdraw"}),
        ({"enableReading": True, "enableInternalTransfer": True}, {"read", "transfer"}),
        ({"enableReading": True, "permitsUniversalTransfer": True}, {"read", "transfer"}),
    ],
)
def test_rights_of_a_key_of_binance(answer: dict[str, bool], rights: set[str]) -> None:
    names = (
        "enableReading",
        "enableSpotAndMarginTrading",
        "enableWithdrawals",
        "enableInternalTransfer",
        "permitsUniversalTransfer",
        "ipRestrict",
    )
    whole = {**dict.fromkeys(names, False), **answer}
    assert BINANCE.fetch_permissions(FakeLane(whole)) == rights  # type: ignore[arg-type]
    for name in names:  # a right that is not mentioned is not a right that is missing
        with pytest.raises(UnreadableError):
            BINANCE.fetch_permissions(FakeLane({key: value for key, value in whole.items() if key != name}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "rights"),
    [
        (
            {"readOnly": 0, "permissions": {"ContractTrade": ["Order", "Position"], "Wallet": []}, "ips": ["1.2.3.4"]},
            {"read", "trade", "ip_bound"},
        ),
        ({"readOnly": 1, "permissions": {"ContractTrade": ["Order"], "Wallet": []}, "ips": ["*"]}, {"read"}),
        ({"readOnly": 0, "permissions": {"Wallet": ["Withdraw"]}, "ips": []}, {"read", "withdraw"}),
        ({"readOnly": 0, "permissions": {"Wallet": ["AccountTransfer", "Withdraw"]}, "ips": None}, {"read", "withdraw", "transfer"}),
        ({"readOnly": 0, "permissions": {"Wallet": ["SomethingNew"]}}, {"read", "transfer"}),
    ],
)
def test_rights_of_a_key_of_bybit(answer: Mapping[str, object], rights: set[str]) -> None:
    assert BYBIT.fetch_permissions(FakeLane({"retCode": 0, "result": answer})) == rights  # type: ignore[arg-type]


@pytest.mark.parametrize("dialect", [BINANCE, BYBIT])
def test_a_request_that_is_no_create_does_not_pass_for_one(dialect: Dialect) -> None:
    spec = OrderSpec(ID, "BTC/USDT", Side.BUY, OrderType.LIMIT, D(1), D(2))
    check = dialect.create(spec, "BTCUSDT", 1_796_000_000_000, 5_000).check
    path = "/api/v3/order" if dialect is BINANCE else "/v5/order/create"
    for method, url in (
        ("GET", path),
        ("DELETE", path),
        ("POST", f"{path}/test"),
        ("POST", "/api/v3/order/oco"),
        ("POST", "/v5/order/amend"),
    ):
        request = requests.Request(method, f"https://venue.test{url}", data="{}").prepare()
        assert "no create" in (check(request) or "")
    assert check(requests.Request("POST", f"https://venue.test{path}", data="{}").prepare()) is not None


def test_what_leaves_is_compared_field_by_field() -> None:
    wanted = {"symbol": "BTCUSDT", "qty": D("0.10"), "reduceOnly": False}
    assert find_difference({"symbol": "BTCUSDT", "qty": "0.1", "reduceOnly": False}, wanted, frozenset()) is None
    assert find_difference({**wanted, "qty": "0.1", "tag": "x"}, wanted, frozenset({"tag"})) is None
    for changes, named in (
        ({"qty": "0.11"}, "qty was '0.11', decided was 0.10"),
        ({"qty": "many"}, "qty was 'many'"),
        ({"qty": None}, "qty was None"),
        ({"symbol": "ETHUSDT"}, "symbol was 'ETHUSDT'"),
        ({"reduceOnly": True}, "reduceOnly was True"),
        ({"quoteOrderQty": "9"}, "quoteOrderQty was added"),
    ):
        found = find_difference({"symbol": "BTCUSDT", "qty": "0.1", "reduceOnly": False, **changes}, wanted, frozenset())
        assert (found or "").startswith(named)


def test_a_field_that_is_given_twice_is_not_what_was_decided() -> None:
    spec = OrderSpec(ID, "BTC/USDT", Side.BUY, OrderType.MARKET, D(1))
    check = BINANCE.create(spec, "BTCUSDT", 1, 5_000).check
    body = f"symbol=BTCUSDT&side=BUY&type=MARKET&quantity=1&quantity=2&newClientOrderId={ID}&timestamp=1&recvWindow=5000&signature=x"
    assert (
        check(requests.Request("POST", "https://venue.test/api/v3/order", data=body).prepare())
        == "quantity was 'given twice', decided was 1"
    )
    assert check(requests.Request("POST", "https://venue.test/api/v3/order", data=body.replace("&quantity=2", "")).prepare()) is None
