"""X35 to X38: time to live against fills and deaths, other hands in the account, a venue that holds something else, stops beside exits.

What the venue says is compared, reported and blocked; nothing is made up, nothing is flattened, and nobody sells what is not there.
"""

import signal
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.ports import NewIntent, OrderType
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.book_by_hand import ByHand, book_by_hand
from regime_pipeline.services.trading.guard_stops import guard_stops
from regime_pipeline.services.trading.incidents import ack_incident
from regime_pipeline.services.trading.reconcile import ReconSummary, reconcile_full, reconcile_orders
from regime_pipeline.services.trading.write_intents import write_intents
from tests.killing import STRATEGY, Stage, decide, execute, recover_and_finish, run, sit_down, stage
from tests.trading import CREATE
from tests.wire import WireDesk, judge, open_wire
from tests.wire_books import (
    CANCEL,
    Cells,
    Position,
    Watch,
    booked,
    entry_codes,
    held,
    held_there,
    judge_request,
    market,
    reduce_only,
    stopped,
    watched,
)

D = Decimal
S = OrderState
TTL_S, BOUND_S = 90, 30
"""`entry_ttl_s`, and how much older than it no order may grow."""


@pytest.fixture(params=["spot", "linear"])
def wire(request: pytest.FixtureRequest, lasting_database: str) -> Iterator[WireDesk]:
    """A desk at each of the two venues."""
    with open_wire(lasting_database, request.param) as desk:
        yield desk


def of(desk: WireDesk, base: str) -> str:
    return desk.symbol.replace("BTC", base)


def ages_s(told: dict[str, Any]) -> list[float]:
    """How long each order that rested was open at the venue."""
    return [(order["updated_ms"] - order["created_ms"]) / 1000 for order in told["orders"] if order["status"] != "FILLED"]


# ---- X35 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X35")
def test_a_trade_that_the_venue_does_not_list_yet_when_the_time_is_up(wire: WireDesk, cells: Cells) -> None:
    """The order is over and counts a fill whose trade comes seconds later: it ends with it, and not a moment before."""
    shares = ["0.004", "0.010"]
    for qty in shares:
        order_id = wire.resting()
        wire.execute()
        wire.advance(TTL_S)
        trade = wire.venue.hand.fill(order_id, qty)
        rows = wire.venue.book.rows
        hidden = rows.pop()
        wire.step(0, 1, 2)
        assert wire.state(order_id) is S.CANCEL_REQUESTED
        assert wire.order(order_id).filled == 0
        rows.append(hidden)
        wire.step(4)
        assert wire.state(order_id) is (S.FILLED if D(qty) == D("0.010") else S.CANCELLED)
        assert wire.order(order_id).filled == trade.qty
    judge(wire)
    cells(run=len(shares), passed=len(shares))


@pytest.mark.fault_row("X35")
def test_no_order_grows_older_than_its_time_and_half_a_minute(wire: WireDesk, cells: Cells) -> None:
    """Eight minutes of orders that rest, while trades fall around the end of their time and the first two cancels get lost."""
    random, n = Random(35), 12
    wire.venue.script({"on": CANCEL[market(wire)], "repeat": 2, "accept": "never", "status": 502, "body": ""})
    ids: list[str] = []
    symbols = [wire.symbol, of(wire, "ETH"), of(wire, "SOL")]
    limits = {wire.symbol: D(39_000), symbols[1]: D(1_900), symbols[2]: D(90)}

    def send(symbol: str) -> None:
        qty = {"BTC": D("0.010"), "ETH": D("0.2"), "SOL": D(4)}[symbol[:3]]
        ids.append(wire.intend(symbol=symbol, limit_price=limits[symbol], qty=qty))

    def trade(n_th: int) -> None:
        order = wire.venue.hand.order(ids[n_th])
        if order.is_open:
            wire.venue.hand.fill(ids[n_th], order.qty / 4)

    events: dict[float, Callable[[], object]] = {}
    for k in range(n):
        at_s = 5 + 125 * (k // 3) + k % 3
        events[at_s] = partial(send, symbols[k % 3])
        events[at_s + TTL_S + random.uniform(-2, 14)] = partial(trade, k)
    wire.run_executor(520, events)
    told = wire.venue.truth()
    assert len(ids) == n
    assert len(told["accepted"]) == n
    assert [order["client_id"] for order in told["orders"] if order["is_open"]] == []
    assert max(ages_s(told)) <= TTL_S + BOUND_S
    judge(wire)
    cells(run=n, passed=n)


@pytest.fixture(scope="module")
def stages(lasting_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stage]]:
    """Venues for executors in processes of their own."""
    folder: Path = tmp_path_factory.mktemp("latches")
    with stage("spot", lasting_database, folder) as spot, stage("linear", lasting_database, folder) as linear:
        yield {"spot": spot, "linear": linear}


