"""Booking fills: once each, in any order, and everything that follows from them with them (W4 to W6, X29 to X31, X34, I06 to I08)."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from itertools import permutations
from random import Random

import psycopg
import pytest

from regime_pipeline.execution.fills import Fill, FillKeyRule
from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.book_fills import book_fills
from tests.booked import ACCOUNT, LINEAR, NOW_MS, STRATEGY, SYMBOL, Books
from tests.builders import T0

D = Decimal


@pytest.fixture
def books(database: str) -> Books:
    return Books(database)


def w4_reports(books: Books, order: str, tag: str = "") -> dict[str, Fill]:
    return {
        "t1": books.fill(order, f"{tag}t1", "0.4", "100", "0.0004", "AAVE"),
        "t2": books.fill(order, f"{tag}t2", "0.35", "101", "0.00035", "AAVE"),
        "t3": books.fill(order, f"{tag}t3", "0.25", "102", "0.0255", "USDT"),
    }


def check_balance(books: Books) -> None:
    """Every batch sums to 0 per asset, and the balances are the sums of the entries."""
    assert books.execute("select batch_id from ledger_entries group by batch_id, asset having sum(amount) <> 0") == []
    assert (
        books.execute(
            "select strategy, ledger_account, asset, sum(amount) from ledger_entries group by 1, 2, 3"
            " except select strategy, ledger_account, asset, balance from ledger_balances"
        )
        == []
    )


def check_position(books: Books, contract: str = "AAVE") -> None:
    """The position's row says what folding the stored actions says, and its averages follow."""
    row, trade = books.row(contract), books.trade(contract)
    assert row["total_allocation_usd"] == trade.allocated_usd
    assert row["total_extracted_usd"] == trade.extracted_usd
    assert row["total_tokens_bought"] == trade.bought_qty
    assert row["total_tokens_sold"] == trade.sold_qty
    assert abs(row["avg_entry_price"] - trade.allocated_usd / trade.bought_qty) < D("1e-17")
    assert abs(row["realised_pnl_usd"] + row["unrealised_pnl_usd"] - row["total_pnl_usd"]) < D("1e-17")


def test_w4_all_thirty_orders_of_the_reports_book_the_same(books: Books) -> None:
    orders = sorted(set(permutations(["t1", "t2", "t3", "t1", "t3"])))
    assert len(orders) == 30
    for n, names in enumerate(orders):
        symbol = f"T{n}/USDT"
        order = books.order("entry", "1", symbol=symbol, bar=0)
        reports = w4_reports(books, order, f"{n}-")
        reports = {name: replace(fill, fee_asset=f"T{n}" if fill.fee_asset == "AAVE" else "USDT") for name, fill in reports.items()}
        for name in names:
            summary = books.book(reports[name])
        assert summary.filled == {order: D(1)}
        # 1.0 bought less 0.0004 and 0.00035 of it for fees
        assert books.wallet(f"T{n}") == D("0.99925")
        row, trade = books.row(f"T{n}"), books.trade(f"T{n}")
        assert row["total_quantity"] == row["total_tokens_bought"] == trade.bought_qty == D("0.99925")
        # 0.4 x 100 + 0.35 x 101 + 0.25 x 102 is 100.85, and 0.0255 of fees in quote
        assert row["total_allocation_usd"] == D("100.8755")
        (action,) = books.execute("select filled_qty, filled_usd from pm_actions where position_id = %s", row["id"])
        assert action == (1, D("100.85"))
    # 30 orders spent 100.8755 each
    assert books.wallet("USDT") == -30 * D("100.8755")
    assert books.incidents() == []
    check_balance(books)


def test_w4_after_t3_and_t1_only(books: Books) -> None:
    order = books.order("entry", "1")
    reports = w4_reports(books, order)
    summary = books.book(reports["t3"], reports["t1"])
    assert summary.filled == {order: D("0.65")}
    assert books.wallet("AAVE") == D("0.6496")
    check_position(books)
    (action,) = books.execute("select filled_qty, filled_usd, fee_qty, fee_usd, status from pm_actions")
    # 0.25 x 102 + 0.4 x 100 is 65.5, at 100.769... on average
    assert action == (D("0.65"), D("65.5"), D("0.0004"), D("0.0255"), "planned")


