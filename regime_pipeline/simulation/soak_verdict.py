"""The verdict on a soak: its bars against the venue's truth, and everything derived against a clean run over that truth.

The clean run has no venue, no fault and no live minute: the true bars go through the same services in one pass.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from regime_pipeline.adapters.postgres.soak_audit import PostgresSoakAudit
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.market.bars import BoolArray, RawBars
from regime_pipeline.market.buckets import CapObservation
from regime_pipeline.market.dominance import close_minutes
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Instrument, Universe
from regime_pipeline.ports import BarTable, TimeRange, Work
from regime_pipeline.services.accept_bars import Delivery, accept_bars
from regime_pipeline.services.bootstrap import HISTORY_BARS, PASSES
from regime_pipeline.services.derivation import bar_timeframes, driver_series
from regime_pipeline.services.ingest_bars import ROLLUP
from regime_pipeline.services.run_step import run_timeframe
from regime_pipeline.services.sample_dominance import VENDOR
from regime_pipeline.services.window import Window
from regime_pipeline.simulation.soak import DOMINANCE_EVERY_S
from regime_pipeline.simulation.soak_witness import Lie, is_far_off
from regime_pipeline.simulation.truth import Truth

COMPARED: Final[Mapping[str, tuple[str, ...]]] = {
    "majors_price_data_ohlc": ("token_contract", "chain", "timeframe", "timestamp"),
    "lowcap_price_data_ohlc": ("token_contract", "chain", "timeframe", "timestamp"),
    "regime_price_data_ohlc": ("driver", "timeframe", "timestamp"),
    "uptrend_states": ("series", "timeframe", "ts"),
    "uptrend_state_events": ("series", "timeframe", "ts"),
    "sr_levels": ("series", "timeframe", "built_ts", "level_id"),
    "regime_deltas": ("driver", "timeframe", "ts"),
    "token_cap_bucket": ("token_contract", "chain", "valid_from"),
    "lowcap_positions": ("token_contract", "token_chain", "timeframe"),
}
"""Tables of bars and of what follows from them, and what names a row of theirs."""
SUM_ROUNDING: Final = 1e-12
"""Relative error of a rolled-up volume, a sum of up to 1,440 floats; all else is compared exactly."""
VENDOR_NONE: Final = "vendor_none"
_PRICES: Final = ("open", "high", "low", "close")
_MAX_EXAMPLES: Final = 20


@dataclass(slots=True)
class BarVerdict:
    """What differs from the truth; `second_choice` are bars of a venue behind the best one that has them, right in themselves."""

    compared: int = 0
    missing: int = 0
    wrong: int = 0
    duplicate: int = 0
    open_used: int = 0
    outliers_admitted: int = 0
    outliers_delivered: int = 0
    outliers_unrefused: int = 0
    second_choice: int = 0
    examples: list[str] = field(default_factory=list)

    def example(self, what: str, series: str, timeframe: Timeframe, times_s: Sequence[int]) -> None:
        """Keep a few examples for whoever has to find out why."""
        if len(times_s):
            self.examples = [*self.examples, f"{what}: {series} {timeframe} {list(times_s[:5])}, {len(times_s)} in all"][:_MAX_EXAMPLES]


@dataclass(frozen=True, slots=True)
class GapVerdict:
    """Missing bars that came, the vendors' own, those still asked for, and those given up although a venue has them."""

    closed: int
    of_vendors: int
    open: int
    given_up_wrongly: int
    examples: list[str]


