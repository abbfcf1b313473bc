"""The uptrend machine: order tests, the transition table and the flags of one closed bar (specs 4.1, 4.2, 4.4, 4.5), compiled.

One step takes the indicator record and the level set in force and moves a flat carry of `CARRY_SIZE` doubles. Decisions are those
of a classifier: the machine signals, it never trades.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.indicators.levels import L_PRICE, L_RAW, LEVEL_COLUMNS, MAX_LEVELS
from regime_pipeline.indicators.record import INDEX
from regime_pipeline.jit import kernel
from regime_pipeline.trend import record as out_fields
from regime_pipeline.trend.decay import D_SIZE, decay, extend_tape, start_tape
from regime_pipeline.trend.profile import Constants
from regime_pipeline.trend.scores import (
    clamp01,
    discount,
    discount_threshold,
    level_boost,
    level_strength,
    overextension,
    overextension_in_s3,
    trend_strength,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int32]

S0: Final = 0
S1: Final = 1
S2: Final = 2
S3: Final = 3
S4: Final = 4
NONE: Final = out_fields.NO_STATE

# --- layout of the carry -------------------------------------------------------------------------------------------------------
K_STATE: Final = 0
K_SINCE_TS: Final = 1
K_S3_START_TS: Final = 2  # NaN outside S3
K_T: Final = 3  # bars since the S3 start
K_EMERGENCY: Final = 4  # emergency_exit of the previous bar
K_LEVELS_HOUR: Final = 5  # bar_end // 3600 of the last level rebuild, -1 before the first
K_N_LEVELS: Final = 6
K_LEVELS: Final = 7
K_DECAY: Final = K_LEVELS + MAX_LEVELS * LEVEL_COLUMNS
CARRY_SIZE: Final = K_DECAY + D_SIZE

I_EMA20: Final = INDEX["ema20"]
I_EMA30: Final = INDEX["ema30"]
I_EMA60: Final = INDEX["ema60"]
I_EMA144: Final = INDEX["ema144"]
I_EMA250: Final = INDEX["ema250"]
I_EMA333: Final = INDEX["ema333"]
I_EMA60_SLOPE: Final = INDEX["ema60_slope"]
I_EMA144_SLOPE: Final = INDEX["ema144_slope"]
I_EMA250_SLOPE: Final = INDEX["ema250_slope"]
I_EMA333_SLOPE: Final = INDEX["ema333_slope"]
I_ATR: Final = INDEX["atr"]
I_PRICE: Final = INDEX["latest_price"]

_O = out_fields.INDEX
O_STATE: Final = _O["state"]
O_PREV: Final = _O["prev_state"]
O_SINCE: Final = _O["state_since_ts"]
O_S3_START: Final = _O["s3_start_ts"]
O_T: Final = _O["bars_since_s3"]
O_BUY: Final = _O["buy"]
O_REBUY: Final = _O["rebuy"]
O_TRIM: Final = _O["trim"]
O_EMERGENCY: Final = _O["emergency_exit"]
O_RECLAIMED: Final = _O["reclaimed_ema333"]
O_EXIT: Final = _O["exit_position"]
O_S2_RETEST: Final = _O["rebuy_s2_retest"]
O_DX_BUY: Final = _O["rebuy_dx"]
O_RECLAIM: Final = _O["rebuy_reclaim"]
O_EXIT_REASON: Final = _O["exit_reason"]
O_TS: Final = _O["ts_score"]
O_TS_BOOST: Final = _O["ts_with_boost"]
O_BOOST: Final = _O["sr_boost"]
O_OX: Final = _O["ox"]
O_DX: Final = _O["dx"]
O_EDX: Final = _O["edx"]
O_THRESHOLD: Final = _O["dx_threshold"]
O_ANCHOR: Final = _O["anchor"]
O_HALO: Final = _O["halo"]
O_ZONE: Final = _O["entry_zone_ok"]
O_SLOPE: Final = _O["slope_ok"]
O_TS_OK: Final = _O["ts_ok"]
O_NEAR_SR: Final = _O["near_sr"]
O_LEVEL_PRICE: Final = _O["nearest_level_price"]
O_LEVEL_STRENGTH: Final = _O["nearest_level_strength"]

REASON_BEARISH: Final = 0
REASON_BELOW_333: Final = 1


@kernel
def fast_above_mid(rec: FloatArray) -> bool:
    """ema20 and ema30 both above ema60."""
    return rec[I_EMA20] > rec[I_EMA60] and rec[I_EMA30] > rec[I_EMA60]


@kernel
def bearish_order(rec: FloatArray) -> bool:
    """Fast below mid, and ema60 < ema144 < ema250 < ema333."""
    fast = rec[I_EMA20] < rec[I_EMA60] and rec[I_EMA30] < rec[I_EMA60]
    return fast and rec[I_EMA60] < rec[I_EMA144] and rec[I_EMA144] < rec[I_EMA250] and rec[I_EMA250] < rec[I_EMA333]


@kernel
def bullish_order(rec: FloatArray) -> bool:
    """Fast above mid, and ema60 > ema144 > ema250 > ema333."""
    slow = rec[I_EMA60] > rec[I_EMA144] and rec[I_EMA144] > rec[I_EMA250] and rec[I_EMA250] > rec[I_EMA333]
    return fast_above_mid(rec) and slow


@kernel
def all_below_333(rec: FloatArray) -> bool:
    """All five faster averages below ema333."""
    e = rec[I_EMA333]
    return rec[I_EMA20] < e and rec[I_EMA30] < e and rec[I_EMA60] < e and rec[I_EMA144] < e and rec[I_EMA250] < e


@kernel
def next_state(state: int, rec: FloatArray, bootstrap_s3: bool) -> int:
    """The transition table of specs 4.2: at most one move per bar, tests in its order, strict comparisons."""
    p = rec[I_PRICE]
    if state in (NONE, S4):
        if bearish_order(rec):
            return S0
        if bootstrap_s3 and bullish_order(rec):
            return S3
        return S4
    if state == S0:
        return S1 if fast_above_mid(rec) and p > rec[I_EMA60] else S0
    if state == S1:
        if bearish_order(rec):
            return S0
        return S2 if p > rec[I_EMA333] else S1
    if state == S2:
        if p < rec[I_EMA333]:
            return S1
        return S3 if bullish_order(rec) else S2
    return S0 if all_below_333(rec) else S3


@kernel
def _entry_test(
    rec: FloatArray, ts: float, levels: FloatArray, n: int, anchor: float, halo: float, slope_ok: bool, k: Constants, out: FloatArray
) -> bool:
    """Zone, slope and gate of a buy test, all recorded; True when all three hold."""
    boost = level_boost(anchor, rec[I_ATR], levels, n, k)
    zone = abs(rec[I_PRICE] - anchor) <= halo * rec[I_ATR]
    gate = ts + boost >= k.gate
    out[O_BOOST] = boost
    out[O_TS_BOOST] = ts + boost
    out[O_ANCHOR] = anchor
    out[O_HALO] = halo * rec[I_ATR]
    out[O_ZONE] = zone
    out[O_SLOPE] = slope_ok
    out[O_TS_OK] = gate
    return zone and slope_ok and gate


@kernel
def _nearest_level(rec: FloatArray, levels: FloatArray, n: int, k: Constants, out: FloatArray) -> bool:
    """Record the level nearest to the price; True when it lies within the trim halo."""
    best = -1
    for j in range(n):
        if best < 0 or abs(levels[j, L_PRICE] - rec[I_PRICE]) < abs(levels[best, L_PRICE] - rec[I_PRICE]):
            best = j
    near = False
    if best >= 0:
        out[O_LEVEL_PRICE] = levels[best, L_PRICE]
        out[O_LEVEL_STRENGTH] = level_strength(levels[best, L_RAW], k.strength_scale)
        near = rec[I_ATR] > 0.0 and abs(levels[best, L_PRICE] - rec[I_PRICE]) <= k.trim_halo_atr * rec[I_ATR]
    out[O_NEAR_SR] = near
    return near


@kernel
def _s2_retest(rec: FloatArray, ts: float, levels: FloatArray, n: int, k: Constants, out: FloatArray) -> bool:
    slope_ok = rec[I_EMA250_SLOPE] > 0.0 or rec[I_EMA333_SLOPE] >= 0.0
    return _entry_test(rec, ts, levels, n, rec[I_EMA333], k.s2_halo_atr, slope_ok, k, out)


@kernel
def _evaluate_s3(rec: FloatArray, ts: float, was_emergency: bool, levels: FloatArray, n: int, k: Constants, out: FloatArray) -> None:
    """Flags of a confirmed uptrend; out already holds EDX."""
    p = rec[I_PRICE]
    emergency = p < rec[I_EMA333]
    reclaimed = was_emergency and p >= rec[I_EMA333]
    out[O_EMERGENCY] = emergency
    out[O_RECLAIMED] = reclaimed
    out[O_OX] = overextension_in_s3(rec, out[O_EDX], k)
    out[O_DX] = discount(rec, out[O_EDX], k)
    out[O_THRESHOLD] = discount_threshold(rec, out[O_EDX], k)
    _s2_retest(rec, ts, levels, n, k, out)
    dx_buy = out[O_DX] >= out[O_THRESHOLD] and p <= rec[I_EMA144] and out[O_SLOPE] > 0.0 and out[O_TS_OK] > 0.0 and not emergency
    out[O_DX_BUY] = dx_buy
    out[O_RECLAIM] = reclaimed
    out[O_REBUY] = dx_buy or reclaimed
    near = _nearest_level(rec, levels, n, k, out)
    out[O_TRIM] = near and out[O_OX] >= k.trim_ox


@kernel
def _evaluate_s2(rec: FloatArray, ts: float, levels: FloatArray, n: int, k: Constants, out: FloatArray) -> None:
    """EMA333 retest and trim of S2."""
    retest = _s2_retest(rec, ts, levels, n, k, out)
    out[O_S2_RETEST] = retest
    if k.s2_retest_as_buy > 0.0:
        out[O_BUY] = retest
        out[O_S2_RETEST] = 0.0
    else:
        out[O_REBUY] = retest
    near = _nearest_level(rec, levels, n, k, out)
    out[O_TRIM] = near and out[O_OX] >= k.trim_ox


@kernel
def step_machine(
    carry: FloatArray,
    ind_carry: FloatArray,
    rec: FloatArray,
    ts_s: int,
    high: float,
    low: float,
    volume: float,
    bootstrap_s3: bool,
    k: Constants,
    pool: FloatArray,
    chunks: IntArray,
    extremes: FloatArray,
    out: FloatArray,
) -> int:
    """Advance the machine by one record and write its engine record row.

    `carry` and `out` are changed in place; the level set in the carry is the one in force. Returns -1, or the number of a tape
    chunk to load: the step then counts as not done and both carries must be restored before it is tried again.
    """
    out[:] = np.nan
    out[O_BUY : O_RECLAIM + 1] = 0.0
    prev = int(carry[K_STATE])
    state = next_state(prev, rec, bootstrap_s3)
    n = int(carry[K_N_LEVELS])
    levels = carry[K_LEVELS:K_DECAY].reshape((MAX_LEVELS, LEVEL_COLUMNS))
    d = carry[K_DECAY:]
    ts = trend_strength(rec)
    out[O_TS] = ts
    out[O_OX] = clamp01(overextension(rec))
    if state != prev:
        carry[K_SINCE_TS] = ts_s

    if state == S3:
        if prev != S3:
            carry[K_S3_START_TS] = ts_s
            carry[K_T] = 0.0
            start_tape(d, rec, high, low, rec[I_PRICE], volume, pool, chunks, extremes)
        else:
            carry[K_T] += 1.0
            extend_tape(d, int(carry[K_T]), rec, high, low, rec[I_PRICE], volume, k.eps, pool, chunks, extremes)
        missing = decay(d, int(carry[K_T]), ind_carry, rec, k, pool, chunks, extremes, out[O_EDX:O_THRESHOLD])
        if missing >= 0:
            return missing
        _evaluate_s3(rec, ts, carry[K_EMERGENCY] > 0.0, levels, n, k, out)
        out[O_S3_START] = carry[K_S3_START_TS]
        out[O_T] = carry[K_T]
    elif state == S2 and prev == S2:
        _evaluate_s2(rec, ts, levels, n, k, out)
    elif state == S1 and prev != S2:
        slope_ok = rec[I_EMA60_SLOPE] > 0.0 or rec[I_EMA144_SLOPE] >= 0.0
        out[O_BUY] = _entry_test(rec, ts, levels, n, rec[I_EMA60], k.s1_halo_atr, slope_ok, k, out)
    elif state == S0 and prev == S1:
        out[O_EXIT] = 1.0
        out[O_EMERGENCY] = 1.0
        out[O_EXIT_REASON] = REASON_BEARISH
    elif state == S0 and prev == S3:
        out[O_EXIT] = 1.0
        out[O_EXIT_REASON] = REASON_BELOW_333
        carry[K_S3_START_TS] = np.nan

    carry[K_STATE] = state
    carry[K_EMERGENCY] = 1.0 if state == S3 and out[O_EMERGENCY] > 0.0 else 0.0
    out[O_STATE] = state
    out[O_PREV] = prev if prev != NONE else np.nan
    out[O_SINCE] = carry[K_SINCE_TS]
    return -1


def new_carry() -> FloatArray:
    """Carry of a series before its first step."""
    carry = np.zeros(CARRY_SIZE)
    carry[K_STATE] = NONE
    carry[K_S3_START_TS] = np.nan
    carry[K_LEVELS_HOUR] = -1.0
    return carry