@pytest.mark.fault_row("X35")
@pytest.mark.parametrize("market_type", ["spot", "linear"])
@pytest.mark.parametrize(
    ("point", "starts_by"), [("after_step", "recovery"), ("before_cancel_wire", "turn"), ("after_cancel_wire", "turn")]
)
def test_after_a_death_what_is_too_old_is_cancelled_before_anything_is_entered(
    stages: dict[str, Stage], market_type: str, point: str, starts_by: str
) -> None:
    """The process is killed with an order at the venue, which then trades in part and outlives its time while nobody runs. The next start,
    or the first turn of whoever comes, sweeps it with its fill before an entry is sent; during a recovery none is."""
    theatre = stages[market_type]
    venue, seat = theatre.venue, theatre.seat()
    endpoints: list[str] = []
    record = venue.floor.record
    assert run(decide, seat, "", "entry", "0.010", "39000") == 0
    assert run(execute, seat, point) == -signal.SIGKILL
    theatre.end_leases()
    (old,) = [order["client_id"] for order in venue.truth()["orders"]]
    was_cancelled = not venue.hand.order(old).is_open
    if not was_cancelled:
        venue.hand.fill(old, "0.004")
    venue.clock.advance(600)
    venue.floor.record = lambda desk, call, now_ms: (endpoints.append(call.endpoint), record(desk, call, now_ms))[1]  # type: ignore[method-assign]
    trading, _ = sit_down(seat)
    symbol = "ETH/USDT" if market_type == "spot" else "ETH/USDT:USDT"
    key = LogicalKey(seat.account, STRATEGY, symbol, trading.clock.now_s(), Leg.ENTRY)
    waiting = NewIntent(*(key, Side.BUY, OrderType.LIMIT, D("0.1"), Mode.SANDBOX, trading.clock.now_ms() + 240_000), limit_price=D(2_010))
    with trading.stores.open() as work:
        write_intents(work, trading, [waiting])
    if starts_by == "turn":
        assert run(execute, seat, "") == 0
    assert run(recover_and_finish, seat) == 0
    venue.floor.record = record  # type: ignore[method-assign]
    told = venue.truth()
    at_venue = {order["client_id"]: order["status"] for order in told["orders"]}
    is_sent = starts_by == "turn"
    assert at_venue == ({old: "CANCELED", waiting.client_order_id: "FILLED"} if is_sent else {old: "CANCELED"})
    creates = [at for at, each in enumerate(endpoints) if each == CREATE[venue.market_type]]
    cancels = [at for at, each in enumerate(endpoints) if each == CANCEL[market_type]]
    assert len(creates) == is_sent
    assert was_cancelled or cancels
    assert not is_sent or was_cancelled or cancels[0] < creates[0]
    with psycopg.connect(seat.database) as conn:
        states = dict(conn.execute("select client_order_id, state from orders where account = %s", (seat.account,)).fetchall())
        filled = conn.execute("select sum(qty) from fills where client_order_id = %s", (old,)).fetchone()
    assert states == {old: "CANCELLED", waiting.client_order_id: "FILLED" if is_sent else "CANCELLED"}
    assert filled == (None if was_cancelled else D("0.004"),)


# ---- X36 ----------------------------------------------------------------------------------------------------------------------------


def foreign_evidence(desk: WireDesk, kind: str) -> dict[str, Any]:
    with desk.stores.open() as work:
        return next(dict(each.evidence) for each in work.recon.load_incidents() if each.kind == kind and desk.account in each.scope)


