"""The report: one page that opens without network. Tables are written here, charts by `page/report.js` from the data in the page."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.board.thin import choose_points, choose_run_starts
from regime_pipeline.board.trading_report import TradingPage, equity_data, render_trading
from regime_pipeline.market.timeframe import HORIZONS, Timeframe
from regime_pipeline.ports import BoardRow
from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES
from regime_pipeline.regime.levers import LeverResult
from regime_pipeline.services.read_board import BoardCell
from regime_pipeline.trend.record import FLAGS, STATES

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

STATE_WORDS: Final = {
    "S0": "downtrend",
    "S1": "first break up, price at or under EMA333",
    "S2": "price above EMA333, not aligned yet",
    "S3": "confirmed uptrend",
    "S4": "no state yet",
}
MAX_EVENTS: Final = 400
GAP_BARS: Final = 12
"""A line is broken where more than so many bars are missing."""
LEVER_SPANS: Final = 3000
"""Levers are looked at closely: their charts open on the last weeks."""


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """History of one driver on one timeframe, arrays of shape (n,), oldest first: close, state code, flags (n, 6) and deltas."""

    driver: str
    timeframe: Timeframe
    ts_s: IntArray
    price: FloatArray
    state: IntArray
    flags: NDArray[np.bool_]
    delta_a: FloatArray
    delta_e: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A sample position: its levers now with every contribution, and A and E over time, arrays of shape (n,)."""

    symbol: str
    bucket: str | None
    exec_timeframe: Timeframe
    levers: LeverResult
    ts_s: IntArray
    A_value: FloatArray
    E_value: FloatArray


