"""Fills: example W4 in all thirty orders, late ones, overfills, conflicts, and sums that no order of arrival changes (I06, I08, I09)."""

from dataclasses import replace
from decimal import Decimal, localcontext
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import BadInputError, VenueReadError
from regime_pipeline.execution.fills import (
    Booking,
    Fill,
    FillKeyRule,
    FillVerdict,
    OrderFacts,
    compare_fills,
    compute_new_qty,
    judge_fill,
    sum_fills,
)
from regime_pipeline.execution.rounding import plan_exit_qty
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Side

D = Decimal


def a_fill(trade_id: str, qty: str, price: str, fee: str | None, fee_asset: str | None, side: Side = Side.BUY, order: str = "v1") -> Fill:
    amount = None if fee is None else D(fee)
    return Fill("binance", "binance-main", "spot", "BTC/USDT", order, trade_id, side, D(qty), D(price), amount, fee_asset)


T1 = a_fill("t1", "0.4", "100", "0.0004", "BTC")
T2 = a_fill("t2", "0.35", "101", "0.00035", "BTC")
T3 = a_fill("t3", "0.25", "102", "0.0255", "USDT")


def test_w4_has_thirty_orders() -> None:
    assert len(set(permutations([T1, T2, T3, T1, T3]))) == 30


@pytest.mark.parametrize("fills", sorted(set(permutations([T1, T2, T3, T1, T3])), key=repr))
def test_w4_every_order_and_repetition_gives_the_same_sums(fills: tuple[Fill, ...]) -> None:
    # 0.4 x 100 + 0.35 x 101 + 0.25 x 102 is 40 + 35.35 + 25.5 = 100.85 for 1.00.
    sums = sum_fills(fills)
    assert sums.filled == 1
    assert sums.average_price == D("100.85")
    # Fees in BTC: 0.0004 + 0.00035; in USDT 0.0255.
    assert sums.change_of("BTC", base="BTC", quote="USDT") == D("0.99925")
    assert sums.change_of("USDT", base="BTC", quote="USDT") == D("-100.8755")


def test_w4_after_the_third_and_the_first_only() -> None:
    # (25.5 + 40) / 0.65 is 100.769230769...
    sums = sum_fills([T3, T1])
    assert sums.filled == D("0.65")
    assert sums.average_price is not None
    assert round(sums.average_price, 9) == D("100.769230769")
    assert sums.change_of("BTC", base="BTC", quote="USDT") == D("0.6496")


def test_w4_the_exit_sells_what_the_fees_left() -> None:
    rules = InstrumentRules("BTC/USDT", D("0.01"), D("0.001"))
    held = sum_fills([T1, T2, T3]).change_of("BTC", base="BTC", quote="USDT")
    exit_qty = plan_exit_qty(held, held, D(100), rules)
    assert (exit_qty.qty, exit_qty.dust) == (D("0.999"), D("0.00025"))


def test_no_fills_are_nothing_at_no_price() -> None:
    sums = sum_fills([])
    assert (sums.filled, sums.average_price, sums.fees) == (0, None, {})


def test_a_fee_in_a_third_asset_and_a_rebate_change_that_asset() -> None:
    sums = sum_fills([a_fill("a", "1", "100", "0.001", "BNB"), a_fill("b", "1", "100", "-0.01", "USDT")])
    assert sums.change_of("BNB", base="BTC", quote="USDT") == D("-0.001")
    assert sums.change_of("USDT", base="BTC", quote="USDT") == D("-199.99")


OPEN = OrderFacts(qty=D(1), filled=D("0.5"), is_terminal=False)


@pytest.mark.parametrize(
    ("order", "verdict"),
    [
        (OPEN, FillVerdict(Booking.BOOK)),
        (replace(OPEN, is_terminal=True), FillVerdict(Booking.BOOK, is_late=True)),
        (replace(OPEN, filled=D("0.61")), FillVerdict(Booking.BOOK, is_overfill=True)),  # 0.61 + 0.4 is 1.01
        (replace(OPEN, filled=D("0.6")), FillVerdict(Booking.BOOK)),  # exactly full
        (None, FillVerdict(Booking.BOOK, is_unlinked=True)),
    ],
)
def test_a_new_fill_is_booked_in_full_whenever_it_comes(order: OrderFacts | None, verdict: FillVerdict) -> None:
    assert judge_fill(T1, None, order) == verdict


PROVISIONAL = replace(T1, fee_amount=None, fee_asset=None)


