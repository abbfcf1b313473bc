"""`regime audit`: whether the journal still is what was written."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from regime_pipeline.settings import load_settings


def audit(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Recompute the chains of decisions, order steps and kill levels; exit code 1 names the first row of each that does not hold."""
    from regime_pipeline.cli.session import open_stores

    with open_stores(load_settings()).open() as work:
        faults = work.safety.verify_chains()
    if as_json:
        typer.echo(json.dumps({"faults": [asdict(fault) for fault in faults]}, indent=2))
    else:
        for fault in faults:
            typer.echo(f"{fault.table} {fault.chain}: first bad row is {fault.seq}: {fault.reason}")
        if not faults:
            typer.echo("all chains hold: decisions, order steps, kill levels")
    raise typer.Exit(1 if faults else 0)
