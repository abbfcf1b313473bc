"""The truth: the source's bars without the venue's own gaps, the first source first, whatever the source is."""

from regime_pipeline.adapters.venues.generated import GeneratedMarket
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.faults import Fault, FaultKind, FaultScript
from regime_pipeline.simulation.server import SimulatedVenue
from regime_pipeline.simulation.wire import Api
from tests.builders import T0
from tests.markets import TamperedMarket, small_universe

M1, H1 = Timeframe.M1, Timeframe.H1


def venue(*faults: Fault, source: TamperedMarket | None = None) -> SimulatedVenue:
    universe = small_universe()
    return SimulatedVenue(source or GeneratedMarket(universe, 7), universe, VirtualClock(T0, 0), FaultScript(faults=faults))


def test_a_gap_of_the_first_source_is_filled_by_the_second() -> None:
    gap = Fault(kind=FaultKind.VENDOR_GAP, every=7, venue=Api.USDM)
    sim = venue(gap)
    missing = sim.truth.gaps("binance_um", "BTCUSDT", M1, T0, T0 + 3600)
    bars, venues = sim.truth.series_bars(sim.universe.major("BTC"), M1, T0, T0 + 3600)
    assert len(missing) == 60 // 7 + (60 % 7 > 0 and missing[0] - T0 < 60 * (60 % 7))
    assert len(bars) == 60
    assert [ts_s for ts_s, name in zip(bars.ts_s.tolist(), venues, strict=True) if name == "binance_spot"] == missing
    assert not set(missing) & set(sim.truth.bars("binance_um", "BTCUSDT", M1, T0, T0 + 3600).ts_s.tolist())


def test_a_symbol_that_is_not_served_has_no_bars() -> None:
    assert len(venue().truth.bars("binance_um", "NOPE", M1, T0, T0 + 3600)) == 0


def test_untidy_recordings_are_served_in_order_each_bar_once() -> None:
    def shuffle(_symbol: str, _timeframe: Timeframe, raw: RawBars) -> RawBars:

        return RawBars.concat([raw[::-1], raw[:1]])

    untidy = TamperedMarket(GeneratedMarket(small_universe(), 7), shuffle)
    plain, tidied = venue().truth, venue(source=untidy).truth
    window = ("binance_um", "BTCUSDT", H1, T0, T0 + 86_400)
    assert tidied.bars(*window).equals(plain.bars(*window))


def test_without_minutes_an_open_bar_lies_on_the_line_to_its_end() -> None:
    def hours_only(_symbol: str, timeframe: Timeframe, raw: RawBars) -> RawBars:
        return raw if timeframe is H1 else RawBars.empty()

    sim = venue(source=TamperedMarket(GeneratedMarket(small_universe(), 7), hours_only))
    listing = sim.truth.listings(Api.USDM)["BTCUSDT"]
    whole = sim.truth.bars("binance_um", "BTCUSDT", H1, T0, T0 + 3600)
    seen = sim.truth.seen(listing, H1, T0, T0 + 3600, T0 + 900)
    assert seen.close[0] == whole.open[0] + (whole.close[0] - whole.open[0]) * 0.25
    assert seen.volume[0] == whole.volume[0] / 4
    assert sim.truth.price(listing, T0 + 900) == seen.close[0]
