"""Questions whose answers tell whether all is well."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports.feeds import Halt, Heartbeat


@dataclass(frozen=True, slots=True)
class DriverAge:
    """How far a driver is on a timeframe: opens of its newest bar and state (None: none yet), the score of that bar (None: none)."""

    driver: str
    timeframe: Timeframe
    bar_s: int | None
    state_s: int | None
    validity: float | None


@dataclass(frozen=True, slots=True)
class Refusals:
    """Bars of a venue that went to quarantine: in the last hour, an hour on average of the day before, and the most frequent reason."""

    source: str
    last_hour: int
    usual_per_hour: float
    reason: str


@dataclass(frozen=True, slots=True)
class OpenGaps:
    """Bars of a timeframe that are missing and still asked for."""

    timeframe: Timeframe
    n_bars: int
    n_series: int
    worst_series: str
    oldest_s: int


@dataclass(frozen=True, slots=True)
class CallBudget:
    """Calls to a vendor in the current calendar month (UTC)."""

    vendor: str
    used: int


@dataclass(frozen=True, slots=True)
class SilentFlag:
    """A flag of the engine that no bar of a series has had for long: how many bars, and since which bar."""

    series: str
    flag: str
    n_bars: int
    since_s: int


class HealthStore(Protocol):
    """Questions whose answers tell whether all is well; every call is a transaction of its own that only reads."""

    def load_driver_ages(self) -> Sequence[DriverAge]:
        """Load how far all drivers are on all regime timeframes."""
        ...

    def load_birth_s(self) -> int:
        """Load when this database got its first table."""
        ...

    def load_refusals(self, now_s: int) -> Sequence[Refusals]:
        """Load the venues of which bars were refused within the last hour."""
        ...

    def load_open_gaps(self, seen_before_s: int) -> Sequence[OpenGaps]:
        """Load what is missing, seen before then, and not given up."""
        ...

    def load_budgets(self, now_s: int) -> Sequence[CallBudget]:
        """Load the calls of the month."""
        ...

    def load_halts(self, now_s: int) -> Mapping[str, Halt]:
        """Load the venues that are halted at `now_s`."""
        ...

    def load_heartbeats(self, instance: str) -> Sequence[Heartbeat]:
        """Load the heartbeats of this instance's collector; none when none ever ran."""
        ...

    def find_silent_flags(self, timeframe: Timeframe, n_bars: int) -> Sequence[SilentFlag]:
        """Find flags that the newest `n_bars` bars of a series lack; shorter series are not judged. Slow: not for every minute."""
        ...


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """Finished runs of a job: the newest failure with its error, how many there were since the last success, and when that was."""

    job: str
    failed_s: int
    run_id: str
    error: str
    failures: int
    succeeded_s: int | None


@dataclass(frozen=True, slots=True)
class FailedCheck:
    """A check of severity ERROR whose newest verdict is that it failed."""

    table: str
    check: str
    run_id: str
    failed_s: int
    n_faults: int | None


class Scheduler(Protocol):
    """What Dagster knows about its own health."""

    def load_failing_jobs(self, since_s: int) -> Sequence[JobOutcome]:
        """Load the jobs whose newest finished run failed, or that failed since then."""
        ...

    def load_failed_checks(self) -> Sequence[FailedCheck]:
        """Load the checks that have failed last."""
        ...

    def load_daemon_beats(self) -> Mapping[str, int]:
        """Load when each daemon of the instance last gave a sign; one that never did is absent."""
        ...

    def load_size_bytes(self) -> int:
        """Load the size of its database."""
        ...
