"""Bars of the six series in a real store, and the opinions on them, for tests of the second opinions."""

from dataclasses import replace
from functools import cache

import numpy as np

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.market.bars import Bars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import BarRows
from regime_pipeline.regime.opinions.terms import SERIES, TIMEFRAMES
from regime_pipeline.services.advance_opinions import advance_changepoint_rows, advance_posteriors, advance_volatility
from regime_pipeline.services.build_snapshots import build_snapshots
from regime_pipeline.services.fit_hmm import fit_models
from regime_pipeline.services.opinion_bars import find_bars_of
from tests.builders import random_walk
from tests.markets import small_universe

UNIVERSE = small_universe()
END_S = 1_735_689_600
"""2025-01-01T00:00Z: bars reach up to here, and models are trained on them."""
BARS = {Timeframe.M1: 1400, Timeframe.M15: 700, Timeframe.H1: 900}
DETECTORS = (advance_posteriors, advance_changepoint_rows, advance_volatility)


@cache
def market(series: str, timeframe: Timeframe, after: int = 0) -> Bars:
    """A seeded walk that changes its pace, `after` slots beyond the end."""
    n = BARS[timeframe] + after
    bars = random_walk(
        n,
        seed=10 * SERIES.index(series) + TIMEFRAMES.index(timeframe),
        timeframe=timeframe,
        start_s=END_S - BARS[timeframe] * timeframe.seconds,
    )
    pace = np.repeat(np.random.default_rng(3).choice([0.4, 1.0, 2.5], -(-n // 60)), 60)[:n]
    close = 100 * np.exp(np.cumsum(np.diff(np.log(bars.close), prepend=np.log(bars.close[0])) * pace))
    scale = close / bars.close
    return replace(bars, open=bars.open * scale, high=bars.high * scale, low=bars.low * scale, close=close)


def save_bars(stores: PostgresStores, series: str, timeframe: Timeframe, bars: Bars) -> None:
    """Store bars as if a venue had delivered them."""
    table, name = find_bars_of(UNIVERSE, series)
    n = len(bars)
    count = np.full(n, 4, dtype=np.int32) if name.startswith("regime:") else None
    with stores.open() as work:
        work.bars.save(table, timeframe, {name: BarRows(bars, ("test",), np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.bool_), count)})


def fill_market(stores: PostgresStores, after_s: int = 0) -> None:
    """Store the bars of all series and timeframes up to `after_s` seconds beyond the end."""
    for series in SERIES:
        for timeframe in TIMEFRAMES:
            save_bars(stores, series, timeframe, market(series, timeframe, after_s // timeframe.seconds))


def fit_all(stores: PostgresStores, stored_s: int | None = None) -> None:
    """Fit every model on the bars up to the end."""
    for timeframe in TIMEFRAMES:
        fit_models(stores, UNIVERSE, timeframe, END_S, stored_s=stored_s)


def advance_all(stores: PostgresStores, first_s: int, end_s: int, now_s: int) -> None:
    """Run every detector over the slots of a span, then write its minutes."""
    for timeframe in TIMEFRAMES:
        advance_posteriors(stores, UNIVERSE, timeframe, first_s, end_s, now_s)
        advance_changepoint_rows(stores, UNIVERSE, timeframe, first_s, end_s, now_s)
        if timeframe is not Timeframe.M1:
            advance_volatility(stores, UNIVERSE, timeframe, first_s, end_s, now_s)
    build_snapshots(stores, first_s, end_s, now_s)
