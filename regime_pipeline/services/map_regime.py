"""Map the states of the drivers to raw deltas of appetite and exit eagerness."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Stage, Stores, Work
from regime_pipeline.regime.mapper import map_states
from regime_pipeline.services.batches import plan_batches


@dataclass(slots=True)
class MapSummary:
    """Rows written and found equal, and the newest row of each driver that was mapped: (ts, delta A, delta E)."""

    written: int = 0
    unchanged: int = 0
    last: dict[str, tuple[int, float, float]] = field(default_factory=dict)


def map_regime(stores: Stores, timeframe: Timeframe, now_s: int, *, recent_s: int | None = None) -> MapSummary:
    """Map every marked driver of a timeframe from the oldest changed state on; each row depends on its own state row alone.

    Parameters
    ----------
    now_s : int
        Epoch seconds, end of the newest bar there may be: says how much there may be to do, see `plan_batches`.
    recent_s : int, optional
        Open time from which on marks are taken without waiting for anybody, see `find_recent`; None: all, and held series are waited for.
    """
    summary = MapSummary()
    for series in plan_batches(stores, Stage.DELTA, timeframe, now_s, recent_s=recent_s):
        with stores.open() as work:
            _map_series(work, timeframe, work.marks.take(Stage.DELTA, timeframe, series, recent_s=recent_s), summary)
    return summary


def _map_series(work: Work, timeframe: Timeframe, marked: Mapping[str, int], summary: MapSummary) -> None:
    if not marked:
        return
    states = work.regime.load_states(timeframe, marked)
    delta_a, delta_e = map_states(states.prev_state, states.state, states.flags, states.immature)
    saved = work.regime.save_deltas(timeframe, marked, states, delta_a, delta_e)
    if saved.written:
        work.regime.announce_bars(timeframe)
    summary.written += saved.written
    summary.unchanged += saved.unchanged
    for row, code in enumerate(states.series_code.tolist()):  # ascending in time, so the newest of each stays
        summary.last[states.series[code].partition(":")[2]] = (int(states.ts_s[row]), float(delta_a[row]), float(delta_e[row]))
