"""What a venue deals in: instruments, orders, trades, and the one way it says no. Money is Decimal, time is epoch milliseconds."""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final

ZERO: Final = Decimal(0)
DEFAULT_WINDOW_MS: Final = 5_000
"""How old a signed request may be when it names no window."""
AHEAD_MS: Final = 1_000
"""How far ahead of the venue's clock a signed request may be."""


class MarketType(StrEnum):
    """What a book trades."""

    SPOT = "spot"
    LINEAR = "linear"  # perpetuals settled in the quote asset


class Side(StrEnum):
    """Who gives and who takes."""

    BUY = "BUY"
    SELL = "SELL"

    @property
    def sign(self) -> int:
        """+1 for a buy, -1 for a sell."""
        return 1 if self is Side.BUY else -1


class Kind(StrEnum):
    """At what price an order trades once it works; a trigger or post-only is said apart."""

    LIMIT = "LIMIT"
    MARKET = "MARKET"


class Tif(StrEnum):
    """How long the rest of an order stays."""

    GTC = "GTC"
    IOC = "IOC"
    FOK = "FOK"


class Status(StrEnum):
    """Where an order stands."""

    UNTRIGGERED = "UNTRIGGERED"
    NEW = "NEW"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"


OPEN_STATUSES: Final = frozenset({Status.UNTRIGGERED, Status.NEW, Status.PARTIALLY_FILLED})


class Reason(StrEnum):
    """Why a venue refuses; each profile spells it with its own code."""

    BAD_SYMBOL = "bad_symbol"
    CLOSED = "closed"
    DUPLICATE = "duplicate"
    PRICE_FILTER = "price_filter"
    LOT_SIZE = "lot_size"
    NOTIONAL = "notional"
    PRECISION = "precision"
    TOO_MANY_ORDERS = "too_many_orders"
    BALANCE = "balance"
    WOULD_MATCH = "would_match"
    WOULD_TRIGGER = "would_trigger"
    REDUCE_ONLY = "reduce_only"
    STALE = "stale"
    AHEAD = "ahead"
    NOT_OPEN = "not_open"  # a cancel of what is not open
    NOT_FOUND = "not_found"
    ARCHIVED = "archived"


class RefusalError(Exception):
    """The venue refuses, and nothing has changed in its book."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Instrument:
    """One listed market and its grid; `price` is where its scripted price starts. One that is not active refuses creates."""

    symbol: str
    base: str
    quote: str
    tick: Decimal
    step: Decimal
    min_qty: Decimal
    min_notional: Decimal
    price: Decimal
    max_qty: Decimal = Decimal(9_000)
    max_price: Decimal = Decimal(1_000_000)
    is_active: bool = True


@dataclass(frozen=True, slots=True)
class Trigger:
    """The price that wakes an order, and from which side it must come."""

    price: Decimal
    is_rising: bool

    def is_hit(self, price: Decimal) -> bool:
        """Tell whether a price wakes the order."""
        return price >= self.price if self.is_rising else price <= self.price


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order as a client asks for it.

    Parameters
    ----------
    qty : Decimal
        In base; 0 for a market buy by `quote_qty`.
    sent_ms, window_ms : int, optional
        The client's stamp and for how long the request is good; given, a late request is refused as STALE.
    spelled_type : str
        The order type in the venue's own words, for its answers.
    """

    symbol: str
    side: Side
    kind: Kind
    qty: Decimal
    client_id: str
    price: Decimal | None = None
    tif: Tif = Tif.GTC
    quote_qty: Decimal | None = None
    trigger: Trigger | None = None
    is_post_only: bool = False
    is_reduce_only: bool = False
    sent_ms: int | None = None
    window_ms: int = DEFAULT_WINDOW_MS
    spelled_type: str = ""


@dataclass(slots=True)
class VenueOrder:
    """An order as the venue keeps it."""

    number: int
    order_id: str
    asked: NewOrder
    qty: Decimal
    created_ms: int
    updated_ms: int
    status: Status = Status.NEW
    filled: Decimal = ZERO
    quote_filled: Decimal = ZERO
    is_foreign: bool = False
    cancel_id: str = ""
    # What is locked for it: asset, amount left, amount per unit of base.
    reserve_asset: str = ""
    reserved: Decimal = ZERO
    reserve_per_unit: Decimal = ZERO
    fees: dict[str, Decimal] = field(default_factory=dict)

    @property
    def client_id(self) -> str:
        """The client's id of the order."""
        return self.asked.client_id

    @property
    def symbol(self) -> str:
        """The market it is for."""
        return self.asked.symbol

    @property
    def side(self) -> Side:
        """Buy or sell."""
        return self.asked.side

    @property
    def is_open(self) -> bool:
        """Tell whether it may still trade by itself."""
        return self.status in OPEN_STATUSES

    @property
    def remaining(self) -> Decimal:
        """What may still trade; never below 0, even when more was filled than ordered."""
        return max(self.qty - self.filled, ZERO)


@dataclass(frozen=True, slots=True)
class Trade:
    """One trade, or a funding payment (then `qty` is the size paid for and `fee` what was paid)."""

    trade_id: int | None
    order_id: str
    client_id: str
    symbol: str
    side: Side
    qty: Decimal
    price: Decimal
    fee: Decimal | None
    fee_asset: str | None
    is_maker: bool
    at_ms: int
    kind: str = "Trade"
    rate: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Flow:
    """Money that came or went without a trade: deposit, withdrawal or funding; `amount` is signed."""

    number: int
    kind: str
    asset: str
    amount: Decimal
    at_ms: int
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class Quotes:
    """Best prices around the scripted one."""

    bid: Decimal
    ask: Decimal
    mid: Decimal

    def of_taker(self, side: Side) -> Decimal:
        """Name the price that a taker of this side gets."""
        return self.ask if side is Side.BUY else self.bid


def check_window(sent_ms: int, window_ms: int, now_ms: int) -> None:
    """Refuse a request that is too old or from the future, on the venue's clock.

    Raises
    ------
    RefusalError
        STALE when older than its window, AHEAD when more than a second ahead.
    """
    if sent_ms >= now_ms + AHEAD_MS:
        raise RefusalError(Reason.AHEAD, f"stamped {sent_ms}, server time {now_ms}")
    if now_ms - sent_ms > window_ms:
        raise RefusalError(Reason.STALE, f"stamped {sent_ms}, server time {now_ms}, window {window_ms}")


def _market(symbol: str, tick: str, step: str, price: str) -> Instrument:
    base, least = symbol.removesuffix("USDT"), Decimal(step)
    return Instrument(symbol, base, "USDT", Decimal(tick), least, least, Decimal(5), Decimal(price))


DEFAULT_INSTRUMENTS: Final = {
    MarketType.SPOT: (
        _market("BTCUSDT", "0.01", "0.00001", "40000"),
        _market("ETHUSDT", "0.01", "0.0001", "2000"),
        _market("SOLUSDT", "0.01", "0.001", "100"),
        _market("BNBUSDT", "0.01", "0.001", "500"),
    ),
    MarketType.LINEAR: (
        _market("BTCUSDT", "0.1", "0.001", "40000"),
        _market("ETHUSDT", "0.01", "0.01", "2000"),
        _market("SOLUSDT", "0.01", "0.1", "100"),
    ),
}
"""What a book lists unless told otherwise."""
