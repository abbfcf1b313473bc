"""What the stored opinions were worth: returns and volatility after each label, against chance and against trailing volatility.

Specification 13. Nothing is recomputed and nothing is switched by it. Bounds after Dunn (1961); windows that overlap count as
n / h observations (Lopez de Prado 2018).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.errors import CallerError
from regime_pipeline.regime.opinions.outcomes import (
    HOUR_S,
    MIN_EFFECTIVE,
    compute_bound,
    compute_t,
    forward_returns,
    forward_volatility,
    rank_correlation,
    trailing_volatility,
)
from regime_pipeline.regime.opinions.terms import BoolArray, FloatArray, IntArray, check_series

HORIZONS_H: Final = (1, 4, 24)
VOL_HORIZONS_H: Final = (4, 24)
"""Horizons with enough hourly returns for a deviation."""
UNKNOWN: Final = "unknown"
SCORE: Final = "score"
DIRECTIONS: Final = {"bullish": 1.0, "up": 1.0, "bearish": -1.0, "down": -1.0}
"""Classes that say where prices go; the others have no hit rate."""
CP_OPINION: Final = "cp_level_1h"
_BINS: Final = 10
_NO_LABELS: Final = np.empty(0, dtype=np.str_)

LabelArray = NDArray[np.str_]


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationInput:
    """What was stored of one series on full hours, and the closes it is judged by.

    Parameters
    ----------
    series : str
        One of the six.
    close_ts_s : ndarray of int64, shape (n_closes,)
        Instants at which 1h bars closed, ascending full hours; from 24 h before the first snapshot to 24 h after the last, if known.
    close : ndarray of shape (n_closes,)
        Closes at those instants, > 0.
    ts_s : ndarray of int64, shape (n,)
        Instants of the snapshots, ascending full hours.
    labels : mapping from opinion to ndarray of str, shape (n,)
        Class per opinion; `unknown` where it said nothing.
    scores : mapping from name to ndarray of shape (n,)
        NaN where there was none.
    p_1h : ndarray of shape (n, 3), optional
        1h posterior; its calibration is left out when absent.
    p_switch60_1h : ndarray of shape (n,), optional
        NaN where unknown.

    Raises
    ------
    CallerError
        Lengths differ, times are off the hour or do not ascend, or a close is not positive.
    """

    series: str
    close_ts_s: IntArray
    close: FloatArray
    ts_s: IntArray
    labels: Mapping[str, LabelArray]
    scores: Mapping[str, FloatArray] = field(default_factory=dict)
    p_1h: FloatArray | None = None
    p_switch60_1h: FloatArray | None = None

    def __post_init__(self) -> None:
        check_series(self.series)
        for name, times in (("close_ts_s", self.close_ts_s), ("ts_s", self.ts_s)):
            if (times % HOUR_S).any() or (np.diff(times) <= 0).any():
                raise CallerError(f"{self.series}: {name} must be full hours and ascend, each once. Order and deduplicate them first.")
        given = {**self.labels, **self.scores, "p_1h": self.p_1h, "p_switch60_1h": self.p_switch60_1h}
        wrong = [name for name, column in given.items() if column is not None and len(column) != len(self.ts_s)]
        if wrong or self.close.shape != self.close_ts_s.shape:
            raise CallerError(f"{self.series}: {wrong or ['close']} had another length than its times. Hand over one value per time.")
        if not (self.close > 0).all():
            raise CallerError(f"{self.series}: a close was not above zero. Leave such hours out.")


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One class of one opinion, or one score, at one horizon; None where it does not apply or data are too few.

    Parameters
    ----------
    series, opinion, label : str
        `label` is the class, or `score`.
    horizon_h : int
        Hours ahead.
    n : int
        Hours with the class (or score) and a forward return (or volatility).
    n_eff : float
        n / h.
    mean_diff : float or None
        Mean forward log return minus that of all hours.
    t : float or None
        Of `mean_diff`, or of the rank correlation; None below 30 effective observations.
    mean_abs, fwd_vol, trailing_vol : float or None
        Mean absolute forward return, mean deviation of the hourly returns ahead (h >= 4), and of the 24 before: a class whose
        forward volatility is that of its past tells nothing new.
    hit_rate, base_rate : float or None
        Share of forward returns in the direction of the class, in the class and in all hours.
    spearman, spearman_baseline : float or None
        Rank correlation with forward volatility, of the score and of trailing volatility on the same hours.
    passed : bool
        |t| above the bound; a score must also beat the baseline.
    """

    series: str
    opinion: str
    label: str
    horizon_h: int
    n: int
    n_eff: float
    mean_diff: float | None = None
    t: float | None = None
    mean_abs: float | None = None
    fwd_vol: float | None = None
    trailing_vol: float | None = None
    hit_rate: float | None = None
    base_rate: float | None = None
    spearman: float | None = None
    spearman_baseline: float | None = None
    passed: bool = False


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often an opinion changes: flips between known neighbouring hours per day of such hours, and its share of unknown hours."""

    series: str
    opinion: str
    hours: int
    flips_per_day: float | None
    unknown_share: float


@dataclass(frozen=True, slots=True)
class Alarms:
    """Change-point alarms of a series per 30 days of known hours: runs at alert or above, and runs at urgent."""

    series: str
    alerts_per_month: float | None
    urgents_per_month: float | None


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Forecasts in [low, high): how many, their mean, and how often it happened."""

    low: float
    high: float
    n: int
    forecast: float
    happened: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A forecast probability against what happened.

    Parameters
    ----------
    series, forecast : str
        `rise_1h`: bullish plus half the ranging posterior against a rise in the next hour. `switch_1h`: p_switch60 against another
        label an hour later.
    n : int
        Forecasts.
    brier, brier_base : float
        Mean squared error of the forecast, and of always saying how often it happened (Brier 1950).
    bins : tuple of CalibrationBin
        Tenths that hold a forecast.
    """

    series: str
    forecast: str
    n: int
    brier: float
    brier_base: float
    bins: tuple[CalibrationBin, ...]

    @property
    def skill(self) -> float | None:
        """1 - brier / brier_base: 0 is no better than the base rate, 1 perfect; None when nothing varied."""
        return 1.0 - self.brier / self.brier_base if self.brier_base > 0 else None


@dataclass(frozen=True, slots=True)
class Stability:
    """Label stability over refits: how many were compared, mean, worst, and shares below 0.70 and 0.40."""

    n: int
    mean: float
    worst: float
    below_070: float
    below_040: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that one window says, every series together.

    Parameters
    ----------
    rows : tuple of EvaluationRow
        By series, opinion, class and horizon; scores last.
    m_tests : int
        Number of t values.
    bound : float or None
        Two-sided 5 % Bonferroni bound for `m_tests`; None without a test.
    rhythms, alarms, calibrations
        Per series.
    """

    rows: tuple[EvaluationRow, ...]
    m_tests: int
    bound: float | None
    rhythms: tuple[Rhythm, ...]
    alarms: tuple[Alarms, ...]
    calibrations: tuple[Calibration, ...]


