"""The sensor that carries orders on where no executor does: on paper only, and never beside a living one."""

from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from regime_pipeline.definitions import build_defs
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.resources import Desk
from regime_pipeline.ports import PassKind, PassStatus, ReconRun, TradingBeat
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import Level, Scope, Switch
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.run_pm_tick import run_pm_tick
from regime_pipeline.services.trading.stand_in import is_needed, needs_recovery, stand_in
from sensors.recover_orders import recover_orders
from tests.tick_desk import ACCOUNT, TickDesk
from tests.trading_desk import Crash

_DESKS: dict[str, TickDesk] = {}


class TestDesk(Desk):
    """Hands out the order path of a test's own desk."""

    __test__ = False
    name: str

    def open(self) -> Trading:
        return _DESKS[self.name].trading


@pytest.fixture
def world(regime_env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TickDesk:
    monkeypatch.setenv("REGIME_TRADING_ACCOUNT", ACCOUNT)
    monkeypatch.setenv("REGIME_TRADING_ENABLED", "true")
    opened = TickDesk(regime_env, tmp_path)
    opened.set_up()
    _DESKS[regime_env] = opened
    return opened


def look(world: TickDesk) -> str:
    definitions = build_defs(desk=TestDesk(name=world.url))
    with (
        dg.instance_for_test() as instance,
        dg.build_sensor_context(
            instance=instance, resources=definitions.resources, repository_def=definitions.get_repository_def()
        ) as context,
    ):
        answer = recover_orders(context)
    assert isinstance(answer, dg.SkipReason)
    return answer.skip_message or ""


def beat(world: TickDesk, age_s: int) -> None:
    with world.stores.open() as work:
        work.recon.beat(TradingBeat("executor", ACCOUNT, 1000 * (world.now_s - age_s), 1))


def leave_intent(world: TickDesk) -> None:
    """A tick that has written its order and dies before it is sent."""

    def die(point: str) -> None:
        if point == "after_intent":
            raise Crash(point)

    world.buy_signal("AAVE")
    with pytest.raises(Crash):
        run_pm_tick(replace(world.trading, at=die), world.universe, Timeframe.H1)
    assert world.execute("select state from orders") == [("INTENT",)]


def test_what_a_dead_process_left_is_sent_once(world: TickDesk) -> None:
    beat(world, 61)
    assert ", recovered" in look(world)
    leave_intent(world)
    assert look(world) == "2 steps, 1 orders sent, 0 stops"
    assert look(world) == "0 steps, 0 orders sent, 0 stops"
    assert len(world.fake.creates) == 1
    assert world.execute("select state from orders") == [("OPEN",)]


def test_an_entry_that_waited_for_a_recovery_is_not_sent(world: TickDesk) -> None:
    leave_intent(world)
    assert ", recovered" in look(world)
    assert world.execute("select state from orders") == [("CANCELLED",)]
    assert world.fake.creates == []


def test_beside_a_living_executor_nothing_is_done(world: TickDesk) -> None:
    leave_intent(world)
    beat(world, 60)
    assert look(world) == "an executor is at it"
    assert world.fake.creates == []


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"TRADING_ENABLED": "false"}, "nothing to stand in for: mode paper, trading off"),
        (
            {"TRADING_MODE": "live", "TRADING_ACCOUNT": "binance-main", "TRADING_EXCHANGE": "binance"},
            "nothing to stand in for: mode live, trading on",
        ),
    ],
)
def test_nobody_stands_in_for_real_money_or_for_nothing(
    world: TickDesk, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], reason: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"REGIME_{name}", value)
    leave_intent(world)
    assert look(world) == reason
    assert world.fake.creates == []


def test_passes_are_made_when_they_are_due_and_the_long_one_counts_as_the_short(world: TickDesk) -> None:
    stand_in(world.trading)  # recovers, which compares everything
    world.clock.advance(61)
    first = stand_in(world.trading)
    world.clock.advance(140)
    second = stand_in(world.trading)
    world.clock.advance(30)
    third = stand_in(world.trading)
    assert first is not None
    assert second is not None
    assert third is not None
    assert [first.passes, second.passes, third.passes] == [("orders: ok",), ("full: ok",), ()]


def test_an_account_is_recovered_at_first_after_a_break_and_daily() -> None:
    def run(age_s: int) -> ReconRun:
        return ReconRun(ACCOUNT, PassKind.STARTUP, PassStatus.OK, 0, 1000 * (100_000 - age_s))

    broken = Switch(Scope(ACCOUNT), Level.ENTRIES_OFF, "recovery", "recover", "recovery runs", 0)
    other = replace(broken, source="recon_small")
    now_ms = 100_000_000
    assert needs_recovery(None, [], now_ms)
    assert not needs_recovery(run(86_400), [other], now_ms)
    assert needs_recovery(run(86_401), [], now_ms)
    assert needs_recovery(run(10), [broken], now_ms)


def test_only_the_executor_of_the_account_counts_as_alive() -> None:
    beats = [TradingBeat("executor", "paper-other", 100_000, 1), TradingBeat("watchdog", ACCOUNT, 100_000, 1)]
    assert is_needed(Mode.PAPER, beats, ACCOUNT, 100_000)
    assert not is_needed(Mode.PAPER, [*beats, TradingBeat("executor", ACCOUNT, 40_000, 1)], ACCOUNT, 100_000)
    assert not is_needed(Mode.LIVE, [], ACCOUNT, 100_000)
