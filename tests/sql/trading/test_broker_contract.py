"""The broker contract, asked of the paper broker and of both simulated venues through real ccxt clients."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import pytest

from regime_pipeline.ports import Broker
from tests.brokers import SYMBOLS, connect
from tests.papered import PaperDesk
from tests.sql.trading.broker_contract import BrokerContract
from tests.trading import TradingVenue, serve_trading


@dataclass
class PaperRig:
    """The paper broker; its market moves a minute at a time."""

    desk: PaperDesk

    def __post_init__(self) -> None:
        self.broker: Broker = self.desk.broker
        self.symbol, self.price = self.desk.symbol, Decimal(40_000)

    @property
    def now_ms(self) -> int:
        return self.desk.now_ms

    def let_trade(self) -> None:
        self.desk.pass_minute()


@dataclass
class VenueRig:
    """A simulated venue, which trades at once."""

    venue: TradingVenue

    def __post_init__(self) -> None:
        self.broker: Broker = connect(self.venue)
        self.symbol, self.price = SYMBOLS[self.venue.market_type.value], Decimal(40_000)

    @property
    def now_ms(self) -> int:
        return self.venue.now_ms

    def let_trade(self) -> None:
        self.venue.set_price("BTCUSDT", self.price)


@pytest.fixture(scope="module", params=["spot", "linear"])
def venue_rig(request: pytest.FixtureRequest) -> Iterator[VenueRig]:
    with serve_trading(request.param) as venue:
        yield VenueRig(venue)


class TestPaper(BrokerContract):
    @pytest.fixture(params=["spot", "linear"])
    def rig(self, request: pytest.FixtureRequest, database: str) -> Iterator[PaperRig]:
        desk = PaperDesk(database, "BTC", 40_000.0, market_type=request.param)
        yield PaperRig(desk)
        desk.broker.close()


class TestVenues(BrokerContract):
    @pytest.fixture
    def rig(self, venue_rig: VenueRig) -> VenueRig:
        return venue_rig
