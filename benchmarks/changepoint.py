"""Change points: one bar against one numpy pass over the run-length vector, a plain Python version, and the packages there are.

The two packages on the index, `bocd` and `bayesian_changepoint_detection`, have had no release for years and are not among our pins;
they are measured where they happen to be installed.
"""

import math
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Final

import numpy as np

from benchmarks.measure import Measure, time_in_turns
from regime_pipeline.regime.opinions.changepoint import HAZARD, MAX_RUN, advance_changepoints, new_changepoint_state
from regime_pipeline.regime.opinions.terms import FloatArray

BARS: Final = 5000
PLAIN_BARS: Final = 20
GROWING_BARS: Final = 500
"""The packages never shorten their vector, so they are compared while it grows to the length of ours."""
HOUR_S: Final = 3600


def measure_changepoint(repeats: int) -> list[Measure]:
    """Measure seconds per bar with the vector at its full length."""
    rng = np.random.default_rng(0)
    ts_s = HOUR_S * np.arange(MAX_RUN + 100 + BARS, dtype=np.int64)
    z = rng.normal(size=ts_s.size)
    warm = MAX_RUN + 100
    _, state = advance_changepoints(new_changepoint_state(), ts_s[:warm], z[:warm], HOUR_S)
    run = state.run

    def ours() -> None:
        advance_changepoints(state, ts_s[warm:], z[warm:], HOUR_S)

    def live() -> None:
        advance_changepoints(state, ts_s[warm : warm + 1], z[warm : warm + 1], HOUR_S)

    spent = time_in_turns(
        3 * repeats,
        ours=ours,
        passed=lambda: _repeat(partial(_numpy_pass, run, 0.3), BARS),
        whole=lambda: _repeat(partial(_numpy_step, run, 0.3), BARS),
        plain=lambda: _repeat(partial(_plain_step, run.tolist(), 0.3), PLAIN_BARS),
        exp=lambda: _repeat(partial(np.exp, -run[3]), BARS),
        live=lambda: _repeat(live, BARS),
    )
    bar_s = spent["ours"] / BARS
    facts = {
        "live call of one bar": f"{spent['live'] / BARS * 1e6:.1f} us",
        "np.exp alone": f"{spent['exp'] / BARS * 1e6:.2f} us",
        "bars/s": f"{1 / bar_s:,.0f}",
    }
    return [
        Measure("change points", "a bar of change points", bar_s, "one numpy pass: predictive density", spent["passed"] / BARS, 2.0, facts),
        Measure("change points", "a bar of change points", bar_s, "the whole step in numpy", spent["whole"] / BARS, 1.0),
        Measure("change points", "a bar of change points", bar_s, "the step in plain Python", spent["plain"] / PLAIN_BARS, 0.1),
        *_packages(z[:GROWING_BARS], repeats),
    ]


def _repeat(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()


def _numpy_pass(run: FloatArray, x: float) -> FloatArray:
    """Student's t of one observation under every run length, up to the factors that the run length alone decides."""
    _, mu, kappa, alpha, beta = run
    density: FloatArray = np.exp(-(alpha + 0.5) * np.log1p(kappa * (x - mu) ** 2 / (2.0 * beta * (kappa + 1.0))))
    return density


def _numpy_step(run: FloatArray, x: float) -> FloatArray:
    """One bar as numpy would have it: density, growth, normalisation and the statistics moved on by one."""
    p, mu, kappa, alpha, beta = run
    weights = p * _numpy_pass(run, x) / np.sqrt(beta)
    grown = np.empty_like(run)
    grown[:, 0] = (HAZARD, 0.0, 1.0, 1.0, 1.0)
    grown[0, 1:] = (1.0 - HAZARD) * weights[:-1] / weights.sum()
    grown[1, 1:] = ((kappa * mu + x) / (kappa + 1.0))[:-1]
    grown[2, 1:] = (kappa + 1.0)[:-1]
    grown[3, 1:] = (alpha + 0.5)[:-1]
    grown[4, 1:] = (beta + kappa * (x - mu) ** 2 / (2.0 * (kappa + 1.0)))[:-1]
    return grown


def _plain_step(run: list[list[float]], x: float) -> list[tuple[float, float, float, float, float]]:
    """The same without arrays."""
    weights, moved = [], [(HAZARD, 0.0, 1.0, 1.0, 1.0)]
    for p, mu, kappa, alpha, beta in zip(*run, strict=True):
        rise = kappa * (x - mu) ** 2 / (2.0 * (kappa + 1.0))
        factor = math.exp(math.lgamma(alpha + 0.5) - math.lgamma(alpha)) * math.sqrt(kappa / (kappa + 1.0) / math.tau)
        weights.append(p * factor / math.sqrt(beta) * math.exp(-(alpha + 0.5) * math.log1p(rise / beta)))
        moved.append((0.0, (kappa * mu + x) / (kappa + 1.0), kappa + 1.0, alpha + 0.5, beta + rise))
    scale = (1.0 - HAZARD) / sum(weights)
    return [moved[0], *((scale * weight, *statistics[1:]) for weight, statistics in zip(weights, moved[1:], strict=True))]


def _packages(z: FloatArray, repeats: int) -> list[Measure]:
    """Measure a series from its first bar on, ours against each package that is installed."""
    peers: dict[str, Callable[[], object]] = {}
    if find_spec("bocd") is not None:
        peers["bocd"] = lambda: _run_bocd(z)
    if find_spec("bayesian_changepoint_detection") is not None:
        peers["bayesian_changepoint_detection"] = lambda: _run_bayesian_changepoint_detection(z)
    ts_s = HOUR_S * np.arange(z.size, dtype=np.int64)
    found = []
    for name, peer in peers.items():
        spent = time_in_turns(repeats, ours=lambda: advance_changepoints(new_changepoint_state(), ts_s, z, HOUR_S), theirs=peer)
        found.append(Measure("change points", f"the first {z.size} bars of a series", spent["ours"], name, spent["theirs"], 1.0))
    return found


def _run_bocd(z: FloatArray) -> None:
    import bocd

    detector = bocd.BayesianOnlineChangePointDetection(bocd.ConstantHazard(1.0 / HAZARD), bocd.StudentT(mu=0, kappa=1, alpha=1, beta=1))
    for x in z:
        detector.update(x)


def _run_bayesian_changepoint_detection(z: FloatArray) -> None:
    import bayesian_changepoint_detection.online_changepoint_detection as peer

    peer.online_changepoint_detection(z, partial(peer.constant_hazard, 1.0 / HAZARD), peer.StudentT(1.0, 1.0, 1.0, 0.0))
