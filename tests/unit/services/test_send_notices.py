import itertools
import threading

import pytest

from regime_pipeline.errors import NotifyError
from regime_pipeline.ports import Message, Notice
from regime_pipeline.services import send_notices as send
from regime_pipeline.services.alert_kinds import build_message
from regime_pipeline.services.send_notices import MAX_LINES, MAX_MESSAGES, send_notices
from tests.alerts import NOW_S, FakeAlertStore, FakeBox, FakeNotifier, an_alert


def box(n_notices: int) -> FakeBox:
    return FakeBox([Notice(at, NOW_S, 0, build_message("alpha", "opened", an_alert(scope=f"s{at}"), NOW_S)) for at in range(n_notices)])


def test_messages_go_out_once_in_their_order() -> None:
    store, notifier = FakeAlertStore(boxes={"file": box(3)}), FakeNotifier()
    assert send_notices(store, [notifier], NOW_S) == {"file": 3}
    assert send_notices(store, [notifier], NOW_S) == {"file": 0}
    assert [message.fields["scope"] for message in notifier.sent] == ["s0", "s1", "s2"]


def test_a_storm_is_ten_messages_the_last_of_which_lists_the_rest() -> None:
    store, notifier = FakeAlertStore(boxes={"file": box(100)}), FakeNotifier()
    send_notices(store, [notifier], NOW_S)
    assert len(notifier.sent) == MAX_MESSAGES
    last = notifier.sent[-1]
    # nine are told one by one, so 91 are left; of those 40 have a line
    assert last.title == "[alpha] 91 more messages about alerts"
    assert "WARNING freshness s9\n" in last.body
    assert f"and {91 - MAX_LINES} more" in last.body
    assert store.boxes["file"].load_unsent() == []


def test_a_channel_that_refuses_keeps_its_messages_and_holds_back_no_other() -> None:
    store = FakeAlertStore(boxes={"bad": box(3), "good": box(3)})
    bad, good = FakeNotifier("bad", refuses=True), FakeNotifier("good")
    sent = send_notices(store, [bad, good], NOW_S)
    assert isinstance(sent["bad"], NotifyError)
    assert sent["good"] == 3
    # the first refusal ended it: one attempt, not three
    assert [notice.attempts for notice in store.boxes["bad"].load_unsent()] == [1, 0, 0]
    bad.refuses = False
    assert send_notices(store, [bad, good], NOW_S + 60) == {"bad": 3, "good": 0}


def test_a_slow_channel_goes_on_in_the_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(step=20)  # each look at the clock is 20 s later
    monkeypatch.setattr(send, "monotonic_s", lambda: next(seconds))
    store, notifier = FakeAlertStore(boxes={"file": box(3)}), FakeNotifier()
    # asked at 0, 20 and 40: the second message would start after 30
    assert send_notices(store, [notifier], NOW_S) == {"file": 1}
    assert [notice.notice_id for notice in store.boxes["file"].load_unsent()] == [1, 2]


def test_channels_do_not_wait_for_each_other() -> None:
    together = threading.Barrier(2, timeout=5)

    class Meeting(FakeNotifier):
        def send(self, message: Message) -> None:
            together.wait()
            super().send(message)

    store = FakeAlertStore(boxes={"a": box(1), "b": box(1)})
    assert send_notices(store, [Meeting("a"), Meeting("b")], NOW_S) == {"a": 1, "b": 1}


def test_a_box_that_another_process_empties_is_left_to_it() -> None:
    store = FakeAlertStore(boxes={"file": box(1)}, busy={"file"})
    notifier = FakeNotifier()
    assert send_notices(store, [notifier], NOW_S) == {}
    assert notifier.sent == []
