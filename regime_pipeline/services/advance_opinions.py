"""Let the detectors take the slots that have no row yet: posteriors, change points and volatility regimes, one series after another.

A slot is taken once: when its bar is there, or when its deadline has passed without one. What was written then stays.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.clock import monotonic_s
from regime_pipeline.errors import OpinionError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import OpinionTable, Stores, Work
from regime_pipeline.regime.opinions.bars import OpinionBars
from regime_pipeline.regime.opinions.changepoint import (
    LEVELS,
    NO_TIME,
    ChangepointRows,
    ChangepointState,
    Level,
    advance_changepoints,
    new_changepoint_state,
    standardise_returns,
)
from regime_pipeline.regime.opinions.features import CONTEXT_SLOTS, LOOKBACK_SLOTS, compute_features
from regime_pipeline.regime.opinions.hmm_filter import UNKNOWN_MEASURES, PosteriorRows, filter_posteriors
from regime_pipeline.regime.opinions.terms import SERIES, STATUSES, UNIFORM, UNKNOWN_CODE, IntArray, Status, deadline_s, terms_of
from regime_pipeline.regime.opinions.tracker import TrackerState, Transition
from regime_pipeline.regime.opinions.volatility import (
    DIRECTION_AXES,
    HOLD_UNKNOWN,
    VOL_AXES,
    VOL_REGIMES,
    WINDOW_SLOTS,
    VolatilityRows,
    VolHold,
    VolMethod,
    VolRegime,
    classify_volatility,
    measure_volatility,
)
from regime_pipeline.services.opinion_bars import find_first_of, load_opinion_bars

HISTORY_BARS: Final = 1100
"""Bars before a slot that hold its 500 returns, unless more than half of them follow a hole."""
DAY_S: Final = 86_400

log = logging.getLogger(__name__)
Run = tuple[int, int]
"""First and last slot of an unbroken stretch without rows, epoch seconds."""


@dataclass(slots=True)
class OpinionSummary:
    """What an advance did: rows written, of them unknown, the newest slot, series that failed with the reason, models in force."""

    written: int = 0
    unknown: int = 0
    last_s: int | None = None
    transitions: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Task:
    """A detector on a series and timeframe, and the instant of the run."""

    work: Work
    universe: Universe
    series: str
    timeframe: Timeframe
    now_s: int
    summary: OpinionSummary

    def is_live(self, ts_s: IntArray) -> NDArray[np.bool_]:
        """Tell which slots are written within the freshness limit of their close."""
        return np.asarray(self.now_s - ts_s - self.timeframe.seconds <= terms_of(self.timeframe).freshness_s)

    def bars(self, first_s: int, last_s: int) -> OpinionBars:
        """Load the bars of a stretch."""
        return load_opinion_bars(self.work, self.universe, self.series, self.timeframe, first_s, last_s)

    def note(self, written: int, unknown: int, last_s: int) -> None:
        """Count rows."""
        self.summary.written += written
        self.summary.unknown += unknown
        self.summary.last_s = max(last_s, self.summary.last_s or last_s)


Detector = Callable[[_Task, Run], None]


def advance_posteriors(
    stores: Stores, universe: Universe, timeframe: Timeframe, first_s: int, end_s: int, now_s: int, names: Sequence[str] = SERIES
) -> OpinionSummary:
    """Label the slots with opens in [first, end) that have no posterior yet; on 1h also track and confirm transitions.

    Raises
    ------
    OpinionError
        When every series failed. A failed series gets UNKNOWN rows of status `error`, and the others go on.
    """
    return _advance(stores, universe, timeframe, (first_s, end_s), now_s, names, OpinionTable.POSTERIORS, _label, _fail_posteriors)


def advance_changepoint_rows(
    stores: Stores, universe: Universe, timeframe: Timeframe, first_s: int, end_s: int, now_s: int, names: Sequence[str] = SERIES
) -> OpinionSummary:
    """Watch the slots with opens in [first, end) that have no change-point row yet.

    Raises
    ------
    OpinionError
        When every series failed.
    """
    return _advance(stores, universe, timeframe, (first_s, end_s), now_s, names, OpinionTable.CHANGEPOINTS, _watch, _fail_changepoints)


def advance_volatility(
    stores: Stores, universe: Universe, timeframe: Timeframe, first_s: int, end_s: int, now_s: int, names: Sequence[str] = SERIES
) -> OpinionSummary:
    """Name the volatility regime of the slots with opens in [first, end) that have no row yet.

    Raises
    ------
    OpinionError
        When every series failed.
    """
    return _advance(stores, universe, timeframe, (first_s, end_s), now_s, names, OpinionTable.VOLATILITY, _classify, _fail_volatility)


def _advance(
    stores: Stores,
    universe: Universe,
    timeframe: Timeframe,
    bounds_s: tuple[int, int],
    now_s: int,
    names: Sequence[str],
    table: OpinionTable,
    detect: Detector,
    give_up: Detector,
) -> OpinionSummary:
    summary, began_s = OpinionSummary(), monotonic_s()
    for series in names:
        try:
            with stores.open() as work:
                task = _Task(work, universe, series, timeframe, now_s, summary)
                for run in _find_runs(task, table, bounds_s):
                    detect(task, run)
        except Exception as error:  # whatever a detector raises makes its own series unknown, and no other
            log.exception("%s of %s %s failed", table, series, timeframe)
            summary.failed[series] = f"{type(error).__name__}: {error}"
            with stores.open() as work:
                task = _Task(work, universe, series, timeframe, now_s, summary)
                for run in _find_runs(task, table, bounds_s):
                    give_up(task, run)
    summary.seconds = monotonic_s() - began_s
    if len(summary.failed) == len(names):
        raise OpinionError(f"{table} {timeframe}: every series failed, the last with {summary.failed[names[-1]]}. Read the run's log.")
    return summary


def _find_runs(task: _Task, table: OpinionTable, bounds_s: tuple[int, int]) -> Iterator[Run]:
    """Find the stretches to take: slots without a row, up to the first that may still get its bar."""
    bar_s = task.timeframe.seconds
    first_s = -(-bounds_s[0] // bar_s) * bar_s
    visible_s = task.timeframe.floor(task.now_s - terms_of(task.timeframe).visibility_delay_s) - bar_s
    last_s = min(task.timeframe.floor(bounds_s[1] - 1), visible_s)
    if last_s < first_s:
        return
    slots = np.arange(first_s, last_s + 1, bar_s, dtype=np.int64)
    while len(slots) and deadline_s(task.timeframe, int(slots[-1])) > task.now_s and not _has_bar(task, int(slots[-1])):
        slots = slots[:-1]
    slots = np.setdiff1d(slots, task.work.opinions.load_slots(table, task.series, task.timeframe, first_s, last_s))
    for part in np.split(slots, np.flatnonzero(np.diff(slots) != bar_s) + 1):
        if len(part):
            yield int(part[0]), int(part[-1])


def _has_bar(task: _Task, slot_s: int) -> bool:
    return len(task.bars(slot_s, slot_s)) > 0


def _label(task: _Task, run: Run) -> None:
    first_s, last_s = run
    context_s = first_s - CONTEXT_SLOTS * task.timeframe.seconds
    bars = task.bars(context_s - LOOKBACK_SLOTS * task.timeframe.seconds, last_s)
    served = task.work.opinions.load_models(task.series, task.timeframe, first_s, last_s)
    rows = filter_posteriors(compute_features(bars, context_s, last_s), served, first_s, last_s)
    _save_posteriors(task, rows)
    if rows.models:
        task.summary.models[task.series] = rows.models[-1].model_id


def _save_posteriors(task: _Task, rows: PosteriorRows) -> None:
    is_live = task.is_live(rows.ts_s)
    trackers = _track(task, rows, is_live) if task.timeframe is Timeframe.H1 else None
    written = task.work.opinions.save_posteriors(task.series, rows, is_live, trackers)
    task.note(written, int((rows.status != Status.OK.code).sum()), int(rows.ts_s[-1]))


def _track(task: _Task, rows: PosteriorRows, is_live: NDArray[np.bool_]) -> list[TrackerState]:
    """Step the tracker over the rows, store the transitions, and return the state after each row."""
    state = task.work.opinions.load_tracker(task.series, int(rows.ts_s[0])) or TrackerState()
    states: list[TrackerState] = []
    confirmed: list[tuple[Transition, bool]] = []
    for opinion, live in zip(rows, is_live.tolist(), strict=True):
        state, transition = state.step(task.series, opinion)
        states.append(state)
        if transition is not None:
            confirmed.append((transition, live))
    task.summary.transitions += task.work.opinions.save_transitions([each for each, _ in confirmed], [live for _, live in confirmed])
    return states


def _watch(task: _Task, run: Run) -> None:
    """Advance the run-length vector over the slots, a day at a time: its state at each day's end is kept."""
    first_s, last_s = run
    bar_s = task.timeframe.seconds
    history_s = find_first_of(task.work, task.universe, task.series, task.timeframe, first_s, HISTORY_BARS)
    bars = task.bars(history_s, last_s)
    n_before = (first_s - history_s) // bar_s
    close = np.full(n_before + (last_s - first_s) // bar_s + 1, np.nan)
    close[(bars.ts_s - history_s) // bar_s] = bars.close
    z, status = standardise_returns(close)
    z, status = z[n_before:], status[n_before:]
    state = _restore(task, first_s)
    ts_s = np.arange(first_s, last_s + 1, bar_s, dtype=np.int64)
    ends = np.flatnonzero((ts_s + bar_s) % DAY_S == 0) + 1
    states: list[ChangepointState] = []
    for begin, end in pairwise(sorted({0, *ends.tolist(), len(ts_s)})):
        rows, state = advance_changepoints(state, ts_s[begin:end], z[begin:end], bar_s)
        states.append(state)
        here, is_live = [STATUSES[code].value for code in status[begin:end]], task.is_live(rows.ts_s)
        written = task.work.opinions.save_changepoints(task.series, task.timeframe, rows, here, is_live)
        task.note(written, int(np.isnan(rows.z).sum()), int(rows.ts_s[-1]))
    task.work.opinions.save_changepoint_states(task.series, task.timeframe, states)


def _restore(task: _Task, first_s: int) -> ChangepointState:
    """State before a slot: the newest one kept, and the stored z since; slots without a row were not observed."""
    opinions, bar_s = task.work.opinions, task.timeframe.seconds
    state = opinions.load_changepoint_state(task.series, task.timeframe, first_s) or new_changepoint_state()
    stored_s, stored_z = opinions.load_observations(task.series, task.timeframe, state.ts_s, first_s)
    if state.ts_s is None and not len(stored_s):
        return state
    begin_s = int(stored_s[0]) if state.ts_s is None else state.ts_s + bar_s
    if begin_s >= first_s:
        return state
    ts_s = np.arange(begin_s, first_s, bar_s, dtype=np.int64)
    z = np.full(len(ts_s), np.nan)
    z[(stored_s - begin_s) // bar_s] = stored_z
    return advance_changepoints(state, ts_s, z, bar_s)[1]


def _classify(task: _Task, run: Run) -> None:
    first_s, last_s = run
    bar_s = task.timeframe.seconds
    measures = measure_volatility(task.bars(first_s - LOOKBACK_SLOTS * bar_s, last_s), first_s, last_s)
    window = WINDOW_SLOTS[task.timeframe]
    stored_s, stored = task.work.opinions.load_bands(task.series, task.timeframe, first_s - window * bar_s, first_s - bar_s)
    bands = np.full(window, np.nan)
    bands[(stored_s - first_s) // bar_s + window] = stored
    rows, _ = classify_volatility(task.series, measures, bands, _hold_before(task, first_s))
    written = task.work.opinions.save_volatility(task.series, task.timeframe, rows, task.is_live(rows.ts_s))
    task.note(written, int((rows.active == VOL_REGIMES.index(VolRegime.UNKNOWN)).sum()), last_s)


def _hold_before(task: _Task, first_s: int) -> VolHold:
    """What the hold remembers before a slot; slots without a row were unknown."""
    found = task.work.opinions.load_hold(task.series, task.timeframe, first_s)
    if found is None:
        return VolHold()
    ts_s, hold = found
    absent = (first_s - ts_s) // task.timeframe.seconds - 1
    unknown_run = hold.unknown_run + absent
    return replace(hold, unknown_run=unknown_run) if unknown_run <= HOLD_UNKNOWN else VolHold(unknown_run=unknown_run)


def _slots(task: _Task, run: Run) -> IntArray:
    return np.arange(run[0], run[1] + 1, task.timeframe.seconds, dtype=np.int64)


def _fail_posteriors(task: _Task, run: Run) -> None:
    ts_s = _slots(task, run)
    n = len(ts_s)
    rows = PosteriorRows(
        timeframe=task.timeframe,
        ts_s=ts_s,
        p=np.tile(UNIFORM, (n, 1)),
        measures=np.tile(UNKNOWN_MEASURES, (n, 1)),
        label=np.full(n, UNKNOWN_CODE, dtype=np.int8),
        status=np.full(n, Status.ERROR.code, dtype=np.int8),
        rows_used=np.zeros(n, dtype=np.int64),
        model=np.full(n, -1, dtype=np.int64),
        models=(),
    )
    _save_posteriors(task, rows)


def _fail_changepoints(task: _Task, run: Run) -> None:
    ts_s = _slots(task, run)
    n, zero = len(ts_s), np.zeros(len(ts_s))
    nothing, counts = np.full(n, np.nan), np.zeros(n, dtype=np.int64)
    level = np.full(n, LEVELS.index(Level.UNKNOWN))
    rows = ChangepointRows(ts_s, nothing, nothing, zero, counts, zero, counts, level, np.full(n, NO_TIME))
    written = task.work.opinions.save_changepoints(task.series, task.timeframe, rows, [Status.ERROR.value] * n, task.is_live(ts_s))
    task.note(written, n, run[1])


def _fail_volatility(task: _Task, run: Run) -> None:
    ts_s = _slots(task, run)
    n = len(ts_s)
    nothing, unknown = np.full(n, np.nan), np.full(n, VOL_REGIMES.index(VolRegime.UNKNOWN))
    counts = np.zeros(n, dtype=np.int64)
    rows = VolatilityRows(
        ts_s=ts_s,
        ema=nothing,
        atr=nothing,
        band=nothing,
        shock=nothing,
        band_rank=nothing,
        n_bands=counts,
        vol_axis=np.full(n, len(VOL_AXES) - 1),
        direction_axis=np.full(n, len(DIRECTION_AXES) - 1),
        raw=unknown,
        active=unknown,
        held=unknown,
        candidate=unknown,
        candidate_count=counts,
        unknown_run=counts + 1,
        status=np.full(n, Status.ERROR.code, dtype=np.int8),
        method=(VolMethod.PERCENTILE,) * n,
    )
    written = task.work.opinions.save_volatility(task.series, task.timeframe, rows, task.is_live(ts_s))
    task.note(written, n, run[1])
