"""Fills and what they add up to: each is booked once, whatever order, repetition or batch they come in.

A fill's identity is the venue's, never ours. The same identity with other content is a conflict and overwrites nothing; only an
unknown fee may become known.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from enum import StrEnum

from regime_pipeline.errors import BadInputError, VenueReadError
from regime_pipeline.portfolio.money import EXACT, QUOTIENT, ZERO
from regime_pipeline.risk.purpose import Side


class FillKeyRule(StrEnum):
    """What tells two fills of a venue apart."""

    TRADE_ID = "trade_id"
    TRADE_ID_AND_ORDER = "trade_id_and_order"  # trade ids repeat between the two orders of a trade
    CUMULATIVE_QTY = "cumulative_qty"  # no trade ids at all


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution, as the venue reported it.

    Parameters
    ----------
    venue, account, market_type, symbol : str
        Where it happened.
    venue_order_id : str
        The order's id at the venue.
    venue_trade_id : str
        The trade's id; empty where the venue has none.
    side : Side
        Of our order.
    qty, price : Decimal
        In base and quote, above 0.
    fee_amount, fee_asset : Decimal or None, str or None
        What the fee took, negative for a rebate; both None while the venue has not said.
    venue_ts_ms : int
        The venue's time of the trade.
    cumulative_qty : Decimal or None
        The order's filled quantity after it, where fills are told apart by that.

    Raises
    ------
    BadInputError
        When quantity or price is not above 0, or only one of fee and asset is known.
    """

    venue: str
    account: str
    market_type: str
    symbol: str
    venue_order_id: str
    venue_trade_id: str
    side: Side
    qty: Decimal
    price: Decimal
    fee_amount: Decimal | None
    fee_asset: str | None
    venue_ts_ms: int = 0
    cumulative_qty: Decimal | None = None

    def __post_init__(self) -> None:
        if not (self.qty.is_finite() and self.price.is_finite() and self.qty > 0 and self.price > 0):
            raise BadInputError(f"fill {self.venue_trade_id} was {self.qty} at {self.price}, both must be above 0; read the trade again")
        if (self.fee_amount is None) != (self.fee_asset is None):
            msg = (
                f"fill {self.venue_trade_id} had fee {self.fee_amount} in {self.fee_asset}; both are known or neither, read the trade again"
            )
            raise BadInputError(msg)

    @property
    def is_provisional(self) -> bool:
        """Tell whether the fee is still unknown; the trade is read again until it is."""
        return self.fee_amount is None

    def key(self, rule: FillKeyRule = FillKeyRule.TRADE_ID) -> tuple[str, ...]:
        """Identity of the fill at its venue.

        Raises
        ------
        BadInputError
            When the part of the identity that the rule asks for is missing.
        """
        part = str(self.cumulative_qty.normalize(EXACT)) if self.cumulative_qty is not None else ""
        identity = {
            FillKeyRule.TRADE_ID: (self.venue_trade_id,),
            FillKeyRule.TRADE_ID_AND_ORDER: (self.venue_trade_id, self.venue_order_id, self.side.value),
            FillKeyRule.CUMULATIVE_QTY: (self.venue_order_id, part),
        }[rule]
        if "" in identity:
            raise BadInputError(f"fill of order {self.venue_order_id} has no {rule}; give the venue's profile the rule that it can meet")
        return (self.venue, self.account, self.market_type, self.symbol, *identity)


class Booking(StrEnum):
    """What becomes of a reported fill."""

    BOOK = "book"
    REPEATED = "repeated"  # nothing to write
    COMPLETE_FEE = "complete_fee"  # the fee has become known
    CONFLICT = "conflict"  # `fills_conflict` and an incident


@dataclass(frozen=True, slots=True)
class OrderFacts:
    """What is known of a fill's order when the fill comes."""

    qty: Decimal
    filled: Decimal
    is_terminal: bool


@dataclass(frozen=True, slots=True)
class FillVerdict:
    """How a fill is booked: late ones and overfills in full, with an incident; an overfill also stops entries on its symbol."""

    booking: Booking
    is_late: bool = False
    is_overfill: bool = False
    is_unlinked: bool = False  # no such order yet: kept, linked later


