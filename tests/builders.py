"""Small, valid pieces of market data for tests."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from regime_pipeline.market.bars import Bars, FloatArray, RawBars
from regime_pipeline.market.timeframe import Timeframe

# 2025-01-01T00:00Z: a day, an hour and a minute open here.
T0 = 1_735_689_600


def raw_bars(
    closes: Sequence[float] | FloatArray,
    timeframe: Timeframe = Timeframe.M1,
    start_s: int = T0,
    volume: float = 1000.0,
    wick: float = 0.001,
) -> RawBars:
    """Build bars that open at the previous close and reach `wick` beyond their body on both sides."""
    close = np.asarray(closes, dtype=np.float64)
    open_ = np.concatenate([close[:1], close[:-1]])
    ts_s = start_s + timeframe.seconds * np.arange(len(close), dtype=np.int64)
    high, low = np.maximum(open_, close) * (1 + wick), np.minimum(open_, close) * (1 - wick)
    return RawBars(ts_s, open_, high, low, close, np.full(len(close), volume))


def bars(
    closes: Sequence[float] | FloatArray,
    timeframe: Timeframe = Timeframe.M1,
    start_s: int = T0,
    volume: float = 1000.0,
    wick: float = 0.001,
) -> Bars:
    """Build believed, complete bars in the same shape as `raw_bars`."""
    return Bars.complete(raw_bars(closes, timeframe, start_s, volume, wick), timeframe)


def random_walk(n_bars: int, seed: int, timeframe: Timeframe = Timeframe.M1, start_s: int = T0, price: float = 100.0) -> Bars:
    """Build a seeded geometric walk with varying volume."""
    rng = np.random.default_rng(seed)
    walk = bars(price * np.exp(np.cumsum(rng.normal(0, 0.002, n_bars))), timeframe, start_s)
    return replace(walk, volume=rng.uniform(0, 1e6, n_bars))