def evaluate(inputs: Sequence[EvaluationInput], min_effective: float = MIN_EFFECTIVE) -> Evaluation:
    """Judge the opinions of all series over one window.

    Parameters
    ----------
    inputs : sequence of EvaluationInput
        One per series; live and backfilled rows are evaluated in separate calls.
    min_effective : float
        Effective observations below which no t is given.
    """
    rows: list[EvaluationRow] = []
    for each in inputs:
        ahead = _Ahead.of(each)
        rows += _class_rows(each, ahead, min_effective)
        rows += _score_rows(each, ahead, min_effective)
    m_tests = sum(row.t is not None for row in rows)
    bound = compute_bound(m_tests) if m_tests else None
    judged = tuple(replace(row, passed=_passes(row, bound)) for row in rows)
    return Evaluation(
        rows=judged,
        m_tests=m_tests,
        bound=bound,
        rhythms=tuple(_rhythm(each, opinion) for each in inputs for opinion in each.labels),
        alarms=tuple(_alarms(each) for each in inputs if CP_OPINION in each.labels),
        calibrations=tuple(calibration for each in inputs for calibration in _calibrations(each)),
    )


def windows_before(at: datetime) -> dict[str, tuple[datetime, datetime]]:
    """Name the windows that an evaluation at this UTC instant covers, end exclusive: the last whole month, and the twelve up to it."""
    end = at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    month = (end - timedelta(days=1)).replace(day=1)
    return {"month": (month, end), "year": (end.replace(year=end.year - 1), end)}


