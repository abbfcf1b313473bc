"""Binance klines, spot and USD-margined perpetuals: the raw rows, because only they carry the quote volume."""

from collections.abc import Sequence
from typing import Any, Final

from regime_pipeline.adapters.venues.answers import BarRow, build_bars, read_list, read_number, read_stamp_ms, refuse, show_ms
from regime_pipeline.adapters.venues.ccxt_client import CcxtClient
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe

PAGE_BARS: Final = 1000
SPOT_FIRST_S: Final = 1_546_300_800
"""2019-01-01. Before that the venue's own klines lie off the grid for days (binance-public-data, issues 14 and 77)."""
PERPETUAL_FIRST_S: Final = 1_567_900_800
"""2019-09-08, when the first perpetual was listed."""
SPOT: Final = "binance"
PERPETUAL: Final = "binanceusdm"

_FIELDS: Final = 12
_CLOSE_TIME, _QUOTE_VOLUME = 6, 7
_MINUTE_MS: Final = 60_000


class BinanceFeed:
    """Bars of one of Binance's markets."""

    def __init__(self, client: CcxtClient) -> None:
        self._client = client

    def first_s(self, timeframe: Timeframe, now_s: int) -> int:  # noqa: ARG002 - the whole history of every timeframe is kept
        """Tell the oldest open time it could have, epoch seconds."""
        return SPOT_FIRST_S if self._client.exchange_id == SPOT else PERPETUAL_FIRST_S

    def fetch_page(self, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Fetch up to 1000 klines from `start_s` on; a shorter list than there are bars only costs another page.

        Raises
        ------
        TryAgainError, StayAwayError, SourceError
            See `parse_klines`.
        """
        limit = min(PAGE_BARS, (end_s - start_s) // timeframe.seconds)
        # the end is inclusive and compared with open times
        request = {
            "symbol": symbol,
            "interval": timeframe.value,
            "startTime": start_s * 1000,
            "endTime": end_s * 1000 - 1,
            "limit": limit,
        }
        is_spot = self._client.exchange_id == SPOT
        answer = self._client.ask(lambda venue: (venue.publicGetKlines if is_spot else venue.fapiPublicGetKlines)(request))
        what = f"klines of {symbol} {timeframe}"
        rows = read_list(self._client.venue, what, answer)
        return parse_klines(self._client.venue, what, rows, timeframe, start_s, end_s, limit)


def parse_klines(
    venue: str, what: str, rows: Sequence[Any], timeframe: Timeframe, start_s: int, end_s: int, limit: int = PAGE_BARS
) -> RawBars:
    """Turn kline rows into bars, or refuse all of them.

    A row repeated in every field is dropped: it says nothing that the one before it does not. A bar that the venue cut short because it
    halted trading (its close time is not a whole minute's end, as on 2023-03-24) is the venue's last word on that bar and is kept.

    Raises
    ------
    TryAgainError
        When the rows are not 12 fields each, hold nulls or other non-numbers, lie off the grid or outside [start_s, end_s), do not
        ascend, are of another interval, or are more than `limit`.
    """
    kept = [row for at, row in enumerate(rows) if at == 0 or row != rows[at - 1]]
    try:
        columns = [_read_row(row, timeframe) for row in kept]
    except ValueError as error:
        refuse(venue, what, f"had {error}")
    return build_bars(venue, what, columns, timeframe, start_s, end_s, limit)


def _read_row(row: object, timeframe: Timeframe) -> BarRow:
    if not isinstance(row, list) or len(row) < _FIELDS:
        raise ValueError(f"a row that was not {_FIELDS} fields: {str(row)[:80]}")
    ts_ms, end_ms = read_stamp_ms(row[0]), read_stamp_ms(row[_CLOSE_TIME]) + 1
    lasts_ms, length_ms = end_ms - ts_ms, timeframe.seconds * 1000
    is_halted = 0 < lasts_ms < length_ms and end_ms % _MINUTE_MS != 0
    if lasts_ms != length_ms and not is_halted:
        raise ValueError(f"a bar at {show_ms(ts_ms)} that lasts {lasts_ms / 1000:g} s where {timeframe} was asked for")
    open_, high, low, close = (read_number(field) for field in row[1:5])
    return ts_ms, open_, high, low, close, read_number(row[_QUOTE_VOLUME])
