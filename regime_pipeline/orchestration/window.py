"""Which bars a run is about: the days of its partitions, or for a live run all bars up to the one it was started for."""

from datetime import UTC, datetime

import dagster as dg

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.policies import BAR_TAG
from regime_pipeline.services.window import Window


def window_of(context: dg.AssetExecutionContext, timeframe: Timeframe, now_s: int) -> Window:
    """Tell the bars that a run is about.

    A backfill covers all its days in one run, clipped to what has closed. A live run begins, per series, at the newest stored bar:
    it heals what earlier runs missed, and one that comes too late finds everything stored by a newer one and does nothing.
    """
    days = context.partition_time_window
    bar = context.run.tags.get(BAR_TAG)
    return build_window(timeframe, int(days.start.timestamp()), int(days.end.timestamp()), bar, now_s)


def build_window(timeframe: Timeframe, start_s: int, end_s: int, live_bar: str | None, now_s: int) -> Window:
    """Clip days to closed bars; with `live_bar` (ISO 8601, its open) the window is live and ends with that bar.

    Raises
    ------
    BadInputError
        When `live_bar` is not a time with a zone, or not the open of a bar.
    """
    closed_s = timeframe.last_closed(now_s) + timeframe.seconds
    if live_bar is None:
        return Window(start_s, max(start_s, min(end_s, closed_s)))
    bar_s = read_bar(timeframe, live_bar)
    return Window(min(start_s, bar_s), bar_s + timeframe.seconds, live=True)


def read_bar(timeframe: Timeframe, text: str) -> int:
    """Read the open of a bar, epoch seconds, from a run tag."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise BadInputError(f"run tag {BAR_TAG} was {text!r}; it must be a time with its zone, as 2025-01-01T00:00:00+00:00.")
    bar_s = int(at.timestamp())
    if not timeframe.is_aligned(bar_s):
        raise BadInputError(f"run tag {BAR_TAG} was {text!r}; it must be the open of a {timeframe} bar in UTC.")
    return bar_s


def spell_bar(bar_s: int) -> str:
    """Spell the open of a bar for a run tag or a page."""
    return datetime.fromtimestamp(bar_s, UTC).isoformat()
