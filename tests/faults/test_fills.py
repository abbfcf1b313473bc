"""X29 to X34: trades that come twice, late, contradicting or without their fee, and cancels that race them; over real sockets.

Whatever the venue tells in whatever order, each trade is booked once, none is lost, and a state comes from a read of the order alone.
"""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from functools import partial
from itertools import product
from random import Random
from typing import Any

import psycopg
import pytest

from regime_pipeline.execution.fills import Fill, FillKeyRule
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.portfolio.money import floor_to
from regime_pipeline.ports import BookingSummary
from regime_pipeline.services.trading.book_fills import book_fills
from regime_pipeline.services.trading.guard_stops import guard_stops
from regime_pipeline.services.trading.reconcile import reconcile_full, reconcile_orders
from regime_pipeline.services.trading.recover import recover
from tests.wire import WireDesk, judge, open_wire
from tests.wire_books import (
    CANCEL,
    Cells,
    Position,
    booked,
    conflicts,
    held,
    held_there,
    market,
    show_id,
    stopped,
    stream,
    told_fills,
    watched,
)

D = Decimal
S = OrderState
PARTS = (D("0.004"), D("0.003"), D("0.003"))


@pytest.fixture(params=["spot", "linear"])
def wire(request: pytest.FixtureRequest, lasting_database: str) -> Iterator[WireDesk]:
    """A desk at each of the two venues."""
    with open_wire(lasting_database, request.param) as desk:
        yield desk


def rest(desk: WireDesk, **changes: Any) -> str:
    """An order that rests at the venue."""
    order_id = desk.resting(**changes)
    desk.execute()
    assert desk.state(order_id) is S.OPEN
    return order_id


def calm(desk: WireDesk) -> None:
    """Let the two passes that find nothing open entries again."""
    for _ in range(2):
        desk.advance(60)
        reconcile_orders(desk.trading)
    assert stopped(desk) == set()


# ---- X29 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X29")
def test_a_trade_is_booked_once_by_whatever_way_and_however_often_it_comes(wire: WireDesk, cells: Cells) -> None:
    """Stream, poll, both passes and a start tell of the same trades, while the venue repeats its rows and disorders them."""
    desk, seeds = wire, range(3)
    for seed in seeds:
        random, hand = Random(seed), desk.venue.hand
        order_id = rest(desk)
        trades = [hand.fill(order_id, qty) for qty in PARTS]
        reports = [fill for fill in told_fills(desk) if fill.venue_order_id == desk.order(order_id).venue_order_id] * 2
        random.shuffle(reports)
        for fill in reports[: random.randrange(1, 5)]:
            stream(desk, [fill])
        hand.repeat_row(random.choice(trades).trade_id)
        hand.shuffle_rows(seed)
        desk.step(2)  # the poll
        assert desk.state(order_id) is S.FILLED
        hand.repeat_row(random.choice(trades).trade_id)
        reconcile_orders(desk.trading)
        desk = desk.restart()
        assert recover(desk.trading).is_ready
        assert stream(desk, reports).repeated == len(reports)
        assert [qty for owner, qty, *_ in booked(desk) if owner == order_id] == list(PARTS)
    assert (conflicts(desk), desk.incidents()) == (0, [])
    judge(desk)
    cells(run=len(seeds), passed=len(seeds))


@pytest.mark.fault_row("X29")
def test_trades_that_come_before_the_acknowledgement_are_linked_to_their_order(wire: WireDesk, cells: Cells) -> None:
    """The answer to the create is lost, the trades are told first: one by one, all, or by a pass; then the order is found."""
    ways = {
        "one": lambda fills: stream(wire, fills[1:2]),
        "all, backwards": lambda fills: stream(wire, fills[::-1]),
        "by a pass": lambda _fills: reconcile_orders(wire.trading),
    }
    for tell in ways.values():
        wire.fault(cut="reset")
        order_id = wire.resting()
        wire.execute()
        assert wire.state(order_id) is S.UNKNOWN
        for qty in PARTS:
            wire.venue.hand.fill(order_id, qty)
        venue_order_id = wire.venue.hand.order(order_id).order_id
        tell([fill for fill in told_fills(wire) if fill.venue_order_id == venue_order_id])
        assert {row[0] for row in booked(wire, "client_order_id, venue_order_id") if row[1] == venue_order_id} == {None}
        wire.step(1)
        assert wire.state(order_id) is S.FILLED
        assert [qty for owner, qty, *_ in booked(wire) if owner == order_id] == list(PARTS)
    assert (wire.incidents(), stopped(wire)) == ([], set())
    judge(wire)
    cells(run=len(ways), passed=len(ways))


