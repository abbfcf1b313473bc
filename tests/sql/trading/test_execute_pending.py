"""A turn of the executor: what it sends, in which order, and what it makes of every kind of answer."""

import threading
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import psycopg
import pytest

from regime_pipeline.errors import LeaseLostError
from regime_pipeline.execution.answers import Transport
from regime_pipeline.execution.order_states import Guard, OrderState, VenueStatus
from regime_pipeline.ports import OrderType, PauseKind, Proof, TimeInForce
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import EVERYBODY, Level, Scope, Switch, Trigger
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.move_order import move_order
from tests.fakes_trading import Scripted, lost, page, refused
from tests.trading_desk import ACCOUNT, SYMBOL, Crash, Desk

S = OrderState
OTHER = "PENDLE/USDT"


def a_switch(level: Level, scope: Scope = EVERYBODY) -> Switch:
    return Switch(scope, level, "manual", "alice", "drill", 0)


def test_what_is_sent_is_what_was_decided_stamped_with_the_time_of_the_commit(desk: Desk) -> None:
    order_id = desk.intend(limit_price=Decimal("100.3"))
    summary = desk.execute()
    ((spec, sent_at_ms, window_ms),) = desk.fake.creates
    assert spec == desk.order(order_id).intent.spec
    assert (spec.side, spec.qty, spec.limit_price) == (Side.BUY, 1, Decimal("100.3"))
    order = desk.order(order_id)
    assert sent_at_ms == order.sent_at_ms == desk.now_ms
    assert window_ms == 5000
    assert order.request_expires_at_ms == sent_at_ms + 5000
    assert order.rest_until_ms == sent_at_ms + 90_000
    assert order.next_look_at_ms == summary.next_due_ms == sent_at_ms + 2000
    assert summary.steps == {"INTENT->SUBMITTING": 1, "SUBMITTING->OPEN": 1}


def test_a_second_turn_has_nothing_to_do(desk: Desk) -> None:
    order_id = desk.intend()
    desk.execute()
    summary = desk.execute()
    assert (summary.has_lease, summary.steps, summary.sent, summary.read) == (True, {}, 0, 0)
    assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.OPEN]


def test_exits_leave_before_entries_and_else_the_oldest_first(desk: Desk) -> None:
    entry = desk.intend(symbol=OTHER)
    trim = desk.intend(Leg.TRIM)
    exit_ = desk.intend(Leg.EXIT, symbol=OTHER)
    desk.execute()
    assert [spec.client_order_id for spec, _, _ in desk.fake.creates] == [trim, exit_, entry]


def test_what_is_left_of_a_turn_when_somebody_else_has_the_lease_is_nothing(desk: Desk) -> None:
    order_id = desk.intend()
    with desk.stores.open() as work:
        assert work.orders.acquire_lease(f"dispatch:{ACCOUNT}", "somebody") is not None
    assert not desk.execute().has_lease
    assert desk.state(order_id) is S.INTENT
    desk.end_leases()
    assert desk.execute().sent == 1


def test_an_intent_past_its_time_is_never_sent(desk: Desk) -> None:
    order_id = desk.intend(decide_by_ms=desk.now_ms + 1000)
    desk.advance(1)
    desk.execute()
    assert desk.state(order_id) is S.CANCELLED
    assert desk.fake.creates == []
    with desk.stores.open() as work:
        (step,) = work.orders.load_transitions(order_id)
    assert step.proof.code == "NEVER_SENT"


def test_trading_that_is_off_sends_nothing_and_looks_after_what_rests(desk: Desk) -> None:
    resting = desk.intend()
    desk.execute()
    waiting = desk.intend(symbol=OTHER)
    desk.trading = replace(desk.trading, terms=replace(desk.trading.terms, trading_enabled=False))
    desk.fake.fill(resting, "1")
    desk.advance(2)
    desk.execute()
    assert (desk.state(resting), desk.state(waiting)) == (S.FILLED, S.INTENT)


