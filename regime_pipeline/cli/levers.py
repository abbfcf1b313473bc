"""`regime levers`: what A and E are, and why. Requests are read and answers written in `levers_request.py`."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe

levers_app = typer.Typer(no_args_is_help=True, help="A (appetite to add) and E (eagerness to exit), explained.")


@levers_app.callback()
def levers() -> None:
    """A (appetite to add) and E (eagerness to exit), explained."""


@levers_app.command()
def explain(
    source: Annotated[
        str, typer.Argument(metavar="INPUT.json|SYMBOL", help="One request or a list of them, - for standard input; or a symbol.")
    ],
    decision: Annotated[UUID | None, typer.Option(metavar="ID", help="Explain the symbol in this decision; default: its newest.")] = None,
    at: Annotated[str | None, typer.Option(metavar="BAR_CLOSE", help="The same, of the bar that closed then, with its zone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON: an object for an object, a list for a list.")] = False,
) -> None:
    """Compute levers with every contribution: of positions in a file, or of a symbol as it was decided, from what the journal stored.

    The levers of a stored decision must equal what the journal says; when they do not, the exit code is 1.
    """
    if decision is not None or at is not None or _is_symbol(source):
        _explain_stored(source, decision, at, as_json=as_json)
        return
    from regime_pipeline.cli.levers_request import build_table, parse_request, to_document
    from regime_pipeline.regime.levers import compute_levers

    document = _load_json(source)
    if isinstance(document, list):
        requests = [parse_request(item, f"[{i}]") for i, item in enumerate(document)]
    else:
        requests = [parse_request(document)]
    results = [compute_levers(request) for request in requests]
    if as_json:
        answers = [to_document(request, result) for request, result in zip(requests, results, strict=True)]
        typer.echo(json.dumps(answers if isinstance(document, list) else answers[0], indent=2, allow_nan=False))
        return

    from rich.console import Console

    for request, result in zip(requests, results, strict=True):
        Console().print(build_table(request, result))


def _is_symbol(source: str) -> bool:
    """Tell a symbol or token, as AAVE or AAVE/USDT, from the name of a file."""
    return re.fullmatch(r"[A-Za-z0-9]{1,32}(/[A-Z0-9]{2,12}(:[A-Z0-9]{2,12})?)?", source) is not None and not Path(source).exists()


def _explain_stored(symbol: str, decision: UUID | None, at: str | None, *, as_json: bool) -> None:
    from regime_pipeline.cli.levers_request import build_table, to_document
    from regime_pipeline.cli.session import iso_time, open_stores, read_instant, show_time
    from regime_pipeline.services.trading.replay_tick import explain_levers
    from regime_pipeline.settings import load_settings

    settings = load_settings()
    named = symbol if "/" in symbol else f"{symbol}/{settings.trading_quote}"
    with open_stores(settings).open() as work:
        found = explain_levers(work, named, decision, None if at is None else read_instant(at))
    if as_json:
        heading = {"symbol": named, "decision_id": str(found.decision_id), "bar_close": iso_time(found.bar_close_s)}
        journal = {"A_value": found.journal_a, "E_value": found.journal_e, "equal": found.is_equal}
        typer.echo(json.dumps({**heading, "journal": journal, **to_document(found.given, found.found)}, indent=2, allow_nan=False))
    else:
        from rich.console import Console

        Console().print(build_table(found.given, found.found))
        says = f"the journal says A {found.journal_a:.4f}, E {found.journal_e:.4f}: {'equal' if found.is_equal else 'DIFFERENT'}"
        typer.echo(f"{named}, bar closed {show_time(found.bar_close_s)} UTC, decision {found.decision_id}; {says}")
    raise typer.Exit(0 if found.is_equal else 1)


@levers_app.command()
def now(
    symbol: Annotated[str, typer.Argument(help="A token of the universe: its contract, or a venue's symbol of it.")],
    timeframe: Annotated[Timeframe, typer.Option(help="Execution timeframe of the position.")] = Timeframe.H1,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="As of this time, with its zone; default: now.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compute the levers of a token's position from the stored channels, with every contribution."""
    from regime_pipeline.cli.levers_request import build_table, to_document
    from regime_pipeline.cli.session import iso_time, open_stores, read_instant
    from regime_pipeline.market.universe import load_universe
    from regime_pipeline.regime.levers import LeverInput, compute_levers
    from regime_pipeline.services.read_levers import bucket_at, find_token, load_channels
    from regime_pipeline.settings import load_settings

    settings, now_s = load_settings(), read_instant(at)
    universe = load_universe(settings.universe)
    token = find_token(universe, symbol)
    with open_stores(settings).open() as work:
        bucket, channels = bucket_at(work, universe, token.series, now_s), load_channels(work, now_s)
    given = LeverInput(timeframe, bucket, channels, min_validity=settings.min_validity)
    result = compute_levers(given)
    if as_json:
        document = {"symbol": token.contract, "at": iso_time(now_s), **to_document(given, result)}
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
        return

    from rich.console import Console

    Console().print(build_table(given, result))


def _load_json(source: str) -> object:
    """Read a JSON document from a file or, for `-`, from standard input; anything else is a `BadInputError`."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{source} cannot be read: {error}. Give a UTF-8 JSON file, or - for standard input.") from error
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadInputError(f"{source} is not JSON: {error}. Correct the file.") from error
