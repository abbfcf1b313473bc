"""The soak: the whole pipeline against the simulated venue on its clock, every job at its time, a collector beside them, an operator.

What it is judged by is in `soak_verdict.py`; the command `regime soak` puts both together.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from time import sleep as sleep_s
from typing import Final

from regime_pipeline.errors import RegimeError
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import CandleStream, Stores, VenueLedger
from regime_pipeline.services.bootstrap import Brief, bootstrap
from regime_pipeline.services.collect_bars import Collector, Flush
from regime_pipeline.services.repair_gaps import repair_gaps
from regime_pipeline.services.run_step import run_timeframe
from regime_pipeline.services.window import Window
from regime_pipeline.simulation.server import Served
from regime_pipeline.simulation.soak_witness import Witness

DELAYS_S: Final = {Timeframe.M1: 5, Timeframe.H1: 120, Timeframe.D1: 300}
"""How long after its bar's end a job runs, as its cron says (the minute's waits out its grace)."""
TRIES: Final = 3
TRY_AGAIN_S: Final = 10
"""An hour's or a day's job that cannot read a vendor is repeated, as under Dagster; a minute's is made up for by the next."""
DOMINANCE_EVERY_S: Final = 300
HOUR_S: Final = 3600
COLLECTOR_DOWN_S: Final = (1200, 2400)
"""In each hour the collector is down for twenty minutes, as after a kill: the runs must do without it then."""
OPERATOR_S: Final = 300
"""A person ends a halt that is older than this: that of a 418 ends by itself before."""
SETTLE_MINUTES: Final = 20
"""Minutes without faults before the verdict: a hole is the vendor's own after three questions in ten minutes."""
_LOOK_S: Final = 0.02
_JOIN_S: Final = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Plant:
    """The pipeline under test, and the venue it lives on."""

    stores: Stores
    market: Witness
    universe: Universe
    ledger: VenueLedger
    streams: Sequence[CandleStream]
    served: Served


@dataclass(slots=True)
class Diary:
    """What happened: runs by timeframe, steps that failed with their last words, halts, and how late each minute was (virtual s)."""

    runs: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    words: list[str] = field(default_factory=list)
    halts: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    collectors: int = 0
    collector_bars: int = 0
    vendors_not_read: int = 0
    gaps_asked: int = 0
    gaps_found: int = 0
    after_close_s: list[float] = field(default_factory=list)
    bars_at_once: int = 1

    def fail(self, step: str, error: RegimeError) -> None:
        """Note a step that failed."""
        self.failed[step] += 1
        self.words = [*self.words[-19:], f"{step}: {error}"]


class Pauses:
    """Sleeps in virtual seconds for the venue clients, and counts: each pause is a question that is repeated."""

    def __init__(self, speed: float) -> None:
        self._speed, self.count = speed, 0

    def __call__(self, seconds: float) -> None:
        """Wait."""
        self.count += 1
        sleep_s(seconds / self._speed)


