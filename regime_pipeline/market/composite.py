"""Chain-linked composites: one bar out of several markets whose price levels do not matter (spec 5.2).

An equal-weight chain is a portfolio rebalanced every bar (Carli relatives; Diewert, "Index numbers"): do not quote its level as a return.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from regime_pipeline.market.bars import Bars, BoolArray, CountArray, FloatArray, IntArray
from regime_pipeline.market.quality import find_gaps
from regime_pipeline.market.timeframe import Timeframe

FIRST_LEVEL: Final = 100.0
MAX_AGE_BARS: Final = 3
NEVER_S: Final = np.iinfo(np.int64).min // 2

# Half-open validity in epoch seconds; None is still valid.
Span = tuple[int, int | None]
Membership = Mapping[str, Sequence[Span]]


@dataclass(frozen=True, slots=True)
class CompositeSpec:
    """How components become one bar.

    Parameters
    ----------
    timeframe : Timeframe
        That of the components and of the composite.
    min_components : int
        Fewer give no bar and a gap.
    hl_mode : "extreme" or "mean"
        High and low from the outermost component, or from the mean one.
    method : "chain" or "price"
        "price" averages raw prices and lets the dearest component dominate; it exists for comparison only.
    """

    timeframe: Timeframe
    min_components: int = 1
    hl_mode: Literal["extreme", "mean"] = "mean"
    method: Literal["chain", "price"] = "chain"


@dataclass(frozen=True, slots=True)
class ChainState:
    """Where a chain stands: open time (epoch seconds) and close of its last bar."""

    ts_s: int
    close: float


@dataclass(frozen=True, slots=True, eq=False)
class CompositeResult:
    """Composite bars with the number of components in each, the grid times without a bar, and the state to go on from."""

    bars: Bars
    component_count: CountArray
    gaps_s: IntArray
    chain_state: ChainState | None


def build_composite(
    components: Mapping[str, Bars], members: Membership | None, spec: CompositeSpec, start: ChainState | None = None
) -> CompositeResult:
    """Build or extend a composite from the bars of its components.

    Parameters
    ----------
    components : mapping of name to Bars
        Final bars, strictly ascending, of `spec.timeframe`. To extend a chain, each must reach back to its own last bar at or
        before `start.ts_s`: the previous closes come from there.
    members : mapping of name to spans, or None
        When each component belongs; judged at each bar's open. A name without an entry never belongs; None admits all, always.
    spec : CompositeSpec
        The rules.
    start : ChainState, optional
        Only bars after it are built. None starts a chain at 100.

    Returns
    -------
    CompositeResult
        Extending from any state equals one build over everything, bit for bit: components are added up in sorted key order, an
        absent one adds an exact zero, and the level is one running product.
    """
    table = _align(components, members, start)
    used = table.present & table.is_member if spec.method == "price" else _usable(table, spec, start)
    emitted = used.sum(axis=1) >= max(spec.min_components, 1)
    table, used = table.rows(emitted), used[emitted]
    count = used.sum(axis=1, dtype=np.int32)
    scale = np.ones_like(table.close_prev) if spec.method == "price" else np.where(used, table.close_prev, 1.0)
    open_, high, low, close = (np.where(used, prices, np.nan) / scale for prices in (table.open, table.high, table.low, table.close))
    is_extreme = spec.hl_mode == "extreme" or spec.method == "price"
    bar_open, bar_close = _mean(open_, count), _mean(close, count)
    bar_high = _extreme(high, np.fmax) if is_extreme else _mean(high, count)
    bar_low = _extreme(low, np.fmin) if is_extreme else _mean(low, count)
    level = np.ones(len(count))
    if spec.method == "chain":
        level = np.multiply.accumulate(np.concatenate([[start.close if start else FIRST_LEVEL], bar_close]))[:-1]
    bars = Bars(
        ts_s=table.ts_s,
        open=level * bar_open,
        high=level * bar_high,
        low=level * bar_low,
        close=level * bar_close,
        volume=_add_up(np.where(used, table.volume, 0.0)),
        bars_used=np.where(used, table.bars_used, 0).sum(axis=1),
        expected_bars=np.where(used, table.expected_bars, 0).sum(axis=1),
    )
    state = ChainState(int(bars.ts_s[-1]), float(bars.close[-1])) if len(bars) else start
    return CompositeResult(bars, count, _gaps(bars, components, spec, start), state)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Component bars side by side: one row per open time of any of them, one column per component in sorted key order."""

    ts_s: IntArray
    present: BoolArray
    is_member: BoolArray
    ts_prev_s: IntArray
    close_prev: FloatArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    bars_used: CountArray
    expected_bars: CountArray

    def rows(self, mask: BoolArray) -> "_Table":
        return _Table(*(getattr(self, name)[mask] for name in self.__slots__))


