"""Refit the hidden Markov models of a timeframe; every attempt leaves a row, a rejected one changes nothing else."""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

from regime_pipeline.clock import monotonic_s
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import Attempt, Stores, Work
from regime_pipeline.regime.opinions.hmm_fit import (
    TrainingRows,
    compute_label_stability,
    first_training_bar_s,
    fit_hmm,
    select_training_rows,
)
from regime_pipeline.regime.opinions.hmm_model import FitResult, HmmModel, effective_from_s
from regime_pipeline.regime.opinions.terms import SERIES
from regime_pipeline.services.opinion_bars import load_opinion_bars

LIBRARIES: Final = ("hmmlearn", "numpy", "scikit-learn", "scipy")
DAY_S: Final = 86_400
RETRY_S: Final = 3600
"""While a series has no model at all, a live run tries again so often."""

log = logging.getLogger(__name__)
Fit = Callable[[str, TrainingRows], FitResult]


@dataclass(frozen=True, slots=True)
class FitRow:
    """What became of a fit, and the seconds it took."""

    model_id: str
    accepted: bool
    reason: str | None
    n_rows: int
    stability: float | None
    log_likelihood: float | None
    seconds: float


@dataclass(slots=True)
class FitSummary:
    """Fits by series; series that had a model of the day already are not in it."""

    fits: dict[str, FitRow] = field(default_factory=dict)


def fit_models(
    stores: Stores,
    universe: Universe,
    timeframe: Timeframe,
    train_end_s: int,
    *,
    stored_s: int | None,
    names: Collection[str] = SERIES,
    fit: Fit = fit_hmm,
) -> FitSummary:
    """Fit each series on the bars that closed by `train_end_s`; those with a model of that UTC day are left alone.

    Parameters
    ----------
    stored_s : int or None
        Now, in a live run: the model serves from the first bar at least a minute later on. None in a backfill: from 01:00 of its day.
    fit : callable
        Fits training rows; tests pass one that fails.
    """
    libraries = {name: version(name) for name in LIBRARIES}
    summary = FitSummary()
    for name in (each for each in SERIES if each in names):
        began_s = monotonic_s()
        with stores.open() as work:
            preceding = _in_force(work, name, timeframe, train_end_s)
            if preceding is not None and preceding.train_end_s // DAY_S == train_end_s // DAY_S:
                continue
            bars = load_opinion_bars(work, universe, name, timeframe, first_training_bar_s(timeframe, train_end_s), train_end_s - 1)
        rows = select_training_rows(bars.until(train_end_s), train_end_s)
        result = fit(name, rows)
        model = result.model
        attempt = Attempt(
            result=result,
            effective_from_s=None if model is None else effective_from_s(timeframe, train_end_s, stored_s),
            stability=None if model is None else compute_label_stability(rows, model, preceding),
            compared_model_id=None if preceding is None else preceding.model_id,
            libraries=libraries,
        )
        with stores.open() as work:
            work.opinions.save_attempts([attempt])
        summary.fits[name] = _describe(attempt, monotonic_s() - began_s)
        log.info("hmm fit %s %s: %s", name, timeframe, summary.fits[name])
    return summary


def find_without_model(work: Work, timeframe: Timeframe, now_s: int) -> list[str]:
    """List the series that have no accepted model at all and were not tried within the last hour."""
    tried = {row.series for row in work.opinions.load_attempts(1000) if row.timeframe is timeframe and row.created_s > now_s - RETRY_S}
    return [name for name in SERIES if name not in tried and not work.opinions.load_models(name, timeframe, now_s, now_s + 2 * DAY_S)]


def _in_force(work: Work, series: str, timeframe: Timeframe, train_end_s: int) -> HmmModel | None:
    """Newest accepted model that was trained up to `train_end_s` or before."""
    served = work.opinions.load_models(series, timeframe, train_end_s, train_end_s + DAY_S)
    known = [each.model for each in served if each.model.train_end_s <= train_end_s]
    return known[-1] if known else None


def _describe(attempt: Attempt, seconds: float) -> FitRow:
    result = attempt.result
    return FitRow(
        model_id=result.attempt_id,
        accepted=result.model is not None,
        reason=None if result.reason is None else result.reason.value,
        n_rows=result.n_rows,
        stability=attempt.stability,
        log_likelihood=None if result.model is None else result.model.log_likelihood,
        seconds=round(seconds, 3),
    )
