"""The whole order path over a wire: a simulated venue, the real ccxt broker, a real database, and one clock for all of them.

`with open_wire(database, "spot") as desk:` gives a `Desk` whose broker asks through sockets; `judge(desk)` holds what every fault demands.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from itertools import count
from threading import Event
from time import monotonic, sleep
from typing import Any

from regime_pipeline.adapters.brokers.ccxt_broker import CcxtBroker
from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.ports import Incident, NewIntent, Ok, OrderType
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import Switch
from regime_pipeline.risk.purpose import Leg, Purpose, Side
from regime_pipeline.services.trading.context import TradingTerms, VenueClock
from regime_pipeline.services.trading.open_account import deposit
from regime_pipeline.services.trading.run_executor import Helpers, run_executor
from tests.brokers import SYMBOLS, connect
from tests.builders import T0
from tests.trading import CREATE, TradingVenue, serve_trading
from tests.trading_desk import START_S, Desk

D = Decimal
S = OrderState
SHORT_S = 0.15
"""Patience of a client in a test whose venue does not answer in time."""
LATE_MS = 400
"""How long such a venue takes, in real milliseconds."""
ENDED = {"FILLED": S.FILLED, "CANCELED": S.CANCELLED, "EXPIRED": S.EXPIRED, "REJECTED": S.REJECTED}
ALIVE = {"NEW": {S.OPEN, S.CANCEL_REQUESTED}, "PARTIALLY_FILLED": {S.PARTIAL, S.CANCEL_REQUESTED}}
NOT_THERE = {S.INTENT, S.REJECTED, S.NOT_FOUND, S.CANCELLED}
"""Where an order may be that the venue never took."""


class WireDesk(Desk):
    """An executor whose broker is the real one."""

    def __init__(self, url: str, venue: TradingVenue, name: str = "", holder: str = "desk") -> None:
        clock = VenueClock(venue.clock.now, 0)
        broker = connect(venue, clock.now_ms)
        traits = broker.traits
        broker._traits = replace(traits, venue=f"{traits.venue}{name}", account=f"{traits.account}{name}")
        terms = TradingTerms(broker.traits.account, Mode.SANDBOX, "onchain_crypto", trading_enabled=True, holder=holder)
        super().__init__(url, broker, venue.clock, terms=terms)
        self.trading = replace(self.trading, clock=clock)
        self.venue, self.name, self.symbol = venue, name, SYMBOLS[venue.market_type.value]
        self._numbers = count()
        self._since = max((incident.incident_id for incident in self._load_incidents()), default=0)

    @property
    def account(self) -> str:
        """Whose orders they are."""
        return self.trading.terms.account

    @property
    def ccxt(self) -> CcxtBroker:
        """The broker."""
        assert isinstance(self.broker, CcxtBroker)
        return self.broker

    def open_books(self) -> None:
        """Book what the venue holds as brought from outside, and store its markets."""
        listings = self.broker.fetch_listings()
        assert isinstance(listings, Ok)
        with self.stores.open() as work:
            for asset, held in self.venue.truth()["balances"].items():
                deposit(work, self.broker.traits, asset, D(held["total"]), "opening", self.now_ms)
            work.recon.save_listings(self.broker.traits.venue, listings.value, self.now_ms)

    def restart(self) -> "WireDesk":
        """Build the executor that comes after this one has gone: nothing in memory is taken over."""
        self.end_leases()
        self.stores.close()
        after = WireDesk(self.url, self.venue, self.name, "after")
        after._numbers, after._since = self._numbers, self._since
        return after

    def _load_incidents(self) -> list[Incident]:
        with self.stores.open() as work:
            return work.recon.load_incidents()

    def incidents(self) -> list[str]:
        """Kinds of the open incidents since the desk was opened, oldest first: the database is older than the desk."""
        return [each.kind for each in reversed(self._load_incidents()) if each.incident_id > self._since]

    def an_intent(self, leg: Leg = Leg.ENTRY, **changes: Any) -> NewIntent:
        """Build an order that fills at once at the scripted price; each is of a bar of its own."""
        bar_close_s = changes.pop("bar_close_s", T0 + 12 * 3600 - 60 * next(self._numbers))
        symbol = changes.pop("symbol", self.symbol)
        key = LogicalKey(self.account, changes.pop("strategy", "onchain_crypto-1h"), symbol, bar_close_s, leg, changes.pop("seq", 0))
        is_entry = leg.purpose is Purpose.ENTRY
        fields: dict[str, Any] = {
            "side": Side.BUY if is_entry else Side.SELL,
            "type": OrderType.LIMIT,
            "qty": D("0.010"),
            "mode": Mode.SANDBOX,
            "decide_by_ms": self.trading.clock.now_ms() + 240_000,
            "limit_price": D(40_100) if is_entry else D(39_900),
            "decision_mid": D(40_000),
        }
        return NewIntent(key, **{**fields, **changes})

    def resting(self, **changes: Any) -> str:
        """Write an intent that rests below the market."""
        return self.intend(**{"limit_price": D(39_000), **changes})

    def hurry(self, create_s: float = SHORT_S) -> None:
        """Let creates be given up early, so that a test need not wait for the real time-out."""
        self.ccxt._lanes.create.session.timeout_s = create_s

    def fault(self, **fields: Any) -> None:
        """Let the next create be answered badly."""
        self.venue.script_create(**fields)

    def bring(self, asset: str, amount: Decimal | str) -> None:
        """Bring money from outside, and book it."""
        self.venue.hand.deposit(asset, amount)
        with self.stores.open() as work:
            deposit(work, self.broker.traits, asset, D(amount), f"brought {asset} at {self.now_ms}", self.now_ms)

    def posts(self) -> int:
        """Creates that left."""
        return int(self.venue.truth()["requests"].get(CREATE[self.venue.market_type], 0))

    def wait_arrived(self, n: int = 1) -> None:
        """Wait until so many creates have come in: one that we gave up may still be on its way on a busy machine."""
        wait_for(lambda: len(self.venue.truth()["received"]) >= n)

    def wait_taken(self) -> None:
        """Wait until the venue has dealt with the newest create."""
        wait_for(lambda: self.venue.truth()["received"][-1]["taken_ms"] is not None)

    def step(self, *seconds: float) -> None:
        """Take a turn after each of these waits."""
        for each in seconds:
            self.advance(each)
            self.execute()

    def until(self, client_order_id: str, *states: OrderState, within_s: float = 120, every_s: float = 1) -> float:
        """Take turns until an order is in one of these states; gives the seconds that passed."""
        began_s = self.clock.now_s()
        while self.state(client_order_id) not in states:
            waited_s = self.clock.now_s() - began_s
            assert waited_s < within_s, (
                f"{client_order_id} was {self.state(client_order_id)} for {waited_s} s, path {self.path(client_order_id)}"
            )
            self.step(every_s)
        return self.clock.now_s() - began_s

    def codes(self, client_order_id: str) -> dict[str, str]:
        """Code of each step of an order, by the state it led to; of several the last one."""
        with self.stores.open() as work:
            return {step.new.value: step.proof.code for step in work.orders.load_transitions(client_order_id)}

    def switches(self) -> list[Switch]:
        """Kill levels in force."""
        with self.stores.open() as work:
            return work.safety.load_switches(self.account)

    def run_executor(
        self, seconds: float, at: Mapping[float, Callable[[], object]] | None = None
    ) -> list[tuple[str, Mapping[str, object]]]:
        """Let the resident executor run for so long; things happen `at` seconds after its start. Gives what it told."""
        told: list[tuple[str, Mapping[str, object]]] = []
        listener = _Waker(self, seconds, dict(at or {}))
        helpers = Helpers(listener, tell=lambda event, facts: told.append((event, facts)))
        run_executor(self.trading, listener.stopped, helpers)
        return told


class _Waker:
    """Wakes nobody: time passes at once, until it is over."""

    def __init__(self, desk: WireDesk, seconds: float, events: dict[float, Callable[[], object]]) -> None:
        self.desk, self.events, self.stopped = desk, events, Event()
        self.began_s = desk.clock.now_s()
        self.seconds = seconds

    def wait(self, timeout_s: float) -> bool:
        self.desk.advance(max(timeout_s, 0.01))
        passed_s = self.desk.clock.now_s() - self.began_s
        due = [at_s for at_s in sorted(self.events) if at_s <= passed_s]
        for at_s in due:
            self.events.pop(at_s)()
        if passed_s >= self.seconds:
            self.stopped.set()
        return bool(due)


_names = count(1)


@contextmanager
def open_wire(database: str, market_type: str = "spot", **options: Any) -> Iterator[WireDesk]:
    """Serve a venue and open a desk on it, with an account and a venue name that no other desk of the database has.

    `options` as `serve_trading` takes them.
    """
    with serve_trading(market_type, start_s=START_S, speed=0.0, **options) as venue:
        desk = WireDesk(database, venue, f"-{next(_names)}")
        desk.open_books()
        try:
            yield desk
        finally:
            desk.stores.close()


def wait_for(what: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait, in real time, for something that another thread does."""
    until_s = monotonic() + timeout_s
    while not what():
        assert monotonic() < until_s, "it did not happen in time"
        sleep(0.005)


