"""One broker port for paper and live: every read says a value, that it is absent, or that it failed; only a create is answered raw.

"Failed" is never "empty" and never "flat". The answer to a create is judged by `execution.answers`, from its status and body alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Generic, Protocol, TypeAlias, TypeVar

from regime_pipeline.execution.answers import RawAnswer, VenueProfile
from regime_pipeline.execution.fills import Fill, FillKeyRule
from regime_pipeline.execution.order_states import VenueStatus
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Side

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ok(Generic[T]):
    """What the venue said."""

    value: T


@dataclass(frozen=True, slots=True)
class Absent:
    """The venue answered that there is no such thing."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The read said nothing: it failed, could not be parsed, lacked ids, or was empty where it cannot be.

    `needs_rest_s` is how long the venue wants to be left alone, where it said so.
    """

    reason: str
    needs_rest_s: float | None = None


Read: TypeAlias = Ok[T] | Failed
Found: TypeAlias = Ok[T] | Absent | Failed


class OrderType(StrEnum):
    """How an order is priced."""

    LIMIT = "limit"
    MARKET = "market"
    STOP = "stop"  # a trigger that sells or buys at market


class TimeInForce(StrEnum):
    """How long an order may rest."""

    GTC = "GTC"
    IOC = "IOC"


@dataclass(frozen=True, slots=True)
class OrderSpec:
    """What is sent: everything an intent says that a venue reads; our id as 32 hex digits, quantities in base."""

    client_order_id: str
    symbol: str
    side: Side
    type: OrderType
    qty: Decimal
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    tif: TimeInForce = TimeInForce.GTC
    reduce_only: bool = False
    post_only: bool = False


@dataclass(frozen=True, slots=True)
class VenueOrder:
    """An order as the venue shows it.

    Parameters
    ----------
    client_order_id : str or None
        Ours, 32 hex digits; None when the venue's is not one of ours in form.
    filled : Decimal
        The venue's cumulative figure, base.
    """

    venue_order_id: str
    client_order_id: str | None
    symbol: str
    side: Side
    status: VenueStatus
    qty: Decimal
    filled: Decimal
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    reduce_only: bool = False
    created_ms: int = 0
    raw_client_id: str = ""


@dataclass(frozen=True, slots=True)
class CreateReply:
    """The answer to a create before anybody has interpreted it; `retry_after_s` from its headers."""

    answer: RawAnswer
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """One asset of an account."""

    free: Decimal
    total: Decimal


@dataclass(frozen=True, slots=True)
class VenuePosition:
    """A contract position: signed quantity in base, prices in quote."""

    symbol: str
    qty: Decimal
    entry_price: Decimal | None
    mark_price: Decimal | None
    liquidation_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    """Best prices of a symbol; `at_ms` is the venue's time, or ours where it says none."""

    bid: Decimal
    ask: Decimal
    at_ms: int

    @property
    def mid(self) -> Decimal:
        """Middle between bid and ask."""
        return (self.bid + self.ask) / 2


@dataclass(frozen=True, slots=True)
class FundingPayment:
    """A funding payment as the venue booked it, quote; negative when we paid."""

    symbol: str
    amount_quote: Decimal
    at_ms: int
    payment_id: str


@dataclass(frozen=True, slots=True)
class Listing:
    """An instrument as the venue lists it, with its fees in bps."""

    rules: InstrumentRules
    base: str
    quote: str
    maker_bps: Decimal
    taker_bps: Decimal


@dataclass(frozen=True, slots=True)
class BrokerTraits:
    """What is known of a broker without asking it; `client` is what sends, with version and hash, for the start-up journal."""

    venue: str
    account: str
    mode: Mode
    market_type: str  # spot or linear
    quote: str
    profile: VenueProfile
    fill_key_rule: FillKeyRule = FillKeyRule.TRADE_ID
    has_venue_stops: bool = False
    client: str = ""


class Broker(Protocol):
    """One account at one venue in one mode."""

    @property
    def traits(self) -> BrokerTraits:
        """Who and what it is."""
        ...

    def create_order(self, spec: OrderSpec, sent_at_ms: int, window_ms: int) -> CreateReply:
        """Send one order, once; never raises, never repeats.

        Parameters
        ----------
        sent_at_ms : int
            Venue-corrected time the request is stamped with.
        window_ms : int
            Age from which the venue refuses it.
        """
        ...

    def cancel_order(self, symbol: str, client_order_id: str, venue_order_id: str | None) -> CreateReply:
        """Ask for the cancel of one order; proves nothing."""
        ...

    def cancel_all(self, symbol: str) -> CreateReply:
        """Ask for the cancel of every order of a symbol, triggers included; proves nothing."""
        ...

    def fetch_order(self, symbol: str, client_order_id: str, venue_order_id: str | None) -> Found[VenueOrder]:
        """Read one order by the venue's id, or by ours."""
        ...

    def fetch_open_orders(self, symbol: str | None = None) -> Read[Sequence[VenueOrder]]:
        """Read open orders, triggers included; of all symbols where none is named."""
        ...

    def fetch_closed_orders(self, symbol: str, since_ms: int) -> Read[Sequence[VenueOrder]]:
        """Read orders of a symbol since an instant, whatever their status."""
        ...

    def fetch_fills(self, symbol: str, since_ms: int, venue_order_id: str | None = None) -> Read[Sequence[Fill]]:
        """Read own trades of a symbol since an instant, oldest first; of one order where it is named."""
        ...

    def fetch_balances(self) -> Read[Mapping[str, Balance]]:
        """Read all balances that are not zero."""
        ...

    def fetch_positions(self) -> Read[Sequence[VenuePosition]]:
        """Read all contract positions that are not flat; a spot account has none."""
        ...

    def fetch_quote(self, symbol: str) -> Read[Quote]:
        """Read best bid and ask."""
        ...

    def fetch_funding(self, symbol: str, since_ms: int) -> Read[Sequence[FundingPayment]]:
        """Read funding payments since an instant; a spot account has none."""
        ...

    def fetch_time_ms(self) -> Read[int]:
        """Read the venue's clock."""
        ...

    def fetch_listings(self) -> Read[Mapping[str, Listing]]:
        """Read rules and fees of every instrument by unified symbol."""
        ...

    def fetch_permissions(self) -> Read[frozenset[str]]:
        """Read what the key may do: read, trade, withdraw, transfer."""
        ...
