"""The ledger: examples W5 and W6 line by line, perpetuals, funding, settlement, and batches that always sum to zero (I06, I07)."""

from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import BadInputError, LedgerImbalanceError
from regime_pipeline.execution.fills import Fill, sum_fills
from regime_pipeline.execution.ledger import (
    Batch,
    Line,
    PerpPosition,
    book_adjustment,
    book_external,
    book_funding,
    book_perp_fill,
    book_spot_fill,
    compute_net_pnl_quote,
    compute_price_pnl_quote,
    is_settled,
    sum_lines,
    value_wallet,
)
from regime_pipeline.execution.ledger import LedgerAccount as A
from regime_pipeline.risk.purpose import Side

D = Decimal


def a_fill(side: Side, qty: str, price: str, fee: str | None = None, fee_asset: str | None = None, symbol: str = "BTC/USDT") -> Fill:
    return Fill("binance", "main", "spot", symbol, "v1", f"{side}{qty}{price}", side, D(qty), D(price), D(fee) if fee else None, fee_asset)


W5 = a_fill(Side.BUY, "0.5", "40000", "0.0005", "BTC")
W6 = a_fill(Side.SELL, "0.4995", "41000", "20.4795", "USDT")


def lines_of(batch: Batch) -> list[tuple[str, str, Decimal]]:
    return [(line.asset, line.account.value, line.amount) for line in batch.lines]


def test_w5_a_buy_with_its_fee_in_the_coin() -> None:
    batch = book_spot_fill("fill:1", W5, "BTC", "USDT")
    assert lines_of(batch) == [
        ("BTC", "WALLET", D("0.5")),
        ("BTC", "TRADE", D("-0.5")),
        ("BTC", "WALLET", D("-0.0005")),
        ("BTC", "FEE", D("0.0005")),
        ("USDT", "WALLET", D(-20_000)),
        ("USDT", "TRADE", D(20_000)),
    ]
    assert sum_lines(batch.lines) == {"BTC": 0, "USDT": 0}
    assert sum_lines(batch.lines, A.WALLET)["BTC"] == D("0.4995")


def test_w6_the_sell_brings_what_price_made_less_the_fees() -> None:
    sell = book_spot_fill("fill:2", W6, "BTC", "USDT")
    # 0.4995 x 41 000 is 20 479.5; less the fee of 20.4795.
    assert sum_lines(sell.lines, A.WALLET)["USDT"] == D("20459.0205")
    both = sum_fills([W5, W6])
    # 0.4995 x (41 000 - 40 000) is 499.5; the fees are 0.0005 x 40 000 = 20 and 20.4795; 459.0205 is left.
    price_pnl = compute_price_pnl_quote(both.bought, both.bought_quote, both.sold, both.sold_quote)
    assert price_pnl == D("499.5")
    assert price_pnl - D(20) - D("20.4795") == D("459.0205") == both.change_of("USDT", base="BTC", quote="USDT")
    assert is_settled(D("459.0205"), both.change_of("USDT", base="BTC", quote="USDT"), D(0), D(0))


def test_price_earns_nothing_before_something_was_sold() -> None:
    assert compute_price_pnl_quote(D(1), D(100), D(0), D(0)) == 0


def test_a_rebate_is_a_fee_the_other_way_and_an_unknown_fee_is_not_booked() -> None:
    rebate = book_spot_fill("fill:3", a_fill(Side.SELL, "1", "100", "-0.01", "USDT"), "BTC", "USDT")
    assert ("USDT", "FEE", D("-0.01")) in lines_of(rebate)
    assert sum_lines(rebate.lines, A.WALLET) == {"BTC": -1, "USDT": D("100.01")}
    assert "FEE" not in {account for _, account, _ in lines_of(book_spot_fill("fill:4", a_fill(Side.BUY, "1", "100"), "BTC", "USDT"))}


def test_a_batch_that_is_off_by_the_last_digit_is_refused() -> None:
    with pytest.raises(LedgerImbalanceError, match="off by 1E-18 USDT"):
        Batch("x", (Line(A.WALLET, "USDT", D("1.000000000000000001")), Line(A.TRADE, "USDT", D(-1))))


@pytest.mark.parametrize(("actor", "reason"), [("", "counted wrongly"), ("ann", " "), ("", "")])
def test_an_adjustment_names_person_and_reason(actor: str, reason: str) -> None:
    with pytest.raises(BadInputError, match="a person and a reason must be named"):
        book_adjustment("adjust:1", "BTC", D("0.1"), actor=actor, reason=reason)
    assert lines_of(book_adjustment("adjust:1", "BTC", D("0.1"), actor="ann", reason="counted")) == [
        ("BTC", "WALLET", D("0.1")),
        ("BTC", "ADJUST", D("-0.1")),
    ]


PERP = "BTC/USDT:USDT"


def perp(side: Side, qty: str, price: str, fee: str = "0") -> Fill:
    return a_fill(side, qty, price, fee, "USDT", PERP)