def judge(desk: WireDesk, *, unknown: int = 0) -> None:
    """Hold what every fault demands: no second order, no lost fill, book = ledger = venue, one clear code for every end.

    Parameters
    ----------
    unknown : int
        Orders of which nobody may know yet what became of them.
    """
    told = desk.venue.truth()
    rows = {row.client_order_id: row for row in _all_orders(desk)}
    _judge_creates(told, set(rows))
    _judge_states(desk, told, rows, unknown)
    _judge_money(desk, told)


def _all_orders(desk: WireDesk) -> list[Any]:
    ids = [each for (each,) in desk.select("select client_order_id from orders where account = %s", desk.account)]
    with desk.stores.open() as work:
        return list(work.orders.load_orders(ids).values())


def _judge_creates(told: Mapping[str, Any], ours: set[str]) -> None:
    posts = Counter(note["client_id"] for note in told["received"])
    assert {name: n for name, n in posts.items() if n > 1} == {}, "an order was sent twice"
    assert posts.keys() <= ours, "an order left without an intent"
    assert {name: times for name, times in told["accepted"].items() if len(times) > 1} == {}, "an order was taken twice"
    assert len(told["accepted"]) <= len(ours)


def _judge_states(desk: WireDesk, told: Mapping[str, Any], rows: Mapping[str, Any], unknown: int) -> None:
    at_venue = {order["client_id"]: order for order in told["orders"] if not order["is_foreign"]}
    in_doubt = {name for name, row in rows.items() if row.state in {S.UNKNOWN, S.SUBMITTING}}
    assert len(in_doubt) == unknown
    # Bybit has no word for what is left of an IOC: it is cancelled
    ended = {**ENDED, "EXPIRED": S.CANCELLED} if told["market_type"] == "linear" else ENDED
    for name, row in rows.items():
        order = at_venue.get(name)
        if name in in_doubt:
            continue
        allowed = NOT_THERE if order is None else ALIVE.get(order["status"]) or {ended[order["status"]]}
        assert row.state in allowed, f"{name} was {row.state}, at the venue {order and order['status']}; {desk.path(name)}"
        assert row.filled == (D(order["filled"]) if order else 0)
    codes = desk.select(
        "select t.client_order_id, t.to_state, t.code from order_transitions t join orders o using (client_order_id)"
        " where o.account = %s and t.to_state in ('UNKNOWN', 'REJECTED', 'NOT_FOUND')",
        desk.account,
    )
    assert [row for row in codes if not row[2]] == [], "an end without a code"


