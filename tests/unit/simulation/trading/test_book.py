"""A spot book by hand: what every kind of order does to itself and to the balances. BTCUSDT starts at 40 000, tick 0.01, step 0.00001."""

import copy
from decimal import Decimal

import pytest

from regime_pipeline.errors import BadInputError
from regime_pipeline.simulation.trading import NewOrder, Reason, RefusalError, Status, TradingBook
from tests.unit.simulation.trading.orders import T0, limit, market, stop


def refusal(book: TradingBook, order: NewOrder, now_ms: int = T0) -> Reason:
    before = copy.deepcopy(book)
    with pytest.raises(RefusalError) as caught:
        book.create(order, now_ms)
    assert book.account.wallet.free == before.account.wallet.free
    assert book.orders.keys() == before.orders.keys()
    return caught.value.reason


def held(book: TradingBook, asset: str) -> tuple[Decimal, Decimal]:
    wallet = book.account.wallet
    return wallet.free.get(asset, Decimal(0)), wallet.locked.get(asset, Decimal(0))


def test_resting_buy_locks_its_cost_until_it_is_cancelled() -> None:
    book = TradingBook()
    order = book.create(limit("BUY", "0.5", "39000"), T0)
    # 0.5 x 39 000 = 19 500 of 100 000.
    assert order.status is Status.NEW
    assert held(book, "USDT") == (Decimal(80_500), Decimal(19_500))
    book.cancel("BTCUSDT", T0 + 1, client_id="a")
    assert order.status is Status.CANCELED
    assert held(book, "USDT") == (Decimal(100_000), Decimal(0))


def test_buy_above_the_market_takes_at_the_ask_and_gets_the_rest_of_its_lock_back() -> None:
    book = TradingBook(half_spread_bps=Decimal(1))
    order = book.create(limit("BUY", "1", "41000"), T0)
    # The ask is 40 000 x 1.0001 = 40 004; the commission of 10 bps is taken in BTC.
    assert order.status is Status.FILLED
    assert book.trades[0].price == Decimal(40_004)
    assert not book.trades[0].is_maker
    assert held(book, "USDT") == (Decimal(100_000 - 40_004), Decimal(0))
    assert held(book, "BTC") == (Decimal("0.999"), Decimal(0))


def test_a_resting_order_is_reached_at_its_own_price_as_maker() -> None:
    book = TradingBook()
    order = book.create(limit("BUY", "1", "39000"), T0)
    assert book.set_price("BTCUSDT", Decimal("39000.01"), T0 + 1) == []
    trades = book.set_price("BTCUSDT", Decimal(38_000), T0 + 2)
    assert [(trade.price, trade.qty, trade.is_maker, trade.at_ms) for trade in trades] == [(Decimal(39_000), Decimal(1), True, T0 + 2)]
    assert order.status is Status.FILLED


def test_liquidity_makes_partial_fills_best_price_and_oldest_first() -> None:
    book = TradingBook(liquidity=Decimal("0.3"))
    for client_id, price in (("old", "39000"), ("new", "39000"), ("best", "39500")):
        book.create(limit("BUY", "0.2", price, client_id), T0)
    trades = book.set_price("BTCUSDT", Decimal(38_000), T0 + 1)
    assert [(trade.client_id, trade.qty) for trade in trades] == [("best", Decimal("0.2")), ("old", Decimal("0.1"))]
    trades = book.set_price("BTCUSDT", Decimal(38_000), T0 + 2)
    assert [(trade.client_id, trade.qty) for trade in trades] == [("old", Decimal("0.1")), ("new", Decimal("0.2"))]
    assert held(book, "USDT")[1] == 0


def test_what_a_market_or_ioc_order_cannot_have_at_once_ends() -> None:
    book = TradingBook(liquidity=Decimal("0.4"))
    for order in (market("BUY", "1"), limit("BUY", "1", "41000", tif="IOC")):
        done = book.create(order, T0)
        assert (done.status, done.filled) == (Status.EXPIRED, Decimal("0.4"))
    assert held(book, "USDT")[1] == 0


def test_a_fill_or_kill_order_is_filled_whole_or_not_at_all() -> None:
    book = TradingBook(liquidity=Decimal("0.4"))
    assert book.create(limit("BUY", "0.5", "41000", "too much", tif="FOK"), T0).filled == 0
    assert book.create(limit("BUY", "0.4", "41000", "fits", tif="FOK"), T0).status is Status.FILLED


