"""Evaluation: example E12, what must and must not be found (property 15), and every figure against a plain computation."""

import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import CallerError
from regime_pipeline.regime.opinions.evaluation import (
    Evaluation,
    EvaluationInput,
    EvaluationRow,
    Stability,
    calibrate,
    evaluate,
    summarise_stability,
    windows_before,
)
from regime_pipeline.regime.opinions.outcomes import (
    compute_bound,
    compute_t,
    forward_returns,
    forward_volatility,
    rank_correlation,
    trailing_volatility,
)

HOUR_S = 3600
CLASSES = np.array(["bearish", "ranging", "bullish"])


def hours(n: int, first: int = 0) -> np.ndarray:
    return HOUR_S * np.arange(first, first + n, dtype=np.int64)


def given_labels(returns: np.ndarray, labels: np.ndarray, **more: object) -> EvaluationInput:
    """Labels at the hours 24 to n - 25 of a market with these hourly returns: return i leads into hour i + 1."""
    close = 100 * np.exp(np.concatenate([[0.0], np.cumsum(returns)]))
    inner = hours(len(returns) + 1)[24:-24]
    return EvaluationInput("BTC", hours(len(returns) + 1), close, inner, {"label_1h": labels[24 : 24 + inner.size]}, **more)


def row_of(found: Evaluation, opinion: str, label: str, horizon_h: int) -> EvaluationRow:
    (row,) = [row for row in found.rows if (row.opinion, row.label, row.horizon_h) == (opinion, label, horizon_h)]
    return row


def test_worked_example_e12() -> None:
    returns = np.array([0.004, -0.002, 0.006, 0.001, 0.003, -0.001])
    assert compute_t(returns, 0.0005, 2, min_effective=3) == pytest.approx(0.7545826779, abs=1e-10)
    assert compute_t(returns, 0.0005, 2) is None
    assert compute_bound(54) == pytest.approx(3.3121, abs=5e-5)


def test_shuffled_labels_pass_no_more_often_than_promised() -> None:
    with_a_pass = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        returns = 0.005 * rng.standard_t(4, 1000)
        with_a_pass += any(row.passed for row in evaluate([given_labels(returns, rng.choice(CLASSES, 1001))]).rows)
    assert with_a_pass <= 20


def test_a_planted_effect_of_one_deviation_is_found() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(CLASSES, 1001)
    # the return of the hour after a bullish label is one deviation higher
    returns = 0.005 * (rng.normal(size=1000) + (labels[:-1] == "bullish"))
    found = evaluate([given_labels(returns, labels)])
    row = row_of(found, "label_1h", "bullish", 1)
    assert row.passed
    assert row.mean_diff == pytest.approx(0.005 * 2 / 3, rel=0.15)
    assert row.hit_rate > row.base_rate > 0.5


def test_a_drift_in_all_classes_is_no_finding() -> None:
    rng = np.random.default_rng(1)
    labels = rng.choice(CLASSES, 3001)
    drifting = evaluate([given_labels(0.005 * rng.normal(size=3000) + 0.002, labels)])
    assert not any(row.passed for row in drifting.rows)
    assert all(row.t is not None for row in drifting.rows if row.horizon_h < 24)


def test_each_figure_is_what_it_says() -> None:
    rng = np.random.default_rng(2)
    returns = 0.01 * rng.normal(size=400)
    labels = rng.choice(np.array(["bearish", "bullish", "unknown"]), 401)
    found = evaluate([given_labels(returns, labels)], min_effective=1)
    at = np.arange(24, 377)  # hours with a snapshot; return i leads from hour i to i + 1
    mine = at[labels[at] == "bearish"]
    for h in (1, 4, 24):
        ahead = {int(i): returns[i : i + h] for i in at}
        sums = {i: path.sum() for i, path in ahead.items()}
        row = row_of(found, "label_1h", "bearish", h)
        mean_of_all = np.mean(list(sums.values()))
        values = np.array([sums[int(i)] for i in mine])
        assert (row.n, row.n_eff) == (mine.size, mine.size / h)
        assert row.mean_diff == pytest.approx(values.mean() - mean_of_all, abs=1e-12)
        assert row.t == pytest.approx((values.mean() - mean_of_all) / (values.std(ddof=1) / math.sqrt(mine.size / h)), rel=1e-9)
        assert row.mean_abs == pytest.approx(np.abs(values).mean(), abs=1e-12)
        assert row.hit_rate == np.mean(values < 0)
        assert row.base_rate == pytest.approx(np.mean([total < 0 for total in sums.values()]))
        assert row.trailing_vol == pytest.approx(np.mean([returns[i - 24 : i].std(ddof=1) for i in mine]), abs=1e-12)
        if h == 1:
            assert row.fwd_vol is None
        else:
            assert row.fwd_vol == pytest.approx(np.mean([ahead[int(i)].std(ddof=1) for i in mine]), abs=1e-12)
    assert {row.label for row in found.rows} == {"bearish", "bullish"}
    assert (found.m_tests, found.bound) == (6, compute_bound(6))


