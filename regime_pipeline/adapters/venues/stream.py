"""Candle streams of venues over ccxt.pro: its client connects, subscribes, throttles and answers pings; the raw message is ours.

ccxt's own candles carry base volume and no closed flag, and its `watch_ohlcv` loads every market of the venue first, so the
subscriptions are spelt here and `handle_ohlcv`, which ccxt calls by name for each candle message, is replaced.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from regime_pipeline.adapters.venues.ccxt_client import build_exchange
from regime_pipeline.errors import ConfigError, SourceUnavailableError, VenueHaltedError
from regime_pipeline.market.candles import Candle
from regime_pipeline.market.universe import Universe
from regime_pipeline.settings import Settings

Exchange = Any  # ccxt.pro brings no types

STAY_AWAY: Final = {418, 451}
"""Answers to a handshake that mean more than "not now"."""


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How a venue is asked for 1m candles, and how it spells one."""

    subscribe: Callable[[Exchange, Collection[str]], tuple[str, list[asyncio.Future[Any]]]]
    read: Callable[[Mapping[str, Any]], Candle | None]


@dataclass(frozen=True, slots=True)
class CcxtCandles:
    """`CandleStream` of one venue; every connection is a client of its own, so nothing outlives it."""

    venue: str
    symbols: tuple[str, ...]
    exchange_id: str
    venue_url: str | None
    timeout_s: float

    async def listen(self, on_candle: Callable[[Candle], None]) -> None:
        """Connect once, subscribe, and pass on every candle until the connection ends; cancelling it closes the connection."""
        dialect = _DIALECTS[self.exchange_id]
        exchange = build_exchange(self.exchange_id, self.venue_url, self.timeout_s, pro=True)
        wanted = frozenset(self.symbols)

        def hear(_client: object, message: Mapping[str, Any]) -> None:
            candle = dialect.read(message)
            if candle is not None and candle.symbol in wanted:
                on_candle(candle)

        exchange.handle_ohlcv = hear
        try:
            url, subscribed = dialect.subscribe(exchange, self.symbols)
            client = exchange.client(url)
            waiting = [*subscribed, client.future("connection")]  # only an error ends these: `hear` resolves nothing
            for future in (*waiting, *client.futures.values()):
                future.add_done_callback(_take_note)
            ended, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            raise _explain(self.venue, next(iter(ended)))
        finally:
            with suppress(Exception):  # a connection that is broken may refuse to close; it is gone either way
                await exchange.close()


def build_streams(universe: Universe, settings: Settings) -> list[CcxtCandles]:
    """Build a stream for every venue with `stream = true` that lists a series.

    Raises
    ------
    ConfigError
        When a venue is to be streamed whose messages we cannot read.
    """
    streams = []
    for name, venue in universe.venues.items():
        if not venue.stream:
            continue
        if venue.exchange not in _DIALECTS:
            msg = f"venue {name} has stream = true with exchange {venue.exchange!r}; streams are read of {', '.join(sorted(_DIALECTS))}"
            raise ConfigError(f"{msg}. Set stream = false: its bars are asked for then.")
        symbols = {each.symbol for instrument in universe.instruments() for each in instrument.sources if each.venue == name}
        if symbols:
            streams.append(CcxtCandles(name, tuple(sorted(symbols)), venue.exchange, settings.venue_url, settings.fetch_timeout_s))
    return streams


def _take_note(ended: "asyncio.Future[Any]") -> None:
    """Look at the error of a future that nobody waits for: one connection's end rejects them all, and asyncio would report the rest."""
    if not ended.cancelled():
        ended.exception()


def _explain(venue: str, ended: "asyncio.Future[Any]") -> SourceUnavailableError | VenueHaltedError:
    cause = ConnectionError("closed by us") if ended.cancelled() else ended.exception()
    handshake = next((each for each in getattr(cause, "args", ()) if hasattr(each, "status")), None)
    if handshake is not None and handshake.status in STAY_AWAY:
        return VenueHaltedError(f"{venue} refused its stream with status {handshake.status}. See `regime venues`.")
    reason = " ".join(str(cause).split()) or type(cause).__name__
    return SourceUnavailableError(f"the stream of {venue} ended: {reason[:300]}. It is connected again by itself.")


def _subscribe_binance(exchange: Exchange, symbols: Collection[str]) -> tuple[str, list[asyncio.Future[Any]]]:
    kind = "linear" if exchange.id == "binanceusdm" else "spot"
    names = [f"{symbol.lower()}@kline_1m" for symbol in symbols]
    url = f"{exchange.get_ws_url(kind, exchange.get_future_ws_category('kline'))}/{exchange.stream(kind, 'kline_1m')}"
    number = exchange.request_id(url)
    request = {"method": "SUBSCRIBE", "params": names, "id": number}
    return url, [exchange.watch_multiple(url, names, request, names, {"id": number})]


def _subscribe_hyperliquid(exchange: Exchange, symbols: Collection[str]) -> tuple[str, list[asyncio.Future[Any]]]:
    url = exchange.urls["api"]["ws"]["public"]
    futures = []
    for coin in symbols:
        request = {"method": "subscribe", "subscription": {"type": "candle", "coin": coin, "interval": "1m"}}
        futures.append(exchange.watch(url, f"candle:{coin}", request, f"candle:{coin}"))
    return url, futures


def _read_binance(message: Mapping[str, Any]) -> Candle | None:
    """Read a kline event; None when it is not one of a minute that can be read."""
    kline = message.get("k")
    if not isinstance(kline, dict) or kline.get("i") != "1m" or not isinstance(kline.get("x"), bool):
        return None
    return _candle(kline.get("s"), kline, "q", is_closed=kline["x"])


def _read_hyperliquid(message: Mapping[str, Any]) -> Candle | None:
    """Read a candle message; its volume is base currency, and it never says whether it is closed."""
    data = message.get("data")
    if not isinstance(data, dict) or data.get("i") != "1m":
        return None
    return _candle(data.get("s"), data, None, is_closed=None)


def _candle(symbol: object, fields: Mapping[str, Any], quote_volume: str | None, *, is_closed: bool | None) -> Candle | None:
    try:
        opened_ms, trades = int(fields["t"]), int(fields["n"])
        open_, high, low, close = (float(fields[name]) for name in "ohlc")
        volume = float(fields["v"]) * close if quote_volume is None else float(fields[quote_volume])
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(symbol, str) or opened_ms % 60_000 or not all(isfinite(each) for each in (open_, high, low, close, volume)):
        return None
    return Candle(symbol, opened_ms // 1000, open_, high, low, close, volume, trades, is_closed)


_DIALECTS: Final = {
    "binance": _Dialect(_subscribe_binance, _read_binance),
    "binanceusdm": _Dialect(_subscribe_binance, _read_binance),
    "hyperliquid": _Dialect(_subscribe_hyperliquid, _read_hyperliquid),
}
