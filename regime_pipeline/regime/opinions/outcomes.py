"""What followed an instant and how sure one can be of it: forward returns and volatility, t values, bounds, rank correlation."""

from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from regime_pipeline.errors import CallerError
from regime_pipeline.regime.opinions.terms import FloatArray, IntArray

HOUR_S: Final = 3600
TRAILING_H: Final = 24
MIN_EFFECTIVE: Final = 30.0
TWO_SIDED: Final = 0.025


def compute_bound(m_tests: int) -> float:
    """Compute the |t| that m tests together exceed by chance in at most 5 % of cases: Phi^-1(1 - 0.025 / m).

    Raises
    ------
    CallerError
        When there is no test.
    """
    if m_tests < 1:
        raise CallerError(f"number of tests was {m_tests}, must be 1 or more. Without a test there is no bound.")
    return NormalDist().inv_cdf(1.0 - TWO_SIDED / m_tests)


def compute_t(values: FloatArray, mean_of_all: float, horizon_h: int, min_effective: float = MIN_EFFECTIVE) -> float | None:
    """Compute t of a mean against the mean of all hours, with n / h effective observations.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Forward returns of the class, finite.
    mean_of_all : float
        Mean forward return of all hours.
    horizon_h : int
        Hours that each return spans.
    min_effective : float
        Fewer effective observations give None, as values that do not vary do.
    """
    n_eff = values.size / horizon_h
    if n_eff < min_effective or values.size < 2:
        return None
    sd = float(values.std(ddof=1))
    return (float(values.mean()) - mean_of_all) / (sd / n_eff**0.5) if sd > 0 else None


def rank_correlation(a: FloatArray, b: FloatArray) -> float | None:
    """Compute the correlation of ranks, ties sharing their mean (Spearman 1904); None when one does not vary."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    da, db = ranks_a - ranks_a.mean(), ranks_b - ranks_b.mean()
    scale = float(np.sqrt((da * da).sum() * (db * db).sum()))
    return float((da * db).sum()) / scale if scale > 0 else None


def forward_returns(close_ts_s: IntArray, close: FloatArray, ts_s: IntArray, horizon_h: int) -> FloatArray:
    """Log return from each instant to `horizon_h` hours later, shape (n,); NaN where one of the two closes is absent."""
    start, end = (_closes_at(close_ts_s, close, ts_s + shift * HOUR_S) for shift in (0, horizon_h))
    return np.log(end / start)


def trailing_volatility(close_ts_s: IntArray, close: FloatArray, ts_s: IntArray, hours: int = TRAILING_H) -> FloatArray:
    """Deviation (ddof 1) of the hourly log returns of the last hours before each instant, shape (n,); NaN where one is absent."""
    return _deviation(close_ts_s, close, ts_s - hours * HOUR_S, hours)


def forward_volatility(close_ts_s: IntArray, close: FloatArray, ts_s: IntArray, hours: int) -> FloatArray:
    """Deviation (ddof 1) of the hourly log returns of the next hours after each instant, shape (n,); NaN where one is absent."""
    return _deviation(close_ts_s, close, ts_s, hours)


def _closes_at(close_ts_s: IntArray, close: FloatArray, ts_s: IntArray) -> FloatArray:
    out = np.full(ts_s.size, np.nan)
    if close.size:
        at = np.minimum(np.searchsorted(close_ts_s, ts_s), close.size - 1)
        found = close_ts_s[at] == ts_s
        out[found] = close[at[found]]
    return out


def _deviation(close_ts_s: IntArray, close: FloatArray, start_s: IntArray, hours: int) -> FloatArray:
    if not start_s.size:
        return np.empty(0)
    grid_s = np.arange(start_s[0], start_s[-1] + (hours + 1) * HOUR_S, HOUR_S)
    returns = np.diff(np.log(_closes_at(close_ts_s, close, grid_s)))
    deviations: FloatArray = sliding_window_view(returns, hours).std(axis=1, ddof=1)
    return deviations[(start_s - start_s[0]) // HOUR_S]


def _ranks(values: FloatArray) -> FloatArray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_rank: FloatArray = (ends - 0.5 * (counts - 1))[place]
    return mean_rank
