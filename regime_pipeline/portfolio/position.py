"""A position as the planner sees it: what is held, the open trade, and where its series stands."""

from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import Final

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.episodes import Block, Episodes, judge_failure
from regime_pipeline.portfolio.money import ZERO, floor_to, precise
from regime_pipeline.portfolio.trade import Trade


class Status(StrEnum):
    """Stage of a position's life."""

    DORMANT = "dormant"
    WATCHLIST = "watchlist"
    ACTIVE = "active"
    SHADOW = "shadow"
    PAUSED = "paused"
    ARCHIVED = "archived"
    REGIME_DRIVER = "regime_driver"


PLANNED_STATUSES: Final = frozenset({Status.WATCHLIST, Status.ACTIVE})
"""Who is planned for: everything else, drivers above all, must never be selected."""


@dataclass(frozen=True, slots=True)
class VenueLimits:
    """What a venue lets us trade of an instrument: the step of quantities, and the least quantity and cost of an order.

    Raises
    ------
    BadInputError
        When the step is not above 0 or a minimum is below 0.
    """

    step_qty: Decimal
    min_qty: Decimal = ZERO
    min_cost_usd: Decimal = ZERO

    def __post_init__(self) -> None:
        if not (self.step_qty > 0 and self.min_qty >= 0 and self.min_cost_usd >= 0):
            raise BadInputError(
                f"limits were step {self.step_qty}, minimum {self.min_qty} and {self.min_cost_usd} USD: the step must be above 0, the"
                " others at least 0. Read the venue's rules again."
            )

    def sellable(self, quantity: Decimal) -> Decimal:
        """Round a quantity down to what an order can carry."""
        return floor_to(quantity, self.step_qty)

    @precise
    def is_dust(self, quantity: Decimal, close: Decimal | None) -> bool:
        """Tell whether a holding is too small to sell, and so counts as flat; without a price, only its quantity is judged."""
        sellable = self.sellable(quantity)
        return sellable <= 0 or sellable < self.min_qty or (close is not None and sellable * close < self.min_cost_usd)


@dataclass(frozen=True, slots=True)
class Position:
    """One token on one execution timeframe in one book.

    Parameters
    ----------
    quantity : Decimal
        Tokens held now by the ledger, >= 0; more than the open trade's own where an earlier one left dust.
    trade : Trade or None
        The open trade; None from its close to the first fill of the next entry.
    last_action_s : int or None
        Bar of the newest recorded action of any trade, skips and unfilled entries included.

    Raises
    ------
    BadInputError
        When the quantity is negative.
    """

    position_id: int
    status: Status
    timeframe: Timeframe
    limits: VenueLimits
    quantity: Decimal = ZERO
    trade: Trade | None = None
    episodes: Episodes = field(default_factory=Episodes)
    block: Block = field(default_factory=Block)
    last_action_s: int | None = None

    def __post_init__(self) -> None:
        if not self.quantity >= 0:
            raise BadInputError(f"position {self.position_id}: quantity was {self.quantity}, must be >= 0. Reconcile its fills.")

    def is_flat(self, close: Decimal | None) -> bool:
        """Tell whether nothing is held that could be sold."""
        return self.limits.is_dust(self.quantity, close)

    @property
    def allocated_usd(self) -> Decimal:
        """Buy cost of the open trade with fees; 0 without one."""
        return self.trade.allocated_usd if self.trade else ZERO

    @property
    def extracted_usd(self) -> Decimal:
        """Sell proceeds of the open trade net of fees; 0 without one."""
        return self.trade.extracted_usd if self.trade else ZERO


@precise
def compute_total_usd(position: Position, close: Decimal) -> Decimal:
    """Compute what the open trade has made: value now, plus extracted, minus allocated."""
    return position.quantity * close + position.extracted_usd - position.allocated_usd


def judge_position(position: Position, close: Decimal) -> Position:
    """Judge a failed attempt once the position is flat, in whatever state its series is by then."""
    if position.trade is None or not position.is_flat(close):
        return position
    episodes, block = judge_failure(position.episodes, position.block, position.trade, compute_total_usd(position, close))
    return replace(position, episodes=episodes, block=block)


def step_position(position: Position, ts_s: int, state: str, close: Decimal) -> Position:
    """Take a bar of the series in, before planning on it: attempt, episodes, blocks.

    Parameters
    ----------
    ts_s : open of the bar, epoch seconds.
    state : trend state after it, `S0` to `S4`.
    close : its close, USD.
    """
    episodes = position.episodes.after(ts_s, state)
    if episodes is position.episodes and episodes.failure is None:
        return position
    return judge_position(replace(position, episodes=episodes, block=position.block.after(episodes)), close)