def acknowledge(desk: WireDesk) -> None:
    """A person says that it was him."""
    with desk.stores.open() as work:
        for each in work.recon.load_incidents():
            if desk.account in each.scope:
                ack_incident(work, each.incident_id, "anna")


@pytest.mark.fault_row("X36")
@pytest.mark.parametrize("age_s", [1, 30, 600])
def test_an_order_placed_by_hand_is_nobodys_and_stops_entries_of_its_symbol(wire: WireDesk, age_s: int) -> None:
    """Noticed by the next pass; never cancelled, never counted as ours; what reduces goes on, other symbols too."""
    order = wire.venue.hand.place("BTCUSDT", "BUY", "0.010", "38000")
    wire.advance(age_s)
    reconcile_orders(wire.trading)
    assert foreign_evidence(wire, "FOREIGN_ORDER")["owner"] == "_external"
    assert stopped(wire) == {("recon_foreign", wire.symbol)}
    refused, elsewhere = wire.intend(), wire.intend(symbol=of(wire, "ETH"), limit_price=D(2_010), qty=D("0.1"))
    wire.step(0, 2)
    assert (wire.state(refused), wire.codes(refused)["CANCELLED"]) == (S.CANCELLED, "KILLED")
    assert wire.state(elsewhere) is S.FILLED
    assert wire.venue.hand.order(order.order_id).is_open
    acknowledge(wire)
    wire.venue.hand.cancel(order.order_id)
    for _ in range(2):
        wire.advance(60)
        reconcile_orders(wire.trading)
    assert stopped(wire) == set()


@pytest.mark.fault_row("X36")
@pytest.mark.parametrize("age_s", [1, 30, 600])
@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_a_trade_by_hand_is_booked_as_nobodys_and_stops_entries_at_the_next_pass(wire: WireDesk, side: str, age_s: int) -> None:
    """Somebody buys more, or sells what a strategy holds: booked exactly, under `_external`, so that the ledger stays the venue's."""
    wire.intend()
    wire.step(0, 2)
    wire.venue.hand.place("BTCUSDT", side, "0.005")
    wire.advance(age_s)
    reconcile_orders(wire.trading)  # polls to detect: 1
    assert foreign_evidence(wire, "FOREIGN_FILL")["owner"] == "_external"
    assert stopped(wire) == {("recon_foreign", wire.symbol)}
    assert held(wire) == held_there(wire)
    strategies = wire.select("select distinct strategy from ledger_entries where account = %s and source like 'fill:%%'", wire.account)
    assert {name for (name,) in strategies} == {"onchain_crypto-1h", "_external"}
    assert wire.select("select count(*) from orders where account = %s", wire.account) == [(1,)]
    acknowledge(wire)
    for _ in range(2):
        wire.advance(60)
        reconcile_orders(wire.trading)
    assert stopped(wire) == set()
    judge(wire)


@pytest.mark.fault_row("X36")
def test_a_liquidation_is_booked_stops_entries_and_leaves_no_exit_of_what_is_gone(lasting_database: str) -> None:
    """It is nobody's trade: the strategy's contracts stand against `_external`'s, nothing is left to sell, and the loss that the venue took
    at once is the cost of what stands against each other."""
    with open_wire(lasting_database, "linear") as desk:
        Position(desk).buy("0.5")
        with watched(desk) as watch:
            desk.venue.hand.liquidate("BTCUSDT", "36000")
            desk.venue.set_price("BTCUSDT", 36_000)
            assert guard_stops(desk.trading).raised == []  # the ledger still has it, the venue has not
            desk.advance(1)
            reconcile_orders(desk.trading)
            assert foreign_evidence(desk, "FOREIGN_FILL")["owner"] == "_external"
            assert stopped(desk) == {("recon_foreign", desk.symbol)}
            assert guard_stops(desk.trading).raised == []
            desk.step(0, 2)
        assert (held(desk), held_there(desk), watch.least) == (0, 0, 0)
        assert entry_codes(desk) >= {ReasonCode.KILLED}
        assert read_twice(desk).is_clean
        assert wallet(desk) - wallet_there(desk) == D("0.5") * 4_000
        acknowledge(desk)
        for _ in range(2):
            desk.advance(60)
            reconcile_orders(desk.trading)
        assert stopped(desk) == set()


