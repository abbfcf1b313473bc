"""Whether the throttle has earned its place: the rule of docs/decisions/0013, as arithmetic. A verdict switches nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from regime_pipeline.errors import CallerError
from regime_pipeline.regime.opinions.outcomes import HOUR_S, MIN_EFFECTIVE, compute_bound, compute_t, forward_returns, trailing_volatility
from regime_pipeline.regime.opinions.terms import BoolArray, FloatArray, IntArray, check_series
from regime_pipeline.regime.opinions.throttle import ramp_down

HELD_H: Final = 24
WORST_SHARE: Final = 0.05
RANK_HOURS: Final = 2160
RANK_MIN_HOURS: Final = 500
MIN_DAYS: Final = 180
MIN_SERIES: Final = 4
MIN_SAVED: Final = 0.05
MIN_MEAN_SIZE: Final = 0.80
RESAMPLES: Final = 1000
RESAMPLE_PERCENTILE: Final = 5.0
RANDOM_STATE: Final = 42
_WEEK_S: Final = 7 * 86_400
_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True, eq=False)
class ThrottleInput:
    """The stored shadow throttle of one series on full hours, and its 1h closes.

    Parameters
    ----------
    series : str
        One of the six.
    close_ts_s, close : ndarray of int64 and float64, shape (n_closes,)
        Instants at which 1h bars closed, ascending full hours, and closes; 90 days before the first snapshot are needed for the
        null throttle of it.
    ts_s : ndarray of int64, shape (n,)
        Instants of the snapshots, ascending full hours.
    throttle : ndarray of shape (n,)
        `throttle_shadow`, in [0.5, 1].

    Raises
    ------
    CallerError
        Lengths differ, times are off the hour or do not ascend, a close is not positive or a throttle outside [0.5, 1].
    """

    series: str
    close_ts_s: IntArray
    close: FloatArray
    ts_s: IntArray
    throttle: FloatArray

    def __post_init__(self) -> None:
        check_series(self.series)
        if self.close.shape != self.close_ts_s.shape or self.throttle.shape != self.ts_s.shape:
            raise CallerError(f"{self.series}: closes or throttles had another length than their times. Hand over one per time.")
        for times in (self.close_ts_s, self.ts_s):
            if (times % HOUR_S).any() or (np.diff(times) <= 0).any():
                raise CallerError(f"{self.series}: times must be full hours and ascend, each once. Order and deduplicate them first.")
        if not ((self.throttle >= 0.5) & (self.throttle <= 1.0)).all() or not (self.close > 0).all():
            raise CallerError(f"{self.series}: throttles must lie in [0.5, 1] and closes above zero. Hand over stored values.")


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of the rule: what was asked, what was measured, and whether it holds."""

    name: str
    asked: str
    measured: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """All six conditions; the throttle has earned its place only if every one of them holds."""

    conditions: tuple[Condition, ...]

    @property
    def earned(self) -> bool:
        """Whether all conditions hold."""
        return all(condition.holds for condition in self.conditions)


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Hours of all series on which both throttles and the return exist: arrays of shape (n,)."""

    ts_s: IntArray
    series: IntArray
    size: FloatArray
    null_size: FloatArray
    returns: FloatArray

    def __getitem__(self, rows: BoolArray | IntArray) -> "_Sample":
        return _Sample(self.ts_s[rows], self.series[rows], self.size[rows], self.null_size[rows], self.returns[rows])

    def __len__(self) -> int:
        return self.ts_s.size

    def saved(self) -> float:
        """What the throttle takes off the tail at equal mean size, as a share of it; 0 without a loss in the tail."""
        return _saved(self.size, self.returns)

    def saved_over_null(self) -> float:
        return self.saved() - _saved(self.null_size, self.returns)


def compute_null_throttle(close_ts_s: IntArray, close: FloatArray, ts_s: IntArray) -> FloatArray:
    """Compute the throttle that knows only trailing volatility.

    Returns
    -------
    ndarray of shape (n,)
        The volatility formula of the throttle with the rank of the last 24 hours' volatility among those of the 2160 hours before,
        itself excluded; NaN without 500 of them or where a close is absent.
    """
    if not ts_s.size:
        return np.empty(0)
    grid_s = np.arange(ts_s[0] - RANK_HOURS * HOUR_S, ts_s[-1] + HOUR_S, HOUR_S)
    volatility = trailing_volatility(close_ts_s, close, grid_s)
    out = np.full(ts_s.size, np.nan)
    for i, at in enumerate(((ts_s - grid_s[0]) // HOUR_S).tolist()):
        past = volatility[at - RANK_HOURS : at]
        known = int(np.count_nonzero(~np.isnan(past)))
        if known >= RANK_MIN_HOURS and not np.isnan(volatility[at]):
            out[i] = ramp_down(float(np.count_nonzero(past <= volatility[at])) / known)
    return out


def judge_throttle(inputs: Sequence[ThrottleInput], resamples: int = RESAMPLES) -> Verdict:
    """Apply the rule to one window of stored snapshots, all series together.

    Parameters
    ----------
    inputs : sequence of ThrottleInput
        One per series; live and backfilled rows in separate calls.
    resamples : int
        Draws for the comparison with the null throttle; the rule asks for 1,000.

    Raises
    ------
    CallerError
        A series is given twice.
    """
    if len({each.series for each in inputs}) != len(inputs):
        raise CallerError(f"series were {[each.series for each in inputs]}: hand over each once.")
    sample = _gather(inputs)
    names = [each.series for each in inputs]
    return Verdict(
        (
            _is_enough(sample, names),
            _saves(sample),
            _beats_null(sample, resamples),
            _is_broad(sample, names),
            _keeps_what_pays(sample, names),
            _leaves_a_book(sample),
        )
    )


def _gather(inputs: Sequence[ThrottleInput]) -> _Sample:
    parts = []
    for number, each in enumerate(inputs):
        returns = forward_returns(each.close_ts_s, each.close, each.ts_s, HELD_H)
        null_size = compute_null_throttle(each.close_ts_s, each.close, each.ts_s)
        whole = _Sample(each.ts_s, np.full(each.ts_s.size, number), each.throttle, null_size, returns)
        parts.append(whole[~(np.isnan(returns) | np.isnan(null_size))])
    columns = ("ts_s", "series", "size", "null_size", "returns")
    if not parts:
        return _Sample(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0))
    return _Sample(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


def _tail(sized: FloatArray) -> float:
    """Minus the mean of the worst twentieth, at least one value."""
    worst = max(1, int(np.ceil(WORST_SHARE * sized.size)))
    return -float(np.partition(sized, worst - 1)[:worst].mean())


def _saved(size: FloatArray, returns: FloatArray) -> float:
    if not returns.size:
        return 0.0
    unsized = _tail(returns)
    return 1.0 - _tail(size / size.mean() * returns) / unsized if unsized > 0 else 0.0


def _is_enough(sample: _Sample, names: Sequence[str]) -> Condition:
    days = float(sample.ts_s.max() - sample.ts_s.min()) / _DAY_S if len(sample) else 0.0
    effective = [np.count_nonzero(sample.size[sample.series == number] < 1.0) / HELD_H for number in range(len(names))]
    rich = sum(count >= MIN_EFFECTIVE for count in effective)
    return Condition(
        "enough",
        f"at least {MIN_DAYS} days and {MIN_SERIES} series with {MIN_EFFECTIVE:.0f} effective throttled hours",
        f"{days:.0f} days, {rich} series",
        bool(days >= MIN_DAYS and rich >= MIN_SERIES),
    )


def _saves(sample: _Sample) -> Condition:
    saved = sample.saved()
    return Condition("saves", f"at least {MIN_SAVED:.0%} off the pooled tail at equal mean size", f"{saved:.1%}", saved >= MIN_SAVED)


def _beats_null(sample: _Sample, resamples: int) -> Condition:
    floor = _resampled_floor(sample, resamples)
    return Condition(
        "beats_null",
        f"saved above that of the null throttle at the {RESAMPLE_PERCENTILE:.0f}th percentile of {resamples} resamples of weeks",
        f"{sample.saved_over_null():+.1%}, percentile {floor:+.1%}",
        floor > 0,
    )


def _is_broad(sample: _Sample, names: Sequence[str]) -> Condition:
    halves = [0.0, 0.0]
    if len(sample):
        middle = (int(sample.ts_s.min()) + int(sample.ts_s.max())) / 2
        halves = [sample[sample.ts_s <= middle].saved(), sample[sample.ts_s > middle].saved()]
    per_series = [sample[sample.series == number].saved() for number in range(len(names))]
    helped = sum(saved > 0 for saved in per_series)
    return Condition(
        "broad",
        f"saved above zero in both halves and in at least {MIN_SERIES} series",
        f"halves {halves[0]:+.1%} and {halves[1]:+.1%}; "
        + ", ".join(f"{name} {saved:+.1%}" for name, saved in zip(names, per_series, strict=True)),
        min(halves) > 0 and helped >= MIN_SERIES,
    )


def _keeps_what_pays(sample: _Sample, names: Sequence[str]) -> Condition:
    bound = compute_bound(max(1, len(names)))
    values = {}
    for number, name in enumerate(names):
        own = sample[sample.series == number]
        throttled = own.returns[own.size < 1.0]
        t = compute_t(throttled, float(own.returns.mean()), HELD_H) if len(own) else None
        if t is not None:
            values[name] = t
    return Condition(
        "keeps_what_pays",
        f"no series whose throttled hours return more than its mean by t > {bound:.2f}",
        ", ".join(f"{name} t {t:+.2f}" for name, t in values.items()) or "too few hours",
        all(t <= bound for t in values.values()),
    )


def _leaves_a_book(sample: _Sample) -> Condition:
    mean = float(sample.size.mean()) if len(sample) else 0.0
    return Condition("leaves_a_book", f"mean size at least {MIN_MEAN_SIZE:.2f}", f"{mean:.3f}", mean >= MIN_MEAN_SIZE)


def _resampled_floor(sample: _Sample, resamples: int) -> float:
    """Low percentile of what is saved beyond the null, over resamples of whole weeks drawn for all series together."""
    if not len(sample):
        return 0.0
    order = np.argsort(sample.ts_s, kind="stable")
    week = sample.ts_s[order] // _WEEK_S
    edges = [0, *(np.flatnonzero(np.diff(week)) + 1).tolist(), week.size]
    weeks = [order[first:last] for first, last in pairwise(edges)]
    rng = np.random.default_rng(RANDOM_STATE)
    draws = (rng.integers(len(weeks), size=len(weeks)) for _ in range(resamples))
    found = [sample[np.concatenate([weeks[i] for i in draw])].saved_over_null() for draw in draws]
    return float(np.percentile(found, RESAMPLE_PERCENTILE))
