"""The resident loop on a virtual clock: what it does when, and what stops it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from threading import Event
from typing import Any

import psycopg
import pytest

from regime_pipeline.adapters.postgres.order_listener import PostgresOrderListener
from regime_pipeline.errors import DatabaseError
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.ports import Ok, OrderSpec, OrderType, Read
from regime_pipeline.ports.kill_mirror import MirroredAccount
from regime_pipeline.risk.kill_switch import Level, Scope, Switch
from regime_pipeline.risk.purpose import Side
from regime_pipeline.services.trading.open_account import open_account
from regime_pipeline.services.trading.run_executor import Helpers, run_executor
from tests.sql.trading.test_recover import ListingBroker
from tests.trading_desk import ACCOUNT, SYMBOL, Desk

D = Decimal


class FakeListener:
    """Hears what a test says at an instant, and lets time pass until then."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.plan = desk, dict[float, Callable[[], object]]()
        self.start_s = desk.clock.now_s()

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        self.plan[seconds] = action

    def wait(self, timeout_s: float) -> bool:
        self.desk.advance(max(timeout_s, 0.01))
        due = [at for at in sorted(self.plan) if self.start_s + at <= self.desk.clock.now_s()]
        for at in due:
            self.plan.pop(at)()
        return bool(due)


class FakeMirror:
    def __init__(self) -> None:
        self.saved: list[MirroredAccount] = []
        self.is_full = False

    def save(self, account: MirroredAccount) -> None:
        if self.is_full:
            raise OSError(28, "no space left")
        self.saved.append(account)

    def load(self) -> tuple[MirroredAccount, ...]:
        return tuple(self.saved[-1:])


class Floor:
    """A desk with an executor: what a test plans happens while it runs."""

    def __init__(self, url: str) -> None:
        first = Desk(url)
        self.desk = Desk(url, ListingBroker(first.clock), first.clock)
        open_account(self.desk.trading)
        self.listener, self.mirror, self.told = FakeListener(self.desk), FakeMirror(), list[tuple[str, Mapping[str, object]]]()
        self.stopped = Event()

    def run(self, seconds: float, **changes: Any) -> str:
        self.listener.at(seconds, self.stopped.set)
        helpers = Helpers(self.listener, self.mirror, None, lambda event, facts: self.told.append((event, facts)))
        return run_executor(replace(self.desk.trading, **changes), self.stopped, helpers)

    def events(self, name: str) -> list[Mapping[str, object]]:
        return [facts for event, facts in self.told if event == name]

    def levels(self) -> list[str]:
        with self.desk.stores.open() as work:
            return sorted(f"{switch.source} L{switch.level.value}" for switch in work.safety.load_switches(ACCOUNT))


@pytest.fixture
def floor(database: str) -> Floor:
    return Floor(database)


def test_it_recovers_then_sends_what_is_told_and_ends_when_asked(floor: Floor) -> None:
    sent: list[str] = []
    floor.listener.at(20, lambda: sent.append(floor.desk.intend(decide_by_ms=floor.desk.now_ms + 200_000)))
    assert floor.run(30) == "told to stop"
    assert [event for event, _ in floor.told][:1] == ["ready"]
    assert floor.desk.state(sent[0]) is OrderState.OPEN
    assert floor.levels() == []
    assert floor.told[-1] == ("ended", {"why": "told to stop"})


def test_an_intent_is_sent_at_the_commit_that_makes_it(floor: Floor) -> None:
    at_s: list[float] = []

    def decide() -> None:
        floor.desk.intend(decide_by_ms=floor.desk.now_ms + 200_000)
        at_s.append(floor.desk.now_ms)

    floor.listener.at(22.5, decide)
    floor.run(30)
    ((_, sent_at_ms, _),) = floor.desk.fake.creates
    assert sent_at_ms == at_s[0]


def test_it_beats_each_fifteen_seconds_and_says_that_it_is_ready(floor: Floor) -> None:
    floor.run(100)
    with floor.desk.stores.open() as work:
        (beat,) = work.recon.load_beats()
    assert (beat.process, beat.account) == ("executor", ACCOUNT)
    assert (beat.detail["state"], beat.detail["is_ready"]) == ("ended", True)
    assert floor.desk.now_ms - beat.at_ms < 1000


def test_it_beats_before_it_recovers_so_that_nobody_stands_in_meanwhile(floor: Floor) -> None:
    seen: list[bool] = []

    def look(point: str) -> None:
        if point == "recovery_step":
            with floor.desk.stores.open() as work:
                seen.extend(bool(beat.detail["is_ready"]) for beat in work.recon.load_beats())

    floor.run(5, at=look)
    assert seen[0] is False


def test_duties_keep_their_periods(floor: Floor) -> None:
    floor.run(615)
    rows = floor.desk.select("select kind, count(*) from reconciliation_runs group by kind order by kind")
    counted = dict(rows)
    assert counted["startup"] == 1
    assert counted["full"] == 1 + 2  # within the recovery, after 300 s and after 600 s
    assert counted["orders"] == 1 + 10
    assert len(floor.mirror.saved) == 11


def test_a_stop_is_raised_within_five_seconds_and_sent(floor: Floor) -> None:
    from tests.booked import Books

    def enter() -> None:
        action_id = Books(floor.desk.url).action("entry", 11)
        entry.append(floor.desk.intend(action_id=action_id, decide_by_ms=floor.desk.now_ms + 200_000))

    entry: list[str] = []
    floor.listener.at(16, enter)
    floor.listener.at(18, lambda: floor.desk.fake.fill(entry[0], "1"))
    floor.listener.at(30, lambda: setattr(floor.desk.fake, "mid", D(90)))
    floor.listener.at(30.001, lambda: setattr(floor.desk.fake, "fills_at_once", True))
    floor.run(45)
    ((spec, sent_at_ms, _),) = [each for each in floor.desk.fake.creates if each[0].side is Side.SELL]
    assert spec.qty == D("0.999")
    assert sent_at_ms / 1000 - floor.listener.start_s <= 30 + 5.1
    assert floor.desk.state(spec.client_order_id) is OrderState.FILLED


