"""UNKNOWN orders: what is asked, when absence counts as proven, and what is never decided without a person."""

import json
from dataclasses import replace
from decimal import Decimal

import psycopg
import pytest

from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.risk.kill_switch import EVERYBODY, Level, Switch, Trigger
from regime_pipeline.risk.purpose import Leg
from tests.fakes_trading import lost
from tests.trading_desk import SYMBOL, Desk

S = OrderState
WHOLE_LADDER = ["fetch_order", "fetch_open_orders", "fetch_closed_orders", "fetch_fills", "fetch_balances"]


def unclear(desk: Desk, *, is_done: bool, symbol: str = SYMBOL, leg: Leg = Leg.ENTRY) -> str:
    """An order whose create was not answered, after the turn that sent it."""
    desk.fake.create_script.append(lost(is_done=is_done))
    order_id = desk.intend(leg, symbol=symbol)
    desk.execute()
    assert desk.state(order_id) is S.UNKNOWN
    desk.fake.reads.clear()
    return order_id


def looks_of(desk: Desk, order_id: str) -> list[tuple[float, str]]:
    """Seconds since the send and result of each look."""
    with desk.stores.open() as work:
        sent_ms = work.orders.load_orders([order_id])[order_id].sent_at_ms or 0
        return [((look.started_ms - sent_ms) / 1000, look.result.value) for look in work.orders.load_looks([order_id])[order_id]]


def run(desk: Desk, seconds: int) -> None:
    """A turn each second."""
    for _ in range(seconds):
        desk.advance(1)
        desk.execute()


def test_worked_example_absence_is_proven_by_the_third_clean_look_after_the_bound(desk: Desk) -> None:
    # sent at 0, window 5 s, clock 1 s, visibility 5 s: a clean look must begin after 11 s
    order_id = unclear(desk, is_done=False)
    run(desk, 14)
    assert looks_of(desk, order_id) == [(1, "clean"), (3, "clean"), (7, "clean")]
    assert desk.state(order_id) is S.UNKNOWN
    run(desk, 1)
    assert looks_of(desk, order_id)[3:] == [(15, "clean")]
    assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.UNKNOWN, S.NOT_FOUND]
    with desk.stores.open() as work:
        proof = work.orders.load_transitions(order_id)[-1].proof
    assert proof.code == "ABSENT"
    assert len(json.loads(json.dumps(proof.evidence))["looks"]) == 4
    assert len(desk.fake.creates) == 1


def test_a_look_asks_the_whole_ladder_and_ends_where_the_order_is_found(desk: Desk) -> None:
    order_id = unclear(desk, is_done=False)
    run(desk, 1)
    assert desk.fake.reads == WHOLE_LADDER
    desk.fake.reads.clear()
    desk.fake.place(desk.order(order_id).intent.spec)  # it arrives late
    run(desk, 2)
    assert desk.fake.reads == ["fetch_order"]
    assert desk.path(order_id)[-2:] == [S.UNKNOWN, S.OPEN]


@pytest.mark.parametrize("read", WHOLE_LADDER)
def test_a_read_that_fails_makes_its_look_say_nothing(desk: Desk, read: str) -> None:
    order_id = unclear(desk, is_done=False)
    desk.fake.failing = {read}
    run(desk, 30)
    assert {result for _, result in looks_of(desk, order_id)} == {"no_information"}
    assert desk.state(order_id) is S.UNKNOWN
    desk.fake.failing = set()
    run(desk, 90)
    # the clean looks that followed are three, and late enough
    assert [result for _, result in looks_of(desk, order_id)][-3:] == ["clean"] * 3
    assert desk.state(order_id) is S.NOT_FOUND


@pytest.mark.parametrize(
    ("failing", "found_by"),
    [({"fetch_order"}, "fetch_open_orders"), ({"fetch_order", "fetch_open_orders"}, "fetch_closed_orders")],
)
def test_each_rung_finds_the_order_where_those_above_it_fail(desk: Desk, failing: set[str], found_by: str) -> None:
    order_id = unclear(desk, is_done=True)
    desk.fake.failing = failing
    run(desk, 1)
    assert desk.fake.reads[-1] == found_by
    assert desk.state(order_id) is S.OPEN


def test_a_trade_that_no_order_of_ours_explains_is_no_absence(desk: Desk) -> None:
    order_id = unclear(desk, is_done=True)
    desk.fake.fill(order_id, "1")
    shown = desk.fake.orders.pop(order_id)  # traded, and shown by no list of orders
    run(desk, 30)
    assert desk.state(order_id) is S.UNKNOWN
    assert {result for _, result in looks_of(desk, order_id)} == {"unexplained"}  # the balance has moved too
    desk.fake.orders[order_id] = shown
    run(desk, 30)
    assert desk.state(order_id) is S.FILLED
    assert desk.select("select sum(qty) from fills") == [(Decimal(1),)]


