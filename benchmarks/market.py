"""Real minutes for as many series as asked: each series replays one of four recorded perpetuals, shifted in time."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from regime_pipeline.adapters.venues.recorded import RecordedMarket
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.buckets import CapObservation
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Source, Token, Universe
from regime_pipeline.ports import TimeRange

PERPETUALS: Final = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT")
BUCKETS: Final = ("nano", "small", "mid", "big")
VENUE: Final = "binance_um"
SHIFT_BARS: Final = 997
DAY_S: Final = 86_400


class ShiftedMarket:
    """A `BarSource` of minutes only, from 2025-05-05 on for 50 days."""

    name = "recorded"

    def __init__(self, shared: Path) -> None:
        recorded = RecordedMarket(shared / "market")
        self._bars = [recorded.fetch_bars(VENUE, symbol, Timeframe.M1, 0, 2**40) for symbol in PERPETUALS]
        self.start_s, self.end_s = int(self._bars[0].ts_s[0]), int(self._bars[0].ts_s[-1]) + 60

    def venues(self) -> Collection[str]:
        """List the one venue."""
        return [VENUE]

    def time_range(self, venue: str, symbol: str, timeframe: Timeframe) -> TimeRange | None:  # noqa: ARG002
        """Tell the span: that of the recording."""
        return TimeRange(self.start_s, self.end_s - 60) if timeframe is Timeframe.M1 else None

    def fetch_bars(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:  # noqa: ARG002
        """Cut a series' span out; one that is not recorded is a shifted copy."""
        if timeframe is not Timeframe.M1:
            return RawBars.empty()
        number = PERPETUALS.index(symbol) if symbol in PERPETUALS else 4 + sum(symbol.encode()) * 31 % 4096
        bars = self._bars[number % 4]
        first, last = ((np.clip(ts_s, self.start_s, self.end_s) - self.start_s) // 60 for ts_s in (start_s, end_s))
        minutes = np.arange(first, last)
        return replace(bars[(minutes + SHIFT_BARS * (number // 4)) % len(bars)], ts_s=self.start_s + 60 * minutes)

    def dominance_range(self, driver: str, timeframe: Timeframe) -> TimeRange | None:
        """Tell the span of dominances."""
        return self.time_range("", driver, timeframe)

    def fetch_dominance(self, driver: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Take a price's shape for a dominance."""
        bars = self.fetch_bars("", driver, timeframe, start_s, end_s)
        top = max(float(each.high.max()) for each in self._bars)
        prices = {name: 90.0 * getattr(bars, name) / top for name in ("open", "high", "low", "close")}
        return replace(bars, volume=np.zeros(len(bars)), **prices)

    def fetch_market_caps(self, start_s: int, end_s: int) -> Mapping[str, Sequence[CapObservation]]:  # noqa: ARG002
        """Give none: tokens keep the bucket of the universe."""
        return {}


def make_universe(base: Universe, n_tokens: int) -> Universe:
    """All drivers and the recorded majors, and tokens that trade on 1m, spread over the buckets."""
    majors = tuple(
        major.model_copy(update={"sources": tuple(source for source in major.sources if source.venue == VENUE)}) for major in base.majors
    )
    tokens = tuple(
        Token(
            contract=f"T{i:04}",
            chain="bench",
            bucket=BUCKETS[i % 4],
            timeframes=(Timeframe.M1,),
            sources=(Source(venue=VENUE, symbol=f"T{i:04}"),),
            coingecko_id=None,
        )
        for i in range(n_tokens)
    )
    return base.model_copy(update={"majors": majors, "tokens": tokens})
