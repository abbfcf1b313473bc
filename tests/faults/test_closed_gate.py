"""What is missing, broken or unbelievable closes the gate for entries and for nothing else: protections (X53) and series (X39).

Real rows in a real Postgres, damaged one at a time; every cell asks the gate for an entry and for an exit.
"""

import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from regime_pipeline.adapters.postgres.work import PostgresStores, PostgresWork
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Quote
from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES
from regime_pipeline.risk.gate import run_gate
from regime_pipeline.risk.gate_view import GateVerdict
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.build_gate_view import (
    SymbolView,
    build_gate_view,
    pick_series,
    read_series_health,
    required_series,
)
from regime_pipeline.services.trading.read_account import AccountView, VenueState, read_account
from tests.safety_desk import DAY_S, MIDNIGHT_S, NOON_S, SYMBOL, SafetyDesk, desk
from tests.sql.trading.test_gate_view import SERIES, an_entry, codes, judge, ready

__all__ = ["desk", "ready"]
N_TICKS = 5_000
Damage = Callable[[SafetyDesk], object]


def unlocked(*statements: str) -> Damage:
    """Change what is written once, as only somebody with every right can."""

    def run(on: SafetyDesk) -> None:
        with psycopg.connect(on.url) as conn:
            conn.execute("set session_replication_role = replica")
            for statement in statements:
                conn.execute(statement)  # type: ignore[arg-type]

    return run


def close_badly(on: SafetyDesk) -> None:
    for n in range(3):
        on.close(NOON_S - 600 - n, "NaN")


def sink(on: SafetyDesk) -> None:
    unlocked(f"update equity_points set equity_quote = 91000 where at >= to_timestamp({MIDNIGHT_S})")(on)
    on.mark(NOON_S - 2 * DAY_S, 100_000)


BROKEN: dict[str, tuple[Damage, str]] = {
    "no equity at all": (unlocked("delete from equity_points"), "PROT_ERROR"),
    "equity too old": (unlocked(f"delete from equity_points where at > to_timestamp({MIDNIGHT_S})"), "PROT_ERROR"),
    "no peak above nothing": (unlocked("update equity_points set equity_quote = 0"), "PROT_ERROR"),
    "the day began with nothing": (
        unlocked(f"update equity_points set equity_quote = 0 where at = to_timestamp({MIDNIGHT_S})"),
        "PROT_ERROR",
    ),
    "closes are no numbers": (close_badly, "PROT_ERROR"),
    "no bars of the market": (unlocked("delete from regime_price_data_ohlc where driver = 'BTC' and timeframe = '1h'"), "PROT_ERROR"),
    "too few returns": (
        unlocked(
            f"delete from regime_price_data_ohlc where driver = 'BTC' and timeframe = '1h' and timestamp < to_timestamp({NOON_S - 36000})"
        ),
        "PROT_VOLATILITY",
    ),
    "a market that stands still": (
        unlocked("update regime_price_data_ohlc set open_usd = 100, high_usd = 100, low_usd = 100, close_usd = 100 where timeframe = '1h'"),
        "PROT_VOLATILITY",
    ),
    "a hard loss": (unlocked(f"update equity_points set equity_quote = 96900 where at = to_timestamp({NOON_S})"), "PROT_DAILY_LOSS"),
    "a deep drawdown": (sink, "PROT_DRAWDOWN"),
    "no required driver": (unlocked("delete from regime_price_data_ohlc where driver = 'ALT'"), "DATA_STALE"),
    "a flow that cannot be read": (unlocked("alter table ledger_entries rename column amount to gone"), "PROT_ERROR"),
}
"""Damage, and the code that an entry is refused with."""


@pytest.mark.fault_row("X53")
@pytest.mark.parametrize("broken", sorted(BROKEN))
def test_a_protection_that_cannot_be_judged_is_closed_for_entries_only(ready: SafetyDesk, broken: str, cells: Any) -> None:
    damage, code = BROKEN[broken]
    ready.flow(NOON_S - 60 * DAY_S - 30, 20, "AAVE")
    damage(ready)
    leave = an_entry(ready, leg=Leg.EXIT, side=Side.SELL, qty=Decimal(20), notional_quote=Decimal(2000), stop_price=None)
    passed = 0
    for _ in range(2):
        entry, leaving = judge(ready), judge(ready, leave)
        assert code in codes(entry)
        assert not entry.is_passed
        assert leaving.is_passed
        passed += 1
        ready.stores.close()  # a restart changes nothing
        ready.stores = PostgresStores(ready.url)
        ready.trading = type(ready.trading)(**{**fields_of(ready.trading), "stores": ready.stores})
    cells(run=2, passed=passed)