@pytest.mark.parametrize(
    ("level", "scope", "sent"),
    [
        (Level.ENTRIES_OFF, EVERYBODY, {"trim", "sl"}),
        (Level.ENTRIES_OFF, Scope(ACCOUNT, symbol=OTHER), {"entry", "trim", "sl"}),
        (Level.REDUCE_ONLY, Scope(ACCOUNT), {"trim", "sl"}),
        (Level.HARD_STOP, EVERYBODY, {"sl"}),
        (Level.PROCESS_STOP, EVERYBODY, set()),
    ],
)
@pytest.mark.parametrize("where", ["file", "table"])
def test_a_kill_level_ends_what_it_forbids(desk: Desk, level: Level, scope: Scope, sent: set[str], where: str) -> None:
    ids = {desk.intend(leg): leg.value for leg in (Leg.ENTRY, Leg.TRIM, Leg.SL)}
    if where == "file":
        desk.latch.switches = (a_switch(level, scope),)
    else:
        desk.select(
            "insert into kill_switch (transition_id, account, strategy, symbol, level, old_level, source, actor, reason, at, row_hash)"
            " values ('t', %s, null, %s, %s, 0, 'manual', 'alice', 'drill', now(), '') returning 1",
            scope.account,
            scope.symbol,
            level.value,
        )
    desk.execute()
    assert {ids[spec.client_order_id] for spec, _, _ in desk.fake.creates} == sent
    for order_id, leg in ids.items():
        assert desk.state(order_id) is (S.OPEN if leg in sent else S.CANCELLED)


def test_a_kill_between_the_commit_and_the_wire_still_counts(desk: Desk) -> None:
    order_id = desk.intend()

    def kill_at(point: str) -> None:
        if point == "before_submitting_commit":
            desk.latch.switches = (a_switch(Level.ENTRIES_OFF),)

    desk.trading = replace(desk.trading, at=kill_at)
    desk.execute()
    assert desk.fake.creates == []
    assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.REJECTED]
    with desk.stores.open() as work:
        proof = work.orders.load_transitions(order_id)[-1].proof
    assert (proof.answer_class, proof.code) == ("NOT_SENT", "KILLED")


def test_what_runs_out_of_time_between_the_commit_and_the_wire_does_not_leave(desk: Desk) -> None:
    order_id = desk.intend(decide_by_ms=desk.now_ms + 1000)
    desk.trading = replace(desk.trading, at=lambda point: desk.advance(1) if point == "before_submitting_commit" else None)
    desk.execute()
    assert (desk.fake.creates, desk.state(order_id)) == ([], S.REJECTED)


def test_a_lease_confirmed_too_long_ago_is_confirmed_again_before_the_wire(desk: Desk) -> None:
    order_id = desk.intend()
    desk.trading = replace(desk.trading, at=lambda point: desk.advance(1.3) if point == "before_submitting_commit" else None)
    desk.execute()
    assert desk.state(order_id) is S.OPEN


def test_a_lease_lost_between_the_commit_and_the_wire_sends_nothing(desk: Desk) -> None:
    order_id = desk.intend()
    freeze(desk, seconds=1.3)
    with pytest.raises(LeaseLostError):
        desk.execute()
    assert (desk.fake.creates, desk.state(order_id)) == ([], S.SUBMITTING)


def freeze(desk: Desk, *, seconds: float) -> None:
    """Stop after the commit and before the wire for so long that somebody else takes the lease."""
    monotonic = desk.clock.now_s

    def read_clock() -> float:
        if desk.passed[-1:] == ["before_submitting_commit"]:
            desk.passed.append("frozen")
            desk.advance(seconds)
            desk.end_leases()
            with desk.another().stores.open() as work:
                work.orders.acquire_lease(f"dispatch:{ACCOUNT}", "another")
        return monotonic()

    desk.trading = replace(desk.trading, monotonic=read_clock)


def test_live_without_an_arm_sends_exits_only(desk: Desk) -> None:
    desk.fake.traits = replace(desk.fake.traits, mode=Mode.LIVE)
    desk.trading = replace(
        desk.trading, terms=replace(desk.trading.terms, mode=Mode.LIVE, key_fingerprint="f", acknowledged_account=ACCOUNT)
    )
    entry, exit_ = desk.intend(mode=Mode.LIVE), desk.intend(Leg.EXIT, mode=Mode.LIVE)
    desk.execute()
    assert (desk.state(entry), desk.state(exit_)) == (S.REJECTED, S.OPEN)
    with desk.stores.open() as work:
        assert work.orders.load_transitions(entry)[-1].proof.code == "NOT_ARMED"
    desk.select(
        "insert into arm (account, fingerprint, max_order_quote, max_day_quote, started_at, expires_at, actor, reason)"
        " values (%s, 'f', 100, 1000, to_timestamp(%s), to_timestamp(%s), 'alice', 'go') returning 1",
        ACCOUNT,
        desk.now_ms / 1000 - 10,
        desk.now_ms / 1000 + 3600,
    )
    armed = desk.intend(mode=Mode.LIVE, symbol=OTHER)
    desk.execute()
    assert desk.state(armed) is S.OPEN


