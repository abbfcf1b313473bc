"""The first start against venues that take their time: how much of it is ours, and not theirs."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from benchmarks.database import make_database
from benchmarks.measure import Measure
from regime_pipeline.adapters.postgres.embedded import ServerAddress
from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.adapters.venues.live import LiveMarket
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES
from regime_pipeline.market.universe import Universe
from regime_pipeline.services.bootstrap import Brief, bootstrap

LATENCY_S: Final = 0.1
"""What a venue on another continent takes to answer."""
MATURE: Final = tuple((driver, timeframe) for driver in ("BTC", "ALT") for timeframe in REGIME_TIMEFRAMES)


def measure_bootstrap(server: ServerAddress, base: Universe) -> list[Measure]:
    """Measure two bootstraps of the five majors on empty databases; the second, with kernels and clients loaded, counts."""
    universe = base.model_copy(update={"tokens": ()})
    shares, briefs, requests = [], [], []
    with open_slow_venue() as url:
        for at in range(2):
            before = _count_requests(url)
            briefs.append(_bootstrap(make_database(server, f"bootstrap_{at}"), universe, url))
            requests.append(_count_requests(url) - before)
            shares.append(1 - briefs[-1].asking_s / briefs[-1].total_s)
    brief = briefs[-1]
    facts = {
        "bars written": f"{brief.bars_written:,}",
        "requests": f"{requests[-1]}, of which {requests[-1] * LATENCY_S:.1f} s are the venues' latency",
        "own share of the first in a process": f"{100 * shares[0]:.0f} % of {briefs[0].total_s:.1f} s",
    }
    own_s = brief.total_s - brief.asking_s
    return [Measure("g", "bootstrap of 5 majors x 3 timeframes without waiting for venues", own_s, "all of it", brief.total_s, 0.2, facts)]


@contextmanager
def open_slow_venue() -> Iterator[str]:
    """Serve the simulated venue in a process of its own, every answer late; yields its address."""
    with tempfile.TemporaryDirectory(prefix="regime-bench-") as folder:
        script = Path(folder) / "slow.json"
        script.write_text(json.dumps({"faults": [{"kind": "latency", "every": 1, "value": LATENCY_S}]}))
        program = ["-c", "from regime_pipeline.cli import main; main()", "sim", "--port", "0", "--json", "--faults", str(script)]
        with subprocess.Popen([sys.executable, *program], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # our own interpreter
            try:
                assert process.stdout is not None
                yield json.loads(process.stdout.readline())["url"]
            finally:
                process.terminate()


def _bootstrap(database: str, universe: Universe, url: str) -> Brief:
    stores, ledger = PostgresStores(database), PostgresVenueLedger(database)
    market = LiveMarket(
        universe,
        ledger,
        venue_url=url,
        timeout_s=10.0,
        coingecko_plan="pro",
        coingecko_key="simulated",
        coingecko_monthly_calls=10_000,
        sleep=time.sleep,
    )
    try:
        brief = bootstrap(stores, market, universe, ledger, dominance_every_s=300)
    finally:
        stores.close()
    states = {(cell.driver, cell.timeframe): cell.row for cell in brief.cells}
    if young := [place for place in MATURE if (row := states[place]) is None or row.immature]:
        raise RuntimeError(f"no mature state of {young} after the bootstrap; problems: {brief.problems}")
    return brief


def _count_requests(url: str) -> int:
    with urlopen(f"{url}/sim/status", timeout=10) as answer:  # noqa: S310  # our own loopback address
        status: dict[str, Any] = json.load(answer)
    return sum(status["requests"].values())