def test_an_ioc_order_away_from_the_market_ends_without_a_trade() -> None:
    order = TradingBook().create(limit("BUY", "1", "39999.99", tif="IOC"), T0)
    assert (order.status, order.filled) == (Status.EXPIRED, 0)


def test_a_stop_sleeps_until_its_price_and_then_takes() -> None:
    book = TradingBook(balances={"BTC": Decimal(1)})
    order = book.create(stop("SELL", "1", "38000"), T0)
    assert (order.status, held(book, "BTC")) == (Status.UNTRIGGERED, (Decimal(0), Decimal(1)))
    book.set_price("BTCUSDT", Decimal("38000.01"), T0 + 1)
    assert order.status is Status.UNTRIGGERED
    book.set_price("BTCUSDT", Decimal(37_000), T0 + 2)
    # It sells at 37 000, where the market is, less 10 bps.
    assert order.status is Status.FILLED
    assert held(book, "USDT") == (Decimal(36963), Decimal(0))


def test_a_woken_stop_that_is_no_longer_covered_ends() -> None:
    book = TradingBook(balances={"USDT": Decimal(50_000)})
    order = book.create(stop("BUY", "1", "45000"), T0)
    # The stop locked 45 000; at 60 000 the account cannot pay.
    book.set_price("BTCUSDT", Decimal(60_000), T0 + 1)
    assert (order.status, held(book, "USDT")) == (Status.EXPIRED, (Decimal(50_000), Decimal(0)))


def test_a_market_buy_by_quote_is_floored_to_the_step() -> None:
    order = TradingBook().create(market("BUY", "0", quote_qty=Decimal("999.99")), T0)
    # 999.99 / 40 000 = 0.02499975, floored to 0.02499.
    assert order.filled == Decimal("0.02499")


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (limit("BUY", "1", "39000", symbol="XXXUSDT"), Reason.BAD_SYMBOL),
        (limit("BUY", "1", "39000.001"), Reason.PRICE_FILTER),
        (limit("BUY", "1", "2000000"), Reason.PRICE_FILTER),
        (limit("BUY", "0.000015", "39000"), Reason.LOT_SIZE),
        (limit("BUY", "0.000001", "39000"), Reason.LOT_SIZE),
        (limit("BUY", "0.0000000001", "39000"), Reason.PRECISION),
        (limit("BUY", "0.0001", "39000"), Reason.NOTIONAL),
        (market("BUY", "0.0001"), Reason.NOTIONAL),
        (limit("BUY", "3", "39000"), Reason.BALANCE),
        (limit("SELL", "1", "41000"), Reason.BALANCE),
        (limit("BUY", "1", "40000", is_post_only=True), Reason.WOULD_MATCH),
        (stop("SELL", "1", "40000"), Reason.WOULD_TRIGGER),
        (limit("BUY", "1", "39000", sent_ms=T0 - 5001), Reason.STALE),
        (limit("BUY", "1", "39000", sent_ms=T0 + 1000), Reason.AHEAD),
    ],
)
def test_a_refused_order_changes_nothing(order: NewOrder, reason: Reason) -> None:
    assert refusal(TradingBook(), order) is reason


def test_the_last_moment_of_a_window_is_good() -> None:
    assert TradingBook().create(limit("BUY", "1", "39000", sent_ms=T0 - 5000), T0).is_open
    assert TradingBook(has_expiry=False).create(limit("BUY", "1", "39000", sent_ms=T0 - 9_999_999), T0).is_open


def test_a_client_id_is_unique_among_open_orders_or_for_ever() -> None:
    book = TradingBook()
    book.create(limit("BUY", "0.1", "39000"), T0)
    assert refusal(book, limit("BUY", "0.2", "38000")) is Reason.DUPLICATE
    book.cancel("BTCUSDT", T0, client_id="a")
    book.create(limit("BUY", "0.1", "39000"), T0 + 7)
    assert book.accepted == {"a": [T0, T0 + 7]}
    book.cancel("BTCUSDT", T0, client_id="a")
    book.change(unique_ids="ever")
    assert refusal(book, limit("BUY", "0.1", "39000")) is Reason.DUPLICATE


def test_maintenance_refuses_creates_and_read_only_cancels_too() -> None:
    book = TradingBook()
    book.create(limit("BUY", "0.1", "39000"), T0)
    book.change(mode="read_only")
    assert refusal(book, limit("BUY", "0.1", "39000", "b")) is Reason.CLOSED
    with pytest.raises(RefusalError, match="closed"):
        book.cancel("BTCUSDT", T0, client_id="a")
    book.change(mode="maintenance")
    assert refusal(book, limit("BUY", "0.1", "39000", "b")) is Reason.CLOSED
    assert book.cancel("BTCUSDT", T0, client_id="a").status is Status.CANCELED


