"""X41 to X44: ticks doubled, repeated, late, stuck, and without the daemon that wakes them. Tables decide; whoever wakes only wakes."""

import json
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.types import DaemonHeartbeat

import sensors.regime_bar as sensor_module
from jobs.pm_tick import pm_tick
from regime_pipeline.adapters.postgres.order_store import TAKEOVER_S
from regime_pipeline.definitions import build_defs
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.policies import TIMEFRAME_TAG
from regime_pipeline.orchestration.resources import Desk, Market
from regime_pipeline.services.judge_health import DAEMON_SILENT_S, DAEMON_TRADING_S, judge_daemons
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.open_account import open_account
from regime_pipeline.services.trading.run_pm_tick import run_pm_tick
from sensors.regime_bar import regime_bar
from tests.fakes_trading import FakeBroker
from tests.fixtures_orchestration import instance, regime_env
from tests.killing import run as run_process
from tests.safety_desk import DAY_S
from tests.sizes import TICK_ROUNDS
from tests.tick_desk import ACCOUNT, CLOSE_S, HOUR_S, STRATEGY, TickDesk, desk
from tests.ticking import Racers, keep_fresh, tick_and_die
from tests.trading_desk import Crash

__all__ = ["desk", "instance", "regime_env"]
Cells = Callable[..., None]
H1 = Timeframe.H1
HELD_MS = 100
BLOCKED_S = 120
KILLED = -signal.SIGKILL


# ---- X41 ----------------------------------------------------------------------------------------------------------------------------


def a_round(desk: TickDesk, n: int) -> FakeBroker:
    """A new bar to buy on, for an account of its own at a venue of its own: no limit of an account ends the series of rounds."""
    account = f"race-{n}"
    broker = FakeBroker(desk.clock, replace(desk.fake.traits, account=account))
    desk.trading = replace(desk.trading, broker=broker, terms=replace(desk.trading.terms, account=account))
    open_account(desk.trading)
    close_s = desk.to_next_bar()
    desk.execute(
        "insert into reconciliation_runs (account, kind, status, began_at, ended_at)"
        " select %s, kind, 'ok', to_timestamp(%s), to_timestamp(%s) from unnest(array['orders', 'full']) as kinds (kind)",
        account, desk.now_s, desk.now_s,
    )  # fmt: skip
    keep_fresh(desk)
    desk.bar("AAVE", close_s - HOUR_S, state="S1")
    desk.buy_signal("AAVE", close_s)
    desk.regime(close_s)
    return broker


@pytest.mark.fault_row("X41")
@pytest.mark.timeout(60 + 5 * TICK_ROUNDS)
def test_x41_three_ticks_at_once_have_the_effect_of_one(desk: TickDesk, cells: Cells) -> None:
    """Each of three has connections of its own; one decides and orders, the others hear at once that somebody is at it, or adopt."""
    racers, passed, n_orders = Racers(desk, 3), 0, 0
    held_ms: list[float] = []
    for n in range(TICK_ROUNDS):
        broker = a_round(desk, n)
        done = racers.race(desk.trading)
        outcomes = sorted(each.summary.outcome for each in done)
        held_ms += [each.took_ms for each in done if each.summary.outcome == "LEASE_HELD"]
        ((decisions, intents),) = desk.execute(
            "select (select count(*) from decisions where account = %(a)s), (select count(*) from order_intents where account = %(a)s)"
            .replace("%(a)s", f"'race-{n}'"),
        )  # fmt: skip
        sent = [spec.client_order_id for spec, _, _ in broker.creates]
        assert len(sent) == len(set(sent)) == intents, (n, outcomes, sent)
        n_orders += intents
        passed += outcomes.count("decided") == 1 == decisions and set(outcomes) <= {"decided", "adopted", "LEASE_HELD"}
    racers.close()
    print(f"{n_orders} orders, LEASE_HELD {len(held_ms)} times, median {statistics.median(held_ms):.0f} ms, longest {max(held_ms):.0f} ms")
    assert n_orders >= TICK_ROUNDS / 2
    assert held_ms
    assert statistics.median(held_ms) <= HELD_MS
    cells(run=TICK_ROUNDS, passed=passed)


