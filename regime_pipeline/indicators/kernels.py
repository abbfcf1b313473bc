"""One closed bar in, one indicator record out: the compiled recursion of specs section 2, carried in a flat float64 vector.

Live, backfill and backtest all call `step_indicators`; a batch is a loop over it, so both give the same bits. The carry holds
every recursion and the last few values that slopes look back on (`CARRY_SIZE` doubles, O(1) per bar). Ring buffers are written
twice, `size` apart, so that the newest k values always lie contiguous and oldest first.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.indicators.record import EMA_PERIODS, INDEX, MATURE_BARS, N_FIELDS
from regime_pipeline.jit import kernel

FloatArray = NDArray[np.float64]

# --- layout of the carry -------------------------------------------------------------------------------------------------------
C_BARS: Final = 0
C_LAST_TS: Final = 1
C_CLOSE: Final = 2
C_HIGH: Final = 3
C_LOW: Final = 4
C_EMA: Final = 5  # seven values, in the order of EMA_PERIODS
C_ATR: Final = 12
C_VOLUME_MEAN: Final = 13
C_VOLUME_VAR: Final = 14
C_ADX: Final = 15  # an ADX machine: count, sum or smoothed TR, +DM, -DM, ADX, then a ring of ten ADX values
ADX_SIZE: Final = 5 + 20
SLOPE_BARS: Final = 10
R_EMA: Final = C_ADX + ADX_SIZE  # rings of the last 10 values of ema20, 60, 144, 250, 333
R_SLOPE: Final = R_EMA + 5 * 20  # rings of the last 10 nslopes of ema60, 144, 250, 333: what d_..._slope compares with
R_ATR: Final = R_SLOPE + 4 * 20  # ring of the last 20 ATR values
R_RSI: Final = R_ATR + 40  # ring of the last 10 RSI values
R_CHANGE: Final = R_RSI + 20  # ring of the last 14 changes of the close
R_SEP: Final = R_CHANGE + 28  # rings of the last 6 sep_fast and sep_mid
CARRY_SIZE: Final = R_SEP + 24

_SLOPED: Final = np.array([EMA_PERIODS.index(n) for n in (20, 60, 144, 250, 333)])
_ALPHAS: Final = np.array([2.0 / (n + 1) for n in EMA_PERIODS])
_VOLUME_ALPHA: Final = 2.0 / 65.0
_EMA20: Final = 0
_EMA50: Final = EMA_PERIODS.index(50)
_EMA60: Final = EMA_PERIODS.index(60)
_EMA144: Final = EMA_PERIODS.index(144)

F_EMA20_SLOPE: Final = INDEX["ema20_slope"]
F_D_EMA60_SLOPE: Final = INDEX["d_ema60_slope"]
F_SEP_FAST: Final = INDEX["sep_fast"]
F_SEP_MID: Final = INDEX["sep_mid"]
F_DSEP_FAST: Final = INDEX["dsep_fast_5"]
F_DSEP_MID: Final = INDEX["dsep_mid_5"]
F_ATR: Final = INDEX["atr"]
F_ATR_NORM: Final = INDEX["atr_norm"]
F_ATR_MEAN: Final = INDEX["atr_mean_20"]
F_ATR_PEAK: Final = INDEX["atr_peak_10"]
F_RSI: Final = INDEX["rsi"]
F_RSI_SLOPE: Final = INDEX["rsi_slope_10"]
F_ADX: Final = INDEX["adx"]
F_ADX_SLOPE: Final = INDEX["adx_slope_10"]
F_VO_Z: Final = INDEX["vo_z"]
F_PRICE: Final = INDEX["latest_price"]
F_BARS: Final = INDEX["bars_seen"]
F_IMMATURE: Final = INDEX["immature"]
F_GAP: Final = INDEX["gap_bars"]


@kernel
def push(carry: FloatArray, ring: int, size: int, count: int, value: float) -> int:
    """Write `value` as number `count` (from 0) of a ring and return where its newest-first window ends (exclusive)."""
    at = count % size
    carry[ring + at] = value
    carry[ring + at + size] = value
    return ring + at + size + 1


@kernel
def slope_of_ten(x: FloatArray, end: int) -> float:
    """Least-squares slope per step of x[end-10:end]. The pairing (newest - oldest first) makes a constant series exactly 0."""
    s = 4.5 * (x[end - 1] - x[end - 10])
    s += 3.5 * (x[end - 2] - x[end - 9])
    s += 2.5 * (x[end - 3] - x[end - 8])
    s += 1.5 * (x[end - 4] - x[end - 7])
    s += 0.5 * (x[end - 5] - x[end - 6])
    return s / 82.5


@kernel
def slope_of_last(x: FloatArray, end: int, m: int) -> float:
    """Least-squares slope per step of the last m <= 10 values before `end`; 0 for m < 3."""
    if m >= SLOPE_BARS:
        return slope_of_ten(x, end)
    if m < 3:
        return 0.0
    half = 0.5 * (m - 1)
    s = 0.0
    ss = 0.0
    for k in range(m):
        s += (k - half) * x[end - m + k]
        ss += (k - half) * (k - half)
    return s / ss


@kernel
def step_adx(carry: FloatArray, base: int, tr: float, plus: float, minus: float, eps: float) -> int:
    """Advance an ADX machine by one true range and its directional moves (Wilder 1978).

    The three sums start as means of their first 14 values and are Wilder-smoothed from there; ADX starts at the first DX.
    Returns the number of ADX values so far; the newest ten lie in the ring behind the machine.
    """
    count = int(carry[base]) + 1
    carry[base] = count
    if count <= 14:
        carry[base + 1] += tr
        carry[base + 2] += plus
        carry[base + 3] += minus
        if count < 14:
            return 0
        carry[base + 1] /= 14.0
        carry[base + 2] /= 14.0
        carry[base + 3] /= 14.0
    else:
        carry[base + 1] = (13.0 * carry[base + 1] + tr) / 14.0
        carry[base + 2] = (13.0 * carry[base + 2] + plus) / 14.0
        carry[base + 3] = (13.0 * carry[base + 3] + minus) / 14.0
    floor = max(carry[base + 1], eps)
    di_plus = 100.0 * carry[base + 2] / floor
    di_minus = 100.0 * carry[base + 3] / floor
    dx = 100.0 * abs(di_plus - di_minus) / max(di_plus + di_minus, eps)
    seen = count - 14
    carry[base + 4] = dx if seen == 0 else (13.0 * carry[base + 4] + dx) / 14.0
    if seen == 0:  # bars before the first DX take its value, so the ring is full from the start
        for k in range(SLOPE_BARS):
            push(carry, base + 5, SLOPE_BARS, k, dx)
    push(carry, base + 5, SLOPE_BARS, seen, carry[base + 4])
    return seen + 1


@kernel
def adx_ring_end(carry: FloatArray, base: int) -> int:
    """Where the window of the newest ADX values of a machine ends (exclusive)."""
    return base + 5 + (int(carry[base]) - 14) % SLOPE_BARS + SLOPE_BARS + 1


@kernel
def directional_moves(high: float, low: float, prev_high: float, prev_low: float) -> tuple[float, float]:
    """+DM and -DM of one bar (Wilder 1978)."""
    up = high - prev_high
    down = prev_low - low
    return (up if up > down and up > 0.0 else 0.0), (down if down > up and down > 0.0 else 0.0)


@kernel
def _step_rsi(carry: FloatArray, n: int, close: float, eps: float, rsi_flat: float) -> float:
    """Cutler RSI: plain means of the last 14 rises and falls; 50 until there are 14 changes."""
    if n == 0:
        return 50.0
    end = push(carry, R_CHANGE, 14, n - 1, close - carry[C_CLOSE])
    if n < 14:
        return 50.0
    gain = 0.0
    loss = 0.0
    for k in range(end - 14, end):
        d = carry[k]
        gain += max(d, 0.0)
        loss += max(-d, 0.0)
    gain /= 14.0
    loss /= 14.0
    if gain == 0.0 and loss == 0.0:
        return rsi_flat
    return 100.0 - 100.0 / (1.0 + gain / (loss if loss > 0.0 else eps))


@kernel
def _step_atr(carry: FloatArray, n: int, tr: float) -> None:
    """Wilder ATR; while fewer than 14 true ranges exist, their mean stands for every bar so far."""
    if n <= 14:
        carry[C_ATR] = 0.0 if n == 0 else carry[C_ATR] + (tr - carry[C_ATR]) / n
        for k in range(20):
            push(carry, R_ATR, 20, k, carry[C_ATR])
    else:
        carry[C_ATR] = (13.0 * carry[C_ATR] + tr) / 14.0
    push(carry, R_ATR, 20, n, carry[C_ATR])


@kernel
def step_volume_z(carry: FloatArray, n: int, volume: float) -> float:
    """Z of ln(1 + volume) against its exponentially weighted mean and variance (Finch 2009), clamped to [-4, 6]."""
    x = math.log1p(max(0.0, volume))
    if n == 0:
        carry[C_VOLUME_MEAN] = x
        carry[C_VOLUME_VAR] = 0.0
        return 0.0
    a = _VOLUME_ALPHA
    mean = carry[C_VOLUME_MEAN]
    new_mean = a * x + (1.0 - a) * mean
    carry[C_VOLUME_VAR] = (1.0 - a) * (carry[C_VOLUME_VAR] + a * (x - mean) * (x - new_mean))
    carry[C_VOLUME_MEAN] = new_mean
    return max(-4.0, min(6.0, (x - new_mean) / math.sqrt(max(carry[C_VOLUME_VAR], 1e-12))))


@kernel
def step_indicators(
    carry: FloatArray,
    ts_s: int,
    high: float,
    low: float,
    close: float,
    volume: float,
    bar_s: int,
    eps: float,
    rsi_flat: float,
    out: FloatArray,
) -> None:
    """Advance the carry by one closed bar and write its record.

    Parameters
    ----------
    carry : ndarray of shape (CARRY_SIZE,), zeros before the first bar; changed in place.
    ts_s, bar_s : bar open and bar length, seconds. The caller has checked that ts advances.
    high, low, close, volume : a valid bar (specs 1.1), quote volume.
    eps : denominator floor of the profile. rsi_flat : RSI of fourteen unchanged closes.
    out : ndarray of shape (N_FIELDS,), written; NaN only in adx and adx_slope_10 below 16 bars.
    """
    n = int(carry[C_BARS])  # index of this bar
    for j in range(7):
        e = close if n == 0 else carry[C_EMA + j] + _ALPHAS[j] * (close - carry[C_EMA + j])
        carry[C_EMA + j] = e
        out[j] = e
    for j in range(5):
        e = out[_SLOPED[j]]
        end = push(carry, R_EMA + 20 * j, SLOPE_BARS, n, e)
        s = slope_of_ten(carry, end) / max(e, eps) if n >= 9 and e > 0.0 else 0.0
        out[F_EMA20_SLOPE + j] = s
        if j > 0:
            ring = R_SLOPE + 20 * (j - 1)
            # the slot about to be overwritten holds the nslope of ten bars ago
            out[F_D_EMA60_SLOPE + j - 1] = s - carry[ring + n % SLOPE_BARS] if n >= 19 else 0.0
            push(carry, ring, SLOPE_BARS, n, s)

    sep_fast = (out[_EMA20] - out[_EMA60]) / max(out[_EMA60], eps)
    sep_mid = (out[_EMA60] - out[_EMA144]) / max(out[_EMA144], eps)
    fast_end = push(carry, R_SEP, 6, n, sep_fast)
    mid_end = push(carry, R_SEP + 12, 6, n, sep_mid)
    out[F_SEP_FAST] = sep_fast
    out[F_SEP_MID] = sep_mid
    out[F_DSEP_FAST] = sep_fast - carry[fast_end - 6] if n >= 5 else 0.0
    out[F_DSEP_MID] = sep_mid - carry[mid_end - 6] if n >= 5 else 0.0

    adx_values = 0
    tr = 0.0
    if n > 0:
        prev = carry[C_CLOSE]
        tr = max(high - low, abs(high - prev), abs(prev - low))
        plus, minus = directional_moves(high, low, carry[C_HIGH], carry[C_LOW])
        adx_values = step_adx(carry, C_ADX, tr, plus, minus, eps)
    _step_atr(carry, n, tr)
    atr_end = R_ATR + n % 20 + 21
    have = min(n + 1, 20)
    total = 0.0
    for k in range(atr_end - have, atr_end):
        total += carry[k]
    peak = carry[atr_end - 1]
    for k in range(atr_end - min(have, SLOPE_BARS), atr_end):
        peak = max(peak, carry[k])
    out[F_ATR] = carry[C_ATR]
    out[F_ATR_NORM] = carry[C_ATR] / max(out[_EMA50], eps)
    out[F_ATR_MEAN] = total / have
    out[F_ATR_PEAK] = peak

    rsi = _step_rsi(carry, n, close, eps, rsi_flat)
    out[F_RSI] = rsi
    rsi_end = push(carry, R_RSI, SLOPE_BARS, n, rsi)
    out[F_RSI_SLOPE] = slope_of_last(carry, rsi_end, n - 14)  # the series starts at bar 15
    if adx_values >= 2:
        out[F_ADX] = carry[C_ADX + 4]
        out[F_ADX_SLOPE] = slope_of_ten(carry, adx_ring_end(carry, C_ADX))
    else:
        out[F_ADX] = np.nan
        out[F_ADX_SLOPE] = np.nan
    out[F_VO_Z] = step_volume_z(carry, n, volume)
    out[F_PRICE] = close
    out[F_BARS] = n + 1
    out[F_IMMATURE] = 1.0 if n + 1 < MATURE_BARS else 0.0
    out[F_GAP] = 0.0 if n == 0 else (ts_s - carry[C_LAST_TS]) / bar_s - 1.0
    carry[C_BARS] = n + 1
    carry[C_LAST_TS] = ts_s
    carry[C_CLOSE] = close
    carry[C_HIGH] = high
    carry[C_LOW] = low


@kernel
def _step_each(
    carry: FloatArray,
    ts_s: NDArray[np.int64],
    high: FloatArray,
    low: FloatArray,
    close: FloatArray,
    volume: FloatArray,
    bar_s: int,
    eps: float,
    rsi_flat: float,
    out: FloatArray,
) -> None:
    for i in range(ts_s.size):
        step_indicators(carry, ts_s[i], high[i], low[i], close[i], volume[i], bar_s, eps, rsi_flat, out[i])


def run_indicators(
    carry: FloatArray,
    ts_s: NDArray[np.int64],
    high: FloatArray,
    low: FloatArray,
    close: FloatArray,
    volume: FloatArray,
    bar_s: int,
    eps: float,
    rsi_flat: float,
) -> FloatArray:
    """Records of shape (n_bars, N_FIELDS) for a batch of bars: `step_indicators` once per bar, oldest first."""
    # numpy asks the system for large pages, numba's allocator does not: a quarter of the whole time
    out = np.empty((ts_s.size, N_FIELDS))
    _step_each(carry, ts_s, high, low, close, volume, bar_s, eps, rsi_flat, out)
    return out


def new_carry() -> FloatArray:
    """Carry of a series before its first bar."""
    return np.zeros(CARRY_SIZE)
