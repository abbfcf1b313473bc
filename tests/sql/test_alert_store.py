"""Alerts and their boxes on a real database, also when two processes look at once."""

import threading
from pathlib import Path

import psycopg
import pytest

from regime_pipeline.adapters.notify.file_notifier import FileNotifier
from regime_pipeline.adapters.postgres.alert_store import PostgresAlerts
from regime_pipeline.errors import BadInputError, DatabaseError, NotifyError
from regime_pipeline.ports import AlertKind, Message, Severity
from regime_pipeline.services.raise_alerts import CLEAR_S, REPEAT_S, raise_alerts
from regime_pipeline.services.send_notices import send_notices
from tests.alerts import NOW_S, FakeNotifier, an_alert, rules

ALL = frozenset(AlertKind)


def test_an_alert_is_kept_renewed_made_worse_and_ended(database: str) -> None:
    store = PostgresAlerts(database, "alpha")
    raise_alerts(store, rules(), [an_alert()], ALL, NOW_S)
    raise_alerts(store, rules(), [an_alert(severity=Severity.CRITICAL, since_s=NOW_S - 60)], ALL, NOW_S + 60)
    (row,) = store.load_alerts(10, with_resolved=False)
    assert (row.known.alert.severity, row.known.alert.since_s) == (Severity.CRITICAL, NOW_S - 60)
    assert (row.known.opened_s, row.known.last_seen_s, row.known.noticed_s) == (NOW_S, NOW_S + 60, NOW_S + 60)
    raise_alerts(store, rules(), [], ALL, NOW_S + 60 + CLEAR_S)
    assert store.load_alerts(10, with_resolved=False) == []
    (row,) = store.load_alerts(10, with_resolved=True)
    assert (row.resolved_s, row.unsent) == (NOW_S + 60 + CLEAR_S, 3)
    notifier = FakeNotifier()
    assert send_notices(store, [notifier], NOW_S) == {"file": 3}
    assert [message.fields["event"] for message in notifier.sent] == ["opened", "escalated", "resolved"]
    assert notifier.sent[0].fields | {"instance": "alpha", "alert_id": row.known.alert_id} == notifier.sent[0].fields


def test_an_alert_that_returns_within_the_hour_goes_on_in_silence_and_its_end_is_not_told_twice(database: str) -> None:
    store, notifier, minute = PostgresAlerts(database, "alpha"), FakeNotifier(), 60
    for at_min, found in ((0, [an_alert()]), (5, []), (12, [an_alert()]), (17, [])):
        raise_alerts(store, rules(), found, ALL, NOW_S + at_min * minute)
    (row,) = store.load_alerts(10, with_resolved=True)
    assert (row.resolved_s, row.known.opened_s, row.known.is_told_over) == (NOW_S + 17 * minute, NOW_S, True)
    raise_alerts(store, rules(), [an_alert()], ALL, NOW_S + 5 * minute + REPEAT_S)  # long after: another one
    assert len(store.load_alerts(10, with_resolved=True)) == 2
    send_notices(store, [notifier], NOW_S)
    assert [message.fields["event"] for message in notifier.sent] == ["opened", "resolved", "opened"]


def test_an_acknowledged_alert_is_not_repeated_and_only_open_ones_can_be(database: str) -> None:
    store, notifier = PostgresAlerts(database, "alpha"), FakeNotifier()
    raise_alerts(store, rules(), [an_alert()], ALL, NOW_S)
    (row,) = store.load_alerts(10, with_resolved=False)
    store.ack(row.known.alert_id, "on it", NOW_S + 10)
    raise_alerts(store, rules(), [an_alert()], ALL, NOW_S + 2 * REPEAT_S)
    send_notices(store, [notifier], NOW_S)
    assert [message.fields["event"] for message in notifier.sent] == ["opened"]
    (row,) = store.load_alerts(10, with_resolved=False)
    assert (row.known.is_acked, row.ack_note) == (True, "on it")
    with pytest.raises(BadInputError, match="alert was 99"):
        store.ack(99, None, NOW_S)


def test_what_a_channel_refuses_is_seen_and_goes_out_later(database: str) -> None:
    store = PostgresAlerts(database, "alpha")
    shut, open_ = FakeNotifier("tgram-1", refuses=True), FakeNotifier("file")
    raise_alerts(store, rules(channels=["tgram-1", "file"]), [an_alert()], ALL, NOW_S)
    outcome = send_notices(store, [shut, open_], NOW_S)
    assert isinstance(outcome["tgram-1"], NotifyError)
    assert outcome["file"] == 1
    (row,) = store.load_alerts(10, with_resolved=False)
    assert (row.unsent, row.send_error) == (1, "channel tgram-1 is shut")
    backlog = store.load_backlogs(NOW_S + 1)["tgram-1"]
    assert (backlog.n_notices, backlog.since_s, backlog.last_error) == (1, NOW_S, "channel tgram-1 is shut")
    assert store.load_backlogs(NOW_S) == {}
    shut.refuses = False
    assert send_notices(store, [shut, open_], NOW_S + 60) == {"tgram-1": 1, "file": 0}
    assert store.load_backlogs(NOW_S + 1) == {}


def test_ten_who_look_at_once_open_one_alert_and_send_one_message(database: str, tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    barrier = threading.Barrier(10)

    def look() -> None:
        store = PostgresAlerts(database, "alpha")
        barrier.wait()
        raise_alerts(store, rules(), [an_alert()], ALL, NOW_S)
        send_notices(store, [FileNotifier(path)], NOW_S)

    threads = [threading.Thread(target=look) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = PostgresAlerts(database, "alpha")
    assert len(store.load_alerts(100, with_resolved=True)) == 1
    send_notices(store, [FileNotifier(path)], NOW_S)  # whoever found the box taken left it
    assert len(path.read_text().splitlines()) == 1


def test_a_sender_that_dies_after_sending_sends_again_and_blocks_nobody(database: str) -> None:
    store = PostgresAlerts(database, "alpha")
    raise_alerts(store, rules(), [an_alert()], ALL, NOW_S)

    class Killed(FakeNotifier):
        def send(self, message: Message) -> None:
            super().send(message)
            raise KeyboardInterrupt

    killed, second = Killed(), FakeNotifier()
    with pytest.raises(KeyboardInterrupt):
        send_notices(store, [killed], NOW_S)
    assert send_notices(store, [second], NOW_S) == {"file": 1}
    assert [message.title for message in killed.sent] == [message.title for message in second.sent]


def test_a_kind_of_a_newer_release_is_left_alone(database: str, conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into alerts (kind, scope, severity, summary, since_ts, opened_at, last_seen_at)"
        " values ('of_tomorrow', 'x', 'warning', 'x', now(), now(), now())"
    )
    conn.commit()
    store = PostgresAlerts(database, "alpha")
    raise_alerts(store, rules(), [], ALL, NOW_S + 400 * 86_400)
    assert store.load_alerts(10, with_resolved=True) == []
    assert conn.execute("select resolved_at from alerts").fetchall() == [(None,)]


def test_a_database_that_is_not_there_is_an_error_of_ours() -> None:
    store = PostgresAlerts("postgresql://nobody@127.0.0.1:1/regime", "alpha")
    with pytest.raises(DatabaseError):
        raise_alerts(store, rules(), [an_alert()], ALL, NOW_S)
