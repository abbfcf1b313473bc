"""Support and resistance levels: swings, clusters, extremes and Fibonacci ratios of the last 1000 closes (specs section 3).

A level set is rebuilt at most once an hour of bar time, so replay and live agree. The kernel writes a set into fixed arrays of
`MAX_LEVELS` rows with columns `LEVEL_COLUMNS`; `describe_levels` turns them into named `Level` objects.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.jit import kernel

FloatArray = NDArray[np.float64]

WINDOW_BARS: Final = 1000
MIN_CLOSES: Final = 50
MIN_SWINGS: Final = 3
MIN_SWING_FRAC: Final = 0.005
CLUSTER_FRAC: Final = 0.06
MAX_CLUSTERS: Final = 9
MAX_LEVELS: Final = 12
EXTREME_STRENGTH: Final = 10.0
FIB_STRENGTH: Final = 15.0
NEAR_FRAC: Final = 0.03
FAR_FRAC: Final = 0.07
SAME_CLUSTER_FRAC: Final = 0.03
"""A cluster keeps its id when its centre moved by less than this share of the old one."""

RETRACEMENTS: Final = (0.0, 0.236, 0.382, 0.5, 0.618, 0.786, 1.0)
EXTENSIONS: Final = (1.272, 1.618, 2.0, 2.618, 3.0, 4.236)

L_PRICE: Final = 0
L_RAW: Final = 1
L_CODE: Final = 2
LEVEL_COLUMNS: Final = 3
CODE_ATH: Final = 1
CODE_ATL: Final = 2
CODE_RETRACEMENT: Final = 10
CODE_EXTENSION: Final = 20
CODE_CLUSTER: Final = 100
"""Codes from here on are clusters: 100 + build bar's epoch minute * 16 + rank, exact in a float64 for some 10^9 years."""

_RETRACEMENTS = np.array(RETRACEMENTS)
_EXTENSIONS = np.array(EXTENSIONS)


@dataclass(frozen=True, slots=True)
class Level:
    """One support or resistance level. `strength_raw` counts touches and bonuses, `strength` is what the profile makes of it."""

    level_id: str
    price: float
    strength_raw: float
    strength: float
    source: str


@kernel
def find_swings(closes: FloatArray, highs: FloatArray, lows: FloatArray) -> tuple[int, int]:
    """Five-bar fractals of at least 0.5 % (Williams 1995): fills the two arrays with closes, returns how many of each."""
    n_high = 0
    n_low = 0
    for i in range(2, closes.size - 2):
        c = closes[i]
        a, b, d, e = closes[i - 2], closes[i - 1], closes[i + 1], closes[i + 2]
        if c > a and c > b and c > d and c > e:
            if (c - min(min(a, b), min(d, e))) / c >= MIN_SWING_FRAC:
                highs[n_high] = c
                n_high += 1
        elif c < a and c < b and c < d and c < e and (max(max(a, b), max(d, e)) - c) / c >= MIN_SWING_FRAC:
            lows[n_low] = c
            n_low += 1
    return n_high, n_low


@kernel
def cluster_swings(swings: FloatArray, centres: FloatArray, counts: FloatArray) -> int:
    """Group ascending swing closes: each joins the first cluster within 6 % of its running mean, else opens one."""
    k = 0
    for price in np.sort(swings):
        joined = False
        for j in range(k):
            if abs(price - centres[j]) / centres[j] <= CLUSTER_FRAC:
                centres[j] = (centres[j] * counts[j] + price) / (counts[j] + 1.0)
                counts[j] += 1.0
                joined = True
                break
        if not joined:
            centres[k] = price
            counts[k] = 1.0
            k += 1
    return k


@kernel
def _rank(price: FloatArray, raw: FloatArray, n: int, order: NDArray[np.int64]) -> None:
    """Insertion sort of n entries into `order`: strength descending, then price ascending; stable."""
    for i in range(n):
        j = i
        while j > 0:
            other = order[j - 1]
            if raw[other] > raw[i] or (raw[other] == raw[i] and price[other] <= price[i]):
                break
            order[j] = other
            j -= 1
        order[j] = i


@kernel
def _bonus(price: float, base_price: FloatArray, base_raw: FloatArray, n_base: int) -> float:
    """What the nearest base level adds to a Fibonacci level: all its strength under 3 % away, half of it under 7 %."""
    best = 0
    for j in range(1, n_base):
        if abs(base_price[j] - price) < abs(base_price[best] - price):
            best = j
    distance = abs(base_price[best] - price) / price
    if distance < NEAR_FRAC:
        return base_raw[best]
    return np.floor(base_raw[best] / 2.0) if distance < FAR_FRAC else 0.0


