"""Questions that find what should not be: each answer lists faults, at most `LIMIT` of them, and none is good news."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from regime_pipeline.adapters.postgres.migrate import read_migrations
from regime_pipeline.adapters.postgres.series import split_series
from regime_pipeline.market.timeframe import Timeframe

LIMIT: Final = 20
MATURE_BARS: Final = 333
"""From this bar of a series on there is a state (specs 2.4)."""

Fault = dict[str, Any]

# Each table's series name and bar time, spelled from its own columns.
_SERIES: Final[dict[str, LiteralString]] = {
    "regime_price_data_ohlc": "'regime:' || driver",
    "majors_price_data_ohlc": "'token:' || token_contract || ':' || chain",
    "lowcap_price_data_ohlc": "'token:' || token_contract || ':' || chain",
    "uptrend_states": "series",
    "regime_deltas": "'regime:' || driver",
}
_TS: Final[dict[str, LiteralString]] = {"uptrend_states": "ts", "regime_deltas": "ts"}

_TYPE_NAMES: Final = {"timestamptz": "timestamp with time zone", "int4": "integer", "int8": "bigint"}


@dataclass(frozen=True, slots=True)
class PostgresAudit:
    """Audit queries on one connection; bars have open times in [start_s, end_s), epoch seconds."""

    conn: psycopg.Connection

    def find_schema_faults(self, table: str) -> list[Fault]:
        """Compare columns, types, nullability and primary key with what the migrations say."""
        with self.conn.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "select attname as part, format_type(atttypid, atttypmod) || case when attnotnull then ' not null' else '' end as found"
                " from pg_attribute where attrelid = to_regclass(%(table)s) and attnum > 0 and not attisdropped"
                " union all select 'primary key', string_agg(attname, ', ' order by at) from pg_index"
                " cross join unnest(indkey) with ordinality as key (attnum, at) join pg_attribute as a on a.attrelid = indrelid"
                " and a.attnum = key.attnum where indrelid = to_regclass(%(table)s) and indisprimary having count(*) > 0",
                {"table": table},
            )
            found = {row["part"]: row["found"] for row in cursor}
        wanted = expected_schema(table)
        parts = [part for part in {**wanted, **found} if wanted.get(part) != found.get(part)]
        return [{"part": part, "expected": wanted.get(part), "found": found.get(part)} for part in parts][:LIMIT]

    def find_off_grid(self, table: str, timeframe: Timeframe, start_s: int, end_s: int) -> list[Fault]:
        """Find rows whose time is no bar open; the primary key already refuses one time twice."""
        return self._ask(
            "select {series} as series, {ts} as ts from {table} where timeframe = %(timeframe)s and {ts} >= %(start)s and {ts} < %(end)s"
            " and mod(extract(epoch from {ts}), %(length)s) <> 0 order by 2 desc, 1",
            table,
            _window(timeframe, start_s, end_s),
        )

    def find_price_faults(self, table: str, timeframe: Timeframe, start_s: int, end_s: int) -> list[Fault]:
        """Find bars that no market makes (specs 1.1): prices not positive, range not around open and close, a hundredfold jump."""
        return self._ask(
            "select {series} as series, {ts} as ts, open_usd, high_usd, low_usd, close_usd, volume from {table}"
            " where timeframe = %(timeframe)s and {ts} >= %(start)s and {ts} < %(end)s and not (low_usd > 0 and high_usd < 'infinity'"
            " and high_usd >= greatest(open_usd, close_usd) and low_usd <= least(open_usd, close_usd)"
            " and close_usd between open_usd / 100 and open_usd * 100 and volume >= 0 and volume < 'infinity'"
            " and bars_used between 1 and expected_bars) order by 2 desc, 1",
            table,
            _window(timeframe, start_s, end_s),
        )

    def find_unrecorded_gaps(
        self, table: str, timeframe: Timeframe, start_s: int, end_s: int, copied_from: Mapping[str, str] | None = None
    ) -> list[Fault]:
        """Find holes between stored bars that the gap table does not account for.

        Parameters
        ----------
        copied_from : mapping of series to series, optional
            A copy has the gaps of its original, and they are recorded there.
        """
        copied_from = copied_from or {}
        return self._ask(
            "with bars as (select {series} as series, {ts} as ts, lag({ts}) over (partition by {series} order by {ts}) as previous"
            " from {table} where timeframe = %(timeframe)s and {ts} >= %(start)s and {ts} < %(end)s),"
            " holes as (select series, previous, ts, (extract(epoch from ts - previous) / %(length)s)::int - 1 as missing from bars"
            " where ts - previous > make_interval(secs => %(length)s))"
            " select series, previous as after_ts, ts as before_ts, missing, recorded from holes cross join lateral ("
            " select count(distinct gap.timestamp)::int as recorded from bar_gaps as gap where gap.series = coalesce("
            " (%(originals)s::text[])[array_position(%(copies)s::text[], holes.series)], holes.series)"
            " and gap.timeframe = %(timeframe)s and gap.resolved_at is null"
            " and gap.timestamp > holes.previous and gap.timestamp < holes.ts) as known"
            " where recorded < missing order by ts desc, series",
            table,
            {**_window(timeframe, start_s, end_s), "copies": list(copied_from), "originals": list(copied_from.values())},
        )

    def find_thin_composites(self, timeframe: Timeframe, start_s: int, end_s: int, minimums: Mapping[str, int]) -> list[Fault]:
        """Find composite bars made of fewer components than their driver needs; `minimums` by driver."""
        return self._ask(
            "select {series} as series, {ts} as ts, component_count, needed from {table}"
            " join unnest(%(drivers)s::text[], %(needs)s::int[]) as rule (name, needed) on rule.name = driver"
            " where timeframe = %(timeframe)s and {ts} >= %(start)s and {ts} < %(end)s and coalesce(component_count, 0) < needed"
            " order by 2 desc, 1",
            "regime_price_data_ohlc",
            {**_window(timeframe, start_s, end_s), "drivers": list(minimums), "needs": list(minimums.values())},
        )

    def find_missing_states(self, timeframe: Timeframe, start_s: int, end_s: int, series: Sequence[str]) -> list[Fault]:
        """Find final bars, the 333rd of their series or later, that have no state; `series` are those the engine steps.

        A series that is marked is about to be stepped, and lacks nothing.
        """
        found: list[Fault] = []
        for table, prefix in (("regime_price_data_ohlc", "regime:"), ("lowcap_price_data_ohlc", "token:")):
            stepped = [name for name in series if name.startswith(prefix)]
            # a set difference, because statistics of a table just filled lead a NOT EXISTS into nested loops (17 s for 10,000 bars);
            # what counts 333 bars runs only for series that lack a state at all: none, once everything is mature
            found += self._ask(
                "with wanted as (select * from unnest(%(names)s::text[], %(ones)s::text[], %(twos)s::text[]) as wanted (name, one, two)"
                " where name not in (select series from derivation_marks where stage = 'trend' and timeframe = %(timeframe)s)),"
                " bare as materialized (select name, {ts} as ts from {table} join wanted on {match} where timeframe = %(timeframe)s"
                " and is_final and {ts} >= %(start)s and {ts} < %(end)s except select series, ts from uptrend_states"
                " where timeframe = %(timeframe)s and ts >= %(start)s and ts < %(end)s),"
                " mature as (select name, since.ts from wanted cross join lateral (select {ts} as ts from {table} where {match}"
                " and timeframe = %(timeframe)s and is_final order by {ts} offset %(before)s limit 1) as since"
                " where name in (select name from bare))"
                " select name as series, min(bare.ts) as first_ts, max(bare.ts) as last_ts, count(*) as missing"
                " from bare join mature using (name) where bare.ts >= mature.ts group by name order by name",
                table,
                {**_window(timeframe, start_s, end_s), **_wanted(table, stepped), "before": MATURE_BARS - 1},
            )
        return found[:LIMIT]

    def find_missing_deltas(self, timeframe: Timeframe, start_s: int, end_s: int) -> list[Fault]:
        """Find states of drivers without a row of deltas, and rows of deltas without a state; a marked driver is about to be mapped."""
        return self._ask(
            "select coalesce(s.series, 'regime:' || d.driver) as series, coalesce(s.ts, d.ts) as ts, s.state, d.delta_a_raw"
            " from (select * from uptrend_states where series like 'regime:%%' and timeframe = %(timeframe)s"
            " and ts >= %(start)s and ts < %(end)s) as s full join (select * from {table} where timeframe = %(timeframe)s"
            " and ts >= %(start)s and ts < %(end)s) as d on s.series = 'regime:' || d.driver and s.ts = d.ts"
            " where (d.driver is null or s.series is null) and coalesce(s.series, 'regime:' || d.driver) not in"
            " (select series from derivation_marks where stage in ('trend', 'delta') and timeframe = %(timeframe)s) order by 2 desc, 1",
            "regime_deltas",
            _window(timeframe, start_s, end_s),
        )

    def load_newest(self, table: str, timeframe: Timeframe, series: Sequence[str]) -> dict[str, int]:
        """Load the open time of the newest bar of each series that has one, epoch seconds."""
        query = (
            "select name, extract(epoch from newest)::bigint as newest_s"
            " from unnest(%(names)s::text[], %(ones)s::text[], %(twos)s::text[]) as wanted (name, one, two)"
            " cross join lateral (select max({ts}) as newest from {table} where {match} and timeframe = %(timeframe)s) as found"
            " where newest is not null"
        )
        rows = self._ask(query, table, {**_wanted(table, series), "timeframe": timeframe.value}, limit=len(series))
        return {row["name"]: row["newest_s"] for row in rows}

    def load_state_points(self, series: str, timeframe: Timeframe, start_s: int, end_s: int, limit: int) -> list[tuple[int, float, str]]:
        """Load (open time, price, state) of at most `limit` bars, evenly over the window: for pictures."""
        every_s = max(1, -(-(end_s - start_s) // (timeframe.seconds * limit))) * timeframe.seconds
        return self.conn.execute(
            "select extract(epoch from ts)::bigint, price, state from uptrend_states where series = %s and timeframe = %s"
            " and ts >= to_timestamp(%s) and ts < to_timestamp(%s) and mod(extract(epoch from ts)::bigint, %s) = 0 order by ts",
            (series, timeframe.value, start_s, end_s, every_s),
        ).fetchall()

    def _ask(self, query: LiteralString, table: str, params: Mapping[str, object], limit: int = LIMIT) -> list[Fault]:
        match = sql.SQL(" and ").join(
            sql.SQL("{}.{} = wanted.{}").format(sql.Identifier(table), sql.Identifier(column), sql.Identifier(part))
            for column, part in zip(_key_columns(table), ("one", "two"), strict=False)
        )
        text = sql.SQL(query).format(table=sql.Identifier(table), series=sql.SQL(_SERIES[table]), ts=sql.SQL(_ts_of(table)), match=match)
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(text + sql.SQL(" limit {}").format(limit), params).fetchall()


def expected_schema(table: str) -> dict[str, str]:
    """Read what the migrations say of a table: column -> type and nullability, and its primary key.

    Understands the one-column-a-line style of our migrations and `alter table ... add column`.
    """
    text = "\n".join(migration.text for migration in read_migrations())
    parts: dict[str, str] = {}
    body = re.search(rf"create table {table} \(\n(.*?)\n\);", text, re.DOTALL)
    for line in body[1].splitlines() if body else ():
        key = re.match(r"\s*primary key \((.*)\)", line)
        column = re.match(r"    (\w+)\s+([a-z]\w*(?: precision)?)(.*)", line)
        if key:
            parts["primary key"] = key[1]
        elif column and column[1] not in {"check", "constraint", "unique", "foreign", "exclude", "primary"}:
            parts[column[1]] = _spell(column[2], column[3])
    for added in re.finditer(rf"alter table {table} add column (\w+) ([a-z]\w*(?: precision)?)(.*?);", text):
        parts[added[1]] = _spell(added[2], added[3])
    for column_name in parts.get("primary key", "").split(", "):
        parts[column_name] = parts[column_name].removesuffix(" not null") + " not null"
    return parts


def _spell(kind: str, rest: str) -> str:
    return _TYPE_NAMES.get(kind, kind) + (" not null" if "not null" in rest or "identity" in rest else "")


def _ts_of(table: str) -> LiteralString:
    return _TS.get(table, "timestamp")


def _key_columns(table: str) -> tuple[str, ...]:
    if table == "uptrend_states":
        return ("series",)
    return ("driver",) if table.startswith("regime_") else ("token_contract", "chain")


def _wanted(table: str, series: Sequence[str]) -> dict[str, object]:
    """Series by name and by the key columns of a table, so that a query walks its primary key."""
    keys = [(name,) if table == "uptrend_states" else split_series(name) for name in series]
    return {"names": list(series), "ones": [key[0] for key in keys], "twos": [key[1] if len(key) > 1 else None for key in keys]}


def _window(timeframe: Timeframe, start_s: int, end_s: int) -> dict[str, object]:
    start, end = (datetime.fromtimestamp(at, UTC) for at in (start_s, end_s))
    return {"timeframe": timeframe.value, "length": timeframe.seconds, "start": start, "end": end}
