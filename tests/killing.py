"""Processes of the order path that kill themselves: a fresh one is forked, runs an executor at a venue, and dies at a named point.

The venue's clock stands still and is moved by whoever waits, so that a ladder of half a minute costs what its requests cost. A process is
forked by Python's fork server, which has the imports done; it shares nothing with the test but database, sockets and latch file.
"""

import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import psycopg
from pydantic import SecretStr

from regime_pipeline.adapters.brokers.ccxt_broker import CcxtBroker
from regime_pipeline.adapters.brokers.start import TradingAccount, build_kill_broker
from regime_pipeline.adapters.latch_file import LatchFile
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.errors import RegimeError
from regime_pipeline.execution.answers import PAPER
from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.executor_secrets import ExecutorSecrets
from regime_pipeline.ports import BrokerTraits, NewIntent, Ok, OrderType
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.book_fills import book_fills
from regime_pipeline.services.trading.context import Trading, TradingTerms, VenueClock
from regime_pipeline.services.trading.execute_pending import execute_pending
from regime_pipeline.services.trading.open_account import deposit
from regime_pipeline.services.trading.recover import recover
from regime_pipeline.services.trading.write_intents import write_intents
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.trading import TradingBook
from tests.brokers import SALT
from tests.trading import EXCHANGES, TradingVenue, serve_trading

SYMBOLS: Final = {"spot": "BTC/USDT", "linear": "BTC/USDT:USDT"}
STRATEGY: Final = "core-1h"
CYCLES: Final = 12
PATIENCE_S: Final = 60.0
LIVE: Final = "('INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED')"


@dataclass(frozen=True)
class Seat:
    """Everything a process needs to sit down at an account; it travels to it as it is."""

    database: str
    account: str
    venue_url: str
    market_type: str
    keys: dict[str, str]
    latch: str
    holder: str = "executor"


def sit_down(seat: Seat, at: Callable[[str], None] | None = None) -> tuple[Trading, CcxtBroker]:
    """Build the order path of a seat on the venue's clock, which stands still."""
    status = json.load(urlopen(f"{seat.venue_url}/sim/clock", timeout=10))
    clock = VirtualClock(status["now_s"], 0.0)

    def advance(seconds: float) -> None:
        body = json.dumps({"advance_s": seconds}).encode()
        urlopen(Request(f"{seat.venue_url}/sim/clock", body, {"Content-Type": "application/json"}), timeout=10).close()
        clock.advance(seconds)

    venue_clock = VenueClock(clock.now, 0)
    secrets = ExecutorSecrets(**{name: SecretStr(value) for name, value in {**seat.keys, "salt": SALT}.items()})
    exchange_id = EXCHANGES[seat.market_type]  # type: ignore[index]
    account = TradingAccount(exchange_id, seat.market_type, seat.account, Mode.SANDBOX, venue_url=seat.venue_url)
    broker = build_kill_broker(secrets, account, venue_clock.now_ms)
    read = broker.fetch_listings()
    assert isinstance(read, Ok), read
    trading = Trading(
        stores=PostgresStores(seat.database),
        broker=broker,
        terms=TradingTerms(seat.account, Mode.SANDBOX, "core", trading_enabled=True, holder=seat.holder),
        limits=RiskSettings(),
        protections=ProtectionSettings(),
        latch=LatchFile(Path(seat.latch)),
        clock=venue_clock,
        monotonic=clock.now_s,
        sleep=advance,
        at=at or (lambda _point: None),
    )
    return trading, broker


@dataclass
class Deadly:
    """A checkpoint at which the process kills itself, the n-th time it passes; `stop:<point>` freezes it there instead."""

    point: str
    nth: int = 1
    passed: Counter[str] = field(default_factory=Counter)

    def __call__(self, point: str) -> None:
        self.passed[point] += 1
        if point == self.point.removeprefix("stop:") and self.passed[point] == self.nth:
            os.kill(os.getpid(), signal.SIGSTOP if self.point.startswith("stop:") else signal.SIGKILL)


def an_intent(trading: Trading, leg: Leg, qty: Decimal, price: Decimal, bar: int = 0) -> NewIntent:
    """An order of the bar that has just closed."""
    now_s = trading.clock.now_s()
    key = LogicalKey(trading.terms.account, STRATEGY, SYMBOLS[trading.broker.traits.market_type], now_s - now_s % 3600 + bar * 3600, leg)
    side = Side.BUY if leg is Leg.ENTRY else Side.SELL
    is_linear = trading.broker.traits.market_type == "linear"
    return NewIntent(
        *(key, side, OrderType.LIMIT, qty, Mode.SANDBOX, trading.clock.now_ms() + 240_000),
        limit_price=price,
        reduce_only=is_linear and leg is not Leg.ENTRY,
    )


def decide(seat: Seat, point: str, leg: str, qty: str, price: str) -> None:
    """A tick's end in a process of its own: writes the intent, and may die before or after the commit."""
    deadly = Deadly(point)
    trading, _ = sit_down(seat, deadly)
    with trading.stores.open() as work:
        write_intents(work, trading, [an_intent(trading, Leg(leg), Decimal(qty), Decimal(price))])
    deadly("after_intent")


def execute(seat: Seat, point: str, nth: int = 1) -> None:
    """Turns of an executor in a process of its own, with a second between them."""
    trading, _ = sit_down(seat, Deadly(point, nth))
    for _ in range(CYCLES):
        execute_pending(trading)
        trading.sleep(1.0 if point != "after_cancel_wire" and point != "before_cancel_wire" else 50.0)


