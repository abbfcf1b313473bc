"""Regime snapshots in Postgres: written a minute at a time, read by series and instant."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import dict_row

from regime_pipeline.adapters.postgres import bulk
from regime_pipeline.ports import SnapshotRow
from regime_pipeline.regime.opinions.snapshot import RegimeSnapshot, unknown_snapshot
from regime_pipeline.regime.opinions.terms import SERIES, SO_VERSION

_KEY: Final = ("series", "snapshot_ts", "so_version")
_ORIGINS: Final = ("backfill", "live")
_TRIPLES: Final = ("p_1m", "p_15m", "p_1h", "consensus_p", "belief_p")
_COUNTS: Final = ("age_s_1m", "age_s_15m", "age_s_1h", "strategic_count", "spell_age_bars")
_MEASURED: Final = ("n_eff", "mean_diff", "t", "mean_abs", "fwd_vol", "hit_rate", "spearman", "spearman_baseline")
_COLUMNS: Final = tuple(unknown_snapshot(SERIES[0], 0).columns())
_NUMBERS: Final = frozenset(
    {
        *(f"{name}_{timeframe}" for name in ("conf", "bias", "entropy", "p_switch60", "cp_prob") for timeframe in ("1m", "15m", "1h")),
        *("consensus_conf", "consensus_bias", "consensus_entropy", "belief_entropy", "direction_score", "belief_p_switch60", "coverage"),
        *("p_spell_4h", "p_spell_24h", "band", "band_rank", "throttle_shadow"),
    }
)


class PostgresSnapshots:
    """`SnapshotStore` on an open transaction."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    def save(self, snapshots: Sequence[RegimeSnapshot], is_live: Sequence[bool]) -> int:
        """Insert snapshots; returns how many were new."""
        if not snapshots:
            return 0
        n = len(snapshots)
        rows = [each.columns() for each in snapshots]
        columns: dict[str, bulk.Column] = {
            "series": bulk.texts([each.series for each in snapshots]),
            "snapshot_ts": bulk.timestamptz(np.array([each.ts_s for each in snapshots], dtype=np.int64)),
            "so_version": bulk.constant(SO_VERSION, n),
            **{name: _column(name, [row[name] for row in rows]) for name in _COLUMNS},
            "origin": bulk.text(np.array(is_live, dtype=np.intp), _ORIGINS),
        }
        return bulk.insert_new(self._conn, "regime_snapshots", columns, _KEY)

    def load_minutes(self, series: str, first_s: int, last_s: int) -> NDArray[np.int64]:
        """Load the minutes from one to another that have a row, ascending, epoch seconds."""
        query = (
            "select snapshot_ts from regime_snapshots where series = %s and so_version = %s"
            " and snapshot_ts between to_timestamp(%s) and to_timestamp(%s) order by snapshot_ts"
        )
        return bulk.fetch_columns(self._conn, query, (series, SO_VERSION, first_s, last_s))["snapshot_ts"]

    def load_newest(self, series: str, at_s: int) -> SnapshotRow | None:
        """Load the newest snapshot at or before an instant, however old."""
        row = (
            self._conn.cursor(row_factory=dict_row)
            .execute(
                "select * from regime_snapshots where series = %s and so_version = %s and snapshot_ts <= to_timestamp(%s)"
                " order by snapshot_ts desc limit 1",
                (series, SO_VERSION, at_s),
            )
            .fetchone()
        )
        return None if row is None else _read(row)

    def load_range(self, series: str, first_s: int, last_s: int, every_s: int) -> list[SnapshotRow]:
        """Load the snapshots from one instant to another whose minute is a multiple of `every_s`, ascending."""
        rows = self._conn.cursor(row_factory=dict_row).execute(
            "select * from regime_snapshots where series = %s and so_version = %s and snapshot_ts between to_timestamp(%s)"
            " and to_timestamp(%s) and extract(epoch from snapshot_ts)::bigint %% %s = 0 order by snapshot_ts",
            (series, SO_VERSION, first_s, last_s, every_s),
        )
        return [_read(row) for row in rows]

    def save_evaluation(self, evaluation_id: str, document: Mapping[str, Any]) -> bool:
        """Keep a report (`EvaluationReport.document`); False when it is there already."""
        evaluation, origin = document["evaluation"], _ORIGINS[document["is_live"]]
        m_tests, bound = evaluation["m_tests"], evaluation["bound"]
        done = self._conn.execute(
            "insert into opinion_evaluation_runs (evaluation_id, so_version, evaluated_from, evaluated_to, origin, m_tests, bound, report)"
            " values (%s, %s, to_timestamp(%s), to_timestamp(%s), %s, %s, %s, %s) on conflict do nothing",
            (evaluation_id, SO_VERSION, document["first_s"], document["end_s"], origin, m_tests, bound, json.dumps(document)),
        )
        if not done.rowcount:
            return False
        rows = evaluation["rows"]
        columns: dict[str, bulk.Column] = {
            "evaluation_id": bulk.constant(evaluation_id, len(rows)),
            "evaluated_window": bulk.constant(document["window"], len(rows)),
            "class": bulk.texts([row["label"] for row in rows]),
            **{name: bulk.texts([row[name] for row in rows]) for name in ("series", "opinion")},
            **{name: bulk.int4([row[name] for row in rows]) for name in ("horizon_h", "n")},
            **{name: bulk.float8([np.nan if row[name] is None else row[name] for row in rows]) for name in _MEASURED},
            "m_tests": bulk.int4([m_tests] * len(rows)),
            "bound": bulk.float8([np.nan if bound is None else bound] * len(rows)),
            "passed": bulk.boolean([row["passed"] for row in rows]),
            "origin": bulk.constant(origin, len(rows)),
        }
        key = ("evaluation_id", "series", "evaluated_window", "opinion", "class", "horizon_h")
        bulk.insert_new(self._conn, "opinion_evaluations", columns, key)
        return True

    def load_evaluation(self, evaluation_id: str) -> Mapping[str, Any] | None:
        """Load a report by its id; None when there is none."""
        row = self._conn.execute("select report from opinion_evaluation_runs where evaluation_id = %s", (evaluation_id,)).fetchone()
        return None if row is None else row[0]


def _column(name: str, values: list[Any]) -> bulk.Column:
    if name in _TRIPLES:
        return bulk.float8_arrays(values)
    if name in _COUNTS:
        return bulk.int4([0 if value is None else value for value in values], null=[value is None for value in values])
    if name in _NUMBERS:
        return bulk.float8([np.nan if value is None else value for value in values])
    if name == "throttle_parts":
        return bulk.jsonbs([json.dumps(value) for value in values])
    return bulk.texts(values)


def _read(row: dict[str, Any]) -> SnapshotRow:
    snapshot = RegimeSnapshot.from_columns(row["series"], int(row["snapshot_ts"].timestamp()), row)
    return SnapshotRow(snapshot, row["origin"] == "live", int(row["written_at"].timestamp()))