@pytest.mark.fault_row("X41")
def test_x41_whoever_comes_second_hears_within_a_tenth_of_a_second(desk: TickDesk, cells: Cells) -> None:
    """Also in the moment before the first one's commit: its lease's row is locked last. The median, since others use the machine too."""
    second, took_ms = TickDesk(desk.url, Path(desk.latch.path).parent), []
    second.clock.advance(70)
    outcomes: list[str] = []

    def look(point: str) -> None:
        if point != "before_intent_commit":
            return
        for _ in range(20):
            began_s = time.perf_counter()
            outcomes.append(run_pm_tick(second.trading, second.universe, H1).outcome)
            took_ms.append(1000 * (time.perf_counter() - began_s))

    desk.buy_signal("AAVE")
    assert run_pm_tick(replace(desk.trading, at=look), desk.universe, H1).outcome == "decided"
    assert set(outcomes) == {"LEASE_HELD"}
    assert statistics.median(took_ms) <= HELD_MS
    assert (desk.count("decisions"), desk.count("order_intents")) == (1, 1)
    cells(run=20, passed=len(outcomes))


# ---- X42 ----------------------------------------------------------------------------------------------------------------------------

_DESKS: dict[str, TickDesk] = {}


class StandingDesk(Desk):
    """Hands out the order path of a test's own desk."""

    name: str

    def open(self) -> Trading:
        return _DESKS[self.name].trading


@pytest.fixture
def world(regime_env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TickDesk]:
    """A desk at noon whose settings every run of this process reads, and whose clock is the sensor's."""
    monkeypatch.setenv("REGIME_TRADING_ACCOUNT", ACCOUNT)
    opened = TickDesk(regime_env, tmp_path)
    opened.set_up()
    _DESKS[regime_env] = opened
    monkeypatch.setattr(sensor_module, "now_s", lambda: opened.now_s)
    monkeypatch.setattr(sensor_module, "plan_wait_s", lambda _at_s: 0.0)
    yield opened
    del _DESKS[regime_env]


def launch(world: TickDesk, instance: dg.DagsterInstance, **tags: str) -> bool:
    """Run the job once, under a run id of its own."""
    resources = {"desk": StandingDesk(name=world.url), "market": Market()}
    return pm_tick.execute_in_process(
        instance=instance, resources=resources, tags={TIMEFRAME_TAG: "1h", **tags}, raise_on_error=False
    ).success


def ask_sensor(world: TickDesk, instance: dg.DagsterInstance, cursor: str | None) -> tuple[list[dg.RunRequest], str | None]:
    """Evaluate the sensor once with a cursor; what it asks for, and its cursor then."""
    definitions = build_defs(desk=StandingDesk(name=world.url))
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources=definitions.resources, repository_def=definitions.get_repository_def()
    ) as context:
        answer = regime_bar(context)
    return ([], cursor) if isinstance(answer, dg.SkipReason) else (list(answer.run_requests or ()), answer.cursor)


def effects(world: TickDesk) -> tuple[int, int, int]:
    """Decisions, intents, and creates at the venue."""
    return world.count("decisions"), world.count("order_intents"), len(world.fake.creates)


