"""Compiled arithmetic of features and filter: every sum is written left to right, so that a batch equals one bar bit for bit.

Formulas: features of section 4, the forward recursion of Rabiner (1989, "A tutorial on hidden Markov models") as section 6 has it.
"""

import math
from typing import Final

import numpy as np

from regime_pipeline.jit import kernel
from regime_pipeline.regime.opinions.terms import MAX_GAP_SLOTS, UNKNOWN_CODE, CodeArray, FloatArray, IntArray, Status

LOOKBACK_BARS: Final = 256
N_FEATURES: Final = 4
FILTER_SLOTS: Final = 64
MIN_FILTER_ROWS: Final = 20
BIAS_GATE: Final = 0.15

_OK: Final = Status.OK.code
_MISSING_BAR: Final = Status.MISSING_BAR.code
_NAN_FEATURE: Final = Status.NAN_FEATURE.code
_SHORT_HISTORY: Final = Status.SHORT_HISTORY.code
_RANGING: Final = 1
_LN_3: Final = math.log(3.0)
_LN_2PI: Final = math.log(2.0 * math.pi)


@kernel
def is_covered(ts_s: IntArray, k: int, bar_s: int) -> bool:
    """Tell whether bar k has its look-back: 256 bars, itself included, with at most 10 % of the slots in their span absent."""
    if k < LOOKBACK_BARS - 1:
        return False
    slots = (ts_s[k] - ts_s[k - LOOKBACK_BARS + 1]) // bar_s + 1
    return bool(10 * (slots - LOOKBACK_BARS) <= slots)


@kernel
def write_features(close: FloatArray, volume: FloatArray, k: int, out: FloatArray) -> None:
    """Write the four features of bar k from its look-back; every recursion starts on the first bar of it.

    A zero volume average yields NaN or infinity, which the caller takes for a missing row.
    """
    start = k - LOOKBACK_BARS + 1
    a9, a12, a20, a21, a26 = 2.0 / 10.0, 2.0 / 13.0, 2.0 / 21.0, 2.0 / 22.0, 2.0 / 27.0
    c = close[start]
    e9 = c
    e12 = c
    e21 = c
    e26 = c
    signal = 0.0
    hist = 0.0
    prev_hist = 0.0
    v20 = volume[start]
    gain = 0.0
    loss = 0.0
    for i in range(1, LOOKBACK_BARS):
        prev = c
        c = close[start + i]
        e9 = a9 * c + (1.0 - a9) * e9
        e12 = a12 * c + (1.0 - a12) * e12
        e21 = a21 * c + (1.0 - a21) * e21
        e26 = a26 * c + (1.0 - a26) * e26
        macd = e12 - e26
        signal = a9 * macd + (1.0 - a9) * signal
        prev_hist = hist
        hist = macd - signal
        v20 = a20 * volume[start + i] + (1.0 - a20) * v20
        up = max(c - prev, 0.0)
        down = max(prev - c, 0.0)
        if i <= 14:
            gain += up
            loss += down
            if i == 14:
                gain /= 14.0
                loss /= 14.0
        else:
            gain = (13.0 * gain + up) / 14.0
            loss = (13.0 * loss + down) / 14.0
    # kernels divide as numpy does: without a loss the quotient is infinite and the RSI 100
    rsi = 50.0 if gain == 0.0 and loss == 0.0 else 100.0 - 100.0 / (1.0 + gain / loss)
    out[0] = (hist - prev_hist) / c
    out[1] = (e9 - e21) / e21
    out[2] = (rsi - 50.0) / 50.0
    out[3] = volume[k] / v20


@kernel
def fill_features(
    ts_s: IntArray, close: FloatArray, volume: FloatArray, bar_s: int, first_s: int, x: FloatArray, status: CodeArray, bar: IntArray
) -> None:
    """Write one row per slot from `first_s` on: features or NaN, the status code, and the number of the slot's bar or -1."""
    k = 0
    for i in range(x.shape[0]):
        slot = first_s + i * bar_s
        while k < ts_s.size and ts_s[k] < slot:
            k += 1
        x[i] = np.nan
        bar[i] = -1
        if k < ts_s.size and ts_s[k] == slot:
            bar[i] = k
        if bar[i] < 1 or ts_s[k - 1] != slot - bar_s:
            status[i] = _MISSING_BAR
        elif not is_covered(ts_s, k, bar_s):
            status[i] = _SHORT_HISTORY
        else:
            write_features(close, volume, k, x[i])
            status[i] = _OK
            for d in range(N_FEATURES):
                if not math.isfinite(x[i, d]):
                    status[i] = _NAN_FEATURE
            if status[i] != _OK:
                x[i] = np.nan


@kernel
def log_likelihood(x: FloatArray, mean: FloatArray, std: FloatArray, means: FloatArray, variances: FloatArray, out: FloatArray) -> None:
    """Write ln N(z; m_j, v_j) of one raw feature row under each state, z being the row standardised."""
    for j in range(3):
        total = 0.0
        for d in range(N_FEATURES):
            z = (x[d] - mean[d]) / std[d]
            total += _LN_2PI + math.log(variances[j, d]) + (z - means[j, d]) * (z - means[j, d]) / variances[j, d]
        out[j] = -0.5 * total


@kernel
def predict(p: FloatArray, transitions: FloatArray, out: FloatArray) -> None:
    """One step without an observation: out_j = sum_i p_i A_ij."""
    for j in range(3):
        out[j] = p[0] * transitions[0, j] + p[1] * transitions[1, j] + p[2] * transitions[2, j]