@kernel
def _name_clusters(price: FloatArray, code: FloatArray, n_clusters: int, old: FloatArray, n_old: int, build_minute: float) -> None:
    """Give clusters stable codes: nearest pair first, one to one, a cluster takes the code of an old one within 3 %."""
    used = np.zeros(MAX_LEVELS, dtype=np.bool_)
    for j in range(n_clusters):
        code[j] = 0.0
    while True:
        best_new = -1
        best_old = -1
        best = SAME_CLUSTER_FRAC
        for j in range(n_clusters):
            if code[j] == 0.0:
                for k in range(n_old):
                    if not used[k] and old[k, L_CODE] >= CODE_CLUSTER:
                        d = abs(price[j] - old[k, L_PRICE]) / old[k, L_PRICE]
                        if d < best or (d == best and best_new < 0):
                            best = d
                            best_new = j
                            best_old = k
        if best_new < 0:
            break
        used[best_old] = True
        code[best_new] = old[best_old, L_CODE]
    for j in range(n_clusters):
        if code[j] == 0.0:
            code[j] = CODE_CLUSTER + build_minute * 16.0 + j


@kernel
def build_levels(closes: FloatArray, build_ts_s: int, levels: FloatArray, n_old: int) -> int:
    """Rebuild a level set in place.

    Parameters
    ----------
    closes : ndarray of shape (n,), the last n <= 1000 closes up to and including the stepped bar, oldest first, all > 0.
    build_ts_s : open of the stepped bar, epoch seconds; names new clusters.
    levels : ndarray of shape (MAX_LEVELS, LEVEL_COLUMNS): the previous set in, the new one out, price descending.
    n_old : rows of the previous set.

    Returns
    -------
    int
        Rows of the new set; 0 below 50 closes, or with fewer than 3 swing highs and fewer than 3 swing lows.
    """
    n = closes.size
    if n < MIN_CLOSES:
        return 0
    highs = np.empty(n)
    lows = np.empty(n)
    n_high, n_low = find_swings(closes, highs, lows)
    if n_high < MIN_SWINGS and n_low < MIN_SWINGS:
        return 0
    swings = np.empty(n_high + n_low)
    for j in range(swings.size):
        swings[j] = highs[j] if j < n_high else lows[j - n_high]
    centres = np.empty(swings.size)
    counts = np.empty(swings.size)
    k = cluster_swings(swings, centres, counts)
    order = np.empty(k, dtype=np.int64)
    _rank(centres, counts, k, order)
    kept = min(k, MAX_CLUSTERS)

    size = MAX_CLUSTERS + 2 + _RETRACEMENTS.size + _EXTENSIONS.size
    price = np.empty(size)
    raw = np.empty(size)
    code = np.empty(size)
    for j in range(kept):
        price[j] = centres[order[j]]
        raw[j] = counts[order[j]]
    _name_clusters(price, code, kept, levels, n_old, build_ts_s // 60)
    ath = closes[0]
    atl = closes[0]
    for close in closes:
        ath = max(ath, close)
        atl = min(atl, close)
    price[kept], raw[kept], code[kept] = ath, EXTREME_STRENGTH, CODE_ATH
    price[kept + 1], raw[kept + 1], code[kept + 1] = atl, EXTREME_STRENGTH, CODE_ATL
    n_base = kept + 2
    m = n_base
    for j in range(_RETRACEMENTS.size):
        price[m] = ath - _RETRACEMENTS[j] * (ath - atl)
        raw[m] = FIB_STRENGTH + _bonus(price[m], price, raw, n_base)
        code[m] = CODE_RETRACEMENT + j
        m += 1
    for j in range(_EXTENSIONS.size):
        p = atl + _EXTENSIONS[j] * (ath - atl)
        if p > closes[n - 1]:
            price[m] = p
            raw[m] = FIB_STRENGTH + _bonus(p, price, raw, n_base)
            code[m] = CODE_EXTENSION + j
            m += 1

    ranked = np.empty(m, dtype=np.int64)
    _rank(price, raw, m, ranked)
    count = min(m, MAX_LEVELS)
    for rank in range(count):  # insertion by price, descending; among equals the stronger stays first
        i = ranked[rank]
        j = rank
        while j > 0 and levels[j - 1, L_PRICE] < price[i]:
            for column in range(LEVEL_COLUMNS):
                levels[j, column] = levels[j - 1, column]
            j -= 1
        levels[j, L_PRICE] = price[i]
        levels[j, L_RAW] = raw[i]
        levels[j, L_CODE] = code[i]
    return count


def _name(code: int) -> tuple[str, str]:
    if code == CODE_ATH:
        return "ath", "extreme"
    if code == CODE_ATL:
        return "atl", "extreme"
    if CODE_RETRACEMENT <= code < CODE_RETRACEMENT + len(RETRACEMENTS):
        return f"fib_ret_{RETRACEMENTS[code - CODE_RETRACEMENT]:g}", "fibonacci"
    if CODE_EXTENSION <= code < CODE_EXTENSION + len(EXTENSIONS):
        return f"fib_ext_{EXTENSIONS[code - CODE_EXTENSION]:g}", "fibonacci"
    minute, rank = divmod(code - CODE_CLUSTER, 16)
    return f"cluster_{minute * 60}_{rank}", "cluster"


def describe_levels(levels: FloatArray, strength_scale: float) -> list[Level]:
    """Name the rows of a level set; `strength_scale` 0 keeps the raw strength (profile v4), else min(1, raw / scale)."""
    out = []
    for price, raw, code in levels:
        level_id, source = _name(int(code))
        strength = float(raw) if strength_scale <= 0 else min(1.0, float(raw) / strength_scale)
        out.append(Level(level_id, float(price), float(raw), strength, source))
    return out
