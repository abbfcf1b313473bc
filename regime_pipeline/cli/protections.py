"""`regime protections`: what stops entries now, until when, and ending one before its time."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.settings import load_settings

if TYPE_CHECKING:
    from regime_pipeline.risk.protections import Trip

protections_app = typer.Typer(name="protections", help="What stops entries now, and until when.", invoke_without_command=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@protections_app.callback()
def list_command(context: typer.Context, as_json: Json = False) -> None:
    """Show the protections and kill levels that are in force."""
    if context.invoked_subcommand is not None:
        return
    from regime_pipeline.adapters.latch_file import LATCH_NAME, LatchFile
    from regime_pipeline.cli.kill import switch_document
    from regime_pipeline.cli.session import open_stores, show_time
    from regime_pipeline.services.trading.kill_levels import load_levels

    settings, now_s = load_settings(), read_now_s()
    latch = LatchFile(settings.kill_dir / LATCH_NAME)
    with open_stores(settings).open() as work:
        trips = work.safety.load_trips(settings.trading_account, now_s)
        levels = load_levels(work, latch, settings.trading_account)
    if as_json:
        document = {"protections": [trip_document(trip) for trip in trips], "kill_levels": [switch_document(each) for each in levels]}
        typer.echo(json.dumps({"account": settings.trading_account, **document}, indent=2))
        return
    for switch in levels:
        typer.echo(f"L{switch.level.value} {switch.scope.text} ({switch.source}, {switch.actor}): {switch.reason}")
    for trip in trips:
        until = "until a person ends it" if trip.until_s > now_s + 10**9 else f"until {show_time(trip.until_s)}"
        typer.echo(f"{trip.effect.name} {trip.scope.text} {until}: {trip.name} {trip.trigger_id} ({trip.code}) {trip.evidence}")
    if not trips and not levels:
        typer.echo("nothing stops orders")


@protections_app.command("release")
def release_command(
    name: Annotated[str, typer.Argument(help="Name, from `regime protections`.")],
    trigger: Annotated[str, typer.Argument(help="Its trigger, from the same list.")],
    by: Annotated[str, typer.Option(help="Your name.")],
    reason: Annotated[str, typer.Option(help="Why; kept for ever.")],
    as_json: Json = False,
) -> None:
    """End a protection before its time. A kill level that it raised stays: `regime release` takes both back."""
    from regime_pipeline.cli.session import open_stores
    from regime_pipeline.services.trading.release_trip import end_protection

    with open_stores(load_settings()).open() as work:
        ended = end_protection(work, name, trigger, actor=by, reason=reason, now_s=read_now_s())
    if as_json:
        typer.echo(json.dumps({"released": [trip_document(trip) for trip in ended]}, indent=2))
    else:
        typer.echo("\n".join(f"{trip.name} {trip.trigger_id} of {trip.scope.text} is over" for trip in ended))


def trip_document(trip: "Trip") -> dict[str, Any]:
    """Spell a protection for programs."""
    return {**asdict(trip), "effect": trip.effect.name, "scope": trip.scope.text, "code": trip.code.value}
