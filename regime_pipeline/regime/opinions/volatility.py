"""The volatility regime of a bar: how wide its range is against its own last 90 days, and on which side of its mean it closed.

Specification 10; ATR after Wilder (1978). What the snapshot uses is the 1h row; 15m rows are kept for charts.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from regime_pipeline.errors import CallerError
from regime_pipeline.jit import kernel
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.bars import OpinionBars
from regime_pipeline.regime.opinions.kernels import LOOKBACK_BARS, is_covered
from regime_pipeline.regime.opinions.terms import CodeArray, FloatArray, IntArray, Status

WINDOW_SLOTS: Final = {Timeframe.M15: 8640, Timeframe.H1: 2160}
"""Slots of 90 days: the bands a bar is ranked among."""
MIN_BANDS: Final = 500
SHOCK_QUANTILE: Final = 0.95
ELEVATED_SHARE: Final = 0.5
TREND_ATRS: Final = 1.0
HOLD_BARS: Final = 3
HOLD_UNKNOWN: Final = 3
"""Unknown bars in a row that the active name survives."""
PROVISIONAL_SHOCK: Final = {
    ("BTC", Timeframe.H1): 0.0131,
    ("BTC", Timeframe.M15): 0.0070,
    ("ETH", Timeframe.H1): 0.0188,
    ("ETH", Timeframe.M15): 0.0099,
}
"""95th percentiles that stand in until a series has 500 bands of its own; the other series are unknown until then."""
FIXED_SHOCK: Final = 0.0080
FIXED_TREND_FRAC: Final = 0.0010


class VolRegime(StrEnum):
    """The five names, and unknown."""

    NEUTRAL_LOW_VOL = "neutral_low_vol"
    NEUTRAL_HIGH_VOL = "neutral_high_vol"
    UP = "up"
    DOWN = "down"
    HIGH_VOL_SHOCK = "high_vol_shock"
    UNKNOWN = "unknown"


class VolAxis(StrEnum):
    """How wide the range is."""

    LOW = "low"
    ELEVATED = "elevated"
    SHOCK = "shock"
    UNKNOWN = "unknown"


class DirectionAxis(StrEnum):
    """On which side of EMA50 the close lies, by more than one ATR."""

    FLAT = "flat"
    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"


class VolMethod(StrEnum):
    """Where the shock threshold comes from."""

    PERCENTILE = "percentile"
    FALLBACK = "fallback"
    FIXED = "fixed"


VOL_REGIMES: Final = tuple(VolRegime)
VOL_AXES: Final = tuple(VolAxis)
DIRECTION_AXES: Final = tuple(DirectionAxis)
"""Names of the codes in `VolatilityRows`."""

_LOW_VOL, _HIGH_VOL, _NAME_UP, _NAME_DOWN, _NAME_SHOCK, _NO_NAME = range(6)
_LOW, _ELEVATED, _SHOCK, _NO_VOL = range(4)
_FLAT, _UP, _DOWN, _NO_DIRECTION = range(4)
_OK: Final = Status.OK.code
_MISSING_BAR: Final = Status.MISSING_BAR.code
_NAN_FEATURE: Final = Status.NAN_FEATURE.code
_SHORT_HISTORY: Final = Status.SHORT_HISTORY.code
_ATR_BARS: Final = 14
_EMA_ALPHA: Final = 2.0 / 51.0


@kernel
def _measure(
    ts_s: IntArray, high: FloatArray, low: FloatArray, close: FloatArray, bar_s: int, first_s: int, out: FloatArray, status: CodeArray
) -> None:
    """Write close, EMA50, ATR14 and band per slot; the first true range of a look-back is its high minus its low."""
    k = 0
    for i in range(out.shape[0]):
        slot = first_s + i * bar_s
        while k < ts_s.size and ts_s[k] < slot:
            k += 1
        out[i] = np.nan
        if k >= ts_s.size or ts_s[k] != slot:
            status[i] = _MISSING_BAR
            continue
        if not is_covered(ts_s, k, bar_s):
            status[i] = _SHORT_HISTORY
            continue
        start = k - LOOKBACK_BARS + 1
        ema = close[start]
        atr = 0.0
        for j in range(start, k + 1):
            true_range = high[j] - low[j]
            if j > start:
                ema = _EMA_ALPHA * close[j] + (1.0 - _EMA_ALPHA) * ema
                true_range = max(true_range, abs(high[j] - close[j - 1]), abs(low[j] - close[j - 1]))
            if j - start < _ATR_BARS:
                atr += true_range
                if j - start == _ATR_BARS - 1:
                    atr /= _ATR_BARS
            else:
                atr = (13.0 * atr + true_range) / 14.0
        band = atr / close[k]
        status[i] = _OK
        if not (math.isfinite(ema) and math.isfinite(atr) and math.isfinite(band)):
            status[i] = _NAN_FEATURE
            continue
        out[i, 0] = close[k]
        out[i, 1] = ema
        out[i, 2] = atr
        out[i, 3] = band


@kernel
def _count_below(ordered: FloatArray, size: int, value: float, strictly: bool) -> int:
    """How many of ordered[:size] lie below a value, or at it too."""
    low = 0
    high = size
    while low < high:
        middle = (low + high) // 2
        if ordered[middle] < value or (not strictly and ordered[middle] == value):
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _quantile(ordered: FloatArray, size: int, share: float) -> float:
    """Quantile of ordered[:size] by linear interpolation between neighbours."""
    at = share * (size - 1)
    below = math.floor(at)
    above = min(below + 1, size - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


@kernel
def name_regime(close: float, ema: float, atr: float, trend: float, shock: float) -> tuple[int, int, int]:
    """Codes of the two axes and of the raw name. `trend` is how far from the EMA a close must lie, `shock` the threshold or NaN."""
    if math.isnan(shock):
        return _NO_VOL, _NO_DIRECTION, _NO_NAME
    band = atr / close
    vol = _SHOCK if band >= shock else _ELEVATED if band >= ELEVATED_SHARE * shock else _LOW
    direction = _UP if close - ema > trend else _DOWN if ema - close > trend else _FLAT
    if vol == _SHOCK:
        name = _NAME_SHOCK
    elif direction == _UP:
        name = _NAME_UP
    elif direction == _DOWN:
        name = _NAME_DOWN
    else:
        name = _HIGH_VOL if vol == _ELEVATED else _LOW_VOL
    return vol, direction, name


@kernel
def _hold(raw: int, held: IntArray) -> int:
    """Advance (active, candidate, count, unknown run) by one raw name and return the name to publish."""
    if raw == _NO_NAME:
        held[3] += 1
        if held[3] > HOLD_UNKNOWN:
            held[0] = _NO_NAME
            held[1] = _NO_NAME
            held[2] = 0
        return _NO_NAME
    held[3] = 0
    if raw == held[0]:
        held[1] = _NO_NAME
        held[2] = 0
        return raw
    held[2] = held[2] + 1 if raw == held[1] else 1
    held[1] = raw
    if held[0] == _NO_NAME or raw == _NAME_SHOCK or held[2] >= HOLD_BARS:
        held[0] = raw
        held[1] = _NO_NAME
        held[2] = 0
    return held[0]


@kernel
def _classify(
    measures: FloatArray,
    status: CodeArray,
    bands: FloatArray,
    window: int,
    provisional: float,
    fixed: bool,
    held: IntArray,
    ordered: FloatArray,
    numbers: FloatArray,
    codes: IntArray,
) -> None:
    """Rank, name and hold every slot. bands[i : i + window] are the bands before slot i; `ordered` is room for them, sorted."""
    size = 0
    for i in range(window):
        if not math.isnan(bands[i]):
            ordered[size] = bands[i]
            size += 1
    ordered[:size].sort()
    for i in range(measures.shape[0]):
        close, ema, atr, band = measures[i]
        shock = np.nan
        rank = np.nan
        trend = TREND_ATRS * atr
        if status[i] == _OK:
            if fixed:
                shock = FIXED_SHOCK
                trend = FIXED_TREND_FRAC * ema
            elif size >= MIN_BANDS:
                shock = _quantile(ordered, size, SHOCK_QUANTILE)
                rank = _count_below(ordered, size, band, False) / size
                if shock <= 0.0:  # prices that have not moved for 90 days: a band of zero is no shock
                    shock = np.nan
                    status[i] = _NAN_FEATURE
            else:
                shock = provisional
                status[i] = _SHORT_HISTORY
        vol, direction, raw = name_regime(close, ema, atr, trend, shock)
        numbers[i, 0] = shock
        numbers[i, 1] = rank
        codes[i, 0] = size
        codes[i, 1] = vol
        codes[i, 2] = direction
        codes[i, 3] = raw
        codes[i, 4] = _hold(raw, held)
        codes[i, 5:] = held
        if window == 0:
            continue
        if not math.isnan(bands[i]):
            at = _count_below(ordered, size, bands[i], True)
            for j in range(at, size - 1):
                ordered[j] = ordered[j + 1]
            size -= 1
        if not math.isnan(band):
            at = _count_below(ordered, size, band, True)
            for j in range(size, at, -1):
                ordered[j] = ordered[j - 1]
            ordered[at] = band
            size += 1


@dataclass(frozen=True, slots=True, eq=False)
class VolatilityMeasures:
    """What the bars alone say, per slot of an unbroken stretch of the grid: arrays of shape (n_slots,).

    `close`, `ema`, `atr` (price units) and `band` (atr / close) are NaN where `status` (`Status.code`) is not ok.
    """

    timeframe: Timeframe
    first_s: int
    close: FloatArray
    ema: FloatArray
    atr: FloatArray
    band: FloatArray
    status: CodeArray


def measure_volatility(bars: OpinionBars, first_s: int, last_s: int) -> VolatilityMeasures:
    """Compute EMA50, ATR14 and the band of every slot from `first_s` to `last_s`, both included.

    Parameters
    ----------
    bars : OpinionBars
        All bars that exist from 284 slots before `first_s` on; earlier ones change nothing.
    first_s, last_s : int
        Slot opens, epoch seconds.

    Returns
    -------
    VolatilityMeasures
        Row t depends on the 256 newest bars up to t. A slot without a bar is `missing_bar`, one with fewer than 256 bars or with
        more than 10 % of the slots in their span absent `short_history`. Unlike a feature row it does not need the slot before.

    Raises
    ------
    CallerError
        The slots are off the grid or `last_s` precedes `first_s`.
    """
    n = bars.count_slots(first_s, last_s)
    out = np.empty((n, 4))
    status = np.empty(n, dtype=np.int8)
    _measure(bars.ts_s, bars.high, bars.low, bars.close, bars.timeframe.seconds, first_s, out, status)
    return VolatilityMeasures(bars.timeframe, first_s, out[:, 0], out[:, 1], out[:, 2], out[:, 3], status)


@dataclass(frozen=True, slots=True)
class VolHold:
    """What the hold remembers after a bar: the active name survives up to three unknown bars, though they publish `unknown`."""

    active: VolRegime = VolRegime.UNKNOWN
    candidate: VolRegime = VolRegime.UNKNOWN
    candidate_count: int = 0
    unknown_run: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class VolatilityRows:
    """One row per slot, arrays of shape (n_slots,).

    `shock` (q95) and `band_rank` are NaN where there is none; `n_bands` counts the bands before t. `raw`, `active` (published) and
    `held`, `candidate` index `VOL_REGIMES`, `vol_axis` and `direction_axis` their tuples, `status` `STATUSES`. The last four columns
    are the hold after the slot: `hold_at` reads them back.
    """

    ts_s: IntArray
    ema: FloatArray
    atr: FloatArray
    band: FloatArray
    shock: FloatArray
    band_rank: FloatArray
    n_bands: IntArray
    vol_axis: IntArray
    direction_axis: IntArray
    raw: IntArray
    active: IntArray
    held: IntArray
    candidate: IntArray
    candidate_count: IntArray
    unknown_run: IntArray
    status: CodeArray
    method: tuple[VolMethod, ...]

    def hold_at(self, i: int) -> VolHold:
        """Return the hold after slot i."""
        held, candidate = VOL_REGIMES[self.held[i]], VOL_REGIMES[self.candidate[i]]
        return VolHold(held, candidate, int(self.candidate_count[i]), int(self.unknown_run[i]))


def classify_volatility(
    series: str, measures: VolatilityMeasures, past_bands: FloatArray, hold: VolHold, *, fixed: bool = False
) -> tuple[VolatilityRows, VolHold]:
    """Name the regime of every slot.

    Parameters
    ----------
    series : str
        One of the six; BTC and ETH have provisional thresholds.
    measures : VolatilityMeasures
        Slots to classify.
    past_bands : ndarray of shape (n_past,)
        Stored bands of the slots right before, oldest first, NaN where unknown. Of more than 90 days the newest count.
    hold : VolHold
        After the slot before the first.
    fixed : bool
        Use the fixed thresholds; for 1m bars only, where nothing else is defined.

    Raises
    ------
    CallerError
        The fixed method on another timeframe than 1m, the percentile on 1m, or a negative or infinite past band.
    """
    timeframe = measures.timeframe
    if fixed != (timeframe is Timeframe.M1):
        raise CallerError(
            f"method was {'fixed' if fixed else 'percentile'} on {timeframe} bars: fixed is for 1m, percentile for 15m and 1h."
        )
    if (past_bands < 0).any() or np.isinf(past_bands).any():
        raise CallerError("a past band was negative or infinite: hand over stored bands, NaN where a bar was unknown.")
    window = 0 if fixed else WINDOW_SLOTS[timeframe]
    n = len(measures.status)
    past = past_bands[max(0, past_bands.size - window) :] if window else past_bands[:0]
    bands = np.concatenate([np.full(window - past.size, np.nan), past, measures.band])
    held = np.array(
        [VOL_REGIMES.index(hold.active), VOL_REGIMES.index(hold.candidate), hold.candidate_count, hold.unknown_run], dtype=np.int64
    )
    numbers, codes, status = np.empty((n, 2)), np.empty((n, 9), dtype=np.int64), measures.status.copy()
    columns = np.stack([measures.close, measures.ema, measures.atr, measures.band], axis=1)
    provisional = PROVISIONAL_SHOCK.get((series, timeframe), math.nan)
    _classify(columns, status, bands, window, provisional, fixed, held, np.empty(window + 1), numbers, codes)
    usual = VolMethod.FIXED if fixed else VolMethod.PERCENTILE
    provisionally = (status == _SHORT_HISTORY) & ~np.isnan(numbers[:, 0])
    rows = VolatilityRows(
        ts_s=measures.first_s + timeframe.seconds * np.arange(n, dtype=np.int64),
        ema=measures.ema,
        atr=measures.atr,
        band=measures.band,
        shock=numbers[:, 0],
        band_rank=numbers[:, 1],
        n_bands=codes[:, 0],
        vol_axis=codes[:, 1],
        direction_axis=codes[:, 2],
        raw=codes[:, 3],
        active=codes[:, 4],
        held=codes[:, 5],
        candidate=codes[:, 6],
        candidate_count=codes[:, 7],
        unknown_run=codes[:, 8],
        status=status,
        method=tuple(VolMethod.FALLBACK if early else usual for early in provisionally),
    )
    return rows, rows.hold_at(n - 1) if n else hold