UNCLEAR = {
    "no answer": lost(is_done=True),
    "reset": Scripted(None, b"", transport=Transport.BROKEN),
    "504": page(504, is_done=True),
    "500 of the venue": Scripted(500, b'{"code":-1000,"msg":"unknown"}'),
    "524": page(524, is_done=True),
    "200 and a page": page(200, is_done=True),
    "200 and nothing": Scripted(200, b""),
    "200 and another's id": Scripted(200, b'{"orderId":1,"clientOrderId":"another"}'),
    "200 without an id": Scripted(200, b'{"orderId":null,"clientOrderId":"x"}'),
    "302": page(302, is_done=True),
    "403": page(403, is_done=True),
    "a code nobody knows": Scripted(400, b'{"code":-9999,"msg":"?"}'),
    "duplicate": refused(-2010, "Duplicate order sent."),
}


@pytest.mark.parametrize("answer", UNCLEAR.values(), ids=list(UNCLEAR))
def test_an_answer_that_proves_nothing_is_unknown_is_looked_for_and_never_sent_again(desk: Desk, answer: Scripted) -> None:
    desk.fake.create_script.append(replace(answer, is_done=True))
    order_id = desk.intend()
    desk.execute()
    assert desk.state(order_id) is S.UNKNOWN
    desk.advance(1)
    desk.execute()
    assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.UNKNOWN, S.OPEN]
    for _ in range(10):
        desk.advance(15)
        desk.execute()
    assert len(desk.fake.creates) == 1


REFUSALS = {
    "balance": (refused(-2010, "Account has insufficient balance for requested action."), "BALANCE", {"check_balances"}, []),
    "closed": (refused(-2010, "Market is closed."), "MARKET_CLOSED", set(), ["VENUE_CLOSED"]),
    "filter": (refused(-1013, "Filter failure: LOT_SIZE"), "FILTER", set(), ["CONFIG_REFUSED"]),
    "symbol": (refused(-1121, "Invalid symbol."), "BAD_SYMBOL", set(), ["CONFIG_REFUSED"]),
    "key": (refused(-2015, "Invalid API-key, IP, or permissions for action.", 401), "AUTH", set(), []),
    "window": (refused(-1021, "Timestamp for this request is outside of the recvWindow."), "WINDOW", {"measure_clock"}, []),
    "not connected": (Scripted(None, b"", is_done=False, transport=Transport.NOT_CONNECTED), "NOT_CONNECTED", set(), []),
    "not built": (Scripted(None, b"", is_done=False, transport=Transport.NOT_BUILT), "CONFIG", set(), ["CONFIG_REFUSED"]),
    "rate": (refused(-1003, "Too many requests", 429), "RATE", set(), []),
}


@pytest.mark.parametrize(("answer", "code", "wants", "incidents"), REFUSALS.values(), ids=list(REFUSALS))
def test_a_refusal_that_is_proven_is_final_and_says_what_else_to_do(
    desk: Desk, answer: Scripted, code: str, wants: set[str], incidents: list[str]
) -> None:
    desk.fake.create_script.append(answer)
    order_id = desk.intend()
    summary = desk.execute()
    assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.REJECTED]
    with desk.stores.open() as work:
        proof = work.orders.load_transitions(order_id)[-1].proof
    assert (proof.code, proof.http_status, proof.raw) == (code, answer.status, (answer.body or b"").decode())
    assert (summary.wants, desk.incidents()) == (wants, incidents)


def test_a_limit_pauses_creates_of_every_process_and_longer_each_time(desk: Desk) -> None:
    ids = [desk.intend(symbol=f"T{i}/USDT") for i in range(4)]
    desk.fake.create_script += [refused(-1003, "slow", 429), refused(-1003, "slow", 418)]
    desk.execute()
    assert [desk.state(order_id) for order_id in ids] == [S.REJECTED, S.INTENT, S.INTENT, S.INTENT]
    desk.advance(59)
    another = desk.another()  # a restart, or another process
    another.execute()
    assert len(desk.fake.creates) == 1
    desk.advance(1)
    another.execute()
    assert len(desk.fake.creates) == 2
    with desk.stores.open() as work:
        assert work.orders.load_pauses("paper")[PauseKind.CREATES].length_s == 120
    desk.advance(119)
    desk.execute()
    assert len(desk.fake.creates) == 2
    desk.advance(1)
    desk.execute()
    assert [desk.state(order_id) for order_id in ids] == [S.REJECTED, S.REJECTED, S.OPEN, S.OPEN]
    with desk.stores.open() as work:
        assert work.orders.load_pauses("paper") == {}  # the next one is 60 s again


