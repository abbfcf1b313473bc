"""A tester's hand in a book: forced, late and repeated trades, rows that lie, money from outside; and what reads hide."""

from decimal import Decimal

import pytest

from regime_pipeline.errors import BadInputError
from regime_pipeline.simulation.trading import (
    Hand,
    Reason,
    RefusalError,
    Status,
    TradingBook,
    read_open_orders,
    read_order,
    read_orders,
    read_trades,
    tell_truth,
)
from tests.unit.simulation.trading.orders import T0, limit, market


def a_hand(book: TradingBook) -> Hand:
    return Hand(book, lambda: T0 + 1)


def test_a_fill_of_any_quantity_at_the_orders_price() -> None:
    book = TradingBook()
    order = book.create(limit("BUY", "1", "39000"), T0)
    assert a_hand(book).fill("a", "0.25").price == Decimal(39_000)
    assert (order.status, order.filled, book.account.wallet.locked["USDT"]) == (Status.PARTIALLY_FILLED, Decimal("0.25"), Decimal(29_250))
    a_hand(book).fill(order.order_id, "0.75", "38000", is_maker=False)
    assert (order.status, book.account.wallet.locked["USDT"]) == (Status.FILLED, Decimal(0))


def test_a_late_fill_leaves_a_terminal_order_terminal_and_moves_the_money() -> None:
    book = TradingBook()
    order = book.create(limit("BUY", "1", "39000"), T0)
    book.cancel("BTCUSDT", T0, client_id="a")
    a_hand(book).fill("a", "0.5")
    assert (order.status, order.filled) == (Status.CANCELED, Decimal("0.5"))
    assert book.account.wallet.free == {"USDT": Decimal(80_500), "BTC": Decimal("0.4995")}


def test_an_overfill_fills_more_than_was_ordered() -> None:
    book = TradingBook()
    order = book.create(limit("BUY", "1", "39000"), T0)
    a_hand(book).fill("a", "1.5")
    assert (order.status, order.filled, order.remaining) == (Status.FILLED, Decimal("1.5"), Decimal(0))


def test_rows_may_differ_from_what_happened() -> None:
    book = TradingBook()
    book.create(market("BUY", "1"), T0)
    hand, true = a_hand(book), book.trades[0]
    assert true.trade_id == 1
    hand.repeat_row(1)
    hand.alter_row(1, is_added=True, qty=Decimal(2))
    assert [row.qty for row in book.rows] == [Decimal(1), Decimal(1), Decimal(2)]
    assert book.trades == [true]
    hand.fill("m", "0.1", trade_id=1)
    assert [trade.trade_id for trade in book.trades] == [1, 1]
    with pytest.raises(BadInputError, match="none with this id"):
        hand.repeat_row(99)


def test_a_fee_may_come_later() -> None:
    book = TradingBook(is_fee_shown=False)
    book.create(market("BUY", "1", "x"), T0)
    book.create(market("BUY", "1", "y"), T0)
    assert [row.fee for row in book.rows] == [None, None]
    a_hand(book).show_fees()
    assert [row.fee for row in book.rows] == [Decimal("0.001"), Decimal("0.001")]
    a_hand(book).hide_fee(2)
    assert [row.fee for row in book.rows] == [Decimal("0.001"), None]


def test_rows_may_be_shown_in_another_order() -> None:
    book = TradingBook()
    for n in range(8):
        book.create(market("BUY", "0.1", f"m{n}"), T0)
    a_hand(book).shuffle_rows(seed=1)
    shown = [row.trade_id for row in book.rows]
    assert shown != sorted(shown)
    assert sorted(shown) == [trade.trade_id for trade in book.trades]


def test_orders_of_others_are_no_accepted_creates_of_ours() -> None:
    book = TradingBook()
    order = a_hand(book).place("BTCUSDT", "buy", "0.1", "39000")
    assert order.is_foreign
    assert book.accepted == {}
    a_hand(book).cancel(order.order_id)
    assert order.status is Status.CANCELED


def test_money_comes_and_goes() -> None:
    book = TradingBook()
    a_hand(book).deposit("USDT", "5000")
    a_hand(book).withdraw("USDT", "300")
    assert book.account.wallet.free == {"USDT": Decimal(104_700)}
    assert [(flow.kind, flow.amount) for flow in book.flows] == [("deposit", Decimal(5000)), ("withdrawal", Decimal(-300))]
    with pytest.raises(BadInputError, match="only perpetuals"):
        a_hand(book).pay_funding("BTCUSDT", "0.1")
    with pytest.raises(BadInputError, match="was 'nobody'"):
        a_hand(book).fill("nobody", "1")


def test_reads_see_a_new_order_and_its_trades_late() -> None:
    book = TradingBook(visibility_ms=4000)
    book.create(limit("BUY", "1", "39000"), T0)
    book.create(market("BUY", "1"), T0)
    for now_ms, n_seen in ((T0 + 3999, 0), (T0 + 4000, 1)):
        assert len(read_open_orders(book, "BTCUSDT", now_ms)) == n_seen
        assert len(read_orders(book, "BTCUSDT", now_ms)) == 2 * n_seen
        assert len(read_trades(book, "BTCUSDT", now_ms)) == n_seen
    with pytest.raises(RefusalError) as caught:
        read_order(book, "BTCUSDT", T0 + 3999, client_id="a")
    assert caught.value.reason is Reason.NOT_FOUND
    assert read_order(book, "BTCUSDT", T0 + 4000, client_id="a").client_id == "a"


def test_old_terminal_orders_are_archived_and_their_trades_stay() -> None:
    book = TradingBook(history_ms=10_000)
    book.create(market("BUY", "1"), T0)
    book.create(limit("BUY", "1", "39000"), T0)
    assert [order.client_id for order in read_orders(book, "BTCUSDT", T0 + 10_000)] == ["a"]
    assert len(read_trades(book, "BTCUSDT", T0 + 10_000)) == 1
    for is_archived, reason in ((True, Reason.ARCHIVED), (False, Reason.NOT_FOUND)):
        book.change(is_archived=is_archived)
        with pytest.raises(RefusalError) as caught:
            read_order(book, "BTCUSDT", T0 + 10_000, client_id="m")
        assert caught.value.reason is reason


def test_the_truth_tells_all_of_it_in_plain_text() -> None:
    book = TradingBook()
    book.create(market("BUY", "1"), T0)
    book.create(limit("BUY", "0.5", "39000"), T0 + 5)
    a_hand(book).repeat_row(1)
    told = tell_truth(book)
    assert told["accepted"] == {"m": [T0], "a": [T0 + 5]}
    assert told["balances"]["USDT"] == {"free": "40500", "locked": "19500", "total": "60000"}
    assert told["balances"]["BTC"] == {"free": "0.999", "locked": "0", "total": "0.999"}
    assert [(order["client_id"], order["status"], order["filled"]) for order in told["orders"]] == [("m", "FILLED", "1"), ("a", "NEW", "0")]
    assert (len(told["trades"]), len(told["rows"])) == (1, 2)
    assert told["trades"][0]["fee"] == "0.001"