def fields_of(trading: Any) -> dict[str, Any]:
    return {name: getattr(trading, name) for name in trading.__dataclass_fields__}


def at_random(draw: random.Random) -> tuple[str, str, str]:
    """Damage one series that the decision needs: the statement, what it is called, and the code it must be refused with."""
    series = draw.choice(["regime:BTC", "regime:ALT", SERIES])
    timeframe = Timeframe.H1 if series == SERIES else draw.choice(CHANNEL_TIMEFRAMES)
    length = timeframe.seconds
    newest_s = timeframe.floor(NOON_S) - length
    table, key = (
        ("lowcap_price_data_ohlc", "token_contract = 'AAVE' and chain = 'binance'")
        if series == SERIES
        else ("regime_price_data_ohlc", f"driver = '{series.partition(':')[2]}'")
    )
    where = f"{key} and timeframe = '{timeframe.value}'"
    back = draw.randrange(1, 50)
    at_s = newest_s - length * back
    reason = draw.choice(["nan", "outlier", "disagrees"])
    kind = draw.choice(["stale", "unclosed", "gap", "thin", "quarantined", "frozen", "gone"])
    statement, code = {
        # four bars late is late on every timeframe
        "stale": (f"delete from {table} where {where} and timestamp > to_timestamp({newest_s - 4 * length})", "DATA_STALE"),
        "unclosed": (
            f"update {table} set is_final = false where {where} and timestamp > to_timestamp({newest_s - 4 * length})",
            "DATA_STALE",
        ),
        "gap": (
            "insert into bar_gaps (series, timeframe, timestamp, source, reason)"
            f" values ('{series}', '{timeframe.value}', to_timestamp({at_s}), 'x', 'missing')",
            "DATA_GAP",
        ),
        "thin": (f"delete from {table} where {where} and extract(epoch from timestamp)::bigint / {length} % 7 = 3", "COVERAGE_LOW"),
        "quarantined": (
            "insert into bar_quarantine (series, timeframe, timestamp, source, close, reason)"
            f" values ('{series}', '{timeframe.value}', to_timestamp({at_s}), 'x', 'NaN', '{reason}')",
            "DATA_QUARANTINED",
        ),
        "frozen": (
            "insert into bar_validity (series, timeframe, timestamp, score, gaps, flat, outliers, agreement, parts)"
            f" values ('{series}', '{timeframe.value}', to_timestamp({newest_s}), {draw.uniform(0, 0.49):.3f}, 1, 0.1, 1, 1, 1)",
            "DATA_QUARANTINED",
        ),
        "gone": (f"delete from {table} where {where}", "DATA_STALE"),
    }[kind]
    return statement, kind, code


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault_row("X39")
def test_no_bad_series_lets_an_entry_pass(ready: SafetyDesk, cells: Any) -> None:
    with ready.stores.open() as work:
        account = read_account(work, ready.trading, 1000 * NOON_S, trips=(), venue=VenueState(is_up=True))
        rules = work.safety.load_rules("paper")[SYMBOL]
    view = SymbolView(rules, None, Quote(Decimal("99.99"), Decimal("100.01"), 0), Decimal(100), Decimal(5000), is_major=True)
    draw, seen, refused = random.Random(7), Counter[str](), 0
    with psycopg.connect(ready.url) as conn:
        assert gate(ready, conn, account, view).is_passed
        for _ in range(N_TICKS):
            statement, kind, code = at_random(draw)
            verdict = gate(ready, conn, account, view, statement)
            seen[kind] += 1
            refused += code in codes(verdict) and not verdict.is_passed
        assert gate(ready, conn, account, view).is_passed
    assert len(seen) == 7
    cells(run=N_TICKS, passed=refused)


def gate(on: SafetyDesk, conn: psycopg.Connection, account: AccountView, view: SymbolView, damage: str = "") -> GateVerdict:
    """Judge an entry on the series as they are after some damage, which is undone."""
    wanted = required_series(SERIES, Timeframe.H1)
    if damage:
        conn.execute(damage)  # type: ignore[arg-type]
    health = read_series_health(PostgresWork(conn), wanted, NOON_S, on.trading.protections)
    conn.rollback()
    order = an_entry(on)
    series = pick_series(health, wanted, NOON_S, NOON_S)
    symbol = SymbolView(view.rules, series, view.quote, view.mark, view.allocation_left_quote, is_major=True)
    return run_gate(order, build_gate_view(account, order, symbol), on.trading.limits)