def test_a_limit_says_how_long_and_cancels_still_go(desk: Desk) -> None:
    resting = desk.intend()
    desk.execute()
    desk.fake.create_script.append(refused(-1015, "Too many new orders", 429, retry_after_s=7))
    desk.intend(symbol=OTHER)
    exit_ = desk.intend(Leg.EXIT, symbol=OTHER, decide_by_ms=desk.now_ms + 600_000)
    desk.fake.create_script.insert(0, refused(-1015, "Too many new orders", 429, retry_after_s=200))
    desk.execute()
    desk.advance(90)
    desk.execute()
    assert (desk.state(resting), desk.fake.cancels) == (S.CANCELLED, [resting])
    assert desk.state(exit_) is S.REJECTED


def test_a_page_before_the_venue_stops_entries_until_the_venue_speaks_again(desk: Desk) -> None:
    desk.fake.create_script.append(page(403))
    first, second = desk.intend(), desk.intend(symbol=OTHER)
    exit_ = desk.intend(Leg.EXIT, symbol="LINK/USDT")
    desk.fake.create_script.insert(0, page(403))
    desk.execute()
    assert (desk.state(exit_), desk.state(first), desk.state(second)) == (S.UNKNOWN, S.INTENT, S.INTENT)
    assert desk.incidents() == ["VENUE_PAGE"]
    desk.fake.create_script.clear()
    desk.advance(60)
    desk.execute()
    assert (desk.state(first), desk.state(second)) == (S.OPEN, S.OPEN)
    with desk.stores.open() as work:
        assert work.orders.load_pauses("paper") == {}


def test_three_refusals_of_the_key_in_a_row_stop_entries_and_page(desk: Desk) -> None:
    desk.fake.create_script += [refused(-2014, "API-key format invalid.", 401) for _ in range(3)]
    ids = [desk.intend(symbol=f"T{i}/USDT") for i in range(4)]
    summary = desk.execute()
    assert [desk.state(order_id) for order_id in ids] == [S.REJECTED, S.REJECTED, S.REJECTED, S.INTENT]
    assert (summary.wants, desk.incidents()) == ({"page_auth"}, ["AUTH_REFUSED"])


def test_two_refusals_of_the_key_and_an_order_that_is_taken_are_no_three(desk: Desk) -> None:
    bad = refused(-2014, "API-key format invalid.", 401)
    desk.fake.create_script += [bad, bad, Scripted(), bad]
    for i in range(4):
        desk.intend(symbol=f"T{i}/USDT")
    assert desk.execute().wants == frozenset()


def test_an_entry_waits_while_something_on_its_symbol_is_unclear_and_an_exit_does_not(desk: Desk) -> None:
    desk.fake.create_script.append(lost(is_done=True))
    unclear = desk.intend(Leg.TRIM)
    desk.execute()
    entry, exit_ = desk.intend(), desk.intend(Leg.EXIT)
    desk.execute()
    assert (desk.state(unclear), desk.state(entry), desk.state(exit_)) == (S.UNKNOWN, S.INTENT, S.OPEN)
    desk.advance(1)
    desk.execute()
    assert (desk.state(unclear), desk.state(entry)) == (S.OPEN, S.OPEN)


def test_an_acceptance_whose_id_is_another_order_s_is_looked_up(desk: Desk) -> None:
    first = desk.intend()
    desk.execute()
    venue_id = desk.order(first).venue_order_id
    second = desk.intend(Leg.EXIT)
    desk.fake.create_script.append(Scripted(200, f'{{"orderId":{venue_id},"clientOrderId":"{second}"}}'.encode()))
    desk.execute()
    assert desk.state(second) is S.UNKNOWN
    desk.advance(1)
    desk.execute()
    assert desk.state(second) is S.OPEN
    assert desk.order(second).venue_order_id != venue_id


