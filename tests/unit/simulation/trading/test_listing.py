"""Markets and prices of a book from the bars of the venue."""

from decimal import Decimal

import pytest

from regime_pipeline.simulation.trading import make_instrument
from tests.trading import serve_trading


@pytest.mark.parametrize(
    ("price", "tick", "step"),
    [("40000", "1", "0.00001"), ("1881.1", "0.1", "0.0001"), ("90.25", "0.001", "0.01"), ("0.00002", "1E-8", "10000")],
)
def test_a_grid_has_five_digits_of_price_and_steps_of_less_than_one_quote(price: str, tick: str, step: str) -> None:
    made = make_instrument("AAVEUSDT", price)
    assert (made.base, made.quote, made.tick, made.step) == ("AAVE", "USDT", Decimal(tick), Decimal(step))
    assert Decimal("0.1") <= made.step * made.price < 1


def test_every_market_with_bars_can_be_traded_at_its_bars_price() -> None:
    with serve_trading("spot", is_following=True, start_s=1_740_000_000, speed=0) as venue:
        exchange = venue.exchange()
        assert {"BTC/USDT", "AAVE/USDT"} <= set(exchange.load_markets())
        last = float(venue.book.prices["BTCUSDT"])
        bar = exchange.fetch_ohlcv("BTC/USDT", "1m", limit=1)[0]
        assert last == pytest.approx(bar[4], rel=1e-4)
        venue.clock.advance(3600)
        moved = exchange.fetch_ticker("BTC/USDT")["last"]
        assert moved != last
        bar = exchange.fetch_ohlcv("BTC/USDT", "1m", limit=1)[0]
        assert moved == pytest.approx(bar[4], rel=1e-4)


def test_a_resting_order_is_reached_as_the_bars_move() -> None:
    with serve_trading("linear", is_following=True, start_s=1_740_000_000, speed=0) as venue:
        price = venue.book.prices["BTCUSDT"]
        for side, away in (("buy", "0.999"), ("sell", "1.001")):
            venue.hand.place("BTCUSDT", side, "0.01", (price * Decimal(away)).quantize(Decimal(1)))
        for _ in range(600):
            venue.clock.advance(60)
            venue.book.advance(venue.now_ms)
        assert {trade.is_maker for trade in venue.book.trades} == {True}


def test_a_price_set_by_hand_lasts_until_the_next_second() -> None:
    with serve_trading(is_following=True, start_s=1_740_000_000, speed=0) as venue:
        venue.set_price("BTCUSDT", 1)
        assert venue.exchange().fetch_ticker("BTC/USDT")["last"] == 1
        venue.clock.advance(1)
        assert venue.exchange().fetch_ticker("BTC/USDT")["last"] > 1000
