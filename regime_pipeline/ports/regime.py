"""What the mapper reads and keeps: states of drivers, deltas, bucket memberships."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.market.buckets import BucketSpan
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports.bars import Saved


@dataclass(frozen=True, slots=True, eq=False)
class StateRows:
    """What the mapper reads of n engine records: row i is of `series[series_code[i]]`; codes as in `trend.record`."""

    series: tuple[str, ...]
    series_code: NDArray[np.int64]
    ts_s: NDArray[np.int64]
    state: NDArray[np.int64]
    prev_state: NDArray[np.int64]
    flags: NDArray[np.bool_]
    immature: NDArray[np.bool_]
    engine_version: NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class BoardRow:
    """The newest state of a driver on a timeframe, with the deltas the mapper made of it; times are bar opens, epoch seconds."""

    driver: str
    timeframe: Timeframe
    ts_s: int
    state: str
    prev_state: str | None
    since_s: int
    price: float
    flags: tuple[str, ...]
    delta_a_raw: float | None
    delta_e_raw: float | None
    immature: bool
    bars_seen: int


@dataclass(frozen=True, slots=True, eq=False)
class StateHistory:
    """States of one series over n bars: price, state code, and flags by name, each of shape (n,)."""

    ts_s: NDArray[np.int64]
    price: NDArray[np.float64]
    state: NDArray[np.int64]
    flags: Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class DeltaHistory:
    """Deltas of one driver on one timeframe over n bars, with what a lever judges a channel by."""

    ts_s: NDArray[np.int64]
    state: NDArray[np.int64]
    immature: NDArray[np.bool_]
    delta_a_raw: NDArray[np.float64]
    delta_e_raw: NDArray[np.float64]


class RegimeStore(Protocol):
    """Deltas and bucket memberships."""

    def load_board(self, now_s: int) -> list[BoardRow]:
        """Load the newest row of every driver and regime timeframe whose bar has ended at `now_s`."""
        ...

    def load_history(self, series: str, timeframe: Timeframe, start_s: int, end_s: int) -> StateHistory:
        """Load the states of a series with bar opens in [start, end)."""
        ...

    def load_deltas(self, driver: str, timeframe: Timeframe, start_s: int, end_s: int) -> DeltaHistory:
        """Load the deltas of a driver with bar opens in [start, end)."""
        ...

    def load_states(self, timeframe: Timeframe, first_s: Mapping[str, int]) -> StateRows:
        """Load what the mapper reads of each series from a bar on, in the order of the series, then of time."""
        ...

    def save_deltas(
        self,
        timeframe: Timeframe,
        first_s: Mapping[str, int],
        states: StateRows,
        delta_a: NDArray[np.float64],
        delta_e: NDArray[np.float64],
    ) -> Saved:
        """Upsert the deltas of driver states, delete those of bars that have no state any more, and project the newest ones."""
        ...

    def announce_bars(self, timeframe: Timeframe) -> None:
        """Tell whoever waits for new regime bars of a timeframe, at the commit of this transaction and not if it fails."""
        ...

    def load_spans(self) -> dict[str, list[BucketSpan]]:
        """Load all memberships by token series, ascending."""
        ...

    def save_spans(self, spans: Mapping[str, Sequence[BucketSpan]]) -> int:
        """Upsert memberships; returns how many rows changed."""
        ...
