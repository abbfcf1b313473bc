"""Consensus and belief: examples E7 and property 8 of section 19."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.regime.opinions.consensus import UNKNOWN_VOICE, Agreement, Voice, compute_belief, compute_consensus, voice_of
from regime_pipeline.regime.opinions.terms import UNIFORM, Label, Status, Triple
from tests.opinion_builders import an_opinion

LETTERS = {"U": Label.BULLISH, "R": Label.RANGING, "B": Label.BEARISH, "?": Label.UNKNOWN}
SWAPPED = {Label.BULLISH: Label.BEARISH, Label.BEARISH: Label.BULLISH}


def voice(text: str, p: Triple = (0.2, 0.3, 0.5), p_switch60: float = 0.1) -> Voice:
    if text == "?":
        return UNKNOWN_VOICE
    letter, confidence, bias = text.split()
    return Voice(LETTERS[letter], float(confidence), float(bias), p, p_switch60)


@pytest.mark.parametrize(
    ("m1", "m15", "agreement", "label", "confidence", "bias"),
    [
        ("U .60 .70", "U .30 .50", "full", "U", 0.60, 0.56),
        ("R .80 .02", "R .10 0", "full", "R", 0.80, 0.006),
        ("U .90 .95", "R .70 .10", "15m_neutral", "R", 0.0, 0.0),
        ("R .80 .05", "B .64 -.72", "1m_cooling", "B", 0.32, -0.36),
        ("R .80 .05", "B .38 -.45", "1m_cooling", "R", 0.19, -0.225),
        ("R .80 .05", "B .40 -.50", "1m_cooling", "B", 0.20, -0.25),
        ("B .90 -.95", "U .90 .95", "conflict", "R", 0.0, 0.0),
        ("B .12 0", "B .18 -.30", "full", "R", 0.18, -0.21),
        ("?", "U .90 .92", "15m_only", "U", 0.45, 0.46),
        ("U .90 .92", "?", "1m_only", "?", 0.0, 0.0),
        ("?", "?", "none", "?", 0.0, 0.0),
    ],
)
def test_examples_e7(m1: str, m15: str, agreement: str, label: str, confidence: float, bias: float) -> None:
    got = compute_consensus(voice(m1), voice(m15))
    assert (got.agreement, got.label) == (agreement, LETTERS[label])
    assert (got.confidence, got.bias) == (pytest.approx(confidence, abs=1e-15), pytest.approx(bias, abs=1e-15))


THREE = ((0.1, 0.3, 0.6), (0.05, 0.15, 0.80), (0.2, 0.5, 0.3))


@pytest.mark.parametrize(
    ("known", "p", "entropy", "direction", "coverage"),
    [
        ((1, 1, 1), (0.1055, 0.2865, 0.608), 0.8173337071, 0.5025, 1.0),
        ((0, 1, 1), (0.1545, 0.2935, 0.552), 0.8886990365, 0.3975, 0.79),
        ((0, 0, 1), (0.2933333333, 0.3833333333, 0.3233333333), 0.9943299877, 0.03, 0.30),
    ],
)
def test_examples_of_belief(known: tuple[int, ...], p: Triple, entropy: float, direction: float, coverage: float) -> None:
    voices = [voice("U .5 .5", each) if is_known else UNKNOWN_VOICE for each, is_known in zip(THREE, known, strict=True)]
    got = compute_belief(*voices)
    np.testing.assert_allclose(got.p, p, atol=1e-10)
    assert got.entropy == pytest.approx(entropy, abs=1e-10)
    assert (got.direction_score, got.coverage) == (pytest.approx(direction, abs=1e-12), pytest.approx(coverage, abs=1e-15))


def test_without_15m_half_of_the_belief_is_uniform() -> None:
    got = compute_belief(voice("U .5 .5", THREE[0]), UNKNOWN_VOICE, voice("U .5 .5", THREE[2]))
    assert got.coverage == pytest.approx(0.51, abs=1e-15)
    # 0.21 of 0.6 and 0.30 of 0.3, less 0.21 of 0.1 and 0.30 of 0.2.
    assert got.direction_score == pytest.approx(0.126 + 0.09 - 0.021 - 0.06, abs=1e-15)


def test_nothing_known_is_exactly_unknown() -> None:
    belief = compute_belief(UNKNOWN_VOICE, UNKNOWN_VOICE, UNKNOWN_VOICE)
    assert (belief.p, belief.entropy, belief.direction_score, belief.coverage, belief.p_switch60) == (UNIFORM, 1.0, 0.0, 0.0, None)
    consensus = compute_consensus(UNKNOWN_VOICE, UNKNOWN_VOICE)
    assert (consensus.p, consensus.entropy) == (UNIFORM, 1.0)


def test_switch_in_an_hour_is_a_mean_over_the_known_only() -> None:
    a, b, c = (replace(voice("U .5 .5"), p_switch60=each) for each in (0.8, 0.2, 0.1))
    assert compute_belief(a, b, c).p_switch60 == pytest.approx(0.21 * 0.8 + 0.49 * 0.2 + 0.30 * 0.1, abs=1e-15)
    assert compute_belief(a, UNKNOWN_VOICE, c).p_switch60 == pytest.approx((0.21 * 0.8 + 0.30 * 0.1) / 0.51, abs=1e-15)


def test_a_consensus_mixes_the_posteriors() -> None:
    got = compute_consensus(voice("U .5 .5", THREE[0]), voice("U .5 .5", THREE[1]))
    np.testing.assert_allclose(got.p, (0.065, 0.195, 0.74), atol=1e-15)


def test_a_stored_row_speaks_with_its_own_numbers() -> None:
    row = an_opinion(0, Label.BULLISH, 0.4)
    assert voice_of(row) == Voice(Label.BULLISH, 0.4, 0.0, (0.0, 0.0, 1.0), 0.1)
    assert voice_of(an_opinion(0, Label.UNKNOWN)) == UNKNOWN_VOICE
    assert row.status is Status.OK


@pytest.mark.parametrize(
    "changes",
    [
        {"confidence": 1.1}, {"confidence": -0.1}, {"confidence": float("nan")}, {"bias": -1.1}, {"p_switch60": 1.5}, {"p_switch60": None},
        {"p": (0.5, 0.5, 0.5)}, {"label": Label.UNKNOWN},
    ],
)  # fmt: skip
def test_a_voice_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"said|were|was"):
        replace(voice("U .5 .5"), **changes)


@pytest.mark.parametrize("changes", [{"p": (0.0, 1.0, 0.0)}, {"confidence": 0.1}, {"p_switch60": 0.1}, {"bias": 0.1}])
def test_an_unknown_voice_says_nothing_certain(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="UNKNOWN_VOICE"):
        replace(UNKNOWN_VOICE, **changes)


share = st.floats(0, 1)
voices = st.one_of(
    st.just(UNKNOWN_VOICE),
    st.builds(
        lambda label, confidence, bias, a, b: Voice(label, confidence, bias, (a * b, a * (1 - b), 1 - a), 0.1),
        st.sampled_from([Label.BEARISH, Label.RANGING, Label.BULLISH]),
        st.one_of(share, st.sampled_from([0.2, 0.4, 0.19999999])),
        st.floats(-1, 1),
        share,
        share,
    ),
)


def mirror(one: Voice) -> Voice:
    return replace(one, label=SWAPPED.get(one.label, one.label), bias=-one.bias, p=one.p[::-1])


@settings(max_examples=100, deadline=None)
@given(voices, voices)
def test_every_pair_has_a_consensus_and_none_is_surer_than_its_inputs(m1: Voice, m15: Voice) -> None:
    got = compute_consensus(m1, m15)
    assert 0 <= got.confidence <= max(m1.confidence, m15.confidence)
    assert -1 <= got.bias <= 1
    if got.agreement in {Agreement.CONFLICT, Agreement.ONLY_1M, Agreement.NEUTRAL_15M, Agreement.NONE}:
        assert (got.confidence, got.bias) == (0, 0)
    assert (got.label is Label.UNKNOWN) == (not m15.is_known)
    if got.label in SWAPPED:
        assert got.label is m15.label
        assert got.confidence >= 0.20
    assert sum(got.p) == pytest.approx(1, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(voices, voices, voices)
def test_exchanging_bearish_and_bullish_mirrors_everything(m1: Voice, m15: Voice, h1: Voice) -> None:
    one, two = compute_consensus(m1, m15), compute_consensus(mirror(m1), mirror(m15))
    assert (two.agreement, two.label, two.confidence, two.bias) == (
        one.agreement, SWAPPED.get(one.label, one.label), one.confidence, -one.bias,
    )  # fmt: skip
    np.testing.assert_allclose(two.p[::-1], one.p, atol=1e-15)
    belief, mirrored = compute_belief(m1, m15, h1), compute_belief(mirror(m1), mirror(m15), mirror(h1))
    assert mirrored.direction_score == pytest.approx(-belief.direction_score, abs=1e-15)
    assert (mirrored.coverage, mirrored.p_switch60) == (belief.coverage, belief.p_switch60)
