"""Plan a backfill of several timeframes: what a source can give of each, and in which order to take it."""

from collections.abc import Mapping

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarSource, TimeRange

Span = tuple[int, int]


def find_span(source: BarSource, universe: Universe, timeframe: Timeframe, now_s: int) -> Span | None:
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


def plan_history(spans: Mapping[Timeframe, Span]) -> list[tuple[Timeframe, Span]]:
    """Order the passes over a history so that nothing is left to derive at its end.

    Days come first: they bring the market caps that decide which tokens the minute and hour composites are made of. Then minutes
    and hours, because longer bars are rolled up from shorter ones; and once more the last day, whose run derives all days rolled up.

    Parameters
    ----------
    spans : mapping of regime timeframe to (int, int)
        Half-open, epoch seconds.
    """
    passes = [(timeframe, spans[timeframe]) for timeframe in (Timeframe.D1, Timeframe.M1, Timeframe.H1) if timeframe in spans]
    if Timeframe.D1 in spans and len(spans) > 1:
        start_s, end_s = spans[Timeframe.D1]
        passes.append((Timeframe.D1, (max(start_s, end_s - Timeframe.D1.seconds), end_s)))
    return passes
