"""What consumers read of the second opinions: the snapshot in force, and the snapshots behind it."""

from collections.abc import Sequence

from regime_pipeline.ports import AttemptRow, SnapshotRow, Work
from regime_pipeline.regime.opinions.snapshot import RegimeSnapshot, snapshot_in_force
from regime_pipeline.regime.opinions.terms import SERIES, check_series


def latest_snapshot(work: Work, series: str, at_s: int) -> RegimeSnapshot:
    """Return the newest snapshot at or before an instant; UNKNOWN when there is none or it is more than 180 s old.

    Raises
    ------
    CallerError
        When the series is none of the six.
    """
    check_series(series)
    newest = work.snapshots.load_newest(series, at_s)
    return snapshot_in_force(None if newest is None else newest.snapshot, series, at_s)


def latest_snapshots(work: Work, at_s: int) -> dict[str, RegimeSnapshot]:
    """Return what is in force at an instant, by series."""
    return {series: latest_snapshot(work, series, at_s) for series in SERIES}


def load_snapshots(work: Work, series: str, first_s: int, last_s: int, every_s: int) -> list[SnapshotRow]:
    """Load the stored snapshots of a series from one instant to another, each `every_s` seconds.

    Raises
    ------
    CallerError
        When the series is none of the six.
    """
    check_series(series)
    return work.snapshots.load_range(series, first_s, last_s, every_s)


def load_models(work: Work, limit: int, *, newest_only: bool) -> Sequence[AttemptRow]:
    """Load the fits, newest first."""
    return work.opinions.load_attempts(limit, newest_only=newest_only)
