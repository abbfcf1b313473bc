"""Double entry: everything that moves money is one batch of signed lines that sum to exactly zero in every asset.

A positive amount enters the account named; what enters WALLET is ours, every other account says where it came from or went.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from enum import StrEnum
from typing import Final

from regime_pipeline.errors import BadInputError, LedgerImbalanceError
from regime_pipeline.execution.fills import Fill
from regime_pipeline.portfolio.money import EXACT, QUANTUM, QUOTIENT, ZERO

FLAT_TOLERANCE_QUOTE: Final = Decimal("1e-8")


class LedgerAccount(StrEnum):
    """Where an amount is, or where it came from or went."""

    WALLET = "WALLET"
    TRADE = "TRADE"  # the market
    FEE = "FEE"
    FUNDING = "FUNDING"
    EXTERNAL = "EXTERNAL"  # deposit, withdrawal, transfer, conversion, reward
    ADJUST = "ADJUST"  # person and reason compulsory
    POSITION = "POSITION"  # contracts
    PNL = "PNL"


A = LedgerAccount


@dataclass(frozen=True, slots=True)
class Line:
    """One signed line."""

    account: LedgerAccount
    asset: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines that belong together.

    Parameters
    ----------
    source : str
        What they came from, unique: `fill:...`, `funding:...`, `external:...`, `adjust:...`.
    lines : tuple of Line
        In booking order.
    actor, reason : str
        Who and why, for an adjustment.

    Raises
    ------
    LedgerImbalanceError
        When an asset does not sum to zero.
    BadInputError
        When an adjustment has no person or no reason.
    """

    source: str
    lines: tuple[Line, ...]
    actor: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        for asset, total in sum_lines(self.lines).items():
            if total != 0:
                msg = f"batch {self.source} was off by {total} {asset}, every asset must sum to 0; nothing is booked, the account stops"
                raise LedgerImbalanceError(msg)
        if any(line.account is A.ADJUST for line in self.lines) and not (self.actor.strip() and self.reason.strip()):
            msg = f"adjustment {self.source} was by {self.actor!r} for {self.reason!r}; a person and a reason must be named"
            raise BadInputError(msg)


def sum_lines(lines: Iterable[Line], account: LedgerAccount | None = None) -> dict[str, Decimal]:
    """Sum of lines per asset, exact; of one account if it is named."""
    sums: dict[str, Decimal] = {}
    for line in lines:
        if account is None or line.account is account:
            sums[line.asset] = EXACT.add(sums.get(line.asset, ZERO), line.amount)
    return sums


def book_spot_fill(source: str, fill: Fill, base: str, quote: str) -> Batch:
    """Batch of a spot fill: base against the market, the fee, quote against the market."""
    base_in = EXACT.multiply(Decimal(fill.side.sign), fill.qty)
    quote_in = EXACT.minus(EXACT.multiply(base_in, fill.price))
    return Batch(source, (*_move(A.TRADE, base, base_in), *_fee(fill), *_move(A.TRADE, quote, quote_in)))


@dataclass(frozen=True, slots=True)
class PerpPosition:
    """Contracts held, signed, and what they were opened for, in quote with the same sign."""

    qty: Decimal = ZERO
    open_quote: Decimal = ZERO

    @property
    def average_price(self) -> Decimal | None:
        """Average entry; None when flat."""
        return QUOTIENT.divide(self.open_quote, self.qty) if self.qty else None


def book_perp_fill(source: str, fill: Fill, position: PerpPosition, quote: str) -> tuple[Batch, PerpPosition]:
    """Batch of a fill of a linear perpetual and the position after it: contracts against the market, a close against PNL, the fee.

    What closed contracts were opened for is taken at average entry, rounded to the 18 digits that are stored; the rest keeps the
    remainder, so a position that is closed altogether has realised its profit to the last digit.
    """
    with localcontext(EXACT):
        signed = fill.side.sign * fill.qty
        closed = min(fill.qty, abs(position.qty)) if signed * position.qty < 0 else ZERO
        opened_for = _open_quote_of(position, closed)
        realised = -fill.side.sign * closed * fill.price - opened_for if closed else ZERO
        after = PerpPosition(position.qty + signed, position.open_quote - opened_for + fill.side.sign * (fill.qty - closed) * fill.price)
    lines = (
        Line(A.POSITION, fill.symbol, signed),
        Line(A.TRADE, fill.symbol, EXACT.minus(signed)),
        *_move(A.PNL, quote, realised),
        *_fee(fill),
    )
    return Batch(source, lines), after


