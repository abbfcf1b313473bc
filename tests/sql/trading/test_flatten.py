"""Flattening after a hard stop: only where it is configured, only what is known, in slices, until flat."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from regime_pipeline.adapters.latch_file import LatchFile
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.ports import TimeInForce
from regime_pipeline.risk.kill_switch import Level, Trigger
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.cancel_round import KillProgress
from regime_pipeline.services.trading.deliver_kill import deliver_kill
from regime_pipeline.services.trading.flatten import find_cause, flatten
from regime_pipeline.services.trading.kill_levels import raise_level
from regime_pipeline.services.trading.open_account import open_account
from tests.sql.trading.test_guard_stops import StopDesk
from tests.trading_desk import ACCOUNT, SYMBOL

D = Decimal


class FlattenDesk(StopDesk):
    """A desk that sells what it holds when a drawdown stops everything."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(url, latch=LatchFile(folder / "state" / "kill.latch"))
        self.trading = replace(self.trading, terms=replace(self.trading.terms, flatten_on=frozenset({"drawdown_kill"})))
        self.progress = KillProgress()

    def stop_hard(self, trigger: Trigger = Trigger.DRAWDOWN_KILL) -> None:
        with self.stores.open() as work:
            raise_level(work, self.trading, trigger, "seen")

    def deliver(self, seconds: int = 8) -> None:
        """Let the executor deliver and send for a while."""
        for _ in range(seconds):
            deliver_kill(self.trading, self.progress)
            self.execute()
            self.advance(1)

    def flattens(self) -> list[tuple[str, Decimal]]:
        """State and quantity of every flatten order, oldest first."""
        return self.select(  # type: ignore[return-value]
            "select o.state, i.qty from orders as o join order_intents as i using (client_order_id) where i.leg = 'flatten' order by i.seq"
        )

    def held(self) -> Decimal:
        rows = self.select("select sum(balance) from ledger_balances where asset = 'AAVE' and ledger_account = 'WALLET'")
        return D(rows[0][0])


@pytest.fixture
def desk(database: str, tmp_path: Path) -> FlattenDesk:
    desk = FlattenDesk(database, tmp_path)
    desk.list_market()
    open_account(desk.trading)
    desk.enter("10")
    return desk


def test_it_sells_what_is_held_once_nothing_is_left_to_cancel(desk: FlattenDesk) -> None:
    desk.intend(Leg.TRIM, qty=D(2), limit_price=D(120))
    desk.execute()
    desk.stop_hard()
    desk.fake.fills_at_once = True
    desk.deliver()
    assert [state for state, _ in desk.flattens()] == ["FILLED"]
    assert desk.flattens()[0][1] == D("9.990")  # ten less the fee of the purchase, the trim cancelled first
    assert desk.held() == 0
    spec = desk.fake.creates[-1][0]
    assert (spec.side, spec.tif, spec.limit_price) == (Side.SELL, TimeInForce.IOC, D(99))
    desk.deliver()
    assert len(desk.flattens()) == 1


def test_what_an_order_leaves_is_sold_by_the_next_that_replaces_it(desk: FlattenDesk) -> None:
    desk.stop_hard()
    desk.deliver(20)  # nobody buys: each order ends unfilled
    orders = desk.select("select client_order_id, replaces_id from order_intents where leg = 'flatten' order by seq")
    assert len(orders) >= 2
    assert [replaced for _, replaced in orders[1:]] == [order for order, _ in orders[:-1]]
    assert desk.select("select count(*) from orders where state in ('OPEN', 'INTENT', 'SUBMITTING')")[0][0] <= 1


def test_a_slice_is_no_larger_than_an_order_may_be(desk: FlattenDesk) -> None:
    desk.trading = replace(desk.trading, limits=desk.trading.limits.model_copy(update={"max_order_quote": D(400)}))
    desk.stop_hard()
    desk.fake.fills_at_once = True
    desk.deliver(40)
    assert [qty for _, qty in desk.flattens()] == [D(4), D(4), D("1.99")]
    assert desk.held() == 0


@pytest.mark.parametrize("how", ["not configured", "another trigger", "process stop", "below"])
def test_otherwise_nothing_is_sold(desk: FlattenDesk, how: str) -> None:
    if how == "not configured":
        desk.trading = replace(desk.trading, terms=replace(desk.trading.terms, flatten_on=frozenset()))
    desk.stop_hard(
        Trigger.CANCEL_FAILURES if how == "another trigger" else Trigger.RECON_LARGE if how == "below" else Trigger.DRAWDOWN_KILL
    )
    if how == "process stop":
        desk.stop_hard(Trigger.JOURNAL_BROKEN)
    desk.deliver()
    assert desk.flattens() == []
    assert desk.held() > 9


def test_without_a_price_it_waits_and_says_so(desk: FlattenDesk) -> None:
    desk.stop_hard()
    desk.fake.failing = {"fetch_quote"}
    desk.deliver()
    assert desk.flattens() == []
    assert "FLATTEN_BLIND" in desk.incidents()


def test_two_executors_and_a_restart_write_the_same_orders(desk: FlattenDesk) -> None:
    desk.stop_hard()
    cause = find_cause(desk.trading.latch.read(), frozenset({"drawdown_kill"}))
    assert cause is not None
    first = flatten(desk.trading, cause)
    again = flatten(desk.trading, cause)
    assert (len(first.raised), again.raised) == (1, [])
    assert len(desk.flattens()) == 1


def test_an_exit_of_the_strategy_does_not_leave_under_a_hard_stop(desk: FlattenDesk) -> None:
    desk.stop_hard()
    order = desk.intend(Leg.EXIT, limit_price=D(99))
    desk.execute()
    assert desk.state(order) is OrderState.CANCELLED


def test_the_level_stays_when_all_is_sold(desk: FlattenDesk) -> None:
    desk.stop_hard()
    desk.fake.fills_at_once = True
    desk.deliver()
    with desk.stores.open() as work:
        assert [(s.source, s.level) for s in work.safety.load_switches(ACCOUNT)] == [("drawdown_kill", Level.HARD_STOP)]
    assert desk.select("select symbol from orders where purpose = 'exit'") == [(SYMBOL,)]
