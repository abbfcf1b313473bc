"""The only wall clock of the product; everything else is handed a time or takes a `Clock`."""

from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic as _monotonic

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Read the wall clock as an aware UTC datetime."""
    return datetime.now(UTC)


def monotonic_s() -> float:
    """Read the monotonic clock in seconds: for durations, never for stamps."""
    return _monotonic()


def now_s() -> int:
    """Read the wall clock as whole epoch seconds."""
    return int(utc_now().timestamp())
