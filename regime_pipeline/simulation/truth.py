"""What the simulated venues know: the bars of a `BarSource` as they look at an instant, and as they will have looked for ever."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

import numpy as np

from regime_pipeline.market.bars import Bars, BoolArray, IntArray, RawBars
from regime_pipeline.market.rollup import roll_up
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Instrument, Universe
from regime_pipeline.ports import BarSource
from regime_pipeline.simulation.wire import EXCHANGES, Api

# Sources make or read whole days at a time; kept, because an open day is rolled up from its minutes in every answer.
_BLOCK_S: Final = {
    Timeframe.M1: 86_400,
    Timeframe.M5: 86_400,
    Timeframe.M15: 86_400,
    Timeframe.H1: 32 * 86_400,
    Timeframe.H4: 32 * 86_400,
    Timeframe.D1: 512 * 86_400,
}


@dataclass(frozen=True, slots=True)
class Listing:
    """A symbol that a venue lists, and the instrument it belongs to."""

    api: Api
    venue: str
    symbol: str
    contract: str


class BarFacts(Protocol):
    """What is wrong with single bars of a venue, for whoever asks."""

    def is_gap(self, listing: Listing, timeframe: Timeframe, ts_s: IntArray) -> BoolArray:
        """Tell which bars the venue never has."""
        ...

    def show(self, listing: Listing, timeframe: Timeframe, closed: RawBars, now_s: float) -> RawBars:
        """Give closed bars as the venue shows them at an instant: its gaps are missing, some come late, some are revised later."""
        ...


class Truth:
    """The exact bars that a correct client must end with."""

    def __init__(self, source: BarSource, universe: Universe, facts: BarFacts) -> None:
        """List what the venues of the universe list; a venue without an exchange that we speak has nothing."""
        self.source, self._facts = source, facts
        self._listings: dict[Api, dict[str, Listing]] = {api: {} for api in Api}
        for instrument in universe.instruments():
            for listing in _listings_of(universe, instrument):
                if any(source.time_range(listing.venue, listing.symbol, timeframe) for timeframe in Timeframe):
                    self._listings[listing.api][listing.symbol] = listing
        self._by_name = {(each.venue, each.symbol): each for listings in self._listings.values() for each in listings.values()}
        self._block = lru_cache(maxsize=512)(self._make_block)
        self._dominance_block = lru_cache(maxsize=64)(self._make_dominance_block)

    def listings(self, api: Api) -> Mapping[str, Listing]:
        """List what an API serves, by symbol."""
        return self._listings[api]

    def all_listings(self) -> list[Listing]:
        """List everything that is served."""
        return list(self._by_name.values())

    def bars(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Give the final bars with open times in [start, end), as a client must have them in the end.

        The venue's own gaps are left out. Volume is in quote currency, as the client can know it: Binance sends it, from Hyperliquid
        it is base volume * close, in float64.
        """
        listing = self._by_name.get((venue, symbol))
        if listing is None:
            return RawBars.empty()
        bars = self._source_bars(listing, timeframe, start_s, end_s)
        bars = bars[~self._facts.is_gap(listing, timeframe, bars.ts_s)]
        volume = bars.volume / bars.close * bars.close if listing.api is Api.HYPERLIQUID else bars.volume
        return RawBars(bars.ts_s, bars.open, bars.high, bars.low, bars.close, volume)

    def series_bars(self, instrument: Instrument, timeframe: Timeframe, start_s: int, end_s: int) -> tuple[RawBars, list[str]]:
        """Give the bars of an instrument over its sources: the first that has a bar gives it.

        Returns
        -------
        RawBars
            Ascending by `ts_s`.
        list of str
            The venue of each row.
        """
        found: dict[int, tuple[RawBars, int, str]] = {}
        for source in instrument.sources:
            bars = self.bars(source.venue, source.symbol, timeframe, start_s, end_s)
            for row, ts_s in enumerate(bars.ts_s.tolist()):
                found.setdefault(ts_s, (bars, row, source.venue))
        chosen = [found[ts_s] for ts_s in sorted(found)]
        return RawBars.concat([bars[row : row + 1] for bars, row, _ in chosen]), [venue for _, _, venue in chosen]

    def gaps(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> list[int]:
        """List the open times of bars that the venue itself never has, in [start, end)."""
        listing = self._by_name[venue, symbol]
        ts_s = self._source_bars(listing, timeframe, start_s, end_s).ts_s
        missing: list[int] = ts_s[self._facts.is_gap(listing, timeframe, ts_s)].tolist()
        return missing

    def seen(self, listing: Listing, timeframe: Timeframe, start_s: int, end_s: int, now_s: float) -> RawBars:
        """Give the bars of [start, end) as the venue shows them at an instant, the one still open last."""
        bars = self._source_bars(listing, timeframe, start_s, min(end_s, int(now_s) + 1))
        is_closed = bars.ts_s + timeframe.seconds <= now_s
        shown = self._facts.show(listing, timeframe, bars[is_closed], now_s)
        present = bars[~is_closed]
        present = present[~self._facts.is_gap(listing, timeframe, present.ts_s)]
        return RawBars.concat([shown, self._open_bar(listing, timeframe, present, now_s)])

    def price(self, listing: Listing, at_s: float) -> float | None:
        """Give the price at an instant, on the line from the open to the close of its shortest bar; None when there is no bar."""
        for timeframe in Timeframe:
            ts_s = timeframe.floor(int(at_s))
            bars = self._source_bars(listing, timeframe, ts_s, ts_s + 1)
            if len(bars):
                return float(_partial(bars, timeframe, at_s).close[0])
        return None

    def listing_of(self, contract: str) -> Listing | None:
        """Find the first listing of an instrument."""
        return next((each for each in self._by_name.values() if each.contract == contract), None)

    def dominance(self, driver: str, at_s: float) -> float | None:
        """Give the percent at an instant, on the line from the open to the close of its shortest bar; None when there is none."""
        timeframe = next((each for each in Timeframe if self.source.dominance_range(driver, each)), None)
        if timeframe is None:
            return None
        ts_s = timeframe.floor(int(at_s))
        bars = _window(self._dominance_block(driver, timeframe, ts_s // _BLOCK_S[timeframe]), ts_s, ts_s + 1)
        return float(_partial(bars, timeframe, at_s).close[0]) if len(bars) else None

    def _open_bar(self, listing: Listing, timeframe: Timeframe, whole: RawBars, now_s: float) -> RawBars:
        """Build the bar of this moment from its minutes; without minutes, and within one, along the line to its end."""
        if not len(whole) or timeframe is Timeframe.M1:
            return _partial(whole, timeframe, now_s)
        minutes = self._source_bars(listing, Timeframe.M1, int(whole.ts_s[0]), int(now_s) + 1)
        if not len(minutes):
            return _partial(whole, timeframe, now_s)
        is_closed = minutes.ts_s + Timeframe.M1.seconds <= now_s
        so_far = RawBars.concat([minutes[is_closed], _partial(minutes[~is_closed][:1], Timeframe.M1, now_s)])
        rolled = roll_up(Bars.complete(so_far, Timeframe.M1), Timeframe.M1, timeframe)
        return RawBars(rolled.ts_s, rolled.open, rolled.high, rolled.low, rolled.close, rolled.volume)

    def _source_bars(self, listing: Listing, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        first, last = max(start_s, 0), max(end_s, start_s, 0)
        length_s = _BLOCK_S[timeframe]
        blocks = range(first // length_s, -(-last // length_s))
        parts = [self._block(listing.venue, listing.symbol, timeframe, block) for block in blocks]
        return _window(RawBars.concat(parts), first, last)

    def _make_block(self, venue: str, symbol: str, timeframe: Timeframe, block: int) -> RawBars:
        if self.source.time_range(venue, symbol, timeframe) is None:
            return RawBars.empty()
        length_s = _BLOCK_S[timeframe]
        return _tidy(self.source.fetch_bars(venue, symbol, timeframe, block * length_s, (block + 1) * length_s))

    def _make_dominance_block(self, driver: str, timeframe: Timeframe, block: int) -> RawBars:
        length_s = _BLOCK_S[timeframe]
        return _tidy(self.source.fetch_dominance(driver, timeframe, block * length_s, (block + 1) * length_s))


def _listings_of(universe: Universe, instrument: Instrument) -> Iterable[Listing]:
    for source in instrument.sources:
        api = EXCHANGES.get(universe.venues[source.venue].exchange or "")
        if api is not None:
            yield Listing(api, source.venue, source.symbol, instrument.contract)


def _tidy(raw: RawBars) -> RawBars:
    """Order recorded rows, each bar once: a venue's own archive is in order, and holds numbers."""
    raw = raw[np.isfinite(raw.open + raw.high + raw.low + raw.close + raw.volume)]
    _, first = np.unique(raw.ts_s, return_index=True)
    return raw[first]


def _partial(bar: RawBars, timeframe: Timeframe, now_s: float) -> RawBars:
    """Show one bar as it looks at an instant: open where it opens, the rest on the line to where it ends."""
    if not len(bar):
        return bar
    done = min(max((now_s - int(bar.ts_s[0])) / timeframe.seconds, 0.0), 1.0)
    high, low, close = (bar.open + (column - bar.open) * done for column in (bar.high, bar.low, bar.close))
    return RawBars(bar.ts_s, bar.open, high, low, close, bar.volume * done)


def _window(raw: RawBars, start_s: int, end_s: int) -> RawBars:
    first, last = np.searchsorted(raw.ts_s, [start_s, end_s])
    return raw[int(first) : int(last)]