@kernel
def update(prior: FloatArray, log_lik: FloatArray, out: FloatArray) -> None:
    """Bayes: out_j is proportional to prior_j exp(l_j - max l). The largest l must be finite."""
    top = max(log_lik[0], log_lik[1], log_lik[2])
    for j in range(3):
        out[j] = prior[j] * math.exp(log_lik[j] - top)
    total = out[0] + out[1] + out[2]
    for j in range(3):
        out[j] /= total


@kernel
def filter_window(log_lik: FloatArray, status: CodeArray, at: int, start_p: FloatArray, transitions: FloatArray, out: FloatArray) -> int:
    """Filter the window that ends on row `at` (which must be ok) and return how many rows it stands on.

    `out` is written only when there are enough of them.
    """
    start = max(0, at - FILTER_SLOTS + 1)
    empty = 0
    for i in range(start, at + 1):
        empty = 0 if status[i] == _OK else empty + 1
        if empty > MAX_GAP_SLOTS:
            start = i + 1
    rows = 0
    for i in range(start, at + 1):
        rows += status[i] == _OK
    if rows < MIN_FILTER_ROWS:
        return rows
    p = np.empty(3)
    prior = start_p.copy()
    begun = False
    for i in range(start, at + 1):
        if begun:
            predict(p, transitions, prior)
        if status[i] == _OK:
            update(prior, log_lik[i], p)
            begun = True
        elif begun:
            p[:] = prior
    out[:] = p
    return rows


@kernel
def write_measures(p: FloatArray, diagonal: FloatArray, stay: FloatArray, out: FloatArray) -> int:
    """Write confidence_raw, bias, entropy, p_switch and p_switch60 of a known posterior and return its label's code.

    `diagonal` holds A_ii and `stay` A_ii to the power of the bars in an hour.
    """
    low = min(p[0], p[1], p[2])
    top = max(p[0], p[1], p[2])
    if p[0] == top:
        label = 0
        second = max(p[1], p[2])
    elif p[1] == top:
        label = 1
        second = max(p[0], p[2])
    else:
        label = 2
        second = max(p[0], p[1])
    if second == top:
        label = _RANGING
    out[0] = top - second
    out[1] = 0.0 if out[0] < BIAS_GATE else max(-1.0, min(1.0, p[2] - p[0]))
    entropy = 0.0
    for j in range(3):
        if p[j] > 0.0:
            entropy -= p[j] * math.log(p[j])
    # three rounded thirds lie a hair above one
    out[2] = 1.0 if low == top else min(1.0, entropy / _LN_3)
    out[3] = 1.0 - (p[0] * diagonal[0] + p[1] * diagonal[1] + p[2] * diagonal[2])
    out[4] = 1.0 - (p[0] * stay[0] + p[1] * stay[1] + p[2] * stay[2])
    return label


@kernel
def opine(
    x: FloatArray,
    status: CodeArray,
    first: int,
    standard: FloatArray,
    means: FloatArray,
    variances: FloatArray,
    start_p: FloatArray,
    transitions: FloatArray,
    stay: FloatArray,
    p: FloatArray,
    measures: FloatArray,
    label: CodeArray,
    verdict: CodeArray,
    rows_used: IntArray,
) -> None:
    """Filter every slot from `first` on under one model; the outputs must hold the UNKNOWN row.

    A row so far out that its likelihood vanishes under every state says nothing: it counts as a missing one.
    """
    log_lik = np.empty((x.shape[0], 3))
    usable = status.copy()
    for i in range(x.shape[0]):
        if usable[i] == _OK:
            log_likelihood(x[i], standard[0], standard[1], means, variances, log_lik[i])
            if not math.isfinite(max(log_lik[i, 0], log_lik[i, 1], log_lik[i, 2])):
                usable[i] = _NAN_FEATURE
    diagonal = np.array([transitions[0, 0], transitions[1, 1], transitions[2, 2]])
    for i in range(first, x.shape[0]):
        n = i - first
        verdict[n] = usable[i]
        if usable[i] != _OK:
            continue
        rows_used[n] = filter_window(log_lik, usable, i, start_p, transitions, p[n])
        if rows_used[n] < MIN_FILTER_ROWS:
            verdict[n] = _SHORT_HISTORY
        else:
            label[n] = write_measures(p[n], diagonal, stay, measures[n])


@kernel
def filter_sequences(
    ts_s: IntArray,
    bar_s: int,
    x: FloatArray,
    standard: FloatArray,
    means: FloatArray,
    variances: FloatArray,
    start_p: FloatArray,
    transitions: FloatArray,
    label: CodeArray,
) -> None:
    """Write the label of each row of an unbounded filter that starts anew, from `start_p`, after more than MAX_GAP slots."""
    log_lik = np.empty(3)
    p = np.empty(3)
    prior = np.empty(3)
    scratch = np.empty(5)
    for i in range(ts_s.size):
        log_likelihood(x[i], standard[0], standard[1], means, variances, log_lik)
        absent = 0 if i == 0 else (ts_s[i] - ts_s[i - 1]) // bar_s - 1
        if i == 0 or absent > MAX_GAP_SLOTS:
            prior[:] = start_p
        else:
            predict(p, transitions, prior)
            for _ in range(absent):
                p[:] = prior
                predict(p, transitions, prior)
        if math.isfinite(max(log_lik[0], log_lik[1], log_lik[2])):
            update(prior, log_lik, p)
            label[i] = write_measures(p, start_p, start_p, scratch)
        else:
            p[:] = prior
            label[i] = UNKNOWN_CODE
