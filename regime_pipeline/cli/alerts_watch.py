"""What `regime alerts` does, apart from its commands so that the command line starts without numpy: tests, watches and tells."""

import json
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import typer

from regime_pipeline.cli.session import iso_time, open_stores, show_time
from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.errors import DatabaseError, NotifyError, RegimeError
from regime_pipeline.ports import Alert, AlertKind, Notifier, Severity
from regime_pipeline.services.alert_kinds import Mode, build_message, read_modes
from regime_pipeline.settings import Settings

if TYPE_CHECKING:
    from regime_pipeline.adapters.postgres.alert_store import AlertRow, PostgresAlerts
    from regime_pipeline.services.watch_health import WatchSummary

TEST_SCOPE: Final = "test"


class Outage:
    """Looks, and speaks up by itself while there is no database to record alerts in: once, every six hours, and when it is back."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._down: Alert | None = None
        self._noticed_s = 0

    def look(self, now_s: int, *, with_slow: bool) -> "WatchSummary | None":
        """Look once; None while the database is down."""
        from regime_pipeline.services.raise_alerts import REPEAT_S

        try:
            summary = look_once(self._settings, now_s, with_slow=with_slow)
        except DatabaseError as error:
            is_new = self._down is None
            self._down = self._down or Alert(AlertKind.DATABASE_DOWN, "regime", Severity.CRITICAL, str(error), now_s)
            if is_new or now_s - self._noticed_s >= REPEAT_S:
                self._send("opened" if is_new else "repeated", self._down, now_s)
                self._noticed_s = now_s
            typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
            return None
        if self._down is not None:
            self._send("resolved", self._down, now_s)
            self._down = None
        return summary

    def _send(self, event: str, alert: Alert, now_s: int) -> None:
        if read_modes(self._settings.alert_modes)[alert.kind] is not Mode.ON:
            return
        for notifier in build_notifiers(self._settings):
            try:
                notifier.send(build_message(self._settings.instance_name, event, alert, now_s))
            except NotifyError as error:
                typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)


def look_once(settings: Settings, now_s: int, *, with_slow: bool) -> "WatchSummary":
    """Do what the sensor does, from outside Dagster."""
    from regime_pipeline.adapters.postgres.embedded import server_status

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dagster's about what it marks beta: of no concern to who watches
        from regime_pipeline.definitions import defs
        from regime_pipeline.orchestration.health import watch_from_outside

        if settings.database_url is None and (state := server_status(settings.home).state) != "running":
            # opening it would start it: whoever stopped it wants to be asked
            raise DatabaseError(f"the embedded server is {state}. Start it with `regime up`, or `regime db start`.")
        open_stores(settings)  # its schema must be ours
        return watch_from_outside(settings, defs.get_repository_def(), now_s, with_slow=with_slow)


def try_kind(settings: Settings, kind: AlertKind) -> dict[str, str]:
    """Open and end an alert of a kind; tells what became of its messages by channel."""
    from regime_pipeline.services.raise_alerts import AlertRules, end_alert, raise_alerts
    from regime_pipeline.services.send_notices import send_notices

    modes, store, notifiers = read_modes(settings.alert_modes), open_alerts(settings), build_notifiers(settings)
    channels = [notifier.channel for notifier in notifiers]
    if modes[kind] is Mode.OFF:
        return dict.fromkeys(channels, "off")
    now_s = read_now_s()
    rules = AlertRules(settings.instance_name, modes, channels)
    alert = Alert(kind, TEST_SCOPE, Severity.WARNING, f"a test of {kind}, made on purpose: nothing is wrong", now_s)
    raise_alerts(store, rules, [alert], (), now_s, return_s=0)
    end_alert(store, rules, kind, TEST_SCOPE, now_s)
    if modes[kind] is Mode.SILENT:
        return dict.fromkeys(channels, "silent")
    sent = send_notices(store, notifiers, now_s)
    return {channel: str(sent[channel]) if isinstance(sent.get(channel), NotifyError) else "sent" for channel in channels}


def open_alerts(settings: Settings) -> "PostgresAlerts":
    """Open the alerts of the settings' database."""
    from regime_pipeline.adapters.postgres.alert_store import PostgresAlerts

    return PostgresAlerts(open_stores(settings).url, settings.instance_name)


def build_notifiers(settings: Settings) -> list[Notifier]:
    """Build the channels of the settings."""
    from regime_pipeline.adapters.notify.channels import build_notifiers as build_channels

    return build_channels(settings.alert_file, settings.alert_urls)


def tell_look(summary: "WatchSummary | None", now_s: int, *, as_json: bool) -> None:
    """Print what a look found; None: the database was down."""
    if summary is None:
        if as_json:
            typer.echo(json.dumps({"at": iso_time(now_s), "database": "down"}))
        return
    if as_json:
        found = [asdict(alert) for alert in summary.found]
        sent = {channel: str(what) if isinstance(what, RegimeError) else what for channel, what in summary.sent.items()}
        typer.echo(json.dumps({"at": iso_time(now_s), "is_well": summary.is_well, "found": found, "sent": sent}))
        return
    verdict = f"{len(summary.found)} alerts hold" if summary.found else "all is well" if summary.is_well else "no minute of BTC and ALT yet"
    typer.echo(f"{show_time(now_s)} UTC: {verdict}")
    for alert in summary.found:
        typer.echo(f"  {alert.severity:8} {alert.kind} {alert.scope}: {alert.summary}")
    for channel, what in summary.sent.items():
        if isinstance(what, RegimeError):
            typer.echo(f"  {channel}: {what}")


def show_alert(row: "AlertRow") -> None:
    """Print an alert for people."""
    alert = row.known.alert
    colour = typer.colors.RED if alert.severity is Severity.CRITICAL else typer.colors.YELLOW
    ended = f", over since {show_time(row.resolved_s)}" if row.resolved_s is not None else ""
    typer.secho(f"{row.known.alert_id:4} {alert.severity:8} {alert.kind} {alert.scope}", fg=colour if not ended else None)
    typer.echo(f"     {alert.summary}")
    typer.echo(f"     since {show_time(alert.since_s)} UTC{ended}")
    if row.known.is_acked:
        typer.echo(f"     acknowledged{f': {row.ack_note}' if row.ack_note else ''}")
    if row.unsent:
        typer.echo(f"     {row.unsent} messages not sent yet{f': {row.send_error}' if row.send_error else ''}")


def as_record(row: "AlertRow") -> dict[str, object]:
    """Spell an alert for programs."""
    alert = row.known.alert
    return {
        "id": row.known.alert_id,
        "kind": alert.kind,
        "scope": alert.scope,
        "severity": alert.severity,
        "summary": alert.summary,
        "since": iso_time(alert.since_s),
        "opened_at": iso_time(row.known.opened_s),
        "last_seen_at": iso_time(row.known.last_seen_s),
        "resolved_at": None if row.resolved_s is None else iso_time(row.resolved_s),
        "acked": row.known.is_acked,
        "ack_note": row.ack_note,
        "unsent": row.unsent,
        "send_error": row.send_error,
    }
