"""One question per venue: who answers, who cannot be read, and why."""

from regime_pipeline.adapters.venues.generated import GeneratedMarket
from regime_pipeline.errors import SourceUnavailableError
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.services.probe_venues import probe_venues
from tests.builders import T0
from tests.markets import small_universe


class OneIsDown(GeneratedMarket):
    """Spot cannot be reached, Hyperliquid has nothing; what was asked is remembered."""

    asked: list[tuple[str, str, Timeframe, int, int]]

    def fetch_bars(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        self.asked.append((venue, symbol, timeframe, start_s, end_s))
        if venue == "binance_spot":
            raise SourceUnavailableError("no route")
        return RawBars.empty() if venue == "hyperliquid" else super().fetch_bars(venue, symbol, timeframe, start_s, end_s)


def test_each_venue_is_asked_once_for_the_newest_hour() -> None:
    universe = small_universe()
    market = OneIsDown(universe, 7)
    market.asked = []
    found = probe_venues(market, universe, T0 + 7199)
    assert found == {"binance_um": None, "binance_spot": "no route", "hyperliquid": "hyperliquid has no newest hour of BTC"}
    assert market.asked == [
        ("binance_um", "BTCUSDT", Timeframe.H1, T0, T0 + 3600),
        ("binance_spot", "BTCUSDT", Timeframe.H1, T0, T0 + 3600),
        ("hyperliquid", "BTC", Timeframe.H1, T0, T0 + 3600),
    ]
