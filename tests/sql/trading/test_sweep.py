"""What must leave the venue: time to live, cancels that are asked again, exits that go through the book."""

from decimal import Decimal

import psycopg
import pytest

from regime_pipeline.execution.order_states import OrderState, VenueStatus
from regime_pipeline.ports import OrderType, TimeInForce
from regime_pipeline.risk.kill_switch import EVERYBODY, Level, Switch, Trigger
from regime_pipeline.risk.purpose import Leg
from tests.fakes_trading import lost, refused
from tests.trading_desk import SYMBOL, Desk

S = OrderState
OTHER = "PENDLE/USDT"


def code_of(desk: Desk, order_id: str, state: OrderState) -> str | None:
    with desk.stores.open() as work:
        return next(step.proof.code for step in work.orders.load_transitions(order_id) if step.new is state)


@pytest.mark.parametrize(("leg", "ttl_s"), [(Leg.ENTRY, 90), (Leg.ADD, 90), (Leg.TRIM, 30), (Leg.EXIT, 30)])
def test_an_order_past_its_time_is_cancelled_before_anything_new_is_sent(desk: Desk, leg: Leg, ttl_s: int) -> None:
    order_id = desk.intend(leg)
    desk.execute()
    desk.advance(ttl_s - 1)
    desk.execute()
    assert desk.state(order_id) is S.OPEN
    desk.advance(1)
    events: list[str] = []
    cancel, create = desk.fake.cancel_order, desk.fake.create_order
    desk.fake.cancel_order = lambda *given: (events.append("cancel"), cancel(*given))[1]  # type: ignore[method-assign]
    desk.fake.create_order = lambda *given: (events.append("create"), create(*given))[1]  # type: ignore[method-assign]
    desk.intend(symbol=OTHER)
    desk.execute()
    assert events[:2] == ["cancel", "create"]
    assert (desk.state(order_id), code_of(desk, order_id, S.CANCEL_REQUESTED)) == (S.CANCELLED, "TTL")


@pytest.mark.parametrize(("leg", "kind"), [(Leg.TP, OrderType.LIMIT), (Leg.SL, OrderType.STOP)])
def test_targets_and_stops_have_no_time_to_live(desk: Desk, leg: Leg, kind: OrderType) -> None:
    order_id = desk.intend(leg, type=kind, stop_price=Decimal(97) if kind is OrderType.STOP else None)
    desk.execute()
    for _ in range(5):
        desk.advance(600)
        desk.execute()
    assert desk.state(order_id) is S.OPEN


def test_an_order_found_after_its_time_is_cancelled_within_thirty_seconds_of_it(desk: Desk) -> None:
    desk.fake.create_script.append(lost(is_done=True))
    order_id = desk.intend()
    desk.execute()
    desk.fake.failing = {"fetch_order", "fetch_open_orders", "fetch_closed_orders"}
    desk.advance(85)
    desk.execute()
    desk.fake.failing = set()
    for _ in range(2):
        desk.advance(15)
        desk.execute()
    assert desk.state(order_id) is S.CANCELLED
    requested_ms = desk.order(order_id).cancel_requested_at_ms
    assert requested_ms is not None
    assert requested_ms - (desk.order(order_id).rest_until_ms or 0) <= 30_000


def test_a_cancel_is_asked_again_until_a_read_confirms_it_and_a_stuck_one_is_reported(desk: Desk) -> None:
    desk.fake.holds_cancels = True
    order_id = desk.intend()
    desk.execute()
    desk.advance(90)
    asked_s: list[int] = []
    triggers: list[tuple[int, frozenset[Trigger]]] = []
    for second in range(100):
        before = len(desk.fake.cancels)
        summary = desk.execute()
        asked_s += [second] * (len(desk.fake.cancels) - before)
        triggers.append((second, summary.triggers))
        if second == 59:
            assert desk.incidents() == []
        desk.advance(1)
    # again after 1, 2, 4, 8, 15 and then each 30 s
    assert asked_s == [0, 1, 3, 7, 15, 30, 60, 90]
    assert desk.incidents() == ["CANCEL_UNCONFIRMED"]
    assert next(second for second, raised in triggers if raised) == 90  # the eighth in a row
    assert triggers[-1][1] == {Trigger.CANCEL_FAILURES}
    assert desk.state(order_id) is S.CANCEL_REQUESTED
    desk.fake.holds_cancels = False
    desk.advance(30)
    desk.execute()
    assert desk.state(order_id) is S.CANCELLED


