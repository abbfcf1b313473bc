"""Deletion of what is over and old, in Postgres: in small transactions of their own, so that nobody who writes waits long."""

from dataclasses import dataclass, field
from typing import Final, LiteralString

from psycopg import sql

from regime_pipeline.adapters.postgres.connect import open_connection

_OVER: Final[dict[str, LiteralString]] = {
    "alert_notices": "sent_at < {before}",
    # one that a channel never took stays: it is what the alert notify_failed speaks of
    "alerts": "resolved_at < {before} and not exists (select from alert_notices where alert_id = alerts.id and sent_at is null)",
    "backfill_requests": "ended_at < {before}",
    "bar_gaps": "resolved_at < {before}",
    "bar_quarantine": "resolved_at < {before}",
    "bar_revisions": "revised_at < {before}",
    "bar_validity": "timestamp < {before}",
    "dominance_questions": "asked_at < {before}",
    "vendor_calls": "month + interval '1 month' <= {before} at time zone 'UTC'",
}
"""Rows of each table that are over, by when they ended."""


@dataclass(frozen=True, slots=True)
class PostgresUpkeep:
    """`Upkeep` on the database at `url` (password included, so never printed)."""

    url: str = field(repr=False)

    def delete_old(self, table: str, before_s: int, limit: int) -> int:
        """Delete at most `limit` rows of a table that were over before an instant; returns how many."""
        condition = sql.SQL(_OVER[table]).format(before=sql.SQL("to_timestamp({})").format(before_s))
        statement = sql.SQL("delete from {table} where ctid = any(array(select ctid from {table} where {over} limit {limit})) and {over}")
        with open_connection(self.url) as conn:
            return conn.execute(statement.format(table=sql.Identifier(table), over=condition, limit=limit)).rowcount

    def delete_tapes(self, before_s: int, limit: int) -> int:
        """Delete the tapes of at most `limit` uptrends that began before an instant and that no checkpoint stands in.

        An uptrend is read back only by a step that starts in it, so from a checkpoint whose state is of it; one without a state of its
        engine version may be, and keeps every uptrend that began before it. A series that waits for a replay, or is being replayed (its
        mark is still there for us), is left for another day: its checkpoints are about to change.
        """
        with open_connection(self.url) as conn:
            row = conn.execute(
                "with uptrend as materialized (select distinct series, timeframe, s3_start_ts from engine_tape"
                " where s3_start_ts < to_timestamp(%s)),"
                " over as materialized (select * from uptrend as e where"
                " not exists (select from derivation_marks as m where m.stage = 'trend' and m.timeframe = e.timeframe"
                " and m.series = e.series)"
                " and not exists (select from engine_checkpoints as c left join uptrend_states as s on s.series = c.series"
                " and s.timeframe = c.timeframe and s.ts = c.ts and s.engine_version = c.engine_version"
                " where c.series = e.series and c.timeframe = e.timeframe and c.ts >= e.s3_start_ts"
                " and (s.ts is null or s.s3_start_ts = e.s3_start_ts)) limit %s),"
                " gone as (delete from engine_tape as t using over where t.series = over.series and t.timeframe = over.timeframe"
                " and t.s3_start_ts = over.s3_start_ts)"
                " select count(*) from over",
                (before_s, limit),
            ).fetchone()
        return int(row[0]) if row else 0
