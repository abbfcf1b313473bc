"""`regime up --live` against the simulated venue at real pace: history first, then minutes from the collector, which may be killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from regime_pipeline.adapters.postgres.connect import database_urls
from regime_pipeline.market.universe import load_universe
from regime_pipeline.settings import Settings
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.server import SimulatedVenue, serve
from tests.fixtures_postgres import open_home
from tests.markets import UNIVERSE, generated, small_universe
from tests.served import Up, processes_of, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def home() -> Iterator[Path]:
    with open_home() as path:
        yield path


def write_small_universe(folder: Path) -> Path:
    """The shipped universe with one token of each bucket."""
    head, *tokens = UNIVERSE.read_text().split("[[tokens]]")
    kept = {token.contract for token in small_universe().tokens}
    file = folder / "universe.toml"
    file.write_text(head + "".join("[[tokens]]" + token for token in tokens if token.split('"')[1] in kept))
    return file


@pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")
def test_history_first_then_minutes_from_a_collector_that_may_die(home: Path) -> None:
    universe_file = write_small_universe(home)
    universe = load_universe(universe_file)
    with serve(SimulatedVenue(generated(universe).real, universe, VirtualClock(time.time()))) as served:
        settings = {"REGIME_VENUE_URL": served.url, "REGIME_UNIVERSE": str(universe_file)}
        up = Up(home, "--live", settings=settings, start_s=300)
        try:
            assert "fetching history" in up.said()
            assert "degraded" not in up.said()
            with psycopg.connect(database_urls(Settings.model_validate({"home": home})).regime, autocommit=True) as conn:

                def ask(query: str) -> object:
                    row = conn.execute(query).fetchone()
                    return None if row is None else row[0]

                newest = "select max(ts) from regime_deltas where driver = 'BTC' and timeframe = '1m'"
                wait_for(lambda: ask("select count(*) from collector_heartbeats where bars_written > 0") == 1, 240)
                first, started = ask(newest), ask("select started_at from collector_heartbeats where venue = 'binance_um'")
                listed = subprocess.run(["pgrep", "-P", str(up.process.pid), "-f", "collect"], capture_output=True, text=True, check=True)
                os.kill(int(listed.stdout.split()[0]), signal.SIGKILL)
                wait_for(lambda: ask("select started_at from collector_heartbeats where venue = 'binance_um'") != started, 60)
                assert "the collector ended by itself with code -9; it starts again in 1 s" in up.said()
                wait_for(lambda: ask(newest) != first, 150)
                minutes = "from majors_price_data_ohlc where token_contract = 'BTC' and timeframe = '1m'"
                assert ask(f"select extract(epoch from max(timestamp) - min(timestamp)) / 60 + 1 - count(*) {minutes}") == 0
        finally:
            code = up.stop()
    assert code == 0
    assert "collector stopped" in up.said()
    assert processes_of(home) == []
