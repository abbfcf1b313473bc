"""Passes of reconciliation, incidents and heartbeats of the order path in Postgres."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from regime_pipeline.adapters.postgres.recon_facts import ReconFacts
from regime_pipeline.ports import Incident, PassKind, PassStatus, ReconFinding, ReconRun, Severity, TradingBeat

_COLUMNS: Final[LiteralString] = (
    "id, kind, severity, scope, evidence, runbook, (extract(epoch from opened_at) * 1000)::bigint as opened_ms, repeats,"
    " acked_by, closed_by, (extract(epoch from closed_at) * 1000)::bigint as closed_ms"
)
_NEWEST: Final[LiteralString] = " from incidents where %s or closed_at is null order by id desc limit %s"
_OPEN: Final[LiteralString] = (
    "insert into incidents as i (kind, severity, scope, evidence, runbook) values (%s, %s, %s, %s, %s)"
    " on conflict (kind, scope) where closed_at is null do update set repeats = i.repeats + 1,"
    " severity = case when excluded.severity = 'critical' then 'critical' else i.severity end returning "
)


class PostgresRecon(ReconFacts):
    """`ReconStore` on an open transaction."""

    def add_run(self, run: ReconRun) -> int:
        """Write a pass with its findings; returns its number."""
        row = self.conn.execute(
            "insert into reconciliation_runs (account, kind, status, began_at, ended_at, detail)"
            " values (%s, %s, %s, to_timestamp(%s / 1000.0), to_timestamp(%s / 1000.0), %s) returning run_id",
            (run.account, run.kind, run.status, run.began_ms, run.ended_ms, Jsonb(dict(run.detail))),
        ).fetchone()
        run_id = int(row[0]) if row else 0
        if run.findings:
            self.conn.cursor().executemany(
                "insert into reconciliation_findings"
                " (run_id, check_name, scope, expected, actual, diff, drift_frac, tier, action, repeats, evidence)"
                " values (%s, %s, %s, %s, %s, %s, round(%s, 18), %s, %s, %s, %s)",
                [
                    (
                        run_id, each.check, each.scope, each.expected, each.actual, each.diff, each.drift_frac,
                        each.tier, each.action, each.repeats, Jsonb(dict(each.evidence)),
                    )
                    for each in run.findings
                ],
            )  # fmt: skip
        return run_id

    def load_runs(self, account: str, kind: PassKind | None = None, limit: int = 2) -> list[ReconRun]:
        """Load the newest passes with their findings, newest first."""
        runs = (
            self.conn.cursor(row_factory=dict_row)
            .execute(
                "select run_id, account, kind, status, (extract(epoch from began_at) * 1000)::bigint as began_ms,"
                " (extract(epoch from ended_at) * 1000)::bigint as ended_ms, detail from reconciliation_runs"
                " where account = %s and (%s::text is null or kind = %s) order by run_id desc limit %s",
                (account, kind, kind, limit),
            )
            .fetchall()
        )
        findings = self._load_findings([row["run_id"] for row in runs]) if runs else {}
        return [
            ReconRun(
                **{**row, "kind": PassKind(row["kind"]), "status": PassStatus(row["status"])},
                findings=tuple(findings.get(row["run_id"], ())),
            )
            for row in runs
        ]

    def load_last_ok_ms(self, account: str, kind: PassKind) -> int | None:
        """End of the newest pass of a kind that was clean; None before the first."""
        row = self.conn.execute(
            "select (extract(epoch from ended_at) * 1000)::bigint from reconciliation_runs"
            " where account = %s and kind = %s and status = 'ok' order by run_id desc limit 1",
            (account, kind),
        ).fetchone()
        return int(row[0]) if row else None

    def open_incident(self, kind: str, severity: Severity, scope: str, evidence: Mapping[str, Any], runbook: str) -> Incident:
        """Open an incident, or count a repetition of the open one: the first evidence stays, the severity may rise."""
        values = (kind, severity, scope, Jsonb(dict(evidence)), runbook)
        row = self.conn.cursor(row_factory=dict_row).execute(_OPEN + _COLUMNS, values).fetchone()
        return _read_incident(row or {})

    def close_incidents(self, kind: str, scope: str, closed_by: str) -> int:
        """Close the open incident of a kind and scope; returns how many that were, 0 or 1."""
        return self.conn.execute(
            "update incidents set closed_by = %s, closed_at = clock_timestamp() where kind = %s and scope = %s and closed_at is null",
            (closed_by, kind, scope),
        ).rowcount

    def ack_incident(self, incident_id: int, by: str) -> bool:
        """Record who knows of it, once; False when there is no such incident."""
        row = self.conn.execute(
            "update incidents set acked_by = coalesce(acked_by, %s), acked_at = coalesce(acked_at, clock_timestamp())"
            " where id = %s returning id",
            (by, incident_id),
        ).fetchone()
        return row is not None

    def load_incidents(self, *, with_closed: bool = False, limit: int = 100) -> list[Incident]:
        """Load incidents, newest first."""
        rows = self.conn.cursor(row_factory=dict_row).execute("select " + _COLUMNS + _NEWEST, (with_closed, limit))
        return [_read_incident(row) for row in rows]

    def beat(self, beat: TradingBeat) -> None:
        """Record a sign of life; one that is older than what is recorded changes nothing."""
        self.conn.execute(
            "insert into trading_heartbeats as b (process, account, at, pid, detail) values (%s, %s, to_timestamp(%s / 1000.0), %s, %s)"
            " on conflict (process, account) do update set at = excluded.at, pid = excluded.pid, detail = excluded.detail"
            " where b.at <= excluded.at",
            (beat.process, beat.account, beat.at_ms, beat.pid, Jsonb(dict(beat.detail))),
        )

    def load_beats(self) -> Sequence[TradingBeat]:
        """Load the last sign of life of every process."""
        rows = self.conn.cursor(row_factory=dict_row).execute(
            "select process, account, (extract(epoch from at) * 1000)::bigint as at_ms, pid, detail from trading_heartbeats"
            " order by process, account"
        )
        return [TradingBeat(**row) for row in rows]

    def _load_findings(self, run_ids: Sequence[int]) -> dict[int, list[ReconFinding]]:
        rows = self.conn.cursor(row_factory=dict_row).execute(
            "select run_id, check_name as check, scope, tier, expected, actual, diff, drift_frac, action, repeats, evidence"
            " from reconciliation_findings where run_id = any(%s) order by run_id, check_name, scope",
            (list(run_ids),),
        )
        found: dict[int, list[ReconFinding]] = {}
        for row in rows:
            found.setdefault(row.pop("run_id"), []).append(ReconFinding(**row))
        return found


def _read_incident(row: Mapping[str, Any]) -> Incident:
    return Incident(
        row["id"],
        row["kind"],
        Severity(row["severity"]),
        row["scope"],
        row["evidence"],
        row["runbook"],
        row["opened_ms"],
        row["repeats"],
        row["acked_by"],
        row["closed_by"],
        row["closed_ms"],
    )
