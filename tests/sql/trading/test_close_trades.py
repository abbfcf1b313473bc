"""Closing trades: in S0 and flat, once, with a summary; an attempt that lost money blocks (regime specification 8.7, 8.6, property 16)."""

from dataclasses import replace
from decimal import Decimal

import pytest

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.episodes import Episodes, Failure
from regime_pipeline.portfolio.position import Position, Status, VenueLimits
from regime_pipeline.services.trading.close_trades import Candidate, ClosedPosition, close_trades
from tests.booked import ACCOUNT, STRATEGY, SYMBOL, Books
from tests.builders import T0

D = Decimal
LIMITS = VenueLimits(D("0.001"), min_cost_usd=D(5))
HOUR_MS = 3_600_000
OPENED_MS = T0 * 1000 + 1 * HOUR_MS + 30_000
CLOSED_MS = T0 * 1000 + 4 * HOUR_MS + 20_000


@pytest.fixture
def books(database: str) -> Books:
    books = Books(database)
    for hour, (low, high) in enumerate([(99, 101), (95, 104), (90, 108), (97, 106), (94, 99), (50, 200)]):
        books.execute(
            "insert into lowcap_price_data_ohlc (token_contract, chain, timeframe, timestamp, open_usd, high_usd, low_usd, close_usd,"
            " volume, bars_used, expected_bars, is_final, source)"
            " values ('AAVE', 'binance', '1h', to_timestamp(%s), %s, %s, %s, %s, 1, 1, 1, true, 'x')",
            T0 + hour * 3600, low, high, low, low,
        )  # fmt: skip
    return books


def trade(books: Books, exit_price: str = "98", sold: str = "10") -> None:
    """Buy 10 at 100 on bar 1, sell on bar 4."""
    entry = books.order("entry", "10", bar=0)
    books.book(books.fill(entry, "1", "10", "100", venue_ts_ms=OPENED_MS))
    books.move(entry, "FILLED")
    exit_ = books.order("emergency_exit", "10", bar=3, trade_id=books.row()["current_trade_id"])
    books.book(books.fill(exit_, "2", sold, exit_price, venue_ts_ms=CLOSED_MS))
    books.move(exit_, "CANCELLED")


def candidate(books: Books, state: str = "S0", close: str = "94", **changes: object) -> Candidate:
    row = books.row()
    fields: dict[str, object] = {"quantity": row["total_quantity"], "trade": books.trade()}
    position = Position(row["id"], Status.ACTIVE, Timeframe.H1, LIMITS, **{**fields, **changes})  # type: ignore[arg-type]
    return Candidate(position, "token:AAVE:binance", SYMBOL, state, D(close))


def close(books: Books, each: Candidate) -> dict[int, ClosedPosition]:
    with books.stores.open() as work:
        return close_trades(work, ACCOUNT, STRATEGY, Timeframe.H1, [each], T0 * 1000 + 5 * HOUR_MS)


def test_a_trade_closes_in_s0_and_flat_with_its_summary(books: Books) -> None:
    trade(books)
    each = candidate(books)
    trade_id = books.row()["current_trade_id"]
    (closed,) = close(books, each).values()
    assert (closed.position.trade, closed.position.status) == (None, Status.WATCHLIST)
    ((stored,),) = books.execute(
        "select row(trade_id, account, strategy, symbol, allocated_usd::float8, extracted_usd::float8, pnl_usd::float8, return_frac,"
        " hold_s)::text"
        " from trade_summaries"
    )
    # bought for 1000, sold for 980
    assert stored == f"({trade_id},paper-main,onchain_crypto-1h,AAVE/USDT,1000,980,-20,-0.02,{(CLOSED_MS - OPENED_MS) // 1000})"
    # lowest 90 and highest 108 of bars 1 to 4, of 100
    assert books.execute("select max_drawdown_frac, max_gain_frac, rr from trade_summaries") == [
        (pytest.approx(0.1), pytest.approx(0.08), pytest.approx(-0.2))
    ]
    row = books.row()
    assert (row["status"], row["current_trade_id"], row["total_allocation_usd"], row["first_entry_timestamp"]) == (
        "watchlist",
        None,
        0,
        None,
    )
    assert row["closed_at"] is not None
    assert row["last_activity_timestamp"].timestamp() * 1000 == CLOSED_MS


def test_closing_twice_has_no_effect(books: Books) -> None:
    trade(books)
    each = candidate(books)
    assert len(close(books, each)) == 1
    assert close(books, each) == {}
    assert books.execute("select count(*) from trade_summaries") == [(1,)]