def test_orders_per_symbol_are_limited() -> None:
    book = TradingBook(max_open_orders=1)
    book.create(limit("BUY", "0.1", "39000"), T0)
    assert refusal(book, limit("BUY", "0.1", "39000", "b")) is Reason.TOO_MANY_ORDERS
    assert book.create(limit("BUY", "1", "1900", "b", symbol="ETHUSDT"), T0).is_open


@pytest.mark.parametrize(
    ("rules", "fee", "asset"),
    [
        ({}, "0.001", "BTC"),
        ({"fee_asset": "quote"}, "40", "USDT"),
        ({"fee_asset": "BNB"}, "0.08", "BNB"),  # 40 USDT at 500 USDT per BNB
        ({"fee_asset": "quote", "taker_bps": Decimal(-1)}, "-4", "USDT"),
        ({"fee_asset": "quote", "taker_bps": Decimal(0)}, "0", "USDT"),
    ],
)
def test_commission_is_taken_from_the_asset_it_is_charged_in(rules: dict[str, object], fee: str, asset: str) -> None:
    book = TradingBook(balances={"USDT": Decimal(100_000), "BNB": Decimal(1)}, **rules)
    start = {"USDT": Decimal(100_000), "BNB": Decimal(1)}
    book.create(market("BUY", "1"), T0)
    assert (book.trades[0].fee, book.trades[0].fee_asset) == (Decimal(fee), asset)
    moved = {"USDT": Decimal(-40_000), "BTC": Decimal(1), "BNB": Decimal(0)}
    for each in ("USDT", "BTC", "BNB"):
        paid = Decimal(fee) if each == asset else Decimal(0)
        assert book.account.wallet.total(each) == start.get(each, Decimal(0)) + moved[each] - paid


def test_without_enough_of_the_third_asset_the_received_one_pays() -> None:
    book = TradingBook(fee_asset="BNB")
    book.create(market("BUY", "1"), T0)
    assert (book.trades[0].fee, book.trades[0].fee_asset) == (Decimal("0.001"), "BTC")


def test_a_path_is_gone_through_at_its_own_times_by_whatever_looks_next() -> None:
    book = TradingBook()
    order = book.create(limit("BUY", "1", "39000"), T0)
    book.set_path("BTCUSDT", [(T0 + 3000, Decimal(41_000)), (T0 + 1000, Decimal(38_000)), (T0 + 9000, Decimal(1))])
    book.advance(T0 + 5000)
    assert (order.status, book.trades[0].at_ms, book.prices["BTCUSDT"]) == (Status.FILLED, T0 + 1000, Decimal(41_000))


def test_cancels_find_open_orders_only() -> None:
    book = TradingBook()
    order = book.create(market("BUY", "1"), T0)
    for name in ({"client_id": "m"}, {"order_id": order.order_id}, {"client_id": "nobody"}):
        with pytest.raises(RefusalError, match="not_open"):
            book.cancel("BTCUSDT", T0, **name)
    book.create(limit("BUY", "1", "39000"), T0)
    with pytest.raises(RefusalError, match="not_open"):
        book.cancel("ETHUSDT", T0, client_id="a")


def test_cancel_all_keeps_to_its_symbol() -> None:
    book = TradingBook()
    book.create(limit("BUY", "0.1", "39000"), T0)
    book.create(limit("BUY", "1", "1900", "b", symbol="ETHUSDT"), T0)
    assert [order.client_id for order in book.cancel_all("BTCUSDT", T0)] == ["a"]
    assert [order.client_id for order in book.list_open()] == ["b"]


def test_a_price_must_be_above_zero_and_of_a_listed_symbol() -> None:
    with pytest.raises(BadInputError, match="above 0"):
        TradingBook().set_price("BTCUSDT", Decimal(0), T0)
    with pytest.raises(RefusalError, match="bad_symbol"):
        TradingBook().set_price("XXXUSDT", Decimal(1), T0)


def test_a_copy_shares_nothing() -> None:
    book = TradingBook()
    twin = copy.deepcopy(book)
    twin.create(limit("BUY", "1", "39000"), T0)
    assert book.list_open() == []
    assert held(book, "USDT") == (Decimal(100_000), Decimal(0))
