"""The unit of work on Postgres: one connection, one transaction, and the stores that share it."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg

from regime_pipeline.adapters.postgres.bar_store import PostgresBars
from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.regime_store import PostgresRegime
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Stage

if TYPE_CHECKING:
    from regime_pipeline.adapters.postgres.trend_store import PostgresTrend


class PostgresMarks:
    """Marks in the table derivation_marks."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    def add(self, stage: Stage, timeframe: Timeframe, first_s: Mapping[str, int]) -> None:
        """Mark series for derivation from a bar on; an older mark of the same series stays."""
        if not first_s:
            return
        rows = sorted(first_s.items())  # in one order, so that two writers cannot deadlock
        self._conn.execute(
            "insert into derivation_marks as t (stage, series, timeframe, from_ts)"
            " select %s, series, %s, to_timestamp(from_s) from unnest(%s::text[], %s::float8[]) as new (series, from_s)"
            " on conflict (stage, timeframe, series) do update set from_ts = least(t.from_ts, excluded.from_ts)",
            (stage, timeframe, [series for series, _ in rows], [first for _, first in rows]),
        )

    def take(self, stage: Stage, timeframe: Timeframe, series: Collection[str] | None = None) -> dict[str, int]:
        """Take the marks of a stage: they are locked, and gone when the transaction commits."""
        rows = self._conn.execute(
            "with mine as (select series from derivation_marks where stage = %s and timeframe = %s"
            " and (%s::text[] is null or series = any(%s::text[])) order by series for update)"
            " delete from derivation_marks using mine where stage = %s and timeframe = %s and derivation_marks.series = mine.series"
            " returning derivation_marks.series, extract(epoch from from_ts)::bigint",
            (stage, timeframe, *([None if series is None else sorted(series)] * 2), stage, timeframe),
        ).fetchall()
        return dict(sorted(rows))


@dataclass(frozen=True, slots=True)
class PostgresWork:
    """Stores on one open transaction."""

    conn: psycopg.Connection

    @property
    def marks(self) -> PostgresMarks:
        """Work to do."""
        return PostgresMarks(self.conn)

    @property
    def bars(self) -> PostgresBars:
        """Price tables."""
        return PostgresBars(self.conn)

    @property
    def trend(self) -> "PostgresTrend":
        """Engine tables."""
        # imported here: it brings the compiled engine, which a reader of the board must not wait for
        from regime_pipeline.adapters.postgres.trend_store import PostgresTrend

        return PostgresTrend(self.conn)

    @property
    def regime(self) -> PostgresRegime:
        """Mapper tables."""
        return PostgresRegime(self.conn)


@dataclass(frozen=True, slots=True)
class PostgresStores:
    """Opens transactions on the database at `url` (password included, so never printed)."""

    url: str = field(repr=False)

    @contextmanager
    def open(self) -> Iterator[PostgresWork]:
        """Begin a transaction: commits when left without an error, rolls back otherwise."""
        with open_connection(self.url) as conn:
            yield PostgresWork(conn)
