"""Alerts and their messages in Postgres (tables alerts and alert_notices)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import dict_row

from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.errors import BadInputError, DatabaseError
from regime_pipeline.ports import Alert, AlertBook, AlertKind, Backlog, Message, Notice, OpenAlert, Outbox, Severity

_BOOK_LOCK: Final = 0x616C_6572_7462  # "alertb"
_BOX_LOCK: Final = 0x616C_7278  # "alrx", the first half; the second is the channel
_ROW: Final[LiteralString] = (
    "select id, kind, scope, severity, summary, extract(epoch from since_ts)::bigint as since_s,"
    " extract(epoch from opened_at)::bigint as opened_s, extract(epoch from last_seen_at)::bigint as last_seen_s,"
    " extract(epoch from noticed_at)::bigint as noticed_s, extract(epoch from resolved_at)::bigint as resolved_s,"
    " extract(epoch from acked_at)::bigint as acked_s, ack_note,"
    " coalesce((select event = 'resolved' from alert_notices where alert_id = alerts.id order by id desc limit 1), false) as told_over,"
    " (select count(*) from alert_notices where alert_id = alerts.id and sent_at is null) as unsent,"
    " (select last_error from alert_notices where alert_id = alerts.id and sent_at is null and attempts > 0 order by id desc limit 1)"
    " as send_error from alerts"
)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn a database that fails in the middle of a question into an error of ours."""
    try:
        yield
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise DatabaseError(
            f"the database failed a question about health or alerts: {reason}. See `regime db status` and its log."
        ) from error


@dataclass(frozen=True, slots=True)
class PostgresBook:
    """`AlertBook` on an open transaction."""

    conn: psycopg.Connection

    def load_open(self) -> list[OpenAlert]:
        """Load the alerts that are open, oldest first."""
        return self._load(" where resolved_at is null order by id")

    def load_ended(self, after_s: int) -> list[OpenAlert]:
        """Load the alerts that ended later than a moment, oldest first."""
        return self._load(" where resolved_at > to_timestamp(%s) order by id", after_s)

    def _load(self, where: LiteralString, *parameters: int) -> list[OpenAlert]:
        rows = self.conn.cursor(row_factory=dict_row).execute(_ROW + where, parameters).fetchall()
        known = set(AlertKind)  # a kind of a newer release, after a step back, is not ours to judge
        return [_read(row) for row in rows if row["kind"] in known]

    def open(self, alert: Alert, now_s: int) -> int:
        """Record a new alert; returns its number."""
        row = self.conn.execute(
            "insert into alerts (kind, scope, severity, summary, since_ts, opened_at, last_seen_at)"
            " values (%s, %s, %s, %s, to_timestamp(%s), to_timestamp(%s), to_timestamp(%s)) returning id",
            (alert.kind.value, alert.scope, alert.severity.value, alert.summary, alert.since_s, now_s, now_s),
        ).fetchone()
        return int(row[0]) if row else 0

    def renew(self, alert_id: int, alert: Alert, now_s: int) -> None:
        """Record that it still or again holds, as it looks now; a clock that went back moves nothing back."""
        self.conn.execute(
            "update alerts set severity = %s, summary = %s, since_ts = to_timestamp(%s), resolved_at = null,"
            " last_seen_at = greatest(last_seen_at, to_timestamp(%s)) where id = %s",
            (alert.severity.value, alert.summary, alert.since_s, now_s, alert_id),
        )

    def resolve(self, alert_id: int, now_s: int) -> None:
        """Record that it is over."""
        self.conn.execute("update alerts set resolved_at = greatest(opened_at, to_timestamp(%s)) where id = %s", (now_s, alert_id))

    def post(self, alert_id: int, event: str, message: Message, channels: Sequence[str], now_s: int) -> None:
        """Put a message into each channel's box."""
        self.conn.execute("update alerts set noticed_at = to_timestamp(%s) where id = %s", (now_s, alert_id))
        self.conn.execute(
            "insert into alert_notices (alert_id, channel, event, title, body, posted_at)"
            " select %s, channel, %s, %s, %s, to_timestamp(%s) from unnest(%s::text[]) as channel",
            (alert_id, event, message.title, message.body, now_s, list(channels)),
        )


