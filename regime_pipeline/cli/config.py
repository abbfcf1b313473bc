"""`regime config`: the settings, the universe and the limits as they are in force."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import SecretStr

from regime_pipeline.settings import ENV_PREFIX, Settings, load_settings

if TYPE_CHECKING:
    from rich.table import Table

    from regime_pipeline.market.universe import Universe
    from regime_pipeline.risk.risk_file import RiskFile

config_app = typer.Typer(no_args_is_help=True, help="The settings, the universe and the limits in force.")

HIDDEN = "set, not shown"


@config_app.command()
def show(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Print every setting, the whole universe and every limit; addresses and keys that may be secret stay hidden."""
    from rich.console import Console

    from regime_pipeline.market.universe import load_universe
    from regime_pipeline.risk.risk_file import load_risk

    settings = load_settings()
    risk = load_risk(settings.risk_file)
    universe = load_universe(settings.universe)
    values = _printable(settings)
    if as_json:
        document = {"settings": values, "universe": universe.model_dump(mode="json"), "risk": _risk_document(risk)}
        typer.echo(json.dumps(document, indent=2))
        return
    console = Console()
    console.print(_settings_table(settings, values))
    console.print(_drivers_table(universe))
    console.print(_instruments_table(universe))
    console.print(_limits_table(risk))


@config_app.command()
def check(as_json: Annotated[bool, typer.Option("--json", help="Print the counts as one JSON object.")] = False) -> None:
    """Read the settings, the universe and the risk file; print counts, or the first error with its line."""
    from regime_pipeline.market.universe import load_universe
    from regime_pipeline.risk.risk_file import changed_limits, load_risk

    settings = load_settings()
    universe, risk = load_universe(settings.universe), load_risk(settings.risk_file)
    counts = {
        "majors": len(universe.majors),
        "drivers": len(universe.drivers),
        "tokens": len(universe.tokens),
        "venues": len(universe.venues),
        "changed limits": len(changed_limits(risk)),
    }
    if as_json:
        typer.echo(json.dumps(counts))
    else:
        typer.echo("ok: " + ", ".join(f"{count} {what}" for what, count in counts.items()))


def _printable(settings: Settings) -> dict[str, str | int | float | bool | None]:
    values: dict[str, str | int | float | bool | None] = settings.model_dump(mode="json")
    secret = {name for name in values if name.endswith("database_url") or isinstance(getattr(settings, name), SecretStr)}
    return {name: HIDDEN if name in secret and value else value for name, value in values.items()}


def _settings_table(settings: Settings, values: dict[str, str | int | float | bool | None]) -> "Table":
    from rich.table import Table

    table = Table("setting", "value", "meaning", title="Settings")
    for name, field in type(settings).model_fields.items():
        table.add_row(ENV_PREFIX + name.upper(), "" if values[name] is None else str(values[name]), field.description or "")
    return table


def _drivers_table(universe: "Universe") -> "Table":
    from rich.table import Table

    table = Table("driver", "kind", "weight", "required", "components", title="Drivers")
    for driver in universe.drivers:
        table.add_row(driver.name, driver.kind, f"{driver.weight:+g}", "yes" if driver.required else "no", " ".join(driver.components))
    return table


def _risk_document(risk: "RiskFile") -> dict[str, Any]:
    split = {timeframe.value: str(share) for timeframe, share in risk.allocation.split_frac.items()}
    return {
        "limits": risk.limits.model_dump(mode="json"),
        "protections": risk.protections.model_dump(mode="json"),
        "portfolio": {"alloc_pct": str(risk.allocation.alloc_pct), "split_frac": split},
    }


def _limits_table(risk: "RiskFile") -> "Table":
    from rich.table import Table

    from regime_pipeline.risk.risk_file import changed_limits

    changed = changed_limits(risk)
    table = Table("limit", "value", "meaning", title="Limits", caption="* differs from its default")
    for kind in (risk.limits, risk.protections):
        for name, field in type(kind).model_fields.items():
            table.add_row(name, f"{getattr(kind, name)}{' *' if name in changed else ''}", field.description or "")
    split = ", ".join(f"{timeframe} {share}" for timeframe, share in risk.allocation.split_frac.items())
    table.add_row("alloc_pct", str(risk.allocation.alloc_pct), "Percent of equity that a token may use.")
    table.add_row("split_frac", split, "How its execution timeframes divide that.")
    return table


def _instruments_table(universe: "Universe") -> "Table":
    from rich.table import Table

    table = Table("series", "bucket", "timeframes", "sources", title="Instruments")
    for major in universe.majors:
        table.add_row(major.series, "", "", " ".join(f"{source.venue}:{source.symbol}" for source in major.sources))
    for token in universe.tokens:
        sources = " ".join(f"{source.venue}:{source.symbol}" for source in token.sources)
        table.add_row(token.series, token.bucket or "unknown", " ".join(token.timeframes), sources)
    return table
