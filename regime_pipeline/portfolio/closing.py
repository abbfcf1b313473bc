"""The end of a trade: in S0 and flat, once (specification 8.7)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final
from uuid import UUID

from regime_pipeline.errors import CallerError
from regime_pipeline.portfolio.money import precise
from regime_pipeline.portfolio.position import Position, Status, judge_position
from regime_pipeline.portfolio.trade import Trade

MAX_RR: Final = 33.0


@dataclass(frozen=True, slots=True)
class Hold:
    """What happened between a trade's first and last fill.

    Parameters
    ----------
    opened_s, closed_s : int
        Times of the first and of the last fill, epoch seconds.
    lows, highs : sequence of float
        Of the bars from the one that holds the first fill to the one that holds the last, at least one.

    Raises
    ------
    CallerError
        When there is no bar, or the fills are in the wrong order.
    """

    opened_s: int
    closed_s: int
    lows: Sequence[float]
    highs: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.lows) == 0 or len(self.lows) != len(self.highs) or self.closed_s < self.opened_s:
            raise CallerError(
                f"hold was from {self.opened_s} to {self.closed_s} with {len(self.lows)} lows and {len(self.highs)} highs: it has the bars"
                " of both its fills. Load them before closing."
            )


@dataclass(frozen=True, slots=True)
class TradeSummary:
    """What a trade was, once and for all; unique by `trade_id`.

    Fractions count to 1 and are taken of what was allocated (return) or of the average entry (drawdown, gain); the last two are >= 0.
    `rr` is return over drawdown within +/-33, None where the price never fell below the average entry.
    """

    trade_id: UUID
    allocated_usd: Decimal
    extracted_usd: Decimal
    return_frac: float
    max_drawdown_frac: float
    max_gain_frac: float
    rr: float | None
    hold_s: int


@precise
def summarise_trade(trade: Trade, hold: Hold) -> TradeSummary:
    """Sum up a trade from its fills and the bars of its hold.

    Raises
    ------
    CallerError
        When the trade bought nothing.
    """
    if trade.bought_qty <= 0 or trade.allocated_usd <= 0:
        raise CallerError(f"trade {trade.trade_id} has no filled buy: it was never open. Close only trades that fills opened.")
    return_frac = float((trade.extracted_usd - trade.allocated_usd) / trade.allocated_usd)
    avg_entry = float(trade.allocated_usd / trade.bought_qty)
    drawdown = max(0.0, 1.0 - min(hold.lows) / avg_entry)
    return TradeSummary(
        trade_id=trade.trade_id,
        allocated_usd=trade.allocated_usd,
        extracted_usd=trade.extracted_usd,
        return_frac=return_frac,
        max_drawdown_frac=drawdown,
        max_gain_frac=max(0.0, max(hold.highs) / avg_entry - 1.0),
        rr=max(-MAX_RR, min(MAX_RR, return_frac / drawdown)) if drawdown > 0.0 else None,
        hold_s=hold.closed_s - hold.opened_s,
    )


def may_close(position: Position, state: str, close: Decimal) -> bool:
    """Tell whether there is an open trade to close: its series in S0, and nothing left to sell."""
    return position.trade is not None and state == "S0" and position.is_flat(close)


def close_trade(position: Position, state: str, close: Decimal, hold: Hold) -> tuple[Position, TradeSummary | None]:
    """Close the trade of a position, if it may be closed; else the position comes back as it was, and no summary.

    A failed attempt is judged first, for without its trade nobody could. Dust stays in `quantity`.
    """
    if position.trade is None or not may_close(position, state, close):
        return position, None
    summary = summarise_trade(position.trade, hold)
    return replace(judge_position(position, close), status=Status.WATCHLIST, trade=None), summary
