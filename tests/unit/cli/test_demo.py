"""`regime demo`: its own home, whole days, the order of its passes; and once through the real jobs, twice the same."""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regime_pipeline.adapters.postgres.embedded import server_status
from regime_pipeline.cli import app
from regime_pipeline.cli.demo import SIM_URL, choose_days, demo_settings, describe_market, invite
from regime_pipeline.cli.replay import read_timeframes
from regime_pipeline.errors import BadInputError, SourceUnavailableError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.services.plan_history import find_span, plan_history
from regime_pipeline.settings import ENV_PREFIX, Settings, export_settings, load_settings
from tests.builders import T0
from tests.fixtures_postgres import open_home
from tests.markets import generated, small_universe

DAY = 86_400


def test_each_market_has_a_home_of_its_own_and_no_external_database(tmp_path: Path) -> None:
    mine = Settings(home=tmp_path, database_url="postgresql://live/regime", generated_seed=3)
    other = demo_settings(mine.model_copy(update={"generated_seed": 4}), None)
    made, recorded, live = demo_settings(mine, None), demo_settings(mine, tmp_path / "market"), demo_settings(mine, None, live=True)
    every = (made, other, recorded, live, demo_settings(mine, tmp_path / "other"))
    assert len({tmp_path, *(settings.home for settings in every)}) == 6
    assert all(settings.home.is_relative_to(tmp_path / "demo") for settings in every)
    assert {settings.database_url for settings in every} == {None}
    assert (made.source, made.venue_url, made.coingecko_plan) == ("live", SIM_URL, "pro")
    assert (recorded.source, recorded.recorded_path) == ("recorded", tmp_path / "market")
    assert (live.source, live.venue_url, live.coingecko_plan) == ("live", None, "keyless")
    assert len({describe_market(settings) for settings in every}) == 5
    with pytest.raises(BadInputError, match="shows one market"):
        demo_settings(mine, tmp_path, live=True)


def test_the_commands_for_the_ui_name_the_demos_settings(tmp_path: Path) -> None:
    recorded = invite(demo_settings(Settings(home=tmp_path), tmp_path))
    assert f"\n  REGIME_HOME='{tmp_path}/demo/recorded-" in recorded
    assert recorded.endswith(f" REGIME_SOURCE='recorded' REGIME_RECORDED_PATH='{tmp_path}' .venv/bin/regime up")
    live = invite(demo_settings(Settings(home=tmp_path), None, live=True))
    assert live.endswith(f"REGIME_HOME='{tmp_path}/demo/live' REGIME_SOURCE='live' .venv/bin/regime up --live")
    simulated = invite(demo_settings(Settings(home=tmp_path, generated_seed=9), None)).splitlines()
    assert simulated[1].strip() == "REGIME_GENERATED_SEED=9 .venv/bin/regime sim"
    assert simulated[2].endswith(
        "REGIME_VENUE_URL='http://127.0.0.1:8900' REGIME_COINGECKO_PLAN='pro' REGIME_TRADING_ENABLED='true' .venv/bin/regime up --live"
    )


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
@pytest.mark.timeout(300)
def test_two_demos_of_a_day_show_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(ENV_PREFIX + name.upper(), "")
    days = ("--days-macro", "350", "--days-meso", "16", "--days-micro", "1")
    out = tmp_path / "page" / "report.html"
    with open_home() as home:
        found = []
        for _ in range(2):
            for name in Settings.model_fields:
                monkeypatch.setenv(ENV_PREFIX + name.upper(), "")
            monkeypatch.setenv("REGIME_HOME", str(home))
            result = CliRunner().invoke(app, ["demo", "--json", "--out", str(out), *days], catch_exceptions=False)
            found.append(json.loads(result.stdout))
            assert server_status(home / "demo" / "simulated-7").state == "stopped"
    first, second = found
    assert len(first["board"]) == 24
    # CoinGecko has no history of dominance in minutes, and hours of one day only.
    stateless = {(cell["driver"], cell["timeframe"]) for cell in first["board"] if not cell["state"]}
    assert stateless == {(driver, timeframe) for driver in ("BTC.d", "USDT.d") for timeframe in ("1m", "1h")}
    assert [row["bucket"] for row in first["levers"]] == ["nano", "small", "mid", "big"]
    assert first["tables"]["derivation_marks"]["rows"] == 0
    spent = {"vendor_calls"}  # the second demo asked CoinGecko too
    assert {name: table for name, table in first["tables"].items() if name not in spent} == {
        name: table for name, table in second["tables"].items() if name not in spent
    }
    assert (first["board"], first["levers"]) == (second["board"], second["levers"])
    assert out.read_text(encoding="utf-8").count('class="state S') > 20


@pytest.mark.slow
def test_without_a_venue_to_read_a_live_demo_says_so_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(ENV_PREFIX + name.upper(), "")
    with socket.socket() as closed, open_home() as home:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        monkeypatch.setenv("REGIME_HOME", str(home))
        monkeypatch.setenv("REGIME_VENUE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(SourceUnavailableError, match="no venue can be read") as refused:
            CliRunner().invoke(app, ["demo", "--live"], catch_exceptions=False)
        assert server_status(home / "demo" / "live").state == "stopped"
    for venue in ("binance_um", "binance_spot", "hyperliquid"):
        assert f"\n  {venue} could not be read: " in str(refused.value)
    assert "Check the network" in str(refused.value)
