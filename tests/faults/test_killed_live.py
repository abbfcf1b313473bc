"""Collector, runs, database and daemon, killed by the system at drawn moments: no bar is lost or doubled, and no state is another."""

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.embedded import ensure_server
from regime_pipeline.clock import utc_now
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.orchestration.policies import PACES
from tests.killed import FORKS, Place, Process, Stage, collect, kill_backend, kill_postmaster, run_live, staged
from tests.served import Up, processes_of, processes_with, wait_for
from tests.sizes import KILLS

SEED = 7
SPEED = 30.0
"""A minute takes two seconds."""
START_S = 1_735_689_600 + 23 * 3600 + 55 * 60 + 50
"""Shortly before an hour and a day end."""
OF_DAEMON = max(3, KILLS // 5)
"""So many kills are of a real daemon and what it runs, at real pace; the others are of the same code without Dagster, and faster."""

DAMAGES = (
    "delete from majors_price_data_ohlc where token_contract = 'BTC' and timeframe = '1m' and timestamp = '2025-01-01 23:50'",
    "update lowcap_price_data_ohlc set close_usd = (high_usd + low_usd) / 2 where timeframe = '1m' and timestamp = '2025-01-01 23:50'",
    "update uptrend_states set ts_score = ts_score + 1 where series = 'regime:ALT' and timeframe = '1m' and ts = '2025-01-01 23:50'",
    "insert into derivation_marks (stage, series, timeframe, from_ts) values ('trend', 'regime:BTC', '1m', '2025-01-01')",
)
"""What the comparison must see, or it would prove nothing."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")]


# --- runs and collector as processes of ours, on a virtual clock ---


@dataclass
class Crowd:
    """A collector that is always there, one run after the other, and the server that both use."""

    place: Place
    rng: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    codes: Counter[tuple[str, int | None]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.collector = self._start(collect)

    def run(self, victim: str) -> bool:
        """Start a run, wait for a drawn moment, kill the victim, and let the run end if it can; False when it was faster than us."""
        run = self._start(run_live, self.rng.choices(REGIME_TIMEFRAMES, (2, 2, 8))[0])
        try:
            run.join(self.rng.uniform(0.0, 1.5))
            self._kill(victim, run)
            run.join(60)
        finally:
            run.kill()
            run.join()
        is_killed = victim != "run" or run.exitcode == -signal.SIGKILL
        self.kills[victim] += is_killed
        self.codes[victim, run.exitcode] += 1
        return is_killed

    def rest(self) -> None:
        """Let a run work undisturbed; it starts the database if need be."""
        run = self._start(run_live, Timeframe.M1)
        run.join(60)
        assert run.exitcode == 0
        assert self.collector.is_alive()

    def end(self) -> None:
        self.collector.kill()
        self.collector.join()

    def _kill(self, victim: str, run: Process) -> None:
        match victim:
            case "run":
                run.kill()
            case "collector":
                self.end()
                assert self.collector.exitcode == -signal.SIGKILL  # it had not ended by itself
                self.collector = self._start(collect)
            case "backend":
                kill_backend(self.place.home, self.rng)
            case "postmaster":
                kill_postmaster(self.place.home)

    def _start(self, target: Callable[..., None], *arguments: object) -> Process:
        process = FORKS.Process(target=target, args=(self.place, *arguments), daemon=True)
        process.start()
        return process


def test_nothing_is_lost_or_doubled_whoever_is_killed() -> None:
    rng = random.Random(SEED)
    victims = {"run": 9, "collector": 4, "backend": 4, "postmaster": 3}
    plan = [*victims, *rng.choices(tuple(victims), tuple(victims.values()), k=KILLS - OF_DAEMON - len(victims))]
    rng.shuffle(plan)
    with staged(START_S) as stage:
        stage.served.venue.clock.set_speed(SPEED)
        crowd = Crowd(stage.place(), rng)
        try:
            for victim in plan:
                while not crowd.run(victim):
                    pass
                if rng.random() < 0.7:
                    crowd.rest()
        finally:
            crowd.end()
        stage.finish()
        minutes = (stage.served.venue.clock.now_s() - START_S) / 60
        print(f"killed {dict(crowd.kills)} in {minutes:.0f} virtual minutes; runs ended {dict(crowd.codes)}")
        assert crowd.kills == Counter(plan)
        assert all(code == 0 for (victim, code) in crowd.codes if victim == "collector")
        assert stage.flaws() == []
        with open_connection(stage.url) as conn:
            for damage in DAMAGES:
                conn.execute(damage)
        flaws = stage.flaws()
        assert sum("token:BTC:binance: 1 minutes too many or too few" in flaw for flaw in flaws) == 1
        assert sum(" 1735775400 of binance_um: " in flaw for flaw in flaws) == 4  # one token of each bucket
        assert sum(flaw.startswith("uptrend_states only ") for flaw in flaws) == 2
        assert "left to derive: ('trend', '1m', 'regime:BTC')" in flaws


# --- the real daemon and what it runs, at real pace ---


@dataclass
class House:
    """`regime up --live`, and what can be killed of it."""

    stage: Stage
    rng: random.Random

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        place = self.stage.place()
        given = {
            "REGIME_UNIVERSE": str(place.universe),
            "REGIME_VENUE_URL": place.venue_url,
            "REGIME_COINGECKO_PLAN": "pro",
            "REGIME_COINGECKO_KEY": "simulated",
        }
        self.up = Up(self.stage.home, "--live", settings=given, start_s=240)
        assert self.up.process.poll() is None, self.up.said()

    def kill(self, victim: str) -> None:
        """Kill, and bring back what nobody but an operator (or systemd) brings back."""
        assert self.up.process.poll() is None, f"before {victim}: {self.up.said()}"
        match victim:
            case "daemon":
                os.kill(self._pids("dagster._daemon")[0], signal.SIGKILL)
                assert self.up.process.wait(60) == 1
                self.open()
            case "up":
                self.up.process.kill()
                self.up.process.wait(60)
                wait_for(lambda: self._pids("") == [], 60)
                self.open()
            case "everything":
                kill_postmaster(self.stage.home)
                for pid in self._pids(""):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.up.process.wait(60)
                self.open()
            case "run":
                wait_for(lambda: bool(self._runs()), 90)
                time.sleep(self.rng.uniform(0.0, 1.0))
                for pid in self._runs():
                    os.kill(pid, signal.SIGKILL)
            case "collector" | "code server":
                words = {"collector": " collect", "code server": " code-server start"}
                os.kill(self._pids(words[victim])[0], signal.SIGKILL)
            case "backend":
                kill_backend(self.stage.home, self.rng)
            case "postmaster":
                kill_postmaster(self.stage.home)

    def newest_s(self) -> int:
        """Open of the newest minute with a delta of BTC; 0 while the database is away."""
        with suppress(psycopg.OperationalError), psycopg.connect(self.stage.url) as conn:
            row = conn.execute("select extract(epoch from max(ts))::bigint from regime_deltas where driver = 'BTC' and timeframe = '1m'")
            return row.fetchone()[0]  # type: ignore[index]
        return 0

    def _pids(self, word: str) -> list[int]:
        return [pid for pid, command in processes_with(self.stage.home) if word in command]

    def _runs(self) -> list[int]:
        """Runs are forked by a process that has the same command line and was itself started by the code server."""
        forks = set(self._pids("multiprocessing.forkserver"))
        return [pid for pid in forks if parent_of(pid) in forks]


def parent_of(pid: int) -> int | None:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def test_a_daemon_comes_back_whatever_of_it_is_killed() -> None:
    rng = random.Random(SEED)
    victims = ["up", "postmaster", "daemon", "code server", "run", "everything", "collector", "backend"]
    plan = [victims[at % len(victims)] for at in range(OF_DAEMON)]
    rng.shuffle(plan)
    with staged(int(utc_now().timestamp())) as stage:
        clock = stage.served.venue.clock
        clock.advance(utc_now().timestamp() - clock.now_s())
        clock.set_speed(1.0)
        house = House(stage, rng)
        try:
            for victim in plan:
                time.sleep(rng.uniform(3.0, 25.0))
                house.kill(victim)
                print(f"{utc_now():%H:%M:%S} killed {victim}", flush=True)
            last_s = Timeframe.M1.floor(int(utc_now().timestamp()))
            # a run whose end nobody could write down keeps its job's place for its maximum runtime, and is looked at twice a minute
            wait_for(lambda: house.newest_s() >= last_s, PACES[Timeframe.M1].max_runtime_s + 120)
        finally:
            code = house.up.stop()
        assert code == 0
        assert processes_of(stage.home) == []
        ensure_server(stage.home)
        stage.finish()
        assert stage.flaws() == []
