"""Listen to the venues' candles and write each minute's closed bars as soon as its grace is over, so that a run finds them stored.

The collector makes the minute faster, never more right: what it did not hear, or could not prove to be closed, the next run asks for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import uniform
from typing import Final

import numpy as np

from regime_pipeline.clock import Clock, utc_now
from regime_pipeline.errors import DatabaseError, SourceUnavailableError, VenueHaltedError
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.candles import Candle, ClosedCandles
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarTable, CandleStream, Halt, Heartbeat, Stores, VenueLedger, Work
from regime_pipeline.services.accept_bars import Delivery, IngestSummary, accept_bars

MINUTE: Final = Timeframe.M1
SILENCE_S: Final = 90
"""A minute market is never so quiet: no candle of any symbol for this long is a dead connection that nobody told us of."""
KEEP_S: Final = 3600
"""Bars wait this long for a database that is down; older ones are asked for again by a run, so memory stays bounded."""
HALT_S: Final = 3600
"""A venue that refuses its stream is left alone for so long, unless its own halt is longer."""
BEAT_S: Final = 15
POLL_S: Final = 0.1
HELD_S: Final = 5
"""A bar that does not follow the stored ones is looked at again after so long."""
BACKOFF_S: Final = (1.0, 60.0)
STEADY_S: Final = 60
"""A connection that carried candles for so long was a good one: the next attempt after it comes soon."""

Key = tuple[str, int]
Chosen = Mapping[Key, tuple[str, Candle]]
"""For bars by series and open time: the venue that gives it, and its candle."""


@dataclass(frozen=True, slots=True)
class Flush:
    """What one write did: when, the verdict on each venue's bars, and how long after the newest bar's end it was done (seconds)."""

    at_s: int
    venues: Mapping[str, IngestSummary]
    newest_s: int
    after_close_s: float


@dataclass(slots=True)
class _Feed:
    """One venue: its stream, its present connection and what is said of it."""

    stream: CandleStream
    series: Mapping[str, str]
    evidence: ClosedCandles = field(default_factory=ClosedCandles)
    began_s: float = 0.0
    connected_s: float | None = None
    heard_s: float | None = None
    flushed_s: int | None = None
    last_bar_s: int | None = None
    connects: int = 0
    bars_written: int = 0
    problem: str | None = "not connected yet"


class Collector:
    """Holds what was heard until it is written; `run` does everything.

    Parameters
    ----------
    streams : sequence of CandleStream
        One per venue.
    ledger : VenueLedger
        Halted venues are left alone, and one that refuses us is halted.
    instance : str
        Our name in the heartbeats.
    on_flush : callable
        Told of every write.
    clock, sleep
        For tests and for a faster clock.
    """

    def __init__(
        self,
        stores: Stores,
        universe: Universe,
        streams: Sequence[CandleStream],
        ledger: VenueLedger,
        *,
        instance: str,
        on_flush: Callable[[Flush], None] = lambda _: None,
        clock: Clock = utc_now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._stores, self._universe, self._ledger = stores, universe, ledger
        self._instance, self._on_flush, self._clock, self._sleep = instance, on_flush, clock, sleep
        self._feeds = {stream.venue: _Feed(stream, _series_of(universe, stream.venue)) for stream in streams}
        self._rank = {
            (instrument.series, source.venue): rank
            for instrument in universe.instruments()
            for rank, source in reversed(list(enumerate(instrument.sources)))
        }
        self._waiting: dict[Key, dict[str, Candle]] = {}
        self._written: dict[Key, str] = {}
        self._held_until_s: dict[Key, int] = {}
        self._table = {major.series: BarTable.MAJORS for major in universe.majors}
        self._halts: Mapping[str, Halt] = {}
        self._started_s = int(self._now_s())
        self._beat_s = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Listen and write until `stop` is set; what is closed by then is still written.

        Raises
        ------
        RegimeError
            When a stream can never work or bars cannot be judged. A venue or database that is away raises nothing.
        """
        listeners = [asyncio.create_task(self._listen(feed)) for feed in self._feeds.values()]
        try:
            while not stop.is_set():
                await self._write()
                for listener in listeners:
                    if listener.done():
                        listener.result()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), POLL_S)
        finally:
            for listener in listeners:
                listener.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)
        for feed in self._feeds.values():
            feed.connected_s, feed.problem = None, "the collector was stopped"
        self._beat_s = 0.0
        await self._write()

    def hear(self, venue: str, candle: Candle) -> None:
        """Take a candle of a venue's present connection."""
        feed, now_s = self._feeds[venue], self._now_s()
        feed.heard_s = now_s
        if feed.connected_s is None:
            feed.connected_s, feed.problem = now_s, None
            feed.connects += 1
        if candle.ts_s > now_s + MINUTE.seconds:  # a stamp of the future would pass for evidence that the present bar is closed
            return
        bar = feed.evidence.take(candle)
        series = None if bar is None else feed.series.get(bar.symbol)
        if bar is None or series is None:
            return
        key = (series, bar.ts_s)
        known = self._written.get(key)
        if known is None or self._rank[series, venue] <= self._rank[series, known]:
            self._waiting.setdefault(key, {})[venue] = bar

    async def _listen(self, feed: _Feed) -> None:
        """Keep one venue connected; a connection that ends, goes silent or belongs to a halted venue is given up."""
        venue, failures = feed.stream.venue, 0
        while True:
            halt = self._halts.get(venue)
            if halt is not None:
                feed.problem = f"left alone: {halt.reason}"
                await self._sleep(POLL_S * 10)
                continue
            feed.evidence, feed.began_s = ClosedCandles(), self._now_s()
            try:
                await self._connect(feed)
            except VenueHaltedError as error:
                feed.problem = str(error)
                with suppress(DatabaseError):  # it refuses the next attempt too
                    await asyncio.to_thread(self._halt, venue, str(error))
            except SourceUnavailableError as error:
                feed.problem = str(error)
            was_good = feed.connected_s is not None and self._now_s() - feed.connected_s >= STEADY_S
            feed.connected_s = None
            failures = 1 if was_good else failures + 1
            await self._sleep(backoff_s(failures) * uniform(0.5, 1.5))  # noqa: S311  # jitter, not a secret

    async def _connect(self, feed: _Feed) -> None:
        venue = feed.stream.venue
        listening = asyncio.create_task(feed.stream.listen(lambda candle: self.hear(venue, candle)))
        try:
            while not listening.done():
                await asyncio.wait({listening}, timeout=POLL_S * 5)
                if self._now_s() - max(feed.began_s, feed.heard_s or 0.0) > SILENCE_S:
                    raise SourceUnavailableError(f"{venue} sent no candle for {SILENCE_S} s. It is connected again by itself.")
                if venue in self._halts:
                    return
            listening.result()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    def _halt(self, venue: str, reason: str) -> None:
        now_s = int(self._now_s())
        self._ledger.halt(venue, Halt(reason, now_s, now_s + HALT_S))
        self._halts = self._ledger.load_halts(now_s)

    async def _write(self) -> None:
        """Write what is due, and our heartbeats; a database that is away keeps it waiting."""
        now_s = self._now_s()
        self._forget(now_s)
        due = self._due(int(now_s))
        if not due and now_s - self._beat_s < BEAT_S:
            return
        self._beat_s = now_s
        with suppress(DatabaseError):
            written, summaries = await asyncio.to_thread(self._store, due, int(now_s))
            self._settle(due, written, int(now_s))
            if written:
                newest_s = max(ts_s for _, ts_s in written)
                self._on_flush(Flush(int(now_s), summaries, newest_s, self._now_s() - newest_s - MINUTE.seconds))

    def _due(self, now_s: int) -> Chosen:
        """Choose, of every bar whose grace is over, the venue that comes first among those that have it."""
        last_s = MINUTE.last_closed(now_s)
        chosen = {}
        for (series, ts_s), heard in self._waiting.items():
            if ts_s <= last_s and now_s >= self._held_until_s.get((series, ts_s), now_s):
                venue = min(heard, key=lambda name: self._rank[series, name])
                chosen[series, ts_s] = (venue, heard[venue])
        return chosen

    def _store(self, due: Chosen, now_s: int) -> tuple[Chosen, dict[str, IngestSummary]]:
        """Write bars and heartbeats, in a thread of its own: sockets are served meanwhile."""
        self._halts = self._ledger.load_halts(now_s)
        summaries: dict[str, IngestSummary] = {}
        with self._stores.open() as work:
            follows = self._following(work, due)
        for venue in sorted({venue for venue, _ in follows.values()}):
            # a transaction each: one with the bars of two venues locks majors after tokens, a run does not, and each waited for the other
            with self._stores.open() as work:
                summaries[venue] = accept_bars(work, self._universe, MINUTE, _deliveries(follows, venue), now_s)
        beats = [self._beat(feed, now_s, follows, summaries.get(venue)) for venue, feed in self._feeds.items()]
        with self._stores.open() as work:
            work.feeds.save_heartbeats(self._instance, beats)
        for beat in beats:
            feed = self._feeds[beat.venue]
            feed.flushed_s, feed.last_bar_s, feed.bars_written = beat.last_flush_s, beat.last_bar_s, beat.bars_written
        return follows, summaries

    def _following(self, work: Work, due: Chosen) -> Chosen:
        """Leave out bars behind a hole, even of one minute: a live run fills holes from the newest stored bar on, so none may be passed.

        A minute without trades is such a hole too: the run writes the bar behind it then, and the next one is ours again.
        """
        newest: dict[str, int] = {}
        for table in (BarTable.MAJORS, BarTable.TOKENS):
            newest |= work.bars.load_newest(
                table, MINUTE, sorted({name for name, _ in due if self._table.get(name, BarTable.TOKENS) is table})
            )
        follows = {}
        for series, ts_s in sorted(due):
            if series in newest and ts_s <= newest[series] + MINUTE.seconds:
                follows[series, ts_s] = due[series, ts_s]
                newest[series] = max(newest[series], ts_s)
        return follows

    def _settle(self, due: Chosen, written: Chosen, now_s: int) -> None:
        """Let go of what was written; what was heard in the meantime stays, and what was held back is looked at later."""
        self._held_until_s = {key: until_s for key, until_s in self._held_until_s.items() if key in self._waiting}
        self._held_until_s |= dict.fromkeys(due.keys() - written.keys(), now_s + HELD_S)
        for key, (venue, candle) in written.items():
            self._written[key] = venue
            heard = self._waiting[key]
            rank = self._rank[key[0], venue]
            for name in [name for name in heard if self._rank[key[0], name] > rank or heard[name] is candle]:
                del heard[name]
            if not heard:
                del self._waiting[key]

    def _forget(self, now_s: float) -> None:
        """Drop what is too old."""
        for kept in (self._written, self._waiting):
            for key in [key for key in kept if key[1] < now_s - KEEP_S]:
                del kept[key]

    def _beat(self, feed: _Feed, now_s: int, due: Chosen, summary: IngestSummary | None) -> Heartbeat:
        venue = feed.stream.venue
        newest_s = max((ts_s for (_, ts_s), (name, _) in due.items() if name == venue), default=None)
        return Heartbeat(
            venue=venue,
            beat_s=now_s,
            started_s=self._started_s,
            connected_s=None if feed.connected_s is None else int(feed.connected_s),
            last_message_s=None if feed.heard_s is None else int(feed.heard_s),
            last_flush_s=feed.flushed_s if summary is None else now_s,
            last_bar_s=max((each for each in (feed.last_bar_s, newest_s) if each is not None), default=None),
            connects=feed.connects,
            bars_written=feed.bars_written + (0 if summary is None else summary.written),
            problem=feed.problem,
        )

    def _now_s(self) -> float:
        return self._clock().timestamp()


def backoff_s(failures: int) -> float:
    """Seconds to wait before the next attempt after so many failures in a row: doubling, within `BACKOFF_S`."""
    shortest, longest = BACKOFF_S
    return min(longest, shortest * 2.0 ** min(failures - 1, 10))


def _series_of(universe: Universe, venue: str) -> dict[str, str]:
    """Series by the symbol that a venue gives first."""
    return {each.symbol: instrument.series for instrument in universe.instruments() for each in instrument.sources if each.venue == venue}


def _deliveries(due: Chosen, venue: str) -> list[Delivery]:
    """Bars of one venue, by series, oldest first."""
    grouped: dict[str, list[Candle]] = {}
    for (series, _), (name, candle) in sorted(due.items(), key=lambda item: item[0]):
        if name == venue:
            grouped.setdefault(series, []).append(candle)
    return [Delivery(series, venue, _raw(candles)) for series, candles in grouped.items()]


def _raw(candles: Sequence[Candle]) -> RawBars:
    columns = [np.array([getattr(each, name) for each in candles]) for name in ("ts_s", "open", "high", "low", "close", "volume")]
    return RawBars(*columns)