def test_w5_and_w6_as_stored_rows(books: Books) -> None:
    entry = books.order("entry", "0.5", symbol="BTC/USDT")
    books.book(books.fill(entry, "1", "0.5", "40000", "0.0005", "BTC"))
    lines = books.execute("select asset, ledger_account, amount from ledger_entries order by batch_id, line")
    assert lines == [
        ("BTC", "WALLET", D("0.5")),
        ("BTC", "TRADE", D("-0.5")),
        ("BTC", "WALLET", D("-0.0005")),
        ("BTC", "FEE", D("0.0005")),
        ("USDT", "WALLET", D(-20_000)),
        ("USDT", "TRADE", D(20_000)),
    ]
    assert books.row("BTC")["total_quantity"] == D("0.4995")
    exit_ = books.order("emergency_exit", "0.4995", symbol="BTC/USDT", trade_id=books.row("BTC")["current_trade_id"])
    books.book(books.fill(exit_, "2", "0.4995", "41000", "20.4795", "USDT"))
    # 0.4995 x 41 000 less the fee came back; with the 20 000 spent that is 459.0205
    assert books.wallet("USDT") == D("459.0205")
    assert books.wallet("BTC") == 0
    row = books.row("BTC")
    assert row["total_extracted_usd"] == D("20459.0205")
    assert row["total_pnl_usd"] == row["realised_pnl_usd"] == D("459.0205")
    check_position(books, "BTC")
    check_balance(books)


def test_the_first_fill_opens_the_trade_and_names_it_by_its_entry(books: Books) -> None:
    order = books.order("entry", "2")
    assert books.row()["current_trade_id"] is None
    books.book(books.fill(order, "1", "0.5", "100", venue_ts_ms=NOW_MS - 30_000))
    row = books.row()
    assert row["status"] == "active"
    assert row["current_trade_id"] is not None
    assert books.execute("select trade_id from pm_actions") == [(row["current_trade_id"],)]
    books.book(books.fill(order, "2", "0.5", "101", venue_ts_ms=NOW_MS - 50_000))
    again = books.row()
    assert again["current_trade_id"] == row["current_trade_id"]
    assert again["first_entry_timestamp"].timestamp() * 1000 == NOW_MS - 50_000
    assert again["last_activity_timestamp"].timestamp() * 1000 == NOW_MS - 30_000


def test_repetitions_write_nothing(books: Books) -> None:
    order = books.order("entry", "1")
    reports = list(w4_reports(books, order).values())
    assert books.book(*reports).booked == 3
    before = books.execute("select xmin::text, ctid::text from lowcap_positions union all select xmin::text, ctid::text from pm_actions")
    again = books.book(*reports, *reports)
    assert (again.booked, again.repeated, again.filled) == (0, 6, {order: D(1)})
    assert (
        books.execute("select xmin::text, ctid::text from lowcap_positions union all select xmin::text, ctid::text from pm_actions")
        == before
    )