@pytest.mark.fault_row("X42")
def test_x42_replayed_reset_reexecuted_or_late_nothing_is_ordered_but_once(
    world: TickDesk, instance: dg.DagsterInstance, cells: Cells
) -> None:
    world.buy_signal("AAVE")
    before = json.dumps({"1h": CLOSE_S - HOUR_S})
    asked, cursor = ask_sensor(world, instance, before)
    assert [request.run_key for request in asked] == [f"pm:{ACCOUNT}:{STRATEGY}:2026-06-01T12:00:00+00:00"] or len(asked) == 1
    assert launch(world, instance)
    assert effects(world) == (1, 1, 1)
    ((first,),) = world.execute("select decision_id from decisions")
    again = {
        "the sensor's tick replayed with the old cursor": lambda: ask_sensor(world, instance, before)[0][0].run_key == asked[0].run_key,
        "and its run": lambda: launch(world, instance),
        "the cursor reset asks for nothing": lambda: ask_sensor(world, instance, None)[0] == [],
        "the cursor kept asks for nothing": lambda: ask_sensor(world, instance, cursor)[0] == [],
        "re-executed from the web page": lambda: launch(world, instance, **{"dagster/parent_run_id": "x", "dagster/root_run_id": "x"}),
        "retried under a new run id": lambda: launch(world, instance, **{"dagster/retry_number": "1"}),
        "a backfill of the same bar": lambda: launch(world, instance, **{"dagster/backfill": "b", "dagster/partition": "2026-06-01-11:00"}),
        "by hand": lambda: run_pm_tick(world.trading, world.universe, H1, CLOSE_S).decision_id == first,
        "a bar of yesterday": lambda: run_pm_tick(world.trading, world.universe, H1, CLOSE_S - DAY_S).outcome == "SKIPPED_LATE",
        "too late": lambda: (
            (world.clock.advance(300), run_pm_tick(world.trading, world.universe, H1, CLOSE_S).outcome)[1] == "SKIPPED_LATE"
        ),
        "too late as a run": lambda: launch(world, instance),
    }
    passed = 0
    for name, happens in again.items():
        assert happens(), name
        assert effects(world) == (1, 1, 1), name
        passed += 1
    assert world.execute("select decision_id from decisions") == [(first,)]
    cells(run=len(again), passed=passed)


@pytest.mark.fault_row("X42")
@pytest.mark.parametrize("point", ["before_intent_commit", "after_intent", "before_wire", "after_wire", "after_answer"])
def test_x42_a_retry_of_a_run_that_died_adopts_what_it_had_decided(
    world: TickDesk, instance: dg.DagsterInstance, point: str, cells: Cells
) -> None:
    """Whatever it had done by then: a second run under a new id finds it in the tables, and no second order leaves."""
    whole = world.trading

    def die(passed: str) -> None:
        if passed == point:
            raise Crash(point)

    world.trading = replace(whole, at=die)
    world.buy_signal("AAVE")
    with pytest.raises(Crash):
        run_pm_tick(world.trading, world.universe, H1)
    world.trading = whole
    decided = world.execute("select decision_id from decisions")
    assert len(decided) == (point != "before_intent_commit")
    world.execute("update leases set until = '-infinity'")
    for n in range(4):
        assert launch(world, instance, **{"dagster/retry_number": str(n)})
        world.clock.advance(8)
    found = world.execute("select decision_id from decisions")
    assert len(found) == 1
    assert decided in ([], found)
    assert len({spec.client_order_id for spec, _, _ in world.fake.creates}) == len(world.fake.creates) <= 1
    assert world.count("order_intents") == 1
    cells(run=4, passed=4)


# ---- X43 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X43")
@pytest.mark.parametrize("hours", [0.09, 1, 6, 71])
def test_x43_a_run_that_is_executed_hours_late_is_a_success_without_effect(
    world: TickDesk, instance: dg.DagsterInstance, hours: float, cells: Cells
) -> None:
    """Queued before the daemon stopped, executed after it came back."""
    world.buy_signal("AAVE")
    world.clock.advance(hours * 3600)
    assert launch(world, instance)
    assert effects(world) == (0, 0, 0)
    assert world.execute("select outcome from tick_runs") == [("SKIPPED_LATE",)]
    cells(run=1, passed=1)


