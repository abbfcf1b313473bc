"""Bar lengths: the six timeframes, their grid in epoch seconds and the grace after a bar's end."""

from datetime import timedelta
from enum import StrEnum
from typing import Final


class Timeframe(StrEnum):
    """Length of a bar; every grid starts at the epoch, so days open at 00:00 UTC."""

    M1 = "1m"
    M5 = "5m"
    M15 = "15m"
    H1 = "1h"
    H4 = "4h"
    D1 = "1d"

    @property
    def minutes(self) -> int:
        """Length in minutes."""
        return _MINUTES[self.value]

    @property
    def seconds(self) -> int:
        """Length in seconds."""
        return 60 * self.minutes

    @property
    def length(self) -> timedelta:
        """Length as a duration."""
        return timedelta(minutes=self.minutes)

    @property
    def grace_s(self) -> int:
        """Seconds after a bar's end before it may be written: venues publish late."""
        return 5 if self is Timeframe.M1 else 60

    def floor(self, ts_s: int) -> int:
        """Open time of the bar that contains the instant `ts_s`, in epoch seconds."""
        return ts_s - ts_s % self.seconds

    def is_aligned(self, ts_s: int) -> bool:
        """Tell whether `ts_s` is the open time of a bar."""
        return ts_s % self.seconds == 0

    def last_closed(self, now_s: int) -> int:
        """Open time of the newest bar that may be written at `now_s`: its end and its grace have passed."""
        return self.floor(now_s - self.grace_s) - self.seconds


_MINUTES: Final = {"1m": 1, "5m": 5, "15m": 15, "1h": 60, "4h": 240, "1d": 1440}

REGIME_TIMEFRAMES: Final = (Timeframe.M1, Timeframe.H1, Timeframe.D1)
HORIZONS: Final = {Timeframe.M1: "micro", Timeframe.H1: "meso", Timeframe.D1: "macro"}
