"""Imported by the fork server alone (preload.py): the engine takes its first steps here, so that no run has to.

The first call of a compiled kernel in a process loads numba's own machinery, two seconds of a core; children of this process have it.
The steps are taken on made-up bars and leave nothing behind.
"""

import numpy as np

from regime_pipeline.market.bars import Bars, RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.trend.engine import SeriesEngine, step_singles
from regime_pipeline.trend.profile import V5

N_BARS = 700
"""Enough for states and levels, and with prices that only rise in waves for an uptrend and its decay."""


def take_first_steps() -> None:
    """Step two engines over rising waves, bar after bar and side by side."""
    i = np.arange(N_BARS)
    close = 100 * np.exp(0.002 * i + 0.02 * np.sin(i / 7))
    open_ = np.concatenate([close[:1], close[:-1]])
    high, low = 1.001 * np.maximum(open_, close), 0.999 * np.minimum(open_, close)
    volume = 1000 + 10.0 * (i % 7).astype(np.float64)
    bars = Bars.complete(RawBars(60 * i, open_, high, low, close, volume), Timeframe.M1)
    engines = [SeriesEngine(Timeframe.M1, V5, bootstrap_s3=True) for _ in range(2)]
    for engine in engines:
        engine.advance(bars[:-1], np.empty(0))
        engine.carry.levels_due(int(bars.ts_s[-1]), Timeframe.M1, 1)
    step_singles(engines, Bars.concat([bars[-1:], bars[-1:]]))


take_first_steps()
