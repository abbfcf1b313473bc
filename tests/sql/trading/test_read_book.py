"""What people see of the book: positions, orders, equity with its profit told three ways, and the daily digest."""

import json
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regime_pipeline.adapters.notify.file_notifier import FileNotifier
from regime_pipeline.cli import app
from regime_pipeline.errors import NotifyError
from regime_pipeline.ports import EquityRow, MoneySums
from regime_pipeline.services.trading.mark_equity import mark_equity
from regime_pipeline.services.trading.read_book import compute_pnl, find_drawdown, read_equity, read_marks, read_orders, read_positions
from regime_pipeline.services.trading.send_digest import DigestTerms, send_digest
from tests.alerts import FakeNotifier
from tests.tick_desk import ACCOUNT, CLOSE_S, HOUR_S, STRATEGY, TickDesk, desk

__all__ = ["desk"]
D = Decimal
BOOK = "onchain_crypto"
TERMS = DigestTerms("alpha", ACCOUNT, BOOK, "USDT", is_trading=True)


@pytest.fixture
def held(desk: TickDesk) -> TickDesk:
    """Have bought 14.955 AAVE at 100.30, and marked the account at noon and an hour later."""
    with desk.stores.open() as work:
        mark_equity(work, ACCOUNT, CLOSE_S)
    desk.fake.fills_at_once = True
    desk.buy_signal("AAVE")
    desk.bar("LINK", state="S1")
    desk.tick()
    desk.settle()
    with desk.stores.open() as work:
        mark_equity(work, ACCOUNT, CLOSE_S + HOUR_S)
    return desk


def test_a_position_shows_what_is_held_and_why(held: TickDesk) -> None:
    with held.stores.open() as work:
        (aave,) = read_positions(work, ACCOUNT, BOOK, CLOSE_S + HOUR_S)
        everything = read_positions(work, ACCOUNT, BOOK, CLOSE_S + HOUR_S, with_flat=True)
    row = aave.row
    fee = D(held.execute("select coalesce(sum(fee_amount), 0) from fills where fee_asset = 'AAVE'")[0][0])
    assert row.quantity == D("14.955") - fee
    assert (row.contract, row.strategy, row.status, row.outcome, row.rule, row.codes) == ("AAVE", STRATEGY, "active", "act", "5", ())
    assert aave.mark is not None
    assert aave.value == row.quantity * aave.mark
    assert aave.total_pnl == row.quantity * aave.mark - row.allocated
    assert [each.row.contract for each in everything] == ["AAVE", "LINK"]
    assert everything[1].row.codes == ("CONDITION_NOT_MET",)


def test_an_order_shows_its_fills_and_live_ones_alone_where_asked(held: TickDesk) -> None:
    with held.stores.open() as work:
        (order,) = read_orders(work, ACCOUNT, 10)
        assert read_orders(work, ACCOUNT, 10, live_only=True) == []
        assert work.book.count_orders(ACCOUNT, 0) == {"FILLED": 1}
    assert (order.symbol, order.leg, order.side, order.state) == ("AAVE/USDT", "entry", "buy", "FILLED")
    assert (order.qty, order.filled, order.avg_price) == (D("14.955"), D("14.955"), D("100.3"))


def test_the_profit_is_the_same_by_marks_by_ledger_and_by_fills(held: TickDesk) -> None:
    with held.stores.open() as work:
        found = read_equity(work, ACCOUNT, "USDT")
    assert found.last is not None
    assert found.pnl is not None
    assert found.opening == 100_000
    assert found.pnl.agree
    assert found.pnl.equity == found.last.equity - 100_000
    # by hand: what is held at its mark, less 14.955 x 100.30 and what fees took in quote
    (qty, mark), fees = found.last.holdings["AAVE/USDT"], held.execute("select fee_asset, sum(fee_amount) from fills group by 1")
    quote_fees = sum((fee for asset, fee in fees if asset == "USDT"), D(0))
    assert found.pnl.fills == qty * mark - D("14.955") * D("100.3") - quote_fees
    assert len(found.curve) == 2


def test_a_book_that_does_not_add_up_is_found(held: TickDesk) -> None:
    with held.stores.open() as work:
        assert work.book.find_balance_faults(ACCOUNT) == []
        assert work.book.find_position_faults(ACCOUNT) == []
    held.execute("update ledger_balances set balance = balance + 1 where asset = 'AAVE' and ledger_account = 'WALLET'")
    with held.stores.open() as work:
        (balance,), (position,) = work.book.find_balance_faults(ACCOUNT), work.book.find_position_faults(ACCOUNT)
        pnl = read_equity(work, ACCOUNT, "USDT").pnl
    assert (balance.scope, balance.actual - balance.expected) == (f"{STRATEGY} WALLET AAVE", 1)
    assert (position.scope, position.actual - position.expected) == (f"{STRATEGY} AAVE", 1)
    assert pnl is not None
    assert not pnl.agree


def test_orders_stuck_in_unknown_are_found(held: TickDesk) -> None:
    held.execute("alter table orders disable trigger orders_step")
    held.execute("update orders set state = 'UNKNOWN', unknown_at = to_timestamp(%s)", CLOSE_S)
    with held.stores.open() as work:
        assert work.book.find_stuck_orders(ACCOUNT, CLOSE_S) == []
        assert len(work.book.find_stuck_orders(ACCOUNT, CLOSE_S + 1)) == 1


