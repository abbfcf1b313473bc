"""Bars of the six series in a real store, and the opinions on them, for tests of the second opinions."""

from dataclasses import replace
from functools import cache

import numpy as np

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.market.bars import Bars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import BarRows
from regime_pipeline.regime.opinions.hmm_fit import TrainingRows
from regime_pipeline.regime.opinions.hmm_model import FitResult
from regime_pipeline.regime.opinions.terms import SERIES, TIMEFRAMES
from regime_pipeline.services.advance_opinions import advance_changepoint_rows, advance_posteriors, advance_volatility
from regime_pipeline.services.build_snapshots import build_snapshots
from regime_pipeline.services.fit_hmm import fit_models
from regime_pipeline.services.opinion_bars import find_bars_of
from tests.builders import random_walk
from tests.markets import small_universe
from tests.opinion_builders import a_model

UNIVERSE = small_universe()
END_S = 1_735_689_600
"""2025-01-01T00:00Z: bars reach up to here, and models are trained on them."""
BARS = {Timeframe.M1: 1400, Timeframe.M15: 700, Timeframe.H1: 900}


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


def plain_fit(series: str, rows: TrainingRows) -> FitResult:
    """A model without fitting one: that takes seconds, and these tests are about what becomes of it."""
    span = {"first_ts_s": int(rows.ts_s[0]), "last_ts_s": int(rows.ts_s[-1])}
    model = a_model(series=series, timeframe=rows.timeframe, train_end_s=rows.train_end_s, n_rows=len(rows), **span)
    return FitResult(
        series=series,
        timeframe=rows.timeframe,
        train_end_s=rows.train_end_s,
        n_rows=len(rows),
        restart_lls=model.restart_lls,
        resampled_share=rows.resampled_share,
        model=model,
        reason=None,
        attempt_id=model.model_id,
        **span,
    )


def fit_all(stores: PostgresStores, stored_s: int | None = None) -> None:
    """Give every series and timeframe a model of the bars up to the end."""
    for timeframe in TIMEFRAMES:
        fit_models(stores, UNIVERSE, timeframe, END_S, stored_s=stored_s, fit=plain_fit)


def advance_all(stores: PostgresStores, first_s: int, end_s: int, now_s: int) -> None:
    """Run every detector over the slots of a span, then write its minutes."""
    for timeframe in TIMEFRAMES:
        advance_posteriors(stores, UNIVERSE, timeframe, first_s, end_s, now_s)
        advance_changepoint_rows(stores, UNIVERSE, timeframe, first_s, end_s, now_s)
        if timeframe is not Timeframe.M1:
            advance_volatility(stores, UNIVERSE, timeframe, first_s, end_s, now_s)
    build_snapshots(stores, first_s, end_s, now_s)
