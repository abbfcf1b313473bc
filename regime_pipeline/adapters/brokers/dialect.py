"""What a venue's dialect must be able to say and read; one file per venue implements it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Protocol

from regime_pipeline.adapters.brokers.capture import Check
from regime_pipeline.adapters.brokers.lane import Codes, Exchange, Lane, Question
from regime_pipeline.adapters.brokers.rows import Row, UnreadableError
from regime_pipeline.execution.answers import VenueProfile
from regime_pipeline.execution.fills import Fill
from regime_pipeline.ports import Balance, BrokerTraits, FundingPayment, Listing, OrderSpec, Quote, VenueOrder, VenuePosition
from regime_pipeline.risk.purpose import Side

OURS: Final = re.compile(r"[0-9a-f]{32}\Z")
MAX_PAGES: Final = 200


@dataclass(frozen=True, slots=True)
class OrderId:
    """How an order is named to a venue: its own id where we know it, ours, as the venue spells it, where we do not."""

    client: str
    venue: str | None


@dataclass(slots=True)
class Symbols:
    """Unified names of instruments and the venue's."""

    ids: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def learn(self, markets: Sequence[Mapping[str, Any]]) -> None:
        """Take the names of ccxt's markets."""
        self.ids = {str(market["symbol"]): str(market["id"]) for market in markets}
        self.names = {venue_id: name for name, venue_id in self.ids.items()}

    def id_of(self, symbol: str) -> str:
        """Venue's name of a symbol.

        Raises
        ------
        UnreadableError
            When the venue lists none of that name.
        """
        if symbol not in self.ids:
            raise UnreadableError(f"UNKNOWN_SYMBOL {symbol}")
        return self.ids[symbol]

    def name_of(self, venue_id: str) -> str:
        """Unified name of an instrument; one that is not listed any more keeps the venue's."""
        return self.names.get(venue_id, venue_id)


@dataclass(frozen=True, slots=True)
class Creation:
    """One create: the call of ccxt, and the check of what it is about to send."""

    question: Question
    check: Check


class Dialect(Protocol):
    """One venue and market type."""

    exchange_id: str
    market_type: str
    profile: VenueProfile
    codes: Codes
    addresses: frozenset[str]
    options: Mapping[str, Any]
    has_venue_stops: bool
    fallback_fees_bps: tuple[Decimal, Decimal]

    def create(self, spec: OrderSpec, venue_symbol: str, sent_at_ms: int, window_ms: int) -> Creation:
        """Plan the one call of `create_order`."""
        ...

    def cancel(self, venue_symbol: str, order: OrderId) -> Question:
        """Plan the cancel of one order."""
        ...

    def cancel_all(self, venue_symbol: str) -> Question:
        """Plan the cancel of every order of a symbol."""
        ...

    def fetch_markets(self, exchange: Exchange) -> object:
        """Ask ccxt for its markets."""
        ...

    def parse_listing(self, market: Mapping[str, Any], fees_bps: tuple[Decimal, Decimal]) -> Listing | None:
        """Read rules from the venue's own strings in a market; None for what we do not trade, or what has no grid."""
        ...

    def fetch_fees(self, lane: Lane) -> tuple[Decimal, Decimal]:
        """Read maker's and taker's fee of the account in bps."""
        ...

    def fetch_order(self, lane: Lane, symbols: Symbols, symbol: str, order: OrderId) -> VenueOrder:
        """Read one order."""
        ...

    def fetch_open_orders(self, lane: Lane, symbols: Symbols, symbol: str | None, quote: str) -> list[VenueOrder]:
        """Read open orders."""
        ...

    def fetch_closed_orders(self, lane: Lane, symbols: Symbols, symbol: str, since_ms: int, now_ms: int) -> list[VenueOrder]:
        """Read all orders since an instant."""
        ...

    def fetch_fills(
        self, lane: Lane, symbols: Symbols, traits: BrokerTraits, symbol: str, since_ms: int, now_ms: int, venue_order_id: str | None
    ) -> list[Fill]:
        """Read own trades since an instant."""
        ...

    def fetch_balances(self, lane: Lane) -> dict[str, Balance]:
        """Read balances."""
        ...

    def fetch_positions(self, lane: Lane, symbols: Symbols, quote: str) -> list[VenuePosition]:
        """Read contract positions."""
        ...

    def fetch_quote(self, lane: Lane, venue_symbol: str, now_ms: int) -> Quote:
        """Read best prices."""
        ...

    def fetch_funding(self, lane: Lane, symbol: str, venue_symbol: str, since_ms: int, now_ms: int) -> list[FundingPayment]:
        """Read funding payments since an instant."""
        ...

    def fetch_time_ms(self, lane: Lane) -> int:
        """Read the venue's clock."""
        ...

    def fetch_permissions(self, lane: Lane) -> frozenset[str]:
        """Read what the key may do."""
        ...

    def fetch_account_id(self, lane: Lane) -> str:
        """Read the venue's own id of the account."""
        ...


def ours_or_none(raw: str) -> str | None:
    """Our id, where a client id of the venue has the form of one."""
    return raw if OURS.match(raw) else None


def parse_side(row: Row, name: str = "side") -> Side:
    """Read a side.

    Raises
    ------
    UnreadableError
        When it is neither.
    """
    text = row.text(name).lower()
    if text not in {"buy", "sell"}:
        raise UnreadableError(f"BAD_FIELD {name}")
    return Side(text)


def demand_symbol(symbol: str | None, found: Iterable[str]) -> None:
    """Refuse a list that holds rows of another symbol than was asked for.

    Raises
    ------
    UnreadableError
        When it does.
    """
    if symbol is not None and (others := set(found) - {symbol}):
        raise UnreadableError(f"OTHER_SYMBOL {min(others)}")


def spell(value: Decimal) -> str:
    """Spell a quantity or price without an exponent."""
    return format(value, "f")


def windows(since_ms: int, now_ms: int, span_ms: int) -> list[tuple[int, int]]:
    """Cut the time from an instant until now into windows that a venue allows, oldest first; the last one reaches past now.

    Raises
    ------
    UnreadableError
        When there were more than a read may ask for.
    """
    n = max(now_ms - since_ms, 0) // span_ms + 1
    if n > MAX_PAGES:
        raise UnreadableError(f"TOO_LONG {n} windows since {since_ms}")
    return [(since_ms + i * span_ms, since_ms + (i + 1) * span_ms - 1) for i in range(n)]


def pages(ask: Callable[[str | None], tuple[list[Row], str | None]]) -> list[Row]:
    """Read page after page, each with the cursor of the one before.

    Raises
    ------
    UnreadableError
        When it does not end.
    """
    found: list[Row] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        rows, cursor = ask(cursor)
        found += rows
        if cursor is None:
            return found
    raise UnreadableError(f"TOO_LONG more than {MAX_PAGES} pages")
