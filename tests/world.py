"""A small world for the order path: an executor that dies, a venue that lies, and a judge that counts. One integer makes one schedule.

The rules are the same whether a seed draws them (`run_schedule`) or hypothesis does (tests/sql/trading/test_order_machine.py).
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final, Self

import psycopg

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.errors import RegimeError
from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.ports import NewIntent, OrderType, TimeInForce
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import Level, Scope, Switch
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings
from regime_pipeline.risk.purpose import Leg, Purpose, Side
from regime_pipeline.services.trading.book_fills import book_fills
from regime_pipeline.services.trading.context import Trading, TradingTerms, VenueClock
from regime_pipeline.services.trading.execute_pending import execute_pending
from regime_pipeline.services.trading.open_account import open_account
from regime_pipeline.services.trading.write_intents import write_intents
from regime_pipeline.simulation.clock import VirtualClock
from tests.builders import T0
from tests.fakes_trading import FakeLatch
from tests.oracle import BAD, NEVER_TAKEN, Script, Venue
from tests.oracle_broker import STEP, SYMBOLS, OracleBroker
from tests.trading_desk import Crash

STRATEGY: Final = "core-1h"
CASH: Final = Decimal(100_000)
KILL_POINTS: Final = (
    "before_submitting_commit",
    "before_wire",
    "after_wire",
    "after_answer",
    "after_step",
    "before_fill",
    "mid_fills",
    "after_fills",
    "before_cancel_wire",
    "after_cancel_wire",
)
"""Where an executor may die; a tick also dies before its commit."""
FIRST_POINTS: Final = ("before_submitting_commit", "before_wire", "after_wire", "after_answer", "after_step")
"""Those that the first turn of an order passes."""
FILL_POINTS: Final = ("before_fill", "mid_fills", "after_fills")
BAR_S: Final = 3600
LAST_CYCLES: Final = 60


@dataclass(frozen=True)
class Wish:
    """What a decision wanted: the judge's own note of it."""

    client_order_id: str
    symbol: str
    side: str
    qty: Decimal
    purpose: Purpose


