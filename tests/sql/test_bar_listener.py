"""New regime bars are told at the commit that makes them, and heard even between two waits."""

import threading
from time import monotonic

import psycopg
import pytest

from regime_pipeline.adapters.postgres.bar_listener import PostgresBarListener
from regime_pipeline.adapters.postgres.work import PostgresStores, PostgresWork
from regime_pipeline.errors import DatabaseError
from regime_pipeline.market.timeframe import Timeframe


def announce(stores: PostgresStores, *timeframes: Timeframe) -> None:
    with stores.open() as work:
        for each in timeframes:
            work.regime.announce_bars(each)


def test_a_commit_is_heard_at_once_and_a_rollback_never(database: str) -> None:
    stores, listener = PostgresStores(database), PostgresBarListener(database)
    assert listener.wait(0) == set()
    with psycopg.connect(database) as conn:
        PostgresWork(conn).regime.announce_bars(Timeframe.M1)
        conn.rollback()
    assert listener.wait(0.2) == set()
    later = threading.Timer(0.3, announce, (stores, Timeframe.H1))
    began = monotonic()
    later.start()
    assert listener.wait(30) == {Timeframe.H1}
    assert monotonic() - began < 5
    later.join()
    listener.close()


def test_what_is_told_between_two_waits_is_kept(database: str) -> None:
    stores, listener = PostgresStores(database), PostgresBarListener(database)
    listener.wait(0)
    announce(stores, Timeframe.M1, Timeframe.D1)
    announce(stores, Timeframe.M1)
    assert listener.wait(5) == {Timeframe.M1, Timeframe.D1}
    assert listener.wait(0.1) == set()
    listener.close()


def test_a_lost_connection_is_an_error_and_the_next_wait_hears_again(database: str) -> None:
    stores, listener = PostgresStores(database), PostgresBarListener(database)
    listener.wait(0)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query like 'listen%'")
    with pytest.raises(DatabaseError, match=r"the wait for new bars was cut off: .*Look for bars instead"):
        listener.wait(5)
    listener.wait(0)
    announce(stores, Timeframe.M1)
    assert listener.wait(5) == {Timeframe.M1}
    listener.close()
