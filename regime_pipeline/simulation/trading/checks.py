"""What a venue checks of a new order before it touches its book: the grid, the limits, the mode."""

from decimal import Decimal
from typing import Final

from regime_pipeline.simulation.trading.rules import Rules
from regime_pipeline.simulation.trading.values import Instrument, Kind, NewOrder, Quotes, Reason, RefusalError

MAX_DECIMALS: Final = 8


def check_grid(asked: NewOrder, instrument: Instrument, quotes: Quotes) -> None:
    """Refuse what is off the grid, too small or too large.

    Raises
    ------
    RefusalError
        PRECISION, PRICE_FILTER, LOT_SIZE or NOTIONAL, the first that fails.
    """
    prices = [price for price in (asked.price, asked.trigger.price if asked.trigger else None) if price is not None]
    for value in (asked.qty, *prices):
        if _decimals(value) > MAX_DECIMALS:
            raise RefusalError(Reason.PRECISION, str(value))
    for price in prices:
        if price <= 0 or price > instrument.max_price or price % instrument.tick:
            raise RefusalError(Reason.PRICE_FILTER, f"price {price}, tick {instrument.tick}")
    if asked.quote_qty is None and (not instrument.min_qty <= asked.qty <= instrument.max_qty or asked.qty % instrument.step):
        raise RefusalError(Reason.LOT_SIZE, f"quantity {asked.qty}, from {instrument.min_qty} by {instrument.step}")
    notional = asked.quote_qty if asked.quote_qty is not None else asked.qty * reference_price(asked, quotes)
    # A perpetual can always be left, however small the rest of it is.
    if notional < instrument.min_notional and not asked.is_reduce_only:
        raise RefusalError(Reason.NOTIONAL, f"{notional} is below {instrument.min_notional}")


def reference_price(asked: NewOrder, quotes: Quotes) -> Decimal:
    """Name the price at which an order is weighed: its limit, else its trigger, else what a taker pays now."""
    if asked.kind is Kind.LIMIT and asked.price is not None:
        return asked.price
    return asked.trigger.price if asked.trigger else quotes.of_taker(asked.side)


def check_state(asked: NewOrder, instrument: Instrument, rules: Rules, n_open: int, quotes: Quotes) -> None:
    """Refuse what the venue's mode, the market's state, the count of orders or the price forbids.

    Raises
    ------
    RefusalError
        CLOSED, TOO_MANY_ORDERS or WOULD_TRIGGER.
    """
    if rules.mode != "normal" or not instrument.is_active:
        raise RefusalError(Reason.CLOSED)
    if n_open >= rules.max_open_orders:
        raise RefusalError(Reason.TOO_MANY_ORDERS, f"{n_open} are open")
    if asked.trigger is not None and asked.trigger.is_hit(quotes.mid):
        raise RefusalError(Reason.WOULD_TRIGGER, f"trigger {asked.trigger.price}, price {quotes.mid}")


def _decimals(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    return -exponent if isinstance(exponent, int) else MAX_DECIMALS + 1
