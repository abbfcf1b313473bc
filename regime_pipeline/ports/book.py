"""The book as people look at it: positions, orders, equity and why nothing was traded. Nothing here is read back by the order path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from regime_pipeline.market.timeframe import Timeframe


@dataclass(frozen=True, slots=True)
class PositionView:
    """A position with what was decided about it last; money in quote, instants in epoch seconds.

    Parameters
    ----------
    quantity : Decimal
        Held by the ledger, base.
    allocated, extracted : Decimal
        Spent in the open trade with fees, and taken out of it net of fees.
    a_value, e_value, outcome, rule, codes, decided_s : optional
        Of its newest decision line; None before the first.
    """

    position_id: int
    contract: str
    chain: str
    timeframe: Timeframe
    strategy: str
    status: str
    state: str | None
    quantity: Decimal
    avg_entry_price: Decimal | None
    allocated: Decimal
    extracted: Decimal
    opened_s: int | None
    active_s: int | None
    a_value: float | None = None
    e_value: float | None = None
    outcome: str | None = None
    rule: str | None = None
    codes: tuple[str, ...] = ()
    decided_s: int | None = None


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order with the sum of its fills and what its last step was for; instants in epoch seconds."""

    client_order_id: str
    created_s: int
    strategy: str
    symbol: str
    leg: str
    side: str
    type: str
    tif: str
    qty: Decimal
    limit_price: Decimal | None
    filled: Decimal
    avg_price: Decimal | None
    state: str
    code: str | None
    flags: tuple[str, ...]
    venue_order_id: str | None
    decision_id: UUID | None


@dataclass(frozen=True, slots=True)
class EquityRow:
    """Marked equity at an instant, epoch seconds; quantity and mark of each symbol held then."""

    at_s: int
    equity: Decimal
    cash: Decimal
    holdings: Mapping[str, tuple[Decimal, Decimal]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TradeRow:
    """A closed trade; money in quote, instants in epoch seconds."""

    strategy: str
    symbol: str
    opened_s: int
    closed_s: int
    allocated: Decimal
    extracted: Decimal
    pnl: Decimal
    return_frac: float
    hold_s: int


@dataclass(frozen=True, slots=True)
class ActionRow:
    """An action of the portfolio with its fills, and the symbol it was for; the bar is told by its close."""

    bar_close_s: int
    strategy: str
    contract: str
    kind: str
    signal: str
    status: str
    filled_qty: Decimal
    filled_quote: Decimal
    a_value: float
    e_value: float
    state: str | None


@dataclass(frozen=True, slots=True)
class MoneySums:
    """What an account's ledger and its fills add up to, by asset, two ways that know nothing of each other.

    Parameters
    ----------
    wallet : mapping of str to Decimal
        Balance of WALLET.
    external : mapping of str to Decimal
        What came from outside and by adjustment, less what went.
    traded : mapping of str to Decimal
        By the fills: bought less sold in base, sold less bought in quote, before fees.
    fees : mapping of str to Decimal
        Fees of the fills.
    n_fills : int
        How many fills that was.
    """

    wallet: Mapping[str, Decimal]
    external: Mapping[str, Decimal]
    traded: Mapping[str, Decimal]
    fees: Mapping[str, Decimal]
    n_fills: int


@dataclass(frozen=True, slots=True)
class CodeCount:
    """How many decision lines of a strategy had a code, and of how many lines in all."""

    strategy: str
    code: str
    n_lines: int
    n_of: int


@dataclass(frozen=True, slots=True)
class BookFault:
    """Something in the book that contradicts itself: a table's check, where, what was expected and what is there."""

    scope: str
    expected: Decimal
    actual: Decimal


class BookStore(Protocol):
    """Questions about the book."""

    def load_positions(self, book_id: str, account: str, *, with_flat: bool = False) -> list[PositionView]:
        """Load positions that are held or have an open trade, largest first; with `with_flat` all that are planned for."""
        ...

    def load_orders(self, account: str, limit: int, *, live_only: bool = False) -> list[OrderView]:
        """Load the newest orders, newest first; or only those that have not ended."""
        ...

    def load_equity(self, account: str, since_s: int, max_points: int) -> list[EquityRow]:
        """Load the equity curve from an instant on, thinned to its first, last and evenly chosen points, oldest first."""
        ...

    def load_trades(self, account: str, since_s: int, limit: int) -> list[TradeRow]:
        """Load trades closed since an instant, newest first."""
        ...

    def load_actions(self, book_id: str, since_s: int, limit: int) -> list[ActionRow]:
        """Load actions of bars opened since an instant, newest first; skips are left out."""
        ...

    def sum_money(self, account: str) -> MoneySums:
        """Add up ledger and fills."""
        ...

    def count_orders(self, account: str, since_s: int) -> dict[str, int]:
        """Count orders created since an instant by the state they are in."""
        ...

    def count_codes(self, account: str, since_s: int) -> list[CodeCount]:
        """Count the codes of decision lines decided on bars closed since an instant, most frequent first within each strategy."""
        ...

    def find_oldest_record(self, book_id: str, timeframe: Timeframe) -> int | None:
        """Open of the oldest bar on which a position of the book has an engine record; None without one."""
        ...

    def find_delta_span(self, driver: str, timeframe: Timeframe) -> tuple[int, int] | None:
        """Opens of the first and of the last bar on which a driver has deltas; None without one."""
        ...

    def find_balance_faults(self, account: str) -> Sequence[BookFault]:
        """Find ledger balances that are not the sum of their entries."""
        ...

    def find_position_faults(self, account: str) -> Sequence[BookFault]:
        """Find strategies whose holding by the ledger is not what their fills, fees, flows and adjustments say."""
        ...

    def find_stuck_orders(self, account: str, unknown_before_s: int) -> Sequence[str]:
        """Find orders that have been UNKNOWN since before an instant, oldest first."""
        ...
