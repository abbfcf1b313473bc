"""The price tables."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.market.bars import Bars, RawBars
from regime_pipeline.market.timeframe import Timeframe


class BarTable(StrEnum):
    """Where bars are kept; the value is the table's name."""

    DRIVERS = "regime_price_data_ohlc"
    MAJORS = "majors_price_data_ohlc"
    TOKENS = "lowcap_price_data_ohlc"


@dataclass(frozen=True, slots=True, eq=False)
class BarRows:
    """Bars of one series to be saved, with what a table keeps beside them.

    Parameters
    ----------
    bars : Bars of n rows
    sources : tuple of str, and source_codes : ndarray of shape (n,)
        Row i came from `sources[source_codes[i]]`; -1 for none (composites).
    is_final : ndarray of bool, shape (n,)
    component_count : ndarray of int32, shape (n,), or None
        Composites only.
    """

    bars: Bars
    sources: tuple[str, ...]
    source_codes: NDArray[np.int64]
    is_final: NDArray[np.bool_]
    component_count: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """What a save did: rows written and left alone, and per series the oldest bar that was written (epoch seconds).

    Of the rows written, `updated` were there before with other content.
    """

    written: int
    unchanged: int
    first_written_s: Mapping[str, int]
    updated: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """What is stored of a series in a window: open times, whether the bar is complete, and where it came from."""

    ts_s: NDArray[np.int64]
    is_complete: NDArray[np.bool_]
    source: NDArray[np.object_]


class BarStore(Protocol):
    """The price tables and what was wrong with the bars that are not in them. Reads give final bars only."""

    def save(self, table: BarTable, timeframe: Timeframe, rows: Mapping[str, BarRows]) -> Saved:
        """Upsert bars; equal content writes nothing, and a complete rollup is never replaced by a vendor's bar.

        The sources of each series are in order of priority: a bar is never replaced by that of a source behind its own.
        """
        ...

    def remove(self, table: BarTable, timeframe: Timeframe, series: str, from_s: int, keep_ts_s: NDArray[np.int64]) -> int:
        """Delete the bars of a derived series from `from_s` on that are not in `keep_ts_s`."""
        ...

    def load_after(
        self, table: BarTable, timeframe: Timeframe, after_s: Mapping[str, int | None], until_s: int | None = None
    ) -> dict[str, Bars]:
        """Load the bars of each series with `after` < ts <= `until_s`, oldest first."""
        ...

    def load_last(self, table: BarTable, timeframe: Timeframe, up_to_s: Mapping[str, int], n: int) -> dict[str, Bars]:
        """Load the newest n bars of each series with ts <= `up_to`, oldest first."""
        ...

    def load_newest(self, table: BarTable, timeframe: Timeframe, series: Collection[str]) -> dict[str, int]:
        """Load the open time of the newest bar of each series that has one."""
        ...

    def load_oldest(self, table: BarTable, timeframe: Timeframe, series: Collection[str]) -> dict[str, int]:
        """Load the open time of the oldest bar of each series that has one."""
        ...

    def load_coverage(
        self, table: BarTable, timeframe: Timeframe, series: Collection[str], start_s: int, end_s: int
    ) -> dict[str, Coverage]:
        """Load what is stored in a window, final or not."""
        ...

    def load_open_backfills(self, timeframe: Timeframe, requested_after_s: int) -> dict[str, list[tuple[int, int]]]:
        """Load the windows of backfill requests that are still open and not too old, by series."""
        ...

    def quarantine(self, series: str, timeframe: Timeframe, source: str, raw: RawBars, reasons: Sequence[str], now_s: int) -> int:
        """Keep refused bars with their reasons and when their values were first seen; returns how many were not known yet."""
        ...

    def record_gaps(
        self,
        timeframe: Timeframe,
        source: str,
        gaps_s: Mapping[str, NDArray[np.int64]],
        windows_s: Mapping[str, tuple[int, int]],
        asked_s: int | None = None,
    ) -> int:
        """Record what is missing in a window of each series, and resolve recorded gaps that are none any more; returns the missing bars.

        `asked_s` says when vendors were asked for them; None: now, or nobody is to be asked (composites).
        """
        ...
