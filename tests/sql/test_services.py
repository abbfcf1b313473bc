"""The use-cases on a real Postgres: live equals backfill, running again changes nothing, corrections and crashes heal."""

from dataclasses import replace

import numpy as np
import psycopg
import pytest

from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.migrate import migrate
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.errors import SourceUnavailableError
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Stage
from regime_pipeline.services import advance_trend
from regime_pipeline.services.ingest_bars import ingest_bars
from regime_pipeline.services.read_board import load_board
from regime_pipeline.services.read_levers import levers_at
from regime_pipeline.services.run_step import run_timeframe
from regime_pipeline.services.window import Window
from tests.markets import TamperedMarket, backfill, checksums, generated, run_live, small_universe

T0 = 1_735_689_600  # 2025-01-01T00:00Z
HOUR, DAY = 3600, 86_400
HOURLY = (Timeframe.H1,)
UNIVERSE = small_universe()


@pytest.fixture
def stores(database: str) -> PostgresStores:
    return PostgresStores(database)


@pytest.fixture
def other(empty_database: str) -> str:
    """A second migrated database, to compare with."""
    with open_connection(empty_database) as conn:
        migrate(conn)
    return empty_database


def _sums(database: str) -> dict[str, tuple[int, str]]:
    with open_connection(database) as conn:
        return checksums(conn)


def test_bar_by_bar_equals_one_backfill(database: str, other: str) -> None:
    # 380 hours: 47 of them beyond the 333 bars an engine needs, run one by one
    now_s = T0 + 380 * HOUR + 70
    source = generated(UNIVERSE)
    backfill(PostgresStores(database), source, UNIVERSE, T0, now_s, HOURLY)
    live = PostgresStores(other)
    run_timeframe(live, source, UNIVERSE, Timeframe.H1, Window(T0, T0 + 325 * HOUR), T0 + 325 * HOUR + 70)
    run_live(live, source, UNIVERSE, T0 + 325 * HOUR, now_s, HOURLY)
    once, stepwise = _sums(database), _sums(other)
    assert once["uptrend_states"][0] == 12 * 48 - 5  # composites lack the first hour, which has no previous close
    assert once == stepwise


def test_running_again_changes_nothing(database: str, stores: PostgresStores, conn: psycopg.Connection) -> None:
    now_s = T0 + 340 * HOUR + 70
    source = generated(UNIVERSE)
    backfill(stores, source, UNIVERSE, T0, now_s, HOURLY)
    before = _sums(database)
    again = run_timeframe(stores, source, UNIVERSE, Timeframe.H1, Window(T0, now_s), now_s)
    assert again.ingest[Timeframe.H1].written == 0
    assert (again.drivers.written, again.trend[Timeframe.H1].bars, again.deltas.written) == (0, 0, 0)
    assert _sums(database) == before
    assert conn.execute("select max(revision) from uptrend_states").fetchone() == (0,)


def test_a_corrected_bar_replays_the_series_and_its_composites(database: str, other: str) -> None:
    now_s = T0 + 400 * HOUR + 70
    wrong_s = T0 + 390 * HOUR

    def lift(symbol: str, timeframe: Timeframe, raw: RawBars) -> RawBars:
        hit = (raw.ts_s == wrong_s) & (symbol in {"BTCUSDT", "ETHUSDT"}) & (timeframe is Timeframe.H1)
        return replace(raw, close=np.where(hit, raw.close * 1.2, raw.close), high=np.where(hit, raw.high * 1.3, raw.high))

    stores = PostgresStores(database)
    backfill(stores, TamperedMarket(generated(UNIVERSE).real, lift), UNIVERSE, T0, now_s, HOURLY)
    wrong = _sums(database)
    corrected = run_timeframe(stores, generated(UNIVERSE), UNIVERSE, Timeframe.H1, Window(wrong_s, wrong_s + HOUR), now_s)
    assert corrected.ingest[Timeframe.H1].written == 2  # BTC and ETH
    assert corrected.trend[Timeframe.H1].replayed == 2  # the drivers BTC and ALT
    backfill(PostgresStores(other), generated(UNIVERSE), UNIVERSE, T0, now_s, HOURLY)
    assert _sums(database) != wrong
    assert _sums(database) == _sums(other)
    with open_connection(database) as conn:
        revised = conn.execute(
            "select series, min(ts), max(revision) from uptrend_states where revision > 0 group by 1 order by 1"
        ).fetchall()
    assert [(series, int(ts.timestamp()), revision) for series, ts, revision in revised] == [
        ("regime:ALT", wrong_s, 1),
        ("regime:BTC", wrong_s, 1),
    ]


