"""A small universe on the generated market, bars that tests may tamper with, and a checksum of everything derived."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.adapters.venues.generated import GeneratedMarket
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.buckets import CapObservation
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.market.universe import Universe, load_universe
from regime_pipeline.ports import BarSource, TimeRange
from regime_pipeline.services.run_step import run_timeframe
from regime_pipeline.services.window import Window

UNIVERSE = Path(__file__).parents[1] / "config" / "universe.toml"

# Unordered columns that say when or by whom a row was written, not what is true.
_STAMPS = {"created_at", "computed_at", "detected_at", "resolved_at", "last_asked_at", "revision", "id"}
DERIVED = (
    "majors_price_data_ohlc",
    "lowcap_price_data_ohlc",
    "regime_price_data_ohlc",
    "uptrend_states",
    "uptrend_state_events",
    "sr_levels",
    "regime_deltas",
    "token_cap_bucket",
    "lowcap_positions",
)


def small_universe(n_tokens_per_bucket: int = 1) -> Universe:
    """All drivers and majors, and a few tokens of each bucket."""
    universe = load_universe(UNIVERSE)
    kept = []
    for bucket in ("nano", "small", "mid", "big"):
        kept += [token for token in universe.tokens if token.bucket == bucket][:n_tokens_per_bucket]
    return universe.model_copy(update={"tokens": tuple(kept)})


@dataclass
class TamperedMarket:
    """A source that passes on what another gives, after `tamper` had its way with each delivery of bars."""

    real: BarSource
    tamper: Callable[[str, Timeframe, RawBars], RawBars] = field(default=lambda _symbol, _timeframe, raw: raw)

    @property
    def name(self) -> str:
        return self.real.name

    def venues(self) -> Collection[str]:
        return self.real.venues()

    def time_range(self, venue: str, symbol: str, timeframe: Timeframe) -> TimeRange | None:
        return self.real.time_range(venue, symbol, timeframe)

    def fetch_bars(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        return self.tamper(symbol, timeframe, self.real.fetch_bars(venue, symbol, timeframe, start_s, end_s))

    def dominance_range(self, driver: str, timeframe: Timeframe) -> TimeRange | None:
        return self.real.dominance_range(driver, timeframe)

    def fetch_dominance(self, driver: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        return self.real.fetch_dominance(driver, timeframe, start_s, end_s)

    def fetch_market_caps(self, start_s: int, end_s: int) -> Mapping[str, Sequence[CapObservation]]:
        return self.real.fetch_market_caps(start_s, end_s)


def generated(universe: Universe, seed: int = 7) -> TamperedMarket:
    """The generated market, ready to be tampered with."""
    return TamperedMarket(GeneratedMarket(universe, seed))


def backfill(
    stores: PostgresStores,
    source: BarSource,
    universe: Universe,
    start_s: int,
    now_s: int,
    timeframes: Sequence[Timeframe] = REGIME_TIMEFRAMES,
) -> None:
    """Fill [start, now) in one run per timeframe, twice: buckets known from the daily run touch the shorter composites."""
    for _ in range(2):
        for timeframe in timeframes:
            run_timeframe(stores, source, universe, timeframe, Window(start_s, now_s), now_s)


def run_live(
    stores: PostgresStores,
    source: BarSource,
    universe: Universe,
    start_s: int,
    now_s: int,
    timeframes: Sequence[Timeframe] = REGIME_TIMEFRAMES,
) -> None:
    """Run every job at the moment its bar may be written, one bar at a time, from `start_s` to `now_s`."""
    ticks = sorted(
        (end_s + timeframe.grace_s, timeframe.seconds, timeframe)
        for timeframe in timeframes
        for end_s in range(timeframe.floor(start_s) + timeframe.seconds, now_s - timeframe.grace_s + 1, timeframe.seconds)
    )
    for tick_s, _, timeframe in ticks:
        run_timeframe(stores, source, universe, timeframe, Window(max(start_s, tick_s - 86_400), tick_s, live=True), tick_s)
    for timeframe in timeframes:  # what the last daily run left marked
        run_timeframe(stores, source, universe, timeframe, Window(now_s, now_s, live=True), now_s)


def checksums(conn: psycopg.Connection, tables: Sequence[str] = DERIVED) -> dict[str, tuple[int, str]]:
    """Rows and a checksum of each table's content, whatever the order and time of writing."""
    found = {}
    for table in tables:
        columns = [
            name
            for (name,) in conn.execute(
                "select column_name from information_schema.columns where table_name = %s order by ordinal_position", (table,)
            )
            if name not in _STAMPS
        ]
        row = ", ".join(columns)
        query = (
            f"select count(*), coalesce(md5(string_agg(h, '' order by h)), '') from (select md5(row({row})::text) as h from {table}) as t"
        )
        found[table] = conn.execute(query).fetchone()  # type: ignore[call-overload]
    return found
