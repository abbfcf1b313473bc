"""Decimal arithmetic that is exact or raises.

Stored money has at most 38 digits; a product of two has 76. Sums, differences and products are taken under `EXACT`, where a
result that would have to be rounded raises `decimal.Inexact` instead. Quotients that never end (an average price) use `QUOTIENT`.
"""

from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from typing import Final

EXACT: Final = Context(prec=120, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow, Inexact])
QUOTIENT: Final = Context(prec=50, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])

ZERO: Final = Decimal(0)
BPS: Final = Decimal(10_000)
STORED: Final = Decimal("1e-18")  # the finest amount of a NUMERIC(38,18)