def test_earlier_history_that_arrives_late_gives_the_same_as_if_it_had_been_there(database: str, other: str) -> None:
    now_s = T0 + 420 * HOUR + 70
    source = generated(UNIVERSE)
    late = PostgresStores(database)
    run_timeframe(late, source, UNIVERSE, Timeframe.H1, Window(T0 + 60 * HOUR, now_s), now_s)
    run_timeframe(late, source, UNIVERSE, Timeframe.H1, Window(T0, T0 + 60 * HOUR), now_s)
    backfill(PostgresStores(other), source, UNIVERSE, T0, now_s, HOURLY)
    assert _sums(database) == _sums(other)


def test_checkpoints_of_another_layout_are_replayed_from_the_first_bar(database: str, other: str) -> None:
    now_s = T0 + 345 * HOUR + 70
    source = generated(UNIVERSE)
    stores = PostgresStores(database)
    backfill(stores, source, UNIVERSE, T0, now_s - HOUR, HOURLY)
    with open_connection(database) as conn:
        conn.execute("update engine_checkpoints set state = '\\x00'")
    run_timeframe(stores, source, UNIVERSE, Timeframe.H1, Window(now_s - HOUR, now_s, live=True), now_s)
    backfill(PostgresStores(other), source, UNIVERSE, T0, now_s, HOURLY)
    assert _sums(database) == _sums(other)


def test_a_token_that_changes_bucket_leaves_the_past_composites_alone(database: str, stores: PostgresStores) -> None:
    now_s = T0 + 30 * DAY + 70
    source = generated(UNIVERSE)
    run_timeframe(stores, source, UNIVERSE, Timeframe.D1, Window(T0, now_s), now_s)
    with open_connection(database) as conn:
        token = UNIVERSE.tokens[0]
        moved_s = T0 + 20 * DAY
        held = conn.execute("select max(valid_from) from token_cap_bucket where token_contract = %s", (token.contract,)).fetchone()
        assert held is not None
        assert held[0].timestamp() < moved_s
        before = conn.execute("select timestamp, close_usd from regime_price_data_ohlc where driver = 'nano' order by 1").fetchall()
        conn.execute(
            "update token_cap_bucket set valid_to = to_timestamp(%s) where token_contract = %s and valid_to is null",
            (moved_s, token.contract),
        )
        conn.execute(
            "insert into token_cap_bucket values (%s, %s, to_timestamp(%s), null, 'big', 5e9, to_timestamp(%s))",
            (token.contract, token.chain, moved_s, moved_s),
        )
    with stores.open() as work:
        work.marks.add(Stage.DRIVER, Timeframe.D1, {f"regime:{bucket}": moved_s for bucket in ("nano", "small", "mid", "big")})
    run_timeframe(stores, source, UNIVERSE, Timeframe.D1, Window(now_s, now_s), now_s)
    with open_connection(database) as conn:
        rows = conn.execute("select timestamp, close_usd from regime_price_data_ohlc where driver = 'nano' order by 1").fetchall()
        big = conn.execute("select component_count from regime_price_data_ohlc where driver = 'big' order by timestamp").fetchall()
    assert rows == [row for row in before if row[0].timestamp() < moved_s]  # its only member left: no bar from then on
    assert big[-1][0] == big[0][0] + 1


