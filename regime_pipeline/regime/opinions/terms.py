"""The words and constants that all second opinions share (specification of the second opinions, sections 2 and 3)."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.errors import CallerError
from regime_pipeline.market.timeframe import Timeframe

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
CodeArray = NDArray[np.int8]
BoolArray = NDArray[np.bool_]
Triple = tuple[float, float, float]
"""Bearish, ranging, bullish: the order of every posterior, mean, matrix row and column."""

SO_VERSION: Final = "so-1"
"""Part of every key; changes with any formula or constant of the detectors."""

GROUPS: Final = {"global": ("BTC", "ALT"), "majors": ("ETH", "SOL", "BNB", "HYPE")}
SERIES: Final = ("BTC", "ETH", "SOL", "BNB", "HYPE", "ALT")

MAX_GAP_SLOTS: Final = 3
UNIFORM: Final[Triple] = (1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0)


class Label(StrEnum):
    """What a posterior says; `code` is its place in a triple."""

    BEARISH = "bearish"
    RANGING = "ranging"
    BULLISH = "bullish"
    UNKNOWN = "unknown"

    @property
    def code(self) -> int:
        """0, 1, 2 in the order of a triple; 3 for unknown."""
        return LABELS.index(self)


LABELS: Final = tuple(Label)
UNKNOWN_CODE: Final = 3


class Status(StrEnum):
    """Why a row says what it says; if several apply the first in this order, after `ok`, is stored."""

    OK = "ok"
    ERROR = "error"
    NO_MODEL = "no_model"
    MODEL_EXPIRED = "model_expired"
    MISSING_BAR = "missing_bar"
    NAN_FEATURE = "nan_feature"
    SHORT_HISTORY = "short_history"
    STALE = "stale"

    @property
    def code(self) -> int:
        """Place in the order above, 0 for ok: how arrays and kernels hold it."""
        return STATUSES.index(self)


STATUSES: Final = tuple(Status)


@dataclass(frozen=True, slots=True)
class TimeframeTerms:
    """The constants of one timeframe.

    Parameters
    ----------
    window_rows : int
        Feature rows of a full training window, W.
    minimum_rows : int
        Feature rows below which no model is fitted.
    freshness_s : int
        Largest age of a row, from its close, that still counts as fresh; equality is fresh.
    visibility_delay_s : int
        Seconds after the close before which a row may not be read, and a slot is not given up.
    bars_per_hour : int
        Exponent k of p_switch60: bars in sixty minutes.
    belief_weight : float
        Share in the belief; the three add up to 1.
    """

    window_rows: int
    minimum_rows: int
    freshness_s: int
    visibility_delay_s: int
    bars_per_hour: int
    belief_weight: float


TERMS: Final = {
    Timeframe.M1: TimeframeTerms(4000, 500, 180, 0, 60, 0.21),
    Timeframe.M15: TimeframeTerms(1440, 200, 2700, 60, 4, 0.49),
    Timeframe.H1: TimeframeTerms(500, 150, 10800, 120, 1, 0.30),
}
TIMEFRAMES: Final = tuple(TERMS)


def terms_of(timeframe: Timeframe) -> TimeframeTerms:
    """Look up the constants of a timeframe.

    Raises
    ------
    CallerError
        When the opinions do not know the timeframe.
    """
    if timeframe not in TERMS:
        raise CallerError(f"timeframe was {timeframe!r}, opinions exist for {', '.join(TIMEFRAMES)}. Pass one of these.")
    return TERMS[timeframe]


def check_series(series: str) -> None:
    """Refuse a name that is not one of the six series.

    Raises
    ------
    CallerError
        When the name is unknown; names are case-sensitive.
    """
    if series not in SERIES:
        raise CallerError(f"series was {series!r}, opinions exist for {', '.join(SERIES)}. Pass one of these.")


def deadline_s(timeframe: Timeframe, bar_ts_s: int) -> int:
    """Instant from which a slot without a final bar is missing for good, epoch seconds."""
    return bar_ts_s + timeframe.seconds + max(10, terms_of(timeframe).visibility_delay_s)


def iso(ts_s: int) -> str:
    """Write an instant as ISO 8601 with Z, as it enters hashes and ids."""
    return f"{datetime.fromtimestamp(ts_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
