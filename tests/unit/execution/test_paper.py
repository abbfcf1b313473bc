"""Paper fills: examples W14 and W15 to the digit, and fills that stay inside their bar (I16, I17)."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import BadInputError
from regime_pipeline.execution import paper
from regime_pipeline.execution.paper import (
    PERP_TARIFF,
    SPOT_TARIFF,
    PaperBar,
    PaperFill,
    compute_fee,
    compute_markout_bps,
    compute_shortfall_bps,
    compute_slip_bps,
    draw,
    draw_latency_ms,
    fill_from_book,
    fill_market_bar,
    fill_market_bars,
    fill_resting,
    is_rejected,
    round_against_us,
)
from regime_pipeline.portfolio.money import is_on_grid
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Side

D = Decimal
PAPER_ID = "a06aadc35b6cb2e7f590be3e9ae53602"
BTC = InstrumentRules("BTC/USDT", tick=D("0.01"), step=D("0.00001"))
BARS = [PaperBar(D(40_000), D(40_060), D(39_990), D(12)), PaperBar(D(40_010), D(40_050), D(40_000), D(15))]


def test_w14_draws_latency_and_rejection() -> None:
    assert round(draw(7, PAPER_ID, "latency", 0), 8) == 0.92943528
    assert round(draw(7, PAPER_ID, "latency", 1), 8) == 0.77787575
    assert [draw_latency_ms(7, PAPER_ID, n) for n in (0, 1)] == [361, 237]
    assert round(draw(7, PAPER_ID, "reject", 0), 8) == 0.56339437
    assert not is_rejected(7, PAPER_ID)


def test_w15_a_market_buy_over_two_bars() -> None:
    # A tenth of 12 is 1.2; the other 0.8 is below a tenth of 15.
    # 1 + 1 + 10 x sqrt(0.1) is 5.162278 bps; 1 + 1 + 10 x sqrt(0.8 / 15) is 4.309401 bps.
    assert compute_slip_bps(D("1.2"), D(12), is_major=True) == D("5.162278")
    assert compute_slip_bps(D("0.8"), D(15), is_major=True) == D("4.309401")
    fills = fill_market_bars(Side.BUY, D(2), BARS, BTC, is_major=True)
    assert fills == (PaperFill(D("1.2"), D("40020.65")), PaperFill(D("0.8"), D("40027.25")))
    average = sum(fill.qty * fill.price for fill in fills) / 2
    assert average == D("40023.29")
    assert [compute_fee(fill, Side.BUY, "BTC", "USDT", SPOT_TARIFF, is_maker=False) for fill in fills] == [
        (D("0.0012"), "BTC"),
        (D("0.0008"), "BTC"),
    ]
    # 23.29 of 40 000.
    assert compute_shortfall_bps(Side.BUY, D(40_000), average) == D("5.8225")


def test_a_market_sell_gets_less() -> None:
    # 40 000 less 5.162278 bps is 39 979.350888, on the tick and against us 39 979.35; the bar's low of 39 990 is the worst there was.
    bar = PaperBar(D(40_000), D(40_060), D(39_900), D(12))
    assert fill_market_bar(Side.SELL, D("1.2"), bar, BTC, is_major=True) == PaperFill(D("1.2"), D("39979.35"))
    assert fill_market_bar(Side.SELL, D("1.2"), BARS[0], BTC, is_major=True) == PaperFill(D("1.2"), D(39_990))


def test_others_pay_a_wider_spread() -> None:
    assert compute_slip_bps(D("1.2"), D(12), is_major=False) == D("9.162278")


def test_bars_that_end_leave_the_rest_unfilled_and_a_bar_without_trades_fills_nothing() -> None:
    assert fill_market_bar(Side.BUY, D(2), PaperBar(D(1), D(1), D(1), D(0)), BTC, is_major=True) is None
    empty = PaperBar(D(40_000), D(40_000), D(40_000), D(0))
    assert fill_market_bars(Side.BUY, D(2), [empty, BARS[0]], BTC, is_major=True) == (PaperFill(D("1.2"), D("40020.65")),)
    assert fill_market_bars(Side.BUY, D("1.2"), BARS, BTC, is_major=True) == (PaperFill(D("1.2"), D("40020.65")),)


@pytest.mark.parametrize(("qty", "volume"), [(D(0), D(1)), (D(1), D(0))])
def test_slippage_of_nothing_is_refused(qty: Decimal, volume: Decimal) -> None:
    with pytest.raises(BadInputError, match="both must be above 0"):
        compute_slip_bps(qty, volume, is_major=True)


LEVELS = [(D(100), D(1)), (D(101), D(2))]
COIN = InstrumentRules("COIN/USDT", tick=D("0.01"), step=D("0.1"))


def test_a_book_is_walked_level_by_level() -> None:
    # 1 bps of 100 is 0.01; of 101 it is 0.0101, so 101.0101 goes up to 101.02.
    assert fill_from_book(Side.BUY, D(2), LEVELS, COIN, is_ioc=False) == (PaperFill(D(1), D("100.01")), PaperFill(D(1), D("101.02")))


def test_beyond_the_book_is_worse_or_cancelled() -> None:
    # 10 + 1 bps of 101 is 0.1111: 101.1111 goes up to 101.12.
    assert fill_from_book(Side.BUY, D(5), LEVELS, COIN, is_ioc=False)[2] == PaperFill(D(2), D("101.12"))
    assert sum(fill.qty for fill in fill_from_book(Side.BUY, D(5), LEVELS, COIN, is_ioc=True)) == 3


def test_a_level_below_one_step_is_passed_over_and_only_twenty_count() -> None:
    levels = [(D(100), D("0.05"))] + [(D(101), D("0.1"))] * 20
    assert sum(fill.qty for fill in fill_from_book(Side.BUY, D(9), levels, COIN, is_ioc=True)) == D("1.9")


def test_an_empty_book_is_no_market() -> None:
    with pytest.raises(BadInputError, match="book of COIN/USDT was empty"):
        fill_from_book(Side.BUY, D(1), [], COIN, is_ioc=True)


@pytest.mark.parametrize(
    ("side", "low", "high", "filled"),
    [
        (Side.BUY, "99.99", "101", True),  # through by a tick
        (Side.BUY, "100", "101", False),  # touched only
        (Side.SELL, "99", "100.01", True),
        (Side.SELL, "99", "100", False),
    ],
)
def test_a_resting_limit_fills_only_when_the_bar_trades_through_it(side: Side, low: str, high: str, filled: bool) -> None:
    bar = PaperBar(D(100), D(high), D(low), D(20))
    assert fill_resting(side, D(5), D(100), bar, COIN) == (PaperFill(D(2), D(100)) if filled else None)


def test_a_resting_limit_does_not_fill_below_one_step() -> None:
    assert fill_resting(Side.BUY, D(5), D(100), PaperBar(D(100), D(101), D(99), D("0.9")), COIN) is None


def test_fees_are_of_what_is_received_and_rounded_up_at_the_last_digit() -> None:
    fill = PaperFill(D(2), D(100))
    assert compute_fee(fill, Side.SELL, "COIN", "USDT", SPOT_TARIFF, is_maker=True) == (D("0.2"), "USDT")
    assert compute_fee(fill, Side.BUY, "COIN", "USDT", PERP_TARIFF, is_maker=False, is_spot=False) == (D("0.12"), "USDT")
    assert compute_fee(fill, Side.SELL, "COIN", "USDT", PERP_TARIFF, is_maker=True, is_spot=False) == (D("0.04"), "USDT")
    assert compute_fee(PaperFill(D("1e-18"), D(1)), Side.BUY, "COIN", "USDT", SPOT_TARIFF, is_maker=False)[0] == D("1e-18")


def test_shortfall_counts_fees_and_what_was_missed() -> None:
    # 10 bps paid, 5 of fees, and half of a move of 100 bps missed: 65.
    assert compute_shortfall_bps(
        Side.BUY, D(100), D("100.1"), fees_bps=D(5), unfilled_frac=D("0.5"), mid_end=D(101)
    ) == 65  # fmt: skip
    assert compute_shortfall_bps(Side.SELL, D(100), D("100.1")) == -10
    with pytest.raises(BadInputError, match="no mid at the end was known"):
        compute_shortfall_bps(Side.BUY, D(100), D(100), unfilled_frac=D("0.5"))


def test_a_markout_is_the_move_after_a_fill_and_null_without_a_quote() -> None:
    assert compute_markout_bps(Side.BUY, D(100), D(101)) == 100
    assert compute_markout_bps(Side.SELL, D(100), D(101)) == -100
    assert compute_markout_bps(Side.BUY, D(100), None) is None


def test_the_largest_draw_still_has_a_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "draw", lambda *_: 1.0)
    assert 10_000 < draw_latency_ms(7, PAPER_ID, 0) < 60_000


def test_draws_spread_like_the_distribution_they_stand_for() -> None:
    latencies = sorted(draw_latency_ms(7, f"{n:032x}", 0) for n in range(2000))
    assert 135 < latencies[1000] < 165  # the median is 150
    assert 450 < latencies[1980] < 800  # the 99th percentile is 600
    assert 0 < sum(is_rejected(7, f"{n:032x}") for n in range(5000)) < 30  # 10 of 5000 expected


PRICES = st.decimals("1", "1000", places=2)


@settings(max_examples=100)
@given(st.sampled_from(Side), PRICES, PRICES, PRICES, st.decimals("0.01", "1000", places=2), st.decimals("0.001", "500", places=3))
def test_market_fills_are_on_the_grid_inside_the_bar_and_within_a_tenth_of_its_volume(
    side: Side, one: Decimal, two: Decimal, three: Decimal, volume: Decimal, wanted: Decimal
) -> None:
    low, opened, high = sorted((one, two, three))
    fill = fill_market_bar(side, wanted, PaperBar(opened, high, low, volume), BTC, is_major=False)
    if fill is None:
        assert min(wanted, volume / 10) < BTC.step
        return
    assert low <= fill.price <= high
    assert side.sign * (fill.price - opened) >= 0  # never better than the open
    assert is_on_grid(fill.qty, BTC.step)
    assert is_on_grid(fill.price, BTC.tick)
    assert fill.qty <= min(wanted, volume / 10)


@settings(max_examples=50)
@given(st.decimals("0.0001", "1000", places=4), st.sampled_from(Side))
def test_rounding_against_us_moves_less_than_a_tick(price: Decimal, side: Side) -> None:
    assert 0 <= side.sign * (round_against_us(price, D("0.01"), side) - price) < D("0.01")