@pytest.mark.fault_row("X29")
@pytest.mark.parametrize("n", [400, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_any_permutation_of_reports_and_acknowledgement_adds_up_the_same(lasting_database: str, n: int, cells: Cells) -> None:
    """One order's trades, read through the broker, become `n` orders: all reports shuffled together with repetitions and each order's
    acknowledgement, cut into batches of any size. What is booked afterwards is what the venue traded, `n` times."""
    with open_wire(lasting_database, "spot") as desk:
        order_id = rest(desk)
        for qty in PARTS:
            desk.venue.hand.fill(order_id, qty)
        pattern = told_fills(desk)
    random = Random(n)
    open_orders(desk, n)
    events: list[tuple[int, Fill | None]] = [
        (k, report) for k in range(n) for report in (*(clone(fill, k) for fill in (*pattern, *random.choices(pattern, k=2))), None)
    ]
    random.shuffle(events)
    total = BookingSummary()
    while events:
        size = random.choice((1, 3, 20, 300, 900))
        batch, events = events[:size], events[size:]
        summary = take(desk, n, batch)
        total = replace(total, booked=total.booked + summary.booked, repeated=total.repeated + summary.repeated)
    assert (total.booked, total.repeated) == (3 * n, 2 * n)
    ours = "fills as f join order_intents using (client_order_id, account) where account = %s and strategy = 'many'"
    sums = f"select client_order_id, sum(f.qty) as qty, sum(f.qty * price) as paid, sum(fee_amount) as fee from {ours} group by 1"
    got = desk.select(f"select count(*), min(qty), max(qty), min(paid), max(paid), min(fee), max(fee) from ({sums}) as s", desk.account)
    qty, paid, fee = sum(PARTS), sum(f.qty * f.price for f in pattern), sum(f.fee_amount or D(0) for f in pattern)
    assert got == [(n, qty, qty, paid, paid, fee, fee)]
    wallet = desk.select(
        "select asset, sum(balance) from ledger_balances where account = %s and ledger_account = 'WALLET' and strategy like 'many%%'"
        " group by asset order by asset",
        desk.account,
    )
    assert wallet == [("BTC", n * (qty - fee)), ("USDT", -n * paid)]
    off = "select asset from ledger_entries where account = %s group by batch_id, asset having sum(amount) <> 0"
    assert desk.select(off, desk.account) == []
    cells(run=n, passed=n)


def open_orders(desk: WireDesk, n: int) -> None:
    """Write `n` orders that have been sent and not been acknowledged yet."""
    with psycopg.connect(desk.url) as conn:
        conn.execute(
            "insert into order_intents (client_order_id, account, strategy, symbol, bar_close, leg, seq, purpose, side, type, qty,"
            " limit_price, reduce_only, tif, mode, origin, payload_hash, decide_by)"
            " select lpad(to_hex(%s::int), 8, '0') || lpad(to_hex(k), 24, '0'), %s, 'many', %s, to_timestamp(0), 'trim', k,"
            " 'reduce', 'buy', 'limit', 0.010, 39000, false, 'GTC', 'sandbox', 'strategy', '', now() from generate_series(0, %s) as k",
            (n, desk.account, desk.symbol, n - 1),
        )
        conn.execute(
            "insert into orders (client_order_id, venue, account, strategy, symbol, purpose, state)"
            " select client_order_id, %s, account, strategy || '-' || seq, symbol, purpose, 'INTENT' from order_intents"
            " where account = %s and strategy = 'many'",
            (desk.broker.traits.venue, desk.account),
        )


def clone(fill: Fill, k: int) -> Fill:
    return replace(fill, venue_order_id=f"v{k}", venue_trade_id=f"{k}-{fill.venue_trade_id}")


def take(desk: WireDesk, n: int, batch: list[tuple[int, Fill | None]]) -> BookingSummary:
    """Book a batch of reports together with the acknowledgements that it has, as the answer to a create does."""
    known = {f"v{k}": f"{n:08x}{k:024x}" for k, fill in batch if fill is None}
    with desk.stores.open() as work:
        summary = book_fills(work, desk.broker.traits, [fill for _, fill in batch if fill is not None], desk.now_ms, known=known)
    with psycopg.connect(desk.url) as conn:
        conn.cursor().executemany("update orders set venue_order_id = %s where client_order_id = %s", list(known.items()))
    return summary


# ---- X30 ----------------------------------------------------------------------------------------------------------------------------

CONTENT: list[dict[str, Any]] = [
    {"qty": D("0.005")},
    {"price": D("39001")},
    {"fee": D("9")},
    {"at_ms": 1_000},
    {"order_id": "77"},
]


@pytest.mark.fault_row("X30")
@pytest.mark.parametrize("is_added", [False, True], ids=["instead", "beside"])
def test_other_content_under_one_trade_id_overwrites_nothing_and_is_reported(wire: WireDesk, is_added: bool, cells: Cells) -> None:
    """The venue shows a booked trade with another quantity, price, fee, time or order, in its place or beside it."""
    n = 0
    for changes in CONTENT:
        if "at_ms" in changes:
            changes = {"at_ms": wire.now_ms + 500}
        order_id = rest(wire)
        trade = wire.venue.hand.fill(order_id, "0.010")
        wire.step(2)
        before = (booked(wire), held(wire), conflicts(wire))
        wire.venue.hand.alter_row(trade.trade_id, is_added=is_added, **changes)
        wire.advance(1)
        reconcile_orders(wire.trading)
        assert (booked(wire), held(wire)) == before[:2]
        assert conflicts(wire) == before[2] + 1, changes
        n += 1
        assert wire.incidents().count("FILL_CONFLICT") == n
        assert stopped(wire) == {("recon_order", wire.symbol)}
        wire.venue.hand.alter_row(trade.trade_id, **{name: getattr(trade, name) for name in changes})
        calm(wire)
    judge(wire)
    cells(run=n, passed=n)


@pytest.mark.fault_row("X30")
def test_two_trades_with_one_id_are_two_where_the_profile_says_that_ids_repeat(wire: WireDesk) -> None:
    """A venue numbers a trade for both of its orders: told apart by id and order, both are booked and the sums are the venue's."""
    traits = wire.ccxt.traits
    wire.ccxt._traits = replace(traits, fill_key_rule=FillKeyRule.TRADE_ID_AND_ORDER)
    first = rest(wire)
    trade = wire.venue.hand.fill(first, "0.010")
    wire.step(2)
    second = rest(wire)
    wire.venue.hand.fill(second, "0.010", trade_id=trade.trade_id)
    wire.step(2)
    reconcile_orders(wire.trading)
    assert {wire.state(first), wire.state(second)} == {S.FILLED}
    assert (conflicts(wire), held(wire), wire.incidents()) == (0, held_there(wire), [])
    judge(wire)


@pytest.mark.fault_row("X30")
def test_two_trades_with_one_id_where_the_profile_says_that_ids_are_unique(wire: WireDesk) -> None:
    """Which of them it is cannot be said: the first stays, the second is kept as a conflict, its order does not end, and the pass
    over money finds what is missing. Nothing is made up to fill the gap."""
    first = rest(wire)
    trade = wire.venue.hand.fill(first, "0.010")
    wire.step(2)
    second = rest(wire)
    wire.venue.hand.fill(second, "0.010", trade_id=trade.trade_id)
    wire.step(2, 2)
    assert wire.state(second) is not S.FILLED
    assert len(booked(wire)) == conflicts(wire) == 1
    assert "FILL_CONFLICT" in wire.incidents()
    wire.advance(1)
    summary = reconcile_full(wire.trading)
    assert {each.scope for each in summary.run.findings if each.check == "position"} == {wire.symbol}
    assert ("recon_order", wire.symbol) in stopped(wire)


@pytest.mark.fault_row("X30")
def test_a_trade_without_an_id_is_no_trade_that_could_be_booked(wire: WireDesk) -> None:
    """The read is worth nothing: the order does not end, the pass is unknown, and when the id is back the trade is booked once."""
    order_id = rest(wire)
    trade = wire.venue.hand.fill(order_id, "0.010")
    show_id(wire, trade.trade_id, None)
    wire.step(2, 2)
    assert (wire.state(order_id), booked(wire)) == (S.OPEN, [])
    summary = reconcile_orders(wire.trading)
    assert (summary.run.status.value, booked(wire)) == ("unknown", [])
    show_id(wire, None, trade.trade_id)
    wire.step(2)
    assert wire.state(order_id) is S.FILLED
    judge(wire)


@pytest.mark.fault_row("X30")
def test_a_venue_without_ids_is_told_apart_by_what_it_has_filled(lasting_database: str) -> None:
    """Its reports carry the order's cumulative quantity: in any order and repeated they are booked once, and one that differs is kept
    apart."""
    with open_wire(lasting_database, "spot") as desk:
        order_id = rest(desk)
        for qty in PARTS:
            desk.venue.hand.fill(order_id, qty)
        shown, filled = [], D(0)
        for fill in told_fills(desk):
            filled += fill.qty
            shown.append(replace(fill, venue_trade_id="", cumulative_qty=filled))
    desk.ccxt._traits = replace(desk.ccxt.traits, fill_key_rule=FillKeyRule.CUMULATIVE_QTY)
    for fill in (shown[2], shown[0], shown[0], shown[1], shown[2]):
        stream(desk, [fill])
    assert sorted(qty for _, qty, *_ in booked(desk)) == sorted(PARTS)
    stream(desk, [replace(shown[1], qty=D("0.002"))])
    assert (len(booked(desk)), conflicts(desk), desk.incidents()) == (3, 1, ["FILL_CONFLICT"])


# ---- X31 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X31")
@pytest.mark.parametrize("restarts", [False, True], ids=["running", "over a restart"])
def test_a_trade_of_an_order_that_has_ended_is_booked_late(wire: WireDesk, restarts: bool, cells: Cells) -> None:
    """Nobody polls an ended order: the next pass over the fills, or the start, finds it; it is flagged, reported, and stops entries."""
    desk = wire
    for after_s, qty in product((1, 7_200), ("0.004", "0.010")):
        order_id = rest(desk)
        desk.step(90, 2)
        assert desk.state(order_id) is S.CANCELLED
        desk.venue.hand.fill(order_id, qty)
        desk.advance(after_s)
        n = desk.incidents().count("LATE_FILL")
        if restarts:
            desk = desk.restart()
            recover(desk.trading)
        else:
            reconcile_orders(desk.trading)
        assert [row[1:] for row in booked(desk) if row[0] == order_id] == [(D(qty), True, False)]
        assert desk.state(order_id) is S.CANCELLED
        assert desk.incidents().count("LATE_FILL") == n + 1
        assert ("recon_order", desk.symbol) in stopped(desk)
        assert held(desk) == held_there(desk)  # lost: 0
        calm(desk)
    judge(desk)
    cells(run=4, passed=4)


LIMITED: dict[str, dict[str, Any]] = {
    "spot": {"status": 429, "body": {"code": -1003, "msg": "Too many requests."}},
    "linear": {"status": 200, "body": {"retCode": 10006, "retMsg": "Too many visits!", "result": {}}},
}


@pytest.mark.fault_row("X31")
@pytest.mark.parametrize("restarts", [False, True], ids=["running", "over a restart"])
@pytest.mark.parametrize("limit", [D(40_100), D(39_000)], ids=["filled", "resting"])
def test_a_trade_of_an_order_that_was_refused_and_taken_all_the_same(wire: WireDesk, limit: Decimal, restarts: bool) -> None:
    """The limiter of the venue refuses, its book does not: the order ends as refused, without a venue id; what it trades is ours, late."""
    wire.fault(accept="before", **LIMITED[market(wire)])
    order_id = wire.intend(limit_price=limit)
    wire.execute()
    assert wire.state(order_id) is S.REJECTED
    if limit == D(39_000):
        wire.venue.hand.fill(order_id, "0.004")
    wire.advance(1)
    desk = wire.restart() if restarts else wire
    recover(desk.trading) if restarts else reconcile_orders(desk.trading)
    reconcile_orders(desk.trading)
    filled = D("0.010") if limit == D(40_100) else D("0.004")
    assert booked(desk) == [(order_id, filled, True, False)]
    assert {"LATE_FILL"} <= set(desk.incidents()) <= {"LATE_FILL", "ENDED_ORDER_OPEN"}
    assert not desk.venue.hand.order(order_id).is_open  # what still rested was cancelled at once
    assert stopped(desk) == {("recon_order", desk.symbol)}
    assert (held(desk), desk.state(order_id)) == (held_there(desk), S.REJECTED)
    calm(desk)


@pytest.mark.fault_row("X31")
@pytest.mark.parametrize("way", ["poll", "pass", "late"])
def test_an_overfill_is_booked_in_full_and_stops_entries_of_the_symbol(wire: WireDesk, way: str) -> None:
    """More is traded than was asked for, seen by the poll of the order, by the pass over fills, or after its end."""
    order_id = rest(wire)
    hand = wire.venue.hand
    hand.fill(order_id, "0.008")
    if way == "late":
        hand.fill(order_id, "0.002")
        wire.step(2)
        assert wire.state(order_id) is S.FILLED
        hand.fill(order_id, "0.003")
        wire.advance(2)
    else:
        hand.fill(order_id, "0.005")
    if way == "poll":
        wire.step(2)
    else:
        reconcile_orders(wire.trading)
    assert sum(qty for _, qty, *_ in booked(wire)) == D("0.013")
    assert held(wire) == held_there(wire)
    assert any(is_over for *_, is_over in booked(wire))
    assert "OVERFILL" in wire.incidents()
    assert stopped(wire) == {("recon_order", wire.symbol)}
    wire.step(2)
    assert wire.state(order_id) is S.FILLED
    assert wire.select("select flags from orders where client_order_id = %s", order_id) == [(["overfill"],)]
    judge(wire)


# ---- X32 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X32")
def test_a_partly_filled_order_that_is_cancelled_keeps_its_fills(wire: WireDesk) -> None:
    order_id = rest(wire)
    wire.venue.hand.fill(order_id, "0.004")
    wire.step(2)
    assert wire.state(order_id) is S.PARTIAL
    wire.step(88, 2)
    assert wire.path(order_id)[3:] == [S.PARTIAL, S.CANCEL_REQUESTED, S.CANCELLED]
    assert (wire.order(order_id).filled, held(wire)) == (D("0.004"), held_there(wire))
    judge(wire)


RACES = ("before_cancel_wire", "after_cancel_wire")


@pytest.mark.fault_row("X32")
def test_a_cancel_that_races_fills_ends_as_the_venue_ended_it(wire: WireDesk, cells: Cells) -> None:
    """Part or all of the rest trades just before the cancel reaches the venue, or just after it answered; with a part known before or not.
    At every point the venue holds no more than we count: what is booked and what still rests."""
    errors: list[tuple[S, D, D]] = []

    def count_exposure(order_id: str) -> None:
        order, at_venue = wire.order(order_id), wire.venue.hand.order(order_id)
        ours = order.filled + (0 if order.state.is_terminal else order.remaining)
        if at_venue.filled > ours:
            errors.append((order.state, order.filled, at_venue.filled))

    def race(order_id: str, qty: str) -> None:
        wire.venue.hand.fill(order_id, qty)
        count_exposure(order_id)

    run = list(product(RACES, (("0", "0.002"), ("0", "0.010"), ("0.003", "0.002"), ("0.003", "0.007"))))
    for point, (before, last) in run:
        order_id = rest(wire)
        if before != "0":
            wire.venue.hand.fill(order_id, before)
            wire.step(2)
        with watched(wire, **{point: partial(race, order_id, last)}):
            wire.step(90)
            count_exposure(order_id)
        wire.step(1, 2)
        is_whole = D(before) + D(last) == D("0.010")
        assert wire.state(order_id) is (S.FILLED if is_whole else S.CANCELLED), (point, before, last, wire.path(order_id))
        assert wire.order(order_id).filled == D(before) + D(last)
    assert errors == []
    assert held(wire) == held_there(wire)
    cells(run=len(run), passed=len(run))


# ---- X33 ----------------------------------------------------------------------------------------------------------------------------

CANCEL_TAKEN: dict[str, dict[str, Any]] = {
    "spot": {"status": 200, "body": {"symbol": "BTCUSDT", "orderId": 1, "clientOrderId": "x", "status": "CANCELED"}},
    "linear": {"status": 200, "body": {"retCode": 0, "retMsg": "OK", "result": {"orderId": "x", "orderLinkId": "x"}}},
}
UNKNOWN_ORDER: dict[str, dict[str, Any]] = {
    "spot": {"status": 400, "body": {"code": -2011, "msg": "Unknown order sent."}},
    "linear": {"status": 200, "body": {"retCode": 110001, "retMsg": "order not exists or too late to cancel", "result": {}}},
}


@pytest.mark.fault_row("X33")
def test_a_cancel_that_was_said_to_be_carried_out_and_was_not(wire: WireDesk) -> None:
    """The 200 proves nothing: the order is read, found open, and asked again after 1, 2, 4, 8, 15 and 30 s; after a minute people know."""
    order_id = rest(wire)
    wire.venue.script({"on": CANCEL[market(wire)], "repeat": 0, "accept": "never", **CANCEL_TAKEN[market(wire)]})
    wire.step(90)
    asked: list[int] = []
    for second in range(1, 63):
        before = wire.venue.truth()["requests"].get(CANCEL[market(wire)], 0)
        wire.step(1)
        asked += [second] * (wire.venue.truth()["requests"][CANCEL[market(wire)]] - before)
        assert wire.state(order_id) is S.CANCEL_REQUESTED
    assert asked == [1, 3, 7, 15, 30, 60]
    assert "CANCEL_UNCONFIRMED" in wire.incidents()
    wire.venue.hand.fill(order_id, "0.004")
    wire.venue.clear_script()
    wire.step(30, 1)
    assert (wire.state(order_id), wire.order(order_id).filled) == (S.CANCELLED, D("0.004"))
    judge(wire)


@pytest.mark.fault_row("X33")
def test_an_order_that_is_unknown_to_the_cancel_because_it_was_filled(wire: WireDesk) -> None:
    order_id = rest(wire)
    with watched(wire, before_cancel_wire=lambda: wire.venue.hand.fill(order_id, "0.010")):
        wire.step(90)
    assert wire.path(order_id)[3:] == [S.CANCEL_REQUESTED, S.FILLED]
    judge(wire)


@pytest.mark.fault_row("X33")
def test_an_order_that_is_unknown_to_the_cancel_and_rests_all_the_same(wire: WireDesk) -> None:
    """A venue that lies the other way round: no end is booked, the order counts as exposure, and it is cancelled when it can be."""
    order_id = rest(wire)
    wire.venue.script({"on": CANCEL[market(wire)], "repeat": 3, "accept": "never", **UNKNOWN_ORDER[market(wire)]})
    wire.step(90)
    for seconds in (1, 2, 4):
        assert not wire.state(order_id).is_terminal
        assert wire.order(order_id).remaining == D("0.010")
        wire.step(seconds)
    wire.step(8, 8)
    assert wire.state(order_id) is S.CANCELLED
    judge(wire)


@pytest.mark.fault_row("X33")
def test_an_order_that_cannot_be_read_after_its_cancel_is_not_over(wire: WireDesk) -> None:
    """Cancelled for certain, by a 200 and at the venue: without a read of the order it stays what it was asked to leave."""
    order_id = rest(wire)
    wire.advance(90)
    wire.venue.script({"on": "GET *", "repeat": 0, "status": 502, "body": ""})
    wire.step(0, 1, 2, 4, 8)
    assert wire.venue.hand.order(order_id).status == "CANCELED"
    assert wire.state(order_id) is S.CANCEL_REQUESTED
    wire.venue.clear_script()
    wire.step(30)
    assert wire.state(order_id) is S.CANCELLED
    judge(wire)


# ---- X34 ----------------------------------------------------------------------------------------------------------------------------

FEES: dict[str, list[dict[str, Any]]] = {
    "spot": [
        {"fee_asset": "received"},
        {"fee_asset": "base"},
        {"fee_asset": "quote"},
        {"fee_asset": "BNB"},
        {"fee_asset": "received", "maker_bps": D(-2), "taker_bps": D(-2)},
        {"fee_asset": "received", "is_fee_shown": False},
    ],
    "linear": [
        {"fee_asset": "quote"},
        {"fee_asset": "quote", "maker_bps": D(-2), "taker_bps": D("-1.5")},
        {"fee_asset": "quote", "is_fee_shown": False},
    ],
}


def trade_and_leave(desk: WireDesk, position: Position, random: Random) -> None:
    """Buy some odd quantities in several trades, let the stop sell what is held, and see that nothing but dust is left."""
    step = D("0.00001") if market(desk) == "spot" else D("0.001")
    desk.venue.set_price("BTCUSDT", 40_000)
    for _ in range(random.randrange(1, 4)):
        qty = step * random.randrange(20, 999) + (D("0.010") if market(desk) == "linear" else 0)
        desk.venue.change(liquidity=(qty / 3).quantize(step) if random.random() < 0.5 else None)
        order_id = position.intend(qty, limit_price=D(40_100))
        desk.execute()
        desk.venue.change(liquidity=None)
        desk.venue.set_price("BTCUSDT", 40_000)
        desk.step(2)
        assert desk.state(order_id) is S.FILLED, (desk.path(order_id), desk.codes(order_id))
    assert held(desk) > 0
    desk.venue.set_price("BTCUSDT", 37_000)
    (sale,) = guard_stops(desk.trading).raised
    sold = desk.order(sale).intent.qty
    assert sold == floor_to(min(held(desk), held_there(desk)), step)
    desk.step(0, 1)
    assert desk.state(sale) is S.FILLED, (desk.path(sale), desk.codes(sale))  # failed exits: 0
    assert held_there(desk) < step


@pytest.mark.fault_row("X34")
@pytest.mark.parametrize("n", [1, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_whatever_a_fee_is_taken_in_the_ledger_is_the_venues_and_the_exit_fits(wire: WireDesk, n: int, cells: Cells) -> None:
    """In the bought coin, in quote, in a third asset that runs out, as a rebate, or not said until later."""
    position, run = Position(wire), 0
    wire.bring("USDT", D(10_000_000))  # every life loses: it ends at its stop
    if market(wire) == "spot":
        wire.bring("BNB", "0.005")
    for seed, rules in product(range(n), FEES[market(wire)]):
        wire.venue.change(**{"is_fee_shown": True, "maker_bps": D(10), "taker_bps": D(10), **rules})
        trade_and_leave(wire, position, Random(f"{seed} {rules}"))
        wire.venue.hand.show_fees()
        reconcile_orders(wire.trading)
        judge(wire)  # every wallet of every asset equals the venue's, every batch sums to zero
        run += 1
    assert conflicts(wire) == 0
    assert wire.select("select count(*) from fills where account = %s and fee_amount is null", wire.account) == [(0,)]
    cells(run=run, passed=run)


@pytest.mark.fault_row("X34")
@pytest.mark.parametrize("later_s", [60, 3 * 3600, 2 * 86_400])
def test_a_fee_that_is_not_known_is_asked_for_until_it_is(wire: WireDesk, later_s: int) -> None:
    """However many trades of other orders have come in between."""
    wire.venue.change(is_fee_shown=False)
    first = wire.intend()
    wire.step(0, 2)
    assert booked(wire, "client_order_id, fee_amount") == [(first, None)]
    wire.venue.change(is_fee_shown=True)
    wire.advance(later_s)
    wire.intend()
    wire.step(0, 2)
    reconcile_orders(wire.trading)
    wire.venue.hand.show_fees()
    wire.advance(60)
    reconcile_orders(wire.trading)
    assert wire.select("select count(*) from fills where account = %s and fee_amount is null", wire.account) == [(0,)]
    judge(wire)
