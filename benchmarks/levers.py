"""Levers of 100,000 positions against one multiply-add over the same contributions."""

from typing import Final

import numpy as np

from benchmarks.measure import Measure, time_in_turns
from regime_pipeline.regime.drivers import BUCKETS, CHANNEL_TIMEFRAMES, DRIVERS
from regime_pipeline.regime.levers import MULTIPLIERS
from regime_pipeline.regime.levers_vector import build_multipliers, build_weight_mask, compute_levers_vector

POSITIONS: Final = 100_000
CHANNELS: Final = 15
"""What a position hears: two globals, its bucket and two dominances on three timeframes."""


def measure_levers(repeats: int) -> list[Measure]:
    """Measure A and E of all positions; the peer multiplies and adds each of their contributions to both sums once."""
    rng = np.random.default_rng(0)
    shape = (len(DRIVERS), len(CHANNEL_TIMEFRAMES))
    raw_a, raw_e = rng.uniform(-0.8, 0.8, shape), rng.uniform(-0.8, 0.8, shape)
    multipliers = build_multipliers(rng.choice(list(MULTIPLIERS), POSITIONS).tolist())
    heard = build_weight_mask(rng.choice(list(BUCKETS), POSITIONS).tolist())
    intents = rng.uniform(-0.4, 0.4, (POSITIONS, 2))
    deltas, weights, sums = rng.normal(size=(POSITIONS, CHANNELS)), rng.normal(size=(POSITIONS, CHANNELS)), np.zeros((POSITIONS, CHANNELS))

    def multiply_add() -> None:
        np.add(sums, deltas * weights)

    def levers() -> None:
        compute_levers_vector(raw_a, raw_e, multipliers, heard, intents)

    levers()
    spent = time_in_turns(10 * repeats, ours=levers, theirs=multiply_add)
    rate = {"positions/s": f"{POSITIONS / spent['ours']:,.0f}"}
    return [Measure("e", f"levers of {POSITIONS:,} positions", spent["ours"], "one numpy multiply-add", spent["theirs"], 20.0, rate)]
