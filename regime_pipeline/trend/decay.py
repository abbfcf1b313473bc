"""EDX, the decay of a confirmed uptrend, in O(1) work and memory per bar (specs section 4.8).

The windows of EDX only grow, so computing them as written costs a pass over the uptrend at every bar. Here every term is exact
arithmetic on what one pass has left behind:

- an EMA seeded inside the history is the global EMA plus the seed's difference, decayed: e_j = E_j + (1-a)^(j-s) (x_s - E_s);
- AVWAP and the mean of ATR/close are differences of sums since the S3 start; those of volume carry along what they rounded away,
  for trading may die out: a window's volume can be a trillionth of what went before;
- RSI looks back 14 changes, so a window's last ten values are the series' own;
- ADX forgets its seed: past `ADX_MEMORY_BARS` a window's ADX is the series' own to float64 (13/14)^512 = 3e-17;
- a window of equal closes has slopes of exactly 0, as its own EMAs and AVWAP would: two such windows must tie, not differ by noise;
- the zigzags of the windows meet guides that run along: `zigzag.py`.

What one pass leaves behind is the tape: `tape.py`.
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
from regime_pipeline.trend.tape import (
    CHUNK_BARS,
    GUIDE_COLUMNS,
    M_PIVOTS,
    M_RISES,
    T_ATR,
    T_CLOSE,
    T_EMA144,
    T_EMA250,
    T_EMA333,
    T_GUIDE,
    T_HIGH,
    T_LOW,
    T_SUM_ATR,
    T_SUM_CV,
    T_SUM_V,
    FloatArray,
    IntArray,
    has_bars,
    tape_get,
)
from regime_pipeline.trend.zigzag import GUIDES_SIZE, LAMBDAS, Z_MARKS, Z_SIZE, step_guides, structure, window_structure

QUIET_ATR_FRAC: Final = 0.003
"""Below this mean ATR/close a reversal needs lambda 1.4 instead of 1.2."""
ADX_MEMORY_BARS: Final = 512
ATR_SEED_BARS: Final = 14
# --- layout of the decay part of the trend carry ---------------------------------------------------------------------------------
D_GUIDES: Final = 0  # two blocks: number of guides begun, then N_GUIDES zigzags
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
            parts[1, w] = structure(longest, longest[Z_MARKS + M_PIVOTS], longest[Z_MARKS + M_RISES], t)
        else:
            marks = T_GUIDE + block * GUIDE_COLUMNS
            parts[1, w] = window_structure(guides, marks, first, t, LAMBDAS[block], pool, chunks, extremes)
            if parts[1, w] < 0.0:
                return int(-parts[1, w]) - 1
        parts[2, w] = 0.5 if flat else sigmoid(-k.edx_vwap_gain * _window_vwap_slope(first, t, k.eps, pool, chunks, ten))
        parts[3, w] = 0.5 if flat or n < 144 else _compression_score(emas, k, ten)
    for c in range(4):
        out[1 + c] = _combine(parts[c], n_windows)
    total = k.edx_slow * out[1] + k.edx_struct * out[2] + k.edx_part * out[3] + k.edx_comp * out[4]
    out[0] = clamp01(total / k.edx_divisor)
    return -1
