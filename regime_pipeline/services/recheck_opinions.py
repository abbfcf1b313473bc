"""Compute a stored posterior again from the bars there were, to prove that nothing was known too early."""

import numpy as np

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import Work
from regime_pipeline.regime.opinions.features import CONTEXT_SLOTS, LOOKBACK_SLOTS, compute_features
from regime_pipeline.regime.opinions.hmm_filter import Opinion, filter_posteriors
from regime_pipeline.services.opinion_bars import load_opinion_bars


def reach_of(timeframe: Timeframe, slot_s: int) -> tuple[int, int]:
    """Opens of the first and the last bar that the posterior of a slot depends on, epoch seconds."""
    return slot_s - (CONTEXT_SLOTS + LOOKBACK_SLOTS) * timeframe.seconds, slot_s


def recompute_posterior(work: Work, universe: Universe, series: str, timeframe: Timeframe, slot_s: int) -> tuple[Opinion, Opinion]:
    """Return what is stored of a slot and what the stored bars and models say of it now."""
    stored = work.opinions.load_opinions(series, timeframe, slot_s, slot_s)[0][0]
    first_s, _ = reach_of(timeframe, slot_s)
    bars = load_opinion_bars(work, universe, series, timeframe, first_s, slot_s)
    features = compute_features(bars, slot_s - CONTEXT_SLOTS * timeframe.seconds, slot_s)
    served = work.opinions.load_models(series, timeframe, slot_s, slot_s)
    return stored, filter_posteriors(features, served, slot_s, slot_s).opinion(0)


def is_same(stored: Opinion, again: Opinion) -> bool:
    """Tell whether two opinions say exactly the same."""
    return (stored.label, stored.status, stored.model_id) == (again.label, again.status, again.model_id) and bool(
        np.array_equal(np.array(stored.p), np.array(again.p))
    )
