"""The levers of many positions at once (specification 7.4): the arithmetic of `levers.py` without its explanations."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from regime_pipeline.errors import BadInputError
from regime_pipeline.regime.drivers import BUCKETS, CHANNEL_TIMEFRAMES, DRIVERS, DriverKind
from regime_pipeline.regime.levers import (
    MAX_DELTA,
    MULTIPLIERS,
    NEUTRAL_LEVER,
    OTHER_MULTIPLIERS,
    LeverInput,
    Quality,
    check_strength,
    deltas_of,
    judge_channel,
)

FloatArray = npt.NDArray[np.float64]

_WEIGHTS: Final = np.array([driver.weight for driver in DRIVERS])
_MULTIPLIER_ROWS: Final = np.array([*MULTIPLIERS.values(), OTHER_MULTIPLIERS])
_MULTIPLIER_INDEX: Final = {timeframe: i for i, timeframe in enumerate(MULTIPLIERS)}
_MASK_ROWS: Final = np.array(
    [[driver.kind is not DriverKind.BUCKET or driver.name == own for driver in DRIVERS] for own in (*BUCKETS, None)], float
)
_MASK_INDEX: Final[dict[str | None, int]] = {bucket: i for i, bucket in enumerate(BUCKETS)}


def compute_levers_vector(
    raw_a: FloatArray, raw_e: FloatArray, mult: FloatArray, weight_mask: FloatArray, intents: FloatArray, regime_strength: float = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Compute the levers of N positions; equal to `compute_levers` to 1e-12.

    Parameters
    ----------
    raw_a, raw_e : ndarray of shape (8, 3)
        Raw deltas, rows as `DRIVERS`, columns macro, meso, micro, 0 where a channel does not count: see `build_raw`.
    mult : ndarray of shape (N, 3)
        Multipliers of each position's execution timeframe: see `build_multipliers`.
    weight_mask : ndarray of shape (N, 8)
        1 for each driver the position listens to, its bucket one-hot, else 0: see `build_weight_mask`. The weights are applied here.
    intents : ndarray of shape (N, 2)
        dA and dE of `compute_intent_deltas`.
    regime_strength : float
        Finite, >= 0.

    Returns
    -------
    A, E : ndarray of shape (N,)
        In [0, 1], never NaN.

    Raises
    ------
    BadInputError
        When a raw delta or an intent is not finite (or above 1e300), or the strength is refused.
    """
    check_strength(regime_strength)
    for name, values in (("raw_a", raw_a), ("raw_e", raw_e), ("intents", intents)):
        if not (np.abs(values) <= MAX_DELTA).all():
            raise BadInputError(f"{name} had a value that is not finite or above {MAX_DELTA:g}; use 0 where a channel does not count.")
    # The positions differ only in which drivers they hear, so one product with eight rows replaces fifteen contributions each.
    heard = weight_mask @ (_WEIGHTS[:, None] * np.hstack((raw_a, raw_e)))
    a_value = NEUTRAL_LEVER + regime_strength * np.einsum("nt,nt->n", mult, heard[:, :3]) + intents[:, 0]
    e_value = NEUTRAL_LEVER + regime_strength * np.einsum("nt,nt->n", mult, heard[:, 3:]) + intents[:, 1]
    return np.clip(a_value, 0.0, 1.0, out=a_value), np.clip(e_value, 0.0, 1.0, out=e_value)


def build_raw(given: LeverInput) -> tuple[FloatArray, FloatArray]:
    """Arrange the channels that count for the vector form: raw_a and raw_e of shape (8, 3), 0 elsewhere. The bucket is not looked at."""
    raw_a, raw_e = np.zeros((len(DRIVERS), len(CHANNEL_TIMEFRAMES))), np.zeros((len(DRIVERS), len(CHANNEL_TIMEFRAMES)))
    read = {(channel.driver, channel.timeframe): channel for channel in given.channels or ()}
    for i, driver in enumerate(DRIVERS):
        for j, timeframe in enumerate(CHANNEL_TIMEFRAMES):
            channel = read.get((driver.name, timeframe))
            if channel is not None and judge_channel(given, driver, timeframe, channel)[0] is Quality.OK:
                raw_a[i, j], raw_e[i, j] = deltas_of(channel)
    return raw_a, raw_e


def build_multipliers(exec_timeframes: Sequence[str]) -> FloatArray:
    """Look up the multiplier row of each execution timeframe: shape (N, 3), columns macro, meso, micro."""
    other = len(MULTIPLIERS)
    return _MULTIPLIER_ROWS[np.fromiter((_MULTIPLIER_INDEX.get(name, other) for name in exec_timeframes), np.intp, len(exec_timeframes))]


def build_weight_mask(buckets: Sequence[str | None]) -> FloatArray:
    """Mark the drivers that each position listens to: shape (N, 8), columns as `DRIVERS`; an unknown bucket hears no bucket driver."""
    unknown = len(BUCKETS)
    return _MASK_ROWS[np.fromiter((_MASK_INDEX.get(bucket, unknown) for bucket in buckets), np.intp, len(buckets))]
