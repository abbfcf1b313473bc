"""Intents, orders, steps, leases, looks and pauses on a real database."""

import threading
from dataclasses import replace
from decimal import Decimal

import psycopg
import pytest

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.errors import (
    BrokerConfirmationRequiredError,
    InvalidTransitionError,
    LeaseLostError,
    OrderValidationError,
    TerminalStateError,
    TransitionConflictError,
    UnauthorizedAIActionError,
)
from regime_pipeline.execution.ladder import Look, LookResult, Rung, Seen
from regime_pipeline.execution.order_states import EDGES, Guard, OrderState
from regime_pipeline.ports import (
    IntentOutcome,
    Lease,
    OrderChange,
    OrderRow,
    OrderStep,
    OrderType,
    Pause,
    PauseKind,
    Proof,
    Seeing,
    Stepped,
    TimeInForce,
)
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.purpose import Leg
from regime_pipeline.services.trading.move_order import move_order
from tests.trading_desk import ACCOUNT, Desk

S, G = OrderState, Guard
READY = {G.CLIENT_ID_STORED, G.LEASE_HELD, G.BEFORE_DECIDE_BY, G.NOT_KILLED, G.MODE_MATCHES}


def a_lease(desk: Desk, holder: str = "desk") -> Lease:
    with desk.stores.open() as work:
        lease = work.orders.acquire_lease(f"dispatch:{ACCOUNT}", holder)
    assert lease is not None
    return lease


def test_an_intent_comes_back_as_it_was_written(desk: Desk) -> None:
    intent = desk.an_intent(
        Leg.SL,
        qty=Decimal("0.300"),
        type=OrderType.STOP,
        stop_price=Decimal("97.5"),
        limit_price=None,
        tif=TimeInForce.IOC,
        reduce_only=True,
        origin="risk",
    )
    (result,) = desk.write(intent)
    assert (result.outcome, result.intent) == (IntentOutcome.WRITTEN, intent)
    order = desk.order(intent.client_order_id)
    assert order.intent == intent
    assert str(order.intent.qty) == "0.3"
    assert (order.state, order.version, order.filled, order.payload_hash) == (S.INTENT, 0, 0, intent.payload_hash)
    assert desk.select("select kind, dedupe_key, done_at from outbox") == [("SUBMIT", intent.client_order_id, None)]


def test_the_same_key_is_adopted_and_another_payload_is_a_conflict_that_changes_nothing(desk: Desk) -> None:
    intent = desk.an_intent()
    desk.write(intent)
    (again,) = desk.write(replace(intent, decide_by_ms=intent.decide_by_ms + 5))
    assert again.outcome is IntentOutcome.ADOPTED
    (other,) = desk.write(replace(intent, qty=Decimal(2)))
    assert other.outcome is IntentOutcome.CONFLICT
    assert other.order is not None
    assert other.order.intent.qty == 1
    assert desk.incidents() == ["PAYLOAD_CONFLICT"]
    assert desk.select("select count(*) from orders") == [(1,)]


def test_one_live_entry_holds_a_symbol_and_one_other_order_its_strategy_and_purpose(desk: Desk) -> None:
    first = desk.an_intent()
    rival = desk.an_intent(strategy="onchain_crypto-4h")
    exit_ = desk.an_intent(Leg.EXIT)
    exit_of_other = desk.an_intent(Leg.EXIT, strategy="onchain_crypto-4h")
    flatten = desk.an_intent(Leg.FLATTEN)
    results = desk.write(first, rival, exit_, exit_of_other, flatten)
    outcomes = [result.outcome for result in results]
    assert outcomes == [IntentOutcome.WRITTEN, IntentOutcome.BLOCKED, IntentOutcome.WRITTEN, IntentOutcome.WRITTEN, IntentOutcome.BLOCKED]
    assert [result.order is None for result in results] == [False, True, False, False, True]
    assert [result.outcome for result in desk.write(rival)] == [IntentOutcome.BLOCKED]
    with desk.stores.open() as work:
        move_order(work, desk.order(first.client_order_id), S.CANCELLED, {G.REASON_GIVEN})
    assert [result.outcome for result in desk.write(rival)] == [IntentOutcome.WRITTEN]


