"""Ticks in threads and processes of their own: at a barrier, and killed at a named point, on a real database."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.run_pm_tick import TickSummary, run_pm_tick
from tests.killing import Deadly
from tests.tick_desk import TickDesk, the_universe


@dataclass(frozen=True)
class Ticked:
    """What one of several ticks came to, and how long it took by the wall clock."""

    summary: TickSummary
    took_ms: float


class Racers:
    """Ticks that begin at the same moment, each with connections and a holder of its own, as those of several daemons."""

    def __init__(self, desk: TickDesk, n: int) -> None:
        self.desk, self.barrier = desk, Barrier(n)
        self.stores = [PostgresStores(desk.url) for _ in range(n)]
        self.pool = ThreadPoolExecutor(n)

    def race(self, trading: Trading, timeframe: Timeframe = Timeframe.H1) -> list[Ticked]:
        """Tick once in each thread."""

        def tick(place: int) -> Ticked:
            mine = replace(
                trading,
                stores=self.stores[place],
                terms=replace(trading.terms, holder=f"daemon-{place}"),
                monotonic=time.monotonic,
                sleep=time.sleep,
            )
            self.barrier.wait(30)
            began_s = time.perf_counter()
            return Ticked(run_pm_tick(mine, the_universe(), timeframe), 1000 * (time.perf_counter() - began_s))

        return list(self.pool.map(tick, range(len(self.stores))))

    def close(self) -> None:
        """End the threads and their connections."""
        self.pool.shutdown()
        for each in self.stores:
            each.close()


def keep_fresh(desk: TickDesk, contract: str = "AAVE") -> None:
    """Give drivers and a token the bars of the hour that has passed: what is decided on is young and whole."""
    for timeframe in CHANNEL_TIMEFRAMES:
        for series in ("regime:BTC", "regime:ALT"):
            desk.save_driver(series, timeframe, desk.calm_bars(timeframe, max(4, 4000 // timeframe.seconds)))
    desk.save_token(Timeframe.H1, desk.calm_bars(Timeframe.H1, 3), f"token:{contract}:binance")


def tick_and_die(url: str, folder: str, now_s: int, point: str) -> None:
    """A tick in a process of its own that kills itself at a point."""
    desk = TickDesk(url, Path(folder))
    desk.go_to(now_s)
    at: Callable[[str], None] = Deadly(point)
    run_pm_tick(replace(desk.trading, at=at, terms=replace(desk.trading.terms, holder="stuck")), the_universe(), Timeframe.H1)
