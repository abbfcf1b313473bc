"""Rounding: onto the grid, towards less exposure, nothing below a minimum (property I16)."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import OrderValidationError
from regime_pipeline.execution.rounding import ExitQty, plan_exit_qty, plan_qty, round_price, round_qty, round_stop
from regime_pipeline.portfolio.money import is_on_grid
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Side

D = Decimal
BTC = InstrumentRules("BTC/USDT", tick=D("0.01"), step=D("0.001"), min_qty=D("0.002"), max_qty=D(100), min_cost_quote=D(5))

PRICES = st.decimals("0.000001", "999999", places=6)
GRIDS = st.sampled_from([D("0.01"), D("0.00001"), D("0.5"), D(1), D("0.0025"), D("1E-18")])
SIDES = st.sampled_from(Side)


def test_a_buy_bids_less_and_a_sell_asks_more() -> None:
    assert round_price(D("100.019"), D("0.01"), Side.BUY) == D("100.01")
    assert round_price(D("100.011"), D("0.01"), Side.SELL) == D("100.02")
    assert round_price(D("100.01"), D("0.01"), Side.SELL) == D("100.01")


def test_a_stop_moves_away_from_the_market() -> None:
    # The sell stop of a long lies below the market and goes down; the buy stop of a short goes up.
    assert round_stop(D("95.019"), D("0.01"), Side.SELL) == D("95.01")
    assert round_stop(D("105.011"), D("0.01"), Side.BUY) == D("105.02")


def test_below_a_minimum_means_nothing() -> None:
    assert plan_qty(D("0.0029"), D(40_000), BTC) == D("0.002")
    assert plan_qty(D("0.0019"), D(40_000), BTC) == 0  # 0.001 after rounding, the minimum is 0.002
    assert plan_qty(D("0.004"), D(1000), BTC) == 0  # 0.004 x 1000 is 4, the minimum cost is 5
    assert plan_qty(D(250), D(1), BTC) == 100  # the venue's maximum


def test_w4_an_exit_sells_what_is_there_and_leaves_dust() -> None:
    # Ordered 1.0, fees in the coin left 0.99925: 0.999 on the step, 0.00025 of dust.
    assert plan_exit_qty(D("0.99925"), D(1), D(100), BTC) == ExitQty(D("0.999"), D("0.00025"))
    assert plan_exit_qty(D(1), D("0.99925"), D(100), BTC) == ExitQty(D("0.999"), D("0.00025"))


def test_a_holding_below_the_minimum_is_dust_altogether() -> None:
    assert plan_exit_qty(D("0.0015"), D("0.0015"), D(100), BTC) == ExitQty(D(0), D("0.0015"))


def test_what_the_venues_maximum_cuts_off_is_no_dust() -> None:
    assert plan_exit_qty(D("250.0004"), D(300), D(100), BTC) == ExitQty(D(100), D("0.0004"))


@pytest.mark.parametrize("price", [D(0), D(-1), D("NaN")])
def test_a_price_that_is_none_is_refused(price: Decimal) -> None:
    for ask in (lambda: round_price(price, D("0.01"), Side.BUY), lambda: plan_qty(D(1), price, BTC)):
        with pytest.raises(OrderValidationError, match="price was"):
            ask()


def test_a_bid_that_rounds_to_nothing_is_refused() -> None:
    with pytest.raises(OrderValidationError, match=r"bid of 0\.004 on tick 0\.01 was 0\.00"):
        round_price(D("0.004"), D("0.01"), Side.BUY)


def test_a_quantity_below_zero_is_refused() -> None:
    with pytest.raises(OrderValidationError, match=r"quantity was -0\.1"):
        round_qty(D("-0.1"), D("0.01"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tick": D(0)}, "tick of BTC/USDT was 0"),
        ({"step": D(-1)}, "step of BTC/USDT was -1"),
        ({"contract_size": D(0)}, "contract_size of"),
        ({"min_qty": D(-1)}, "min_qty of"),
        ({"min_cost_quote": D(-1)}, "min_cost_quote of"),
        ({"min_qty": D(2), "max_qty": D(1)}, "max_qty of BTC/USDT was 1, below min_qty 2"),
    ],
)
def test_rules_that_no_order_could_meet_are_refused(change: dict[str, Decimal], message: str) -> None:
    with pytest.raises(OrderValidationError, match=message):
        InstrumentRules(**({"symbol": "BTC/USDT", "tick": D("0.01"), "step": D("0.001")} | change))


@settings(max_examples=100)
@given(PRICES, GRIDS, SIDES)
def test_prices_are_on_the_grid_and_less_than_a_tick_away_in_our_favour(price: Decimal, tick: Decimal, side: Side) -> None:
    if side is Side.BUY and price < tick:
        with pytest.raises(OrderValidationError):
            round_price(price, tick, side)
        return
    rounded = round_price(price, tick, side)
    assert is_on_grid(rounded, tick)
    assert 0 <= side.sign * (price - rounded) < tick


@settings(max_examples=100)
@given(st.decimals(0, "99999999", places=18), GRIDS, PRICES)
def test_quantities_are_on_the_grid_never_above_what_was_asked_and_never_raised_to_a_minimum(
    qty: Decimal, step: Decimal, price: Decimal
) -> None:
    rules = InstrumentRules("X/USDT", D("0.01"), step, min_qty=D("0.1"), min_cost_quote=D(5))
    planned = plan_qty(qty, price, rules)
    assert is_on_grid(planned, step)
    assert planned <= qty
    assert planned == 0 or (planned >= rules.min_qty and planned * price >= rules.min_cost_quote)
