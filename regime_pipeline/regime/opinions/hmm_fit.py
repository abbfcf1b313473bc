"""From bars to an accepted model or the reason for none (section 5.1 to 5.5; Rabiner 1989).

`hmmlearn` and scikit-learn take three seconds to import: only a fit that reaches them pays.
"""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.bars import OpinionBars
from regime_pipeline.regime.opinions.features import LABEL_AXIS, LOOKBACK_SLOTS, compute_features
from regime_pipeline.regime.opinions.hmm_model import (
    N_STATES,
    FitResult,
    HmmModel,
    Rejection,
    compute_stationary,
    is_stochastic,
    order_states,
    order_transitions,
)
from regime_pipeline.regime.opinions.kernels import MIN_FILTER_ROWS, filter_sequences
from regime_pipeline.regime.opinions.terms import (
    MAX_GAP_SLOTS,
    SO_VERSION,
    CodeArray,
    FloatArray,
    IntArray,
    check_series,
    iso,
    terms_of,
)

MAX_ITERATIONS: Final = 200
TOLERANCE: Final = 0.01
SEEDS: Final = tuple(42 + r for r in range(5))
MIN_FEATURE_STD: Final = 1e-12
MIN_VARIANCE: Final = 1e-6
MIN_OCCUPANCY: Final = 0.01
SAME_LIKELIHOOD: Final = 1e-9
STABILITY_ROWS: Final = 500


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRows:
    """Feature rows to train on, oldest first, as sequences without long gaps.

    Parameters
    ----------
    timeframe : Timeframe
        Grid of the bars.
    train_end_s : int
        Every bar closed at or before it, epoch seconds.
    ts_s : ndarray of int64, shape (n,)
        Bar opens.
    x : ndarray of float64, shape (n, 4)
        Raw features, finite.
    lengths : ndarray of int64, shape (n_sequences,)
        Rows per sequence, each at least 20; they add up to n.
    resampled_share : float
        Share of the bars that were made of quarters; 0 without rows.
    """

    timeframe: Timeframe
    train_end_s: int
    ts_s: IntArray
    x: FloatArray
    lengths: IntArray
    resampled_share: float

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.ts_s)


@dataclass(frozen=True, slots=True, eq=False)
class Restart:
    """What one start of the fitter found, in the fitter's own order of states.

    Parameters
    ----------
    means, variances : ndarray of float64, shape (3, 4)
        Of the standardised features.
    transitions : ndarray of float64, shape (3, 3)
        Rows as fitted.
    occupancy : ndarray of float64, shape (3,)
        Mean posterior share of each state over the training rows.
    path : tuple of float
        Log-likelihood at each iteration.
    """

    means: FloatArray
    variances: FloatArray
    transitions: FloatArray
    occupancy: FloatArray
    path: tuple[float, ...]

    @property
    def is_finite(self) -> bool:
        """Tell whether every parameter is a number."""
        return all(bool(np.isfinite(each).all()) for each in (self.means, self.variances, self.transitions, self.occupancy))

    @property
    def is_usable(self) -> bool:
        """Tell whether it is finite and the likelihood came to rest; a path that reached the limit was cut, not converged."""
        if not self.is_finite or not 2 <= len(self.path) < MAX_ITERATIONS:
            return False
        return self.path[-1] - self.path[-2] < TOLERANCE


Fitter = Callable[[FloatArray, IntArray, int], Restart]
"""(standardised rows of shape (n, 4), lengths of the sequences, seed) -> what it found; ValueError or ArithmeticError: it failed."""


def first_training_bar_s(timeframe: Timeframe, train_end_s: int) -> int:
    """Open of the earliest bar that can matter to a fit, epoch seconds."""
    return _first_slot_s(timeframe, train_end_s) - (LOOKBACK_SLOTS - 1) * timeframe.seconds


def _first_slot_s(timeframe: Timeframe, train_end_s: int) -> int:
    slots = terms_of(timeframe).window_rows * 5 // 4
    return timeframe.floor(train_end_s) - slots * timeframe.seconds


