"""`regime reconcile`, `recover`, `recon adjust` and `incidents` on a paper account, run as an operator runs them."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner, Result

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.cli import app
from regime_pipeline.cli.executor import spell_event
from regime_pipeline.errors import BadInputError
from regime_pipeline.orchestration.trading import build_trading
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.open_account import open_account
from regime_pipeline.settings import load_settings

Regime = Callable[..., Result]


@pytest.fixture
def regime(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Regime:
    """Run `regime` on an open paper account."""
    environment = {
        "DATABASE_URL": database,
        "DAGSTER_DATABASE_URL": database,
        "HOME": str(tmp_path),
        "RISK_FILE": str(Path("config/risk.toml").resolve()),
    }
    for name, value in environment.items():
        monkeypatch.setenv(f"REGIME_{name}", value)
    with psycopg.connect(database) as conn:
        conn.execute(
            "insert into lowcap_positions (token_contract, token_chain, timeframe, token_ticker, status, book_id)"
            " values ('AAVE', 'binance', '1h', 'AAVE', 'watchlist', 'onchain_crypto')"
        )
    trading = build_trading(load_settings(), stores=PostgresStores(database))
    open_account(trading)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def take(database: str, amount: str) -> None:
    """Take money out of the paper broker's book behind our back."""
    with psycopg.connect(database) as conn:
        conn.execute("update paper.balances set total = total - %s where asset = 'USDT'", (Decimal(amount),))


def test_an_account_is_recovered_and_reconciled(regime: Regime) -> None:
    done = regime("recover", "--json")
    assert (done.exit_code, json.loads(done.stdout)["ready"]) == (0, True)
    assert "READY in" in regime("recover").stdout
    for arguments in (("reconcile",), ("reconcile", "--full")):
        assert regime(*arguments).exit_code == 0
    document = json.loads(regime("reconcile", "--full", "--json").stdout)
    assert (document["kind"], document["status"], document["findings"]) == ("full", "ok", [])


def test_a_difference_is_shown_and_explained_by_hand(regime: Regime, database: str) -> None:
    regime("recover")
    take(database, "300")
    found = regime("reconcile", "--full")
    assert found.exit_code == 2
    assert "medium    cash USDT ledger 100000 venue 99700" in found.stdout
    assert "five seconds later" in found.stdout
    assert regime("recon", "adjust", "--asset", "USDT", "--amount", "-300", "--by", "ann", "--reason", "listing fee").exit_code == 0
    assert regime("reconcile", "--full").exit_code == 0


def test_an_amount_that_is_no_number_is_refused(regime: Regime) -> None:
    done = regime("recon", "adjust", "--asset", "USDT", "--amount", "lots", "--by", "ann", "--reason", "why not")
    assert isinstance(done.exception, BadInputError)


def test_incidents_are_listed_acknowledged_and_closed(regime: Regime, database: str) -> None:
    assert "no incident is open" in regime("incidents").stdout
    with PostgresStores(database).open() as work:
        number = str(open_incident(work, "ORDER_GONE", "critical", "order a", {"n": 1}, "order-gone").incident_id)
    assert "critical" in regime("incidents").stdout
    assert "known to ann" in regime("incidents", "--ack", number, "--by", "ann").stdout
    assert isinstance(regime("incidents", "--ack", number).exception, BadInputError)
    assert regime("incidents", "--close", number, "--by", "ann").exit_code == 0
    assert json.loads(regime("incidents", "--json").stdout) == {"incidents": []}
    (closed,) = json.loads(regime("incidents", "--all", "--json").stdout)["incidents"]
    assert (closed["kind"], closed["acked_by"], closed["closed_by"], closed["evidence"]) == ("ORDER_GONE", "ann", "ann", {"n": 1})


@pytest.mark.parametrize(
    ("event", "facts", "says"),
    [
        ("ready", {"took_ms": 1200}, "READY in 1200 ms"),
        ("not_ready", {"failed": "markets", "why": "gone"}, "not ready, entries stay off: markets failed: gone"),
        ("outage", {"why": "gone", "n": 1}, "the database is away: gone"),
        ("ended", {"why": "told to stop"}, "ended: told to stop"),
        ("turn", {"steps": {"INTENT->SUBMITTING": 1}, "sent": 1, "failed": []}, "turn: steps {'INTENT->SUBMITTING': 1}, sent 1"),
    ],
)
def test_events_are_spelt_for_people(event: str, facts: dict[str, object], says: str) -> None:
    assert spell_event(event, facts) == says