def test_a_balance_that_nothing_explains_keeps_the_order_open_and_asks_for_a_person(desk: Desk) -> None:
    order_id = unclear(desk, is_done=False)
    desk.fake.balances["AAVE"] = Decimal("0.5")
    run(desk, 60)
    assert {result for _, result in looks_of(desk, order_id)} == {"unexplained"}
    assert (desk.state(order_id), desk.incidents()) == (S.UNKNOWN, ["ORDER_NEEDS_PERSON"])
    del desk.fake.balances["AAVE"]
    run(desk, 90)
    assert desk.state(order_id) is S.NOT_FOUND


def test_without_a_proven_expiry_nothing_is_given_up_by_itself(desk: Desk) -> None:
    profile = replace(desk.fake.traits.profile, expires=False)
    desk.fake.traits = replace(desk.fake.traits, profile=profile)
    order_id = unclear(desk, is_done=False)
    assert desk.order(order_id).request_expires_at_ms is None
    run(desk, 200)
    assert (desk.state(order_id), desk.incidents()) == (S.UNKNOWN, ["ORDER_NEEDS_PERSON"])


def test_an_order_that_the_venue_has_named_is_given_up_by_a_person_only(desk: Desk) -> None:
    order_id = desk.intend()
    desk.execute()
    with psycopg.connect(desk.url) as conn:  # as the reconciler does with an order that it cannot see any more
        conn.execute("update orders set state = 'UNKNOWN', version = version + 1, unknown_at = to_timestamp(%s)", (desk.now_ms / 1000,))
    desk.fake.hidden = {order_id}
    run(desk, 120)
    assert (desk.state(order_id), desk.incidents()) == (S.UNKNOWN, ["ORDER_NEEDS_PERSON"])
    desk.fake.hidden = set()
    run(desk, 30)
    assert desk.path(order_id)[-1] is not S.UNKNOWN


def test_an_order_under_our_id_that_is_not_what_we_sent_is_a_collision(desk: Desk) -> None:
    order_id = unclear(desk, is_done=True)
    desk.fake.orders[order_id] = replace(desk.fake.orders[order_id], qty=Decimal(5))
    run(desk, 30)
    assert (desk.state(order_id), desk.incidents()[0]) == (S.UNKNOWN, "ID_COLLISION")
    assert {result for _, result in looks_of(desk, order_id)} == {"unexplained"}


def test_a_duplicate_is_looked_up_and_adopted_when_it_is_ours(desk: Desk) -> None:
    order_id = desk.intend()
    desk.fake.place(desk.order(order_id).intent.spec)  # sent before a restore of the database
    desk.fake.fill(order_id, "1")
    desk.execute()
    with desk.stores.open() as work:
        assert work.orders.load_transitions(order_id)[-1].proof.answer_class == "DUPLICATE"
    run(desk, 1)
    assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.UNKNOWN, S.FILLED]


def test_unknown_for_more_than_five_minutes_is_reported(desk: Desk) -> None:
    unclear(desk, is_done=False)
    desk.fake.failing = {"fetch_balances"}
    desk.advance(300)
    assert desk.execute().triggers == frozenset()
    desk.advance(1)
    assert desk.execute().triggers == {Trigger.UNKNOWN_ORDER}


def test_ten_orders_are_looked_for_in_a_turn_those_that_wait_longest_first(desk: Desk) -> None:
    ids = []
    for i in range(12):
        desk.fake.create_script.append(lost(is_done=True))
        ids.append(desk.intend(symbol=f"T{i}/USDT"))
    desk.execute()
    desk.advance(1)
    before_s = desk.clock.now_s()
    summary = desk.execute()
    assert summary.looked == 10
    assert desk.clock.now_s() - before_s == pytest.approx(0.9)  # 100 ms apart
    assert sum(desk.state(order_id) is S.UNKNOWN for order_id in ids) == 2
    assert desk.execute().looked == 2


def test_a_kill_cancels_an_unclear_order_by_our_id_without_touching_its_state(desk: Desk) -> None:
    order_id = unclear(desk, is_done=True)
    desk.fake.hidden = {order_id}
    desk.latch.switches = (Switch(EVERYBODY, Level.REDUCE_ONLY, "manual", "alice", "drill", 0),)
    desk.execute()
    assert (desk.fake.cancels, desk.state(order_id)) == ([order_id], S.UNKNOWN)
    desk.execute()
    assert desk.fake.cancels == [order_id]  # again after a second, not at once
    desk.fake.hidden = set()
    run(desk, 3)
    assert desk.path(order_id)[-2:] == [S.UNKNOWN, S.CANCELLED]


def test_trades_counted_and_not_listed_keep_the_order_unknown(desk: Desk) -> None:
    order_id = unclear(desk, is_done=True)
    desk.fake.fill(order_id, "1")
    desk.fake.failing = {"fetch_fills"}
    run(desk, 10)
    assert desk.state(order_id) is S.UNKNOWN
    desk.fake.failing = set()
    run(desk, 15)
    assert desk.path(order_id)[-2:] == [S.UNKNOWN, S.FILLED]
