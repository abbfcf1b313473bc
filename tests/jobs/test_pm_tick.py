"""The job of the portfolio manager and the assets that tell of it, on the tables as the pipeline leaves them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from jobs.daily_digest import daily_digest_schedule
from jobs.pm_tick import pm_tick
from regime_pipeline.definitions import build_defs
from regime_pipeline.orchestration.policies import TIMEFRAME_TAG
from regime_pipeline.orchestration.resources import Desk, Market
from regime_pipeline.services.trading.context import Trading
from tests.tick_desk import ACCOUNT, CLOSE_S, STRATEGY, TickDesk

_DESKS: dict[str, TickDesk] = {}


class TestDesk(Desk):
    """Hands out the order path of a test's own desk."""

    __test__ = False
    name: str

    def open(self) -> Trading:
        return _DESKS[self.name].trading


@pytest.fixture
def world(regime_env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TickDesk:
    """A desk at noon whose settings every run of this process reads."""
    monkeypatch.setenv("REGIME_TRADING_ACCOUNT", ACCOUNT)
    opened = TickDesk(regime_env, tmp_path)
    opened.set_up()
    _DESKS[regime_env] = opened
    return opened


def run(world: TickDesk, instance: dg.DagsterInstance, **tags: str) -> dg.ExecuteInProcessResult:
    resources: dict[str, Any] = {"desk": TestDesk(name=world.url), "market": Market()}
    return pm_tick.execute_in_process(instance=instance, resources=resources, tags=tags)


def told(instance: dg.DagsterInstance, run_id: str) -> dict[str, dict[str, Any]]:
    """Metadata of a run's materializations by asset."""
    events = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    return {
        event.dagster_event.asset_key.to_user_string(): {
            name: value.value for name, value in event.dagster_event.step_materialization_data.materialization.metadata.items()
        }
        for event in events
        if event.dagster_event is not None and event.dagster_event.asset_key is not None
    }


def test_a_run_decides_orders_and_tells_and_its_repeat_does_neither(world: TickDesk, instance: dg.DagsterInstance) -> None:
    world.buy_signal("AAVE")
    world.bar("LINK", state="S1")
    first = run(world, instance, **{TIMEFRAME_TAG: "1h"})
    assert first.success
    seen = told(instance, first.run_id)
    assert seen["decisions"]["strategy"] == STRATEGY
    assert seen["decisions"]["outcome"] == "decided"
    assert seen["orders"]["sent"] == 1
    again = run(world, instance, **{TIMEFRAME_TAG: "1h"})
    assert again.success
    assert "decisions" not in told(instance, again.run_id)
    assert (world.count("decisions"), world.count("orders"), len(world.fake.creates)) == (1, 1, 1)


def test_a_run_that_names_no_strategy_ticks_every_one(world: TickDesk, instance: dg.DagsterInstance) -> None:
    world.buy_signal("AAVE")
    assert run(world, instance).success
    assert world.execute("select strategy, outcome from tick_runs") == [(STRATEGY, "decided")]


def test_a_run_hours_late_is_a_success_that_does_nothing(world: TickDesk, instance: dg.DagsterInstance) -> None:
    world.buy_signal("AAVE")
    world.go_to(CLOSE_S + 3 * 3600)
    assert run(world, instance, **{TIMEFRAME_TAG: "1h"}).success
    assert world.execute("select outcome from tick_runs") == [("SKIPPED_LATE",)]
    assert (world.count("decisions"), world.count("orders")) == (0, 0)


def test_the_assets_tell_of_the_tables_with_pictures_and_check_that_they_add_up(world: TickDesk, instance: dg.DagsterInstance) -> None:
    world.fake.fills_at_once = True
    world.buy_signal("AAVE")
    run(world, instance, **{TIMEFRAME_TAG: "1h"})
    world.settle()
    job = build_defs().resolve_job_def("portfolio_report")
    result = job.execute_in_process(instance=instance)
    seen = told(instance, result.run_id)
    assert set(seen) == {"decisions", "orders", "lowcap_positions_pm", "equity_points"}
    assert "| AAVE/USDT | act | 5 |" in str(seen["decisions"]["newest"])
    assert "| AAVE/USDT | entry | buy |" in str(seen["orders"]["orders"])
    assert "| AAVE | 1h |" in str(seen["lowcap_positions_pm"]["positions"])
    for metadata in seen.values():
        assert "data:image/png;base64," in str(metadata["plot"])
        assert len(str(metadata["plot"])) < 60_000 * 4 / 3 + 100
    checks = [
        event.dagster_event.asset_check_evaluation_data
        for event in instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        if event.dagster_event is not None
    ]
    assert {check.check_name: check.passed for check in checks} == {
        "none_unknown": True,
        "position_is_fills": True,
        "balances_are_entries": True,
    }
    world.execute("update ledger_balances set balance = balance + 1 where asset = 'AAVE' and ledger_account = 'WALLET'")
    bad = job.execute_in_process(instance=instance)
    failed = {
        event.dagster_event.asset_check_evaluation_data.check_name: event.dagster_event.asset_check_evaluation_data.metadata
        for event in instance.all_logs(bad.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        if event.dagster_event is not None and not event.dagster_event.asset_check_evaluation_data.passed
    }
    assert set(failed) == {"position_is_fills", "balances_are_entries"}
    assert f"{STRATEGY} WALLET AAVE: expected " in str(failed["balances_are_entries"]["first"].value)


def test_the_desk_is_built_once_per_process(regime_env: str) -> None:
    desk = Desk()
    assert desk.open() is desk.open()
    assert desk.open().terms.account == "paper-main"


def test_the_digest_goes_to_every_channel(
    world: TickDesk, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "told.jsonl"
    monkeypatch.setenv("REGIME_ALERT_FILE", str(path))
    assert build_defs().resolve_job_def("daily_digest").execute_in_process(instance=instance).success
    assert '"event": "digest"' in path.read_text()


def test_the_digest_is_asked_for_once_a_day_at_the_hour_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_DIGEST_HOUR", "9")
    answers = {
        hour: daily_digest_schedule(dg.build_schedule_context(scheduled_execution_time=datetime(2026, 6, 1, hour, 9, tzinfo=UTC)))
        for hour in range(24)
    }
    asked = {hour: answer for hour, answer in answers.items() if isinstance(answer, dg.RunRequest)}
    assert {hour: request.run_key for hour, request in asked.items()} == {9: "digest:2026-06-01"}
