"""How long a spell of the strategic label lasts, by the product-limit estimator (section 8.6; Kaplan and Meier 1958)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

import numpy as np

from regime_pipeline.errors import CallerError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.terms import BoolArray, FloatArray, IntArray
from regime_pipeline.regime.opinions.tracker import Transition

LOOKBACK_S: Final = 365 * 86_400
MIN_COMPLETED: Final = 20
HORIZONS: Final = (4, 24)


@dataclass(frozen=True, slots=True, eq=False)
class SurvivalCurve:
    """A step function S(d), the share of spells that last longer than d bars.

    Parameters
    ----------
    durations : ndarray of int64, shape (n_steps,)
        Distinct durations at which a spell ended, ascending, bars.
    survival : ndarray of float64, shape (n_steps,)
        S after each of them; 1 before the first.
    longest : int
        Longest observed duration, censored ones included.
    """

    durations: IntArray
    survival: FloatArray
    longest: int

    @classmethod
    def fit(cls, durations: IntArray, completed: BoolArray) -> Self:
        """Estimate the curve; at equal durations spells end before others are censored.

        Parameters
        ----------
        durations : ndarray of int64, shape (n,)
            Bars each spell was observed, >= 0, at least one spell.
        completed : ndarray of bool, shape (n,)
            False where the spell is still running.

        Raises
        ------
        CallerError
            When there is no spell, a duration is negative or the lengths differ.
        """
        if not len(durations) or len(durations) != len(completed) or np.any(durations < 0):
            raise CallerError(f"durations were {durations.tolist()}, {len(completed)} flags: one flag each, none negative, at least one.")
        ends, events = np.unique(durations[completed], return_counts=True)
        at_risk = (durations[None, :] >= ends[:, None]).sum(axis=1)
        return cls(ends, np.cumprod(1 - events / at_risk), int(durations.max()))

    def at(self, duration: int) -> float:
        """S(d)."""
        step = int(np.searchsorted(self.durations, duration, side="right")) - 1
        return 1.0 if step < 0 else float(self.survival[step])

    def lasts(self, age: int, more: int) -> float | None:
        """Probability that a spell of this age lasts `more` bars longer; None where nothing was observed that long."""
        reached = self.at(age)
        return None if reached == 0 or age + more > self.longest else self.at(age + more) / reached


@dataclass(frozen=True, slots=True)
class Spell:
    """The running spell of the strategic label.

    Parameters
    ----------
    age_bars : int or None
        1h slots since its first bar, which has age 0; None before the first transition of the history.
    p_4h, p_24h : float or None
        Probability that it lasts 4 and 24 bars more; descriptive only.
    """

    age_bars: int | None
    p_4h: float | None
    p_24h: float | None


def describe_spell(transitions: Sequence[Transition], bar_ts_s: int) -> Spell:
    """Describe the spell that runs at an hourly bar, from the transitions confirmed up to it.

    Parameters
    ----------
    transitions : sequence of Transition
        Of one series, ascending by first bar; those confirmed later, or begun more than 365 days before, are left out.
    bar_ts_s : int
        Open of the bar, epoch seconds.

    Returns
    -------
    Spell
        Measured against spells with the running label if 20 of them are complete, else against all if 20 are, else None. The
        spell before the first transition is left out: nobody saw it begin.

    Raises
    ------
    CallerError
        When the transitions do not ascend or are of several series.
    """
    if len({each.series for each in transitions}) > 1 or any(a.first_bar_s >= b.first_bar_s for a, b in pairwise(transitions)):
        raise CallerError("transitions must be of one series and ascend by their first bar; load them in that order.")
    seen = [each for each in transitions if each.confirmed_bar_s <= bar_ts_s and each.first_bar_s >= bar_ts_s - LOOKBACK_S]
    if not seen:
        return Spell(None, None, None)
    begins = np.array([each.first_bar_s for each in seen], dtype=np.int64)
    durations = np.diff(begins, append=bar_ts_s) // Timeframe.H1.seconds
    completed = np.arange(len(seen)) < len(seen) - 1
    age = int(durations[-1])
    curve = _curve(durations, completed, np.array([each.to_label is seen[-1].to_label for each in seen]))
    p_4h, p_24h = (None if curve is None else curve.lasts(age, more) for more in HORIZONS)
    return Spell(age, p_4h, p_24h)


def _curve(durations: IntArray, completed: BoolArray, same_label: BoolArray) -> SurvivalCurve | None:
    for stratum in (same_label, np.ones_like(same_label)):
        if np.count_nonzero(completed & stratum) >= MIN_COMPLETED:
            return SurvivalCurve.fit(durations[stratum], completed[stratum])
    return None
