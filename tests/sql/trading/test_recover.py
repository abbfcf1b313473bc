"""Recovery: whatever a process left behind is known again, entries wait for that, and doing it twice is doing it once."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from regime_pipeline.errors import DatabaseError, KillSwitchActiveError
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.ports import Listing, Ok, OrderSpec, OrderType, PassKind, PassStatus, Read
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.kill_switch import EVERYBODY, Level, Scope, Switch
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.open_account import open_account
from regime_pipeline.services.trading.recover import Recovery, recover
from tests.fakes_trading import FakeBroker, lost
from tests.trading_desk import ACCOUNT, SYMBOL, Crash, Desk

D = Decimal
OWN = Scope(ACCOUNT)
RULES = InstrumentRules(SYMBOL, tick=D("0.01"), step=D("0.001"), min_cost_quote=D(5))
N_STEPS = 12


class ListingBroker(FakeBroker):
    """A venue that lists its market."""

    def fetch_listings(self) -> Read[dict[str, Listing]]:
        read = super().fetch_listings()
        return Ok({SYMBOL: Listing(RULES, "AAVE", "USDT", D(10), D(10))}) if isinstance(read, Ok) else read


@pytest.fixture
def desk(database: str) -> Desk:
    """A desk with money at a venue that lists its market, which has recovered once."""
    desk = Desk(database)
    desk = Desk(database, ListingBroker(desk.clock), desk.clock)
    open_account(desk.trading)
    assert recover(desk.trading).is_ready
    return desk


def levels(desk: Desk) -> set[tuple[str, Scope, Level]]:
    with desk.stores.open() as work:
        return {(switch.source, switch.scope, switch.level) for switch in work.safety.load_switches(ACCOUNT)}


def picture(desk: Desk) -> dict[str, list[tuple[Any, ...]]]:
    """What an account is: orders and how they got there, fills, ledger, levels and incidents."""
    return {
        "orders": desk.select("select client_order_id, state, version, venue_order_id from orders order by 1"),
        "steps": desk.select("select client_order_id, order_seq, to_state from order_transitions order by 1, 2"),
        "fills": desk.select("select fill_key, client_order_id, qty, price, fee_amount, is_late from fills order by 1"),
        "ledger": desk.select("select strategy, ledger_account, asset, balance from ledger_balances where balance <> 0 order by 1, 2, 3"),
        "incidents": desk.select("select kind, scope from incidents where closed_at is null order by 1, 2"),
        "levels": sorted(levels(desk), key=str),
        "venue": sorted((order.client_order_id or "", order.status, order.filled) for order in desk.fake.orders.values()),
    }


def start(desk: Desk) -> Recovery:
    """A new process takes over."""
    desk.end_leases()
    return recover(desk.another().trading)


def newest_run(desk: Desk) -> Any:
    with desk.stores.open() as work:
        return work.recon.load_runs(ACCOUNT, PassKind.STARTUP, 1)[0]


def test_ready_is_journaled_with_the_time_of_each_step(desk: Desk) -> None:
    run = newest_run(desk)
    assert run.status is PassStatus.OK
    assert run.detail["says"].startswith("READY in ")
    assert len(run.detail["steps_ms"]) == N_STEPS
    assert levels(desk) == set()
    assert desk.incidents() == []


def test_rules_and_fees_are_read_at_the_start(desk: Desk) -> None:
    with desk.stores.open() as work:
        assert work.safety.load_rules("paper") == {SYMBOL: RULES}
        assert work.recon.load_tariffs("paper") == {SYMBOL: (D(10), D(10))}


def test_an_order_left_while_it_was_sent_and_never_arrived_is_given_up(desk: Desk) -> None:
    client_order_id = desk.intend()
    desk.crash("before_wire")
    assert desk.state(client_order_id) is OrderState.SUBMITTING
    assert start(desk).is_ready
    assert desk.state(client_order_id) is OrderState.NOT_FOUND
    assert desk.fake.creates == []


def test_an_order_left_while_it_was_sent_and_arrived_is_adopted(desk: Desk) -> None:
    client_order_id = desk.intend()
    desk.crash("after_wire")
    desk.fake.fill(client_order_id, "0.4")
    assert start(desk).is_ready
    assert desk.state(client_order_id) is OrderState.PARTIAL
    assert desk.order(client_order_id).filled == D("0.4")
    assert len(desk.fake.creates) == 1


def test_an_order_past_its_time_is_cancelled_before_entries_are_allowed(desk: Desk) -> None:
    client_order_id = desk.intend()
    desk.execute()
    desk.advance(3600)
    assert start(desk).is_ready
    assert desk.state(client_order_id) is OrderState.CANCELLED


def test_an_intent_that_was_never_sent_in_time_never_is(desk: Desk) -> None:
    client_order_id = desk.intend()
    desk.advance(3600)
    assert start(desk).is_ready
    assert desk.path(client_order_id) == ["INTENT", "CANCELLED"]
    assert desk.fake.creates == []


def test_a_fill_that_happened_meanwhile_is_booked_once(desk: Desk) -> None:
    client_order_id = desk.intend()
    desk.execute()
    desk.fake.fill(client_order_id, "1")
    desk.advance(3 * 86_400)  # three days down
    assert start(desk).is_ready
    assert start(desk).is_ready
    assert desk.state(client_order_id) is OrderState.FILLED
    assert desk.select("select count(*), sum(qty) from fills") == [(1, D(1))]


def test_a_position_opened_by_hand_is_found_booked_as_external_and_stops_entries(desk: Desk) -> None:
    desk.fake.place(OrderSpec("by-hand", SYMBOL, Side.BUY, OrderType.LIMIT, D(3), D(100)))
    desk.fake.fill("by-hand", "3")
    desk.advance(300)
    assert start(desk).is_ready
    assert levels(desk) == {("recon_foreign", Scope(ACCOUNT, symbol=SYMBOL), Level.ENTRIES_OFF)}
    assert desk.select("select count(*) from orders") == [(0,)]
    assert desk.fake.cancels == []


def test_coins_that_no_trade_explains_make_the_account_reduce_only(desk: Desk) -> None:
    desk.fake.balances["AAVE"] = D(3)
    assert start(desk).is_ready
    assert levels(desk) == {("recon_large", OWN, Level.REDUCE_ONLY)}
    assert newest_run(desk).status is PassStatus.FINDINGS


def test_a_trade_by_hand_in_a_symbol_of_ours_is_booked_as_external(desk: Desk) -> None:
    client_order_id = desk.intend()
    desk.execute()
    desk.fake.fill(client_order_id, "1")
    desk.fake.place(OrderSpec("by-hand", SYMBOL, Side.SELL, OrderType.LIMIT, D("0.5"), D(100)))
    desk.fake.fill("by-hand", "0.5")
    desk.advance(300)
    assert start(desk).is_ready
    assert levels(desk) == {("recon_foreign", Scope(ACCOUNT, symbol=SYMBOL), Level.ENTRIES_OFF)}
    assert desk.incidents() == ["FOREIGN_FILL"]


@pytest.mark.parametrize(
    ("read", "step"),
    [
        ("fetch_time_ms", "self_test"),
        ("fetch_listings", "markets"),
        ("fetch_fills", "trades"),
        ("fetch_open_orders", "open_orders"),
        ("fetch_balances", "positions"),
        ("fetch_positions", "positions"),
    ],
)
def test_a_read_that_fails_leaves_entries_off_until_it_works(desk: Desk, read: str, step: str) -> None:
    client_order_id = desk.intend()
    desk.execute()
    desk.fake.fill(client_order_id, "1")
    desk.advance(3)
    desk.execute()
    desk.fake.failing = {read}
    done = start(desk)
    assert done.failed == step
    assert levels(desk) == {("recovery", OWN, Level.ENTRIES_OFF)}
    assert desk.incidents() == ["RECOVERY_FAILED"]
    assert newest_run(desk).status is PassStatus.UNKNOWN
    entry = desk.intend(Leg.ADD, bar_close_s=desk.an_intent().key.bar_close_s + 3600, decide_by_ms=desk.now_ms + 240_000)
    desk.execute()
    assert desk.path(entry)[1:] == ["CANCELLED"]
    desk.fake.failing = set()
    assert start(desk).is_ready
    assert levels(desk) == set()
    assert desk.incidents() == []


def test_a_clock_too_far_off_leaves_entries_off(desk: Desk) -> None:
    desk.trading.clock.offset_ms = None
    off = replace(desk.another().trading, clock=type(desk.trading.clock)(lambda: desk.clock.now().replace(year=2030)))
    desk.end_leases()
    assert recover(off).failed == "self_test"


def test_an_installation_that_fails_its_own_test_does_not_trade(desk: Desk) -> None:
    def refuse() -> None:
        from regime_pipeline.errors import ConfigError

        raise ConfigError("the scheduler ran nothing")

    done = recover(desk.trading, refuse)
    assert (done.failed, done.why) == ("self_test", "the scheduler ran nothing")


def test_somebody_else_at_the_account_is_waited_for_and_then_told(desk: Desk) -> None:
    with desk.stores.open() as work:
        assert work.orders.acquire_lease(f"dispatch:{ACCOUNT}", "somebody") is not None
    assert recover(desk.another().trading).failed == "lease"


def test_l4_does_not_start(desk: Desk) -> None:
    desk.latch.switches = (Switch(EVERYBODY, Level.PROCESS_STOP, "journal_broken", "executor", "chain broken", 0),)
    with pytest.raises(KillSwitchActiveError, match="L4"):
        recover(desk.trading)
    assert ("recovery", OWN, Level.ENTRIES_OFF) in levels(desk)


def test_a_level_that_only_the_file_has_is_written_to_the_table(desk: Desk) -> None:
    desk.latch.switches = (Switch(OWN, Level.HARD_STOP, "manual", "ann", "looks wrong", desk.now_ms // 1000),)
    recover(desk.trading)
    assert ("manual", OWN, Level.HARD_STOP) in levels(desk)


def test_more_than_three_minutes_make_the_account_reduce_only(desk: Desk) -> None:
    slow = replace(desk.trading, at=lambda _point: desk.advance(20))
    assert recover(slow).is_ready
    assert levels(desk) == {("recovery", OWN, Level.REDUCE_ONLY)}  # latched: a person looks at it


@pytest.mark.parametrize("n", range(1, N_STEPS + 1))
def test_killed_inside_any_step_the_next_start_completes(desk: Desk, n: int) -> None:
    resting, filled, doubtful = desk.intend(), *make_a_mess(desk)
    del resting, filled, doubtful
    crashing = desk.another()
    seen = iter(range(1, n + 1))

    def die_at_the_nth(point: str) -> None:
        if point == "recovery_step" and next(seen) == n:
            raise Crash(point)

    desk.end_leases()
    with pytest.raises(Crash):
        recover(replace(crashing.trading, at=die_at_the_nth))
    assert ("recovery", OWN, Level.ENTRIES_OFF) in levels(desk)
    assert start(desk).is_ready
    once = picture(desk)
    assert levels(desk) == set()
    assert start(desk).is_ready
    assert picture(desk) == once


def make_a_mess(desk: Desk) -> tuple[str, str]:
    """Leave an order with a fill nobody booked, and one of which nobody knows whether it arrived."""
    desk.execute()
    (resting,) = desk.fake.orders
    desk.fake.fill(resting, "0.4")
    exit_id = desk.intend(Leg.EXIT, qty=D("0.1"))
    desk.fake.create_script = [lost(is_done=True)]
    desk.execute()
    return resting, exit_id


def test_a_database_that_is_gone_is_told_to_the_caller(desk: Desk) -> None:
    class Gone:
        def open(self) -> Any:
            raise DatabaseError("gone")

    with pytest.raises(DatabaseError):
        recover(replace(desk.trading, stores=Gone()))
