"""A new regime bar becomes a decision, an order and a fill, through the real daemon and the executor that `regime up` keeps."""

import json
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
from regime_pipeline.cli.session import open_migrated_stores
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.settings import Settings
from regime_pipeline.simulation.clock import VirtualClock
from tests.fixtures_postgres import open_home
from tests.markets import UNIVERSE
from tests.served import ROOT, Up, processes_of, processes_with, wait_for
from tests.tick_desk import TickDesk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
M1 = Timeframe.M1
TOKENS = ("AAVE", "UNI")


@pytest.fixture
def home() -> Iterator[Path]:
    with open_home() as path:
        yield path


class MinuteDesk(TickDesk):
    """Writes the minutes of a market by hand, at the pace of the wall clock, for a strategy on 1m."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(url, folder)
        self.clock = VirtualClock(time.time())

    def begin(self) -> None:
        """Positions, and bars without a hole up to now."""
        for contract in TOKENS:
            self.position(contract, "1m")
        self.write_minute(signal_on=None)

    def write_minute(self, signal_on: str | None) -> int:
        """Write the minute that has just closed as the pipeline would: bars, records, deltas, and the word of them; returns its close."""
        close_s = M1.floor(self.now_s)
        for timeframe in REGIME_TIMEFRAMES:
            for series in ("regime:BTC", "regime:ALT"):
                self.save_driver(series, timeframe, self.calm_bars(timeframe, 60 if timeframe is Timeframe.D1 else 400))
        for contract in TOKENS:
            self.save_token(M1, self.calm_bars(M1, 400), f"token:{contract}:binance")
            values = {"state": "S2", "rebuy": True, "rebuy_s2_retest": True} if contract == signal_on else {"state": "S1"}
            self.record(f"token:{contract}:binance", M1, close_s - 60, price=100.0, **values)
        self.regime(close_s)
        self.execute("select pg_notify('regime_bars', '1m')")
        return close_s


def write_files(home: Path) -> dict[str, str]:
    """A universe of two tokens on 1m, a risk file that lets them use all of it, a folder without recordings, and the settings for them."""
    head, *tokens = UNIVERSE.read_text().split("[[tokens]]")
    kept = [token for token in tokens if token.split('"')[1] in TOKENS]
    (home / "universe.toml").write_text(head + "".join('[[tokens]]\ntimeframes = ["1m"]' + token for token in kept))
    (home / "risk.toml").write_text('[portfolio]\nsplit_frac = { "1m" = 1.0 }\n')
    (home / "recorded").mkdir()
    return {
        "REGIME_UNIVERSE": str(home / "universe.toml"),
        "REGIME_RISK_FILE": str(home / "risk.toml"),
        "REGIME_SOURCE": "recorded",
        "REGIME_RECORDED_PATH": str(home / "recorded"),
        "REGIME_TRADING_ENABLED": "true",
    }


def regime(settings: dict[str, str], home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("REGIME_", "DAGSTER_"))}
    command = [sys.executable, "-c", "from regime_pipeline.cli import main; main()", *words]
    return subprocess.run(command, cwd=ROOT, env={**env, "REGIME_HOME": str(home), **settings}, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_bar_is_decided_ordered_and_filled_and_the_executor_comes_back(home: Path) -> None:
    settings = write_files(home)
    mine = Settings.model_validate({"home": home})
    open_migrated_stores(mine).close()
    desk = MinuteDesk(database_urls(mine).regime, home)
    desk.begin()
    up = Up(home, settings=settings, start_s=300)
    try:
        assert "the executor looks after orders, stops and reconciliation" in up.said()
        with psycopg.connect(database_urls(mine).regime, autocommit=True) as conn:

            def ask(query: str) -> object:
                row = conn.execute(query).fetchone()
                return None if row is None else row[0]

            wait_for(lambda: ask("select count(*) from reconciliation_runs where kind = 'startup' and status = 'ok'") == 1, 120)
            executor = next(pid for pid, command in processes_with(home) if "main() executor" in command)

            minutes = 0
            while ask("select count(*) from fills") == 0:
                assert minutes < 8, (ask("select jsonb_agg(t) from tick_runs t"), ask("select jsonb_agg(o) from orders o"), up.said())
                time.sleep(60 - time.time() % 60 + 3)
                has_order = ask("select count(*) from orders") != 0
                desk.write_minute(signal_on=None if has_order else "AAVE")
                minutes += 1
                time.sleep(25)

            # one bar asked for one order, whatever woke the tick
            assert ask("select count(*) from orders") == 1
            assert ask("select count(*) from decisions") >= 1  # type: ignore[operator]
            assert ask("select count(*) from tick_runs where outcome = 'decided'") == ask("select count(*) from decisions")
            assert ask("select status from lowcap_positions where token_contract = 'AAVE' and timeframe = '1m'") == "active"

            os.kill(executor, signal.SIGKILL)
            again = "select count(*) from reconciliation_runs where kind = 'startup' and status = 'ok'"
            wait_for(lambda: ask(again) == 2, 120)
        equity = regime(settings, home, "equity", "--json")
        shown = regime(settings, home, "positions", "--json")
        assert equity.returncode == 0, equity.stderr
        assert [row["contract"] for row in json.loads(shown.stdout)["positions"]] == ["AAVE"]
        killed = regime(settings, home, "kill", "--level", "L1", "--reason", "the test is over", "--json")
        assert killed.returncode == 0, killed.stderr
    finally:
        code = up.stop()
    assert code == 0
    assert "the executor ended by itself with code -9; it starts again in 1 s" in up.said()
    assert "executor stopped" in up.said()
    assert processes_of(home) == []
