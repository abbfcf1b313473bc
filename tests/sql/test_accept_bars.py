"""The one door: whoever brings a bar, in whatever order and however often, the same bars are stored for the same reasons."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.adapters.venues.recorded import RecordedMarket
from regime_pipeline.errors import BadInputError
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import load_universe
from regime_pipeline.ports import Stage
from regime_pipeline.services.ingest_bars import Delivery, IngestSummary, accept_bars, ingest_bars
from regime_pipeline.services.window import Window
from regime_pipeline.settings import load_settings
from tests.builders import T0, raw_bars
from tests.markets import UNIVERSE as UNIVERSE_FILE
from tests.markets import small_universe

UNIVERSE = small_universe()
BTC = "token:BTC:binance"  # binance_um before binance_spot before hyperliquid
M1 = Timeframe.M1
LATER = T0 + 3600


def walk(n: int = 40, seed: int = 1) -> RawBars:
    rng = np.random.default_rng(seed)
    return raw_bars(100 * np.exp(np.cumsum(rng.normal(0, 0.0005, n))))


def moved(raw: RawBars, row: int, factor: float) -> RawBars:
    weight = np.ones(len(raw))
    weight[row] = factor
    return replace(raw, **{name: getattr(raw, name) * weight for name in ("open", "high", "low", "close")})


def accept(stores: PostgresStores, now_s: int, *deliveries: Delivery) -> IngestSummary:
    with stores.open() as work:
        return accept_bars(work, UNIVERSE, M1, deliveries, now_s)


def read_bars(conn: psycopg.Connection) -> list[tuple[int, float, str]]:
    return conn.execute(
        "select extract(epoch from timestamp)::bigint, close_usd, source from majors_price_data_ohlc where timeframe = '1m' order by 1"
    ).fetchall()


def read_quarantine(conn: psycopg.Connection) -> list[tuple[str, str, bool]]:
    return conn.execute("select source, reason, resolved_at is not null from bar_quarantine order by source, reason, timestamp").fetchall()


@pytest.fixture
def stores(database: str) -> PostgresStores:
    return PostgresStores(database)


def test_a_venue_further_back_fills_holes_and_never_replaces(stores: PostgresStores, conn: psycopg.Connection) -> None:
    best, other = walk(10), moved(walk(10), 3, 1.001)
    holed = best[np.array([0, 1, 2, 3, 5, 6, 7, 8, 9])]
    accept(stores, LATER, Delivery(BTC, "binance_um", holed))
    summary = accept(stores, LATER, Delivery(BTC, "binance_spot", other))
    assert summary.written == 1
    assert [row[2] for row in read_bars(conn)] == ["binance_um"] * 4 + ["binance_spot"] + ["binance_um"] * 5
    assert read_bars(conn)[3][1] == best.close[3]
    accept(stores, LATER, Delivery(BTC, "binance_um", best))
    assert {row[2] for row in read_bars(conn)} == {"binance_um"}


def test_a_series_that_the_universe_lacks_is_refused_by_name(stores: PostgresStores) -> None:
    with pytest.raises(BadInputError, match="token:DOGE:x"):
        accept(stores, LATER, Delivery("token:DOGE:x", "binance_um", walk(2)))


def test_a_final_bar_that_changes_is_recorded_and_what_follows_is_marked(stores: PostgresStores, conn: psycopg.Connection) -> None:
    raw = walk(10)
    accept(stores, LATER, Delivery(BTC, "binance_um", raw))
    with stores.open() as work:
        work.marks.take(Stage.DRIVER, M1)
    summary = accept(stores, LATER, Delivery(BTC, "binance_um", moved(raw, 4, 1.002)[4:5]))
    assert summary.revised == 1
    (row,) = conn.execute("select series, extract(epoch from timestamp)::bigint, old_close, new_close from bar_revisions").fetchall()
    assert row == (BTC, T0 + 240, raw.close[4], raw.close[4] * 1.002)
    with stores.open() as work:
        assert work.marks.take(Stage.DRIVER, M1) == {"regime:BTC": T0 + 240}
    assert accept(stores, LATER, Delivery(BTC, "binance_um", moved(raw, 4, 1.002)[4:5])).revised == 0


def test_an_outlier_of_a_lone_venue_is_believed_when_it_is_said_again_a_minute_later(
    stores: PostgresStores, conn: psycopg.Connection
) -> None:
    raw = moved(walk(30), 29, 0.8)
    now_s = T0 + 30 * 60 + 5
    assert accept(stores, now_s, Delivery(BTC, "binance_um", raw)).quarantined == 1
    assert accept(stores, now_s + 10, Delivery(BTC, "binance_um", raw)).quarantined == 0  # the same breath
    assert len(read_bars(conn)) == 29
    assert read_quarantine(conn) == [("binance_um", "outlier", False)]
    accept(stores, now_s + 60, Delivery(BTC, "binance_um", raw))
    assert len(read_bars(conn)) == 30
    assert read_quarantine(conn) == [("binance_um", "confirmed", True)]


def test_an_outlier_that_is_corrected_stays_in_quarantine_and_the_right_bar_is_taken(
    stores: PostgresStores, conn: psycopg.Connection
) -> None:
    right = walk(30)
    now_s = T0 + 30 * 60 + 5
    accept(stores, now_s, Delivery(BTC, "binance_um", moved(right, 29, 3.0)))
    accept(stores, now_s + 60, Delivery(BTC, "binance_um", right[29:]))
    assert read_bars(conn)[-1] == (T0 + 29 * 60, right.close[29], "binance_um")
    assert read_quarantine(conn) == [("binance_um", "outlier", True)]


def test_a_crash_that_two_venues_saw_is_believed_at_once(stores: PostgresStores, conn: psycopg.Connection) -> None:
    now_s = T0 + 30 * 60 + 5
    um, spot = moved(walk(30), 29, 0.8), moved(walk(30), 29, 0.85)
    assert accept(stores, now_s, Delivery(BTC, "binance_um", um), Delivery(BTC, "binance_spot", spot)).quarantined == 0
    assert read_bars(conn)[-1][1:] == (um.close[29], "binance_um")


def test_a_bar_that_another_venue_contradicts_is_not_believed_however_often_it_is_said(
    stores: PostgresStores, conn: psycopg.Connection
) -> None:
    now_s = T0 + 30 * 60 + 5
    um, spot = moved(walk(30), 29, 0.8), walk(30)
    for minute in range(3):
        accept(stores, now_s + 60 * minute, Delivery(BTC, "binance_um", um), Delivery(BTC, "binance_spot", spot))
    assert read_bars(conn)[-1][1:] == (spot.close[29], "binance_spot")
    assert read_quarantine(conn) == [("binance_um", "disagrees", True)]


def test_a_price_in_another_unit_is_never_believed_for_being_repeated(stores: PostgresStores, conn: psycopg.Connection) -> None:
    raw = moved(walk(30), 29, 1000.0)
    for minute in range(40):
        accept(stores, T0 + (30 + minute) * 60 + 5, Delivery(BTC, "binance_um", raw[29:] if minute else raw))
    assert len(read_bars(conn)) == 29
    assert read_quarantine(conn) == [("binance_um", "wrong_unit", False)]


@pytest.mark.parametrize("factor", [0.1, 200.0])
def test_a_venue_in_another_unit_does_not_vouch_for_the_outlier_of_another(
    stores: PostgresStores, conn: psycopg.Connection, factor: float
) -> None:
    """A soak met both: a tenth beside the price of another market, and a thousand times beside a hundred times."""
    now_s = T0 + 30 * 60 + 5
    um, spot = moved(walk(30), 29, factor), moved(walk(30), 29, 0.002 if factor < 1 else 1000.0)
    accept(stores, now_s, Delivery(BTC, "binance_um", um), Delivery(BTC, "binance_spot", spot))
    assert len(read_bars(conn)) == 29
    assert [venue for venue, _, _ in read_quarantine(conn)] == ["binance_spot", "binance_um"]


def test_a_new_unit_that_two_venues_say_alike_is_believed(stores: PostgresStores, conn: psycopg.Connection) -> None:
    um, spot = moved(walk(30), 29, 1000.0), moved(walk(30), 29, 1001.0)
    accept(stores, T0 + 30 * 60 + 5, Delivery(BTC, "binance_um", um), Delivery(BTC, "binance_spot", spot))
    assert read_bars(conn)[-1][1:] == (um.close[29], "binance_um")


def test_of_two_answers_about_history_the_outlier_is_believed_only_if_both_say_it(stores: PostgresStores, conn: psycopg.Connection) -> None:
    right, wrong = walk(30), moved(walk(30), 20, 0.8)
    now_s = T0 + 86_400
    accept(stores, now_s, Delivery(BTC, "binance_um", wrong), Delivery(BTC, "binance_um", right[20:21]))
    assert read_bars(conn)[20][1] == right.close[20]
    assert read_quarantine(conn) == [("binance_um", "outlier", True)]
    eth = "token:ETH:binance"
    accept(stores, now_s, Delivery(eth, "binance_um", wrong), Delivery(eth, "binance_um", wrong[20:21]))
    assert conn.execute("select count(*) from majors_price_data_ohlc where token_contract = 'ETH'").fetchone() == (30,)


def test_gaps_and_refused_bars_end_when_the_bar_comes(stores: PostgresStores, conn: psycopg.Connection) -> None:
    raw = walk(10)
    with stores.open() as work:
        work.bars.record_gaps(M1, "live", {BTC: np.array([T0 + 240, T0 + 300])}, {BTC: (T0, T0 + 600)}, LATER)
        work.bars.quarantine(BTC, M1, "binance_um", raw[4:5], ["bad_volume"], LATER)
    accept(stores, LATER, Delivery(BTC, "binance_um", raw[:5]))
    assert conn.execute("select extract(epoch from timestamp)::bigint from bar_gaps where resolved_at is null").fetchall() == [(T0 + 300,)]
    assert read_quarantine(conn) == [("binance_um", "bad_volume", True)]


def test_the_watermark_knows_the_newest_bar_and_when_vendors_were_heard(stores: PostgresStores, conn: psycopg.Connection) -> None:
    raw = walk(10)
    accept(stores, LATER, Delivery(BTC, "binance_um", raw))
    accept(stores, LATER + 60, Delivery(BTC, "binance_spot", raw[:3]))  # older bars move nothing back
    accept(stores, LATER + 120, Delivery(BTC, "binance_um", RawBars.empty()))
    query = "select source, extract(epoch from last_ts)::bigint, extract(epoch from last_asked_at)::bigint, extract(epoch from last_answered_at)::bigint from ingest_watermarks"  # noqa: E501
    assert conn.execute(query).fetchall() == [("binance_um", T0 + 540, LATER + 120, LATER + 60)]


def _store(stores: PostgresStores, conn: psycopg.Connection, calls: Sequence[Sequence[Delivery]]) -> list[tuple[int, float, str]]:
    conn.execute("truncate majors_price_data_ohlc, bar_quarantine, ingest_watermarks, bar_validity, derivation_marks")
    conn.commit()
    for at, deliveries in enumerate(calls):
        accept(stores, LATER + 60 * at, *deliveries)
    found = read_bars(conn)
    conn.commit()
    return found


PIECES = st.lists(st.tuples(st.booleans(), st.integers(0, 29), st.integers(1, 30)), min_size=0, max_size=5)


@given(pieces=PIECES, order=st.randoms(use_true_random=False), together=st.booleans())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_repetition_and_cuts_of_two_venues_deliveries_make_no_difference(
    stores: PostgresStores, conn: psycopg.Connection, pieces: list[tuple[bool, int, int]], order: Random, together: bool
) -> None:
    um = walk(30)[np.delete(np.arange(30), [7, 20, 21])]
    spot = moved(walk(30), 3, 1.002)[np.delete(np.arange(30), [20])]
    reference = _store(stores, conn, [[Delivery(BTC, "binance_um", um), Delivery(BTC, "binance_spot", spot)]])
    assert len(reference) == 29
    cuts = [Delivery(BTC, *(("binance_um", um) if is_um else ("binance_spot", spot))) for is_um, _, _ in pieces]
    parts = [replace(cut, raw=cut.raw[start : start + n]) for cut, (_, start, n) in zip(cuts, pieces, strict=True)]
    parts += [Delivery(BTC, "binance_um", um[:13]), Delivery(BTC, "binance_um", um[13:])]
    parts += [Delivery(BTC, "binance_spot", spot[:5]), Delivery(BTC, "binance_spot", spot[5:])]
    order.shuffle(parts)
    assert _store(stores, conn, [parts] if together else [[part] for part in parts]) == reference


@pytest.mark.realdata
def test_the_crash_of_october_2025_is_believed_bar_for_bar(database: str, conn: psycopg.Connection) -> None:
    folder = load_settings().shared / "market"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: the recorded market lies beside the checkout")
    universe = load_universe(UNIVERSE_FILE)
    source, day_s = RecordedMarket(folder), 1_760_054_400  # 2025-10-10
    start_s, end_s = day_s - 5 * 86_400, day_s + 3 * 86_400
    summary = ingest_bars(PostgresStores(database), source, universe, Timeframe.H1, Window(start_s, end_s), end_s + 3600)
    assert (summary.quarantined, summary.gaps) == (0, 0)
    # eight days of hours of every series whose recording reaches so far, and all of them are stored
    n_series = sum(rows.rows > 0 for rows in summary.series.values())
    assert n_series >= 29
    assert summary.written == n_series * 8 * 24
    (deepest,) = conn.execute("select min(low_usd / open_usd) from lowcap_price_data_ohlc").fetchall()
    assert deepest[0] < 0.5
