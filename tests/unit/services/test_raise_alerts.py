import re
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.ports import AlertKind, OpenAlert, Severity
from regime_pipeline.services.raise_alerts import CLEAR_S, REPEAT_S, RETURN_S, end_alert, plan_alerts, raise_alerts
from tests.alerts import NOW_S, FakeAlertStore, an_alert, rules

ALL = frozenset(AlertKind)


def known(last_seen_s: int = NOW_S, noticed_s: int | None = NOW_S, *, is_acked: bool = False) -> OpenAlert:
    return OpenAlert(7, an_alert(), NOW_S, last_seen_s, noticed_s, is_acked)


def test_what_is_found_first_opens_and_what_is_found_again_is_renewed_in_silence() -> None:
    assert plan_alerts([], [an_alert(), an_alert()], ALL, NOW_S).opened == [an_alert()]
    plan = plan_alerts([known()], [an_alert()], ALL, NOW_S + 60)
    assert (plan.opened, plan.resolved) == ([], [])
    assert plan.renewed == [(known(), an_alert(), None)]


def test_an_open_alert_is_repeated_after_six_hours_unless_somebody_knows() -> None:
    def event(alert: OpenAlert, now_s: int) -> str | None:
        return plan_alerts([alert], [an_alert()], ALL, now_s).renewed[0][2]

    assert event(known(), NOW_S + REPEAT_S - 1) is None
    assert event(known(), NOW_S + REPEAT_S) == "repeated"
    assert event(known(is_acked=True), NOW_S + REPEAT_S) is None
    # recorded while its kind was silent: it has never been told
    assert event(known(noticed_s=None), NOW_S + 60) == "repeated"


def test_becoming_critical_is_told_even_when_acknowledged_and_stays_until_the_end() -> None:
    worse = an_alert(severity=Severity.CRITICAL, since_s=NOW_S + 60)
    before = known(is_acked=True)
    # the worse one keeps the older beginning
    assert plan_alerts([before], [worse], ALL, NOW_S + 60).renewed == [(before, replace(worse, since_s=NOW_S), "escalated")]
    critical = replace(before, alert=replace(before.alert, severity=Severity.CRITICAL))
    again = plan_alerts([critical], [an_alert()], ALL, NOW_S + 60).renewed[0]
    assert (again[1].severity, again[2]) == (Severity.CRITICAL, None)


def test_an_alert_is_over_when_unseen_for_five_minutes_and_looked_for() -> None:
    assert plan_alerts([known()], [], ALL, NOW_S + CLEAR_S - 1).resolved == []
    assert plan_alerts([known()], [], ALL, NOW_S + CLEAR_S).resolved == [known()]
    assert plan_alerts([known()], [], ALL - {AlertKind.FRESHNESS}, NOW_S + 10 * CLEAR_S).resolved == []


def test_silent_is_recorded_without_a_message_and_off_is_not_recorded() -> None:
    store = FakeAlertStore()
    raise_alerts(store, rules("freshness=silent budget=off"), [an_alert(), an_alert(AlertKind.BUDGET)], ALL, NOW_S)
    assert [each.alert.kind for each in store.known] == [AlertKind.FRESHNESS]
    assert store.posted == []


def test_a_life_of_an_alert_is_told_at_its_turns() -> None:
    store = FakeAlertStore()
    for at_s in (0, 60, 120, REPEAT_S):
        raise_alerts(store, rules(), [an_alert()], ALL, NOW_S + at_s)
    raise_alerts(store, rules(), [], ALL, NOW_S + REPEAT_S + CLEAR_S)
    assert store.posted == [
        ("opened", "[alpha] WARNING freshness 1m"),
        ("repeated", "[alpha] WARNING freshness 1m (still)"),
        ("resolved", "[alpha] RESOLVED freshness 1m"),
    ]
    assert store.known == []


