"""Whether a venue may be asked now: halts that everybody keeps to, and short rests of this process after failures in a row."""

from collections.abc import Iterable
from math import ceil
from typing import Final

from regime_pipeline.adapters.venues.answers import StayAwayError, TryAgainError, show_ms
from regime_pipeline.clock import Clock
from regime_pipeline.errors import SourceUnavailableError, VenueHaltedError
from regime_pipeline.ports import Halt, VenueLedger

HALTS_FRESH_S: Final = 5
"""The ledger is asked again after this long: a step puts the question once per series."""
REST_AFTER: Final = 2
"""Failed questions in a row after which a venue is left alone for a while: a minute of thirty series must not wait for thirty time-outs."""
REST_S: Final = 30


class Door:
    """Keeps halts (in the ledger) and rests (here) of venues and vendors."""

    def __init__(self, ledger: VenueLedger, clock: Clock) -> None:
        self._ledger, self._clock = ledger, clock
        self._halts: dict[str, Halt] = {}
        self._halts_until_s = 0
        self._failures: dict[str, int] = {}
        self._rests_until_s: dict[str, int] = {}

    def open_ones(self, names: Iterable[str]) -> list[str]:
        """List those that may be asked now, in their order."""
        now_s = self._now_s()
        halts = self._load(now_s)
        return [name for name in names if name not in halts and now_s >= self._rests_until_s.get(name, now_s)]

    def check(self, name: str) -> None:
        """Pass a venue that may be asked now.

        Raises
        ------
        VenueHaltedError
            While the ledger says so.
        SourceUnavailableError
            While it rests.
        """
        now_s = self._now_s()
        halt = self._load(now_s).get(name)
        if halt is not None:
            raise VenueHaltedError(_explain(name, halt))
        if now_s < self._rests_until_s.get(name, now_s):
            raise SourceUnavailableError(f"{name} has failed {REST_AFTER} times in a row; it is asked again within {REST_S} s.")

    def note_answer(self, name: str) -> None:
        """Forget earlier failures."""
        self._failures.pop(name, None)

    def note_failure(self, name: str, error: TryAgainError) -> None:
        """Count a failure; a venue that wants fewer requests is halted for as long as it said, one that fails in a row rests."""
        now_s = self._now_s()
        if error.is_slow_down and (wait_s := ceil(error.wait_s or 0.0)) > 0:
            self._halt(name, Halt(str(error), now_s, now_s + wait_s))
            return
        self._failures[name] = self._failures.get(name, 0) + 1
        if self._failures[name] >= REST_AFTER:
            self._failures[name] = 0
            self._rests_until_s[name] = now_s + REST_S

    def halt(self, name: str, error: StayAwayError) -> VenueHaltedError:
        """Leave a venue alone, and build the error that says so."""
        now_s = self._now_s()
        halt = Halt(str(error), now_s, None if error.halt_s is None else now_s + max(1, ceil(error.halt_s)))
        self._halt(name, halt)
        return VenueHaltedError(_explain(name, halt))

    def _halt(self, name: str, halt: Halt) -> None:
        self._ledger.halt(name, halt)
        self._halts_until_s = 0

    def _load(self, now_s: int) -> dict[str, Halt]:
        if now_s >= self._halts_until_s:
            self._halts = dict(self._ledger.load_halts(now_s))
            self._halts_until_s = now_s + HALTS_FRESH_S
        return self._halts

    def _now_s(self) -> int:
        return int(self._clock().timestamp())


def _explain(name: str, halt: Halt) -> str:
    if halt.until_s is None:
        return f"{name} is halted: {halt.reason}. When that is settled, run `regime venues resume {name}`."
    until = show_ms(halt.until_s * 1000)
    return f"{name} is halted until {until} UTC: {halt.reason}. It resumes by itself, or by `regime venues resume {name}`."
