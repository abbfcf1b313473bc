"""Processes to be killed, on a virtual clock that all of them share, and what must be true of their database afterwards."""

import asyncio
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg

from regime_pipeline.adapters.postgres.connect import database_urls, open_connection
from regime_pipeline.adapters.postgres.embedded import ensure_server, server_status
from regime_pipeline.adapters.postgres.migrate import apply_roles, migrate
from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.adapters.venues.generated import GeneratedMarket
from regime_pipeline.adapters.venues.live import LiveMarket
from regime_pipeline.adapters.venues.stream import build_streams
from regime_pipeline.clock import monotonic_s
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.buckets import CapObservation
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe, load_universe
from regime_pipeline.ports import TimeRange
from regime_pipeline.services.bootstrap import bootstrap
from regime_pipeline.services.collect_bars import Collector
from regime_pipeline.services.run_step import run_timeframe
from regime_pipeline.services.window import Window
from regime_pipeline.settings import Settings
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.server import Served, SimulatedVenue, serve
from regime_pipeline.simulation.truth import Truth
from tests.fixtures_postgres import open_home
from tests.markets import DERIVED, UNIVERSE

FORKS = multiprocessing.get_context("forkserver")
Process = multiprocessing.process.BaseProcess
FORKS.set_forkserver_preload(["pytest", "ccxt.pro", "tests.killed"])

# Asked for at moments that depend on when runs were killed, so that two histories never agree.
DOMINANCES = ("BTC.d", "USDT.d")
_OF_RUNS = {"created_at", "computed_at", "detected_at", "resolved_at", "revision", "id"}


@dataclass(frozen=True)
class Place:
    """Where a process finds database, venue and time; goes to a forked process as it is."""

    home: Path
    universe: Path
    venue_url: str
    shown_s: float
    read_at_s: float
    speed: float

    @property
    def settings(self) -> Settings:
        return Settings.model_validate(
            {
                "home": self.home,
                "universe": self.universe,
                "source": "live",
                "venue_url": self.venue_url,
                "coingecko_plan": "pro",
                "coingecko_key": "simulated",
            }
        )

    def clock(self) -> VirtualClock:
        """The venue's clock: all processes of a machine have one monotonic clock."""
        return VirtualClock(self.shown_s + (monotonic_s() - self.read_at_s) * self.speed, self.speed)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / max(self.speed, 1.0))


def write_small_universe(path: Path, n_tokens_per_bucket: int = 1) -> Path:
    """Write the universe file of the product with a few tokens of each bucket."""
    head, *tokens = UNIVERSE.read_text(encoding="utf-8").split("[[tokens]]")
    kept: dict[str, list[str]] = {}
    for token in tokens:
        kept.setdefault(token.partition('bucket = "')[2].partition('"')[0], []).append(token)
    few = [token for of_bucket in kept.values() for token in of_bucket[:n_tokens_per_bucket]]
    path.write_text("[[tokens]]".join([head, *few]), encoding="utf-8")
    return path


def build_market(place: Place, url: str, clock: VirtualClock) -> LiveMarket:
    """The clients that a run uses, on the venue's clock."""
    settings = place.settings
    return LiveMarket(
        load_universe(settings.universe),
        PostgresVenueLedger(url),
        venue_url=settings.venue_url,
        timeout_s=settings.fetch_timeout_s,
        coingecko_plan=settings.coingecko_plan,
        coingecko_key="simulated",
        coingecko_monthly_calls=settings.coingecko_monthly_calls,
        clock=clock.now,
        sleep=place.sleep,
    )


def run_live(place: Place, timeframe: Timeframe) -> None:
    """What a live run of a job does: it finds the database, started again if need be, and takes all closed bars."""
    url = database_urls(place.settings).regime
    clock = place.clock()
    now_s = int(clock.now_s())
    universe, market = load_universe(place.universe), build_market(place, url, clock)
    run_timeframe(PostgresStores(url), market, universe, timeframe, live_window(timeframe, now_s), now_s)


def live_window(timeframe: Timeframe, now_s: int) -> Window:
    """The window of a run that is started for the bar that closed last."""
    end_s = timeframe.last_closed(now_s) + timeframe.seconds
    return Window(end_s - timeframe.seconds, end_s, live=True)


