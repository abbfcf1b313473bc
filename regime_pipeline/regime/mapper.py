"""From a driver's state to its raw deltas of A and E (specification 6): three tables and their sum.

Pure: no clock, no database, no memory. The row of a bar is a function of that bar's state and flags and of the state after the bar
before it, so a transition pulse lives for exactly one bar of its own timeframe.
"""

from collections.abc import Set as AbstractSet
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt

from regime_pipeline.errors import BadInputError
from regime_pipeline.trend.record import FLAGS, NO_STATE, STATES

Delta = tuple[float, float]
"""(delta_a_raw, delta_e_raw)."""

NEUTRAL: Final[Delta] = (0.0, 0.0)

STATE_DELTAS: Final[dict[str, Delta]] = {
    "S0": (-0.30, +0.30),
    "S1": (+0.25, -0.15),
    "S2": (+0.10, +0.05),
    "S3": (+0.20, -0.05),
    "S4": NEUTRAL,
}
FLAG_DELTAS: Final[dict[tuple[str, str], Delta]] = {
    ("buy", "S1"): (+0.20, -0.10),
    ("buy", "S2"): (+0.10, -0.05),  # only with the engine option s2_retest_as_buy
    ("buy", "S3"): (+0.05, -0.05),  # the engine never says it; kept as the specification's table has it
    ("rebuy", "S2"): (+0.15, -0.10),
    ("rebuy", "S3"): (+0.20, -0.10),
    ("trim", "S2"): (-0.20, +0.25),
    ("trim", "S3"): (-0.25, +0.30),
}
TRANSITION_DELTAS: Final[dict[tuple[str, str], Delta]] = {
    ("S1", "S0"): (-0.40, +0.40),
    ("S2", "S0"): (-0.35, +0.35),  # the engine never takes it; kept as the specification's table has it
    ("S3", "S0"): (-0.50, +0.50),
}
MAPPED_FLAGS: Final = ("buy", "rebuy", "trim")
"""The flags that have rows, in the order in which they are added."""


def map_state(prev_state: str | None, state: str, flags: AbstractSet[str], immature: bool) -> Delta:
    """Map two consecutive bars of one driver to its raw deltas.

    Parameters
    ----------
    prev_state : str or None
        State after the previous bar, never the result of a previous run; None on the first bar of a series.
    state : str
        State after this bar, `S0` to `S4`.
    flags : set of str
        Names of the flags active on this bar; a flag without a row for the state adds 0.
    immature : bool
        Whether the series has fewer than 1000 bars: then the row is neutral.

    Returns
    -------
    (float, float)
        delta_a_raw and delta_e_raw, summed in the order state, buy, rebuy, trim, transition.

    Raises
    ------
    BadInputError
        When a state or a flag is unknown. A missing state is unknown: it is never read as S0.
    """
    for name, value in (("state", state), *((("prev_state", prev_state),) if prev_state is not None else ())):
        if value not in STATE_DELTAS:
            raise BadInputError(f"{name} was {value!r}, must be one of {', '.join(STATES)}. Step the engine before mapping its bar.")
    if unknown := sorted(flags - set(FLAGS)):
        raise BadInputError(f"flags were {unknown}, allowed: {', '.join(FLAGS)}. Correct the name.")
    if immature:
        return NEUTRAL
    rows = [STATE_DELTAS[state]]
    rows += [FLAG_DELTAS.get((flag, state), NEUTRAL) for flag in MAPPED_FLAGS if flag in flags]
    rows += [TRANSITION_DELTAS.get((prev_state or state, state), NEUTRAL)]
    delta_a = delta_e = 0.0
    for a, e in rows:  # not sum(): from Python 3.12 on it compensates, and two versions would store two last bits
        delta_a, delta_e = delta_a + a, delta_e + e
    return delta_a, delta_e


def _tabulate() -> npt.NDArray[np.float64]:
    """Evaluate `map_state` on its whole domain: shape (6 previous states, none first; 5 states; 8 sets of flags; 2)."""
    table = np.empty((1 + len(STATES), len(STATES), 1 << len(MAPPED_FLAGS), 2))
    for (i, prev_state), (j, state), bits in product(enumerate((None, *STATES)), enumerate(STATES), range(table.shape[2])):
        flags = {flag for k, flag in enumerate(MAPPED_FLAGS) if bits >> k & 1}
        table[i, j, bits] = map_state(prev_state, state, flags, immature=False)
    return table


_TABLE: Final = _tabulate()
_FLAG_BITS: Final = np.array([1 << MAPPED_FLAGS.index(flag) if flag in MAPPED_FLAGS else 0 for flag in FLAGS])


def map_states(
    prev_state: npt.ArrayLike, state: npt.ArrayLike, flags: npt.ArrayLike, immature: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Map n bars at once; equal to `map_state` bit for bit, because it looks its answers up.

    Parameters
    ----------
    prev_state : array_like of shape (n,)
        State codes 0 to 4 after each previous bar, `NO_STATE` (-1) where there is none.
    state : array_like of shape (n,)
        State codes 0 to 4.
    flags : array_like of shape (n, 6)
        0 or 1 (or bool), columns in the order of `trend.record.FLAGS`.
    immature : array_like of bool, shape (n,)
        Rows that map to zero.

    Returns
    -------
    delta_a_raw, delta_e_raw : ndarray of shape (n,)
        Never NaN.

    Raises
    ------
    BadInputError
        When a code is not a state (NaN included) or a flag is neither 0 nor 1.
    """
    prev_codes = _check_codes("prev_state", np.asarray(prev_state), NO_STATE)
    codes = _check_codes("state", np.asarray(state), 0)
    marks = np.asarray(flags).reshape(len(codes), len(FLAGS))
    if not (valid := (marks == 0) | (marks == 1)).all():
        raise BadInputError(f"a flag was {marks[~valid][0]}, must be 0 or 1. Pass the engine's record unchanged.")
    deltas = _TABLE[prev_codes + 1, codes, marks.astype(np.int64) @ _FLAG_BITS]
    deltas[np.asarray(immature, dtype=bool)] = NEUTRAL
    return deltas[:, 0].copy(), deltas[:, 1].copy()


def _check_codes(name: str, values: npt.NDArray[np.generic], lowest: int) -> npt.NDArray[np.int64]:
    valid = np.isin(values, np.arange(lowest, len(STATES)))
    if not valid.all():
        raise BadInputError(
            f"{name} was {values[~valid][0]} in row {int(np.argmin(valid))}, must be a whole code from {lowest} to {len(STATES) - 1}."
            " Step the engine before mapping its bars."
        )
    return values.astype(np.int64)
