"""The real executor as a process, on paper and on the wall clock: asked to end, killed, and with its database started again under it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from regime_pipeline.adapters.postgres.connect import database_urls, open_connection
from regime_pipeline.adapters.postgres.embedded import ensure_server
from regime_pipeline.adapters.postgres.migrate import apply_roles, migrate
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.clock import now_s
from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.trading import build_trading
from regime_pipeline.orchestration.up import REGIME
from regime_pipeline.ports import BarRows, BarTable, NewIntent, OrderType
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.write_intents import write_intents
from regime_pipeline.settings import Settings
from tests.booked import BOOK
from tests.builders import bars
from tests.fixtures_postgres import open_home
from tests.killed import kill_postmaster

D = Decimal
ROOT = Path(__file__).resolve().parents[2]
ACCOUNT, STRATEGY, SYMBOL = "paper-main", f"{BOOK}-1h", "AAVE/USDT"
PATIENCE_S = 45

pytestmark = pytest.mark.slow


@dataclass
class Running:
    """An executor and what it has said, one JSON object per line."""

    process: subprocess.Popen[str]
    said: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ears = threading.Thread(target=self.listen, daemon=True)
        self.ears.start()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.ears.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line) if line.startswith("{") else {"event": "text", "line": line})

    def wait_for(self, event: str, n: int = 1) -> dict[str, Any]:
        wait_until(lambda: len([each for each in self.said if each["event"] == event]) >= n or self.process.poll() is not None)
        found = [each for each in self.said if each["event"] == event]
        assert len(found) >= n, self.said
        return found[n - 1]

    def end(self, number: int) -> tuple[int, float]:
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        return code, time.monotonic() - began


def wait_until(is_true: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    until = time.monotonic() + patience_s
    while not is_true() and time.monotonic() < until:
        time.sleep(0.05)


@dataclass
class House:
    """A home with its database, an account, and a token that trades at 100."""

    home: Path
    url: str
    running: list[Running] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return Settings.model_validate({"home": self.home, "trading_enabled": True, "risk_file": ROOT / "config/risk.toml"})

    def start(self) -> Running:
        variables = {"REGIME_HOME": str(self.home), "REGIME_TRADING_ENABLED": "true", "REGIME_RISK_FILE": str(ROOT / "config/risk.toml")}
        process = subprocess.Popen(
            [sys.executable, *REGIME, "executor", "--json"],
            env={**os.environ, **variables},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running = Running(process)
        self.running.append(running)
        return running

    def intend(self, limit: str, leg: Leg = Leg.ENTRY, hours_ago: int = 0) -> str:
        """Write an intent as a tick would."""
        close_s = now_s() - now_s() % 3600 - 3600 * hours_ago
        key = LogicalKey(ACCOUNT, STRATEGY, SYMBOL, close_s, leg)
        intent = NewIntent(key, Side.BUY, OrderType.LIMIT, D(1), Mode.PAPER, 1000 * (now_s() + 240), limit_price=D(limit))
        trading = build_trading(self.settings, stores=PostgresStores(self.url))
        with trading.stores.open() as work:
            write_intents(work, trading, [intent])
        return intent.client_order_id

    def ask(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as conn:
            return conn.execute(query, parameters).fetchall()  # type: ignore[arg-type]

    def state(self, client_order_id: str) -> str:
        return str(self.ask("select state from orders where client_order_id = %s", client_order_id)[0][0])

    def creates(self) -> int:
        return int(self.ask("select count(*) from paper.orders")[0][0])


@pytest.fixture
def house() -> Iterator[House]:
    with open_home() as home:
        url = database_urls(Settings.model_validate({"home": home})).regime
        with open_connection(url) as conn:
            migrate(conn)
            apply_roles(conn)
            conn.execute(
                "insert into lowcap_positions (token_contract, token_chain, timeframe, token_ticker, status, book_id)"
                " values ('AAVE', 'binance', '1h', 'AAVE', 'watchlist', %s)",
                (BOOK,),
            )
        last_s = Timeframe.M1.last_closed(now_s())
        made = bars(np.full(30, 100.0), start_s=last_s - 29 * 60, volume=1e8)
        rows = BarRows(made, ("test",), np.zeros(30, dtype=np.int64), np.ones(30, dtype=np.bool_))
        with PostgresStores(url).open() as work:
            work.bars.save(BarTable.TOKENS, Timeframe.M1, {"token:AAVE:binance": rows})
        house = House(home, url)
        yield house
        for running in house.running:
            running.close()


def test_it_sends_what_is_committed_and_ends_when_asked(house: House) -> None:
    running = house.start()
    running.wait_for("ready")
    resting = house.intend("90")  # far below the market: it rests
    began = time.monotonic()
    wait_until(lambda: house.state(resting) == OrderState.OPEN)
    assert house.state(resting) == OrderState.OPEN, running.said
    assert time.monotonic() - began < 3
    code, took_s = running.end(signal.SIGTERM)
    assert (code, took_s < 5) == (0, True)
    ((detail,),) = house.ask("select detail from trading_heartbeats")
    assert detail["state"] == "ended"
    assert house.state(resting) == OrderState.OPEN  # nothing is cancelled because a process ends
    assert house.creates() == 1


def test_killed_it_leaves_an_order_that_the_next_one_takes_over(house: House) -> None:
    running = house.start()
    running.wait_for("ready")
    resting = house.intend("90")
    wait_until(lambda: house.creates() == 1)
    running.end(signal.SIGKILL)
    again = house.start()
    again.wait_for("ready")
    assert house.state(resting) in {OrderState.OPEN, OrderState.CANCEL_REQUESTED}
    other = house.intend("89", hours_ago=1)  # another entry on the symbol: its place is taken
    assert house.ask("select count(*) from orders where client_order_id = %s", other) == [(0,)]
    assert house.creates() == 1
    assert again.end(signal.SIGTERM)[0] == 0


def test_a_database_that_is_killed_and_started_again_is_recovered_from(house: House) -> None:
    running = house.start()
    running.wait_for("ready")
    kill_postmaster(house.home)
    running.wait_for("outage")
    ensure_server(house.home)
    began = time.monotonic()
    running.wait_for("ready", n=2)
    assert time.monotonic() - began < 30
    resting = house.intend("90")
    wait_until(lambda: house.state(resting) == OrderState.OPEN)
    assert house.state(resting) == OrderState.OPEN, running.said
    assert house.creates() == 1
    assert running.end(signal.SIGTERM)[0] == 0
