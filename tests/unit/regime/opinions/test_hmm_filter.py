"""Filter: examples E4 and E5, the library's own forward pass, gaps, and properties 1 to 6 of section 19."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions import kernels
from regime_pipeline.regime.opinions.features import CONTEXT_SLOTS, FeatureRows, compute_features
from regime_pipeline.regime.opinions.hmm_filter import PosteriorRows, filter_posteriors, measure, unknown_opinion
from regime_pipeline.regime.opinions.hmm_model import HmmModel, ServedModel, compute_stationary, effective_from_s, model_for
from regime_pipeline.regime.opinions.quality import Tier
from regime_pipeline.regime.opinions.terms import STATUSES, UNIFORM, Label, Status, Triple
from tests.opinion_builders import E3_TRANSITIONS, START_S, a_model, raw_walk, walk

H1 = Timeframe.H1
HOUR_S = 3600
DAY_S = 86_400


def ts(slot: int) -> int:
    return START_S + HOUR_S * slot


def serve(model: HmmModel, slot: int = 0) -> ServedModel:
    return ServedModel(model, ts(slot))


def some_rows(n: int, seed: int, missing: set[int] | frozenset[int] = frozenset()) -> FeatureRows:
    """Feature rows drawn near the model's states, from slot 0 on."""
    rng = np.random.default_rng(seed)
    model = a_model()
    state = np.repeat(rng.integers(0, 3, n // 10 + 1), 10)[:n]
    z = model.means[state] + 1.3 * np.sqrt(model.variances[state]) * rng.standard_normal((n, 4))
    status = np.zeros(n, dtype=np.int8)
    status[sorted(missing)] = Status.MISSING_BAR.code
    x = np.where(status[:, None] == 0, model.feature_mean + z * model.feature_std, np.nan)
    return FeatureRows(H1, START_S, x, status, np.zeros(n, dtype=np.bool_))


def opine(rows: FeatureRows, first: int, last: int, *models: ServedModel) -> PosteriorRows:
    return filter_posteriors(rows, models or [serve(a_model(train_end_s=START_S))], ts(first), ts(last))


def assert_same(a: PosteriorRows, b: PosteriorRows) -> None:
    for name in ("ts_s", "p", "measures", "label", "status", "rows_used"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_example_e4() -> None:
    prior, p = np.empty(3), np.empty(3)
    start = np.array([0.2, 0.5, 0.3])
    likelihood = np.array([-3.0, -2.0, -2.5])
    kernels.predict(start, E3_TRANSITIONS, prior)
    np.testing.assert_allclose(prior, [0.233, 0.469, 0.298], atol=1e-15)
    kernels.update(prior, likelihood, p)
    np.testing.assert_allclose(p, [0.116547019950, 0.637694361393, 0.245758618656], atol=1e-12)
    found = measure(tuple(p.tolist()))
    np.testing.assert_allclose([found.confidence_raw, found.bias, found.entropy], [0.3919357427, 0.1292115987, 0.8031117593], atol=1e-10)
    empty = np.empty(3)
    kernels.predict(p, E3_TRANSITIONS, empty)
    np.testing.assert_allclose(empty, [0.158685029595, 0.588543796586, 0.252771173819], atol=1e-12)
    kernels.predict(empty, E3_TRANSITIONS, prior)
    kernels.update(prior, np.array([-1.0, -4.0, -6.0]), p)
    np.testing.assert_allclose(p, [0.871984137975, 0.120323780228, 0.007692081797], atol=1e-12)
    kernels.update(compute_stationary(E3_TRANSITIONS), likelihood, p)
    np.testing.assert_allclose(p, [0.408828233410, 0.388958625244, 0.202213141346], atol=1e-12)


@pytest.mark.parametrize(
    ("p", "entropy", "confidence", "bias", "label"),
    [
        (UNIFORM, 1.0, 0.0, 0.0, "ranging"),
        ((0.7, 0.2, 0.1), 0.7298466992, 0.5, -0.6, "bearish"),
        ((0.05, 0.90, 0.05), 0.3589962496, 0.85, 0.0, "ranging"),
        ((1.0, 0.0, 0.0), 0.0, 1.0, -1.0, "bearish"),
        ((0.4, 0.2, 0.4), 0.9602297179, 0.0, 0.0, "ranging"),
        ((0.36, 0.33, 0.31), 0.9982774185, 0.03, 0.0, "bearish"),
        ((0.1, 0.3, 0.6), 0.8173454221, 0.3, 0.5, "bullish"),
    ],
)
def test_examples_e5(p: Triple, entropy: float, confidence: float, bias: float, label: str) -> None:
    found = measure(p)
    np.testing.assert_allclose([found.entropy, found.confidence_raw, found.bias], [entropy, confidence, bias], atol=1e-10)
    assert found.label == label


@pytest.mark.parametrize("p", [(0.5, 0.5, 1e-5), (-0.1, 0.6, 0.5), (np.nan, 0.5, 0.5), (np.inf, 0.0, 0.0), (0.2, 0.3, 0.4)])
def test_a_triple_that_is_no_distribution_is_refused(p: Triple) -> None:
    with pytest.raises(ValueError, match="posterior was"):
        measure(p)


@pytest.mark.parametrize(("timeframe", "want"), [(Timeframe.M1, 0.8627987074), (Timeframe.M15, 0.1460714635), (H1, 0.0395)])
def test_switches_are_those_of_example_e3(timeframe: Timeframe, want: float) -> None:
    diagonal = np.diagonal(E3_TRANSITIONS)
    out = np.empty(5)
    kernels.write_measures(np.array([0.85, 0.10, 0.05]), diagonal, diagonal ** (3600 // timeframe.seconds), out)
    assert out[3] == pytest.approx(0.0395, abs=1e-15)
    assert out[4] == pytest.approx(want, abs=1e-10)


def test_p_switch60_looks_an_hour_ahead_on_every_timeframe() -> None:
    rows = replace(some_rows(100, 3), timeframe=Timeframe.M15)
    model = a_model(timeframe=Timeframe.M15)
    got = filter_posteriors(rows, [ServedModel(model, START_S)], START_S + 900 * 99, START_S + 900 * 99).opinion(0)
    stay = sum(p * model.transitions[i, i] ** 4 for i, p in enumerate(got.p))
    assert got.p_switch60 == pytest.approx(1 - stay, abs=1e-15)


def test_filter_equals_the_librarys_forward_pass_on_a_window() -> None:
    rows, model = some_rows(120, 4), a_model()
    library = library_model(model)
    got = opine(rows, 63, 119)
    for i in range(len(got)):
        z = (rows.x[i : i + 64] - model.feature_mean) / model.feature_std
        np.testing.assert_allclose(got.p[i], library.score_samples(z)[1][-1], atol=1e-9, rtol=0)


def library_model(model: HmmModel):  # type: ignore[no-untyped-def]  # hmmlearn has no types
    from hmmlearn.hmm import GaussianHMM

    library = GaussianHMM(3, "diag")
    library.startprob_, library.transmat_, library.means_, library.covars_ = model.start_p, model.transitions, model.means, model.variances
    return library


def test_an_empty_slot_is_a_step_without_news_and_says_unknown() -> None:
    rows = some_rows(100, 5, missing={90})
    got = opine(rows, 89, 91)
    assert [STATUSES[code] for code in got.status] == ["ok", "missing_bar", "ok"]
    prior = got.p[0] @ E3_TRANSITIONS @ E3_TRANSITIONS
    likelihood = np.empty(3)
    model = a_model()
    kernels.log_likelihood(rows.x[91], model.feature_mean, model.feature_std, model.means, model.variances, likelihood)
    want = prior * np.exp(likelihood)
    # The windows differ by two slots, which the filter has long forgotten.
    np.testing.assert_allclose(got.p[2], want / want.sum(), atol=1e-9)
    assert got.opinion(1).p == UNIFORM


@pytest.mark.parametrize(("n_missing", "rows_used"), [(3, 64 - 3), (4, 20)])
def test_a_gap_longer_than_three_slots_starts_the_filter_anew(n_missing: int, rows_used: int) -> None:
    last = 80 + n_missing + 19  # twenty rows after the gap
    rows = some_rows(120, 6, missing=set(range(80, 80 + n_missing)))
    assert opine(rows, last, last).opinion(0).rows_used == rows_used
    early = opine(rows, last - 1, last - 1).opinion(0)
    assert early.status is (Status.OK if n_missing == 3 else Status.SHORT_HISTORY)


def test_a_window_that_restarts_depends_on_nothing_before_the_gap() -> None:
    rows = some_rows(120, 7, missing=set(range(80, 84)))
    other = replace(rows, x=np.concatenate([some_rows(80, 8).x, rows.x[80:]]))
    assert_same(opine(rows, 105, 119), opine(other, 105, 119))


def test_the_window_forgets_what_an_unbounded_filter_knows() -> None:
    rows = some_rows(600, 9)
    library = library_model(a_model())
    z = (rows.x - a_model().feature_mean) / a_model().feature_std
    got = opine(rows, 599, 599, serve(a_model(train_end_s=ts(500))))
    np.testing.assert_allclose(got.p[0], library.score_samples(z)[1][-1], atol=1e-9)


def test_a_row_beyond_every_state_is_no_row() -> None:
    rows = some_rows(100, 10)
    rows.x[98, 0] = 1e200
    got = opine(rows, 98, 99)
    assert [STATUSES[code] for code in got.status] == ["nan_feature", "ok"]
    assert np.isfinite(got.p).all()
    assert got.rows_used.tolist() == [0, 63]


def test_without_a_model_everything_is_unknown() -> None:
    opinion = filter_posteriors(some_rows(100, 1), [], ts(90), ts(99)).opinion(3)
    assert opinion == unknown_opinion(ts(93), Status.NO_MODEL)
    assert (opinion.p, opinion.label, opinion.confidence, opinion.entropy, opinion.p_switch) == (UNIFORM, Label.UNKNOWN, 0.0, 1.0, None)


def test_unknown_has_a_reason() -> None:
    with pytest.raises(ValueError, match="reason"):
        unknown_opinion(0, Status.OK)


def test_no_model_comes_before_a_missing_bar() -> None:
    rows = some_rows(100, 1, missing={95})
    assert filter_posteriors(rows, [], ts(95), ts(95)).opinion(0).status is Status.NO_MODEL
    known = opine(rows, 95, 95).opinion(0)
    assert (known.status, known.tier, known.model_id) == (Status.MISSING_BAR, Tier.FULL, a_model().model_id)


def test_a_model_serves_from_its_effective_bar_until_the_next_one() -> None:
    first, second = a_model(), a_model(n_rows=313, last_ts_s=START_S)
    got = opine(some_rows(100, 1), 80, 99, serve(second, 95), serve(first, 85))
    ids = [each.model_id for each in got]
    assert ids == [None] * 5 + [first.model_id] * 10 + [second.model_id] * 5
    assert [got.opinion(i) for i in range(20)] == list(got)
    newest = got.opinion(19)
    assert (newest.tier, newest.confidence) == (Tier.DEEP, 0.95 * newest.confidence_raw)


def test_a_model_expires_seven_days_after_its_training() -> None:
    # The bar that closes exactly seven days later is its last.
    got = opine(some_rows(300, 1), 100, 200, serve(a_model(train_end_s=START_S)))
    last = int(np.flatnonzero(got.status == Status.OK.code)[-1])
    assert ts(100 + last) + HOUR_S == START_S + 7 * DAY_S
    assert set(got.status[last + 1 :]) == {Status.MODEL_EXPIRED.code}
    assert got.opinion(last + 1) == unknown_opinion(ts(100 + last + 1), Status.MODEL_EXPIRED)


@pytest.mark.parametrize(
    ("stored_s", "want_s"),
    [
        (None, 3600),
        (600, 3600),  # stored at 00:10, serves from 01:00
        (3600, 3600),
        (3601, 7200),
        (7140, 7200),  # 60 s before the bar are enough
        (7141, 10800),
    ],
)
def test_a_model_stored_late_serves_the_next_bar_that_opens(stored_s: int | None, want_s: int) -> None:
    assert effective_from_s(H1, START_S, None if stored_s is None else START_S + stored_s) == START_S + want_s
    assert effective_from_s(H1, START_S + 5 * HOUR_S, None) == START_S + HOUR_S


def test_the_model_of_a_bar_is_the_newest_that_serves_it() -> None:
    old, new = a_model(), a_model(n_rows=400)
    served = [serve(new, 10), serve(old, 5)]
    assert [model_for(served, ts(slot)) for slot in (4, 5, 9, 10)] == [None, old, old, new]


@pytest.mark.parametrize(("first", "last"), [(62, 99), (63, 100), (80, 79)])
def test_features_must_cover_the_slots_and_their_context(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="slots were"):
        opine(some_rows(100, 1), first, last)


def test_models_of_another_series_or_timeframe_are_refused() -> None:
    for strange in (a_model(timeframe=Timeframe.M15), a_model(series="ETH")):
        with pytest.raises(ValueError, match="not all of one series"):
            opine(some_rows(100, 1), 90, 99, serve(a_model()), serve(strange, 5))


gaps = st.sets(st.integers(0, 199), max_size=60)
ends = st.lists(st.integers(64, 199), max_size=6)


@settings(max_examples=50, deadline=None)
@given(gaps, ends, st.integers(0, 1000))
def test_a_batch_equals_any_split_of_it_bit_for_bit(missing: set[int], cuts: list[int], seed: int) -> None:
    rows = some_rows(200, seed, missing)
    models = (serve(a_model(), 70), serve(a_model(n_rows=400), 120))
    whole = opine(rows, 63, 199, *models)
    edges = sorted({63, 200, *cuts})
    for first, end in pairwise(edges):
        context = slice(first - CONTEXT_SLOTS, end)
        part = replace(
            rows, first_s=ts(context.start), x=rows.x[context].copy(), status=rows.status[context].copy(), built=rows.built[context]
        )
        got = opine(part, first, end - 1, *models)
        assert list(got) == list(whole)[first - 63 : end - 63]


@settings(max_examples=50, deadline=None)
@given(gaps, st.integers(63, 198), st.integers(0, 1000))
def test_later_bars_and_models_change_nothing(missing: set[int], last: int, seed: int) -> None:
    rows, noise = some_rows(200, seed, missing), some_rows(200, seed + 1)
    changed = replace(rows, x=np.concatenate([rows.x[: last + 1], noise.x[last + 1 :]]))
    changed.status[last + 1 :] = 0
    now = serve(a_model(), 20)
    assert_same(opine(rows, 63, last, now), opine(changed, 63, last, now, serve(a_model(n_rows=400), last + 1)))


@settings(max_examples=50, deadline=None)
@given(gaps, st.integers(0, 1000), st.sampled_from([1.0, 1e3, 1e80, 1e160]))
def test_every_posterior_is_a_distribution_and_no_unknown_is_certain(missing: set[int], seed: int, wild: float) -> None:
    rows = some_rows(200, seed, missing)
    rows.x[100] *= wild
    got = opine(rows, 63, 199)
    assert np.isfinite(got.p).all()
    assert ((got.p >= 0) & (got.p <= 1)).all()
    np.testing.assert_allclose(got.p.sum(axis=1), 1, atol=1e-12)
    for each in got:
        known = each.status is Status.OK
        assert known == (each.label is not Label.UNKNOWN)
        if not known:
            assert (each.p, each.confidence_raw, each.confidence, each.bias, each.entropy) == (UNIFORM, 0.0, 0.0, 0.0, 1.0)
            assert each.p_switch is None
            assert each.p_switch60 is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_a_mirrored_market_has_mirrored_posteriors(seed: int) -> None:
    rows, model = some_rows(150, seed), a_model(feature_mean=np.array([1e-4, 2e-3, 0.05, 1.1]))
    sign = np.array([-1.0, -1.0, -1.0, 1.0])
    swap = [2, 1, 0]
    mirrored = replace(
        model,
        feature_mean=sign * model.feature_mean,
        means=(sign * model.means)[swap],
        variances=model.variances[swap],
        transitions=model.transitions[np.ix_(swap, swap)],
        start_p=model.start_p[swap],
    )
    one = opine(rows, 63, 149, serve(model))
    two = opine(replace(rows, x=sign * rows.x), 63, 149, serve(mirrored))
    np.testing.assert_allclose(two.p[:, swap], one.p, atol=1e-12)
    np.testing.assert_allclose(two.measures[:, :3] * [1, -1, 1], one.measures[:, :3], atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.integers(0, 100))
def test_scale_of_price_and_volume_moves_no_posterior(price: float, volume: float, seed: int) -> None:
    raw = raw_walk(420, seed)
    bars = walk(420, seed)
    scaled = replace(bars, high=price * bars.high, low=price * bars.low, close=price * bars.close, volume=volume * raw.volume)
    one, two = (opine(compute_features(each, START_S, ts(419)), 320, 419) for each in (bars, scaled))
    np.testing.assert_allclose(one.p, two.p, atol=1e-6)
    clear = one.measures[:, 0] > 1e-6
    np.testing.assert_array_equal(one.label[clear], two.label[clear])
