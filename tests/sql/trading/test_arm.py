"""The arm of real money: a person's row, a day at most, and nothing live without all three parts."""

from dataclasses import replace
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pytest

from regime_pipeline.errors import LiveNotArmedError
from regime_pipeline.risk.arm import Mode, fingerprint_of
from regime_pipeline.risk.gate import run_gate
from regime_pipeline.services.trading.arm_account import ArmOrder, arm_account, disarm_account
from regime_pipeline.services.trading.build_gate_view import SymbolView, build_gate_view
from regime_pipeline.services.trading.read_account import read_account
from tests.safety_desk import ACCOUNT, NOON_S, SafetyDesk
from tests.sql.trading.test_gate_view import an_entry

KEY = fingerprint_of("salt-7f", "EXAMPLEKEY0001")
DAY_S = 86_400


@pytest.fixture
def desk(database: str, tmp_path: Path) -> SafetyDesk:
    """A desk whose process brings its two parts of the arm."""
    opened = SafetyDesk(database, tmp_path)
    terms = replace(opened.trading.terms, mode=Mode.LIVE, key_fingerprint=KEY, acknowledged_account=ACCOUNT)
    opened.trading = replace(opened.trading, terms=terms)
    return opened


def arm(desk: SafetyDesk, **changes: Any) -> None:
    fields: dict[str, Any] = {
        "account": ACCOUNT,
        "fingerprint": KEY,
        "max_order_quote": Decimal(1500),
        "max_day_quote": Decimal(5000),
        "actor": "ada",
        "reason": "first day",
    }
    with desk.stores.open() as work:
        arm_account(work, ArmOrder(**{**fields, **changes}), desk.now_s)


def is_refused(desk: SafetyDesk, quote: str = "15", *, after: str | None = None) -> list[str]:
    """Ask the gate for an entry of so much: what of the arm it misses. `after` another one of the same tick, where that is given."""
    order, before = (
        an_entry(desk, mode=desk.trading.terms.mode, qty=Decimal(each) / 100, notional_quote=Decimal(each))
        for each in (quote, after or "1")
    )
    with desk.stores.open() as work:
        account = read_account(work, desk.trading, 1000 * desk.now_s, trips=())
    account = account if after is None else account.with_order(before, before.qty)
    view = build_gate_view(account, order, SymbolView(None, None, None, None))
    return [finding.detail for finding in run_gate(order, view, desk.trading.limits).findings if finding.code == "NOT_ARMED"]


def test_with_all_three_parts_it_is_armed(desk: SafetyDesk) -> None:
    arm(desk)
    assert is_refused(desk) == []


@pytest.mark.parametrize("parts", [parts for parts in product((True, False), repeat=3) if not all(parts)])
def test_each_partial_combination_is_refused_or_not_live(desk: SafetyDesk, parts: tuple[bool, bool, bool]) -> None:
    is_live, is_acknowledged, has_row = parts
    if not is_live:
        desk.trading = replace(desk.trading, terms=replace(desk.trading.terms, mode=Mode.PAPER))
    if not is_acknowledged:
        desk.trading = replace(desk.trading, terms=replace(desk.trading.terms, acknowledged_account=None))
    if has_row:
        arm(desk)
    if is_live:
        assert is_refused(desk)
    else:  # nothing live can come of it: an order for live is refused by its mode
        order = an_entry(desk, mode=Mode.LIVE)
        with desk.stores.open() as work:
            account = read_account(work, desk.trading, 1000 * desk.now_s, trips=())
        view = build_gate_view(account, order, SymbolView(None, None, None, None))
        assert "MODE_MISMATCH" in {code.value for code in run_gate(order, view, desk.trading.limits).codes}


@pytest.mark.parametrize(
    "changes", [{"fingerprint": fingerprint_of("salt-7f", "OTHERKEY")}, {"account": "binance-other"}, {"max_order_quote": Decimal(14)}]
)
def test_another_key_account_or_a_smaller_limit_is_not_this_arm(desk: SafetyDesk, changes: dict[str, Any]) -> None:
    arm(desk, **changes)
    assert is_refused(desk)


@pytest.mark.parametrize(("age_s", "is_armed"), [(0, True), (DAY_S - 1, True), (DAY_S, False), (DAY_S + 1, False)])
def test_it_ends_to_the_second(desk: SafetyDesk, age_s: int, *, is_armed: bool) -> None:
    arm(desk)
    desk.go_to(NOON_S + age_s)
    assert (is_refused(desk) == []) is is_armed


