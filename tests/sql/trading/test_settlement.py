"""Flows, marked equity and settlement: what an account made, by its value, its balance and its fills (specification 4, G10)."""

from dataclasses import replace
from decimal import Decimal
from random import Random

import pytest

from regime_pipeline.errors import BadInputError
from regime_pipeline.ports import FundingPayment
from regime_pipeline.services.trading.mark_equity import MarkedEquity, mark_equity
from regime_pipeline.services.trading.open_account import adjust, book_funding_payments, deposit
from regime_pipeline.services.trading.settle import Settlement, settle
from tests.booked import ACCOUNT, LINEAR, NOW_MS, SPOT, STRATEGY, Books

D = Decimal
START_S = NOW_MS // 1000 - 3600
END_S = NOW_MS // 1000


@pytest.fixture
def books(database: str) -> Books:
    books = Books(database)
    fund(books, "USDT", "100000", "opening", START_S - 60)
    return books


def fund(books: Books, asset: str, amount: str, reference: str, at_s: int) -> bool:
    with books.stores.open() as work:
        return deposit(work, SPOT, asset, D(amount), reference, at_s * 1000)


def settled(books: Books, start_s: int = START_S, end_s: int = END_S) -> Settlement:
    with books.stores.open() as work:
        return settle(work, ACCOUNT, start_s, end_s)


def marked(books: Books, at_s: int = END_S) -> MarkedEquity:
    with books.stores.open() as work:
        return mark_equity(work, ACCOUNT, at_s)


def close_at(books: Books, contract: str, price: float, at_s: int = END_S, timeframe: str = "1h", table: str = "lowcap") -> None:
    """Store a bar that has ended at an instant."""
    length_s = {"1m": 60, "1h": 3600, "1d": 86_400}[timeframe]
    books.execute(
        f"insert into {table}_price_data_ohlc (token_contract, chain, timeframe, timestamp, open_usd, high_usd, low_usd, close_usd, volume,"
        " bars_used, expected_bars, is_final, source) values (%s, 'binance', %s, to_timestamp(%s), %s, %s, %s, %s, 1000, 1, 1, true, 'x')",
        contract, timeframe, at_s - length_s, price, price, price, price,
    )  # fmt: skip


def round_trip(books: Books, contract: str = "BTC", tag: str = "") -> None:
    """Trade W5 and W6: 459.0205 made."""
    symbol = f"{contract}/USDT"
    entry = books.order("entry", "0.5", symbol=symbol)
    books.book(books.fill(entry, f"{tag}1", "0.5", "40000", "0.0005", contract, venue_ts_ms=NOW_MS - 600_000))
    exit_ = books.order("emergency_exit", "0.4995", symbol=symbol, trade_id=books.row(contract)["current_trade_id"])
    books.book(books.fill(exit_, f"{tag}2", "0.4995", "41000", "20.4795", "USDT", venue_ts_ms=NOW_MS - 300_000))


def test_a_flow_is_booked_once_per_reference_and_moves_the_paper_broker_with_it(books: Books) -> None:
    assert not fund(books, "USDT", "100000", "opening", START_S)
    assert fund(books, "USDT", "-500", "w1", START_S + 60)
    assert books.wallet("USDT", "_account") == 99_500
    assert books.execute("select total from paper.balances") == [(99_500,)]
    with pytest.raises(BadInputError, match="flow was 0"):
        fund(books, "USDT", "0", "x", START_S)
    with pytest.raises(BadInputError, match="withdrawal was 99501 USDT, more than"):
        fund(books, "USDT", "-99501", "w2", START_S)


