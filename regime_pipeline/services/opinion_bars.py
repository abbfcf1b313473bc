"""The bars that second opinions read: majors by their own table, ALT by that of the drivers, hours filled from quarters."""

from typing import Final

from regime_pipeline.market.bars import Bars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarTable, Work
from regime_pipeline.regime.opinions.bars import OpinionBars, fill_hours
from regime_pipeline.services.derivation import driver_series

COMPOSITE: Final = "ALT"


def find_bars_of(universe: Universe, series: str) -> tuple[BarTable, str]:
    """Tell where the bars of one of the six series are: table and name there.

    Raises
    ------
    ConfigError
        When the universe file has no such major or driver.
    """
    if series == COMPOSITE:
        return BarTable.DRIVERS, driver_series(universe.driver(series).name)
    return BarTable.MAJORS, universe.major(series).series


def load_opinion_bars(work: Work, universe: Universe, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> OpinionBars:
    """Load the final bars with opens from `first_s` to `last_s`; a missing hour is made of its four quarters."""
    table, name = find_bars_of(universe, series)

    def load(each: Timeframe, until_s: int) -> OpinionBars:
        return OpinionBars.take(each, work.bars.load_after(table, each, {name: first_s - 1}, until_s).get(name, Bars.empty()))

    bars = load(timeframe, last_s)
    if timeframe is not Timeframe.H1 or len(bars) == (last_s - first_s) // timeframe.seconds + 1:
        return bars
    return fill_hours(bars, load(Timeframe.M15, last_s + timeframe.seconds - Timeframe.M15.seconds))


def find_first_of(work: Work, universe: Universe, series: str, timeframe: Timeframe, before_s: int, n_bars: int) -> int:
    """Tell the open of the n-th bar before a slot, or of the oldest there is; the slot itself when there is none."""
    table, name = find_bars_of(universe, series)
    bars = work.bars.load_last(table, timeframe, {name: before_s - 1}, n_bars).get(name)
    return before_s if bars is None else int(bars.ts_s[0])