def _judge_money(desk: WireDesk, told: Mapping[str, Any]) -> None:
    trades = {(int(t["trade_id"]), t["side"].lower(), D(t["qty"]), D(t["price"]), D(t["fee"] or 0), t["fee_asset"]) for t in told["trades"]}
    booked = {
        (int(each[0].rpartition("-")[2], 16 if "-" in each[0] else 10), *each[1:])  # Bybit's UUIDs end with the number
        for each in desk.select(
            "select venue_trade_id, side, qty, price, coalesce(fee_amount, 0), fee_asset from fills where account = %s", desk.account
        )
    }
    assert booked == trades, f"fills and trades differ: booked alone {booked - trades}, traded alone {trades - booked}"
    with desk.stores.open() as work:
        balances = work.ledger.load_balances(desk.account)
    sums, held = Counter[str](), Counter[tuple[str, str]]()
    for key, amount in balances.items():
        sums[key.asset] += amount  # type: ignore[assignment]
        held[key.ledger_account.value, key.asset] += amount  # type: ignore[assignment]
    assert {asset: total for asset, total in sums.items() if total} == {}, "the ledger does not balance"
    wallet = {asset: D(each["total"]) for asset, each in told["balances"].items() if D(each["total"])}
    assert {asset: qty for (account, asset), qty in held.items() if account == "WALLET" and qty} == wallet
    positions = {name.removesuffix("USDT") + "/USDT:USDT": D(p["size"]) for name, p in told["positions"].items() if D(p["size"])}
    assert {asset: qty for (account, asset), qty in held.items() if account == "POSITION" and qty} == positions
