"""How orders meet the scripted price: takers at the best price, resting orders at their own, each match up to the liquidity it finds."""

from decimal import Decimal
from typing import TYPE_CHECKING

from regime_pipeline.simulation.trading.accounts import release
from regime_pipeline.simulation.trading.values import ZERO, Kind, NewOrder, Quotes, RefusalError, Side, Status, Tif, VenueOrder

if TYPE_CHECKING:
    from regime_pipeline.simulation.trading.book import TradingBook


def match_new(book: "TradingBook", order: VenueOrder, now_ms: int) -> None:
    """Match an order that has just arrived or woken; what an IOC, FOK or market order cannot have at once ends."""
    quotes, asked = book.quotes(order.symbol), order.asked
    if crosses(asked, quotes):
        qty = _allowed(book, order, book.rules.liquidity)
        if qty and not (asked.tif is Tif.FOK and qty < order.remaining):
            book.fill(order, qty, quotes.of_taker(order.side), now_ms, is_maker=False)
            _sweep_reduce_only(book, order.symbol, now_ms)
    if order.is_open and (asked.kind is Kind.MARKET or asked.tif is not Tif.GTC):
        book.end(order, Status.EXPIRED, now_ms)


def match_resting(book: "TradingBook", symbol: str, now_ms: int) -> None:
    """Let a new price wake triggers and reach resting orders: best price first, then the oldest; each side finds the liquidity once."""
    quotes = book.quotes(symbol)
    for order in book.list_open(symbol):
        if order.status is Status.UNTRIGGERED and order.asked.trigger is not None and order.asked.trigger.is_hit(quotes.mid):
            _wake(book, order, quotes, now_ms)
    _sweep_reduce_only(book, symbol, now_ms)
    for side in Side:
        found = book.rules.liquidity
        reached = [each for each in book.list_open(symbol) if each.side is side and _is_resting(each) and crosses(each.asked, quotes)]
        for order in sorted(reached, key=lambda each: (-each.side.sign * (each.asked.price or ZERO), each.number)):
            qty = _allowed(book, order, found)
            if order.is_open and qty:
                book.fill(order, qty, order.asked.price or quotes.mid, now_ms, is_maker=True)
                found = None if found is None else found - qty
                _sweep_reduce_only(book, symbol, now_ms)


def crosses(asked: NewOrder, quotes: Quotes) -> bool:
    """Tell whether an order meets the other side of the market."""
    if asked.kind is Kind.MARKET or asked.price is None:
        return True
    return asked.price >= quotes.ask if asked.side is Side.BUY else asked.price <= quotes.bid


def _is_resting(order: VenueOrder) -> bool:
    return order.status in {Status.NEW, Status.PARTIALLY_FILLED}


def _sweep_reduce_only(book: "TradingBook", symbol: str, now_ms: int) -> None:
    """End working reduce-only orders that have nothing left to reduce; those not yet triggered stay, as at Bybit."""
    for order in book.list_open(symbol):
        if order.asked.is_reduce_only and _is_resting(order) and not book.account.reducible(order):
            book.end(order, Status.CANCELED, now_ms)


def _wake(book: "TradingBook", order: VenueOrder, quotes: Quotes, now_ms: int) -> None:
    """Turn a triggered order into a working one, or end it when the account no longer covers it or has nothing to reduce."""
    release(book.account.wallet, order)
    price = order.asked.price if order.asked.kind is Kind.LIMIT and order.asked.price else quotes.of_taker(order.side)
    try:
        book.account.reserve(order, book.instruments[order.symbol], price, book.rules)
    except RefusalError:
        book.end(order, Status.EXPIRED, now_ms)
        return
    if order.asked.is_reduce_only and not book.account.reducible(order):
        book.end(order, Status.EXPIRED, now_ms)
        return
    order.status, order.updated_ms = Status.NEW, now_ms
    match_new(book, order, now_ms)


def _allowed(book: "TradingBook", order: VenueOrder, found: Decimal | None) -> Decimal:
    """Quantity that may trade now: what is left, what the match offers, and for reduce-only what the position still has."""
    qty = order.remaining if found is None else min(order.remaining, max(found, ZERO))
    return min(qty, book.account.reducible(order)) if order.asked.is_reduce_only else qty