@dataclass(slots=True)
class StateVerdict:
    """Rows of a clean run by table, how many differ (or are on one side only), and a few of them."""

    compared: dict[str, int] = field(default_factory=dict)
    different: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """What a series should hold and does: true bars with the venue of each, and stored bars with theirs."""

    series: str
    timeframe: Timeframe
    true: RawBars
    venues: list[str]
    stored: RawBars
    sources: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Compares the database of a soak with the truth.

    Parameters
    ----------
    start_s, now_s : int
        When the soak began and the instant of the verdict, epoch seconds.
    history_bars : int
        Bars of each series and timeframe that were fetched before the start.
    """

    truth: Truth
    universe: Universe
    stores: PostgresStores
    start_s: int
    now_s: int
    history_bars: int = HISTORY_BARS

    def judge_bars(self, lies: Collection[Lie]) -> BarVerdict:
        """Compare every stored bar with what the venue it came from says for ever, and look for every bar that should be there."""
        verdict = BarVerdict(outliers_delivered=len(lies))
        with self.stores.open() as work:
            audit = PostgresSoakAudit(work.conn)
            for held in self._held(work):
                self._judge_series(held, verdict)
            for (series, timeframe), replaced in audit.load_replaced().items():
                self._judge_replaced(series, timeframe, replaced, verdict)
            unrefused = sorted(set(lies) - audit.load_refused())
        verdict.outliers_unrefused = len(unrefused)
        for lie in unrefused[:_MAX_EXAMPLES]:
            verdict.example("outlier not in quarantine", f"{lie.series} of {lie.venue}", lie.timeframe, [lie.ts_s])
        return verdict

    def judge_gaps(self) -> GapVerdict:
        """Look at what is still missing: it must be the vendors' own, and they must not have it."""
        instruments = {each.series: each for each in self.universe.instruments()}
        with self.stores.open() as work:
            audit = PostgresSoakAudit(work.conn)
            counts, gaps = audit.count_gaps(), audit.load_open_gaps()
        given_up = [gap for gap in gaps if gap[3] == VENDOR_NONE and gap[0] in instruments]
        wrongly = sum(len(self._true(instruments[series], timeframe, ts_s)) for series, timeframe, ts_s, _ in given_up)
        examples = [f"open gap: {series} {timeframe} {ts_s} {reason}" for series, timeframe, ts_s, reason in gaps if reason != VENDOR_NONE]
        return GapVerdict(counts.closed, counts.vendors, counts.open, wrongly, examples[:_MAX_EXAMPLES])

    def _true(self, instrument: Instrument, timeframe: Timeframe, ts_s: int) -> RawBars:
        return self.truth.series_bars(instrument, timeframe, ts_s, ts_s + timeframe.seconds)[0]

    def fill_clean(self, clean: PostgresStores, caps: Mapping[str, Sequence[CapObservation]]) -> None:
        """Fill another database from the truth through the same services, without faults."""
        with self.stores.open() as work:
            deliveries: dict[Timeframe, list[Delivery]] = {}
            for held in self._held(work):
                for venue in sorted(set(held.venues)):
                    mine = held.true[np.array([each == venue for each in held.venues])]
                    # said twice: a venue that repeats a bar that left its neighbours is believed
                    deliveries.setdefault(held.timeframe, []).extend([Delivery(held.series, venue, mine)] * 2)
            names = [driver.name for driver in self.universe.drivers if driver.kind == "dominance"]
            samples = work.feeds.load_samples(names, 0)
        end_s = Timeframe.M1.last_closed(self.now_s) + Timeframe.M1.seconds
        for name, answers in ((name, found) for name, found in samples.items() if found):
            minutes = close_minutes(answers, Timeframe.M1.floor(answers[0].fetched_at_s), end_s, DOMINANCE_EVERY_S).bars
            deliveries[Timeframe.M1].append(Delivery(driver_series(name), VENDOR, minutes))
        for timeframe, of_timeframe in deliveries.items():
            with clean.open() as work:
                accept_bars(work, self.universe, timeframe, of_timeframe, self.now_s)
        source = _OnlyCaps(caps)
        for timeframe in PASSES:
            run_timeframe(clean, source, self.universe, timeframe, Window(self.start_s - 86_400, self.now_s), self.now_s)

    def compare_derived(self, clean: PostgresStores) -> StateVerdict:
        """Compare every row of the tables that follow from bars with a clean run's."""
        verdict = StateVerdict()
        with self.stores.open() as work, clean.open() as other:
            for table, key in COMPARED.items():
                ours, theirs = (PostgresSoakAudit(each.conn).hash_rows(table, key) for each in (work, other))
                rows = sorted(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
                verdict.compared[table], verdict.different[table] = len(theirs), len(rows)
                for name in rows[:_MAX_EXAMPLES]:
                    how = "only in the soak" if name not in theirs else "not in the soak" if name not in ours else "differs"
                    verdict.examples.append(f"{table} {name}: {how}")
        return verdict

    def _held(self, work: Work) -> Iterator[_Held]:
        """Go through all series and timeframes, from the first bar of the bootstrap on."""
        for table, instruments in ((BarTable.MAJORS, self.universe.majors), (BarTable.TOKENS, self.universe.tokens)):
            in_use = bar_timeframes(self.universe, table)
            for instrument in instruments:
                for timeframe in sorted(in_use[instrument.series], key=lambda each: each.seconds):
                    yield self._hold(work, table, instrument, timeframe)

    def _hold(self, work: Work, table: BarTable, instrument: Instrument, timeframe: Timeframe) -> _Held:
        step, series = timeframe.seconds, instrument.series
        start_s = timeframe.last_closed(self.start_s) + step - self.history_bars * step
        end_s = timeframe.last_closed(self.now_s) + step
        stored: RawBars = work.bars.load_after(table, timeframe, {series: -(10**9)}).get(series, RawBars.empty())
        coverage = work.bars.load_coverage(table, timeframe, [series], 0, 2**34)[series]
        source_of = dict(zip(coverage.ts_s.tolist(), coverage.source.tolist(), strict=True))
        sources = [str(source_of[ts_s]) for ts_s in stored.ts_s.tolist()]
        true, venues = self.truth.series_bars(instrument, timeframe, start_s, end_s)
        true, venues = self._as_chosen(instrument, timeframe, true, venues, source_of)
        return _Held(series, timeframe, true, venues, stored, sources)

    def _as_chosen(
        self, instrument: Instrument, timeframe: Timeframe, true: RawBars, venues: list[str], source_of: Mapping[int, str]
    ) -> tuple[RawBars, list[str]]:
        """Take the truth of the venue that a bar was taken from where that one has it: venues differ by a rounding of the volume."""
        chosen = [source_of.get(ts_s, best) for ts_s, best in zip(true.ts_s.tolist(), venues, strict=True)]
        parts, names = [], []
        known = {source.venue: source.symbol for source in instrument.sources}
        for venue in sorted({each for each in chosen if each in known}):
            wanted = true.ts_s[np.array([each == venue for each in chosen])]
            theirs = self.truth.bars(venue, known[venue], timeframe, int(wanted[0]), int(wanted[-1]) + timeframe.seconds)
            parts.append(theirs[np.isin(theirs.ts_s, wanted)])
            names += [venue] * len(parts[-1])
        rest = ~np.isin(true.ts_s, np.concatenate([np.empty(0, dtype=np.int64), *(part.ts_s for part in parts)]))
        joined = RawBars.concat([*parts, true[rest]])
        names += [name for name, is_left in zip(venues, rest.tolist(), strict=True) if is_left]
        order = np.argsort(joined.ts_s, kind="stable")
        return joined[order], [names[at] for at in order.tolist()]

    def _judge_series(self, held: _Held, verdict: BarVerdict) -> None:
        true, stored = held.true, held.stored
        missing = true.ts_s[~np.isin(true.ts_s, stored.ts_s)].tolist()
        verdict.compared += len(true)
        verdict.missing += len(missing)
        verdict.example("missing", held.series, held.timeframe, missing)
        verdict.duplicate += sum(count - 1 for count in Counter(stored.ts_s.tolist()).values())
        wrong = _find_wrong(stored, true, is_rolled=np.array([source == ROLLUP for source in held.sources], dtype=np.bool_))
        verdict.wrong += int(wrong.sum())
        verdict.example("wrong", held.series, held.timeframe, stored.ts_s[wrong].tolist())
        verdict.outliers_admitted += int(is_far_off(stored, true).sum())
        verdict.open_used += self._count_open(held.series, held.timeframe, stored[wrong], verdict)
        best = next(each for each in self.universe.instruments() if each.series == held.series).sources[0].venue
        verdict.second_choice += sum(source not in {best, ROLLUP} for source in held.sources)

    def _judge_replaced(self, series: str, timeframe: Timeframe, replaced: RawBars, verdict: BarVerdict) -> None:
        """Look at what was final once and was changed: no lie and no open candle may have been believed even for a while."""
        instrument = next((each for each in self.universe.instruments() if each.series == series), None)
        if instrument is None:
            return
        true, _ = self.truth.series_bars(instrument, timeframe, int(replaced.ts_s[0]), int(replaced.ts_s[-1]) + timeframe.seconds)
        far = is_far_off(replaced, true)
        verdict.outliers_admitted += int(far.sum())
        verdict.example("outlier admitted", series, timeframe, replaced.ts_s[far].tolist())
        verdict.open_used += self._count_open(series, timeframe, replaced, verdict)

    def _count_open(self, series: str, timeframe: Timeframe, bars: RawBars, verdict: BarVerdict) -> int:
        """Count bars that open where the next one does: those were that bar, still forming, under a wrong time."""
        if not len(bars):
            return 0
        instrument = next(each for each in self.universe.instruments() if each.series == series)
        step = timeframe.seconds
        true, _ = self.truth.series_bars(instrument, timeframe, int(bars.ts_s.min()), int(bars.ts_s.max()) + 2 * step)
        opens = dict(zip(true.ts_s.tolist(), true.open.tolist(), strict=True))
        found = [
            ts_s
            for ts_s, open_ in zip(bars.ts_s.tolist(), bars.open.tolist(), strict=True)
            if open_ == opens.get(ts_s + step) and open_ != opens.get(ts_s)
        ]
        verdict.example("open candle", series, timeframe, found)
        return len(found)


def _find_wrong(stored: RawBars, true: RawBars, is_rolled: BoolArray) -> BoolArray:
    """Tell which stored bars are not the true ones; a bar that no venue has is wrong."""
    has = np.isin(stored.ts_s, true.ts_s)
    wrong: BoolArray = ~has
    at = np.searchsorted(true.ts_s, stored.ts_s[has])
    same = np.ones(len(at), dtype=np.bool_)
    for name in _PRICES:
        same &= getattr(stored, name)[has] == getattr(true, name)[at]
    mine, theirs = stored.volume[has], true.volume[at]
    same &= (mine == theirs) | (is_rolled[has] & (np.abs(mine - theirs) <= SUM_ROUNDING * theirs))
    wrong[has] = ~same
    return wrong


@dataclass(frozen=True, slots=True)
class _OnlyCaps:
    """A source without bars: those are there already. Market caps became known as in the soak."""

    caps: Mapping[str, Sequence[CapObservation]]
    name: str = "truth"

    def venues(self) -> Collection[str]:
        return ()

    def time_range(self, venue: str, symbol: str, timeframe: Timeframe) -> TimeRange | None:  # noqa: ARG002 - nothing to ask
        return None

    def fetch_bars(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:  # noqa: ARG002 - as above
        return RawBars.empty()

    def dominance_range(self, driver: str, timeframe: Timeframe) -> TimeRange | None:  # noqa: ARG002 - as above
        return None

    def fetch_dominance(self, driver: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:  # noqa: ARG002 - as above
        return RawBars.empty()

    def fetch_market_caps(self, start_s: int, end_s: int) -> Mapping[str, Sequence[CapObservation]]:
        return {name: [each for each in known if start_s <= each.known_at_s < end_s] for name, known in self.caps.items()}
