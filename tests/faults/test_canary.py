"""Secrets stay secret (G12): keys of a running executor searched in every place that outlives or leaves it.

The venue is made to quote them in every answer: header, signature and private address in a gateway's page.
"""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from regime_pipeline.adapters.brokers.start import TradingAccount, build_ccxt_broker
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.errors import RegimeError
from regime_pipeline.executor_secrets import PREFIX
from regime_pipeline.risk.arm import Mode
from regime_pipeline.settings import child_environment, load_executor_secrets, load_settings
from tests.brokers import SALT, secrets_of
from tests.trading import TradingVenue
from tests.wire import WireDesk, open_wire

MARK = "5167a7e0cafe"
"""Part of a signature in the quoted address."""


@pytest.fixture
def wire(database: str, request: pytest.FixtureRequest) -> Iterator[WireDesk]:
    with open_wire(database, request.param) as desk:
        yield desk


def canaries(venue: TradingVenue) -> list[str]:
    """Every secret of the executor."""
    pairs = [(venue.keys[kind].key, venue.keys[kind].secret) for kind in venue.keys.kinds()]
    return [SALT, MARK, *(each for pair in pairs for each in pair)]


def a_page(venue: TradingVenue) -> str:
    """A gateway that tells its visitor what it was asked."""
    key, secret = venue.keys["kill"].key, venue.keys["kill"].secret
    return (
        f"<html>denied: GET https://api.binance.com/api/v3/order?symbol=BTCUSDT&signature={MARK}"
        f" X-MBX-APIKEY: {key} X-BAPI-SIGN: {MARK} secret {secret} salt {SALT}</html>"
    )


def run_with_quotes(desk: WireDesk, status: int) -> None:
    """Send, read, cancel and resolve orders while the venue quotes its requests back."""
    quoting = {"status": status, "body": a_page(desk.venue)}
    desk.fault(**quoting)
    desk.intend()
    desk.resting(symbol=desk.symbol.replace("BTC", "ETH"))
    desk.execute()
    desk.venue.script({"on": "GET *", **quoting, "repeat": 6}, {"on": "DELETE *", **quoting, "repeat": 2})
    desk.venue.script({"on": "POST */cancel", **quoting, "repeat": 2})
    desk.run_executor(45)


def rows_of(database: str) -> Iterator[tuple[str, str]]:
    """Every row of every table, as text: what a dump, an export or a page could show."""
    with psycopg.connect(database) as conn:
        tables = conn.execute(
            "select table_schema, table_name from information_schema.tables where table_type = 'BASE TABLE'"
            " and table_schema not in ('pg_catalog', 'information_schema')"
        ).fetchall()
        for schema, table in tables:
            query = sql.SQL("select t::text from {} t").format(sql.Identifier(schema, table))
            for (row,) in conn.execute(query):
                yield f"{schema}.{table}", row


@pytest.mark.parametrize("wire", ["spot", "linear"], indirect=True)
@pytest.mark.parametrize("status", [200, 403, 503])
def test_nothing_that_an_executor_leaves_behind_holds_a_secret(
    wire: WireDesk, database: str, status: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        run_with_quotes(wire, status)
    stored = list(rows_of(database))
    told = capfd.readouterr()
    searched = [*(row for _, row in stored), caplog.text, told.out, told.err]
    for canary in canaries(wire.venue):
        assert [text for text in searched if canary in text] == []
    # The search does search: what the venue quoted is there, without its secrets.
    assert any("denied: GET https://api.binance.com/api/v3/order?[private]" in row for _, row in stored)


@pytest.mark.parametrize("wire", ["spot"], indirect=True)
def test_no_refusal_to_start_holds_a_secret_nor_does_what_led_to_it(wire: WireDesk, database: str) -> None:
    """The message, and every exception before it that a traceback would print."""
    venue, stores = wire.venue, PostgresStores(database)
    secrets, refusals = secrets_of(venue.keys), []
    account = TradingAccount("binance", "spot", "sim-main", Mode.SANDBOX, venue_url=venue.url)
    for endpoint in ("exchangeInfo", "account", "apiRestrictions"):
        for status in (200, 403, 503):
            venue.clear_script()
            venue.script({"on": f"GET *{endpoint}", "status": status, "body": a_page(venue), "repeat": 0})
            with pytest.raises(RegimeError) as caught:
                build_ccxt_broker(stores, secrets, account, lambda: venue.now_ms)
            refusals.append("".join(traceback.format_exception(caught.value)))
    assert len(refusals) == 9
    for canary in canaries(venue):
        assert [text for text in refusals if canary in text] == []
    stores.close()


def test_neither_settings_nor_children_nor_the_process_list_hold_one(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {f"{PREFIX}{name}": f"{MARK}-{name}" for name in ("TRADER_KEY", "TRADER_SECRET", "KILL_KEY", "KILL_SECRET", "SALT")}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    settings, secrets = load_settings(), load_executor_secrets()
    shown = [repr(settings), settings.model_dump_json(), repr(secrets), secrets.model_dump_json(), *child_environment().values(), *sys.argv]
    if sys.platform == "linux":
        shown.append(Path(f"/proc/{os.getpid()}/cmdline").read_text())
    assert not any(MARK in each for each in shown)
    assert len(secrets.values()) == len(names)