def test_a_long_curve_is_thinned_to_its_ends_and_even_steps(held: TickDesk) -> None:
    held.execute(
        "insert into equity_points (account, at, equity_quote, cash_quote)"
        " select 'other', to_timestamp(n), n, n from generate_series(1, 1000) as n"
    )
    with held.stores.open() as work:
        points = [point.at_s for point in work.book.load_equity("other", 0, 100)]
    assert (points[0], points[-1]) == (1, 1000)
    assert 100 <= len(points) <= 102
    assert max(later - before for before, later in pairwise(points)) <= 10


def test_codes_are_counted_per_strategy_with_the_lines_in_all(held: TickDesk) -> None:
    with held.stores.open() as work:
        (count,) = work.book.count_codes(ACCOUNT, 0)
    assert (count.strategy, count.code, count.n_lines, count.n_of) == (STRATEGY, "CONDITION_NOT_MET", 1, 2)


def test_the_profit_follows_fees_in_any_asset_and_deposits() -> None:
    # 2 ETH for 200, a fee of 0.01 ETH and one of 0.001 BNB; then 50 were deposited. ETH at 110, BNB at 500.
    # 1.99 x 110 - 200 = 18.90 of ETH; the BNB came from outside: 0.1 of it, of which 0.001 x 500 = 0.50 is gone: 18.40 in all.
    point = EquityRow(0, D("1118.40") + 0, D(850), {"ETH/USDT": (D("1.99"), D(110)), "BNB/USDT": (D("0.099"), D(500))})
    sums = MoneySums(
        wallet={"USDT": D(850), "ETH": D("1.99"), "BNB": D("0.099")},
        external={"USDT": D(1050), "BNB": D("0.1")},
        traded={"ETH": D(2), "USDT": D(-200)},
        fees={"ETH": D("0.01"), "BNB": D("0.001")},
        n_fills=1,
    )
    pnl = compute_pnl(point, sums, read_marks(point, "USDT"))
    assert pnl.ledger == pnl.fills == D("18.40")
    assert pnl.equity == D("18.40")


def test_a_drawdown_is_measured_from_the_highest_before_it() -> None:
    curve = [EquityRow(at, D(value), D(0)) for at, value in enumerate((100, 120, 90, 110, 125, 124))]
    # deepest: from 120 to 90 is a quarter; the highest is 125
    assert find_drawdown(curve) == (D(125), D("0.25"))


def test_the_digest_says_what_was_made_held_ordered_and_refused(held: TickDesk, tmp_path: Path) -> None:
    held.execute("insert into incidents (kind, severity, scope) values ('LATE_FILL', 'warning', 'order:1')")
    path = tmp_path / "digest.jsonl"
    message = send_digest(held.stores, [FileNotifier(path)], TERMS, CLOSE_S + HOUR_S)
    with held.stores.open() as work:
        pnl = read_equity(work, ACCOUNT, "USDT").pnl
    assert pnl is not None
    assert f"profit since the begin {pnl.equity:+,.2f}" in message.body
    assert "positions: 1" in message.body
    assert "  AAVE 1h: " in message.body
    assert "orders: 1 FILLED" in message.body
    assert f"{STRATEGY}, of 2 lines: CONDITION_NOT_MET 1" in message.body
    assert "incident 1 LATE_FILL order:1 (warning)" in message.body
    assert json.loads(path.read_text())["event"] == "digest"


def test_a_digest_that_a_channel_refuses_reaches_the_others_and_fails_in_sight(held: TickDesk) -> None:
    deaf, heard = FakeNotifier("tgram-1", refuses=True), FakeNotifier("file")
    with pytest.raises(NotifyError, match=r"not taken by tgram-1: channel tgram-1 is shut"):
        send_digest(held.stores, [deaf, heard], TERMS, CLOSE_S + HOUR_S)
    assert len(heard.sent) == 1


def test_an_account_that_trades_nothing_yet_has_a_digest_too(desk: TickDesk) -> None:
    message = send_digest(desk.stores, [], TERMS, CLOSE_S)
    assert message.title == f"[alpha] {ACCOUNT}"
    assert "the account has not been marked yet" in message.body
    assert "positions: none" in message.body


def test_the_commands_print_the_book(held: TickDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_DATABASE_URL", held.url)
    monkeypatch.setenv("REGIME_DAGSTER_DATABASE_URL", held.url)
    monkeypatch.setenv("REGIME_TRADING_ACCOUNT", ACCOUNT)
    run = CliRunner().invoke
    shown = {name: run(app, [name]) for name in ("positions", "orders", "equity")}
    assert {name: result.exit_code for name, result in shown.items()} == {"positions": 0, "orders": 0, "equity": 0}
    documents = {name: json.loads(run(app, [name, "--json"]).stdout) for name in shown}
    assert documents["positions"]["positions"][0]["contract"] == "AAVE"
    assert documents["orders"]["orders"][0]["qty"] == "14.955000000000000000"
    pnl = documents["equity"]["pnl"]
    assert pnl["equity"] == pnl["ledger"] == pnl["fills"]
    assert run(app, ["orders", "--live", "--json"]).stdout.replace("\n", "").replace(" ", "").endswith('"orders":[]}')
    assert "positions: 1" in run(app, ["digest"]).stdout
    assert json.loads(run(app, ["digest", "--json"]).stdout)["positions"] == 1
    held.execute("update ledger_balances set balance = balance + 1 where asset = 'AAVE' and ledger_account = 'WALLET'")
    assert run(app, ["equity"]).exit_code == 1
