"""Binance spot (/api/v3) and USD-margined perpetuals (/fapi/v1): klines, exchangeInfo, time, ping. Market data only."""

from collections.abc import Mapping
from typing import Any, Final

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.simulation.answers import Answer, Call, first_bars, last_bars
from regime_pipeline.simulation.truth import Truth
from regime_pipeline.simulation.wire import Api, Damage, binance_row, wire_bars

PREFIXES: Final = {Api.SPOT: "api/v3/", Api.USDM: "fapi/v1/"}
_DEFAULT_LIMIT: Final = 500
_MAX_LIMIT: Final = {Api.SPOT: 1000, Api.USDM: 1500}
_QUOTES: Final = ("USDT", "USDC", "FDUSD", "BTC", "ETH", "USD")
_FAR_S: Final = 2**40


def read_call(api: Api, path: str, query: Mapping[str, str]) -> Call:
    """Understand a request; `path` is what follows the API's name."""
    endpoint = path.removeprefix(PREFIXES[api]) if path.startswith(PREFIXES[api]) else path
    text = query.get("interval", "")
    return Call(api, endpoint, query.get("symbol"), Timeframe(text) if text in set(Timeframe) else None)


def answer(truth: Truth, call: Call, query: Mapping[str, str], now_s: float, damage: Damage) -> Answer:
    """Answer as Binance does: an error is a code and a message with status 400."""
    match call.endpoint:
        case "ping":
            return Answer({})
        case "time":
            return Answer({"serverTime": int(1000 * now_s)})
        case "exchangeInfo":
            return Answer(_exchange_info(truth, call.api, now_s))
        case "klines":
            return _klines(truth, call, query, now_s, damage)
    return Answer({"code": -1000, "msg": f"The simulated venue has no {call.endpoint}."}, 404)


def _klines(truth: Truth, call: Call, query: Mapping[str, str], now_s: float, damage: Damage) -> Answer:
    refusal = _refuse(call, query)
    listing = truth.listings(call.api).get(call.symbol or "")
    if refusal is not None:
        return refusal
    if listing is None or call.timeframe is None:
        return _error(-1121, "Invalid symbol.") if listing is None else _error(-1120, "Invalid interval.")
    limit = min(int(query.get("limit", _DEFAULT_LIMIT)), _MAX_LIMIT[call.api])
    # Open times are whole seconds here: the first at or after startTime, the last at or before endTime.
    end_s = int(query["endTime"]) // 1000 + 1 if "endTime" in query else _FAR_S
    if "startTime" in query:
        bars = first_bars(truth, listing, call.timeframe, (-(-int(query["startTime"]) // 1000), end_s), limit, now_s)
    else:
        bars = last_bars(truth, listing, call.timeframe, end_s, limit, now_s)
    rows = damage(wire_bars(listing.symbol, call.timeframe, bars))
    return Answer([binance_row(call.api, row) for row in rows])


def _refuse(call: Call, query: Mapping[str, str]) -> Answer | None:
    for name, given in (("symbol", call.symbol), ("interval", query.get("interval"))):
        if not given:
            return _error(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    for name in ("startTime", "endTime", "limit"):
        if not query.get(name, "0").isdecimal():
            return _error(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    limit = int(query.get("limit", _DEFAULT_LIMIT))
    if limit == 0 or (call.api is Api.USDM and limit > _MAX_LIMIT[Api.USDM]):
        return _error(-1130, "Data sent for parameter 'limit' is not valid.")
    return None


def _error(code: int, message: str) -> Answer:
    return Answer({"code": code, "msg": message}, 400)


def _exchange_info(truth: Truth, api: Api, now_s: float) -> dict[str, Any]:
    describe = _spot_symbol if api is Api.SPOT else _perpetual
    limits = [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000 if api is Api.SPOT else 2400}]
    return {
        "timezone": "UTC",
        "serverTime": int(1000 * now_s),
        "rateLimits": limits,
        "exchangeFilters": [],
        "symbols": [describe(symbol) for symbol in truth.listings(api)],
    }


def list_symbols(truth: Truth) -> list[dict[str, Any]]:
    """Describe every spot symbol that has bars."""
    return [_spot_symbol(symbol) for symbol in truth.listings(Api.SPOT)]


def split_symbol(symbol: str) -> tuple[str, str]:
    """Split a symbol into base and quote; one without a known quote is priced in USDT."""
    quote = next((each for each in _QUOTES if symbol.endswith(each) and symbol != each), "USDT")
    return symbol.removesuffix(quote), quote


def _spot_symbol(symbol: str) -> dict[str, Any]:
    base, quote = split_symbol(symbol)
    return {
        "symbol": symbol,
        "status": "TRADING",
        "baseAsset": base,
        "baseAssetPrecision": 8,
        "quoteAsset": quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "icebergAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.00000001", "maxPrice": "1000000.00000000", "tickSize": "0.00000001"},
            {"filterType": "LOT_SIZE", "minQty": "0.00001000", "maxQty": "9000000.00000000", "stepSize": "0.00001000"},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True, "maxNotional": "9000000.00000000"},
        ],
        "permissions": ["SPOT"],
    }


def _perpetual(symbol: str) -> dict[str, Any]:
    base, quote = split_symbol(symbol)
    return {
        "symbol": symbol,
        "pair": symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": 4133404800000,
        "onboardDate": 1569398400000,
        "status": "TRADING",
        "baseAsset": base,
        "quoteAsset": quote,
        "marginAsset": quote,
        "pricePrecision": 8,
        "quantityPrecision": 3,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.00000001", "maxPrice": "1000000", "tickSize": "0.00000001"},
            {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "9000000", "stepSize": "0.001"},
            {"filterType": "MIN_NOTIONAL", "notional": "5"},
        ],
        "orderTypes": ["LIMIT", "MARKET"],
    }
