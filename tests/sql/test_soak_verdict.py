"""The verdict on a soak: a database filled from the truth is flawless, and each kind of flaw is found and counted."""

import psycopg
import pytest

from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.migrate import apply_roles, migrate
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.adapters.venues.generated import GeneratedMarket
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.simulation.board import FaultBoard
from regime_pipeline.simulation.faults import FaultScript
from regime_pipeline.simulation.soak_verdict import Judge
from regime_pipeline.simulation.soak_witness import Lie
from regime_pipeline.simulation.truth import Truth
from tests.builders import T0
from tests.markets import small_universe

UNIVERSE = small_universe()
TRUTH = Truth(GeneratedMarket(UNIVERSE, 7), UNIVERSE, FaultBoard(FaultScript(), 0, T0))
NOW_S = T0 + 12 * 3600 + 65
BAR = "token_contract = 'SOL' and timeframe = '1m' and timestamp = '2025-01-01 11:45:00+00'"


@pytest.fixture
def judge(database: str) -> Judge:
    """A soak of ten minutes after forty bars of history, without a flaw."""
    stores = PostgresStores(database)
    judge = Judge(TRUTH, UNIVERSE, stores, NOW_S - 600, NOW_S, history_bars=40)
    judge.fill_clean(stores, {})
    return judge


def test_a_database_filled_from_the_truth_has_no_flaw(judge: Judge) -> None:
    verdict = judge.judge_bars([])
    assert verdict.compared > 9 * 3 * 40
    assert (verdict.missing, verdict.wrong, verdict.duplicate, verdict.open_used, verdict.outliers_admitted) == (0, 0, 0, 0, 0)
    assert (verdict.outliers_unrefused, verdict.second_choice, verdict.examples) == (0, 0, [])


@pytest.mark.parametrize(
    ("tamper", "flaw", "count"),
    [
        ("delete from majors_price_data_ohlc where {bar}", "missing", 1),
        ("update majors_price_data_ohlc set close_usd = close_usd * (1 + 1e-15) where {bar}", "wrong", 1),
        ("update majors_price_data_ohlc set volume = volume + 1 where {bar}", "wrong", 1),
        ("update majors_price_data_ohlc set high_usd = high_usd * 10 where {bar}", "outliers_admitted", 1),
        ("update majors_price_data_ohlc set timestamp = timestamp - interval '1 day' where {bar}", "wrong", 1),
    ],
)
def test_a_bar_that_is_not_the_truth_is_found(judge: Judge, conn: psycopg.Connection, tamper: str, flaw: str, count: int) -> None:
    conn.execute(tamper.format(bar=BAR))
    conn.commit()
    verdict = judge.judge_bars([])
    assert getattr(verdict, flaw) == count
    assert any("SOL" in example and "1m" in example for example in verdict.examples)


def test_a_bar_that_opens_like_the_next_one_was_an_open_candle(judge: Judge, conn: psycopg.Connection) -> None:
    prices = "open_usd, high_usd, low_usd, close_usd"
    conn.execute(
        f"update majors_price_data_ohlc set ({prices}) = (select open_usd, open_usd, open_usd, open_usd from majors_price_data_ohlc"
        f" where {BAR.replace('11:45', '11:46')}) where {BAR}"
    )
    conn.commit()
    verdict = judge.judge_bars([])
    assert (verdict.wrong, verdict.open_used) == (1, 1)


def test_an_outlier_that_was_believed_for_a_while_is_found(judge: Judge, conn: psycopg.Connection) -> None:
    for factor in (10.0, 0.1):
        conn.execute(f"update majors_price_data_ohlc set (high_usd, close_usd) = (high_usd * {factor}, close_usd * {factor}) where {BAR}")
        conn.commit()
    assert judge.judge_bars([]).outliers_admitted == 1


def test_a_bar_of_a_venue_behind_the_best_one_is_compared_with_that_venue(judge: Judge, conn: psycopg.Connection) -> None:
    """Prices are the same everywhere; the volume of Hyperliquid is base volume times close."""
    ts_s = T0 + 11 * 3600 + 45 * 60
    volume = float(TRUTH.bars("hyperliquid", "SOL", Timeframe.M1, ts_s, ts_s + 60).volume[0])
    conn.execute(f"update majors_price_data_ohlc set source = 'hyperliquid', volume = {volume!r} where {BAR}")
    conn.commit()
    verdict = judge.judge_bars([])
    assert (verdict.wrong, verdict.second_choice) == (0, 1)


def test_an_outlier_that_was_delivered_must_be_in_quarantine(judge: Judge, conn: psycopg.Connection) -> None:
    lie = Lie("token:SOL:binance", Timeframe.M1, T0 + 11 * 3600, "binance_um")
    assert judge.judge_bars([lie]).outliers_unrefused == 1
    conn.execute(
        "insert into bar_quarantine (series, timeframe, timestamp, source, reason) values (%s, '1m', to_timestamp(%s), %s, 'outlier')",
        (lie.series, lie.ts_s, lie.venue),
    )
    conn.commit()
    assert judge.judge_bars([lie]).outliers_unrefused == 0


def test_gaps_are_closed_or_the_vendors_own_and_given_up_only_where_no_venue_has_the_bar(judge: Judge, conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into bar_gaps (series, timeframe, timestamp, source, reason, resolved_at) values"
        " ('token:SOL:binance', '1m', '2025-01-01 11:40:00+00', 'live', 'missing', now()),"
        " ('token:SOL:binance', '1m', '2025-01-01 11:41:00+00', 'live', 'missing', null),"
        " ('token:SOL:binance', '1m', '2025-01-01 11:42:00+00', 'live', 'vendor_none', null),"
        " ('regime:BTC.d', '1m', '2025-01-01 11:42:00+00', 'coingecko', 'vendor_none', null),"
        " ('regime:ALT', '1m', '2025-01-01 11:42:00+00', 'composite', 'missing', null)"  # what its parts miss
    )
    conn.commit()
    verdict = judge.judge_gaps()
    assert (verdict.closed, verdict.of_vendors, verdict.open, verdict.given_up_wrongly) == (1, 2, 1, 1)
    assert len(verdict.examples) == 1
    assert "1735731660 missing" in verdict.examples[0]


@pytest.mark.parametrize(
    ("tamper", "how"),
    [
        ("update regime_price_data_ohlc set close_usd = close_usd * (1 + 1e-15) where driver = 'ALT' and timeframe = '1m'", "differs"),
        ("delete from regime_price_data_ohlc where driver = 'ALT' and timeframe = '1m'", "not in the soak"),
    ],
)
def test_rows_that_differ_from_a_clean_run_are_counted(
    judge: Judge, conn: psycopg.Connection, empty_database: str, tamper: str, how: str
) -> None:
    with open_connection(empty_database) as other:
        migrate(other)
        apply_roles(other)
    clean = PostgresStores(empty_database)
    judge.fill_clean(clean, {})
    assert sum(judge.compare_derived(clean).different.values()) == 0
    rows = conn.execute(tamper).rowcount
    conn.commit()
    verdict = judge.compare_derived(clean)
    assert verdict.different["regime_price_data_ohlc"] == rows > 0
    assert all(how in example for example in verdict.examples)
    clean.close()