def summarise_stability(stabilities: Sequence[float | None]) -> Stability | None:
    """Summarise the stored label stabilities of refits; first models (None) have nothing to compare with."""
    known = np.array([each for each in stabilities if each is not None])
    if not known.size:
        return None
    return Stability(known.size, float(known.mean()), float(known.min()), float((known < 0.70).mean()), float((known < 0.40).mean()))


def calibrate(series: str, forecast: str, probability: FloatArray, happened: BoolArray) -> Calibration | None:
    """Sort forecasts into tenths and compare each with how often it happened; None without a forecast.

    Raises
    ------
    CallerError
        A probability lies outside [0, 1], or lengths differ.
    """
    if probability.shape != happened.shape or not ((probability >= 0) & (probability <= 1)).all():
        raise CallerError(f"{series} {forecast}: forecasts must be probabilities in [0, 1], one per outcome.")
    if not probability.size:
        return None
    tenth = np.minimum((probability * _BINS).astype(np.int64), _BINS - 1)
    bins = tuple(
        CalibrationBin(i / _BINS, (i + 1) / _BINS, int(inside.sum()), float(probability[inside].mean()), float(happened[inside].mean()))
        for i in range(_BINS)
        if (inside := tenth == i).any()
    )
    outcome = happened.astype(np.float64)
    errors, base = probability - outcome, outcome - outcome.mean()
    return Calibration(series, forecast, probability.size, float((errors * errors).mean()), float((base * base).mean()), bins)


@dataclass(frozen=True, slots=True, eq=False)
class _Ahead:
    """What followed each snapshot, by horizon, and the volatility before it."""

    returns: Mapping[int, FloatArray]
    volatility: Mapping[int, FloatArray]
    trailing: FloatArray

    @classmethod
    def of(cls, given: EvaluationInput) -> "_Ahead":
        closes = (given.close_ts_s, given.close, given.ts_s)
        return cls(
            returns={h: forward_returns(*closes, h) for h in HORIZONS_H},
            volatility={h: forward_volatility(*closes, h) for h in VOL_HORIZONS_H},
            trailing=trailing_volatility(*closes),
        )


def _class_rows(given: EvaluationInput, ahead: _Ahead, min_effective: float) -> list[EvaluationRow]:
    rows = []
    for opinion, labels in given.labels.items():
        for label in sorted(set(labels.tolist()) - {UNKNOWN}):
            rows += [_class_row(given.series, opinion, label, labels == label, h, ahead, min_effective) for h in HORIZONS_H]
    return rows


def _class_row(
    series: str, opinion: str, label: str, in_class: BoolArray, horizon_h: int, ahead: _Ahead, min_effective: float
) -> EvaluationRow:
    returns = ahead.returns[horizon_h]
    judged = ~np.isnan(returns)
    all_hours, mine = returns[judged], returns[judged & in_class]
    row = EvaluationRow(series, opinion, label, horizon_h, mine.size, mine.size / horizon_h)
    if not mine.size:
        return row
    mean = float(all_hours.mean())
    sign = DIRECTIONS.get(label)
    return replace(
        row,
        mean_diff=float(mine.mean()) - mean,
        t=compute_t(mine, mean, horizon_h, min_effective),
        mean_abs=float(np.abs(mine).mean()),
        fwd_vol=_mean(ahead.volatility[horizon_h][in_class]) if horizon_h in ahead.volatility else None,
        trailing_vol=_mean(ahead.trailing[judged & in_class]),
        hit_rate=None if sign is None else float((sign * mine > 0).mean()),
        base_rate=None if sign is None else float((sign * all_hours > 0).mean()),
    )