def test_fills_at_once_are_booked_with_the_step_and_fees_leave_dust(desk: Desk) -> None:
    desk.fake.fills_at_once = True
    order_id = desk.intend(type=OrderType.MARKET, limit_price=None)
    desk.execute()
    assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.FILLED]
    # one bought, a fee of 10 bps in the coin: 0.999 are held
    assert desk.select("select balance from ledger_balances where asset = 'AAVE' and ledger_account = 'WALLET'") == [(Decimal("0.999"),)]


def test_trades_that_the_venue_counts_and_does_not_list_yet_leave_the_order_open(desk: Desk) -> None:
    desk.fake.on_place = lambda order_id: desk.fake.fill(order_id, "1")
    order_id = desk.intend()
    desk.fake.failing = {"fetch_fills"}
    desk.execute()
    assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.OPEN]
    trades, desk.fake.trades, desk.fake.failing = desk.fake.trades, [], set()
    desk.advance(2)
    desk.execute()
    assert desk.state(order_id) is S.OPEN  # closed at the venue, but nothing to book: not the end yet
    desk.fake.trades = trades
    desk.advance(2)
    desk.execute()
    assert desk.state(order_id) is S.FILLED


def test_many_resting_orders_are_read_by_one_listing(desk: Desk) -> None:
    ids = [desk.intend(symbol=f"T{i}/USDT") for i in range(8)]
    desk.execute()
    desk.fake.reads.clear()
    desk.fake.fill(ids[3], "0.5")
    desk.fake.end(ids[4], VenueStatus.CANCELED)
    desk.advance(2)
    summary = desk.execute()
    assert desk.fake.reads == ["fetch_open_orders", "fetch_order", "fetch_fills", "fetch_order"]
    assert (summary.read, desk.state(ids[3]), desk.state(ids[4])) == (2, S.PARTIAL, S.CANCELLED)
    assert {desk.order(order_id).next_look_at_ms for order_id in ids if order_id != ids[4]} == {desk.now_ms + 2000}


def test_reads_that_fail_change_nothing(desk: Desk) -> None:
    order_id = desk.intend()
    desk.execute()
    desk.fake.fill(order_id, "1")
    desk.fake.failing = {"fetch_order", "fetch_open_orders"}
    shown_ms = desk.order(order_id).last_seen_at_ms
    desk.advance(2)
    desk.execute()
    assert (desk.state(order_id), desk.order(order_id).last_seen_at_ms) == (S.OPEN, shown_ms)
    desk.fake.failing = set()
    desk.advance(2)
    desk.execute()
    assert desk.state(order_id) is S.FILLED


def test_an_ioc_is_read_each_second_for_fifteen(desk: Desk) -> None:
    desk.fake.on_place = lambda _order_id: None
    order_id = desk.intend(tif=TimeInForce.IOC)
    desk.execute()
    reads = 0
    for _ in range(20):
        desk.advance(1)
        reads += desk.execute().read
    assert reads == 15
    assert desk.order(order_id).next_look_at_ms is None


def test_one_order_that_cannot_be_handled_stops_no_other(desk: Desk) -> None:
    bad, good = desk.intend(), desk.intend(symbol=OTHER)
    desk.execute()
    desk.fake.fill(bad, "0.5")
    desk.fake.fill(good, "1")
    with psycopg.connect(desk.url) as conn:  # a batch that does not add up to zero, whatever made it
        conn.execute(
            "create function break_it() returns trigger language plpgsql as"
            " $$ begin new.amount := new.amount + 1; return new; end $$;"
            " create trigger break_it before insert on ledger_entries"
            " for each row when (new.asset = 'AAVE') execute function break_it()"
        )
    desk.advance(2)
    summary = desk.execute()
    assert (desk.state(bad), desk.state(good)) == (S.OPEN, S.FILLED)
    assert (summary.failed, summary.triggers) == ((bad,), {Trigger.LEDGER_IMBALANCE})
    assert desk.incidents() == ["LEDGER_IMBALANCE"]
    assert desk.select("select count(*) from fills where symbol = %s", SYMBOL) == [(0,)]


