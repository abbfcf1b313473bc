"""Fills, the double-entry ledger and what follows from both: actions, positions, equity and closed trades.

Instants are epoch milliseconds by the venue-corrected clock; quantities are in base, money in quote unless an asset is named.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final, Protocol
from uuid import UUID

from regime_pipeline.execution.fills import Fill
from regime_pipeline.execution.ledger import Batch, LedgerAccount
from regime_pipeline.portfolio.actions import Action
from regime_pipeline.portfolio.money import ZERO
from regime_pipeline.portfolio.position import Status
from regime_pipeline.risk.purpose import Side

EXTERNAL: Final = "_external"
"""Strategy of what happened without an order of ours: a fill that nobody ordered here, a person's order, a liquidation."""
ORPHAN: Final = "_orphan"
"""Strategy of what the venue holds and the ledger cannot explain, once a person has booked it."""
ACCOUNT: Final = "_account"
"""Strategy of the account's own money: what it was opened with, deposits and withdrawals."""


@dataclass(frozen=True, slots=True)
class BookedOrder:
    """What booking needs of an order; its row is locked until the transaction ends.

    `action_id` and `position_id` are None for the order of a person or of the kill switch. `strategy` owns what it fills: that of the
    position where there is one, whoever sent the order. `opens` is the key of an entry that is part of no trade yet.
    """

    client_order_id: str
    venue_order_id: str | None
    symbol: str
    side: Side
    strategy: str
    qty: Decimal
    is_terminal: bool
    action_id: int | None = None
    position_id: int | None = None
    decision_mid: Decimal | None = None
    flags: frozenset[str] = frozenset()
    opens: str | None = None


@dataclass(frozen=True, slots=True)
class FillRow:
    """A fill as it is kept.

    Parameters
    ----------
    fill_key : str
        Its identity at the venue, by the rule of its profile.
    client_order_id : str or None
        Our order; None while it is not known which.
    fee_quote : Decimal or None
        Worth of its fee in quote when the fee became known; None while it is not, or while no mark of its asset is.
    """

    fill: Fill
    fill_key: str
    client_order_id: str | None = None
    is_late: bool = False
    is_overfill: bool = False
    fee_quote: Decimal | None = None
    decision_mid: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Posting:
    """A batch of the ledger and whose it is; the same source is never posted twice."""

    account: str
    strategy: str
    batch: Batch
    booked_for_ms: int


@dataclass(frozen=True, slots=True)
class BalanceKey:
    """Names one balance: asset is that of the wallet, or the symbol of a contract."""

    strategy: str
    ledger_account: LedgerAccount
    asset: str


@dataclass(frozen=True, slots=True)
class StoredAction:
    """An action with the numbers of its row and of its position."""

    action_id: int
    position_id: int
    idempotency_key: str
    action: Action


@dataclass(frozen=True, slots=True)
class PositionTotals:
    """What a position's row says of its open trade; everything in it follows from fills.

    Parameters
    ----------
    quantity : Decimal
        Held now by the ledger, >= 0.
    mark_price : Decimal or None
        Last known price; the four results are taken at it.
    opened_ms, active_ms : int or None
        First fill of the open trade, and last fill of any.
    """

    position_id: int
    status: Status
    trade_id: UUID | None
    quantity: Decimal = ZERO
    allocated_usd: Decimal = ZERO
    extracted_usd: Decimal = ZERO
    bought_qty: Decimal = ZERO
    sold_qty: Decimal = ZERO
    avg_entry_price: Decimal | None = None
    avg_exit_price: Decimal | None = None
    current_usd: Decimal | None = None
    realised_usd: Decimal | None = None
    unrealised_usd: Decimal | None = None
    total_usd: Decimal | None = None
    opened_ms: int | None = None
    active_ms: int | None = None


@dataclass(frozen=True, slots=True)
class BookingSummary:
    """What came of reported fills.

    Parameters
    ----------
    booked, repeated, completed, linked, unlinked, late, overfilled, conflicts : int
        Fills booked for the first time, known already, whose fee became known, whose order became known, whose order is unknown, of
        orders that had ended, beyond what was ordered, and reported with other content than is booked.
    filled : mapping of str to Decimal
        Sum of all booked fills of every order that was concerned, by client order id: what the quantity guards are judged on.
    """

    booked: int = 0
    repeated: int = 0
    completed: int = 0
    linked: int = 0
    unlinked: int = 0
    late: int = 0
    overfilled: int = 0
    conflicts: int = 0
    filled: Mapping[str, Decimal] = field(default_factory=dict)


class FlowKind(StrEnum):
    """What moves money besides trades and their fees."""

    EXTERNAL = "EXTERNAL"
    FUNDING = "FUNDING"
    ADJUST = "ADJUST"


