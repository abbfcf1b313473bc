"""A small simulated venue for tests, on a clock that stands still until it is moved."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests

from regime_pipeline.adapters.venues.generated import GeneratedMarket
from regime_pipeline.ports import BarSource
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.faults import Fault, FaultScript
from regime_pipeline.simulation.server import Served, SimulatedVenue, serve
from tests.builders import T0
from tests.markets import small_universe

# 12:01:30 of a day.
NOON = T0 + 12 * 3600 + 90


@contextmanager
def simulated(
    *faults: Fault, start_s: float = NOON, speed: float = 0.0, seed: int = 3, source: BarSource | None = None
) -> Iterator[Served]:
    """Serve the generated market of a small universe."""
    universe = small_universe()
    venue = SimulatedVenue(
        source or GeneratedMarket(universe, 7), universe, VirtualClock(start_s, speed), FaultScript(faults=faults), seed=seed
    )
    with serve(venue) as served:
        yield served


def klines(served: Served, symbol: str = "BTCUSDT", interval: str = "1m", path: str = "binance-um/fapi/v1", **params: int) -> Any:
    """Ask for klines; the decoded body."""
    query = {"symbol": symbol, "interval": interval, **params}
    return requests.get(f"{served.url}/{path}/klines", params=query, timeout=5).json()


def info(served: Served, **body: Any) -> requests.Response:
    """Ask Hyperliquid."""
    return requests.post(f"{served.url}/hyperliquid/info", json=body, timeout=5)