def test_an_alert_can_be_ended_at_once_and_only_once() -> None:
    store = FakeAlertStore()
    raise_alerts(store, rules(), [an_alert()], ALL, NOW_S)
    assert end_alert(store, rules(), AlertKind.FRESHNESS, "1m", NOW_S)
    assert not end_alert(store, rules(), AlertKind.FRESHNESS, "1m", NOW_S)
    assert [event for event, _ in store.posted] == ["opened", "resolved"]


def look_for_half_a_day(severity: Severity) -> list[tuple[str, int]]:
    """What is told, and in which minute, of a fault that is seen for a minute in every seven."""
    store, told = FakeAlertStore(), list[tuple[str, int]]()
    for minute in range(12 * 60):
        raise_alerts(store, rules(), [an_alert(severity=severity)] if minute % 7 == 0 else [], ALL, NOW_S + 60 * minute)
        told += [(event, minute) for event, _ in store.posted[len(told) :]]
    assert len(store.known) + len(store.ended) == 1
    return told


def test_what_comes_and_goes_every_few_minutes_is_told_once_and_then_as_seldom_as_what_stays() -> None:
    # six hours after the message of minute 5 is minute 365; the next look that sees it is the one of minute 371
    assert look_for_half_a_day(Severity.WARNING) == [("opened", 0), ("resolved", 5), ("repeated", 371), ("resolved", 376)]


def test_a_critical_one_that_was_told_to_be_over_and_returns_is_told_within_the_hour() -> None:
    told = look_for_half_a_day(Severity.CRITICAL)
    assert told[:4] == [("opened", 0), ("resolved", 5), ("repeated", 70), ("resolved", 75)]
    assert len(told) <= 2 * 12


def test_what_returns_an_hour_after_its_end_is_a_new_alert() -> None:
    def events(wait_s: int) -> list[str]:
        store = FakeAlertStore()
        for at_s, found in ((0, [an_alert()]), (CLEAR_S, []), (CLEAR_S + wait_s, [an_alert()])):
            raise_alerts(store, rules(), found, ALL, NOW_S + at_s)
        return [event for event, _ in store.posted]

    assert events(RETURN_S - 1) == ["opened", "resolved"]
    assert events(RETURN_S) == ["opened", "resolved", "opened"]


def test_what_returns_worse_is_told_at_once() -> None:
    store = FakeAlertStore()
    worse = an_alert(severity=Severity.CRITICAL)
    for at_s, found in ((0, [an_alert()]), (CLEAR_S, []), (CLEAR_S + 60, [worse]), (2 * CLEAR_S + 60, [])):
        raise_alerts(store, rules(), found, ALL, NOW_S + at_s)
    assert [event for event, _ in store.posted] == ["opened", "resolved", "escalated", "resolved"]


def test_a_trial_is_a_new_alert_each_time() -> None:
    store = FakeAlertStore()
    for at_s in (0, 10):
        raise_alerts(store, rules(), [an_alert()], (), NOW_S + at_s, return_s=0)
        end_alert(store, rules(), AlertKind.FRESHNESS, "1m", NOW_S + at_s)
    assert [event for event, _ in store.posted] == ["opened", "resolved"] * 2


@settings(max_examples=100)
@given(st.lists(st.sets(st.sampled_from(["1m", "1h", "1d"])), max_size=40), st.integers(1, 40))
def test_whatever_comes_and_goes_messages_begin_and_end_each_scope_in_turn(looks: list[set[str]], minutes_between: int) -> None:
    store = FakeAlertStore()
    for n, scopes in enumerate(looks):
        raise_alerts(store, rules(), [an_alert(scope=scope) for scope in scopes], ALL, NOW_S + 60 * minutes_between * n)
        open_scopes = [each.alert.scope for each in store.known]
        assert len(open_scopes) == len(set(open_scopes))
        assert scopes <= set(open_scopes)
    for scope in ("1m", "1h", "1d"):
        events = [event for event, title in store.posted if scope in title.split()]
        parts = "".join({"opened": "(", "repeated": "!", "resolved": ")"}[event] for event in events)
        assert re.fullmatch(r"((\(|!)!*\))*((\(|!)!*)?", parts), parts
        assert not parts or parts[0] == "("
