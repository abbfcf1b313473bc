"""What follows from a changed bar: which longer bars, driver bars and engine steps must be derived again."""

from collections.abc import Mapping
from typing import Final

from regime_pipeline.market.buckets import BUCKETS
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarTable, Stage, Work

CHILD: Final = {
    Timeframe.M5: Timeframe.M1,
    Timeframe.M15: Timeframe.M1,
    Timeframe.H1: Timeframe.M1,
    Timeframe.H4: Timeframe.M1,
    Timeframe.D1: Timeframe.H1,
}
"""What each timeframe is rolled up from (specs 1.2)."""
QUARTER: Final = Timeframe.M15
"""Majors and their composites have quarter-hour bars too: the second opinions read them, the engine does not step on them."""


def driver_series(driver: str) -> str:
    """Name of a driver's series in history tables."""
    return f"regime:{driver}"


def bar_timeframes(universe: Universe, table: BarTable) -> dict[str, frozenset[Timeframe]]:
    """Timeframes in which each series of a table has bars: the regime's, for the composites, a token's own, and a major's quarters."""
    regime = frozenset(REGIME_TIMEFRAMES)
    if table is BarTable.MAJORS:
        return {major.series: regime | {QUARTER} for major in universe.majors}
    if table is BarTable.TOKENS:
        return {token.series: regime | frozenset(token.timeframes) for token in universe.tokens}
    return {driver_series(driver.name): regime for driver in universe.drivers if driver.kind == "dominance"}


def has_driver_bars(kind: str, timeframe: Timeframe) -> bool:
    """Tell whether drivers of a kind have bars in a timeframe: all in the regime's, composites of majors also by the quarter."""
    return timeframe in REGIME_TIMEFRAMES or (timeframe is QUARTER and kind == "composite")


def drivers_made_of(universe: Universe, series: str, timeframe: Timeframe) -> list[str]:
    """Driver series whose bars an instrument is part of. A token may move between buckets, so it touches every one."""
    contracts = {major.series: major.contract for major in universe.majors}
    drivers = [driver for driver in universe.drivers if has_driver_bars(driver.kind, timeframe)]
    if series in contracts:
        return [driver_series(driver.name) for driver in drivers if contracts[series] in driver.components]
    return [driver_series(driver.name) for driver in drivers if driver.name in BUCKETS]


def mark_consequences(work: Work, universe: Universe, table: BarTable, timeframe: Timeframe, first_s: Mapping[str, int]) -> None:
    """Mark everything that follows from bars written from `first_s` on, in the transaction that wrote them.

    Parameters
    ----------
    first_s : mapping of series to epoch seconds
        Oldest bar written of each series.
    """
    if not first_s:
        return
    in_use = bar_timeframes(universe, table)
    for parent, child in CHILD.items():
        rolled = {
            series: parent.floor(first) for series, first in first_s.items() if child is timeframe and parent in in_use.get(series, ())
        }
        if rolled:
            work.marks.add(Stage.ROLLUP, parent, rolled)
    if table is BarTable.DRIVERS:
        if timeframe in REGIME_TIMEFRAMES:
            work.marks.add(Stage.TREND, timeframe, first_s)
        return
    drivers: dict[str, int] = {}
    for series, first in first_s.items():
        for driver in drivers_made_of(universe, series, timeframe):
            drivers[driver] = min(first, drivers.get(driver, first))
    work.marks.add(Stage.DRIVER, timeframe, drivers)
    traded = {token.series for token in universe.tokens if timeframe in token.timeframes} if table is BarTable.TOKENS else set()
    work.marks.add(Stage.TREND, timeframe, {series: first for series, first in first_s.items() if series in traded})