@pytest.mark.fault_row("X36")
def test_a_deposit_is_noticed_by_the_next_full_pass_and_stops_entries_until_somebody_explains_it(wire: WireDesk, cells: Cells) -> None:
    """Money of the quote stops entries of the account, a coin that the ledger does not know makes it reduce-only; nobody books it."""
    entries = "select count(*) from ledger_entries where account = %s"
    brought = [("USDT", "5000", {("recon_medium", None)})]
    if market(wire) == "spot":
        brought.append(("ETH", "1", {("recon_large", None)}))
    for asset, amount, levels in brought:
        before = wire.select(entries, wire.account)
        wire.venue.hand.deposit(asset, amount)
        summary = reconcile_full(wire.trading)
        assert not summary.is_clean  # polls to detect: 1
        assert [each.scope for each in summary.run.findings] == ["USDT" if asset == "USDT" else "ETH/USDT"]
        wire.advance(6)
        reconcile_full(wire.trading)
        assert stopped(wire) == levels
        assert wire.select(entries, wire.account) == before
        refused = wire.intend()
        wire.execute()
        assert wire.codes(refused)["CANCELLED"] == "KILLED"
        book_by_hand(wire.trading, ByHand(asset, D(amount), "anna", "brought in", is_flow=True))
        for _ in range(2):
            wire.advance(300)
            assert reconcile_full(wire.trading).is_clean
        assert stopped(wire) == {each for each in levels if each[0] == "recon_large"}  # which waits for a person
    judge(wire)
    cells(run=len(brought), passed=len(brought))


def wallet(desk: WireDesk) -> Decimal:
    """Quote that we have by the ledger."""
    rows = desk.select(
        "select sum(balance) from ledger_balances where account = %s and ledger_account = 'WALLET' and asset = 'USDT'", desk.account
    )
    return D(rows[0][0])


def wallet_there(desk: WireDesk) -> Decimal:
    """The same by the venue's own truth."""
    return D(desk.venue.truth()["balances"]["USDT"]["total"])


# ---- X37 ----------------------------------------------------------------------------------------------------------------------------

TIERS: dict[str, list[tuple[str, str, tuple[str, bool] | None]]] = {
    # held at the venue where the ledger has 0.5, tier, level and whether it is the symbol's; W7
    "spot": [
        ("0.4999", "dust", None),
        ("0.498", "small", ("recon_small", True)),
        ("0.49", "medium", ("recon_medium", True)),
        ("0.475", "medium", ("recon_medium", True)),
        ("0.47", "large", ("recon_large", False)),
        ("0.51", "medium", ("recon_medium", True)),
    ],
    "linear": [
        ("0.499", "dust", None),
        ("0.498", "small", ("recon_small", True)),
        ("0.49", "medium", ("recon_medium", True)),
        ("0.47", "large", ("recon_large", False)),
        ("0", "large", ("recon_large", False)),
        ("-0.5", "large", ("recon_large", False)),
    ],
}


def hold(desk: WireDesk, qty: str) -> None:
    """Let the venue hold another quantity than it traded."""
    if market(desk) == "spot":
        desk.venue.hand.deposit("BTC", D(qty) - held_there(desk))
        return
    book = desk.venue.book
    with book.lock:
        position: Any = book.account.position("BTCUSDT")  # type: ignore[union-attr]
        position.size, position.cost = D(qty), D(qty) * 40_000


def read_twice(desk: WireDesk) -> ReconSummary:
    """A finding counts when a second reading agrees."""
    reconcile_full(desk.trading)
    desk.advance(6)
    return reconcile_full(desk.trading)


CELLS = [(market_type, *tier) for market_type, tiers in TIERS.items() for tier in tiers]


