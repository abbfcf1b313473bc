"""The collector on a real Postgres, told its candles by a script: what it writes, what it holds back, and whom it leaves alone."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime

import psycopg
import pytest

from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.errors import DatabaseError, SourceUnavailableError, VenueHaltedError
from regime_pipeline.market.candles import Candle
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Halt, Heartbeat, Work
from regime_pipeline.services import collect_bars
from regime_pipeline.services.accept_bars import Delivery, accept_bars
from regime_pipeline.services.collect_bars import Collector, Flush, backoff_s
from tests.builders import T0, raw_bars
from tests.markets import small_universe

UNIVERSE = small_universe()
SYMBOLS = {"binance_um": "BTCUSDT", "hyperliquid": "BTC"}
SERIES = "token:BTC:binance"


class Script:
    """A venue whose every connection is a callable that speaks, and then ends as it likes."""

    def __init__(self, venue: str, *connections: Callable[[Callable[[Candle], None]], Exception | None]) -> None:
        self.venue, self.symbols, self.connections, self.begun = venue, (SYMBOLS[venue],), list(connections), 0

    async def listen(self, on_candle: Callable[[Candle], None]) -> None:
        self.begun += 1
        if self.connections:
            error = self.connections.pop(0)(on_candle)
            if error is not None:
                raise error
        await asyncio.Event().wait()


class Scene:
    def __init__(self, database: str, *streams: Script) -> None:
        self.now_s, self.flushes = float(T0 + 300), list[Flush]()
        self.stores, self.ledger, self.is_down = PostgresStores(database), PostgresVenueLedger(database), False
        with self.stores.open() as work:
            accept_bars(work, UNIVERSE, Timeframe.M1, [Delivery(SERIES, "binance_um", raw_bars([100.0] * 5))], T0 + 400)
        self.collector = Collector(
            self,
            UNIVERSE,
            streams,
            self.ledger,
            instance="test",
            on_flush=self.flushes.append,
            clock=lambda: datetime.fromtimestamp(self.now_s, UTC),
            sleep=lambda _: asyncio.sleep(0.01),
        )

    def open(self) -> AbstractContextManager[Work]:
        return self._broken() if self.is_down else self.stores.open()

    @contextmanager
    def _broken(self) -> Iterator[Work]:
        raise DatabaseError("cannot connect")
        yield

    def run(self, *moments: Callable[[], None], turns: int = 12) -> None:
        """Run the collector; each moment comes after a few turns of its loop."""

        async def play() -> None:
            stop = asyncio.Event()
            running = asyncio.create_task(self.collector.run(stop))
            for moment in (*moments, lambda: None):
                await asyncio.sleep(turns * 0.02)
                moment()
            await asyncio.sleep(turns * 0.02)
            stop.set()
            await running

        asyncio.run(play())

    def at(self, minute: int, second: float) -> Callable[[], None]:
        def move() -> None:
            self.now_s = T0 + 60 * minute + second

        return move

    def fill(self, first: int, end: int) -> Callable[[], None]:
        """What a run does: write the minutes that are missing."""
        bars = raw_bars([100.0] * (end - first), start_s=T0 + 60 * first)

        def write() -> None:
            with self.stores.open() as work:
                accept_bars(work, UNIVERSE, Timeframe.M1, [Delivery(SERIES, "binance_um", bars)], T0 + 60 * end + 5)

        return write

    def beats(self) -> dict[str, Heartbeat]:
        with self.stores.open() as work:
            return {beat.venue: beat for beat in work.feeds.load_heartbeats().get("test", [])}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_bars, "POLL_S", 0.01)


def said(venue: str, minute: int, trades: int, *, is_closed: bool = True, close: float = 100.0) -> Candle:
    return Candle(SYMBOLS[venue], T0 + 60 * minute, 100.0, max(close, 100.0), min(close, 100.0), close, 5.0 * trades, trades, is_closed)


def speaking(*candles: Candle, error: Exception | None = None) -> Callable[[Callable[[Candle], None]], Exception | None]:
    def speak(on_candle: Callable[[Candle], None]) -> Exception | None:
        for candle in candles:
            on_candle(candle)
        return error

    return speak


def stored(conn: psycopg.Connection) -> dict[int, tuple[float, str]]:
    rows = conn.execute(
        "select (extract(epoch from timestamp)::bigint - %s) / 60, close_usd, source from majors_price_data_ohlc"
        " where token_contract = 'BTC' and timeframe = '1m' and timestamp >= to_timestamp(%s)",
        (T0, T0 + 300),
    ).fetchall()
    conn.rollback()
    return {minute: (close, source) for minute, close, source in rows}


def test_a_closed_bar_is_written_when_its_grace_is_over_and_not_before(database: str, conn: psycopg.Connection) -> None:
    feed = speaking(said("binance_um", 4, 1, is_closed=False), said("binance_um", 5, 9, close=100.1))
    scene = Scene(database, Script("binance_um", feed))
    seen = []
    scene.run(scene.at(6, 4.9), lambda: seen.append(stored(conn)), scene.at(6, 5.0))
    assert seen == [{}]
    assert stored(conn) == {5: (100.1, "binance_um")}
    (flush,) = scene.flushes
    assert (flush.newest_s, flush.venues["binance_um"].written) == (T0 + 300, 1)
    assert scene.beats()["binance_um"].bars_written == 1


def test_of_two_venues_the_first_in_the_series_order_gives_the_bar(database: str, conn: psycopg.Connection) -> None:
    first = speaking(said("binance_um", 4, 1, is_closed=False), said("binance_um", 5, 9, close=100.1))
    other = speaking(
        said("hyperliquid", 4, 1, is_closed=False), said("hyperliquid", 5, 9, close=100.3), said("hyperliquid", 6, 9, close=100.4)
    )
    scene = Scene(database, Script("hyperliquid", other), Script("binance_um", first))
    scene.run(scene.at(6, 5), scene.at(7, 5))
    assert stored(conn) == {5: (100.1, "binance_um"), 6: (100.4, "hyperliquid")}


def test_a_bar_behind_a_hole_waits_until_a_run_has_filled_it(database: str, conn: psycopg.Connection) -> None:
    feed = speaking(said("binance_um", 8, 1, is_closed=False), said("binance_um", 9, 9, close=100.1))
    scene = Scene(database, Script("binance_um", feed))
    scene.now_s = T0 + 600

    seen = []
    scene.run(scene.at(10, 5), lambda: seen.append(stored(conn)), scene.fill(5, 9), scene.at(10, 12))
    assert seen == [{}]
    assert sorted(stored(conn)) == [5, 6, 7, 8, 9]


def test_bars_wait_for_a_database_that_is_down_and_those_older_than_an_hour_are_let_go(database: str, conn: psycopg.Connection) -> None:
    candles = [said("binance_um", minute, 9, close=100.1) for minute in range(4, 8)]
    scene = Scene(database, Script("binance_um", speaking(*candles)))
    scene.now_s = T0 + 60 * 8 + 5
    scene.is_down = True

    def come_back() -> None:
        scene.is_down = False

    scene.run(come_back)
    assert sorted(stored(conn)) == [5, 6, 7]
    late = Scene(database, Script("binance_um", speaking(*[said("binance_um", minute, 9) for minute in range(7, 11)])))
    late.now_s, late.is_down = T0 + 60 * 11 + 5, True
    late.run(late.at(11 + 61, 5), lambda: setattr(late, "is_down", False))
    assert sorted(stored(conn)) == [5, 6, 7]


def test_bars_that_span_a_break_are_left_to_a_run(database: str, conn: psycopg.Connection) -> None:
    lost = speaking(said("binance_um", 4, 1), said("binance_um", 5, 3, is_closed=False), error=SourceUnavailableError("reset"))
    back = speaking(said("binance_um", 5, 9, close=100.1), said("binance_um", 6, 9, close=100.2))
    script = Script("binance_um", lost, back)
    scene = Scene(database, script)
    scene.now_s = T0 + 360
    seen = []
    scene.run(scene.at(7, 5), lambda: seen.append(stored(conn)), scene.fill(5, 6), scene.at(7, 12))
    assert script.begun == 2
    assert seen == [{}]
    assert stored(conn) == {5: (100.0, "binance_um"), 6: (100.2, "binance_um")}
    assert scene.beats()["binance_um"].connects == 2


def test_a_silent_connection_is_given_up(database: str) -> None:
    script = Script("binance_um", speaking(said("binance_um", 4, 1)))
    scene = Scene(database, script)
    scene.run(scene.at(6, 29), scene.at(6, 31), turns=60)
    assert script.begun == 2


def test_a_halted_venue_is_left_alone_and_one_that_refuses_is_halted(database: str) -> None:
    halted, refusing = Script("hyperliquid"), Script("binance_um", speaking(error=VenueHaltedError("refused with status 418")))
    scene = Scene(database, halted, refusing)
    scene.ledger.halt("hyperliquid", Halt("HTTP 451", T0, None))
    scene.run()
    assert halted.begun <= 1  # the ledger is read with the first write
    assert refusing.begun == 1
    assert scene.ledger.load_halts(int(scene.now_s))["binance_um"].until_s == T0 + 300 + 3600
    assert scene.beats()["hyperliquid"].problem == "the collector was stopped"


def test_a_stamp_of_the_future_is_no_evidence(database: str, conn: psycopg.Connection) -> None:
    words = [said("hyperliquid", 4, 1), said("hyperliquid", 5, 2), said("hyperliquid", 500, 9), said("hyperliquid", 5, 9)]
    silent = [
        Candle(*(getattr(word, name) for name in ("symbol", "ts_s", "open", "high", "low", "close", "volume", "trades")), None)
        for word in words
    ]
    scene = Scene(database, Script("hyperliquid", speaking(*silent)))
    scene.run(scene.at(6, 5))
    assert stored(conn) == {}


def test_waits_between_attempts_double_up_to_a_minute() -> None:
    assert [backoff_s(n) for n in (1, 2, 3, 4, 5, 6, 7, 50)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_the_bars_of_two_venues_are_written_in_a_transaction_each(
    database: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one they lock majors after tokens, as no run does: a soak met the deadlock after five hours."""
    transactions: list[Work] = []

    def spy(work: Work, *rest: object) -> object:
        transactions.append(work)
        return accept_bars(work, *rest)

    monkeypatch.setattr(collect_bars, "accept_bars", spy)
    first = speaking(said("binance_um", 4, 1, is_closed=False), said("binance_um", 5, 9))
    other = speaking(said("hyperliquid", 5, 1, is_closed=False), said("hyperliquid", 6, 9))
    scene = Scene(database, Script("binance_um", first), Script("hyperliquid", other))
    scene.run(scene.at(7, 5.0))
    assert stored(conn) == {5: (100.0, "binance_um"), 6: (100.0, "hyperliquid")}
    assert len(transactions) == 2
    assert transactions[0] is not transactions[1]
