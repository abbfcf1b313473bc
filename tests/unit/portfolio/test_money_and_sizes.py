"""Money, caps and sizes: the tables of 8.1 and 8.3, number by number."""

from decimal import Decimal, Inexact, getcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import BadInputError, CallerError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.capital import Allocation, compute_cap_usd, compute_equity_usd, compute_remaining_usd, compute_result
from regime_pipeline.portfolio.money import EXACT, QUOTIENT, floor_to, is_on_grid, precise, to_decimal
from regime_pipeline.portfolio.sizing import (
    DX_SHARES,
    REBUY_SHARES,
    S1_SHARES,
    S2_FLAT_SHARES,
    TRIM_SHARES,
    compute_retest_frac,
    compute_trim_frac,
    pick_share,
)

D = Decimal
MONEY = st.decimals(D(0), D("1e15"), places=18)


def test_sums_that_a_table_can_hold_are_exact_whatever_the_context() -> None:
    # 20 digits before the point and 18 after are 38: Python's default of 28 would drop the last ten.
    large, small = D("12345678901234567890.123456789012345678"), D("1e-18")
    assert getcontext().prec == 28
    assert precise(lambda: large + small - large)() == small
    # one token of that many for that price has 76 digits, all kept
    assert precise(lambda: large * large)() == EXACT.multiply(large, large)
    assert str(precise(lambda: large * large)()).endswith(str(345678**2)[-6:])


def test_a_float_is_taken_over_in_its_shortest_form_and_never_mixed_in() -> None:
    assert to_decimal(0.1) == D("0.1")
    with pytest.raises(Exception, match="FloatOperation"):
        precise(lambda: D(1) < 0.5)()


def test_quantities_are_rounded_down_to_whole_steps() -> None:
    # 0.9996 / 0.001 is 999.6 steps, so 999 of them
    assert floor_to(D("0.9996"), D("0.001")) == D("0.999")
    assert floor_to(D("0.0009"), D("0.001")) == 0
    assert floor_to(D("7.5"), D("2.5")) == D("7.5")
    # more digits of nine than a quotient keeps: still below 1
    assert floor_to(D("0." + 80 * "9"), D(1)) == 0


def test_the_exact_context_raises_where_the_other_rounds() -> None:
    with pytest.raises(Inexact):
        EXACT.divide(D(1), D(3))
    assert QUOTIENT.divide(D(1), D(3)) == D("0." + 76 * "3")


def test_a_value_is_on_a_grid_or_not() -> None:
    assert is_on_grid(D("0.3"), D("0.1"))
    assert not is_on_grid(D("0.3000000000000000000000000000000000001"), D("0.1"))


def test_the_cap_is_a_share_of_equity_split_by_timeframe() -> None:
    # 20,000 at 15 % is 3,000; of that 1h gets .40 and 15m .20; 1m gets nothing
    assert compute_cap_usd(D(20_000), Timeframe.H1, Allocation()) == 1200
    assert compute_cap_usd(D(20_000), Timeframe.H4, Allocation()) == 1200
    assert compute_cap_usd(D(20_000), Timeframe.M15, Allocation()) == 600
    assert compute_cap_usd(D(20_000), Timeframe.M1, Allocation()) == 0
    assert compute_cap_usd(D(-5), Timeframe.H1, Allocation()) == 0


def test_equity_is_cash_and_holdings_so_a_purchase_leaves_it_as_it_was() -> None:
    # 1000 in cash; after buying 2 for 100 each, 800 in cash and 2 x 100 held
    assert compute_equity_usd(D(1000), []) == compute_equity_usd(D(800), [(D(2), D(100))]) == 1000


def test_what_remains_is_bounded_by_zero_and_the_cap() -> None:
    # 1200 - (500 - 0) = 700; 1200 - (1500 - 0) < 0; 1200 - (500 - 900) = 1600 > 1200
    assert compute_remaining_usd(D(1200), D(500), D(0)) == 700
    assert compute_remaining_usd(D(1200), D(1500), D(0)) == 0
    assert compute_remaining_usd(D(1200), D(500), D(900)) == 1200


@given(MONEY, MONEY, MONEY)
@settings(max_examples=100)
def test_what_remains_lies_within_zero_and_the_cap(equity: Decimal, allocated: Decimal, extracted: Decimal) -> None:
    cap = compute_cap_usd(equity, Timeframe.H1, Allocation())
    assert 0 <= compute_remaining_usd(cap, allocated, extracted) <= cap


