"""X19 to X22: looking for an order that hides, that cannot be read, that is gone for good, or that comes back after it was given up."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.ports import IntentOutcome
from regime_pipeline.risk.kill_switch import Level
from regime_pipeline.services.trading.act_on_turn import act_on_turn
from regime_pipeline.services.trading.execute_pending import execute_pending
from regime_pipeline.services.trading.reconcile import reconcile_full, reconcile_orders
from tests.wire import WireDesk, judge, open_wire

D = Decimal
S = OrderState
Cells = Callable[..., None]
PAGE = "<html><head><title>edge</title></head><body>try again soon</body></html>"


@pytest.fixture(params=["spot", "linear"])
def wire(request: pytest.FixtureRequest, lasting_database: str) -> Iterator[WireDesk]:
    """A desk at each of the two venues."""
    with open_wire(lasting_database, request.param) as desk:
        yield desk


def lose(desk: WireDesk, order_id: str, *, is_taken: bool = True) -> str:
    """Send an order whose answer is cut off."""
    desk.fault(cut="reset", accept="before" if is_taken else "never")
    desk.execute()
    assert desk.state(order_id) is S.UNKNOWN
    return order_id


def looks(desk: WireDesk, order_id: str) -> list[str]:
    """What each look said, oldest first."""
    return [row[0] for row in desk.select("select result from order_looks where client_order_id = %s order by started_at", order_id)]


# ---- X19 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X19")
def test_an_order_that_hides_for_seconds_is_not_given_up(wire: WireDesk, cells: Cells) -> None:
    """Reads do not see it for up to five seconds; what is filled moves the balance, and what rests does not even do that."""
    hidden_ms = [500, 2_000, 4_000, 4_900]
    run = 0
    for each in hidden_ms:
        for limit, wanted in ((D(40_100), S.FILLED), (D(39_000), S.OPEN)):
            wire.venue.change(visibility_ms=each)
            order_id = lose(wire, wire.intend(limit_price=limit))
            wire.step(1, 2, 4, 8)
            assert wire.path(order_id) == [S.INTENT, S.SUBMITTING, S.UNKNOWN, wanted], each
            wire.step(90, 2, 2)
            run += 1
    assert wire.select("select count(*) from order_transitions where to_state = 'NOT_FOUND' and client_order_id = any(%s)", _ids(wire)) == [
        (0,)
    ]
    judge(wire)
    cells(run=run, passed=run)


@pytest.mark.fault_row("X19")
@pytest.mark.parametrize("skew_ms", [0, -500])
def test_the_last_that_can_arrive_and_the_longest_that_can_hide(wire: WireDesk, skew_ms: int) -> None:
    """It arrives at the end of its window by a clock that is behind and hides for five seconds: found at 15 s, at 7 s it was not."""
    wire.venue.skew(skew_ms)
    wire.venue.change(visibility_ms=5_000)
    wire.hurry()
    wire.fault(accept="after", hold_ms=4_990 - skew_ms)
    order_id = wire.resting()
    wire.execute()
    wire.wait_arrived()
    wire.step(1, 2)
    wire.advance(1.99 - skew_ms / 1000)
    wire.wait_taken()
    wire.step(2.01 + skew_ms / 1000)
    assert looks(wire, order_id) == ["clean"] * 3
    assert wire.state(order_id) is S.UNKNOWN  # three clean looks, and not one of them late enough
    wire.step(8)
    assert wire.state(order_id) is S.OPEN
    judge(wire)


def _ids(desk: WireDesk) -> list[str]:
    return [each for (each,) in desk.select("select client_order_id from orders where account = %s", desk.account)]


# ---- X20 ----------------------------------------------------------------------------------------------------------------------------

RUNGS = {
    "spot": ["/api/v3/order", "/api/v3/openOrders", "/api/v3/allOrders", "/api/v3/myTrades", "/api/v3/account"],
    "linear": ["/v5/order/realtime", "/v5/order/history", "/v5/execution/list", "/v5/position/list"],
}
NO_INFORMATION: list[dict[str, Any]] = [
    {"status": 500, "body": ""},
    {"status": 200, "body": PAGE},
    {"status": 200, "body": ""},
    {"status": 200, "body": "{}"},
    {"status": 401, "body": PAGE},
    {"status": 429, "body": {"code": -1003, "msg": "Too many requests.", "retCode": 10006, "retMsg": "Too many visits!"}},
    {"cut": "reset"},
    {"cut": "truncate"},
]


@pytest.mark.fault_row("X20")
def test_a_look_in_which_one_question_fails_does_not_count(wire: WireDesk, cells: Cells) -> None:
    """Each question of the ladder, failing in one way after the other, while all the others say truthfully that there is nothing."""
    run = 0
    for at, path in enumerate(RUNGS[wire.venue.market_type.value]):
        order_id = lose(wire, wire.intend(), is_taken=False)
        for n in range(4):
            wire.venue.clear_script()
            wire.venue.script({"on": f"GET {path}", "repeat": 0, **NO_INFORMATION[(2 * at + n) % len(NO_INFORMATION)]})
            wire.step(30)
            run += 1
        assert looks(wire, order_id) == ["no_information"] * 4, path
        wire.venue.clear_script()
        wire.step(30, 30)
        assert wire.state(order_id) is S.UNKNOWN  # two clean looks are not three
        wire.step(30)
        assert (wire.state(order_id), looks(wire, order_id)[-3:]) == (S.NOT_FOUND, ["clean"] * 3)
    judge(wire)
    cells(run=run, passed=run)


@pytest.mark.slow
@pytest.mark.fault_row("X20")
def test_every_question_of_the_ladder_fails_in_every_way(wire: WireDesk, cells: Cells) -> None:
    run = 0
    for path in RUNGS[wire.venue.market_type.value]:
        order_id = lose(wire, wire.intend(), is_taken=False)
        for fault in NO_INFORMATION:
            wire.venue.clear_script()
            wire.venue.script({"on": f"GET {path}", "repeat": 0, **fault})
            wire.step(30)
            run += 1
        assert set(looks(wire, order_id)) == {"no_information"}
        wire.venue.clear_script()
        wire.step(30, 30, 30)
        assert wire.state(order_id) is S.NOT_FOUND
    judge(wire)
    cells(run=run, passed=run)


@pytest.mark.fault_row("X20")
@pytest.mark.parametrize("fault", [{"status": 503, "body": ""}, {"status": 200, "body": PAGE}, {"cut": "fin"}], ids=str)
def test_an_order_that_is_there_is_found_by_the_first_look_that_is_answered(wire: WireDesk, fault: dict[str, Any]) -> None:
    wire.fault(cut="reset")
    wire.venue.script({"on": "GET *", "repeat": 0, **fault})
    order_id = wire.intend()
    wire.execute()
    wire.step(1, 2, 4, 8, 15, *[30] * 10)
    assert set(looks(wire, order_id)) == {"no_information"}
    assert wire.state(order_id) is S.UNKNOWN
    act_on_turn(wire.trading, execute_pending(wire.trading))
    assert {(switch.source, switch.level) for switch in wire.switches()} == {("unknown_order", Level.REDUCE_ONLY)}  # after 300 s
    wire.venue.clear_script()
    wire.step(30)
    assert wire.state(order_id) is S.FILLED
    judge(wire)


@pytest.mark.fault_row("X20")
def test_a_look_that_shows_somebody_elses_order_finds_nothing(wire: WireDesk) -> None:
    """A cache before the venue answers with the order of another client: it is neither adopted nor taken for a clean answer."""
    other = wire.resting()
    wire.execute()
    order = wire.order(other)
    is_spot = wire.venue.market_type.value == "spot"
    path = RUNGS[wire.venue.market_type.value][0]
    row = {"clientOrderId": "0" * 32} if is_spot else {"orderLinkId": "0" * 32}
    answer = _read_raw(wire, order.venue_order_id or "")
    shown = {**answer, **row} if is_spot else {**answer, "result": {"list": [{**answer["result"]["list"][0], **row}]}}
    wire.step(91, 2)
    lost = lose(wire, wire.intend(), is_taken=False)
    wire.venue.script({"on": f"GET {path}", "repeat": 0, "status": 200, "body": shown})
    wire.step(30, 30, 30, 30)
    assert wire.state(lost) is S.UNKNOWN
    assert set(looks(wire, lost)) == {"no_information"}
    wire.venue.clear_script()
    wire.step(30, 30, 30)
    assert wire.state(lost) is S.NOT_FOUND
    judge(wire)


def _read_raw(desk: WireDesk, venue_order_id: str) -> dict[str, Any]:
    exchange = desk.venue.exchange()
    if desk.venue.market_type.value == "spot":
        return dict(exchange.private_get_order({"symbol": "BTCUSDT", "orderId": venue_order_id}))
    return dict(exchange.private_get_v5_order_realtime({"category": "linear", "symbol": "BTCUSDT", "orderId": venue_order_id}))


# ---- X21 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X21")
@pytest.mark.parametrize("says_archived", [True, False])
def test_an_order_that_was_archived_is_judged_by_trades_and_balances_else_by_a_person(wire: WireDesk, says_archived: bool) -> None:
    """We were away for so long that no read of orders knows it: it had filled, so its trades are booked, and nobody calls it absent."""
    lost = lose(wire, wire.intend())
    wire.venue.change(history_ms=3_600_000, is_archived=says_archived)
    wire.advance(3 * 86_400)
    wire.step(0, 30, 30, 30)
    assert wire.state(lost) is S.UNKNOWN
    assert "clean" not in looks(wire, lost)
    summary = reconcile_full(wire.trading)
    assert summary.is_clean, summary.run  # its trade is booked: money agrees
    act_on_turn(wire.trading, execute_pending(wire.trading))
    assert "ORDER_UNKNOWN" in wire.incidents()
    assert {(switch.source, switch.level) for switch in wire.switches()} == {("unknown_order", Level.REDUCE_ONLY)}
    assert wire.write(wire.an_intent())[0].outcome is IntentOutcome.BLOCKED
    judge(wire, unknown=1)


@pytest.mark.fault_row("X21")
@pytest.mark.parametrize("says_archived", [True, False])
def test_an_archived_order_without_trades(wire: WireDesk, says_archived: bool) -> None:
    """It was cancelled without a trade. Said to be archived, it existed, and a person settles it; unknown to all, it is absent."""
    lost = lose(wire, wire.resting())
    wire.venue.hand.cancel(lost)
    wire.venue.change(history_ms=3_600_000, is_archived=says_archived)
    wire.advance(3 * 86_400)
    wire.step(0, 30, 30, 30)
    is_told = says_archived and wire.venue.market_type.value == "spot"  # -2026; Bybit has no such word
    assert wire.state(lost) is (S.UNKNOWN if is_told else S.NOT_FOUND)
    reconcile_full(wire.trading)
    assert ("ORDER_UNKNOWN" in wire.incidents()) is is_told
    if is_told:
        judge(wire, unknown=1)


# ---- X22 ----------------------------------------------------------------------------------------------------------------------------


def give_up(desk: WireDesk, order_id: str) -> str:
    """Send an order that the venue takes and hides until it has been given up."""
    desk.venue.change(visibility_ms=20_000)
    lose(desk, order_id)
    desk.step(1, 2, 4, 8)
    assert desk.state(order_id) is S.NOT_FOUND
    return order_id


@pytest.mark.fault_row("X22")
def test_an_order_that_surfaces_is_noticed_within_a_minute(wire: WireDesk) -> None:
    order_id = give_up(wire, wire.resting())
    wire.venue.change(visibility_ms=0)
    began_s = wire.clock.now_s()
    noticed: list[float] = []

    def watch() -> None:
        if not noticed and wire.state(order_id) is not S.NOT_FOUND:
            noticed.append(wire.clock.now_s() - began_s)

    wire.run_executor(70, {float(at): watch for at in range(1, 70)})
    assert noticed
    assert noticed[0] <= 60
    assert "ORDER_SURFACED" in wire.incidents()
    assert wire.path(order_id)[3:5] == [S.NOT_FOUND, S.OPEN]
    wire.step(60, 2, 2)  # past its time to live by now: cancelled like any other
    assert wire.state(order_id) is S.CANCELLED
    judge(wire)


@pytest.mark.fault_row("X22")
def test_an_order_that_surfaces_filled_is_ours_with_its_fills(wire: WireDesk) -> None:
    """It traded while nobody could see it: no listing of open orders shows it, its trades do, and they are those of our order."""
    order_id = give_up(wire, wire.resting())
    wire.venue.set_price("BTCUSDT", 38_900)
    wire.venue.change(visibility_ms=0)
    reconcile_orders(wire.trading)
    wire.advance(61)
    reconcile_orders(wire.trading)
    assert wire.state(order_id) is S.FILLED
    assert "ORDER_SURFACED" in wire.incidents()
    assert "FOREIGN_FILL" not in wire.incidents()
    assert {fill[0] for fill in wire.select("select client_order_id from fills where account = %s", wire.account)} == {order_id}
    judge(wire)


@pytest.mark.fault_row("X22")
def test_an_order_that_surfaces_beside_another_is_cancelled(wire: WireDesk) -> None:
    """Its place was taken when it had been given up: two entries must not live, and the second was decided without the first."""
    given_up = give_up(wire, wire.resting())
    wire.venue.change(visibility_ms=0)
    second = wire.resting()
    wire.execute()
    reconcile_orders(wire.trading)
    assert "ORDER_SURFACED" in wire.incidents()
    at_venue = {order["client_id"]: order["status"] for order in wire.venue.truth()["orders"]}
    assert at_venue == {given_up: "CANCELED", second: "NEW"}
    reconcile_orders(wire.trading)
    assert wire.state(second) is S.OPEN