@pytest.mark.fault_row("X37")
@pytest.mark.parametrize(("market_type", "there", "tier", "level"), CELLS, ids=[f"{cell[0]} {cell[1]}" for cell in CELLS])
def test_a_position_that_differs_is_graded_and_nothing_is_made_up(
    lasting_database: str, market_type: str, there: str, tier: str, level: tuple[str, bool] | None
) -> None:
    with open_wire(lasting_database, market_type, maker_bps=D(0), taker_bps=D(0)) as desk:
        desk.intend(qty=D("0.5"), limit_price=D(40_000))
        desk.step(0, 2)
        before = booked(desk), held(desk), desk.posts()
        hold(desk, there)
        summary = read_twice(desk)
        assert [(each.tier, each.scope) for each in summary.run.findings if each.check == "position"] == [(tier, desk.symbol)]
        expected = set() if level is None else {(level[0], desk.symbol if level[1] else None)}
        assert stopped(desk) == expected
        assert ("RECON_DRIFT" in desk.incidents()) is (tier in {"medium", "large"})
        assert (booked(desk), held(desk), desk.posts()) == before  # synthetic fills: 0; nothing was flattened
        if level is not None:
            assert entry_codes(desk) >= {ReasonCode.KILLED, ReasonCode.RECON_OPEN}
        hold(desk, "0.5")
        for _ in range(2):
            desk.advance(300)
            reconcile_full(desk.trading)
        assert stopped(desk) == {each for each in expected if each[0] == "recon_large"}
        judge(desk)


@pytest.mark.fault_row("X37")
def test_two_accounts_that_differ_in_one_symbol_are_two_incidents(lasting_database: str) -> None:
    """What one account's clean passes close is its own."""
    with open_wire(lasting_database, "spot") as one, open_wire(lasting_database, "spot") as other:
        for desk in (one, other):
            desk.bring("BTC", "0.5")
            hold(desk, "0.49")
            read_twice(desk)
            assert stopped(desk) == {("recon_medium", desk.symbol)}
        opened = other.select("select scope from incidents where kind = 'RECON_DRIFT' and closed_at is null")
        assert {f"{desk.account}|{desk.symbol}" for desk in (one, other)} <= {scope for (scope,) in opened}
        hold(one, "0.5")
        for _ in range(2):
            one.advance(300)
            reconcile_full(one.trading)
        left = other.select("select scope from incidents where kind = 'RECON_DRIFT' and closed_at is null")
        assert set(opened) - set(left) == {(f"{one.account}|{one.symbol}",)}
        assert stopped(other) == {("recon_medium", other.symbol)}


@pytest.mark.fault_row("X37")
def test_four_small_differences_are_a_large_one(lasting_database: str) -> None:
    """Three instruments may differ a little; the fourth says that it is not chance."""
    with open_wire(lasting_database, "spot") as desk:
        for asset, qty in (("BTC", "0.5"), ("ETH", "5"), ("SOL", "100"), ("BNB", "20")):
            desk.bring(asset, qty)
        for asset, gone in (("BTC", "0.002"), ("ETH", "0.02"), ("SOL", "0.4")):
            desk.venue.hand.withdraw(asset, gone)
        found = read_twice(desk).run.findings
        assert {each.scope: each.tier for each in found} == dict.fromkeys(("BTC/USDT", "ETH/USDT", "SOL/USDT"), "small")
        desk.venue.hand.withdraw("BNB", "0.08")
        assert {each.tier for each in read_twice(desk).run.findings} == {"large"}
        assert ("recon_large", None) in stopped(desk)
        assert booked(desk) == []


@pytest.mark.fault_row("X37")
def test_what_the_ledger_does_not_know_belongs_to_nobody(lasting_database: str) -> None:
    with open_wire(lasting_database, "spot") as desk:
        desk.venue.hand.deposit("ETH", "0.2")
        (found,) = read_twice(desk).run.findings
        assert (found.tier, found.scope, found.evidence["owner"]) == ("large", "ETH/USDT", "_orphan")
        assert stopped(desk) == {("recon_large", None)}


