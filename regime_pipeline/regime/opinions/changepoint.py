"""Bayesian online change points: how long has the present distribution of returns lasted (Adams & MacKay 2007; specification 9).

One vector holds the probability of every run length 0..500 and, per run length, the normal-inverse-gamma posterior of the returns
since then. A bar shifts the vector by one. Batch, incremental and restored runs are the same compiled step and give the same bits.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from regime_pipeline.errors import CallerError
from regime_pipeline.jit import kernel
from regime_pipeline.regime.opinions.bars import OpinionBars
from regime_pipeline.regime.opinions.terms import CodeArray, FloatArray, IntArray, Status

Z_RETURNS: Final = 500
"""Returns before a bar that its own return is measured against."""
Z_MIN_RETURNS: Final = 100
Z_MIN_SD: Final = 1e-12
HAZARD: Final = 1.0 / 200.0
MAX_RUN: Final = 500
YOUNG_RUNS: Final = 10
"""`cp_prob` is the probability of a run shorter than this."""
ALERT_PROB: Final = 0.30
URGENT_PROB: Final = 0.50
WARM_UP: Final = 30
RESET_AFTER_MISSING: Final = 500
NO_TIME: Final = -1
"""In `alert_since_s`: no alert is running."""
MAX_Z: Final = 1e50
"""A return in float64 cannot get there with a deviation of at least 1e-12; beyond it the predictive density would vanish."""

_OK: Final = Status.OK.code
_MISSING_BAR: Final = Status.MISSING_BAR.code
_NAN_FEATURE: Final = Status.NAN_FEATURE.code
_SHORT_HISTORY: Final = Status.SHORT_HISTORY.code
_P, _MU, _KAPPA, _ALPHA, _BETA = range(5)
_FIELDS: Final = 5
_KEEP: Final = 1.0 - HAZARD
_CP_PROB, _EXPECTED, _MODE_PROB = range(3)
_MODE, _N_OBS, _LEVEL, _ALERT_SINCE = range(4)


class Level(StrEnum):
    """What a change-point row says to somebody who only wants to know whether to look."""

    WARMING = "warming"
    NONE = "none"
    ALERT = "alert"
    URGENT = "urgent"
    UNKNOWN = "unknown"


LEVELS: Final = tuple(Level)
"""Names of the codes in `ChangepointRows.level`."""
_WARMING, _NONE, _ALERT, _URGENT, _UNKNOWN = range(5)


def _density_factors() -> FloatArray:
    """Factor of the predictive density that depends on the run length alone, for runs 0..MAX_RUN - 1: alpha = 1 + r/2, kappa = 1 + r."""
    r = range(MAX_RUN)
    return np.array([math.exp(math.lgamma(1.5 + i / 2) - math.lgamma(1 + i / 2)) * math.sqrt((1 + i) / (2 + i) / math.tau) for i in r])


_FACTORS: Final = _density_factors()


@kernel
def _long_run_factor(alpha: float, kappa: float) -> float:
    """The same factor for alpha > 250: gamma(a + 1/2)/gamma(a) as a series in 1/a, whose error there is below float64's.

    The difference of two log-gammas would lose digits as the run grows: a hundredth of a percent after ten million bars.
    """
    i = 1.0 / alpha
    ratio = math.sqrt(alpha) * (1.0 + i * (-1.0 / 8.0 + i * (1.0 / 128.0 + i * (5.0 / 1024.0 - i * 21.0 / 32768.0))))
    return ratio * math.sqrt(kappa / (kappa + 1.0) / math.tau)


@kernel
def _observe(run: FloatArray, n_obs: int, x: float, weights: FloatArray) -> None:
    """Advance the run-length vector by one observation, in place.

    The predictive is Student's t with 2 alpha degrees of freedom; with q = kappa (x - mu)^2 / (2 beta (kappa + 1)) its density is
    factor(r) / sqrt(beta) * (1 + q)^-(alpha + 1/2), and beta (1 + q) is the next beta. The prior's heavy tail keeps the sum of the
    weights above zero for any |x| <= MAX_Z, so no logarithm of a probability is needed.
    """
    size = min(n_obs, MAX_RUN) + 1
    p, mu, kappa, alpha, beta = run[_P], run[_MU], run[_KAPPA], run[_ALPHA], run[_BETA]
    total = 0.0
    for r in range(size):
        d = x - mu[r]
        factor = _FACTORS[r] if r < MAX_RUN else _long_run_factor(alpha[r], kappa[r])
        tail = math.log1p(kappa[r] * d * d / (2.0 * (kappa[r] + 1.0) * beta[r]))
        weights[r] = p[r] * factor / math.sqrt(beta[r]) * math.exp(-(alpha[r] + 0.5) * tail)
        total += weights[r]
    scale = _KEEP / total
    overflow = 0.0
    if size > MAX_RUN:  # the oldest hypothesis stays in the last slot with its own statistics; its neighbour's mass joins it below
        overflow = weights[MAX_RUN] * scale
        _grow(run, MAX_RUN, MAX_RUN, x)
    for r in range(min(size, MAX_RUN) - 1, -1, -1):
        p[r + 1] = weights[r] * scale
        if r + 1 < MAX_RUN or size <= MAX_RUN:
            _grow(run, r, r + 1, x)
    p[MAX_RUN] += overflow
    p[0] = HAZARD
    mu[0] = 0.0
    kappa[0] = 1.0
    alpha[0] = 1.0
    beta[0] = 1.0


@kernel
def _grow(run: FloatArray, r: int, to: int, x: float) -> None:
    """Write into slot `to` what the statistics of slot r become after x (Murphy 2007)."""
    mu, kappa = run[_MU, r], run[_KAPPA, r]
    d = x - mu
    run[_BETA, to] = run[_BETA, r] + kappa * d * d / (2.0 * (kappa + 1.0))
    run[_MU, to] = (kappa * mu + x) / (kappa + 1.0)
    run[_KAPPA, to] = kappa + 1.0
    run[_ALPHA, to] = run[_ALPHA, r] + 0.5


@kernel
def _describe(p: FloatArray, n_obs: int, numbers: FloatArray, codes: IntArray) -> None:
    """Write young mass, expected run length, mode and its probability."""
    size = min(n_obs, MAX_RUN) + 1
    young = 0.0
    for r in range(min(size, YOUNG_RUNS)):
        young += p[r]
    expected = 0.0
    mode = 0
    for r in range(size):
        expected += r * p[r]
        if p[r] > p[mode]:
            mode = r
    # sums of a distribution may end a rounding above what a probability and a run length can be
    numbers[_CP_PROB] = min(young, 1.0)
    numbers[_EXPECTED] = min(expected, 1.0 * MAX_RUN)
    numbers[_MODE_PROB] = p[mode]
    codes[_MODE] = mode
    codes[_N_OBS] = n_obs


@kernel
def _set_to_prior(run: FloatArray) -> None:
    run[:] = 0.0
    run[_P, 0] = 1.0
    run[_KAPPA, 0] = 1.0
    run[_ALPHA, 0] = 1.0
    run[_BETA, 0] = 1.0


@kernel
def _advance(
    run: FloatArray, counts: IntArray, ts_s: IntArray, z: FloatArray, weights: FloatArray, numbers: FloatArray, codes: IntArray
) -> None:
    """Take every slot in turn. counts = (observations, missing slots in a row, start of the running alert), changed in place."""
    for i in range(z.size):
        if not np.isnan(z[i]):
            _observe(run, counts[0], z[i], weights)
            counts[0] += 1
            counts[1] = 0
        else:
            counts[1] += 1
            if counts[1] > RESET_AFTER_MISSING:
                _set_to_prior(run)
                counts[0] = 0
                counts[2] = NO_TIME
        row, code = numbers[i], codes[i]
        _describe(run[_P], counts[0], row, code)
        code[_ALERT_SINCE] = NO_TIME
        if np.isnan(z[i]):
            code[_LEVEL] = _UNKNOWN
            row[_CP_PROB] = np.nan
        elif counts[0] < WARM_UP:
            code[_LEVEL] = _WARMING
            row[_CP_PROB] = np.nan
        elif row[_CP_PROB] >= ALERT_PROB:
            code[_LEVEL] = _URGENT if row[_CP_PROB] >= URGENT_PROB else _ALERT
            if counts[2] == NO_TIME:
                counts[2] = ts_s[i]
            code[_ALERT_SINCE] = counts[2]
        else:
            code[_LEVEL] = _NONE
            counts[2] = NO_TIME


@kernel
def _standardise(close: FloatArray, returns: FloatArray, out: FloatArray, status: CodeArray) -> None:
    """Fill `out` with z and say why there is none; `returns` is room for the available returns, oldest first."""
    n = 0
    for t in range(close.size):
        out[t] = np.nan
        if t == 0 or not (close[t] > 0.0 and close[t - 1] > 0.0 and close[t] < np.inf and close[t - 1] < np.inf):
            status[t] = _MISSING_BAR
            continue
        new = math.log(close[t] / close[t - 1])
        first = max(0, n - Z_RETURNS)
        count = n - first
        status[t] = _SHORT_HISTORY
        if count >= Z_MIN_RETURNS:
            total = 0.0
            for k in range(first, n):
                total += returns[k]
            mean = total / count
            squares = 0.0
            for k in range(first, n):
                squares += (returns[k] - mean) * (returns[k] - mean)
            sd = math.sqrt(squares / (count - 1))
            status[t] = _NAN_FEATURE
            if sd >= Z_MIN_SD:
                out[t] = (new - mean) / sd
                status[t] = _OK
        returns[n] = new
        n += 1


def closes_by_slot(bars: OpinionBars, first_s: int, last_s: int) -> FloatArray:
    """Lay closes out on the slots from `first_s` to `last_s`, both included; NaN where there is no bar.

    Raises
    ------
    CallerError
        The slots are off the grid or `last_s` precedes `first_s`.
    """
    bar_s = bars.timeframe.seconds
    out = np.full(bars.count_slots(first_s, last_s), np.nan)
    inside = slice(*np.searchsorted(bars.ts_s, [first_s, last_s + bar_s]))
    out[(bars.ts_s[inside] - first_s) // bar_s] = bars.close[inside]
    return out


def standardise_returns(close: FloatArray) -> tuple[FloatArray, CodeArray]:
    """Measure each log return against the mean and deviation (ddof 1) of up to 500 available returns before it.

    Parameters
    ----------
    close : ndarray of shape (n_slots,)
        Closes on consecutive slots of one grid, oldest first (`closes_by_slot`); NaN, infinite or not positive where there is no
        bar. An incremental call hands over enough history for 500 returns before its first new slot (or all there is), else it
        differs from a batch.

    Returns
    -------
    z : ndarray of shape (n_slots,)
        NaN where there is none. Row t depends on slots up to t; scaling all prices changes nothing.
    status : ndarray of int8, shape (n_slots,)
        `Status.code`: ok; missing_bar where a slot or the one before has no bar; short_history where fewer than 100 returns came
        before; nan_feature where they did not move (deviation below 1e-12).

    Raises
    ------
    CallerError
        The closes are not one series.
    """
    if close.ndim != 1:
        raise CallerError(f"close had shape {close.shape}: hand over one series, shape (n_slots,)")
    out, status = np.empty(close.size), np.empty(close.size, dtype=np.int8)
    _standardise(np.ascontiguousarray(close, dtype=np.float64), np.empty(close.size), out, status)
    return out, status


@dataclass(frozen=True, slots=True, eq=False)
class ChangepointState:
    """All that the detector remembers of a series and timeframe after slot `ts_s`.

    Parameters
    ----------
    ts_s : int or None
        Open of the last slot taken, seconds; None before the first.
    n_obs : int
        Observations since the start or the last reset.
    missing_run : int
        Missing slots in a row up to `ts_s`; the state falls back to the prior when they exceed 500.
    alert_since_s : int or None
        First bar of the unbroken run of bars at alert or above. A missing slot neither breaks nor lengthens it.
    run : ndarray of shape (5, 501)
        Probability, mu, kappa, alpha, beta of run lengths 0..500, read-only; only the first min(n_obs, 500) + 1 columns have a meaning.
    """

    ts_s: int | None
    n_obs: int
    missing_run: int
    alert_since_s: int | None
    run: FloatArray

    def __post_init__(self) -> None:
        self.run.flags.writeable = False  # a step copies it; who keeps a state keeps what it was

    def to_bytes(self) -> tuple[bytes, bytes, bytes, bytes, bytes]:
        """Little-endian float64 of run_p, mu, kappa, alpha, beta, each min(n_obs, 500) + 1 values long."""
        rows = self.run[:, : min(self.n_obs, MAX_RUN) + 1].astype("<f8")
        return rows[0].tobytes(), rows[1].tobytes(), rows[2].tobytes(), rows[3].tobytes(), rows[4].tobytes()


def new_changepoint_state() -> ChangepointState:
    """State before the first slot: run length 0 for certain, the prior's statistics."""
    run = np.empty((_FIELDS, MAX_RUN + 1))
    _set_to_prior(run)
    return ChangepointState(None, 0, 0, None, run)


