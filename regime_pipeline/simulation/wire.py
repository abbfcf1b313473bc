"""Bars on the wire: one neutral row, and how each venue spells it.

Numbers are the shortest text that gives the same float64 back, padded to the venue's usual decimals, so that nothing is lost on the way.
Base volume is quote volume / close: a client that multiplies it by the close again is off by at most a rounding or two of float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np

from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe

# Trades are not modelled; a bar with volume had at least one.
USD_PER_TRADE: Final = 2_000.0


class Api(StrEnum):
    """What the server speaks; the value is the first part of the path."""

    SPOT = "binance"
    USDM = "binance-um"
    HYPERLIQUID = "hyperliquid"
    COINGECKO = "coingecko"


EXCHANGES: Final = {"binance": Api.SPOT, "binanceusdm": Api.USDM, "hyperliquid": Api.HYPERLIQUID}
"""ccxt's id of an exchange -> the API that stands for it."""

# Decimals at least: of prices, of volumes.
_DECIMALS: Final = {Api.SPOT: (8, 8), Api.USDM: (2, 3), Api.HYPERLIQUID: (1, 1)}


@dataclass(frozen=True, slots=True)
class WireBar:
    """One row as a venue means it; a fault may make any value another one, or None (JSON null)."""

    symbol: str
    timeframe: Timeframe
    open_ms: int | None
    close_ms: int | None
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    base: float | None
    quote: float | None
    n_trades: int

    @property
    def ts_s(self) -> int:
        """Open time in epoch seconds; 0 for a row that has lost it."""
        return (self.open_ms or 0) // 1000


def wire_bars(symbol: str, timeframe: Timeframe, raw: RawBars) -> list[WireBar]:
    """Turn bars into rows."""
    length_ms = 1000 * timeframe.seconds
    columns = (raw.ts_s, raw.open, raw.high, raw.low, raw.close, raw.volume / raw.close, raw.volume)
    return [
        WireBar(symbol, timeframe, 1000 * ts, 1000 * ts + length_ms - 1, o, h, lo, c, base, quote, int(np.ceil(quote / USD_PER_TRADE)))
        for ts, o, h, lo, c, base, quote in zip(*(column.tolist() for column in columns), strict=True)
    ]


def spell(value: float | None, decimals: int) -> str | None:
    """Spell a number without exponent, exactly, with at least that many decimals."""
    if value is None:
        return None
    text = repr(float(value))
    if "e" in text or "n" in text:
        text = np.format_float_positional(value, unique=True, trim="0")
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction.ljust(decimals, '0')}"


def binance_row(api: Api, bar: WireBar) -> list[Any]:
    """Spell a row of /klines: 12 fields, the last one unused; the taker's part is half."""
    price, volume = _DECIMALS[api]
    half = (None if bar.base is None else bar.base / 2, None if bar.quote is None else bar.quote / 2)
    return [
        bar.open_ms,
        *(spell(value, price) for value in (bar.open, bar.high, bar.low, bar.close)),
        spell(bar.base, volume),
        bar.close_ms,
        spell(bar.quote, volume),
        bar.n_trades,
        *(spell(value, volume) for value in half),
        "0",
    ]


def binance_event(api: Api, bar: WireBar, now_ms: int, *, is_closed: bool) -> dict[str, Any]:
    """Spell an event of the stream <symbol>@kline_<interval>."""
    open_ms, o, h, lo, c, base, close_ms, quote, n, taker_base, taker_quote, _ = binance_row(api, bar)
    kline = {"t": open_ms, "T": close_ms, "s": bar.symbol, "i": bar.timeframe.value, "f": 0, "L": n, "o": o, "c": c, "h": h, "l": lo}
    kline |= {"v": base, "n": n, "x": is_closed, "q": quote, "V": taker_base, "Q": taker_quote, "B": "0"}
    return {"e": "kline", "E": now_ms, "s": bar.symbol, "k": kline}


def hyperliquid_row(bar: WireBar) -> dict[str, Any]:
    """Spell a candle of Hyperliquid, in an answer and in its stream."""
    price, volume = _DECIMALS[Api.HYPERLIQUID]
    return {
        "t": bar.open_ms,
        "T": bar.close_ms,
        "s": bar.symbol,
        "i": bar.timeframe.value,
        "o": spell(bar.open, price),
        "c": spell(bar.close, price),
        "h": spell(bar.high, price),
        "l": spell(bar.low, price),
        "v": spell(bar.base, volume),
        "n": bar.n_trades,
    }


Damage = Callable[[Sequence[WireBar]], Sequence[WireBar]]
"""What a fault does to the rows of one answer."""


def undamaged(rows: Sequence[WireBar]) -> Sequence[WireBar]:
    """Leave an answer as it is."""
    return rows
