"""X10 to X14 and X17: a create whose answer proves nothing, through real sockets, the real client library and a real database.

Whatever is scripted, the order was taken once or not at all, and it is the ladder that finds out which.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import product
from typing import Any

import pytest

from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.ports import IntentOutcome
from regime_pipeline.risk.purpose import Leg
from tests import sizes
from tests.trading import CREATE
from tests.wire import LATE_MS, WireDesk, judge, open_wire

D = Decimal
S = OrderState
Cells = Callable[..., None]
LOOKS_S = (1, 2, 4, 8)
"""From UNKNOWN to the first look that may prove absence: 15 s, where 5 s window + 1 s clock + 5 s visibility are 11."""
PAGE = "<html><head><title>edge</title></head><body>try again soon</body></html>"


@pytest.fixture(params=["spot", "linear"])
def wire(request: pytest.FixtureRequest, lasting_database: str) -> Iterator[WireDesk]:
    """A desk at each of the two venues."""
    with open_wire(lasting_database, request.param) as desk:
        yield desk


@dataclass(frozen=True)
class Lost:
    """A create that is answered badly: what is scripted, and the code by which it becomes UNKNOWN."""

    code: str
    fields: dict[str, Any]

    def run(self, desk: WireDesk, *, is_taken: bool = True) -> None:
        """Send an order into it, and follow it to where it was all the time."""
        posts = desk.posts()
        desk.fault(**{**self.fields, "accept": "before" if is_taken else "never"})
        order_id = desk.intend()
        assert desk.execute().sent == 1
        assert (desk.state(order_id), desk.codes(order_id)["UNKNOWN"]) == (S.UNKNOWN, self.code), self
        if is_taken:
            desk.step(1)
            assert desk.state(order_id) is S.FILLED, self
        else:
            desk.step(*LOOKS_S[:-1])
            assert desk.state(order_id) is S.UNKNOWN, self  # three clean looks, and too early all the same
            desk.step(LOOKS_S[-1])
            assert (desk.state(order_id), desk.codes(order_id)["NOT_FOUND"]) == (S.NOT_FOUND, "ABSENT"), self
        assert desk.posts() == posts + 1, self


def run_all(desk: WireDesk, lost: list[Lost], cells: Cells, *, is_taken: tuple[bool, ...] = (True,)) -> None:
    """Run every cell and judge what has come of all of them together."""
    run = list(product(lost, is_taken))
    for each, taken in run:
        each.run(desk, is_taken=taken)
    judge(desk)
    cells(run=len(run), passed=len(run))


# ---- X10 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X10")
def test_a_time_out_after_acceptance_blocks_the_symbol_until_the_order_is_adopted(wire: WireDesk) -> None:
    other = wire.symbol.replace("BTC", "ETH")
    wire.hurry()
    wire.fault(delay_ms=LATE_MS)
    lost = wire.intend()
    wire.execute()
    wire.wait_arrived()
    assert (wire.state(lost), wire.codes(lost)["UNKNOWN"]) == (S.UNKNOWN, "TIMED_OUT")
    assert wire.write(wire.an_intent())[0].outcome is IntentOutcome.BLOCKED
    elsewhere = wire.intend(symbol=other, limit_price=D(2_010), qty=D("0.1"))
    wire.execute()
    assert wire.state(lost) is S.UNKNOWN
    wire.step(1, 2)
    assert {wire.state(lost), wire.state(elsewhere)} == {S.FILLED}
    again = wire.intend()
    wire.step(0, 2)
    assert wire.state(again) is S.FILLED
    assert wire.posts() == 3
    judge(wire)


@pytest.mark.fault_row("X10")
def test_what_timed_out_is_adopted_in_the_state_that_it_has_by_then(wire: WireDesk, cells: Cells) -> None:
    """Resting, partly filled, filled and cancelled by somebody: state and fills come over in one transaction."""
    hand = wire.venue.hand
    stories: dict[OrderState, Callable[[str], object]] = {
        S.OPEN: lambda _order_id: None,
        S.PARTIAL: lambda order_id: hand.fill(order_id, "0.004"),
        S.FILLED: lambda order_id: hand.fill(order_id, "0.010"),
        S.CANCELLED: hand.cancel,
    }
    wire.hurry()
    for n, (wanted, happens) in enumerate(stories.items(), 1):
        wire.fault(delay_ms=LATE_MS)
        lost = wire.resting()
        wire.execute()
        wire.wait_arrived(n)
        wire.wait_taken()
        happens(lost)
        wire.step(1)
        assert wire.path(lost) == [S.INTENT, S.SUBMITTING, S.UNKNOWN, wanted]
        wire.step(90, 2)  # what rests has had its time
    judge(wire)
    cells(run=len(stories), passed=len(stories))


# ---- X11 ----------------------------------------------------------------------------------------------------------------------------


def arrive_late(desk: WireDesk, late_s: float) -> str:
    """Send an order that we give up and that reaches the venue so much later, looking for it all the while."""
    n_before, began_s = len(desk.venue.truth()["received"]), desk.clock.now_s()
    desk.fault(accept="after", hold_ms=round(1000 * late_s))
    order_id = desk.intend()
    desk.execute()
    assert desk.state(order_id) is S.UNKNOWN
    desk.wait_arrived(n_before + 1)

    def go_to(at_s: float) -> None:
        while (left_s := began_s + at_s - desk.clock.now_s()) > 0.0005:
            desk.step(min(2.0, left_s))

    go_to(late_s + 0.002)
    desk.wait_taken()
    go_to(late_s + 16)
    return order_id


@pytest.mark.fault_row("X11")
@pytest.mark.parametrize("skew_ms", [0, -400, 400])
def test_a_request_that_arrives_late_is_refused_by_its_expiry(lasting_database: str, skew_ms: int, cells: Cells) -> None:
    """Within its 5 seconds the venue takes it and the ladder finds it; after them it is nowhere, whatever the clocks say of each other."""
    late_s = [1, 2.5, 4, 4.5, 5.5, 6, 8, 12, 40, 120]
    with open_wire(lasting_database, "linear" if skew_ms else "spot") as desk:
        desk.hurry()
        desk.venue.skew(skew_ms)
        for each in late_s:
            order_id = arrive_late(desk, each)
            wanted = S.FILLED if each + skew_ms / 1000 <= 5 else S.NOT_FOUND
            assert desk.state(order_id) is wanted, (each, desk.path(order_id))
        judge(desk)
        assert desk.posts() == len(late_s)
    cells(run=len(late_s), passed=len(late_s))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.fault_row("X11")
def test_late_requests_by_the_hundred_make_no_second_order(lasting_database: str, cells: Cells) -> None:
    """One to 120 seconds late, clocks up to half a second apart, orders hidden for up to five seconds: all from one number."""
    dice = random.Random(11)
    per_desk = 100
    for first in range(0, sizes.LATE_REQUESTS, per_desk):
        n = min(per_desk, sizes.LATE_REQUESTS - first)
        with open_wire(lasting_database, ("spot", "linear")[first // per_desk % 2]) as desk:
            desk.hurry(0.05)
            for _ in range(n):
                skew_ms, late_s = dice.randint(-490, 490), dice.choice([dice.uniform(0.5, 8), dice.uniform(8, 120)])
                desk.venue.skew(skew_ms)
                desk.venue.change(visibility_ms=dice.choice([0, 2_000, 4_900]))
                order_id = arrive_late(desk, late_s)
                age_ms = 1000 * late_s + skew_ms
                if abs(age_ms - 5_000) > 50:
                    assert desk.state(order_id) is (S.FILLED if age_ms < 5_000 else S.NOT_FOUND), (late_s, skew_ms, desk.path(order_id))
            judge(desk)
            assert desk.posts() == n
    cells(run=sizes.LATE_REQUESTS, passed=sizes.LATE_REQUESTS)


@pytest.mark.fault_row("X11")
def test_where_nothing_expires_absence_proves_nothing(wire: WireDesk) -> None:
    """`expiry: none`: the order stays UNKNOWN, the symbol blocked, a person is asked; two minutes later the venue takes it after all."""
    traits = wire.ccxt.traits
    wire.ccxt._traits = replace(traits, profile=replace(traits.profile, expires=False))
    wire.venue.change(has_expiry=False)
    wire.hurry()
    wire.fault(accept="after", hold_ms=120_000)
    order_id = wire.intend()
    wire.execute()
    wire.wait_arrived()
    for _ in range(11):
        wire.step(10)
        assert wire.state(order_id) is S.UNKNOWN
    assert wire.order(order_id).request_expires_at_ms is None
    assert "ORDER_NEEDS_PERSON" in wire.incidents()
    assert wire.write(wire.an_intent())[0].outcome is IntentOutcome.BLOCKED
    wire.advance(10)
    wire.wait_taken()
    wire.step(30)
    assert wire.state(order_id) is S.FILLED
    judge(wire)


# ---- X12 ----------------------------------------------------------------------------------------------------------------------------

CUTS = ["reset", "fin", "truncate", "tls"]


@pytest.mark.fault_row("X12")
@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("market_type", ["spot", "linear"])
def test_a_connection_that_ends_in_the_middle_says_nothing(lasting_database: str, market_type: str, is_tls: bool, cells: Cells) -> None:
    with open_wire(lasting_database, market_type, is_tls=is_tls) as desk:
        run_all(desk, [Lost("BROKEN", {"cut": cut}) for cut in CUTS], cells, is_taken=(True, False))


# ---- X13 ----------------------------------------------------------------------------------------------------------------------------

GATEWAY = [500, 501, 502, 503, 504, *range(520, 527), 529, 599]
REDIRECTS = [301, 302, 303, 307, 308]
REFUSALS = {
    "spot": [
        {"code": -2010, "msg": "Account has insufficient balance for requested action."},
        {"code": -1003, "msg": "Too many requests."},
    ],
    "linear": [
        {"retCode": 110007, "retMsg": "ab not enough for new order", "result": {}},
        {"retCode": 10006, "retMsg": "Too many visits!"},
    ],
}


def bodies(desk: WireDesk) -> list[object]:
    """Bodies that mean something under another status: none of them may be believed under 5xx."""
    return [PAGE, "", *REFUSALS[desk.venue.market_type.value]]


@pytest.mark.fault_row("X13")
def test_every_5xx_is_unknown_whatever_its_body_says(wire: WireDesk, cells: Cells) -> None:
    said = bodies(wire)
    lost = [Lost(f"HTTP_{status}", {"status": status, "body": said[at % len(said)]}) for at, status in enumerate(GATEWAY)]
    run_all(wire, lost, cells)


@pytest.mark.fault_row("X13")
def test_a_redirect_is_not_followed_and_is_reported(wire: WireDesk, cells: Cells) -> None:
    """It leads to where creates are taken: a client that followed it would place the order a second time."""
    prefix = {"spot": "binance", "linear": "bybit"}[wire.venue.market_type.value]
    target = f"{wire.venue.url}/{prefix}{CREATE[wire.venue.market_type].partition(' ')[2]}"
    before = dict(wire.venue.truth()["requests"])
    lost = [Lost(f"HTTP_{status}", {"status": status, "headers": {"Location": target}, "body": ""}) for status in REDIRECTS]
    run_all(wire, lost, cells)
    path = CREATE[wire.venue.market_type].partition(" ")[2]
    asked = {name: n - before.get(name, 0) for name, n in wire.venue.truth()["requests"].items() if name.endswith(path)}
    assert asked.pop(CREATE[wire.venue.market_type]) == len(REDIRECTS)
    if wire.venue.market_type.value == "linear":
        assert asked == {}  # a 303 would have been followed by a GET; on Binance that is the ladder's own look
    assert wire.incidents().count("CONFIG_REFUSED") == len(REDIRECTS)


@pytest.mark.slow
@pytest.mark.fault_row("X13")
def test_every_status_with_every_body_taken_or_not(wire: WireDesk, cells: Cells) -> None:
    statuses = [*GATEWAY, *REDIRECTS]
    lost = [Lost(f"HTTP_{status}", {"status": status, "body": body}) for status in statuses for body in bodies(wire)]
    run_all(wire, lost, cells, is_taken=(True, False))


# ---- X14 ----------------------------------------------------------------------------------------------------------------------------

BAD_BODIES = {
    "spot": [
        ("NO_PROOF", PAGE),
        ("NO_PROOF", ""),
        ("NO_PROOF", "null"),
        ("NO_PROOF", "[]"),
        ("NO_PROOF", "{}"),
        ("NO_PROOF", '{"orderId": 12'),
        ("NO_PROOF", {"symbol": "BTCUSDT", "orderId": None, "status": "NEW"}),
        ("OTHER_ID", {"symbol": "BTCUSDT", "orderId": 28, "clientOrderId": "0" * 32, "status": "FILLED"}),
    ],
    "linear": [
        ("NO_PROOF", PAGE),
        ("NO_PROOF", ""),
        ("NO_PROOF", "null"),
        ("NO_PROOF", "[]"),
        ("NO_PROOF", "{}"),
        ("NO_PROOF", '{"retCode": 0, "result"'),
        ("NO_PROOF", {"retCode": 0, "retMsg": "OK", "result": {"orderId": "", "orderLinkId": ""}}),
        ("OTHER_ID", {"retCode": 0, "retMsg": "OK", "result": {"orderId": "28", "orderLinkId": "0" * 32}}),
    ],
}


@pytest.mark.fault_row("X14")
def test_a_200_without_our_order_in_it_is_no_order(wire: WireDesk, cells: Cells) -> None:
    lost = [Lost(code, {"status": 200, "body": body}) for code, body in BAD_BODIES[wire.venue.market_type.value]]
    run_all(wire, lost, cells, is_taken=(True, False))


# ---- X17 ----------------------------------------------------------------------------------------------------------------------------

DUPLICATES = {
    "spot": [
        {"status": 400, "body": {"code": -2010, "msg": "Duplicate order sent."}},
        {"status": 400, "body": {"code": -4116, "msg": "ClientOrderId is duplicated."}},
    ],
    "linear": [
        {"status": 200, "body": {"retCode": code, "retMsg": "OrderLinkedID is duplicate", "result": {}}} for code in (110072, 170141, 12141)
    ],
}


@pytest.mark.fault_row("X17")
def test_a_duplicate_that_is_our_own_order_is_adopted(wire: WireDesk, cells: Cells) -> None:
    run_all(wire, [Lost("DUPLICATE_ID", fields) for fields in DUPLICATES[wire.venue.market_type.value]], cells, is_taken=(True, False))


@pytest.mark.fault_row("X17")
@pytest.mark.parametrize("changes", [{"qty": "0.011"}, {"price": "38000"}, {"side": "SELL", "price": "41000"}], ids=str)
def test_a_duplicate_that_is_another_order_is_a_collision(wire: WireDesk, changes: dict[str, str]) -> None:
    """Somebody's order has our id and is not what we decided: nobody takes it for ours, a person is called, the symbol stays blocked."""
    if wire.venue.market_type.value == "spot":
        wire.bring("BTC", D(1))
    intent = wire.an_intent(limit_price=D(39_000))
    placed = {"side": "BUY", "qty": "0.010", "price": "39000", **changes}
    wire.venue.hand.place("BTCUSDT", placed["side"], placed["qty"], placed["price"], client_id=intent.client_order_id)
    wire.write(intent)
    wire.execute()
    wire.step(1, 2, 4, 8, 15)
    assert wire.state(intent.client_order_id) is S.UNKNOWN
    assert wire.codes(intent.client_order_id)["UNKNOWN"] == "DUPLICATE_ID"
    assert wire.incidents().count("ID_COLLISION") == 1
    assert wire.write(wire.an_intent())[0].outcome is IntentOutcome.BLOCKED
    sale = wire.intend(Leg.EXIT) if wire.venue.market_type.value == "spot" else None
    wire.step(1)
    assert sale is None or wire.state(sale) is S.FILLED  # what reduces is not blocked
    judge(wire, unknown=1)
