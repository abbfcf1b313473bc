"""Hyperliquid's POST /info: candleSnapshot, allMids, meta, metaAndAssetCtxs, and the empty answers a client's market list needs."""

from collections.abc import Mapping
from typing import Any, Final

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.simulation.answers import Answer, Call
from regime_pipeline.simulation.truth import Listing, Truth
from regime_pipeline.simulation.wire import Api, Damage, hyperliquid_row, spell, wire_bars

MAX_BARS: Final = 5000
"""Older candles than this many back are not kept by the venue."""

_UNREADABLE: Final = "Failed to deserialize the JSON body into the target type"


def read_call(payload: object) -> Call:
    """Understand a request by its `type`; a body that is no object has none."""
    if not isinstance(payload, Mapping):
        return Call(Api.HYPERLIQUID, "")
    kind, wanted = str(payload.get("type", "")), payload.get("req")
    if kind != "candleSnapshot" or not isinstance(wanted, Mapping):
        return Call(Api.HYPERLIQUID, kind)
    text = str(wanted.get("interval", ""))
    return Call(Api.HYPERLIQUID, kind, str(wanted.get("coin", "")), Timeframe(text) if text in set(Timeframe) else None)


def answer(truth: Truth, call: Call, payload: object, now_s: float, damage: Damage) -> Answer:
    """Answer as Hyperliquid does: what it cannot read gets status 422 and plain text."""
    match call.endpoint:
        case "candleSnapshot":
            return _candles(truth, call, payload, now_s, damage)
        case "allMids":
            return Answer(mids(truth, now_s))
        case "meta":
            return Answer({"universe": _universe(truth)})
        case "metaAndAssetCtxs":
            return Answer([{"universe": _universe(truth)}, [_context(truth, each, now_s) for each in _coins(truth)]])
        case "spotMeta":
            return Answer({"tokens": [_USDC], "universe": []})
        case "spotMetaAndAssetCtxs":
            return Answer([{"tokens": [_USDC], "universe": []}, []])
        case "perpDexs":
            return Answer([None])
    return Answer(_UNREADABLE, 422)


def mids(truth: Truth, now_s: float) -> dict[str, str]:
    """Give the price of this moment by coin."""
    prices = {listing.symbol: truth.price(listing, now_s) for listing in _coins(truth)}
    return {symbol: spelled for symbol, price in prices.items() if (spelled := spell(price, 1)) is not None}


def _candles(truth: Truth, call: Call, payload: object, now_s: float, damage: Damage) -> Answer:
    wanted = payload.get("req") if isinstance(payload, Mapping) else None
    if not isinstance(wanted, Mapping):
        return Answer(_UNREADABLE, 422)
    start_ms, end_ms = wanted.get("startTime"), wanted.get("endTime", int(1000 * now_s))
    if call.timeframe is None or not isinstance(start_ms, int) or not isinstance(end_ms, int):
        return Answer(_UNREADABLE, 422)
    listing = truth.listings(Api.HYPERLIQUID).get(call.symbol or "")
    if listing is None:
        return Answer("null", 500)
    # A candle belongs to the answer when any part of it lies in the window asked for.
    kept_from_s = call.timeframe.floor(int(now_s)) - (MAX_BARS - 1) * call.timeframe.seconds
    start_s = max(call.timeframe.floor(start_ms // 1000), kept_from_s)
    bars = truth.seen(listing, call.timeframe, start_s, end_ms // 1000 + 1, now_s)
    rows = damage(wire_bars(listing.symbol, call.timeframe, bars))
    return Answer([hyperliquid_row(row) for row in rows])


_USDC: Final = {"name": "USDC", "szDecimals": 8, "weiDecimals": 8, "index": 0, "tokenId": "0x0", "isCanonical": True}


def _coins(truth: Truth) -> list[Listing]:
    return list(truth.listings(Api.HYPERLIQUID).values())


def _universe(truth: Truth) -> list[dict[str, Any]]:
    return [{"szDecimals": 2, "name": listing.symbol, "maxLeverage": 20, "marginTableId": 20} for listing in _coins(truth)]


def _context(truth: Truth, listing: Listing, now_s: float) -> dict[str, Any]:
    price = spell(truth.price(listing, now_s), 1)
    return {
        "funding": "0.0000125",
        "openInterest": "0.0",
        "prevDayPx": price,
        "dayNtlVlm": "0.0",
        "premium": "0.0",
        "oraclePx": price,
        "markPx": price,
        "midPx": price,
        "impactPxs": [price, price],
    }
