"""Ask each venue one small question before a long run relies on it."""

from collections.abc import Mapping

from regime_pipeline.errors import SourceError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarSource


def probe_venues(source: BarSource, universe: Universe, now_s: int) -> Mapping[str, str | None]:
    """Ask each venue that can have live bars for the newest closed hour of the first symbol that the universe names there.

    Returns
    -------
    mapping of venue to str or None
        Why it could not be read, with its name; None where it could.
    """
    symbols: dict[str, str] = {}
    for instrument in universe.instruments():
        for each in instrument.sources:
            symbols.setdefault(each.venue, each.symbol)
    wanted = [name for name, venue in universe.venues.items() if venue.exchange is not None and name in symbols]
    return {name: _probe(source, name, symbols[name], now_s) for name in wanted}


def _probe(source: BarSource, venue: str, symbol: str, now_s: int) -> str | None:
    end_s = Timeframe.H1.floor(now_s)
    try:
        bars = source.fetch_bars(venue, symbol, Timeframe.H1, end_s - Timeframe.H1.seconds, end_s)
    except SourceError as error:
        return str(error)
    return None if len(bars) else f"{venue} has no newest hour of {symbol}"
