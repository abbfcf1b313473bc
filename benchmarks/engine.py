"""Indicators and the whole engine against TA-Lib and `ta` on 414,820 real minutes."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq

from benchmarks.measure import Measure, time_in_turns
from regime_pipeline.indicators.kernels import new_carry, run_indicators
from regime_pipeline.indicators.record import EMA_PERIODS
from regime_pipeline.market.bars import Bars, RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.trend.engine import SeriesEngine
from regime_pipeline.trend.profile import V5
from regime_pipeline.trend.record import INDEX

FILE: Final = "bench_1m_btc_windows.parquet"
SIX_EMAS: Final = EMA_PERIODS[1:]
CARRIED_CLOSES: Final = 999


def read_minutes(shared: Path) -> Bars:
    """Read the benchmark bars: several windows of weeks, one after the other."""
    table = pq.read_table(shared / "market" / FILE).sort_by("ts")
    column = {name: table.column(name).to_numpy() for name in ("ts", "open", "high", "low", "close", "volume")}
    ts_s = column["ts"].astype("datetime64[s]").astype(np.int64)
    raw = RawBars(ts_s, column["open"], column["high"], column["low"], column["close"], column["volume"] * column["close"])
    return Bars.complete(raw, Timeframe.M1)


def run_engine(bars: Bars) -> SeriesEngine:
    """Indicators, levels, states, flags and scores of all bars, in one pass."""
    engine = SeriesEngine(Timeframe.M1, V5, bootstrap_s3=True)
    engine.advance(bars)
    return engine


def measure_engine(shared: Path, repeats: int) -> list[Measure]:
    """Measure the promises about indicators and engine. Compiling is done before and not counted."""
    bars = read_minutes(shared)
    run_engine(bars[:2000])
    before_mb = _peak_mb()
    run_engine(bars)
    peak_mb = _peak_mb()

    import talib

    def ours_indicators() -> None:
        run_indicators(new_carry(), bars.ts_s, bars.high, bars.low, bars.close, bars.volume, 60, V5.constants.eps, V5.constants.rsi_flat)

    def with_talib() -> None:
        for n in SIX_EMAS:
            talib.EMA(bars.close, n)
        talib.ATR(bars.high, bars.low, bars.close, 14)
        talib.ADX(bars.high, bars.low, bars.close, 14)
        talib.RSI(bars.close, 14)

    ours_indicators()
    fast = time_in_turns(5 * repeats, ours=ours_indicators, talib=with_talib)
    slow = time_in_turns(repeats, indicators=ours_indicators, engine=lambda: run_engine(bars), ta=_ta_four(bars))
    longest_bars, longest_s = _longest_uptrend(bars, repeats)
    n = len(bars)
    indicators = "every indicator field"
    return [
        Measure("a1", indicators, fast["ours"], "TA-Lib: six EMAs, ATR, ADX, RSI", fast["talib"], 8.0, {"bars": f"{n:,}"}),
        Measure(
            "a2",
            indicators,
            slow["indicators"],
            "ta: the same four",
            slow["ta"],
            0.1,
            {"bars/s": f"{n / slow['indicators']:,.0f}"},
        ),
        Measure(
            "b",
            "whole engine",
            slow["engine"],
            "ta: the same four",
            slow["ta"],
            3.0,
            {
                "bars/s": f"{n / slow['engine']:,.0f}",
                "bars/s in the longest S3": f"{longest_bars / longest_s:,.0f} ({longest_bars:,} bars)",
                "peak memory": f"{peak_mb - before_mb:,.0f} MB above {before_mb:,.0f} MB with the bars loaded",
            },
        ),
    ]


def _ta_four(bars: Bars) -> Callable[[], None]:
    import pandas as pd
    from ta.momentum import rsi
    from ta.trend import adx, ema_indicator
    from ta.volatility import average_true_range

    high, low, close = (pd.Series(column) for column in (bars.high, bars.low, bars.close))

    def run() -> None:
        for n in SIX_EMAS:
            ema_indicator(close, n)
        average_true_range(high, low, close, 14)
        adx(high, low, close, 14)
        rsi(close, 14)

    return run


def _longest_uptrend(bars: Bars, repeats: int) -> tuple[int, float]:
    """Bars of the longest S3, and the seconds to step over them from the checkpoint at its start."""
    states = SeriesEngine(Timeframe.M1, V5, bootstrap_s3=True).advance(bars).states
    since = np.nan_to_num(states[:, INDEX["bars_since_s3"]], nan=-1.0)
    skipped = len(bars) - len(states)
    end = int(since.argmax()) + skipped + 1
    start = end - int(since.max())
    at_start = run_engine(bars[:start])

    def step_over() -> None:
        engine = SeriesEngine(Timeframe.M1, V5, bootstrap_s3=True, carry=at_start.carry.copy(), tape=at_start.tape)
        engine.advance(bars[start:end], bars.close[start - CARRIED_CLOSES : start])

    return end - start, time_in_turns(5 * repeats, step_over=step_over)["step_over"]


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