@dataclass(frozen=True, slots=True)
class FlowRow:
    """Money that came (positive) or went without a trade."""

    kind: FlowKind
    strategy: str
    asset: str
    amount: Decimal
    at_ms: int
    source: str
    actor: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """A closed trade, once and for all; fractions as in `portfolio.closing.TradeSummary`."""

    trade_id: UUID
    position_id: int
    account: str
    strategy: str
    symbol: str
    opened_ms: int
    closed_ms: int
    allocated_usd: Decimal
    extracted_usd: Decimal
    return_frac: float
    max_drawdown_frac: float
    max_gain_frac: float
    rr: float | None
    hold_s: int


@dataclass(frozen=True, slots=True)
class TradeSpan:
    """First and last fill of a trade, and how many of its orders have not ended."""

    first_ms: int
    last_ms: int
    n_live: int


class LedgerStore(Protocol):
    """Fills, ledger and what follows from them, in the transaction of the work."""

    def lock_orders(
        self, venue: str, account: str, venue_order_ids: Collection[tuple[str, str]], client_order_ids: Collection[str]
    ) -> list[BookedOrder]:
        """Lock orders by (symbol, the venue's id) and by ours; each is listed once."""
        ...

    def load_fills(self, venue: str, account: str, venue_order_ids: Collection[str], keys: Collection[tuple[str, str]]) -> list[FillRow]:
        """Load the fills of orders at the venue, and those with these (symbol, fill key)."""
        ...

    def add_fills(self, rows: Sequence[FillRow], received_ms: int) -> set[tuple[str, str]]:
        """Insert fills; returns (symbol, fill key) of those that were not there."""
        ...

    def complete_fills(self, rows: Sequence[FillRow]) -> None:
        """Write fees and orders that have become known, and what follows from an order for its fills."""
        ...

    def add_conflicts(self, pairs: Sequence[tuple[Fill, FillRow]], at_ms: int) -> int:
        """Keep reports that contradict a booked fill; returns how many are new."""
        ...

    def flag_orders(self, client_order_ids: Collection[str], flag: str) -> None:
        """Flag orders."""
        ...

    def post(self, postings: Sequence[Posting]) -> set[str]:
        """Write batches; returns the sources of those that were not there."""
        ...

    def load_balances(
        self, account: str, strategies: Collection[str] | None = None, assets: Collection[str] | None = None
    ) -> dict[BalanceKey, Decimal]:
        """Load balances that are not zero; of some strategies or assets where they are named."""
        ...

    def load_balances_at(self, account: str, at_ms: int) -> dict[BalanceKey, Decimal]:
        """Load balances as they were after everything booked for times up to an instant."""
        ...

    def load_flows(self, account: str, after_ms: int, until_ms: int) -> list[FlowRow]:
        """Load flows booked for times in (after, until], oldest first."""
        ...

    def load_fills_between(self, venue: str, account: str, after_ms: int, until_ms: int) -> list[FillRow]:
        """Load fills of the venue's times in (after, until], oldest first."""
        ...

    def lock_positions(self, position_ids: Collection[int]) -> dict[int, PositionTotals]:
        """Lock positions, lowest number first."""
        ...

    def sum_actions(self, trades: Mapping[int, UUID | None]) -> list[StoredAction]:
        """Derive what actions have filled from the fills of their orders and write it.

        Each becomes part of the trade given with it, unless it is part of one.
        """
        ...

    def load_trade(self, trade_id: UUID) -> list[Action]:
        """Load the actions of a trade, oldest first."""
        ...

    def save_positions(self, totals: Sequence[PositionTotals]) -> None:
        """Write what positions' rows say of their trades."""
        ...

    def load_trade_span(self, trade_id: UUID) -> TradeSpan | None:
        """Load when a trade was filled; None without fills."""
        ...

    def add_summary(self, row: SummaryRow) -> bool:
        """Write the summary of a closed trade; False when it has one."""
        ...

    def close_position(self, totals: PositionTotals, closed_ms: int) -> None:
        """Write a position whose trade has just been closed; what is held stays as it is, which is for fills alone to change."""
        ...

    def load_closes(self, contracts: Collection[str], at_ms: int) -> dict[str, float]:
        """Load the newest close of tokens and majors whose bar had ended at an instant, of whatever bar length ended last."""
        ...

    def fund_paper(self, account: str, asset: str, amount: Decimal) -> None:
        """Move money of a paper account at the paper broker, as a transfer from outside does at a venue."""
        ...

    def add_equity_point(
        self, account: str, at_ms: int, equity_quote: Decimal, cash_quote: Decimal, holdings: Mapping[str, tuple[Decimal, Decimal]]
    ) -> bool:
        """Write marked equity at an instant with quantity and mark of each symbol held; False when there is one."""
        ...
