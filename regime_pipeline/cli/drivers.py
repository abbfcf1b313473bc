"""`regime drivers`: the 24-cell board in the terminal."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from regime_pipeline.services.read_board import BoardCell

STATE_STYLES = {"S0": "bold red", "S1": "bold yellow", "S2": "bold blue", "S3": "bold green", "S4": "bold bright_black"}


def drivers(
    as_json: Annotated[bool, typer.Option("--json", help="Print 24 cells as a JSON list.")] = False,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Board as of this time, with its zone; default: now.")] = None,
) -> None:
    """Show where each driver stands on each regime timeframe, each with its bar time."""
    from regime_pipeline.cli.session import open_stores, read_instant
    from regime_pipeline.services.read_board import load_board
    from regime_pipeline.settings import load_settings

    now_s = read_instant(at)
    with open_stores(load_settings()).open() as work:
        cells = load_board(work, now_s)
    if as_json:
        typer.echo(json.dumps([cell_document(cell) for cell in cells], indent=2))
        return
    from rich.console import Console

    Console().print(build_board(cells))


def cell_document(cell: "BoardCell") -> dict[str, Any]:
    """Write a cell as plain JSON values; `state` null: the driver has no state on this timeframe yet."""
    from regime_pipeline.cli.session import iso_time

    row = cell.row
    document: dict[str, Any] = {"driver": cell.driver, "timeframe": cell.timeframe, "state": None}
    if row is not None:
        document |= {
            "state": row.state,
            "prev_state": row.prev_state,
            "ts": iso_time(row.ts_s),
            "state_since": iso_time(row.since_s),
            "age_bars": cell.age_bars,
            "price": row.price,
            "flags": list(row.flags),
            "delta_a_raw": row.delta_a_raw,
            "delta_e_raw": row.delta_e_raw,
            "immature": row.immature,
            "bars_seen": row.bars_seen,
            "validity": cell.validity,
        }
    return document


def build_board(cells: Sequence["BoardCell"]) -> "Table":
    """Draw the board: one row per driver, macro to micro."""
    from rich import box
    from rich.table import Table

    from regime_pipeline.market.timeframe import HORIZONS
    from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES

    by_place = {(cell.driver, cell.timeframe): cell for cell in cells}
    heads = [f"{HORIZONS[timeframe]} {timeframe}" for timeframe in CHANNEL_TIMEFRAMES]
    table = Table("driver", *heads, title="Drivers", caption="bar time is its open, UTC; * immature: fewer than 1000 bars", box=box.SIMPLE)
    for driver in dict.fromkeys(cell.driver for cell in cells):
        table.add_row(driver, *(_draw_cell(by_place[driver, timeframe]) for timeframe in CHANNEL_TIMEFRAMES))
    return table


def _draw_cell(cell: "BoardCell") -> "Text":
    from rich.text import Text

    from regime_pipeline.cli.session import show_time

    row = cell.row
    if row is None:
        return Text("no state yet", style="bright_black")
    text = Text(row.state, style=STATE_STYLES[row.state])
    text.append("*" if row.immature else "", style="default")
    if row.prev_state not in {None, row.state}:
        text.append(f" from {row.prev_state}", style="not bold default")
    if row.flags:
        text.append(" " + " ".join(row.flags), style="not bold magenta")
    text.append(f"\n{show_time(row.ts_s)}", style="not bold bright_black")
    if row.delta_a_raw is not None and row.delta_e_raw is not None:
        text.append(f"  A{row.delta_a_raw:+.2f} E{row.delta_e_raw:+.2f}", style="not bold default")
    if cell.validity is not None and cell.validity < 1.0:
        text.append(f"  data {cell.validity:.2f}", style="not bold yellow")
    return text
