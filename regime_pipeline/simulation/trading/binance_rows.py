"""Rows as Binance spells them: orders, trades, balances, filters, tickers. Numbers are text with at least 8 decimals."""

from decimal import Decimal
from typing import Any, Final

from regime_pipeline.simulation.trading.book import TradingBook
from regime_pipeline.simulation.trading.keys import ApiKey, Right
from regime_pipeline.simulation.trading.truth import spell
from regime_pipeline.simulation.trading.values import ZERO, Instrument, Side, Status, Trade, VenueOrder

ORDER_TYPES: Final = ("LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT")
_ACCOUNT_ID: Final = 354_937_868


def text(value: Decimal | None) -> str:
    """Spell a number; what an order does not have is zero."""
    return spell(value if value is not None else ZERO, 8)


def order(each: VenueOrder) -> dict[str, Any]:
    """Spell an order as reads do."""
    return {
        **_body(each),
        "stopPrice": text(each.asked.trigger.price if each.asked.trigger else None),
        "icebergQty": text(ZERO),
        "time": each.created_ms,
        "updateTime": each.updated_ms,
        "isWorking": each.status is not Status.UNTRIGGERED,
        "workingTime": each.created_ms if each.status is not Status.UNTRIGGERED else -1,
        "origQuoteOrderQty": text(each.asked.quote_qty),
        "selfTradePreventionMode": "EXPIRE_MAKER",
    }


def created(each: VenueOrder, trades: list[Trade], shape: str, now_ms: int) -> dict[str, Any]:
    """Spell the answer to a create: ACK, RESULT or FULL; unless asked for, limit and market orders give FULL."""
    head = {
        "symbol": each.symbol,
        "orderId": each.number,
        "orderListId": -1,
        "clientOrderId": each.client_id,
        "transactTime": now_ms,
    }
    if shape == "ACK" or (not shape and each.asked.trigger is not None):
        return head
    body = head | _body(each) | {"origQuoteOrderQty": text(each.asked.quote_qty), "selfTradePreventionMode": "EXPIRE_MAKER"}
    if each.asked.trigger is not None:
        body["stopPrice"] = text(each.asked.trigger.price)
    if shape == "RESULT":
        return body
    return body | {"workingTime": now_ms, "fills": [_fill(trade) for trade in trades]}


def cancelled(each: VenueOrder, now_ms: int) -> dict[str, Any]:
    """Spell the answer to a cancel: `clientOrderId` is the cancel's own."""
    return {**_body(each), "origClientOrderId": each.client_id, "clientOrderId": each.cancel_id, "transactTime": now_ms}


def _body(each: VenueOrder) -> dict[str, Any]:
    return {
        "symbol": each.symbol,
        "orderId": each.number,
        "orderListId": -1,
        "clientOrderId": each.client_id,
        "price": text(each.asked.price),
        "origQty": text(each.qty),
        "executedQty": text(each.filled),
        "cummulativeQuoteQty": text(each.quote_filled),
        "status": Status.NEW.value if each.status is Status.UNTRIGGERED else each.status.value,
        "timeInForce": each.asked.tif.value,
        "type": each.asked.spelled_type,
        "side": each.side.value,
    }


def _fill(trade: Trade) -> dict[str, Any]:
    return {
        "price": text(trade.price),
        "qty": text(trade.qty),
        "commission": text(trade.fee),
        "commissionAsset": trade.fee_asset,
        "tradeId": trade.trade_id,
    }


def trade(row: Trade) -> dict[str, Any]:
    """Spell a row of the account's trades; one without a commission lacks both fields."""
    fee = {"commission": text(row.fee), "commissionAsset": row.fee_asset} if row.fee is not None else {}
    return {
        "symbol": row.symbol,
        **({"id": row.trade_id} if row.trade_id is not None else {}),
        "orderId": int(row.order_id),
        "orderListId": -1,
        "price": text(row.price),
        "qty": text(row.qty),
        "quoteQty": text(row.qty * row.price),
        **fee,
        "time": row.at_ms,
        "isBuyer": row.side is Side.BUY,
        "isMaker": row.is_maker,
        "isBestMatch": True,
    }


def account(book: TradingBook, now_ms: int) -> dict[str, Any]:
    """Spell balances."""
    book.advance(now_ms)
    wallet = book.account.wallet
    return {
        "makerCommission": int(book.rules.maker_bps),
        "takerCommission": int(book.rules.taker_bps),
        "buyerCommission": 0,
        "sellerCommission": 0,
        "canTrade": True,
        "canWithdraw": False,
        "canDeposit": True,
        "brokered": False,
        "requireSelfTradePrevention": False,
        "preventSor": False,
        "updateTime": now_ms,
        "accountType": "SPOT",
        "balances": [
            {"asset": asset, "free": text(wallet.free.get(asset, ZERO)), "locked": text(wallet.locked.get(asset, ZERO))}
            for asset in wallet.assets()
        ],
        "permissions": ["SPOT"],
        "uid": _ACCOUNT_ID,
    }


