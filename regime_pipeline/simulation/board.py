"""The faults of a running venue: which one is due now, and how often each kind has happened."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from regime_pipeline.market.bars import BoolArray, FloatArray, IntArray, RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.simulation.answers import Call
from regime_pipeline.simulation.damage import Scene, damage_rows
from regime_pipeline.simulation.faults import (
    BAR_KINDS,
    ROW_KINDS,
    STREAM,
    STREAM_KINDS,
    TRANSPORT_KINDS,
    Fault,
    FaultKind,
    FaultScript,
    draw,
)
from regime_pipeline.simulation.truth import Listing, Truth
from regime_pipeline.simulation.wire import Api, Damage, WireBar, undamaged

# How far a bar that will be revised is on the way to its final values.
_EARLY: Final = 0.9
_WHOLE: Final = 2.0**64
_NULL_KINDS: Final = frozenset({FaultKind.NULL_FIELD})
_GAP_KINDS: Final = frozenset({FaultKind.VENDOR_GAP})


@dataclass(slots=True)
class _Turn:
    """Where a fault stands: matches and hits in all, and those of the present period."""

    matches: int = 0
    hits: int = 0
    period: int = -1
    period_matches: int = 0
    is_over: bool = False


class FaultBoard:
    """Decides for each request, bar and connection, and counts what happened by kind."""

    def __init__(self, script: FaultScript, seed: int, start_s: float) -> None:
        """Begin at the venue's start, from which all times of the script count."""
        self.script, self._until_s = script, float("inf")
        self.counts: Counter[FaultKind] = Counter()
        self._seed, self._start_s = seed, start_s
        self._turns = [_Turn() for _ in script.faults]
        self._listings: list[Listing] = []
        self._seen_bars: set[tuple[int, Listing, int]] = set()
        self._storms_until_s: dict[Api, float] = {}
        # Asked for with every request.
        self._matching, self._bar_of = cache(self._find_matching), cache(self._draw_bar)

    def list_bars_of(self, listings: Sequence[Listing]) -> None:
        """Learn what the venues list: a fault of single bars draws its bar from these."""
        self._listings = list(listings)

    def stop(self, now_s: float) -> None:
        """Let no more happen from an instant on; what happened to a bar before it stays true."""
        self._until_s = min(self._until_s, now_s)

    def transport_fault(self, call: Call, now_s: float) -> Fault | None:
        """Tell what happens to a request as a whole."""
        return next(self._due(TRANSPORT_KINDS, call, now_s), None)

    def loses_field(self, call: Call, now_s: float) -> bool:
        """Tell whether an answer without bars has a null in it."""
        return any(self._due(_NULL_KINDS, call, now_s))

    def damage(self, truth: Truth, call: Call, now_s: float) -> Damage:
        """Give what happens to the bars of an answer; a fault that finds no bar to work on waits for the next one."""
        listing = truth.listings(call.api).get(call.symbol or "")
        if listing is None:
            return undamaged

        def apply(rows: Sequence[WireBar]) -> Sequence[WireBar]:
            for at, fault in self._matching(ROW_KINDS, call):
                if self._is_due(at, fault, now_s):
                    number = draw(self._seed, at, "hit", self._turns[at].hits)
                    damaged = damage_rows(rows, fault, Scene(truth, listing, now_s, number))
                    if damaged is not None:
                        self._hit(at, fault)
                        return damaged
            return rows

        return apply

    def stream_faults(self, api: Api, now_s: float) -> list[Fault]:
        """Tell what happens to a connection at this tick."""
        found = list(self._due(STREAM_KINDS, Call(api, STREAM), now_s))
        for fault in found:
            if fault.kind is FaultKind.RECONNECT_STORM:
                self._storms_until_s[api] = now_s + fault.amount
        return found

    def is_stormy(self, api: Api, now_s: float) -> bool:
        """Tell whether a new connection is closed at once."""
        return now_s < self._until_s and now_s < self._storms_until_s.get(api, -np.inf)

    def is_gap(self, listing: Listing, timeframe: Timeframe, ts_s: IntArray) -> BoolArray:
        """Tell which bars the venue never has."""
        found = np.zeros(len(ts_s), dtype=np.bool_)
        for _, hit in self._bar_faults(_GAP_KINDS, listing, timeframe, ts_s):
            found |= hit
        return found

    def show(self, listing: Listing, timeframe: Timeframe, closed: RawBars, now_s: float) -> RawBars:
        """Give closed bars as the venue shows them now: without its gaps and the late ones, and not yet revised."""
        kept = np.ones(len(closed), dtype=np.bool_)
        done = np.ones(len(closed))
        age_s = now_s - (closed.ts_s + timeframe.seconds)
        for at, drawn in self._bar_faults(BAR_KINDS, listing, timeframe, closed.ts_s):
            fault = self.script.faults[at]
            hit = drawn if fault.kind is FaultKind.VENDOR_GAP else drawn & (age_s < fault.amount)
            self._count_bars(at, fault, listing, closed.ts_s[hit])
            if fault.kind is FaultKind.REVISED:
                done[hit] = _EARLY
            else:
                kept &= ~hit
        return _as_of(closed, done)[kept]

    def _due(self, kinds: frozenset[FaultKind], call: Call, now_s: float) -> Iterator[Fault]:
        """Go through the faults of some kinds that are due, each hit as it is taken."""
        for at, fault in self._matching(kinds, call):
            if self._is_due(at, fault, now_s):
                self._hit(at, fault)
                yield fault

    def _find_matching(self, kinds: frozenset[FaultKind], call: Call) -> list[tuple[int, Fault]]:
        return [(at, fault) for at, fault in enumerate(self.script.faults) if fault.kind in kinds and fault.matches(call)]

    def _is_due(self, at: int, fault: Fault, now_s: float) -> bool:
        """Count a match, and tell whether it is one that the fault's rule takes."""
        turn, since_s = self._turns[at], now_s - self._start_s - fault.from_s
        if since_s < 0 or now_s >= self._end_s(fault):
            return False
        if fault.max_count is not None and turn.hits >= fault.max_count:
            return False
        turn.matches += 1
        if fault.every is not None:
            return turn.matches % fault.every == 0
        if fault.probability is not None:
            return draw(self._seed, at, turn.matches) < fault.probability * _WHOLE
        period = int(since_s // (fault.every_s or 1))
        if period != turn.period:
            turn.period, turn.period_matches, turn.is_over = period, 0, False
        turn.period_matches += 1
        return not turn.is_over and turn.period_matches > draw(self._seed, at, period) % fault.spread

    def _hit(self, at: int, fault: Fault) -> None:
        turn = self._turns[at]
        turn.hits, turn.is_over = turn.hits + 1, True
        self.counts[fault.kind] += 1

    def _bar_faults(
        self, kinds: frozenset[FaultKind], listing: Listing, timeframe: Timeframe, ts_s: IntArray
    ) -> Iterator[tuple[int, BoolArray]]:
        """Find the bars of a window that some kinds of fault happen to; the same whoever asks, and when."""
        if not len(ts_s) or int(ts_s[-1]) < self._start_s:
            return
        for at, fault in enumerate(self.script.faults):
            if fault.kind in kinds and timeframe is (fault.timeframe or Timeframe.M1) and self._may_list(fault, listing):
                hit = self._drawn(at, fault, listing, timeframe, ts_s)
                if hit.any():
                    yield at, hit

    def _drawn(self, at: int, fault: Fault, listing: Listing, timeframe: Timeframe, ts_s: IntArray) -> BoolArray:
        since_s = ts_s - self._start_s - fault.from_s
        inside = (since_s >= 0) & (ts_s < self._end_s(fault))
        if fault.every is not None:
            offset = draw(self._seed, at, listing.venue, listing.symbol) % fault.every
            nth: BoolArray = (ts_s // timeframe.seconds + offset) % fault.every == 0
            return inside & nth
        if fault.probability is not None:
            share = [draw(self._seed, at, listing.venue, listing.symbol, bar) < fault.probability * _WHOLE for bar in ts_s.tolist()]
            return inside & np.array(share, dtype=np.bool_)
        every_s = fault.every_s or 1
        # A bar that opens just before a period may be the one drawn in it: its end is inside.
        periods = range(max(int(since_s[0]) // every_s, 0), max(int(since_s[-1]) + timeframe.seconds, 0) // every_s + 1)
        drawn = [self._bar_of(at, timeframe, period) for period in periods if fault.max_count is None or period < fault.max_count]
        return inside & np.isin(ts_s, [bar_s for of, bar_s in drawn if of == listing])

    def _draw_bar(self, at: int, timeframe: Timeframe, period: int) -> tuple[Listing, int]:
        """Draw the one bar that a fault happens to in a period."""
        fault = self.script.faults[at]
        listings = [each for each in self._listings if self._may_list(fault, each)]
        every_s = fault.every_s or 1
        offset_s = draw(self._seed, at, "when", period) % every_s
        ts_s = timeframe.floor(int(self._start_s) + fault.from_s + period * every_s + offset_s)
        return listings[draw(self._seed, at, "where", period) % len(listings)], ts_s

    def _end_s(self, fault: Fault) -> float:
        return self._until_s if fault.until_s is None else min(self._until_s, self._start_s + fault.until_s)

    @staticmethod
    def _may_list(fault: Fault, listing: Listing) -> bool:
        return fault.venue in {None, listing.api} and fault.symbol in {None, listing.symbol}

    def _count_bars(self, at: int, fault: Fault, listing: Listing, ts_s: IntArray) -> None:
        fresh = {(at, listing, bar) for bar in ts_s.tolist()} - self._seen_bars
        self._seen_bars |= fresh
        self.counts[fault.kind] += len(fresh)


def _as_of(bars: RawBars, done: FloatArray) -> RawBars:
    """Show each bar as far as it has come from its open to its final values, 1 being final."""
    if np.all(done == 1):
        return bars
    high, low, close = (
        np.where(done == 1, column, bars.open + (column - bars.open) * done) for column in (bars.high, bars.low, bars.close)
    )
    return RawBars(bars.ts_s, bars.open, high, low, close, np.where(done == 1, bars.volume, bars.volume * done))
