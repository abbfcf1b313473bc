"""`regime kill`, `release`, `arm`, `disarm`, `protections` and `audit`, run as an operator runs them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from regime_pipeline.adapters.latch_file import LatchFile
from regime_pipeline.cli import app
from regime_pipeline.errors import BadInputError, KillSwitchActiveError, LiveNotArmedError
from regime_pipeline.risk.arm import fingerprint_of
from regime_pipeline.risk.kill_switch import Level

Regime = Callable[..., Result]


@pytest.fixture
def regime(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Regime:
    """Run `regime` on a database of the test's own."""
    monkeypatch.setenv("REGIME_DATABASE_URL", database)
    monkeypatch.setenv("REGIME_DAGSTER_DATABASE_URL", database)
    monkeypatch.setenv("REGIME_HOME", str(tmp_path))
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def reconcile(database: str) -> None:
    with psycopg.connect(database) as conn:
        conn.execute(
            "insert into reconciliation_runs (account, kind, status, began_at, ended_at) values ('paper-main', 'full', 'ok', now(), now())"
        )


def read(done: Result) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_a_kill_and_its_release(regime: Regime, database: str, tmp_path: Path) -> None:
    done = regime("kill", "--level", "L3", "--reason", "looks wrong", "--by", "ada", "--json")
    report = read(done)
    assert (done.exit_code, report["latched"], report["complete"]) == (0, True, True)
    assert (report["file"], report["table"]) == ("written", "written")
    assert [switch.level for switch in LatchFile(tmp_path / "state" / "kill.latch").read()] == [Level.HARD_STOP]
    listed = read(regime("protections", "--json"))
    assert {(level["level"], level["source"], level["by"]) for level in listed["kill_levels"]} == {("L3", "manual", "ada")}
    refused = regime("release", "--by", "ada", "--reason", "checked")
    assert isinstance(refused.exception, KillSwitchActiveError)
    reconcile(database)
    released = read(regime("release", "--by", "ada", "--reason", "checked", "--json"))
    assert [each["level"] for each in released["released"]] == ["L3"]
    assert not (tmp_path / "state" / "kill.latch").exists()
    assert "nothing stops orders" in regime("protections").output
    assert "nothing was in force" in regime("release", "--by", "ada", "--reason", "again").output


def test_a_kill_without_a_database_says_so_and_stops_creates_all_the_same(
    regime: Regime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGIME_DATABASE_URL", "postgresql://nobody:nothing@127.0.0.1:1/regime")
    done = regime("kill", "--level", "l3", "--reason", "database is gone", "--json")
    report = read(done)
    assert (done.exit_code, report["latched"], report["complete"]) == (2, True, False)
    assert report["file"] == "written"
    assert "cannot connect" in report["table"]
    assert "nothing@" not in done.output
    assert LatchFile(tmp_path / "state" / "kill.latch").read()


def test_a_kill_of_a_home_without_a_server_starts_none(regime: Regime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGIME_DATABASE_URL")
    report = read(regime("kill", "--level", "L2", "--reason", "nothing runs here", "--json"))
    assert "is not running" in report["table"]
    assert not (tmp_path / "postgres").exists()


def test_the_scope_of_a_kill(regime: Regime, tmp_path: Path) -> None:
    regime("kill", "--level", "L2", "--reason", "one token", "--symbol", "AAVE/USDT")
    regime("kill", "--level", "L2", "--reason", "everybody")
    scopes = {switch.scope.text for switch in LatchFile(tmp_path / "state" / "kill.latch").read()}
    assert scopes == {"account:paper-main|symbol:AAVE/USDT", "global"}


@pytest.mark.parametrize(
    "arguments", [("--level", "L0", "--reason", "x"), ("--level", "L5", "--reason", "x"), ("--level", "L2", "--reason", " ")]
)
def test_a_kill_that_makes_no_sense_is_refused(regime: Regime, arguments: tuple[str, ...]) -> None:
    assert isinstance(regime("kill", *arguments).exception, BadInputError)


def test_arming_needs_the_keys_of_the_executor_and_shows_none(regime: Regime, monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    for name, value in {"TRADER_KEY": "EXAMPLEKEY0001", "TRADER_SECRET": "a-secret-of-a-test", "SALT": "salt-of-a-test"}.items():
        monkeypatch.setenv(f"REGIME_EXECUTOR_{name}", value)
    done = regime("arm", "--by", "ada", "--reason", "first day", "--max-order", "100", "--max-day", "500", "--hours", "8", "--json")
    armed = read(done)
    assert armed["fingerprint"] == fingerprint_of("salt-of-a-test", "EXAMPLEKEY0001")
    assert "EXAMPLEKEY0001" not in done.output
    assert armed["expires_at_s"] == pytest.approx((datetime.now(UTC) + timedelta(hours=8)).timestamp(), abs=30)
    assert read(regime("disarm", "--by", "ada", "--reason", "done", "--json"))["was_armed"] is True
    with psycopg.connect(database) as conn:
        assert conn.execute("select ended_at is not null from arm").fetchall() == [(True,)]
    too_long = regime("arm", "--by", "ada", "--reason", "x", "--max-order", "100", "--max-day", "500", "--hours", "25")
    assert isinstance(too_long.exception, LiveNotArmedError)
    assert isinstance(regime("arm", "--by", "a", "--reason", "x", "--max-order", "lots", "--max-day", "5").exception, BadInputError)


def test_a_protection_is_listed_and_ended_by_a_person(regime: Regime, database: str) -> None:
    with psycopg.connect(database) as conn:
        conn.execute(
            "insert into protections (name, account, scope, trigger_id, effect, code, tripped_at, until, evidence) values ('max_drawdown',"
            " 'paper-main', 'account:paper-main', 'drawdown:1', 1, 'PROT_DRAWDOWN', now(), now() + interval '1 day', '0.081')"
        )
    assert "ENTRIES_OFF account:paper-main" in regime("protections").output
    assert read(regime("protections", "--json"))["protections"][0]["code"] == "PROT_DRAWDOWN"
    done = regime("protections", "release", "max_drawdown", "drawdown:1", "--by", "ada", "--reason", "a bad mark")
    assert "is over" in done.output
    assert "nothing stops orders" in regime("protections").output
    again = regime("protections", "release", "max_drawdown", "drawdown:1", "--by", "ada", "--reason", "a bad mark")
    assert isinstance(again.exception, BadInputError)


def test_an_audit_names_the_first_bad_row(regime: Regime, database: str) -> None:
    regime("kill", "--level", "L2", "--reason", "looks wrong", "--by", "ada")
    assert regime("audit").exit_code == 0
    with psycopg.connect(database) as conn:
        conn.execute("set session_replication_role = replica")
        conn.execute("update kill_switch set reason = 'nothing happened'")
    done = regime("audit", "--json")
    assert done.exit_code == 1
    assert [fault["table"] for fault in read(done)["faults"]] == ["kill_switch"]
    assert "kill_switch all: first bad row is" in regime("audit").output
