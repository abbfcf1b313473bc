"""Small pictures of the opinions on a series: close by label and by volatility regime, the posterior, change points; and of a fit."""

import io
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.orchestration.plots import embed_png
from regime_pipeline.ports import Stores

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

BARS: Final = 500
MAX_BYTES: Final = 150_000
COLOURS: Final = 48
FAR_S: Final = 2**32
"""Beyond any bar: a model that was stored late serves late, and is drawn at once."""
LABELS: Final = {"bearish": "#c0392b", "ranging": "#f1c40f", "bullish": "#27ae60", "unknown": "#95a5a6"}
REGIMES: Final = {
    "high_vol_shock": "#8e44ad",
    "up": "#27ae60",
    "down": "#c0392b",
    "neutral_high_vol": "#e67e22",
    "neutral_low_vol": "#2980b9",
    "unknown": "#95a5a6",
}


def plot_opinions(stores: Stores, universe: Universe, series: str, timeframe: Timeframe, end_s: int) -> str:
    """Draw the last 500 bars of a series as Markdown that carries its picture; without rows, a sentence."""
    from regime_pipeline.services.opinion_bars import load_opinion_bars

    first_s = end_s - BARS * timeframe.seconds
    with stores.open() as work:
        bars = load_opinion_bars(work, universe, series, timeframe, first_s, end_s)
        said = [opinion for opinion, _ in work.opinions.load_opinions(series, timeframe, first_s, end_s)]
        regimes = {row.ts_s: str(row.regime) for row in work.opinions.load_volatility(series, timeframe, first_s, end_s)}
        alarms = work.opinions.load_changepoints(series, timeframe, first_s, end_s)
    if not said or not len(bars):
        return f"no opinions on {series} {timeframe} in these {BARS} bars"
    labels = {opinion.ts_s: str(opinion.label) for opinion in said}
    png = draw_opinions(
        f"{series} {timeframe}",
        bars.ts_s,
        bars.close,
        np.array([labels.get(at, "unknown") for at in bars.ts_s.tolist()]),
        np.array([regimes.get(at, "unknown") for at in bars.ts_s.tolist()]),
        (np.array([opinion.ts_s for opinion in said]), np.array([opinion.p for opinion in said])),
        (np.array([row.ts_s for row in alarms]), np.array([np.nan if row.cp_prob is None else row.cp_prob for row in alarms])),
    )
    return _embed(png)


def plot_fit(stores: Stores, universe: Universe, series: str, timeframe: Timeframe, train_end_s: int) -> str:
    """Draw what the model trained up to `train_end_s` says of its own training window, as Markdown; without one, a sentence."""
    from regime_pipeline.regime.opinions.features import CONTEXT_SLOTS, LOOKBACK_SLOTS, compute_features
    from regime_pipeline.regime.opinions.hmm_filter import filter_posteriors
    from regime_pipeline.regime.opinions.hmm_model import ServedModel
    from regime_pipeline.regime.opinions.terms import LABELS as NAMES
    from regime_pipeline.services.opinion_bars import load_opinion_bars

    with stores.open() as work:
        served = work.opinions.load_models(series, timeframe, train_end_s, FAR_S)
        model = next((each.model for each in served if each.model.train_end_s == train_end_s), None)
        if model is None:
            return f"no model of {series} {timeframe} was trained up to {train_end_s}"
        context_s = model.first_ts_s - CONTEXT_SLOTS * timeframe.seconds
        bars = load_opinion_bars(work, universe, series, timeframe, context_s - LOOKBACK_SLOTS * timeframe.seconds, model.last_ts_s)
    rows = compute_features(bars, context_s, model.last_ts_s)
    said = filter_posteriors(rows, [ServedModel(model, model.first_ts_s)], model.first_ts_s, model.last_ts_s)
    close = np.full(len(said), np.nan)
    at = np.searchsorted(said.ts_s, bars.ts_s)
    inside = bars.ts_s >= model.first_ts_s
    close[at[inside]] = bars.close[inside]
    names = np.array([str(name) for name in NAMES])
    return _embed(draw_fit(f"{series} {timeframe}, model {model.model_id} on its training", said.ts_s, close, names[said.label], said.p))