def select_training_rows(bars: OpinionBars, train_end_s: int) -> TrainingRows:
    """Take the newest W rows whose bars closed by `train_end_s`, out of the newest 1.25 W slots, without scraps of sequences.

    Parameters
    ----------
    bars : OpinionBars
        All bars that exist from `first_training_bar_s` on; later ones than `train_end_s` change nothing.
    train_end_s : int
        End of the training, epoch seconds.

    Returns
    -------
    TrainingRows
        Split where more than three slots have no row; sequences under 20 rows are left out.
    """
    timeframe = bars.timeframe
    slots = compute_features(bars, _first_slot_s(timeframe, train_end_s), timeframe.floor(train_end_s) - timeframe.seconds)
    rows = np.flatnonzero(slots.present)[-terms_of(timeframe).window_rows :]
    starts = np.flatnonzero(np.diff(rows, prepend=-MAX_GAP_SLOTS - 2) > MAX_GAP_SLOTS + 1)
    lengths = np.diff(np.append(starts, len(rows)))
    kept = lengths >= MIN_FILTER_ROWS
    rows, lengths = rows[np.repeat(kept, lengths)], lengths[kept]
    share = float(slots.built[rows].mean()) if len(rows) else 0.0
    return TrainingRows(timeframe, train_end_s, slots.ts_s[rows], slots.x[rows], lengths, share)


def fit_with_hmmlearn(z: FloatArray, lengths: IntArray, seed: int) -> Restart:
    """Fit three Gaussian states with diagonal covariance by Baum-Welch from one random start."""
    from hmmlearn.hmm import GaussianHMM
    from threadpoolctl import threadpool_limits

    model = GaussianHMM(N_STATES, "diag", n_iter=MAX_ITERATIONS, tol=TOLERANCE, random_state=seed)
    # One thread: the sums of k-means depend on how its chunks fall to threads, and the same bars gave another model on another number
    # of cores.
    # A degenerate start warns in many ways; what it yields is judged below, so the words add nothing.
    with threadpool_limits(1), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(z, lengths)
        occupancy = model.predict_proba(z, lengths).mean(axis=0)
    variances = np.diagonal(model.covars_, axis1=1, axis2=2).copy()
    return Restart(model.means_, variances, model.transmat_, occupancy, tuple(map(float, model.monitor_.history)))


def fit_hmm(series: str, rows: TrainingRows, fitter: Fitter = fit_with_hmmlearn) -> FitResult:
    """Fit, choose among five restarts, label the states and accept or reject.

    Parameters
    ----------
    series : str
        One of the six series.
    rows : TrainingRows
        From `select_training_rows`.
    fitter : Fitter
        Runs one restart.

    Returns
    -------
    FitResult
        Never raises for what is in the data. With several failures among the restarts: `fit_exception` if all of them raised,
        `non_finite` if none of the others is finite, else `not_converged`.

    Raises
    ------
    CallerError
        When the series is unknown.
    """
    check_series(series)
    if len(rows) < terms_of(rows.timeframe).minimum_rows:
        return _rejected(series, rows, Rejection.TOO_FEW_ROWS)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = rows.x.mean(axis=0), rows.x.std(axis=0)
        z = (rows.x - mean) / std
    if np.any(std < MIN_FEATURE_STD):
        return _rejected(series, rows, Rejection.ZERO_VARIANCE)
    if not np.isfinite(z).all() or not np.isfinite(std).all():
        return _rejected(series, rows, Rejection.NON_FINITE)
    restarts = [_run(fitter, z, rows.lengths, seed) for seed in SEEDS]
    lls = tuple(each.path[-1] if each and each.path else np.nan for each in restarts)
    chosen = _choose(restarts)
    if isinstance(chosen, Rejection):
        return _rejected(series, rows, chosen, lls)
    number, best = chosen
    reason = _judge(best)
    if reason is not None:
        return _rejected(series, rows, reason, lls)
    order = order_states(best.means[:, LABEL_AXIS])
    transitions = order_transitions(best.transitions, order)
    model = HmmModel(
        series=series,
        timeframe=rows.timeframe,
        feature_mean=mean,
        feature_std=std,
        means=best.means[order],
        variances=best.variances[order],
        transitions=transitions,
        start_p=compute_stationary(transitions),
        occupancy=best.occupancy[order],
        train_end_s=rows.train_end_s,
        first_ts_s=int(rows.ts_s[0]),
        last_ts_s=int(rows.ts_s[-1]),
        n_rows=len(rows),
        log_likelihood=best.path[-1],
        iterations=len(best.path),
        restart=number,
        restart_lls=lls,
        resampled_share=rows.resampled_share,
    )
    return FitResult(
        series, rows.timeframe, rows.train_end_s, len(rows), model.first_ts_s, model.last_ts_s, lls, rows.resampled_share, model, None,
        model.model_id,
    )  # fmt: skip