def test_two_executors_at_once_have_one_effect(desk: Desk) -> None:
    desk.fake.fills_at_once = True
    others = [desk.another() for _ in range(3)]
    expected = 0
    for turn in range(15):
        desk.intend(symbol=f"T{turn}/USDT")
        expected += 1
        threads = [threading.Thread(target=each.execute) for each in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    desk.execute()
    assert len(desk.fake.creates) == expected
    assert desk.select("select count(*), count(distinct client_order_id), sum(qty) from fills") == [(expected, expected, Decimal(expected))]
    assert desk.select("select count(*) from orders where state <> 'FILLED'") == [(0,)]


POINTS = ("before_submitting_commit", "before_wire", "after_wire", "after_answer", "before_fill", "mid_fills", "after_fills", "after_step")


@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_while_it_sends_leaves_one_create_and_each_fill_once(desk: Desk, point: str) -> None:
    desk.fake.fills_at_once = True
    order_id = desk.intend()
    desk.crash(point)
    heir = desk.another()
    for seconds in (0, 1, 2, 4, 8, 15):
        desk.advance(seconds)
        heir.execute()
    was_sent = point not in {"before_submitting_commit", "before_wire"}
    if point == "before_submitting_commit":  # nothing was committed: the heir sends it
        assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.FILLED]
    else:
        assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.UNKNOWN, S.FILLED if was_sent else S.NOT_FOUND]
    assert len(desk.fake.creates) == (0 if point == "before_wire" else 1)
    assert desk.select("select count(*), coalesce(sum(qty), 0) from fills") == [(len(desk.fake.trades), len(desk.fake.trades))]


@pytest.mark.parametrize("point", ["before_cancel_wire", "after_cancel_wire"])
def test_a_process_killed_while_it_cancels_leaves_a_cancel_that_is_asked_again(desk: Desk, point: str) -> None:
    order_id = desk.intend()
    desk.execute()
    desk.advance(90)
    desk.crash(point)
    assert desk.state(order_id) is S.CANCEL_REQUESTED
    desk.advance(1)
    desk.another().execute()
    assert desk.path(order_id)[-2:] == [S.CANCEL_REQUESTED, S.CANCELLED]
    assert len(desk.fake.cancels) == 1


def test_what_refuses_the_next_order_does_not_touch_the_record_of_the_one_before(desk: Desk) -> None:
    first, second, third = (desk.intend(symbol=f"T{i}/USDT") for i in range(3))

    def cancel_second(point: str) -> None:
        if point == "after_wire" and desk.state(second) is S.INTENT:
            with desk.another().stores.open() as work:
                move_order(work, desk.order(second), S.CANCELLED, {Guard.REASON_GIVEN}, actor="alice", proof=Proof(code="OPERATOR"))

    desk.trading = replace(desk.trading, at=cancel_second)
    desk.execute()
    assert [desk.state(order_id) for order_id in (first, second, third)] == [S.OPEN, S.CANCELLED, S.OPEN]
    assert [spec.client_order_id for spec, _, _ in desk.fake.creates] == [first, third]


def test_a_process_killed_between_two_orders_leaves_the_first_to_be_looked_for_and_the_second_to_be_sent(desk: Desk) -> None:
    first, second = desk.intend(symbol="T0/USDT"), desk.intend(symbol="T1/USDT")
    desk.trading = replace(desk.trading, at=crash_at_the_second("before_submitting_commit"))
    with pytest.raises(Crash):
        desk.execute()
    desk.end_leases()
    assert (desk.state(first), desk.state(second)) == (S.SUBMITTING, S.INTENT)
    heir = desk.another()
    heir.execute()
    desk.advance(1)
    heir.execute()
    assert desk.path(first) == [S.INTENT, S.SUBMITTING, S.UNKNOWN, S.OPEN]
    assert desk.path(second) == [S.INTENT, S.SUBMITTING, S.OPEN]
    assert len(desk.fake.creates) == 2


def crash_at_the_second(name: str) -> Callable[[str], None]:
    passed: list[str] = []

    def at(point: str) -> None:
        passed.append(point)
        if passed.count(name) == 2:
            raise Crash(point)

    return at


def test_a_crash_is_no_error_that_the_product_may_catch() -> None:
    assert not issubclass(Crash, Exception)


def test_a_raw_answer_is_kept_without_secrets(desk: Desk) -> None:
    desk.fake.create_script.append(Scripted(400, b'{"code":-1100,"msg":"Illegal","signature":"abc\x00def"}', is_done=False))
    order_id = desk.intend()
    desk.execute()
    with desk.stores.open() as work:
        raw = work.orders.load_transitions(order_id)[-1].proof.raw
    assert raw == '{"code":-1100,"msg":"Illegal","signature":***}'
