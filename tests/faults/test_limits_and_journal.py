"""X52 and X55: a storm of 429 keeps no cancel from leaving; what cannot be journaled is not ordered; a dead channel silences nobody."""

import json
import socket
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from regime_pipeline.adapters.notify.apprise_notifier import AppriseNotifier
from regime_pipeline.adapters.notify.file_notifier import FileNotifier
from regime_pipeline.adapters.postgres.alert_store import PostgresAlerts
from regime_pipeline.errors import DatabaseError, JournalIntegrityError, NotifyError
from regime_pipeline.execution.order_states import OrderState as S
from regime_pipeline.ports import AlertKind
from regime_pipeline.services.raise_alerts import raise_alerts
from regime_pipeline.services.send_notices import send_notices
from tests.alerts import NOW_S, an_alert, rules
from tests.tick_desk import TickDesk
from tests.wire import judge, open_wire

D = Decimal
SPOKEN = {"code": -1003, "msg": "Too many requests.", "retCode": 10006, "retMsg": "Too many visits!"}
STORM = {"accept": "never", "status": 429, "headers": {"Retry-After": "300"}, "body": SPOKEN, "repeat": 0}


@pytest.mark.fault_row("X52")
@pytest.mark.parametrize("market_type", ["spot", "linear"])
def test_cancels_leave_through_a_storm_that_stops_every_create(market_type: str, lasting_database: str, cells: Callable[..., None]) -> None:
    prices = {"BTC": D(39_000), "ETH": D(1_900)}
    with open_wire(lasting_database, market_type) as desk:
        named = {base: desk.symbol.replace("BTC", base) for base in (*prices, "SOL")}
        resting = [desk.resting(symbol=named[base], limit_price=price, qty=D("0.1")) for base, price in prices.items()]
        desk.execute()
        assert {desk.state(each) for each in resting} == {S.OPEN}
        desk.fault(**STORM)
        desk.step(89)  # a second before their time is up
        told, posts = desk.intend(symbol=named["SOL"], limit_price=D(99), qty=D(1)), desk.posts()
        desk.step(*[1] * 20)
        assert (desk.state(told), desk.posts()) == (S.REJECTED, posts + 1)  # it is told of the pause
        kept = desk.intend(symbol=named["SOL"], limit_price=D(99), qty=D(1))
        desk.step(*[1] * 20)
        assert (desk.state(kept), desk.posts()) == (S.INTENT, posts + 1)  # and none leaves while it lasts
        assert {desk.state(each) for each in resting} == {S.CANCELLED}
        desk.venue.clear_script()
        desk.step(301)
        again = desk.intend()
        desk.step(0, 2)
        assert desk.state(again) is S.FILLED
        judge(desk)
        cells(run=len(resting), passed=len(resting))


@pytest.fixture
def tick_desk(database: str, tmp_path: Path) -> TickDesk:
    desk = TickDesk(database, tmp_path)
    desk.set_up()
    return desk


def refuse_rows(url: str, table: str) -> None:
    """Let a table take no row, as a full or broken one does."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(f"create function no_{table}() returns trigger language plpgsql as 'begin raise disk_full; end'")
        conn.execute(f"create trigger no_{table} before insert on {table} for each row execute function no_{table}()")


def accept_rows(url: str, table: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(f"drop trigger no_{table} on {table}")
        conn.execute(f"drop function no_{table}()")


@pytest.mark.fault_row("X55")
@pytest.mark.parametrize("table", ["decisions", "decision_lines"])
def test_what_cannot_be_journaled_is_not_ordered(table: str, tick_desk: TickDesk) -> None:
    tick_desk.buy_signal()
    refuse_rows(tick_desk.url, table)
    with pytest.raises((DatabaseError, JournalIntegrityError, psycopg.errors.DiskFull)):
        tick_desk.tick()
    for empty in ("decisions", "decision_lines", "order_intents", "orders", "pm_actions", "outbox"):
        assert tick_desk.execute(f"select count(*) from {empty}") == [(0,)], empty
    accept_rows(tick_desk.url, table)
    assert tick_desk.tick().outcome == "decided"  # the same bar, as soon as there is a journal again
    unjournaled = tick_desk.execute(
        "select count(*) from orders o join order_intents i using (client_order_id) where i.decision_id is null"
    )
    assert unjournaled == [(0,)]
    assert tick_desk.execute("select count(*) from orders") == [(1,)]


@pytest.mark.fault_row("X55")
def test_a_step_that_cannot_be_journaled_is_not_taken(tick_desk: TickDesk) -> None:
    """Without a row for the step to SUBMITTING nothing leaves, since that row is what a recovery would have to go by."""
    tick_desk.buy_signal()
    refuse_rows(tick_desk.url, "order_transitions")
    with pytest.raises((DatabaseError, JournalIntegrityError, psycopg.errors.DiskFull)):
        tick_desk.tick()
    assert tick_desk.execute("select state from orders") == [("INTENT",)]
    assert tick_desk.execute("select count(*) from paper.orders") == [(0,)]


@pytest.mark.fault_row("X55")
def test_a_dead_channel_keeps_its_message_and_the_other_one_tells(database: str, tmp_path: Path) -> None:
    with socket.socket() as shut:  # a port on which nobody listens
        shut.bind(("127.0.0.1", 0))
        port = shut.getsockname()[1]
    dead = AppriseNotifier(SecretStr(f"json://127.0.0.1:{port}/"), 1)
    living = FileNotifier(tmp_path / "alerts.jsonl")
    store = PostgresAlerts(database, "alpha")
    plan_rules = rules(channels=(dead.channel, living.channel))
    raise_alerts(store, plan_rules, [an_alert(AlertKind.DISK_SPACE)], {AlertKind.DISK_SPACE}, NOW_S)
    sent = send_notices(store, [dead, living], NOW_S)
    assert isinstance(sent[dead.channel], NotifyError)
    assert sent[living.channel] == 1
    assert json.loads((tmp_path / "alerts.jsonl").read_text())["kind"] == AlertKind.DISK_SPACE.value
    with psycopg.connect(database) as conn:
        kept = conn.execute("select channel, attempts, sent_at is null from alert_notices order by id").fetchall()
    assert {channel: (attempts, is_kept) for channel, attempts, is_kept in kept}[dead.channel] == (1, True)
    assert not {channel: is_kept for channel, _, is_kept in kept}[living.channel]
