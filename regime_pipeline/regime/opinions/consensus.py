"""What the labels of 1m, 15m and 1h add up to: consensus of the two short ones, belief over all three (section 7)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from regime_pipeline.errors import CallerError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.hmm_filter import Opinion, check_posterior, measure
from regime_pipeline.regime.opinions.terms import TERMS, UNIFORM, Label, Triple

WEIGHT_1M: Final = 0.3
WEIGHT_15M: Final = 0.7
DAMPING: Final = 0.5
CONFIDENCE_FLOOR: Final = 0.20


class Agreement(StrEnum):
    """How the 1m and the 15m label relate."""

    FULL = "full"
    NEUTRAL_15M = "15m_neutral"
    COOLING_1M = "1m_cooling"
    CONFLICT = "conflict"
    ONLY_15M = "15m_only"
    ONLY_1M = "1m_only"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Voice:
    """One timeframe's word in the snapshot, after the test of freshness.

    Parameters
    ----------
    label : Label
        Unknown for a row that is missing, stale or says so itself.
    confidence : float
        In [0, 1]; 0 where unknown.
    bias : float
        In [-1, 1]; 0 where unknown.
    p : tuple of three floats
        Posterior, uniform where unknown.
    p_switch60 : float or None
        In [0, 1]; None where unknown.

    Raises
    ------
    CallerError
        When a number is outside its range, or an unknown voice says anything but the UNKNOWN values.
    """

    label: Label
    confidence: float
    bias: float
    p: Triple
    p_switch60: float | None

    def __post_init__(self) -> None:
        check_posterior(self.p)
        if not (0 <= self.confidence <= 1 and -1 <= self.bias <= 1 and (self.p_switch60 is None or 0 <= self.p_switch60 <= 1)):
            raise CallerError(
                f"confidence, bias and p_switch60 were {self.confidence}, {self.bias} and {self.p_switch60}, must lie in [0, 1], [-1, 1]"
                " and [0, 1]. Pass the row as it was stored."
            )
        if self.is_known == (self.p_switch60 is None) or (not self.is_known and (self.confidence, self.bias, self.p) != (0, 0, UNIFORM)):
            raise CallerError(
                f"a voice said {self.label} with {self.p}, confidence {self.confidence} and p_switch60 {self.p_switch60}; an unknown one"
                " says exactly UNKNOWN_VOICE, a known one has a p_switch60."
            )

    @property
    def is_known(self) -> bool:
        """Tell whether it says anything."""
        return self.label is not Label.UNKNOWN


UNKNOWN_VOICE: Final = Voice(Label.UNKNOWN, 0.0, 0.0, UNIFORM, None)


def voice_of(opinion: Opinion) -> Voice:
    """Take from a stored row what consensus and belief need."""
    return Voice(opinion.label, opinion.confidence, opinion.bias, opinion.p, opinion.p_switch60)


@dataclass(frozen=True, slots=True)
class Consensus:
    """The word of 1m and 15m together.

    Parameters
    ----------
    agreement : Agreement
        Row of the table that applied.
    label, confidence, bias : Label, float, float
        As that row says; below a confidence of 0.20 a known label becomes ranging, the numbers stay.
    p : tuple of three floats
        0.3 of the 1m posterior and 0.7 of the 15m posterior, unknown ones uniform.
    entropy : float
        Of `p`.
    """

    agreement: Agreement
    label: Label
    confidence: float
    bias: float
    p: Triple
    entropy: float


@dataclass(frozen=True, slots=True)
class Belief:
    """The word of all three timeframes together.

    Parameters
    ----------
    p : tuple of three floats
        Weighted by 0.21, 0.49 and 0.30; unknown ones enter uniform, weights are not redistributed.
    entropy, direction_score : float
        Of `p`: entropy, and bullish minus bearish.
    coverage : float
        Sum of the weights of the known timeframes, in [0, 1].
    p_switch60 : float or None
        Mean over the known timeframes, their weights renormalised; None where none is known.
    """

    p: Triple
    entropy: float
    direction_score: float
    coverage: float
    p_switch60: float | None


def compute_consensus(m1: Voice, m15: Voice) -> Consensus:
    """Combine the voices of 1m and 15m; the label never comes from the sign of the bias."""
    agreement, label, confidence, bias = _combine(m1, m15)
    if label is not Label.UNKNOWN and confidence < CONFIDENCE_FLOOR:
        label = Label.RANGING
    p = _mix(((WEIGHT_1M, m1), (WEIGHT_15M, m15)))
    return Consensus(agreement, label, confidence, bias, p, measure(p).entropy)


def _combine(m1: Voice, m15: Voice) -> tuple[Agreement, Label, float, float]:
    if not m1.is_known and not m15.is_known:
        return Agreement.NONE, Label.UNKNOWN, 0.0, 0.0
    if not m15.is_known:
        return Agreement.ONLY_1M, Label.UNKNOWN, 0.0, 0.0
    if not m1.is_known:
        return Agreement.ONLY_15M, m15.label, DAMPING * m15.confidence, DAMPING * m15.bias
    if m1.label is m15.label:
        return Agreement.FULL, m15.label, max(m1.confidence, m15.confidence), WEIGHT_1M * m1.bias + WEIGHT_15M * m15.bias
    if m15.label is Label.RANGING:
        return Agreement.NEUTRAL_15M, Label.RANGING, 0.0, 0.0
    if m1.label is Label.RANGING:
        return Agreement.COOLING_1M, m15.label, DAMPING * m15.confidence, DAMPING * m15.bias
    return Agreement.CONFLICT, Label.RANGING, 0.0, 0.0


def compute_belief(m1: Voice, m15: Voice, h1: Voice) -> Belief:
    """Average the posteriors of the three timeframes."""
    weights = (TERMS[Timeframe.M1].belief_weight, TERMS[Timeframe.M15].belief_weight, TERMS[Timeframe.H1].belief_weight)
    voices = tuple(zip(weights, (m1, m15, h1), strict=True))
    p = _mix(voices)
    coverage = total = 0.0
    for weight, voice in voices:
        if voice.p_switch60 is not None:
            coverage, total = coverage + weight, total + weight * voice.p_switch60
    return Belief(p, measure(p).entropy, p[2] - p[0], min(1.0, coverage), total / coverage if coverage else None)


def _mix(voices: tuple[tuple[float, Voice], ...]) -> Triple:
    if not any(voice.is_known for _, voice in voices):
        return UNIFORM  # exactly: weights that add up to 1 in writing need not in float64
    p = np.zeros(3)
    for weight, voice in voices:
        p += weight * np.array(voice.p)
    bear, ranging, bull = p.tolist()
    return bear, ranging, bull