def restore_changepoint_state(
    ts_s: int, n_obs: int, missing_run: int, alert_since_s: int | None, arrays: tuple[bytes, bytes, bytes, bytes, bytes]
) -> ChangepointState:
    """Read back what `to_bytes` wrote.

    Raises
    ------
    CallerError
        The arrays are not five of min(n_obs, 500) + 1 values, or the probabilities are not a distribution: rebuild it by replay.
    """
    size = min(n_obs, MAX_RUN) + 1
    rows = [np.frombuffer(raw, dtype="<f8") for raw in arrays]
    if n_obs < 0 or missing_run < 0 or [row.size for row in rows] != [size] * _FIELDS:
        raise CallerError(
            f"change-point state at {ts_s}: arrays held {[row.size for row in rows]} values, {n_obs} observations need {size} in each"
        )
    if not (np.isfinite(rows).all() and abs(rows[_P].sum() - 1.0) <= 1e-6 and rows[_P].min() >= 0.0):
        raise CallerError(
            f"change-point state at {ts_s}: run lengths are no distribution (sum {rows[_P].sum()!r}); delete it and replay the stored z"
        )
    run = np.empty((_FIELDS, MAX_RUN + 1))
    _set_to_prior(run)
    for field, row in enumerate(rows):
        run[field, :size] = row
    return ChangepointState(ts_s, n_obs, missing_run, alert_since_s, run)