def test_recent_orders_come_newest_first_and_live_ones_oldest_first(desk: Desk) -> None:
    ids = [desk.intend(), desk.intend(Leg.EXIT, symbol="PENDLE/USDT"), desk.intend(Leg.EXIT)]
    with desk.stores.open() as work:
        assert [order.client_order_id for order in work.orders.load_recent(ACCOUNT, 0)] == ids[::-1]
        assert [order.client_order_id for order in work.orders.load_live(ACCOUNT)] == ids
        assert [order.client_order_id for order in work.orders.load_live(ACCOUNT, "PENDLE/USDT")] == [ids[1]]
        assert work.orders.load_live("another") == work.orders.load_recent(ACCOUNT, 4_000_000_000_000) == []


def test_only_one_order_replaces_another(desk: Desk) -> None:
    first = desk.intend(Leg.EXIT)
    with desk.stores.open() as work:
        move_order(work, desk.order(first), S.CANCELLED, {G.REASON_GIVEN})
    child = desk.an_intent(Leg.EXIT, seq=1, replaces_id=first)
    assert desk.write(child)[0].outcome is IntentOutcome.WRITTEN
    assert desk.write(child)[0].outcome is IntentOutcome.ADOPTED
    with desk.stores.open() as work:
        move_order(work, desk.order(child.client_order_id), S.CANCELLED, {G.REASON_GIVEN})
    assert desk.write(desk.an_intent(Leg.EXIT, seq=2, replaces_id=first))[0].outcome is IntentOutcome.BLOCKED


def test_nobody_but_strategy_person_and_risk_asks_for_an_order(desk: Desk) -> None:
    with pytest.raises(UnauthorizedAIActionError, match="was 'model', allowed are strategy, human, risk"):
        desk.an_intent(origin="model")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"qty": Decimal(0)}, "qty was 0"),
        ({"limit_price": None}, "limit_price was 0"),
        ({"reduce_only": True}, "reduce-only"),
        ({"seq": 1}, "child 1 replaced None"),
        ({"replaces_id": "0" * 32}, "child 0 replaced"),
        ({"type": OrderType.STOP}, "stop_price was 0"),
    ],
)
def test_an_intent_that_contradicts_itself_is_refused(desk: Desk, changes: dict[str, object], match: str) -> None:
    with pytest.raises(OrderValidationError, match=match):
        desk.an_intent(**changes)


def test_an_intent_for_another_mode_is_refused(desk: Desk) -> None:
    with pytest.raises(OrderValidationError, match="was for mode live"):
        desk.write(desk.an_intent(mode=Mode.LIVE))