def book_funding(source: str, qty: Decimal, mark: Decimal, rate_frac: Decimal, quote: str) -> Batch:
    """Batch of a funding payment on the mark notional: a long (positive quantity) pays while the rate is positive."""
    with localcontext(EXACT):
        return Batch(source, _move(A.FUNDING, quote, -qty * mark * rate_frac))


def book_external(source: str, asset: str, amount: Decimal) -> Batch:
    """Batch of a deposit (positive), withdrawal, transfer, conversion or reward."""
    return Batch(source, _move(A.EXTERNAL, asset, amount))


def book_adjustment(source: str, asset: str, amount: Decimal, *, actor: str, reason: str) -> Batch:
    """Batch by which a named person explains a difference."""
    return Batch(source, _move(A.ADJUST, asset, amount), actor, reason)


def value_wallet(wallet: Mapping[str, Decimal], marks_quote: Mapping[str, Decimal], quote: str) -> Decimal:
    """Value of a wallet in quote.

    Raises
    ------
    BadInputError
        When an asset that is held has no mark: an unpriced holding is not worth nothing.
    """
    unpriced = sorted(asset for asset, amount in wallet.items() if amount and asset != quote and asset not in marks_quote)
    if unpriced:
        raise BadInputError(f"no mark was known for {', '.join(unpriced)}; fetch one before valuing the wallet")
    with localcontext(EXACT):
        return sum((amount if asset == quote else amount * marks_quote[asset] for asset, amount in wallet.items() if amount), ZERO)


def compute_net_pnl_quote(value_start: Decimal, value_end: Decimal, external_quote: Iterable[Decimal]) -> Decimal:
    """Net result of a window: value of the wallet at its end less its start, less external flows valued at their time."""
    with localcontext(EXACT):
        return value_end - value_start - sum(external_quote, ZERO)


def compute_price_pnl_quote(bought: Decimal, bought_quote: Decimal, sold: Decimal, sold_quote: Decimal) -> Decimal:
    """Result of price alone on the quantity both bought and sold, at average prices; 0 before both happened."""
    matched = min(bought, sold)
    if matched == 0:
        return ZERO
    earned = QUOTIENT.divide(QUOTIENT.multiply(matched, sold_quote), sold)
    spent = QUOTIENT.divide(QUOTIENT.multiply(matched, bought_quote), bought)
    return QUOTIENT.subtract(earned, spent)


def is_settled(net_pnl_quote: Decimal, quote_change: Decimal, external_quote: Decimal, third_asset_fees_quote: Decimal) -> bool:
    """Tell whether a window that is flat at both ends explains the change of its quote balance, to 1e-8 quote."""
    with localcontext(EXACT):
        return abs(net_pnl_quote - (quote_change - external_quote - third_asset_fees_quote)) <= FLAT_TOLERANCE_QUOTE


def _open_quote_of(position: PerpPosition, closed: Decimal) -> Decimal:
    if closed == abs(position.qty):
        return position.open_quote
    return QUOTIENT.quantize(QUOTIENT.divide(QUOTIENT.multiply(position.open_quote, closed), abs(position.qty)), QUANTUM)


def _move(against: LedgerAccount, asset: str, amount: Decimal) -> tuple[Line, ...]:
    return (Line(A.WALLET, asset, amount), Line(against, asset, EXACT.minus(amount))) if amount else ()


def _fee(fill: Fill) -> tuple[Line, ...]:
    if fill.fee_amount is None or fill.fee_asset is None:
        return ()  # provisional: booked as a batch of its own once it is known
    return _move(A.FEE, fill.fee_asset, EXACT.minus(fill.fee_amount))