def test_a_class_with_few_effective_hours_has_no_t() -> None:
    rng = np.random.default_rng(3)
    labels = np.array(["bearish"] * 400)
    labels[[100, 200]] = "bullish"
    found = evaluate([given_labels(0.01 * rng.normal(size=399), labels)])
    assert row_of(found, "label_1h", "bullish", 1).t is None
    assert row_of(found, "label_1h", "bearish", 24).t is None  # 352 / 24 is below 30
    assert found.m_tests == sum(row.t is not None for row in found.rows) == 2


def test_missing_closes_take_hours_away_not_results() -> None:
    n = 200
    close_ts_s = np.delete(hours(n), 100)
    close = np.linspace(100, 120, n - 1)
    returns = forward_returns(close_ts_s, close, hours(n), 4)
    assert np.flatnonzero(np.isnan(returns)).tolist() == [96, 100, 196, 197, 198, 199]
    volatility = forward_volatility(close_ts_s, close, hours(n), 4)
    # the hole takes two hourly returns, so every window that holds one of them: starts 96 to 100, and the last four
    assert np.flatnonzero(np.isnan(volatility)).tolist() == [96, 97, 98, 99, 100, 196, 197, 198, 199]
    trailing = trailing_volatility(close_ts_s, close, hours(n))
    assert np.flatnonzero(np.isnan(trailing)).tolist() == [*range(24), *range(100, 125)]
    assert forward_volatility(close_ts_s, close, hours(0), 4).size == 0


def test_a_score_passes_only_when_it_beats_trailing_volatility() -> None:
    rng = np.random.default_rng(4)
    sd = np.repeat(rng.choice([0.002, 0.02], 100), 48)
    returns = sd * rng.normal(size=4800)
    knows = np.concatenate([sd, [0.0]])[24:-24]
    scores = {"knows": knows + 1e-4 * rng.normal(size=knows.size), "noise": rng.normal(size=knows.size), "flat": np.ones(knows.size)}
    found = evaluate([given_labels(returns, rng.choice(CLASSES, 4801), scores=scores)])
    best, noise, flat = (row_of(found, name, "score", 24) for name in ("knows", "noise", "flat"))
    assert best.passed
    assert best.spearman > best.spearman_baseline > 0
    assert not noise.passed
    assert (flat.t, flat.spearman, flat.passed) == (None, None, False)
    # a worse copy of trailing volatility is significant and still fails
    inner = hours(4801)[24:-24]
    close = 100 * np.exp(np.concatenate([[0.0], np.cumsum(returns)]))
    copy = trailing_volatility(hours(4801), close, inner) * np.exp(0.8 * rng.normal(size=inner.size))
    row = row_of(evaluate([given_labels(returns, rng.choice(CLASSES, 4801), scores={"copy": copy})]), "copy", "score", 24)
    assert abs(row.t) > 3
    assert not row.passed


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40))
@settings(max_examples=50)
def test_rank_correlation_is_that_of_mean_ranks(values: list[int]) -> None:
    a = np.array(values, dtype=float)
    b = np.arange(len(values), dtype=float)
    ranks = [np.mean([i + 1 for i, other in enumerate(sorted(values)) if other == value]) for value in values]
    rho = rank_correlation(a, b)
    if len(set(values)) == 1:
        assert rho is None
    else:
        assert rho == pytest.approx(np.corrcoef(ranks, b)[0, 1], abs=1e-12)
    assert rank_correlation(b, -b) == pytest.approx(-1.0)


def test_flips_and_unknown_hours_are_counted_between_known_neighbours() -> None:
    labels = np.array(["bullish", "bearish", "unknown", "bearish", "bearish", "bullish"])
    ts_s = hours(6)
    ts_s[5] += HOUR_S  # an hour without a snapshot lies before the last
    given_input = EvaluationInput("ETH", hours(2), np.array([1.0, 2.0]), ts_s, {"consensus": labels})
    (rhythm,) = evaluate([given_input]).rhythms
    # known neighbours: bullish-bearish and bearish-bearish, one flip in two hours
    assert (rhythm.hours, rhythm.flips_per_day, rhythm.unknown_share) == (6, pytest.approx(12.0), pytest.approx(1 / 6))