def test_ten_who_write_one_intent_at_once_write_one_order(desk: Desk) -> None:
    outcomes: list[IntentOutcome] = []

    def write() -> None:
        mine = desk.another()
        outcomes.append(mine.write(mine.an_intent())[0].outcome)
        mine.stores.close()

    threads = [threading.Thread(target=write) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [IntentOutcome.ADOPTED] * 9 + [IntentOutcome.WRITTEN]
    assert desk.select("select count(*) from outbox") == [(1,)]


def test_a_lease_is_one_holder_s_until_a_second_after_its_end_and_its_token_only_grows(desk: Desk) -> None:
    name = f"dispatch:{ACCOUNT}"
    first = a_lease(desk)
    with desk.stores.open() as work:
        assert work.orders.acquire_lease(name, "another") is None
        assert work.orders.acquire_lease(name, "desk") is None  # a restart of the holder is somebody else
        assert work.orders.renew_lease(first)
    set_end(desk, "- interval '0.2 s'")
    with desk.stores.open() as work:
        assert not work.orders.renew_lease(first)  # over
        assert work.orders.acquire_lease(name, "another") is None  # and not yet free
    set_end(desk, "- interval '1.1 s'")
    second = a_lease(desk, "another")
    assert (first.token, second.token) == (1, 2)
    with desk.stores.open() as work:
        assert not work.orders.renew_lease(first)
        work.orders.release_lease(first)  # not his to give back
        assert work.orders.renew_lease(second)
        work.orders.release_lease(second)
    assert a_lease(desk, "third").token == 3
    with pytest.raises(psycopg.errors.CheckViolation, match="only grows"), psycopg.connect(desk.url) as conn:
        conn.execute("update leases set token = 1")


def set_end(desk: Desk, offset: str) -> None:
    with psycopg.connect(desk.url) as conn:
        conn.execute(f"update leases set until = clock_timestamp() {offset}")  # type: ignore[arg-type]


def test_one_of_ten_gets_the_lease(desk: Desk) -> None:
    got: list[Lease | None] = []

    def take() -> None:
        stores = PostgresStores(desk.url)
        with stores.open() as work:
            got.append(work.orders.acquire_lease("dispatch:x", threading.current_thread().name))
        stores.close()

    threads = [threading.Thread(target=take) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in got) == 1


def test_an_account_is_locked_for_one_transaction_and_others_do_not_wait(desk: Desk) -> None:
    with desk.stores.open() as work:
        assert work.orders.try_lock_account(ACCOUNT)
        with desk.another().stores.open() as other:
            assert not other.orders.try_lock_account(ACCOUNT)
            assert other.orders.try_lock_account("another")
    with desk.another().stores.open() as other:
        assert other.orders.try_lock_account(ACCOUNT)


def test_a_step_is_kept_with_its_proof_and_the_outbox(desk: Desk) -> None:
    order_id, lease = desk.intend(), a_lease(desk)
    change = OrderChange(sent_at_ms=desk.now_ms, request_expires_at_ms=desk.now_ms + 5000, rest_until_ms=desk.now_ms + 90_000)
    with desk.stores.open() as work:
        sent = move_order(work, desk.order(order_id), S.SUBMITTING, READY, lease=lease, change=change, renews_lease=True)
        proof = Proof("ACCEPTED", "ACCEPTED", 200, '{"orderId":"7"}', {"transport": "answered"})
        change = OrderChange(venue_order_id="7", next_look_at_ms=desk.now_ms + 2000)
        opened = move_order(work, sent, S.OPEN, {G.VENUE_ID_PRESENT, G.ECHO}, lease=lease, proof=proof, change=change)
    assert desk.order(order_id) == opened
    with desk.stores.open() as work:
        first, second = work.orders.load_transitions(order_id)
        assert work.orders.load_by_venue_id("paper", ACCOUNT, ["7", "8"]) == [opened]
    assert (first.old, first.new, first.order_seq, first.lease_token) == (S.INTENT, S.SUBMITTING, 1, lease.token)
    assert (second.old, second.new, second.proof, second.actor) == (S.SUBMITTING, S.OPEN, proof, "executor")
    ((done, token),) = desk.select("select done_at is not null, claimed_token from outbox")
    assert (done, token) == (True, lease.token)


def test_a_repeated_report_writes_nothing_and_an_outdated_one_is_evaluated_once_more(desk: Desk) -> None:
    order_id, lease = desk.intend(), a_lease(desk)
    seen_first = desk.order(order_id)
    with desk.stores.open() as work:
        move_order(work, seen_first, S.SUBMITTING, READY, lease=lease)
    with desk.stores.open() as work:
        again = move_order(work, seen_first, S.SUBMITTING, READY, lease=lease)  # somebody was there before: the same step
        assert again.version == 1
        with pytest.raises(TransitionConflictError, match="moved in between"):
            move_order(work, seen_first, S.CANCELLED, {G.REASON_GIVEN}, lease=lease)
    with desk.stores.open() as work:
        unknown = move_order(work, again, S.UNKNOWN, (), lease=lease)
        found = move_order(work, replace(again, version=0, state=S.SUBMITTING), S.OPEN, set(G) - {G.FILLS_COVER_QTY}, lease=lease)
    assert (unknown.version, found.state, found.version) == (2, S.OPEN, 3)
    assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.UNKNOWN, S.OPEN]


def test_a_step_under_a_lost_lease_is_not_made(desk: Desk) -> None:
    order_id, old = desk.intend(), a_lease(desk)
    desk.end_leases()
    a_lease(desk, "another")
    with pytest.raises(LeaseLostError, match="was lost before INTENT -> SUBMITTING"), desk.stores.open() as work:
        move_order(work, desk.order(order_id), S.SUBMITTING, READY, lease=old)
    assert desk.path(order_id) == [S.INTENT]
    assert desk.select("select done_at from outbox") == [(None,)]


