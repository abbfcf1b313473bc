"""Prices and quantities onto the venue's grid, always towards less exposure; below a minimum means nothing, never the minimum."""

from dataclasses import dataclass
from decimal import Decimal

from regime_pipeline.errors import OrderValidationError
from regime_pipeline.portfolio.money import EXACT, ZERO, floor_to
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Side


@dataclass(frozen=True, slots=True)
class ExitQty:
    """What of a holding can be sold, and the dust that stays because it is below the grid or a minimum."""

    qty: Decimal
    dust: Decimal


def round_price(price: Decimal, tick: Decimal, side: Side) -> Decimal:
    """Price of a limit order on the tick: a buy bids at most `price`, a sell asks at least it.

    Raises
    ------
    OrderValidationError
        When the price is not above 0, or a bid would round to 0.
    """
    _demand_positive("price", price)
    lower = floor_to(price, tick)
    if side is Side.SELL:
        return lower if lower == price else EXACT.add(lower, tick)
    _demand_positive(f"bid of {price} on tick {tick}", lower)
    return lower


def round_stop(price: Decimal, tick: Decimal, side: Side) -> Decimal:
    """Trigger of a stop on the tick, away from the market: a sell stop lies below it and goes down, a buy stop goes up."""
    return round_price(price, tick, side.opposite)


def round_qty(qty: Decimal, step: Decimal) -> Decimal:
    """Quantity on the step, down; 0 or more.

    Raises
    ------
    OrderValidationError
        When the quantity is below 0.
    """
    if not (qty.is_finite() and qty >= 0):
        raise OrderValidationError(f"quantity was {qty}, must be 0 or more; the side says the direction")
    return floor_to(qty, step)


def plan_qty(qty: Decimal, price: Decimal, rules: InstrumentRules) -> Decimal:
    """Quantity that may be ordered at `price`: on the step, at most the maximum, and 0 where a minimum is not reached."""
    _demand_positive("price", price)
    capped = qty if rules.max_qty is None else min(qty, rules.max_qty)
    rounded = round_qty(capped, rules.step)
    if rounded < rules.min_qty or EXACT.multiply(rounded, price) < rules.min_cost_quote:
        return ZERO
    return rounded


def plan_exit_qty(ledger_qty: Decimal, venue_qty: Decimal, price: Decimal, rules: InstrumentRules) -> ExitQty:
    """Quantity of a full exit: what ledger and venue both hold, on the step.

    A fee taken in the bought coin leaves less than was ordered, so what was ordered is never asked. The venue's maximum cuts the
    order, and what it cuts is no dust: the next tick sells on.
    """
    held = min(ledger_qty, venue_qty)
    whole = round_qty(held, rules.step)
    qty = plan_qty(held, price, rules)
    return ExitQty(qty, EXACT.subtract(held, whole if qty > 0 else ZERO))


def _demand_positive(what: str, value: Decimal) -> None:
    if not (value.is_finite() and value > 0):
        raise OrderValidationError(f"{what} was {value}, must be above 0; nothing is ordered at such a price")
