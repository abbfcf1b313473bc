"""What a model says of closed bars, from data up to each bar only (section 6)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from regime_pipeline.errors import CallerError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.features import CONTEXT_SLOTS, FeatureRows
from regime_pipeline.regime.opinions.hmm_model import SUM_TOLERANCE, HmmModel, ServedModel, model_for
from regime_pipeline.regime.opinions.kernels import opine, write_measures
from regime_pipeline.regime.opinions.quality import Tier
from regime_pipeline.regime.opinions.terms import (
    LABELS,
    STATUSES,
    UNIFORM,
    UNKNOWN_CODE,
    CodeArray,
    FloatArray,
    IntArray,
    Label,
    Status,
    Triple,
    terms_of,
)

UNKNOWN_MEASURES: Final = (0.0, 0.0, 1.0, np.nan, np.nan)
_NO_STAY: Final = np.ones(3)


@dataclass(frozen=True, slots=True)
class Measures:
    """What one known posterior amounts to.

    Parameters
    ----------
    label : Label
        Of the largest probability; `ranging` when the two largest are equal.
    confidence_raw : float
        Largest minus second largest, in [0, 1].
    bias : float
        Bullish minus bearish in [-1, 1]; 0 below a raw confidence of 0.15.
    entropy : float
        In [0, 1]: 0 for a certain triple, 1 for the uniform one (Shannon 1948).
    """

    label: Label
    confidence_raw: float
    bias: float
    entropy: float


@dataclass(frozen=True, slots=True)
class Opinion:
    """The row of one bar, as it is stored.

    Parameters
    ----------
    ts_s : int
        Bar open, epoch seconds.
    p : tuple of three floats
        Filtered posterior, bearish, ranging, bullish; uniform where unknown.
    label, confidence_raw, bias, entropy
        As in `Measures`; unknown, 0, 0, 1 where unknown.
    confidence : float
        Raw confidence times the tier's modifier.
    p_switch, p_switch60 : float or None
        Probability to leave the present state by the next bar, and within sixty minutes; None where unknown.
    tier : Tier
        Of the model in force, `no_model` where none is.
    model_id : str or None
        Of the model in force, also when the bar itself is unknown for another reason; None where no model is in force.
    status : Status
        `ok` exactly where the label is known.
    rows_used : int
        Feature rows in the filter window, 0 where it was not filtered.
    """

    ts_s: int
    p: Triple
    label: Label
    confidence_raw: float
    confidence: float
    bias: float
    entropy: float
    p_switch: float | None
    p_switch60: float | None
    tier: Tier
    model_id: str | None
    status: Status
    rows_used: int


def unknown_opinion(ts_s: int, status: Status) -> Opinion:
    """Build the UNKNOWN row of a bar without a model's word: uniform, confidence 0, entropy 1.

    Raises
    ------
    CallerError
        When the status is `ok`, which no unknown row may say.
    """
    if status is Status.OK:
        raise CallerError("status of an unknown row was ok; name the reason why nothing is known.")
    return Opinion(ts_s, UNIFORM, Label.UNKNOWN, 0.0, 0.0, 0.0, 1.0, None, None, Tier.NO_MODEL, None, status, 0)


@dataclass(frozen=True, slots=True, eq=False)
class PosteriorRows:
    """Opinions of n consecutive slots as columns; `opinion` and iteration give them one by one.

    Parameters
    ----------
    timeframe : Timeframe
        Grid of the slots.
    ts_s : ndarray of int64, shape (n,)
        Slot opens.
    p : ndarray of float64, shape (n, 3)
        Posteriors; finite, in [0, 1], each row sums to 1.
    measures : ndarray of float64, shape (n, 5)
        confidence_raw, bias, entropy, p_switch, p_switch60; the last two NaN where unknown.
    label, status : ndarray of int8, shape (n,)
        `Label.code` and `Status.code`.
    rows_used : ndarray of int64, shape (n,)
        Feature rows in each filter window.
    model : ndarray of int64, shape (n,)
        Which of `models` was in force, -1 for none.
    models : tuple of HmmModel
        The models that were in force anywhere.
    """

    timeframe: Timeframe
    ts_s: IntArray
    p: FloatArray
    measures: FloatArray
    label: CodeArray
    status: CodeArray
    rows_used: IntArray
    model: IntArray
    models: tuple[HmmModel, ...]

    def __len__(self) -> int:
        """Count the slots."""
        return len(self.ts_s)

    def __iter__(self) -> Iterator[Opinion]:
        """Give the opinions, oldest first."""
        names = [(model.tier, model.model_id) for model in self.models] + [(Tier.NO_MODEL, None)]
        for i in range(len(self)):
            yield self._row(i, *names[int(self.model[i])])

    def opinion(self, i: int) -> Opinion:
        """Give the opinion of slot number `i`."""
        model = self.models[self.model[i]] if self.model[i] >= 0 else None
        return self._row(i, model.tier if model else Tier.NO_MODEL, model.model_id if model else None)

    def _row(self, i: int, tier: Tier, model_id: str | None) -> Opinion:
        bear, ranging, bull = self.p[i].tolist()
        raw, bias, entropy, switch, switch60 = self.measures[i].tolist()
        known = self.status[i] == Status.OK.code
        return Opinion(
            ts_s=int(self.ts_s[i]),
            p=(bear, ranging, bull),
            label=LABELS[self.label[i]],
            confidence_raw=raw,
            confidence=raw * tier.modifier,
            bias=bias,
            entropy=entropy,
            p_switch=switch if known else None,
            p_switch60=switch60 if known else None,
            tier=tier,
            model_id=model_id,
            status=STATUSES[self.status[i]],
            rows_used=int(self.rows_used[i]),
        )


def filter_posteriors(rows: FeatureRows, served: Sequence[ServedModel], first_s: int, last_s: int) -> PosteriorRows:
    """Say what the models in force make of every slot from `first_s` to `last_s`, both included.

    Parameters
    ----------
    rows : FeatureRows
        Features of all these slots and of the `CONTEXT_SLOTS` before them.
    served : sequence of ServedModel
        Accepted models of one series; those of later bars are not looked at.
    first_s, last_s : int
        Slot opens, epoch seconds.

    Returns
    -------
    PosteriorRows
        Row t depends on slots t-63 to t and on its model. What cannot be said is UNKNOWN with the first reason that holds.

    Raises
    ------
    CallerError
        When the features do not cover the slots and their context, or a model is of another timeframe or series.
    """
    bar_s = rows.timeframe.seconds
    n = (last_s - first_s) // bar_s + 1
    start = (first_s - rows.first_s) // bar_s
    if first_s % bar_s or last_s % bar_s or n < 1 or start < CONTEXT_SLOTS or start + n > len(rows):
        raise CallerError(
            f"slots were {first_s} to {last_s}, must lie on the {rows.timeframe} grid, {CONTEXT_SLOTS} slots or more into the features"
            f" from {rows.first_s} on, {len(rows)} slots. Compute the features with their context."
        )
    if len({(each.model.series, each.model.timeframe) for each in served} | {(s.model.series, rows.timeframe) for s in served}) > 1:
        raise CallerError(f"models served are not all of one series and of {rows.timeframe}. Pass those of the bars' own series.")
    ts_s = first_s + bar_s * np.arange(n, dtype=np.int64)
    p, measures = np.tile(UNIFORM, (n, 1)), np.tile(UNKNOWN_MEASURES, (n, 1))
    label, status = np.full(n, UNKNOWN_CODE, dtype=np.int8), np.full(n, Status.NO_MODEL.code, dtype=np.int8)
    rows_used, in_force = np.zeros(n, dtype=np.int64), np.full(n, -1, dtype=np.int64)
    models: list[HmmModel] = []
    for i, j in _stretches(ts_s, served):
        model = model_for(served, int(ts_s[i]))
        if model is None:
            continue
        end = j if not model.is_expired(int(ts_s[j - 1])) else i + int(np.argmax([model.is_expired(int(t)) for t in ts_s[i:j]]))
        status[end:j] = Status.MODEL_EXPIRED.code
        if end == i:
            continue
        in_force[i:end] = len(models)
        models.append(model)
        window = slice(start + i - CONTEXT_SLOTS, start + end)
        stay = np.array([model.transitions[s, s] ** terms_of(rows.timeframe).bars_per_hour for s in range(3)])
        opine(
            rows.x[window], rows.status[window], CONTEXT_SLOTS, model.standard, model.means, model.variances, model.start_p,
            model.transitions, stay, p[i:end], measures[i:end], label[i:end], status[i:end], rows_used[i:end],
        )  # fmt: skip
    return PosteriorRows(rows.timeframe, ts_s, p, measures, label, status, rows_used, in_force, tuple(models))


def _stretches(ts_s: IntArray, served: Sequence[ServedModel]) -> Iterator[tuple[int, int]]:
    """Cut the slots where the model in force changes: index ranges, end exclusive."""
    cuts = {int(np.searchsorted(ts_s, each.effective_from_s)) for each in served}
    ends = sorted({0, len(ts_s), *cuts})
    yield from pairwise(ends)


def check_posterior(p: Triple) -> FloatArray:
    """Take a triple as an array, or refuse it.

    Raises
    ------
    CallerError
        When an entry is negative or not finite, or the sum is off by more than 1e-6.
    """
    values = np.array(p, dtype=np.float64)
    if values.shape != (3,) or not np.all(values >= 0) or not abs(float(values.sum()) - 1) <= SUM_TOLERANCE:
        raise CallerError(f"posterior was {p}, must be three numbers >= 0 that add up to 1. Pass it as it was stored.")
    return values


def measure(p: Triple) -> Measures:
    """Compute label, raw confidence, bias and entropy of a known posterior.

    Raises
    ------
    CallerError
        When the triple is no distribution.
    """
    out = np.empty(5)
    label = write_measures(check_posterior(p), _NO_STAY, _NO_STAY, out)
    return Measures(LABELS[label], *out[:3].tolist())
