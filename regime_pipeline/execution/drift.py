"""How far the venue's position is from the ledger's, and what that stops."""

from dataclasses import dataclass
from decimal import Decimal, localcontext
from enum import StrEnum
from typing import Final

from regime_pipeline.errors import ReconciliationError
from regime_pipeline.portfolio.money import EXACT, QUOTIENT
from regime_pipeline.risk.kill_switch import Level

# Ceilings: configuration may only tighten them.
MAX_INSTRUMENTS: Final = 3
LARGE_FRAC: Final = Decimal("0.05")
LARGE_EQUITY_FRAC: Final = Decimal("0.01")
SMALL_FRAC: Final = Decimal("0.005")
SMALL_STEPS: Final = 2
AGREE_AFTER_S: Final = 5


class Tier(StrEnum):
    """Size of a difference."""

    DUST = "dust"
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"

    @property
    def level(self) -> Level:
        """Level it sets: for the instrument, or the account when large."""
        return {Tier.DUST: Level.NORMAL, Tier.LARGE: Level.REDUCE_ONLY}.get(self, Level.ENTRIES_OFF)

    @property
    def pages(self) -> bool:
        """Tell whether a person is paged."""
        return self in {Tier.MEDIUM, Tier.LARGE}


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference: in base, as a share of the larger side, and its tier."""

    diff: Decimal
    frac: Decimal
    tier: Tier


def judge_drift(
    ledger: Decimal,
    venue: Decimal,
    *,
    step: Decimal,
    price: Decimal,
    min_cost_quote: Decimal,
    equity_quote: Decimal,
    n_above_dust: int = 1,
) -> Drift:
    """Grade the difference of one instrument; the first test that matches counts.

    Parameters
    ----------
    ledger, venue : Decimal
        Signed quantities; the ledger's side comes from fills and flows only.
    step, price, min_cost_quote : Decimal
        Of the instrument.
    equity_quote : Decimal
        Of the account.
    n_above_dust : int
        Instruments of the account whose difference is above dust, this one included.

    Raises
    ------
    ReconciliationError
        When price, step or equity is not above 0: without them no difference can be graded.
    """
    if not (price > 0 and step > 0 and equity_quote > 0):
        msg = (
            f"price {price}, step {step} and equity {equity_quote} must be above 0 to grade a difference; entries stay off, read them again"
        )
        raise ReconciliationError(msg)
    with localcontext(EXACT):
        diff = abs(venue - ledger)
        larger = max(abs(venue), abs(ledger), step)
        is_dust = diff <= step or diff * price <= min_cost_quote
        # What the ledger does not know at all differs by 100 %.
        is_large = diff > LARGE_FRAC * larger or diff * price > LARGE_EQUITY_FRAC * equity_quote or n_above_dust > MAX_INSTRUMENTS
        is_small = diff <= SMALL_FRAC * larger or diff <= SMALL_STEPS * step
    tier = Tier.DUST if is_dust else Tier.LARGE if is_large else Tier.SMALL if is_small else Tier.MEDIUM
    return Drift(diff, QUOTIENT.divide(diff, larger), tier)


def is_confirmed(first: tuple[int, Decimal], second: tuple[int, Decimal], *, has_order_in_flight: bool) -> bool:
    """Tell whether two findings (epoch second, difference) above dust agree: equal, 5 s apart, no order in flight."""
    (first_s, first_diff), (second_s, second_diff) = first, second
    return not has_order_in_flight and first_diff == second_diff and second_s - first_s >= AGREE_AFTER_S
