"""What a soak reads of a database when it is over: every row as a hash, and what was refused, revised and missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import psycopg
from psycopg import sql

from regime_pipeline.adapters.postgres.checksum import COUNTERS, WALL_CLOCK
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe

Rows = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class GapCounts:
    """Missing bars that came after all, those that are the vendors' own, and those still asked for."""

    closed: int
    vendors: int
    open: int


@dataclass(frozen=True, slots=True)
class PostgresSoakAudit:
    """Questions on one connection; only reads."""

    conn: psycopg.Connection

    def hash_rows(self, table: str, key: Sequence[str]) -> Rows:
        """Hash each row's content by its key; left out are times of writing, row numbers, revisions, and of bars who delivered them."""
        ignored = [*WALL_CLOCK, *COUNTERS, "revision", *(["source"] if table.endswith("_ohlc") else [])]
        kept = self.conn.execute(
            "select column_name::text from information_schema.columns where table_schema = 'public' and table_name = %s"
            " and column_name <> all (%s) order by ordinal_position",
            (table, ignored),
        ).fetchall()
        query = sql.SQL("select row({})::text, hash_record_extended(row({}), 0) from {}").format(
            sql.SQL(", ").join(map(sql.Identifier, key)),
            sql.SQL(", ").join(sql.Identifier(name) for (name,) in kept),
            sql.Identifier(table),
        )
        return dict(self.conn.execute(query).fetchall())

    def load_refused(self) -> set[tuple[str, Timeframe, int, str]]:
        """Load which bars of which venue were refused: series, timeframe, open time and venue."""
        rows = self.conn.execute("select series, timeframe, extract(epoch from timestamp)::bigint, source from bar_quarantine")
        return {(series, Timeframe(timeframe), ts_s, source) for series, timeframe, ts_s, source in rows}

    def count_refused(self) -> dict[str, int]:
        """Count the refused bars by reason."""
        return dict(self.conn.execute("select reason, count(*) from bar_quarantine group by reason order by reason").fetchall())

    def load_replaced(self) -> dict[tuple[str, Timeframe], RawBars]:
        """Load what bars said that were final and were changed, by series and timeframe, in the order of the bars."""
        rows = self.conn.execute(
            "select series, timeframe, extract(epoch from timestamp)::bigint, old_open, old_high, old_low, old_close, old_volume"
            " from bar_revisions order by series, timeframe, timestamp, id"
        ).fetchall()
        found: dict[tuple[str, Timeframe], list[tuple[float, ...]]] = {}
        for series, timeframe, *values in rows:
            found.setdefault((series, Timeframe(timeframe)), []).append(tuple(values))
        return {key: RawBars(*(np.array(column) for column in zip(*values, strict=True))) for key, values in found.items()}

    def count_gaps(self) -> GapCounts:
        """Count the bars that were ever noted as missing; composites miss what their parts do, and nobody is asked for those."""
        row = self.conn.execute(
            "select count(*) filter (where resolved_at is not null),"
            " count(*) filter (where resolved_at is null and reason = 'vendor_none'),"
            " count(*) filter (where resolved_at is null and reason <> 'vendor_none') from bar_gaps"
            " where source <> 'composite'"
        ).fetchone()
        return GapCounts(*row) if row is not None else GapCounts(0, 0, 0)

    def load_open_gaps(self) -> list[tuple[str, Timeframe, int, str]]:
        """Load the missing bars: series, timeframe, open time and why."""
        rows = self.conn.execute(
            "select series, timeframe, extract(epoch from timestamp)::bigint, reason from bar_gaps where resolved_at is null"
            " and source <> 'composite'"
            " order by 1, 2, 3"
        )
        return [(series, Timeframe(timeframe), ts_s, reason) for series, timeframe, ts_s, reason in rows]