@pytest.mark.fault_row("X43")
@pytest.mark.parametrize("point", ["before_intent_commit", "after_intent"])
def test_x43_a_tick_that_died_holding_its_lease_blocks_for_two_minutes_at_most(
    desk: TickDesk, tmp_path: Path, point: str, cells: Cells
) -> None:
    """Its run stays STARTED; the lease ends by itself, and the decision it had made is adopted, or made."""
    desk.buy_signal("AAVE")
    assert run_process(tick_and_die, desk.url, str(tmp_path), desk.now_s, point) == KILLED
    assert desk.tick().outcome == "LEASE_HELD"
    ((left_s,),) = desk.execute(
        "select extract(epoch from until - clock_timestamp())::float8 from leases where name = %s", f"pm:{ACCOUNT}:{STRATEGY}"
    )
    assert left_s + TAKEOVER_S <= BLOCKED_S
    desk.execute("update leases set until = until - make_interval(secs => %s)", left_s - 1)
    assert desk.tick().outcome == "LEASE_HELD"  # not a moment before it has ended
    desk.execute("update leases set until = until - make_interval(secs => 3)")
    assert desk.tick().outcome == ("adopted" if point == "after_intent" else "decided")
    assert (desk.count("decisions"), desk.count("order_intents"), len(desk.fake.creates)) == (1, 1, 1)
    cells(run=1, passed=1)


# ---- X44 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X44")
def test_x44_a_run_that_was_lost_after_the_cursor_moved_is_found_from_the_tables(
    world: TickDesk, instance: dg.DagsterInstance, cells: Cells
) -> None:
    """The sensor has asked and moved on, and nothing was launched: a minute after the close the undecided bar is asked for again."""
    cursor, n_bars = json.dumps({"1h": CLOSE_S}), 3
    for n in range(n_bars):
        close_s = CLOSE_S + (n + 1) * HOUR_S
        world.go_to(close_s + 40)
        world.reconcile()
        world.buy_signal("AAVE", close_s)
        world.regime(close_s)
        lost, moved = ask_sensor(world, instance, cursor)
        assert len(lost) == 1
        assert json.loads(moved or "") == {"1h": close_s}
        assert ask_sensor(world, instance, moved) == ([], moved)  # its run may be on its way
        world.go_to(close_s + 65)
        again, cursor = ask_sensor(world, instance, moved)  # type: ignore[assignment]
        assert [request.run_key for request in again] == [f"{lost[0].run_key}:again-1"]
        assert launch(world, instance)
        assert world.count("decisions") == n + 1
        assert ask_sensor(world, instance, cursor) == ([], cursor)
    assert world.count("order_intents") == len({spec.client_order_id for spec, _, _ in world.fake.creates})
    cells(run=n_bars, passed=world.count("decisions"))


@pytest.mark.fault_row("X44")
def test_x44_a_bar_that_nobody_decided_in_time_is_left(world: TickDesk, instance: dg.DagsterInstance, cells: Cells) -> None:
    world.buy_signal("AAVE")
    _, cursor = ask_sensor(world, instance, json.dumps({"1h": CLOSE_S - HOUR_S}))
    world.go_to(CLOSE_S + 301)
    assert ask_sensor(world, instance, cursor) == ([], cursor)
    assert effects(world) == (0, 0, 0)
    cells(run=1, passed=1)


@pytest.mark.fault_row("X44")
@pytest.mark.parametrize("is_trading", [True, False])
def test_x44_silent_daemons_are_noticed_within_90_seconds(instance: dg.DagsterInstance, cells: Cells, *, is_trading: bool) -> None:
    """By whoever looks from outside, on what the daemons leave in Dagster's own tables; the web server is not asked."""
    beat_s = 1_780_000_000.0
    for daemon in ("SENSOR", "SCHEDULER", "QUEUED_RUN_COORDINATOR"):
        instance.add_daemon_heartbeat(DaemonHeartbeat(beat_s, daemon, "id", []))
    beats = {name: int(beat.timestamp) for name, beat in instance.get_daemon_heartbeats().items()}
    silent_s = DAEMON_TRADING_S if is_trading else DAEMON_SILENT_S
    noticed_s = next(age_s for age_s in range(1000) if list(judge_daemons(beats, int(beat_s) + age_s, silent_s)))
    assert (noticed_s <= 90) is is_trading
    cells(run=1, passed=1)
