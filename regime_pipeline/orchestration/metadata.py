"""What a materialization tells about itself: rows, the last bar, the states of the drivers, a small picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import DRIVERS
from regime_pipeline.orchestration.window import spell_bar
from regime_pipeline.services.read_board import BoardCell
from regime_pipeline.services.window import Window

if TYPE_CHECKING:
    from regime_pipeline.adapters.postgres.audit import PostgresAudit

PLOT_BARS: Final = 1000
"""A picture of a live run reaches back so far; that of a backfill shows its whole window."""


def describe_window(window: Window) -> dict[str, Any]:
    """Tell which bars a run was about."""
    until = spell_bar(window.end_s)
    if window.live:
        return {"bars": f"each series' newest stored bar to {until} (live)"}
    return {"bars": f"{spell_bar(window.start_s)} to {until}"}


def describe_rows(written: int, unchanged: int, last_s: int | None) -> dict[str, Any]:
    """Tell rows written and left alone, and the newest bar."""
    return {"rows_written": written, "rows_unchanged": unchanged, "last_bar": "none" if last_s is None else spell_bar(last_s)}


def tabulate_states(cells: Sequence[BoardCell], timeframe: Timeframe) -> dg.MarkdownMetadataValue:
    """Tabulate the drivers' cells of the board on one timeframe as Markdown."""
    lines = ["| driver | state | bar | flags | ΔA | ΔE |", "|---|---|---|---|---:|---:|"]
    for cell in cells:
        if cell.timeframe is not timeframe:
            continue
        row = cell.row
        if row is None:
            lines.append(f"| {cell.driver} | none yet | | | | |")
            continue
        state = f"{row.state} (immature)" if row.immature else row.state
        # a state whose driver a backfill maps just now has its deltas a minute later
        deltas = " | ".join("" if delta is None else f"{delta:+.2f}" for delta in (row.delta_a_raw, row.delta_e_raw))
        lines.append(f"| {cell.driver} | {state} | {spell_bar(row.ts_s)} | {', '.join(row.flags)} | {deltas} |")
    return dg.MetadataValue.md("\n".join(lines))


def plot_states(audit: "PostgresAudit", timeframe: Timeframe, window: Window) -> dg.MarkdownMetadataValue:
    """Draw price coloured by state, one panel per driver, as a picture inside Markdown."""
    from regime_pipeline.orchestration.plots import MAX_BYTES, MAX_POINTS, draw_states, embed_png

    start_s = window.end_s - PLOT_BARS * timeframe.seconds if window.live else window.start_s
    panels = {name: audit.load_state_points(f"regime:{name}", timeframe, start_s, window.end_s, MAX_POINTS) for name in DRIVERS}
    png = draw_states(f"{timeframe} to {spell_bar(window.end_s)}: S0 red, S1 orange, S2 yellow, S3 green, S4 grey", panels)
    if len(png) > MAX_BYTES:
        return dg.MetadataValue.md(f"picture left out: {len(png)} bytes, more than {MAX_BYTES} would bloat the event log")
    return dg.MetadataValue.md(embed_png(png))
