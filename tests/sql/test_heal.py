"""Missing, changed and unreadable: what heals by itself, what is the vendors' own, and what everyone can see of it."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
import psycopg
import pytest

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.errors import SourceError, SourceUnavailableError
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import TimeRange
from regime_pipeline.regime.levers import Quality
from regime_pipeline.services.build_drivers import build_drivers
from regime_pipeline.services.ingest_bars import IngestSummary, ingest_bars
from regime_pipeline.services.read_levers import levers_at
from regime_pipeline.services.read_status import read_status
from regime_pipeline.services.repair_gaps import RepairSummary, repair_gaps
from regime_pipeline.services.run_step import run_timeframe
from regime_pipeline.services.verify_bars import verify_bars
from regime_pipeline.services.window import Window
from tests.builders import T0
from tests.markets import TamperedMarket, backfill, checksums, generated, small_universe

BTC = "token:BTC:binance"
M1, H1 = Timeframe.M1, Timeframe.H1
NOW_S = T0 + 7200 + 5
UNIVERSE = small_universe().model_copy(update={"tokens": ()})


@dataclass
class LiveMarket(TamperedMarket):
    """A market that goes on, does not say since when, and counts the questions it is asked."""

    asked: list[tuple[str, str, int, int]] = field(default_factory=list)

    def time_range(self, venue: str, symbol: str, timeframe: Timeframe) -> TimeRange | None:
        known = super().time_range(venue, symbol, timeframe)
        return None if known is None else replace(known, last_s=None, is_exact=False)

    def fetch_bars(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        self.asked.append((venue, symbol, start_s, end_s))
        return super().fetch_bars(venue, symbol, timeframe, start_s, end_s)


def live(tamper=lambda _symbol, _timeframe, raw: raw) -> LiveMarket:  # type: ignore[no-untyped-def]
    return LiveMarket(generated(UNIVERSE).real, tamper)


def without(*minutes: int, symbols: Collection[str] = ("BTCUSDT", "BTC")) -> LiveMarket:
    missing = [T0 + 60 * minute for minute in minutes]
    return live(lambda symbol, _timeframe, raw: raw[~np.isin(raw.ts_s, missing)] if symbol in symbols else raw)


def fill(stores: PostgresStores, source: LiveMarket, now_s: int = NOW_S, *, start_s: int = T0, is_live: bool = False) -> IngestSummary:
    return ingest_bars(stores, source, UNIVERSE, M1, Window(start_s, now_s, live=is_live), now_s)


def repair(stores: PostgresStores, source: LiveMarket, now_s: int) -> RepairSummary:
    return repair_gaps(stores, source, UNIVERSE, M1, now_s)


def read_gaps(conn: psycopg.Connection) -> list[tuple[int, str, int]]:
    return conn.execute(
        "select ((extract(epoch from timestamp) - %s) / 60)::int, reason, attempts from bar_gaps where resolved_at is null and series = %s"
        " order by 1",
        (T0, BTC),
    ).fetchall()


@pytest.fixture
def stores(database: str) -> PostgresStores:
    return PostgresStores(database)


def test_a_missing_minute_is_asked_for_again_and_the_same_as_if_it_had_been_there(
    database: str, stores: PostgresStores, conn: psycopg.Connection
) -> None:
    fill(stores, without(30, 31, 90))
    assert read_gaps(conn) == [(30, "missing", 1), (31, "missing", 1), (90, "missing", 1)]
    assert repair(stores, live(), NOW_S + 60).asked == 0  # two minutes after the first question is soon enough
    source = live()
    done = repair(stores, source, NOW_S + 120)
    assert (done.asked, done.found, done.still_missing) == (3, 3, 0)
    # one question for all three, with a bar on each side
    assert source.asked == [("binance_um", "BTCUSDT", T0 + 60 * 29, T0 + 60 * 92)]
    assert read_gaps(conn) == []
    assert conn.execute("select outcome, ended_at is not null from backfill_requests").fetchall() == [("data", True)]
    healed = checksums(conn, ["majors_price_data_ohlc"])
    conn.execute("truncate majors_price_data_ohlc")
    conn.commit()
    fill(PostgresStores(database), live())
    assert checksums(conn, ["majors_price_data_ohlc"]) == healed


def test_a_gap_is_the_vendors_own_after_three_answers_over_ten_minutes(stores: PostgresStores, conn: psycopg.Connection) -> None:
    source = without(30)
    fill(stores, source)
    seen = []
    for minute in range(30):
        repair(stores, source, NOW_S + 60 * minute)
        seen.append(read_gaps(conn)[0][1:])
        conn.commit()
    # asked at 0 by the ingest, then after 2, 6 and 14 minutes: the third attempt is too soon to be sure, the fourth is not
    assert [seen[at] for at in (1, 2, 5, 6, 13, 14, 29)] == [
        ("missing", 1),
        ("missing", 2),
        ("missing", 2),
        ("missing", 3),
        ("missing", 3),
        ("vendor_none", 4),
        ("vendor_none", 4),
    ]
    fill(stores, source)  # a known gap keeps what was found out about it
    assert read_gaps(conn) == [(30, "vendor_none", 4)]
    conn.commit()
    assert repair_gaps(stores, live(), UNIVERSE, M1, NOW_S + 9000, only_due=False).found == 1  # by hand it is asked for again


def test_a_bar_that_comes_each_time_and_is_refused_is_not_the_vendors_own_gap(stores: PostgresStores, conn: psycopg.Connection) -> None:
    """Otherwise a series of which every bar is refused would end in silence: no gap that counts, and refusals as usual."""

    def spoil(symbol: str, _timeframe: Timeframe, raw: RawBars) -> RawBars:
        return replace(raw, volume=np.where((raw.ts_s == T0 + 1800) & ("BTC" in symbol), -1.0, raw.volume))

    fill(stores, live(spoil))
    for minute in range(0, 60, 5):
        repair(stores, live(spoil), NOW_S + 60 * minute)
    assert read_gaps(conn) == [(30, "missing", 5)]  # and asked for less and less
    with stores.open() as work:
        assert [gap.ts_s for gap in work.quality.load_gaps(M1, [BTC], with_own=False)] == [T0 + 1800]


def test_a_gap_older_than_what_venues_keep_is_not_asked_for_for_ever(stores: PostgresStores, conn: psycopg.Connection) -> None:
    @dataclass
    class Forgetful(LiveMarket):
        def time_range(self, venue: str, symbol: str, timeframe: Timeframe) -> TimeRange | None:
            known = super().time_range(venue, symbol, timeframe)
            return None if known is None else replace(known, first_s=T0 + 2400)

    fill(stores, without(30, 50))
    repair(stores, Forgetful(generated(UNIVERSE).real), NOW_S + 600)
    assert read_gaps(conn) == [(30, "vendor_none", 2)]  # and the other one came


def test_an_answer_that_ends_before_the_gap_is_no_attempt(stores: PostgresStores, conn: psycopg.Connection) -> None:
    fill(stores, without(30))
    repair(stores, live(lambda symbol, _timeframe, raw: raw[raw.ts_s < T0 + 1800] if "BTC" in symbol else raw), NOW_S + 600)
    assert read_gaps(conn) == [(30, "missing", 1)]


def test_a_vendor_that_cannot_be_asked_ends_the_request_and_counts_no_attempt(stores: PostgresStores, conn: psycopg.Connection) -> None:
    def fail(_symbol: str, _timeframe: Timeframe, _raw: RawBars) -> RawBars:
        raise SourceUnavailableError("no answer after 10 s; try again")

    fill(stores, without(30))
    done = repair(stores, live(fail), NOW_S + 600)
    assert len(done.failures) == 3  # every venue of it
    assert read_gaps(conn) == [(30, "missing", 1)]
    assert conn.execute("select count(*) from backfill_requests where ended_at is null").fetchone() == (0,)


def test_a_request_that_died_ends_with_the_next_one(stores: PostgresStores, conn: psycopg.Connection) -> None:
    fill(stores, without(30))
    with stores.open() as work:
        work.quality.open_backfill(BTC, M1, (T0 + 1800, T0 + 1860), NOW_S)
    repair(stores, live(), NOW_S + 600)
    assert conn.execute("select outcome from backfill_requests order by id").fetchall() == [("abandoned",), ("data",)]


def test_a_live_answer_with_more_than_was_asked_for_changes_nothing_but_what_is_missing(
    stores: PostgresStores, conn: psycopg.Connection
) -> None:
    fill(stores, live(), NOW_S - 60)

    def chatty(symbol: str, timeframe: Timeframe, raw: RawBars) -> RawBars:
        older = generated(UNIVERSE).fetch_bars("binance_um", symbol, timeframe, T0 + 6000, T0 + 6600)
        wrong = replace(older, close=older.close * 1.001, high=older.high * 1.01)
        future = replace(raw[:1], ts_s=raw.ts_s[:1] + 86_400)
        return RawBars.concat([older, wrong, raw, future]) if symbol == "BTCUSDT" else raw

    summary = fill(stores, live(chatty), is_live=True)
    assert (summary.written, summary.revised) == (7, 0)
    assert conn.execute("select distinct reason from bar_quarantine").fetchall() == [("future",)]


def test_nothing_before_the_first_bar_of_a_venue_that_does_not_say_since_when_is_missing(
    stores: PostgresStores, conn: psycopg.Connection
) -> None:
    summary = fill(stores, live(lambda symbol, _timeframe, raw: raw[raw.ts_s >= T0 + 3600] if symbol.startswith("HYPE") else raw))
    assert summary.gaps == 0
    assert conn.execute("select count(*) from bar_gaps").fetchone() == (0,)


def test_a_gap_of_one_series_survives_a_run_that_looks_at_another(stores: PostgresStores, conn: psycopg.Connection) -> None:
    fill(stores, without(30), NOW_S - 3600)
    quiet = live(lambda symbol, _timeframe, raw: raw[raw.ts_s < T0 + 1200] if symbol.startswith("SOL") else raw)
    conn.execute("delete from majors_price_data_ohlc where token_contract = 'SOL' and timestamp >= to_timestamp(%s)", (T0 + 1200,))
    conn.commit()
    fill(stores, quiet, NOW_S - 3540, is_live=True)  # SOL is asked for since minute 20, BTC since minute 58
    assert read_gaps(conn) == [(30, "missing", 1)]


def test_what_a_venue_said_before_the_close_is_corrected_an_hour_later(stores: PostgresStores, conn: psycopg.Connection) -> None:
    def early(symbol: str, _timeframe: Timeframe, raw: RawBars) -> RawBars:
        is_cached = (raw.ts_s == T0 + 6000) & (symbol == "BTCUSDT")
        return replace(raw, close=np.where(is_cached, raw.open, raw.close), volume=np.where(is_cached, raw.volume / 2, raw.volume))

    fill(stores, live(early))
    source = live()
    summary = verify_bars(stores, source, UNIVERSE, M1, 60, NOW_S)
    assert (summary.revised, summary.unchanged) == (1, 299)
    assert [(venue, start_s, end_s) for venue, _, start_s, end_s in source.asked] == [("binance_um", T0 + 3600, T0 + 7200)] * 5
    assert conn.execute("select series, extract(epoch from timestamp)::bigint from bar_revisions").fetchall() == [(BTC, T0 + 6000)]
    assert verify_bars(stores, live(), UNIVERSE, M1, 60, NOW_S).revised == 0


def test_a_file_is_not_asked_twice(stores: PostgresStores) -> None:
    recorded = generated(UNIVERSE)
    assert verify_bars(stores, recorded, UNIVERSE, M1, 60, NOW_S).series == {}


def test_a_venue_that_is_down_costs_a_live_run_nothing_where_another_has_the_bars(stores: PostgresStores, conn: psycopg.Connection) -> None:
    fill(stores, live(), NOW_S - 60)

    def fail(symbol: str, _timeframe: Timeframe, raw: RawBars) -> RawBars:
        if symbol.endswith("USDT") and source.asked[-1][0] == "binance_um":
            raise SourceUnavailableError("no answer after 10 s; try again")
        return raw

    source = live(fail)
    summary = fill(stores, source, is_live=True)
    assert summary.written == 7  # five majors, two dominances
    assert [venue for venue, *_ in source.asked].count("binance_um") == 2  # silent twice, and not asked again in this run
    assert len(summary.failures) == 2
    newest = conn.execute("select distinct source from majors_price_data_ohlc where timestamp = to_timestamp(%s)", (T0 + 7140,)).fetchall()
    assert sorted(newest) == [("binance_spot",), ("hyperliquid",)]


def test_a_live_run_that_nobody_answers_fails_in_sight_and_calls_nothing_a_gap(
    stores: PostgresStores, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_symbol: str, _timeframe: Timeframe, _raw: RawBars) -> RawBars:
        raise SourceError("it answered HTML")

    monkeypatch.setattr(LiveMarket, "dominance_range", lambda *_: None)
    fill(stores, live(), NOW_S - 60)
    with pytest.raises(SourceError, match="HTML"):
        fill(stores, live(fail), is_live=True)
    assert conn.execute("select count(*) from bar_gaps").fetchone() == (0,)


def test_missing_minutes_lower_the_score_of_a_driver_until_they_come(stores: PostgresStores, conn: psycopg.Connection) -> None:
    half = range(60, 120, 2)
    fill(stores, without(*half))
    build_drivers(stores, UNIVERSE, M1, NOW_S)

    def score() -> list[tuple[str, float]]:
        found = conn.execute(
            "select series, round(score::numeric, 3)::float8 from bar_validity where timestamp = to_timestamp(%s) order by 1", (T0 + 7140,)
        ).fetchall()
        conn.commit()
        return found

    assert score() == [("regime:BTC", 0.5), (BTC, 0.5)]  # thirty of sixty minutes, and BTC's driver is a copy
    repair(stores, live(), NOW_S + 120)
    build_drivers(stores, UNIVERSE, M1, NOW_S)
    assert score() == []


def test_scores_are_the_same_whether_bars_come_one_by_one_or_at_once(stores: PostgresStores, conn: psycopg.Connection) -> None:
    source = without(30, 31, 90)
    fill(stores, source)
    at_once = checksums(conn, ["bar_validity"])
    assert at_once["bar_validity"][0] > 60
    conn.execute("truncate bar_validity, majors_price_data_ohlc, bar_gaps")
    conn.commit()
    for cut in (20, 31, 60, 61, 95, 120):
        fill(stores, source, T0 + 60 * cut + 5)
    assert checksums(conn, ["bar_validity"]) == at_once


def test_a_driver_of_bad_data_is_missing_for_the_levers(database: str, stores: PostgresStores, conn: psycopg.Connection) -> None:
    universe = small_universe()
    now_s = T0 + 345 * 3600 + 70
    backfill(stores, generated(universe), universe, T0, now_s, [H1])
    token = universe.tokens[0].contract
    conn.execute("insert into bar_validity values ('regime:ALT', '1h', to_timestamp(%s), 0.4, 0.4, 1, 1, 1, 1)", (T0 + 344 * 3600,))
    conn.commit()
    with stores.open() as work:
        strict, lenient = (levers_at(work, universe, token, H1, now_s, (H1,), bound) for bound in (0.5, 0.3))
    quality = {(row.driver, row.timeframe): row.quality for row in strict.diagnostics.channels}
    assert quality["ALT", H1] is Quality.INVALID
    assert quality["BTC", H1] is not Quality.INVALID
    assert "ALT 1h" in strict.diagnostics.degraded_by
    assert "ALT 1h" not in lenient.diagnostics.degraded_by


def test_status_tells_age_gaps_source_and_what_is_late(stores: PostgresStores) -> None:
    fill(stores, without(30))
    build_drivers(stores, UNIVERSE, M1, NOW_S)
    with stores.open() as work:
        found, later = read_status(work, UNIVERSE, NOW_S), read_status(work, UNIVERSE, NOW_S + 180)
    rows = {(row.series, row.timeframe): row for row in found.series}
    btc = rows[BTC, M1]
    assert (btc.last_s, btc.source, btc.open_gaps, btc.vendor_gaps, btc.quarantined_24h, btc.is_late) == (
        T0 + 7140,
        "binance_um",
        1,
        0,
        0,
        False,
    )
    assert btc.age_bars == pytest.approx(5 / 60)
    assert btc.validity == 1.0  # minute 30 is more than an hour ago
    problems = found.problems(0.5)
    assert "regime:BTC.d 1h: no bar, at most 2 allowed" in problems
    assert not any(problem.startswith("regime:BTC 1m") for problem in problems)
    assert any(problem.startswith("regime:BTC 1m: newest bar ended 3.1 bars ago") for problem in later.problems(0.5))


def test_an_hourly_live_run_looks_at_its_minutes_again(stores: PostgresStores, conn: psycopg.Connection) -> None:
    def early(symbol: str, timeframe: Timeframe, raw: RawBars) -> RawBars:
        is_cached = (raw.ts_s == T0 + 6000) & (symbol == "BTCUSDT") & (timeframe is M1)
        return replace(raw, high=np.where(is_cached, raw.high * 1.01, raw.high))

    fill(stores, live(early))
    run_timeframe(stores, live(), UNIVERSE, H1, Window(T0, T0 + 7200, live=True), NOW_S + 115)
    assert conn.execute("select count(*) from bar_revisions").fetchone() == (1,)
    wrong = conn.execute(
        "select max(m.high_usd) = h.high_usd from majors_price_data_ohlc as m, majors_price_data_ohlc as h where m.timeframe = '1m'"
        " and h.timeframe = '1h' and m.token_contract = 'BTC' and h.token_contract = 'BTC' and h.timestamp = to_timestamp(%s)"
        " and m.timestamp >= h.timestamp group by h.high_usd",
        (T0 + 3600,),
    ).fetchone()
    assert wrong == (True,)  # the hour was rolled up from the corrected minute
