"""EDX, the decay of a confirmed uptrend, in O(1) work and memory per bar (specs section 4.8).

The windows of EDX only grow, so computing them as written costs a pass over the uptrend at every bar. Here every term is exact
arithmetic on what one pass has left behind:

- an EMA seeded inside the history is the global EMA plus the seed's difference, decayed: e_j = E_j + (1-a)^(j-s) (x_s - E_s);
- AVWAP and the mean of ATR/close are differences of sums since the S3 start; those of volume carry along what they rounded away,
  for trading may die out: a window's volume can be a trillionth of what went before;
- RSI looks back 14 changes, so a window's last ten values are the series' own;
- ADX forgets its seed: past `ADX_MEMORY_BARS` a window's ADX is the series' own to float64 (13/14)^512 = 3e-17;
- a window of equal closes has slopes of exactly 0, as its own EMAs and AVWAP would: two such windows must tie, not differ by noise;
- two zigzags that have the same last two pivots and confirm the second on the same bar agree for ever after. So a few *guide*
  zigzags run along, one bar at a time: that of the longest window, and fresh ones whenever the newest has confirmed nothing for
  `GUIDE_PATIENCE_BARS`. The newest leaves its counts at every bar; a shorter window walks its own zigzag from its start only
  until it meets a guide. A zigzag that waits for a close beyond an old extreme skips whole chunks by their lowest and highest
  close. (A price that rises for hundreds of bars without one reversal has nothing to meet: then the walk is as long as the window.)

What one pass leaves behind is the *tape*: one row of `TAPE_COLUMNS` doubles per bar since the S3 start bar (row 0), in chunks of
`CHUNK_BARS`. `chunks[k]` is the row of `pool` that holds chunk k, or -1 when it is not in memory: a live step loads only the few
chunks it will read, and the number of a missing one is returned instead of a guess. `extremes[k]` is (lowest, highest) close of
chunk k, known for every chunk.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.indicators import kernels as ind
from regime_pipeline.indicators.kernels import adx_ring_end, directional_moves, slope_of_ten, step_adx
from regime_pipeline.indicators.record import INDEX
from regime_pipeline.jit import kernel
from regime_pipeline.trend.profile import Constants
from regime_pipeline.trend.scores import clamp01, sigmoid

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int32]

CHUNK_BARS: Final = 32
T_CLOSE: Final = 0
T_HIGH: Final = 1
T_LOW: Final = 2
T_ATR: Final = 3  # ATR(14) over the bars since the S3 start
T_SUM_V: Final = 4  # running sums since the S3 start, this bar included; each of these two is followed by its rounding
T_SUM_CV: Final = 6
T_SUM_ATR: Final = 8  # of ATR/close
T_EMA144: Final = 9
T_EMA250: Final = 10
T_EMA333: Final = 11
T_GUIDE: Final = 12  # two blocks, for lambda 1.2 and 1.4: first bar of the newest guide, then its ZIGZAG_MARKS
GUIDE_COLUMNS: Final = 6
ZIGZAG_MARKS: Final = 5
M_CONFIRMED: Final = 0  # bar on which the newest pivot was confirmed, -1 before the first
M_LAST: Final = 1  # signed pivot: index + 1 for a high, -(index + 1) for a low, 0 for none
M_PREVIOUS: Final = 2
M_PIVOTS: Final = 3
M_RISES: Final = 4
TAPE_COLUMNS: Final = T_GUIDE + 2 * GUIDE_COLUMNS

LAMBDAS: Final = np.array([1.2, 1.4])
QUIET_ATR_FRAC: Final = 0.003
"""Below this mean ATR/close a reversal needs lambda 1.4 instead of 1.2."""
ADX_MEMORY_BARS: Final = 512
ATR_SEED_BARS: Final = 14
N_GUIDES: Final = 4
"""Guide 0 is the zigzag of the longest window; the others take turns."""
GUIDE_PATIENCE_BARS: Final = 96
"""Measured on BTC 1m: half the windows meet a guide within 36 bars, nine of ten within 330."""

# --- layout of the decay part of the trend carry ---------------------------------------------------------------------------------
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
D_GUIDES: Final = 0  # two blocks: number of guides begun, then N_GUIDES zigzags
GUIDES_SIZE: Final = 1 + N_GUIDES * Z_SIZE
D_ADX: Final = 2 * GUIDES_SIZE  # ADX machine of the longest window
D_ATR: Final = D_ADX + ind.ADX_SIZE  # ATR since the S3 start; the sum of the true ranges while there are fewer than fourteen
D_FLAT: Final = D_ATR + 1  # bar since which all closes are equal
D_SIZE: Final = D_FLAT + 1

I_EMA144: Final = INDEX["ema144"]
I_EMA250: Final = INDEX["ema250"]
I_EMA333: Final = INDEX["ema333"]
I_RSI_SLOPE: Final = INDEX["rsi_slope_10"]

_KEEP = np.array([1.0 - 2.0 / 145.0, 1.0 - 2.0 / 251.0, 1.0 - 2.0 / 334.0])
_WILDER_KEEP = 13.0 / 14.0
_FORGOTTEN = -80.0  # exp(-80) of a seed's difference is far below float64's notice


@kernel
def tape_get(pool: FloatArray, chunks: IntArray, bar: int, column: int) -> float:
    """Value of one tape cell."""
    return pool[chunks[bar // CHUNK_BARS], bar % CHUNK_BARS, column]


@kernel
def has_bars(chunks: IntArray, first: int, last: int) -> int:
    """-1 when the chunks of bars first..last are in memory, else the first missing chunk."""
    for k in range(first // CHUNK_BARS, last // CHUNK_BARS + 1):
        if chunks[k] < 0:
            return k
    return -1


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
def _structure(z: FloatArray, pivots: float, rises: float, last: int) -> float:
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
def _window_structure(
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
                return _structure(guide, pivots, rises, last)
        bar += 1
    return _structure(z, z[Z_MARKS + M_PIVOTS], z[Z_MARKS + M_RISES], last)


@kernel
def _window_adx_slope(first: int, last: int, eps: float, pool: FloatArray, chunks: IntArray, ten: FloatArray) -> float:
    """Slope of the last ten ADX values of an ADX that starts inside the history, at bar `first`; at least 16 bars.

    The arithmetic of `step_adx` with one division a bar: DX needs no DI, only their ratio. `ten` is room for the ten values.
    """
    prev = pool[chunks[first // CHUNK_BARS], first % CHUNK_BARS]
    tr = 0.0
    plus = 0.0
    minus = 0.0
    adx = 0.0
    for bar in range(first + 1, last + 1):
        row = pool[chunks[bar // CHUNK_BARS], bar % CHUNK_BARS]
        high, low, close = row[T_HIGH], row[T_LOW], prev[T_CLOSE]
        new_tr = max(high - low, abs(high - close), abs(close - low)) / 14.0
        new_plus, new_minus = directional_moves(high, low, prev[T_HIGH], prev[T_LOW])
        prev = row
        seen = bar - first - 14
        if seen <= 0:
            tr += new_tr
            plus += new_plus / 14.0
            minus += new_minus / 14.0
            if seen < 0:
                continue
        else:
            tr = _WILDER_KEEP * tr + new_tr
            plus = _WILDER_KEEP * plus + new_plus / 14.0
            minus = _WILDER_KEEP * minus + new_minus / 14.0
        moved = plus + minus
        dx = 100.0 * abs(plus - minus) / max(moved, eps * max(tr, eps) / 100.0) if moved > 0.0 else 0.0
        if seen == 0:
            adx = dx
            ten[:] = dx
        else:
            adx = _WILDER_KEEP * adx + dx / 14.0
        if last - bar < 10:
            ten[9 - (last - bar)] = adx
    return slope_of_ten(ten, 10)


@kernel
def _window_emas(first: int, last: int, pool: FloatArray, chunks: IntArray, out: FloatArray) -> None:
    """Last ten values of EMA144, 250 and 333 seeded at bar `first`, into out of shape (3, 10)."""
    close = tape_get(pool, chunks, first, T_CLOSE)
    for j in range(3):
        exponent = (last - 9 - first) * math.log(_KEEP[j])
        gap = close - tape_get(pool, chunks, first, T_EMA144 + j)
        decayed = gap * math.exp(exponent) if exponent > _FORGOTTEN else 0.0
        for i in range(10):
            out[j, i] = tape_get(pool, chunks, last - 9 + i, T_EMA144 + j) + decayed
            decayed *= _KEEP[j]


@kernel
def _add_exactly(row: FloatArray, column: int, prev: FloatArray, value: float) -> None:
    """Continue a running sum and, in the next column, the sum of what its additions rounded away (Knuth's two-sum)."""
    before = prev[column]
    total = before + value
    added = total - before
    row[column] = total
    row[column + 1] = prev[column + 1] + ((before - (total - added)) + (value - added))


@kernel
def _sum_between(pool: FloatArray, chunks: IntArray, before: int, last: int, column: int) -> float:
    """What a running sum grew by over the bars before + 1..last."""
    a = pool[chunks[before // CHUNK_BARS], before % CHUNK_BARS]
    b = pool[chunks[last // CHUNK_BARS], last % CHUNK_BARS]
    return (b[column] - a[column]) + (b[column + 1] - a[column + 1])


@kernel
def _window_vwap_slope(first: int, last: int, eps: float, pool: FloatArray, chunks: IntArray, ten: FloatArray) -> float:
    """Slope of the last ten AVWAP values of a window, as a fraction of the newest."""
    for i in range(10):
        bar = last - 9 + i
        volume = _sum_between(pool, chunks, first - 1, bar, T_SUM_V)
        # no trade yet in this window: the first close stands (specs 2.1, avwap)
        ten[i] = _sum_between(pool, chunks, first - 1, bar, T_SUM_CV) / volume if volume > 0.0 else tape_get(pool, chunks, first, T_CLOSE)
    return slope_of_ten(ten, 10) / max(ten[9], eps)


@kernel
def _compression_score(emas: FloatArray, k: Constants, ten: FloatArray) -> float:
    q = 0.0
    for j in range(2):
        for i in range(10):
            ten[i] = (emas[j, i] - emas[2, i]) / emas[2, i]
        q += slope_of_ten(ten, 10)
    return sigmoid(-k.edx_comp_gain * (q / 2.0))


@kernel
def _combine(w: FloatArray, n_windows: int) -> float:
    """Shorter windows weigh more when they decay more."""
    if n_windows == 1:
        return w[0]
    if n_windows == 3 and w[2] > w[1] and w[1] > w[0]:
        return 0.2 * w[0] + 0.3 * w[1] + 0.5 * w[2]
    return 0.3 * w[0] + 0.7 * w[1] if w[1] > w[0] else (w[0] + w[1]) / 2.0


@kernel
def start_tape(
    d: FloatArray,
    rec: FloatArray,
    high: float,
    low: float,
    close: float,
    volume: float,
    pool: FloatArray,
    chunks: IntArray,
    extremes: FloatArray,
) -> None:
    """Begin a tape at the S3 start bar (row 0), on whatever memory the tape before it had."""
    for chunk in range(chunks.size):
        chunks[chunk] = chunk if chunk < pool.shape[0] else -1
    d[:] = 0.0
    extremes[0, 0] = close
    extremes[0, 1] = close
    row = pool[chunks[0], 0]
    row[:] = 0.0
    row[T_CLOSE] = close
    row[T_HIGH] = high
    row[T_LOW] = low
    row[T_SUM_V] = volume
    row[T_SUM_CV] = close * volume
    row[T_EMA144] = rec[I_EMA144]
    row[T_EMA250] = rec[I_EMA250]
    row[T_EMA333] = rec[I_EMA333]


@kernel
def _mark(d: FloatArray, bar: int, pool: FloatArray, chunks: IntArray) -> None:
    """Advance the guides of both lambdas by a bar and leave their marks on its row."""
    row = pool[chunks[bar // CHUNK_BARS], bar % CHUNK_BARS]
    for block in range(2):
        guides = d[D_GUIDES + block * GUIDES_SIZE : D_GUIDES + (block + 1) * GUIDES_SIZE]
        step_guides(guides, bar, row, LAMBDAS[block], T_GUIDE + block * GUIDE_COLUMNS)


@kernel
def extend_tape(
    d: FloatArray,
    t: int,
    rec: FloatArray,
    high: float,
    low: float,
    close: float,
    volume: float,
    eps: float,
    pool: FloatArray,
    chunks: IntArray,
    extremes: FloatArray,
) -> None:
    """Append bar t >= 1 since the S3 start: its values, the running sums, ATR, the guides and the longest window's ADX."""
    chunk = t // CHUNK_BARS
    fresh = t % CHUNK_BARS == 0
    extremes[chunk, 0] = close if fresh else min(extremes[chunk, 0], close)
    extremes[chunk, 1] = close if fresh else max(extremes[chunk, 1], close)
    prev = pool[chunks[(t - 1) // CHUNK_BARS], (t - 1) % CHUNK_BARS]
    row = pool[chunks[t // CHUNK_BARS], t % CHUNK_BARS]
    row[T_CLOSE] = close
    row[T_HIGH] = high
    row[T_LOW] = low
    _add_exactly(row, T_SUM_V, prev, volume)
    _add_exactly(row, T_SUM_CV, prev, close * volume)
    row[T_EMA144] = rec[I_EMA144]
    row[T_EMA250] = rec[I_EMA250]
    row[T_EMA333] = rec[I_EMA333]
    if close != prev[T_CLOSE]:
        d[D_FLAT] = t
    tr = max(high - low, abs(high - prev[T_CLOSE]), abs(prev[T_CLOSE] - low))
    if t >= 2:  # the longest window starts one bar after the S3 start, so its first move is that of bar 2
        plus, minus = directional_moves(high, low, prev[T_HIGH], prev[T_LOW])
        step_adx(d, D_ADX, tr, plus, minus, eps)
    if t <= ATR_SEED_BARS:
        # Until fourteen true ranges exist their mean stands for every bar since the start: earlier rows change with it.
        d[D_ATR] += tr
        atr = d[D_ATR] / t
        total = 0.0
        for bar in range(t + 1):
            early = pool[chunks[bar // CHUNK_BARS], bar % CHUNK_BARS]
            early[T_ATR] = atr
            total += atr / early[T_CLOSE]
            early[T_SUM_ATR] = total
            if bar > 0:
                _mark(d, bar, pool, chunks)
        if t == ATR_SEED_BARS:
            d[D_ATR] = atr
    else:
        d[D_ATR] = (13.0 * d[D_ATR] + tr) / 14.0
        row[T_ATR] = d[D_ATR]
        row[T_SUM_ATR] = prev[T_SUM_ATR] + d[D_ATR] / close
        _mark(d, t, pool, chunks)


@kernel
def window_lengths(t: int, out: NDArray[np.int64]) -> int:
    """Lengths of the decay windows at T = t: all, two thirds, one third; those below ten bars do not exist."""
    out[0] = t
    out[1] = 2 * t // 3
    out[2] = t // 3
    return 1 + (1 if out[1] >= 10 else 0) + (1 if out[2] >= 10 else 0)


@kernel
def decay(
    d: FloatArray,
    t: int,
    ind_carry: FloatArray,
    rec: FloatArray,
    k: Constants,
    pool: FloatArray,
    chunks: IntArray,
    extremes: FloatArray,
    out: FloatArray,
) -> int:
    """EDX at T = t bars after the S3 start, into out = (edx, slow, struct, part, comp); components NaN while EDX is its neutral .5.

    Returns -1, or the number of a tape chunk that must be loaded before the call can be answered.
    """
    if t < k.edx_min_bars:
        out[0] = 0.5
        out[1:5] = np.nan
        return -1
    lengths = np.empty(3, dtype=np.int64)
    n_windows = window_lengths(t, lengths)
    parts = np.empty((4, 3))
    emas = np.empty((3, 10))
    ten = np.empty(10)
    missing = has_bars(chunks, t - 9, t)
    if missing >= 0:
        return missing
    for w in range(n_windows):
        n = lengths[w]
        first = t + 1 - n
        missing = has_bars(chunks, first - 1, first)
        if missing >= 0:
            return missing
        flat = d[D_FLAT] <= first
        u = 0.0
        if not flat:
            _window_emas(first, t, pool, chunks, emas)
            u = 0.5 * (slope_of_ten(emas[1], 10) / max(emas[1, 9], k.eps) + slope_of_ten(emas[2], 10) / max(emas[2, 9], k.eps))
        rsi_score = sigmoid(rec[I_RSI_SLOPE] / 5.0) if n >= 24 else 0.5
        adx_score = 0.5
        if n >= 16:
            if n >= ADX_MEMORY_BARS:
                adx_slope = slope_of_ten(ind_carry, adx_ring_end(ind_carry, ind.C_ADX))
            elif w == 0:
                adx_slope = slope_of_ten(d, adx_ring_end(d, D_ADX))
            else:
                missing = has_bars(chunks, first, t)
                if missing >= 0:
                    return missing
                adx_slope = _window_adx_slope(first, t, k.eps, pool, chunks, ten)
            adx_score = sigmoid(adx_slope / 2.0)
        health = (sigmoid(k.edx_slope_gain * u) + rsi_score + adx_score) / 3.0
        parts[0, w] = health if k.edx_health_sign > 0.0 else 1.0 - health

        mean_atr = (tape_get(pool, chunks, t, T_SUM_ATR) - tape_get(pool, chunks, first - 1, T_SUM_ATR)) / n
        block = 1 if mean_atr < QUIET_ATR_FRAC else 0
        guides = d[D_GUIDES + block * GUIDES_SIZE : D_GUIDES + (block + 1) * GUIDES_SIZE]
        if w == 0:
            longest = guides[1 : 1 + Z_SIZE]
            parts[1, w] = _structure(longest, longest[Z_MARKS + M_PIVOTS], longest[Z_MARKS + M_RISES], t)
        else:
            marks = T_GUIDE + block * GUIDE_COLUMNS
            parts[1, w] = _window_structure(guides, marks, first, t, LAMBDAS[block], pool, chunks, extremes)
            if parts[1, w] < 0.0:
                return int(-parts[1, w]) - 1
        parts[2, w] = 0.5 if flat else sigmoid(-k.edx_vwap_gain * _window_vwap_slope(first, t, k.eps, pool, chunks, ten))
        parts[3, w] = 0.5 if flat or n < 144 else _compression_score(emas, k, ten)
    for c in range(4):
        out[1 + c] = _combine(parts[c], n_windows)
    total = k.edx_slow * out[1] + k.edx_struct * out[2] + k.edx_part * out[3] + k.edx_comp * out[4]
    out[0] = clamp01(total / k.edx_divisor)
    return -1
