"""`regime alerts`, run as an operator runs it."""

import json
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner, Result

from regime_pipeline.adapters.postgres.embedded import ServerAddress
from regime_pipeline.cli import app
from regime_pipeline.cli.alerts_watch import Outage
from regime_pipeline.errors import BadInputError
from regime_pipeline.ports import AlertKind
from regime_pipeline.services.raise_alerts import REPEAT_S
from regime_pipeline.settings import load_settings
from tests.alerts import NOW_S

Regime = Callable[..., Result]


@pytest.fixture
def regime(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Regime:
    """Run `regime alerts` on a database of the test's own."""
    environment = {
        "DATABASE_URL": database,
        "DAGSTER_DATABASE_URL": database,
        "HOME": str(tmp_path),
        "SOURCE": "recorded",
        "ALERT_FILE": str(tmp_path / "alerts.jsonl"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(f"REGIME_{name}", value)
    return lambda *arguments: CliRunner().invoke(app, ["alerts", *arguments])


def told(tmp_path: Path) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text().splitlines()]
    return [(line["event"], line["kind"]) for line in lines]


def test_every_kind_can_be_tried_through_database_and_file(regime: Regime, tmp_path: Path) -> None:
    done = regime("test", "all", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["tested"] == {kind.value: {"file": "sent"} for kind in AlertKind}
    # as many messages of one kind go out before the next is tried, a storm is never summarised
    assert told(tmp_path) == [(event, kind.value) for kind in AlertKind for event in ("opened", "resolved")]
    assert json.loads(regime("list", "--json").stdout)["alerts"] == []
    assert len(json.loads(regime("list", "--all", "--json").stdout)["alerts"]) == len(AlertKind)


def test_a_trial_tells_which_channel_refused(regime: Regime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_ALERT_URLS", "json://me:geheim@127.0.0.1:1/hook")
    done = regime("test", "budget")
    assert done.exit_code == 1
    assert "file: sent, json-1: channel json-1 did not take the message" in done.output
    assert "geheim" not in done.output
    listed = regime("list", "--all").output
    assert "2 messages not sent yet: channel json-1" in listed


def test_a_trial_of_a_kind_that_is_silent_or_off_says_so(regime: Regime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_ALERT_MODES", "budget=silent freshness=off")
    assert json.loads(regime("test", "budget", "--json").stdout)["tested"] == {"budget": {"file": "silent"}}
    assert json.loads(regime("test", "freshness", "--json").stdout)["tested"] == {"freshness": {"file": "off"}}
    assert isinstance(regime("test", "budgets").exception, BadInputError)


def test_watching_once_finds_tells_and_lets_itself_be_acknowledged(regime: Regime, database: str, tmp_path: Path) -> None:
    with psycopg.connect(database) as conn:
        conn.execute("insert into venue_halts values ('hyperliquid', 'status 418', now(), null)")
    done = regime("watch", "--once", "--json")
    assert done.exit_code == 1
    assert [alert["kind"] for alert in json.loads(done.stdout)["found"]] == ["venue_halted"]
    assert told(tmp_path) == [("opened", "venue_halted")]
    (alert,) = json.loads(regime("list", "--json").stdout)["alerts"]
    assert (alert["scope"], alert["severity"], alert["acked"]) == ("hyperliquid", "critical", False)
    assert regime("ack", str(alert["id"]), "--note", "asked the venue").output == f"alert {alert['id']} will not be repeated\n"
    assert "acknowledged: asked the venue" in regime("list").output
    with psycopg.connect(database) as conn:
        conn.execute("delete from venue_halts")
    assert regime("watch", "--once").output.endswith("UTC: all is well\n")


def test_a_database_that_is_down_is_told_without_it(regime: Regime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_DATABASE_URL", "postgresql://me:geheim@127.0.0.1:1/regime")
    done = regime("watch", "--once", "--json")
    assert done.exit_code == 1
    assert told(tmp_path) == [("opened", "database_down")]
    assert "geheim" not in (tmp_path / "alerts.jsonl").read_text() + done.output


def test_an_embedded_server_that_was_stopped_is_not_started_by_whoever_watches(
    regime: Regime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REGIME_DATABASE_URL")
    assert regime("watch", "--once").exit_code == 1
    assert "the embedded server is absent" in (tmp_path / "alerts.jsonl").read_text()


def test_an_outage_is_told_once_repeated_after_six_hours_and_told_to_be_over(
    regime: Regime, database: str, postgres_server: ServerAddress, tmp_path: Path
) -> None:
    outage, name = Outage(load_settings()), database.rpartition("/")[2]
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as admin:
        admin.execute(f"alter database {name} with allow_connections false")
        looks = [outage.look(NOW_S + at_s, with_slow=False) for at_s in (0, 60, REPEAT_S)]
        admin.execute(f"alter database {name} with allow_connections true")
    assert looks == [None, None, None]
    assert outage.look(NOW_S + REPEAT_S + 60, with_slow=False) is not None
    assert outage.look(NOW_S + REPEAT_S + 120, with_slow=False) is not None
    assert told(tmp_path) == [(event, "database_down") for event in ("opened", "repeated", "resolved")]
