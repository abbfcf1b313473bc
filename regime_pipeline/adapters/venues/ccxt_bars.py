"""Bars of any other venue that ccxt knows, through its unified `fetch_ohlcv`: base volume, and whatever page the venue gives."""

from collections.abc import Sequence
from typing import Any, Final

from regime_pipeline.adapters.venues.answers import BarRow, build_bars, read_number, read_stamp_ms, refuse
from regime_pipeline.adapters.venues.ccxt_client import CcxtClient
from regime_pipeline.errors import SourceError
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe

PAGE_BARS: Final = 1000
FIRST_S: Final = 1_483_228_800
"""2017-01-01: older than any market that is worth watching."""
_FIELDS: Final = 6


class CcxtFeed:
    """Bars of a venue by its ccxt id."""

    def __init__(self, client: CcxtClient) -> None:
        self._client = client

    def first_s(self, timeframe: Timeframe, now_s: int) -> int:  # noqa: ARG002 - ccxt cannot tell
        """Tell an open time before which there is surely nothing, epoch seconds."""
        return FIRST_S

    def fetch_page(self, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Fetch bars from `start_s` on; base volume becomes quote volume by each bar's close.

        The symbol is spelt as the venue or as ccxt does. A timeframe that the venue lacks has no bars. A venue that ignores where to
        start gives its newest bars instead: those that were asked for are kept, since not every venue can be told where to end either.
        A row without a time is left out by ccxt itself: it becomes a gap, and is asked for again as one.

        Raises
        ------
        TryAgainError, StayAwayError, SourceError
            SourceError for a contract of another size than one unit, whose volume ccxt does not define.
        """
        client = self._client
        client.ask_unified("load_markets", lambda venue: venue.load_markets())
        if timeframe.value not in (client.exchange.timeframes or {}):
            return RawBars.empty()
        market = client.ask_unified("market", lambda venue: venue.market(symbol))
        if market.get("contract") and (market.get("inverse") or market.get("contractSize") != 1):
            raise SourceError(
                f"{client.venue}: a contract of {symbol} is not one unit, so its volume may be in contracts. Use a spot or 1:1 market."
            )
        limit = min(PAGE_BARS, (end_s - start_s) // timeframe.seconds)
        what = f"fetch_ohlcv of {symbol} {timeframe}"
        rows = client.ask_unified(what, lambda venue: venue.fetch_ohlcv(market["symbol"], timeframe.value, start_s * 1000, limit))
        return parse_ohlcv(client.venue, what, rows, timeframe, start_s, end_s)


def parse_ohlcv(venue: str, what: str, rows: Sequence[Any], timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
    """Turn ccxt's rows into bars, or refuse all of them; rows outside [start_s, end_s) are left out.

    Raises
    ------
    TryAgainError
        When rows are not six numbers, lie off the grid or do not ascend.
    """
    try:
        columns = [_read_row(row) for row in rows]
    except ValueError as error:
        refuse(venue, what, f"had {error}")
    columns = [column for column in columns if start_s * 1000 <= column[0] < end_s * 1000]
    return build_bars(venue, what, columns, timeframe, start_s, end_s, max(len(columns), 1))


def _read_row(row: object) -> BarRow:
    if not isinstance(row, list) or len(row) < _FIELDS:
        raise ValueError(f"a row that was not {_FIELDS} numbers: {str(row)[:80]}")
    open_, high, low, close, base = (read_number(field) for field in row[1:_FIELDS])
    return read_stamp_ms(row[0]), open_, high, low, close, base * close