def _run(fitter: Fitter, z: FloatArray, lengths: IntArray, seed: int) -> Restart | None:
    try:
        return fitter(z, lengths, seed)
    except (ValueError, ArithmeticError):
        return None


def _choose(restarts: list[Restart | None]) -> tuple[int, Restart] | Rejection:
    """Pick the usable restart with the highest likelihood, the earliest of equal ones."""
    finished = [(number, each) for number, each in enumerate(restarts) if each is not None]
    usable = [(number, each) for number, each in finished if each.is_usable]
    if usable:
        top = max(each.path[-1] for _, each in usable)
        return next((number, each) for number, each in usable if top - each.path[-1] <= SAME_LIKELIHOOD)
    if not finished:
        return Rejection.FIT_EXCEPTION
    return Rejection.NOT_CONVERGED if any(each.is_finite for _, each in finished) else Rejection.NON_FINITE


def _judge(best: Restart) -> Rejection | None:
    if not is_stochastic(best.transitions):
        return Rejection.BAD_TRANSITION
    if np.any(best.variances < MIN_VARIANCE):
        return Rejection.TINY_VARIANCE
    return Rejection.STATE_COLLAPSE if np.any(best.occupancy < MIN_OCCUPANCY) else None


def _rejected(series: str, rows: TrainingRows, reason: Rejection, lls: tuple[float, ...] = ()) -> FitResult:
    digest = hashlib.sha256("|".join((series, rows.timeframe, SO_VERSION, iso(rows.train_end_s), reason)).encode())
    digest.update(rows.ts_s.astype("<i8").tobytes())
    digest.update(rows.x.astype("<f8").tobytes())
    first_s, last_s = (int(rows.ts_s[0]), int(rows.ts_s[-1])) if len(rows) else (None, None)
    return FitResult(
        series, rows.timeframe, rows.train_end_s, len(rows), first_s, last_s, lls, rows.resampled_share, None, reason,
        digest.hexdigest()[:16],
    )  # fmt: skip


def label_rows(model: HmmModel, ts_s: IntArray, x: FloatArray) -> CodeArray:
    """Label feature rows under a model, filtered forward from its start distribution.

    Parameters
    ----------
    model : HmmModel
        Whose labels are asked for.
    ts_s : ndarray of int64, shape (n,)
        Bar opens, ascending. After more than three slots without a row the filter starts anew.
    x : ndarray of float64, shape (n, 4)
        Raw features, finite.

    Returns
    -------
    ndarray of int8, shape (n,)
        `Label.code`.
    """
    labels = np.empty(len(ts_s), dtype=np.int8)
    filter_sequences(
        ts_s, model.timeframe.seconds, x, model.standard, model.means, model.variances, model.start_p, model.transitions, labels
    )
    return labels


def compute_label_stability(rows: TrainingRows, new: HmmModel, preceding: HmmModel | None) -> float | None:
    """Share of the newest 500 training rows that keep their label under the new model; None for a first model."""
    if preceding is None:
        return None
    ts_s, x = rows.ts_s[-STABILITY_ROWS:], rows.x[-STABILITY_ROWS:]
    return float(np.mean(label_rows(new, ts_s, x) == label_rows(preceding, ts_s, x)))
