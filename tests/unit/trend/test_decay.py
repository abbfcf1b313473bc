"""EDX: the worked example, and the closed forms against the windows recomputed as the rules are written."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.indicators import kernels as ind
from regime_pipeline.trend.decay import D_SIZE, decay, extend_tape, start_tape
from regime_pipeline.trend.profile import V4, V5, Constants
from regime_pipeline.trend.tape import CHUNK_BARS, TAPE_COLUMNS
from tests import reference

WARM_UP_BARS = 340
"""S3 cannot begin before bar 333: from there on the series' own RSI and ADX are in full swing."""
TOLERANCE = 1e-10  # the specification allows 1e-9
RULES = {V5: reference.V5, V4: reference.V4}


@dataclass(frozen=True, repr=False)
class Uptrend:
    """Bars of a series whose S3 begins at `start`, as lists; `recipe` is how a random one was made."""

    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: list[float]
    start: int = WARM_UP_BARS
    recipe: str = ""

    def __repr__(self) -> str:
        return f"Uptrend({self.recipe})"

    def since_start(self, t: int) -> tuple[list[float], ...]:
        rows = slice(self.start, self.start + t + 1)
        return self.open[rows], self.high[rows], self.low[rows], self.close[rows], self.volume[rows]


def kernel_edx(trend: Uptrend, k: Constants) -> np.ndarray:
    """Step the decay kernel over an uptrend: rows (edx, slow, struct, part, comp) for T = 0, 1, ..."""
    n = len(trend.close)
    ic, ts_s = ind.new_carry(), np.arange(n) * 60
    h, low, c, v = (np.array(x) for x in (trend.high, trend.low, trend.close, trend.volume))
    s = trend.start
    ind.run_indicators(ic, ts_s[:s], h[:s], low[:s], c[:s], v[:s], 60, k.eps, k.rsi_flat)
    n_chunks = (n - s) // CHUNK_BARS + 1
    d, pool, chunks = np.zeros(D_SIZE), np.zeros((n_chunks, CHUNK_BARS, TAPE_COLUMNS)), np.arange(n_chunks, dtype=np.int32)
    extremes, rec, out = np.zeros((n_chunks, 2)), np.empty(ind.N_FIELDS), np.empty((n - s, 5))
    for t in range(n - s):
        i = s + t
        ind.step_indicators(ic, ts_s[i], h[i], low[i], c[i], v[i], 60, k.eps, k.rsi_flat, rec)
        if t == 0:
            start_tape(d, rec, h[i], low[i], c[i], v[i], pool, chunks, extremes)
        else:
            extend_tape(d, t, rec, h[i], low[i], c[i], v[i], k.eps, pool, chunks, extremes)
        assert decay(d, t, ic, rec, k, pool, chunks, extremes, out[t]) == -1
    return out


TIE = 2e-11


def deviation(got: np.ndarray, trend: Uptrend, t: int, rules: reference.EdxRules) -> float:
    """Largest distance of (edx, slow, struct, part, comp) at T = t from the windows recomputed.

    The combining rule jumps where one window begins to exceed another. Where two windows tie to within `TIE` (an unchanging price),
    rounding decides in any implementation, so each of the sides counts as right.
    """
    expected = reference.edx_score(*trend.since_start(t), rules)
    worst = 0.0
    for name, value in zip(("slow", "struct", "part", "comp"), got[1:], strict=True):
        windows = expected.parts[name]
        sides = product((0.0, TIE, 2 * TIE), repeat=len(windows)) if min(np.abs(np.diff(windows)), default=1.0) < TIE else [(0.0,) * 3]
        worst = max(worst, min(abs(value - reference.combine([w + s for w, s in zip(windows, side, strict=False)])) for side in sides))
    weights = (0.30, 0.25, 0.20, 0.10)
    edx = reference.clamp01(sum(w * x for w, x in zip(weights, got[1:], strict=True)) / rules.divisor)
    return max(worst, abs(got[0] - edx))


