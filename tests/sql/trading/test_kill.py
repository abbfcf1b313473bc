"""The kill switch: it rises once, stops creates by either half, empties the venue, and comes down for a named person only."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from threading import Barrier, Event, Thread
from time import monotonic

import pytest

from regime_pipeline.adapters.kill_mirror_file import MirrorFile
from regime_pipeline.adapters.latch_file import LatchFile
from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.embedded import ensure_server, find_server, stop_server
from regime_pipeline.adapters.postgres.migrate import migrate
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.errors import CallerError, DatabaseError, KillSwitchActiveError
from regime_pipeline.execution.order_states import OrderState, VenueStatus
from regime_pipeline.ports import OrderSpec, OrderType, Stores
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import EVERYBODY, Level, Scope, Switch, Trigger
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.cancel_round import KillProgress
from regime_pipeline.services.trading.deliver_kill import deliver_kill, deliver_until_done
from regime_pipeline.services.trading.kill_levels import (
    Release,
    adopt_latch,
    clear_latch,
    lift_level,
    load_levels,
    raise_level,
    release,
    write_raise,
)
from regime_pipeline.services.trading.kill_mirror import refresh_mirror
from regime_pipeline.services.trading.switch_kill import KillTools, kill
from tests.fakes_trading import lost
from tests.fixtures_postgres import open_home
from tests.trading_desk import ACCOUNT, STRATEGY, SYMBOL, Desk

MINE = Scope(ACCOUNT)


class KillDesk(Desk):
    """A desk with a latch in a file, and short words for levels."""

    def __init__(self, url: str, folder: Path) -> None:
        self.file = LatchFile(folder / "state" / "kill.latch")
        self.mirror = MirrorFile(folder / "state" / "kill_mirror.json")
        super().__init__(url, latch=self.file)

    def raise_now(self, trigger: Trigger, **changes: object) -> bool:
        with self.stores.open() as work:
            return raise_level(work, self.trading, trigger, "seen", **changes)  # type: ignore[arg-type]

    def by_hand(self, level: Level, scope: Scope = MINE) -> Switch:
        return Switch(scope, level, "manual", "ada", "looks wrong", self.now_ms // 1000)

    def release_now(self, scope: Scope = MINE, *, reason: str = "checked", mode: Mode = Mode.PAPER, second: str = "") -> list[Switch]:
        with self.stores.open() as work:
            released = release(work, self.file, Release(scope, "ada", reason, second), mode=mode, now_s=self.now_ms // 1000)
        clear_latch(self.file, scope)
        return released

    def levels(self) -> list[tuple[str, Level]]:
        with self.stores.open() as work:
            return [(switch.source, switch.level) for switch in work.safety.load_switches(ACCOUNT)]

    def pass_cleanly(self, status: str = "ok", age_s: int = 10) -> None:
        with open_connection(self.url) as conn:
            conn.execute(
                "insert into reconciliation_runs (account, kind, status, began_at, ended_at)"
                " values (%s, 'full', %s, to_timestamp(%s), to_timestamp(%s))",
                (ACCOUNT, status, self.now_ms // 1000 - age_s - 1, self.now_ms // 1000 - age_s),
            )

    def open_order(self, leg: Leg = Leg.ENTRY, **changes: object) -> str:
        order = self.intend(leg, **changes)
        self.execute()
        assert self.state(order) is OrderState.OPEN
        return order

    def is_open(self, client_order_id: str) -> bool:
        return self.fake.orders[client_order_id].status is VenueStatus.OPEN


@pytest.fixture
def desk(database: str, tmp_path: Path) -> KillDesk:
    return KillDesk(database, tmp_path)


def test_a_trigger_raises_its_level_once_with_a_note_and_a_line_in_the_latch(desk: KillDesk) -> None:
    assert desk.raise_now(Trigger.DRAWDOWN_KILL)
    assert not desk.raise_now(Trigger.DRAWDOWN_KILL)
    assert desk.levels() == [("drawdown_kill", Level.HARD_STOP)]
    assert [switch.source for switch in desk.file.read()] == ["drawdown_kill"]
    assert desk.select("select o.dedupe_key = k.transition_id from outbox as o, kill_switch as k where o.kind = 'KILL'") == [(True,)]


def test_a_trigger_never_has_less_than_its_own_level(desk: KillDesk) -> None:
    with pytest.raises(CallerError, match="its own is L3"):
        desk.raise_now(Trigger.DRAWDOWN_KILL, level=Level.REDUCE_ONLY)
    assert desk.raise_now(Trigger.RECON_SMALL, level=Level.REDUCE_ONLY)
    assert desk.levels() == [("recon_small", Level.REDUCE_ONLY)]


def test_two_evaluators_at_once_write_one_row(desk: KillDesk) -> None:
    barrier, written = Barrier(2), list[bool]()

    def evaluate() -> None:
        stores = PostgresStores(desk.url)
        with stores.open() as work:
            barrier.wait()
            written.append(raise_level(work, desk.trading, Trigger.UNKNOWN_ORDER, "seen"))
        stores.close()

    threads = [Thread(target=evaluate) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == [False, True]
    assert desk.select("select count(*) from kill_switch") == [(1,)]
    assert desk.select("select count(*) from outbox where kind = 'KILL'") == [(1,)]


def test_two_sources_at_once_both_count_and_are_lifted_one_by_one(desk: KillDesk) -> None:
    barrier = Barrier(2)

    def evaluate(trigger: Trigger) -> None:
        stores = PostgresStores(desk.url)
        with stores.open() as work:
            barrier.wait()
            raise_level(work, desk.trading, trigger, "seen")
        stores.close()

    threads = [Thread(target=evaluate, args=(trigger,)) for trigger in (Trigger.BREAKER, Trigger.STALE_DATA)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {source for source, _ in desk.levels()} == {"breaker", "stale_data"}
    with desk.stores.open() as work:
        assert lift_level(work, desk.trading, Trigger.BREAKER, "two clean evaluations")
        assert not lift_level(work, desk.trading, Trigger.CLOCK, "never raised")
    assert desk.levels() == [("stale_data", Level.ENTRIES_OFF)]
    assert not desk.file.path.exists()


def test_a_latched_level_is_not_lifted_by_its_source(desk: KillDesk) -> None:
    desk.raise_now(Trigger.UNKNOWN_ORDER)
    with desk.stores.open() as work, pytest.raises(KillSwitchActiveError, match="regime release"):
        lift_level(work, desk.trading, Trigger.UNKNOWN_ORDER, "gone")


def test_a_roll_back_takes_the_row_and_leaves_the_latch(desk: KillDesk) -> None:
    def fail() -> None:
        with desk.stores.open() as work:
            raise_level(work, desk.trading, Trigger.UNKNOWN_ORDER, "seen")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert desk.levels() == []
    assert [switch.level for switch in desk.file.read()] == [Level.REDUCE_ONLY]


@pytest.mark.parametrize("half", ["file", "table", "unreadable"])
def test_either_half_alone_stops_creates(desk: KillDesk, half: str) -> None:
    order = desk.intend()
    if half == "file":
        desk.file.change(lambda _levels: (desk.by_hand(Level.HARD_STOP),))
    if half == "table":
        desk.raise_now(Trigger.DRAWDOWN_KILL)
        desk.file.path.unlink()
    if half == "unreadable":
        desk.file.path.parent.mkdir()
        desk.file.path.write_text("{")
    with desk.stores.open() as work:
        assert max(switch.level for switch in load_levels(work, desk.file, ACCOUNT)) is Level.HARD_STOP
    desk.execute()
    assert desk.fake.creates == []
    assert desk.state(order) is OrderState.CANCELLED


def test_a_kill_between_commit_and_wire_lets_no_create_leave(desk: KillDesk) -> None:
    order = desk.intend()

    def kill_at(point: str) -> None:
        if point == "before_submitting_commit":  # past the level in the table; the check before the wire is still to come
            kill(KillTools(desk.file, desk.mirror, None), desk.by_hand(Level.HARD_STOP, EVERYBODY))

    desk.trading = replace(desk.trading, at=kill_at)
    desk.execute()
    assert desk.fake.creates == []
    assert desk.path(order) == [OrderState.INTENT, OrderState.SUBMITTING, OrderState.REJECTED]


def test_at_l2_entries_go_and_exits_stay(desk: KillDesk) -> None:
    entry, leave = desk.open_order(), desk.open_order(Leg.EXIT, symbol="UNI/USDT")
    desk.raise_now(Trigger.RECON_LARGE)
    assert deliver_until_done(desk.trading, 30).is_done
    assert (desk.is_open(entry), desk.is_open(leave)) == (False, True)
    assert desk.select("select done_at is not null from outbox where kind = 'KILL'") == [(True,)]


def test_at_l3_all_but_stops_go_those_of_nobody_too(desk: KillDesk) -> None:
    leave, stop = desk.open_order(Leg.EXIT), desk.open_order(Leg.SL)
    strange = desk.fake.place(an_order("ff" * 16))
    protecting = desk.fake.place(an_order("ee" * 16, Side.SELL, OrderType.STOP))
    desk.raise_now(Trigger.DRAWDOWN_KILL)
    delivery = deliver_until_done(desk.trading, 30)
    assert delivery.is_done
    gone = {order for order in desk.fake.orders if not desk.is_open(order)}
    assert gone == {leave, strange.client_order_id}
    assert {stop, protecting.client_order_id} == desk.fake.orders.keys() - gone


def test_in_a_shared_account_only_ours_go(desk: KillDesk) -> None:
    ours = desk.open_order()
    strange = desk.fake.place(an_order("ff" * 16))
    desk.raise_now(Trigger.DRAWDOWN_KILL)
    deliver_kill(desk.trading, is_dedicated=False)
    assert (desk.is_open(ours), desk.is_open(str(strange.client_order_id))) == (False, True)


def test_a_level_for_one_symbol_leaves_the_others_alone(desk: KillDesk) -> None:
    ours, other = desk.open_order(), desk.open_order(symbol="UNI/USDT")
    desk.raise_now(Trigger.RECON_LARGE, scope=Scope(ACCOUNT, symbol=SYMBOL))
    assert deliver_until_done(desk.trading, 30).is_done
    assert (desk.is_open(ours), desk.is_open(other)) == (False, True)


def test_what_is_placed_between_two_listings_is_caught(desk: KillDesk) -> None:
    desk.raise_now(Trigger.DRAWDOWN_KILL)
    progress = KillProgress()
    assert deliver_kill(desk.trading, progress).round is not None
    desk.fake.place(an_order("ff" * 16))
    desk.advance(2)
    second = deliver_kill(desk.trading, progress)
    assert not second.is_done
    assert second.round is not None
    assert second.round.asked == ("ff" * 16,)
    desk.advance(2)
    assert not deliver_kill(desk.trading, progress).is_done
    desk.advance(2)
    assert deliver_kill(desk.trading, progress).is_done


def test_an_unknown_order_is_cancelled_by_our_id_and_stays_unknown(desk: KillDesk) -> None:
    order = desk.intend()
    desk.fake.create_script.append(lost(is_done=True))
    desk.fake.hidden.add(order)
    desk.execute()
    assert desk.state(order) is OrderState.UNKNOWN
    desk.raise_now(Trigger.DRAWDOWN_KILL)
    deliver_kill(desk.trading)
    assert desk.fake.cancels == [order]
    assert not desk.is_open(order)
    assert desk.state(order) is OrderState.UNKNOWN


def test_after_a_minute_it_is_partial_and_a_page(desk: KillDesk) -> None:
    desk.open_order()
    desk.fake.holds_cancels = True
    desk.raise_now(Trigger.DRAWDOWN_KILL)
    delivery = deliver_until_done(desk.trading, 61)
    assert (delivery.is_done, delivery.is_partial) == (False, True)
    assert "KILL_PARTIAL" in desk.incidents()
    assert desk.select("select last_error, done_at from outbox where kind = 'KILL'") == [("1 orders are still open", None)]
    desk.fake.holds_cancels = False
    assert deliver_until_done(desk.trading, 61).is_done
    assert "KILL_PARTIAL" not in desk.incidents()


def test_a_listing_that_fails_is_not_an_empty_one(desk: KillDesk) -> None:
    order = desk.open_order()
    desk.fake.failing.add("fetch_open_orders")
    desk.raise_now(Trigger.DRAWDOWN_KILL)
    delivery = deliver_until_done(desk.trading, 10)
    assert not delivery.is_done
    assert not desk.is_open(order)  # by what we know of it ourselves


def test_without_a_level_nothing_is_asked_of_the_venue(desk: KillDesk) -> None:
    desk.open_order()
    desk.fake.reads.clear()
    assert deliver_kill(desk.trading).is_done
    assert desk.fake.reads == []


def test_a_delivered_level_is_looked_at_again_each_minute(desk: KillDesk) -> None:
    desk.raise_now(Trigger.DRAWDOWN_KILL)
    progress = KillProgress()
    for _ in range(3):
        deliver_kill(desk.trading, progress)
        desk.advance(2)
    assert progress.is_done
    strange = desk.fake.place(an_order("ff" * 16))
    desk.advance(60)
    deliver_kill(desk.trading, progress)
    assert not desk.is_open(str(strange.client_order_id))


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        ("no_pass", "no clean full reconciliation"),
        ("old_pass", "no clean full reconciliation"),
        ("findings", "no clean full reconciliation"),
        ("unknown", "1 orders are UNKNOWN"),
        ("no_reason", "no reason was given"),
        ("same_day", "next UTC day"),
        ("live", "second person"),
    ],
)
def test_a_release_is_refused_and_nothing_changes(desk: KillDesk, prepare: str, words: str) -> None:
    if prepare == "unknown":
        order = desk.intend()
        desk.fake.create_script.append(lost(is_done=True))
        desk.fake.hidden.add(order)
        desk.execute()
    desk.raise_now(Trigger.DAILY_LOSS if prepare == "same_day" else Trigger.DRAWDOWN_KILL)
    if prepare != "no_pass":
        desk.pass_cleanly("findings" if prepare == "findings" else "ok", 301 if prepare == "old_pass" else 10)
    before = desk.levels(), desk.file.read()
    with pytest.raises(KillSwitchActiveError, match=words):
        desk.release_now(
            reason=" " if prepare == "no_reason" else "checked",
            mode=Mode.LIVE if prepare == "live" else Mode.PAPER,
            second="ada" if prepare == "live" else "",
        )
    assert (desk.levels(), desk.file.read()) == before


def test_a_release_clears_table_and_file_together_and_is_recorded(desk: KillDesk) -> None:
    desk.raise_now(Trigger.DRAWDOWN_KILL)
    with desk.stores.open() as work:
        write_raise(work, desk.by_hand(Level.PROCESS_STOP))
    desk.pass_cleanly()
    assert len(desk.release_now(mode=Mode.LIVE, second="grace")) == 2
    assert desk.levels() == []
    assert not desk.file.path.exists()
    rows = desk.select("select level, old_level, source, actor, reason, second_actor from kill_switch order by seq offset 2")
    assert rows == [(0, 3, "drawdown_kill", "ada", "checked", "grace"), (0, 4, "manual", "ada", "checked", "grace")]


def test_the_same_trigger_may_rise_again_after_a_release(desk: KillDesk) -> None:
    desk.raise_now(Trigger.DRAWDOWN_KILL)
    desk.pass_cleanly()
    desk.release_now()
    assert desk.raise_now(Trigger.DRAWDOWN_KILL)
    assert desk.levels() == [("drawdown_kill", Level.HARD_STOP)]


def test_no_restart_and_no_new_day_lowers_a_level(desk: KillDesk) -> None:
    desk.raise_now(Trigger.DRAWDOWN_KILL)
    desk.advance(3 * 86_400)
    again = KillDesk(desk.url, desk.file.path.parent.parent)
    assert again.levels() == [("drawdown_kill", Level.HARD_STOP)]
    assert [switch.level for switch in again.file.read()] == [Level.HARD_STOP]


def test_a_level_for_everybody_tells_every_account(desk: KillDesk) -> None:
    with desk.stores.open() as work:
        assert write_raise(work, desk.by_hand(Level.HARD_STOP, EVERYBODY), (ACCOUNT, "paper-other"))
    assert desk.select("select account from outbox where kind = 'KILL' order by 1") == [(ACCOUNT,), ("paper-other",)]
    with desk.stores.open() as work:
        assert work.safety.load_switches("anybody")


def test_a_kill_by_hand_writes_file_and_table_and_empties_the_venue(desk: KillDesk) -> None:
    orders = [desk.open_order(symbol=f"T{n}/USDT") for n in range(5)]
    refresh_mirror(desk.trading, desk.mirror)
    wanted = desk.by_hand(Level.HARD_STOP, EVERYBODY)
    report = kill(tools_of(desk), wanted)
    assert report.is_complete
    assert (report.venues[0].asked, report.venues[0].mirror_age_s) == (5, 0)
    assert not any(desk.is_open(order) for order in orders)
    assert desk.levels() == [("manual", Level.HARD_STOP)]
    assert desk.file.read() == (wanted,)


def test_a_database_that_hangs_costs_two_seconds(desk: KillDesk) -> None:
    order = desk.open_order()
    refresh_mirror(desk.trading, desk.mirror)
    never = Event()

    def hang() -> Stores:
        never.wait(20)
        return desk.stores

    began_s = monotonic()
    report = kill(replace(tools_of(desk), open_stores=hang), desk.by_hand(Level.HARD_STOP))
    assert monotonic() - began_s < 3
    assert (report.table_problem, report.is_latched, report.is_complete) == ("no answer within 2 s", True, False)
    assert not desk.is_open(order)
    never.set()


def test_a_full_disk_stops_neither_the_table_nor_the_cancels(desk: KillDesk) -> None:
    order = desk.open_order()
    desk.file.path.parent.write_text("no folder can be made here")
    report = kill(tools_of(desk), desk.by_hand(Level.HARD_STOP))
    assert "could not be written" in report.file_problem
    assert (report.is_latched, report.venues[0].is_done) == (True, True)
    assert not desk.is_open(order)
    assert desk.levels() == [("manual", Level.HARD_STOP)]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with open_home() as opened:
        yield opened


def test_with_postgres_down_the_mirror_and_the_venue_are_enough(home: Path, tmp_path: Path) -> None:
    address = ensure_server(home)
    with open_connection(address.url("postgres")) as conn:
        migrate(conn)
    desk = KillDesk(address.url("postgres"), tmp_path)
    orders = [desk.open_order(symbol=f"T{n}/USDT") for n in range(3)]
    stop = desk.open_order(Leg.SL)
    refresh_mirror(desk.trading, desk.mirror)
    desk.stores.close()
    stop_server(home)

    def find() -> Stores:
        if (running := find_server(home)) is None:
            raise DatabaseError("not running")
        return PostgresStores(running.url("postgres"))

    desk.advance(30)
    report = kill(replace(tools_of(desk), open_stores=find), desk.by_hand(Level.HARD_STOP, EVERYBODY))
    assert (report.file_problem, report.table_problem) == ("", "not running")
    assert report.venues[0].is_done
    assert report.venues[0].mirror_age_s == 30
    assert [desk.is_open(order) for order in orders] == [False] * 3
    assert desk.is_open(stop)
    # the executor goes on by latch and mirror, and what is placed meanwhile is taken too
    strange = desk.fake.place(an_order("ff" * 16))
    delivery = deliver_kill(desk.trading, mirror=desk.mirror)
    assert (delivery.level, delivery.has_database) == (Level.HARD_STOP, False)
    assert not desk.is_open(str(strange.client_order_id))
    # once the database is back, it learns what the latch has
    ensure_server(home)
    with desk.stores.open() as work:
        assert [switch.source for switch in adopt_latch(work, desk.file.read())] == ["manual"]
        assert adopt_latch(work, desk.file.read()) == []
    assert desk.levels() == [("manual", Level.HARD_STOP)]


def test_what_was_released_is_not_learnt_from_an_old_latch(desk: KillDesk) -> None:
    desk.file.change(lambda _levels: (desk.by_hand(Level.HARD_STOP),))
    desk.pass_cleanly()
    left = desk.file.path.read_text()
    desk.release_now()
    desk.file.path.write_text(left)  # a crash between the commit and the file
    with desk.stores.open() as work:
        assert adopt_latch(work, desk.file.read()) == []
        assert load_levels(work, desk.file, ACCOUNT)  # still killed, by the file alone
    assert desk.release_now()
    assert not desk.file.path.exists()


def test_an_unreadable_latch_is_released_with_everybody(desk: KillDesk) -> None:
    desk.file.path.parent.mkdir()
    desk.file.path.write_text("{")
    desk.pass_cleanly()
    assert [switch.source for switch in desk.release_now(EVERYBODY)] == ["latch_unreadable"]
    assert not desk.file.path.exists()


def test_a_strategy_is_killed_alone(desk: KillDesk) -> None:
    desk.file.change(lambda _levels: (desk.by_hand(Level.HARD_STOP, Scope(ACCOUNT, STRATEGY)),))
    killed, other = desk.intend(), desk.intend(strategy="onchain_crypto-4h", symbol="UNI/USDT")
    desk.execute()
    assert (desk.state(killed), desk.state(other)) == (OrderState.CANCELLED, OrderState.OPEN)


def tools_of(desk: KillDesk) -> KillTools:
    """What a kill may use here."""
    return KillTools(
        desk.file,
        desk.mirror,
        lambda: desk.stores,
        (ACCOUNT,),
        {ACCOUNT: lambda: nullcontext(desk.fake)},
        monotonic=desk.clock.now_s,
        sleep=desk.clock.advance,
    )


def an_order(client_order_id: str, side: Side = Side.BUY, kind: OrderType = OrderType.LIMIT) -> OrderSpec:
    """An order that somebody else placed in our account."""
    stop = Decimal(90) if kind is OrderType.STOP else None
    return OrderSpec(client_order_id, SYMBOL, side, kind, Decimal(1), Decimal(100), stop)
