"""Writers that meet on the same rows: no order in which a collector, a run and a backfill take their locks ends one of them."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from time import sleep
from typing import ClassVar

import psycopg
import pytest

from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
from regime_pipeline.adapters.postgres.work import PostgresStores, PostgresWork
from regime_pipeline.errors import DatabaseError
from regime_pipeline.market.candles import Candle
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Stage
from regime_pipeline.regime.mapper import map_states
from regime_pipeline.services.accept_bars import Delivery, accept_bars
from regime_pipeline.services.advance_trend import advance_trend
from regime_pipeline.services.collect_bars import Collector
from tests.builders import T0, raw_bars
from tests.markets import backfill, generated, small_universe

M1 = Timeframe.M1
UNIVERSE = small_universe()
DRIVER = "regime:BTC"


def wait_until_blocked(conn: psycopg.Connection) -> None:
    """Wait until a session of this database waits for a lock of another."""
    for _ in range(150):
        row = conn.execute(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        ).fetchone()
        conn.rollback()
        if row and row[0]:
            return
        sleep(0.02)
    raise AssertionError("nobody waited for a lock within 3 s")


def take_briefly(stores: PostgresStores) -> None:
    with stores.open() as waiter:
        waiter.conn.execute("set local lock_timeout = '50ms'")
        waiter.marks.take(Stage.TREND, M1)


def test_a_transaction_that_waits_too_long_ends_in_an_error_of_ours_and_leaves_a_good_connection(database: str) -> None:
    stores = PostgresStores(database)
    with stores.open() as work:
        work.marks.add(Stage.TREND, M1, {DRIVER: T0})
    with stores.open() as holder:
        holder.marks.take(Stage.TREND, M1)
        with pytest.raises(DatabaseError, match="lock timeout"):
            take_briefly(stores)
    with stores.open() as work:
        work.marks.add(Stage.TREND, M1, {DRIVER: T0})


def test_a_run_that_steps_a_driver_does_not_wait_for_one_that_maps_it(database: str) -> None:
    """A backfill maps while the minute steps: both end in the driver's mark and in its position row."""
    stores, now_s, last_s = PostgresStores(database), T0 + 86_400, T0 + 86_340 - 60
    backfill(stores, generated(UNIVERSE), UNIVERSE, T0, now_s, [M1])
    with stores.open() as work:
        work.marks.add(Stage.TREND, M1, {DRIVER: last_s})
        work.marks.add(Stage.DELTA, M1, {DRIVER: last_s})
        work.conn.execute("update uptrend_states set price = 1 where series = %s and timeframe = '1m'", (DRIVER,))
        work.conn.execute("update lowcap_positions set features = '{}'")
    with ThreadPoolExecutor(1) as pool, stores.open() as mapper:
        marked = mapper.marks.take(Stage.DELTA, M1)
        states = mapper.regime.load_states(M1, marked)
        stepping = pool.submit(advance_trend, PostgresStores(database), UNIVERSE, M1, now_s)
        assert stepping.result(timeout=20).written > 0
        delta_a, delta_e = map_states(states.prev_state, states.state, states.flags, states.immature)
        mapper.regime.save_deltas(M1, marked, states, delta_a, delta_e)


def step_backwards(work: PostgresWork) -> None:
    work.trend.save_snapshots(M1, [f"regime:{driver}" for driver in reversed(sorted_by_position(work))])


def map_backwards(work: PostgresWork) -> None:
    states = work.regime.load_states(M1, {f"regime:{driver}": T0 for driver in reversed(sorted_by_position(work))})
    delta_a, delta_e = map_states(states.prev_state, states.state, states.flags, states.immature)
    work.regime.save_deltas(M1, dict.fromkeys(states.series, T0), states, delta_a, delta_e)


def sorted_by_position(work: PostgresWork) -> list[str]:
    found = work.conn.execute("select token_contract from lowcap_positions where token_chain = 'regime' and state is not null order by id")
    return [driver for (driver,) in found]


