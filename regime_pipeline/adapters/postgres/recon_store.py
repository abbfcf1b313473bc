"""Passes of reconciliation, incidents and heartbeats of the order path in Postgres."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from regime_pipeline.ports import GuardedPosition, Incident, PassKind, PassStatus, ReconFinding, ReconRun, Severity, TradingBeat

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

# Per entry of the open trade what it filled and its planned stop; what names the stop's orders comes from the newest of them.
_GUARDED: Final[LiteralString] = """
select p.id, p.token_contract, p.token_chain, p.timeframe, p.current_trade_id, p.avg_entry_price, e.qty, e.stops,
    extract(epoch from e.bar_close)::bigint, (extract(epoch from e.entered) * 1000)::bigint, e.decision_id
from lowcap_positions as p cross join lateral (
    select array_agg(f.qty order by i.bar_close) as qty, array_agg(i.stop_price order by i.bar_close) as stops,
        max(i.bar_close) as bar_close, max(f.entered) as entered,
        (array_agg(i.decision_id order by i.bar_close desc, i.seq desc))[1] as decision_id
    from pm_actions as a join order_intents as i on i.action_id = a.id
    cross join lateral (
        select sum(qty) as qty, max(venue_ts) as entered from fills where fills.client_order_id = i.client_order_id
    ) as f
    where a.trade_id = p.current_trade_id and i.account = %(account)s and i.purpose = 'entry' and f.qty > 0
) as e
where p.book_id = %(book)s and p.current_trade_id is not null and p.avg_entry_price > 0 and e.bar_close is not null
order by p.id"""


@dataclass(frozen=True, slots=True)
class PostgresRecon:
    """`ReconStore` on an open transaction."""

    conn: psycopg.Connection

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

    def load_symbols(self, account: str, since_ms: int) -> list[str]:
        """Load the symbols with a live order, or with an order or a fill since an instant."""
        rows = self.conn.execute(
            "select symbol from orders where account = %(account)s"
            " and state in ('INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED')"
            " union select symbol from orders where account = %(account)s and created_at >= to_timestamp(%(since)s / 1000.0)"
            " union select symbol from fills where account = %(account)s and received_ts >= to_timestamp(%(since)s / 1000.0) order by 1",
            {"account": account, "since": since_ms},
        )
        return [symbol for (symbol,) in rows]

    def load_fill_cursors(self, account: str, symbols: Collection[str]) -> dict[str, int]:
        """Load the venue's time of the newest fill of each symbol that has one, epoch milliseconds."""
        rows = self.conn.execute(
            "select symbol, (extract(epoch from f.venue_ts) * 1000)::bigint from unnest(%s::text[]) as wanted (symbol)"
            " cross join lateral (select venue_ts from fills where account = %s and fills.symbol = wanted.symbol"
            " order by venue_ts desc limit 1) as f",
            (list(symbols), account),
        )
        return dict(rows.fetchall())

    def load_strategies(self, account: str) -> list[str]:
        """Load the strategies that ever ordered for an account."""
        rows = self.conn.execute("select distinct strategy from order_intents where account = %s order by 1", (account,))
        return [strategy for (strategy,) in rows]

    def load_guarded(self, account: str, book_id: str) -> list[GuardedPosition]:
        """Load the positions of a book whose open trade has a filled entry in an account."""
        rows = self.conn.execute(_GUARDED, {"account": account, "book": book_id})
        return [
            GuardedPosition(
                row[0], row[1], row[2], row[3], row[4], row[5], tuple(zip(row[6], row[7], strict=True)), row[8], row[9], row[10]
            )
            for row in rows
        ]

    def load_children(self, account: str, strategy: str, symbol: str, bar_close_s: int, leg: str) -> list[tuple[str, int, str]]:
        """Load client order id, seq and state of every order of a logical key, first child first."""
        return self.conn.execute(
            "select client_order_id, seq, state from order_intents as i join orders as o using (client_order_id)"
            " where i.account = %s and i.strategy = %s and i.symbol = %s and i.bar_close = to_timestamp(%s) and i.leg = %s order by seq",
            (account, strategy, symbol, bar_close_s, leg),
        ).fetchall()

    def find_action(self, position_id: int, bar_ts_s: int) -> int | None:
        """Find the action of a position on a bar."""
        row = self.conn.execute(
            "select id from pm_actions where position_id = %s and bar_ts = to_timestamp(%s)", (position_id, bar_ts_s)
        ).fetchone()
        return int(row[0]) if row else None

    def load_tariffs(self, venue: str) -> dict[str, tuple[Decimal, Decimal]]:
        """Load maker and taker fee in bps by symbol."""
        rows = self.conn.execute("select symbol, maker_bps, taker_bps from instrument_rules where venue = %s", (venue,))
        return {symbol: (maker, taker) for symbol, maker, taker in rows}

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
