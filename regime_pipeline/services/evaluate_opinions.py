"""Judge the stored opinions by what followed. Nothing is recomputed, and nothing is switched by the answer."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import SnapshotRow, Stores, Work
from regime_pipeline.regime.opinions.evaluation import Evaluation, EvaluationInput, Stability, evaluate, summarise_stability
from regime_pipeline.regime.opinions.outcomes import HOUR_S
from regime_pipeline.regime.opinions.snapshot import RegimeSnapshot
from regime_pipeline.regime.opinions.terms import SERIES, SO_VERSION, TIMEFRAMES, FloatArray, IntArray
from regime_pipeline.regime.opinions.throttle_rule import ThrottleInput, Verdict, judge_throttle
from regime_pipeline.services.opinion_bars import load_opinion_bars

PAST_S: Final = 92 * 86_400
"""Closes before the window: the null throttle ranks trailing volatility among its own last 90 days."""
AHEAD_S: Final = 24 * HOUR_S
ALL_ATTEMPTS: Final = 1_000_000
LABELS: Final[Mapping[str, Callable[[RegimeSnapshot], str]]] = {
    "label_1m": lambda snapshot: snapshot.m1.label,
    "label_15m": lambda snapshot: snapshot.m15.label,
    "label_1h": lambda snapshot: snapshot.h1.label,
    "consensus": lambda snapshot: snapshot.consensus.label,
    "strategic": lambda snapshot: snapshot.strategic.label,
    "vol_regime": lambda snapshot: snapshot.volatility.regime,
    "cp_level_1h": lambda snapshot: snapshot.h1.cp_level,
}
SCORES: Final[Mapping[str, Callable[[RegimeSnapshot], float | None]]] = {
    "band_rank": lambda snapshot: snapshot.volatility.band_rank,
    "cp_prob_1h": lambda snapshot: snapshot.h1.cp_prob,
    "belief_entropy": lambda snapshot: snapshot.belief.entropy if snapshot.belief.coverage else None,
    "direction_score": lambda snapshot: snapshot.belief.direction_score if snapshot.belief.coverage else None,
}


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """One window judged.

    Parameters
    ----------
    window : str
        month, year or custom.
    first_s, end_s : int
        Instants of the snapshots lie in [first, end), epoch seconds.
    is_live : bool
        Whether the snapshots were written in time, or backfilled; never both in one report.
    hours : mapping of series to int
        Snapshots on full hours.
    evaluation : Evaluation
        What followed the labels and scores.
    stability : mapping of timeframe to Stability
        How much of the labels refits in the window kept; without refits absent.
    verdict : Verdict
        The rule of decision 13: has the throttle earned its place?
    """

    window: str
    first_s: int
    end_s: int
    is_live: bool
    hours: Mapping[str, int]
    evaluation: Evaluation
    stability: Mapping[str, Stability]
    verdict: Verdict

    def document(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {
            "window": self.window,
            "first_s": self.first_s,
            "end_s": self.end_s,
            "is_live": self.is_live,
            "hours": dict(self.hours),
            "evaluation": asdict(self.evaluation),
            "stability": {timeframe: asdict(each) for timeframe, each in self.stability.items()},
            "verdict": {"earned": self.verdict.earned, "conditions": [asdict(each) for each in self.verdict.conditions]},
        }

    @property
    def evaluation_id(self) -> str:
        """First 16 hex digits of SHA-256 over the version and the document: the same data give the same id."""
        text = SO_VERSION + json.dumps(self.document(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def evaluate_opinions(stores: Stores, universe: Universe, window: str, first_s: int, end_s: int, *, is_live: bool) -> EvaluationReport:
    """Judge the live or the backfilled snapshots on full hours in [first, end) by the 1h closes around them."""
    inputs, throttles, hours = [], [], {}
    for series in SERIES:
        with stores.open() as work:
            rows = [row for row in work.snapshots.load_range(series, first_s, end_s - 1, HOUR_S) if row.is_live == is_live]
            bars = load_opinion_bars(work, universe, series, Timeframe.H1, first_s - PAST_S, end_s + AHEAD_S)
        if not rows:
            continue
        hours[series] = len(rows)
        ts_s = np.array([row.snapshot.ts_s for row in rows], dtype=np.int64)
        closes_s = bars.ts_s + HOUR_S
        inputs.append(_input_of(series, rows, ts_s, closes_s, bars.close))
        taken = np.array([row.snapshot.throttle.value for row in rows])
        throttles.append(ThrottleInput(series, closes_s, bars.close, ts_s, taken))
    with stores.open() as work:
        stability = _stability(work, first_s, end_s)
    return EvaluationReport(window, first_s, end_s, is_live, hours, evaluate(inputs), stability, judge_throttle(throttles))


def save_report(work: Work, report: EvaluationReport) -> bool:
    """Store a report; False when the same one is stored already."""
    return work.snapshots.save_evaluation(report.evaluation_id, report.document())


def _input_of(series: str, rows: Sequence[SnapshotRow], ts_s: IntArray, closes_s: IntArray, close: FloatArray) -> EvaluationInput:
    snapshots = [row.snapshot for row in rows]
    switch = [snapshot.h1.p_switch60 for snapshot in snapshots]
    return EvaluationInput(
        series=series,
        close_ts_s=closes_s,
        close=close,
        ts_s=ts_s,
        labels={name: np.array([str(read(snapshot)) for snapshot in snapshots]) for name, read in LABELS.items()},
        scores={name: _numbers([read(snapshot) for snapshot in snapshots]) for name, read in SCORES.items()},
        p_1h=np.array([snapshot.h1.p for snapshot in snapshots]),
        p_switch60_1h=_numbers(switch),
    )


def _numbers(values: Sequence[float | None]) -> FloatArray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _stability(work: Work, first_s: int, end_s: int) -> dict[str, Stability]:
    attempts = [row for row in work.opinions.load_attempts(ALL_ATTEMPTS) if first_s <= row.train_end_s < end_s]
    found = {each.value: summarise_stability([row.stability for row in attempts if row.timeframe is each]) for each in TIMEFRAMES}
    return {timeframe: stability for timeframe, stability in found.items() if stability is not None}
