"""Fits: example E3, what is rejected and why, choice of the restart, identity, and properties 2, 3, 9 and 10 of section 19."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions import hmm_fit
from regime_pipeline.regime.opinions.features import compute_features
from regime_pipeline.regime.opinions.hmm_filter import filter_posteriors
from regime_pipeline.regime.opinions.hmm_fit import (
    MAX_ITERATIONS,
    Restart,
    TrainingRows,
    compute_label_stability,
    first_training_bar_s,
    fit_hmm,
    fit_with_hmmlearn,
    label_rows,
    select_training_rows,
)
from regime_pipeline.regime.opinions.hmm_model import (
    HmmModel,
    Rejection,
    ServedModel,
    compute_stationary,
    order_states,
    order_transitions,
)
from regime_pipeline.regime.opinions.terms import FloatArray, IntArray
from tests.opinion_builders import E3_TRANSITIONS, START_S, a_model, walk

H1 = Timeframe.H1
HOUR_S = 3600
N_SLOTS = 625 + 283  # what a full window needs
END_S = START_S + HOUR_S * N_SLOTS


@pytest.fixture(scope="module")
def rows() -> TrainingRows:
    return select_training_rows(walk(N_SLOTS, 11), END_S)


@pytest.fixture(scope="module")
def model(rows: TrainingRows) -> HmmModel:
    fitted = fit_hmm("BTC", rows).model
    assert fitted is not None
    return fitted


def a_restart(z: FloatArray, lengths: IntArray, seed: int) -> Restart:
    """A fit without a fault, the same from every start."""
    means = np.array([[0.0, 0.9, 0.8, 0.1], [0.0, -0.9, -0.8, 0.1], [0.0, 0.0, 0.0, -0.1]])
    occupancy = np.full(3, 1 / 3)
    return Restart(
        means, np.ones((3, 4)), np.array([[0.9, 0.06, 0.04], [0.02, 0.97, 0.01], [0.05, 0.03, 0.92]]), occupancy, (-10.0, -9.995)
    )


# --- training rows ---------------------------------------------------------------------------------------------------------------


def test_a_full_window_is_the_newest_rows_that_closed_in_time(rows: TrainingRows) -> None:
    assert (len(rows), rows.lengths.tolist()) == (500, [500])
    assert rows.ts_s[-1] + HOUR_S == END_S
    assert (rows.ts_s[0], rows.resampled_share) == (END_S - 500 * HOUR_S, 0.0)


def test_a_bar_that_closes_after_the_end_is_not_trained_on() -> None:
    late = select_training_rows(walk(N_SLOTS + 5, 11), END_S + HOUR_S - 1)
    assert late.ts_s[-1] + HOUR_S == END_S


def test_bars_before_the_first_training_bar_and_after_the_end_change_nothing() -> None:
    bars = walk(N_SLOTS + 40, 11)
    first_s = first_training_bar_s(H1, END_S)
    assert first_s == START_S
    longer = walk(N_SLOTS + 40, 12, start_s=START_S - 20 * HOUR_S)
    merged = replace(longer, **{name: np.concatenate([getattr(longer, name)[:20], getattr(bars, name)[:-20]]) for name in BAR_COLUMNS})
    merged.close[-10:] *= 3
    merged.high[-10:] *= 3
    assert fit_hmm("BTC", select_training_rows(merged, END_S)).attempt_id == fit_hmm("BTC", select_training_rows(bars, END_S)).attempt_id


BAR_COLUMNS = ("ts_s", "high", "low", "close", "volume", "built")


def test_sequences_end_at_gaps_over_three_slots_and_scraps_are_dropped() -> None:
    # Slots 700-703 leave a gap of five rows (the bar after a missing one has none); 720-722 one of four. 15 rows lie between them.
    got = select_training_rows(walk(N_SLOTS, 11, missing=[*range(700, 704), *range(720, 723)]), END_S)
    slots = (got.ts_s - START_S) // HOUR_S
    assert got.lengths.tolist() == [700 - (N_SLOTS - 500 - 9), N_SLOTS - 724]
    assert not np.any((slots >= 700) & (slots < 724))
    near = select_training_rows(walk(N_SLOTS, 11, missing=[700, 701]), END_S)
    assert (near.lengths.tolist(), len(near)) == ([500], 500)


def test_the_window_reaches_back_over_five_quarters_of_its_slots_at_most() -> None:
    # Every fourth slot absent would be a short history, so: 60 slots absent in the window leave 60 rows to be taken from before it.
    got = select_training_rows(walk(N_SLOTS, 11, missing=range(640, 655)), END_S)
    assert len(got) == 500
    assert got.ts_s[0] == END_S - (500 + 16) * HOUR_S
    young = select_training_rows(walk(400, 11), START_S + 400 * HOUR_S)
    assert len(young) == 400 - 255


def test_the_share_of_built_bars_is_told() -> None:
    bars = walk(N_SLOTS, 11)
    bars.built[-50:] = True
    assert select_training_rows(bars, END_S).resampled_share == 0.1


# --- labels ----------------------------------------------------------------------------------------------------------------------


def test_example_e3() -> None:
    raw = np.array([[0.90, 0.06, 0.04], [0.02, 0.97, 0.01], [0.05, 0.03, 0.92]])
    order = order_states(np.array([0.4, -1.1, 0.9]))
    assert order.tolist() == [1, 0, 2]
    transitions = order_transitions(raw, order)
    np.testing.assert_allclose(transitions, E3_TRANSITIONS, atol=1e-15)
    np.testing.assert_allclose(compute_stationary(transitions), [0.606060606, 0.212121212, 0.181818182], atol=1e-9)
    assert np.array([0.10, 0.85, 0.05])[order].tolist() == [0.85, 0.10, 0.05]


def test_equal_spreads_keep_their_raw_order() -> None:
    assert order_states(np.array([0.5, 0.5, -0.1])).tolist() == [2, 0, 1]


def test_impossible_transitions_become_a_millionth() -> None:
    lifted = order_transitions(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]), np.arange(3))
    assert lifted.min() == pytest.approx(1e-6, rel=1e-5)
    np.testing.assert_allclose(lifted.sum(axis=1), 1, atol=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_the_start_is_the_stationary_distribution(seed: int) -> None:
    transitions = order_transitions(np.random.default_rng(seed).dirichlet([0.05] * 3, 3), np.arange(3))
    start_p = compute_stationary(transitions)
    np.testing.assert_allclose(start_p @ transitions, start_p, atol=1e-14)
    equations = np.vstack([(transitions.T - np.eye(3))[:2], np.ones(3)])
    np.testing.assert_allclose(np.linalg.solve(equations, [0, 0, 1]), start_p, rtol=1e-8)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_order_of_hidden_states_changes_nothing(order: tuple[int, ...], rows: TrainingRows) -> None:
    index = list(order)

    def permuted(z: FloatArray, lengths: IntArray, seed: int) -> Restart:
        one = a_restart(z, lengths, seed)
        return Restart(one.means[index], one.variances[index], one.transitions[np.ix_(index, index)], one.occupancy[index], one.path)

    plain, other = fit_hmm("BTC", rows, a_restart).model, fit_hmm("BTC", rows, permuted).model
    assert plain is not None
    assert other is not None
    assert plain.model_id == other.model_id
    features = compute_features(walk(N_SLOTS, 11), END_S - 300 * HOUR_S, END_S - HOUR_S)
    one, two = (filter_posteriors(features, [ServedModel(each, START_S)], END_S - 200 * HOUR_S, END_S - HOUR_S) for each in (plain, other))
    assert list(one) == list(two)
    assert compute_label_stability(rows, plain, a_model()) == compute_label_stability(rows, other, a_model())


def test_labels_are_told_weak_or_one_sided() -> None:
    model = a_model()
    assert not model.has_weak_labels
    assert not model.has_one_sided_labels
    close = model.means.copy()
    close[:, 1] = [-1.0, -0.91, 1.0]
    assert replace(model, means=close).has_weak_labels
    # In units of the feature every state rises: the mean spread is one and a half deviations up.
    assert replace(model, feature_mean=np.array([0.0, 0.018, 0.0, 1.1])).has_one_sided_labels


# --- acceptance ------------------------------------------------------------------------------------------------------------------


def test_the_accepted_model_is_the_restart_with_the_highest_likelihood(rows: TrainingRows, model: HmmModel) -> None:
    z = (rows.x - rows.x.mean(axis=0)) / rows.x.std(axis=0)
    tries = [fit_with_hmmlearn(z, rows.lengths, 42 + r) for r in range(5)]
    assert model.restart_lls == tuple(each.path[-1] for each in tries)
    assert model.log_likelihood == max(model.restart_lls)
    best = tries[model.restart]
    np.testing.assert_array_equal(model.means, best.means[np.argsort(best.means[:, 1])])
    assert np.all(np.diff(model.means[:, 1]) > 0)
    assert 0.999 < model.occupancy.sum() < 1.001


def test_equal_likelihoods_take_the_earliest_restart(rows: TrainingRows) -> None:
    def drifting(z: FloatArray, lengths: IntArray, seed: int) -> Restart:
        return replace(a_restart(z, lengths, seed), path=(-10.0, -9.995 + {42: 0.0, 43: 9e-10, 44: -1.0}.get(seed, 0.0)))

    result = fit_hmm("BTC", rows, drifting)
    assert result.model is not None
    assert result.model.restart == 0


def test_a_restart_that_is_not_usable_does_not_count_however_likely(rows: TrainingRows) -> None:
    def one_runs_on(z: FloatArray, lengths: IntArray, seed: int) -> Restart:
        return replace(a_restart(z, lengths, seed), path=(-2.0, -1.0)) if seed == 42 else a_restart(z, lengths, seed)

    result = fit_hmm("BTC", rows, one_runs_on)
    assert result.model is not None
    assert result.model.restart == 1
    assert result.restart_lls[0] == -1.0


FAULTS: list[tuple[str, Callable[[Restart], Restart]]] = [
    ("non_finite", lambda one: replace(one, means=np.full((3, 4), np.nan))),
    ("non_finite", lambda one: replace(one, variances=np.full((3, 4), np.inf))),
    ("not_converged", lambda one: replace(one, path=(-10.0, -9.98))),
    ("not_converged", lambda one: replace(one, path=(*one.path,) * (MAX_ITERATIONS // 2))),
    ("not_converged", lambda one: replace(one, path=(np.nan, np.nan))),
    ("not_converged", lambda one: replace(one, path=(-10.0,))),
    ("bad_transition", lambda one: replace(one, transitions=one.transitions * 1.00001)),
    ("bad_transition", lambda one: replace(one, transitions=np.array([[1.1, -0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))),
    ("tiny_variance", lambda one: replace(one, variances=np.full((3, 4), 9e-7))),
    ("state_collapse", lambda one: replace(one, occupancy=np.array([0.009, 0.5, 0.491]))),
]


@pytest.mark.parametrize(("reason", "spoil"), FAULTS)
def test_a_faulty_fit_is_rejected_with_its_reason(reason: str, spoil: Callable[[Restart], Restart], rows: TrainingRows) -> None:
    result = fit_hmm("BTC", rows, lambda z, lengths, seed: spoil(a_restart(z, lengths, seed)))
    assert (result.model, result.reason) == (None, reason)
    assert (result.n_rows, len(result.restart_lls), len(result.attempt_id)) == (500, 5, 16)


def test_a_fitter_that_raises_is_a_rejection(rows: TrainingRows) -> None:
    def failing(z: FloatArray, lengths: IntArray, seed: int) -> Restart:
        if seed == 42:
            raise np.linalg.LinAlgError("singular")
        raise FloatingPointError("overflow")

    result = fit_hmm("BTC", rows, failing)
    assert result.reason is Rejection.FIT_EXCEPTION
    assert np.isnan(result.restart_lls).all()


def test_a_mistake_of_ours_in_the_fitter_is_not_filed_as_bad_data(rows: TrainingRows) -> None:
    def broken(z: FloatArray, lengths: IntArray, seed: int) -> Restart:
        raise TypeError("wrong argument")

    with pytest.raises(TypeError):
        fit_hmm("BTC", rows, broken)


def test_a_fit_stopped_by_the_iteration_limit_is_rejected_though_the_library_calls_it_converged(
    monkeypatch: pytest.MonkeyPatch, rows: TrainingRows
) -> None:
    # Six iterations are too few for these bars. The library says "converged" all the same.
    from hmmlearn.base import ConvergenceMonitor

    monkeypatch.setattr(hmm_fit, "MAX_ITERATIONS", 6)
    flags = []
    real = ConvergenceMonitor.converged.fget
    monkeypatch.setattr(ConvergenceMonitor, "converged", property(lambda self: flags.append(real(self)) or flags[-1]))
    result = fit_hmm("BTC", rows)
    assert result.reason is Rejection.NOT_CONVERGED
    assert flags.count(True) == 5


def test_a_constant_column_is_rejected(rows: TrainingRows) -> None:
    x = rows.x.copy()
    x[:, 3] = 1.0
    assert fit_hmm("BTC", replace(rows, x=x)).reason is Rejection.ZERO_VARIANCE


def test_features_beyond_float64_are_rejected(rows: TrainingRows) -> None:
    x = rows.x.copy()
    x[7, 0] = 1e200  # its square is infinite
    assert fit_hmm("BTC", replace(rows, x=x)).reason is Rejection.NON_FINITE


def test_a_state_of_one_outlier_is_rejected(rows: TrainingRows) -> None:
    x = rows.x.copy()
    x[250] = [500.0, 0.0, 0.0, 1.0]
    assert fit_hmm("BTC", replace(rows, x=x)).reason is Rejection.STATE_COLLAPSE


def test_too_few_rows_are_rejected_before_anything_is_fitted() -> None:
    end_s = START_S + (255 + 149) * HOUR_S
    result = fit_hmm("BTC", select_training_rows(walk(255 + 149, 1), end_s))
    assert (result.n_rows, result.reason, result.restart_lls) == (149, Rejection.TOO_FEW_ROWS, ())
    nothing = fit_hmm("BTC", select_training_rows(walk(10, 1), end_s))
    assert (nothing.n_rows, nothing.first_ts_s, nothing.last_ts_s) == (0, None, None)


def test_rejections_of_different_inputs_or_reasons_have_different_ids(rows: TrainingRows) -> None:
    def id_of(series: str, used: TrainingRows, fault: int) -> str:
        return fit_hmm(series, used, lambda z, lengths, seed: FAULTS[fault][1](a_restart(z, lengths, seed))).attempt_id

    ids = [
        id_of("BTC", rows, 0), id_of("ETH", rows, 0), id_of("BTC", rows, 2), id_of("BTC", replace(rows, train_end_s=END_S + 1), 0),
        id_of("BTC", replace(rows, x=rows.x * 1.5), 0),
    ]  # fmt: skip
    assert len(set(ids)) == 5
    assert id_of("BTC", rows, 0) == ids[0]


# --- identity and stability ------------------------------------------------------------------------------------------------------


def test_the_same_bars_give_the_same_model_and_one_changed_bar_another(rows: TrainingRows, model: HmmModel) -> None:
    again = fit_hmm("BTC", select_training_rows(walk(N_SLOTS, 11), END_S))
    assert (again.attempt_id, again.reason) == (model.model_id, None)
    bars = walk(N_SLOTS, 11)
    bars.close[-1] *= 1.0001
    assert fit_hmm("BTC", select_training_rows(bars, END_S)).attempt_id != model.model_id


def test_the_id_is_that_of_text_and_little_endian_doubles(model: HmmModel) -> None:
    import hashlib
    import struct

    head = f"BTC|1h|so-1|{np.datetime64(model.first_ts_s, 's')}Z|{np.datetime64(model.last_ts_s, 's')}Z".encode()
    parts = (model.feature_mean, model.feature_std, model.means, model.variances, model.transitions, model.start_p)
    numbers = [float(value) for part in parts for value in part.ravel()]
    assert model.model_id == hashlib.sha256(head + struct.pack(f"<{len(numbers)}d", *numbers)).hexdigest()[:16]


def test_stability_is_the_share_of_rows_that_keep_their_label(rows: TrainingRows, model: HmmModel) -> None:
    assert compute_label_stability(rows, model, None) is None
    assert compute_label_stability(rows, model, model) == 1.0
    swapped = replace(model, means=model.means[::-1], variances=model.variances[::-1])
    mine, theirs = (label_rows(each, rows.ts_s, rows.x) for each in (model, swapped))
    assert compute_label_stability(rows, model, swapped) == np.mean(mine == theirs) < 0.9


def test_training_labels_restart_after_a_long_gap(model: HmmModel, rows: TrainingRows) -> None:
    # Cut in two by five absent slots, the second half is labelled as if it stood alone.
    late = rows.ts_s + np.where(np.arange(500) >= 250, 5 * HOUR_S, 0)
    whole = label_rows(model, late, rows.x)
    np.testing.assert_array_equal(whole[250:], label_rows(model, rows.ts_s[250:], rows.x[250:]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"means": np.zeros((3, 3))}, "means was"),
        ({"feature_mean": np.array([0, 0, 0, np.nan])}, "feature_mean was"),
        ({"variances": np.zeros((3, 4))}, "not positive"),
        ({"feature_std": np.array([1.0, 1.0, 1.0, 0.0])}, "not positive"),
        ({"transitions": np.full((3, 3), 0.4)}, "each row must be"),
        ({"start_p": np.array([0.5, 0.6, -0.1])}, "each row must be"),
        ({"series": "DOGE"}, "series was"),
        ({"timeframe": Timeframe.D1}, "timeframe was"),
    ],
)
def test_what_is_no_model_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(a_model(), **changes)


def test_only_a_fit_pays_for_the_heavy_imports() -> None:
    import subprocess
    import sys

    code = (
        "import sys, regime_pipeline.regime.opinions.hmm_fit, regime_pipeline.regime.opinions.survival\n"
        "import regime_pipeline.regime.opinions.consensus\n"
        "print([name for name in ('hmmlearn', 'sklearn', 'pandas') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