@pytest.mark.parametrize(
    ("reason", "tamper"),
    [
        ("non_finite_price", lambda raw, hit: replace(raw, close=np.where(hit, np.nan, raw.close))),
        ("non_positive_price", lambda raw, hit: replace(raw, low=np.where(hit, -raw.low, raw.low))),
        ("non_positive_price", lambda raw, hit: replace(raw, open=np.where(hit, 0.0, raw.open))),
        ("inverted", lambda raw, hit: replace(raw, high=np.where(hit, raw.low, raw.high), low=np.where(hit, raw.high, raw.low))),
        ("bad_volume", lambda raw, hit: replace(raw, volume=np.where(hit, -1.0, raw.volume))),
        ("off_grid", lambda raw, hit: replace(raw, ts_s=np.where(hit, raw.ts_s + 7, raw.ts_s))),
        ("future", lambda raw, hit: replace(raw, ts_s=np.where(hit, raw.ts_s + 400 * DAY, raw.ts_s))),
    ],
)
def test_a_bad_bar_is_quarantined_leaves_a_gap_and_the_next_run_heals_it(reason: str, tamper, database: str, other: str) -> None:  # type: ignore[no-untyped-def]
    now_s = T0 + 345 * HOUR + 70
    bad_s = T0 + 340 * HOUR

    def spoil(symbol: str, timeframe: Timeframe, raw: RawBars) -> RawBars:
        return tamper(raw, raw.ts_s == bad_s) if symbol in {"BTCUSDT", "BTC"} and timeframe is Timeframe.H1 else raw

    stores = PostgresStores(database)
    summary = run_timeframe(stores, TamperedMarket(generated(UNIVERSE).real, spoil), UNIVERSE, Timeframe.H1, Window(T0, now_s), now_s)
    assert summary.ingest[Timeframe.H1].quarantined == 3  # every venue that could have given the bar was asked
    with open_connection(database) as conn:
        assert conn.execute("select distinct series, reason from bar_quarantine").fetchall() == [("token:BTC:binance", reason)]
        assert conn.execute("select series, extract(epoch from timestamp)::bigint from bar_gaps where resolved_at is null").fetchall() == [
            ("token:BTC:binance", bad_s)
        ]
        gap = conn.execute("select gap_bars from uptrend_states where series = 'regime:BTC' and ts = to_timestamp(%s)", (bad_s + HOUR,))
        assert gap.fetchone() == (1,)
    run_timeframe(stores, generated(UNIVERSE), UNIVERSE, Timeframe.H1, Window(bad_s, bad_s + HOUR), now_s)
    with open_connection(database) as conn:
        assert conn.execute("select count(*) from bar_gaps where resolved_at is null").fetchone() == (0,)
    backfill(PostgresStores(other), generated(UNIVERSE), UNIVERSE, T0, now_s, HOURLY)
    assert _sums(database) == _sums(other)


def test_duplicates_and_forming_bars_never_reach_the_table(database: str, stores: PostgresStores) -> None:
    now_s = T0 + 5 * HOUR + 30  # the fifth hour has ended, its grace has not

    def repeat(symbol: str, timeframe: Timeframe, raw: RawBars) -> RawBars:
        if symbol != "BTCUSDT":
            return raw
        other = replace(raw, close=raw.close * 1.001, high=raw.high * 1.01)
        forming = replace(raw[-1:], ts_s=raw.ts_s[-1:] + timeframe.seconds)
        return RawBars.concat([raw, forming, raw[:1], other[1:2]])

    source = TamperedMarket(generated(UNIVERSE).real, repeat)
    summary = ingest_bars(stores, source, UNIVERSE, Timeframe.H1, Window(T0, T0 + 10 * HOUR), now_s)
    assert summary.still_open > 0
    with open_connection(database) as conn:
        bars = conn.execute("select count(*), max(timestamp) from majors_price_data_ohlc where token_contract = 'BTC'").fetchone()
        assert bars is not None
        assert (bars[0], int(bars[1].timestamp())) == (4, T0 + 3 * HOUR)
        quarantined = conn.execute("select distinct series, reason, timestamp from bar_quarantine").fetchall()
        assert [(series, why) for series, why, _ in quarantined] == [("token:BTC:binance", "duplicate_ts")]


