"""The view that the gate judges on, from stored rows: whole, it lets an entry pass; each fact that is bad or missing refuses it."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from regime_pipeline.adapters.postgres.safety_facts import SafetyFacts
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import LiveRow, Quote
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.gate import run_gate
from regime_pipeline.risk.gate_view import GateVerdict, GateView, OrderRequest
from regime_pipeline.risk.kill_switch import Level, Scope, Switch
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.build_gate_view import SymbolView, build_gate_view, pick_series, read_series_health, required_series
from regime_pipeline.services.trading.judge_protections import judge_protections
from regime_pipeline.services.trading.read_account import AccountView, VenueState, judge_recon, probe_venue, read_account
from tests.builders import bars
from tests.safety_desk import ACCOUNT, DAY_S, MIDNIGHT_S, NOON_S, STRATEGY, SYMBOL, SafetyDesk, desk

__all__ = ["desk"]
SERIES = "token:AAVE:binance"


@pytest.fixture
def ready(desk: SafetyDesk) -> SafetyDesk:
    """A desk at which a plain entry passes."""
    desk.mark(MIDNIGHT_S, 100_000)
    desk.mark(NOON_S, 100_000)
    desk.flow(NOON_S - 60 * DAY_S - 60, 100_000)
    desk.execute(
        "insert into instrument_rules (venue, symbol, tick, step, min_qty, min_cost, maker_bps, taker_bps, is_active, read_at)"
        " values ('paper', %s, 0.01, 0.001, 0.001, 5, 10, 10, true, now())",
        SYMBOL,
    )
    reconcile(desk, "ok", 60)
    return desk


def reconcile(desk: SafetyDesk, status: str, age_s: int, kind: str = "full") -> None:
    desk.execute(
        "insert into reconciliation_runs (account, kind, status, began_at, ended_at)"
        " values (%s, %s, %s, to_timestamp(%s), to_timestamp(%s))",
        ACCOUNT, kind, status, desk.now_s - age_s - 1, desk.now_s - age_s,
    )  # fmt: skip


def an_entry(desk: SafetyDesk, **changes: Any) -> OrderRequest:
    fields: dict[str, Any] = {
        "client_order_id": "a" * 32,
        "account": ACCOUNT,
        "strategy": STRATEGY,
        "symbol": SYMBOL,
        "cluster": "mid",
        "leg": Leg.ENTRY,
        "side": Side.BUY,
        "qty": Decimal(10),
        "price": Decimal(100),
        "notional_quote": Decimal(1000),
        "origin": "strategy",
        "mode": Mode.PAPER,
        "decide_by_ms": 1000 * desk.now_s + 60_000,
        "stop_price": Decimal(97),
        "gap_quote": Decimal(10),
        "cost_quote": Decimal(2),
        "expected_move_quote": Decimal(60),
    }
    return OrderRequest(**{**fields, **changes})


def view_of(desk: SafetyDesk, order: OrderRequest, *, with_quote: bool = True, known: tuple[str, ...] = ()) -> GateView:
    """Read everything as a tick does."""
    with desk.stores.open() as work:
        wanted = required_series(SERIES, Timeframe.H1)
        health = read_series_health(work, wanted, desk.now_s, desk.trading.protections)
        trips = judge_protections(work, desk.trading, desk.now_s, drivers=health)
        account = read_account(
            work, desk.trading, 1000 * desk.now_s, trips=trips, venue=probe_venue(desk.trading, work), clusters={SYMBOL: "mid"}
        )
        rules = work.safety.load_rules("paper").get(SYMBOL)
        found = work.safety.load_known_ids([order.client_order_id, *known])
    quote = Quote(Decimal("99.99"), Decimal("100.01"), 0) if with_quote else None
    symbol = SymbolView(
        rules, pick_series(health, wanted, NOON_S, desk.now_s), quote, Decimal(100), allocation_left_quote=Decimal(5000), is_major=True
    )
    return build_gate_view(account, order, symbol, found)


def judge(desk: SafetyDesk, order: OrderRequest | None = None, **words: Any) -> GateVerdict:
    asked = order or an_entry(desk)
    return run_gate(asked, view_of(desk, asked, **words), desk.trading.limits)


def codes(verdict: GateVerdict) -> set[str]:
    return {code.value for code in verdict.codes}


def test_whole_and_clean_an_entry_passes(ready: SafetyDesk) -> None:
    verdict = judge(ready)
    assert verdict.findings == ()
    assert verdict.is_passed


def kill_by_hand(desk: SafetyDesk) -> None:
    desk.latch.change(lambda _levels: (Switch(Scope(ACCOUNT, STRATEGY), Level.ENTRIES_OFF, "manual", "ada", "why", desk.now_s),))


def drop(table: str, where: str = "true") -> Callable[[SafetyDesk], None]:
    def run(desk: SafetyDesk) -> None:
        desk.execute(f"alter table {table} disable trigger user")
        desk.execute(f"delete from {table} where {where}")

    return run


def run_statement(statement: str) -> Callable[[SafetyDesk], None]:
    return lambda desk: desk.execute(statement) and None


def fill(qty: int, symbol: str = SYMBOL, price: int = 100, hour: int = 11) -> Callable[[SafetyDesk], None]:
    def run(desk: SafetyDesk) -> None:
        desk.execute(
            "insert into fills (venue, account, market_type, symbol, fill_key, venue_order_id, venue_trade_id, side, qty, price, venue_ts)"
            " values ('paper', %s, 'spot', %s, %s, '1', '1', 'buy', %s, %s, to_timestamp(%s))",
            ACCOUNT, symbol, f"{symbol}{qty}", qty, price, MIDNIGHT_S + 3600 * hour,
        )  # fmt: skip

    return run


def hold(qty: int, asset: str = "AAVE") -> Callable[[SafetyDesk], None]:
    return lambda desk: desk.flow(NOON_S - 60 * DAY_S - 30, qty, asset)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (kill_by_hand, "KILLED"),
        (drop("instrument_rules"), "SYMBOL_INACTIVE"),
        (run_statement("update instrument_rules set is_active = false"), "SYMBOL_INACTIVE"),
        (run_statement("update instrument_rules set min_cost = 2000"), "BELOW_MIN_COST"),
        (drop("lowcap_price_data_ohlc", "timestamp > to_timestamp(1780308000 - 4 * 3600)"), "DATA_STALE"),
        (drop("lowcap_price_data_ohlc", "timestamp = to_timestamp(1780315200 - 3600)"), "DATA_UNCLOSED"),
        (drop("lowcap_price_data_ohlc"), "DATA_STALE"),
        (drop("lowcap_price_data_ohlc", "extract(hour from timestamp) in (3, 4)"), "COVERAGE_LOW"),
        (
            run_statement(
                "insert into bar_gaps (series, timeframe, timestamp, source, reason)"
                " values ('token:AAVE:binance', '1h', to_timestamp(1780315200 - 7200), 'x', 'missing')"
            ),
            "DATA_GAP",
        ),
        (
            run_statement(
                "insert into bar_quarantine (series, timeframe, timestamp, source, close, reason)"
                " values ('token:AAVE:binance', '1h', to_timestamp(1780315200 - 7200), 'x', 9, 'outlier')"
            ),
            "DATA_QUARANTINED",
        ),
        (lambda desk: desk.fake.failing.add("fetch_time_ms"), "VENUE_DOWN"),
        (drop("reconciliation_runs"), "RECON_UNKNOWN"),
        (lambda desk: reconcile(desk, "findings", 10), "RECON_OPEN"),
        (lambda desk: reconcile(desk, "unknown", 10), "RECON_UNKNOWN"),
        (lambda desk: desk.mark(NOON_S - 30, 97_900), "PROT_DAILY_LOSS"),
        (drop("equity_points"), "PROT_ERROR"),
        (drop("equity_points"), "EQUITY_UNKNOWN"),
        (hold(-99_990, "USDT"), "CASH_RESERVE"),
        (hold(5, "UNPRICED"), "EQUITY_UNKNOWN"),
        (fill(6000), "ALLOCATION_CAP"),
    ],
)
def test_what_is_bad_or_missing_refuses_an_entry(ready: SafetyDesk, damage: Callable[[SafetyDesk], None], code: str) -> None:
    if code == "PROT_DAILY_LOSS":
        drop("equity_points", f"at = to_timestamp({NOON_S})")(ready)
    damage(ready)
    verdict = judge(ready)
    assert code in codes(verdict)
    assert not verdict.is_passed


def test_without_a_quote_spread_and_price_are_unknown(ready: SafetyDesk) -> None:
    assert codes(judge(ready, with_quote=False)) == {"SPREAD_TOO_WIDE", "PRICE_OUT_OF_BAND"}


def test_a_venue_that_was_not_asked_is_down(ready: SafetyDesk) -> None:
    with ready.stores.open() as work:
        account = read_account(work, ready.trading, 1000 * ready.now_s, trips=())
    order = an_entry(ready)
    view = build_gate_view(account, order, SymbolView(None, None, None, None))
    assert {"VENUE_DOWN", "RATE_LIMITED", "DATA_STALE"} <= codes(run_gate(order, view, ready.trading.limits))


def test_the_clock_of_the_venue_is_measured_on_the_way(ready: SafetyDesk) -> None:
    ready.trading.clock.offset_ms = None
    with ready.stores.open() as work:
        assert probe_venue(ready.trading, work) == VenueState(is_up=True, clock_offset_ms=0)
    assert ready.trading.clock.offset_ms == 0


def test_the_view_of_the_whole_account_is_exact(ready: SafetyDesk) -> None:
    ready.flow(NOON_S - 60 * DAY_S - 30, 20, "AAVE")
    ready.mark(NOON_S - 1, 101_000, {SYMBOL: {"qty": "20", "mark": "90"}})
    with ready.stores.open() as work:
        account = read_account(work, ready.trading, 1000 * ready.now_s, trips=(), marks={SYMBOL: Decimal(100)}, clusters={SYMBOL: "mid"})
    # 100,000 in cash and 20 x 100; 3 % of what is held may be lost; the day began at 100,000.
    assert (account.cash_quote, account.equity_quote) == (Decimal(100_000), Decimal(102_000))
    assert account.open_risk_frac is not None
    assert round(account.open_risk_frac * 102_000, 20) == 60
    assert account.day_loss_frac == Decimal("-0.02")
    assert [(each.symbol, each.cluster, each.qty, each.mark) for each in account.holdings] == [(SYMBOL, "mid", 20, 100)]


def test_what_fills_once_the_live_orders_are_read_is_in_the_holdings(ready: SafetyDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    load_live = SafetyFacts.load_live

    def fill_after(facts: SafetyFacts, account: str) -> list[LiveRow]:
        rows = load_live(facts, account)
        ready.flow(NOON_S - 60, 20, "AAVE")  # on a connection of its own, committed
        return rows

    monkeypatch.setattr(SafetyFacts, "load_live", fill_after)
    assert [(each.symbol, each.qty) for each in account_of(ready).holdings] == [(SYMBOL, 20)]


def test_orders_of_one_tick_count_each_other(ready: SafetyDesk) -> None:
    order = an_entry(ready)
    view = view_of(ready, order)
    account = account_of(ready)
    assert account.n_orders_last_min == 0
    after = account.with_order(order, Decimal(10))
    second = build_gate_view(after, an_entry(ready), SymbolView(view.rules, view.series, None, None))
    assert (after.n_orders_last_min, second.live_orders[0].remaining) == (1, 10)
    assert "LIVE_INTENT_EXISTS" in codes(run_gate(an_entry(ready), second, ready.trading.limits))


def test_an_exit_needs_none_of_it(ready: SafetyDesk) -> None:
    ready.flow(NOON_S - 60 * DAY_S - 30, 20, "AAVE")
    for table in ("equity_points", "reconciliation_runs", "lowcap_price_data_ohlc"):
        drop(table)(ready)
    ready.fake.failing.add("fetch_time_ms")
    leave = an_entry(ready, leg=Leg.EXIT, side=Side.SELL, qty=Decimal(20), notional_quote=Decimal(2000), stop_price=None)
    verdict = judge(ready, leave)
    assert verdict.is_passed
    assert {finding.code.value for finding in verdict.logged} >= {"DATA_STALE", "VENUE_DOWN"}


def test_an_id_that_exists_is_known(ready: SafetyDesk) -> None:
    ready.execute(
        "insert into order_intents (client_order_id, account, strategy, symbol, bar_close, leg, seq, purpose, side, type, qty, limit_price,"
        " reduce_only, tif, mode, origin, payload_hash, decide_by) values (repeat('a', 32), %s, %s, %s, now(), 'entry', 0, 'entry', 'buy',"
        " 'limit', 1, 100, false, 'GTC', 'paper', 'strategy', '', now())",
        ACCOUNT, STRATEGY, SYMBOL,
    )  # fmt: skip
    assert codes(judge(ready)) == {"DUPLICATE_KEY"}


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        ((("full", "ok", 60),), (60, True)),
        ((("full", "ok", 290), ("orders", "ok", 20)), (20, True)),
        ((("full", "ok", 601), ("orders", "ok", 20)), (601, True)),  # the full one is too old for the other to help
        ((("full", "ok", 60), ("orders", "findings", 20)), (20, False)),
        ((("full", "findings", 60), ("orders", "ok", 20)), (20, False)),
        ((("full", "unknown", 60), ("orders", "ok", 20)), (20, None)),
        ((("startup", "ok", 30),), (30, True)),
        ((("orders", "ok", 20),), (None, None)),
        ((), (None, None)),
    ],
)
def test_a_pass_over_orders_keeps_a_full_one_young(
    desk: SafetyDesk, passes: tuple[tuple[str, str, int], ...], expected: tuple[int | None, bool | None]
) -> None:
    for kind, status, age_s in passes:
        reconcile(desk, status, age_s, kind)
    with desk.stores.open() as work:
        assert judge_recon(work.safety.load_recon(ACCOUNT, desk.now_s), desk.now_s) == expected


def test_a_young_series_is_measured_from_its_first_bar(desk: SafetyDesk) -> None:
    young = bars([100.0] * 30, Timeframe.H1, NOON_S - 30 * 3600)
    desk.save_token(Timeframe.H1, young, "token:NEW:binance")
    with desk.stores.open() as work:
        key = ("token:NEW:binance", Timeframe.H1)
        health = read_series_health(work, [key], NOON_S, desk.trading.protections)[key]
    assert (health.coverage_frac, health.age_s) == (1, 0)


def test_bars_that_had_not_closed_then_do_not_exist(desk: SafetyDesk) -> None:
    key = (SERIES, Timeframe.H1)
    with desk.stores.open() as work:
        then = read_series_health(work, [key], NOON_S - 1800, desk.trading.protections)[key]
    assert then.age_s == 1800  # the bar that closed at 11:00


def test_live_needs_the_arm(ready: SafetyDesk) -> None:
    ready.trading = replace(ready.trading, terms=replace(ready.trading.terms, mode=Mode.LIVE))
    assert "NOT_ARMED" in codes(judge(ready, an_entry(ready, mode=Mode.LIVE)))
    assert codes(judge(ready)) >= {"MODE_MISMATCH"}


def account_of(desk: SafetyDesk) -> AccountView:
    with desk.stores.open() as work:
        return read_account(work, desk.trading, 1000 * desk.now_s, trips=())
