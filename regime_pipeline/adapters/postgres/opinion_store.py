"""Models and detector rows of the second opinions in Postgres: inserted once, read by series and slot."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.rows import dict_row

from regime_pipeline.adapters.postgres import bulk
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Attempt, AttemptRow, OpinionTable
from regime_pipeline.regime.opinions.changepoint import (
    LEVELS,
    NO_TIME,
    ChangepointRows,
    ChangepointState,
    Level,
    restore_changepoint_state,
)
from regime_pipeline.regime.opinions.hmm_filter import Opinion, PosteriorRows
from regime_pipeline.regime.opinions.hmm_model import HmmModel, ServedModel
from regime_pipeline.regime.opinions.quality import Tier
from regime_pipeline.regime.opinions.snapshot import ChangepointReading, VolatilityReading
from regime_pipeline.regime.opinions.terms import LABELS, SO_VERSION, STATUSES, TERMS, Label, Status
from regime_pipeline.regime.opinions.tracker import TrackerState, Transition
from regime_pipeline.regime.opinions.volatility import (
    DIRECTION_AXES,
    VOL_AXES,
    VOL_REGIMES,
    DirectionAxis,
    VolatilityRows,
    VolAxis,
    VolHold,
    VolRegime,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_KEY: Final = ("series", "tf", "bar_ts", "so_version")
_ORIGINS: Final = ("backfill", "live")
_TIERS: Final = tuple(Tier)
_FAR_PAST_S: Final = -1e9


class PostgresOpinions:
    """`OpinionStore` on an open transaction."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    def save_attempts(self, attempts: Sequence[Attempt]) -> list[str]:
        """Keep fits; returns the ids of the new ones. A second accepted model of a day is left out."""
        new = []
        for attempt in attempts:
            row = _attempt_row(attempt)
            statement = sql.SQL("insert into hmm_models ({}) values ({}) on conflict do nothing").format(
                sql.SQL(", ").join(map(sql.Identifier, row)), sql.SQL(", ").join(map(sql.Placeholder, row))
            )
            if self._conn.execute(statement, row).rowcount:
                new.append(attempt.result.attempt_id)
        return new

    def load_models(self, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> list[ServedModel]:
        """Load the accepted models that are in force anywhere from one bar to another, ascending."""
        rows = self._conn.cursor(row_factory=dict_row).execute(
            "select *, extract(epoch from train_first_ts)::bigint as first_s, extract(epoch from train_last_ts)::bigint as last_s,"
            " extract(epoch from train_end)::bigint as end_s, extract(epoch from effective_from)::bigint as from_s"
            " from hmm_models as m where series = %(series)s and tf = %(tf)s and so_version = %(version)s and status = 'accepted'"
            " and effective_from <= to_timestamp(%(last)s) and effective_from >= coalesce((select max(effective_from) from hmm_models"
            " where series = %(series)s and tf = %(tf)s and so_version = %(version)s and status = 'accepted'"
            " and effective_from <= to_timestamp(%(first)s)), '-infinity') order by effective_from",
            {"series": series, "tf": timeframe.value, "version": SO_VERSION, "first": first_s, "last": last_s},
        )
        return [_served(row) for row in rows]

    def load_attempts(self, limit: int, *, newest_only: bool = False) -> list[AttemptRow]:
        """Load what people are shown of the fits, newest first; of each series and timeframe only the newest if asked so."""
        source = sql.SQL("(select distinct on (series, tf) * from hmm_models where so_version = {v} order by series, tf, created_at desc)")
        every = sql.SQL("(select * from hmm_models where so_version = {v})")
        query = sql.SQL(
            "select model_id, series, tf, status = 'accepted' as accepted, reason, extract(epoch from train_end)::bigint as train_end_s,"
            " extract(epoch from effective_from)::bigint as effective_from_s, n_rows, tier, log_likelihood, label_stability as stability,"
            " one_sided_labels, weak_labels, extract(epoch from created_at)::bigint as created_s from {source} as m"
            " order by created_at desc, series, tf limit {limit}"
        ).format(source=(source if newest_only else every).format(v=sql.Literal(SO_VERSION)), limit=sql.Literal(limit))
        rows = self._conn.cursor(row_factory=dict_row).execute(query)
        return [AttemptRow(timeframe=Timeframe(row.pop("tf")), **row) for row in rows]

    def load_slots(self, table: OpinionTable, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> IntArray:
        """Load the slots from `first_s` to `last_s` that have a row, ascending."""
        query = sql.SQL("select bar_ts from {} where {} and bar_ts between to_timestamp(%s) and to_timestamp(%s) order by bar_ts")
        return self._fetch(query.format(sql.Identifier(table.value), _mine(series, timeframe)), (first_s, last_s))["bar_ts"]

    def save_posteriors(self, series: str, rows: PosteriorRows, is_live: BoolArray, trackers: Sequence[TrackerState] | None = None) -> int:
        """Insert rows, with the tracker after each of them on 1h; returns how many were new."""
        if not len(rows.ts_s):
            return 0
        ts_s, measures = rows.ts_s, rows.measures
        tiers = np.array([_TIERS.index(model.tier) for model in rows.models] + [_TIERS.index(Tier.NO_MODEL)])[rows.model]
        modifiers = np.array([tier.modifier for tier in _TIERS])[tiers]
        n = len(ts_s)
        self._ensure_months(rows.timeframe, ts_s)
        documents: list[str | None] = [None] * n
        if trackers is not None:
            documents = [json.dumps(each.to_document()) for each in trackers]
        columns: dict[str, bulk.Column] = {
            **_key_columns(series, rows.timeframe, ts_s),
            **{name: bulk.float8(rows.p[:, at]) for at, name in enumerate(("p_bear", "p_range", "p_bull"))},
            "label": bulk.text(rows.label, LABELS),
            "confidence_raw": bulk.float8(measures[:, 0]),
            "confidence": bulk.float8(measures[:, 0] * modifiers),
            "bias": bulk.float8(measures[:, 1]),
            "entropy": bulk.float8(measures[:, 2]),
            "p_switch": bulk.float8(measures[:, 3]),
            "p_switch60": bulk.float8(measures[:, 4]),
            "tier": bulk.text(tiers, _TIERS),
            "modifier": bulk.float8(modifiers),
            "model_id": bulk.text(rows.model, [model.model_id for model in rows.models]),
            "status": bulk.text(rows.status, STATUSES),
            "rows_used": bulk.int4(rows.rows_used),
            "tracker": bulk.jsonbs(documents),
            "origin": bulk.text(is_live.astype(np.intp), _ORIGINS),
        }
        return bulk.insert_new(self._conn, OpinionTable.POSTERIORS.value, columns, _KEY)

    def load_tracker(self, series: str, before_s: int) -> TrackerState | None:
        """Load the tracker of the newest hourly row before a bar."""
        row = self._conn.execute(
            "select tracker from hmm_posteriors where series = %s and tf = '1h' and so_version = %s and bar_ts < to_timestamp(%s)"
            " and tracker is not null order by bar_ts desc limit 1",
            (series, SO_VERSION, before_s),
        ).fetchone()
        return None if row is None else TrackerState.from_document(row[0])

    def save_transitions(self, transitions: Sequence[Transition], is_live: Sequence[bool]) -> int:
        """Insert transitions; returns how many were new."""
        n = len(transitions)
        columns: dict[str, bulk.Column] = {
            "transition_id": bulk.texts([each.transition_id for each in transitions]),
            "series": bulk.texts([each.series for each in transitions]),
            "tf": bulk.constant(Timeframe.H1.value, n),
            "so_version": bulk.constant(SO_VERSION, n),
            "from_label": bulk.texts([each.from_label for each in transitions]),
            "to_label": bulk.texts([each.to_label for each in transitions]),
            "first_bar_ts": bulk.timestamptz(np.array([each.first_bar_s for each in transitions], dtype=np.int64)),
            "confirmed_bar_ts": bulk.timestamptz(np.array([each.confirmed_bar_s for each in transitions], dtype=np.int64)),
            "confirmation_count": bulk.int4(np.array([each.confirmation_count for each in transitions], dtype=np.int64)),
            "confidence": bulk.float8([each.confidence for each in transitions]),
            "model_id_before": bulk.texts([each.model_id_before for each in transitions]),
            "model_id_after": bulk.texts([each.model_id_after for each in transitions]),
            "refit_within": bulk.boolean([each.refit_within for each in transitions]),
            "expires_at": bulk.timestamptz(np.array([each.expires_at_s for each in transitions], dtype=np.int64)),
            "origin": bulk.text(np.array(is_live, dtype=np.intp), _ORIGINS),
        }
        return bulk.insert_new(self._conn, "regime_transitions", columns, ("transition_id",))

    def load_transitions(self, series: str, first_s: int, last_s: int) -> list[Transition]:
        """Load the transitions whose first bar lies from one bar to another, ascending."""
        rows = self._conn.cursor(row_factory=dict_row).execute(
            "select transition_id, series, from_label, to_label, extract(epoch from first_bar_ts)::bigint as first_bar_s,"
            " extract(epoch from confirmed_bar_ts)::bigint as confirmed_bar_s, confirmation_count, confidence, model_id_before,"
            " model_id_after, refit_within, extract(epoch from expires_at)::bigint as expires_at_s from regime_transitions"
            " where series = %s and tf = '1h' and so_version = %s and first_bar_ts between to_timestamp(%s) and to_timestamp(%s)"
            " order by first_bar_ts",
            (series, SO_VERSION, first_s, last_s),
        )
        return [Transition(from_label=Label(row.pop("from_label")), to_label=Label(row.pop("to_label")), **row) for row in rows]

    def use_transition(self, consumer: str, transition_id: str, at_s: int) -> bool:
        """Take a transition for a consumer, in the transaction that acts on it; False when it may not be used or was used before."""
        done = self._conn.execute(
            "insert into transition_uses (consumer, transition_id, used_at) select %s, transition_id, to_timestamp(%s)"
            " from regime_transitions"
            " where transition_id = %s and not refit_within and expires_at > to_timestamp(%s) on conflict do nothing",
            (consumer, at_s, transition_id, at_s),
        )
        return done.rowcount == 1

    def save_changepoints(self, series: str, timeframe: Timeframe, rows: ChangepointRows, status: Sequence[str], is_live: BoolArray) -> int:
        """Insert rows; returns how many were new."""
        if not len(rows.ts_s):
            return 0
        ts_s, since_s = rows.ts_s, rows.alert_since_s
        self._ensure_months(timeframe, ts_s)
        columns: dict[str, bulk.Column] = {
            **_key_columns(series, timeframe, ts_s),
            "z": bulk.float8(rows.z),
            "cp_prob": bulk.float8(rows.cp_prob),
            "expected_run": bulk.float8(rows.expected_run),
            "run_mode": bulk.int4(rows.run_mode),
            "mode_prob": bulk.float8(rows.mode_prob),
            "n_obs": bulk.int4(rows.n_obs),
            "level": bulk.text(rows.level, LEVELS),
            "alert_since": bulk.timestamptz(since_s, null=since_s == NO_TIME),
            "status": bulk.texts(list(status)),
            "origin": bulk.text(is_live.astype(np.intp), _ORIGINS),
        }
        return bulk.insert_new(self._conn, OpinionTable.CHANGEPOINTS.value, columns, _KEY)

    def save_changepoint_states(self, series: str, timeframe: Timeframe, states: Sequence[ChangepointState]) -> None:
        """Keep states, and of the older ones only the last of each day."""
        for state in states:
            since_s = state.alert_since_s
            self._conn.execute(
                "insert into changepoint_states"
                " (series, tf, so_version, bar_ts, n_obs, missing, alert_since, run_p, mu, kappa, alpha, beta)"
                " values (%s, %s, %s, to_timestamp(%s), %s, %s, to_timestamp(%s), %s, %s, %s, %s, %s)"
                " on conflict (series, tf, so_version, bar_ts) do update set n_obs = excluded.n_obs, missing = excluded.missing,"
                " alert_since = excluded.alert_since, run_p = excluded.run_p, mu = excluded.mu, kappa = excluded.kappa,"
                " alpha = excluded.alpha, beta = excluded.beta",
                (series, timeframe.value, SO_VERSION, state.ts_s, state.n_obs, state.missing_run, since_s, *state.to_bytes()),
            )
        # the last slot of a day is what a replay of the next one starts from
        self._conn.execute(
            "delete from changepoint_states as s where series = %(series)s and tf = %(tf)s and so_version = %(version)s"
            " and bar_ts + %(length)s * interval '1 second' <> date_trunc('day', bar_ts + %(length)s * interval '1 second', 'UTC')"
            " and bar_ts < (select max(bar_ts) from changepoint_states as n"
            " where n.series = %(series)s and n.tf = %(tf)s and n.so_version = %(version)s)",
            {"series": series, "tf": timeframe.value, "version": SO_VERSION, "length": timeframe.seconds},
        )

    def load_changepoint_state(self, series: str, timeframe: Timeframe, before_s: int) -> ChangepointState | None:
        """Load the newest state before a bar."""
        row = self._conn.execute(
            "select extract(epoch from bar_ts)::bigint, n_obs, missing, extract(epoch from alert_since)::bigint,"
            " run_p, mu, kappa, alpha, beta from changepoint_states"
            " where series = %s and tf = %s and so_version = %s and bar_ts < to_timestamp(%s) order by bar_ts desc limit 1",
            (series, timeframe.value, SO_VERSION, before_s),
        ).fetchone()
        return None if row is None else restore_changepoint_state(row[0], row[1], row[2], row[3], row[4:9])

    def load_observations(self, series: str, timeframe: Timeframe, after_s: int | None, before_s: int) -> tuple[IntArray, FloatArray]:
        """Load the slots and their stored z between two bars, both excluded; NaN where nothing was observed."""
        query = sql.SQL(
            "select bar_ts, z from changepoints where {} and bar_ts > to_timestamp(%s) and bar_ts < to_timestamp(%s) order by bar_ts"
        )
        rows = self._fetch(query.format(_mine(series, timeframe)), (_FAR_PAST_S if after_s is None else after_s, before_s))
        return rows["bar_ts"], rows["z"]

    def save_volatility(self, series: str, timeframe: Timeframe, rows: VolatilityRows, is_live: BoolArray) -> int:
        """Insert rows; returns how many were new."""
        if not len(rows.ts_s):
            return 0
        columns: dict[str, bulk.Column] = {
            **_key_columns(series, timeframe, rows.ts_s),
            "ema": bulk.float8(rows.ema),
            "atr": bulk.float8(rows.atr),
            "band": bulk.float8(rows.band),
            "q95": bulk.float8(rows.shock),
            "band_rank": bulk.float8(rows.band_rank),
            "n_bands": bulk.int4(rows.n_bands),
            "vol_axis": bulk.text(rows.vol_axis, VOL_AXES),
            "direction_axis": bulk.text(rows.direction_axis, DIRECTION_AXES),
            "raw": bulk.text(rows.raw, VOL_REGIMES),
            "active": bulk.text(rows.active, VOL_REGIMES),
            "held": bulk.text(rows.held, VOL_REGIMES),
            "candidate": bulk.text(rows.candidate, VOL_REGIMES),
            "candidate_count": bulk.int4(rows.candidate_count),
            "unknown_run": bulk.int4(rows.unknown_run),
            "method": bulk.texts(list(rows.method)),
            "status": bulk.text(rows.status, STATUSES),
            "origin": bulk.text(is_live.astype(np.intp), _ORIGINS),
        }
        return bulk.insert_new(self._conn, OpinionTable.VOLATILITY.value, columns, _KEY)

    def load_hold(self, series: str, timeframe: Timeframe, before_s: int) -> tuple[int, VolHold] | None:
        """Load the newest slot before a bar, and what the hold remembers after it."""
        row = self._conn.execute(
            "select extract(epoch from bar_ts)::bigint, held, candidate, candidate_count, unknown_run from volatility_regimes"
            " where series = %s and tf = %s and so_version = %s and bar_ts < to_timestamp(%s) order by bar_ts desc limit 1",
            (series, timeframe.value, SO_VERSION, before_s),
        ).fetchone()
        return None if row is None else (row[0], VolHold(VolRegime(row[1]), VolRegime(row[2]), row[3], row[4]))

    def load_bands(self, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> tuple[IntArray, FloatArray]:
        """Load slots and their stored bands from one bar to another; NaN where unknown."""
        query = sql.SQL(
            "select bar_ts, band from volatility_regimes where {} and bar_ts between to_timestamp(%s) and to_timestamp(%s) order by bar_ts"
        )
        rows = self._fetch(query.format(_mine(series, timeframe)), (first_s, last_s))
        return rows["bar_ts"], rows["band"]

    def drop_months(self, before_s: int) -> list[str]:
        """Drop the months of 1m posteriors and change points that ended at or before an instant; returns their tables."""
        return [name for (name,) in self._conn.execute("select drop_opinion_months(to_timestamp(%s))", (before_s,))]

    def load_opinions(self, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> list[tuple[Opinion, TrackerState | None]]:
        """Load the posteriors from one bar to another, ascending, each with the tracker after it where it has one."""
        found = []
        for row in self._rows("hmm_posteriors", series, timeframe, first_s, last_s):
            opinion = Opinion(
                ts_s=row["bar_s"],
                p=(row["p_bear"], row["p_range"], row["p_bull"]),
                label=Label(row["label"]),
                confidence_raw=row["confidence_raw"],
                confidence=row["confidence"],
                bias=row["bias"],
                entropy=row["entropy"],
                p_switch=row["p_switch"],
                p_switch60=row["p_switch60"],
                tier=Tier(row["tier"]),
                model_id=row["model_id"],
                status=Status(row["status"]),
                rows_used=row["rows_used"],
            )
            found.append((opinion, None if row["tracker"] is None else TrackerState.from_document(row["tracker"])))
        return found

    def load_changepoints(self, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> list[ChangepointReading]:
        """Load the change-point rows from one bar to another, ascending."""
        rows = self._rows("changepoints", series, timeframe, first_s, last_s)
        return [ChangepointReading(row["bar_s"], row["cp_prob"], Level(row["level"])) for row in rows]

    def load_volatility(self, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> list[VolatilityReading]:
        """Load the volatility rows from one bar to another, ascending."""
        return [
            VolatilityReading(
                ts_s=row["bar_s"],
                regime=VolRegime(row["active"]),
                vol_axis=VolAxis(row["vol_axis"]),
                direction_axis=DirectionAxis(row["direction_axis"]),
                band=row["band"],
                band_rank=row["band_rank"],
                status=Status(row["status"]),
            )
            for row in self._rows("volatility_regimes", series, timeframe, first_s, last_s)
        ]

    def _rows(self, table: LiteralString, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> list[dict[str, Any]]:
        query = sql.SQL(
            "select *, extract(epoch from bar_ts)::bigint as bar_s from {} where {}"
            " and bar_ts between to_timestamp({}) and to_timestamp({}) order by bar_ts"
        ).format(sql.Identifier(table), _mine(series, timeframe), sql.Literal(first_s), sql.Literal(last_s))
        return self._conn.cursor(row_factory=dict_row).execute(query).fetchall()

    def _fetch(self, query: sql.Composed, params: tuple[Any, ...]) -> dict[str, NDArray[Any]]:
        return bulk.fetch_columns(self._conn, query, params)

    def _ensure_months(self, timeframe: Timeframe, ts_s: IntArray) -> None:
        if timeframe is Timeframe.M1:
            self._conn.execute("select ensure_opinion_months(to_timestamp(%s), to_timestamp(%s))", (int(ts_s[0]), int(ts_s[-1])))


def _mine(series: str, timeframe: Timeframe) -> sql.Composed:
    condition: LiteralString = "series = {} and tf = {} and so_version = {}"
    return sql.SQL(condition).format(sql.Literal(series), sql.Literal(timeframe.value), sql.Literal(SO_VERSION))


def _key_columns(series: str, timeframe: Timeframe, ts_s: IntArray) -> dict[str, bulk.Column]:
    n = len(ts_s)
    return {
        "series": bulk.constant(series, n),
        "tf": bulk.constant(timeframe.value, n),
        "bar_ts": bulk.timestamptz(ts_s),
        "so_version": bulk.constant(SO_VERSION, n),
    }


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    """Name the columns of hmm_models; parameters are NULL when the fit was rejected."""

    def instant(at_s: int | None) -> datetime | None:
        return None if at_s is None else datetime.fromtimestamp(at_s, UTC)

    result, model = attempt.result, attempt.result.model
    row: dict[str, Any] = {
        "model_id": result.attempt_id,
        "series": result.series,
        "tf": result.timeframe.value,
        "so_version": SO_VERSION,
        "status": "rejected" if model is None else "accepted",
        "reason": None if result.reason is None else result.reason.value,
        "train_first_ts": instant(result.first_ts_s),
        "train_last_ts": instant(result.last_ts_s),
        "train_end": instant(result.train_end_s),
        "effective_from": instant(attempt.effective_from_s),
        "n_rows": result.n_rows,
        "window_rows": TERMS[result.timeframe].window_rows,
        "converged": model is not None,
        "restart_lls": list(result.restart_lls),
        "label_stability": attempt.stability,
        "compared_model_id": attempt.compared_model_id,
        "resampled_share": result.resampled_share,
        "lib_versions": json.dumps(dict(attempt.libraries)),
    }
    if model is not None:
        row |= {
            "tier": model.tier.value,
            "modifier": model.tier.modifier,
            "log_likelihood": model.log_likelihood,
            "iterations": model.iterations,
            "restart": model.restart,
            "feature_mean": model.feature_mean.tolist(),
            "feature_std": model.feature_std.tolist(),
            "means": model.means.ravel().tolist(),
            "vars": model.variances.ravel().tolist(),
            "transmat": model.transitions.ravel().tolist(),
            "start_p": model.start_p.tolist(),
            "occupancy": model.occupancy.tolist(),
            "one_sided_labels": model.has_one_sided_labels,
            "weak_labels": model.has_weak_labels,
        }
    return row


def _served(row: dict[str, Any]) -> ServedModel:
    model = HmmModel(
        series=row["series"],
        timeframe=Timeframe(row["tf"]),
        feature_mean=np.array(row["feature_mean"]),
        feature_std=np.array(row["feature_std"]),
        means=np.array(row["means"]).reshape(3, 4),
        variances=np.array(row["vars"]).reshape(3, 4),
        transitions=np.array(row["transmat"]).reshape(3, 3),
        start_p=np.array(row["start_p"]),
        occupancy=np.array(row["occupancy"]),
        train_end_s=row["end_s"],
        first_ts_s=row["first_s"],
        last_ts_s=row["last_s"],
        n_rows=row["n_rows"],
        log_likelihood=row["log_likelihood"],
        iterations=row["iterations"],
        restart=row["restart"],
        restart_lls=tuple(row["restart_lls"]),
        resampled_share=row["resampled_share"],
    )
    return ServedModel(model, row["from_s"])