@pytest.mark.parametrize("state", ["S1", "S2", "S3", "S4"])
def test_outside_s0_a_trade_stays_open(books: Books, state: str) -> None:
    trade(books)
    assert close(books, candidate(books, state)) == {}
    assert books.row()["status"] == "active"


def test_what_can_still_be_sold_keeps_a_trade_open_and_dust_does_not(books: Books) -> None:
    trade(books, sold="9.9")
    assert close(books, candidate(books)) == {}
    assert len(close(books, candidate(books, close="49"))) == 1  # 0.1 is worth 4.9 now
    assert books.row()["total_quantity"] == D("0.1")


def test_a_fill_booked_since_the_position_was_loaded_counts(books: Books) -> None:
    trade(books, sold="9")
    stale = candidate(books, quantity=D(0))
    assert close(books, stale) == {}


def test_an_order_that_has_not_ended_keeps_a_trade_open(books: Books) -> None:
    trade(books)
    books.order("add", "1", bar=4, trade_id=books.row()["current_trade_id"])
    assert close(books, candidate(books)) == {}


def test_a_trade_whose_last_bar_is_not_stored_waits(books: Books) -> None:
    trade(books)
    books.execute("delete from lowcap_price_data_ohlc where timestamp >= to_timestamp(%s)", T0 + 4 * 3600)
    assert close(books, candidate(books)) == {}


def test_a_failed_attempt_that_lost_money_blocks_what_it_bought_in(books: Books) -> None:
    trade(books)
    failed = Episodes("S0", failure=Failure(T0, T0 + 4 * 3600))
    (closed,) = close(books, candidate(books, episodes=failed)).values()
    assert closed.position.episodes.failure is None
    assert (closed.position.block.blocked_s1, closed.position.block.blocked_s2) == (True, True)


def test_a_failed_attempt_that_made_money_blocks_nothing(books: Books) -> None:
    trade(books, "110")
    failed = Episodes("S0", failure=Failure(T0, T0 + 4 * 3600))
    (closed,) = close(books, candidate(books, episodes=failed)).values()
    assert (closed.position.block.blocked_s1, closed.position.block.blocked_s2) == (False, False)


def test_a_trade_that_never_fell_has_no_risk_reward(books: Books) -> None:
    books.execute("update lowcap_price_data_ohlc set low_usd = 100, open_usd = high_usd, close_usd = high_usd where high_usd > 100")
    books.execute("update lowcap_price_data_ohlc set low_usd = 100, high_usd = 100, open_usd = 100, close_usd = 100 where high_usd <= 100")
    trade(books, "110")
    assert len(close(books, candidate(books))) == 1
    assert books.execute("select rr, max_drawdown_frac from trade_summaries") == [(None, 0.0)]


def test_the_next_entry_opens_a_new_trade(books: Books) -> None:
    trade(books)
    first = books.row()["current_trade_id"]
    close(books, candidate(books))
    entry = books.order("entry", "1", bar=6)
    books.book(books.fill(entry, "9", "1", "120"))
    row = books.row()
    assert row["current_trade_id"] not in (None, first)
    assert (row["total_allocation_usd"], row["closed_at"]) == (120, None)


def test_a_late_fill_of_a_closed_trade_is_held_and_reported(books: Books) -> None:
    trade(books)
    close(books, replace(candidate(books)))
    (late,) = books.execute("select client_order_id from order_intents where side = 'sell'")[0]
    entry = books.execute("select client_order_id from order_intents where side = 'buy'")[0][0]
    books.book(books.fill(entry, "7", "0.5", "100"))
    assert books.row()["total_quantity"] == D("0.5")
    assert books.row()["current_trade_id"] is None
    assert set(books.incidents()) == {"LATE_FILL", "OVERFILL", "FILL_OF_CLOSED_TRADE"}
    assert books.execute("select count(*) from trade_summaries") == [(1,)]
    books.book(books.fill(late, "8", "0.5", "90"))
    assert books.row()["total_quantity"] == 0


def test_the_tick_may_close_a_trade_with_its_own_role(books: Books) -> None:
    trade(books, sold="9.99")
    each = candidate(books)
    with books.stores.open() as work:
        work.conn.execute("set local role regime_pm")
        assert len(close_trades(work, ACCOUNT, STRATEGY, Timeframe.H1, [each], T0 * 1000 + 5 * HOUR_MS)) == 1
    row = books.row()
    assert (row["status"], row["total_quantity"], row["current_trade_id"]) == ("watchlist", D("0.01"), None)
