"""Keep the validity scores of the bars that were just written, and of those after them that they weigh on."""

from collections.abc import Mapping

import numpy as np

from regime_pipeline.market.bars import Bars, CountArray, FloatArray
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Driver
from regime_pipeline.market.validity import WINDOW_BARS, Validity, score_bars
from regime_pipeline.ports import BarTable, Work


def score_written(work: Work, table: BarTable, timeframe: Timeframe, written_s: Mapping[str, tuple[int, int]]) -> None:
    """Score the bars of each series from the first written on, up to a window after the last.

    Parameters
    ----------
    written_s : mapping of series to (int, int)
        Open times of the oldest and the newest bar written, epoch seconds.
    """
    if not written_s:
        return
    window = WINDOW_BARS[timeframe]
    reach_s = window * timeframe.seconds
    before = work.bars.load_last(table, timeframe, {name: first_s - 1 for name, (first_s, _) in written_s.items()}, window)
    after = work.bars.load_after(
        table,
        timeframe,
        {name: first_s - 1 for name, (first_s, _) in written_s.items()},
        max(last_s for _, last_s in written_s.values()) + reach_s,
    )
    refused = work.quality.load_refused(timeframe, {name: first_s - reach_s for name, (first_s, _) in written_s.items()})
    scores = {}
    for name, bars in after.items():
        first_s, last_s = written_s[name]
        context = before.get(name, Bars.empty())
        found = score_bars(Bars.concat([context, bars]), timeframe, *refused.get(name, _NOTHING))
        scores[name] = found[(found.ts_s >= first_s) & (found.ts_s <= last_s + reach_s)]
    work.quality.save_validity(timeframe, scores)


def score_driver(
    work: Work, driver: Driver, series: str, timeframe: Timeframe, bars: Bars, component_count: CountArray | None, components: list[str]
) -> None:
    """Score derived bars of a driver by what they are made of; `bars` are all from the first derived one on."""
    if not len(bars):
        return
    weak = work.quality.load_weak(timeframe, components, int(bars.ts_s[0]))
    lost = np.zeros(len(bars))
    for ts_s, scores in weak.values():
        at = np.searchsorted(bars.ts_s, ts_s)
        inside = (at < len(bars)) & (bars.ts_s[np.minimum(at, len(bars) - 1)] == ts_s)
        lost[at[inside]] += 1.0 - scores[inside]
    if driver.kind == "major":
        parts = np.clip(1.0 - lost, 0.0, 1.0)  # a copy is as good as its original
        ones = np.ones(len(bars))
        found = Validity(bars.ts_s, np.round(parts, 9), ones, ones, ones, ones, parts)
    else:
        count = np.maximum(1, np.zeros(len(bars)) if component_count is None else component_count)
        parts = np.clip(1.0 - lost / count, 0.0, 1.0) * _share_present(driver, count)
        context = work.bars.load_last(BarTable.DRIVERS, timeframe, {series: int(bars.ts_s[0]) - 1}, WINDOW_BARS[timeframe])
        before = context.get(series, Bars.empty())
        whole = np.concatenate([np.ones(len(before)), parts])
        found = score_bars(Bars.concat([before, bars]), timeframe, *_NOTHING, parts=whole)[slice(len(before), None)]
    work.quality.save_validity(timeframe, {series: found})


def _share_present(driver: Driver, count: CountArray | FloatArray) -> FloatArray:
    """Share of a composite's components that have a bar; of a bucket nobody says how many there should be."""
    return np.minimum(1.0, count / len(driver.components)) if driver.components else np.ones(len(count))


_NOTHING = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
