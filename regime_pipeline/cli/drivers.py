"""`regime drivers`: the 24-cell board in the terminal."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from regime_pipeline.regime.opinions.snapshot import RegimeSnapshot, TimeframeView
    from regime_pipeline.services.read_board import BoardCell

STATE_STYLES = {"S0": "bold red", "S1": "bold yellow", "S2": "bold blue", "S3": "bold green", "S4": "bold bright_black"}


def drivers(
    as_json: Annotated[bool, typer.Option("--json", help="Print 24 cells as a JSON list.")] = False,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Board as of this time, with its zone; default: now.")] = None,
) -> None:
    """Show where each driver stands on each regime timeframe, each with its bar time."""
    from regime_pipeline.cli.session import open_stores, read_instant
    from regime_pipeline.regime.opinions.terms import GROUPS
    from regime_pipeline.services.read_board import load_board
    from regime_pipeline.services.read_opinions import latest_snapshot
    from regime_pipeline.settings import load_settings

    now_s = read_instant(at)
    with open_stores(load_settings()).open() as work:
        cells = load_board(work, now_s)
        opinions = {series: latest_snapshot(work, series, now_s) for series in GROUPS["global"]}
    if as_json:
        typer.echo(json.dumps([cell_document(cell, opinions.get(cell.driver)) for cell in cells], indent=2))
        return
    from rich.console import Console

    Console().print(build_board(cells, opinions))


def cell_document(cell: "BoardCell", opinion: "RegimeSnapshot | None" = None) -> dict[str, Any]:
    """Write a cell as plain JSON values; `state` null: no state on this timeframe yet; `opinion` is of BTC and ALT on 1m and 1h."""
    from regime_pipeline.cli.session import iso_time

    row = cell.row
    document: dict[str, Any] = {"driver": cell.driver, "timeframe": cell.timeframe, "state": None}
    if (view := _view_of(cell, opinion)) is not None:
        document["opinion"] = {"label": view.label, "confidence": view.conf, "status": view.status}
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


def _view_of(cell: "BoardCell", opinion: "RegimeSnapshot | None") -> "TimeframeView | None":
    """Pick what the second opinions say where they say it: of BTC and ALT, on 1m and 1h."""
    if opinion is None:
        return None
    return {"1m": opinion.m1, "1h": opinion.h1}.get(cell.timeframe.value)


def build_board(cells: Sequence["BoardCell"], opinions: "Mapping[str, RegimeSnapshot] | None" = None) -> "Table":
    """Draw the board: one row per driver, macro to micro, with the second opinion beside the state where there is one."""
    from rich import box
    from rich.table import Table

    from regime_pipeline.market.timeframe import HORIZONS
    from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES

    by_place = {(cell.driver, cell.timeframe): cell for cell in cells}
    heads = [f"{HORIZONS[timeframe]} {timeframe}" for timeframe in CHANNEL_TIMEFRAMES]
    caption = "bar time is its open, UTC; * immature: fewer than 1000 bars; hmm: second opinion, in shadow"
    table = Table("driver", *heads, title="Drivers", caption=caption, box=box.SIMPLE)
    for driver in dict.fromkeys(cell.driver for cell in cells):
        drawn = [_draw_cell(by_place[driver, timeframe], (opinions or {}).get(driver)) for timeframe in CHANNEL_TIMEFRAMES]
        table.add_row(driver, *drawn)
    return table


def _draw_cell(cell: "BoardCell", opinion: "RegimeSnapshot | None" = None) -> "Text":
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
    view = _view_of(cell, opinion)
    if view is not None and view.status == "ok":
        text.append(f"\nhmm {view.label} {view.conf:.2f}", style="not bold cyan")
    return text