def test_ten_thousand_permutations_and_repetitions_sum_up_the_same(books: Books) -> None:
    """10 000 orders with the five reports of W4, all shuffled together and cut into batches of any size (X29)."""
    random, n = Random(7), 10_000
    action = books.action("entry", 0)
    with psycopg.connect(books.url) as conn:
        conn.execute(
            "insert into order_intents (client_order_id, account, strategy, symbol, bar_close, leg, seq, action_id, purpose, side,"
            " type, qty, limit_price, reduce_only, tif, mode, origin, payload_hash, decide_by)"
            " select lpad(to_hex(n), 32, '0'), %s, %s, %s, to_timestamp(%s), 'trim', n, case n when 1 then %s::bigint end, 'reduce', 'buy',"
            " 'limit', 1, 100, false, 'GTC', 'paper', 'strategy', '', now() from generate_series(1, %s) as n",
            (ACCOUNT, STRATEGY, SYMBOL, T0, action, n),
        )
        conn.execute(
            "insert into orders (client_order_id, venue, account, strategy, symbol, purpose, state, venue_order_id)"
            " select client_order_id, 'paper', account, strategy || '-' || seq, symbol, purpose, 'INTENT', 'v' || seq from order_intents"
        )
    reports = [report for k in range(1, n + 1) for report in w4_of(k)]
    random.shuffle(reports)
    booked = 0
    while reports:
        size = random.choice((1, 3, 20, 300, 900))
        batch, reports = reports[:size], reports[size:]
        booked += books.book(*batch).booked
    assert booked == 3 * n
    sums = books.execute(
        "select count(*), min(filled), max(filled) from (select sum(qty) as filled from fills group by client_order_id) as s"
    )
    assert sums == [(n, 1, 1)]
    totals = books.execute("select asset, sum(balance) from ledger_balances where ledger_account = 'WALLET' group by asset order by asset")
    assert totals == [("AAVE", n * D("0.99925")), ("USDT", -n * D("100.8755"))]
    check_balance(books)


def w4_of(k: int) -> Sequence[Fill]:
    def report(trade: str, qty: str, price: str, fee: str, asset: str) -> Fill:
        fill_id = f"{k}-{trade}"
        return Fill("paper", ACCOUNT, "spot", SYMBOL, f"v{k}", fill_id, Side.BUY, D(qty), D(price), D(fee), asset, NOW_MS)

    t1 = report("t1", "0.4", "100", "0.0004", "AAVE")
    t2 = report("t2", "0.35", "101", "0.00035", "AAVE")
    t3 = report("t3", "0.25", "102", "0.0255", "USDT")
    return t1, t2, t3, t1, t3


def test_other_content_under_the_same_key_is_kept_apart(books: Books) -> None:
    order = books.order("entry", "1")
    first = books.fill(order, "1", "0.4", "100", "0.0004", "AAVE")
    books.book(first)
    other = replace(first, qty=D("0.5"))
    summary = books.book(other)
    assert (summary.booked, summary.conflicts, summary.filled) == (0, 1, {order: D("0.4")})
    assert books.book(other).conflicts == 1
    assert books.execute("select reported ->> 'qty', stored ->> 'qty' from fills_conflict") == [("0.5", "0.4")]
    assert books.incidents() == ["FILL_CONFLICT"]
    assert books.wallet("AAVE") == D("0.3996")


def test_two_contradicting_reports_of_one_batch(books: Books) -> None:
    order = books.order("entry", "1")
    first = books.fill(order, "1", "0.4", "100")
    assert books.book(first, replace(first, price=D(99))).conflicts == 1
    assert books.execute("select price from fills") == [(100,)]


def test_a_fill_of_an_order_that_has_ended_is_late(books: Books) -> None:
    order = books.order("entry", "1")
    books.move(order, "CANCELLED")
    summary = books.book(books.fill(order, "1", "0.4", "100"))
    assert (summary.booked, summary.late) == (1, 1)
    assert books.execute("select is_late from fills") == [(True,)]
    assert books.incidents() == ["LATE_FILL"]
    assert books.row()["total_quantity"] == D("0.4")
    check_position(books)


def test_a_late_fill_of_an_old_action_folds_the_trade_again(books: Books) -> None:
    entry = books.order("entry", "10", bar=0)
    books.book(books.fill(entry, "1", "9", "100"))
    trade_id = books.row()["current_trade_id"]
    trim = books.order("trim", "4", bar=1, trade_id=trade_id)
    books.book(books.fill(trim, "2", "3", "120"))
    books.move(entry, "CANCELLED")
    add = books.order("add", "1", bar=2, trade_id=trade_id)
    books.book(books.fill(add, "3", "1", "90"))
    assert books.trade().pool.dx_count == 1
    books.move(trim, "CANCELLED")
    assert books.book(books.fill(trim, "4", "1", "121")).late == 1
    check_position(books)
    # the trim brought 3 x 120 + 121, as if it had all come in time
    assert books.trade().pool.usd_basis == D(481)
    assert books.row()["total_quantity"] == 6


