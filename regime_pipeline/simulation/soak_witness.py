"""A market that passes on what another says, and remembers of it what no table keeps."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from regime_pipeline.adapters.venues.live import LiveMarket
from regime_pipeline.market.bars import BoolArray, RawBars
from regime_pipeline.market.buckets import CapObservation
from regime_pipeline.market.dominance import DominanceSample
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import TimeRange
from regime_pipeline.simulation.truth import Truth

FAR: Final = float(np.log(2.0))
"""A price at twice or half of what it was is a lie; nothing that the venue says of a bar before it is final is so far off."""
_PRICES: Final = ("open", "high", "low", "close")


class Lie(NamedTuple):
    """A bar that a venue answered with a price far from the truth."""

    series: str
    timeframe: Timeframe
    ts_s: int
    venue: str


class Witness:
    """A `BarSource` and `DominanceSampler` around the live market; `lies` are the outliers it handed over, `caps` its market caps."""

    def __init__(self, market: LiveMarket, truth: Truth, universe: Universe) -> None:
        self._market, self._truth = market, truth
        self._series = {(source.venue, source.symbol): each.series for each in universe.instruments() for source in each.sources}
        self.lies: set[Lie] = set()
        self.caps: dict[str, list[CapObservation]] = {}

    @property
    def name(self) -> str:
        """Name for the `source` column."""
        return self._market.name

    def patient(self) -> "Witness":
        """Give the same witness of the market that repeats failed reads for minutes."""
        other = object.__new__(Witness)
        other.__dict__ = {**self.__dict__, "_market": self._market.patient()}
        return other

    def venues(self) -> Collection[str]:
        """List the venues that may be asked now."""
        return self._market.venues()

    def time_range(self, venue: str, symbol: str, timeframe: Timeframe) -> TimeRange | None:
        """Tell since when a venue could have bars."""
        return self._market.time_range(venue, symbol, timeframe)

    def fetch_bars(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Fetch bars, and note those that lie."""
        raw = self._market.fetch_bars(venue, symbol, timeframe, start_s, end_s)
        true = self._truth.bars(venue, symbol, timeframe, start_s, end_s)
        series = self._series[venue, symbol]
        self.lies |= {Lie(series, timeframe, ts_s, venue) for ts_s in raw.ts_s[is_far_off(raw, true)].tolist()}
        return raw

    def dominance_range(self, driver: str, timeframe: Timeframe) -> TimeRange | None:
        """Tell what ready-made dominance bars there are."""
        return self._market.dominance_range(driver, timeframe)

    def fetch_dominance(self, driver: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Fetch ready-made dominance bars."""
        return self._market.fetch_dominance(driver, timeframe, start_s, end_s)

    def fetch_samples(self) -> Mapping[str, DominanceSample]:
        """Ask what dominance is now."""
        return self._market.fetch_samples()

    def fetch_market_caps(self, start_s: int, end_s: int) -> Mapping[str, Sequence[CapObservation]]:
        """Fetch market caps, and keep them."""
        caps = self._market.fetch_market_caps(start_s, end_s)
        for contract, observations in caps.items():
            self.caps.setdefault(contract, []).extend(observations)
        return caps


def is_far_off(bars: RawBars, true: RawBars) -> BoolArray:
    """Tell which bars have a price far from that of the true bar of their time; one without a true bar has none.

    Parameters
    ----------
    bars : RawBars
        n bars in any order, NaN prices allowed.
    true : RawBars
        Ascending.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    far = np.zeros(len(bars), dtype=np.bool_)
    has = np.flatnonzero(np.isin(bars.ts_s, true.ts_s))
    at = np.searchsorted(true.ts_s, bars.ts_s[has])
    with np.errstate(divide="ignore", invalid="ignore"):
        for name in _PRICES:
            far[has] |= np.abs(np.log(getattr(bars, name)[has] / getattr(true, name)[at])) >= FAR
    return far
