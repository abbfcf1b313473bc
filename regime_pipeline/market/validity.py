"""How far the data of a bar can be trusted: a score in [0, 1] from what is stored, formula and reasons in docs/regimes.md."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from regime_pipeline.market.bars import Bars, BoolArray, FloatArray, IntArray
from regime_pipeline.market.timeframe import Timeframe

WINDOW_BARS: Final = {
    Timeframe.M1: 60,
    Timeframe.M5: 48,
    Timeframe.M15: 48,
    Timeframe.H1: 48,
    Timeframe.H4: 42,
    Timeframe.D1: 30,
}
"""What counts as recent: an hour of minutes, two days of hours, a month of days."""
FLAT_BARS: Final = {
    Timeframe.M1: (30, 120),
    Timeframe.M5: (12, 48),
    Timeframe.M15: (8, 32),
    Timeframe.H1: (4, 16),
    Timeframe.H4: (2, 8),
    Timeframe.D1: (1, 4),
}
"""Repeated bars in a row that are normal, and those at which nothing is left: a dominance may stand still for half an hour."""
OUTLIER_COST: Final = 0.1
"""What a refused outlier or wrong unit in the window costs: the vendor has been lying."""
DISAGREEMENT_COST: Final = 0.25
"""What a bar that another venue contradicted costs: one of the two is wrong, and it may be the one we took."""
FRESH_AGE_BARS: Final = 2.0
DEAD_AGE_BARS: Final = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Validity:
    """Scores of n bars and their parts, all of shape (n,), in [0, 1]; `score` is the product of the others."""

    ts_s: IntArray
    score: FloatArray
    gaps: FloatArray
    flat: FloatArray
    outliers: FloatArray
    agreement: FloatArray
    parts: FloatArray

    def __getitem__(self, rows: BoolArray | slice) -> "Validity":
        """Take the rows of a mask or slice."""
        return Validity(*(getattr(self, name)[rows] for name in self.__match_args__))


def score_bars(
    bars: Bars, timeframe: Timeframe, outlier_ts_s: IntArray, contradicted_ts_s: IntArray, parts: FloatArray | None = None
) -> Validity:
    """Score bars by what lies in the window that ends with each; nothing later counts, and no clock.

    Parameters
    ----------
    bars : Bars of n rows
        Ascending. The first `WINDOW_BARS` are context of those after them: they are scored as if the series began with them.
    outlier_ts_s, contradicted_ts_s : ndarray of int64
        Open times of refused bars, ascending, repeated where several venues gave one.
    parts : ndarray of float64, shape (n,), optional
        Mean score of what each bar is made of.
    """
    n, step, window = len(bars), timeframe.seconds, WINDOW_BARS[timeframe]
    start_s = bars.ts_s - (window - 1) * step
    first = np.searchsorted(bars.ts_s, start_s)
    covered = np.concatenate([[0.0], np.cumsum(bars.bars_used / bars.expected_bars)])
    # a series that begins inside the window misses nothing before its first bar
    expected = np.minimum(window, (bars.ts_s - bars.ts_s[:1].sum()) // step + 1) if n else np.empty(0)
    gaps = np.clip((covered[1:] - covered[first]) / np.maximum(expected, 1), 0.0, 1.0)
    free, dead = FLAT_BARS[timeframe]
    flat = np.clip((dead - count_repeats(bars)) / (dead - free), 0.0, 1.0)
    outliers = np.maximum(0.0, 1.0 - OUTLIER_COST * _count_between(outlier_ts_s, start_s, bars.ts_s))
    agreement = np.maximum(0.0, 1.0 - DISAGREEMENT_COST * _count_between(contradicted_ts_s, start_s, bars.ts_s))
    made_of = np.ones(n) if parts is None else parts
    # rounded, so that a sum in another order is the same score
    score = np.round(gaps * flat * outliers * agreement * made_of, 9)
    return Validity(bars.ts_s, score, np.round(gaps, 9), flat, outliers, agreement, made_of)


def count_repeats(bars: Bars) -> IntArray:
    """Count for each bar the bars up to it, itself included, in which no price moved off the close before them; shape (n,)."""
    n = len(bars)
    before = np.concatenate([bars.close[:1], bars.close[:-1]])
    stands = (bars.open == before) & (bars.high == before) & (bars.low == before) & (bars.close == before)
    stands[:1] = False
    at = np.arange(n, dtype=np.int64)
    moved = np.maximum.accumulate(np.where(stands, -1, at)) if n else at
    return at - moved


def staleness(age_bars: float) -> float:
    """Factor on the score of the newest bar: 1 until two bar lengths after its end, 0 from four on.

    Levers have a rule of their own for this (specs 7.2), with its bound where this is a half; it is for those who read the score alone.
    """
    return min(1.0, max(0.0, (DEAD_AGE_BARS - age_bars) / (DEAD_AGE_BARS - FRESH_AGE_BARS)))


def _count_between(ts_s: IntArray, first_s: IntArray, last_s: IntArray) -> IntArray:
    """Count the times in [first, last] of each row."""
    found: IntArray = np.searchsorted(ts_s, last_s, side="right") - np.searchsorted(ts_s, first_s, side="left")
    return found
