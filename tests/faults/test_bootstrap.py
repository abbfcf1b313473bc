"""A bootstrap over real sockets: history equals the venue's truth, a second one asks for nothing, a venue that is away is told."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.adapters.venues.live import LiveMarket
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.ports import Halt
from regime_pipeline.services.bootstrap import Brief, SeriesHistory, bootstrap
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.server import Served, SimulatedVenue, serve
from tests.markets import generated, small_universe

UNIVERSE = small_universe()
SOURCE = generated(UNIVERSE)
NOW_S = 1_735_689_600 + 10 * 3600 + 50

pytestmark = pytest.mark.slow


@dataclass
class Start:
    """A simulated venue whose clock stands still, and an empty database."""

    served: Served
    database: str
    clock: VirtualClock
    done: list[SeriesHistory] = field(default_factory=list)
    stop_after: int | None = None

    def note(self, done: SeriesHistory) -> None:
        self.done.append(done)
        if len(self.done) == self.stop_after:
            raise KeyboardInterrupt

    def run(self, **changes: str) -> Brief:
        self.done.clear()
        ledger = PostgresVenueLedger(self.database)
        settings = {"venue_url": self.served.url, "coingecko_plan": "pro", "coingecko_key": "test"} | changes
        market = LiveMarket(
            UNIVERSE, ledger, timeout_s=10, coingecko_monthly_calls=1000, clock=self.clock.now, sleep=lambda _: None, **settings
        )
        return bootstrap(
            PostgresStores(self.database), market, UNIVERSE, ledger, dominance_every_s=300, clock=self.clock.now, on_series=self.note
        )

    def requests(self) -> int:
        return sum(self.served.venue.requests.values())


@pytest.fixture
def start(database: str) -> Iterator[Start]:
    clock = VirtualClock(NOW_S, speed=0)
    with serve(SimulatedVenue(SOURCE.real, UNIVERSE, clock)) as served:
        yield Start(served, database, clock)


def test_history_to_maturity_then_states_and_a_brief(start: Start) -> None:
    brief = start.run()
    assert brief.problems == []
    assert brief.missing_required == ()
    assert set(brief.dominance) == {"BTC.d", "USDT.d"}
    mature = {(cell.driver, cell.timeframe) for cell in brief.cells if cell.row is not None and not cell.row.immature}
    assert mature >= {(driver, timeframe) for driver in ("BTC", "ALT", "nano", "small", "mid", "big") for timeframe in REGIME_TIMEFRAMES}
    with open_connection(start.database) as conn:
        stored = conn.execute(
            "select token_contract, timeframe, count(*), max(extract(epoch from timestamp)::bigint) from majors_price_data_ohlc"
            " where source <> 'rollup' or timeframe in ('1h', '1d') group by 1, 2"
        ).fetchall()
        assert conn.execute("select count(*) from derivation_marks where stage in ('driver', 'trend', 'delta')").fetchone() == (0,)
    counts = {(contract, timeframe): (n, last_s) for contract, timeframe, n, last_s in stored}
    for timeframe in REGIME_TIMEFRAMES:
        n_bars, last_s = counts["BTC", timeframe.value]
        assert 1000 < n_bars <= 1100  # the generated market begins 1,096 days ago
        assert last_s == timeframe.last_closed(NOW_S)
    truth = start.served.truth.bars("binance_um", "BTCUSDT", Timeframe.H1, NOW_S - 400 * 3600, NOW_S - 300 * 3600)
    with open_connection(start.database) as conn:
        rows = conn.execute(
            "select close_usd from majors_price_data_ohlc where token_contract = 'BTC' and timeframe = '1h'"
            " and timestamp >= to_timestamp(%s) and timestamp <= to_timestamp(%s) order by timestamp",
            (int(truth.ts_s[0]), int(truth.ts_s[-1])),
        ).fetchall()
    assert [close for (close,) in rows] == truth.close.tolist()


def test_a_second_start_asks_for_no_history(start: Start) -> None:
    first = start.run()
    asked = start.requests()
    again = start.run()
    assert first.bars_written > 10_000
    assert again.bars_written == 0
    # days before a market began, once for each, and what vendors know only of the present
    assert start.requests() - asked <= asked / 3


def test_an_interrupted_one_goes_on_where_it_stopped(start: Start) -> None:
    start.stop_after = 10
    with pytest.raises(KeyboardInterrupt):
        start.run()
    kept = {(done.series, done.timeframe) for done in start.done}
    start.stop_after = None
    brief = start.run()
    assert len(kept) == 10
    # the days before a market began are asked for once more; what is stored is neither written nor found equal again
    assert all((done.written, done.unchanged) == (0, 0) for done in start.done if (done.series, done.timeframe) in kept)
    assert sum(done.written > 0 for done in start.done) > 2 * len(kept)
    assert brief.missing_required == ()


def test_venues_that_refuse_are_told_and_a_start_without_the_required_drivers_is_degraded(start: Start) -> None:
    ledger = PostgresVenueLedger(start.database)
    for venue in UNIVERSE.venues:
        ledger.halt(venue, Halt("HTTP 451: not in your country", NOW_S, None))
    brief = start.run()
    assert set(brief.missing_required) == {f"{driver} {timeframe}" for driver in ("BTC", "ALT") for timeframe in REGIME_TIMEFRAMES}
    assert set(brief.halts) == set(UNIVERSE.venues)
    with open_connection(start.database) as conn:
        positions = conn.execute("select count(*) from lowcap_positions where status = 'regime_driver'").fetchone()
    assert positions == (24,)
