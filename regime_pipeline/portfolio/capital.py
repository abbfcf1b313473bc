"""How much money a position may use, and what it has made (specification 8.1)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.money import ZERO, precise

DEFAULT_SPLIT: Final[Mapping[Timeframe, Decimal]] = {
    Timeframe.M15: Decimal("0.20"),
    Timeframe.H1: Decimal("0.40"),
    Timeframe.H4: Decimal("0.40"),
}


@dataclass(frozen=True, slots=True)
class Allocation:
    """Share of the book's equity that a token may use, and how its timeframes divide it.

    Parameters
    ----------
    alloc_pct : Decimal
        Percent of equity per token, 0 to 100.
    split_frac : mapping of Timeframe to Decimal
        Share of that per execution timeframe, each in [0, 1], at most 1 together; one not named gets nothing.

    Raises
    ------
    BadInputError
        When a share lies outside its bounds.
    """

    alloc_pct: Decimal = Decimal(15)
    split_frac: Mapping[Timeframe, Decimal] = field(default_factory=lambda: dict(DEFAULT_SPLIT))

    def __post_init__(self) -> None:
        if not 0 <= self.alloc_pct <= 100:
            raise BadInputError(f"alloc_pct was {self.alloc_pct}, must lie between 0 and 100. The default is 15.")
        if any(share < 0 for share in self.split_frac.values()) or sum(self.split_frac.values()) > 1:
            shares = ", ".join(f"{timeframe} {share}" for timeframe, share in self.split_frac.items())
            raise BadInputError(f"split_frac was {shares}: every share must be >= 0 and all together at most 1. Lower one of them.")


@dataclass(frozen=True, slots=True)
class Result:
    """What a trade has made, USD; averages are None before the first buy or sell."""

    current_usd: Decimal
    total_usd: Decimal
    realised_usd: Decimal
    unrealised_usd: Decimal
    avg_entry_price: Decimal | None
    avg_exit_price: Decimal | None


@precise
def compute_equity_usd(cash_usd: Decimal, holdings: Iterable[tuple[Decimal, Decimal]]) -> Decimal:
    """Add up a book: its cash and, per holding, quantity times close.

    Equity, not cash, is what shares are taken of: cash falls with the purchase itself.
    """
    return cash_usd + sum((quantity * close for quantity, close in holdings), ZERO)


@precise
def compute_cap_usd(equity_usd: Decimal, timeframe: Timeframe, allocation: Allocation) -> Decimal:
    """Compute the most a position of this timeframe may have at work, USD >= 0; a book below zero allows nothing."""
    return max(ZERO, equity_usd * allocation.alloc_pct / 100 * allocation.split_frac.get(timeframe, ZERO))


@precise
def compute_remaining_usd(cap_usd: Decimal, allocated_usd: Decimal, extracted_usd: Decimal) -> Decimal:
    """Compute what the position may still buy, within [0, cap].

    The upper bound matters once more was extracted than allocated: without it, profit would enlarge the position's own cap.
    """
    return min(cap_usd, max(ZERO, cap_usd - (allocated_usd - extracted_usd)))


@precise
def compute_result(
    quantity: Decimal, close: Decimal, allocated_usd: Decimal, extracted_usd: Decimal, bought_qty: Decimal, sold_qty: Decimal
) -> Result:
    """Value a trade at a close.

    Parameters
    ----------
    quantity : held now, tokens.
    close : price of one token, USD.
    allocated_usd, extracted_usd : buy cost with fees, sell proceeds net of fees.
    bought_qty, sold_qty : tokens that came and went.
    """
    current = quantity * close
    total = current + extracted_usd - allocated_usd
    avg_entry = allocated_usd / bought_qty if bought_qty > 0 else None
    unrealised = ZERO if avg_entry is None else (close - avg_entry) * quantity
    return Result(
        current_usd=current,
        total_usd=total,
        realised_usd=total - unrealised,
        unrealised_usd=unrealised,
        avg_entry_price=avg_entry,
        avg_exit_price=extracted_usd / sold_qty if sold_qty > 0 else None,
    )
