"""`regime venues`: which venues may be asked, and what is left of a vendor's calls."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from regime_pipeline.clock import monotonic_s
from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.errors import BadInputError, SourceError
from regime_pipeline.settings import Settings, load_settings

COINGECKO: Final = "coingecko"

venues_app = typer.Typer(name="venues", help="Which venues may be asked, and calls spent this month.")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@venues_app.callback(invoke_without_command=True)
def show_command(context: typer.Context, as_json: Json = False) -> None:
    """Show halted venues, why and until when, and the month's calls to CoinGecko."""
    if context.invoked_subcommand is not None:
        return
    from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
    from regime_pipeline.cli.session import iso_time, open_stores, show_time

    settings = load_settings()
    now_s, ledger = read_now_s(), PostgresVenueLedger(open_stores(settings).url)
    halts, calls = ledger.load_halts(now_s), ledger.load_calls(now_s).get(COINGECKO, 0)
    if as_json:
        venues = {
            name: {
                "is_halted": name in halts,
                "reason": halts[name].reason if name in halts else None,
                "since": iso_time(halts[name].since_s) if name in halts else None,
                "until": _iso_or_none(halts[name].until_s) if name in halts else None,
            }
            for name in _names(settings)
        }
        budget = {"calls": calls, "monthly_limit": settings.coingecko_monthly_calls}
        typer.echo(json.dumps({"instance": settings.instance_name, "venues": venues, COINGECKO: budget}))
        return
    for name in _names(settings):
        halt = halts.get(name)
        if halt is None:
            typer.echo(f"{name:16} open")
            continue
        until = f"until {show_time(halt.until_s)} UTC" if halt.until_s is not None else f"until `regime venues resume {name}`"
        typer.echo(f"{name:16} halted {until}: {halt.reason}")
    typer.echo(f"{COINGECKO} calls this month: {calls} of {settings.coingecko_monthly_calls}")


@venues_app.command("resume")
def resume_command(name: Annotated[str, typer.Argument(help="The venue, or coingecko.")], as_json: Json = False) -> None:
    """End a venue's halt, once its cause is settled: the next run asks it again."""
    from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
    from regime_pipeline.cli.session import open_stores

    settings = load_settings()
    if name not in _names(settings):
        raise BadInputError(f"venue was {name!r}; there are {', '.join(_names(settings))}. Name one of these.")
    is_resumed = PostgresVenueLedger(open_stores(settings).url).resume(name)
    told = f"{name} is asked again" if is_resumed else f"{name} was not halted"
    typer.echo(json.dumps({"venue": name, "resumed": is_resumed}) if as_json else told)


@venues_app.command("check")
def check_command(
    names: Annotated[list[str] | None, typer.Argument(help="Venues to ask; none: all of the universe file.")] = None, as_json: Json = False
) -> None:
    """Ask venues for every symbol of the universe file. Exit code 1 when one cannot be read or does not list a symbol."""
    from regime_pipeline.orchestration.resources import build_live

    settings = load_settings()
    known = [name for name in _names(settings) if name != COINGECKO]
    if unknown := sorted(set(names or ()) - set(known)):
        raise BadInputError(f"venue was {unknown[0]!r}; there are {', '.join(known)}. Name one of these.")
    market = build_live(settings)
    report: dict[str, dict[str, object]] = {}
    for name in names or known:
        started_s = monotonic_s()
        try:
            prices = market.fetch_prices(name)
        except SourceError as error:
            report[name] = {"is_readable": False, "reason": str(error), "unlisted": [], "prices": {}}
            continue
        unlisted = [symbol for symbol, price in prices.items() if price is None]
        listed = {symbol: price for symbol, price in prices.items() if price is not None}
        report[name] = {"is_readable": True, "seconds": round(monotonic_s() - started_s, 2), "unlisted": unlisted, "prices": listed}
    if as_json:
        typer.echo(json.dumps(report))
    else:
        for name, found in report.items():
            typer.echo(f"{name:16} {_tell(found)}")
    raise typer.Exit(0 if all(found["is_readable"] and not found["unlisted"] for found in report.values()) else 1)


def _tell(found: Mapping[str, Any]) -> str:
    if not found["is_readable"]:
        return f"cannot be read: {found['reason']}"
    unlisted = f", does not list {', '.join(found['unlisted'])}" if found["unlisted"] else ""
    return f"gives {len(found['prices'])} symbols in {found['seconds']} s{unlisted}"


def _names(settings: Settings) -> list[str]:
    from regime_pipeline.market.universe import load_universe

    universe = load_universe(settings.universe)
    return [*(name for name, venue in universe.venues.items() if venue.exchange is not None), COINGECKO]


def _iso_or_none(ts_s: int | None) -> str | None:
    from regime_pipeline.cli.session import iso_time

    return None if ts_s is None else iso_time(ts_s)