def test_the_200_of_a_cancel_ends_nothing(desk: Desk) -> None:
    order_id = desk.intend()
    desk.execute()
    desk.advance(90)
    desk.fake.failing = {"fetch_order"}
    desk.execute()
    assert (desk.fake.cancels, desk.state(order_id)) == ([order_id], S.CANCEL_REQUESTED)
    desk.fake.failing = set()
    desk.advance(1)
    desk.execute()
    assert desk.state(order_id) is S.CANCELLED
    assert desk.fake.cancels == [order_id]  # read before it is asked again


def test_a_fill_that_wins_against_the_cancel_is_kept(desk: Desk) -> None:
    order_id = desk.intend()
    desk.execute()
    desk.fake.fill(order_id, "1")
    desk.advance(90)
    desk.execute()
    # the listing was not read before the cancel: the venue knows no such open order, and the read says why
    assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.OPEN, S.CANCEL_REQUESTED, S.FILLED]


def test_a_refused_cancel_is_asked_again_later_and_is_still_stuck_after_a_minute(desk: Desk) -> None:
    order_id = desk.intend()
    desk.execute()
    desk.advance(90)
    for _ in range(60):
        desk.fake.cancel_script = [refused(-2011, "Unknown order sent.")]
        desk.execute()
        assert desk.state(order_id) is S.OPEN  # refused, and a read shows it resting
        assert desk.incidents() == []
        desk.advance(1)
    desk.fake.cancel_script = []
    desk.execute()
    assert len(desk.fake.cancels) == 7  # at 0, 1, 3, 7, 15, 30 and 60 s
    assert desk.state(order_id) is S.CANCELLED  # the last one was not refused
    assert desk.order(order_id).cancel_tries == 7


def test_a_cancel_that_is_refused_for_a_minute_is_stuck(desk: Desk) -> None:
    order_id = desk.intend()
    desk.execute()
    desk.advance(90)
    for _ in range(62):
        desk.fake.cancel_script = [refused(-2011, "Unknown order sent.")]
        desk.execute()
        desk.advance(1)
    assert desk.incidents() == ["CANCEL_UNCONFIRMED"]
    assert desk.state(order_id) is S.OPEN


@pytest.mark.parametrize(
    ("level", "cancelled"),
    [
        (Level.ENTRIES_OFF, set()),
        (Level.REDUCE_ONLY, {"entry"}),
        (Level.HARD_STOP, {"entry", "trim", "exit"}),
    ],
)
def test_a_kill_level_cancels_what_it_does_not_bear(desk: Desk, level: Level, cancelled: set[str]) -> None:
    stop = desk.intend(Leg.SL, type=OrderType.STOP, stop_price=Decimal(97))
    ids = {desk.intend(leg, symbol=f"{leg.upper()}/USDT"): leg.value for leg in (Leg.ENTRY, Leg.TRIM, Leg.EXIT)} | {stop: "sl"}
    desk.execute()
    desk.latch.switches = (Switch(EVERYBODY, level, "manual", "alice", "drill", 0),)
    desk.execute()
    assert {name for order_id, name in ids.items() if desk.state(order_id) is S.CANCELLED} == cancelled
    assert all(code_of(desk, order_id, S.CANCEL_REQUESTED) == "KILLED" for order_id, name in ids.items() if name in cancelled)


def test_an_exit_first_cancels_the_trims_of_its_strategy_and_symbol(desk: Desk) -> None:
    trim, target_of_other = desk.intend(Leg.TRIM), desk.intend(Leg.TP, symbol=OTHER)
    desk.execute()
    exit_ = desk.intend(Leg.EXIT)
    desk.execute()
    assert (desk.state(trim), desk.state(exit_), desk.state(target_of_other)) == (S.CANCELLED, S.OPEN, S.OPEN)
    assert code_of(desk, trim, S.CANCEL_REQUESTED) == "EXIT_FIRST"


def rules(desk: Desk, **changes: object) -> None:
    values = {"tick": "0.01", "step": "0.001", "min_qty": "0.01", "min_cost": "5"} | changes
    with psycopg.connect(desk.url) as conn:
        conn.execute(
            "insert into instrument_rules (venue, symbol, tick, step, min_qty, min_cost, maker_bps, taker_bps, is_active, read_at)"
            " values ('paper', %s, %s, %s, %s, %s, 10, 10, true, now())",
            (SYMBOL, values["tick"], values["step"], values["min_qty"], values["min_cost"]),
        )