def test_a_step_of_the_recovery_that_fails_is_tried_again(floor: Floor) -> None:
    floor.desk.fake.failing = {"fetch_open_orders"}
    floor.listener.at(20, lambda: floor.desk.fake.failing.clear())
    floor.run(60)
    assert next(event for event, _ in floor.told if event.endswith("ready")) == "not_ready"
    assert floor.events("ready")
    assert floor.levels() == []


def test_a_clock_that_runs_away_stops_entries_until_two_probes_agree(floor: Floor) -> None:
    def drift(by_ms: int) -> Callable[[], object]:
        return lambda: setattr(floor.desk.fake, "ahead_ms", by_ms)

    class Drifting(ListingBroker):
        ahead_ms = 0

        def fetch_time_ms(self) -> Read[int]:
            return Ok(round(self.clock.now_s() * 1000) + self.ahead_ms)

    floor.desk.broker = Drifting(floor.desk.clock)
    seen: list[list[str]] = []
    floor.listener.at(40, drift(600))
    floor.listener.at(75, lambda: seen.append(floor.levels()))
    floor.listener.at(76, drift(0))
    floor.listener.at(120, lambda: seen.append(floor.levels()))
    floor.run(170, broker=floor.desk.broker)
    assert seen == [["clock L1"], ["clock L1"]]
    assert floor.levels() == []


def test_a_level_is_delivered_to_the_venue_within_a_second(floor: Floor) -> None:
    switch = Switch(Scope(ACCOUNT), Level.HARD_STOP, "manual", "ann", "looks wrong", floor.desk.now_ms // 1000)
    floor.desk.fake.place(OrderSpec("a" * 32, SYMBOL, Side.BUY, OrderType.LIMIT, D(1), D(90)))
    floor.listener.at(40, lambda: setattr(floor.desk.latch, "switches", (switch,)))
    floor.listener.at(42, lambda: cancelled.append(list(floor.desk.fake.cancels)))
    cancelled: list[list[str]] = []
    floor.run(45)
    assert cancelled[0] == ["a" * 32]


def test_a_level_that_cancels_nothing_leaves_no_note_behind(floor: Floor) -> None:
    floor.run(30)  # the recovery raised L1 and lifted it
    assert floor.desk.select("select kind, done_at is null from outbox") == [("KILL", False)]


def test_l4_ends_the_process(floor: Floor) -> None:
    switch = Switch(Scope(ACCOUNT), Level.PROCESS_STOP, "invariant_broken", "executor", "no", floor.desk.now_ms // 1000)
    floor.listener.at(30, lambda: setattr(floor.desk.latch, "switches", (switch,)))
    assert "L4" in floor.run(3600)
    assert floor.desk.clock.now_s() - floor.listener.start_s < 60


def test_a_full_disk_under_the_mirror_stops_nothing(floor: Floor) -> None:
    floor.mirror.is_full = True
    floor.run(30)
    assert any(facts["duty"] == "mirror" for facts in floor.events("failed"))
    assert floor.events("ready")


def test_a_database_that_goes_away_is_waited_for_and_recovered_from(floor: Floor) -> None:
    class Cut:
        """Stores of a database that is away for a while."""

        def __init__(self) -> None:
            self.is_away = False

        def open(self) -> Any:
            if self.is_away:
                raise DatabaseError("away")
            return floor.desk.stores.open()

    stores = Cut()
    sent: list[str] = []
    floor.listener.at(30, lambda: setattr(stores, "is_away", True))
    floor.listener.at(80, lambda: sent.append(floor.desk.intend(decide_by_ms=floor.desk.now_ms + 200_000)))
    sleeps = {"n": 0}

    def sleep(seconds: float) -> None:
        floor.desk.advance(seconds)
        sleeps["n"] += 1
        if sleeps["n"] > 12:
            stores.is_away = False

    floor.run(90, stores=stores, sleep=sleep)
    assert len(floor.events("outage")) >= 3
    assert len(floor.events("ready")) == 2
    assert floor.desk.state(sent[0]) is OrderState.OPEN
    assert len(floor.desk.fake.creates) == 1


def test_a_difference_is_read_a_second_time_soon(floor: Floor) -> None:
    floor.listener.at(100, lambda: floor.desk.fake.balances.__setitem__("USDT", D(99_000)))
    floor.run(325)
    passes = floor.events("pass")
    assert [facts["status"] for facts in passes] == ["findings", "findings"]
    assert floor.levels() == ["recon_medium L1"]


def test_the_database_tells_an_intent_at_its_commit(database: str) -> None:
    desk = Desk(database)
    listener = PostgresOrderListener(database, ACCOUNT)
    assert not listener.wait(0)
    desk.intend()
    assert listener.wait(5)
    assert not listener.wait(0)
    other = PostgresOrderListener(database, "somebody-else")
    other.wait(0)
    desk.intend(symbol="ETH/USDT")
    assert not other.wait(0.2)
    for each in (listener, other):
        each.close()


def test_a_wait_that_is_cut_off_says_so_and_listens_again(database: str) -> None:
    desk = Desk(database)
    listener = PostgresOrderListener(database, ACCOUNT)
    listener.wait(0)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen%' and pid <> pg_backend_pid()")
    with pytest.raises(DatabaseError, match="cut off"):
        listener.wait(2)
    listener.wait(0)
    desk.intend()
    assert listener.wait(5)
    listener.close()
