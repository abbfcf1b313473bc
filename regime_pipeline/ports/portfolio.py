"""What the portfolio tick reads in one snapshot, and what of a position it writes back."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.actions import Action
from regime_pipeline.portfolio.episodes import Block, Episodes
from regime_pipeline.portfolio.facts import BarFacts
from regime_pipeline.portfolio.plan import Plan
from regime_pipeline.portfolio.position import Status


@dataclass(frozen=True, slots=True)
class PositionRow:
    """A position to plan for, as stored; quantities are the ledger's affair.

    Parameters
    ----------
    stepped_s : int or None
        Open of the last bar that `episodes` has taken in.
    last_action_s : int or None
        Bar of its newest recorded action, of any trade.
    """

    position_id: int
    contract: str
    chain: str
    status: Status
    trade_id: UUID | None
    episodes: Episodes = field(default_factory=Episodes)
    stepped_s: int | None = None
    block: Block = field(default_factory=Block)
    last_action_s: int | None = None

    @property
    def series(self) -> str:
        """Name of its series in history tables."""
        return f"token:{self.contract}:{self.chain}"


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """What the planner reads of a series on one bar, and how often that row was rewritten."""

    facts: BarFacts
    revision: int


@dataclass(frozen=True, slots=True)
class ChannelRow:
    """A row of a regime channel; deltas and revision are None where the state has none yet, `validity` is that of its bar."""

    driver: str
    timeframe: Timeframe
    ts_s: int
    state: str
    prev_state: str | None
    flags: tuple[str, ...]
    immature: bool
    delta_a_raw: float | None
    delta_e_raw: float | None
    revision: int | None
    validity: float

    @property
    def close_s(self) -> int:
        """Close of its bar."""
        return self.ts_s + self.timeframe.seconds


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state of a series: the bar (its open) and the states around it."""

    ts_s: int
    old: str
    new: str


class PortfolioStore(Protocol):
    """Positions, their records and what they own, a set at a time."""

    def promote(self, book_id: str, timeframe: Timeframe) -> int:
        """Make dormant positions with enough bars tradeable (watchlist); returns how many. Drivers never are."""
        ...

    def find_newest_bar(self, book_id: str, timeframe: Timeframe) -> int | None:
        """Open of the newest bar on which a position of the book has an engine record; None without one."""
        ...

    def load_positions(self, book_id: str, timeframe: Timeframe) -> list[PositionRow]:
        """Load all that are planned for (watchlist and active), by contract and chain, each contract once; never a driver."""
        ...

    def load_transitions(self, book_id: str, timeframe: Timeframe, before_s: int) -> dict[int, list[Transition]]:
        """Load by position the changes of state that its episodes have not taken in, on bars before one, oldest first.

        Of a position without episodes: from the newest bar on that began anew (S0 or S3), or all.
        """
        ...

    def load_trade_actions(self, book_id: str, timeframe: Timeframe) -> dict[int, list[Action]]:
        """Load the actions of open trades by position, oldest first."""
        ...

    def load_records(self, timeframe: Timeframe, ts_s: int) -> dict[str, EngineRecord]:
        """Load the engine records of exactly one bar, by token series."""
        ...

    def load_record_range(self, timeframe: Timeframe, start_s: int, end_s: int) -> dict[int, dict[str, EngineRecord]]:
        """Load the engine records of the bars that open in [start, end), by bar and token series."""
        ...

    def load_channel_range(self, start_s: int, end_s: int) -> list[ChannelRow]:
        """Load what the regime's channels said, of bars that closed in [start, end), by time; and of each channel the newest before."""
        ...

    def load_last_records(self, timeframe: Timeframe, before_s: int, series: Collection[str]) -> dict[str, EngineRecord]:
        """Load the newest record of each series on a bar before the given one."""
        ...

    def load_delta_revisions(self, at_s: int) -> dict[str, str]:
        """Load the watermark of each regime channel as of an instant: `BTC:1h` to `2026-11-20T18:00:00Z#r0`, its bar and revision."""
        ...

    def load_closed_deltas(self, at_s: int, timeframes: Collection[Timeframe]) -> set[tuple[str, Timeframe]]:
        """Tell which (driver, regime timeframe) have deltas of the bar that closes exactly at an instant."""
        ...

    def load_marks(self, contracts: Collection[str], at_s: int) -> dict[str, float]:
        """Load the newest close of each contract known at an instant, on whatever execution timeframe is newest."""
        ...

    def save_episodes(self, stepped: Mapping[int, tuple[int, Episodes]]) -> None:
        """Keep, by position, the bar taken in (its open) and the episodes after it."""
        ...

    def save_blocks(self, book_id: str, timeframe: Timeframe, blocks: Mapping[tuple[str, str], Block]) -> None:
        """Keep blocks by (contract, chain)."""
        ...

    def write_actions(self, actions: Sequence["NewAction"]) -> dict[int, int]:
        """Write actions; returns the action's number by position. One whose slot (position, bar) is taken is left as it is."""
        ...


@dataclass(frozen=True, slots=True)
class NewAction:
    """A plan that acts or skips, to be recorded; `idempotency_key` is the client order id of its first order."""

    idempotency_key: str
    decision_id: UUID | None
    plan: Plan
