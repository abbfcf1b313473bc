"""What counts as wrong on the order path: each rule turns measured facts into alerts. Pure; `watch_health` gathers the facts."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from regime_pipeline.ports import (
    AgreedHold,
    Alert,
    AlertKind,
    ExecutorBeat,
    OpenIncident,
    ReconState,
    Severity,
    StuckNote,
    StuckOrder,
)
from regime_pipeline.risk.kill_switch import Level, Switch
from regime_pipeline.services.alert_kinds import spell_duration

EXECUTOR_SILENT_S: Final = 90
"""It beats every 15 seconds; six in a row are missed by no garbage collection."""
UNKNOWN_S: Final = 300
KILL_NOTE_S: Final = 10
NOTE_S: Final = 60
RECON_SILENT_S: Final = 600
"""A full pass is due every 300 seconds; after two of them nobody seems to compare any more, and entries have stopped by then."""
HOLD_S: Final = 86_400
HOLD_EDGE_S: Final = 7200
"""A day of decisions is whole when its first lies within two hours of the day's begin."""


def judge_kills(switches: Sequence[Switch]) -> Iterator[Alert]:
    """Tell of every scope with a kill level: the highest of it, critical from reduce-only on."""
    worst: dict[str, Switch] = {}
    for switch in sorted(switches, key=lambda each: (each.level, -each.at_s), reverse=True):
        worst.setdefault(switch.scope.text, switch)
    for scope, switch in worst.items():
        who = "by hand" if switch.source == "manual" else f"by {switch.source}"
        text = f"{scope} is at L{switch.level.value} {switch.level.name} {who} ({switch.actor}): {switch.reason}"
        yield Alert(AlertKind.KILL_LEVEL, scope, _severity(switch.level >= Level.REDUCE_ONLY), text, switch.at_s)


def judge_executors(beats: Sequence[ExecutorBeat], account: str, now_s: int) -> Iterator[Alert]:
    """Tell that the executor of our account gives no sign of life; one that never ran here is none."""
    for beat in beats:
        if beat.account == account and now_s - beat.at_s > EXECUTOR_SILENT_S:
            text = f"the executor of {account} has given no sign of life for {now_s - beat.at_s} s"
            yield Alert(AlertKind.EXECUTOR_SILENT, account, Severity.CRITICAL, text, beat.at_s)


def judge_unknown_orders(orders: Sequence[StuckOrder], now_s: int) -> Iterator[Alert]:
    """Tell of every order whose fate has been unknown for five minutes; `orders` are those."""
    for each in orders:
        text = f"what became of order {each.client_order_id} on {each.symbol} has been unknown for {spell_duration(now_s - each.since_s)}"
        yield Alert(AlertKind.ORDER_UNKNOWN, f"{each.account}:{each.symbol}", Severity.CRITICAL, text, each.since_s)


def judge_recon(states: Sequence[ReconState], account: str, now_s: int, *, is_trading: bool) -> Iterator[Alert]:
    """Tell of comparisons that found something, could not read, or are not made any more.

    Parameters
    ----------
    account : str
        Ours: only of it silence is wrong, and only while orders may be sent (`is_trading`).
    """
    for each in states:
        scope, age_s = f"{each.account}:{each.kind}", now_s - each.ended_s
        if each.status == "findings":
            is_bad = bool({"medium", "large"} & set(each.tiers))
            yield Alert(AlertKind.RECONCILIATION, scope, _severity(is_bad), f"book and venue differ: {each.what or 'see'}", each.ended_s)
        elif each.status == "unknown":
            is_bad = each.clean_s is None or now_s - each.clean_s > RECON_SILENT_S
            text = f"book and venue could not be compared: {each.what or 'a read failed'}"
            yield Alert(AlertKind.RECONCILIATION, scope, _severity(is_bad), text, each.ended_s)
        elif is_trading and each.kind == "full" and each.account == account and age_s > RECON_SILENT_S:
            text = f"book and venue were compared last {spell_duration(age_s)} ago"
            yield Alert(AlertKind.RECONCILIATION, scope, Severity.CRITICAL, text, each.ended_s)


def judge_incidents(incidents: Sequence[OpenIncident]) -> Iterator[Alert]:
    """Tell of every critical incident until it is closed; one that a person has acknowledged is a warning."""
    for each in incidents:
        again = f", seen {each.repeats + 1} times" if each.repeats else ""
        text = f"incident {each.incident_id} {each.kind} on {each.scope}{again}, open since {_spell(each.opened_s)}"
        yield Alert(AlertKind.INCIDENT, f"{each.kind}:{each.scope}", _severity(not each.is_acked), text, each.opened_s)


def judge_notes(notes: Sequence[StuckNote], now_s: int) -> Iterator[Alert]:
    """Tell of an outbox that nobody empties; `notes` are those that wait for too long."""
    for each in notes:
        text = f"{each.n_rows} {each.kind} rows of {each.account} wait in the outbox, the oldest for {now_s - each.since_s} s"
        yield Alert(AlertKind.OUTBOX_STUCK, f"{each.account}:{each.kind}", Severity.CRITICAL, text, each.since_s)


def judge_holds(holds: Sequence[AgreedHold], now_s: int) -> Iterator[Alert]:
    """Tell of strategies in which for a day every instrument was held for the same reason; `holds` are those of the last day."""
    for each in holds:
        if each.first_s <= now_s - HOLD_S + HOLD_EDGE_S:
            text = f"all {each.n_lines} decisions of {each.strategy} since {_spell(each.first_s)} had {each.code}"
            yield Alert(AlertKind.ALL_HOLD, f"{each.account}:{each.strategy}:{each.code}", Severity.WARNING, text, each.first_s)


def _severity(is_critical: bool) -> Severity:
    return Severity.CRITICAL if is_critical else Severity.WARNING


def _spell(at_s: int) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M} UTC"
