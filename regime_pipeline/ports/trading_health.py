"""Questions whose answers tell whether the order path is well."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from regime_pipeline.risk.kill_switch import Switch


@dataclass(frozen=True, slots=True)
class ExecutorBeat:
    """When the executor of an account last gave a sign of life, epoch seconds."""

    account: str
    at_s: int


@dataclass(frozen=True, slots=True)
class StuckOrder:
    """An order of which the venue has not said what became of it, since when."""

    client_order_id: str
    account: str
    symbol: str
    since_s: int


@dataclass(frozen=True, slots=True)
class ReconState:
    """The newest comparison of an account with its venue.

    Parameters
    ----------
    kind, status : str
        `orders` or `full` (a start-up counts as full); ok, findings or unknown.
    ended_s, clean_s : int, int or None
        When it ended, and when the last clean one of its kind did.
    tiers, what : tuple of str, str
        Tiers above dust that it found, worst first, and what it found or could not read, in words.
    """

    account: str
    kind: str
    status: str
    ended_s: int
    clean_s: int | None
    tiers: tuple[str, ...]
    what: str


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """A critical incident that nobody has closed; `is_acked` when a person knows of it."""

    incident_id: int
    kind: str
    scope: str
    opened_s: int
    repeats: int
    is_acked: bool


@dataclass(frozen=True, slots=True)
class StuckNote:
    """Rows of the outbox of a kind that nobody has dealt with: how many, and since when the oldest waits."""

    kind: str
    account: str
    n_rows: int
    since_s: int


@dataclass(frozen=True, slots=True)
class AgreedHold:
    """A code that every decision line of a strategy had, without an exception, over a whole span of decisions."""

    account: str
    strategy: str
    code: str
    n_lines: int
    first_s: int


class TradingHealth(Protocol):
    """Questions about the order path; every call is a transaction of its own that only reads."""

    def load_kill_levels(self) -> Sequence[Switch]:
        """Load the kill levels in force in the table, of every account."""
        ...

    def load_executor_beats(self) -> Sequence[ExecutorBeat]:
        """Load the last sign of life of each executor that ever ran."""
        ...

    def find_unknown_orders(self, before_s: int) -> Sequence[StuckOrder]:
        """Find orders that have been UNKNOWN since before an instant, oldest first."""
        ...

    def load_recon_states(self) -> Sequence[ReconState]:
        """Load the newest pass of each account and kind."""
        ...

    def load_critical_incidents(self) -> Sequence[OpenIncident]:
        """Load the critical incidents that are open, oldest first."""
        ...

    def find_stuck_notes(self, kill_before_s: int, any_before_s: int) -> Sequence[StuckNote]:
        """Find rows of the outbox that are open since before an instant: KILL since the first, any since the second."""
        ...

    def find_agreed_holds(self, since_s: int) -> Sequence[AgreedHold]:
        """Find codes that all lines of all decisions on bars closed since an instant had."""
        ...
