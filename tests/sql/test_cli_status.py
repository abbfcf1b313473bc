"""`regime status` and `regime data repair` on a real database."""

import json
import re
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from regime_pipeline.adapters.postgres.alert_store import PostgresAlerts
from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.cli import app
from regime_pipeline.cli.session import iso_time
from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import load_universe
from regime_pipeline.ports import Alert, AlertKind, Halt, Heartbeat, Question, Severity
from regime_pipeline.services.build_drivers import build_drivers
from regime_pipeline.services.ingest_bars import ingest_bars
from regime_pipeline.services.sample_dominance import VENDOR
from regime_pipeline.services.window import Window
from tests.markets import UNIVERSE, generated

M1 = Timeframe.M1


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.fixture
def url(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database that the settings name, with the last hour of the generated market's minutes."""
    monkeypatch.setenv("REGIME_DATABASE_URL", database)
    monkeypatch.setenv("REGIME_DAGSTER_DATABASE_URL", database)
    return database


@pytest.fixture
def end_s(url: str) -> int:
    universe, now_s = load_universe(UNIVERSE), read_now_s()
    end_s = M1.last_closed(now_s) + 60
    ingest_bars(PostgresStores(url), generated(universe), universe, M1, Window(end_s - 3600, end_s), now_s)
    build_drivers(PostgresStores(url), universe, M1, now_s)
    return end_s


def test_status_lists_every_series_and_what_is_wrong(url: str, end_s: int) -> None:
    PostgresVenueLedger(url).halt("binance_um", Halt("418: banned", end_s, None))
    note_feeds(url, end_s)
    result = invoke("status", "--json")
    assert result.exit_code == 0
    document: dict[str, Any] = json.loads(result.stdout)
    rows = {(row["series"], row["timeframe"]): row for row in document["series"]}
    universe = load_universe(UNIVERSE)
    assert len({name for name, _ in rows}) == len(universe.drivers) + len(universe.instruments())
    btc = rows["token:BTC:binance", "1m"]
    assert (btc["source"], btc["open_gaps"], btc["validity"]) == ("binance_um", 0, 1.0)
    assert btc["asked_at"] is not None
    assert rows["regime:ALT", "1d"]["is_late"]
    assert "venue binance_um is halted: 418: banned" in document["problems"]
    assert document["halts"]["binance_um"]["until"] is None
    assert document["coingecko"] == {"calls": 0, "monthly_limit": 10_000}
    (beat,) = document["collectors"]["regime"]
    assert (beat["venue"], beat["is_connected"], beat["problem"]) == ("binance_um", False, "reset by peer")
    assert 4 <= beat["age_s"] < 120
    assert document["dominance_question"] == {"asked_at": iso_time(end_s - 30), "failures": 2, "problem": "HTTP 503"}
    assert document["alerts"]["open"] == 4
    assert [(row["scope"], row["severity"]) for row in document["alerts"]["worst"]] == [
        ("1h", "critical"),
        ("1m", "warning"),
        ("1d", "warning"),
    ]
    assert document["engines"] == []


def note_feeds(url: str, end_s: int) -> None:
    """A collector without a connection, a vendor that is down, and four open alerts."""
    with PostgresStores(url).open() as work:
        work.feeds.save_heartbeats(
            "regime", [Heartbeat("binance_um", end_s - 4, end_s - 99, None, None, None, end_s - 60, 7, 3, "reset by peer")]
        )
        work.feeds.save_question(VENDOR, Question(end_s - 30, 2, "HTTP 503"))
    with PostgresAlerts(url, "regime").open_book() as book:
        for at, (scope, severity) in enumerate((("1m", "warning"), ("1h", "critical"), ("1d", "warning"), ("all", "warning"))):
            book.open(Alert(AlertKind.FRESHNESS, scope, Severity(severity), f"{scope} is late", end_s - 600), end_s - 300 + at)


def test_status_tells_of_collectors_dominance_and_the_worst_alerts(url: str, end_s: int) -> None:
    told = invoke("status").stdout
    assert "collector: none ever ran" in told
    assert "engine: no state yet" in told
    assert "open alerts: 0" in told
    note_feeds(url, end_s)
    told = invoke("status").stdout
    assert re.search(
        r"collector regime, binance_um: heard \d+ s ago, newest bar \d{4}-\d\d-\d\d \d\d:\d\d, not connected: reset by peer", told
    )
    assert re.search(r"dominance asked \d+ s ago, 2 in a row without an answer: HTTP 503", told)
    assert told.index("open alerts: 4") < told.index("critical freshness 1h: 1h is late") < told.index("warning  freshness 1m: 1m is late")
    assert "freshness all" not in told


def test_status_check_says_by_its_exit_code_that_something_is_wrong(url: str, end_s: int) -> None:
    assert invoke("status").exit_code == 0
    result = invoke("status", "--check")
    assert result.exit_code == 1
    assert "regime:BTC 1h: no bar" in result.stdout
    assert "coingecko calls this month: 0 of 10000" in result.stdout


def test_repair_asks_for_what_is_missing_and_tells(url: str, end_s: int) -> None:
    with psycopg.connect(url) as conn:
        conn.execute("delete from majors_price_data_ohlc where token_contract = 'ETH' and timestamp = to_timestamp(%s)", (end_s - 600,))
        conn.execute(
            "insert into bar_gaps (series, timeframe, timestamp, source, reason) values ('token:ETH:binance', '1m', to_timestamp(%s),"
            " 'live', 'missing')",
            (end_s - 600,),
        )
    assert json.loads(invoke("data", "repair", "--json", "--series", "token:BTC:binance").stdout) == {"gaps": {}, "failures": []}
    told = json.loads(invoke("data", "repair", "--json", "--timeframe", "1m").stdout)
    assert told == {"gaps": {"1m": {"asked": 1, "found": 1, "vendor_none": 0, "still_missing": 0}}, "failures": []}
    assert "no bar is missing" in invoke("data", "repair").stdout


def test_repair_refuses_a_span_that_ends_before_it_begins(url: str) -> None:
    with pytest.raises(BadInputError, match="not before"):
        invoke("data", "repair", "--from", "2025-01-02T00:00:00Z", "--to", "2025-01-01T00:00:00Z")
