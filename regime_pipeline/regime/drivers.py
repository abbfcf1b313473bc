"""The eight drivers of the market regime, and the channels they speak through (specification 5.1).

Composites, dominance bars and bucket membership are built in `market/`; here is only who the drivers are and what they weigh.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe


class DriverKind(StrEnum):
    """What a driver is a market of."""

    GLOBAL = "global"
    BUCKET = "bucket"
    DOMINANCE = "dominance"


@dataclass(frozen=True, slots=True)
class Driver:
    """A market that moves the regime.

    Parameters
    ----------
    name : str
        As stored in every table: `BTC`, `nano`, `USDT.d`.
    kind : DriverKind
        A token listens to every global and dominance driver, and to the one bucket it belongs to.
    weight : float
        Factor on the driver's deltas; negative for dominance, whose uptrend is bad for the rest of the market.
    required : bool
        Whether levers without this driver are degraded, which blocks buys.
    """

    name: str
    kind: DriverKind
    weight: float
    required: bool

    @property
    def series(self) -> str:
        """Name of the driver's bar series, `regime:<driver>`."""
        return f"regime:{self.name}"


DRIVERS: Final = (
    Driver("BTC", DriverKind.GLOBAL, 1.0, required=True),
    Driver("ALT", DriverKind.GLOBAL, 1.5, required=True),
    Driver("nano", DriverKind.BUCKET, 3.0, required=False),
    Driver("small", DriverKind.BUCKET, 3.0, required=False),
    Driver("mid", DriverKind.BUCKET, 3.0, required=False),
    Driver("big", DriverKind.BUCKET, 3.0, required=False),
    Driver("BTC.d", DriverKind.DOMINANCE, -1.0, required=False),
    Driver("USDT.d", DriverKind.DOMINANCE, -3.0, required=False),
)
"""In the row order of every (8, ...) array."""

DRIVER_NAMES: Final = tuple(driver.name for driver in DRIVERS)
BUCKETS: Final = tuple(driver.name for driver in DRIVERS if driver.kind is DriverKind.BUCKET)

CHANNEL_TIMEFRAMES: Final = (Timeframe.D1, Timeframe.H1, Timeframe.M1)
"""Macro, meso, micro: the column order of every (..., 3) array."""

_BY_NAME: Final = {driver.name: driver for driver in DRIVERS}


def get_driver(name: str) -> Driver:
    """Look a driver up by its exact name.

    Raises
    ------
    BadInputError
        When no driver has this name; names are case-sensitive.
    """
    if name not in _BY_NAME:
        raise BadInputError(f"driver was {name!r}, must be one of {', '.join(DRIVER_NAMES)}. Correct the name.")
    return _BY_NAME[name]
