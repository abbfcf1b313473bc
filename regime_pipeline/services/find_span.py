"""Find out what span of bars a source can give."""

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarSource, TimeRange


def find_span(source: BarSource, universe: Universe, timeframe: Timeframe, now_s: int) -> tuple[int, int] | None:
    """Find the span from the first to past the last bar that any series of the universe has.

    Returns
    -------
    (int, int) or None
        Half-open, epoch seconds; ends with the newest closed bar where the source goes on for ever. None: it has no bars.
    """
    venues = set(source.venues())
    dominances = [driver.name for driver in universe.drivers if driver.kind == "dominance"]
    ranges: list[TimeRange | None] = [source.dominance_range(name, timeframe) for name in dominances]
    for instrument in universe.instruments():
        ranges += [source.time_range(each.venue, each.symbol, timeframe) for each in instrument.sources if each.venue in venues]
    found = [each for each in ranges if each is not None]
    if not found:
        return None
    newest_s = timeframe.last_closed(now_s)
    last_s = max(newest_s if each.last_s is None else min(each.last_s, newest_s) for each in found)
    return min(each.first_s for each in found), last_s + timeframe.seconds