@pytest.mark.fault_row("X37")
def test_two_strategies_in_one_contract_are_no_difference_of_cash(lasting_database: str) -> None:
    """The venue has one average entry, each strategy its own: what one of them has taken as profit, the venue has taken in part. The cash
    that differs by that is explained, what is missing beside it is found, and once all is sold both agree to the last digit."""
    with open_wire(lasting_database, "linear", maker_bps=D(0), taker_bps=D(0)) as desk:
        for price, strategy in ((40_000, "onchain_crypto-1h"), (42_000, "onchain_crypto-4h")):
            desk.venue.set_price("BTCUSDT", price)
            desk.intend(strategy=strategy, qty=D("0.5"), limit_price=D(price))
            desk.step(0, 2)
        desk.intend(Leg.EXIT, strategy="onchain_crypto-1h", qty=D("0.5"), limit_price=D(41_900), reduce_only=True)
        desk.step(0, 2)
        assert (wallet(desk), wallet_there(desk)) == (101_000, 100_500)
        assert read_twice(desk).is_clean
        desk.venue.hand.withdraw("USDT", "300")
        assert [(each.check, each.tier) for each in read_twice(desk).run.findings] == [("cash", "medium")]
        desk.venue.hand.deposit("USDT", "300")
        desk.intend(Leg.EXIT, strategy="onchain_crypto-4h", qty=D("0.5"), limit_price=D(41_900), reduce_only=True)
        desk.step(0, 2)
        assert reconcile_full(desk.trading).is_clean
        judge(desk)


MONEY_READS = {"spot": ["/api/v3/account"], "linear": ["/v5/position/list", "/v5/account/wallet-balance"]}
EMPTY: dict[str, list[Any]] = {
    "spot": [[], {}, {"balances": []}, {"makerCommission": 10, "balances": None}],
    "linear": [{}, {"retCode": 0, "retMsg": "OK", "result": {}}, {"retCode": 0, "retMsg": "OK", "result": {"list": []}}],
}
FAILURES: list[dict[str, Any]] = [
    {"status": 500, "body": ""},
    {"status": 429, "body": {"code": -1003, "msg": "Too many requests.", "retCode": 10006, "retMsg": "Too many visits!"}},
    {"status": 200, "body": "<html></html>"},
    {"status": 200, "body": ""},
    {"cut": "reset"},
    {"cut": "truncate"},
]


@pytest.mark.fault_row("X37")
def test_a_read_that_fails_or_is_empty_is_unknown_and_never_flat(wire: WireDesk, cells: Cells) -> None:
    """Whatever way it says nothing: the pass is unknown, entries are refused, no finding claims a difference, and the book stays."""
    position = Position(wire)
    position.buy("0.010")
    reconcile_full(wire.trading)
    before = booked(wire), held(wire), wire.posts()
    faults = [*FAILURES, *({"status": 200, "body": body} for body in EMPTY[market(wire)])]
    run_cells = list(product(MONEY_READS[market(wire)], faults))
    for path, fault in run_cells:
        wire.venue.script({"on": f"GET {path}", "repeat": 0, **fault})
        summary = reconcile_full(wire.trading)
        assert summary.run.status.value == "unknown", (path, fault)
        assert [each for each in summary.run.findings if each.check in {"position", "cash"}] == [], (path, fault)
        assert ReasonCode.RECON_UNKNOWN in entry_codes(wire), (path, fault)
        assert (booked(wire), held(wire), wire.posts()) == before
        assert stopped(wire) == set()
        wire.venue.clear_script()
        wire.advance(6)
    assert reconcile_full(wire.trading).is_clean
    assert not {ReasonCode.RECON_UNKNOWN, ReasonCode.RECON_OPEN} & entry_codes(wire)
    judge(wire)
    cells(run=len(run_cells), passed=len(run_cells))


@pytest.mark.fault_row("X37")
def test_lists_that_are_empty_take_nothing_away(wire: WireDesk) -> None:
    """A cache before the venue lists no open order and no trade: an order that reads well rests on, a ledger with a history keeps it."""
    wire.intend()
    wire.step(0, 2)
    resting = wire.resting(symbol=of(wire, "ETH"), limit_price=D(1_900), qty=D("0.1"))
    wire.execute()
    before = booked(wire), held(wire), wire.path(resting)
    nothing = {"retCode": 0, "retMsg": "OK", "result": {"list": [], "nextPageCursor": ""}}
    if market(wire) == "spot":
        wire.venue.script(*({"on": f"GET /api/v3/{name}", "repeat": 0, "status": 200, "body": "[]"} for name in ("openOrders", "myTrades")))
    else:
        wire.venue.script({"on": "GET /v5/order/realtime", "where": {"settleCoin": "USDT"}, "repeat": 0, "status": 200, "body": nothing})
        wire.venue.script({"on": "GET /v5/execution/list", "repeat": 0, "status": 200, "body": nothing})
    for _ in range(4):
        reconcile_full(wire.trading)
        wire.advance(40)
    assert (booked(wire), held(wire), wire.path(resting)) == before
    assert (wire.incidents(), stopped(wire)) == ([], set())
    wire.venue.clear_script()
    wire.step(0, 2)
    assert wire.state(resting) is S.CANCELLED
    judge(wire)