def test_what_was_traded_today_is_taken_off_the_day(desk: SafetyDesk) -> None:
    arm(desk)
    desk.execute(
        "insert into fills (venue, account, market_type, symbol, fill_key, venue_order_id, venue_trade_id, side, qty, price, venue_ts)"
        " values ('paper', %s, 'spot', 'AAVE/USDT', '1', '1', '1', 'buy', 49.9, 100, to_timestamp(%s))",
        ACCOUNT, NOON_S - 60,
    )  # fmt: skip
    (why,) = is_refused(desk)
    assert why.startswith("notional was 15.00, the arm leaves 10.0")


def send(desk: SafetyDesk, at_s: int) -> None:
    """Send an order at an instant, long done."""
    desk.execute(
        "insert into order_intents (client_order_id, account, strategy, symbol, bar_close, leg, seq, purpose, side, type, qty, limit_price,"
        " reduce_only, tif, mode, origin, payload_hash, decide_by) values (lpad(%s::text, 32, '0'), %s, 'core-1h', 'AAVE/USDT',"
        " to_timestamp(%s), 'entry', 0, 'entry', 'buy', 'limit', 1, 1, false, 'GTC', 'live', 'strategy', '', now())",
        at_s, ACCOUNT, at_s,
    )  # fmt: skip
    desk.execute(
        "insert into orders (client_order_id, venue, account, strategy, symbol, purpose, state)"
        " values (lpad(%s::text, 32, '0'), 'binance', %s, 'core-1h', 'AAVE/USDT', 'entry', 'INTENT')",
        at_s, ACCOUNT,
    )  # fmt: skip
    desk.execute("update orders set state = 'REJECTED', version = 1, sent_at = to_timestamp(%s) where state = 'INTENT'", at_s)


def test_the_first_order_of_the_day_is_small_and_is_compared_before_the_next(desk: SafetyDesk) -> None:
    arm(desk)
    send(desk, NOON_S - DAY_S)  # yesterday's
    assert is_refused(desk, "20") == []
    assert is_refused(desk, "21") == ["notional was 21.00, the arm leaves 20 per order"]
    assert is_refused(desk, "15", after="15") == ["notional was 15.00, the arm leaves 0 per order"]
    send(desk, NOON_S - 60)
    assert is_refused(desk, "15") == ["notional was 15.00, the arm leaves 0 per order"]
    compare(desk, "findings")
    assert is_refused(desk, "15")
    compare(desk, "ok")
    assert is_refused(desk, "1500") == []
    desk.go_to(NOON_S + DAY_S // 2)  # past midnight the next first order is due
    assert is_refused(desk, "21")


def compare(desk: SafetyDesk, status: str) -> None:
    """Compare with the venue half a minute ago."""
    desk.execute(
        "insert into reconciliation_runs (account, kind, status, began_at, ended_at)"
        " values (%s, 'full', %s, to_timestamp(%s), to_timestamp(%s))",
        ACCOUNT, status, desk.now_s - 30, desk.now_s - 29,
    )  # fmt: skip


def test_taking_it_back_counts_at_once_and_is_kept(desk: SafetyDesk) -> None:
    arm(desk)
    with desk.stores.open() as work:
        assert disarm_account(work, ACCOUNT, "grace", "going home", desk.now_s)
        assert not disarm_account(work, ACCOUNT, "grace", "going home", desk.now_s)
    assert is_refused(desk)
    assert desk.execute("select evidence ->> 'by', closed_at is not null from incidents") == [("grace", True)]


def test_a_second_arm_ends_the_first(desk: SafetyDesk) -> None:
    arm(desk)
    desk.go_to(NOON_S + 3600)
    arm(desk, max_order_quote=Decimal(2000))
    assert desk.execute("select max_order_quote::int, ended_at is null from arm order by id") == [(1500, False), (2000, True)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"actor": " "}, "name a person"),
        ({"reason": ""}, "name a person and a reason"),
        ({"hours": 24.01}, "at most 24"),
        ({"hours": 0.0}, "more than 0"),
        ({"hours": -1.0}, "more than 0"),
        ({"max_order_quote": Decimal(6000)}, "more than its whole day"),
    ],
)
def test_an_arm_that_says_too_little_or_too_much_is_refused(desk: SafetyDesk, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(LiveNotArmedError, match=words):
        arm(desk, **changes)
    assert desk.execute("select count(*) from arm") == [(0,)]


def test_the_table_itself_knows_no_longer_arm(desk: SafetyDesk) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        desk.execute(
            "insert into arm (account, fingerprint, max_order_quote, max_day_quote, started_at, expires_at, actor, reason)"
            " values ('a', 'f', 1, 1, now(), now() + interval '24 hours 1 second', 'ada', 'why')"
        )
