"""The real clients against the simulated venue: what they hand over is the truth, from every API."""

from collections.abc import Iterator
from datetime import datetime

import pytest

from regime_pipeline.adapters.venues.live import LiveMarket
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.simulation.server import Served
from tests.markets import small_universe
from tests.simulated import NOON, simulated
from tests.unit.adapters.venues.ledger import ListLedger

DAY = 86_400


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with simulated() as venue:
        yield venue


@pytest.fixture(scope="module")
def market(served: Served) -> LiveMarket:
    def clock() -> datetime:
        return served.venue.clock.now()

    return LiveMarket(
        small_universe(),
        ListLedger(),
        venue_url=served.url,
        timeout_s=5,
        coingecko_plan="pro",
        coingecko_key=None,
        coingecko_monthly_calls=100,
        clock=clock,
    )


@pytest.mark.parametrize(
    ("venue", "symbol", "timeframe", "n_bars"),
    [
        ("binance_um", "BTCUSDT", Timeframe.M1, 1200),
        ("binance_um", "AAVEUSDT", Timeframe.H1, 30),
        ("binance_spot", "ETHUSDT", Timeframe.D1, 10),
        ("hyperliquid", "HYPE", Timeframe.M1, 100),
        ("hyperliquid", "SOL", Timeframe.H4, 20),
    ],
)
def test_fetched_bars_are_the_truth(market: LiveMarket, served: Served, venue: str, symbol: str, timeframe: Timeframe, n_bars: int) -> None:
    end_s = timeframe.floor(NOON)
    window = (venue, symbol, timeframe, end_s - n_bars * timeframe.seconds, end_s)
    fetched = market.fetch_bars(*window)
    assert len(fetched) == n_bars
    assert fetched.equals(served.truth.bars(*window))


def test_dominance_is_the_vendors_now_and_in_its_charts(market: LiveMarket, served: Served) -> None:
    samples = market.fetch_samples()
    assert {name: sample.percent for name, sample in samples.items()} == {
        name: served.truth.dominance(name, samples[name].updated_at_s) for name in ("BTC.d", "USDT.d")
    }
    today_s = Timeframe.D1.floor(NOON)
    bars = market.fetch_dominance("USDT.d", Timeframe.D1, today_s - 30 * DAY, today_s)
    assert bars.ts_s.tolist() == list(range(today_s - 30 * DAY, today_s, DAY))
    assert bars.close.tolist() == pytest.approx([served.truth.dominance("USDT.d", ts_s + DAY) for ts_s in bars.ts_s.tolist()], rel=1e-12)


def test_market_caps_are_the_sources(market: LiveMarket, served: Served) -> None:
    caps = market.fetch_market_caps(int(NOON) - DAY, int(NOON) + 1)
    known = served.truth.source.fetch_market_caps(int(NOON) - DAY, int(NOON) + 1)
    tokens = {token.contract for token in small_universe().tokens if token.coingecko_id}
    assert set(caps) == tokens
    assert {contract: caps[contract][-1].cap_usd for contract in caps} == {contract: known[contract][-1].cap_usd for contract in tokens}
