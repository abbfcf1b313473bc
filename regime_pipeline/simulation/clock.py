"""Time as the simulated venue has it: a fixed start, real pace or faster, or standing still until it is moved."""

from datetime import UTC, datetime
from threading import Lock

from regime_pipeline.clock import monotonic_s
from regime_pipeline.errors import BadInputError


class VirtualClock:
    """A clock that can be read from any thread; `now` is a `Clock`."""

    def __init__(self, start_s: float, speed: float = 1.0) -> None:
        """Start at an instant.

        Parameters
        ----------
        start_s : float
            Epoch seconds shown at this moment.
        speed : float
            Virtual seconds per real second; 0 stands still until `advance`.

        Raises
        ------
        BadInputError
            When the speed is negative: time never runs backwards.
        """
        self._lock = Lock()
        self._base_s, self._speed = float(start_s), _checked(speed)
        self._read_at_s = monotonic_s()
        self.start_s = float(start_s)

    @property
    def speed(self) -> float:
        """Virtual seconds per real second."""
        return self._speed

    def now_s(self) -> float:
        """Read the clock as epoch seconds."""
        with self._lock:
            return self._now_s()

    def now(self) -> datetime:
        """Read the clock as an aware UTC datetime."""
        return datetime.fromtimestamp(self.now_s(), UTC)

    def set_speed(self, speed: float) -> None:
        """Go on at another speed from this moment.

        Raises
        ------
        BadInputError
            When the speed is negative.
        """
        with self._lock:
            self._base_s, self._speed, self._read_at_s = self._now_s(), _checked(speed), monotonic_s()

    def advance(self, seconds: float) -> None:
        """Move the clock forward at once.

        Raises
        ------
        BadInputError
            When asked to go back.
        """
        if seconds < 0:
            raise BadInputError(f"clock was asked to move by {seconds:g} s: it only goes forward. Start another one.")
        with self._lock:
            self._base_s += seconds

    def _now_s(self) -> float:
        return self._base_s + (monotonic_s() - self._read_at_s) * self._speed


def _checked(speed: float) -> float:
    if speed < 0:
        raise BadInputError(f"clock speed was {speed:g}: it must be 0 or more. Give virtual seconds per real second.")
    return float(speed)
