"""Put the opinions of each series together, one row per minute, from the newest rows that were visible at it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

import numpy as np

from regime_pipeline.clock import monotonic_s
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.ports import Stores, Work
from regime_pipeline.regime.opinions.hmm_filter import Opinion
from regime_pipeline.regime.opinions.ladder import visible_rows
from regime_pipeline.regime.opinions.snapshot import (
    MAX_AGE_S,
    SNAPSHOT_S,
    ChangepointReading,
    RegimeSnapshot,
    StrategicReading,
    build_snapshot,
)
from regime_pipeline.regime.opinions.survival import LOOKBACK_S, describe_spell
from regime_pipeline.regime.opinions.terms import GROUPS, SERIES, TIMEFRAMES, IntArray, terms_of
from regime_pipeline.regime.opinions.tracker import TrackerState, Transition
from regime_pipeline.services.derivation import driver_series
from regime_pipeline.trend.record import STATES

SETTLE_S: Final = 10
"""A minute is written so long after it ended: then its 1m row is there, or its deadline has passed."""
TREND_BARS: Final = 3
"""A trend state counts until so many bars after its close; a dead engine has no state."""


class _Dated(Protocol):
    @property
    def ts_s(self) -> int: ...


Row = TypeVar("Row", bound=_Dated)


@dataclass(slots=True)
class SnapshotSummary:
    """Rows written, and the newest minute."""

    written: int = 0
    last_s: int | None = None
    coverage: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def build_snapshots(
    stores: Stores, first_s: int, last_s: int, now_s: int, every_s: int = SNAPSHOT_S, names: Sequence[str] = SERIES
) -> SnapshotSummary:
    """Write the minutes from one instant to another, both included, that have no row yet and have settled.

    Parameters
    ----------
    every_s : int
        Distance of the rows in seconds, a multiple of 60: a long backfill for an evaluation needs full hours only.
    """
    summary, began_s = SnapshotSummary(), monotonic_s()
    first_s, last_s = -(-first_s // every_s) * every_s, min(last_s, now_s - SETTLE_S)
    for series in names:
        with stores.open() as work:
            wanted = np.arange(first_s, last_s + 1, every_s, dtype=np.int64)
            minutes = np.setdiff1d(wanted, work.snapshots.load_minutes(series, first_s, last_s))
            if not len(minutes):
                continue
            rows = _assemble(work, series, minutes)
            summary.written += work.snapshots.save(rows, (now_s - minutes <= MAX_AGE_S).tolist())
            summary.coverage[series] = rows[-1].belief.coverage
            summary.last_s = max(int(minutes[-1]), summary.last_s or 0)
    summary.seconds = monotonic_s() - began_s
    return summary


def _assemble(work: Work, series: str, minutes: IntArray) -> list[RegimeSnapshot]:
    opinions: dict[Timeframe, list[Opinion | None]] = {}
    changepoints: dict[Timeframe, list[ChangepointReading | None]] = {}
    strategic: list[StrategicReading | None] = []
    for timeframe in TIMEFRAMES:
        span = _span(timeframe, minutes)
        stored = work.opinions.load_opinions(series, timeframe, *span)
        opinions[timeframe] = _newest([opinion for opinion, _ in stored], timeframe, minutes)
        changepoints[timeframe] = _newest(work.opinions.load_changepoints(series, timeframe, *span), timeframe, minutes)
        if timeframe is Timeframe.H1:
            transitions = work.opinions.load_transitions(series, span[0] - LOOKBACK_S, span[1])
            readings = [_strategic(opinion.ts_s, tracker, transitions) for opinion, tracker in stored if tracker is not None]
            strategic = _newest(readings, timeframe, minutes)
    volatility = _newest(work.opinions.load_volatility(series, Timeframe.H1, *_span(Timeframe.H1, minutes)), Timeframe.H1, minutes)
    trends = _trends(work, series, minutes)
    return [
        build_snapshot(
            series,
            minute,
            opinions={timeframe: said for timeframe in TIMEFRAMES if (said := opinions[timeframe][i]) is not None},
            changepoints={timeframe: seen for timeframe in TIMEFRAMES if (seen := changepoints[timeframe][i]) is not None},
            volatility=volatility[i],
            strategic=strategic[i],
            trends=trends[i],
        )
        for i, minute in enumerate(minutes.tolist())
    ]


def _span(timeframe: Timeframe, minutes: IntArray) -> tuple[int, int]:
    """Slots that any of the minutes may read."""
    reach_s = terms_of(timeframe).freshness_s + 2 * timeframe.seconds
    return int(minutes[0]) - reach_s, int(minutes[-1])


def _newest(rows: Sequence[Row], timeframe: Timeframe, minutes: IntArray) -> list[Row | None]:
    """Pick for each minute the newest row that it may read, whatever it says."""
    at = visible_rows(np.array([row.ts_s for row in rows], dtype=np.int64), timeframe, minutes)
    return [rows[i] if i >= 0 else None for i in at.tolist()]


def _strategic(ts_s: int, tracker: TrackerState, transitions: Sequence[Transition]) -> StrategicReading:
    confirmed = [each for each in transitions if each.confirmed_bar_s <= ts_s]
    return StrategicReading(ts_s, tracker, describe_spell(transitions, ts_s), confirmed[-1] if confirmed else None)


def _trends(work: Work, series: str, minutes: IntArray) -> list[Mapping[Timeframe, str]]:
    """State of the trend engine as of each minute; it steps on drivers, so ETH and the like have none."""
    found: list[dict[Timeframe, str]] = [{} for _ in minutes]
    if series not in GROUPS["global"]:
        return list(found)
    for timeframe in REGIME_TIMEFRAMES:
        reach_s = (TREND_BARS + 1) * timeframe.seconds
        history = work.regime.load_history(driver_series(series), timeframe, int(minutes[0]) - reach_s, int(minutes[-1]))
        closes_s = history.ts_s + timeframe.seconds
        for i, at in enumerate((np.searchsorted(closes_s, minutes, side="right") - 1).tolist()):
            if at >= 0 and minutes[i] - closes_s[at] <= TREND_BARS * timeframe.seconds:
                found[i][timeframe] = STATES[history.state[at]]
    return list(found)
