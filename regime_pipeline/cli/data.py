"""`regime data`: what can be done about the bars by hand."""

import json
from typing import Annotated

import typer

from regime_pipeline.market.timeframe import Timeframe

data_app = typer.Typer(no_args_is_help=True, help="The bars: fetch again what is missing.")


@data_app.callback()
def data() -> None:
    """The bars: fetch again what is missing."""


@data_app.command()
def repair(
    series: Annotated[list[str] | None, typer.Option("--series", help="Only this series, as token:BTC:binance; may be repeated.")] = None,
    timeframe: Annotated[list[Timeframe] | None, typer.Option("--timeframe", help="Only this timeframe; may be repeated.")] = None,
    start: Annotated[str | None, typer.Option("--from", metavar="TIME", help="Only gaps from this time on, with its zone.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Only gaps before this time, with its zone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask the vendors again for every missing bar, those that are their own gaps included. Exit code 1 when one could not be asked."""
    from regime_pipeline.cli.session import open_migrated_stores, read_instant
    from regime_pipeline.errors import BadInputError
    from regime_pipeline.market.universe import load_universe
    from regime_pipeline.orchestration.resources import build_source
    from regime_pipeline.services.repair_gaps import repair_gaps
    from regime_pipeline.settings import load_settings

    settings, now_s = load_settings(), read_instant(None)
    universe, stores, source = load_universe(settings.universe), open_migrated_stores(settings), build_source(settings)
    span = (0 if start is None else read_instant(start), read_instant(end))
    if span[1] <= span[0]:
        raise BadInputError(f"--from {start} is not before --to {end or 'now'}: no gap lies between them. Correct the times.")

    def tell(name: str, done: int, total: int) -> None:
        if not as_json:
            typer.echo(f"{name}: {done} of {total} missing bars asked for", err=True)

    done = {
        each: repair_gaps(stores, source, universe, each, now_s, series=series, span=span, only_due=False, progress=tell)
        for each in timeframe or Timeframe
    }
    failures = [failure for part in done.values() for failure in part.failures]
    counts = {
        each.value: {name: getattr(part, name) for name in ("asked", "found", "vendor_none", "still_missing")}
        for each, part in done.items()
        if part.asked
    }
    if as_json:
        typer.echo(json.dumps({"gaps": counts, "failures": failures}))
    else:
        for name, count in counts.items():
            told = f"{count['asked']} asked for, {count['found']} came, {count['vendor_none']} are the vendors' own"
            typer.echo(f"{name}: {told}, {count['still_missing']} are still missing")
        typer.echo("\n".join(failures) if failures else "" if counts else "no bar is missing")
        typer.echo("what follows from new bars is derived by the next run of their timeframe")
    raise typer.Exit(1 if failures else 0)
