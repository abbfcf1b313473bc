"""Volatility over time, for the halt: returns on the grid of the bars, and the median of what they usually do."""

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.risk.limits import ProtectionSettings


def spread_returns(ts_s: NDArray[np.int64], close: NDArray[np.float64], length_s: int) -> NDArray[np.float64]:
    """Log returns on the grid from the first bar to the last.

    Parameters
    ----------
    ts_s : ndarray of shape (n,)
        Open times, ascending, multiples of `length_s` apart, n > 0.
    close : ndarray of shape (n,)
        Closes, > 0.

    Returns
    -------
    ndarray of shape (number of grid steps,)
        NaN wherever one of the two bars is missing: a move over a hole is no return of one bar.
    """
    slots = np.full((int(ts_s[-1]) - int(ts_s[0])) // length_s + 1, np.nan)
    slots[(ts_s - ts_s[0]) // length_s] = close
    returns: NDArray[np.float64] = np.diff(np.log(slots))
    return returns


def compute_median_volatility(returns: NDArray[np.float64], settings: ProtectionSettings) -> float:
    """Median of the standard deviations of all windows of returns that have enough of them; NaN when none has."""
    n = settings.volatility_returns
    if len(returns) < n:
        return float("nan")
    windows = np.lib.stride_tricks.sliding_window_view(returns, n)
    enough = windows[np.count_nonzero(~np.isnan(windows), axis=1) >= settings.volatility_min_returns]
    return float(np.median(np.nanstd(enough, axis=1, ddof=1))) if len(enough) else float("nan")