def _score_rows(given: EvaluationInput, ahead: _Ahead, min_effective: float) -> list[EvaluationRow]:
    rows = []
    for name, score in given.scores.items():
        for horizon_h in VOL_HORIZONS_H:
            volatility = ahead.volatility[horizon_h]
            judged = ~(np.isnan(score) | np.isnan(volatility) | np.isnan(ahead.trailing))
            n = int(judged.sum())
            row = EvaluationRow(given.series, name, SCORE, horizon_h, n, n / horizon_h)
            if n / horizon_h >= min_effective and n > 1:
                rho = rank_correlation(score[judged], volatility[judged])
                row = replace(
                    row,
                    # under independence a rank correlation has the deviation (n - 1)^-1/2
                    t=None if rho is None else rho * (row.n_eff - 1) ** 0.5,
                    spearman=rho,
                    spearman_baseline=rank_correlation(ahead.trailing[judged], volatility[judged]),
                )
            rows.append(row)
    return rows


def _passes(row: EvaluationRow, bound: float | None) -> bool:
    if row.t is None or bound is None or abs(row.t) <= bound:
        return False
    return row.label != SCORE or row.spearman_baseline is None or abs(row.spearman or 0.0) > abs(row.spearman_baseline)


def _rhythm(given: EvaluationInput, opinion: str) -> Rhythm:
    labels = given.labels[opinion]
    known = labels != UNKNOWN
    neighbours = known[1:] & known[:-1] & (np.diff(given.ts_s) == HOUR_S)
    days = int(neighbours.sum()) * HOUR_S / 86_400
    flips = int((neighbours & (labels[1:] != labels[:-1])).sum())
    return Rhythm(given.series, opinion, len(labels), flips / days if days else None, float(1.0 - known.mean()) if known.size else 0.0)


def _alarms(given: EvaluationInput) -> Alarms:
    levels = given.labels[CP_OPINION]
    months = float(((levels != UNKNOWN) & (levels != "warming")).sum()) / (30 * 24)
    alerts, urgents = (_count_runs(np.isin(levels, names), levels == UNKNOWN) for names in (("alert", "urgent"), ("urgent",)))
    return Alarms(given.series, alerts / months if months else None, urgents / months if months else None)


def _count_runs(raised: BoolArray, unknown: BoolArray) -> int:
    """Count unbroken runs; an unknown hour neither breaks nor begins one."""
    seen = raised[~unknown].tolist()
    return sum(now and not before for before, now in pairwise([False, *seen]))


def _calibrations(given: EvaluationInput) -> list[Calibration]:
    found = []
    returns = forward_returns(given.close_ts_s, given.close, given.ts_s, 1)
    labels = given.labels.get("label_1h", _NO_LABELS)
    if given.p_1h is not None and labels.size:
        known = (labels != UNKNOWN) & ~np.isnan(returns)
        # rounding may carry a posterior's parts a little past their sum
        rise = np.clip(given.p_1h[:, 2] + 0.5 * given.p_1h[:, 1], 0.0, 1.0)
        found.append(calibrate(given.series, "rise_1h", rise[known], returns[known] > 0))
    if given.p_switch60_1h is not None and labels.size:
        known = (labels[:-1] != UNKNOWN) & (labels[1:] != UNKNOWN) & (np.diff(given.ts_s) == HOUR_S) & ~np.isnan(given.p_switch60_1h[:-1])
        found.append(calibrate(given.series, "switch_1h", given.p_switch60_1h[:-1][known], (labels[1:] != labels[:-1])[known]))
    return [calibration for calibration in found if calibration is not None]


def _mean(values: FloatArray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
