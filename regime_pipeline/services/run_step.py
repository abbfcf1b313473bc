"""The steps of a regime timeframe in their order: what a Dagster job runs as assets and a replay runs as a loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarSource, Stores
from regime_pipeline.services.advance_trend import Progress, TrendSummary, advance_trend
from regime_pipeline.services.batches import find_recent
from regime_pipeline.services.build_drivers import DriverSummary, build_drivers
from regime_pipeline.services.derivation import QUARTER, has_driver_bars
from regime_pipeline.services.ingest_bars import IngestSummary, ingest_bars
from regime_pipeline.services.map_regime import MapSummary, map_regime
from regime_pipeline.services.sample_dominance import sample_in_run
from regime_pipeline.services.tag_buckets import TagSummary, tag_buckets
from regime_pipeline.services.verify_bars import VERIFIED, verify_bars
from regime_pipeline.services.window import Window

JOB_TIMEFRAMES: Final = {
    Timeframe.M1: (Timeframe.M1, Timeframe.M5, Timeframe.M15),
    Timeframe.H1: (Timeframe.H1, Timeframe.H4),
    Timeframe.D1: (Timeframe.D1,),
}
"""Timeframes a job keeps up to date: its regime's own, and the execution timeframes that close with it."""


@dataclass(frozen=True, slots=True)
class StepSummary:
    """What each step of a run did, by timeframe."""

    ingest: dict[Timeframe, IngestSummary]
    tags: TagSummary | None
    drivers: DriverSummary
    trend: dict[Timeframe, TrendSummary]
    deltas: MapSummary


def timeframes_in_use(universe: Universe, timeframe: Timeframe) -> tuple[Timeframe, ...]:
    """Timeframes of a job that some series has: the regime's own and the majors' quarters always, others when a token trades on them."""
    wanted = {timeframe, QUARTER, *(each for token in universe.tokens for each in token.timeframes)}
    return tuple(each for each in JOB_TIMEFRAMES[timeframe] if each in wanted)


def driver_timeframes(timeframe: Timeframe) -> tuple[Timeframe, ...]:
    """Timeframes of a job in which drivers have bars."""
    return tuple(each for each in JOB_TIMEFRAMES[timeframe] if has_driver_bars("composite", each))


def run_timeframe(
    stores: Stores,
    source: BarSource,
    universe: Universe,
    timeframe: Timeframe,
    window: Window,
    now_s: int,
    progress: Progress | None = None,
    on_step: Callable[[str], None] | None = None,
    dominance_every_s: int = 300,
) -> StepSummary:
    """Run ingest, (daily: bucket tagging,) drivers, trend and mapper, each in transactions of its own.

    A run that dies between two of them leaves the marks of what is to do: the next run does it.
    """
    say = on_step or (lambda _: None)
    recent_s, until_s = find_recent(timeframe, window), window.end_s if window.live else now_s
    in_use = timeframes_in_use(universe, timeframe)
    ingest: dict[Timeframe, IngestSummary] = {}
    for each, n_bars in VERIFIED.get(timeframe, ()) if window.live else ():
        say(f"bars {each} once more")
        verify_bars(stores, source, universe, each, n_bars, now_s)
    for each in in_use:
        say(f"bars {each}")
        ingest[each] = ingest_bars(stores, source, universe, each, window, now_s)
    sample_in_run(stores, source, universe, timeframe, window, now_s, dominance_every_s)
    tags = None
    if timeframe is Timeframe.D1:
        say("buckets")
        with stores.open() as work:
            tags = tag_buckets(work, source, universe, window, now_s)
    built: dict[Timeframe, DriverSummary] = {}
    for each in driver_timeframes(timeframe):
        say(f"drivers {each}")
        built[each] = build_drivers(stores, universe, each, until_s, recent_s=recent_s)
    trend: dict[Timeframe, TrendSummary] = {}
    for each in in_use:
        say(f"trend {each}")
        trend[each] = advance_trend(stores, universe, each, until_s, progress=progress, recent_s=recent_s)
    say(f"deltas {timeframe}")
    deltas = map_regime(stores, timeframe, until_s, recent_s=recent_s)
    return StepSummary(ingest, tags, built[timeframe], trend, deltas)
