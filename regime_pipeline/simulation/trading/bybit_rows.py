"""Rows as Bybit v5 spells them: orders, executions, positions, wallet, instruments. Everything is text."""

from typing import Any, Final

from regime_pipeline.simulation.trading.accounts import LinearAccount, compute_liquidation_price
from regime_pipeline.simulation.trading.binance_rows import ladder
from regime_pipeline.simulation.trading.book import TradingBook
from regime_pipeline.simulation.trading.calls import HttpCall
from regime_pipeline.simulation.trading.keys import ApiKey, Right
from regime_pipeline.simulation.trading.truth import spell
from regime_pipeline.simulation.trading.values import ZERO, Instrument, Status, Trade, VenueOrder

_STATUSES: Final = {
    Status.UNTRIGGERED: "Untriggered",
    Status.NEW: "New",
    Status.PARTIALLY_FILLED: "PartiallyFilled",
    Status.FILLED: "Filled",
    Status.CANCELED: "Cancelled",
    Status.EXPIRED: "Cancelled",
}
_USER_ID: Final = 24_617_703


def named(each: VenueOrder) -> dict[str, Any]:
    """Spell the answer to a create or a cancel: both ids and no more."""
    return {"orderId": each.order_id, "orderLinkId": each.client_id}


def order_filter(each: VenueOrder) -> str:
    """Name the list an order is in until it is triggered, and after."""
    return "StopOrder" if each.asked.trigger is not None and each.status is Status.UNTRIGGERED else "Order"


def order(each: VenueOrder) -> dict[str, Any]:
    """Spell an order as reads do."""
    asked = each.asked
    avg = each.quote_filled / each.filled if each.filled else None
    # A conditional order that is cancelled before it triggers is only switched off.
    is_off = each.status is Status.CANCELED and asked.trigger is not None and not each.filled
    return {
        "symbol": each.symbol,
        "orderId": each.order_id,
        "orderLinkId": each.client_id,
        "orderType": asked.spelled_type or asked.kind.value.capitalize(),
        "side": each.side.value.capitalize(),
        "qty": spell(each.qty),
        "price": spell(asked.price or ZERO),
        "timeInForce": "PostOnly" if asked.is_post_only else asked.tif.value,
        "orderStatus": "Deactivated" if is_off else _STATUSES[each.status],
        "cancelType": "CancelByUser" if each.status is Status.CANCELED else "UNKNOWN",
        "rejectReason": "EC_NoError",
        "avgPrice": spell(avg.normalize()) if avg is not None else "",
        "leavesQty": spell(each.remaining if each.is_open else ZERO),
        "leavesValue": "0",
        "cumExecQty": spell(each.filled),
        "cumExecValue": spell(each.quote_filled),
        "cumExecFee": spell(sum(each.fees.values(), ZERO)),
        "cumFeeDetail": {asset: spell(fee) for asset, fee in each.fees.items()},
        "stopOrderType": "Stop" if asked.trigger is not None else "",
        "triggerPrice": spell(asked.trigger.price) if asked.trigger is not None else "",
        "triggerDirection": 0 if asked.trigger is None else 1 if asked.trigger.is_rising else 2,
        "triggerBy": "LastPrice" if asked.trigger is not None else "",
        "takeProfit": "",
        "stopLoss": "",
        "tpslMode": "",
        "reduceOnly": asked.is_reduce_only,
        "closeOnTrigger": False,
        "positionIdx": 0,
        "createType": "CreateByUser",
        "createdTime": str(each.created_ms),
        "updatedTime": str(each.updated_ms),
    }


def execution(book: TradingBook, row: Trade) -> dict[str, Any]:
    """Spell a row of the executions: trades, liquidations and funding; one without a commission lacks its fields."""
    each = book.orders.get(row.order_id)
    fee = {"execFee": spell(row.fee), "feeCurrency": row.fee_asset or ""} if row.fee is not None else {}
    return {
        "symbol": row.symbol,
        "orderId": row.order_id,
        "orderLinkId": row.client_id,
        "side": row.side.value.capitalize(),
        "orderType": each.asked.spelled_type if each else "UNKNOWN",
        "stopOrderType": "UNKNOWN",
        "orderPrice": spell(each.asked.price or ZERO) if each else "0",
        "orderQty": spell(each.qty) if each else "0",
        "leavesQty": "0",
        **({"execId": execution_id(row.trade_id)} if row.trade_id is not None else {}),
        "execPrice": spell(row.price),
        "execQty": spell(row.qty),
        "execValue": spell(row.qty * row.price),
        **fee,
        "feeRate": spell(row.rate),
        "execType": row.kind,
        "execTime": str(row.at_ms),
        "isMaker": row.is_maker,
        "markPrice": spell(book.prices[row.symbol]),
        "closedSize": "0",
        "createType": "CreateByUser",
        "seq": row.trade_id or 0,
    }


