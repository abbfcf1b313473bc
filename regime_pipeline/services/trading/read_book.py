"""Read the book for people: positions with their marks, orders, the equity curve, and the profit told three ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from regime_pipeline.portfolio.money import QUOTIENT, ZERO, precise, to_decimal
from regime_pipeline.ports import EquityRow, MoneySums, OrderView, PositionView, Work

CENT: Final = Decimal("0.01")
MAX_POINTS: Final = 2000
"""Of an equity curve: more cannot be told apart on a page."""


@dataclass(frozen=True, slots=True)
class HeldPosition:
    """A position at its mark; `mark`, and all that follows from it, is None where no price of it is known."""

    row: PositionView
    mark: Decimal | None

    @property
    @precise
    def value(self) -> Decimal | None:
        """Worth of what is held, quote."""
        return None if self.mark is None else self.row.quantity * self.mark

    @property
    @precise
    def total_pnl(self) -> Decimal | None:
        """What the open trade has made: value, plus extracted, minus allocated."""
        return None if self.value is None else self.value + self.row.extracted - self.row.allocated

    @property
    def is_dust(self) -> bool:
        """Tell whether it is only what a closed trade left: worth less than one of the quote asset, and no trade is open."""
        return self.value is not None and abs(self.value) < 1 and not self.row.allocated

    @property
    @precise
    def unrealised_pnl(self) -> Decimal | None:
        """What selling at the mark would add, before fees."""
        if self.mark is None or self.row.avg_entry_price is None:
            return None
        return self.row.quantity * (self.mark - self.row.avg_entry_price)


@dataclass(frozen=True, slots=True)
class ProfitAndLoss:
    """The profit of an account since it was opened, in quote, as three parts of the book tell it at the same marks.

    Parameters
    ----------
    equity : Decimal
        Last marked equity less what came from outside: what the report shows.
    ledger : Decimal
        Double entry: what is in WALLET at the marks, less what came from EXTERNAL.
    fills : Decimal
        Sum of the fills: sold less bought, less fees, plus what is left of them at the marks.
    """

    equity: Decimal
    ledger: Decimal
    fills: Decimal

    @property
    def agree(self) -> bool:
        """Tell whether the three are equal to the cent."""
        return len({each.quantize(CENT) for each in (self.equity, self.ledger, self.fills)}) == 1


@dataclass(frozen=True, slots=True)
class Equity:
    """Equity of an account: its curve, and what it came to; all None before the first mark.

    `drawdown_frac` is the distance of the last point below the highest, zero or positive; `opening` what came from outside.
    """

    curve: tuple[EquityRow, ...]
    opening: Decimal
    high_water: Decimal | None
    drawdown_frac: Decimal | None
    max_drawdown_frac: Decimal | None
    pnl: ProfitAndLoss | None
    n_fills: int

    @property
    def last(self) -> EquityRow | None:
        """Newest mark."""
        return self.curve[-1] if self.curve else None


def read_positions(work: Work, account: str, book_id: str, at_s: int, *, with_flat: bool = False) -> list[HeldPosition]:
    """Read positions with the newest close known at an instant as their mark."""
    rows = work.book.load_positions(book_id, account, with_flat=with_flat)
    marks = work.portfolio.load_marks({row.contract for row in rows}, at_s)
    return [HeldPosition(row, to_decimal(marks[row.contract]) if row.contract in marks else None) for row in rows]


def read_orders(work: Work, account: str, limit: int, *, live_only: bool = False) -> list[OrderView]:
    """Read the newest orders, newest first, or those that have not ended."""
    return work.book.load_orders(account, limit, live_only=live_only)


def read_equity(work: Work, account: str, quote: str, since_s: int = 0) -> Equity:
    """Read the equity curve from an instant on, and the profit since the account was opened."""
    curve = tuple(work.book.load_equity(account, since_s, MAX_POINTS))
    sums = work.book.sum_money(account)
    if not curve:
        return Equity((), sums.external.get(quote, ZERO), None, None, None, None, sums.n_fills)
    marks = read_marks(curve[-1], quote)
    high, deepest = find_drawdown(curve)
    return Equity(
        curve=curve,
        opening=value_of(sums.external, marks),
        high_water=high,
        drawdown_frac=QUOTIENT.divide(high - curve[-1].equity, high) if high > 0 else None,
        max_drawdown_frac=deepest,
        pnl=compute_pnl(curve[-1], sums, marks),
        n_fills=sums.n_fills,
    )


def read_marks(point: EquityRow, quote: str) -> dict[str, Decimal]:
    """Give the price of each asset that an equity point was marked with; quote is worth one."""
    marks = {quote: Decimal(1)}
    for symbol, (_, mark) in point.holdings.items():
        marks[symbol if ":" in symbol else symbol.partition("/")[0]] = mark
    return marks


@precise
def compute_pnl(point: EquityRow, sums: MoneySums, marks: Mapping[str, Decimal]) -> ProfitAndLoss:
    """Tell the profit at an equity point by that point, by the ledger and by the fills.

    The worth of contracts is told by the point alone: the ledger has no line for it before they are closed.
    """
    external = value_of(sums.external, marks)
    contracts = {asset: qty for asset, qty in sums.traded.items() if ":" in asset}
    open_result = point.equity - point.cash - value_of({a: q for a, q in sums.wallet.items() if a not in marks or marks[a] != 1}, marks)
    return ProfitAndLoss(
        equity=point.equity - external,
        ledger=value_of(sums.wallet, marks) - external + (open_result if contracts else ZERO),
        fills=value_of(sums.traded, marks) - value_of(sums.fees, marks),
    )


@precise
def value_of(amounts: Mapping[str, Decimal], marks: Mapping[str, Decimal]) -> Decimal:
    """Value amounts at their marks; an asset without one, which nobody holds any more, is worth nothing."""
    return sum((amount * marks.get(asset, ZERO) for asset, amount in amounts.items()), ZERO)


def find_drawdown(curve: Sequence[EquityRow]) -> tuple[Decimal, Decimal]:
    """Find the highest equity of a curve, and its deepest fall below the highest before it, as a fraction."""
    high, deepest = curve[0].equity, ZERO
    for point in curve:
        high = max(high, point.equity)
        if high > 0:
            deepest = max(deepest, QUOTIENT.divide(high - point.equity, high))
    return high, deepest
