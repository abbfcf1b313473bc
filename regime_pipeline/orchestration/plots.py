"""A small picture for a materialization: price coloured by state, one panel per driver.

Metadata is stored in the event log for as long as the asset lives, so a picture stays under 60 KB.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS: Final = 500
"""More cannot be told apart at this width."""
STATE_COLOURS: Final = {"S0": "#c0392b", "S1": "#e67e22", "S2": "#f1c40f", "S3": "#27ae60", "S4": "#95a5a6"}
MAX_BYTES: Final = 60_000
COLOURS: Final = 32


Points = Sequence[tuple[int, float, str]]
"""Open time (epoch seconds), price and state (S0 to S4) of some bars of a series, oldest first."""


def draw_states(title: str, panels: Mapping[str, Points]) -> bytes:
    """Draw one panel per series as a PNG.

    Parameters
    ----------
    panels : mapping of name to points
        A series without points gives an empty panel that says so.
    """
    # No pyplot: it keeps every figure alive, and picks a window system.
    from matplotlib.dates import ConciseDateFormatter
    from matplotlib.figure import Figure

    rows = max(1, (len(panels) + 3) // 4)
    figure = Figure(figsize=(11, 0.5 + 1.7 * rows), dpi=72, layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(rows, 4, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (name, points) in zip(grid.flat, panels.items(), strict=False):
        axes.set_title(name, fontsize=8, loc="left")
        axes.tick_params(labelsize=6)
        if not points:
            axes.text(0.5, 0.5, "no state yet", ha="center", va="center", fontsize=8, transform=axes.transAxes)
            continue
        times = np.array([ts_s for ts_s, _, _ in points], dtype="datetime64[s]")
        prices = np.array([price for _, price, _ in points])
        states = np.array([state for _, _, state in points])
        axes.plot(times, prices, color="#bbbbbb", linewidth=0.6)
        for state, colour in STATE_COLOURS.items():
            here = states == state
            axes.plot(times[here], prices[here], ".", color=colour, markersize=2.5)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator(), show_offset=False))  # type: ignore[no-untyped-call]
    return _write_png(figure)


def draw_equity(title: str, at_s: Sequence[int], equity: Sequence[float]) -> bytes:
    """Draw an equity curve with its distance from the highest before it, as a PNG; no points give an empty one that says so."""
    from matplotlib.dates import ConciseDateFormatter
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=72, layout="constrained")
    figure.suptitle(title, fontsize=10)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    if at_s:
        times, values = np.array(at_s, dtype="datetime64[s]"), np.array(equity)
        above.plot(times, values, color="#2c3e50", linewidth=1.2)
        below.fill_between(times, 100 * (values / np.maximum.accumulate(values) - 1), 0, color="#c0392b", alpha=0.5)
        below.xaxis.set_major_formatter(ConciseDateFormatter(below.xaxis.get_major_locator(), show_offset=False))  # type: ignore[no-untyped-call]
    else:
        above.text(0.5, 0.5, "not marked yet", ha="center", va="center", fontsize=9, transform=above.transAxes)
    for axes, name in ((above, "equity"), (below, "drawdown, %")):
        axes.set_ylabel(name, fontsize=7)
        axes.tick_params(labelsize=7)
    return _write_png(figure)


def draw_bars(title: str, values: Mapping[str, float]) -> bytes:
    """Draw one horizontal bar per name, in the order given, as a PNG; losses are red."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.9 + 0.24 * max(1, len(values))), dpi=72, layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots()
    names, sizes = list(values)[::-1], list(values.values())[::-1]
    axes.barh(names, sizes, color=["#c0392b" if size < 0 else "#2c7a5b" for size in sizes])
    axes.tick_params(labelsize=7)
    if not values:
        axes.text(0.5, 0.5, "none", ha="center", va="center", fontsize=9, transform=axes.transAxes)
    return _write_png(figure)


def _write_png(figure: "Figure") -> bytes:
    """Write a figure with as few colours as will do: a third of the size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    buffer = io.BytesIO()
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    Image.fromarray(pixels).convert("RGB").quantize(COLOURS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def embed_png(png: bytes, what: str = "states over price") -> str:
    """Spell a picture as Markdown that carries it."""
    return f"![{what}](data:image/png;base64,{base64.b64encode(png).decode()})"
