"""What every API here has in common: a call as it was understood, an answer as it will be sent, and windows of bars."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.simulation.truth import Listing, Truth
from regime_pipeline.simulation.wire import Api


@dataclass(frozen=True, slots=True)
class Call:
    """A request as faults see it: where to, and for what bars if any."""

    api: Api
    endpoint: str
    symbol: str | None = None
    timeframe: Timeframe | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body (text is sent as it is, anything else as JSON) and headers of its own."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def first_bars(truth: Truth, listing: Listing, timeframe: Timeframe, span_s: tuple[int, int], limit: int, now_s: float) -> RawBars:
    """Take the oldest `limit` bars with open times in [start, end), page by page over the venue's gaps."""
    listed = truth.source.time_range(listing.venue, listing.symbol, timeframe)
    if listed is None:
        return RawBars.empty()
    start_s, end_s = max(span_s[0], listed.first_s), min(span_s[1], int(now_s) + 1)
    parts: list[RawBars] = []
    while start_s < end_s and sum(map(len, parts)) < limit:
        stop_s = min(end_s, timeframe.floor(start_s) + limit * timeframe.seconds)
        parts.append(truth.seen(listing, timeframe, start_s, stop_s, now_s))
        start_s = stop_s
    return RawBars.concat(parts)[:limit]


def last_bars(truth: Truth, listing: Listing, timeframe: Timeframe, end_s: int, limit: int, now_s: float) -> RawBars:
    """Take the newest `limit` bars with open times before `end_s`."""
    listed = truth.source.time_range(listing.venue, listing.symbol, timeframe)
    if listed is None:
        return RawBars.empty()
    stop_s = min(end_s, int(now_s) + 1) if listed.last_s is None else min(end_s, int(now_s) + 1, listed.last_s + 1)
    parts: list[RawBars] = []
    while stop_s > listed.first_s and sum(map(len, parts)) < limit:
        start_s = max(listed.first_s, stop_s - limit * timeframe.seconds)
        parts.insert(0, truth.seen(listing, timeframe, start_s, stop_s, now_s))
        stop_s = start_s
    return RawBars.concat(parts)[-limit:]
