"""Orders for tests of a book without sockets."""

from decimal import Decimal
from typing import Any

from regime_pipeline.simulation.trading import Kind, NewOrder, Side, Tif, Trigger

T0 = 1_796_000_000_000


def limit(side: str, qty: str, price: str, client_id: str = "a", *, symbol: str = "BTCUSDT", tif: str = "GTC", **rest: Any) -> NewOrder:
    return NewOrder(symbol, Side(side), Kind.LIMIT, Decimal(qty), client_id, Decimal(price), Tif(tif), **rest)


def market(side: str, qty: str, client_id: str = "m", *, symbol: str = "BTCUSDT", **rest: Any) -> NewOrder:
    return NewOrder(symbol, Side(side), Kind.MARKET, Decimal(qty), client_id, **rest)


def stop(side: str, qty: str, at: str, client_id: str = "s", *, symbol: str = "BTCUSDT", **rest: Any) -> NewOrder:
    """A stop that hurts: a buy's waits above the market, a sell's below."""
    trigger = Trigger(Decimal(at), is_rising=side == "BUY")
    return NewOrder(symbol, Side(side), Kind.MARKET, Decimal(qty), client_id, trigger=trigger, **rest)