class World:
    """One account in a database that others share."""

    def __init__(self, stores: PostgresStores, conn: psycopg.Connection, account: str) -> None:
        self.stores, self.conn, self.account = stores, conn, account
        self.clock = VirtualClock(T0 + 12 * BAR_S + 5, 0.0)
        self.offset_ms = 0
        self.venue = Venue(CASH)
        self.latch = FakeLatch()
        self.wishes: dict[str, Wish] = {}
        self.bar = 0
        self.crash_at: str | None = None
        self.crashes: Counter[str] = Counter()
        self.incarnation = 0
        self.killed_from: int | None = None  # creates the venue had seen when the kill came
        self.trading = self._start()
        open_account(self.trading)

    def _start(self) -> Trading:
        self.incarnation += 1
        return Trading(
            stores=self.stores,
            broker=OracleBroker(self.venue, self.account, self.venue_ms),
            terms=TradingTerms(
                self.account, Mode.PAPER, "core", trading_enabled=True, holder=f"executor {self.incarnation}", opening_cash_quote=CASH
            ),
            limits=RiskSettings(),
            protections=ProtectionSettings(),
            latch=self.latch,
            clock=VenueClock(self.clock.now, self.offset_ms),
            monotonic=self.clock.now_s,
            sleep=self.advance,
            at=self._pass,
        )

    def _pass(self, point: str) -> None:
        if point == self.crash_at:
            self.crash_at = None
            self.crashes[point] += 1
            raise Crash(point)

    def venue_ms(self) -> int:
        return round(self.clock.now_s() * 1000)

    # what may happen

    def decide(self, symbol: str, frac: Decimal, crash_at: str | None = None) -> None:
        """A new bar wants more of a symbol, or less of what is held, as a tick does; the tick may die before it commits."""
        self.bar += 1
        held = self.ledger_qty(symbol)
        is_entry = held < STEP
        leg = Leg.ENTRY if is_entry else Leg.EXIT
        qty = (10 * frac).quantize(STEP) if is_entry else held.quantize(STEP, rounding="ROUND_FLOOR")
        if qty <= 0 or self._is_killed(leg):
            return
        key = LogicalKey(self.account, STRATEGY, symbol, T0 + (12 + self.bar) * BAR_S, leg)
        side = Side.BUY if is_entry else Side.SELL
        decide_by_ms = self.trading.clock.now_ms() + 240_000
        intent = NewIntent(key, side, OrderType.LIMIT, qty, Mode.PAPER, decide_by_ms, limit_price=Decimal(100), tif=TimeInForce.GTC)
        self.crash_at = crash_at
        with self._dying(), self.stores.open() as work:
            write_intents(work, self.trading, [intent])
        self.crash_at = None
        self.wishes[intent.client_order_id] = Wish(intent.client_order_id, symbol, side.value, qty, intent.purpose)

    def repeat_decision(self) -> None:
        """The same tick runs again under another run: it adopts what it finds."""
        for wish in list(self.wishes.values())[-1:]:
            rows = self.rows("select bar_close, leg from order_intents where client_order_id = %s", wish.client_order_id)
            for bar_close, leg in rows:
                key = LogicalKey(self.account, STRATEGY, wish.symbol, int(bar_close.timestamp()), Leg(leg))
                decide_by_ms = self.trading.clock.now_ms() + 240_000
                again = NewIntent(key, Side(wish.side), OrderType.LIMIT, wish.qty, Mode.PAPER, decide_by_ms, limit_price=Decimal(100))
                with self.stores.open() as work:
                    write_intents(work, self.trading, [again])

    def execute(self, crash_at: str | None = None) -> bool:
        """A turn of the executor; with a point it may die there, and another process starts. Says whether it died."""
        self.crash_at = crash_at
        died = self._dying()
        with died:
            execute_pending(self.trading)
        self.crash_at = None
        return died.has_died

    def race(self, crash_at: str | None) -> None:
        """A second executor tries while the first holds the lease, dead or alive."""
        self.crash_at = crash_at
        with self._dying(ends_leases=False):
            execute_pending(self.trading)
        self.crash_at = None
        before = len(self.venue.posts)
        held = self.rows("select until > clock_timestamp() from leases where name = %s", f"dispatch:{self.account}")
        other = replace(self._start(), at=lambda _point: None)
        summary = execute_pending(other)
        if held and held[0][0]:
            assert not summary.has_lease
            assert len(self.venue.posts) == before
        self.end_leases()

    def script(self, answer: str, taken: str, *, late_ms: int = 0, hidden_ms: int = 0, fill_frac: Decimal = Decimal(0)) -> None:
        """The next create: what happens to it and what its sender hears."""
        taken = "never" if answer in NEVER_TAKEN else taken
        self.venue.scripts.append(Script(taken, answer, late_ms, hidden_ms, fill_frac))

    def fail_reads(self, pattern: list[bool]) -> None:
        self.venue.reads.extend("failed" if fails else "ok" for fails in pattern)

    def fill(self, rng_frac: Decimal) -> None:
        """The venue trades a part of every open order."""
        for order in self.venue.orders.values():
            if order.status == "open":
                self.venue.fill(order.id, max(STEP, order.rest * rng_frac), self.venue_ms())

    def late_fill(self) -> None:
        """A trade of an order that has ended comes to light, as an exchange settles a race with a cancel."""
        for order in self.venue.orders.values():
            if order.status == "canceled" and order.rest >= STEP and order.side == "buy":
                self.venue.late_fill(order.id, STEP, self.venue_ms())
                return

    def stream(self, rng: random.Random) -> None:
        """Trades are told again by a stream: any of them, in any order, some twice, some before their acknowledgement."""
        if not self.venue.trades:
            return
        told = [rng.choice(self.venue.trades) for _ in range(rng.randint(1, 4))]
        broker = self.trading.broker
        assert isinstance(broker, OracleBroker)
        with self._dying(), self.stores.open() as work:
            book_fills(work, broker.traits, [broker.report(trade) for trade in told], self.trading.clock.now_ms(), at=self._pass)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.venue.pass_time(self.venue_ms())

    def skew(self, milliseconds: int) -> None:
        """Our clock goes wrong by less than what stops entries."""
        self.offset_ms = milliseconds
        self.trading.clock.offset_ms = milliseconds

    def kill(self, level: Level) -> None:
        self.latch.switches = (Switch(Scope(account=self.account), level, "manual", "judge", "test", int(self.clock.now_s())),)
        self.killed_from = len(self.venue.posts)

    def release(self) -> None:
        self.check_kill()
        self.latch.switches, self.killed_from = (), None

    # the end and the judgement

    def settle(self) -> None:
        """Nothing goes wrong any more; time passes until every order has ended. What is still open at the venue is filled."""
        self.venue.scripts.clear()
        self.venue.reads.clear()
        self.release()
        self.skew(0)
        self.crash_at = None
        self.advance(20)
        for _ in range(LAST_CYCLES):
            summary = execute_pending(self.trading)
            if not self.rows(
                "select from orders where account = %s"
                " and state in ('INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED')",
                self.account,
            ):
                break
            self.advance(self._wait_s(summary.next_due_ms))
        self._collect_late_fills()

    def _wait_s(self, due_ms: int | None) -> float:
        """To the end of an order that only rests; to the next look for one that is unclear."""
        if not self.rows("select from orders where account = %s and state in ('UNKNOWN', 'SUBMITTING', 'CANCEL_REQUESTED')", self.account):
            return 95.0
        return 30.0 if due_ms is None else min(30.0, max(0.5, (due_ms - self.trading.clock.now_ms()) / 1000))

    def _collect_late_fills(self) -> None:
        """What the regular pass does each minute: read the trades since the cursor."""
        broker = self.trading.broker
        assert isinstance(broker, OracleBroker)
        reports = [broker.report(trade) for trade in self.venue.trades]
        if reports:
            with self.stores.open() as work:
                book_fills(work, broker.traits, reports, self.trading.clock.now_ms())

    def judge(self) -> None:
        """Nothing doubled, nothing lost, nothing left."""
        posts = Counter(self.venue.posts)
        assert max(posts.values(), default=0) <= 1, f"sent twice: {posts.most_common(3)}"
        intents = dict(self.rows("select client_order_id, qty from order_intents where account = %s", self.account))
        assert set(posts) <= set(intents), "sent without an intent"
        by_id: dict[str, Decimal] = {}
        for order in self.venue.orders.values():
            assert order.client_id not in by_id, "two orders under one id"
            by_id[order.client_id] = order.filled
            assert order.filled <= order.qty
        states = dict(self.rows("select client_order_id, state from orders where account = %s", self.account))
        assert set(states) == set(intents)
        live = {order_id: state for order_id, state in states.items() if state not in TERMINAL}
        assert not live, f"not ended: {live}"
        for order in self.venue.orders.values():
            assert order.status != "open", f"order {order.client_id} rests at the venue and is {states.get(order.client_id)} here"
        fills = dict(self.rows("select venue_trade_id, qty from fills where account = %s and client_order_id is not null", self.account))
        assert fills == {str(trade.id): trade.qty for trade in self.venue.trades}, "fills lost or doubled"
        self.check_money()
        assert not self.rows(
            "select from order_transitions t join orders o using (client_order_id) where o.account = %s"
            " group by client_order_id, o.version having count(*) <> o.version",
            self.account,
        )
        self._check_wishes(by_id)

    def _check_wishes(self, by_id: dict[str, Decimal]) -> None:
        """All children of a decision together never trade more than it wanted."""
        children = self.rows("select client_order_id, bar_close, symbol, leg from order_intents where account = %s", self.account)
        filled: dict[tuple[object, ...], Decimal] = {}
        for client_order_id, *decision in children:
            filled[tuple(decision)] = filled.get(tuple(decision), Decimal(0)) + by_id.get(client_order_id, Decimal(0))
        wanted = {tuple(decision): self.wishes[order_id].qty for order_id, *decision in children if order_id in self.wishes}
        for decision, qty in filled.items():
            assert qty <= wanted[decision] + STEP, f"{decision}: {qty} of {wanted[decision]}"

    def check_money(self) -> None:
        """Ledger equals venue, and every batch sums to nothing."""
        ledger = dict(
            self.rows(
                "select asset, sum(balance) from ledger_balances where account = %s and ledger_account = 'WALLET' group by asset",
                self.account,
            )
        )
        held = {asset: amount for asset, amount in self.venue.holdings().items() if amount}
        assert {asset: amount for asset, amount in ledger.items() if amount} == held
        sums = self.rows("select asset from ledger_entries where account = %s group by asset having sum(amount) <> 0", self.account)
        assert not sums

    def check_always(self) -> None:
        """What holds after every step, settled or not."""
        posts = Counter(self.venue.posts)
        assert max(posts.values(), default=0) <= 1
        entries = Counter(
            symbol
            for (symbol,) in self.rows(
                "select symbol from orders where account = %s and purpose = 'entry'"
                " and state in ('INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED')",
                self.account,
            )
        )
        assert max(entries.values(), default=0) <= 1
        assert not self.rows("select from ledger_entries where account = %s group by batch_id, asset having sum(amount) <> 0", self.account)
        for symbol in SYMBOLS:
            assert self.ledger_qty(symbol) >= 0
        self.check_kill()

    def check_kill(self) -> None:
        """No entry has left since the kill."""
        if self.killed_from is not None:
            after = self.venue.posts[self.killed_from :]
            assert all(self.wishes[each].purpose is not Purpose.ENTRY for each in after if each in self.wishes)

    # small words

    def ledger_qty(self, symbol: str) -> Decimal:
        found = self.rows(
            "select balance from ledger_balances where account = %s and strategy = %s and ledger_account = 'WALLET' and asset = %s",
            *(self.account, STRATEGY, symbol.partition("/")[0]),
        )
        return found[0][0] if found else Decimal(0)

    def rows(self, query: str, *parameters: object) -> list[tuple]:  # type: ignore[type-arg]
        return self.conn.execute(query, parameters).fetchall()  # type: ignore[arg-type]

    def end_leases(self) -> None:
        self.conn.execute("update leases set until = '-infinity' where name = %s", (f"dispatch:{self.account}",))

    def _is_killed(self, leg: Leg) -> bool:
        return bool(self.latch.switches) and leg.purpose is Purpose.ENTRY

    def _dying(self, *, ends_leases: bool = True) -> "_Dying":
        return _Dying(self, ends_leases)


