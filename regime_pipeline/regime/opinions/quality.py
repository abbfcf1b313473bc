"""How much training stands behind a model, and what that takes from its confidence (section 6.5)."""

from enum import StrEnum
from typing import Final

from regime_pipeline.errors import CallerError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.terms import terms_of


class Tier(StrEnum):
    """Depth of the training of the model in force; `no_model` where none is."""

    NO_MODEL = "no_model"
    SHALLOW = "shallow"
    BASELINE = "baseline"
    DEEP = "deep"
    FULL = "full"

    @property
    def modifier(self) -> float:
        """Factor on the raw confidence; posterior and bias are left alone."""
        return _MODIFIERS[self.value]


_MODIFIERS: Final = {"no_model": 0.0, "shallow": 0.70, "baseline": 0.85, "deep": 0.95, "full": 1.0}
_EIGHTHS: Final = ((Tier.FULL, 8), (Tier.DEEP, 5), (Tier.BASELINE, 2))
"""Lowest share of the window, in eighths, of each tier above shallow."""


def tier_of(timeframe: Timeframe, n_rows: int) -> Tier:
    """Name the tier of a model by the rows it was trained on.

    Raises
    ------
    CallerError
        When the number of rows is negative, or the timeframe unknown.
    """
    terms = terms_of(timeframe)
    if n_rows < 0:
        raise CallerError(f"training rows were {n_rows}, must be 0 or more. Pass the model's n_rows.")
    if n_rows < terms.minimum_rows:
        return Tier.NO_MODEL
    return next((tier for tier, eighths in _EIGHTHS if 8 * n_rows >= eighths * terms.window_rows), Tier.SHALLOW)
