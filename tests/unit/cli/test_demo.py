"""`regime demo`: its own home, whole days, the order of its passes; and once through the real jobs, twice the same."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regime_pipeline.adapters.postgres.embedded import server_status
from regime_pipeline.cli import app
from regime_pipeline.cli.demo import choose_days, demo_settings, ui_command
from regime_pipeline.cli.replay import read_timeframes
from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.services.plan_history import find_span, plan_history
from regime_pipeline.settings import ENV_PREFIX, Settings, export_settings, load_settings
from tests.builders import T0
from tests.fixtures_postgres import open_home
from tests.markets import generated, small_universe

DAY = 86_400


def test_each_market_has_a_home_of_its_own_and_no_external_database(tmp_path: Path) -> None:
    live = Settings(home=tmp_path, database_url="postgresql://live/regime", generated_seed=3)
    other = demo_settings(live.model_copy(update={"generated_seed": 4}), None)
    made, recorded = demo_settings(live, None), demo_settings(live, tmp_path / "market")
    assert len({made.home, other.home, recorded.home, demo_settings(live, tmp_path / "other").home, tmp_path}) == 5
    assert all(settings.home.is_relative_to(tmp_path / "demo") for settings in (made, other, recorded))
    assert (made.database_url, recorded.database_url) == (None, None)
    assert (made.source, recorded.source, recorded.recorded_path) == ("generated", "recorded", tmp_path / "market")


def test_the_command_for_the_ui_names_the_demos_settings(tmp_path: Path) -> None:
    command = ui_command(demo_settings(Settings(home=tmp_path), tmp_path))
    assert command.startswith(f"REGIME_HOME='{tmp_path}/demo/recorded-")
    assert command.endswith(f" REGIME_SOURCE='recorded' REGIME_RECORDED_PATH='{tmp_path}' .venv/bin/regime up")


def test_exported_settings_are_loaded_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(ENV_PREFIX + name.upper(), "")  # so that what is exported here ends with the test
    monkeypatch.setenv("REGIME_DATABASE_URL", "postgresql://live/regime")
    settings = Settings(home=tmp_path, source="recorded", recorded_path=tmp_path, generated_seed=9)
    export_settings(settings)
    assert load_settings() == settings


@pytest.mark.parametrize(
    ("span", "days", "expected"),
    [
        ((T0, T0 + 10 * DAY), None, (T0, T0 + 10 * DAY)),
        ((T0 + 60, T0 + 9 * DAY + 60), None, (T0, T0 + 10 * DAY)),
        ((T0, T0 + 10 * DAY), 3, (T0 + 7 * DAY, T0 + 10 * DAY)),
        ((T0, T0 + 20 * DAY + 7200), None, (T0, T0 + 20 * DAY)),  # the day that is not over is left out
    ],
)
def test_a_demo_runs_over_whole_days(span: tuple[int, int], days: int | None, expected: tuple[int, int]) -> None:
    assert choose_days(span, days, now_s=T0 + 20 * DAY + 7500) == expected


def test_days_run_first_then_minutes_and_hours_then_the_last_day_again() -> None:
    spans = {Timeframe.M1: (5 * DAY, 7 * DAY), Timeframe.H1: (2 * DAY, 7 * DAY), Timeframe.D1: (0, 7 * DAY)}
    assert plan_history(spans) == [
        (Timeframe.D1, (0, 7 * DAY)),
        (Timeframe.M1, (5 * DAY, 7 * DAY)),
        (Timeframe.H1, (2 * DAY, 7 * DAY)),
        (Timeframe.D1, (6 * DAY, 7 * DAY)),
    ]
    assert plan_history({Timeframe.D1: (0, DAY)}) == [(Timeframe.D1, (0, DAY))]
    assert plan_history({Timeframe.H1: (0, DAY)}) == [(Timeframe.H1, (0, DAY))]
    assert plan_history({}) == []


def test_a_span_ends_with_the_newest_closed_bar() -> None:
    universe = small_universe()
    span = find_span(generated(universe), universe, Timeframe.H1, T0 + 3600 + 59)
    assert span is not None
    assert span[1] == T0  # the bar that ended at T0 + 1 h is still in its grace


def test_timeframes_are_read_by_name() -> None:
    assert read_timeframes("1d, 1m") == (Timeframe.M1, Timeframe.D1)
    for text in ("", "5m", "1h,2h"):
        with pytest.raises(BadInputError, match="allowed: 1m, 1h, 1d"):
            read_timeframes(text)


@pytest.mark.slow
def test_two_demos_of_a_day_show_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(ENV_PREFIX + name.upper(), "")
    days = ("--days-macro", "350", "--days-meso", "16", "--days-micro", "1")
    out = tmp_path / "page" / "report.html"
    with open_home() as home:
        found = []
        for _ in range(2):
            monkeypatch.setenv("REGIME_HOME", str(home))
            result = CliRunner().invoke(app, ["demo", "--json", "--out", str(out), *days], catch_exceptions=False)
            found.append(json.loads(result.stdout))
            assert server_status(home / "demo" / "generated-7").state == "stopped"
            monkeypatch.setenv("REGIME_SOURCE", "")
    first, second = found
    assert len(first["board"]) == 24
    assert all(cell["state"] for cell in first["board"])
    assert [row["bucket"] for row in first["levers"]] == ["nano", "small", "mid", "big"]
    assert first["tables"]["derivation_marks"]["rows"] == 0
    assert first["tables"] == second["tables"]
    assert (first["board"], first["levers"]) == (second["board"], second["levers"])
    assert out.read_text(encoding="utf-8").count('class="state S') > 24