class _Dying:
    """Survives the death of a process: its transaction is gone, its lease ends, another one starts."""

    def __init__(self, world: World, ends_leases: bool) -> None:
        self.world, self.ends_leases, self.has_died = world, ends_leases, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, Crash):
            return False
        self.has_died = True
        if self.ends_leases:
            self.world.end_leases()
        self.world.trading = self.world._start()
        return True


TERMINAL: Final = frozenset({"FILLED", "CANCELLED", "REJECTED", "EXPIRED", "NOT_FOUND"})
ANSWERS: Final = ("ok", "ok", "ok", *BAD)


def draw_step(world: World, rng: random.Random) -> None:
    """One thing happens."""
    steps: list[tuple[int, Callable[[], object]]] = [
        (6, lambda: world.decide(rng.choice(SYMBOLS), Decimal(rng.randint(1, 10)) / 10, rng.choice((None, None, "before_intent_commit")))),
        (2, world.repeat_decision),
        (8, lambda: world.execute(rng.choice((None, *KILL_POINTS)))),
        (1, lambda: world.race(rng.choice((None, *KILL_POINTS)))),
        (4, lambda: draw_script(world, rng)),
        (3, lambda: world.fill(Decimal(rng.randint(1, 10)) / 10)),
        (2, lambda: world.stream(rng)),
        (1, world.late_fill),
        (2, lambda: world.fail_reads([rng.random() < 0.5 for _ in range(rng.randint(1, 6))])),
        (5, lambda: world.advance(rng.choice((0.2, 1.0, 2.0, 5.0, 16.0, 31.0, 95.0)))),
        (1, lambda: world.skew(rng.choice((-400, -100, 0, 100, 400)))),
        (1, lambda: world.kill(rng.choice((Level.ENTRIES_OFF, Level.REDUCE_ONLY, Level.HARD_STOP)))),
        (1, world.release),
    ]
    weights = [weight for weight, _ in steps]
    rng.choices([step for _, step in steps], weights)[0]()