def test_an_overfill_is_booked_in_full_and_flagged(books: Books) -> None:
    order = books.order("entry", "1")
    books.book(books.fill(order, "1", "0.9", "100"))
    summary = books.book(books.fill(order, "2", "0.2", "100"))
    assert (summary.overfilled, summary.filled) == (1, {order: D("1.1")})
    assert books.execute("select flags from orders") == [(["overfill"],)]
    assert books.incidents() == ["OVERFILL"]
    assert books.wallet("AAVE") == D("1.1")
    check_position(books)


def test_a_fee_that_becomes_known_is_a_batch_of_its_own(books: Books) -> None:
    order = books.order("entry", "1")
    fill = books.fill(order, "1", "1", "100")
    books.book(fill)
    assert books.row()["total_allocation_usd"] == 100
    done = replace(fill, fee_amount=D("0.1"), fee_asset="USDT")
    summary = books.book(done)
    assert (summary.completed, summary.booked) == (1, 0)
    assert books.book(done, fill).repeated == 2
    assert books.wallet("USDT") == D("-100.1")
    assert books.row()["total_allocation_usd"] == D("100.1")
    assert books.execute("select source from ledger_entries where ledger_account = 'FEE'") == [("fee:paper:paper-main:spot:AAVE/USDT:1",)]
    check_position(books)
    check_balance(books)


def test_a_fee_in_a_third_asset_is_worth_its_mark(books: Books) -> None:
    order = books.order("entry", "1")
    books.book(books.fill(order, "1", "1", "100", "0.0002", "BNB"), marks_quote={"BNB": D(500)})
    assert books.execute("select fee_qty, fee_usd from pm_actions") == [(0, D("0.1"))]
    assert books.wallet("BNB") == D("-0.0002")
    assert books.row()["total_allocation_usd"] == D("100.1")
    assert books.incidents() == []


def test_a_fee_that_nothing_prices_is_an_incident(books: Books) -> None:
    order = books.order("entry", "1")
    books.book(books.fill(order, "1", "1", "100", "0.0002", "BNB"))
    assert books.incidents() == ["FEE_UNPRICED"]
    assert books.wallet("BNB") == D("-0.0002")


def test_a_rebate_comes_in(books: Books) -> None:
    order = books.order("entry", "1")
    books.book(books.fill(order, "1", "1", "100", "-0.01", "USDT"))
    assert books.wallet("USDT") == D("-99.99")
    assert books.row()["total_allocation_usd"] == D("99.99")


@pytest.mark.parametrize("by_report", [False, True])
def test_a_fill_before_the_acknowledgement_is_linked_later(books: Books, by_report: bool) -> None:
    order = books.order("entry", "1", venue_order_id=None, state="SUBMITTING")
    fill = books.fill(order, "1", "0.4", "100", "0.0004", "AAVE")
    assert books.book(fill).unlinked == 1
    assert books.wallet("AAVE", "_external") == D("0.3996")
    assert books.row()["current_trade_id"] is None
    if by_report:  # the acknowledgement has been stored, and the poll repeats the fill
        books.move(order, "OPEN", fill.venue_order_id)
        summary = books.book(fill)
    else:  # the acknowledgement is about to be stored
        summary = books.book(known={fill.venue_order_id: order})
    assert (summary.linked, summary.filled) == (1, {order: D("0.4")})
    assert (books.wallet("AAVE", "_external"), books.wallet("USDT", "_external")) == (0, 0)
    assert (books.wallet("AAVE"), books.wallet("USDT")) == (D("0.3996"), D(-40))
    assert books.row()["status"] == "active"
    check_position(books)
    check_balance(books)
    assert books.book(fill, known={fill.venue_order_id: order}).linked == 0


def test_an_acknowledgement_that_carries_its_trades(books: Books) -> None:
    order = books.order("entry", "1", venue_order_id=None, state="SUBMITTING")
    fill = books.fill(order, "1", "1", "100")
    summary = books.book(fill, known={fill.venue_order_id: order})
    assert (summary.unlinked, summary.filled) == (0, {order: D(1)})


