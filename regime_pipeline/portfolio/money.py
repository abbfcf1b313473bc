"""Decimal arithmetic of money and quantities: a float is never mixed in, and nothing is rounded unless its context says so.

Stored money has at most 38 digits, a product of two has 76; Python's default of 28 would round already a sum. Under `EXACT` a result
that would have to be rounded raises `decimal.Inexact`. Quotients that never end (an average price) are taken under `QUOTIENT`, where
sums and products of what a table can hold are exact just the same.
"""

from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, FloatOperation, Inexact, InvalidOperation, Overflow, localcontext
from functools import wraps
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

EXACT: Final = Context(prec=120, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow, FloatOperation, Inexact])
QUOTIENT: Final = Context(prec=76, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow, FloatOperation])

ZERO: Final = Decimal(0)
ONE: Final = Decimal(1)
BPS: Final = Decimal(10_000)
QUANTUM: Final = Decimal("1e-18")
"""Smallest amount a table can hold (NUMERIC(38,18))."""


def precise(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function under `QUOTIENT`, whatever the caller's context is."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with localcontext(QUOTIENT):
            return function(*args, **kwargs)

    return run


def to_decimal(value: float) -> Decimal:
    """Take a price or an ATR of history over into money: its shortest decimal form, 0.1 and not 0.1000000000000000055."""
    return Decimal(repr(float(value)))


def floor_to(value: Decimal, grid: Decimal) -> Decimal:
    """Largest multiple of `grid` > 0 at or below `value` >= 0."""
    return EXACT.multiply(EXACT.divide_int(value, grid), grid)


def is_on_grid(value: Decimal, grid: Decimal) -> bool:
    """Tell whether `value` is a whole multiple of `grid`."""
    return EXACT.remainder(value, grid) == 0
