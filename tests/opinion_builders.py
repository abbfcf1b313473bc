"""Bars, models and rows for tests of the second opinions."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np

from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.bars import OpinionBars
from regime_pipeline.regime.opinions.hmm_filter import Opinion, unknown_opinion
from regime_pipeline.regime.opinions.hmm_model import HmmModel, compute_stationary
from regime_pipeline.regime.opinions.quality import Tier
from regime_pipeline.regime.opinions.terms import Label, Status

START_S = 1_746_403_200
"""2025-05-05T00:00:00Z."""
E3_TRANSITIONS = np.array([[0.97, 0.02, 0.01], [0.06, 0.90, 0.04], [0.03, 0.05, 0.92]])


def raw_walk(n: int, seed: int, timeframe: Timeframe = Timeframe.H1, start_s: int = START_S) -> RawBars:
    """A random walk with volumes, one bar per slot."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(0.01 * rng.standard_normal(n)))
    volume = 1000 * np.exp(0.5 * rng.standard_normal(n))
    ts_s = start_s + timeframe.seconds * np.arange(n, dtype=np.int64)
    return RawBars(ts_s, close, 1.004 * close, 0.997 * close, close, volume)


def walk(n: int, seed: int = 1, timeframe: Timeframe = Timeframe.H1, missing: Collection[int] = (), start_s: int = START_S) -> OpinionBars:
    """The same, believed, without the slots named in `missing`."""
    raw = raw_walk(n, seed, timeframe, start_s)
    return OpinionBars.take(timeframe, raw[~np.isin(np.arange(n), list(missing))])


def a_model(**changes: Any) -> HmmModel:
    """A model that fits the random walk well enough to say different things on different bars."""
    model = HmmModel(
        series="BTC",
        timeframe=Timeframe.H1,
        feature_mean=np.array([0.0, 0.0, 0.0, 1.1]),
        feature_std=np.array([0.0015, 0.012, 0.25, 0.55]),
        means=np.array([[-0.3, -1.0, -1.0, 0.2], [0.0, 0.0, 0.0, -0.3], [0.3, 1.0, 1.0, 0.2]]),
        variances=np.array([[1.0, 0.4, 0.4, 1.0], [1.0, 0.3, 0.3, 0.9], [1.0, 0.4, 0.4, 1.1]]),
        transitions=E3_TRANSITIONS,
        start_p=compute_stationary(E3_TRANSITIONS),
        occupancy=np.array([0.5, 0.3, 0.2]),
        train_end_s=START_S,
        first_ts_s=START_S - 500 * 3600,
        last_ts_s=START_S - 3600,
        n_rows=500,
        log_likelihood=-2000.0,
        iterations=20,
        restart=0,
        restart_lls=(-2000.0,) * 5,
    )
    return replace(model, **changes)


def an_opinion(hour: int, label: Label, confidence: float = 0.9, model_id: str | None = "m1", status: Status = Status.OK) -> Opinion:
    """An hourly row, `hour` slots after the start; unknown for a label that is."""
    ts_s = START_S + 3600 * hour
    if label is Label.UNKNOWN:
        return replace(unknown_opinion(ts_s, Status.MISSING_BAR), model_id=model_id)
    p = [0.0, 0.0, 0.0]
    p[label.code] = 1.0
    return Opinion(ts_s, (p[0], p[1], p[2]), label, confidence, confidence, 0.0, 0.0, 0.1, 0.1, Tier.FULL, model_id, status, 64)
