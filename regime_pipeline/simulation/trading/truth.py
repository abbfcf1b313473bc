"""The judge: everything that is so in a book, as JSON; decimals are text."""

from decimal import Decimal
from typing import Any

from regime_pipeline.simulation.trading.accounts import LinearAccount
from regime_pipeline.simulation.trading.book import TradingBook
from regime_pipeline.simulation.trading.values import Trade, VenueOrder


def tell_truth(book: TradingBook) -> dict[str, Any]:
    """Tell accepted creates with all their times, orders, trades as they were and as they are shown, flows, balances and positions."""
    with book.lock:
        wallet = book.account.wallet
        return {
            "market_type": book.market_type.value,
            "accepted": {client_id: list(times) for client_id, times in book.accepted.items()},
            "orders": [_order(order) for order in book.orders.values()],
            "trades": [_trade(trade) for trade in book.trades],
            "rows": [_trade(row) for row in book.rows],
            "flows": [
                {"kind": flow.kind, "asset": flow.asset, "amount": spell(flow.amount), "at_ms": flow.at_ms, "symbol": flow.symbol}
                for flow in book.flows
            ],
            "balances": {
                asset: {
                    "free": spell(wallet.free.get(asset, Decimal(0))),
                    "locked": spell(wallet.locked.get(asset, Decimal(0))),
                    "total": spell(wallet.total(asset)),
                }
                for asset in wallet.assets()
            },
            "positions": _positions(book),
            "prices": {symbol: spell(price) for symbol, price in book.prices.items()},
        }


def spell(value: Decimal, decimals: int = 0) -> str:
    """Spell a number in full: at least so many decimals, more where it has them, never an exponent."""
    whole = f"{value.normalize():f}"
    if not decimals:
        return "0" if whole == "-0" else whole
    head, _, tail = whole.partition(".")
    return f"{head}.{tail.ljust(decimals, '0')}"


def _order(order: VenueOrder) -> dict[str, Any]:
    asked = order.asked
    return {
        "order_id": order.order_id,
        "client_id": order.client_id,
        "symbol": order.symbol,
        "side": order.side.value,
        "kind": asked.kind.value,
        "type": asked.spelled_type,
        "qty": spell(order.qty),
        "price": spell(asked.price) if asked.price is not None else None,
        "trigger_price": spell(asked.trigger.price) if asked.trigger is not None else None,
        "is_reduce_only": asked.is_reduce_only,
        "status": order.status.value,
        "filled": spell(order.filled),
        "quote_filled": spell(order.quote_filled),
        "created_ms": order.created_ms,
        "updated_ms": order.updated_ms,
        "is_open": order.is_open,
        "is_foreign": order.is_foreign,
    }


def _trade(trade: Trade) -> dict[str, Any]:
    return {
        "trade_id": trade.trade_id,
        "order_id": trade.order_id,
        "client_id": trade.client_id,
        "symbol": trade.symbol,
        "side": trade.side.value,
        "qty": spell(trade.qty),
        "price": spell(trade.price),
        "fee": spell(trade.fee) if trade.fee is not None else None,
        "fee_asset": trade.fee_asset,
        "is_maker": trade.is_maker,
        "at_ms": trade.at_ms,
        "kind": trade.kind,
    }


def _positions(book: TradingBook) -> dict[str, Any]:
    if not isinstance(book.account, LinearAccount):
        return {}
    return {
        symbol: {"size": spell(position.size), "avg_price": spell(position.avg_price), "realised": spell(position.realised)}
        for symbol, position in book.account.positions.items()
    }
