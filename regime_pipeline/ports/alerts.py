"""What is wrong, and how people hear of it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Severity(StrEnum):
    """How an alert reads at three in the morning: a warning can wait for the day, critical cannot."""

    WARNING = "warning"
    CRITICAL = "critical"


class AlertKind(StrEnum):
    """What can be wrong; `services/alert_kinds.py` says what each costs, docs/runbook.md how it is cured."""

    FRESHNESS = "freshness"
    VALIDITY = "validity"
    QUARANTINE_SPIKE = "quarantine_spike"
    GAP_BACKLOG = "gap_backlog"
    VENUE_HALTED = "venue_halted"
    BUDGET = "budget"
    COLLECTOR_SILENT = "collector_silent"
    RUN_FAILURE = "run_failure"
    CHECK_FAILURE = "check_failure"
    DAEMON_SILENT = "daemon_silent"
    FLAG_SILENT = "flag_silent"
    DISK_SPACE = "disk_space"
    DAGSTER_SIZE = "dagster_size"
    NOTIFY_FAILED = "notify_failed"
    DEAD_MAN = "dead_man"
    WATCH_FAILED = "watch_failed"
    DATABASE_DOWN = "database_down"
    KILL_LEVEL = "kill_level"
    EXECUTOR_SILENT = "executor_silent"
    ORDER_UNKNOWN = "order_unknown"
    RECONCILIATION = "reconciliation"
    INCIDENT = "incident"
    OUTBOX_STUCK = "outbox_stuck"
    ALL_HOLD = "all_hold"


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is wrong now: what, with numbers, and since when by the data. One per kind and scope is open at a time."""

    kind: AlertKind
    scope: str
    severity: Severity
    summary: str
    since_s: int


@dataclass(frozen=True, slots=True)
class OpenAlert:
    """An alert as recorded; `severity` is the highest since it opened, `noticed_s` when a message about it was last posted.

    `is_told_over` tells that the last message said so: it has returned since, in silence.
    """

    alert_id: int
    alert: Alert
    opened_s: int
    last_seen_s: int
    noticed_s: int | None
    is_acked: bool
    is_told_over: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """What a person reads: a line, the rest, and for programs what it is about."""

    title: str
    body: str
    fields: Mapping[str, str | int | None]


class Notifier(Protocol):
    """A channel that takes messages."""

    @property
    def channel(self) -> str:
        """Name for tables and messages; holds no secret."""
        ...

    def send(self, message: Message) -> None:
        """Hand over one message.

        Raises
        ------
        NotifyError
            When the channel did not take it; names no address.
        """
        ...


class DeadMan(Protocol):
    """A watchman outside, who warns when he is not told any more that all is well."""

    def ping(self) -> None:
        """Tell that all is well; raises `NotifyError` when nobody heard."""
        ...


@dataclass(frozen=True, slots=True)
class Notice:
    """A message that waits for its channel."""

    notice_id: int
    posted_s: int
    attempts: int
    message: Message


class AlertBook(Protocol):
    """The alerts, in one transaction that nobody else writes them in."""

    def load_open(self) -> list[OpenAlert]:
        """Load the alerts that are open, oldest first."""
        ...

    def load_ended(self, after_s: int) -> list[OpenAlert]:
        """Load the alerts that ended later than a moment, oldest first."""
        ...

    def open(self, alert: Alert, now_s: int) -> int:
        """Record a new alert; returns its number."""
        ...

    def renew(self, alert_id: int, alert: Alert, now_s: int) -> None:
        """Record that it still or again holds, as it looks now."""
        ...

    def resolve(self, alert_id: int, now_s: int) -> None:
        """Record that it is over."""
        ...

    def post(self, alert_id: int, event: str, message: Message, channels: Sequence[str], now_s: int) -> None:
        """Put a message into each channel's box."""
        ...


class Outbox(Protocol):
    """The unsent messages of one channel; nobody else empties it meanwhile. Each call is kept at once."""

    def load_unsent(self) -> list[Notice]:
        """Load them, oldest first."""
        ...

    def mark_sent(self, notice_ids: Sequence[int], now_s: int) -> None:
        """Record that the channel took them."""
        ...

    def mark_failed(self, notice_ids: Sequence[int], error: str) -> None:
        """Record that it did not; they stay."""
        ...


@dataclass(frozen=True, slots=True)
class Backlog:
    """Messages that a channel has not taken: how many, since when, and what it last said."""

    n_notices: int
    since_s: int
    last_error: str


class AlertStore(Protocol):
    """Alerts and their messages."""

    def open_book(self) -> AbstractContextManager[AlertBook]:
        """Begin a transaction on the alerts, alone."""
        ...

    def open_outbox(self, channel: str) -> AbstractContextManager[Outbox | None]:
        """Open a channel's box; None while another process empties it."""
        ...

    def load_backlogs(self, tried_before_s: int) -> Mapping[str, Backlog]:
        """Load the channels that have refused a message posted before then."""
        ...
