"""What the engine says and remembers, in Postgres: states, events, levels, checkpoints, tapes and snapshots."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from regime_pipeline.adapters.postgres import bulk
from regime_pipeline.adapters.postgres.series import split_series
from regime_pipeline.indicators import record as ind_record
from regime_pipeline.indicators.levels import describe_levels
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Checkpoint, Saved
from regime_pipeline.trend import record as trend_record
from regime_pipeline.trend.engine import Advance, TapeChunk

FloatArray = NDArray[np.float64]

_STATE_KEY: Final = ("series", "timeframe", "ts")
_COUNTS: Final = ("bars_seen", "gap_bars")
_DIAGNOSTIC_FLAGS: Final = ("entry_zone_ok", "slope_ok", "ts_ok", "near_sr")
_EMPTY_SET: Final = "empty"


class PostgresTrend:
    """`TrendStore` on an open transaction."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    def load_checkpoints(self, timeframe: Timeframe, engine_version: str, before_s: Mapping[str, int | None]) -> dict[str, Checkpoint]:
        """Load the newest checkpoint of each series, older than `before` where that is given."""
        names = list(before_s)
        bounds = [4e9 if bound is None else float(bound) for bound in before_s.values()]
        rows = self._conn.execute(
            "select w.series, extract(epoch from c.ts)::bigint, c.state from unnest(%s::text[], %s::float8[]) as w (series, before_s)"
            " cross join lateral (select ts, state from engine_checkpoints as c where c.series = w.series and c.timeframe = %s"
            " and c.engine_version = %s and c.ts < to_timestamp(w.before_s) order by c.ts desc limit 1) as c",
            (names, bounds, timeframe.value, engine_version),
            binary=True,
        )
        return {series: Checkpoint(ts_s, bytes(state)) for series, ts_s, state in rows}

    def load_tapes(self, timeframe: Timeframe, wanted: Mapping[str, tuple[int, int, Sequence[int]]]) -> dict[str, list[TapeChunk]]:
        """Load tapes: per series (S3 start, last chunk, chunks wanted with their rows); the others come with their extremes only."""
        if not wanted:
            return {}
        tapes: dict[str, list[TapeChunk]] = {series: [] for series in wanted}
        pairs = [(series, chunk) for series, (_, _, chunks) in wanted.items() for chunk in chunks]
        rows = self._conn.execute(
            "select t.series, t.chunk, case when p.chunk is not null then t.data end, t.close_min, t.close_max"
            " from unnest(%s::text[], %s::float8[], %s::int[]) as w (series, start_s, last_chunk)"
            " cross join lateral (select * from engine_tape as e where e.series = w.series and e.timeframe = %s"
            " and e.s3_start_ts = to_timestamp(w.start_s) and e.chunk <= w.last_chunk order by e.chunk) as t"
            " left join unnest(%s::text[], %s::int[]) as p (series, chunk) on p.series = t.series and p.chunk = t.chunk"
            " order by t.series, t.chunk",
            (
                list(wanted),
                [start_s for start_s, _, _ in wanted.values()],
                [last for _, last, _ in wanted.values()],
                timeframe.value,
                [series for series, _ in pairs],
                [chunk for _, chunk in pairs],
            ),
            binary=True,
        )
        for series, chunk, data, close_min, close_max in rows:
            tapes[series].append(TapeChunk(chunk, None if data is None else bytes(data), close_min, close_max))
        return tapes

    def rewind(self, timeframe: Timeframe, after_s: Mapping[str, int | None]) -> None:
        """Forget events, level sets and checkpoints after a bar, before the series is replayed from there."""
        params = _bounds(timeframe, after_s)
        for table, column in (("uptrend_state_events", "ts"), ("sr_levels", "built_ts"), ("engine_checkpoints", "ts")):
            statement = sql.SQL(
                "delete from {} as t using unnest(%s::text[], %s::float8[]) as w (series, after_s)"
                " where t.series = w.series and t.timeframe = %s and t.{} > to_timestamp(w.after_s)"
            )
            self._conn.execute(statement.format(sql.Identifier(table), sql.Identifier(column)), params)

    def drop_orphans(self, timeframe: Timeframe, after_s: Mapping[str, int | None]) -> int:
        """Delete states after a bar whose price bar is gone."""
        return self._conn.execute(
            "delete from uptrend_states as t using unnest(%s::text[], %s::float8[]) as w (series, after_s)"
            " where t.series = w.series and t.timeframe = %s and t.ts > to_timestamp(w.after_s)"
            " and t.series like 'regime:%%' and not exists (select from regime_price_data_ohlc as b"
            " where 'regime:' || b.driver = t.series and b.timeframe = t.timeframe and b.timestamp = t.ts and b.is_final)",
            _bounds(timeframe, after_s),
        ).rowcount

    def save(self, timeframe: Timeframe, engine_version: str, strength_scale: float, advances: Mapping[str, Advance]) -> Saved:
        """Upsert states (revision raised where content changed), events and level sets."""
        advances = {series: advance for series, advance in advances.items() if len(advance.ts_s)}
        if not advances:
            return Saved(0, 0, {})
        columns = _state_columns(timeframe, engine_version, advances)
        count = bulk.upsert(self._conn, "uptrend_states", columns, _STATE_KEY, bump_revision=True)
        self._save_events(timeframe, engine_version, advances)
        self._save_levels(timeframe, strength_scale, advances)
        return Saved(
            count.inserted + count.updated, count.unchanged, {series: int(advance.ts_s[0]) for series, advance in advances.items()}
        )

    def _save_events(self, timeframe: Timeframe, engine_version: str, advances: Mapping[str, Advance]) -> None:
        code, ts_s, rows = _stack(advances, lambda advance: advance.states)
        state, prev = rows[:, trend_record.INDEX["state"]], rows[:, trend_record.INDEX["prev_state"]]
        changed = ~np.isnan(prev) & (state != prev)
        n = int(changed.sum())
        if not n:
            return
        columns: dict[str, bulk.Column] = {
            "series": bulk.text(code[changed], list(advances)),
            "timeframe": bulk.constant(timeframe.value, n),
            "ts": bulk.timestamptz(ts_s[changed]),
            "from_state": bulk.text(prev[changed].astype(int), trend_record.STATES),
            "to_state": bulk.text(state[changed].astype(int), trend_record.STATES),
            "exit_reason": bulk.text(_codes(rows[changed, trend_record.INDEX["exit_reason"]]), trend_record.EXIT_REASONS),
            "engine_version": bulk.constant(engine_version, n),
        }
        bulk.upsert(self._conn, "uptrend_state_events", columns, _STATE_KEY)

    def _save_levels(self, timeframe: Timeframe, strength_scale: float, advances: Mapping[str, Advance]) -> None:
        series: list[str] = []
        built: list[int] = []
        ids: list[str] = []
        sources: list[str] = []
        numbers: list[tuple[float, float, float]] = []
        for name, advance in advances.items():
            sets = advance.level_sets
            for ts_s, size, rows in zip(sets.ts_s.tolist(), sets.sizes.tolist(), sets.rows, strict=True):
                levels = describe_levels(rows[:size], strength_scale)
                for level in levels:
                    ids.append(level.level_id)
                    sources.append(level.source)
                    numbers.append((level.price, level.strength_raw, level.strength))
                if not levels:
                    ids.append(_EMPTY_SET)
                    sources.append("none")
                    numbers.append((np.nan, 0.0, 0.0))
                series += [name] * max(1, len(levels))
                built += [ts_s] * max(1, len(levels))
        if not series:
            return
        table = np.array(numbers)
        columns: dict[str, bulk.Column] = {
            "series": bulk.texts(series),
            "timeframe": bulk.constant(timeframe.value, len(series)),
            "built_ts": bulk.timestamptz(np.array(built)),
            "level_id": bulk.texts(ids),
            "price": bulk.float8(table[:, 0]),
            "strength_raw": bulk.float8(table[:, 1]),
            "strength": bulk.float8(table[:, 2]),
            "source": bulk.texts(sources),
        }
        bulk.upsert(self._conn, "sr_levels", columns, ("series", "timeframe", "built_ts", "level_id"))

    def save_carries(
        self, timeframe: Timeframe, engine_version: str, carries: Mapping[str, Sequence[tuple[int, int, bytes, bool]]]
    ) -> None:
        """Save checkpoints (ts, bars seen, state, is anchor); older ones that are no anchors go."""
        flat = [(series, *row) for series, rows in carries.items() for row in rows]
        if not flat:
            return
        columns: dict[str, bulk.Column] = {
            "series": bulk.texts([row[0] for row in flat]),
            "timeframe": bulk.constant(timeframe.value, len(flat)),
            "ts": bulk.timestamptz([row[1] for row in flat]),
            "engine_version": bulk.constant(engine_version, len(flat)),
            "state": bulk.byteas([row[3] for row in flat]),
            "bars_seen": bulk.int4([row[2] for row in flat]),
            "is_anchor": bulk.boolean([row[4] for row in flat]),
        }
        first = {series: rows[0][0] for series, rows in carries.items() if rows}
        newest = {series: rows[-1][0] for series, rows in carries.items() if rows}
        # What is replaced goes first, so that the rest is a plain COPY: a third of the cost of an upsert, a thousand times a minute.
        self._conn.execute(
            "delete from engine_checkpoints as t using unnest(%s::text[], %s::float8[], %s::float8[]) as w (series, first_s, newest_s)"
            " where t.series = w.series and t.timeframe = %s and (t.ts >= to_timestamp(w.first_s)"
            " or t.ts < to_timestamp(w.newest_s) and not t.is_anchor)",
            (list(first), list(first.values()), list(newest.values()), timeframe.value),
        )
        bulk.copy_into(self._conn, "engine_checkpoints", list(columns), list(columns.values()))

    def save_tapes(self, timeframe: Timeframe, chunks: Sequence[tuple[str, int, TapeChunk]]) -> None:
        """Save tape chunks (series, S3 start, chunk)."""
        if not chunks:
            return
        columns: dict[str, bulk.Column] = {
            "series": bulk.texts([series for series, _, _ in chunks]),
            "timeframe": bulk.constant(timeframe.value, len(chunks)),
            "s3_start_ts": bulk.timestamptz([start_s for _, start_s, _ in chunks]),
            "chunk": bulk.int4([chunk.chunk for _, _, chunk in chunks]),
            "data": bulk.byteas([chunk.data for _, _, chunk in chunks]),
            "close_min": bulk.float8([chunk.close_min for _, _, chunk in chunks]),
            "close_max": bulk.float8([chunk.close_max for _, _, chunk in chunks]),
        }
        bulk.upsert(self._conn, "engine_tape", columns, ("series", "timeframe", "s3_start_ts", "chunk"))

    def ensure_positions(self, timeframe: Timeframe, tickers: Mapping[str, str]) -> None:
        """Create the position rows of series that have none: drivers as regime_driver, tokens dormant."""
        rows = []
        for series, ticker in tickers.items():
            key = split_series(series)
            contract, chain = (key[0], "regime") if len(key) == 1 else (key[0], key[1])
            rows.append((contract, chain, ticker, "regime_driver" if len(key) == 1 else "dormant"))
        contracts, chains, names, statuses = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
        self._conn.execute(
            "insert into lowcap_positions (token_contract, token_chain, timeframe, token_ticker, status, book_id)"
            " select contract, chain, %s, ticker, status, 'onchain_crypto'"
            " from unnest(%s::text[], %s::text[], %s::text[], %s::text[]) as new (contract, chain, ticker, status)"
            " where not exists (select from lowcap_positions as p where (p.token_contract, p.token_chain, p.timeframe) ="
            " (contract, chain, %s))"
            " on conflict (token_contract, token_chain, timeframe) do nothing",
            (timeframe.value, contracts, chains, names, statuses, timeframe.value),
        )

    def save_snapshots(self, timeframe: Timeframe, series: Collection[str]) -> None:
        """Project the newest state of each series into the `features` of its position row."""
        keys = [(name, *(key if len(key) == 2 else (key[0], "regime"))) for name in series for key in [split_series(name)]]
        if not keys:
            return
        names, contracts, chains = (list(column) for column in zip(*keys, strict=True))
        self._conn.execute(
            # locked by number, whatever the plan of the join: two writers of several rows that lock them in two orders deadlock
            "with f as (select p.id, f.features, f.state, f.bars_seen"
            " from unnest(%s::text[], %s::text[], %s::text[]) as w (series, contract, chain)"
            " cross join lateral (select * from state_features as s where s.series = w.series and s.timeframe = %s order"
            " by s.ts desc limit 1) as f join lowcap_positions as p"
            " on (p.token_contract, p.token_chain, p.timeframe) = (w.contract, w.chain, %s) order by p.id for no key update of p)"
            " update lowcap_positions as p set features = p.features || f.features, state = f.state, bars_count = f.bars_seen,"
            " status = case when p.status = 'dormant' then 'watchlist' else p.status end from f where p.id = f.id",
            (names, contracts, chains, timeframe.value, timeframe.value),
        )