def test_what_an_exit_has_not_sold_in_its_time_goes_through_the_book_within_the_cap(desk: Desk) -> None:
    rules(desk)
    first = desk.intend(Leg.EXIT, qty=Decimal(2))
    desk.execute()
    desk.fake.fill(first, "0.5")
    desk.fake.mid = Decimal("99.005")
    desk.advance(30)
    desk.execute()
    assert desk.path(first)[-2:] == [S.CANCEL_REQUESTED, S.CANCELLED]
    spec, _, _ = desk.fake.creates[-1]
    child = desk.order(spec.client_order_id)
    # 1.5 are left; 1 % below a mid of 99.005 is 98.01495, which a sell rounds up to the tick
    assert (spec.qty, spec.limit_price, spec.tif) == (Decimal("1.5"), Decimal("98.02"), TimeInForce.IOC)
    assert (child.intent.key.seq, child.intent.replaces_id, child.state) == (1, first, S.EXPIRED)
    assert child.intent.decide_by_ms == desk.now_ms + 60_000
    for _ in range(5):
        desk.advance(30)
        desk.execute()
    assert len(desk.fake.creates) == 2  # what is left then is planned again by the tick


def test_a_second_child_is_written_with_the_end_of_the_first_or_not_at_all(desk: Desk) -> None:
    rules(desk)
    first = desk.intend(Leg.EXIT)
    desk.execute()
    desk.advance(30)
    desk.crash("after_step")
    assert desk.state(first) is S.CANCEL_REQUESTED
    assert desk.select("select count(*) from order_intents") == [(1,)]
    desk.advance(1)
    desk.another().execute()
    assert desk.state(first) is S.CANCELLED
    assert desk.select("select seq, limit_price from order_intents where seq > 0") == [(1, Decimal(99))]
    assert len(desk.fake.creates) == 2


def test_a_trim_whose_time_is_up_beside_an_exit_is_not_chased(desk: Desk) -> None:
    trim = desk.intend(Leg.TRIM)
    desk.execute()
    desk.advance(30)
    exit_ = desk.intend(Leg.EXIT)
    desk.execute()
    assert (desk.state(trim), desk.state(exit_)) == (S.CANCELLED, S.OPEN)
    assert [spec.client_order_id for spec, _, _ in desk.fake.creates] == [trim, exit_]


def test_dust_is_not_chased(desk: Desk) -> None:
    rules(desk)
    order_id = desk.intend(Leg.EXIT)
    desk.execute()
    desk.fake.fill(order_id, "0.96")  # 0.04 at 100 is 4, below the minimum of 5
    desk.advance(30)
    desk.execute()
    assert (desk.state(order_id), desk.order(order_id).flags) == (S.CANCELLED, {"dust"})
    assert len(desk.fake.creates) == 1


def test_without_a_quote_the_second_child_is_priced_from_the_first(desk: Desk) -> None:
    desk.intend(Leg.EXIT, limit_price=Decimal("100.5"))
    desk.execute()
    desk.fake.failing = {"fetch_quote"}
    desk.advance(30)
    desk.execute()
    # 100.5 less 1 % is 99.495, on the grid that the order itself shows: 99.5
    assert desk.fake.creates[-1][0].limit_price == Decimal("99.5")


def test_an_exit_that_the_venue_or_a_kill_ended_early_is_not_chased(desk: Desk) -> None:
    early, killed = desk.intend(Leg.EXIT), desk.intend(Leg.EXIT, symbol=OTHER)
    desk.execute()
    desk.fake.end(early, VenueStatus.CANCELED)
    desk.latch.switches = (Switch(EVERYBODY, Level.HARD_STOP, "manual", "alice", "drill", 0),)
    desk.advance(2)
    desk.execute()
    desk.latch.switches = ()
    desk.advance(30)
    desk.execute()
    assert (desk.state(early), desk.state(killed)) == (S.CANCELLED, S.CANCELLED)
    assert len(desk.fake.creates) == 2


def test_overfills_are_booked_in_full_and_flagged(desk: Desk) -> None:
    order_id = desk.intend()
    desk.execute()
    desk.fake.fill(order_id, "0.8")
    desk.fake.fill(order_id, "0.4")
    desk.advance(2)
    desk.execute()
    order = desk.order(order_id)
    assert (order.state, order.filled, order.flags, order.remaining) == (S.FILLED, Decimal("1.2"), {"overfill"}, 0)
    assert desk.incidents() == ["OVERFILL"]


def test_a_rest_below_one_step_counts_as_filled_when_the_venue_says_so(desk: Desk) -> None:
    rules(desk)
    order_id = desk.intend()
    desk.execute()
    desk.fake.fill(order_id, "0.9995")
    desk.fake.end(order_id, VenueStatus.CLOSED)
    desk.advance(2)
    desk.execute()
    assert desk.state(order_id) is S.FILLED