def execution_id(number: int) -> str:
    """Spell a trade's number as Bybit's ids look."""
    return f"{number:08x}-0000-5000-9000-{number:012x}"


def position(book: TradingBook, symbol: str, now_ms: int) -> dict[str, Any]:
    """Spell a position: its size without a sign, and Buy, Sell or nothing as its side."""
    held, mark = _account(book).position(symbol), book.prices[symbol]
    liquidation = compute_liquidation_price(held, book.rules)
    margin = abs(held.cost) / book.rules.leverage
    return {
        "positionIdx": 0,
        "riskId": 1,
        "riskLimitValue": "2000000",
        "symbol": symbol,
        "side": "" if not held.size else "Buy" if held.size > 0 else "Sell",
        "size": spell(abs(held.size)),
        "avgPrice": spell(held.avg_price),
        "positionValue": spell(abs(held.cost)),
        "autoAddMargin": 0,
        "positionStatus": "Normal",
        "leverage": spell(book.rules.leverage),
        "markPrice": spell(mark),
        "liqPrice": spell(liquidation) if liquidation is not None and liquidation > 0 else "",
        "bustPrice": "",
        "positionIM": spell(margin),
        "positionMM": spell(abs(held.cost) * book.rules.maintenance_frac),
        "takeProfit": "",
        "stopLoss": "",
        "unrealisedPnl": spell(held.size * mark - held.cost),
        "curRealisedPnl": spell(held.realised),
        "cumRealisedPnl": spell(held.realised),
        "adlRankIndicator": 2,
        "isReduceOnly": False,
        "createdTime": str(now_ms),
        "updatedTime": str(now_ms),
        "seq": 1,
    }


def wallet(book: TradingBook, now_ms: int) -> dict[str, Any]:
    """Spell the unified wallet."""
    book.advance(now_ms)
    account = _account(book)
    unrealised, margin, held = account.unrealised(), account.margin(book.rules), account.wallet
    equity = held.total("USDT") + unrealised
    coins = []
    for asset in held.assets():
        is_settle = asset == "USDT"
        coins.append(
            {
                "coin": asset,
                "equity": spell(equity if is_settle else held.total(asset)),
                "walletBalance": spell(held.total(asset)),
                "locked": "0",
                "totalOrderIM": spell(held.locked.get(asset, ZERO)),
                "totalPositionIM": spell(margin if is_settle else ZERO),
                "unrealisedPnl": spell(unrealised if is_settle else ZERO),
                "usdValue": spell(equity if is_settle else ZERO),
                "availableToWithdraw": "",
                "borrowAmount": "0",
                "accruedInterest": "0",
            }
        )
    total = {"accountType": "UNIFIED", "totalEquity": spell(equity), "totalWalletBalance": spell(held.total("USDT"))}
    available = spell(held.free.get("USDT", ZERO) + unrealised - margin)
    return {"list": [{**total, "totalAvailableBalance": available, "totalPerpUPL": spell(unrealised), "coin": coins}]}


def flows(book: TradingBook) -> list[dict[str, Any]]:
    """Spell what came and went without a trade, newest first."""
    kinds = {"deposit": "TRANSFER_IN", "withdrawal": "TRANSFER_OUT", "funding": "SETTLEMENT"}
    return [
        {
            "id": f"{flow.number}",
            "symbol": flow.symbol,
            "category": "linear",
            "type": kinds[flow.kind],
            "currency": flow.asset,
            "change": spell(flow.amount),
            "cashFlow": "0" if flow.kind == "funding" else spell(flow.amount),
            "funding": spell(flow.amount) if flow.kind == "funding" else "",
            "fee": "0",
            "cashBalance": "",
            "transactionTime": str(flow.at_ms),
        }
        for flow in reversed(book.flows)
    ]


