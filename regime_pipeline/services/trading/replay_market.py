"""The market side of many ticks at once, for a replay: what a live tick would have read at each bar, from a few large reads."""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from regime_pipeline.execution.keys import spell_time
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import ChannelRow, EngineRecord, Transition, Work
from regime_pipeline.regime.drivers import DRIVER_NAMES
from regime_pipeline.regime.levers import Channel, compute_age_bars
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.services.tag_buckets import load_memberships
from regime_pipeline.services.trading.tick_market import Tariff, buckets_at

REGIME_ORDER: Final = (Timeframe.M1, Timeframe.H1, Timeframe.D1)


@dataclass(slots=True)
class ReplayMarket:
    """`TickMarket` of the bars that close in a stretch; what it cannot know beforehand it reads in the transaction of the tick, `work`."""

    work: Work
    book_id: str
    timeframe: Timeframe
    venue: str
    _records: Mapping[int, Mapping[str, EngineRecord]] = field(default_factory=dict)
    _channels: dict[tuple[str, Timeframe], list[ChannelRow]] = field(default_factory=dict)
    _closes: dict[tuple[str, Timeframe], list[int]] = field(default_factory=dict)
    _memberships: Mapping[str, Mapping[str, Sequence[tuple[int, int | None]]]] = field(default_factory=dict)
    _rules: Mapping[str, InstrumentRules] = field(default_factory=dict)
    _tariffs: Mapping[str, Tariff] = field(default_factory=dict)
    _caught_up_s: int | None = None

    def load(self, universe: Universe, start_s: int, end_s: int) -> None:
        """Read everything for the bars that close in [start, end)."""
        length_s = self.timeframe.seconds
        self._records = self.work.portfolio.load_record_range(self.timeframe, start_s - length_s, end_s - length_s)
        self._channels, self._closes = {}, {}
        for row in self.work.portfolio.load_channel_range(start_s, end_s):
            self._channels.setdefault((row.driver, row.timeframe), []).append(row)
        self._closes = {key: [row.close_s for row in rows] for key, rows in self._channels.items()}
        self._memberships = load_memberships(self.work, universe)
        self._rules = self.work.safety.load_rules(self.venue)
        self._tariffs = self.work.recon.load_tariffs(self.venue)

    def records(self, ts_s: int) -> Mapping[str, EngineRecord]:
        """Engine records of exactly one bar by series."""
        return self._records.get(ts_s, {})

    def last_records(self, before_s: int, series: Collection[str]) -> Mapping[str, EngineRecord]:
        """Newest record of each series before a bar."""
        return self.work.portfolio.load_last_records(self.timeframe, before_s, series) if series else {}

    def transitions(self, before_s: int) -> Mapping[int, Sequence[Transition]]:
        """Changes of state by position that its episodes have not taken in: none once the bar before has been ticked."""
        missed_none = self._caught_up_s == before_s
        self._caught_up_s = before_s + self.timeframe.seconds
        return {} if missed_none else self.work.portfolio.load_transitions(self.book_id, self.timeframe, before_s)

    def channels(self, at_s: int) -> tuple[Channel, ...]:
        """Regime channels as of an instant."""
        return tuple(
            Channel(
                driver=row.driver,
                timeframe=row.timeframe,
                age_bars=compute_age_bars(row.ts_s, row.timeframe, at_s),
                delta_a_raw=row.delta_a_raw,
                delta_e_raw=row.delta_e_raw,
                ts_s=row.ts_s,
                state=row.state,
                prev_state=row.prev_state,
                flags=row.flags,
                immature=row.immature,
                validity=row.validity,
            )
            for row in self._newest(at_s)
        )

    def watermarks(self, at_s: int) -> Mapping[str, str]:
        """Bar and revision of each channel as of an instant."""
        rows = [row for row in self._newest(at_s) if row.revision is not None]
        return {f"{row.driver}:{row.timeframe}": f"{spell_time(row.ts_s)}#r{row.revision}" for row in rows}

    def _newest(self, at_s: int) -> list[ChannelRow]:
        found = []
        for driver in DRIVER_NAMES:
            for timeframe in REGIME_ORDER:
                n = bisect_right(self._closes.get((driver, timeframe), ()), at_s)
                if n:
                    found.append(self._channels[driver, timeframe][n - 1])
        return found

    def buckets(self, at_s: int) -> Mapping[str, str]:
        """Bucket of each series as of an instant, where it is known."""
        return buckets_at(self._memberships, at_s)

    def marks(self, contracts: Collection[str], at_s: int) -> Mapping[str, float]:
        """Newest close of each contract as of an instant."""
        return self.work.portfolio.load_marks(contracts, at_s) if contracts else {}

    def rules(self) -> Mapping[str, InstrumentRules]:
        """What the venue demands, by symbol."""
        return self._rules

    def tariffs(self) -> Mapping[str, Tariff]:
        """Fees of the venue, by symbol."""
        return self._tariffs
