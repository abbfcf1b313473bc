"""Where market data comes from: recorded, generated or live."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.buckets import CapObservation
from regime_pipeline.market.candles import Candle
from regime_pipeline.market.dominance import DominanceSample
from regime_pipeline.market.timeframe import Timeframe


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Open times of the first and the last bar a source can give, epoch seconds; `last_s` None: up to now.

    A venue does not say since when it lists a market: with `is_exact` False nothing before its first bar is missing.
    """

    first_s: int
    last_s: int | None
    is_exact: bool = True


class BarSource(Protocol):
    """Where market data comes from: recorded, generated or live. Answers are raw: nobody has checked them yet.

    Every method may raise `SourceUnavailableError` (try again) or `SourceError` (do not): an unreadable source is not an empty one.
    """

    @property
    def name(self) -> str:
        """Name for the `source` column and for messages."""
        ...

    def venues(self) -> Collection[str]:
        """List the venues it can answer for; a symbol of another venue is passed over, in the universe's order of priority."""
        ...

    def time_range(self, venue: str, symbol: str, timeframe: Timeframe) -> TimeRange | None:
        """Tell what span it can give without fetching it; None when it has no such series (a vendor without that timeframe included)."""
        ...

    def fetch_bars(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Fetch bars with open times in [start_s, end_s), volume in QUOTE currency; empty when the vendor says there are none."""
        ...

    def dominance_range(self, driver: str, timeframe: Timeframe) -> TimeRange | None:
        """Tell what span of ready-made dominance bars it can give; None when it has none and only samples (see `DominanceSampler`)."""
        ...

    def fetch_dominance(self, driver: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Fetch ready-made bars of `BTC.d` or `USDT.d` with open times in [start_s, end_s); percent as price, volume 0."""
        ...

    def fetch_market_caps(self, start_s: int, end_s: int) -> Mapping[str, Sequence[CapObservation]]:
        """Fetch the market caps that became known in [start_s, end_s), by contract, ascending."""
        ...


@runtime_checkable
class DominanceSampler(Protocol):
    """A vendor that only says what dominance is now; one request serves both drivers."""

    def fetch_samples(self) -> Mapping[str, DominanceSample]:
        """Ask once, by driver; a driver the answer does not hold is absent."""
        ...


class CandleStream(Protocol):
    """One venue's 1m candles as they form."""

    @property
    def venue(self) -> str:
        """Name of the venue in the universe file."""
        ...

    @property
    def symbols(self) -> Collection[str]:
        """Symbols it listens to, as the venue spells them."""
        ...

    async def listen(self, on_candle: Callable[[Candle], None]) -> None:
        """Connect once, subscribe, and pass on every candle until the connection ends; cancelling it closes the connection.

        Raises
        ------
        SourceUnavailableError
            When the connection could not be made, or ended. Connect again, after a while.
        VenueHaltedError
            When the venue told us to stay away.
        """
        ...
