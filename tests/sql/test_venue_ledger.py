"""Halts and calls on a real database, and `regime venues` on top of them."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from typer.testing import CliRunner

from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
from regime_pipeline.cli import app
from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.errors import BadInputError, BudgetExhaustedError, DatabaseError
from regime_pipeline.orchestration.resources import build_source
from regime_pipeline.ports import Halt
from regime_pipeline.settings import load_settings
from tests.served import wait_for
from tests.unit.adapters.venues.scripted import Reply, serve

JUNE_S = 1_748_736_000  # 2025-06-01T00:00Z


@pytest.fixture
def ledger(database: str) -> PostgresVenueLedger:
    return PostgresVenueLedger(database)


def test_a_halt_holds_until_its_end(ledger: PostgresVenueLedger) -> None:
    halt = Halt("answered 418", JUNE_S, JUNE_S + 100)
    ledger.halt("binance_um", halt)
    assert ledger.load_halts(JUNE_S + 99) == {"binance_um": halt}
    assert ledger.load_halts(JUNE_S + 100) == {}


def test_a_halt_without_end_holds_until_a_person_resumes_it(ledger: PostgresVenueLedger) -> None:
    ledger.halt("binance_spot", Halt("answered 451", JUNE_S, None))
    assert list(ledger.load_halts(JUNE_S + 10**9)) == ["binance_spot"]
    assert ledger.resume("binance_spot")
    assert ledger.load_halts(JUNE_S + 1) == {}
    assert not ledger.resume("binance_spot")


@pytest.mark.parametrize(
    ("first", "second", "until_s"),
    [
        (None, JUNE_S + 200, None),
        (None, None, None),
        (JUNE_S + 300, JUNE_S + 200, JUNE_S + 300),
        (JUNE_S + 100, JUNE_S + 200, JUNE_S + 200),
        (JUNE_S + 100, None, None),
    ],
)
def test_a_later_halt_never_shortens_an_earlier_one(
    ledger: PostgresVenueLedger, first: int | None, second: int | None, until_s: int | None
) -> None:
    ledger.halt("x", Halt("first", JUNE_S, first))
    ledger.halt("x", Halt("second", JUNE_S + 10, second))
    assert ledger.load_halts(JUNE_S + 20)["x"].until_s == until_s
    assert ledger.load_halts(JUNE_S + 20)["x"].reason == ("second" if until_s == second and first is not None else "first")


@pytest.mark.parametrize(
    ("table", "ask"),
    [
        ("venue_halts", lambda ledger: ledger.load_halts(JUNE_S)),
        ("venue_halts", lambda ledger: ledger.halt("x", Halt("first", JUNE_S, None))),
        ("venue_halts", lambda ledger: ledger.resume("x")),
        ("vendor_calls", lambda ledger: ledger.spend_call("coingecko", JUNE_S, 10)),
        ("vendor_calls", lambda ledger: ledger.load_calls(JUNE_S)),
    ],
    ids=["load_halts", "halt", "resume", "spend_call", "load_calls"],
)
def test_a_database_that_goes_away_in_the_middle_is_an_error_of_ours(
    ledger: PostgresVenueLedger, conn: psycopg.Connection, table: str, ask: Callable[[PostgresVenueLedger], object]
) -> None:
    conn.execute(f"lock table {table}")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, ledger)
        ended = f"select pg_terminate_backend(pid) from pg_locks where relation = '{table}'::regclass and not granted"
        wait_for(lambda: conn.execute(ended).fetchone() is not None, 10)
        with pytest.raises(DatabaseError, match="went away in the middle"):
            answer.result()


def test_an_ended_halt_gives_way_to_a_new_one(ledger: PostgresVenueLedger) -> None:
    ledger.halt("x", Halt("first", JUNE_S, JUNE_S + 5))
    ledger.halt("x", Halt("second", JUNE_S + 100, JUNE_S + 200))
    assert ledger.load_halts(JUNE_S + 150)["x"] == Halt("second", JUNE_S + 100, JUNE_S + 200)


def test_calls_are_counted_per_calendar_month_and_survive_us(ledger: PostgresVenueLedger, database: str) -> None:
    may_s = JUNE_S - 1
    assert [ledger.spend_call("coingecko", may_s, 2) for _ in range(2)] == [1, 0]
    with pytest.raises(BudgetExhaustedError, match="has had its 2 calls of 2025-05"):
        ledger.spend_call("coingecko", may_s, 2)
    restarted = PostgresVenueLedger(database)
    assert restarted.load_calls(may_s) == {"coingecko": 2}
    assert restarted.spend_call("coingecko", JUNE_S, 2) == 1
    assert restarted.load_calls(JUNE_S) == {"coingecko": 1}
    # a higher limit opens the month again
    assert restarted.spend_call("coingecko", may_s, 3) == 0


def test_callers_side_by_side_never_spend_more_than_the_limit(ledger: PostgresVenueLedger) -> None:
    def spend(_: int) -> bool:
        try:
            ledger.spend_call("coingecko", JUNE_S, 10)
        except BudgetExhaustedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(spend, range(24))) == 10
    assert ledger.load_calls(JUNE_S) == {"coingecko": 10}


@pytest.fixture
def settings_url(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("REGIME_DATABASE_URL", database)
    monkeypatch.setenv("REGIME_DAGSTER_DATABASE_URL", database)
    monkeypatch.setenv("REGIME_SOURCE", "live")
    monkeypatch.setenv("REGIME_VENUE_URL", "http://127.0.0.1:1")
    return database


def invoke(*arguments: str) -> str:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False).stdout


def test_venues_shows_halts_and_calls_and_resume_ends_a_halt(settings_url: str) -> None:
    now_s, ledger = read_now_s(), PostgresVenueLedger(settings_url)
    ledger.halt("binance_um", Halt("binance_um answered 451", now_s, None))
    ledger.halt("hyperliquid", Halt("hyperliquid answered 418", now_s, now_s + 600))
    ledger.spend_call("coingecko", now_s, 10_000)
    shown = invoke("venues")
    assert "binance_um       halted until `regime venues resume binance_um`: binance_um answered 451" in shown
    assert "hyperliquid      halted until 20" in shown
    assert "binance_spot     open" in shown
    assert "coingecko calls this month: 1 of 10000" in shown
    report = json.loads(invoke("venues", "--json"))
    assert report["venues"]["binance_um"]["until"] is None
    assert report["venues"]["binance_um"]["is_halted"]
    assert not report["venues"]["coingecko"]["is_halted"]
    assert report["coingecko"] == {"calls": 1, "monthly_limit": 10_000}
    assert json.loads(invoke("venues", "resume", "binance_um", "--json")) == {"venue": "binance_um", "resumed": True}
    assert "was not halted" in invoke("venues", "resume", "binance_um")
    assert list(ledger.load_halts(now_s)) == ["hyperliquid"]
    with pytest.raises(BadInputError, match="venue was 'okx'; there are binance_um"):
        invoke("venues", "resume", "okx")


def test_check_tells_what_cannot_be_read_and_fails(settings_url: str) -> None:
    result = CliRunner().invoke(app, ["venues", "check", "binance_spot", "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert list(report) == ["binance_spot"]
    assert not report["binance_spot"]["is_readable"]
    assert "binance_spot could not be read" in report["binance_spot"]["reason"]
    with pytest.raises(BadInputError, match="venue was 'okx'"):
        invoke("venues", "check", "okx")


def test_check_tells_how_many_symbols_a_venue_gives(settings_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda asked: Reply.of({"universe": []} if asked.body == {"type": "meta"} else {"BTC": "1"})) as venue:
        monkeypatch.setenv("REGIME_VENUE_URL", venue.url)
        result = CliRunner().invoke(app, ["venues", "check", "hyperliquid"])
    assert "gives 0 symbols in" in result.stdout
    assert "does not list BTC, ETH, SOL, BNB, HYPE" in result.stdout
    assert result.exit_code == 1


def test_the_live_source_of_the_settings_keeps_to_the_ledger(settings_url: str) -> None:
    now_s = read_now_s()
    PostgresVenueLedger(settings_url).halt("binance_um", Halt("answered 451", now_s, None))
    for patient in (False, True):
        source = build_source(load_settings(), patient=patient)
        assert source.name == "live"
        assert set(source.venues()) == {"binance_spot", "hyperliquid"}
