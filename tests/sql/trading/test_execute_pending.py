"""A turn of the executor: what it sends, in which order, and what it makes of every kind of answer."""

from regime_pipeline.execution.order_states import OrderState
from tests.trading_desk import Desk

S = OrderState


def test_an_entry_is_sent_once_and_filled(desk: Desk) -> None:
    order_id = desk.intend()
    summary = desk.execute()
    assert summary.has_lease
    assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.OPEN]
    desk.fake.fill(order_id, "0.4")
    desk.advance(2)
    desk.execute()
    assert desk.state(order_id) is S.PARTIAL
    desk.fake.fill(order_id, "0.6")
    desk.advance(2)
    desk.execute()
    assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.OPEN, S.PARTIAL, S.FILLED]
    assert len(desk.fake.creates) == 1
