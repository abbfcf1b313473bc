"""The collector over real sockets, against the simulated venue: its bars equal the venue's truth, whatever happens to the connection."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.adapters.venues.stream import build_streams
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Heartbeat
from regime_pipeline.services.collect_bars import Collector, Flush
from regime_pipeline.services.ingest_bars import ingest_bars
from regime_pipeline.services.window import Window
from regime_pipeline.settings import Settings
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.server import Served, SimulatedVenue, serve
from tests.markets import generated, small_universe

UNIVERSE = small_universe()
SOURCE = generated(UNIVERSE)
START_S = 1_735_689_600 + 10 * 3600 + 50
SPEED = 30.0
"""A minute takes two seconds."""

pytestmark = pytest.mark.slow


@dataclass
class Scene:
    """A simulated venue, a database whose bars end with the last closed minute, and a collector between them."""

    served: Served
    database: str
    clock: VirtualClock
    flushes: list[Flush] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stores = PostgresStores(self.database)
        window = Window(START_S - 3600, START_S)
        with self.stores.open() as work:
            ingest_bars(work, SOURCE, UNIVERSE, Timeframe.M1, window, START_S)

    async def collect(self, minutes: float, meanwhile: Callable[[], None] | None = None) -> Collector:
        streams = build_streams(UNIVERSE, Settings(venue_url=self.served.url, source="live"))
        collector = Collector(
            self.stores,
            UNIVERSE,
            streams,
            PostgresVenueLedger(self.database),
            instance="test",
            on_flush=self.flushes.append,
            clock=self.clock.now,
            sleep=lambda seconds: asyncio.sleep(seconds / SPEED),
        )
        stop = asyncio.Event()
        self.clock.set_speed(SPEED)
        running = asyncio.create_task(collector.run(stop))
        until_s = self.clock.now_s() + 60 * minutes
        while self.clock.now_s() < until_s and not running.done():
            if meanwhile is not None:
                await asyncio.to_thread(meanwhile)
            await asyncio.sleep(0.05)
        stop.set()
        await running
        return collector

    def beats(self) -> dict[str, Heartbeat]:
        with self.stores.open() as work:
            return {beat.venue: beat for beat in work.feeds.load_heartbeats()["test"]}

    def collected(self) -> dict[str, tuple[int, str]]:
        """Open times and sources of the bars after the first hour, by series; each is compared with the truth on the way."""
        found: dict[str, list[tuple[int, str]]] = {}
        for instrument in UNIVERSE.instruments():
            symbols = {source.venue: source.symbol for source in instrument.sources}
            table = "majors_price_data_ohlc" if instrument in UNIVERSE.majors else "lowcap_price_data_ohlc"
            with open_connection(self.database) as conn:
                rows = conn.execute(
                    "select extract(epoch from timestamp)::bigint, source, open_usd, high_usd, low_usd, close_usd, volume"
                    f" from {table} where token_contract = %s and timeframe = '1m' and timestamp >= to_timestamp(%s) order by 1",
                    (instrument.contract, START_S - 50),
                ).fetchall()
            for ts_s, venue, *values in rows:
                truth = self.served.truth.bars(venue, symbols[venue], Timeframe.M1, ts_s, ts_s + 60)
                columns = [truth.open, truth.high, truth.low, truth.close, truth.volume]
                np.testing.assert_allclose(values, [column[0] for column in columns], rtol=1e-9)
                found.setdefault(instrument.series, []).append((ts_s, venue))
        return found


@pytest.fixture
def scene(database: str) -> Iterator[Scene]:
    clock = VirtualClock(START_S, speed=0)
    with serve(SimulatedVenue(SOURCE.real, UNIVERSE, clock)) as served:
        yield Scene(served, database, clock)


def test_every_minute_of_every_series_is_written_once_and_equals_the_truth(scene: Scene) -> None:
    asyncio.run(scene.collect(6))
    collected = scene.collected()
    assert set(collected) == {instrument.series for instrument in UNIVERSE.instruments()}
    for bars in collected.values():
        times = [ts_s for ts_s, _ in bars]
        assert times == list(range(times[0], times[-1] + 60, 60))
        assert len(times) >= 3
        assert times[-1] + 65 <= scene.clock.now_s()
    assert {venue for flush in scene.flushes for venue in flush.venues} >= {"binance_um"}
    assert all(5 <= flush.after_close_s < 65 for flush in scene.flushes)
    beats = scene.beats()
    assert beats["binance_um"].connects == 1
    assert beats["binance_um"].bars_written == sum(venue == "binance_um" for bars in collected.values() for _, venue in bars)