def restrictions(key: ApiKey) -> dict[str, Any]:
    """Spell what a key may do."""
    return {
        "ipRestrict": True,
        "createTime": 1_700_000_000_000,
        "enableReading": Right.READ in key.rights,
        "enableSpotAndMarginTrading": Right.TRADE in key.rights,
        "enableWithdrawals": Right.WITHDRAW in key.rights,
        "enableInternalTransfer": Right.TRANSFER in key.rights,
        "permitsUniversalTransfer": Right.TRANSFER in key.rights,
        "enableMargin": False,
        "enableFutures": False,
        "enableVanillaOptions": False,
        "enablePortfolioMarginTrading": False,
        "enableFixApiTrade": False,
        "enableFixReadOnly": False,
    }


def deposits(book: TradingBook) -> list[dict[str, Any]]:
    """Spell what came from outside, newest first."""
    return [
        {
            "id": str(flow.number),
            "amount": spell(flow.amount),
            "coin": flow.asset,
            "network": flow.asset,
            "status": 1,
            "insertTime": flow.at_ms,
        }
        for flow in reversed(book.flows)
        if flow.kind == "deposit"
    ]


def withdrawals(book: TradingBook) -> list[dict[str, Any]]:
    """Spell what went outside, newest first."""
    return [
        {
            "id": str(flow.number),
            "amount": spell(-flow.amount),
            "transactionFee": "0",
            "coin": flow.asset,
            "network": flow.asset,
            "status": 6,
            "applyTime": flow.at_ms,
        }
        for flow in reversed(book.flows)
        if flow.kind == "withdrawal"
    ]


def exchange_info(book: TradingBook, now_ms: int) -> dict[str, Any]:
    """Spell what is listed, with its filters."""
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000},
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 100},
        ],
        "exchangeFilters": [],
        "symbols": [symbol_info(instrument, book) for instrument in book.instruments.values()],
    }


def symbol_info(instrument: Instrument, book: TradingBook) -> dict[str, Any]:
    """Spell one symbol."""
    lot = {"minQty": text(instrument.min_qty), "maxQty": text(instrument.max_qty), "stepSize": text(instrument.step)}
    price = {"minPrice": text(instrument.tick), "maxPrice": text(instrument.max_price), "tickSize": text(instrument.tick)}
    return {
        "symbol": instrument.symbol,
        "status": "TRADING" if instrument.is_active else "BREAK",
        "baseAsset": instrument.base,
        "baseAssetPrecision": 8,
        "quoteAsset": instrument.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": list(ORDER_TYPES),
        "icebergAllowed": True,
        "ocoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", **price},
            {"filterType": "LOT_SIZE", **lot},
            {
                "filterType": "NOTIONAL",
                "minNotional": text(instrument.min_notional),
                "applyMinToMarket": True,
                "maxNotional": "9000000.00000000",
                "applyMaxToMarket": False,
                "avgPriceMins": 0,
            },
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": book.rules.max_open_orders},
        ],
        "permissions": ["SPOT"],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_MAKER"],
    }


def book_ticker(book: TradingBook, symbol: str, now_ms: int) -> dict[str, Any]:  # noqa: ARG001 - as every ticker
    """Spell the best prices."""
    quotes, qty = book.quotes(symbol), text(book.rules.depth_qty)
    return {"symbol": symbol, "bidPrice": text(quotes.bid), "bidQty": qty, "askPrice": text(quotes.ask), "askQty": qty}


def price_ticker(book: TradingBook, symbol: str, now_ms: int) -> dict[str, Any]:  # noqa: ARG001 - as every ticker
    """Spell the scripted price."""
    return {"symbol": symbol, "price": text(book.prices[symbol])}


def day_ticker(book: TradingBook, symbol: str, now_ms: int) -> dict[str, Any]:
    """Spell the best prices and the scripted one as a day's ticker."""
    price = text(book.prices[symbol])
    names = ("lastPrice", "openPrice", "highPrice", "lowPrice", "weightedAvgPrice", "prevClosePrice")
    return {
        **book_ticker(book, symbol, now_ms),
        **dict.fromkeys(names, price),
        "priceChange": "0",
        "priceChangePercent": "0",
        "volume": "0",
        "quoteVolume": "0",
        "openTime": now_ms - 86_400_000,
        "closeTime": now_ms,
    }


def depth(book: TradingBook, symbol: str, limit: int, now_ms: int) -> dict[str, Any]:
    """Spell the book: levels one tick apart from the best prices on."""
    return {
        "lastUpdateId": now_ms,
        **{side: [[text(p), text(q)] for p, q in levels] for side, levels in ladder(book, symbol, limit).items()},
    }


def ladder(book: TradingBook, symbol: str, limit: int) -> dict[str, list[tuple[Decimal, Decimal]]]:
    """List bids and asks, best first."""
    quotes, tick, qty = book.quotes(symbol), book.instruments[symbol].tick, book.rules.depth_qty
    steps = range(min(limit, book.rules.depth_levels))
    return {"bids": [(quotes.bid - n * tick, qty) for n in steps], "asks": [(quotes.ask + n * tick, qty) for n in steps]}