def test_a_lease_that_has_ended_does_not_send_even_where_nobody_has_taken_it_over(desk: Desk) -> None:
    order_id, lease = desk.intend(), a_lease(desk)
    desk.end_leases()
    with pytest.raises(LeaseLostError), desk.stores.open() as work:
        move_order(work, desk.order(order_id), S.SUBMITTING, READY, lease=lease, renews_lease=True)
    assert desk.state(order_id) is S.INTENT


def test_every_pair_outside_the_registry_is_refused_by_the_function_and_by_the_tables(desk: Desk) -> None:
    order = desk.order(desk.intend())
    with psycopg.connect(desk.url) as conn:
        conn.execute("alter table orders disable trigger orders_step")
        for old in S:
            conn.execute("update orders set state = %s", (old.value,))
            conn.commit()
            here = replace(order, state=old)
            for new in S:
                if (old, new) in EDGES or old is new:
                    continue
                expected = TerminalStateError if old.is_terminal else InvalidTransitionError
                with pytest.raises(expected), desk.stores.open() as work:
                    move_order(work, here, new, set(G))
                with pytest.raises(psycopg.errors.ForeignKeyViolation), desk.stores.open() as work:
                    work.orders.step(OrderStep(order.client_order_id, old, new, 0, "executor", None))
        assert conn.execute("select count(*) from order_transitions").fetchone() == (0,)


def test_the_database_keeps_states_by_itself(desk: Desk) -> None:
    order_id = desk.intend()
    with psycopg.connect(desk.url) as conn:
        for statement, match in (
            ("update orders set state = 'FILLED', version = 1", "no such edge"),
            ("update orders set state = 'SUBMITTING'", "each step adds one"),
            ("delete from orders", "append-only"),
            ("update order_intents set qty = 2", "append-only"),
        ):
            with pytest.raises(psycopg.Error, match=match):
                conn.execute(statement)  # type: ignore[arg-type]
            conn.rollback()
    assert desk.state(order_id) is S.INTENT


def test_the_id_of_another_order_is_no_confirmation(desk: Desk) -> None:
    lease = a_lease(desk)
    ids = [desk.intend(), desk.intend(Leg.EXIT)]
    with desk.stores.open() as work:
        sent = [move_order(work, desk.order(order_id), S.SUBMITTING, READY, lease=lease) for order_id in ids]
        answered = {G.VENUE_ID_PRESENT, G.ECHO}
        move_order(work, sent[0], S.OPEN, answered, lease=lease, change=OrderChange(venue_order_id="7"))
    with pytest.raises(BrokerConfirmationRequiredError, match="another order of ours"), desk.stores.open() as work:
        move_order(work, sent[1], S.OPEN, answered, lease=lease, change=OrderChange(venue_order_id="7"))
    assert desk.state(ids[1]) is S.SUBMITTING


def test_looks_count_from_when_the_order_last_became_unknown(desk: Desk) -> None:
    order_id, lease = desk.intend(), a_lease(desk)
    with desk.stores.open() as work:
        sent = move_order(work, desk.order(order_id), S.SUBMITTING, READY, lease=lease)
        work.orders.add_look(order_id, Look(desk.now_ms - 1, LookResult.CLEAN), {Rung.CLIENT_ID: Seen.ABSENT})
        move_order(work, sent, S.UNKNOWN, (), lease=lease, change=OrderChange(unknown_at_ms=desk.now_ms))
        looks = (Look(desk.now_ms + 1000, LookResult.NO_INFORMATION), Look(desk.now_ms + 3000, LookResult.CLEAN))
        for look in reversed(looks):
            work.orders.add_look(order_id, look, {Rung.CLIENT_ID: Seen.ABSENT, Rung.BALANCES: Seen.FAILED})
        assert work.orders.load_looks([order_id, "other"]) == {order_id: looks, "other": ()}
    assert desk.select("select rungs from order_looks order by started_at desc limit 1") == [
        ({"client_id": "absent", "balances": "failed"},)
    ]