@pytest.mark.parametrize("write", [step_backwards, map_backwards])
def test_position_rows_are_locked_in_one_order_whatever_the_order_they_are_named_in(
    write: Callable[[PostgresWork], None], database: str, conn: psycopg.Connection
) -> None:
    """A writer that waits for the lowest row holds no other: whoever has it may go on to the rest, and nobody waits for ever."""
    stores = PostgresStores(database)
    backfill(stores, generated(UNIVERSE), UNIVERSE, T0, T0 + 24_000, [M1])

    def write_all() -> None:
        with PostgresStores(database).open() as work:
            write(work)

    with stores.open() as work:
        work.conn.execute("update lowcap_positions set features = '{}'")
        drivers = sorted_by_position(work)
    assert len(drivers) > 2
    lock = "select from lowcap_positions where token_chain = 'regime' and token_contract = %s and timeframe = '1m' for update nowait"
    with ThreadPoolExecutor(1) as pool:
        with stores.open() as first:
            first.conn.execute(lock, (drivers[0],))
            writing = pool.submit(write_all)
            wait_until_blocked(conn)
            for driver in drivers[1:]:
                first.conn.execute(lock, (driver,))
        writing.result(timeout=20)
    written = conn.execute("select count(*) from lowcap_positions where features <> '{}'").fetchone()
    assert written == (len(drivers),)


class Stream:
    """A venue that says two closed minutes of one symbol and then stays connected."""

    def __init__(self, venue: str, symbol: str, is_closed: bool | None) -> None:
        self.venue, self.symbols, self.is_closed = venue, (symbol,), is_closed

    async def listen(self, on_candle) -> None:  # type: ignore[no-untyped-def]
        for minute in (4, 5, 6):
            on_candle(Candle(self.symbols[0], T0 + 60 * minute, 100.0, 100.0, 100.0, 100.0, 5.0, 5, self.is_closed))
        await asyncio.Event().wait()


class Watched(PostgresStores):
    """Stores that remember the transactions that the database ended: the collector itself passes over them."""

    ended: ClassVar[list[DatabaseError]] = []

    @contextmanager
    def open(self) -> Iterator[PostgresWork]:
        try:
            with super().open() as work:
                yield work
        except DatabaseError as error:
            self.ended.append(error)
            raise


def test_a_collector_of_two_venues_and_a_run_do_not_deadlock(database: str, conn: psycopg.Connection) -> None:
    """One venue's bars and marks must not be held while the other's are written: a run takes them in another order."""
    btc, hype = "token:BTC:binance", "token:HYPE:hyperliquid"
    before = [Delivery(btc, "binance_um", raw_bars([100.0] * 5)), Delivery(hype, "hyperliquid", raw_bars([100.0] * 5))]
    stores = PostgresStores(database)
    with stores.open() as work:
        accept_bars(work, UNIVERSE, M1, before, T0 + 400)
    collector = Collector(
        Watched(database),
        UNIVERSE,
        [Stream("binance_um", "BTCUSDT", True), Stream("hyperliquid", "HYPE", True)],
        PostgresVenueLedger(database),
        instance="test",
        clock=lambda: datetime.fromtimestamp(T0 + 430, UTC),
        sleep=lambda _: asyncio.sleep(0.01),
    )

    async def collect() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(collector.run(stop))
        await asyncio.sleep(2.0)
        stop.set()
        await running

    with ThreadPoolExecutor(1) as pool:
        with stores.open() as run:
            accept_bars(run, UNIVERSE, M1, [Delivery(hype, "hyperliquid", raw_bars([101.0], start_s=T0 + 240))], T0 + 430)
            collecting = pool.submit(asyncio.run, collect())
            wait_until_blocked(conn)
            accept_bars(run, UNIVERSE, M1, [Delivery(btc, "binance_um", raw_bars([101.0], start_s=T0 + 240))], T0 + 430)
        collecting.result(timeout=20)
    assert Watched.ended == []
    assert conn.execute("select count(*) from majors_price_data_ohlc where timestamp = to_timestamp(%s)", (T0 + 300,)).fetchone() == (2,)
