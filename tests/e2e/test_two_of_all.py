"""Two Dagster daemons and two executors on one home, with a stream of decisions and orders: nothing is sent twice, ledger equals broker."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from regime_pipeline.adapters.postgres.connect import database_urls
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.cli.session import open_migrated_stores
from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.trading import build_trading
from regime_pipeline.ports import IntentOutcome, NewIntent, OrderType
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.write_intents import write_intents
from regime_pipeline.settings import Settings
from tests.e2e.test_pm import MinuteDesk, write_files
from tests.fixtures_postgres import open_home
from tests.served import ROOT, Up, processes_with, wait_for
from tests.sizes import TWO_OF_ALL_MINUTES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 + 120 * TWO_OF_ALL_MINUTES)]
D = Decimal
ACCOUNT, STRATEGY = "paper-main", "onchain_crypto-1h"
CONTRACTS = tuple(f"TOK{n}" for n in range(60))
LIVE = "('INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED')"


@pytest.fixture
def home() -> Iterator[Path]:
    with open_home() as path:
        yield path


def double(home: Path, word: str) -> subprocess.Popen[bytes]:
    """Start a second process like the one that runs: the same command with the same environment."""
    pid = next(pid for pid, command in processes_with(home) if word in command)
    command = (Path(f"/proc/{pid}/cmdline").read_bytes()).rstrip(b"\0").split(b"\0")
    pairs = (Path(f"/proc/{pid}/environ").read_bytes()).rstrip(b"\0").split(b"\0")
    environment = dict(pair.partition(b"=")[::2] for pair in pairs)
    with (home / f"second-{word.rsplit(maxsplit=1)[-1].strip('_')}.log").open("wb") as log:
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


class Market:
    """Writes each minute as it closes, and a bar to buy on."""

    def __init__(self, desk: MinuteDesk) -> None:
        self.desk, self.minute = desk, 0
        self.go_on()

    def go_on(self) -> None:
        """Write the minute that has closed, if it is not yet written."""
        if (minute := int(time.time() // 60)) == self.minute:
            return
        self.minute = minute
        self.desk.write_minute(signal_on="AAVE")
        for contract in CONTRACTS:
            self.desk.save_token(Timeframe.M1, self.desk.calm_bars(Timeframe.M1, 30), f"token:{contract}:binance")


def an_order(trading: Trading, number: int) -> NewIntent:
    """An entry of a bar of its own on one of the tokens: every second one trades, the others rest until their time is over."""
    contract = CONTRACTS[number % len(CONTRACTS)]
    now_s = int(trading.clock.now_s())
    key = LogicalKey(ACCOUNT, STRATEGY, f"{contract}/USDT", now_s - now_s % 3600 - 3600 * number, Leg.ENTRY)
    limit = D("100.3") if number % 2 else D(90)
    return NewIntent(key, Side.BUY, OrderType.LIMIT, D("0.5"), Mode.PAPER, 1000 * (now_s + 60), limit_price=limit)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_two_daemons_and_two_executors_send_nothing_twice(home: Path) -> None:
    settings = write_files(home)
    mine = Settings.model_validate({"home": home, "trading_enabled": True, "risk_file": home / "risk.toml"})
    open_migrated_stores(mine).close()
    url = database_urls(mine).regime
    desk = MinuteDesk(url, home)
    desk.begin()
    for contract in CONTRACTS:
        desk.position(contract, "1h")
    market = Market(desk)
    up = Up(home, settings=settings, start_s=300)
    seconds: list[subprocess.Popen[bytes]] = []
    try:
        with psycopg.connect(url, autocommit=True) as conn:

            def ask(query: str) -> list[tuple[object, ...]]:
                return conn.execute(query).fetchall()  # type: ignore[arg-type]

            wait_for(lambda: ask("select count(*) from reconciliation_runs where kind = 'startup' and status = 'ok'") == [(1,)], 120)
            seconds = [double(home, "dagster._daemon run"), double(home, "main() executor")]
            wait_for(lambda: int(str(ask("select count(*) from reconciliation_runs where kind = 'startup'")[0][0])) >= 2, 120)
            trading = build_trading(mine, stores=PostgresStores(url))
            until_s, number, written = time.monotonic() + 60 * TWO_OF_ALL_MINUTES, 0, Counter[IntentOutcome]()
            while time.monotonic() < until_s:
                market.go_on()
                with trading.stores.open() as work:
                    written += Counter(each.outcome for each in write_intents(work, trading, [an_order(trading, number)]))
                number += 1
                time.sleep(1)
            assert [each.poll() for each in seconds] == [None, None]  # both of both were there all the time
            wait_for(lambda: market.go_on() or ask(f"select count(*) from orders where state in {LIVE}") == [(0,)], 300)

            assert written[IntentOutcome.WRITTEN] >= 20 * TWO_OF_ALL_MINUTES
            twice = "select client_order_id from order_transitions where to_state = 'SUBMITTING' group by 1 having count(*) > 1"
            assert ask(twice) == []
            decided = "select account, strategy, bar_close from decisions group by 1, 2, 3 having count(*) > 1"
            assert ask(decided) == []
            sent = ask("select count(distinct client_order_id) from order_transitions where to_state = 'SUBMITTING'")
            assert ask("select count(*) from paper.orders") == sent
            assert ask("select sum(qty) from fills") == ask("select sum(qty) from paper.trades")
            assert ask("select asset, sum(amount) from ledger_entries group by asset having sum(amount) <> 0") == []
            held = (
                "select asset, sum(amount) from ledger_entries where account = 'paper-main' and ledger_account = 'WALLET'"
                " group by asset having sum(amount) <> 0 order by asset"
            )
            assert ask(held) == ask("select asset, total from paper.balances where account = 'paper-main' and total <> 0 order by asset")
            print(f"{sent[0][0]} orders sent, {ask('select count(*) from decisions')[0][0]} decisions, 0 doubled")
    finally:
        for each in seconds:
            each.terminate()
        up.stop()
        for each in seconds:
            try:
                each.wait(30)
            except subprocess.TimeoutExpired:
                os.kill(each.pid, 9)
                each.wait()