def judge_fill(fill: Fill, stored: Fill | None, order: OrderFacts | None) -> FillVerdict:
    """Decide how a reported fill is booked.

    Parameters
    ----------
    fill : Fill
        As reported, by stream or by poll.
    stored : Fill or None
        The one with the same key that is booked already.
    order : OrderFacts or None
        Its order; None for a fill before its acknowledgement or of an unknown order.
    """
    if stored is not None:
        return FillVerdict(compare_fills(stored, fill))
    if order is None:
        return FillVerdict(Booking.BOOK, is_unlinked=True)
    return FillVerdict(Booking.BOOK, is_late=order.is_terminal, is_overfill=EXACT.add(order.filled, fill.qty) > order.qty)


def compare_fills(stored: Fill, reported: Fill) -> Booking:
    """Compare two reports of one key; a fee that is unknown agrees with every fee."""
    if stored == reported:
        return Booking.REPEATED
    if replace(stored, fee_amount=None, fee_asset=None) != replace(reported, fee_amount=None, fee_asset=None):
        return Booking.CONFLICT
    if reported.is_provisional:
        return Booking.REPEATED
    return Booking.COMPLETE_FEE if stored.is_provisional else Booking.CONFLICT


@dataclass(frozen=True, slots=True)
class FillSums:
    """What fills of one order, or of one symbol, add up to.

    Parameters
    ----------
    bought, sold : Decimal
        Quantities in base.
    bought_quote, sold_quote : Decimal
        Quantity times price, in quote.
    fees : Mapping of str to Decimal
        Paid per asset, negative for rebates; without those still unknown.
    """

    bought: Decimal
    sold: Decimal
    bought_quote: Decimal
    sold_quote: Decimal
    fees: Mapping[str, Decimal]

    @property
    def filled(self) -> Decimal:
        """Quantity of an order's fills."""
        return EXACT.add(self.bought, self.sold)

    @property
    def average_price(self) -> Decimal | None:
        """Average price of an order's fills; None before the first."""
        notional = EXACT.add(self.bought_quote, self.sold_quote)
        return QUOTIENT.divide(notional, self.filled) if self.filled else None

    def change_of(self, asset: str, *, base: str, quote: str) -> Decimal:
        """Change of our holding of an asset, fees in that asset included."""
        with localcontext(EXACT):
            change = -self.fees.get(asset, ZERO)
            if asset == base:
                change += self.bought - self.sold
            if asset == quote:
                change += self.sold_quote - self.bought_quote
            return change


def sum_fills(fills: Iterable[Fill], rule: FillKeyRule = FillKeyRule.TRADE_ID) -> FillSums:
    """Add up fills; repetitions count once, and the order they come in changes nothing.

    Raises
    ------
    BadInputError
        When two fills with one key contradict each other: what is booked cannot, so they did not come from the book.
    """
    booked: dict[tuple[str, ...], Fill] = {}
    for fill in fills:
        stored = booked.get(key := fill.key(rule))
        booking = Booking.BOOK if stored is None else compare_fills(stored, fill)
        if booking is Booking.CONFLICT:
            raise BadInputError(f"fill {key} was both {stored} and {fill}; keep the booked one, record the other as a conflict")
        if booking is not Booking.REPEATED:
            booked[key] = fill
    with localcontext(EXACT):
        sums = {side: [ZERO, ZERO] for side in Side}
        fees: dict[str, Decimal] = {}
        for fill in booked.values():
            sums[fill.side][0] += fill.qty
            sums[fill.side][1] += fill.qty * fill.price
            if fill.fee_asset is not None and fill.fee_amount is not None:
                fees[fill.fee_asset] = fees.get(fill.fee_asset, ZERO) + fill.fee_amount
    (bought, bought_quote), (sold, sold_quote) = sums[Side.BUY], sums[Side.SELL]
    return FillSums(bought, sold, bought_quote, sold_quote, fees)


def compute_new_qty(cumulative_before: Decimal, cumulative_now: Decimal) -> Decimal:
    """Quantity filled between two reports of a venue that gives cumulative figures only.

    Raises
    ------
    VenueReadError
        When the figure fell: what was filled stays filled.
    """
    if cumulative_now < cumulative_before:
        raise VenueReadError(f"filled quantity was {cumulative_now} after {cumulative_before}, it cannot fall; the order is read again")
    return EXACT.subtract(cumulative_now, cumulative_before)