def _align(components: Mapping[str, Bars], members: Membership | None, start: ChainState | None) -> _Table:
    """Lay the components side by side, from the first bar after `start` on."""
    names = sorted(components)
    after_s = start.ts_s if start else NEVER_S
    ts_s = np.unique(np.concatenate([np.empty(0, np.int64), *(components[name].ts_s for name in names)]))
    ts_s = ts_s[ts_s > after_s]
    shape = (len(ts_s), len(names))
    nan = np.full(shape, np.nan)
    zero = np.zeros(shape, dtype=np.int32)
    table = _Table(
        ts_s=ts_s,
        present=np.zeros(shape, dtype=np.bool_),
        is_member=np.zeros(shape, dtype=np.bool_),
        ts_prev_s=np.full(shape, NEVER_S, dtype=np.int64),
        close_prev=nan.copy(),
        open=nan.copy(),
        high=nan.copy(),
        low=nan.copy(),
        close=nan.copy(),
        volume=nan.copy(),
        bars_used=zero.copy(),
        expected_bars=zero.copy(),
    )
    for at, name in enumerate(names):
        bars = components[name]
        fresh = int(np.searchsorted(bars.ts_s, after_s, side="right"))
        row = np.searchsorted(ts_s, bars.ts_s[fresh:])
        table.present[row, at] = True
        for column in ("open", "high", "low", "close", "volume", "bars_used", "expected_bars"):
            getattr(table, column)[row, at] = getattr(bars, column)[fresh:]
        has_prev = np.arange(fresh, len(bars)) > 0
        table.ts_prev_s[row[has_prev], at] = bars.ts_s[max(fresh, 1) - 1 : -1]
        table.close_prev[row[has_prev], at] = bars.close[max(fresh, 1) - 1 : -1]
        for valid_from_s, valid_to_s in [(NEVER_S, None)] if members is None else members.get(name, ()):
            table.is_member[:, at] |= (ts_s >= valid_from_s) & (valid_to_s is None or ts_s < valid_to_s)
    return table


def _usable(table: _Table, spec: CompositeSpec, start: ChainState | None) -> BoolArray:
    """Mark the components with a previous close young enough: 3 bars, or back to the composite's own previous bar."""
    candidates = table.present & table.is_member & (table.ts_prev_s > NEVER_S)
    oldest_s = table.ts_s - MAX_AGE_BARS * spec.timeframe.seconds
    used = candidates & (table.ts_prev_s >= oldest_s[:, None])
    minimum = max(spec.min_components, 1)
    # Older closes depend on which rows before gave a bar, so those rare rows are walked in order.
    own_prev_s = np.maximum.accumulate(np.where(used.sum(axis=1) >= minimum, table.ts_s, NEVER_S))
    newest_s = start.ts_s if start else NEVER_S
    for row in np.flatnonzero((candidates & ~used).any(axis=1)).tolist():
        prev_s = max(newest_s, int(own_prev_s[row - 1]) if row else NEVER_S)
        if prev_s > NEVER_S:
            used[row] |= candidates[row] & (table.ts_prev_s[row] >= prev_s)
        if used[row].sum() >= minimum:
            newest_s = int(table.ts_s[row])
    return used


def _add_up(values: FloatArray) -> FloatArray:
    """Add columns up from left to right, where numpy's own sum would group them by their number."""
    total = np.zeros(len(values))
    for at in range(values.shape[1]):
        total += values[:, at]
    return total


def _mean(values: FloatArray, count: CountArray) -> FloatArray:
    """Mean over the columns that are not NaN, kept inside their range: a rounded mean of equal values may leave it."""
    mean = _add_up(np.where(np.isnan(values), 0.0, values)) / count
    return np.clip(mean, _extreme(values, np.fmin), _extreme(values, np.fmax))


def _extreme(values: FloatArray, pick: np.ufunc) -> FloatArray:
    """Largest or smallest of the columns that are not NaN."""
    extreme: FloatArray = pick.reduce(values, axis=1, initial=np.nan)
    return extreme


def _gaps(bars: Bars, components: Mapping[str, Bars], spec: CompositeSpec, start: ChainState | None) -> IntArray:
    """Grid times without a bar, from the chain's first bar (or its state) to the newest component bar."""
    step = spec.timeframe.seconds
    newest_s = max((int(part.ts_s[-1]) for part in components.values() if len(part)), default=NEVER_S)
    if start is None and not len(bars):
        return np.empty(0, dtype=np.int64)
    first_s = start.ts_s + step if start else int(bars.ts_s[0])
    return find_gaps(bars.ts_s, spec.timeframe, first_s, newest_s + step)