def restrictions(key: ApiKey) -> dict[str, Any]:
    """Spell what a key may do."""
    can_trade = Right.TRADE in key.rights
    wallet_rights = {Right.WITHDRAW: "Withdraw", Right.TRANSFER: "AccountTransfer"}
    return {
        "id": "13770661",
        "note": key.kind,
        "apiKey": key.key,
        "readOnly": 0 if can_trade else 1,
        "secret": "",
        "permissions": {
            "ContractTrade": ["Order", "Position"] if can_trade else [],
            "Spot": [],
            "Wallet": [name for right, name in wallet_rights.items() if right in key.rights],
            "Options": [],
            "Derivatives": [],
            "CopyTrading": [],
            "Exchange": [],
            "NFT": [],
            "Affiliate": [],
        },
        "ips": ["127.0.0.1"],
        "type": 1,
        "uta": 1,
        "unified": 0,
        "userID": _USER_ID,
        "isMaster": True,
    }


def account_info(_call: HttpCall, now_ms: int) -> dict[str, Any]:
    """Spell the kind of account: unified, one-way."""
    return {"unifiedMarginStatus": 6, "marginMode": "ISOLATED_MARGIN", "dcpStatus": "OFF", "timeWindow": 0, "updatedTime": str(now_ms)}


def server_time(_call: HttpCall, now_ms: int) -> dict[str, Any]:
    """Spell the venue's time."""
    return {"timeSecond": str(now_ms // 1000), "timeNano": str(now_ms * 1_000_000)}


def instrument(each: Instrument) -> dict[str, Any]:
    """Spell a perpetual and its grid."""
    return {
        "symbol": each.symbol,
        "contractType": "LinearPerpetual",
        "status": "Trading" if each.is_active else "Closed",
        "baseCoin": each.base,
        "quoteCoin": each.quote,
        "settleCoin": each.quote,
        "launchTime": "1585526400000",
        "deliveryTime": "0",
        "deliveryFeeRate": "",
        "priceScale": "2",
        "leverageFilter": {"minLeverage": "1", "maxLeverage": "100", "leverageStep": "0.01"},
        "priceFilter": {"minPrice": spell(each.tick), "maxPrice": spell(each.max_price), "tickSize": spell(each.tick)},
        "lotSizeFilter": {
            "maxOrderQty": spell(each.max_qty),
            "maxMktOrderQty": spell(each.max_qty),
            "minOrderQty": spell(each.min_qty),
            "qtyStep": spell(each.step),
            "minNotionalValue": spell(each.min_notional),
        },
        "unifiedMarginTrade": True,
        "fundingInterval": 480,
    }


def ticker(book: TradingBook, symbol: str, now_ms: int) -> dict[str, Any]:
    """Spell prices: the scripted one is last, mark and index at once."""
    quotes, price, qty = book.quotes(symbol), spell(book.prices[symbol]), spell(book.rules.depth_qty)
    names = ("lastPrice", "markPrice", "indexPrice", "prevPrice24h", "highPrice24h", "lowPrice24h")
    return {
        "symbol": symbol,
        **dict.fromkeys(names, price),
        "bid1Price": spell(quotes.bid),
        "bid1Size": qty,
        "ask1Price": spell(quotes.ask),
        "ask1Size": qty,
        "price24hPcnt": "0",
        "turnover24h": "0",
        "volume24h": "0",
        "openInterest": "0",
        "openInterestValue": "0",
        "fundingRate": "0.0001",
        "nextFundingTime": str((now_ms // 28_800_000 + 1) * 28_800_000),
    }


def orderbook(book: TradingBook, symbol: str, limit: int, now_ms: int) -> dict[str, Any]:
    """Spell the book."""
    levels = ladder(book, symbol, limit)
    sides = {short: [[spell(p), spell(q)] for p, q in levels[name]] for short, name in (("b", "bids"), ("a", "asks"))}
    return {"s": symbol, **sides, "ts": now_ms, "u": 1, "seq": 1}


def _account(book: TradingBook) -> LinearAccount:
    if not isinstance(book.account, LinearAccount):
        raise TypeError("the Bybit profile was given a spot book; it serves perpetuals only")
    return book.account