def make_uptrend(
    *,
    seed: int,
    bars: int,
    sd: float,
    drift: float,
    still: float,
    price: float,
    digits: int,
    wick: float,
    decades: int,
    silent: float,
    dying: int,
) -> Uptrend:
    """Make a series: `still` and `silent` are shares of bars without a move or a trade, `decades` how far volumes spread.

    From bar `dying` of the uptrend on, volume is a trifle beside what was traded before. `digits` > 0 puts closes on a grid.
    """
    rng = np.random.default_rng(seed)
    n = WARM_UP_BARS + bars
    moves = drift + sd * rng.normal(size=n)
    moves[rng.random(n) < still] = 0.0
    c = price * np.exp(np.cumsum(moves))
    if digits:
        c = np.array([float(f"{x:.{digits}g}") for x in c])
    o = np.concatenate((c[:1], c[:-1]))
    h = np.maximum(o, c) * (1 + wick * rng.random(n))
    low = np.minimum(o, c) * (1 - wick * rng.random(n))
    v = 1e6 * rng.random(n) * 10.0 ** (-decades * rng.random(n))
    v[rng.random(n) < silent] = 0.0
    v[WARM_UP_BARS + dying :] *= 1e-9
    recipe = f"{seed=}, {bars=}, {sd=}, {drift=}, {still=}, {price=}, {digits=}, {wick=}, {decades=}, {silent=}, {dying=}"
    return Uptrend(*(x.tolist() for x in (o, h, low, c, v)), recipe=recipe)


def uptrends(max_bars: int) -> st.SearchStrategy[Uptrend]:
    """Series of every temper: quiet to wild, drifting or not, on a tick grid, with flat stretches and silent or bursting volume."""
    return st.builds(
        make_uptrend,
        seed=st.integers(0, 2**32 - 1),
        bars=st.integers(12, max_bars),
        sd=st.sampled_from([3e-4, 0.0, 1e-5, 2e-3, 2e-2]),
        drift=st.sampled_from([0.0, 2e-4, -2e-3, 5e-3]),
        still=st.sampled_from([0.0, 0.5, 0.97]),
        price=st.sampled_from([1.0, 1e-9, 6e4]),
        digits=st.sampled_from([0, 4]),
        wick=st.sampled_from([3e-4, 0.0, 1e-2]),
        decades=st.sampled_from([0, 6, 12]),
        silent=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
        dying=st.integers(0, max_bars),
    )


def test_worked_example_of_thirty_one_bars() -> None:
    # 10.6 counts 31 bars from the S3 start; what lies before does not matter, so the warm-up just repeats the first open.
    i = np.arange(31)
    c = 100 + i + 2.4 * ((7 * i) % 5 - 2)
    o = np.concatenate(([100.0], c[:-1]))
    h, low, v = np.maximum(o, c) + 0.5, np.minimum(o, c) - 0.5, 1000.0 + 50 * (i % 4)
    flat = [100.0] * WARM_UP_BARS
    trend = Uptrend(*(flat + list(x) for x in (o, h, low, c)), volume=[1000.0] * WARM_UP_BARS + list(v))
    edx, slow, struct, part, comp = kernel_edx(trend, V5.constants)[30]
    assert slow == pytest.approx(0.444569370, abs=1e-9)
    assert part == pytest.approx(0.027567048, abs=1e-9)
    assert (struct, comp) == (0.5, 0.5)
    assert edx == pytest.approx(0.369275554, abs=1e-9)
    assert kernel_edx(trend, V4.constants)[30, 0] == pytest.approx(0.357855914, abs=1e-9)

    by_window = reference.edx_score(*trend.since_start(30), reference.V5).parts
    assert by_window["slow"] == pytest.approx([0.390908354, 0.426808282, 0.476690429], abs=1e-9)
    assert by_window["part"] == pytest.approx([0.013226451, 0.016267765, 0.040082856], abs=1e-9)


@pytest.mark.parametrize("profile", [V5, V4], ids=["v5", "v4"])
@settings(max_examples=60, deadline=None)
@given(trend=uptrends(max_bars=120))
def test_closed_forms_equal_the_windows_recomputed_at_every_bar_of_a_young_uptrend(profile, trend) -> None:
    got = kernel_edx(trend, profile.constants)
    assert (got[:10, 0] == 0.5).all()
    assert np.isnan(got[:10, 1:]).all()
    for t in range(10, len(got)):
        assert deviation(got[t], trend, t, RULES[profile]) <= TOLERANCE, f"T = {t}"


@pytest.mark.parametrize("profile", [V5, V4], ids=["v5", "v4"])
@settings(max_examples=25, deadline=None)
@given(trend=uptrends(max_bars=800), data=st.data())
def test_closed_forms_equal_the_windows_recomputed_in_an_old_uptrend(profile, trend, data) -> None:
    got = kernel_edx(trend, profile.constants)
    last = len(got) - 1
    for t in {last, *data.draw(st.lists(st.integers(10, last), min_size=3, max_size=6))}:
        assert deviation(got[t], trend, t, RULES[profile]) <= TOLERANCE, f"T = {t}"
