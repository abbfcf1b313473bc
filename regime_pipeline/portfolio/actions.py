"""What was planned for a position and what came of it: one action per position and bar (specification 8.5).

An action here is the part of its row that later decisions read. The rest of the row (planned size, levers, reasons) is its `Plan`.
"""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from regime_pipeline.errors import CallerError
from regime_pipeline.portfolio.money import ZERO, precise


class ActionKind(StrEnum):
    """What an action does to the position."""

    ENTRY = "entry"
    ADD = "add"
    TRIM = "trim"
    EMERGENCY_EXIT = "emergency_exit"


class Signal(StrEnum):
    """What of the engine's record asked for it."""

    S1_BUY = "s1_buy"
    S2_RETEST = "s2_retest"
    DX = "dx"
    RECLAIM = "reclaim"
    TRIM = "trim"
    EXIT_POSITION = "exit_position"
    EMERGENCY_EXIT = "emergency_exit"


class Funding(StrEnum):
    """What its size is a share of."""

    REMAINING = "remaining"
    POOL = "pool"
    EXIT_PROCEEDS = "exit_proceeds"
    HOLDING = "holding"


class ActionStatus(StrEnum):
    """Whether fills may still come. What is done is told by the fills alone."""

    PLANNED = "planned"
    DONE = "done"
    SKIPPED = "skipped"


BUYS = frozenset({ActionKind.ENTRY, ActionKind.ADD})


@dataclass(frozen=True, slots=True)
class Action:
    """A recorded action with its fills so far.

    Parameters
    ----------
    bar_ts_s : int
        Open of the bar it was planned on; unique per position, so it names the action.
    trade_id : UUID or None
        Open trade; None for an entry without a fill: the first fill opens the trade.
    state, level_price, atr, bars_seen
        Of the record it was planned on; None where an exit was carried on without a record.
    filled_qty, filled_usd : Decimal
        Tokens and quote money as the venue counts them, before fees, summed over all fills.
    fee_qty, fee_usd : Decimal
        Fees taken in the token, in tokens, and all other fees, in USD. A rebate is negative.

    Raises
    ------
    CallerError
        When a fill has only one of quantity and money, or a skipped action has fills.
    """

    bar_ts_s: int
    trade_id: UUID | None
    kind: ActionKind
    signal: Signal
    funding: Funding
    status: ActionStatus
    state: str | None
    level_price: float | None = None
    atr: float | None = None
    bars_seen: int | None = None
    filled_qty: Decimal = ZERO
    filled_usd: Decimal = ZERO
    fee_qty: Decimal = ZERO
    fee_usd: Decimal = ZERO

    def __post_init__(self) -> None:
        if not (self.filled_qty > 0) == (self.filled_usd > 0) or min(self.filled_qty, self.filled_usd) < 0:
            raise CallerError(
                f"action of bar {self.bar_ts_s} had {self.filled_qty} tokens for {self.filled_usd} USD filled: both must be 0 or both"
                " above. Sum up its fills again."
            )
        if self.status is ActionStatus.SKIPPED and self.is_filled:
            raise CallerError(f"action of bar {self.bar_ts_s} was skipped and has fills: nothing was sent. Find the fills' own order.")

    @property
    def is_buy(self) -> bool:
        """Whether it adds to the position."""
        return self.kind in BUYS

    @property
    def is_filled(self) -> bool:
        """Whether anything was traded: an action counts by its fills, never by its signal."""
        return self.filled_qty > 0

    @property
    @precise
    def net_qty(self) -> Decimal:
        """Tokens that came in (buy) or went out (sell), with the fee that was taken in tokens."""
        return self.filled_qty - self.fee_qty if self.is_buy else self.filled_qty + self.fee_qty

    @property
    @precise
    def net_usd(self) -> Decimal:
        """Money that the buy cost or the sale brought, fees counted."""
        return self.filled_usd + self.fee_usd if self.is_buy else self.filled_usd - self.fee_usd

    @property
    @precise
    def price(self) -> Decimal:
        """Average price of the fills, fees aside; only of a filled action."""
        return self.filled_usd / self.filled_qty
