"""`regime config`: what is in force, without secrets, and the error a wrong file gives."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regime_pipeline.cli import app
from regime_pipeline.errors import ConfigError

SHIPPED = Path(__file__).parents[3] / "config" / "universe.toml"


@pytest.fixture(autouse=True)
def shipped_universe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_UNIVERSE", str(SHIPPED))
    monkeypatch.setenv("REGIME_RISK_FILE", str(SHIPPED.with_name("risk.toml")))


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["config", *words])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_check_counts_what_the_universe_holds() -> None:
    assert run("check") == "ok: 5 majors, 8 drivers, 24 tokens, 3 venues, 0 changed limits\n"
    assert json.loads(run("check", "--json")) == {"majors": 5, "drivers": 8, "tokens": 24, "venues": 3, "changed limits": 0}


def test_limits_are_shown_and_those_that_differ_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "risk.toml"
    file.write_text("[limits]\nmax_positions = 7\n[portfolio]\nalloc_pct = 5\n")
    monkeypatch.setenv("REGIME_RISK_FILE", str(file))
    assert "7 *" in run("show")
    risk = json.loads(run("show", "--json"))["risk"]
    assert (risk["limits"]["max_positions"], risk["portfolio"]["alloc_pct"]) == (7, "5")
    assert "2 changed limits" in run("check")
    file.write_text("[limits]\nmax_positions = 0\n")
    with pytest.raises(ConfigError, match=r"risk\.toml:2: limit max_positions was 0"):
        run("check")


def test_show_names_every_setting_and_driver() -> None:
    shown = run("show")
    assert "Settings" in shown
    assert "USDT.d" in shown
    document = json.loads(run("show", "--json"))
    assert document["settings"]["universe"] == str(SHIPPED)
    assert [driver["name"] for driver in document["universe"]["drivers"]][:2] == ["BTC", "ALT"]


def test_show_keeps_database_addresses_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_DATABASE_URL", "postgresql://me:hunter2@db/regime")
    for shown in (run("show"), run("show", "--json")):
        assert "hunter2" not in shown
    assert json.loads(run("show", "--json"))["settings"]["database_url"] == "set, not shown"


def test_check_refuses_a_wrong_universe_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "universe.toml"
    wrong.write_text("[buckets]\nsmall_from = 1\n", encoding="utf-8")
    monkeypatch.setenv("REGIME_UNIVERSE", str(wrong))
    with pytest.raises(ConfigError, match=r"universe\.toml:2: unknown key 'small_from'; allowed: big_from_usd"):
        run("check")
