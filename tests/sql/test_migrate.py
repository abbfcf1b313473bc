"""Migrations: up from empty, once each, in one transaction, and honest about what they find."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from time import sleep

import psycopg
import pytest

from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.migrate import Migration, apply_roles, migrate, read_migrations, status
from regime_pipeline.errors import MigrationError


def tables_of(conn: psycopg.Connection) -> set[str]:
    return {name for (name,) in conn.execute("select tablename from pg_tables where schemaname = 'public'")}


def test_migrations_go_up_from_empty_and_again_change_nothing(empty_database: str) -> None:
    with open_connection(empty_database) as conn:
        assert [m.version for m in status(conn).pending] == [m.version for m in read_migrations()]
        assert migrate(conn) == list(read_migrations())
        before = conn.execute("select * from schema_migrations").fetchall()
        conn.commit()
        assert migrate(conn) == []
        assert conn.execute("select * from schema_migrations").fetchall() == before
        conn.commit()
        assert status(conn).pending == ()


def test_a_failing_migration_leaves_nothing_and_its_cure_continues(empty_database: str) -> None:
    good = Migration(1, "one", "create table one (a int)")
    broken = Migration(2, "two", "create table two (a int); create table three (a nonsense)")
    with open_connection(empty_database) as conn:
        with pytest.raises(MigrationError, match=r"0002_two failed and left nothing behind: .*nonsense"):
            migrate(conn, [good, broken])
        assert tables_of(conn) == {"one", "schema_migrations"}
        conn.commit()
        cured = replace(broken, text="create table two (a int)")
        assert migrate(conn, [good, cured]) == [cured]


def test_a_changed_file_a_newer_database_and_a_gap_are_refused(empty_database: str) -> None:
    files = [Migration(1, "one", "create table one (a int)"), Migration(2, "two", "create table two (a int)")]
    with open_connection(empty_database) as conn:
        migrate(conn, files)
        with pytest.raises(MigrationError, match="0001_one was changed after it was applied"):
            migrate(conn, [replace(files[0], text="create table one (b int)"), files[1]])
        with pytest.raises(MigrationError, match="the database is at 0002_two, the newest file here is 0001_one"):
            status(conn, files[:1])
        conn.execute("delete from schema_migrations where version = 1")
        conn.commit()
        with pytest.raises(MigrationError, match="a gap"):
            migrate(conn, files)


def test_an_open_transaction_is_refused(conn: psycopg.Connection) -> None:
    conn.execute("select 1")
    with pytest.raises(MigrationError, match="open transaction"):
        migrate(conn)


@pytest.mark.parametrize("names", [["0001_a.sql", "0003_c.sql"], ["0002_b.sql"], ["0001_A.sql"], ["1_a.sql"], []])
def test_file_names_must_count_from_one_without_gaps(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("select 1")
    with pytest.raises(MigrationError):
        read_migrations(tmp_path)


def test_a_migrator_killed_inside_a_migration_leaves_nothing_and_the_next_one_finishes(empty_database: str) -> None:
    code = f"""
from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.migrate import Migration, migrate
migrate(open_connection({empty_database!r}), [Migration(1, "slow", "create table half (a int); select pg_sleep(60)")])
"""
    victim = subprocess.Popen([sys.executable, "-c", code])
    with open_connection(empty_database, autocommit=True) as conn:
        while conn.execute("select 1 from pg_stat_activity where wait_event = 'PgSleep'").fetchone() is None:
            sleep(0.01)
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        # the embedded server looks after its clients every two seconds, and takes the locks of a dead one away
        assert "half" not in tables_of(conn)
        assert len(migrate(conn)) == len(read_migrations())


def test_migrators_at_once_apply_each_file_once(empty_database: str) -> None:
    applied: list[Migration] = []

    def run() -> None:
        with open_connection(empty_database) as conn:
            applied.extend(migrate(conn))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(m.version for m in applied) == [m.version for m in read_migrations()]


def may(conn: psycopg.Connection, role: str, statement: str) -> bool:
    conn.execute(f"set local role {role}".encode())
    try:
        with conn.transaction():
            conn.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        return False
    finally:
        conn.execute("reset role")
    return True


@pytest.mark.parametrize(
    ("role", "statement", "allowed"),
    [
        ("regime_writer", "delete from regime_deltas", True),
        ("regime_writer", "insert into backfill_requests (series, timeframe, start_ts, end_ts) values ('s', '1m', 'epoch', now())", True),
        ("regime_writer", "create temp table scratch (a int)", True),
        ("regime_writer", "create table mine (a int)", False),
        ("regime_writer", "drop table regime_deltas", False),
        ("regime_writer", "delete from schema_migrations", False),
        ("regime_reader", "select * from lowcap_positions", True),
        ("regime_reader", "delete from regime_deltas", False),
        ("regime_commentator", "select * from lowcap_positions", False),
        ("regime_commentator", "insert into uptrend_state_events default values", False),
        ("regime_owner", "create table mine (a int)", True),
    ],
)
def test_roles_may_do_their_part_only(conn: psycopg.Connection, role: str, statement: str, allowed: bool) -> None:
    assert may(conn, role, statement) is allowed


def test_roles_are_skipped_for_a_user_who_may_not_create_them(conn: psycopg.Connection) -> None:
    conn.execute("set session authorization regime_reader")
    conn.commit()
    assert apply_roles(conn) is False