# Compiled, since numpy's own calls would cost a live bar more than its arithmetic does.
@kernel
def _are_consecutive(ts_s: IntArray, bar_s: int) -> bool:
    for i in range(ts_s.size):  # noqa: SIM110  # a generator does not compile
        if ts_s[i] % bar_s != 0 or (i > 0 and ts_s[i] - ts_s[i - 1] != bar_s):
            return False
    return True


@kernel
def _are_bounded(z: FloatArray) -> bool:
    for x in z:  # noqa: SIM110
        if abs(x) > MAX_Z:
            return False
    return True


@dataclass(frozen=True, slots=True, eq=False)
class ChangepointRows:
    """One row per slot, arrays of shape (n_slots,).

    `z` and `cp_prob` are NaN on a missing observation, `cp_prob` also while warming up; `expected_run`, `run_mode`, `mode_prob` and
    `n_obs` describe the state after the slot. `level` indexes `LEVELS`; `alert_since_s` is NO_TIME unless the level is an alert.
    """

    ts_s: IntArray
    z: FloatArray
    cp_prob: FloatArray
    expected_run: FloatArray
    run_mode: IntArray
    mode_prob: FloatArray
    n_obs: IntArray
    level: IntArray
    alert_since_s: IntArray


def advance_changepoints(state: ChangepointState, ts_s: IntArray, z: FloatArray, bar_s: int) -> tuple[ChangepointRows, ChangepointState]:
    """Take the slots after `state` and say for each how likely a change within the last ten bars is.

    Parameters
    ----------
    state : ChangepointState
        After the slot before `ts_s[0]`; it is not changed.
    ts_s : ndarray of int64, shape (n_slots,)
        Opens of consecutive slots, seconds, missing ones included.
    z : ndarray of shape (n_slots,)
        `standardise_returns`, or the stored z in a replay; NaN where missing. Raw returns do not fit the prior.
    bar_s : int
        Slot length, seconds.

    Raises
    ------
    CallerError
        Lengths differ, slots are not consecutive or do not follow the state, or a z is infinite or beyond 1e50.
    """
    if ts_s.shape != z.shape or ts_s.ndim != 1:
        raise CallerError(f"ts_s had shape {ts_s.shape} and z {z.shape}: hand over one z per slot, NaN where missing")
    if bar_s <= 0 or not _are_consecutive(ts_s, bar_s):
        raise CallerError(f"slots must be consecutive multiples of {bar_s} s, missing ones included with z NaN")
    if ts_s.size and state.ts_s is not None and ts_s[0] != state.ts_s + bar_s:
        raise CallerError(f"first slot was {ts_s[0]}, the state ends at {state.ts_s}: continue at {state.ts_s + bar_s}")
    if not _are_bounded(z):
        raise CallerError("a z was infinite or beyond 1e50: hand over standardised returns, NaN where there is none")
    run = state.run.copy()
    counts = np.array([state.n_obs, state.missing_run, NO_TIME if state.alert_since_s is None else state.alert_since_s])
    numbers, codes = np.empty((z.size, 3)), np.empty((z.size, 4), dtype=np.int64)
    _advance(run, counts, ts_s, z, np.empty(MAX_RUN + 1), numbers, codes)
    rows = ChangepointRows(
        ts_s=ts_s,
        z=z,
        cp_prob=numbers[:, _CP_PROB],
        expected_run=numbers[:, _EXPECTED],
        run_mode=codes[:, _MODE],
        mode_prob=numbers[:, _MODE_PROB],
        n_obs=codes[:, _N_OBS],
        level=codes[:, _LEVEL],
        alert_since_s=codes[:, _ALERT_SINCE],
    )
    last_s = int(ts_s[-1]) if ts_s.size else state.ts_s
    return rows, ChangepointState(last_s, int(counts[0]), int(counts[1]), None if counts[2] == NO_TIME else int(counts[2]), run)
