"""The four scale-free features of a bar, each from exactly 256 bars (section 4)."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.bars import OpinionBars
from regime_pipeline.regime.opinions.kernels import FILTER_SLOTS, LOOKBACK_BARS, N_FEATURES, fill_features
from regime_pipeline.regime.opinions.terms import BoolArray, CodeArray, FloatArray, IntArray, Status

FEATURES: Final = ("macd_change", "spread", "rsi_zone", "volume_ratio")
LABEL_AXIS: Final = FEATURES.index("spread")

LOOKBACK_SLOTS: Final = LOOKBACK_BARS * 10 // 9
"""Longest span that 256 bars may have, 284 slots: bars before it can never matter to a row."""
CONTEXT_SLOTS: Final = FILTER_SLOTS - 1
"""Slots of features that a filtered bar needs before it."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """Features per slot of an unbroken stretch of the grid.

    Parameters
    ----------
    timeframe : Timeframe
        Grid of the slots.
    first_s : int
        Open of the first slot, epoch seconds.
    x : ndarray of float64, shape (n_slots, 4)
        macd_change, spread, rsi_zone, volume_ratio; NaN in all four columns where the row is missing.
    status : ndarray of int8, shape (n_slots,)
        `Status.code`: ok, missing_bar, short_history or nan_feature.
    built : ndarray of bool, shape (n_slots,)
        Slots whose bar was made of quarters.
    """

    timeframe: Timeframe
    first_s: int
    x: FloatArray
    status: CodeArray
    built: BoolArray

    def __len__(self) -> int:
        """Count the slots."""
        return len(self.status)

    @property
    def ts_s(self) -> IntArray:
        """Opens of the slots, shape (n_slots,)."""
        return self.first_s + self.timeframe.seconds * np.arange(len(self), dtype=np.int64)

    @property
    def present(self) -> BoolArray:
        """Slots that have a row, shape (n_slots,)."""
        return np.asarray(self.status == Status.OK.code)


def compute_features(bars: OpinionBars, first_s: int, last_s: int) -> FeatureRows:
    """Compute the features of every slot from `first_s` to `last_s`, both included.

    Parameters
    ----------
    bars : OpinionBars
        All bars that exist from `LOOKBACK_SLOTS` slots before `first_s` on; earlier ones change nothing.
    first_s, last_s : int
        Slot opens, epoch seconds.

    Returns
    -------
    FeatureRows
        Row t depends on the 256 newest bars up to t and on nothing else. A slot without a bar, or whose predecessor has none, is
        `missing_bar`; one with fewer than 256 bars, or with more than 10 % of the slots in their span absent, `short_history`;
        one with a value that is not finite (no volume at all, say) `nan_feature`.

    Raises
    ------
    CallerError
        When the slots are off the grid or `last_s` precedes `first_s`.
    """
    n = bars.count_slots(first_s, last_s)
    x = np.empty((n, N_FEATURES))
    status = np.empty(n, dtype=np.int8)
    bar = np.empty(n, dtype=np.int64)
    fill_features(bars.ts_s, bars.close, bars.volume, bars.timeframe.seconds, first_s, x, status, bar)
    built = np.zeros(n, dtype=np.bool_)
    built[bar >= 0] = bars.built[bar[bar >= 0]]
    return FeatureRows(bars.timeframe, first_s, x, status, built)
