"""Decimal arithmetic of money and quantities: sums and products are exact, a float is never mixed in.

Python's default of 28 digits would round a sum of two NUMERIC(38, 18); here a product of two of them still fits.
"""

from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, FloatOperation, InvalidOperation, Overflow, localcontext
from functools import wraps
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

EXACT: Final = Context(prec=76, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow, FloatOperation])
ZERO: Final = Decimal(0)
ONE: Final = Decimal(1)
QUANTUM_USD: Final = Decimal("1e-18")
"""Smallest sum of money a table can hold."""


def exact(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function in our decimal context, whatever the caller's is."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with localcontext(EXACT):
            return function(*args, **kwargs)

    return run


def to_decimal(value: float) -> Decimal:
    """Take a price or an ATR of history over into money: its shortest decimal form, 0.1 and not 0.1000000000000000055."""
    return Decimal(repr(float(value)))


@exact
def floor_to(value: Decimal, step: Decimal) -> Decimal:
    """Round a value >= 0 down to a whole number of steps > 0."""
    return (value / step).to_integral_value(ROUND_DOWN) * step