def test_an_adjustment_names_its_person(books: Books) -> None:
    with books.stores.open() as work:
        assert adjust(work, ACCOUNT, "_orphan", "AAVE", D("0.01"), "f7", NOW_MS, actor="ida", reason="dust of an airdrop")
        assert not adjust(work, ACCOUNT, "_orphan", "AAVE", D("0.01"), "f7", NOW_MS, actor="ida", reason="dust of an airdrop")
    rows = books.execute("select actor, reason from ledger_entries where ledger_account = 'ADJUST'")
    assert rows == [("ida", "dust of an airdrop")]
    with books.stores.open() as work, pytest.raises(BadInputError, match="a person and a reason"):
        adjust(work, ACCOUNT, "_orphan", "AAVE", D(1), "f8", NOW_MS, actor="", reason="x")


def test_a_flat_window_is_explained_by_its_balance_its_fills_and_its_value(books: Books) -> None:
    round_trip(books)
    report = settled(books)
    # 499.5 made by price less fees of 0.0005 x 40 000 and 20.4795 (W6)
    assert (report.price_pnl, report.fees) == (D("499.5"), D("40.4795"))
    assert report.net_pnl == report.quote_change == D("459.0205")
    assert report.unrealised_change == 0
    assert (report.is_flat, report.is_explained, report.n_fills) == (True, True, 2)


def test_what_comes_from_outside_is_no_result(books: Books) -> None:
    round_trip(books)
    fund(books, "USDT", "5000", "d1", START_S + 60)
    report = settled(books)
    assert (report.external, report.net_pnl, report.quote_change) == (5000, D("459.0205"), D("5459.0205"))
    assert report.is_explained


def test_third_asset_fees_count_at_their_mark(books: Books) -> None:
    close_at(books, "BNB", 500.0, START_S, table="majors")
    fund(books, "BNB", "1", "bnb", START_S - 30)
    entry = books.order("entry", "2")
    books.book(books.fill(entry, "1", "2", "100", "0.0004", "BNB", venue_ts_ms=NOW_MS - 600_000))
    exit_ = books.order("emergency_exit", "2", trade_id=books.row()["current_trade_id"])
    books.book(books.fill(exit_, "2", "2", "103", "0.0005", "BNB", venue_ts_ms=NOW_MS - 300_000))
    report = settled(books)
    # 6 made, 0.0009 BNB at 500 paid
    assert (report.quote_change, report.third_fees, report.net_pnl) == (6, D("0.45"), D("5.55"))
    assert (report.is_flat, report.is_explained) == (True, True)


def test_an_open_position_counts_at_its_close(books: Books) -> None:
    entry = books.order("entry", "2")
    books.book(books.fill(entry, "1", "2", "100", "0.002", "AAVE", venue_ts_ms=NOW_MS - 600_000))
    close_at(books, "AAVE", 110.0)
    report = settled(books)
    # 1.998 at 110 for 200: 19.78; of it 0.2 are the fee and the rest is not realised
    assert (report.net_pnl, report.price_pnl, report.fees, report.unrealised_change) == (D("19.78"), 0, D("0.2"), D("19.98"))
    assert (report.is_flat, report.is_explained) == (False, True)


def test_funding_is_shared_by_who_held_the_contract(books: Books) -> None:
    books.traits = LINEAR
    symbol = "AAVE/USDT:USDT"
    for strategy, qty in ((STRATEGY, "2"), ("onchain_crypto-4h", "1")):
        timeframe = strategy.rpartition("-")[2]
        (position_id,) = books.execute(
            "insert into lowcap_positions (token_contract, token_chain, timeframe, token_ticker, status, book_id)"
            " values ('AAVE', 'binance', %s, 'AAVE', 'watchlist', 'onchain_crypto') returning id",
            timeframe,
        )[0]
        (action_id,) = books.execute(
            "insert into pm_actions (idempotency_key, position_id, bar_ts, kind, signal, funding, status, a_value, e_value)"
            " values (%s, %s, now(), 'entry', 's1_buy', 'remaining', 'planned', 0, 0) returning id",
            strategy, position_id,
        )[0]  # fmt: skip
        order = books.order("entry", qty, symbol=symbol, strategy=strategy, action_id=action_id)
        books.book(books.fill(order, strategy, qty, "100", "0.1", "USDT", venue_ts_ms=NOW_MS - 600_000))
        books.move(order, "FILLED")
    payment = FundingPayment(symbol, D("-0.10"), NOW_MS - 60_000, "f1")
    with books.stores.open() as work:
        assert book_funding_payments(work, LINEAR, [payment]) == 1
        assert book_funding_payments(work, LINEAR, [payment]) == 0
    # of 0.10 two thirds by the larger holder, which also takes the last digit
    assert books.wallet("USDT", "onchain_crypto-4h") == D("-0.1") - D("0.033333333333333333")
    assert books.wallet("USDT", STRATEGY) == D("-0.1") - D("0.066666666666666667")
    close_at(books, "AAVE", 101.0)
    report = settled(books)
    # 3 contracts, one point up; funding and both fees paid
    assert (report.net_pnl, report.funding, report.unrealised_change) == (D("2.7"), D("-0.1"), D(3))