@pytest.mark.fault_row("X37")
def test_a_stop_sells_by_the_ledger_while_holdings_cannot_be_read(wire: WireDesk) -> None:
    """Unknown is not flat: a position whose venue side cannot be read is protected all the same."""
    Position(wire).buy("0.010")
    wire.venue.script(*({"on": f"GET {path}", "repeat": 0, **FAILURES[0]} for path in MONEY_READS[market(wire)]))
    wire.venue.set_price("BTCUSDT", 37_000)
    (sale,) = guard_stops(wire.trading).raised
    wire.step(0, 1)
    assert wire.state(sale) is S.FILLED
    wire.venue.clear_script()
    judge(wire)


# ---- X38 ----------------------------------------------------------------------------------------------------------------------------


def rest_exit(desk: WireDesk, price: int = 41_000) -> str:
    """An exit of everything that the gate lets through, resting at the venue."""
    verdict = judge_request(desk, Leg.EXIT, held(desk), D(price))
    assert verdict.is_passed, verdict.findings
    order_id = desk.intend(Leg.EXIT, qty=verdict.qty, limit_price=D(price), reduce_only=reduce_only(desk))
    desk.execute()
    assert desk.state(order_id) is S.OPEN
    return order_id


def finish(desk: WireDesk, watch: Watch) -> None:
    """Let stops and executor take turns until nothing but dust is held, and nothing is left alive."""
    for _ in range(12):
        guard_stops(desk.trading)
        desk.step(0, 1)
        watch.look()
    assert held(desk) == held_there(desk) < D("0.001")
    with desk.stores.open() as work:
        assert [order.state for order in work.orders.load_live(desk.account)] == []
    assert watch.looks > 10
    assert watch.least >= 0  # max net short: 0
    assert watch.most_claimed <= 0  # SUM(exits) <= position, here and at the venue, at every point


RACES = ["nothing", "before the stop", "before_cancel_wire", "after_cancel_wire", "before_wire", "after_wire"]


@pytest.mark.fault_row("X38")
@pytest.mark.parametrize("share", ["0.004", "whole"])
@pytest.mark.parametrize("race", RACES)
def test_a_stop_that_is_hit_while_an_exit_rests_sells_no_more_than_there_is(wire: WireDesk, race: str, share: str) -> None:
    """The exit fills in part or whole at each moment of the stop's way: before it is raised, around the exit's cancel, around its wire."""
    Position(wire).buy("0.012")
    exit_id = rest_exit(wire)

    def fill_exit() -> None:
        order = wire.venue.hand.order(exit_id)
        if order.is_open:
            wire.venue.hand.fill(exit_id, order.remaining if share == "whole" else D(share))

    with watched(wire, **({race: fill_exit} if "_" in race else {})) as watch:
        if race == "before the stop":
            fill_exit()
        wire.venue.set_price("BTCUSDT", 37_000)
        finish(wire, watch)
    judge(wire)


@pytest.mark.fault_row("X38")
@pytest.mark.parametrize("liquidity", [None, "0.003"], ids=["deep", "thin"])
@pytest.mark.parametrize("first", ["stop", "executor"])
def test_a_stop_that_is_hit_when_an_exit_is_chased_through_the_book(wire: WireDesk, first: str, liquidity: str | None) -> None:
    """The exit's time is up in the very second: its second child and the stop want the same coins, and the book takes them by bits."""
    Position(wire).buy("0.012")
    exit_id = rest_exit(wire)
    wire.venue.hand.fill(exit_id, "0.002")
    wire.advance(30)
    wire.venue.change(liquidity=None if liquidity is None else D(liquidity))
    wire.venue.set_price("BTCUSDT", 37_000)
    with watched(wire, before_cancel_wire=lambda: wire.venue.hand.fill(exit_id, "0.001")) as watch:
        if first == "stop":
            guard_stops(wire.trading)
        wire.execute()
        finish(wire, watch)
    judge(wire)