def test_a_result_splits_into_what_was_sold_and_what_is_held() -> None:
    # 100 bought for 1000, so 10 each. 45 sold for 540, so 12 each; 55 held at 13.
    # worth 715 now; 715 + 540 - 1000 = 255 in all; held ones gained (13 - 10) x 55 = 165; sold ones the other 90.
    result = compute_result(D(55), D(13), D(1000), D(540), D(100), D(45))
    assert (result.current_usd, result.total_usd, result.unrealised_usd, result.realised_usd) == (715, 255, 165, 90)
    assert (result.avg_entry_price, result.avg_exit_price) == (10, 12)


def test_a_result_without_trades_has_no_averages() -> None:
    result = compute_result(D(0), D(13), D(0), D(0), D(0), D(0))
    assert (result.avg_entry_price, result.avg_exit_price, result.total_usd) == (None, None, 0)


@pytest.mark.parametrize("allocation", [{"alloc_pct": D(101)}, {"split_frac": {Timeframe.H1: D("0.7"), Timeframe.H4: D("0.4")}}])
def test_an_allocation_of_more_than_everything_is_refused(allocation: dict[str, object]) -> None:
    with pytest.raises(BadInputError, match="must"):
        Allocation(**allocation)  # type: ignore[arg-type]


def test_a_negative_share_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"1h -0\.1"):
        Allocation(split_frac={Timeframe.H1: D("-0.1")})


@pytest.mark.parametrize(
    ("bands", "high", "middle", "low"),
    [
        (S1_SHARES, "0.90", "0.60", "0.30"),
        (S2_FLAT_SHARES, "0.25", "0.15", "0.05"),
        (DX_SHARES, "0.20", "0.10", None),
        (REBUY_SHARES, "0.60", "0.30", "0.10"),
        (TRIM_SHARES, "0.60", "0.30", "0.15"),
    ],
)
def test_shares_by_lever(bands: tuple[Decimal, Decimal, Decimal], high: str, middle: str, low: str | None) -> None:
    assert [pick_share(bands, lever) for lever in (1.0, 0.7)] == [D(high)] * 2
    assert [pick_share(bands, lever) for lever in (0.6999999, 0.3)] == [D(middle)] * 2
    expected = D(low) if low else QUOTIENT.divide(D(1), D(30))
    assert [pick_share(bands, lever) for lever in (0.2999999, 0.0)] == [expected] * 2


@pytest.mark.parametrize("lever", [-0.1, 1.1, float("nan")])
def test_a_lever_outside_its_range_is_refused(lever: float) -> None:
    with pytest.raises(CallerError, match="between 0 and 1"):
        pick_share(S1_SHARES, lever)


@pytest.mark.parametrize(
    ("e", "extracted", "expected"),
    [
        (0.55, 0, "0.45"),  # .30 x 1.5
        (0.70, 0, "0.90"),  # .60 x 1.5
        (0.70, 499, "0.90"),
        (0.70, 500, "0.60"),  # from half on: x 1
        (0.70, 999, "0.60"),
        (0.70, 1000, "0.18"),  # from all of it on: x .3
        (0.70, 2999, "0.18"),
        (0.70, 3000, "0.06"),  # from three times on: x .1
        (0.10, 0, "0.225"),  # .15 x 1.5
    ],
)
def test_a_trim_shrinks_with_what_was_taken_out(e: float, extracted: int, expected: str) -> None:
    assert compute_trim_frac(e, D(1000), D(extracted)) == D(expected)


def test_without_an_allocation_nothing_was_taken_out_yet() -> None:
    assert compute_trim_frac(0.5, D(0), D(100)) == D("0.45")
    assert compute_retest_frac(0.5, D(0), D(100)) == D("0.15")


def test_a_trade_with_its_money_back_enters_anew_with_less() -> None:
    # .25 x .3 from extracted = allocated on
    assert compute_retest_frac(0.7, D(100), D("99.99")) == D("0.25")
    assert compute_retest_frac(0.7, D(100), D(100)) == D("0.075")


@given(st.floats(0, 1), MONEY, MONEY)
@settings(max_examples=100)
def test_a_trim_never_sells_more_than_nine_tenths(e: float, allocated: Decimal, extracted: Decimal) -> None:
    assert 0 < compute_trim_frac(e, allocated, extracted) <= D("0.90")
