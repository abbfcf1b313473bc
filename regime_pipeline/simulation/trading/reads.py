"""What a client may read of a book: new orders show up late, old ones are archived, and rows of trades are what they were made to be."""

from regime_pipeline.simulation.trading.book import TradingBook
from regime_pipeline.simulation.trading.values import Reason, RefusalError, Trade, VenueOrder


def is_visible(book: TradingBook, order: VenueOrder, now_ms: int) -> bool:
    """Tell whether reads see an order yet."""
    return now_ms - order.created_ms >= book.rules.visibility_ms


def is_archived(book: TradingBook, order: VenueOrder, now_ms: int) -> bool:
    """Tell whether reads of orders no longer see a terminal order."""
    history_ms = book.rules.history_ms
    return history_ms is not None and not order.is_open and now_ms - order.updated_ms >= history_ms


def read_order(book: TradingBook, symbol: str, now_ms: int, *, order_id: str | None = None, client_id: str | None = None) -> VenueOrder:
    """Read one order by the venue's id or the client's.

    Raises
    ------
    RefusalError
        NOT_FOUND, or ARCHIVED when the venue says so.
    """
    with book.lock:
        book.advance(now_ms)
        order = book.find(order_id, client_id)
        if order is None or order.symbol != symbol or not is_visible(book, order, now_ms):
            raise RefusalError(Reason.NOT_FOUND)
        if is_archived(book, order, now_ms):
            raise RefusalError(Reason.ARCHIVED if book.rules.is_archived else Reason.NOT_FOUND)
        return order


def read_open_orders(book: TradingBook, symbol: str | None, now_ms: int) -> list[VenueOrder]:
    """Read the open orders of one symbol or of all, oldest first."""
    with book.lock:
        book.advance(now_ms)
        return [order for order in book.list_open(symbol) if is_visible(book, order, now_ms)]


def read_orders(book: TradingBook, symbol: str | None, now_ms: int) -> list[VenueOrder]:
    """Read all orders, open and terminal, oldest first."""
    with book.lock:
        book.advance(now_ms)
        return [
            order
            for order in book.orders.values()
            if symbol in {None, order.symbol} and is_visible(book, order, now_ms) and not is_archived(book, order, now_ms)
        ]


def read_trades(book: TradingBook, symbol: str | None, now_ms: int) -> list[Trade]:
    """Read the rows of trades and payments, in the order in which they came to be shown."""
    with book.lock:
        book.advance(now_ms)
        return [row for row in book.rows if symbol in {None, row.symbol} and _is_row_visible(book, row, now_ms)]


def _is_row_visible(book: TradingBook, row: Trade, now_ms: int) -> bool:
    order = book.orders.get(row.order_id)
    return order is None or is_visible(book, order, now_ms)
