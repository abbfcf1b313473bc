"""`regime bootstrap`: history to maturity, and what follows from it."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regime_pipeline.errors import RegimeError

if TYPE_CHECKING:
    from rich.console import Console

    from regime_pipeline.ports import Stores
    from regime_pipeline.services.bootstrap import Brief, SeriesHistory
    from regime_pipeline.settings import Settings


class DegradedStartError(RegimeError):
    """A required driver has no fresh state: levers are degraded and entries stop."""


def bootstrap(as_json: Annotated[bool, typer.Option("--json", help="Print the brief as one JSON object.")] = False) -> None:
    """Fetch the newest 1,100 bars of every series, derive all states, and tell what there is.

    Stop it and start it again as often as you like: what is stored is not asked for again. Exit code 1 when a required driver is missing.
    """
    from rich.console import Console

    from regime_pipeline.cli.session import open_migrated_stores
    from regime_pipeline.errors import ConfigError
    from regime_pipeline.settings import load_settings

    settings = load_settings()
    if settings.source == "recorded":
        # each of its timeframes ends somewhere in the past, and the newest 1,100 bars are counted from now
        raise ConfigError("source was 'recorded': a bootstrap needs bars up to now. Set REGIME_SOURCE=live, or backfill the recorded days.")
    console = Console(stderr=as_json)
    stores = open_migrated_stores(settings)
    brief = _run(settings, stores, console)
    if as_json:
        typer.echo(json.dumps(brief_document(brief), indent=2))
    else:
        show_brief(brief, console)
    if brief.missing_required:
        missing = ", ".join(brief.missing_required)
        raise DegradedStartError(
            f"no fresh state of {missing}: levers are degraded and entries stop. See the problems above and `regime venues`, then again."
        )


def brief_document(brief: "Brief") -> dict[str, Any]:
    """Spell a brief for programs."""
    from regime_pipeline.cli.drivers import cell_document
    from regime_pipeline.cli.session import iso_time

    return {
        "as_of": iso_time(brief.as_of_s),
        "is_degraded": bool(brief.missing_required),
        "missing_required": list(brief.missing_required),
        "missing_optional": list(brief.missing_optional),
        "dominance": dict(brief.dominance),
        "halts": {
            venue: {"reason": halt.reason, "until": None if halt.until_s is None else iso_time(halt.until_s)}
            for venue, halt in brief.halts.items()
        },
        "problems": brief.problems,
        "bars_written": brief.bars_written,
        "seconds": {"asking_venues": round(brief.asking_s, 3), "total": round(brief.total_s, 3)},
        "drivers": [cell_document(cell) for cell in brief.cells],
    }


def show_brief(brief: "Brief", console: "Console") -> None:
    """Draw a brief for people."""
    from regime_pipeline.cli.drivers import build_board

    console.print(build_board(brief.cells))
    figures = ", ".join(f"{driver} {percent:.2f} %" for driver, percent in sorted(brief.dominance.items()))
    console.print(f"dominance now: {figures or 'no answer yet'}", highlight=False)
    for venue, halt in brief.halts.items():
        console.print(f"[yellow]halted[/]: {venue}, {halt.reason}", highlight=False)
    for problem in brief.problems:
        console.print(f"[yellow]problem[/]: {problem}", highlight=False)
    if brief.missing_optional:
        console.print(f"[yellow]without a fresh state[/] (optional): {', '.join(brief.missing_optional)}", highlight=False)
    spent = f"{brief.total_s:.1f} s, {brief.asking_s:.1f} s of it asking venues"
    console.print(f"{brief.bars_written:,} bars written in {spent}", highlight=False)


def _run(settings: "Settings", stores: "Stores", console: "Console") -> "Brief":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from regime_pipeline.adapters.postgres.connect import database_urls
    from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
    from regime_pipeline.market.universe import load_universe
    from regime_pipeline.orchestration.resources import build_source
    from regime_pipeline.services.bootstrap import bootstrap as run_bootstrap

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task("history", total=None)

    def on_series(done: "SeriesHistory") -> None:
        completed = progress.tasks[0].completed + 1
        progress.update(task, description=f"{done.series} {done.timeframe}", completed=completed, total=completed + done.left)

    def on_step(step: str) -> None:
        progress.update(task, description=step)

    with progress:
        return run_bootstrap(
            stores,
            build_source(settings, patient=True),
            load_universe(settings.universe),
            PostgresVenueLedger(database_urls(settings).regime),
            dominance_every_s=settings.dominance_every_s,
            on_series=on_series,
            on_step=on_step,
        )
