"""The decision journal in Postgres: lines go in by COPY, a tick of ten thousand positions at once."""

import struct
from collections.abc import Sequence
from typing import Any, Final, LiteralString
from uuid import UUID

import numpy as np
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from regime_pipeline.adapters.postgres import bulk
from regime_pipeline.ports import DecisionHead, DecisionRow, LineRow, StoredDecision, StoredLine, TickRun

_TEXT_OID: Final = 25


class PostgresJournal:
    """`JournalStore` on an open transaction."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    def find_decision(self, account: str, strategy: str, bar_close_s: int) -> UUID | None:
        """Find the decision of a bar; None: not decided yet."""
        row = self._conn.execute(
            "select decision_id from decisions where account = %s and strategy = %s and bar_close = to_timestamp(%s)",
            (account, strategy, bar_close_s),
        ).fetchone()
        return None if row is None else row[0]

    def write_decision(self, decision: DecisionRow) -> bool:
        """Write a decision without its lines; False, and nothing is written, when its bar has one already."""
        written = self._conn.execute(
            "insert into decisions (decision_id, account, strategy, bar_close, inputs_hash, inputs, levers, plan, plan_hash, config_hash,"
            " code_version, lease_token, codes, decided_at)"
            " values (%s, %s, %s, to_timestamp(%s), %s, %s, %s, %s, %s, %s, %s, %s, %s, coalesce(to_timestamp(%s), clock_timestamp()))"
            " on conflict (account, strategy, bar_close) do nothing",
            (
                *(decision.decision_id, decision.account, decision.strategy, decision.bar_close_s, decision.inputs_hash),
                *(decision.inputs, decision.levers, decision.plan, decision.plan_hash, decision.config_hash, decision.code_version),
                *(decision.lease_token, list(decision.codes), decision.decided_at_s),
            ),
        ).rowcount
        return bool(written)

    def write_lines(self, decision_id: UUID, lines: Sequence[LineRow]) -> int:
        """Write the lines of a decision; returns their number."""
        return copy_lines(self._conn, decision_id, lines)

    def load_decision(self, decision_id: UUID) -> StoredDecision | None:
        """Load a decision with its lines; None: there is no such decision."""
        row = (
            self._conn.cursor(row_factory=dict_row)
            .execute(
                "select decision_id, account, strategy, extract(epoch from bar_close)::bigint as bar_close_s, inputs_hash, plan_hash,"
                " config_hash, code_version, lease_token, codes, decided_at, inputs, levers, plan from decisions where decision_id = %s",
                (decision_id,),
            )
            .fetchone()
        )
        if row is None:
            return None
        lines = self._conn.cursor(row_factory=dict_row).execute(
            "select l.decision_id, extract(epoch from d.bar_close)::bigint as bar_close_s, d.strategy, l.symbol, l.position_id, l.outcome,"
            " l.rule, l.a_value, l.e_value, l.bucket, l.codes, l.inputs, l.plan, l.gate, l.client_order_id"
            ' from decision_lines as l join decisions as d using (decision_id) where decision_id = %s order by l.symbol collate "C"',
            (decision_id,),
        )
        codes = tuple(row.pop("codes"))
        return StoredDecision(codes=codes, lines=tuple(_read_line(line) for line in lines), **row)

    def list_decisions(self, limit: int, account: str | None = None, strategy: str | None = None) -> list[DecisionHead]:
        """List the newest decisions, newest first."""
        rows = self._conn.execute(
            "select d.decision_id, d.account, d.strategy, extract(epoch from d.bar_close)::bigint, d.codes, d.decided_at, n.lines, n.acted,"
            " n.skipped, n.held, d.plan from (select * from decisions where (%s::text is null or account = %s)"
            " and (%s::text is null or strategy = %s) order by bar_close desc, seq desc limit %s) as d"
            " cross join lateral (select count(*) as lines, count(*) filter (where outcome = 'act') as acted,"
            " count(*) filter (where outcome = 'skip') as skipped, count(*) filter (where outcome = 'hold') as held"
            " from decision_lines as l where l.decision_id = d.decision_id) as n order by d.bar_close desc, d.seq desc",
            (account, account, strategy, strategy, limit),
        )
        return [_read_head(row) for row in rows]

    def list_lines(self, symbol: str, limit: int, account: str | None = None) -> list[StoredLine]:
        """List the newest lines of a symbol, newest first."""
        rows = self._conn.cursor(row_factory=dict_row).execute(
            # by position, which has an index; a symbol may be held under several
            "select l.decision_id, extract(epoch from d.bar_close)::bigint as bar_close_s, d.strategy, l.symbol, l.position_id, l.outcome,"
            " l.rule, l.a_value, l.e_value, l.bucket, l.codes, l.inputs, l.plan, l.gate, l.client_order_id"
            " from decision_lines as l join decisions as d using (decision_id)"
            " where l.position_id in (select id from lowcap_positions where token_contract = %s) and l.symbol = %s"
            " and (%s::text is null or d.account = %s) order by d.bar_close desc, d.seq desc limit %s",
            (symbol.partition("/")[0], symbol, account, account, limit),
        )
        return [_read_line(row) for row in rows]

    def find_at(self, symbol: str, bar_close_s: int, strategy: str | None = None) -> list[UUID]:
        """Find the decisions of a bar close that have a line of the symbol, newest first."""
        rows = self._conn.execute(
            "select d.decision_id from decisions as d join decision_lines as l using (decision_id)"
            " where d.bar_close = to_timestamp(%s) and l.symbol = %s and (%s::text is null or d.strategy = %s) order by d.seq desc",
            (bar_close_s, symbol, strategy, strategy),
        )
        return [row[0] for row in rows]

    def load_traces(self, account: str) -> dict[str, list[str]]:
        """Load decisions, orders and fills of an account as one line each, in an order that does not depend on when they were written."""
        queries: dict[str, LiteralString] = {
            "decisions": "select concat_ws(' ', decision_id, strategy, extract(epoch from bar_close)::bigint, inputs_hash, plan_hash)"
            ' from decisions where account = %s order by bar_close, strategy collate "C"',
            "orders": "select concat_ws(' ', i.client_order_id, i.symbol, i.side, i.qty, i.limit_price, o.state, o.version)"
            ' from order_intents as i join orders as o using (client_order_id) where i.account = %s order by i.client_order_id collate "C"',
            "fills": "select concat_ws(' ', client_order_id, side, qty, price, fee_amount, fee_asset, extract(epoch from venue_ts))"
            ' from fills where account = %s order by venue_ts, client_order_id collate "C", qty, price',
        }
        return {name: [row[0] for row in self._conn.execute(query, (account,))] for name, query in queries.items()}

    def write_run(self, run: TickRun) -> None:
        """Note a run of the tick."""
        self._conn.execute(
            "insert into tick_runs (account, strategy, bar_close, outcome, began_at, took_ms, detail)"
            " values (%s, %s, to_timestamp(%s), %s, %s, %s, %s)",
            (run.account, run.strategy, run.bar_close_s, run.outcome, run.began_at, run.took_ms, Jsonb(dict(run.detail))),
        )


def copy_lines(conn: psycopg.Connection, decision_id: UUID, lines: Sequence[LineRow]) -> int:
    """Append the lines of a decision by COPY; returns their number."""
    if not lines:
        return 0
    n = len(lines)
    columns: dict[str, bulk.Column] = {
        "decision_id": bulk.BytesColumn((decision_id.bytes,), np.zeros(n, dtype=np.intp)),
        "symbol": bulk.texts([line.symbol for line in lines]),
        "position_id": bulk.int8([line.position_id for line in lines]),
        "outcome": _few([line.outcome for line in lines]),
        "rule": _few([line.rule for line in lines]),
        "a_value": bulk.float8([line.a_value for line in lines]),
        "e_value": bulk.float8([line.e_value for line in lines]),
        "bucket": _few([line.bucket for line in lines]),
        "codes": _text_arrays([line.codes for line in lines]),
        "inputs": bulk.jsonbs([line.inputs for line in lines]),
        "plan": bulk.jsonbs([line.plan for line in lines]),
        "gate": bulk.jsonbs([line.gate for line in lines]),
        "client_order_id": bulk.texts([line.client_order_id for line in lines]),
    }
    return bulk.copy_into(conn, "decision_lines", list(columns), list(columns.values()))


def _few(values: Sequence[str | None]) -> bulk.BytesColumn:
    """A `text` column of few distinct values, from strings."""
    names = sorted({value for value in values if value is not None})
    codes: dict[str | None, int] = {name: at for at, name in enumerate(names)} | {None: -1}
    return bulk.text([codes[value] for value in values], names)


def _text_arrays(values: Sequence[tuple[str, ...]]) -> bulk.BytesColumn:
    """A `text[]` column of few distinct values, as PostgreSQL sends them: dimensions, has NULL, element type, length, first index."""
    kinds = {value: at for at, value in enumerate(dict.fromkeys(values))}
    return bulk.BytesColumn(tuple(_encode_array(kind) for kind in kinds), np.array([kinds[value] for value in values], dtype=np.intp))


def _encode_array(items: tuple[str, ...]) -> bytes:
    if not items:
        return struct.pack(">iii", 0, 0, _TEXT_OID)
    cells = b"".join(struct.pack(">i", len(cell)) + cell for cell in (item.encode() for item in items))
    return struct.pack(">iiiii", 1, 0, _TEXT_OID, len(items), 1) + cells


def _read_line(row: dict[str, Any]) -> StoredLine:
    return StoredLine(**{**row, "codes": tuple(row["codes"])})


def _read_head(row: Sequence[Any]) -> DecisionHead:
    decision_id, account, strategy, bar_close_s, codes, *rest = row
    return DecisionHead(decision_id, account, strategy, bar_close_s, tuple(codes), *rest)
