"""Zigzag pivots over the closes of an uptrend, and how the windows of its decay get theirs without walking all of it (specs 4.8).

Two zigzags that have the same last two pivots and confirm the second on the same bar agree for ever after. So a few *guide* zigzags
run along, one bar at a time: that of the longest window, and fresh ones whenever the newest has confirmed nothing for
`GUIDE_PATIENCE_BARS`. The newest leaves its counts at every bar; a shorter window walks its own zigzag from its start only until it
meets a guide. A zigzag that waits for a close beyond an old extreme skips whole chunks by their lowest and highest close. (A price that
rises for hundreds of bars without one reversal has nothing to meet: then the walk is as long as the window.)
"""

from typing import Final

import numpy as np

from regime_pipeline.jit import kernel
from regime_pipeline.trend.tape import (
    CHUNK_BARS,
    M_CONFIRMED,
    M_LAST,
    M_PIVOTS,
    M_PREVIOUS,
    M_RISES,
    T_ATR,
    T_CLOSE,
    T_HIGH,
    T_LOW,
    ZIGZAG_MARKS,
    FloatArray,
    IntArray,
    tape_get,
)

LAMBDAS: Final = np.array([1.2, 1.4])
N_GUIDES: Final = 4
"""Guide 0 is the zigzag of the longest window; the others take turns."""
GUIDE_PATIENCE_BARS: Final = 96
"""Several times the bars between two pivots. Without guides a window of BTC 1m often walked to its end: on most of the twelve longest
uptrends looked at, a third to nearly all of the windows did."""

# --- layout of a zigzag, and of a block of guides: their number so far, then N_GUIDES zigzags ------------------------------------
Z_DIRECTION: Final = 0  # 0 none, 1 up, -1 down
Z_FIRST: Final = 1  # bar it began at, that bar's close and ATR
Z_BASE: Final = 2
Z_BASE_ATR: Final = 3
Z_HIGH_AT: Final = 4  # running extremes: bar, close, ATR of that bar
Z_HIGH: Final = 5
Z_HIGH_ATR: Final = 6
Z_LOW_AT: Final = 7
Z_LOW: Final = 8
Z_LOW_ATR: Final = 9
Z_MARKS: Final = 10  # the ZIGZAG_MARKS
Z_LAST_HIGH: Final = 15  # close of the newest high pivot, NaN for none
Z_LAST_LOW: Final = 16
Z_SIZE: Final = 17
GUIDES_SIZE: Final = 1 + N_GUIDES * Z_SIZE


@kernel
def _new_high(z: FloatArray, bar: int, close: float, atr: float) -> None:
    z[Z_HIGH_AT] = bar
    z[Z_HIGH] = close
    z[Z_HIGH_ATR] = atr


@kernel
def _new_low(z: FloatArray, bar: int, close: float, atr: float) -> None:
    z[Z_LOW_AT] = bar
    z[Z_LOW] = close
    z[Z_LOW_ATR] = atr


@kernel
def start_zigzag(z: FloatArray, bar: int, close: float, atr: float) -> None:
    """A zigzag at its first bar."""
    z[Z_DIRECTION] = 0.0
    z[Z_FIRST] = bar
    z[Z_BASE] = close
    z[Z_BASE_ATR] = atr
    _new_high(z, bar, close, atr)
    _new_low(z, bar, close, atr)
    z[Z_MARKS : Z_MARKS + ZIGZAG_MARKS] = 0.0
    z[Z_MARKS + M_CONFIRMED] = -1.0
    z[Z_LAST_HIGH] = np.nan
    z[Z_LAST_LOW] = np.nan


@kernel
def _add_pivot(z: FloatArray, bar: int, pivot: int, close: float, is_high: bool) -> None:
    z[Z_MARKS + M_CONFIRMED] = bar
    z[Z_MARKS + M_PREVIOUS] = z[Z_MARKS + M_LAST]
    z[Z_MARKS + M_LAST] = pivot + 1 if is_high else -(pivot + 1)
    z[Z_MARKS + M_PIVOTS] += 1.0
    kind = Z_LAST_HIGH if is_high else Z_LAST_LOW
    if close > z[kind]:
        z[Z_MARKS + M_RISES] += 1.0
    z[kind] = close


