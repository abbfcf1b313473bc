"""Second opinions: fitted models, what the detectors said, and the snapshots that consumers read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.market.timeframe import Timeframe

if TYPE_CHECKING:
    # compiled code: whoever only opens a transaction must not pay for its import
    from regime_pipeline.regime.opinions.changepoint import ChangepointRows, ChangepointState
    from regime_pipeline.regime.opinions.hmm_filter import Opinion, PosteriorRows
    from regime_pipeline.regime.opinions.hmm_model import FitResult, ServedModel
    from regime_pipeline.regime.opinions.snapshot import ChangepointReading, RegimeSnapshot, VolatilityReading
    from regime_pipeline.regime.opinions.tracker import TrackerState, Transition
    from regime_pipeline.regime.opinions.volatility import VolatilityRows, VolHold

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class OpinionTable(StrEnum):
    """Where the rows of a detector are; the value is the table's name."""

    POSTERIORS = "hmm_posteriors"
    CHANGEPOINTS = "changepoints"
    VOLATILITY = "volatility_regimes"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A fit as it is stored.

    Parameters
    ----------
    result : FitResult
        The model, or the reason why there is none.
    effective_from_s : int or None
        First bar open it may serve, epoch seconds; None when rejected.
    stability : float or None
        Share of recent rows that the model before labels alike; None for a first model.
    compared_model_id : str or None
        The model before.
    libraries : mapping of str to str
        Versions of the libraries that fitted it.
    """

    result: "FitResult"
    effective_from_s: int | None
    stability: float | None
    compared_model_id: str | None
    libraries: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """What people are shown of a fit; times are epoch seconds."""

    model_id: str
    series: str
    timeframe: Timeframe
    accepted: bool
    reason: str | None
    train_end_s: int
    effective_from_s: int | None
    n_rows: int
    tier: str | None
    log_likelihood: float | None
    stability: float | None
    one_sided_labels: bool | None
    weak_labels: bool | None
    created_s: int


class OpinionStore(Protocol):
    """Models and what the detectors said, by series (BTC ... ALT); bar opens are epoch seconds. Rows are inserted once, never changed."""

    def save_attempts(self, attempts: Sequence[Attempt]) -> list[str]:
        """Keep fits; returns the ids of the new ones. A second accepted model of a day is left out."""
        ...

    def load_models(self, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> "list[ServedModel]":
        """Load the accepted models that are in force anywhere from one bar to another, ascending."""
        ...

    def load_attempts(self, limit: int, *, newest_only: bool = False) -> list[AttemptRow]:
        """Load what people are shown of the fits, newest first; of each series and timeframe only the newest if asked so."""
        ...

    def load_slots(self, table: OpinionTable, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> IntArray:
        """Load the slots from `first_s` to `last_s` that have a row, ascending."""
        ...

    def save_posteriors(
        self, series: str, rows: "PosteriorRows", is_live: BoolArray, trackers: "Sequence[TrackerState] | None" = None
    ) -> int:
        """Insert rows, with the tracker after each of them on 1h; returns how many were new."""
        ...

    def load_tracker(self, series: str, before_s: int) -> "TrackerState | None":
        """Load the tracker of the newest hourly row before a bar."""
        ...

    def save_transitions(self, transitions: "Sequence[Transition]", is_live: Sequence[bool]) -> int:
        """Insert transitions; returns how many were new."""
        ...

    def load_transitions(self, series: str, first_s: int, last_s: int) -> "list[Transition]":
        """Load the transitions whose first bar lies from one bar to another, ascending."""
        ...

    def use_transition(self, consumer: str, transition_id: str, at_s: int) -> bool:
        """Take a transition for a consumer, in the transaction that acts on it; False when it may not be used or was used before."""
        ...

    def save_changepoints(
        self, series: str, timeframe: Timeframe, rows: "ChangepointRows", status: Sequence[str], is_live: BoolArray
    ) -> int:
        """Insert rows; returns how many were new."""
        ...

    def save_changepoint_states(self, series: str, timeframe: Timeframe, states: "Sequence[ChangepointState]") -> None:
        """Keep states, and of the older ones only the last of each day."""
        ...

    def load_changepoint_state(self, series: str, timeframe: Timeframe, before_s: int) -> "ChangepointState | None":
        """Load the newest state before a bar."""
        ...

    def load_observations(self, series: str, timeframe: Timeframe, after_s: int | None, before_s: int) -> tuple[IntArray, FloatArray]:
        """Load the slots and their stored z between two bars, both excluded; NaN where nothing was observed."""
        ...

    def save_volatility(self, series: str, timeframe: Timeframe, rows: "VolatilityRows", is_live: BoolArray) -> int:
        """Insert rows; returns how many were new."""
        ...

    def load_hold(self, series: str, timeframe: Timeframe, before_s: int) -> "tuple[int, VolHold] | None":
        """Load the newest slot before a bar, and what the hold remembers after it."""
        ...

    def load_bands(self, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> tuple[IntArray, FloatArray]:
        """Load slots and their stored bands from one bar to another; NaN where unknown."""
        ...

    def drop_months(self, before_s: int) -> list[str]:
        """Drop the months of 1m posteriors and change points that ended at or before an instant; returns their tables."""
        ...

    def load_opinions(self, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> "list[tuple[Opinion, TrackerState | None]]":
        """Load the posteriors from one bar to another, ascending, each with the tracker after it where it has one."""
        ...

    def load_changepoints(self, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> "list[ChangepointReading]":
        """Load the change-point rows from one bar to another, ascending."""
        ...

    def load_volatility(self, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> "list[VolatilityReading]":
        """Load the volatility rows from one bar to another, ascending."""
        ...


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """A stored snapshot, whether it was written in time, and when (epoch seconds)."""

    snapshot: "RegimeSnapshot"
    is_live: bool
    written_s: int


class SnapshotStore(Protocol):
    """What consumers read: one row per series and minute, inserted once."""

    def save(self, snapshots: "Sequence[RegimeSnapshot]", is_live: Sequence[bool]) -> int:
        """Insert snapshots; returns how many were new."""
        ...

    def load_minutes(self, series: str, first_s: int, last_s: int) -> IntArray:
        """Load the minutes from one to another that have a row, ascending, epoch seconds."""
        ...

    def load_newest(self, series: str, at_s: int) -> SnapshotRow | None:
        """Load the newest snapshot at or before an instant, however old."""
        ...

    def load_range(self, series: str, first_s: int, last_s: int, every_s: int) -> list[SnapshotRow]:
        """Load the snapshots from one instant to another whose minute is a multiple of `every_s`, ascending."""
        ...

    def save_evaluation(self, evaluation_id: str, document: Mapping[str, Any]) -> bool:
        """Keep a report (`EvaluationReport.document`); False when it is there already."""
        ...

    def load_evaluation(self, evaluation_id: str) -> Mapping[str, Any] | None:
        """Load a report by its id; None when there is none."""
        ...