def recover_and_finish(seat: Seat, point: str = "", nth: int = 1) -> None:
    """A start after a death: recovery, then turns until nothing lives."""
    trading, broker = sit_down(seat, Deadly(point, nth) if point else None)
    recover(trading)
    for _ in range(60):
        summary = execute_pending(trading)
        with psycopg.connect(seat.database) as conn:
            live = conn.execute(f"select state from orders where account = %s and state in {LIVE}", (seat.account,)).fetchall()
        if not live:
            break
        unclear = {state for (state,) in live} & {"UNKNOWN", "SUBMITTING", "CANCEL_REQUESTED"}
        due_ms = summary.next_due_ms
        wait_s = max(0.5, (due_ms - trading.clock.now_ms()) / 1000) if due_ms is not None else 30.0
        trading.sleep(min(wait_s, 30.0) if unclear else 95.0)
    with trading.stores.open() as work:
        fills = broker.fetch_fills(SYMBOLS[seat.market_type], 0)
        if isinstance(fills, Ok) and fills.value:
            book_fills(work, broker.traits, list(fills.value), trading.clock.now_ms())


_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.killing"])


def spawn(target: Callable[..., None], *arguments: Any) -> Any:
    """Start a function in a process of its own."""
    process = _CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def run(target: Callable[..., None], *arguments: Any) -> int:
    """Run a function in a process of its own; its exit code, negative for the signal that ended it."""
    process = spawn(target, *arguments)
    process.join(PATIENCE_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"{target.__name__}{arguments[1:]} did not end within {PATIENCE_S:g} s")
    return process.exitcode


@dataclass
class Stage:
    """A venue with one account and a database; cells are played on it one after the other, each with an account name of its own."""

    venue: TradingVenue
    database: str
    folder: Path
    number: int = 0

    def seat(self) -> Seat:
        """A new account at a new book, unpaused: what another had traded there would be a change that nothing explains."""
        desk = self.venue.floor.desk(self.venue.market_type)
        desk.book = TradingBook(self.venue.market_type)
        self.venue.clear_script()
        self.number += 1
        keys = {f"{kind}_{part}": getattr(self.venue.keys[kind], part) for kind in self.venue.keys.kinds() for part in ("key", "secret")}
        keys = {**keys, "kill_key": keys["trader_key"], "kill_secret": keys["trader_secret"]}
        name = f"cell-{self.venue.market_type.value}-{self.number}"
        seat = Seat(self.database, name, self.venue.url, self.venue.market_type.value, keys, str(self.folder / f"{name}.latch"))
        traits = BrokerTraits(EXCHANGES[self.venue.market_type], name, Mode.SANDBOX, seat.market_type, "USDT", PAPER)
        with PostgresStores(self.database).open() as work:
            deposit(work, traits, "USDT", Decimal(100_000), "opening", self.venue.clock_ms())
        with psycopg.connect(self.database) as conn:
            conn.execute("delete from leases")
        return seat

    def end_leases(self) -> None:
        """Let the dead one's lease end, as 16 s of the database's clock would."""
        with psycopg.connect(self.database) as conn:
            conn.execute("update leases set until = '-infinity' where name like 'dispatch:%'")


@contextmanager
def stage(market_type: str, database: str, folder: Path, **options: Any) -> Iterator[Stage]:
    """Open a venue whose clock stands still."""
    with serve_trading(market_type, speed=0.0, **options) as venue:
        yield Stage(venue, database, folder)


def judge(stage: Stage, seat: Seat) -> None:
    """Nothing doubled, nothing lost, nothing left: the venue's truth against our tables."""
    truth = stage.venue.truth()
    with psycopg.connect(seat.database) as conn:
        states = dict(conn.execute("select client_order_id, state from orders where account = %s", (seat.account,)).fetchall())
        fills = conn.execute(
            "select venue_order_id, qty, price from fills where account = %s and client_order_id is not null", (seat.account,)
        ).fetchall()
        wrong = conn.execute(
            "select asset, sum(amount) from ledger_entries where account = %s group by asset having sum(amount) <> 0", (seat.account,)
        ).fetchall()
    posts = Counter(note["client_id"] for note in truth["received"] if note["client_id"] in states)
    assert max(posts.values(), default=0) <= 1, f"sent twice: {posts}"
    accepted = {client_id: times for client_id, times in truth["accepted"].items() if client_id in states}
    assert all(len(times) == 1 for times in accepted.values()), f"taken twice: {accepted}"
    live = {order_id: state for order_id, state in states.items() if state in LIVE}
    assert not live, f"not ended: {live}"
    ours = {order["order_id"]: order for order in truth["orders"] if order["client_id"] in states}
    still_open = [order["client_id"] for order in ours.values() if order["status"] in {"NEW", "PARTIALLY_FILLED"}]
    assert not still_open, f"rest at the venue, ended here: {[(each, states[each]) for each in still_open]}"
    trades = [
        (str(trade["order_id"]), Decimal(trade["qty"]), Decimal(trade["price"])) for trade in truth["trades"] if trade["order_id"] in ours
    ]
    assert sorted(fills) == sorted(trades), f"fills lost or doubled: {fills}, {trades}"
    assert not wrong, f"ledger off: {wrong}"


__all__ = ["RegimeError", "Seat", "Stage", "decide", "execute", "judge", "recover_and_finish", "run", "spawn", "stage"]