@pytest.mark.parametrize(
    ("stored", "reported", "booking"),
    [
        (T1, T1, Booking.REPEATED),
        (T1, replace(T1, qty=D("0.40")), Booking.REPEATED),  # the same number
        (T1, replace(T1, qty=D("0.41")), Booking.CONFLICT),
        (T1, replace(T1, price=D("100.01")), Booking.CONFLICT),
        (T1, replace(T1, fee_amount=D("0.0005")), Booking.CONFLICT),
        (PROVISIONAL, T1, Booking.COMPLETE_FEE),
        (T1, PROVISIONAL, Booking.REPEATED),
        (PROVISIONAL, PROVISIONAL, Booking.REPEATED),
    ],
)
def test_a_second_report_repeats_completes_or_contradicts_the_first(stored: Fill, reported: Fill, booking: Booking) -> None:
    assert compare_fills(stored, reported) is booking
    assert judge_fill(reported, stored, OPEN) == FillVerdict(booking)


def test_a_fee_that_becomes_known_counts_in_either_order() -> None:
    assert sum_fills([PROVISIONAL, T1]) == sum_fills([T1, PROVISIONAL]) == sum_fills([T1])
    assert PROVISIONAL.is_provisional
    assert sum_fills([PROVISIONAL]).fees == {}


def test_fills_that_contradict_each_other_are_not_summed() -> None:
    with pytest.raises(BadInputError, match="record the other as a conflict"):
        sum_fills([T1, replace(T1, qty=D("0.41"))])


def test_a_venue_whose_trade_ids_repeat_between_orders_needs_the_order_in_the_key() -> None:
    other = a_fill("t1", "0.4", "100", "0.04", "USDT", Side.SELL, order="v2")
    assert T1.key() == other.key()
    assert sum_fills([T1, other], FillKeyRule.TRADE_ID_AND_ORDER).sold == D("0.4")


def test_a_venue_without_trade_ids_tells_fills_apart_by_the_cumulative_quantity() -> None:
    first = replace(a_fill("", "0.4", "100", "0", "USDT"), cumulative_qty=D("0.4"))
    again = replace(first, cumulative_qty=D("0.40"))
    second = replace(first, qty=D("0.1"), cumulative_qty=D("0.5"))
    assert sum_fills([first, again, second], FillKeyRule.CUMULATIVE_QTY).filled == D("0.5")
    assert compute_new_qty(D("0.4"), D("0.5")) == D("0.1")


def test_a_cumulative_quantity_that_falls_is_a_failed_read() -> None:
    with pytest.raises(VenueReadError, match=r"was 0\.4 after 0\.5, it cannot fall"):
        compute_new_qty(D("0.5"), D("0.4"))


@pytest.mark.parametrize("rule", FillKeyRule)
def test_a_fill_without_the_part_its_key_needs_is_refused(rule: FillKeyRule) -> None:
    with pytest.raises(BadInputError, match=f"has no {rule}"):
        a_fill("", "1", "1", "0", "USDT").key(rule)


@pytest.mark.parametrize(("qty", "price"), [("0", "1"), ("-1", "1"), ("1", "0"), ("NaN", "1"), ("1", "Infinity")])
def test_a_fill_of_nothing_is_refused(qty: str, price: str) -> None:
    with pytest.raises(BadInputError, match="both must be above 0"):
        a_fill("t", qty, price, "0", "USDT")


def test_half_a_fee_is_refused() -> None:
    with pytest.raises(BadInputError, match="both are known or neither"):
        a_fill("t", "1", "1", None, "USDT")


AMOUNTS = st.decimals("1e-8", "1e6", places=8)
FILLS = st.lists(
    st.tuples(AMOUNTS, AMOUNTS, st.decimals(-1, 1, places=18), st.sampled_from(["BTC", "USDT", "BNB"]), st.sampled_from(Side)), max_size=8
)


@settings(max_examples=100)
@given(FILLS, st.data())
def test_permutation_repetition_and_batching_change_nothing_and_the_sums_are_exact(rows: list, data: st.DataObject) -> None:
    fills = [a_fill(f"t{n}", str(qty), str(price), str(fee), asset, side) for n, (qty, price, fee, asset, side) in enumerate(rows)]
    seen = data.draw(st.permutations(fills + data.draw(st.lists(st.sampled_from(fills), max_size=8) if fills else st.just([]))))
    assert sum_fills(seen) == sum_fills(fills)
    # Position = fills - base fees, exact, worked out apart from the product.
    with localcontext() as context:
        context.prec = 100
        base = sum((side.sign * qty for qty, _, _, _, side in rows), D(0)) - sum(
            (fee for _, _, fee, asset, _ in rows if asset == "BTC"), D(0)
        )
        assert sum_fills(seen).change_of("BTC", base="BTC", quote="USDT") == base


@settings(max_examples=50)
@given(FILLS)
def test_what_is_filled_never_falls(rows: list) -> None:
    fills = [a_fill(f"t{n}", str(qty), str(price), str(fee), asset, side) for n, (qty, price, fee, asset, side) in enumerate(rows)]
    filled = [sum_fills(fills[:n]).filled for n in range(len(fills) + 1)]
    assert filled == sorted(filled)
