"""Trend strength, level boost, overextension (OX) and discount (DX): specs sections 4.3 to 4.7, compiled.

`rec` is an indicator record row, `levels` the rows of the level set in force. p is the price, A the ATR, all in quote currency.
"""

import math

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.indicators.levels import L_PRICE, L_RAW
from regime_pipeline.indicators.record import INDEX
from regime_pipeline.jit import kernel
from regime_pipeline.trend.profile import Constants

FloatArray = NDArray[np.float64]

I_EMA20 = INDEX["ema20"]
I_EMA60 = INDEX["ema60"]
I_EMA144 = INDEX["ema144"]
I_EMA250 = INDEX["ema250"]
I_EMA333 = INDEX["ema333"]
I_EMA20_SLOPE = INDEX["ema20_slope"]
I_D_EMA144_SLOPE = INDEX["d_ema144_slope"]
I_DSEP_FAST = INDEX["dsep_fast_5"]
I_DSEP_MID = INDEX["dsep_mid_5"]
I_ATR = INDEX["atr"]
I_ATR_MEAN = INDEX["atr_mean_20"]
I_RSI_SLOPE = INDEX["rsi_slope_10"]
I_ADX = INDEX["adx"]
I_ADX_SLOPE = INDEX["adx_slope_10"]
I_VO_Z = INDEX["vo_z"]
I_PRICE = INDEX["latest_price"]


@kernel
def sigmoid(x: float) -> float:
    """Logistic function with its argument held within +/- 60."""
    return 1.0 / (1.0 + math.exp(-min(60.0, max(-60.0, x))))


@kernel
def clamp01(x: float) -> float:
    """Hold x in [0, 1]."""
    return min(1.0, max(0.0, x))


@kernel
def trend_strength(rec: FloatArray) -> float:
    """TS in [0, 1]: where the RSI and ADX slopes stand in their usual range; neutral .5."""
    return 0.5 * (clamp01((rec[I_RSI_SLOPE] + 5.0) / 10.0) + clamp01((rec[I_ADX_SLOPE] + 2.0) / 4.0))


@kernel
def level_strength(raw: float, scale: float) -> float:
    """What a profile makes of a raw strength."""
    return raw if scale <= 0.0 else min(1.0, raw / scale)


@kernel
def level_boost(anchor: float, atr: float, levels: FloatArray, n_levels: int, k: Constants) -> float:
    """How much levels within one ATR of the anchor add to the trend strength; grows with strength, falls with distance."""
    best = 0.0
    if atr > 0.0:
        for j in range(n_levels):
            d = abs(levels[j, L_PRICE] - anchor)
            if d <= atr:
                best = max(best, level_strength(levels[j, L_RAW], k.strength_scale) * (1.0 - d / atr) * k.boost_weight)
    return min(k.boost_cap, best)


@kernel
def overextension(rec: FloatArray) -> float:
    """OXb before decay and clamp: distance above the averages, widening separation, volatility, speed."""
    p = rec[I_PRICE]
    atr = rec[I_ATR]
    total = 0.0
    ratio = 1.0
    if atr > 0.0:
        total = 0.35 * sigmoid((p - rec[I_EMA20]) / (1.5 * atr)) + 0.20 * sigmoid((p - rec[I_EMA60]) / (2.0 * atr))
        total += 0.10 * sigmoid((p - rec[I_EMA144]) / (1.5 * atr)) + 0.10 * sigmoid((p - rec[I_EMA250]) / (2.0 * atr))
        ratio = atr / rec[I_ATR_MEAN]
    total += 0.10 * sigmoid(rec[I_DSEP_FAST] / 0.0015) + 0.05 * sigmoid(rec[I_DSEP_MID] / 0.0010)
    total += 0.05 * sigmoid(ratio - 1.0) + 0.05 * sigmoid(-rec[I_EMA20_SLOPE] / 0.0008)
    return total


@kernel
def overextension_in_s3(rec: FloatArray, edx: float, k: Constants) -> float:
    """OX of a confirmed uptrend: a decaying trend is overextended sooner."""
    return clamp01(overextension(rec) * (1.0 + k.ox_decay_gain * min(0.5, max(0.0, edx - 0.5))))


@kernel
def discount(rec: FloatArray, edx: float, k: Constants) -> float:
    """DX in [0, 1]: how deep between EMA144 and EMA333 the price lies, and whether the selling is spent."""
    p = rec[I_PRICE]
    e144 = rec[I_EMA144]
    e333 = rec[I_EMA333]
    width = abs(e144 - e333)
    if e144 > e333:
        x = clamp01((p - e333) / width)
    elif e333 > e144:
        x = clamp01((p - e144) / width)
    else:
        x = 0.0 if p <= e144 else 1.0
        width = 0.01 * e144
    compression = sigmoid((0.03 - width / p) / 0.02)
    location = math.exp(-3.0 * x) * (1.0 + 0.3 * compression)
    exhaustion = sigmoid(-rec[I_VO_Z])
    ratio = rec[I_ATR] / rec[I_ATR_MEAN] if rec[I_ATR] > 0.0 else 1.0
    relief = 0.5 * sigmoid((ratio - 0.9) / 0.05) + 0.25 * sigmoid(rec[I_RSI_SLOPE] / 0.5)
    if rec[I_ADX] >= 18.0:
        relief += 0.25 * sigmoid(rec[I_ADX_SLOPE] / 0.3)
    curl = 1.0 if rec[I_D_EMA144_SLOPE] > 0.0 else 0.0
    base = 0.45 * location + 0.25 * exhaustion + 0.25 * relief + 0.05 * curl
    return clamp01(base * (1.0 - k.dx_decay_cut * min(0.4, max(0.0, edx - 0.6))))


@kernel
def discount_threshold(rec: FloatArray, edx: float, k: Constants) -> float:
    """DX a buy needs: rises with decay, falls from EMA144 down to EMA333."""
    if edx < 0.5:
        suppression = 0.0
    elif edx < 0.7:
        suppression = (edx - 0.5) / 2.0
    else:
        suppression = 0.15
    e144 = rec[I_EMA144]
    e333 = rec[I_EMA333]
    relief = 0.0
    if e144 > e333 and rec[I_PRICE] <= e144:
        q = clamp01((e144 - rec[I_PRICE]) / (e144 - e333))
        relief = k.position_boost * q - k.position_penalty * (1.0 - q)
    return max(0.0, k.dx_threshold + suppression - relief)
