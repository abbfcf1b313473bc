"""Least privilege on the order path: what each role may do, and at least ten statements each that it may not."""

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

TABLES = ("order_intents", "orders", "order_transitions", "fills", "ledger_entries", "kill_switch", "arm", "protections", "decisions")


def may(conn: psycopg.Connection, role: str, statement: str) -> bool:
    """Try a statement as a role; any error but a missing right means that it was allowed to try."""
    with conn.transaction(force_rollback=True):
        conn.execute(f"set local role {role}")
        try:
            with conn.transaction():
                conn.execute(statement)  # type: ignore[arg-type]
        except InsufficientPrivilege:
            return False
        except psycopg.Error:
            return True
        return True


WRITES_ONCE = [
    f"{verb} {table}{rest}"
    for table in ("order_intents", "order_transitions", "ledger_entries", "kill_switch", "decisions", "equity_points", "commentary")
    for verb, rest in (("delete from", ""), ("truncate", " cascade"))
]
FORBIDDEN = {
    "regime_ingest": [
        "insert into order_intents default values",
        "insert into orders default values",
        "update orders set state = 'OPEN'",
        "insert into fills default values",
        "insert into ledger_entries default values",
        "select nextval('ledger_batches')",
        "insert into kill_switch default values",
        "insert into arm default values",
        "update lowcap_positions set total_quantity = 1",
        "insert into uptrend_states default values",
        "insert into regime_deltas default values",
        "insert into decisions default values",
        "delete from bar_revisions",
        "select * from paper.balances",
    ],
    "regime_engine": [
        "insert into order_intents default values",
        "insert into orders default values",
        "update orders set state = 'OPEN'",
        "update lowcap_positions set total_quantity = 1",
        "update lowcap_positions set usd_alloc_remaining = 1",
        "insert into fills default values",
        "insert into ledger_entries default values",
        "insert into kill_switch default values",
        "insert into arm default values",
        "insert into decisions default values",
        "insert into pm_actions default values",
        "insert into majors_price_data_ohlc default values",
        "delete from lowcap_positions",
    ],
    "regime_pm": [
        "update orders set state = 'SUBMITTING'",
        "update orders set sent_at = now()",
        "insert into order_transitions default values",
        "insert into fills default values",
        "update fills set qty = 1",
        "insert into ledger_entries default values",
        "update ledger_balances set balance = 1",
        "insert into arm default values",
        "update protections set until = now()",
        "update lowcap_positions set total_quantity = 1",
        "insert into reconciliation_runs default values",
        "update outbox set done_at = now()",
        "delete from order_intents",
        "delete from decisions",
        "insert into paper.trades default values",
        "select * from paper.balances",
        "insert into commentary default values",
    ],
    "regime_exec": [
        "insert into decisions default values",
        "insert into decision_lines default values",
        "update decisions set plan = '{}'",
        "insert into arm default values",
        "update arm set expires_at = now()",
        "update protections set until = now()",
        "update order_intents set qty = 1",
        "delete from orders",
        "delete from fills",
        "update ledger_entries set amount = 1",
        "insert into ledger_balances default values",
        "update ledger_balances set balance = 1",
        "update kill_switch set level = 0",
        "insert into uptrend_states default values",
        "update lowcap_positions set state = 'S0'",
        "insert into order_edges values ('FILLED', 'OPEN')",
        "insert into commentary default values",
    ],
    "regime_kill": [
        "insert into order_intents default values",
        "insert into orders default values",
        "update orders set state = 'CANCELLED'",
        "insert into order_transitions default values",
        "insert into fills default values",
        "insert into ledger_entries default values",
        "insert into arm default values",
        "update arm set ended_at = now()",
        "update kill_switch set level = 0",
        "update protections set until = now()",
        "insert into decisions default values",
        "insert into leases default values",
        "update outbox set payload = '{}'",
    ],
    "regime_watchdog": [
        "insert into order_intents default values",
        "insert into orders default values",
        "update orders set state = 'CANCELLED'",
        "insert into order_transitions default values",
        "insert into fills default values",
        "insert into ledger_entries default values",
        "insert into arm default values",
        "update kill_switch set level = 0",
        "insert into decisions default values",
        "insert into leases default values",
        "update outbox set done_at = now()",
        "delete from alerts",
        "update protections set until = now()",
    ],
    "regime_reader": [
        *(f"insert into {table} default values" for table in TABLES),
        "update orders set state = 'OPEN'",
        "delete from orders",
        "update kill_switch set level = 0",
        "truncate fills cascade",
    ],
    "regime_commentator": [
        *(f"select * from {table}" for table in TABLES),
        *(f"insert into {table} default values" for table in TABLES),
        "update orders set state = 'CANCELLED'",
        "delete from orders",
        "select * from lowcap_positions",
        "select * from equity_points",
        "select * from state_features",
        "select * from commentary",
        "update commentary set comment = 'x'",
        "insert into commentary (id, author, snapshot, comment) overriding system value values (7, 'm', '{}', 'x')",
        "insert into outbox default values",
        "insert into incidents default values",
        "select * from paper.balances",
        "create table mine (a int)",
        "select nextval('ledger_batches')",
    ],
    "regime_writer": [
        *WRITES_ONCE,
        "delete from orders",
        "delete from fills",
        "delete from protections",
        "delete from arm",
        "update ledger_balances set balance = 1",
        "insert into order_edges values ('FILLED', 'OPEN')",
        "insert into commentary default values",
        "drop table orders",
    ],
    "regime_owner": [*WRITES_ONCE, "delete from orders", "delete from fills", "truncate protections"],
}
ALLOWED = {
    "regime_ingest": ["insert into majors_price_data_ohlc default values", "delete from bar_gaps", "select * from orders"],
    "regime_engine": [
        "update lowcap_positions set features = '{}'", "delete from uptrend_states", "insert into regime_deltas default values",
    ],
    "regime_pm": [
        "insert into order_intents default values", "insert into orders default values", "insert into decisions default values",
        "select * from fills", "update leases set until = now()",
    ],
    "regime_exec": [
        "update orders set state = 'OPEN'", "insert into fills default values", "insert into ledger_entries default values",
        "select nextval('ledger_batches')", "update paper.balances set total = 1", "update lowcap_positions set total_quantity = 1",
    ],
    "regime_kill": ["insert into kill_switch default values", "select * from orders", "update outbox set done_at = now()"],
    "regime_watchdog": ["insert into trading_heartbeats default values", "insert into alerts default values"],
    "regime_reader": ["select * from orders", "select * from paper.trades"],
    "regime_commentator": [
        "select * from published_snapshot", "insert into commentary (author, snapshot, comment) values ('m', '{}', 'calm')",
    ],
    "regime_writer": ["update orders set state = 'OPEN'", "insert into kill_switch default values", "select * from paper.trades"],
    "regime_owner": ["create table mine (a int)"],
}  # fmt: skip


