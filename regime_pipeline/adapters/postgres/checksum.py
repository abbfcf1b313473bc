"""Row counts and checksums of our tables: two runs over the same bars must show the same."""

from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

WALL_CLOCK: Final = (
    "created_at",
    "last_asked_at",
    "last_answered_at",
    "computed_at",
    "detected_at",
    "resolved_at",
    "requested_at",
    "ended_at",
    "revised_at",
    "last_asked_at",
    "last_answered_at",
)
"""Columns that say when a row was written or somebody asked, not what is true."""
COUNTERS: Final = ("id",)
"""Columns numbered in the order of writing."""


@dataclass(frozen=True, slots=True)
class TableSum:
    """A table's number of rows, and the sum of its rows' hashes as 16 hexadecimal digits: the order of rows does not matter."""

    rows: int
    checksum: str


def sum_tables(conn: psycopg.Connection) -> dict[str, TableSum]:
    """Count and sum every table but the list of migrations, in the order of their names.

    Left out of the hash are `WALL_CLOCK` and `COUNTERS`; revisions are in it, since a run that changes nothing must not raise them.
    """
    columns = conn.execute(
        "select c.table_name, array_agg(c.column_name::text order by c.ordinal_position) from information_schema.columns as c"
        " join information_schema.tables as t using (table_schema, table_name) where table_schema = 'public'"
        " and t.table_type = 'BASE TABLE' and table_name <> 'schema_migrations' and c.column_name <> all (%s)"
        " group by 1 order by 1",
        ([*WALL_CLOCK, *COUNTERS],),
    ).fetchall()
    return {table: _sum_table(conn, table, names) for table, names in columns}


def _sum_table(conn: psycopg.Connection, table: str, columns: list[str]) -> TableSum:
    row = conn.execute(
        sql.SQL("select count(*), coalesce(sum(hash_record_extended(row({}), 0)::numeric), 0) from {}").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table)
        )
    ).fetchone()
    rows, total = row if row is not None else (0, 0)
    return TableSum(rows, f"{int(total) % 2**64:016x}")
