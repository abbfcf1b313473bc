"""The chains of the journal: whole after a day's work, and broken at the first row that somebody with every right has changed."""

from uuid import uuid4

import psycopg
import pytest

from regime_pipeline.execution.order_states import VenueStatus
from regime_pipeline.ports import ChainFault
from regime_pipeline.risk.kill_switch import Trigger
from regime_pipeline.services.trading.kill_levels import raise_level
from tests.trading_desk import ACCOUNT, STRATEGY, Desk


@pytest.fixture
def desk(database: str) -> Desk:
    """A desk with two orders that ended, three decisions and two kill levels."""
    opened = Desk(database)
    for symbol in ("AAVE/USDT", "UNI/USDT"):
        order = opened.intend(symbol=symbol)
        opened.execute()
        opened.fake.end(order, VenueStatus.CANCELED)
        opened.advance(5)
        opened.execute()
    for n in range(3):
        tamper(
            opened,
            "insert into decisions (decision_id, account, strategy, bar_close, inputs_hash, inputs, levers, plan, plan_hash, config_hash,"
            f" code_version, lease_token, row_hash) values ('{uuid4()}', '{ACCOUNT}', '{STRATEGY}', to_timestamp({n * 3600}), 'i', '{{}}',"
            " '{}', '{}', 'p', 'c', 'v', 1, '')",
        )
    with opened.stores.open() as work:
        raise_level(work, opened.trading, Trigger.UNKNOWN_ORDER, "seen")
        raise_level(work, opened.trading, Trigger.DRAWDOWN_KILL, "seen")
    return opened


def tamper(desk: Desk, statement: str) -> None:
    """Change something as the owner, with the triggers off where that is needed."""
    with psycopg.connect(desk.url) as conn:
        if not statement.startswith("insert"):
            conn.execute("set session_replication_role = replica")
        conn.execute(statement)  # type: ignore[arg-type]


def verify(desk: Desk) -> list[ChainFault]:
    with desk.stores.open() as work:
        return work.safety.verify_chains()


def test_what_was_written_holds(desk: Desk) -> None:
    assert len(desk.select("select 1 from order_transitions")) == 6
    assert verify(desk) == []


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("decisions", "plan_hash = 'another plan'"),
        ("decisions", "inputs_hash = 'other inputs'"),
        ("decisions", "inputs = '{\"money\": 1}'"),
        ("decisions", 'plan = \'{"AAVE/USDT": "sell"}\''),
        ("decisions", "code_version = 'v2'"),
        ("order_transitions", "evidence = '{\"forged\": true}'"),
        ("order_transitions", "actor = 'nobody'"),
        ("order_transitions", "raw = 'an answer that never came'"),
        ("kill_switch", "reason = 'nothing happened'"),
        ("kill_switch", "level = 1"),
        ("kill_switch", "actor = 'grace'"),
    ],
)
def test_a_changed_row_is_named(desk: Desk, table: str, change: str) -> None:
    seq = desk.select(f"select min(seq) from {table}")[0][0]
    tamper(desk, f"update {table} set {change} where seq = {seq}")
    (fault,) = verify(desk)
    assert (fault.table, fault.seq) == (table, seq)


@pytest.mark.parametrize("table", ["decisions", "kill_switch"])
def test_a_removed_row_is_found_at_the_one_that_follows(desk: Desk, table: str) -> None:
    first, second = (row[0] for row in desk.select(f"select seq from {table} order by seq limit 2"))
    tamper(desk, f"delete from {table} where seq = {first}")
    (fault,) = verify(desk)
    assert (fault.table, fault.seq) == (table, second)


def test_a_removed_step_is_found_by_its_number(desk: Desk) -> None:
    tamper(desk, "delete from order_transitions where order_seq = 2")
    fault = verify(desk)[0]
    assert (fault.table, fault.reason) == ("order_transitions", "a step is missing before it")


def test_the_last_step_cannot_be_removed_without_the_order_telling(desk: Desk) -> None:
    tamper(desk, "delete from order_transitions where order_seq = 3")
    (fault,) = verify(desk)
    assert fault.table == "orders"
    assert "version was 3 and state CANCELLED, the chain has 2 steps and ends in OPEN" in fault.reason


def test_an_order_that_was_moved_by_hand_does_not_match_its_steps(desk: Desk) -> None:
    tamper(desk, "update orders set state = 'FILLED' where symbol = 'UNI/USDT'")
    (fault,) = verify(desk)
    assert (fault.table, "ends in CANCELLED" in fault.reason) == ("orders", True)