def test_equity_is_cash_and_holdings_at_the_closes_known_then(books: Books) -> None:
    entry = books.order("entry", "2")
    books.book(books.fill(entry, "1", "2", "100", venue_ts_ms=NOW_MS - 600_000))
    close_at(books, "AAVE", 108.0)
    close_at(books, "AAVE", 107.0, END_S - 120, "1m")
    close_at(books, "AAVE", 90.0, END_S + 60, "1m")  # not known yet
    point = marked(books)
    assert point.equity_quote == 100_000 - 200 + 216
    assert books.execute("select equity_quote, cash_quote, holdings from equity_points") == [
        (100_016, 99_800, {"AAVE/USDT": {"qty": "2.000000000000000000", "mark": "108.0"}})
    ]
    assert marked(books, END_S + 60).equity_quote == 100_000 - 200 + 180
    assert marked(books) == point
    assert books.execute("select count(*) from equity_points") == [(2,)]


def test_equity_at_an_instant_knows_nothing_of_later_fills(books: Books) -> None:
    round_trip(books)
    assert marked(books, START_S).equity_quote == 100_000
    assert marked(books, END_S).equity_quote == D("100459.0205")


def test_an_unpriced_holding_gives_no_point(books: Books) -> None:
    entry = books.order("entry", "2")
    books.book(books.fill(entry, "1", "2", "100"))
    with pytest.raises(BadInputError, match="no close was known for AAVE"):
        marked(books)
    assert books.execute("select * from equity_points") == []


def test_many_random_round_trips_settle_to_the_last_digit(books: Books) -> None:
    random = Random(11)
    for n in range(12):
        contract = f"T{n}"
        entry = books.order("entry", "10", symbol=f"{contract}/USDT")
        bought = D(0)
        for k in range(random.randint(1, 4)):
            qty = D(random.randint(1, 2000)) / 1000
            fee = (qty / 1000).quantize(D("1e-18"))
            price = D(random.randint(90_000, 110_000)) / 1000
            books.book(books.fill(entry, f"{n}b{k}", str(qty), str(price), str(fee), contract, venue_ts_ms=NOW_MS - 600_000 + k))
            bought += qty - fee
        exit_ = books.order("emergency_exit", bought, symbol=f"{contract}/USDT", trade_id=books.row(contract)["current_trade_id"])
        half = (bought / 2).quantize(D("1e-9"))
        for k, qty in enumerate((half, bought - half)):
            price = D(random.randint(90_000, 110_000)) / 1000
            fee = (qty * price / 1000).quantize(D("1e-18"))
            books.book(books.fill(exit_, f"{n}s{k}", str(qty), str(price), str(fee), "USDT", venue_ts_ms=NOW_MS - 300_000 + k))
    report = settled(books)
    assert (report.is_flat, report.is_explained) == (True, True)
    assert abs(report.net_pnl - report.quote_change) <= D("1e-8")
    assert abs(report.price_pnl - report.fees - report.net_pnl) <= D("1e-8")


def test_a_window_without_anything(books: Books) -> None:
    report = settled(books)
    assert replace(report, start=report.end).net_pnl == 0
    assert report.is_explained
