"""Questions about the health of the order path to Postgres: few rows each, over indexes, since they are asked every minute."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString

from psycopg.rows import dict_row

from regime_pipeline.adapters.postgres.alert_store import translate_errors
from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.safety_store import PostgresSafety
from regime_pipeline.ports import AgreedHold, ExecutorBeat, OpenIncident, ReconState, StuckNote, StuckOrder
from regime_pipeline.risk.kill_switch import Switch


@dataclass(frozen=True, slots=True)
class PostgresTradingHealth:
    """`TradingHealth` on the database at `url` (password included, so never printed)."""

    url: str = field(repr=False)

    def load_kill_levels(self) -> Sequence[Switch]:
        """Load the kill levels in force in the table, of every account."""
        with translate_errors(), open_connection(self.url) as conn:
            return PostgresSafety(conn).load_switches()

    def load_executor_beats(self) -> Sequence[ExecutorBeat]:
        """Load the last sign of life of each executor that ever ran."""
        rows = self._ask("select account, extract(epoch from at)::bigint as at_s from trading_heartbeats where process = 'executor'")
        return [ExecutorBeat(**row) for row in rows]

    def find_unknown_orders(self, before_s: int) -> Sequence[StuckOrder]:
        """Find orders that have been UNKNOWN since before an instant, oldest first."""
        rows = self._ask(
            "select client_order_id, account, symbol, extract(epoch from unknown_at)::bigint as since_s from orders"
            # the states of the index of live orders, so that it is used
            " where state in ('INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED') and state = 'UNKNOWN'"
            " and unknown_at < to_timestamp(%s) order by unknown_at",
            (before_s,),
        )
        return [StuckOrder(**row) for row in rows]

    def load_recon_states(self) -> Sequence[ReconState]:
        """Load the newest pass of each account and kind."""
        rows = self._ask(
            "select r.account, r.kind, r.status, extract(epoch from r.ended_at)::bigint as ended_s,"
            " (select extract(epoch from max(c.ended_at))::bigint from reconciliation_runs as c where c.account = r.account"
            " and c.status = 'ok' and (c.kind = 'orders') = (r.kind = 'orders')) as clean_s,"
            " coalesce(f.tiers, '{}') as tiers, coalesce(f.what, (select string_agg(each, '; ') from"
            " jsonb_array_elements_text(case when jsonb_typeof(r.detail -> 'unknown') = 'array' then r.detail -> 'unknown' else '[]' end)"
            " as each), '') as what from (select distinct account, kind = 'orders' as is_orders from reconciliation_runs) as a"
            " cross join lateral (select run_id, account, case kind when 'startup' then 'full' else kind end as kind, status, ended_at,"
            " detail from reconciliation_runs as n where n.account = a.account and (n.kind = 'orders') = a.is_orders"
            " order by n.run_id desc limit 1) as r left join lateral (select array_agg(tier order by array_position("
            "array['large', 'medium', 'small'], tier)) as tiers, string_agg(concat_ws(' ', tier, check_name, scope), '; '"
            " order by array_position(array['large', 'medium', 'small'], tier), scope) as what from reconciliation_findings as f"
            " where f.run_id = r.run_id and tier in ('large', 'medium', 'small')) as f on true order by 1, 2"
        )
        return [ReconState(**{**row, "tiers": tuple(row["tiers"])}) for row in rows]

    def load_critical_incidents(self) -> Sequence[OpenIncident]:
        """Load the critical incidents that are open, oldest first."""
        rows = self._ask(
            "select id as incident_id, kind, scope, extract(epoch from opened_at)::bigint as opened_s, repeats,"
            " acked_at is not null as is_acked from incidents where closed_at is null and severity = 'critical' order by opened_at, id"
        )
        return [OpenIncident(**row) for row in rows]

    def find_stuck_notes(self, kill_before_s: int, any_before_s: int) -> Sequence[StuckNote]:
        """Find rows of the outbox that are open since before an instant: KILL since the first, any since the second."""
        rows = self._ask(
            "select kind, account, count(*)::int as n_rows, extract(epoch from min(created_at))::bigint as since_s from outbox"
            " where done_at is null and created_at < to_timestamp(case kind when 'KILL' then %s else %s end) group by kind, account"
            " order by kind, account",
            (kill_before_s, any_before_s),
        )
        return [StuckNote(**row) for row in rows]

    def find_agreed_holds(self, since_s: int) -> Sequence[AgreedHold]:
        """Find codes that all lines of all decisions on bars closed since an instant had."""
        rows = self._ask(
            "with lines as (select d.account, d.strategy, d.bar_close, l.codes from decisions as d join decision_lines as l"
            " using (decision_id) where d.bar_close >= to_timestamp(%s)),"
            " whole as (select account, strategy, count(*)::int as n_lines, extract(epoch from min(bar_close))::bigint as first_s"
            " from lines group by 1, 2)"
            " select account, strategy, code, n_lines, first_s from lines cross join unnest(codes) as code join whole"
            " using (account, strategy) group by 1, 2, 3, 4, 5 having count(*) = n_lines order by 1, 2, 3",
            (since_s,),
        )
        return [AgreedHold(**row) for row in rows]

    def _ask(self, query: LiteralString, params: Sequence[object] = ()) -> list[dict[str, Any]]:
        with translate_errors(), open_connection(self.url) as conn:
            return conn.cursor(row_factory=dict_row).execute(query, params).fetchall()
