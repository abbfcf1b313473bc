"""The collector over real sockets, against the simulated venue: its bars equal the venue's truth, whatever happens to the connection."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

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
from regime_pipeline.simulation.faults import Fault, FaultKind, FaultScript
from regime_pipeline.simulation.server import Served, SimulatedVenue, serve
from tests.markets import generated, small_universe

UNIVERSE = small_universe()
SOURCE = generated(UNIVERSE)
START_S = 1_735_689_600 + 10 * 3600 + 50
SPEED = 30.0
"""A minute takes two seconds."""

ROOT = Path(__file__).resolve().parents[2]
COLLECT = """
import asyncio, os, sys
from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.adapters.venues.stream import build_streams
from regime_pipeline.clock import monotonic_s
from regime_pipeline.services.collect_bars import Collector
from regime_pipeline.simulation.clock import VirtualClock
from tests.faults.test_collector import SPEED, UNIVERSE, live_settings
url = os.environ["REGIME_TEST_DATABASE"]
clock = VirtualClock(float(sys.argv[1]) + (monotonic_s() - float(sys.argv[2])) * SPEED, SPEED)
streams = build_streams(UNIVERSE, live_settings(os.environ["REGIME_TEST_URL"]))
collector = Collector(PostgresStores(url), UNIVERSE, streams, PostgresVenueLedger(url), instance="test", clock=clock.now)
asyncio.run(collector.run(asyncio.Event()))
"""

pytestmark = pytest.mark.slow


def live_settings(url: str) -> Settings:
    return Settings.model_validate({"venue_url": url, "source": "live"})


@dataclass
class Scene:
    """A simulated venue, a database whose bars end with the last closed minute, and a collector between them."""

    served: Served
    database: str
    clock: VirtualClock
    flushes: list[Flush] = field(default_factory=list)
    healed: float = 0.0

    def __post_init__(self) -> None:
        self.stores = PostgresStores(self.database)
        window = Window(START_S - 3600, START_S)
        ingest_bars(self.stores, SOURCE, UNIVERSE, Timeframe.M1, window, START_S)

    async def collect(self, minutes: float, meanwhile: Callable[[], None] | None = None) -> Collector:
        streams = build_streams(UNIVERSE, live_settings(self.served.url))
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

    def heal(self) -> None:
        """What the next live run of the minute job does: it asks for what is missing."""
        now_s = int(self.clock.now_s())
        ingest_bars(self.stores, SOURCE, UNIVERSE, Timeframe.M1, Window(now_s - 60, now_s, live=True), now_s)

    def heal_each_minute(self) -> None:
        minute, second = divmod(self.clock.now_s(), 60)
        if second > 10 and minute != self.healed:
            self.healed = minute
            self.heal()

    def collected(self) -> dict[str, list[tuple[int, str]]]:
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


@contextmanager
def staged(database: str, *faults: Fault) -> Iterator[Scene]:
    clock = VirtualClock(START_S, speed=0)
    with serve(SimulatedVenue(SOURCE.real, UNIVERSE, clock, FaultScript(faults=faults), seed=5)) as served:
        yield Scene(served, database, clock)


@pytest.fixture
def scene(database: str) -> Iterator[Scene]:
    with staged(database) as one:
        yield one


def test_every_minute_of_every_series_is_written_once_and_equals_the_truth(scene: Scene) -> None:
    scene.clock.advance(11)  # into the minute after the last stored bar, whose bar the stream cannot prove
    scene.heal()
    asyncio.run(scene.collect(6, scene.heal_each_minute))
    collected = scene.collected()
    assert set(collected) == {instrument.series for instrument in UNIVERSE.instruments()}
    for bars in collected.values():
        times = [ts_s for ts_s, _ in bars]
        assert times == list(range(times[0], times[-1] + 60, 60))
        assert len(times) >= 4
        assert times[-1] + 65 <= scene.clock.now_s()
    assert {venue for flush in scene.flushes for venue in flush.venues} >= {"binance_um"}
    assert all(5 <= flush.after_close_s < 65 for flush in scene.flushes)
    beats = scene.beats()
    assert beats["binance_um"].connects == 1
    written = sum(flush.venues["binance_um"].written for flush in scene.flushes if "binance_um" in flush.venues)
    assert beats["binance_um"].bars_written == written >= 3 * len(collected)


@pytest.mark.parametrize(
    ("fault", "reconnects"),
    [
        (Fault(kind=FaultKind.STREAM_DISCONNECT, endpoint="stream", every=10), True),
        (Fault(kind=FaultKind.RECONNECT_STORM, endpoint="stream", every_s=120, value=40), True),
        (Fault(kind=FaultKind.STREAM_SILENCE, endpoint="stream", every=15, value=150), True),
        (Fault(kind=FaultKind.STREAM_DUPLICATE, endpoint="stream", every=2), False),
        (Fault(kind=FaultKind.STREAM_DISORDER, endpoint="stream", every=2), False),
    ],
    ids=lambda value: value.kind.value if isinstance(value, Fault) else "",
)
def test_whatever_happens_to_a_stream_no_bar_is_wrong_and_a_run_finds_the_rest(fault: Fault, reconnects: bool, database: str) -> None:
    with staged(database, fault) as scene:
        asyncio.run(scene.collect(7, scene.heal_each_minute))
        beats = scene.beats()
        assert scene.served.faults[fault.kind] > 0
        assert sum(beat.bars_written for beat in beats.values()) > 0
        assert (sum(beat.connects for beat in beats.values()) > len(beats)) is reconnects
        scene.collected()
        scene.heal()
        last_s = Timeframe.M1.last_closed(int(scene.clock.now_s()))
        for bars in scene.collected().values():
            assert [ts_s for ts_s, _ in bars][-2:] == [last_s - 60, last_s]
            assert [ts_s for ts_s, _ in bars] == list(range(START_S - 50, last_s + 60, 60))


def test_a_killed_collector_loses_and_doubles_nothing(scene: Scene) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("REGIME_")}
    env |= {"REGIME_TEST_URL": scene.served.url, "REGIME_TEST_DATABASE": scene.database}
    scene.clock.set_speed(SPEED)
    for pause_s in (3.1, 4.3, 5.7):
        began = [str(scene.clock.now_s()), str(time.monotonic())]
        process = subprocess.Popen([sys.executable, "-c", COLLECT, *began], cwd=ROOT, env=env)
        until = time.monotonic() + pause_s + 4  # four seconds of imports
        while time.monotonic() < until:
            scene.heal_each_minute()
            time.sleep(0.05)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    scene.clock.set_speed(0)
    assert scene.beats()["binance_um"].bars_written > 0
    scene.heal()
    last_s = Timeframe.M1.last_closed(int(scene.clock.now_s()))
    for bars in scene.collected().values():
        assert [ts_s for ts_s, _ in bars] == list(range(START_S - 50, last_s + 60, 60))
