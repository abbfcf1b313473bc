from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.ports import AlertKind, OpenAlert, Severity
from regime_pipeline.services.raise_alerts import CLEAR_S, REPEAT_S, end_alert, plan_alerts, raise_alerts
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


@settings(max_examples=100)
@given(st.lists(st.sets(st.sampled_from(["1m", "1h", "1d"])), max_size=30))
def test_whatever_comes_and_goes_messages_open_and_resolve_each_scope_in_turn(looks: list[set[str]]) -> None:
    store = FakeAlertStore()
    for minute, scopes in enumerate(looks):
        raise_alerts(store, rules(), [an_alert(scope=scope) for scope in scopes], ALL, NOW_S + 60 * minute)
        open_scopes = [each.alert.scope for each in store.known]
        assert len(open_scopes) == len(set(open_scopes))
        assert scopes <= set(open_scopes)
    for scope in ("1m", "1h", "1d"):
        events = [event for event, title in store.posted if title.endswith(scope)]
        assert events == ["opened", "resolved"] * (len(events) // 2) + ["opened"] * (len(events) % 2)
