"""A fitted hidden Markov model in label order, its identity, and which model serves which bar (sections 5.4 and 5.6 to 5.9)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from regime_pipeline.errors import CallerError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.features import LABEL_AXIS
from regime_pipeline.regime.opinions.kernels import N_FEATURES
from regime_pipeline.regime.opinions.quality import Tier, tier_of
from regime_pipeline.regime.opinions.terms import SO_VERSION, FloatArray, IntArray, check_series, iso, terms_of

N_STATES: Final = 3
MAX_AGE_S: Final = 7 * 86_400
WEAK_LABELS: Final = 0.10
MIN_TRANSITION: Final = 1e-6
SUM_TOLERANCE: Final = 1e-6
_DAY_S: Final = 86_400
_SERVED_FROM_S: Final = 3_600
_STORED_MARGIN_S: Final = 60
_SHAPES: Final = {
    "feature_mean": (N_FEATURES,),
    "feature_std": (N_FEATURES,),
    "means": (N_STATES, N_FEATURES),
    "variances": (N_STATES, N_FEATURES),
    "transitions": (N_STATES, N_STATES),
    "start_p": (N_STATES,),
    "occupancy": (N_STATES,),
}
_IDENTITY: Final = ("feature_mean", "feature_std", "means", "variances", "transitions", "start_p")


@dataclass(frozen=True, slots=True, eq=False)
class HmmModel:
    """An accepted fit; every array is in label order bearish, ranging, bullish.

    Parameters
    ----------
    series : str
        One of the six series.
    timeframe : Timeframe
        1m, 15m or 1h.
    feature_mean, feature_std : ndarray of float64, shape (4,)
        The standardiser: mean and population standard deviation of the training rows.
    means, variances : ndarray of float64, shape (3, 4)
        Of the standardised features in each state.
    transitions : ndarray of float64, shape (3, 3)
        Row i: probabilities of the next state from state i; no entry is zero.
    start_p : ndarray of float64, shape (3,)
        Stationary distribution of `transitions`.
    occupancy : ndarray of float64, shape (3,)
        Mean posterior share of each state over the training rows.
    train_end_s : int
        Instant at or before which every training bar closed, epoch seconds.
    first_ts_s, last_ts_s : int
        Opens of the first and last training bar.
    n_rows : int
        Training rows; decides the quality tier.
    log_likelihood : float
        Last value of the chosen restart's likelihood path.
    iterations, restart : int
        Length of that path, and which restart it was.
    restart_lls : tuple of float
        Last likelihood of every restart; NaN for one that failed.
    resampled_share : float
        Share of the training bars that were made of quarters.

    Raises
    ------
    CallerError
        When an array has another shape, is not finite, or is no standardiser, variance or distribution.
    """

    series: str
    timeframe: Timeframe
    feature_mean: FloatArray
    feature_std: FloatArray
    means: FloatArray
    variances: FloatArray
    transitions: FloatArray
    start_p: FloatArray
    occupancy: FloatArray
    train_end_s: int
    first_ts_s: int
    last_ts_s: int
    n_rows: int
    log_likelihood: float
    iterations: int
    restart: int
    restart_lls: tuple[float, ...]
    resampled_share: float = 0.0

    def __post_init__(self) -> None:
        """Take contiguous float64 copies and refuse what is no model."""
        check_series(self.series)
        terms_of(self.timeframe)
        for name, shape in _SHAPES.items():
            values = np.array(getattr(self, name), dtype=np.float64, order="C")
            if values.shape != shape or not np.isfinite(values).all():
                raise CallerError(f"model {name} was {values.tolist()}, must be finite and of shape {shape}. Refit the model.")
            object.__setattr__(self, name, values)
        if np.any(self.feature_std <= 0) or np.any(self.variances <= 0):
            raise CallerError(f"a deviation or variance of a {self.series} {self.timeframe} model was not positive. Refit the model.")
        if not is_stochastic(self.transitions) or not is_stochastic(self.start_p):
            raise CallerError(f"transitions were {self.transitions.tolist()}: each row must be a distribution. Refit the model.")

    @property
    def model_id(self) -> str:
        """First 16 hex digits of SHA-256 over series, timeframe, version, training range and parameters: equal inputs, equal id."""
        head = "|".join((self.series, self.timeframe, SO_VERSION, iso(self.first_ts_s), iso(self.last_ts_s)))
        digest = hashlib.sha256(head.encode())
        for name in _IDENTITY:
            digest.update(getattr(self, name).astype("<f8").tobytes())
        return digest.hexdigest()[:16]

    @property
    def standard(self) -> FloatArray:
        """Mean and deviation of the features, shape (2, 4), as the kernels take them."""
        return np.stack([self.feature_mean, self.feature_std])

    @property
    def tier(self) -> Tier:
        """Quality tier by the rows it was trained on."""
        return tier_of(self.timeframe, self.n_rows)

    @property
    def has_one_sided_labels(self) -> bool:
        """Tell whether bearish does not mean a falling and bullish a rising spread, in units of the feature."""
        spread = self.means[:, LABEL_AXIS] * self.feature_std[LABEL_AXIS] + self.feature_mean[LABEL_AXIS]
        return not spread[0] < 0 < spread[2]

    @property
    def has_weak_labels(self) -> bool:
        """Tell whether two neighbouring labels lie closer than 0.10 deviations of the spread."""
        return bool(np.any(np.diff(self.means[:, LABEL_AXIS]) < WEAK_LABELS))

    def is_expired(self, bar_ts_s: int) -> bool:
        """Tell whether the bar closes more than seven days after the end of the training."""
        return bar_ts_s + self.timeframe.seconds - self.train_end_s > MAX_AGE_S


class Rejection(StrEnum):
    """Why a fit is not accepted; the first that applies, in this order."""

    TOO_FEW_ROWS = "too_few_rows"
    ZERO_VARIANCE = "zero_variance"
    FIT_EXCEPTION = "fit_exception"
    NON_FINITE = "non_finite"
    NOT_CONVERGED = "not_converged"
    BAD_TRANSITION = "bad_transition"
    TINY_VARIANCE = "tiny_variance"
    STATE_COLLAPSE = "state_collapse"


@dataclass(frozen=True, slots=True)
class FitResult:
    """What became of a refit: a model, or the reason why there is none. Either way it must leave a row.

    Parameters
    ----------
    series, timeframe, train_end_s : str, Timeframe, int
        What was to be fitted.
    n_rows : int
        Training rows there were.
    first_ts_s, last_ts_s : int or None
        Opens of the first and last training bar; None without rows.
    restart_lls : tuple of float
        Last likelihood of every restart, NaN for one that failed; empty where none was tried.
    resampled_share : float
        Share of the training bars that were made of quarters.
    model : HmmModel or None
        The accepted model.
    reason : Rejection or None
        Why there is none.
    attempt_id : str
        The model's id, or for a rejected fit the first 16 hex digits of SHA-256 over its inputs and the reason.
    """

    series: str
    timeframe: Timeframe
    train_end_s: int
    n_rows: int
    first_ts_s: int | None
    last_ts_s: int | None
    restart_lls: tuple[float, ...]
    resampled_share: float
    model: HmmModel | None
    reason: Rejection | None
    attempt_id: str


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """An accepted model and the first bar open that it may serve, epoch seconds."""

    model: HmmModel
    effective_from_s: int


def effective_from_s(timeframe: Timeframe, train_end_s: int, stored_s: int | None) -> int:
    """First bar open that a model may serve.

    Parameters
    ----------
    timeframe : Timeframe
        Grid of the bars.
    train_end_s : int
        End of the training; its UTC day is the model's day.
    stored_s : int or None
        When a live run stored the model; None in a backfill, which always serves from 01:00 of the day.

    Returns
    -------
    int
        01:00 UTC of the day, or, stored later than that, the first bar open at least 60 s after it was stored.
    """
    scheduled_s = train_end_s - train_end_s % _DAY_S + _SERVED_FROM_S
    if stored_s is None or stored_s <= scheduled_s:
        return scheduled_s
    return timeframe.floor(stored_s + _STORED_MARGIN_S + timeframe.seconds - 1)


def model_for(served: Sequence[ServedModel], bar_ts_s: int) -> HmmModel | None:
    """Pick the model in force at a bar: the accepted one with the largest `effective_from_s` at or before it. It may be expired."""
    candidates = [each for each in served if each.effective_from_s <= bar_ts_s]
    return max(candidates, key=lambda each: each.effective_from_s).model if candidates else None


def is_stochastic(rows: FloatArray) -> bool:
    """Tell whether every row is a distribution within 1e-6."""
    return bool(np.all(rows >= 0) and np.all(np.abs(rows.sum(axis=-1) - 1) <= SUM_TOLERANCE))


def order_states(spread_means: FloatArray) -> IntArray:
    """Raw state numbers in label order: ascending mean spread, equal ones in their raw order."""
    return np.argsort(spread_means, kind="stable")


def order_transitions(raw: FloatArray, order: IntArray) -> FloatArray:
    """Put both axes of a raw transition matrix in label order, lift entries to at least 1e-6 and renormalise each row."""
    lifted = np.maximum(raw[np.ix_(order, order)], MIN_TRANSITION)
    total = lifted[:, 0] + lifted[:, 1] + lifted[:, 2]
    return np.asarray(lifted / total[:, None])


def compute_stationary(transitions: FloatArray) -> FloatArray:
    """Stationary distribution of a 3 x 3 chain, by the Markov chain tree theorem: only sums of products, nothing cancels.

    Parameters
    ----------
    transitions : ndarray of float64, shape (3, 3)
        Rows are distributions, all entries > 0.

    Returns
    -------
    ndarray of float64, shape (3,)
        Positive, sums to 1.
    """
    a = transitions
    weights = np.empty(N_STATES)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        weights[i] = a[j, i] * a[k, i] + a[j, i] * a[k, j] + a[k, i] * a[j, k]
    return np.asarray(weights / (weights[0] + weights[1] + weights[2]))
