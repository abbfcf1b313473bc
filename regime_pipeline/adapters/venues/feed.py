"""What the market asks of a venue's client: one page of bars at a time."""

from typing import Protocol

from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe


class BarFeed(Protocol):
    """Bars of one venue. A page is one request; who repeats it, and how often, is the caller's business."""

    def first_s(self, timeframe: Timeframe, now_s: int) -> int:
        """Tell the oldest open time it could have of any market, epoch seconds, without asking."""
        ...

    def fetch_page(self, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Fetch the oldest bars with open times in [start_s, end_s), volume in quote currency; empty when there are none.

        Raises
        ------
        TryAgainError, StayAwayError, SourceError
            Nothing is believed of an answer that is wrong as a whole.
        """
        ...