def test_a_perpetual_moves_contracts_and_realises_on_the_close() -> None:
    opened, long = book_perp_fill("f1", perp(Side.BUY, "2", "100", "0.12"), PerpPosition(), "USDT")
    assert sum_lines(opened.lines, A.WALLET) == {"USDT": D("-0.12")}
    assert sum_lines(opened.lines, A.POSITION) == {PERP: 2}
    assert long.average_price == 100
    # Half closed at 110: 1 x (110 - 100) is 10.
    closed, rest = book_perp_fill("f2", perp(Side.SELL, "1", "110"), long, "USDT")
    assert sum_lines(closed.lines, A.WALLET)["USDT"] == 10
    assert sum_lines(closed.lines, A.PNL)["USDT"] == -10
    assert (rest.qty, rest.average_price) == (1, 100)


def test_a_fill_through_zero_closes_the_long_and_opens_a_short() -> None:
    # 1 long from 100 closed at 90 loses 10; the other 2 open a short at 90, closed at 80 it earns 20.
    flipped, short = book_perp_fill("f1", perp(Side.SELL, "3", "90"), PerpPosition(D(1), D(100)), "USDT")
    assert sum_lines(flipped.lines, A.WALLET)["USDT"] == -10
    assert (short.qty, short.average_price) == (-2, 90)
    covered, flat = book_perp_fill("f2", perp(Side.BUY, "2", "80"), short, "USDT")
    assert sum_lines(covered.lines, A.WALLET)["USDT"] == 20
    assert flat == PerpPosition(D(0), D(0))
    assert flat.average_price is None


def test_a_long_pays_funding_while_the_rate_is_positive_and_a_short_receives_it() -> None:
    # 2 x 100 x 0.0001 is 0.02.
    assert sum_lines(book_funding("funding:1", D(2), D(100), D("0.0001"), "USDT").lines, A.WALLET) == {"USDT": D("-0.02")}
    assert sum_lines(book_funding("funding:2", D(-2), D(100), D("0.0001"), "USDT").lines, A.WALLET) == {"USDT": D("0.02")}


def test_a_deposit_is_no_result() -> None:
    deposit = book_external("external:1", "USDT", D(5000))
    assert lines_of(deposit) == [("USDT", "WALLET", D(5000)), ("USDT", "EXTERNAL", D(-5000))]
    assert compute_net_pnl_quote(D(100_000), D(105_100), [D(5000)]) == 100


def test_a_wallet_is_worth_its_marks_and_nothing_without_one() -> None:
    wallet = {"USDT": D(100), "BTC": D("0.5"), "BNB": D(0)}
    assert value_wallet(wallet, {"BTC": D(40_000)}, "USDT") == 20_100
    with pytest.raises(BadInputError, match="no mark was known for BTC; fetch one"):
        value_wallet(wallet, {}, "USDT")


def test_a_window_settles_to_the_eighth_digit() -> None:
    # Quote rose by 105, 5 came from outside, a fee in a third asset was worth 1: the result must be 99.
    assert is_settled(D("99.00000001"), D(105), D(5), D(1))
    assert not is_settled(D("99.00000002"), D(105), D(5), D(1))


AMOUNTS = st.decimals("1e-8", "1e6", places=8)
SIDES = st.sampled_from(Side)


@settings(max_examples=100)
@given(SIDES, AMOUNTS, AMOUNTS, st.decimals(-1, 1, places=18), st.sampled_from(["BTC", "USDT", "BNB"]))
def test_every_spot_batch_sums_to_zero_and_moves_what_the_fill_says(
    side: Side, qty: Decimal, price: Decimal, fee: Decimal, asset: str
) -> None:
    fill = a_fill(side, str(qty), str(price), str(fee), asset)
    batch = book_spot_fill("f", fill, "BTC", "USDT")
    assert not any(sum_lines(batch.lines).values())
    wallet, sums = sum_lines(batch.lines, A.WALLET), sum_fills([fill])
    for held in {"BTC", "USDT", asset}:
        assert wallet.get(held, 0) == sums.change_of(held, base="BTC", quote="USDT")


@settings(max_examples=100)
@given(st.lists(st.tuples(SIDES, AMOUNTS, AMOUNTS), min_size=1, max_size=8))
def test_a_perpetual_that_ends_flat_has_realised_all_its_cash_flow(rows: list) -> None:
    # Closed altogether at the end, the result is what was sold for less what was bought for, to the last digit.
    net = sum((side.sign * qty for side, qty, _ in rows), D(0))
    if net:
        rows = [*rows, (Side.SELL if net > 0 else Side.BUY, abs(net), D("123.456"))]
    position, earned = PerpPosition(), D(0)
    with localcontext() as context:
        context.prec = 100
        cash = D(0)
        for side, qty, price in rows:
            batch, position = book_perp_fill("f", perp(side, str(qty), str(price)), position, "USDT")
            assert not any(sum_lines(batch.lines).values())
            earned += sum_lines(batch.lines, A.WALLET).get("USDT", D(0))
            cash -= side.sign * qty * price
        assert position == PerpPosition(D(0), D(0))
        assert earned == cash
