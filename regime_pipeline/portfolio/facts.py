"""What the planner reads of the engine's record of one bar."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.errors import BadInputError
from regime_pipeline.indicators import record as ind_record
from regime_pipeline.trend import record as trend_record
from regime_pipeline.trend.record import STATES


@dataclass(frozen=True, slots=True)
class BarFacts:
    """State, flags and levels of one closed bar.

    Parameters
    ----------
    ts_s : int
        Open of the bar, epoch seconds.
    state : str
        `S0` to `S4` after it.
    price, atr, ema144, ema333 : float
        `latest_price` and indicators of the bar.
    bars_seen, immature
        How many bars the series had, and whether that is too few to trust.
    buy, trim, emergency_exit : bool
        Flags as the engine says them.
    s2_retest, dx, reclaim : bool
        Sources of a rebuy.
    nearest_level : float or None
        Price of the level nearest to the price; None without levels.

    Raises
    ------
    BadInputError
        When the state is unknown or a number is not finite and positive (ATR: >= 0).
    """

    ts_s: int
    state: str
    price: float
    atr: float
    ema144: float
    ema333: float
    bars_seen: int
    immature: bool = False
    buy: bool = False
    trim: bool = False
    emergency_exit: bool = False
    s2_retest: bool = False
    dx: bool = False
    reclaim: bool = False
    nearest_level: float | None = None

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise BadInputError(f"record of bar {self.ts_s}: state was {self.state!r}, allowed: {', '.join(STATES)}. Step the engine.")
        numbers = (self.price, self.ema144, self.ema333, self.price if self.nearest_level is None else self.nearest_level)
        if not (all(0 < number < math.inf for number in numbers) and 0 <= self.atr < math.inf):
            raise BadInputError(
                f"record of bar {self.ts_s}: price {self.price}, ema144 {self.ema144}, ema333 {self.ema333}, level {self.nearest_level}"
                f" must be finite and above 0, atr {self.atr} at least 0. Step the engine on believed bars only."
            )

    @property
    def wants_exit(self) -> bool:
        """Whether a holding must go on this bar."""
        return self.state == "S0" or (self.state == "S3" and self.emergency_exit)

    @property
    def is_retest(self) -> bool:
        """Whether S2 was bought at EMA333; with the engine option `s2_retest_as_buy` it comes under the other flag."""
        return self.s2_retest or self.buy


def read_facts(ts_s: int, indicators: NDArray[np.float64], trend: NDArray[np.float64]) -> BarFacts:
    """Read the facts of a bar out of the kernels' rows.

    Parameters
    ----------
    ts_s : open of the bar, epoch seconds.
    indicators : ndarray of shape (indicators.record.N_FIELDS,)
    trend : ndarray of shape (trend.record.N_FIELDS,)

    Raises
    ------
    BadInputError
        When the rows hold no record: a NaN state, price or average.
    """
    values = dict(zip(ind_record.FIELDS, indicators.tolist(), strict=True))
    says = dict(zip(trend_record.FIELDS, trend.tolist(), strict=True))
    if not 0 <= says["state"] < len(STATES):  # NaN included
        raise BadInputError(f"record of bar {ts_s}: state code was {says['state']}, must be 0 to {len(STATES) - 1}. Step the engine first.")
    level = says["nearest_level_price"]
    return BarFacts(
        ts_s=ts_s,
        state=STATES[int(says["state"])],
        price=values["latest_price"],
        atr=values["atr"],
        ema144=values["ema144"],
        ema333=values["ema333"],
        bars_seen=int(values["bars_seen"]),
        immature=bool(values["immature"]),
        buy=bool(says["buy"]),
        trim=bool(says["trim"]),
        emergency_exit=bool(says["emergency_exit"]),
        s2_retest=bool(says["rebuy_s2_retest"]),
        dx=bool(says["rebuy_dx"]),
        reclaim=bool(says["rebuy_reclaim"]),
        nearest_level=None if math.isnan(level) else level,
    )
