"""What share to buy by A and to sell by E (specification 8.3). Nothing that sizes a sale reads anything that sizes a purchase."""

from decimal import Decimal
from typing import Final

from regime_pipeline.errors import CallerError
from regime_pipeline.portfolio.money import ONE, QUOTIENT, ZERO, precise

HIGH_LEVER: Final = 0.7
LOW_LEVER: Final = 0.3

Bands = tuple[Decimal, Decimal, Decimal]
"""Shares for a lever >= .7, in [.3, .7) and below .3."""

S1_SHARES: Final[Bands] = (Decimal("0.90"), Decimal("0.60"), Decimal("0.30"))
S2_FLAT_SHARES: Final[Bands] = (Decimal("0.25"), Decimal("0.15"), Decimal("0.05"))
DX_SHARES: Final[Bands] = (Decimal("0.20"), Decimal("0.10"), QUOTIENT.divide(ONE, Decimal(30)))
REBUY_SHARES: Final[Bands] = (Decimal("0.60"), Decimal("0.30"), Decimal("0.10"))
"""Of the pool for a dip in S2, of the exit's proceeds for a reclaim."""
TRIM_SHARES: Final[Bands] = (Decimal("0.60"), Decimal("0.30"), Decimal("0.15"))

MAX_TRIM_FRAC: Final = Decimal("0.90")
TRIM_MULTS: Final = ((Decimal("0.5"), Decimal("1.5")), (ONE, ONE), (Decimal(3), Decimal("0.3")))
"""(extracted / allocated below this, multiplier of the trim); above the last bound `LATE_TRIM_MULT`."""
LATE_TRIM_MULT: Final = Decimal("0.1")
RECOVERED_ENTRY_MULT: Final = Decimal("0.3")
"""A trade that has its money back enters anew with less."""


def pick_share(bands: Bands, lever: float) -> Decimal:
    """Read the share for a lever in [0, 1]."""
    if not 0.0 <= lever <= 1.0:
        raise CallerError(f"lever was {lever}, must lie between 0 and 1. Pass A or E as compute_levers gives it.")
    return bands[0] if lever >= HIGH_LEVER else bands[1] if lever >= LOW_LEVER else bands[2]


@precise
def compute_trim_frac(e_value: float, allocated_usd: Decimal, extracted_usd: Decimal) -> Decimal:
    """Compute the share of the holding that a trim sells, at most .90: more when eager, less the more has been taken out already."""
    mult = LATE_TRIM_MULT
    for bound, early in TRIM_MULTS:
        if allocated_usd <= 0 or extracted_usd < bound * allocated_usd:
            mult = early
            break
    return min(MAX_TRIM_FRAC, pick_share(TRIM_SHARES, e_value) * mult)


@precise
def compute_retest_frac(a_value: float, allocated_usd: Decimal, extracted_usd: Decimal) -> Decimal:
    """Compute the share of what remains that a retest buys into an empty position."""
    is_recovered = allocated_usd > ZERO and extracted_usd >= allocated_usd
    return pick_share(S2_FLAT_SHARES, a_value) * (RECOVERED_ENTRY_MULT if is_recovered else ONE)
