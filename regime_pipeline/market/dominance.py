"""Dominance bars: a percent of the whole market, treated as a price (spec 5.3)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final

import numpy as np

from regime_pipeline.market.bars import Bars, FloatArray, IntArray, RawBars
from regime_pipeline.market.timeframe import Timeframe

# The vendor refreshes every 10 minutes; after three missed refreshes its figure is no longer the market's.
MAX_AGE_S: Final = 1800


@dataclass(frozen=True, slots=True)
class DominanceSample:
    """One answer of the vendor: when we asked, when it says the figure was made (epoch seconds), percent in (0, 100)."""

    fetched_at_s: int
    updated_at_s: int
    percent: float

    def is_believable(self) -> bool:
        """Tell whether the answer may close a minute: a percent of the market, not older than 30 minutes."""
        return isfinite(self.percent) and 0 < self.percent < 100 and self.fetched_at_s - self.updated_at_s <= MAX_AGE_S


@dataclass(frozen=True, slots=True)
class MinuteState:
    """What the next minute needs to know: the last bar's open time, and the last new sample, whose percent it closed at."""

    bar_ts_s: int
    sample: DominanceSample


@dataclass(frozen=True, slots=True, eq=False)
class DominanceMinutes:
    """Minute bars, the samples worth storing (those with news), and the state to go on from."""

    bars: Bars
    samples: list[DominanceSample]
    state: MinuteState | None


def build_minute_bars(answers: Iterable[DominanceSample], start: MinuteState | None = None) -> DominanceMinutes:
    """Close one bar per minute that has a believable answer.

    Parameters
    ----------
    answers : iterable of DominanceSample
        Whole minutes of answers in the order fetched; a failed request is simply absent.
    start : MinuteState, optional
        State after the last minute already closed.

    Returns
    -------
    DominanceMinutes
        An answer whose `updated_at_s` is not newer than the last one's is no new sample, but its minute still closes, flat at the
        last value. A minute without believable answers has no bar, and the next one opens at its own value.
    """
    rows: dict[int, tuple[float, float, float, float]] = {}
    fresh: list[DominanceSample] = []
    state = start
    for answer in answers:
        if not answer.is_believable():
            continue
        ts_s = Timeframe.M1.floor(answer.fetched_at_s)
        is_new = state is None or answer.updated_at_s > state.sample.updated_at_s
        sample = answer if state is None or is_new else state.sample
        if ts_s in rows:
            open_, high, low, _ = rows[ts_s]
        else:
            follows = state is not None and state.bar_ts_s == ts_s - Timeframe.M1.seconds
            open_ = state.sample.percent if state and follows else sample.percent
            high = low = open_
        rows[ts_s] = (open_, max(high, sample.percent), min(low, sample.percent), sample.percent)
        state = MinuteState(ts_s, sample)
        if is_new:
            fresh.append(sample)
    prices = np.array(list(rows.values()), dtype=np.float64).reshape(-1, 4)
    raw = RawBars(np.array(list(rows), dtype=np.int64), prices[:, 0], prices[:, 1], prices[:, 2], prices[:, 3], np.zeros(len(rows)))
    return DominanceMinutes(Bars.complete(raw, Timeframe.M1), fresh, state)


def close_minutes(
    answers: Sequence[DominanceSample], start_s: int, end_s: int, every_s: int, start: MinuteState | None = None
) -> DominanceMinutes:
    """Close the minutes of a span when the vendor is asked less often than once a minute (docs/decisions/0014).

    A minute without an answer of its own closes flat at the last one, as long as that answer is the newest we could have: it was
    received at most `every_s` and one minute (a late run) before the minute's end, and its figure was at most 30 minutes old then. The
    result depends on stored answers only, so a minute that is closed late closes as it would have in time.

    Parameters
    ----------
    answers : sequence of DominanceSample
        Answers in the order received, those before the span that may still hold included; later ones are ignored.
    start_s, end_s : int
        Open times of the first minute and past the last one, epoch seconds.
    every_s : int
        Seconds between two questions.
    start : MinuteState, optional
        State after the last minute already closed.
    """
    minute_s = Timeframe.M1.seconds
    asked: list[DominanceSample] = []
    last: DominanceSample | None = None
    following = 0
    for ts_s in range(start_s, end_s, minute_s):
        close_s = ts_s + minute_s
        own = []
        while following < len(answers) and answers[following].fetched_at_s < close_s:
            answer = answers[following]
            following += 1
            if answer.is_believable():
                last = answer
                if answer.fetched_at_s >= ts_s:
                    own.append(answer)
        if own:
            asked += own
        elif last is not None and close_s - last.fetched_at_s <= every_s + minute_s and close_s - last.updated_at_s <= MAX_AGE_S:
            asked.append(DominanceSample(close_s - 1, last.updated_at_s, last.percent))
    return build_minute_bars(asked, start)


def bars_from_closes(ts_s: IntArray, percent: FloatArray, timeframe: Timeframe) -> RawBars:
    """Build bars from one recorded percent per bar.

    Parameters
    ----------
    ts_s : ndarray of int64, shape (n,)
        Open times, ascending.
    percent : ndarray of float64, shape (n,)
        The percent at each bar's close.
    timeframe : Timeframe
        Length of the bars.

    Returns
    -------
    RawBars
        Open is the previous bar's close if that bar exists, else the bar's own value; high and low are the extremes of both;
        volume 0. A percent outside (0, 100) becomes NaN, so that the bar is quarantined and never opens the next one.
    """
    close = np.where((percent > 0) & (percent < 100), percent, np.nan)
    before = np.concatenate([close[:1], close[:-1]])
    follows = np.diff(ts_s, prepend=ts_s[:1]) == timeframe.seconds
    open_ = np.where(follows & ~np.isnan(before), before, close)
    return RawBars(ts_s, open_, np.maximum(open_, close), np.minimum(open_, close), close, np.zeros(len(close)))
