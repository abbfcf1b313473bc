"""An outage longer than a live run reaches: what it leaves out is recorded and repaired, and then is as if never lost."""

from dataclasses import dataclass

import psycopg
import pytest

from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.migrate import migrate
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.errors import SourceUnavailableError
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.services import ingest_bars as module
from regime_pipeline.services.ingest_bars import LIVE_REACH_BARS, IngestSummary, ingest_bars
from regime_pipeline.services.repair_gaps import repair_gaps
from regime_pipeline.services.run_step import StepSummary, run_timeframe
from regime_pipeline.services.window import Window
from tests.builders import T0
from tests.markets import DERIVED, TamperedMarket, checksums, generated, small_universe

M1 = Timeframe.M1
UNIVERSE = small_universe().model_copy(update={"tokens": ()})
SERIES = len(UNIVERSE.majors) + 2
"""Asked for: the majors, and the two dominances."""
BEFORE, OUTAGE = 200, 5000
BACK_S = T0 + 60 * (BEFORE + OUTAGE)
LEFT_OUT = OUTAGE - LIVE_REACH_BARS
"""Minutes of the outage that the first run after it does not ask for."""


def run(stores: PostgresStores, now_s: int, *, is_live: bool = True) -> StepSummary:
    return run_timeframe(stores, generated(UNIVERSE), UNIVERSE, M1, Window(T0, now_s, live=is_live), now_s)


def fill(stores: PostgresStores, source: TamperedMarket, now_s: int, *, is_live: bool = True) -> IngestSummary:
    return ingest_bars(stores, source, UNIVERSE, M1, Window(T0, now_s, live=is_live), now_s)


def count_open_gaps(conn: psycopg.Connection) -> int:
    found = conn.execute("select count(*) from bar_gaps where resolved_at is null and source <> 'composite'").fetchone()
    conn.commit()
    return 0 if found is None else int(found[0])


@pytest.fixture
def stores(database: str) -> PostgresStores:
    return PostgresStores(database)


@pytest.mark.slow
def test_after_an_outage_of_three_days_live_runs_and_repairs_leave_what_a_backfill_would(
    stores: PostgresStores, conn: psycopg.Connection, empty_database: str
) -> None:
    run(stores, T0 + 60 * BEFORE + 5, is_live=False)
    first = run(stores, BACK_S + 5)
    assert first.ingest[M1].gaps == SERIES * LEFT_OUT
    assert count_open_gaps(conn) == SERIES * LEFT_OUT
    assert run(stores, BACK_S + 65).ingest[M1].gaps == 0  # recorded once
    done = repair_gaps(stores, generated(UNIVERSE), UNIVERSE, M1, BACK_S + 130)
    assert (done.asked, done.found, done.failures) == (SERIES * LEFT_OUT, SERIES * LEFT_OUT, [])
    run(stores, BACK_S + 185)
    assert count_open_gaps(conn) == 0
    with open_connection(empty_database) as other:
        migrate(other)
        other.commit()
        run(PostgresStores(empty_database), BACK_S + 185, is_live=False)
        at_once = checksums(other, (*DERIVED, "bar_validity"))
    assert at_once["majors_price_data_ohlc"][0] > len(UNIVERSE.majors) * (BEFORE + OUTAGE)
    assert checksums(conn, (*DERIVED, "bar_validity")) == at_once


def test_of_an_outage_beyond_what_is_recorded_the_rest_is_named_for_a_backfill(
    stores: PostgresStores, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_HOLE_BARS", 30)
    monkeypatch.setattr(module, "LIVE_REACH_BARS", 20)
    fill(stores, generated(UNIVERSE), T0 + 605, is_live=False)  # ten minutes, an outage of a hundred
    summary = fill(stores, generated(UNIVERSE), T0 + 6605)
    assert summary.gaps == count_open_gaps(conn) == SERIES * 30
    span = conn.execute(
        "select (extract(epoch from min(timestamp)) - %s)::int / 60, (extract(epoch from max(timestamp)) - %s)::int / 60 from bar_gaps",
        (T0, T0),
    ).fetchone()
    assert span == (60, 89)
    btc = "token:BTC:binance 1m: bars 2025-01-01T00:10:00Z to 2025-01-01T00:59:00Z are missing and too old for repair. Backfill these days."
    assert btc in summary.backfills
    assert len(summary.backfills) == SERIES
    assert btc in caplog.messages
    assert fill(stores, generated(UNIVERSE), T0 + 6665).backfills == []


@dataclass
class Silent(TamperedMarket):
    """A market of which one venue does not answer."""

    venue: str = ""

    def fetch_bars(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        if venue == self.venue:
            raise SourceUnavailableError("no answer after 10 s; try again")
        return super().fetch_bars(venue, symbol, timeframe, start_s, end_s)


def test_a_hole_is_recorded_when_the_newest_bar_passes_it_whichever_venue_gave_that_bar(
    stores: PostgresStores, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIVE_REACH_BARS", 20)
    fill(stores, generated(UNIVERSE), T0 + 605, is_live=False)
    fill(stores, Silent(generated(UNIVERSE).real, venue="binance_um"), T0 + 6605)
    of_btc = "select count(*) from bar_gaps where series = 'token:BTC:binance' and resolved_at is null"
    assert conn.execute(of_btc).fetchone() == (80,)


def test_a_hole_of_a_series_that_nobody_answers_for_waits_for_the_run_that_is_answered(
    stores: PostgresStores, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIVE_REACH_BARS", 20)
    fill(stores, generated(UNIVERSE), T0 + 605, is_live=False)

    def nothing(symbol: str, _timeframe: Timeframe, raw: RawBars) -> RawBars:
        return raw[:0] if symbol in {"BTCUSDT", "BTC"} else raw

    of_btc = "select count(*) from bar_gaps where series = 'token:BTC:binance' and resolved_at is null and timestamp < to_timestamp(%s)"
    fill(stores, TamperedMarket(generated(UNIVERSE).real, nothing), T0 + 6605)
    assert conn.execute(of_btc, (T0 + 5400,)).fetchone() == (0,)
    conn.commit()
    fill(stores, generated(UNIVERSE), T0 + 6665)
    assert conn.execute(of_btc, (T0 + 5400,)).fetchone() == (80,)