def _bounds(timeframe: Timeframe, after_s: Mapping[str, int | None]) -> tuple[list[str], list[float], str]:
    return list(after_s), [-1e9 if bound is None else float(bound) for bound in after_s.values()], timeframe.value


def _codes(values: FloatArray) -> NDArray[np.int64]:
    """Category codes of a row column: NaN is -1."""
    return np.where(np.isnan(values), -1, values).astype(np.int64)


def _stack(
    advances: Mapping[str, Advance], rows_of: Callable[[Advance], FloatArray]
) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]:
    """Rows of all series under each other: series code, ts and row of each."""
    lengths = [len(advance.ts_s) for advance in advances.values()]
    code = np.repeat(np.arange(len(lengths)), lengths)
    ts_s = np.concatenate([advance.ts_s for advance in advances.values()])
    return code, ts_s, np.concatenate([rows_of(advance) for advance in advances.values()])


def _state_columns(timeframe: Timeframe, engine_version: str, advances: Mapping[str, Advance]) -> dict[str, bulk.Column]:
    code, ts_s, states = _stack(advances, lambda advance: advance.states)
    _, _, records = _stack(advances, lambda advance: advance.records)
    n = len(ts_s)
    columns: dict[str, bulk.Column] = {
        "series": bulk.text(code, list(advances)),
        "timeframe": bulk.constant(timeframe.value, n),
        "ts": bulk.timestamptz(ts_s),
        "engine_version": bulk.constant(engine_version, n),
        "price": bulk.float8(records[:, ind_record.INDEX["latest_price"]]),
    }
    for at, name in enumerate(trend_record.FIELDS):
        columns[name] = _state_column(name, states[:, at])
    for at, name in enumerate(ind_record.FIELDS):
        values = records[:, at]
        if name in _COUNTS:
            columns[name] = bulk.int4(values.astype(np.int64))
        else:
            columns[name] = bulk.boolean(values > 0) if name == "immature" else bulk.float8(values)
    return columns


def _state_column(name: str, values: FloatArray) -> bulk.Column:
    missing = np.isnan(values)
    filled = np.where(missing, 0.0, values)
    if name in ("state", "prev_state"):
        return bulk.text(_codes(values), trend_record.STATES)
    if name == "exit_reason":
        return bulk.text(_codes(values), trend_record.EXIT_REASONS)
    if name in ("state_since_ts", "s3_start_ts"):
        return bulk.timestamptz(filled.astype(np.int64), null=missing)
    if name == "bars_since_s3":
        return bulk.int4(filled.astype(np.int64), null=missing)
    if name in trend_record.FLAGS or name in trend_record.REBUY_SOURCES or name in _DIAGNOSTIC_FLAGS:
        return bulk.boolean(filled > 0, null=missing)
    return bulk.float8(values)
