"""Transactions: the work to do, the stores that take part, and how one begins."""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Protocol

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports.bars import BarStore
from regime_pipeline.ports.book import BookStore
from regime_pipeline.ports.feeds import FeedStore
from regime_pipeline.ports.identities import IdentityStore
from regime_pipeline.ports.journal import JournalStore
from regime_pipeline.ports.ledger import LedgerStore
from regime_pipeline.ports.opinions import OpinionStore, SnapshotStore
from regime_pipeline.ports.orders import OrderStore
from regime_pipeline.ports.portfolio import PortfolioStore
from regime_pipeline.ports.quality import QualityStore
from regime_pipeline.ports.recon import ReconStore
from regime_pipeline.ports.regime import RegimeStore
from regime_pipeline.ports.safety import SafetyStore
from regime_pipeline.ports.trend import TrendStore


class Stage(StrEnum):
    """What is derived from what: bars -> rollup, bars -> driver -> trend -> delta."""

    ROLLUP = "rollup"
    DRIVER = "driver"
    TREND = "trend"
    DELTA = "delta"


class MarkStore(Protocol):
    """Work to do, kept with the data it follows from (table derivation_marks)."""

    def add(self, stage: Stage, timeframe: Timeframe, first_s: Mapping[str, int]) -> None:
        """Mark series for derivation from a bar on; waits for nobody, least of all for who derives them now."""
        ...

    def load(self, stage: Stage, timeframe: Timeframe, recent_s: int | None = None) -> dict[str, int]:
        """Load the oldest mark of each series of a stage without taking or locking any; `recent_s` as in `take`."""
        ...

    def take(
        self, stage: Stage, timeframe: Timeframe, series: Collection[str] | None = None, recent_s: int | None = None
    ) -> dict[str, int]:
        """Take the marks of a stage: their series are claimed, and they are gone when the transaction commits.

        Parameters
        ----------
        recent_s : int, optional
            Epoch seconds. With it nobody is waited for: series that another transaction derives now are left alone, and so are marks
            from bars before it, until the past has not been changed for so long that nobody seems to be at it.
        """
        ...


class Upkeep(Protocol):
    """Deletes what is over and old; every call is a transaction of its own."""

    def delete_old(self, table: str, before_s: int, limit: int) -> int:
        """Delete at most `limit` rows of a table that were over before an instant; returns how many."""
        ...

    def delete_tapes(self, before_s: int, limit: int) -> int:
        """Delete the tapes of at most `limit` uptrends that began before an instant and that no replay can read; returns how many."""
        ...


class Work(Protocol):
    """One transaction. What is written is there when the block is left without an error, or not at all."""

    @property
    def marks(self) -> MarkStore:
        """Work to do."""
        ...

    @property
    def bars(self) -> BarStore:
        """Price tables."""
        ...

    @property
    def trend(self) -> TrendStore:
        """Engine tables."""
        ...

    @property
    def regime(self) -> RegimeStore:
        """Mapper tables."""
        ...

    @property
    def quality(self) -> QualityStore:
        """What is known about the bars besides their values."""
        ...

    @property
    def feeds(self) -> FeedStore:
        """Heartbeats, questions and samples of live feeds."""
        ...

    @property
    def opinions(self) -> OpinionStore:
        """Second opinions by detector."""
        ...

    @property
    def orders(self) -> OrderStore:
        """Intents, orders, leases and outbox."""
        ...

    @property
    def snapshots(self) -> SnapshotStore:
        """Second opinions as consumers read them."""
        ...

    @property
    def portfolio(self) -> PortfolioStore:
        """Positions as the tick plans them."""
        ...

    @property
    def journal(self) -> JournalStore:
        """Decisions and runs of the tick."""
        ...

    @property
    def ledger(self) -> LedgerStore:
        """Fills, the double-entry ledger, and what follows from both."""
        ...

    @property
    def recon(self) -> ReconStore:
        """Passes of reconciliation, incidents and heartbeats of the order path."""
        ...

    @property
    def identities(self) -> IdentityStore:
        """Keys, hosts and accounts by the mode they belong to."""
        ...

    @property
    def safety(self) -> SafetyStore:
        """Kill levels, arm and protections, and what they and the gate are judged on."""
        ...

    def savepoint(self) -> AbstractContextManager[None]:
        """Mark a point in the transaction: what is written in the block is undone when an error leaves it, the rest stays."""
        ...

    def hurry(self) -> None:
        """Let the commit return before the disk has it: for what is computed again when it is lost, never for what an order follows."""
        ...

    def freeze(self) -> None:
        """See one instant for the rest of the transaction, and write nothing; only before anything was read."""
        ...

    @property
    def book(self) -> BookStore:
        """The book as people look at it."""
        ...


class Stores(Protocol):
    """Opens transactions on one database."""

    def open(self) -> AbstractContextManager[Work]:
        """Begin a transaction: commits when left without an error, rolls back otherwise."""
        ...
