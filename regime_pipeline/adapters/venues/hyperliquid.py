"""Hyperliquid candles: objects in base volume, of which the venue keeps the newest 5000."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from regime_pipeline.adapters.venues.answers import BarRow, build_bars, read_list, read_number, read_object, read_stamp_ms, refuse, show_ms
from regime_pipeline.adapters.venues.ccxt_client import CcxtClient
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe

KEPT_BARS: Final = 5000
EXCHANGE: Final = "hyperliquid"


class HyperliquidFeed:
    """Bars, mids and markets of Hyperliquid."""

    def __init__(self, client: CcxtClient) -> None:
        self._client = client

    def first_s(self, timeframe: Timeframe, now_s: int) -> int:
        """Tell the oldest open time that the venue still keeps, epoch seconds."""
        return timeframe.floor(now_s) - (KEPT_BARS - 1) * timeframe.seconds

    def fetch_page(self, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Fetch candles from `start_s` on; base volume becomes quote volume by each bar's close.

        Raises
        ------
        TryAgainError, StayAwayError, SourceError
            See `parse_candles`.
        """
        wanted = {"coin": symbol, "interval": timeframe.value, "startTime": start_s * 1000, "endTime": end_s * 1000 - 1}
        what = f"candleSnapshot of {symbol} {timeframe}"
        answer = self._client.ask(lambda venue: venue.publicPostInfo({"type": "candleSnapshot", "req": wanted}))
        rows = read_list(self._client.venue, what, answer)
        return parse_candles(self._client.venue, what, rows, symbol, timeframe, start_s, end_s)

    def fetch_mids(self) -> dict[str, float]:
        """Fetch the present mid price of every market, by symbol."""
        what = "allMids"
        answer = self._client.ask(lambda venue: venue.publicPostInfo({"type": what}))
        return parse_mids(self._client.venue, read_object(self._client.venue, what, answer))

    def fetch_symbols(self) -> frozenset[str]:
        """Fetch the symbols that are listed and may still be traded."""
        what = "meta"
        answer = self._client.ask(lambda venue: venue.publicPostInfo({"type": what}))
        return parse_symbols(self._client.venue, read_object(self._client.venue, what, answer))


def parse_candles(
    venue: str, what: str, rows: Sequence[Any], symbol: str, timeframe: Timeframe, start_s: int, end_s: int, limit: int = KEPT_BARS
) -> RawBars:
    """Turn candle objects into bars, or refuse all of them; an object repeated in every field is dropped.

    Raises
    ------
    TryAgainError
        When a row is of another coin or interval, lasts another time, holds nulls or other non-numbers, or lies off the grid or outside
        [start_s, end_s), or when the rows do not ascend or are more than `limit`.
    """
    kept = [row for at, row in enumerate(rows) if at == 0 or row != rows[at - 1]]
    try:
        columns = [_read_candle(row, symbol, timeframe) for row in kept]
    except ValueError as error:
        refuse(venue, what, f"had {error}")
    except (KeyError, TypeError) as error:
        refuse(venue, what, f"had a row that is no candle ({type(error).__name__} {error})")
    return build_bars(venue, what, columns, timeframe, start_s, end_s, limit)


def _read_candle(row: Mapping[str, Any], symbol: str, timeframe: Timeframe) -> BarRow:
    """Read one candle object, of REST or of the stream: open time in ms, open, high, low, close, quote volume.

    Raises
    ------
    ValueError, KeyError, TypeError
        When it is not a candle of this symbol and timeframe.
    """
    if (row["s"], row["i"]) != (symbol, timeframe.value):
        raise ValueError(f"a candle of {row['s']} {row['i']} where {symbol} {timeframe} was asked for")
    ts_ms, end_ms = read_stamp_ms(row["t"]), read_stamp_ms(row["T"]) + 1
    if end_ms - ts_ms != timeframe.seconds * 1000:
        raise ValueError(f"a bar at {show_ms(ts_ms)} that lasts {(end_ms - ts_ms) / 1000:g} s where {timeframe} was asked for")
    open_, high, low, close, base = (read_number(row[name]) for name in "ohlcv")
    return ts_ms, open_, high, low, close, base * close


def parse_mids(venue: str, mids: Mapping[str, Any]) -> dict[str, float]:
    """Read mid prices by symbol, or refuse all of them."""
    try:
        prices = {symbol: read_number(price) for symbol, price in mids.items()}
    except ValueError as error:
        refuse(venue, "allMids", f"had {error}")
    if not prices or min(prices.values()) <= 0:
        refuse(venue, "allMids", "had no prices, or one that is not above 0")
    return prices


def parse_symbols(venue: str, meta: Mapping[str, Any]) -> frozenset[str]:
    """Read the symbols of `meta` that are not delisted, or refuse the answer."""
    try:
        return frozenset(str(market["name"]) for market in meta["universe"] if not market.get("isDelisted", False))
    except (KeyError, TypeError, AttributeError) as error:
        refuse(venue, "meta", f"was no list of markets ({type(error).__name__} {error})")