@dataclass(frozen=True, slots=True)
class PostgresOutbox:
    """`Outbox` of one channel on a connection without transactions, which holds the channel's lock."""

    conn: psycopg.Connection
    channel: str
    instance: str

    def load_unsent(self) -> list[Notice]:
        """Load them, oldest first."""
        with translate_errors():
            rows = self.conn.cursor(row_factory=dict_row).execute(
                "select n.id, n.alert_id, n.event, n.title, n.body, n.attempts, extract(epoch from n.posted_at)::bigint as posted_s,"
                " a.kind, a.scope, a.severity, a.summary, extract(epoch from a.since_ts)::bigint as since_s"
                " from alert_notices as n join alerts as a on a.id = n.alert_id where n.channel = %s and n.sent_at is null order by n.id",
                (self.channel,),
            )
            names = ("event", "alert_id", "kind", "scope", "severity", "summary", "since_s")
            return [
                Notice(
                    row["id"],
                    row["posted_s"],
                    row["attempts"],
                    Message(row["title"], row["body"], {"instance": self.instance, **{name: row[name] for name in names}}),
                )
                for row in rows
            ]

    def mark_sent(self, notice_ids: Sequence[int], now_s: int) -> None:
        """Record that the channel took them."""
        with translate_errors():
            self.conn.execute(
                "update alert_notices set sent_at = to_timestamp(%s), attempts = attempts + 1, last_error = null where id = any(%s)",
                (now_s, list(notice_ids)),
            )

    def mark_failed(self, notice_ids: Sequence[int], error: str) -> None:
        """Record that it did not; they stay."""
        with translate_errors():
            self.conn.execute(
                "update alert_notices set attempts = attempts + 1, last_error = %s where id = any(%s)", (error, list(notice_ids))
            )


@dataclass(frozen=True, slots=True)
class AlertRow:
    """An alert for people: as recorded, when it ended, who said what, and whether its messages went out."""

    known: OpenAlert
    resolved_s: int | None
    ack_note: str | None
    unsent: int
    send_error: str | None


@dataclass(frozen=True, slots=True)
class PostgresAlerts:
    """`AlertStore` on the database at `url` (password included, so never printed)."""

    url: str = field(repr=False)
    instance: str

    @contextmanager
    def open_book(self) -> Iterator[AlertBook]:
        """Begin a transaction on the alerts, alone."""
        with translate_errors(), open_connection(self.url) as conn:
            conn.execute("select pg_advisory_xact_lock(%s)", (_BOOK_LOCK,))
            yield PostgresBook(conn)

    @contextmanager
    def open_outbox(self, channel: str) -> Iterator[Outbox | None]:
        """Open a channel's box; None while another process empties it. The lock ends with the connection, whatever ends that."""
        with open_connection(self.url, autocommit=True) as conn:
            with translate_errors():
                got = conn.execute("select pg_try_advisory_lock(%s, hashtext(%s))", (_BOX_LOCK, channel)).fetchone()
            yield PostgresOutbox(conn, channel, self.instance) if got and got[0] else None

    def load_backlogs(self, tried_before_s: int) -> Mapping[str, Backlog]:
        """Load the channels that have refused a message posted before then."""
        with translate_errors(), open_connection(self.url) as conn:
            rows = conn.execute(
                "select channel, count(*), extract(epoch from min(posted_at))::bigint, (array_agg(last_error order by id))[1]"
                " from alert_notices where sent_at is null and attempts > 0 and posted_at < to_timestamp(%s) group by channel",
                (tried_before_s,),
            ).fetchall()
        return {channel: Backlog(n, since_s, error) for channel, n, since_s, error in rows}

    def load_alerts(self, limit: int, *, with_resolved: bool) -> list[AlertRow]:
        """Load alerts, newest first."""
        where: LiteralString = "" if with_resolved else " where resolved_at is null"
        with translate_errors(), open_connection(self.url) as conn:
            rows = conn.cursor(row_factory=dict_row).execute(_ROW + where + " order by id desc limit %s", (limit,)).fetchall()
        known = set(AlertKind)
        return [
            AlertRow(_read(row), row["resolved_s"], row["ack_note"], row["unsent"], row["send_error"])
            for row in rows
            if row["kind"] in known
        ]

    def ack(self, alert_id: int, note: str | None, now_s: int) -> None:
        """Record that a person knows: it is not repeated while it stays as it is.

        Raises
        ------
        BadInputError
            When no open alert has this number.
        """
        with translate_errors(), open_connection(self.url) as conn:
            done = conn.execute(
                "update alerts set acked_at = to_timestamp(%s), ack_note = %s where id = %s and resolved_at is null",
                (now_s, note, alert_id),
            )
            if done.rowcount == 0:
                raise BadInputError(f"alert was {alert_id}: no open alert has this number. `regime alerts list` shows them.")


def _read(row: Mapping[str, Any]) -> OpenAlert:
    alert = Alert(AlertKind(row["kind"]), row["scope"], Severity(row["severity"]), row["summary"], row["since_s"])
    return OpenAlert(row["id"], alert, row["opened_s"], row["last_seen_s"], row["noticed_s"], row["acked_s"] is not None, row["told_over"])
