"""A slow, literal reading of specs sections 2 to 4, used only as the independent computation the kernels are compared with.

Everything is recomputed from the whole history at every call, in the order the rules are written: no carry, no closed forms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Series = Sequence[float]


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, x))))


def clamp01(x: float) -> float:
    return min(1.0, max(0.0, x))


def ema(x: Series, n: int) -> list[float]:
    a = 2.0 / (n + 1)
    out = [x[0]]
    for value in x[1:]:
        out.append(out[-1] + a * (value - out[-1]))
    return out


def slope(x: Series, w: int) -> float:
    tail = list(x[-w:])
    m = len(tail)
    if m < 3:
        return 0.0
    mean_k = (m - 1) / 2
    mean_x = sum(tail) / m
    return sum((k - mean_k) * (v - mean_x) for k, v in enumerate(tail)) / sum((k - mean_k) ** 2 for k in range(m))


def nslope(e: Series, eps: float) -> float:
    return 0.0 if len(e) < 10 or e[-1] <= 0 else slope(e, 10) / max(e[-1], eps)


def dslope(e: Series, eps: float) -> float:
    return 0.0 if len(e) < 20 else nslope(e, eps) - slope(e[-20:-10], 10) / max(e[-11], eps)


def rsi_series(c: Series, flat: float, eps: float) -> list[float]:
    """Values of the bars from index 15 on: the series whose slope the record takes."""
    return [rsi_at(c[: i + 1], flat, eps) for i in range(15, len(c))]


def rsi_at(c: Series, flat: float, eps: float) -> float:
    if len(c) <= 14:
        return 50.0
    d = [c[i] - c[i - 1] for i in range(len(c) - 14, len(c))]
    g = sum(max(x, 0.0) for x in d) / 14
    b = sum(max(-x, 0.0) for x in d) / 14
    if g == 0 and b == 0:
        return flat
    return 100 - 100 / (1 + g / (b or eps))


def true_ranges(h: Series, low: Series, c: Series) -> list[float]:
    return [max(h[i] - low[i], abs(h[i] - c[i - 1]), abs(c[i - 1] - low[i])) for i in range(1, len(c))]


def atr_series(h: Series, low: Series, c: Series) -> list[float]:
    tr = true_ranges(h, low, c)
    if not tr:
        return [0.0] * len(c)
    k = min(14, len(tr))
    first = sum(tr[:k]) / k
    out = [first] * (k + 1)
    for value in tr[k:]:
        out.append((13 * out[-1] + value) / 14)
    return out


def adx_series(h: Series, low: Series, c: Series, eps: float) -> list[float] | None:
    """Length of the bars; earlier bars take the first value. None below 16 bars."""
    n = len(c)
    if n < 16:
        return None
    tr = true_ranges(h, low, c)
    plus, minus = [], []
    for i in range(1, n):
        up, down = h[i] - h[i - 1], low[i - 1] - low[i]
        plus.append(up if up > down and up > 0 else 0.0)
        minus.append(down if down > up and down > 0 else 0.0)
    t, p, m = (sum(x[:14]) / 14 for x in (tr, plus, minus))
    out: list[float] = []
    for i in range(14, n):
        if i > 14:
            t, p, m = ((13 * prev + x[i - 1]) / 14 for prev, x in ((t, tr), (p, plus), (m, minus)))
        dip, dim = 100 * p / max(t, eps), 100 * m / max(t, eps)
        dx = 100 * abs(dip - dim) / max(dip + dim, eps)
        out.append(dx if not out else (13 * out[-1] + dx) / 14)
    return [out[0]] * 14 + out


def avwap(c: Series, v: Series) -> list[float]:
    out: list[float] = []
    num = den = 0.0
    for price, volume in zip(c, v, strict=True):
        num, den = num + price * volume, den + volume
        out.append((num / den if den > 0 else price) if volume > 0 else (out[-1] if out else price))
    return out


def volume_z(v: Series) -> float:
    a = 2 / 65
    x = [math.log1p(max(0.0, value)) for value in v]
    mu, var = x[0], 0.0
    for value in x[1:]:
        new = a * value + (1 - a) * mu
        var = (1 - a) * (var + a * (value - mu) * (value - new))
        mu = new
    return max(-4.0, min(6.0, (x[-1] - mu) / math.sqrt(max(var, 1e-12))))


def winsorised_volume_z(v: Series) -> float:
    x = [math.log1p(max(0.0, value)) for value in v]
    n = len(x)
    if n >= 10:
        s = sorted(x)
        lo, hi = s[max(0, math.floor(0.02 * n) - 1)], s[min(n - 1, math.floor(0.98 * n))]
        x = [min(hi, max(lo, value)) for value in x]
    a = 2 / 65
    mu, var = x[0], 0.0
    for value in x[1:]:
        new = a * value + (1 - a) * mu
        var = (1 - a) * (var + a * (value - mu) * (value - new))
        mu = new
    return max(-4.0, min(6.0, (x[-1] - mu) / math.sqrt(max(var, 1e-12))))


def zigzag(h: Series, low: Series, c: Series, atr: Series) -> list[tuple[int, str]]:
    n = len(c)
    lam = 1.4 if sum(a / p for a, p in zip(atr, c, strict=True)) / n < 0.003 else 1.2
    hi, lo = (0, c[0]), (0, c[0])
    direction = ""
    pivots: list[tuple[int, str]] = []
    for i in range(n):
        if c[i] > hi[1]:
            hi = (i, c[i])
        if c[i] < lo[1]:
            lo = (i, c[i])
        if not direction:
            if c[i] - c[0] >= lam * atr[0]:
                direction = "up"
                pivots.append((0, "L"))
            elif c[0] - c[i] >= lam * atr[0]:
                direction = "down"
                pivots.append((0, "H"))
            continue
        if direction == "up":
            a = atr[hi[0]]
            if (hi[1] - c[i] >= lam * a or hi[1] - low[i] >= (lam - 0.25) * a) and i - hi[0] >= 3 and hi[0] - pivots[-1][0] >= 4:
                pivots.append((hi[0], "H"))
                direction, lo = "down", (i, c[i])
        else:
            a = atr[lo[0]]
            if (c[i] - lo[1] >= lam * a or h[i] - lo[1] >= (lam - 0.25) * a) and i - lo[0] >= 3 and lo[0] - pivots[-1][0] >= 4:
                pivots.append((lo[0], "L"))
                direction, hi = "up", (i, c[i])
    if direction:
        idx, kind = (hi[0], "H") if direction == "up" else (lo[0], "L")
        if kind != pivots[-1][1] and n - 1 - idx >= 3 and idx - pivots[-1][0] >= 4:
            pivots.append((idx, kind))
    return pivots


def struct_score(pivots: list[tuple[int, str]], c: Series) -> float:
    if len(pivots) < 4:
        return 0.5
    rises = comparisons = 0
    for kind in "HL":
        closes = [c[i] for i, k in pivots if k == kind]
        for a, b in pairwise(closes):
            comparisons += 1
            rises += b > a
    return 0.5 if comparisons == 0 else 1 - rises / comparisons


@dataclass(frozen=True)
class EdxRules:
    eps: float = 1e-300
    rsi_flat: float = 50.0
    slow_is_health: bool = False
    divisor: float = 0.85
    comp_k: float = 20000.0


V5 = EdxRules()
V4 = EdxRules(eps=1e-9, rsi_flat=0.0, slow_is_health=True, divisor=1.0, comp_k=100.0)


@dataclass
class Edx:
    edx: float
    parts: dict[str, list[float]] = field(default_factory=dict)
    combined: dict[str, float] = field(default_factory=dict)


def edx_score(o: Series, h: Series, low: Series, c: Series, v: Series, rules: EdxRules) -> Edx:
    """EDX from the bars since the S3 start bar (index 0 is the start bar, T = len - 1)."""
    t = len(c) - 1
    if t < 10:
        return Edx(0.5)
    atr = atr_series(h, low, c)
    windows = [t] + [n for n in (2 * t // 3, t // 3) if n >= 10]
    parts: dict[str, list[float]] = {"slow": [], "struct": [], "part": [], "comp": []}
    for n in windows:
        wh, wl, wc, wv, wa = h[-n:], low[-n:], c[-n:], v[-n:], atr[-n:]
        e144, e250, e333 = (ema(wc, k) for k in (144, 250, 333))
        u = (nslope(e250, rules.eps) + nslope(e333, rules.eps)) / 2
        # 24 bars give ten values: a window's RSI starts at its bar 14, the record's at bar 15.
        r_score = sigmoid(slope([rsi_at(wc[: i + 1], rules.rsi_flat, rules.eps) for i in range(n - 10, n)], 10) / 5) if n >= 24 else 0.5
        adx = adx_series(wh, wl, wc, rules.eps)
        d_score = sigmoid(slope(adx, 10) / 2) if adx is not None else 0.5
        health = (sigmoid(1000 * u) + r_score + d_score) / 3
        parts["slow"].append(health if rules.slow_is_health else 1 - health)
        parts["struct"].append(struct_score(zigzag(wh, wl, wc, wa), wc))
        vw = avwap(wc, wv)
        parts["part"].append(sigmoid(-1000 * slope(vw, 10) / max(vw[-1], rules.eps)))
        if n < 144:
            parts["comp"].append(0.5)
        else:
            q = sum(slope([(e[i] - e333[i]) / e333[i] for i in range(n - 10, n)], 10) for e in (e144, e250)) / 2
            parts["comp"].append(sigmoid(-rules.comp_k * q))
    combined = {name: combine(w) for name, w in parts.items()}
    total = 0.30 * combined["slow"] + 0.25 * combined["struct"] + 0.20 * combined["part"] + 0.10 * combined["comp"]
    return Edx(clamp01(total / rules.divisor), parts, combined)


def combine(w: list[float]) -> float:
    if len(w) == 1:
        return w[0]
    if len(w) == 3 and w[2] > w[1] > w[0]:
        return 0.2 * w[0] + 0.3 * w[1] + 0.5 * w[2]
    return 0.3 * w[0] + 0.7 * w[1] if w[1] > w[0] else (w[0] + w[1]) / 2


def level_set(closes: Series) -> list[tuple[float, float]]:
    """Section 3 as (price, raw strength), price descending."""
    c = list(closes)
    highs, lows = [], []
    for i in range(2, len(c) - 2):
        around = [c[i - 2], c[i - 1], c[i + 1], c[i + 2]]
        if c[i] > max(around) and (c[i] - min(around)) / c[i] >= 0.005:
            highs.append(c[i])
        if c[i] < min(around) and (max(around) - c[i]) / c[i] >= 0.005:
            lows.append(c[i])
    if len(c) < 50 or (len(highs) < 3 and len(lows) < 3):
        return []
    clusters: list[tuple[float, int]] = []
    for price in sorted(highs + lows):
        for j, (centre, n) in enumerate(clusters):
            if abs(price - centre) / centre <= 0.06:
                clusters[j] = ((centre * n + price) / (n + 1), n + 1)
                break
        else:
            clusters.append((price, 1))
    base: list[tuple[float, float]] = sorted(clusters, key=lambda x: (-x[1], x[0]))[:9]
    ath, atl = max(c), min(c)
    base += [(ath, 10), (atl, 10)]
    fib = [ath - r * (ath - atl) for r in (0, 0.236, 0.382, 0.5, 0.618, 0.786, 1)]
    fib += [p for e in (1.272, 1.618, 2.0, 2.618, 3.0, 4.236) if (p := atl + e * (ath - atl)) > c[-1]]
    out = list(base)
    for price in fib:
        near, q = min(base, key=lambda x: abs(x[0] - price))
        distance = abs(near - price) / price
        out.append((price, 15 + (q if distance < 0.03 else q // 2 if distance < 0.07 else 0)))
    return sorted(sorted(out, key=lambda x: (-x[1], x[0]))[:12], key=lambda x: -x[0])
