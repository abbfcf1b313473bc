"""Deltas and bucket memberships in Postgres."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import dict_row

from regime_pipeline.adapters.postgres import bulk
from regime_pipeline.adapters.postgres.series import join_series, split_series
from regime_pipeline.market.buckets import BucketSpan
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.ports import BarTable, BoardRow, DeltaHistory, Saved, StateHistory, StateRows
from regime_pipeline.regime.drivers import DRIVER_NAMES
from regime_pipeline.trend.record import FLAGS, STATES

FloatArray = NDArray[np.float64]

BAR_CHANNEL: Final = "regime_bars"
"""Channel of LISTEN on which new regime bars are told; the payload is their timeframe."""


class PostgresRegime:
    """`RegimeStore` on an open transaction."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    def load_board(self, now_s: int) -> list[BoardRow]:
        """Load the newest row of every driver and regime timeframe whose bar has ended at `now_s`."""
        cells = [(driver, timeframe.value, now_s - timeframe.seconds) for driver in DRIVER_NAMES for timeframe in REGIME_TIMEFRAMES]
        rows = self._conn.cursor(row_factory=dict_row).execute(
            "select w.driver, w.timeframe, extract(epoch from s.ts)::bigint as ts_s, s.state, s.prev_state,"
            " extract(epoch from s.state_since_ts)::bigint as since_s, s.price, s.buy, s.rebuy, s.trim, s.emergency_exit,"
            " s.reclaimed_ema333, s.exit_position, d.delta_a_raw, d.delta_e_raw, s.immature, s.bars_seen"
            " from unnest(%s::text[], %s::text[], %s::float8[]) as w (driver, timeframe, last_s)"
            " cross join lateral (select * from uptrend_states as s where s.series = 'regime:' || w.driver and s.timeframe = w.timeframe"
            " and s.ts <= to_timestamp(w.last_s) order by s.ts desc limit 1) as s"
            " left join regime_deltas as d on d.driver = w.driver and d.timeframe = w.timeframe and d.ts = s.ts",
            [list(column) for column in zip(*cells, strict=True)],
        )
        board = []
        for row in rows:
            flags = tuple(name for name in FLAGS if row.pop(name))
            board.append(BoardRow(timeframe=Timeframe(row.pop("timeframe")), flags=flags, **row))
        return board

    def load_history(self, series: str, timeframe: Timeframe, start_s: int, end_s: int) -> StateHistory:
        """Load the states of a series with bar opens in [start, end)."""
        rows = bulk.fetch_columns(
            self._conn,
            "select ts, price, state, buy, rebuy, trim, emergency_exit, reclaimed_ema333, exit_position from uptrend_states"
            " where series = %s and timeframe = %s and ts >= to_timestamp(%s) and ts < to_timestamp(%s) order by ts",
            (series, timeframe.value, start_s, end_s),
        )
        return StateHistory(rows["ts"], rows["price"], _state_codes(rows["state"]), {name: rows[name] for name in FLAGS})

    def load_deltas(self, driver: str, timeframe: Timeframe, start_s: int, end_s: int) -> DeltaHistory:
        """Load the deltas of a driver with bar opens in [start, end)."""
        rows = bulk.fetch_columns(
            self._conn,
            "select ts, state, immature, delta_a_raw, delta_e_raw from regime_deltas"
            " where driver = %s and timeframe = %s and ts >= to_timestamp(%s) and ts < to_timestamp(%s) order by ts",
            (driver, timeframe.value, start_s, end_s),
        )
        return DeltaHistory(rows["ts"], _state_codes(rows["state"]), rows["immature"], rows["delta_a_raw"], rows["delta_e_raw"])

    def load_states(self, timeframe: Timeframe, first_s: Mapping[str, int]) -> StateRows:
        """Load what the mapper reads of each series from a bar on, in the order of the series, then of time."""
        names = list(first_s)
        rows = bulk.fetch_columns(
            self._conn,
            # ordered inside, so that each series is an index scan from its first bar, however long the history behind it is
            "select w.n::int4 as n, s.ts, s.state, s.prev_state, s.buy, s.rebuy, s.trim, s.emergency_exit, s.reclaimed_ema333,"
            " s.exit_position, s.immature, s.engine_version"
            " from unnest(%s::text[], %s::float8[]) with ordinality as w (series, first_s, n) cross join lateral (select * from"
            " uptrend_states as u where u.series = w.series and u.timeframe = %s and u.ts >= to_timestamp(w.first_s) order by u.ts) as s"
            " order by w.n, s.ts",
            (names, list(first_s.values()), timeframe.value),
        )
        return StateRows(
            series=tuple(names),
            series_code=rows["n"] - 1,
            ts_s=rows["ts"],
            state=_state_codes(rows["state"]),
            prev_state=_state_codes(rows["prev_state"]),
            flags=np.stack([rows[name] for name in FLAGS], axis=1),
            immature=rows["immature"],
            engine_version=rows["engine_version"],
        )

    def save_deltas(
        self, timeframe: Timeframe, first_s: Mapping[str, int], states: StateRows, delta_a: FloatArray, delta_e: FloatArray
    ) -> Saved:
        """Upsert the deltas of driver states, delete those of bars that have no state any more, and project the newest ones."""
        drivers = [split_series(name)[0] for name in states.series]
        self._drop_deltas(timeframe, first_s, states)
        columns: dict[str, bulk.Column] = {
            "driver": bulk.text(states.series_code, drivers),
            "timeframe": bulk.constant(timeframe.value, len(states.ts_s)),
            "ts": bulk.timestamptz(states.ts_s),
            "state": bulk.text(states.state, STATES),
            "prev_state": bulk.text(states.prev_state, STATES),
            **{name: bulk.boolean(states.flags[:, at]) for at, name in enumerate(FLAGS)},
            "delta_a_raw": bulk.float8(delta_a),
            "delta_e_raw": bulk.float8(delta_e),
            "immature": bulk.boolean(states.immature),
            "engine_version": bulk.texts(list(states.engine_version)),
        }
        count = bulk.upsert(self._conn, "regime_deltas", columns, ("driver", "timeframe", "ts"), bump_revision=True)
        self._save_snapshots(timeframe, drivers)
        return Saved(count.inserted + count.updated, count.unchanged, dict(first_s))

    def _drop_deltas(self, timeframe: Timeframe, first_s: Mapping[str, int], states: StateRows) -> None:
        """Delete deltas of bars that have no state any more."""
        for code, series in enumerate(states.series):
            driver = split_series(series)[0]
            self._conn.execute(
                "delete from regime_deltas where driver = %s and timeframe = %s and ts >= to_timestamp(%s)"
                " and ts not in (select to_timestamp(kept) from unnest(%s::float8[]) as kept)",
                (driver, timeframe.value, first_s[series], states.ts_s[states.series_code == code].tolist()),
            )

    def _save_snapshots(self, timeframe: Timeframe, drivers: Sequence[str]) -> None:
        """Project the newest delta of each driver into the `features` of its position row."""
        self._conn.execute(
            # locked by number, as the engine's snapshots are
            "with f as (select p.id, f.features from unnest(%s::text[]) as w (driver)"
            " cross join lateral (select * from delta_features as d where d.driver = w.driver and d.timeframe = %s order"
            " by d.ts desc limit 1) as f join lowcap_positions as p"
            " on (p.token_contract, p.token_chain, p.timeframe) = (w.driver, 'regime', %s)"
            " where not p.features @> f.features order by p.id for no key update of p)"
            " update lowcap_positions as p set features = p.features || f.features from f where p.id = f.id",
            (list(drivers), timeframe.value, timeframe.value),
        )

    def announce_bars(self, timeframe: Timeframe) -> None:
        """Tell whoever waits for new regime bars of a timeframe, at the commit of this transaction and not if it fails."""
        self._conn.execute("select pg_notify(%s, %s)", (BAR_CHANNEL, timeframe.value))

    def load_spans(self) -> dict[str, list[BucketSpan]]:
        """Load all memberships by token series, ascending."""
        rows = self._conn.execute(
            "select token_contract, chain, extract(epoch from valid_from)::bigint, extract(epoch from valid_to)::bigint,"
            " bucket, market_cap_usd,"
            " extract(epoch from as_of)::bigint from token_cap_bucket order by token_contract, chain, valid_from"
        ).fetchall()
        spans: dict[str, list[BucketSpan]] = {}
        for contract, chain, from_s, to_s, bucket, cap_usd, as_of_s in rows:
            series = join_series(BarTable.TOKENS, (contract, chain))
            spans.setdefault(series, []).append(BucketSpan(from_s, to_s, bucket, cap_usd, as_of_s))
        return spans

    def save_spans(self, spans: Mapping[str, Sequence[BucketSpan]]) -> int:
        """Upsert memberships; returns how many rows changed."""
        flat = [(split_series(series), span) for series, parts in spans.items() for span in parts]
        if not flat:
            return 0
        ends = np.array([span.valid_to_s or 0 for _, span in flat])
        columns: dict[str, bulk.Column] = {
            "token_contract": bulk.texts([key[0] for key, _ in flat]),
            "chain": bulk.texts([key[1] for key, _ in flat]),
            "valid_from": bulk.timestamptz([span.valid_from_s for _, span in flat]),
            "valid_to": bulk.timestamptz(ends, null=np.array([span.valid_to_s is None for _, span in flat])),
            "bucket": bulk.texts([span.bucket for _, span in flat]),
            "market_cap_usd": bulk.float8([span.cap_usd for _, span in flat]),
            "as_of": bulk.timestamptz([span.as_of_s for _, span in flat]),
        }
        closed = [(*key, span.valid_from_s, span.valid_to_s) for key, span in flat if span.valid_to_s is not None]
        # closing memberships first keeps the one open row per token that the unique index asks for
        self._conn.execute(
            "update token_cap_bucket as t set valid_to = to_timestamp(w.to_s)"
            " from unnest(%s::text[], %s::text[], %s::float8[], %s::float8[]) as w (contract, chain, from_s, to_s)"
            " where (t.token_contract, t.chain, t.valid_from) = (w.contract, w.chain, to_timestamp(w.from_s)) and t.valid_to is null",
            [[row[at] for row in closed] for at in range(4)],
        )
        count = bulk.upsert(self._conn, "token_cap_bucket", columns, ("token_contract", "chain", "valid_from"))
        return count.inserted + count.updated


def _state_codes(names: NDArray[np.object_]) -> NDArray[np.int64]:
    """Codes 0..4 of state names; NULL is -1."""
    codes = {name: code for code, name in enumerate(STATES)} | {None: -1}
    return np.array([codes[name] for name in names], dtype=np.int64)