def _embed(png: bytes) -> str:
    if len(png) > MAX_BYTES:
        return f"picture left out: {len(png)} bytes, more than {MAX_BYTES} would bloat the event log"
    return embed_png(png)


def draw_fit(
    title: str, ts_s: NDArray[np.int64], close: NDArray[np.float64], labels: NDArray[np.str_], posterior: NDArray[np.float64]
) -> bytes:
    """Draw close over bands of the labels, and the posterior, as a PNG.

    Parameters
    ----------
    ts_s, close, labels : ndarray of shape (n,)
        Slot opens (epoch seconds), closes (NaN without a bar), and what the model says of each.
    posterior : ndarray of shape (n, 3)
        Bearish, ranging, bullish.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), dpi=72, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    by_label, area = figure.subplots(2, 1, sharex=True)
    times = ts_s.astype("datetime64[s]")
    across = by_label.get_xaxis_transform()
    for name, colour in LABELS.items():
        by_label.fill_between(times, 0, 1, where=labels == name, color=colour, alpha=0.4, linewidth=0, transform=across, label=name)
    by_label.plot(times, close, color="#2c3e50", linewidth=0.8)
    by_label.legend(fontsize=6, ncols=len(LABELS), loc="upper left")
    area.stackplot(times, posterior.T, colors=[*LABELS.values()][:3])
    area.set_ylim(0, 1)
    for axes, name in ((by_label, "label"), (area, "posterior")):
        axes.set_ylabel(name, fontsize=7)
        axes.tick_params(labelsize=6)
    return _encode(canvas)


def draw_opinions(
    title: str,
    ts_s: NDArray[np.int64],
    close: NDArray[np.float64],
    labels: NDArray[np.str_],
    regimes: NDArray[np.str_],
    posterior: tuple[NDArray[np.int64], NDArray[np.float64]],
    alarms: tuple[NDArray[np.int64], NDArray[np.float64]],
) -> bytes:
    """Draw four panels as a PNG.

    Parameters
    ----------
    ts_s, close, labels, regimes : ndarray of shape (n,)
        Bar opens (epoch seconds), closes, and what was said of each.
    posterior : opens and ndarray of shape (n_rows, 3)
        Bearish, ranging, bullish.
    alarms : opens and ndarray of shape (n_rows,)
        Change-point probability, NaN where there is none.
    """
    # No pyplot: it keeps every figure alive, and picks a window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7.5), dpi=72, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    by_label, by_regime, area, cp = figure.subplots(4, 1, sharex=True)
    times = ts_s.astype("datetime64[s]")
    for axes, names, colours in ((by_label, labels, LABELS), (by_regime, regimes, REGIMES)):
        axes.plot(times, close, color="#bbbbbb", linewidth=0.6)
        for name, colour in colours.items():
            axes.plot(times[names == name], close[names == name], ".", color=colour, markersize=3, label=name)
        axes.legend(fontsize=6, ncols=len(colours), loc="upper left")
    area.stackplot(posterior[0].astype("datetime64[s]"), posterior[1].T, colors=[*LABELS.values()][:3])
    area.set_ylim(0, 1)
    cp.plot(alarms[0].astype("datetime64[s]"), alarms[1], color="#2c3e50", linewidth=0.8)
    for threshold in (0.30, 0.50):
        cp.axhline(threshold, color="#c0392b", linewidth=0.6, linestyle="--")
    for axes, name in ((by_label, "label"), (by_regime, "volatility"), (area, "posterior"), (cp, "change point")):
        axes.set_ylabel(name, fontsize=7)
        axes.tick_params(labelsize=6)
    return _encode(canvas)


def _encode(canvas: "FigureCanvasAgg") -> bytes:
    from PIL import Image

    canvas.draw()  # type: ignore[no-untyped-call]
    buffer = io.BytesIO()
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    Image.fromarray(pixels).convert("RGB").quantize(COLOURS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
