"""What reconciliation keeps: its passes and findings, incidents, and who of the order path is alive."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from regime_pipeline.ports.alerts import Severity
from regime_pipeline.ports.broker import Listing


class PassKind(StrEnum):
    """What a pass compares."""

    ORDERS = "orders"  # orders and fills, each minute
    FULL = "full"  # positions, balances, cash and funding too, each five minutes
    STARTUP = "startup"


class PassStatus(StrEnum):
    """What a pass came to; unknown is never a match."""

    OK = "ok"
    FINDINGS = "findings"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ReconFinding:
    """A difference between our book and the venue.

    Parameters
    ----------
    check, scope : str
        What was compared (order, fill, position, cash, funding), and of what: an order, a symbol or an asset.
    tier : str
        dust, small, medium, large, or warning where no quantity is compared.
    expected, actual, diff, drift_frac : Decimal or None
        By our ledger, by the venue, their difference without sign, and that over the larger side.
    action : str
        What it stopped; empty when it is only recorded.
    repeats : int
        Passes in a row that found the same.
    """

    check: str
    scope: str
    tier: str
    expected: Decimal | None = None
    actual: Decimal | None = None
    diff: Decimal | None = None
    drift_frac: Decimal | None = None
    action: str = ""
    repeats: int = 1
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReconRun:
    """A pass; instants on the venue-corrected clock, `run_id` 0 before it is stored."""

    account: str
    kind: PassKind
    status: PassStatus
    began_ms: int
    ended_ms: int
    findings: tuple[ReconFinding, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)
    run_id: int = 0


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that went wrong on the order path; one row per kind and scope is open at a time, `repeats` counts the rest."""

    incident_id: int
    kind: str
    severity: Severity
    scope: str
    evidence: Mapping[str, Any]
    runbook: str
    opened_ms: int
    repeats: int = 0
    acked_by: str | None = None
    closed_by: str | None = None
    closed_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TradingBeat:
    """A sign of life of a process of the order path, on the wall clock."""

    process: str
    account: str
    at_ms: int
    pid: int
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GuardedPosition:
    """A position with an open trade, as its stop is worked out from it.

    Parameters
    ----------
    average : Decimal
        Average entry of the open trade, quote.
    planned : tuple of (Decimal, Decimal or None)
        Filled quantity and planned stop of each entry of the trade.
    bar_close_s : int
        Close of the bar that the newest filled entry was decided on: the stop's orders are named after it.
    entered_ms : int
        The newest fill of an entry, by the venue's time: what the price did before is not for the stop.
    """

    position_id: int
    contract: str
    chain: str
    timeframe: str
    trade_id: UUID
    average: Decimal
    planned: tuple[tuple[Decimal, Decimal | None], ...]
    bar_close_s: int
    entered_ms: int
    decision_id: UUID | None = None


class ReconStore(Protocol):
    """Tables reconciliation_runs, reconciliation_findings, incidents and trading_heartbeats."""

    def add_run(self, run: ReconRun) -> int:
        """Write a pass with its findings; returns its number."""
        ...

    def load_runs(self, account: str, kind: PassKind | None = None, limit: int = 2) -> list[ReconRun]:
        """Load the newest passes with their findings, newest first."""
        ...

    def load_last_ok_ms(self, account: str, kind: PassKind) -> int | None:
        """End of the newest pass of a kind that was clean; None before the first."""
        ...

    def open_incident(self, kind: str, severity: Severity, scope: str, evidence: Mapping[str, Any], runbook: str) -> Incident:
        """Open an incident, or count a repetition of the open one: the first evidence stays, the severity may rise."""
        ...

    def close_incidents(self, kind: str, scope: str, closed_by: str) -> int:
        """Close the open incident of a kind and scope; returns how many that were, 0 or 1."""
        ...

    def ack_incident(self, incident_id: int, by: str) -> bool:
        """Record who knows of it, once; False when there is no such incident."""
        ...

    def load_incidents(self, *, with_closed: bool = False, limit: int = 100) -> list[Incident]:
        """Load incidents, newest first."""
        ...

    def load_symbols(self, account: str, since_ms: int) -> list[str]:
        """Load the symbols with a live order, or with an order written since an instant."""
        ...

    def load_fill_cursors(self, account: str, symbols: Collection[str]) -> dict[str, int]:
        """Load where to ask for trades from, epoch milliseconds by symbol that has one.

        That is the newest known, or an older one of the last seven days before it whose fee the venue has not said yet.
        """
        ...

    def load_strategies(self, account: str) -> list[str]:
        """Load the strategies that ever ordered for an account."""
        ...

    def save_listings(self, venue: str, listings: Mapping[str, Listing], now_ms: int) -> None:
        """Keep rules and fees as the venue says them now; what it does not list any more becomes inactive, where it lists anything."""
        ...

    def load_durability(self) -> dict[str, str]:
        """Load the settings of the server without which a commit is no promise: fsync, synchronous_commit, full_page_writes."""
        ...

    def load_guarded(self, account: str, book_id: str) -> list[GuardedPosition]:
        """Load the positions of a book whose open trade has a filled entry in an account."""
        ...

    def load_children(self, account: str, strategy: str, symbol: str, bar_close_s: int, leg: str) -> list[tuple[str, int, str]]:
        """Load client order id, seq and state of every order of a logical key, first child first."""
        ...

    def find_action(self, position_id: int, bar_ts_s: int) -> int | None:
        """Find the action of a position on a bar."""
        ...

    def load_tariffs(self, venue: str) -> dict[str, tuple[Decimal, Decimal]]:
        """Load maker and taker fee in bps by symbol."""
        ...

    def beat(self, beat: TradingBeat) -> None:
        """Record a sign of life; one that is older than what is recorded changes nothing."""
        ...

    def load_beats(self) -> Sequence[TradingBeat]:
        """Load the last sign of life of every process."""
        ...


class OrderListener(Protocol):
    """Hears that something is due: an intent, a cancel or a kill level was committed."""

    def wait(self, timeout_s: float) -> bool:
        """Wait until something is told, or was told since the last wait; False when nothing was within the time.

        Raises
        ------
        DatabaseError
            When the server cannot be reached or went away: what was told meanwhile is lost, so the caller looks for itself.
        """
        ...
