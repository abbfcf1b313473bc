"""The live market in front of the simulated venue: what comes out is what was put in."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from regime_pipeline.adapters.venues.generated import GeneratedMarket
from regime_pipeline.adapters.venues.live import LiveMarket
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.market.universe import load_universe
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.server import SimulatedVenue, serve
from tests.unit.adapters.venues.ledger import ListLedger

UNIVERSE = load_universe(Path(__file__).parents[4] / "config" / "universe.toml")
TRUTH = GeneratedMarket(UNIVERSE, 7)
START_S = 1_750_000_000  # 2025-06-15T15:06:40Z, in the middle of a minute, an hour and a day


@pytest.fixture(scope="module")
def market() -> Iterator[LiveMarket]:
    clock = VirtualClock(START_S, 1.0)
    with serve(SimulatedVenue(TRUTH, UNIVERSE, clock)) as served:
        yield LiveMarket(
            UNIVERSE,
            ListLedger(),
            venue_url=served.url,
            timeout_s=5.0,
            coingecko_plan="pro",
            coingecko_key=None,
            coingecko_monthly_calls=1000,
            clock=clock.now,
        )


@pytest.mark.parametrize(("venue", "symbol"), [("binance_um", "BTCUSDT"), ("binance_spot", "ETHUSDT"), ("hyperliquid", "HYPE")])
@pytest.mark.parametrize("timeframe", REGIME_TIMEFRAMES)
def test_closed_bars_are_the_truth(market: LiveMarket, venue: str, symbol: str, timeframe: Timeframe) -> None:
    end_s = timeframe.floor(START_S)
    bars = market.fetch_bars(venue, symbol, timeframe, end_s - 100 * timeframe.seconds, end_s)
    truth = TRUTH.fetch_bars(venue, symbol, timeframe, end_s - 100 * timeframe.seconds, end_s)
    assert len(bars) == 100
    for mine, theirs in zip(bars.columns()[:-1], truth.columns()[:-1], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    # Hyperliquid's volume was divided by the close to be sent, and is multiplied by it again
    np.testing.assert_allclose(bars.volume, truth.volume, rtol=1e-15 if venue != "hyperliquid" else 1e-12)


@pytest.mark.parametrize("driver", ["BTC.d", "USDT.d"])
def test_days_of_dominance_are_the_truth(market: LiveMarket, driver: str) -> None:
    end_s = Timeframe.D1.floor(START_S)
    bars = market.fetch_dominance(driver, Timeframe.D1, end_s - 30 * 86_400, START_S)
    truth = TRUTH.fetch_dominance(driver, Timeframe.D1, end_s - 30 * 86_400, end_s)
    assert bars.ts_s.tolist() == truth.ts_s.tolist()
    np.testing.assert_allclose(bars.close, truth.close, rtol=1e-9)


def test_every_token_has_a_cap_and_every_symbol_a_price(market: LiveMarket) -> None:
    assert set(market.fetch_market_caps(START_S, START_S + 60)) == {token.contract for token in UNIVERSE.tokens}
    assert set(market.fetch_samples()) == {"BTC.d", "USDT.d"}
    prices = market.fetch_prices("hyperliquid")
    assert set(prices) == {"BTC", "ETH", "SOL", "BNB", "HYPE"}
    assert None not in prices.values()