def collect(place: Place) -> None:
    """What `regime collect` does, on the venue's clock."""
    universe = load_universe(place.universe)
    url = database_urls(place.settings).regime
    clock = place.clock()
    collector = Collector(
        PostgresStores(url),
        universe,
        build_streams(universe, place.settings),
        PostgresVenueLedger(url),
        instance="test",
        clock=clock.now,
        sleep=lambda seconds: asyncio.sleep(seconds / place.speed),
    )
    asyncio.run(collector.run(asyncio.Event()))


@dataclass(frozen=True)
class TrueMarket:
    """A `BarSource` that gives the truth and nothing else, in the names of the venues."""

    truth: Truth
    name: str = "truth"

    def venues(self) -> Collection[str]:
        return {listing.venue for listing in self.truth.all_listings()}

    def time_range(self, venue: str, symbol: str, timeframe: Timeframe) -> TimeRange | None:
        return self.truth.source.time_range(venue, symbol, timeframe)

    def fetch_bars(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        return self.truth.bars(venue, symbol, timeframe, start_s, end_s)

    def dominance_range(self, driver: str, timeframe: Timeframe) -> TimeRange | None:
        return None

    def fetch_dominance(self, driver: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        return RawBars.empty()

    def fetch_market_caps(self, start_s: int, end_s: int) -> Mapping[str, Sequence[CapObservation]]:
        return {}


def kill_postmaster(home: Path) -> None:
    """Kill the server's first process; the others notice and end."""
    ensure_server(home)
    data = server_status(home).data
    assert data is not None
    os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)


def kill_backend(home: Path, rng: random.Random) -> None:
    """Kill a process that serves a connection to our database: the server then ends all the others, and recovers its log."""
    conn = psycopg.connect(ensure_server(home).url("regime"), autocommit=True)
    try:
        rows = conn.execute("select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()").fetchall()
        pids = [pid for (pid,) in rows] or [conn.info.backend_pid]
        with suppress(ProcessLookupError):
            os.kill(rng.choice(pids), signal.SIGKILL)
    finally:
        conn.close()


def copy_database(home: Path, source: str, target: str) -> str:
    """Copy a database that nobody uses; returns the copy's address."""
    address = ensure_server(home)
    with psycopg.connect(address.url("postgres"), autocommit=True) as admin:
        admin.execute(f"create database {target} template {source}")
    return address.url(target)


def differences(one: str, other: str, since_s: int) -> list[str]:
    """Rows of bars, states, events, levels, deltas and memberships that only one of two databases has; dominances are left out."""
    found = []
    for table in DERIVED:
        rows = [_rows(url, table, since_s) for url in (one, other)]
        found += [f"{table} only {name}: {row}" for name, mine, its in (("here", *rows), ("there", *rows[::-1])) for row in mine - its]
    return sorted(found)


def _rows(url: str, table: str, since_s: int) -> set[str]:
    with open_connection(url) as conn:
        names = conn.execute("select column_name from information_schema.columns where table_name = %s order by ordinal_position", (table,))
        columns = [name for (name,) in names.fetchall() if name not in _OF_RUNS]
        time_column = next((name for name in ("timestamp", "ts", "built_ts") if name in columns), None)
        series = next((name for name in ("series", "driver", "token_contract") if name in columns), None)
        where = [f"{series} not like '%%.d'"] if series else []
        where += [f"{time_column} >= to_timestamp(%s)"] if time_column else []
        query = f"select row({', '.join(columns)})::text from {table} where {' and '.join(where) or 'true'}"
        return {row for (row,) in conn.execute(query, (since_s,) if time_column else ()).fetchall()}  # type: ignore[call-overload]


def wrong_bars(url: str, universe: Universe, truth: Truth, span_s: tuple[int, int]) -> list[str]:
    """Minutes in [start, end) that are missing, too many, or not what their venue says."""
    start_s, end_s = span_s
    found = []
    for instrument in universe.instruments():
        symbols = {source.venue: source.symbol for source in instrument.sources}
        table = "majors_price_data_ohlc" if instrument in universe.majors else "lowcap_price_data_ohlc"
        with open_connection(url) as conn:
            rows = conn.execute(
                "select extract(epoch from timestamp)::bigint, source, open_usd, high_usd, low_usd, close_usd, volume"
                f" from {table} where token_contract = %s and timeframe = '1m' and timestamp >= to_timestamp(%s) order by 1",
                (instrument.contract, start_s),
            ).fetchall()
        times = [row[0] for row in rows]
        if times != list(range(start_s, end_s, 60)):
            odd = set(times) ^ set(range(start_s, end_s, 60))
            found.append(f"{instrument.series}: {len(odd)} minutes too many or too few, first {min(odd)}")
        for ts_s, venue, *values in rows:
            bar = truth.bars(venue, symbols[venue], Timeframe.M1, ts_s, ts_s + 60)
            expected = [bar.open, bar.high, bar.low, bar.close, bar.volume]
            if len(bar) != 1 or not np.allclose(values, np.concatenate(expected), rtol=1e-12, atol=0.0):
                found.append(f"{instrument.series} {ts_s} of {venue}: {values}, not {expected}")
    return found


def marks_left(url: str, now_s: int) -> list[tuple[str, str, str]]:
    """Marks of what could have been derived by now; a rollup of an interval that is still open has to wait."""
    with open_connection(url) as conn:
        rows = conn.execute("select stage, timeframe, series, extract(epoch from from_ts)::bigint from derivation_marks order by 1, 2, 3")
        return [
            (stage, timeframe, series)
            for stage, timeframe, series, from_s in rows.fetchall()
            if stage != "rollup" or from_s <= Timeframe(timeframe).last_closed(now_s)
        ]


@dataclass(frozen=True)
class Stage:
    """A home with its database server, a simulated venue, our database after a bootstrap, and a copy of it that nobody kills."""

    home: Path
    universe_file: Path
    served: Served
    url: str
    clean_url: str
    start_s: int

    @property
    def universe(self) -> Universe:
        return load_universe(self.universe_file)

    def place(self) -> Place:
        clock = self.served.venue.clock
        return Place(self.home, self.universe_file, self.served.url, clock.now_s(), monotonic_s(), clock.speed)

    def finish(self) -> None:
        """Let the clock stand, and the next runs do their work: on the one database as always, on its copy from the truth."""
        clock = self.served.venue.clock
        clock.set_speed(0)
        now_s, place = int(clock.now_s()), self.place()
        ensure_server(self.home)
        ours, copy = PostgresStores(self.url), PostgresStores(self.clean_url)
        market = build_market(place, self.url, clock)
        # hours ask again for minutes, those that the second best venue gave among them
        for timeframe in (Timeframe.M1, Timeframe.H1, Timeframe.D1, Timeframe.M1):
            for stores, source in ((ours, market), (copy, TrueMarket(self.served.truth))):
                run_timeframe(stores, source, self.universe, timeframe, live_window(timeframe, now_s), now_s)

    def flaws(self) -> list[str]:
        """What is lost, doubled, wrong or left undone."""
        now_s = int(self.served.venue.clock.now_s())
        # two hours of history as well: what was there before must not have changed
        span_s = self.start_s - self.start_s % 3600 - 7200, Timeframe.M1.last_closed(now_s) + 60
        return [
            *wrong_bars(self.url, self.universe, self.served.truth, span_s),
            *differences(self.url, self.clean_url, span_s[0]),
            *(f"left to derive: {mark}" for mark in marks_left(self.url, now_s)),
        ]


@contextmanager
def staged(start_s: int) -> Iterator[Stage]:
    """Set everything up on a clock that stands still."""
    clock = VirtualClock(start_s, speed=0)
    with open_home() as home:
        universe_file = write_small_universe(home / "universe.toml")
        universe = load_universe(universe_file)
        with serve(SimulatedVenue(GeneratedMarket(universe, seed=7), universe, clock)) as served:
            place = Place(home, universe_file, served.url, start_s, monotonic_s(), 0.0)
            url = database_urls(place.settings).regime
            with open_connection(url) as conn:
                migrate(conn)
                apply_roles(conn)
            stores, market = PostgresStores(url), build_market(place, url, clock)
            brief = bootstrap(stores, market, universe, PostgresVenueLedger(url), dominance_every_s=300, clock=clock.now)
            assert brief.missing_required == ()
            stores.close()
            yield Stage(home, universe_file, served, url, copy_database(home, "regime", "clean"), start_s)
