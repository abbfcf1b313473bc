"""The decision journal: what was known, planned, refused and ordered, and every run of the tick."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision to be written; `inputs`, `levers` and `plan` are canonical JSON texts.

    Parameters
    ----------
    lease_token : int
        Fencing token of the lease it is written under.
    decided_at_s : int or None
        When it was decided, epoch seconds; None: by the clock of the database.
    """

    decision_id: UUID
    account: str
    strategy: str
    bar_close_s: int
    inputs_hash: str
    inputs: str
    levers: str
    plan: str
    plan_hash: str
    config_hash: str
    code_version: str
    lease_token: int
    codes: tuple[str, ...] = ()
    decided_at_s: int | None = None


@dataclass(frozen=True, slots=True)
class LineRow:
    """What was decided for one position; `inputs`, `plan` and `gate` are canonical JSON texts."""

    symbol: str
    position_id: int
    outcome: str
    rule: str | None
    a_value: float
    e_value: float
    bucket: str | None
    codes: tuple[str, ...]
    inputs: str
    plan: str
    gate: str | None = None
    client_order_id: str | None = None


@dataclass(frozen=True, slots=True)
class StoredLine:
    """A line as read back; documents are plain JSON values."""

    decision_id: UUID
    bar_close_s: int
    strategy: str
    symbol: str
    position_id: int
    outcome: str
    rule: str | None
    a_value: float
    e_value: float
    bucket: str | None
    codes: tuple[str, ...]
    inputs: dict[str, Any]
    plan: dict[str, Any]
    gate: dict[str, Any] | None
    client_order_id: str | None


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision as read back, its lines by symbol."""

    decision_id: UUID
    account: str
    strategy: str
    bar_close_s: int
    inputs_hash: str
    plan_hash: str
    config_hash: str
    code_version: str
    lease_token: int
    codes: tuple[str, ...]
    decided_at: datetime
    inputs: dict[str, Any]
    levers: dict[str, Any]
    plan: dict[str, Any]
    lines: tuple[StoredLine, ...]


@dataclass(frozen=True, slots=True)
class DecisionHead:
    """A decision in a list: its outcomes counted, no documents."""

    decision_id: UUID
    account: str
    strategy: str
    bar_close_s: int
    codes: tuple[str, ...]
    decided_at: datetime
    n_lines: int
    n_acted: int
    n_skipped: int
    n_held: int
    plan: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TickRun:
    """A run of the tick, whatever became of it: the heartbeat of the portfolio manager."""

    account: str
    strategy: str
    bar_close_s: int | None
    outcome: str  # decided, adopted, LEASE_HELD, SKIPPED_LATE, no_bar
    began_at: datetime
    took_ms: int
    detail: Mapping[str, Any]


class JournalStore(Protocol):
    """Decisions, lines and runs; append-only."""

    def find_decision(self, account: str, strategy: str, bar_close_s: int) -> UUID | None:
        """Find the decision of a bar; None: not decided yet."""
        ...

    def write_decision(self, decision: DecisionRow) -> bool:
        """Write a decision without its lines; False, and nothing is written, when its bar has one already."""
        ...

    def write_lines(self, decision_id: UUID, lines: Sequence[LineRow]) -> int:
        """Write the lines of a decision; returns their number."""
        ...

    def load_decision(self, decision_id: UUID) -> StoredDecision | None:
        """Load a decision with its lines; None: there is no such decision."""
        ...

    def list_decisions(self, limit: int, account: str | None = None, strategy: str | None = None) -> list[DecisionHead]:
        """List the newest decisions, newest first."""
        ...

    def list_lines(self, symbol: str, limit: int, account: str | None = None) -> list[StoredLine]:
        """List the newest lines of a symbol, newest first."""
        ...

    def find_at(self, symbol: str, bar_close_s: int, strategy: str | None = None) -> list[UUID]:
        """Find the decisions of a bar close that have a line of the symbol, newest first."""
        ...

    def load_traces(self, account: str) -> dict[str, list[str]]:
        """Load decisions, orders and fills of an account as one line each, in an order that does not depend on when they were written."""
        ...

    def write_run(self, run: TickRun) -> None:
        """Note a run of the tick."""
        ...