def test_alarms_are_runs_per_thirty_days() -> None:
    levels = np.array(["warming", "none", "alert", "unknown", "urgent", "alert", "none", "urgent", "none"])
    given_input = EvaluationInput("ETH", hours(1), np.array([1.0]), hours(9), {"cp_level_1h": levels})
    (alarms,) = evaluate([given_input]).alarms
    # seven known hours; two runs at alert or above (the unknown hour does not break one), two at urgent
    assert alarms.alerts_per_month == pytest.approx(2 * 720 / 7)
    assert alarms.urgents_per_month == pytest.approx(2 * 720 / 7)


def test_calibration_compares_tenths_with_what_happened() -> None:
    probability = np.array([0.05, 0.08, 0.95, 1.0])
    happened = np.array([False, True, True, True])
    found = calibrate("BTC", "rise_1h", probability, happened)
    assert [(each.low, each.n, each.happened) for each in found.bins] == [(0.0, 2, 0.5), (0.9, 2, 1.0)]
    assert found.brier == pytest.approx((0.05**2 + 0.92**2 + 0.05**2) / 4)
    assert found.brier_base == pytest.approx((0.75**2 + 3 * 0.25**2) / 4)
    assert found.skill == pytest.approx(1 - found.brier / found.brier_base)
    assert calibrate("BTC", "rise_1h", np.empty(0), np.empty(0, dtype=bool)) is None
    assert calibrate("BTC", "rise_1h", np.array([0.3]), np.array([True])).skill is None
    with pytest.raises(CallerError, match="probabilities"):
        calibrate("BTC", "rise_1h", np.array([1.1]), np.array([True]))


def test_posteriors_and_switches_are_calibrated_on_known_hours() -> None:
    labels = np.array(["bullish", "bullish", "bearish", "unknown", "bearish"])
    p_1h = np.array([[0, 0, 1.0], [0, 0.4, 0.6], [1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])
    close = np.array([100.0, 101, 100, 99, 98, 97])
    switch = np.array([0.1, 0.3, 0.2, np.nan, 0.2])
    given_input = EvaluationInput("BTC", hours(6), close, hours(5), {"label_1h": labels}, p_1h=p_1h, p_switch60_1h=switch)
    rise, left = evaluate([given_input]).calibrations
    # forecasts of a rise 1.0, 0.8, 0.0, 0.25 (the unknown hour left out); it rose in the first hour only
    assert (rise.forecast, rise.n, rise.brier) == ("rise_1h", 4, pytest.approx((0 + 0.64 + 0 + 0.0625) / 4))
    # forecasts of a switch 0.1 and 0.3: the second came true; the third and fourth touch the unknown hour
    assert (left.forecast, left.n, left.brier) == ("switch_1h", 2, pytest.approx((0.01 + 0.49) / 2))


def test_stability_over_refits_is_summarised() -> None:
    assert summarise_stability([None, 0.9, 0.6, 0.3]) == Stability(3, pytest.approx(0.6), 0.3, pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert summarise_stability([None]) is None


def test_windows_are_the_last_month_and_the_last_twelve() -> None:
    windows = windows_before(datetime(2026, 1, 1, 2, tzinfo=UTC))
    assert windows["month"] == (datetime(2025, 12, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    assert windows["year"] == (datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    # 1 March 01:00 five hours east is still February in UTC
    assert windows_before(datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=5))))["month"][0] == datetime(2026, 1, 1, tzinfo=UTC)


def test_callers_mistakes_are_refused() -> None:
    close = np.array([1.0, 2.0])
    labels = {"label_1h": np.array(["bullish", "bearish"])}
    with pytest.raises(CallerError, match="ascend"):
        EvaluationInput("BTC", hours(2), close, hours(2)[::-1], labels)
    with pytest.raises(CallerError, match="full hours"):
        EvaluationInput("BTC", hours(2) + 60, close, hours(2), labels)
    with pytest.raises(CallerError, match="another length"):
        EvaluationInput("BTC", hours(2), close, hours(3), labels)
    with pytest.raises(CallerError, match="another length"):
        EvaluationInput("BTC", hours(3), close, hours(2), labels)
    with pytest.raises(CallerError, match="not above zero"):
        EvaluationInput("BTC", hours(2), np.array([1.0, 0.0]), hours(2), labels)
    with pytest.raises(CallerError, match="series"):
        EvaluationInput("DOGE", hours(2), close, hours(2), labels)
    with pytest.raises(CallerError, match="must be 1 or more"):
        compute_bound(0)
    assert evaluate([]) == Evaluation((), 0, None, (), (), ())