@kernel
def step_zigzag(z: FloatArray, bar: int, row: FloatArray, lam: float) -> bool:
    """Advance a zigzag by the tape row of a bar; True when the bar confirmed a pivot.

    A reversal needs `lam` ATR (that of the extreme) by close, or a quarter less by the bar's range, three bars after the extreme,
    which itself lies four bars after the last pivot.
    """
    close = row[T_CLOSE]
    atr = row[T_ATR]
    if close > z[Z_HIGH]:
        _new_high(z, bar, close, atr)
    if close < z[Z_LOW]:
        _new_low(z, bar, close, atr)
    if z[Z_DIRECTION] == 0.0:
        need = lam * z[Z_BASE_ATR]
        if close - z[Z_BASE] >= need:
            z[Z_DIRECTION] = 1.0
            _add_pivot(z, bar, int(z[Z_FIRST]), z[Z_BASE], False)
        elif z[Z_BASE] - close >= need:
            z[Z_DIRECTION] = -1.0
            _add_pivot(z, bar, int(z[Z_FIRST]), z[Z_BASE], True)
        return z[Z_DIRECTION] != 0.0
    last_pivot = abs(z[Z_MARKS + M_LAST]) - 1.0
    if z[Z_DIRECTION] > 0.0:
        at = z[Z_HIGH_AT]
        if bar - at < 3.0 or at - last_pivot < 4.0:
            return False
        if z[Z_HIGH] - close >= lam * z[Z_HIGH_ATR] or z[Z_HIGH] - row[T_LOW] >= (lam - 0.25) * z[Z_HIGH_ATR]:
            _add_pivot(z, bar, int(at), z[Z_HIGH], True)
            z[Z_DIRECTION] = -1.0
            _new_low(z, bar, close, atr)
            return True
        return False
    at = z[Z_LOW_AT]
    if bar - at < 3.0 or at - last_pivot < 4.0:
        return False
    if close - z[Z_LOW] >= lam * z[Z_LOW_ATR] or row[T_HIGH] - z[Z_LOW] >= (lam - 0.25) * z[Z_LOW_ATR]:
        _add_pivot(z, bar, int(at), z[Z_LOW], False)
        z[Z_DIRECTION] = 1.0
        _new_high(z, bar, close, atr)
        return True
    return False


@kernel
def structure(z: FloatArray, pivots: float, rises: float, last: int) -> float:
    """Share of successive pivots of a kind that did not rise, the running extreme counted when it stands well apart."""
    at = int(z[Z_HIGH_AT]) if z[Z_DIRECTION] > 0.0 else int(z[Z_LOW_AT])
    if z[Z_DIRECTION] != 0.0 and last - at >= 3 and at - (abs(z[Z_MARKS + M_LAST]) - 1.0) >= 4.0:
        pivots += 1.0
        rising = z[Z_HIGH] > z[Z_LAST_HIGH] if z[Z_DIRECTION] > 0.0 else z[Z_LOW] > z[Z_LAST_LOW]
        rises += 1.0 if rising else 0.0
    # kinds alternate, so all but the first two pivots have a predecessor of their kind
    return 0.5 if pivots < 4.0 else 1.0 - rises / (pivots - 2.0)


@kernel
def newest_guide(guides: FloatArray) -> int:
    """Offset of the newest guide in its block."""
    begun = int(guides[0])
    return 1 + Z_SIZE * (0 if begun == 1 else 1 + (begun - 2) % (N_GUIDES - 1))