def test_a_linked_fill_whose_fee_comes_with_the_same_report(books: Books) -> None:
    order = books.order("entry", "1", venue_order_id=None, state="SUBMITTING")
    fill = books.fill(order, "1", "1", "100")
    books.book(fill)
    books.move(order, "OPEN", fill.venue_order_id)
    summary = books.book(replace(fill, fee_amount=D("0.001"), fee_asset="AAVE"))
    assert (summary.linked, summary.completed) == (1, 1)
    assert books.wallet("AAVE") == D("0.999")
    assert books.wallet("AAVE", "_external") == 0
    check_position(books)
    check_balance(books)


def test_a_second_child_belongs_to_the_same_action(books: Books) -> None:
    entry = books.order("entry", "10", bar=0)
    books.book(books.fill(entry, "1", "10", "100"))
    exit_ = books.order("emergency_exit", "10", bar=1, trade_id=books.row()["current_trade_id"])
    books.book(books.fill(exit_, "2", "4", "99"))
    books.move(exit_, "CANCELLED")
    (action_id,) = books.execute("select action_id from order_intents where client_order_id = %s", exit_)[0]
    status = "select status from pm_actions where id = %s"
    assert books.execute(status, action_id) == [("done",)]
    child = books.order("emergency_exit", "6", bar=1, seq=1, action_id=action_id, replaces=exit_)
    assert books.execute(status, action_id) == [("planned",)]
    books.book(books.fill(child, "3", "6", "98"))
    books.move(child, "FILLED")
    (action,) = books.execute("select filled_qty, filled_usd, status from pm_actions where id = %s", action_id)
    assert action == (10, 4 * 99 + 6 * 98, "done")
    check_position(books)


def test_venues_that_tell_fills_apart_by_cumulative_quantity(books: Books) -> None:
    books.traits = replace(books.traits, fill_key_rule=FillKeyRule.CUMULATIVE_QTY)
    order = books.order("entry", "1")
    part = books.fill(order, "", "0.4", "100", cumulative_qty=D("0.4"))
    rest = books.fill(order, "", "0.6", "100", cumulative_qty=D("1.0"))
    books.book(part, rest)
    assert books.book(rest, part).repeated == 2
    assert books.wallet("AAVE") == 1


def test_contracts_realise_at_average_entry_however_they_come(books: Books) -> None:
    books.traits = LINEAR
    symbol = "AAVE/USDT:USDT"
    entry = books.order("entry", "3", symbol=symbol, bar=0)
    books.book(books.fill(entry, "1", "1", "100", "0.06", "USDT"))
    books.book(books.fill(entry, "2", "2", "103", "0.1", "USDT"))
    exit_ = books.order("emergency_exit", "3", symbol=symbol, bar=1, trade_id=books.row()["current_trade_id"])
    books.book(books.fill(exit_, "3", "1", "110", "0.05", "USDT"))
    # opened at 306 / 3 = 102 on average: 8 made on one, 0.21 paid in fees
    assert books.wallet("USDT") == D("7.79")
    assert books.row()["total_quantity"] == 2
    books.book(books.fill(exit_, "4", "2", "99"))
    # 6 lost on the other two
    assert books.wallet("USDT") == D("1.79")
    balances = books.execute("select ledger_account, asset, balance from ledger_balances where balance <> 0 and asset <> 'USDT'")
    assert balances == []
    check_balance(books)


def test_a_repeated_report_of_another_process_waits_for_the_first(books: Books) -> None:
    order = books.order("entry", "1")
    fill = books.fill(order, "1", "1", "100")
    with books.stores.open() as mine:
        assert book_fills(mine, books.traits, [fill], NOW_MS).booked == 1
        with psycopg.connect(books.url) as other, pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("select from orders where client_order_id = %s for update nowait", (order,))
    assert books.book(fill).repeated == 1