def test_what_was_seen_asked_and_flagged_is_kept_without_a_step(desk: Desk) -> None:
    order_id = desk.intend()
    with desk.stores.open() as work:
        work.orders.note_seen([Seeing(order_id, desk.now_ms + 2000, desk.now_ms)])
        work.orders.note_cancels_asked([order_id], desk.now_ms)
        work.orders.note_cancels_asked([order_id], desk.now_ms + 1)
        for _ in range(2):
            work.orders.add_flag(order_id, "dust")
    order = desk.order(order_id)
    assert (order.next_look_at_ms, order.last_seen_at_ms) == (desk.now_ms + 2000, desk.now_ms)
    assert (order.cancel_asked_at_ms, order.cancel_tries, order.flags, order.version) == (desk.now_ms + 1, 2, {"dust"}, 0)
    with desk.stores.open() as work:
        work.orders.note_seen([Seeing(order_id, None, desk.now_ms - 5)])
    order = desk.order(order_id)
    assert (order.next_look_at_ms, order.last_seen_at_ms) == (None, desk.now_ms)  # the past moves nothing back


def test_a_pause_is_kept_until_it_is_ended(desk: Desk) -> None:
    pause = Pause(PauseKind.CREATES, desk.now_ms + 60_000, 60)
    with desk.stores.open() as work:
        assert work.orders.load_pauses("paper") == {}
        work.orders.save_pause("paper", pause)
    with desk.another().stores.open() as work:
        assert work.orders.load_pauses("paper") == {PauseKind.CREATES: pause}
        assert work.orders.load_pauses("binance") == {}
        work.orders.save_pause("paper", Pause(PauseKind.CREATES, desk.now_ms, 0))
        assert work.orders.load_pauses("paper") == {}


def test_the_outbox_says_what_is_open_and_since_when(desk: Desk) -> None:
    order_id = desk.intend()
    with desk.stores.open() as work:
        (note,) = work.orders.load_open_notes(ACCOUNT)
        assert (note.kind, note.dedupe_key, note.attempts) == ("SUBMIT", order_id, 0)
        assert 0 <= note.age_s < 60
        assert work.orders.load_open_notes("another") == []


def test_a_cancel_that_is_asked_for_again_is_one_note_that_opens_again(desk: Desk) -> None:
    order = an_open_order(desk)
    with desk.stores.open() as work:
        asked = move_order(work, order, S.CANCEL_REQUESTED, set(G), change=OrderChange(cancel_requested_at_ms=desk.now_ms))
        assert [note.kind for note in work.orders.load_open_notes(ACCOUNT)] == ["CANCEL"]
        refused = move_order(work, asked, S.OPEN, set(G))
        assert work.orders.load_open_notes(ACCOUNT) == []
        again = move_order(work, refused, S.CANCEL_REQUESTED, set(G), change=OrderChange(cancel_requested_at_ms=desk.now_ms + 9000))
        assert [note.kind for note in work.orders.load_open_notes(ACCOUNT)] == ["CANCEL"]
    assert again.cancel_requested_at_ms == desk.order(order.client_order_id).cancel_requested_at_ms == desk.now_ms  # the first counts


def an_open_order(desk: Desk) -> OrderRow:
    order_id, lease = desk.intend(), a_lease(desk)
    with desk.stores.open() as work:
        sent = move_order(work, desk.order(order_id), S.SUBMITTING, READY, lease=lease)
        return move_order(work, sent, S.OPEN, {G.VENUE_ID_PRESENT, G.ECHO}, lease=lease, change=OrderChange(venue_order_id="7"))


def test_a_step_without_a_lease_is_what_a_person_does(desk: Desk) -> None:
    order_id = desk.intend()
    with desk.stores.open() as work:
        done = work.orders.step(OrderStep(order_id, S.INTENT, S.CANCELLED, 0, "alice", None, Proof(code="OPERATOR")))
        assert done is Stepped.DONE
        (step,) = work.orders.load_transitions(order_id)
        assert (step.actor, step.lease_token, step.proof.code) == ("alice", 0, "OPERATOR")
        assert work.orders.step(OrderStep(order_id, S.INTENT, S.CANCELLED, 0, "bob", None)) is Stepped.CONFLICT
