"""Change points: example E1, a scalar implementation beside it, and properties 1, 2, 5 and 7."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import CallerError
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.bars import OpinionBars
from regime_pipeline.regime.opinions.changepoint import (
    HAZARD,
    LEVELS,
    MAX_RUN,
    NO_TIME,
    ChangepointRows,
    ChangepointState,
    Level,
    advance_changepoints,
    closes_by_slot,
    new_changepoint_state,
    restore_changepoint_state,
    standardise_returns,
)
from regime_pipeline.regime.opinions.terms import STATUSES, Status

HOUR_S = 3600
E1_X = [0.2, -0.4, 0.1, 0.5, -0.3, 0.0, 2.6, 3.1, 2.2, -2.9, 0.3, -0.1]
E1_P3 = [1, 1, 0.0108768173, 0.0103915434, 0.0095059198, 0.0086968338, 0.1100195462, 0.3324820406, 0.0141050659, 0.0336897910]
E1_P3 += [0.0246885634, 0.0205190611]
E1_P10 = [1.0] * 9 + [0.4383891465, 0.3496689248, 0.2844253487]
E1_EXPECTED = [0.9950000000, 1.9862380026, 2.9762261687, 3.9636967630, 4.9527261961, 5.9436619673, 6.2947838433, 5.5844413565]
E1_EXPECTED += [5.9229330933, 7.4491068350, 8.9540267186, 10.2501368501]
E1_MODE_PROB = [0.9950000000, 0.9912380026, 0.9891231827, 0.9870540772, 0.9862243751, 0.9861767095, 0.8687801691, 0.5747065106]
E1_MODE_PROB += [0.4646265506, 0.5616108535, 0.6469099489, 0.7064934551]


def slots(n: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + n, dtype=np.int64) * HOUR_S


def advance(z: np.ndarray, state: ChangepointState | None = None) -> tuple[ChangepointRows, ChangepointState]:
    began = new_changepoint_state() if state is None else state
    first = 0 if began.ts_s is None else began.ts_s // HOUR_S + 1
    return advance_changepoints(began, slots(len(z), first), z, HOUR_S)


def assert_same(a: ChangepointRows, b: ChangepointRows) -> None:
    for name in ChangepointRows.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def assert_same_state(a: ChangepointState, b: ChangepointState) -> None:
    assert (a.ts_s, a.n_obs, a.missing_run, a.alert_since_s) == (b.ts_s, b.n_obs, b.missing_run, b.alert_since_s)
    assert a.to_bytes() == b.to_bytes()


def joined(*parts: ChangepointRows) -> ChangepointRows:
    names = ChangepointRows.__dataclass_fields__
    return ChangepointRows(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


class Plain:
    """The recursion as the specification writes it, one run length at a time, in plain Python."""

    def __init__(self) -> None:
        self.runs = [(1.0, 0.0, 1.0, 1.0, 1.0)]

    def observe(self, x: float) -> None:
        weights = []
        for p, mu, kappa, alpha, beta in self.runs:
            nu, scale2 = 2 * alpha, beta * (kappa + 1) / (alpha * kappa)
            density = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi * scale2)
            density -= (nu + 1) / 2 * math.log1p((x - mu) ** 2 / (nu * scale2))
            weights.append((math.log(p) if p > 0.0 else -math.inf) + density)
        top = max(weights)
        likely = [math.exp(w - top) for w in weights]
        total = sum(likely)
        grown = [(HAZARD, 0.0, 1.0, 1.0, 1.0)]
        for (_, mu, kappa, alpha, beta), w in zip(self.runs, likely, strict=True):
            next_beta = beta + kappa * (x - mu) ** 2 / (2 * (kappa + 1))
            grown.append(((1 - HAZARD) * w / total, (kappa * mu + x) / (kappa + 1), kappa + 1, alpha + 0.5, next_beta))
        if len(grown) == MAX_RUN + 2:
            oldest, neighbour = grown.pop(), grown.pop()
            grown.append((neighbour[0] + oldest[0], *oldest[1:]))
        self.runs = grown


def a_market(rng: np.random.Generator, n: int) -> np.ndarray:
    """Standardised returns with calm and wild stretches, outliers and holes."""
    wild = np.repeat(rng.choice([0.5, 1.0, 3.0], n // 50 + 1), 50)[:n]
    z = rng.normal(size=n) * wild
    z[rng.random(n) < 0.02] *= 6.0
    z[rng.random(n) < 0.1] = np.nan
    return z


def test_worked_example_e1() -> None:
    state = new_changepoint_state()
    for i, x in enumerate(E1_X):
        rows, state = advance(np.array([x]), state)
        p = state.run[0, : i + 2]
        assert p[:3].sum() == pytest.approx(E1_P3[i], abs=1e-10)
        assert p[:10].sum() == pytest.approx(E1_P10[i], abs=1e-12 if i < 9 else 1e-10)
        assert rows.expected_run[0] == pytest.approx(E1_EXPECTED[i], abs=1e-10)
        assert (rows.run_mode[0], p[0]) == (i + 1, HAZARD)
        assert rows.mode_prob[0] == pytest.approx(E1_MODE_PROB[i], abs=1e-10)
    assert state.run[1:, 12] == pytest.approx([0.4076923077, 13, 7, 15.0546153846], abs=1e-10)


def test_worked_example_of_standardising() -> None:
    past = np.array([0.001, -0.002, 0.0005, 0.0015, -0.001])
    # 100 returns of this pattern have the pattern's mean; their deviation differs by ddof only: sqrt(5/4 * 99/100) of the five's.
    close = 100.0 * np.exp(np.cumsum(np.concatenate([[0.0], np.tile(past, 20), [0.004]])))
    z, _ = standardise_returns(close)
    assert np.isnan(z[:101]).all()
    assert z[101] == pytest.approx(2.7439773623 * math.sqrt(5 / 4 * 99 / 100), abs=1e-9)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_kernel_equals_the_recursion_written_plainly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = a_market(rng, 180)
    plain, state = Plain(), new_changepoint_state()
    for i in range(len(z)):
        _, state = advance(z[i : i + 1], state)
        if not np.isnan(z[i]):
            plain.observe(z[i])
    expected = np.array(plain.runs).T
    ours = state.run[:, : expected.shape[1]]
    np.testing.assert_allclose(ours[0], expected[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours[1:], expected[1:], rtol=1e-12, atol=1e-12)


def test_no_mass_is_lost_when_runs_outgrow_the_vector() -> None:
    z = np.random.default_rng(3).normal(size=520)
    plain, state = Plain(), new_changepoint_state()
    for i in range(len(z)):
        rows, state = advance(z[i : i + 1], state)
        plain.observe(z[i])
        assert state.run[0, : min(i + 1, MAX_RUN) + 1].sum() == pytest.approx(1.0, abs=1e-12)
        assert state.run[0, 0] == HAZARD
        if i >= 499:
            np.testing.assert_allclose(state.run[0], [run[0] for run in plain.runs], rtol=0, atol=1e-12)
            assert rows.expected_run[0] <= MAX_RUN
    # the last slot keeps the statistics of the hypothesis that has seen everything
    assert state.run[2, MAX_RUN] == 521.0
    assert state.run[1, MAX_RUN] == pytest.approx(z.sum() / 521.0, abs=1e-12)
    assert state.run[2, MAX_RUN - 1] == 500.0


def test_the_oldest_run_keeps_its_digits_after_a_million_bars() -> None:
    from regime_pipeline.regime.opinions.changepoint import _long_run_factor

    # gamma(a + 1/2) / gamma(a) by the duplication of factorials, in exact integers: a = n is (2n)! / (4^n n! (n-1)!) sqrt(pi)
    for n in (251, 400):
        exact = math.factorial(2 * n) / (4**n * math.factorial(n) * math.factorial(n - 1)) * math.sqrt(math.pi)
        kappa = 2.0 * n - 1.0
        assert _long_run_factor(float(n), kappa) == pytest.approx(exact * math.sqrt(kappa / (kappa + 1) / math.tau), rel=4e-15)
    # and for a huge one by sqrt(a - 1/4 + 1/(32 a)), whose error is of order a^-3
    assert _long_run_factor(1e7, 2e7 - 1) == pytest.approx(math.sqrt((1e7 - 0.25) * (2e7 - 1) / 2e7 / math.tau), rel=4e-15)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 700), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_batch_equals_incremental_equals_restored(seed: int, cuts: list[int]) -> None:
    z = a_market(np.random.default_rng(seed), 700)
    whole, whole_end = advance(z)
    parts, state = [], new_changepoint_state()
    for part in np.split(z, sorted(cuts)):
        rows, state = advance(part, state)
        if state.ts_s is not None:
            state = restore_changepoint_state(state.ts_s, state.n_obs, state.missing_run, state.alert_since_s, state.to_bytes())
        parts.append(rows)
    assert_same(joined(*parts), whole)
    assert_same_state(state, whole_end)


@given(st.integers(0, 2**32 - 1), st.integers(0, 400))
@settings(max_examples=25, deadline=None)
def test_rows_ignore_what_comes_later(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(0.01 * rng.normal(size=400)))
    close[rng.random(400) < 0.05] = np.nan
    other = close.copy()
    other[cut:] = rng.choice([np.nan, np.inf, -1.0, 5.0, 500.0], 400 - cut)
    z, z_other = standardise_returns(close)[0], standardise_returns(other)[0]
    np.testing.assert_array_equal(z[:cut], z_other[:cut])
    rows, rows_other = advance(z)[0], advance(z_other)[0]
    for name in ChangepointRows.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(rows, name)[:cut], getattr(rows_other, name)[:cut])


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
@settings(max_examples=20, deadline=None)
def test_z_ignores_the_unit_of_the_price(seed: int, factor: float) -> None:
    close = 100 * np.exp(np.cumsum(0.01 * np.random.default_rng(seed).normal(size=300)))
    np.testing.assert_allclose(standardise_returns(factor * close)[0], standardise_returns(close)[0], rtol=1e-9, atol=1e-9)


def test_z_looks_back_on_five_hundred_available_returns_before_the_bar() -> None:
    rng = np.random.default_rng(0)
    returns = 0.01 * rng.normal(size=800)
    close = 100 * np.exp(np.cumsum(np.concatenate([[0.0], returns])))
    close[300] = np.nan  # takes away the returns of slots 300 and 301
    available = np.delete(returns, [299, 300])
    past = available[-501:-1]
    z, status = standardise_returns(close)
    assert z[-1] == pytest.approx((available[-1] - past.mean()) / past.std(ddof=1), abs=1e-9)
    assert np.isnan(z[300:302]).all()
    assert [STATUSES[code] for code in status[[100, 101, 300, 301, 302]]] == [
        Status.SHORT_HISTORY,
        Status.OK,
        Status.MISSING_BAR,
        Status.MISSING_BAR,
        Status.OK,
    ]


def test_closes_lie_on_their_slots() -> None:
    ts_s = slots(10)[[1, 2, 5, 6, 9]]
    price = np.array([11.0, 12.0, 15.0, 16.0, 19.0])
    bars = OpinionBars.take(Timeframe.H1, RawBars(ts_s, price, price, price, price, price))
    np.testing.assert_array_equal(closes_by_slot(bars, 2 * HOUR_S, 7 * HOUR_S), [12.0, np.nan, np.nan, 15.0, 16.0, np.nan])
    with pytest.raises(CallerError, match="grid"):
        closes_by_slot(bars, 1, HOUR_S)


def test_prices_that_do_not_move_have_no_z() -> None:
    z, status = standardise_returns(np.full(300, 7.0))
    assert np.isnan(z).all()
    assert STATUSES[status[-1]] is Status.NAN_FEATURE


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, -1.0])
def test_an_unusable_close_is_a_missing_slot(bad: float) -> None:
    close = 100 * np.exp(np.cumsum(0.01 * np.random.default_rng(1).normal(size=200)))
    close[150] = bad
    missing = np.flatnonzero(np.isnan(standardise_returns(close)[0]))
    assert missing[missing > 100].tolist() == [150, 151]


def test_a_step_leaves_the_state_it_started_from_alone() -> None:
    _, state = advance(np.random.default_rng(5).normal(size=60))
    before = state.to_bytes()
    advance(np.array([4.0]), state)
    assert state.to_bytes() == before
    with pytest.raises(ValueError, match="read-only"):
        state.run[0, 0] = 1.0


def test_missing_observations_change_nothing_until_there_are_too_many() -> None:
    _, state = advance(np.random.default_rng(5).normal(size=60))
    rows, kept = advance(np.full(500, np.nan), state)
    assert kept.to_bytes() == state.to_bytes()
    assert set(rows.level) == {LEVELS.index(Level.UNKNOWN)}
    assert np.isnan(rows.cp_prob).all()
    assert (rows.alert_since_s == NO_TIME).all()
    assert set(rows.n_obs) == {60}
    rows, reset = advance(np.array([np.nan]), kept)
    assert reset.to_bytes() == new_changepoint_state().to_bytes()
    assert (rows.n_obs[0], reset.missing_run) == (0, 501)


def test_levels_warm_up_then_follow_the_probability_and_an_alert_keeps_its_start() -> None:
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(size=150), 6.0 + rng.normal(size=6), [np.nan], 6.0 + rng.normal(size=60)])
    rows, _ = advance(z)
    levels = [LEVELS[code] for code in rows.level]
    assert set(levels[:29]) == {Level.WARMING}
    assert np.isnan(rows.cp_prob[:29]).all()
    assert not np.isnan(rows.cp_prob[29])
    assert Level.URGENT in levels[150:156]
    assert levels[156] == Level.UNKNOWN
    for i, level in enumerate(levels):
        p = rows.cp_prob[i]
        expected = Level.URGENT if p >= 0.5 else Level.ALERT if p >= 0.3 else Level.NONE
        assert level in ({expected} if p == p else {Level.WARMING, Level.UNKNOWN})
        assert (rows.alert_since_s[i] != NO_TIME) == (level in {Level.ALERT, Level.URGENT})
    first = next(i for i in range(150, 157) if levels[i] in {Level.ALERT, Level.URGENT})
    # the hole at 156 does not break the run: the bar after it names the same start
    assert rows.alert_since_s[157] == rows.alert_since_s[first] == first * HOUR_S
    assert levels[-1] == Level.NONE


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_run_lengths_stay_a_distribution(seed: int) -> None:
    z = a_market(np.random.default_rng(seed), 600)
    rows, state = advance(z)
    assert (np.isfinite(state.run)).all()
    assert state.run[0, : min(state.n_obs, MAX_RUN) + 1].sum() == pytest.approx(1.0, abs=1e-12)
    assert ((rows.expected_run >= 0) & (rows.expected_run <= MAX_RUN)).all()
    known = ~np.isnan(rows.cp_prob)
    assert ((rows.cp_prob[known] >= 0) & (rows.cp_prob[known] <= 1 + 1e-12)).all()


def test_an_outlier_beyond_all_experience_leaves_numbers() -> None:
    _, state = advance(np.concatenate([np.random.default_rng(0).normal(size=100), [1e15, -1e15, 0.3]]))
    assert np.isfinite(state.run).all()
    assert state.run[0, :104].sum() == pytest.approx(1.0, abs=1e-12)


def test_unit_noise_alarms_as_often_as_measured() -> None:
    # specification 9.8: about 2.0 bars per 1000 start an alert and 0.5 an urgent one
    rows, _ = advance(np.random.default_rng(11).normal(size=20_000))
    high = rows.cp_prob >= 0.3
    starts = np.flatnonzero(high[1:] & ~high[:-1]).size
    assert 20 <= starts <= 80


def test_a_mean_shift_is_found_within_bars() -> None:
    delays = []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        rows, _ = advance(np.concatenate([rng.normal(size=200), 2.0 + rng.normal(size=60)]))
        found = np.flatnonzero(rows.cp_prob[200:] >= 0.3)
        delays.append(int(found[0]) + 1 if found.size else 60)
    assert np.median(delays) <= 6


def test_callers_mistakes_are_refused() -> None:
    _, state = advance(np.zeros(5))
    z = np.zeros(3)
    with pytest.raises(CallerError, match="one z per slot"):
        advance_changepoints(state, slots(2, 5), z, HOUR_S)
    with pytest.raises(CallerError, match="continue at 18000"):
        advance_changepoints(state, slots(3, 6), z, HOUR_S)
    with pytest.raises(CallerError, match="consecutive"):
        advance_changepoints(state, slots(3, 5)[[0, 2, 1]], z, HOUR_S)
    with pytest.raises(CallerError, match="consecutive"):
        advance_changepoints(state, slots(3, 5) + 1, z, HOUR_S)
    with pytest.raises(CallerError, match="infinite"):
        advance_changepoints(state, slots(3, 5), np.array([0.0, np.inf, 0.0]), HOUR_S)
    with pytest.raises(CallerError, match="shape"):
        standardise_returns(np.ones((2, 2)))
    raw = state.to_bytes()
    with pytest.raises(CallerError, match="need 7"):
        restore_changepoint_state(0, 6, 0, None, raw)
    with pytest.raises(CallerError, match="no distribution"):
        restore_changepoint_state(0, 5, 0, None, (raw[3], *raw[1:]))