@dataclass(frozen=True, slots=True)
class Event:
    """A change of state of a driver."""

    driver: str
    timeframe: Timeframe
    ts_s: int
    from_state: str
    to_state: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page shows. `source` says in words where the bars are from; instants are epoch seconds; None: nothing was traded."""

    source: str
    as_of_s: int
    levers_at_s: int
    cells: Sequence[BoardCell]
    samples: Sequence[Sample]
    tracks: Sequence[Track]
    row_counts: dict[str, int]
    trading: TradingPage | None = None

    @property
    def events(self) -> list[Event]:
        """Every change of state in the tracks; a first state is none."""
        return [
            Event(track.driver, track.timeframe, int(track.ts_s[at]), STATES[track.state[at - 1]], STATES[track.state[at]])
            for track in self.tracks
            for at in (np.flatnonzero(np.diff(track.state)) + 1).tolist()
        ]


def render_report(report: Report) -> str:
    """Write the page: style, data, plotting library and script are all inside it.

    Tracks are thinned by `choose_points`: every change of state and the extremes stay. Of a flag that lasts, the first bar is marked.
    """
    from plotly.offline import get_plotlyjs

    page = files("regime_pipeline.board") / "page"
    data = json.dumps(_chart_data(report), separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    trading = "" if report.trading is None else render_trading(report.trading)
    sections = (_header(report), _board(report), trading, _levers(report), _charts(report), _events(report.events), _footer(report))
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Market regime, {_stamp(report.as_of_s)}</title>",
            f"<style>{(page / 'report.css').read_text(encoding='utf-8')}</style></head>\n<body>",
            *sections,
            f'<script type="application/json" id="data">{data}</script>',
            f"<script>{get_plotlyjs()}</script>",
            f"<script>{(page / 'report.js').read_text(encoding='utf-8')}</script>\n</body></html>\n",
        )
    )


def _header(report: Report) -> str:
    states = "".join(f'<li><span class="state {name}">{name}</span> {words}</li>' for name, words in STATE_WORDS.items())
    return (
        f"<header><h1>Market regime</h1><p>{escape(report.source)}, as of <time>{_stamp(report.as_of_s)}</time> UTC. "
        "The time of a bar is its open.</p></header>"
        f'<ul class="key">{states}</ul>'
    )


def _board(report: Report) -> str:
    cells = {(cell.driver, cell.timeframe): cell for cell in report.cells}
    heads = ("", *(f"{HORIZONS[timeframe].capitalize()} <small>{timeframe}</small>" for timeframe in CHANNEL_TIMEFRAMES))
    rows = [
        f"<th>{escape(driver)}</th>" + "".join(_board_cell(cells[driver, timeframe].row) for timeframe in CHANNEL_TIMEFRAMES)
        for driver in dict.fromkeys(cell.driver for cell in report.cells)
    ]
    return f'<section class="board"><h2>Drivers</h2>{_table(heads, rows)}</section>'


def _board_cell(row: BoardRow | None) -> str:
    if row is None:
        return '<td class="none">no state yet</td>'
    came = f' <small class="came">from {row.prev_state}</small>' if row.prev_state not in {None, row.state} else ""
    mark = ' <small class="mark">immature</small>' if row.immature else ""
    flags = "".join(f'<span class="flag">{flag}</span>' for flag in row.flags)
    deltas = "" if row.delta_a_raw is None or row.delta_e_raw is None else f"ΔA {row.delta_a_raw:+.2f} &nbsp; ΔE {row.delta_e_raw:+.2f}"
    return (
        f'<td><span class="state {row.state}">{row.state}</span>{came}{mark}{flags}'
        f"<div>{deltas}</div><small>{_stamp(row.ts_s)} &nbsp; {row.price:,.6g}</small></td>"
    )


def _levers(report: Report) -> str:
    heads = ("Position", "Bucket", "Timeframe", "A, appetite to add", "E, eagerness to exit", "Size", "What does not count")
    rows = [
        f"<th>{escape(sample.symbol)}</th><td>{escape(sample.bucket or 'unknown')}</td><td>{sample.exec_timeframe}</td>"
        f"<td>{_meter(sample.levers.A_value, 'a')}</td><td>{_meter(sample.levers.E_value, 'e')}</td>"
        f"<td>{sample.levers.position_size_frac:.3f}</td><td>{'degraded: no buys; ' if sample.levers.degraded else ''}"
        f"{escape('; '.join(sample.levers.diagnostics.reasons))}</td>"
        for sample in report.samples
    ]
    when = f"<p>As of {_stamp(report.levers_at_s)} UTC, the last moment that every timeframe of the data reaches.</p>"
    return f"<section><h2>Levers of sample positions</h2>{when}{_table(heads, rows)}</section>"


def _meter(value: float, kind: str) -> str:
    return f'<span class="meter {kind}"><i style="width:{100 * value:.1f}%"></i></span> {value:.3f}'


def _charts(report: Report) -> str:
    names = dict.fromkeys(track.driver for track in report.tracks)
    buttons = "".join(f'<button type="button" data-driver="{escape(name)}">{escape(name)}</button>' for name in names)
    charts = "".join(
        f'<h3>{HORIZONS[timeframe].capitalize()} <small>{timeframe}</small></h3><div class="chart" id="chart-{timeframe}"></div>'
        for timeframe in CHANNEL_TIMEFRAMES
    )
    levers = "".join(f'<div class="chart small" id="lever-{i}"></div>' for i in range(len(report.samples)))
    return (
        "<section><h2>States over price, and deltas</h2><p>The line has the colour of the state. Of a flag that lasts several bars "
        "the first is marked; click a name in the legend to show or hide it. Below: what each bar adds to A and to E.</p>"
        f"<nav>{buttons}</nav>{charts}</section>"
        "<section><h2>Levers over time</h2><p>Of the sample positions, without intents, at the end of each hour. "
        "A double click shows the whole history.</p>"
        f'<div class="grid">{levers}</div></section>'
    )


def _events(events: Sequence[Event]) -> str:
    newest = sorted(events, key=lambda event: event.ts_s, reverse=True)[:MAX_EVENTS]
    rows = [
        f"<td>{_stamp(event.ts_s)}</td><td>{escape(event.driver)}</td><td>{event.timeframe}</td>"
        f'<td><span class="state {event.from_state}">{event.from_state}</span> → '
        f'<span class="state {event.to_state}">{event.to_state}</span></td>'
        for event in newest
    ]
    shown = f"The newest {len(newest)} of {len(events)}." if len(newest) < len(events) else f"All {len(events)}."
    table = _table(("Bar", "Driver", "Timeframe", "Change"), rows)
    return f'<section class="tall"><h2>Changes of state</h2><p>{shown}</p>{table}</section>'


def _table(heads: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{text}</th>" for text in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _footer(report: Report) -> str:
    counts = ", ".join(f"{escape(table)} {count:,}" for table, count in report.row_counts.items())
    return f"<footer><p>Rows: {counts}.</p></footer>" if counts else ""


def _chart_data(report: Report) -> dict[str, Any]:
    return {
        "flags": FLAGS,
        "equity": None if report.trading is None else equity_data(report.trading),
        "tracks": [_track_data(track) for track in report.tracks],
        "levers": [
            {
                "name": f"{track.symbol} ({track.bucket or 'unknown'})",
                "t": track.ts_s[rows].tolist(),
                "a": _rounded(track.A_value[rows], 4),
                "e": _rounded(track.E_value[rows], 4),
            }
            for track in report.samples
            for rows in (choose_points(np.zeros(len(track.ts_s), np.int64), track.A_value, track.E_value, max_spans=LEVER_SPANS),)
        ],
    }


def _track_data(track: Track) -> dict[str, Any]:
    is_after_gap = np.concatenate([[False], np.diff(track.ts_s) > GAP_BARS * track.timeframe.seconds])
    pieces = np.cumsum(is_after_gap | np.concatenate([[False], np.diff(track.state) != 0]))
    rows = choose_points(pieces, track.price, track.delta_a, track.delta_e)
    marks = [choose_run_starts(track.flags[:, column]) for column in range(len(FLAGS))]
    return {
        "driver": track.driver,
        "timeframe": track.timeframe,
        "n": len(track.ts_s),
        "t": track.ts_s[rows].tolist(),
        "p": _rounded(track.price[rows]),
        "gaps": np.flatnonzero(is_after_gap[rows]).tolist(),
        "s": "".join(map(str, track.state[rows].tolist())),
        "a": _rounded(track.delta_a[rows], 3),
        "e": _rounded(track.delta_e[rows], 3),
        "marks": [{"t": track.ts_s[at].tolist(), "p": _rounded(track.price[at])} for at in marks],
    }


def _rounded(values: FloatArray, decimals: int | None = None) -> list[float | None]:
    """Round for the page: to decimals, or to six significant digits; None where undefined."""
    numbers: Iterable[float] = values.tolist()
    if decimals is None:
        return [None if value != value else float(f"{value:.6g}") for value in numbers]
    return [None if value != value else round(value, decimals) for value in numbers]


def _stamp(ts_s: int | None) -> str:
    return "" if ts_s is None else f"{datetime.fromtimestamp(ts_s, UTC):%Y-%m-%d %H:%M}"
