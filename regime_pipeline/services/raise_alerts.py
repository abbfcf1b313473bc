"""Record what is wrong and what is not any more, and post the messages about it. Sending them is `send_notices`.

An alert opens once per (kind, scope). A message is posted when it opens, when it becomes critical, every six hours while it is open
and nobody has acknowledged it, and when it is over. One that returns within an hour of its end is the same alert again, and silent until
the next of these hours: its end is told once, not each time.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from regime_pipeline.ports import Alert, AlertBook, AlertKind, AlertStore, OpenAlert, Severity
from regime_pipeline.services.alert_kinds import Mode, build_message

REPEAT_S: Final = 6 * 3600
"""Long enough not to be muted, short enough to be seen by whoever wakes up."""
CLEAR_S: Final = 300
"""An alert is over when it has not been seen for so long: what comes and goes within minutes stays one alert."""
RETURN_S: Final = 3600
"""What returns so soon after its end is the same alert: at a period just over `CLEAR_S` it would send twenty messages an hour.

A critical one is told again so long after its last message, not after `REPEAT_S`: people believe that it is over.
"""


@dataclass(frozen=True, slots=True)
class AlertRules:
    """Who we are, which kinds are on, and where messages go."""

    instance: str
    modes: Mapping[AlertKind, Mode]
    channels: Sequence[str]


@dataclass(slots=True)
class AlertPlan:
    """What follows from a look: alerts to open, to renew with what is posted about them (None: nothing), and to resolve."""

    opened: list[Alert] = field(default_factory=list)
    renewed: list[tuple[OpenAlert, Alert, str | None]] = field(default_factory=list)
    resolved: list[OpenAlert] = field(default_factory=list)


def plan_alerts(
    known: Sequence[OpenAlert],
    found: Sequence[Alert],
    judged: Collection[AlertKind],
    now_s: int,
    *,
    ended: Sequence[OpenAlert] = (),
) -> AlertPlan:
    """Compare what is recorded as open with what was found.

    Parameters
    ----------
    judged : collection of AlertKind
        Kinds that were looked for; alerts of others stay as they are.
    ended : sequence of OpenAlert
        Alerts that ended a short while ago, oldest first: found again they go on.
    """
    plan = AlertPlan()
    open_by_key = {(each.alert.kind, each.alert.scope): each for each in known}
    ended_by_key = {(each.alert.kind, each.alert.scope): each for each in ended}
    found_by_key: dict[tuple[AlertKind, str], Alert] = {}
    for alert in found:
        found_by_key.setdefault((alert.kind, alert.scope), alert)
    for key, alert in found_by_key.items():
        before = open_by_key.get(key) or ended_by_key.get(key)
        if before is None:
            plan.opened.append(alert)
            continue
        severity = max(before.alert.severity, alert.severity, key=lambda each: each is Severity.CRITICAL)
        now = replace(alert, severity=severity, since_s=min(before.alert.since_s, alert.since_s))
        event = None
        if severity is not before.alert.severity:
            event = "escalated"
        elif not before.is_acked and (before.noticed_s is None or now_s - before.noticed_s >= _silence_s(before)):
            event = "repeated"
        plan.renewed.append((before, now, event))
    for key, before in open_by_key.items():
        if key[0] in judged and key not in found_by_key and now_s - before.last_seen_s >= CLEAR_S:
            plan.resolved.append(before)
    return plan


def _silence_s(before: OpenAlert) -> int:
    return RETURN_S if before.is_told_over and before.alert.severity is Severity.CRITICAL else REPEAT_S


def raise_alerts(
    store: AlertStore,
    rules: AlertRules,
    found: Sequence[Alert],
    judged: Collection[AlertKind],
    now_s: int,
    *,
    return_s: int = RETURN_S,
) -> AlertPlan:
    """Record the plan and post its messages, in one transaction; a kind that is off is dropped, one that is silent posts nothing.

    An alert that ended within the last `return_s` seconds goes on when it is found again; 0: it is a new one.
    """
    with store.open_book() as book:
        wanted = [alert for alert in found if rules.modes[alert.kind] is not Mode.OFF]
        plan = plan_alerts(book.load_open(), wanted, judged, now_s, ended=book.load_ended(now_s - return_s))
        for alert in plan.opened:
            _post(book, rules, book.open(alert, now_s), "opened", alert, now_s)
        for before, alert, event in plan.renewed:
            book.renew(before.alert_id, alert, now_s)
            if event is not None:
                _post(book, rules, before.alert_id, event, alert, now_s)
        for before in plan.resolved:
            book.resolve(before.alert_id, now_s)
            if not before.is_told_over:
                _post(book, rules, before.alert_id, "resolved", before.alert, now_s)
    return plan


def end_alert(store: AlertStore, rules: AlertRules, kind: AlertKind, scope: str, now_s: int) -> bool:
    """End an open alert at once and post that it is over; False when none was open."""
    with store.open_book() as book:
        known = [each for each in book.load_open() if (each.alert.kind, each.alert.scope) == (kind, scope)]
        for each in known:
            book.resolve(each.alert_id, now_s)
            _post(book, rules, each.alert_id, "resolved", each.alert, now_s)
    return bool(known)


def _post(book: AlertBook, rules: AlertRules, alert_id: int, event: str, alert: Alert, now_s: int) -> None:
    if rules.modes[alert.kind] is Mode.ON:
        book.post(alert_id, event, build_message(rules.instance, event, alert, now_s, alert_id=alert_id), rules.channels, now_s)
