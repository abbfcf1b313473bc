"""What each kind of alert costs and what to do about it, which kinds are on, and how a message reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from regime_pipeline.errors import ConfigError
from regime_pipeline.ports import Alert, AlertKind, Message, Severity

RUNBOOK: Final = "docs/runbook.md"


class Mode(StrEnum):
    """What happens to a kind: sent, only recorded, or not even looked at."""

    ON = "on"
    SILENT = "silent"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class KindNote:
    """What a person needs to know who has never seen this kind: what it costs, and the first thing to do."""

    cost: str
    cure: str


KINDS: Final[Mapping[AlertKind, KindNote]] = {
    AlertKind.FRESHNESS: KindNote(
        "levers are computed from old states; without BTC or ALT buys are blocked",
        "`regime status` names the late series; see whether the venue, the daemon or a run is at fault",
    ),
    AlertKind.VALIDITY: KindNote(
        "the driver counts as missing, levers are degraded and buys are blocked",
        "`regime status` shows the score; repair its gaps or wait for the venue",
    ),
    AlertKind.QUARANTINE_SPIKE: KindNote(
        "refused bars are missing bars until the venue or the next one gives better",
        "compare the venue with another one; halt it if it lies",
    ),
    AlertKind.GAP_BACKLOG: KindNote(
        "states around the holes rest on fewer bars", "`regime data repair`, or find out why the venue does not answer"
    ),
    AlertKind.VENUE_HALTED: KindNote(
        "its series come from the next venue of their list, or not at all",
        "find out why it refuses us before it is resumed; asking on makes a ban longer",
    ),
    AlertKind.BUDGET: KindNote(
        "when the month's calls are spent, dominance and market caps stand still", "raise dominance_every_s or the plan, restart"
    ),
    AlertKind.COLLECTOR_SILENT: KindNote(
        "bars come over REST, some seconds later; none is lost", "see its log and restart `regime collect` if it does not come back"
    ),
    AlertKind.RUN_FAILURE: KindNote(
        "that job's tables stand still until a run succeeds, which makes up for it", "read the run's error in the Dagster UI"
    ),
    AlertKind.CHECK_FAILURE: KindNote(
        "nothing is derived from the table in the runs that see it", "read the faults in the check's metadata in the Dagster UI"
    ),
    AlertKind.DAEMON_SILENT: KindNote("no schedule, sensor or queue works", "restart `regime up`; its log says why the daemon ended"),
    AlertKind.FLAG_SILENT: KindNote(
        "either the market gave no cause or a rule can no longer fire", "compare the series with a replay; suspect the last engine change"
    ),
    AlertKind.DISK_SPACE: KindNote(
        "a full disk stops Postgres and with it everything", "prune history, move backups away or enlarge the disk"
    ),
    AlertKind.DAGSTER_SIZE: KindNote(
        "pages of the Dagster UI and backups slow down", "see whether the job prune_history runs, and run it by hand"
    ),
    AlertKind.NOTIFY_FAILED: KindNote(
        "alerts do not reach that channel", "correct its address in REGIME_ALERT_URLS, then `regime alerts test`"
    ),
    AlertKind.DEAD_MAN: KindNote("the watchman outside will warn although we live", "see whether its address answers from this machine"),
    AlertKind.WATCH_FAILED: KindNote(
        "this kind of fault is not looked for", "read the message; `regime db status` and `regime doctor` help"
    ),
    AlertKind.DATABASE_DOWN: KindNote("nothing is read, written or recorded; this alert is not either", "`regime db status`, then its log"),
    AlertKind.KILL_LEVEL: KindNote(
        "L1 sends no entries, L2 only reduces, L3 cancels everything but stops, L4 has ended the executor",
        "find out why it was raised; only `regime release` lowers a latched level",
    ),
    AlertKind.EXECUTOR_SILENT: KindNote(
        "no order is sent, swept or reconciled, and software stops do not trigger", "restart it: `regime executor`, or `regime up` on paper"
    ),
    AlertKind.ORDER_UNKNOWN: KindNote(
        "its symbol takes no entries, its full quantity counts as exposure, the account only reduces",
        "look for the order at the venue by its id; `regime reconcile` looks again",
    ),
    AlertKind.RECONCILIATION: KindNote(
        "entries are off for what differs, or for the account when it could not be compared",
        "`regime reconcile` names the differences; explain them before anything is adjusted",
    ),
    AlertKind.INCIDENT: KindNote(
        "something happened that must not: what it stops depends on its kind", "`regime incidents` shows what was seen"
    ),
    AlertKind.OUTBOX_STUCK: KindNote(
        "a kill, a cancel or an order that was decided has not been carried out",
        "see whether the executor lives; `regime kill` needs neither",
    ),
    AlertKind.ALL_HOLD: KindNote(
        "nothing was traded for a day, for one reason everywhere",
        "`regime decisions` shows the reason; a quiet market is one, a stuck input too",
    ),
}


def read_modes(text: str) -> dict[AlertKind, Mode]:
    """Read the setting `alert_modes`: `kind=mode` by spaces or commas; a kind not named is on.

    Raises
    ------
    ConfigError
        When a kind or a mode is unknown, or a kind comes twice.
    """
    modes: dict[AlertKind, Mode] = {}
    for part in text.replace(",", " ").split():
        name, _, mode = part.partition("=")
        if name not in set(AlertKind) or mode not in set(Mode):
            raise ConfigError(
                f"alert_modes had {part!r}: write kind=mode with kind one of {', '.join(AlertKind)} and mode one of {', '.join(Mode)}."
            )
        if name in modes:
            raise ConfigError(f"alert_modes names {name} twice. Keep one.")
        modes[AlertKind(name)] = Mode(mode)
    return {kind: modes.get(kind, Mode.ON) for kind in AlertKind}


def build_message(instance: str, event: str, alert: Alert, now_s: int, *, alert_id: int | None = None) -> Message:
    """Write the message about an alert that was opened, escalated, repeated or resolved.

    Parameters
    ----------
    instance : str
        Who we are; the first word of every title.
    alert_id : int, optional
        Its number, for `regime alerts ack`; None when it is not recorded.
    """
    word = alert.severity.upper() if event != "resolved" else "RESOLVED"
    again = {"repeated": " (still)", "escalated": " (worse)"}.get(event, "")
    lasts = spell_duration(now_s - alert.since_s)
    since = f"since {datetime.fromtimestamp(alert.since_s, UTC):%Y-%m-%d %H:%M} UTC"
    body = [alert.summary, f"{since}, for {lasts}" if event != "resolved" else f"it was so {since}, for {lasts}"]
    if event != "resolved":
        note = KINDS[alert.kind]
        body += [f"cost: {note.cost}", f"do: {note.cure}", f"runbook: {RUNBOOK}#{alert.kind}"]
        if alert_id is not None:
            body.append(f"known already? regime alerts ack {alert_id}")
    fields: dict[str, str | int | None] = {
        "instance": instance,
        "event": event,
        "alert_id": alert_id,
        "kind": alert.kind.value,
        "scope": alert.scope,
        "severity": alert.severity.value,
        "summary": alert.summary,
        "since_s": alert.since_s,
    }
    return Message(f"[{instance}] {word} {alert.kind} {alert.scope}{again}", "\n".join(body), fields)


def spell_duration(seconds: int) -> str:
    """Spell a span for people, two units at most."""
    minutes = max(0, seconds) // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def is_critical(alert: Alert) -> bool:
    """Tell whether it cannot wait for the day."""
    return alert.severity is Severity.CRITICAL