def draw_script(world: World, rng: random.Random) -> None:
    """The next create meets a fault."""
    taken = rng.choice(("now", "now", "late", "never"))
    answer = "timeout" if taken == "late" else rng.choice(ANSWERS)
    frac = Decimal(rng.choice((0, 0, 3, 10))) / 10
    world.script(answer, taken, late_ms=rng.choice((500, 2000, 4500, 7000)), hidden_ms=rng.choice((0, 0, 1000, 4000)), fill_frac=frac)


def run_schedule(stores: PostgresStores, conn: psycopg.Connection, seed: int) -> World:
    """One life of an account from one integer: it always begins with an order that meets a fault and an executor that dies."""
    rng = random.Random(seed)
    world = World(stores, conn, f"s{seed}")
    draw_script(world, rng)
    world.decide(rng.choice(SYMBOLS), Decimal(rng.randint(1, 10)) / 10)
    world.execute(rng.choice(FIRST_POINTS))
    if rng.random() < 0.5:  # what has traded by then is booked in the next turn, or once a look has found the order
        for _ in range(2):
            world.advance(3)
            world.execute(rng.choice(FILL_POINTS))
    for _ in range(rng.randint(1, 6)):
        draw_step(world, rng)
    world.settle()
    try:
        world.judge()
    except (AssertionError, RegimeError) as error:
        raise AssertionError(f"schedule {seed}: {error}") from error
    return world
