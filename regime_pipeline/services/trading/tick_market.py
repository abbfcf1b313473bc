"""What the market side of a tick is: engine records, regime channels, buckets, venue rules; as stored, in the caller's transaction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import EngineRecord, Transition, Work
from regime_pipeline.regime.levers import Channel
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.services.read_levers import load_channels
from regime_pipeline.services.tag_buckets import load_memberships

Tariff = tuple[Decimal, Decimal]
"""Maker and taker fee in bps."""


class TickMarket(Protocol):
    """Everything of a tick that no order changes; a replay reads it for many bars at once."""

    def records(self, ts_s: int) -> Mapping[str, EngineRecord]:
        """Engine records of exactly one bar by series."""
        ...

    def last_records(self, before_s: int, series: Collection[str]) -> Mapping[str, EngineRecord]:
        """Newest record of each series before a bar."""
        ...

    def transitions(self, before_s: int) -> Mapping[int, Sequence[Transition]]:
        """Changes of state by position that its episodes have not taken in."""
        ...

    def channels(self, at_s: int) -> tuple[Channel, ...]:
        """Regime channels as of an instant."""
        ...

    def watermarks(self, at_s: int) -> Mapping[str, str]:
        """Bar and revision of each channel as of an instant."""
        ...

    def buckets(self, at_s: int) -> Mapping[str, str]:
        """Bucket of each series as of an instant, where it is known."""
        ...

    def marks(self, contracts: Collection[str], at_s: int) -> Mapping[str, float]:
        """Newest close of each contract as of an instant."""
        ...

    def rules(self) -> Mapping[str, InstrumentRules]:
        """What the venue demands, by symbol."""
        ...

    def tariffs(self) -> Mapping[str, Tariff]:
        """Fees of the venue, by symbol."""
        ...


@dataclass(frozen=True, slots=True)
class StoredMarket:
    """`TickMarket` of one bar, read when asked for."""

    work: Work
    universe: Universe
    book_id: str
    timeframe: Timeframe
    venue: str

    def records(self, ts_s: int) -> Mapping[str, EngineRecord]:
        """Engine records of exactly one bar by series."""
        return self.work.portfolio.load_records(self.timeframe, ts_s)

    def last_records(self, before_s: int, series: Collection[str]) -> Mapping[str, EngineRecord]:
        """Newest record of each series before a bar."""
        return self.work.portfolio.load_last_records(self.timeframe, before_s, series) if series else {}

    def transitions(self, before_s: int) -> Mapping[int, Sequence[Transition]]:
        """Changes of state by position that its episodes have not taken in."""
        return self.work.portfolio.load_transitions(self.book_id, self.timeframe, before_s)

    def channels(self, at_s: int) -> tuple[Channel, ...]:
        """Regime channels as of an instant."""
        return load_channels(self.work, at_s)

    def watermarks(self, at_s: int) -> Mapping[str, str]:
        """Bar and revision of each channel as of an instant."""
        return self.work.portfolio.load_delta_revisions(at_s)

    def buckets(self, at_s: int) -> Mapping[str, str]:
        """Bucket of each series as of an instant, where it is known."""
        return buckets_at(load_memberships(self.work, self.universe), at_s)

    def marks(self, contracts: Collection[str], at_s: int) -> Mapping[str, float]:
        """Newest close of each contract as of an instant."""
        return self.work.portfolio.load_marks(contracts, at_s) if contracts else {}

    def rules(self) -> Mapping[str, InstrumentRules]:
        """What the venue demands, by symbol."""
        return self.work.safety.load_rules(self.venue)

    def tariffs(self) -> Mapping[str, Tariff]:
        """Fees of the venue, by symbol."""
        return self.work.recon.load_tariffs(self.venue)


def buckets_at(memberships: Mapping[str, Mapping[str, Sequence[tuple[int, int | None]]]], at_s: int) -> dict[str, str]:
    """Pick the bucket of each series that is valid at an instant."""
    return {
        series: bucket
        for bucket, members in memberships.items()
        for series, spans in members.items()
        if any(from_s <= at_s and (to_s is None or at_s < to_s) for from_s, to_s in spans)
    }
