"""Closed bars as the detectors take them, and hours made of quarters where the hour itself is absent (sections 4.1 and 8.1)."""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from regime_pipeline.errors import CallerError
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.terms import BoolArray, FloatArray, IntArray, terms_of

QUARTERS: Final = 4
_COLUMNS: Final = ("high", "low", "close", "volume")


@dataclass(frozen=True, slots=True, eq=False)
class OpinionBars:
    """Final bars of one series and timeframe, oldest first; a slot of the grid without a bar is simply not there.

    Parameters
    ----------
    timeframe : Timeframe
        1m, 15m or 1h.
    ts_s : ndarray of int64, shape (n,)
        Bar opens on the grid, strictly ascending, epoch seconds.
    high, low, close, volume : ndarray of float64, shape (n,)
        Finite, prices > 0, high >= low, volume >= 0 in one unit over the life of the series.
    built : ndarray of bool, shape (n,)
        Hours that were made of four quarters.

    Raises
    ------
    CallerError
        When columns differ in length, times are off the grid or do not ascend, or a bar would count as missing: `OpinionBars.take`
        leaves such bars out.
    """

    timeframe: Timeframe
    ts_s: IntArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    built: BoolArray

    def __post_init__(self) -> None:
        terms_of(self.timeframe)
        if len({self.ts_s.shape, self.built.shape, *(getattr(self, name).shape for name in _COLUMNS)}) != 1 or self.ts_s.ndim != 1:
            raise CallerError(f"columns of {self.timeframe} bars differ in length; pass one value per bar and column.")
        if np.any(self.ts_s % self.timeframe.seconds):
            raise CallerError(
                f"a bar open is off the {self.timeframe} grid: {self.ts_s[self.ts_s % self.timeframe.seconds != 0][0]}. Floor it."
            )
        if np.any(self.ts_s[1:] <= self.ts_s[:-1]):
            raise CallerError(f"{self.timeframe} bars must ascend by ts, each ts once; order and deduplicate them first.")
        if not _is_believable(self.high, self.low, self.close, self.volume).all():
            raise CallerError(f"a {self.timeframe} bar has a value that counts as missing; build the bars with OpinionBars.take.")

    def __len__(self) -> int:
        """Count the bars."""
        return len(self.ts_s)

    @classmethod
    def take(cls, timeframe: Timeframe, raw: RawBars) -> Self:
        """Keep the bars that count: finite positive prices, high >= low, volume >= 0. The others are missing, not an error."""
        with np.errstate(invalid="ignore"):
            kept = _is_believable(raw.high, raw.low, raw.close, raw.volume) & np.isfinite(raw.open) & (raw.open > 0)
        bars = raw[kept]
        return cls(timeframe, bars.ts_s, bars.high, bars.low, bars.close, bars.volume, np.zeros(len(bars), dtype=np.bool_))

    def count_slots(self, first_s: int, last_s: int) -> int:
        """Count the slots of the grid from `first_s` to `last_s`, both included, with a bar or without.

        Raises
        ------
        CallerError
            When the slots are off the grid or `last_s` precedes `first_s`.
        """
        bar_s = self.timeframe.seconds
        if first_s % bar_s or last_s % bar_s or last_s < first_s:
            raise CallerError(f"slots were {first_s} to {last_s}, must lie on the {self.timeframe} grid and ascend. Floor them first.")
        return (last_s - first_s) // bar_s + 1

    def until(self, end_s: int) -> Self:
        """Keep the bars that closed at or before an instant."""
        n = int(np.searchsorted(self.ts_s, end_s - self.timeframe.seconds, side="right"))
        columns = (getattr(self, name)[:n] for name in ("ts_s", *_COLUMNS, "built"))
        return type(self)(self.timeframe, *columns)


def _is_believable(high: FloatArray, low: FloatArray, close: FloatArray, volume: FloatArray) -> BoolArray:
    finite = np.isfinite(high) & np.isfinite(low) & np.isfinite(close) & np.isfinite(volume)
    positive: BoolArray = (low > 0) & (close > 0) & (high >= low) & (volume >= 0)
    return finite & positive


def fill_hours(hours: OpinionBars, quarters: OpinionBars) -> OpinionBars:
    """Fill hour slots that have no bar of their own from the four 15m bars that start in them.

    Parameters
    ----------
    hours : OpinionBars
        Native 1h bars; each wins over its quarters.
    quarters : OpinionBars
        Final 15m bars. An hour is built only of all four.

    Returns
    -------
    OpinionBars
        1h bars, `built` true where made here: highest high, lowest low, last close, sum of the volumes left to right.

    Raises
    ------
    CallerError
        When the timeframes are not 1h and 15m.
    """
    if (hours.timeframe, quarters.timeframe) != (Timeframe.H1, Timeframe.M15):
        raise CallerError(f"timeframes were {hours.timeframe} and {quarters.timeframe}, must be 1h and 15m. Pass the hours first.")
    hour_s = Timeframe.H1.seconds
    first = np.flatnonzero(quarters.ts_s % hour_s == 0)
    first = first[first + QUARTERS <= len(quarters)]
    # Four bars on the 15m grid, ascending, the fourth of which opens 45 minutes after the first, are the whole hour.
    whole = quarters.ts_s[first + QUARTERS - 1] - quarters.ts_s[first] == hour_s - Timeframe.M15.seconds
    first = first[whole & ~np.isin(quarters.ts_s[first], hours.ts_s)]
    with np.errstate(over="ignore"):
        volume = quarters.volume[first] + quarters.volume[first + 1] + quarters.volume[first + 2] + quarters.volume[first + 3]
    first, volume = first[np.isfinite(volume)], volume[np.isfinite(volume)]
    four = first[:, None] + np.arange(QUARTERS)
    ts_s = np.concatenate([hours.ts_s, quarters.ts_s[first]])
    order = np.argsort(ts_s, kind="stable")
    return OpinionBars(
        Timeframe.H1,
        ts_s[order],
        np.concatenate([hours.high, quarters.high[four].max(axis=1)])[order],
        np.concatenate([hours.low, quarters.low[four].min(axis=1)])[order],
        np.concatenate([hours.close, quarters.close[four[:, -1]]])[order],
        np.concatenate([hours.volume, volume])[order],
        np.concatenate([hours.built, np.ones(len(first), dtype=np.bool_)])[order],
    )
