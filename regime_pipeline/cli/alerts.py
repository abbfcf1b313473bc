"""`regime alerts`: what is wrong, whether messages get through, and the watch outside Dagster."""

import json
import time
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from regime_pipeline.cli.session import iso_time, open_stores, show_time
from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.errors import BadInputError, DatabaseError, NotifyError, RegimeError
from regime_pipeline.ports import Alert, AlertKind, Notifier, Severity
from regime_pipeline.services.alert_kinds import Mode, build_message, read_modes
from regime_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from regime_pipeline.adapters.postgres.alert_store import AlertRow, PostgresAlerts
    from regime_pipeline.services.watch_health import WatchSummary

TEST_SCOPE: Final = "test"

alerts_app = typer.Typer(name="alerts", help="What is wrong, and whether somebody hears of it.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@alerts_app.command("list")
def list_command(
    everything: Annotated[bool, typer.Option("--all", help="Those that are over too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """Show the alerts that are open."""
    settings = load_settings()
    rows = _open_alerts(settings).load_alerts(limit, with_resolved=everything)
    if as_json:
        typer.echo(json.dumps({"instance": settings.instance_name, "alerts": [_as_record(row) for row in rows]}))
        return
    for row in rows:
        _show(row)
    if not rows:
        typer.echo("no alert is open" if not everything else "there never was an alert")


@alerts_app.command("ack")
def ack_command(
    alert_id: Annotated[int, typer.Argument(help="Number of the alert, from `regime alerts list`.")],
    note: Annotated[str | None, typer.Option(help="What you know of it; shown in the list.")] = None,
    as_json: Json = False,
) -> None:
    """Say that you know: an open alert is not repeated any more. That it became critical or is over is still told."""
    _open_alerts(load_settings()).ack(alert_id, note, read_now_s())
    typer.echo(json.dumps({"acked": alert_id}) if as_json else f"alert {alert_id} will not be repeated")


@alerts_app.command("test")
def try_command(
    kind: Annotated[str, typer.Argument(help="A kind of alert, or all.")],
    as_json: Json = False,
) -> None:
    """Open an alert of a kind on purpose and end it at once, through the database and every channel; exit code 1 when one refused."""
    settings = load_settings()
    if kind != "all" and kind not in set(AlertKind):
        raise BadInputError(f"kind was {kind!r}, must be all or one of {', '.join(AlertKind)}.")
    kinds = list(AlertKind) if kind == "all" else [AlertKind(kind)]
    outcomes = {each: _try_kind(settings, each) for each in kinds}
    if as_json:
        typer.echo(json.dumps({"tested": outcomes}))
    else:
        for each, outcome in outcomes.items():
            typer.echo(f"{each:17} " + (", ".join(f"{channel}: {what}" for channel, what in outcome.items()) or "no channel is configured"))
    refused = [what for outcome in outcomes.values() for what in outcome.values() if what not in {"sent", "silent", "off"}]
    raise typer.Exit(1 if refused else 0)


@alerts_app.command("watch")
def watch_command(
    once: Annotated[bool, typer.Option("--once", help="Look once; exit code 1 when something is wrong.")] = False,
    every_s: Annotated[int, typer.Option(min=5, help="Seconds between two looks.")] = 60,
    as_json: Json = False,
) -> None:
    """Do what the sensor watch_health does, outside Dagster: so that a dead daemon or database is noticed too. Ctrl-C ends it."""
    from regime_pipeline.services.watch_health import SLOW_EVERY_S

    settings = load_settings()
    outage = _Outage(settings)
    looked_slow_s: int | None = None
    while True:
        now_s = read_now_s()
        with_slow = looked_slow_s is None or now_s - looked_slow_s >= SLOW_EVERY_S
        summary = outage.look(now_s, with_slow=with_slow)
        if summary is not None and with_slow:
            looked_slow_s = now_s
        _tell(summary, now_s, as_json=as_json)
        if once:
            raise typer.Exit(0 if summary is not None and not summary.found else 1)
        time.sleep(every_s)


class _Outage:
    """Looks, and speaks up by itself while there is no database to record alerts in: once, every six hours, and when it is back."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._down: Alert | None = None
        self._noticed_s = 0

    def look(self, now_s: int, *, with_slow: bool) -> "WatchSummary | None":
        """Look once; None while the database is down."""
        from regime_pipeline.services.raise_alerts import REPEAT_S

        try:
            summary = _look(self._settings, now_s, with_slow=with_slow)
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
        for notifier in _build_notifiers(self._settings):
            try:
                notifier.send(build_message(self._settings.instance_name, event, alert, now_s))
            except NotifyError as error:
                typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)


def _look(settings: Settings, now_s: int, *, with_slow: bool) -> "WatchSummary":
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


def _try_kind(settings: Settings, kind: AlertKind) -> dict[str, str]:
    """Open and end an alert of a kind; tells what became of its messages by channel."""
    from regime_pipeline.services.raise_alerts import AlertRules, end_alert, raise_alerts
    from regime_pipeline.services.send_notices import send_notices

    modes, store, notifiers = read_modes(settings.alert_modes), _open_alerts(settings), _build_notifiers(settings)
    channels = [notifier.channel for notifier in notifiers]
    if modes[kind] is Mode.OFF:
        return dict.fromkeys(channels, "off")
    now_s = read_now_s()
    rules = AlertRules(settings.instance_name, modes, channels)
    alert = Alert(kind, TEST_SCOPE, Severity.WARNING, f"a test of {kind}, made on purpose: nothing is wrong", now_s)
    raise_alerts(store, rules, [alert], (), now_s)
    end_alert(store, rules, kind, TEST_SCOPE, now_s)
    if modes[kind] is Mode.SILENT:
        return dict.fromkeys(channels, "silent")
    sent = send_notices(store, notifiers, now_s)
    return {channel: str(sent[channel]) if isinstance(sent.get(channel), NotifyError) else "sent" for channel in channels}


def _open_alerts(settings: Settings) -> "PostgresAlerts":
    from regime_pipeline.adapters.postgres.alert_store import PostgresAlerts

    return PostgresAlerts(open_stores(settings).url, settings.instance_name)


def _build_notifiers(settings: Settings) -> list[Notifier]:
    from regime_pipeline.adapters.notify.channels import build_notifiers

    return build_notifiers(settings.alert_file, settings.alert_urls)


def _tell(summary: "WatchSummary | None", now_s: int, *, as_json: bool) -> None:
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


def _show(row: "AlertRow") -> None:
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


def _as_record(row: "AlertRow") -> dict[str, object]:
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
