"""Bars in Postgres: the three price tables, the quarantine and the gap table."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from regime_pipeline.adapters.postgres import bulk
from regime_pipeline.adapters.postgres.series import KEY_COLUMNS, join_series, split_series
from regime_pipeline.market.bars import Bars, RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import BarRows, BarTable, Coverage, Saved

_PRICES = ("open_usd", "high_usd", "low_usd", "close_usd", "volume")
_BAR_COLUMNS = sql.SQL("b.timestamp, b.open_usd, b.high_usd, b.low_usd, b.close_usd, b.volume, b.bars_used, b.expected_bars")

_MAY_REPLACE = (
    "not (t.source is not distinct from 'rollup' and t.bars_used = t.expected_bars and excluded.source is distinct from 'rollup')"
    " and not (t.source is distinct from 'rollup' and excluded.source is not distinct from 'rollup'"
    " and excluded.bars_used < excluded.expected_bars)"
)
"""Specs 1.2: a complete rollup before the vendor's bar, that before a partial rollup. Composites have no source (NULL)."""


class PostgresBars:
    """`BarStore` on an open transaction."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    def save(self, table: BarTable, timeframe: Timeframe, rows: Mapping[str, BarRows]) -> Saved:
        """Upsert bars; equal content writes nothing, and a complete rollup is never replaced by a vendor's bar.

        The sources of each series are in order of priority: a bar is never replaced by that of a source behind its own.
        """
        rows = {series: part for series, part in rows.items() if len(part.bars)}
        if not rows:
            return Saved(0, 0, {})
        columns = _bar_columns(table, timeframe, rows)
        key_columns = KEY_COLUMNS[table]
        key = (*key_columns, "timeframe", "timestamp")
        count, first = bulk.upsert_and_locate(
            self._conn,
            table.value,
            columns,
            key,
            group_by=key_columns,
            first="timestamp",
            extra_where=_may_replace(table, rows),
        )
        located = {join_series(table, names): int(at.timestamp()) for names, at in first.items()}
        return Saved(count.inserted + count.updated, count.unchanged, located, count.updated)

    def remove(self, table: BarTable, timeframe: Timeframe, series: str, from_s: int, keep_ts_s: NDArray[np.int64]) -> int:
        """Delete the bars of a derived series from `from_s` on that are not in `keep_ts_s`."""
        statement = sql.SQL(
            "delete from {} where {} and timeframe = %s and timestamp >= to_timestamp(%s)"
            " and timestamp not in (select to_timestamp(ts) from unnest(%s::float8[]) as kept (ts))"
        ).format(sql.Identifier(table.value), _key_is(table))
        return self._conn.execute(statement, (*split_series(series), timeframe.value, from_s, keep_ts_s.tolist())).rowcount

    def load_after(
        self, table: BarTable, timeframe: Timeframe, after_s: Mapping[str, int | None], until_s: int | None = None
    ) -> dict[str, Bars]:
        """Load the bars of each series with `after` < ts <= `until_s`, oldest first."""
        query = sql.SQL(
            "select k.n::int4 as n, {columns} from {wanted} cross join lateral ("
            "select * from {table} as b where {join} and b.timeframe = %s and b.is_final and b.timestamp > k.bound and"
            " b.timestamp <= to_timestamp(%s)"
            " order by b.timestamp) as b order by k.n, b.timestamp"
        ).format(columns=_BAR_COLUMNS, wanted=_wanted(table), table=sql.Identifier(table.value), join=_join(table))
        far = 32503680000 if until_s is None else until_s
        bounds = [-1e9 if bound is None else float(bound) for bound in after_s.values()]
        return self._load(query, list(after_s), bounds, (timeframe.value, far))

    def load_last(self, table: BarTable, timeframe: Timeframe, up_to_s: Mapping[str, int], n: int) -> dict[str, Bars]:
        """Load the newest n bars of each series with ts <= `up_to`, oldest first."""
        # newest first with a limit, then turned round: ascending with a limit would give the oldest (specs 1.3)
        query = sql.SQL(
            "select k.n::int4 as n, {columns} from {wanted} cross join lateral ("
            "select * from {table} as b where {join} and b.timeframe = %s and b.is_final and b.timestamp <= k.bound"
            " order by b.timestamp desc limit %s) as b order by k.n, b.timestamp"
        ).format(columns=_BAR_COLUMNS, wanted=_wanted(table), table=sql.Identifier(table.value), join=_join(table))
        return self._load(query, list(up_to_s), list(up_to_s.values()), (timeframe.value, n))

    def _load(self, query: sql.Composed, series: Sequence[str], bounds: Sequence[float], params: Sequence[Any]) -> dict[str, Bars]:
        if not series:
            return {}
        keys = [split_series(name) for name in series]
        columns = bulk.fetch_columns(self._conn, query, (*([list(part) for part in zip(*keys, strict=True)]), list(bounds), *params))
        starts = np.searchsorted(columns["n"], np.arange(1, len(series) + 2))
        bars = Bars(*(columns[name] for name in ("timestamp", *_PRICES, "bars_used", "expected_bars")))
        return {name: bars[starts[i] : starts[i + 1]] for i, name in enumerate(series) if starts[i + 1] > starts[i]}

    def load_newest(self, table: BarTable, timeframe: Timeframe, series: Collection[str]) -> dict[str, int]:
        """Load the open time of the newest bar of each series that has one."""
        return self._load_end(table, timeframe, series, sql.SQL("desc"))

    def load_oldest(self, table: BarTable, timeframe: Timeframe, series: Collection[str]) -> dict[str, int]:
        """Load the open time of the oldest bar of each series that has one."""
        return self._load_end(table, timeframe, series, sql.SQL("asc"))

    def _load_end(self, table: BarTable, timeframe: Timeframe, series: Collection[str], order: sql.SQL) -> dict[str, int]:
        if not series:
            return {}
        names = list(series)
        query = sql.SQL(
            "select k.n, extract(epoch from b.timestamp)::bigint from {wanted} cross join lateral ("
            "select timestamp from {table} as b where {join} and b.timeframe = %s and b.is_final order by b.timestamp {order} limit 1) as b"
        ).format(wanted=_wanted(table), table=sql.Identifier(table.value), join=_join(table), order=order)
        keys = [split_series(name) for name in names]
        rows = self._conn.execute(query, (*([list(part) for part in zip(*keys, strict=True)]), [0.0] * len(names), timeframe.value))
        return {names[n - 1]: ts_s for n, ts_s in rows}

    def load_coverage(
        self, table: BarTable, timeframe: Timeframe, series: Collection[str], start_s: int, end_s: int
    ) -> dict[str, Coverage]:
        """Load what is stored in a window, final or not."""
        if not series:
            return {}
        names = list(series)
        query = sql.SQL(
            "select k.n::int4 as n, b.timestamp, b.bars_used = b.expected_bars as complete, coalesce(b.source, '') as source"
            " from {wanted} cross join lateral (select * from {table} as b where {join} and b.timeframe = %s"
            " and b.timestamp >= to_timestamp(%s) and b.timestamp < to_timestamp(%s) order by b.timestamp) as b"
            " order by k.n, b.timestamp"
        ).format(wanted=_wanted(table), table=sql.Identifier(table.value), join=_join(table))
        keys = [split_series(name) for name in names]
        params = (*([list(part) for part in zip(*keys, strict=True)]), [0.0] * len(names), timeframe.value, start_s, end_s)
        columns = bulk.fetch_columns(self._conn, query, params)
        starts = np.searchsorted(columns["n"], np.arange(1, len(names) + 2))
        found = {}
        for i, name in enumerate(names):
            part = slice(starts[i], starts[i + 1])
            found[name] = Coverage(columns["timestamp"][part], columns["complete"][part], columns["source"][part])
        return found

    def load_open_backfills(self, timeframe: Timeframe, requested_after_s: int) -> dict[str, list[tuple[int, int]]]:
        """Load the windows of backfill requests that are still open and not too old, by series."""
        rows = self._conn.execute(
            "select series, extract(epoch from start_ts)::bigint, extract(epoch from end_ts)::bigint from backfill_requests"
            " where ended_at is null and timeframe = %s and requested_at > to_timestamp(%s) order by series, start_ts",
            (timeframe.value, requested_after_s),
        )
        found: dict[str, list[tuple[int, int]]] = {}
        for series, start_s, end_s in rows:
            found.setdefault(series, []).append((start_s, end_s))
        return found

    def quarantine(self, series: str, timeframe: Timeframe, source: str, raw: RawBars, reasons: Sequence[str], now_s: int) -> int:
        """Keep refused bars with their reasons and when their values were first seen; returns how many were not known yet."""
        if not len(raw):
            return 0
        # of two refused rows with one key the last stands: the table has one row per bar, source and reason
        last = {(int(ts), reason): i for i, (ts, reason) in enumerate(zip(raw.ts_s, reasons, strict=True))}
        keep = np.array(sorted(last.values()))
        raw, reasons = raw[keep], [reasons[i] for i in keep]
        finite = [np.where(np.isfinite(column), column, np.nan) for column in (raw.open, raw.high, raw.low, raw.close, raw.volume)]
        n = len(raw)
        columns: dict[str, bulk.Column] = {
            "series": bulk.constant(series, n),
            "timeframe": bulk.constant(timeframe.value, n),
            "timestamp": bulk.timestamptz(raw.ts_s),
            "source": bulk.constant(source, n),
            **{name: bulk.float8(values) for name, values in zip(("open", "high", "low", "close", "volume"), finite, strict=True)},
            "reason": bulk.texts(list(reasons)),
            "detected_at": bulk.timestamptz(np.full(n, now_s)),
            "resolved_at": bulk.timestamptz(np.zeros(n, dtype=np.int64), null=np.ones(n, dtype=bool)),
        }
        key = ("series", "timeframe", "timestamp", "source", "reason")
        return bulk.upsert(self._conn, "bar_quarantine", columns, key, ignore_in_compare=("detected_at", "resolved_at")).inserted

    def record_gaps(
        self,
        timeframe: Timeframe,
        source: str,
        gaps_s: Mapping[str, NDArray[np.int64]],
        windows_s: Mapping[str, tuple[int, int]],
        asked_s: int | None = None,
    ) -> int:
        """Record what is missing in a window of each series, and resolve recorded gaps that are none any more; returns the missing bars.

        `asked_s` says when vendors were asked for them; None: now, or nobody is to be asked (composites).
        """
        if not gaps_s:
            return 0
        names = list(gaps_s)
        code = np.repeat(np.arange(len(names)), [len(gaps) for gaps in gaps_s.values()])
        ts_s = np.concatenate([np.asarray(gaps, dtype=np.int64) for gaps in gaps_s.values()])
        n = len(ts_s)
        starts, ends = ([windows_s[name][end] for name in names] for end in (0, 1))
        # ordered, so that each window is looked up for itself: as a join it read all gaps there are, in every minute
        self._conn.execute(
            "update bar_gaps as t set resolved_at = now() from unnest(%s::text[], %s::float8[], %s::float8[]) as w (series, start_s, end_s)"
            " cross join lateral (select * from bar_gaps as g where g.resolved_at is null and g.timeframe = %s and g.series = w.series"
            " and g.source = %s and g.timestamp >= to_timestamp(w.start_s) and g.timestamp < to_timestamp(w.end_s) order by g.timestamp)"
            " as old where (t.series, t.timeframe, t.timestamp, t.source) = (old.series, old.timeframe, old.timestamp, old.source)"
            " and (t.series, t.timestamp) not in (select s, to_timestamp(c) from unnest(%s::text[], %s::float8[]) as still (s, c))",
            (names, starts, ends, timeframe.value, source, [names[i] for i in code], ts_s.tolist()),
        )
        if not n:
            return 0
        columns: dict[str, bulk.Column] = {
            "series": bulk.text(code, names),
            "timeframe": bulk.constant(timeframe.value, n),
            "timestamp": bulk.timestamptz(ts_s),
            "source": bulk.constant(source, n),
            "reason": bulk.constant("missing", n),
            "resolved_at": bulk.timestamptz(ts_s, null=np.ones(n, dtype=bool)),
        }
        if asked_s is not None:
            columns |= {name: bulk.timestamptz(np.full(n, asked_s)) for name in ("detected_at", "last_asked_at")}
        # a gap that is known keeps what was found out about it
        known = ("reason", "detected_at", "last_asked_at")
        bulk.upsert(self._conn, "bar_gaps", columns, ("series", "timeframe", "timestamp", "source"), ignore_in_compare=known)
        return n


def _bar_columns(table: BarTable, timeframe: Timeframe, rows: Mapping[str, BarRows]) -> dict[str, bulk.Column]:
    names = list(rows)
    parts = list(rows.values())
    n_each = [len(part.bars) for part in parts]
    code = np.repeat(np.arange(len(names)), n_each)
    bars = Bars.concat([part.bars for part in parts])
    sources = sorted({source for part in parts for source in part.sources})
    lookup = [np.array([sources.index(source) for source in part.sources] + [-1]) for part in parts]
    source_codes = np.concatenate([table_[part.source_codes] for table_, part in zip(lookup, parts, strict=True)])
    keys = [split_series(name) for name in names]
    columns: dict[str, bulk.Column] = {name: bulk.text(code, [key[at] for key in keys]) for at, name in enumerate(KEY_COLUMNS[table])}
    columns |= {
        "timeframe": bulk.constant(timeframe.value, len(bars)),
        "timestamp": bulk.timestamptz(bars.ts_s),
        "open_usd": bulk.float8(bars.open),
        "high_usd": bulk.float8(bars.high),
        "low_usd": bulk.float8(bars.low),
        "close_usd": bulk.float8(bars.close),
        "volume": bulk.float8(bars.volume),
        "bars_used": bulk.int4(bars.bars_used),
        "expected_bars": bulk.int4(bars.expected_bars),
        "is_final": bulk.boolean(np.concatenate([part.is_final for part in parts])),
        "source": bulk.text(source_codes, sources),
    }
    if table is BarTable.DRIVERS:
        counts = [
            np.full(n, -1, dtype=np.int32) if part.component_count is None else part.component_count
            for n, part in zip(n_each, parts, strict=True)
        ]
        count = np.concatenate(counts)
        columns["component_count"] = bulk.int4(count, null=count < 0)
    return columns


def _may_replace(table: BarTable, rows: Mapping[str, BarRows]) -> sql.Composable:
    """Which stored bars may be overwritten: not by a source behind theirs in the series' order, and not a rollup by a lesser bar."""
    orders: dict[tuple[str, ...], list[str]] = {}
    for series, part in rows.items():
        if len(part.sources) > 1:
            orders.setdefault(part.sources, []).append(series)
    if not orders or table is BarTable.DRIVERS:
        return sql.SQL(_MAY_REPLACE)
    cases = [
        sql.SQL("when t.token_contract || ':' || t.chain = any({names}::text[]) then {order}::text[]").format(
            names=sql.Literal([series.partition(":")[2] for series in names]), order=sql.Literal(list(order))
        )
        for order, names in sorted(orders.items())
    ]
    return sql.SQL(
        "{rollups} and (array_position(case {cases} end, t.source) < array_position(case {cases} end, excluded.source)) is not true"
    ).format(rollups=sql.SQL(_MAY_REPLACE), cases=sql.SQL(" ").join(cases))


def _key_is(table: BarTable) -> sql.Composable:
    return sql.SQL(" and ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in KEY_COLUMNS[table])


def _wanted(table: BarTable) -> sql.Composable:
    """The wanted series as a relation k(key columns..., bound, n); n counts from 1."""
    names = KEY_COLUMNS[table]
    lists = sql.SQL(", ").join([sql.SQL("%s::text[]")] * len(names))
    keys = sql.SQL(", ").join(sql.Identifier(name) for name in names)
    return sql.SQL(
        "(select {keys}, to_timestamp(bound_s) as bound, n from unnest({lists}, %s::float8[]) with ordinality as w"
        " ({keys}, bound_s, n)) as k"
    ).format(keys=keys, lists=lists)


def _join(table: BarTable) -> sql.Composable:
    return sql.SQL(" and ").join(sql.SQL("b.{0} = k.{0}").format(sql.Identifier(name)) for name in KEY_COLUMNS[table])
