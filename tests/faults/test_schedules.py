"""Seeded schedules of the order path: lies of the venue, deaths of the executor, and at the end nothing doubled and nothing lost."""

from collections import Counter

import psycopg
import pytest

from regime_pipeline.adapters.postgres.work import PostgresStores
from tests.sizes import SCHEDULES
from tests.world import KILL_POINTS, run_schedule

MANY = 5_000
"""From so many schedules on every point is met, also those that only a trade on its way or a cancel passes."""
SHARES = 4
"""Parts that may run on several workers."""


@pytest.fixture
def fast_database(database: str) -> str:
    """A database that need not survive a power cut: what dies here are processes of ours."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"alter database {conn.info.dbname} set synchronous_commit = off")
    return database


@pytest.mark.slow
@pytest.mark.timeout(60 + SCHEDULES)
@pytest.mark.parametrize("share", range(SHARES))
def test_no_schedule_doubles_an_order_or_loses_a_fill(share: int, fast_database: str) -> None:
    stores = PostgresStores(fast_database)
    crashes: Counter[str] = Counter()
    orders = fills = 0
    seeds = range(share, SCHEDULES, SHARES)
    with psycopg.connect(fast_database, autocommit=True) as conn:
        for seed in seeds:
            world = run_schedule(stores, conn, seed)
            crashes += world.crashes
            orders, fills = orders + len(world.venue.posts), fills + len(world.venue.trades)
    stores.close()
    print(f"{len(seeds)} schedules, {orders} creates, {fills} fills, {dict(crashes)} crashes: 0 doubled, 0 lost")
    assert sum(crashes.values()) > len(seeds) / 3
    missed = set(KILL_POINTS) - set(crashes)
    assert len(missed) <= (0 if len(seeds) >= MANY else 3), missed
