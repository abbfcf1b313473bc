"""Whole lives of orders at the paper broker: our ledger and the broker's book, kept apart, say the same to the last digit (G2, G10)."""

from collections.abc import Iterator
from decimal import Decimal
from random import Random

import pytest

from regime_pipeline.execution.order_states import LIVE, OrderState
from regime_pipeline.ports import Ok, TimeInForce
from regime_pipeline.risk.purpose import Leg
from regime_pipeline.services.trading.open_account import open_account
from regime_pipeline.services.trading.settle import settle
from tests.builders import T0
from tests.papered import PaperDesk
from tests.trading_desk import ACCOUNT, Crash, Desk

S = OrderState
D = Decimal


@pytest.fixture
def paper(database: str) -> Iterator[PaperDesk]:
    paper = PaperDesk(database, cash="0")
    yield paper
    paper.broker.close()


@pytest.fixture
def desk(paper: PaperDesk) -> Desk:
    desk = Desk(paper.url, paper.broker, paper.clock)
    open_account(desk.trading)
    return desk


def compare_books(desk: Desk, paper: PaperDesk) -> None:
    """Every balance, and every trade, on both sides."""
    told = paper.broker.fetch_balances()
    assert isinstance(told, Ok)
    ledger = dict(
        desk.select(
            "select asset, sum(balance) from ledger_balances where ledger_account = 'WALLET' group by asset having sum(balance) <> 0"
        )
    )
    assert ledger == {asset: balance.total for asset, balance in told.value.items()}
    ours = desk.select("select venue_trade_id, qty, price, fee_amount, fee_asset from fills order by venue_trade_id::int")
    trades = paper.broker.fetch_fills(paper.symbol, 0)
    assert isinstance(trades, Ok)
    assert ours == [(fill.venue_trade_id, fill.qty, fill.price, fill.fee_amount, fill.fee_asset) for fill in trades.value]


def live(desk: Desk) -> int:
    """Orders that have not ended."""
    return int(desk.select("select count(*) from orders where state = any(%s)", sorted(LIVE))[0][0])


def test_opening_an_account_twice_gives_the_money_once(desk: Desk, paper: PaperDesk) -> None:
    assert not open_account(desk.trading)
    assert paper.balance("USDT").total == 100_000
    compare_books(desk, paper)


def test_an_entry_and_its_exit(desk: Desk, paper: PaperDesk) -> None:
    entry = desk.intend(qty=D(2), limit_price=D("100.3"))
    desk.execute()
    assert desk.state(entry) is S.OPEN
    paper.pass_minute()
    desk.execute()
    assert (desk.state(entry), desk.order(entry).filled) == (S.FILLED, 2)
    exit_ = desk.intend(Leg.EXIT, qty=D("1.998"), limit_price=D("99.5"), bar_close_s=T0 + 13 * 3600)
    desk.execute()
    paper.pass_minute(101)
    desk.execute()
    assert desk.state(exit_) is S.FILLED
    compare_books(desk, paper)
    with desk.stores.open() as work:
        report = settle(work, ACCOUNT, int(paper.clock.now_s()) - 3600, int(paper.clock.now_s()))
    assert (report.is_flat, report.is_explained, report.n_fills) == (True, True, 2)
    assert paper.balance("USDT").total == 100_000 + report.net_pnl


def test_an_entry_that_nobody_fills_is_swept_and_ends(desk: Desk, paper: PaperDesk) -> None:
    entry = desk.intend(qty=D(2), limit_price=D(95))
    desk.execute()
    for _ in range(3):
        paper.pass_minute()
        desk.execute()
        desk.advance(3)
        desk.execute()
    assert desk.state(entry) is S.CANCELLED
    assert desk.path(entry) == [S.INTENT, S.SUBMITTING, S.OPEN, S.CANCEL_REQUESTED, S.CANCELLED]
    compare_books(desk, paper)


@pytest.mark.parametrize("seed", range(3))
def test_random_lives_with_crashes_leave_both_books_the_same(desk: Desk, paper: PaperDesk, seed: int) -> None:
    random, crashes = Random(seed), 0
    points = ("before_wire", "after_wire", "after_answer", "before_fill", "mid_fills", "after_fills", "after_step", "after_cancel_wire")
    for minute in range(25):
        bar = {"bar_close_s": T0 + (13 + minute) * 3600}
        if random.random() < 0.6:
            price = D(random.choice(("100.5", "100.05", "99.4")))
            tif = random.choice((TimeInForce.GTC, TimeInForce.IOC))
            desk.intend(qty=D(random.randint(100, 3000)) / 1000, limit_price=price, tif=tif, **bar)
        held = paper.balance("AAVE").free.quantize(D("0.001"), "ROUND_DOWN")
        if held > D("0.1") and random.random() < 0.6:
            desk.intend(random.choice((Leg.EXIT, Leg.TRIM)), qty=held, limit_price=D(random.choice(("99.5", "100.6"))), **bar)
        if random.random() < 0.4:
            desk.crash_at = random.choice(points)
        for _ in range(4):
            try:
                desk.execute()
            except Crash:
                desk.end_leases()
                desk, crashes = desk.another(), crashes + 1
            desk.advance(random.choice((1, 2, 6)))
        paper.pass_minute(100 + random.randint(-60, 60) / 100, high=101, low=99, base=random.choice((5, 40, 1000)))
    for _ in range(60):
        if not live(desk):
            break
        desk.crash_at = None
        paper.pass_minute()
        desk.execute()
        desk.advance(5)
        desk.execute()
    assert live(desk) == 0
    compare_books(desk, paper)
    assert desk.select("select client_order_id from orders group by client_order_id having count(*) > 1") == []
    assert not set(desk.incidents()) & {"FILL_CONFLICT", "OVERFILL", "FEE_UNPRICED"}
    assert crashes > 3
    assert len(paper.fills()) > 5
