"""The risk throttle: by how much an entry would shrink if a person switched it on (specification 12). It is off by default.

It multiplies the size of entries and adds, never of a trim, an exit or a stop, and it never makes anything larger.
"""

import math
from dataclasses import dataclass
from typing import Final

from regime_pipeline.errors import CallerError
from regime_pipeline.regime.opinions.changepoint import Level
from regime_pipeline.regime.opinions.terms import Label
from regime_pipeline.regime.opinions.volatility import VolRegime

FLOOR: Final = 0.5
UNKNOWN_VOLATILITY: Final = 0.80
"""Charged when the volatility is not known: then the bars that trading itself needs are missing."""
RANK_FROM: Final = 0.75
RANK_SPAN: Final = 0.20
BEARISH_CONFIDENCE: Final = 0.50
_CHANGE_POINT: Final = {Level.URGENT: 0.85, Level.ALERT: 0.90}
_BEARISH: Final = 0.90


@dataclass(frozen=True, slots=True)
class Throttle:
    """The three multipliers, each in [0.5, 1]; the smallest counts.

    Parameters
    ----------
    m_vol : float
        Of the 1h volatility regime and the rank of its band.
    m_cp : float
        Of the 1h change-point level.
    m_bear : float
        Of a bearish strategic label.
    """

    m_vol: float
    m_cp: float
    m_bear: float

    @property
    def value(self) -> float:
        """The multiplier of an entry's size, in [0.5, 1]."""
        return max(FLOOR, min(self.m_vol, self.m_cp, self.m_bear))


def ramp_down(rank: float) -> float:
    """Multiplier of a rank in [0, 1]: 1 up to 0.75, falling in a line to 0.5 at 0.95."""
    return min(1.0, max(FLOOR, 1.0 - 0.5 * (rank - RANK_FROM) / RANK_SPAN))


def compute_throttle(vol_regime: VolRegime, band_rank: float | None, cp_level: Level, strategic: Label, conf_1h: float) -> Throttle:
    """Compute what the 1h opinions of one snapshot would take from an entry.

    Parameters
    ----------
    vol_regime : VolRegime
        Active 1h regime.
    band_rank : float or None
        Share of the last 90 days' bands at or below the present one; None or NaN where there is none.
    cp_level : Level
        Of the 1h change points; warming and unknown take nothing.
    strategic : Label
        Confirmed 1h label.
    conf_1h : float
        Confidence of the 1h bar in [0, 1]; NaN takes nothing.
    """
    if vol_regime is VolRegime.HIGH_VOL_SHOCK:
        m_vol = FLOOR
    elif vol_regime is VolRegime.UNKNOWN or band_rank is None or math.isnan(band_rank):
        m_vol = UNKNOWN_VOLATILITY
    else:
        m_vol = ramp_down(band_rank)
    m_bear = _BEARISH if strategic is Label.BEARISH and conf_1h >= BEARISH_CONFIDENCE else 1.0
    return Throttle(m_vol, _CHANGE_POINT.get(cp_level, 1.0), m_bear)


def combine_multipliers(*multipliers: float) -> float:
    """Combine size multipliers: the smallest, never their product and never above 1.

    Raises
    ------
    CallerError
        A multiplier is negative or not a number.
    """
    if not all(multiplier >= 0 for multiplier in multipliers):
        raise CallerError(f"size multipliers were {multipliers}: each must be a number >= 0; leave out what is not known.")
    return min((1.0, *multipliers))
