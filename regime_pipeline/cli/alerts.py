"""`regime alerts`: what is wrong, whether messages get through, and the watch outside Dagster."""

import json
import time
from typing import Annotated

import typer

from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.errors import BadInputError
from regime_pipeline.settings import load_settings

alerts_app = typer.Typer(name="alerts", help="What is wrong, and whether somebody hears of it.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@alerts_app.command("list")
def list_command(
    everything: Annotated[bool, typer.Option("--all", help="Those that are over too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """Show the alerts that are open."""
    from regime_pipeline.cli.alerts_watch import as_record, open_alerts, show_alert

    settings = load_settings()
    rows = open_alerts(settings).load_alerts(limit, with_resolved=everything)
    if as_json:
        typer.echo(json.dumps({"instance": settings.instance_name, "alerts": [as_record(row) for row in rows]}))
        return
    for row in rows:
        show_alert(row)
    if not rows:
        typer.echo("no alert is open" if not everything else "there never was an alert")


@alerts_app.command("ack")
def ack_command(
    alert_id: Annotated[int, typer.Argument(help="Number of the alert, from `regime alerts list`.")],
    note: Annotated[str | None, typer.Option(help="What you know of it; shown in the list.")] = None,
    as_json: Json = False,
) -> None:
    """Say that you know: an open alert is not repeated any more. That it became critical or is over is still told."""
    from regime_pipeline.cli.alerts_watch import open_alerts

    open_alerts(load_settings()).ack(alert_id, note, read_now_s())
    typer.echo(json.dumps({"acked": alert_id}) if as_json else f"alert {alert_id} will not be repeated")


@alerts_app.command("test")
def try_command(
    kind: Annotated[str, typer.Argument(help="A kind of alert, or all.")],
    as_json: Json = False,
) -> None:
    """Open an alert of a kind on purpose and end it at once, through the database and every channel; exit code 1 when one refused."""
    from regime_pipeline.cli.alerts_watch import try_kind
    from regime_pipeline.ports import AlertKind

    settings = load_settings()
    if kind != "all" and kind not in set(AlertKind):
        raise BadInputError(f"kind was {kind!r}, must be all or one of {', '.join(AlertKind)}.")
    kinds = list(AlertKind) if kind == "all" else [AlertKind(kind)]
    outcomes = {each: try_kind(settings, each) for each in kinds}
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
    from regime_pipeline.cli.alerts_watch import Outage, tell_look
    from regime_pipeline.services.watch_health import SLOW_EVERY_S

    settings = load_settings()
    outage = Outage(settings)
    looked_slow_s: int | None = None
    while True:
        now_s = read_now_s()
        with_slow = looked_slow_s is None or now_s - looked_slow_s >= SLOW_EVERY_S
        summary = outage.look(now_s, with_slow=with_slow)
        if summary is not None and with_slow:
            looked_slow_s = now_s
        tell_look(summary, now_s, as_json=as_json)
        if once:
            raise typer.Exit(0 if summary is not None and not summary.found else 1)
        time.sleep(every_s)