@kernel
def _guide_from(guides: FloatArray, first: float) -> int:
    """Offset of the guide that began at bar `first`, -1 when it has been replaced."""
    for slot in range(min(N_GUIDES, int(guides[0]))):
        if guides[1 + Z_SIZE * slot + Z_FIRST] == first:
            return 1 + Z_SIZE * slot
    return -1


@kernel
def step_guides(guides: FloatArray, bar: int, row: FloatArray, lam: float, marks: int) -> None:
    """Advance the guides of a block by a bar, begin a fresh one when the newest has gone quiet, leave the newest's marks."""
    if bar == 1:
        guides[:] = 0.0
        guides[0] = 1.0
        start_zigzag(guides[1 : 1 + Z_SIZE], bar, row[T_CLOSE], row[T_ATR])
    for slot in range(min(N_GUIDES, int(guides[0]))):
        step_zigzag(guides[1 + Z_SIZE * slot : 1 + Z_SIZE * (slot + 1)], bar, row, lam)
    at = newest_guide(guides)
    if bar - max(guides[at + Z_FIRST], guides[at + Z_MARKS + M_CONFIRMED]) >= GUIDE_PATIENCE_BARS:
        guides[0] += 1.0
        at = newest_guide(guides)
        start_zigzag(guides[at : at + Z_SIZE], bar, row[T_CLOSE], row[T_ATR])
        step_zigzag(guides[at : at + Z_SIZE], bar, row, lam)
    row[marks] = guides[at + Z_FIRST]
    for m in range(ZIGZAG_MARKS):
        row[marks + 1 + m] = guides[at + Z_MARKS + m]


@kernel
def _waits_for_extreme(z: FloatArray) -> bool:
    """Whether nothing can happen before a close beyond the running extreme: it lies too near the last pivot to be one."""
    at = z[Z_HIGH_AT] if z[Z_DIRECTION] > 0.0 else z[Z_LOW_AT]
    return z[Z_DIRECTION] != 0.0 and at - (abs(z[Z_MARKS + M_LAST]) - 1.0) < 4.0


@kernel
def window_structure(
    guides: FloatArray, marks: int, first: int, last: int, lam: float, pool: FloatArray, chunks: IntArray, extremes: FloatArray
) -> float:
    """Structure of the window first..last: walk its own zigzag until it meets a guide. -(k + 1) asks for chunk k."""
    z = np.empty(Z_SIZE)
    start_zigzag(z, first, tape_get(pool, chunks, first, T_CLOSE), tape_get(pool, chunks, first, T_ATR))
    bar = first
    while bar <= last:
        chunk = bar // CHUNK_BARS
        if bar % CHUNK_BARS == 0 and _waits_for_extreme(z):
            while (chunk + 1) * CHUNK_BARS <= last and (
                extremes[chunk, 1] <= z[Z_HIGH] if z[Z_DIRECTION] > 0.0 else extremes[chunk, 0] >= z[Z_LOW]
            ):
                chunk += 1
            bar = chunk * CHUNK_BARS
        if chunks[chunk] < 0:
            return -1.0 - chunk
        row = pool[chunks[chunk], bar % CHUNK_BARS]
        if (
            step_zigzag(z, bar, row, lam)
            and row[marks + 1 + M_CONFIRMED] == bar
            and row[marks + 1 + M_LAST] == z[Z_MARKS + M_LAST]
            and row[marks + 1 + M_PREVIOUS] == z[Z_MARKS + M_PREVIOUS]
        ):
            at = _guide_from(guides, row[marks])
            if at >= 0:
                guide = guides[at : at + Z_SIZE]
                pivots = z[Z_MARKS + M_PIVOTS] + guide[Z_MARKS + M_PIVOTS] - row[marks + 1 + M_PIVOTS]
                rises = z[Z_MARKS + M_RISES] + guide[Z_MARKS + M_RISES] - row[marks + 1 + M_RISES]
                return structure(guide, pivots, rises, last)
        bar += 1
    return structure(z, z[Z_MARKS + M_PIVOTS], z[Z_MARKS + M_RISES], last)