def test_a_run_that_dies_in_the_middle_of_a_step_is_finished_by_the_next(
    database: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = T0 + 345 * HOUR + 70
    source = generated(UNIVERSE)
    stores = PostgresStores(database)

    real = advance_trend._advance_series

    def die(*arguments):  # type: ignore[no-untyped-def]
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(advance_trend, "_advance_series", die)
    with pytest.raises(KeyboardInterrupt):
        run_timeframe(stores, source, UNIVERSE, Timeframe.H1, Window(T0, now_s), now_s)
    with open_connection(database) as conn:
        assert conn.execute("select count(*) from uptrend_states").fetchone() == (0,)
    monkeypatch.undo()
    run_timeframe(stores, source, UNIVERSE, Timeframe.H1, Window(now_s, now_s, live=True), now_s)
    backfill(PostgresStores(other), source, UNIVERSE, T0, now_s, HOURLY)
    assert _sums(database) == _sums(other)


def test_a_source_that_cannot_be_read_writes_nothing_and_says_so(database: str, stores: PostgresStores) -> None:
    def fail(symbol: str, _timeframe: Timeframe, raw: RawBars) -> RawBars:
        if symbol == "SOLUSDT":
            raise SourceUnavailableError("SOLUSDT: no answer after 10 s; try again")
        return raw

    with pytest.raises(SourceUnavailableError, match="SOLUSDT"):
        run_timeframe(stores, TamperedMarket(generated(UNIVERSE).real, fail), UNIVERSE, Timeframe.H1, Window(T0, T0 + DAY), T0 + DAY + 70)
    assert {rows for rows, _ in _sums(database).values()} == {0}


def test_minutes_roll_up_to_hours_and_days_whatever_order_they_arrive_in(database: str, other: str) -> None:
    now_s = T0 + 2 * DAY + 70
    source = generated(UNIVERSE)
    forward, backward = PostgresStores(database), PostgresStores(other)
    minutes = [Window(T0 + part * DAY // 2, T0 + (part + 1) * DAY // 2) for part in range(4)]
    for stores, order in ((forward, minutes), (backward, minutes[::-1])):
        for window in order:
            ingest_bars(stores, source, UNIVERSE, Timeframe.M1, window, now_s)
        for timeframe in (Timeframe.H1, Timeframe.D1):
            ingest_bars(stores, source, UNIVERSE, timeframe, Window(now_s, now_s, live=True), now_s)
    tables = ("majors_price_data_ohlc", "lowcap_price_data_ohlc", "regime_price_data_ohlc")
    with open_connection(database) as one, open_connection(other) as other:
        assert checksums(one, tables) == checksums(other, tables)
        rows = one.execute(
            "select timeframe, count(*), min(bars_used), bool_and(source = 'rollup') from majors_price_data_ohlc group by 1 order by 1"
        )
        assert rows.fetchall() == [("1d", 10, 1440, True), ("1h", 240, 60, True), ("1m", 14400, 1, False)]


def test_board_and_levers_read_what_was_stored(stores: PostgresStores) -> None:
    now_s = T0 + 345 * HOUR + 70
    backfill(stores, generated(UNIVERSE), UNIVERSE, T0, now_s, HOURLY)
    with stores.open() as work:
        board = load_board(work, now_s)
        levers = levers_at(work, UNIVERSE, UNIVERSE.tokens[0].contract, Timeframe.H1, now_s)
        past = levers_at(work, UNIVERSE, UNIVERSE.tokens[0].contract, Timeframe.H1, T0)
    assert len(board) == 24
    hourly = [cell for cell in board if cell.timeframe is Timeframe.H1]
    assert all(cell.row is not None and cell.row.ts_s == T0 + 344 * HOUR for cell in hourly)
    assert all(cell.row is None for cell in board if cell.timeframe is not Timeframe.H1)
    assert levers.degraded  # no daily and no minute bars: BTC and ALT are absent there
    assert past.degraded
    assert (past.A_value, past.E_value) == (0.5, 0.5)