def test_a_batch_that_does_not_sum_to_zero_is_refused_at_commit(books: Books) -> None:
    insert = (
        "insert into ledger_entries (batch_id, line, account, strategy, ledger_account, asset, amount, source, booked_for)"
        " values (1, 1, 'a', 's', 'WALLET', 'USDT', 5, 'external:x', now()), (1, 2, 'a', 's', 'EXTERNAL', 'USDT', -4, 'external:x', now())"
    )
    with pytest.raises(psycopg.errors.IntegrityError, match=r"ledger batch 1 \(external:x\) was off by 1\.0+ USDT"):
        books.execute(insert)
    assert books.execute("select * from ledger_balances") == []


def test_a_batch_comes_in_one_statement(books: Books) -> None:
    insert = (
        "insert into ledger_entries (batch_id, line, account, strategy, ledger_account, asset, amount, source, booked_for)"
        " values (1, 2, 'a', 's', 'WALLET', 'USDT', 5, 'external:x', now())"
    )
    with pytest.raises(psycopg.errors.IntegrityError, match="written in parts"):
        books.execute(insert)


@pytest.mark.parametrize("table", ["ledger_entries", "fills", "fills_conflict"])
def test_what_is_booked_stays(books: Books, table: str) -> None:
    order = books.order("entry", "1")
    books.book(books.fill(order, "1", "1", "100"))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        books.execute(f"delete from {table}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        books.execute("update fills set qty = 2")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        books.execute("update fills set client_order_id = null")


def test_an_order_without_an_action_moves_the_ledger_alone(books: Books) -> None:
    key = LogicalKey(ACCOUNT, "_kill", SYMBOL, T0, Leg.FLATTEN)
    books.insert_order(key, "sell", D(1), None)
    books.venue_ids[key.client_order_id] = "v1"
    books.move(key.client_order_id, "OPEN", "v1")
    books.book(books.fill(key.client_order_id, "1", "1", "100"))
    assert books.wallet("USDT", "_kill") == 100
    assert books.execute("select id from pm_actions") == []


class Killed(BaseException):
    """What a killed process does not live to see."""


def kill_at(n: int) -> tuple[list[str], Callable[[str], None]]:
    """A checkpoint that dies at the n-th point it is called at, and what it has passed."""
    passed: list[str] = []

    def at(point: str) -> None:
        passed.append(point)
        if len(passed) == n:
            raise Killed(point)

    return passed, at


def everything(books: Books) -> list[tuple[object, ...]]:
    """All that booking writes."""
    return books.execute(
        "select (select count(*) from fills), (select count(*) from ledger_entries), (select sum(filled_qty) from pm_actions),"
        " (select string_agg(total_quantity || ' ' || total_allocation_usd || ' ' || coalesce(current_trade_id::text, ''), ',')"
        " from lowcap_positions), (select count(*) from incidents), (select string_agg(flags::text, '') from orders)"
    )


def test_killed_after_any_statement_it_has_booked_nothing_and_books_the_same_again(books: Books) -> None:
    """X05: a linked fill, a fee that becomes known, a late one and an overfill in one batch."""
    early = books.order("entry", "1", symbol="T1/USDT", venue_order_id=None, state="SUBMITTING")
    first = books.fill(early, "1", "0.4", "100", "0.0004", "T1")
    late = books.order("entry", "1", symbol="T2/USDT")
    provisional = books.fill(late, "2", "0.9", "100")
    books.book(first, provisional)
    books.move(early, "OPEN", first.venue_order_id)
    books.move(late, "CANCELLED")
    reports = [
        first,
        replace(provisional, fee_amount=D("0.1"), fee_asset="USDT"),
        books.fill(early, "3", "0.6", "101", "0.0006", "T1"),
        books.fill(late, "4", "0.2", "102", "0.02", "USDT"),
    ]
    before = everything(books)
    n, done = 0, False
    while not done:
        n += 1
        passed, at = kill_at(n)
        try:
            books.book(*reports, at=at)
            done = True
        except Killed:
            assert everything(books) == before
    assert passed == ["before_fill", "mid_fills", "mid_fills", "mid_fills", "mid_fills", "after_fills"]
    assert (books.wallet("T1"), books.wallet("T2")) == (D("0.999"), D("1.1"))
    assert books.row("T2")["total_allocation_usd"] == D("0.9") * 100 + D("0.1") + D("0.2") * 102 + D("0.02")
    assert set(books.incidents()) == {"LATE_FILL", "OVERFILL"}
    for contract in ("T1", "T2"):
        check_position(books, contract)
    check_balance(books)


def test_processes_that_book_the_same_reports_at_the_same_time_book_them_once(books: Books) -> None:
    order = books.order("entry", "1")
    foreign = replace(books.fill(order, "9", "3", "100"), venue_order_id="nobodys")
    reports = [*w4_reports(books, order).values(), foreign]
    with ThreadPoolExecutor(4) as pool:
        summaries = list(pool.map(lambda _: books.book(*reports), range(8)))
    assert sum(summary.booked for summary in summaries) == 4
    assert sum(summary.repeated for summary in summaries) == 28
    assert (books.wallet("AAVE"), books.wallet("AAVE", "_external")) == (D("0.99925"), 3)
    assert books.incidents() == []
    check_position(books)
    check_balance(books)


def test_many_random_trades_add_up_from_their_fills_alone(books: Books) -> None:
    """An oracle that knows no action, trade or ledger: plain sums over the fills of each position."""
    random = Random(3)
    for n in range(6):
        contract = f"T{n}"
        entry = books.order("entry", "100", symbol=f"{contract}/USDT", bar=0)
        orders = [entry]
        books.book(books.fill(entry, f"{n}.0", "10", "100", "0.01", contract))
        trade_id = books.row(contract)["current_trade_id"]
        books.move(entry, "CANCELLED")
        for bar in range(1, 6):
            kind = random.choice(("add", "trim", "trim"))
            order = books.order(kind, "100", symbol=f"{contract}/USDT", bar=bar, trade_id=trade_id)
            books.move(order, "CANCELLED")
            orders.append(order)
        reports = []
        for k in range(12):
            price = str(D(random.randint(9000, 11000)) / 100)
            asset, fee = random.choice(((contract, "0.001"), ("USDT", "0.05"), (None, None)))
            reports.append(books.fill(random.choice(orders), f"{n}.{k + 1}", str(D(random.randint(1, 900)) / 1000), price, fee, asset))
        reports += random.choices(reports, k=6)
        random.shuffle(reports)
        while reports:
            batch, reports = reports[: (size := random.randint(1, 5))], reports[size:]
            books.book(*batch)
        check_position(books, contract)
        row = books.row(contract)
        told = books.execute(
            "select coalesce(sum(qty * price + case when fee_asset = 'USDT' then fee_amount else 0 end) filter (where side = 'buy'), 0),"
            " coalesce(sum(qty * price - case when fee_asset = 'USDT' then fee_amount else 0 end) filter (where side = 'sell'), 0),"
            " sum(case side when 'buy' then qty else -qty end - case when fee_asset = %s then fee_amount else 0 end)"
            " from fills where symbol = %s",
            contract, f"{contract}/USDT",
        )  # fmt: skip
        assert (row["total_allocation_usd"], row["total_extracted_usd"], row["total_quantity"]) == told[0]
        assert row["total_quantity"] == books.wallet(contract) == row["total_tokens_bought"] - row["total_tokens_sold"]
    check_balance(books)


def test_the_executor_books_with_its_own_role(books: Books) -> None:
    order = books.order("entry", "1")
    reports = [*w4_reports(books, order).values(), books.fill(order, "t4", "0.1", "100")]
    with books.stores.open() as work:
        work.conn.execute("set local role regime_exec")
        summary = book_fills(work, books.traits, reports, NOW_MS)
        assert (summary.booked, summary.overfilled) == (4, 1)
        late = replace(reports[3], fee_amount=D("0.01"), fee_asset="USDT")
        assert book_fills(work, books.traits, [late], NOW_MS).completed == 1
    assert books.incidents() == ["OVERFILL"]
    check_position(books)
