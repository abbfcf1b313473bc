"""What an order is for: its side, its leg in the plan and the purpose that the leg serves."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Side(StrEnum):
    """Direction of an order or a fill."""

    BUY = "buy"
    SELL = "sell"

    @property
    def sign(self) -> int:
        """+1 for a buy, -1 for a sell."""
        return 1 if self is Side.BUY else -1

    @property
    def opposite(self) -> "Side":
        """The other side."""
        return Side.SELL if self is Side.BUY else Side.BUY


class Leg(StrEnum):
    """Part of a plan that an order carries out; a field of the logical key."""

    ENTRY = "entry"
    ADD = "add"
    TRIM = "trim"
    TP = "tp"
    EXIT = "exit"
    FLATTEN = "flatten"
    DUST = "dust"
    SL = "sl"

    @property
    def purpose(self) -> "Purpose":
        """What the leg does to the exposure."""
        return PURPOSES[self]


class Purpose(StrEnum):
    """What an order does to the exposure; only an entry raises it."""

    ENTRY = "entry"
    REDUCE = "reduce"
    EXIT = "exit"
    STOP = "stop"


PURPOSES: Final[Mapping[Leg, Purpose]] = {
    Leg.ENTRY: Purpose.ENTRY,
    Leg.ADD: Purpose.ENTRY,
    Leg.TRIM: Purpose.REDUCE,
    Leg.TP: Purpose.REDUCE,
    Leg.EXIT: Purpose.EXIT,
    Leg.FLATTEN: Purpose.EXIT,
    Leg.DUST: Purpose.EXIT,
    Leg.SL: Purpose.STOP,
}
