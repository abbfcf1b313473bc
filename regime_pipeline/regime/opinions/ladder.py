"""Which stored row counts at an instant, and what stands in its place when none does (specification 11.1 and 14).

A row may be read from its close plus a delay on, and is fresh up to a limit; past it the answer is unknown, never the last known one.
"""

import numpy as np

from regime_pipeline.errors import CallerError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.hmm_filter import Opinion, unknown_opinion
from regime_pipeline.regime.opinions.terms import IntArray, Status, terms_of


def visible_rows(bar_ts_s: IntArray, timeframe: Timeframe, snapshot_s: IntArray) -> IntArray:
    """Find for each snapshot the newest row that it may read.

    Parameters
    ----------
    bar_ts_s : ndarray of int64, shape (n_rows,)
        Bar opens of the stored rows, ascending, epoch seconds.
    timeframe : Timeframe
        1m, 15m or 1h.
    snapshot_s : ndarray of int64, shape (n_snapshots,)
        Instants, epoch seconds.

    Returns
    -------
    ndarray of int64, shape (n_snapshots,)
        Index of the newest row whose close lies at least the visibility delay before the instant; -1 for none.
    """
    newest_s = snapshot_s - terms_of(timeframe).visibility_delay_s - timeframe.seconds
    return np.searchsorted(bar_ts_s, newest_s, side="right") - 1


def age_s(bar_ts_s: int | None, timeframe: Timeframe, snapshot_s: int) -> int | None:
    """Compute the seconds from a row's close to an instant; None without a row.

    Raises
    ------
    CallerError
        The row may not be read yet at that instant.
    """
    if bar_ts_s is None:
        return None
    age = snapshot_s - bar_ts_s - timeframe.seconds
    if age < terms_of(timeframe).visibility_delay_s:
        raise CallerError(
            f"{timeframe} row {bar_ts_s} was handed to the snapshot of {snapshot_s}, {age} s after its close; it may be read"
            f" {terms_of(timeframe).visibility_delay_s} s after it. Choose rows with visible_rows."
        )
    return age


def is_fresh(bar_ts_s: int | None, timeframe: Timeframe, snapshot_s: int) -> bool:
    """Tell whether a row still counts: its age is at most the freshness limit."""
    age = age_s(bar_ts_s, timeframe, snapshot_s)
    return age is not None and age <= terms_of(timeframe).freshness_s


def opinion_in_force(newest: Opinion | None, timeframe: Timeframe, snapshot_s: int) -> Opinion:
    """Return the newest visible opinion, known or not, or UNKNOWN `stale` where there is none or it is too old."""
    if newest is not None and is_fresh(newest.ts_s, timeframe, snapshot_s):
        return newest
    return unknown_opinion(snapshot_s if newest is None else newest.ts_s, Status.STALE)