@pytest.mark.fault_row("X38")
@pytest.mark.parametrize("is_taken", [True, False])
def test_a_stop_whose_answer_is_lost_is_not_raised_again_until_it_is_known(wire: WireDesk, is_taken: bool) -> None:
    Position(wire).buy("0.012")
    wire.venue.set_price("BTCUSDT", 37_000)
    with watched(wire) as watch:
        (lost,) = guard_stops(wire.trading).raised
        wire.fault(cut="reset", accept="before" if is_taken else "never")
        wire.execute()
        assert wire.state(lost) is S.UNKNOWN
        assert guard_stops(wire.trading).raised == []
        assert not judge_request(wire, Leg.EXIT, held(wire), D(37_000)).is_passed  # it counts in full
        wire.step(1, 2, 4, 8)
        finish(wire, watch)
    judge(wire)


@pytest.mark.fault_row("X38")
def test_an_exit_beside_a_stop_at_the_venue_finds_nothing_free_and_never_turns_the_position(lasting_database: str, cells: Cells) -> None:
    """A reduce-only trigger rests for part or all of the position, and fires while an exit that the gate let through is on its way."""
    run_cells = list(product(("0.005", "0.012"), ("before_wire", "after_wire", "later")))
    with open_wire(lasting_database, "linear") as desk:
        position = Position(desk)
        for resting, moment in run_cells:
            desk.venue.set_price("BTCUSDT", 40_000)
            position.buy("0.012")
            trigger = desk.intend(
                Leg.SL, type=OrderType.STOP, qty=D(resting), limit_price=None, stop_price=D(38_500), reduce_only=True, origin="risk"
            )
            desk.execute()
            assert desk.state(trigger) is S.OPEN
            verdict = judge_request(desk, Leg.EXIT, held(desk), D(39_900))
            assert verdict.qty == D("0.012") - D(resting) or not verdict.is_passed
            with watched(desk) as watch:
                if moment != "later":
                    watch.at[moment] = partial(desk.venue.set_price, "BTCUSDT", 38_000)
                if verdict.is_passed:
                    desk.intend(Leg.EXIT, qty=verdict.qty, limit_price=D(39_900), reduce_only=True)
                desk.step(0, 1)
                desk.venue.set_price("BTCUSDT", 38_000)
                desk.step(1, 35, 2, 2)
                finish(desk, watch)
        judge(desk)
    cells(run=len(run_cells), passed=len(run_cells))


@pytest.mark.slow
@pytest.mark.fault_row("X38")
@pytest.mark.timeout(900)
def test_stops_and_exits_that_race_in_every_way(wire: WireDesk, cells: Cells) -> None:
    """Seeded lives: exits of odd size, trades of odd size at any point, answers that get lost, prices that jump around the stop."""
    random, n = Random(38), 60
    position = Position(wire)
    for _ in range(n):
        wire.venue.set_price("BTCUSDT", 40_000)
        position.buy(D(random.randrange(8, 20)) / 1000)
        exit_id = rest_exit(wire)
        points = ["before_wire", "after_wire", "before_cancel_wire", "after_cancel_wire", "after_step", "before_fill", "after_fills"]

        def fill_some(order_id: str = exit_id) -> None:
            order = wire.venue.hand.order(order_id)
            if order.is_open:
                wire.venue.hand.fill(order_id, min(order.remaining, D(random.randrange(1, 12)) / 1000))

        with watched(wire, **dict.fromkeys(random.sample(points, 3), fill_some)) as watch:
            if random.random() < 0.4:
                wire.fault(cut="reset", accept=random.choice(("before", "never")))
            wire.venue.change(liquidity=random.choice((None, D("0.003"))))
            wire.venue.set_price("BTCUSDT", random.choice((37_000, 38_000)))
            for _ in range(6):
                guard_stops(wire.trading)
                wire.step(0, random.choice((1, 4)))
            wire.venue.change(liquidity=None)
            wire.step(15)
            finish(wire, watch)
    judge(wire)
    cells(run=n, passed=n)