class Soak:
    """Drives a plant through its hours."""

    def __init__(self, plant: Plant, speed: float, tell: Callable[[str], None] = lambda _: None) -> None:
        """Begin at the venue's start; its clock must stand still.

        Parameters
        ----------
        speed : float
            Virtual seconds per second.
        tell : callable
            Told once an hour how it goes.
        """
        self.plant, self.diary = plant, Diary()
        self._speed, self._tell = speed, tell
        self._clock = plant.served.venue.clock
        self._start_s = int(self._clock.start_s)
        self._done_s = {timeframe: timeframe.floor(self._start_s - DELAYS_S[timeframe]) for timeframe in REGIME_TIMEFRAMES}
        self._tries: Counter[Timeframe] = Counter()
        self._not_before_s: dict[Timeframe, int] = {}
        self._halted: dict[str, int] = {}
        self._collector: _Running | None = None

    def fetch_history(self) -> Brief:
        """Bootstrap while the clock stands still."""
        plant = self.plant
        source = plant.market.patient()
        return bootstrap(plant.stores, source, plant.universe, plant.ledger, dominance_every_s=DOMINANCE_EVERY_S, clock=self._clock.now)

    def run(self, hours: float) -> None:
        """Live through the hours with faults, at the soak's speed.

        Raises
        ------
        RegimeError
            When the collector cannot go on; a step that fails is noted and the next one goes on.
        """
        end_s, told = self._start_s + hours * HOUR_S, 0
        self._clock.set_speed(self._speed)
        try:
            while (now_s := self._clock.now_s()) < end_s:
                since_s = now_s - self._start_s
                self._keep_collector(is_up=not COLLECTOR_DOWN_S[0] <= since_s % HOUR_S < COLLECTOR_DOWN_S[1])
                if not self._work():
                    sleep_s(_LOOK_S)
                if int(since_s // HOUR_S) > told:
                    told = int(since_s // HOUR_S)
                    self._tell(f"{told} h: {sum(self.plant.served.faults.values())} faults, {sum(self.diary.failed.values())} steps failed")
        finally:
            self._keep_collector(is_up=False)
            self._clock.set_speed(0)

    def settle(self) -> int:
        """Let no more faults happen and the pipeline heal, as the next hour would; returns the instant of the verdict, epoch seconds."""
        self.plant.served.venue.board.stop(self._clock.now_s())
        for _ in range(SETTLE_MINUTES):
            self._clock.advance(Timeframe.M1.seconds)
            self._operate(self._now_s(), patience_s=0)
            self._work()
        now_s = self._now_s()
        for timeframe in (Timeframe.H1, Timeframe.D1, *REGIME_TIMEFRAMES):  # the first two ask again for what is stored, the rest derive
            self._run_job(timeframe, timeframe.floor(now_s - DELAYS_S[timeframe]), now_s)
        return now_s

    def _work(self) -> bool:
        """Run the jobs that are due, then what sensors and an operator do; False when there was nothing to do."""
        ran = [timeframe for timeframe in REGIME_TIMEFRAMES if self._run_if_due(timeframe)]
        if Timeframe.M1 in ran:
            self._repair(self._now_s())
            self._operate(self._now_s(), OPERATOR_S)
        return bool(ran)

    def _run_if_due(self, timeframe: Timeframe) -> bool:
        now_s = self._now_s()
        end_s = timeframe.floor(now_s - DELAYS_S[timeframe])
        if end_s <= self._done_s[timeframe] or now_s < self._not_before_s.get(timeframe, now_s):
            return False
        is_done = self._run_job(timeframe, end_s, now_s)
        self._tries[timeframe] += 1
        if timeframe is Timeframe.M1:
            self.diary.bars_at_once = max(self.diary.bars_at_once, (end_s - self._done_s[timeframe]) // timeframe.seconds)
            self.diary.after_close_s.append(self._clock.now_s() - end_s)
        if is_done or timeframe is Timeframe.M1 or self._tries[timeframe] >= TRIES:
            self._done_s[timeframe], self._tries[timeframe] = end_s, 0
        else:
            self._not_before_s[timeframe] = self._now_s() + TRY_AGAIN_S
        return True

    def _run_job(self, timeframe: Timeframe, end_s: int, now_s: int) -> bool:
        """Run a live job for the bars up to `end_s`; False when it failed."""
        plant, first_s = self.plant, min(Timeframe.D1.floor(end_s - 1), end_s - timeframe.seconds)
        window = Window(first_s, end_s, live=True)
        self.diary.runs[timeframe] += 1
        try:
            done = run_timeframe(plant.stores, plant.market, plant.universe, timeframe, window, now_s, dominance_every_s=DOMINANCE_EVERY_S)
        except RegimeError as error:
            self.diary.fail(timeframe, error)
            return False
        self.diary.vendors_not_read += sum(len(part.failures) for part in done.ingest.values())
        return True

    def _repair(self, now_s: int) -> None:
        """Ask for the missing bars that are due, as the sensor `bar_gaps` does."""
        for timeframe in Timeframe:
            try:
                done = repair_gaps(self.plant.stores, self.plant.market, self.plant.universe, timeframe, now_s)
            except RegimeError as error:
                self.diary.fail(f"repair {timeframe}", error)
            else:
                self.diary.gaps_asked += done.asked
                self.diary.gaps_found += done.found

    def _operate(self, now_s: int, patience_s: int) -> None:
        """See which venues are halted, and end what has lasted too long."""
        halts = self.plant.ledger.load_halts(now_s)
        for venue, halt in halts.items():
            if self._halted.get(venue) != halt.since_s:
                self.diary.halts[venue] += 1
            if now_s - halt.since_s >= patience_s:
                self.diary.resumed += self.plant.ledger.resume(venue)
        self._halted = {venue: halt.since_s for venue, halt in halts.items()}

    def _keep_collector(self, *, is_up: bool) -> None:
        running = self._collector
        if running is not None and (not is_up or running.has_ended):
            self._collector = None
            running.stop()
        elif running is None and is_up:
            self.diary.collectors += 1
            self._collector = _Running(self._build_collector())

    def _build_collector(self) -> Collector:
        plant = self.plant

        def count(flush: Flush) -> None:
            self.diary.collector_bars += sum(each.written for each in flush.venues.values())

        return Collector(
            plant.stores,
            plant.universe,
            plant.streams,
            plant.ledger,
            instance="soak",
            on_flush=count,
            clock=self._clock.now,
            sleep=lambda seconds: asyncio.sleep(seconds / self._speed),
        )

    def _now_s(self) -> int:
        return int(self._clock.now_s())


class _Running:
    """A collector in a thread with an event loop of its own."""

    def __init__(self, collector: Collector) -> None:
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="collector")
        self._ending = self._pool.submit(self._run, collector)

    @property
    def has_ended(self) -> bool:
        return self._ending.done()

    def stop(self) -> None:
        """Stop it, and raise what ended it before."""
        with suppress(RuntimeError):  # its loop is closed: it has ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        try:
            self._ending.result(_JOIN_S)
        finally:
            self._pool.shutdown()

    def _run(self, collector: Collector) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(collector.run(self._stop))
        finally:
            self._loop.close()
