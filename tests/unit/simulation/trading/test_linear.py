"""A book of perpetuals by hand: positions, margin, reduce-only, funding, liquidation. BTCUSDT is at 40 000, leverage 10."""

from decimal import Decimal

import pytest

from regime_pipeline.errors import BadInputError
from regime_pipeline.simulation.trading import Hand, RefusalError, Status, TradingBook
from regime_pipeline.simulation.trading.accounts import LinearAccount, Position
from tests.unit.simulation.trading.orders import T0, limit, market, stop


def a_book(**rules: object) -> TradingBook:
    return TradingBook("linear", balances={"USDT": Decimal(10_000)}, taker_bps=Decimal(0), maker_bps=Decimal(0), **rules)


def position(book: TradingBook) -> Position:
    assert isinstance(book.account, LinearAccount)
    return book.account.position("BTCUSDT")


def test_a_round_trip_pays_the_difference() -> None:
    book = a_book()
    book.create(market("BUY", "1", "in"), T0)
    book.set_price("BTCUSDT", Decimal(41_000), T0)
    book.create(market("SELL", "1", "out"), T0)
    assert position(book).size == 0
    assert book.account.wallet.total("USDT") == Decimal(11_000)


def test_a_trade_through_zero_closes_and_opens() -> None:
    book = a_book()
    book.create(market("BUY", "1", "in"), T0)
    book.set_price("BTCUSDT", Decimal(41_000), T0)
    book.create(market("SELL", "1.5", "flip"), T0)
    assert (position(book).size, position(book).avg_price, position(book).realised) == (Decimal("-0.5"), Decimal(41_000), Decimal(1_000))


def test_profits_of_parts_add_up_exactly_although_the_average_has_no_end() -> None:
    book = a_book(leverage=Decimal(100))
    # 1 at 40 000, 2 at 40 000.1: the average is 40 000.0666...
    book.create(market("BUY", "1", "a"), T0)
    book.set_price("BTCUSDT", Decimal("40000.1"), T0)
    book.create(market("BUY", "2", "b"), T0)
    book.create(market("SELL", "1", "out0"), T0)
    # The first part costs 40 000.06666667, rounded to 8 decimals.
    assert position(book).realised == Decimal("0.03333333")
    for n in (1, 2):
        book.create(market("SELL", "1", f"out{n}"), T0)
    # Sold 3 x 40 000.1 = 120 000.3, bought for 120 000.2.
    assert book.account.wallet.total("USDT") == Decimal("10000.1")
    assert position(book).cost == 0


def test_margin_limits_what_may_be_opened_and_is_given_back() -> None:
    book = a_book()
    # 10 000 at leverage 10 is 100 000 of notional, 2.5 BTC.
    with pytest.raises(RefusalError, match="balance"):
        book.create(limit("BUY", "2.6", "39999"), T0)
    book.create(limit("BUY", "2.5", "39999", "all"), T0)
    with pytest.raises(RefusalError, match="balance"):
        book.create(limit("BUY", "0.1", "39999"), T0)
    book.cancel("BTCUSDT", T0, client_id="all")
    assert book.account.wallet.locked["USDT"] == 0


def test_closing_needs_no_margin() -> None:
    book = a_book()
    book.create(market("BUY", "2.5", "in"), T0)
    assert book.create(limit("SELL", "2.5", "41000", "out"), T0).is_open


def test_reduce_only_is_refused_when_it_would_open_or_enlarge() -> None:
    book = a_book()
    for side in ("BUY", "SELL"):
        with pytest.raises(RefusalError, match="reduce_only"):
            book.create(market(side, "1", side, is_reduce_only=True), T0)
    book.create(market("BUY", "1", "in"), T0)
    with pytest.raises(RefusalError, match="reduce_only"):
        book.create(market("BUY", "1", is_reduce_only=True), T0)


def test_reduce_only_never_turns_a_position() -> None:
    book = a_book()
    book.create(market("BUY", "1", "in"), T0)
    first = book.create(limit("SELL", "1", "41000", "first", is_reduce_only=True), T0)
    second = book.create(limit("SELL", "1", "41000", "second", is_reduce_only=True), T0)
    taker = book.create(market("SELL", "0.4", "part", is_reduce_only=True), T0)
    assert taker.status is Status.FILLED
    book.set_price("BTCUSDT", Decimal(42_000), T0)
    assert (position(book).size, first.filled, second.filled) == (Decimal(0), Decimal("0.6"), Decimal(0))
    assert (first.status, second.status) == (Status.CANCELED, Status.CANCELED)


def test_a_stop_that_wakes_with_nothing_to_reduce_ends() -> None:
    book = a_book()
    book.create(market("BUY", "1", "in"), T0)
    order = book.create(stop("SELL", "1", "39000", is_reduce_only=True), T0)
    book.create(market("SELL", "1", "out"), T0)
    assert order.status is Status.UNTRIGGERED
    book.set_price("BTCUSDT", Decimal(38_000), T0)
    assert (order.status, order.filled, position(book).size) == (Status.EXPIRED, Decimal(0), Decimal(0))


def test_a_stop_takes_what_is_left_of_the_position() -> None:
    book = a_book()
    book.create(market("BUY", "1", "in"), T0)
    order = book.create(stop("SELL", "1", "39000", is_reduce_only=True), T0)
    book.create(market("SELL", "0.3", "out"), T0)
    book.set_price("BTCUSDT", Decimal(38_000), T0)
    assert (order.filled, position(book).size) == (Decimal("0.7"), Decimal(0))


def test_a_post_only_order_that_would_match_is_taken_and_ended() -> None:
    order = a_book().create(limit("BUY", "1", "40000", is_post_only=True), T0)
    assert (order.status, order.filled) == (Status.CANCELED, Decimal(0))


def test_a_long_pays_funding_when_the_rate_is_positive() -> None:
    book = a_book()
    book.create(market("BUY", "1", "in"), T0)
    paid = Hand(book, lambda: T0).pay_funding("BTCUSDT", "0.0001")
    # 1 x 40 000 x 0.0001 = 4.
    assert (paid.fee, paid.kind, book.account.wallet.total("USDT")) == (Decimal(4), "Funding", Decimal(9_996))
    assert [flow.amount for flow in book.flows] == [Decimal(-4)]


def test_a_short_receives_it() -> None:
    book = a_book()
    book.create(market("SELL", "1", "in"), T0)
    assert Hand(book, lambda: T0).pay_funding("BTCUSDT", "0.0001").fee == Decimal(-4)


def test_liquidation_takes_the_position_and_shows_it() -> None:
    book = a_book(liquidity=Decimal("0.1"))
    book.change(liquidity=None)
    book.create(market("BUY", "1", "in"), T0)
    row = Hand(book, lambda: T0).liquidate("BTCUSDT", "36200")
    assert (row.kind, row.qty, position(book).size) == ("BustTrade", Decimal(1), Decimal(0))
    assert book.account.wallet.total("USDT") == Decimal(6_200)
    assert list(book.accepted) == ["in"]
    with pytest.raises(BadInputError, match="was 0"):
        Hand(book, lambda: T0).liquidate("BTCUSDT")