@pytest.mark.parametrize("role", sorted(FORBIDDEN))
def test_what_a_role_must_not_do_is_refused(conn: psycopg.Connection, role: str) -> None:
    assert len(FORBIDDEN[role]) >= 10
    assert [statement for statement in FORBIDDEN[role] if may(conn, role, statement)] == []


@pytest.mark.parametrize("role", sorted(ALLOWED))
def test_what_a_role_is_for_is_allowed(conn: psycopg.Connection, role: str) -> None:
    assert [statement for statement in ALLOWED[role] if not may(conn, role, statement)] == []


def test_a_role_that_may_only_insert_makes_the_chain_and_the_sums(conn: psycopg.Connection) -> None:
    conn.execute("set role regime_kill")
    conn.execute(
        "insert into kill_switch (transition_id, level, old_level, source, actor, reason, at, row_hash)"
        " values ('t', 3, 0, 'manual', 'ada', 'why', now(), '')"
    )
    conn.execute("set role regime_exec")
    conn.execute(
        "insert into ledger_entries (batch_id, line, account, strategy, ledger_account, asset, amount, source, booked_for)"
        " values (1, 1, 'a', 's', 'WALLET', 'USDT', 5, 'external:1', now()), (1, 2, 'a', 's', 'EXTERNAL', 'USDT', -5, 'external:1', now())"
    )
    conn.execute("set constraints all immediate")
    assert conn.execute("select length(row_hash) from kill_switch").fetchone() == (64,)
    assert conn.execute("select sum(balance), count(*) from ledger_balances").fetchone() == (0, 2)


def test_the_owner_of_a_table_cannot_rewrite_it_by_accident_either(conn: psycopg.Connection) -> None:
    for table in ("decisions", "order_intents", "order_transitions", "ledger_entries", "kill_switch", "equity_points", "commentary"):
        for statement in (f"delete from {table}", f"truncate {table} cascade"):
            with pytest.raises(InsufficientPrivilege, match="append-only"), conn.transaction():
                conn.execute(statement)  # type: ignore[arg-type]


def test_roles_may_be_applied_again(conn: psycopg.Connection) -> None:
    from regime_pipeline.adapters.postgres.migrate import apply_roles

    conn.rollback()
    assert apply_roles(conn)
    assert not may(conn, "regime_pm", "update orders set state = 'OPEN'")
