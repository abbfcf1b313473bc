"""Build the bars of the drivers that are made of others: BTC from its major, ALT and the buckets as composites."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from regime_pipeline.market.bars import Bars, IntArray
from regime_pipeline.market.composite import ChainState, CompositeSpec, Membership, build_composite
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Driver, Universe
from regime_pipeline.ports import BarRows, BarTable, Stage, Stores, Work
from regime_pipeline.services.batches import plan_batches
from regime_pipeline.services.derivation import driver_series, mark_consequences
from regime_pipeline.services.score_validity import score_driver
from regime_pipeline.services.tag_buckets import load_memberships

COMPOSITE = "composite"


@dataclass(frozen=True, slots=True)
class DriverRows:
    """Bars derived for a driver, open time of the last, components in it, and grid times without a bar."""

    rows: int
    last_s: int | None
    components: int | None
    gaps: int


@dataclass(slots=True)
class DriverSummary:
    """What a build did, all drivers together and each."""

    written: int = 0
    unchanged: int = 0
    removed: int = 0
    drivers: dict[str, DriverRows] = field(default_factory=dict)


def build_drivers(stores: Stores, universe: Universe, timeframe: Timeframe, now_s: int, *, recent_s: int | None = None) -> DriverSummary:
    """Derive the marked drivers of a timeframe from the bars of their components.

    A changed component bar at S re-derives the chain from S on, so that stored composites always equal a rebuild.

    Parameters
    ----------
    now_s : int
        Epoch seconds, end of the newest bar there may be: says how much there may be to do, see `plan_batches`.
    recent_s : int, optional
        Open time from which on marks are taken without waiting for anybody, see `find_recent`; None: all, and held series are waited for.
    """
    summary = DriverSummary()
    derived = {driver_series(driver.name): driver for driver in universe.drivers if driver.kind != "dominance"}
    for batch in plan_batches(stores, Stage.DRIVER, timeframe, now_s, recent_s=recent_s):
        with stores.open() as work:
            marked = work.marks.take(Stage.DRIVER, timeframe, [series for series in batch if series in derived], recent_s=recent_s)
            _build_series(work, universe, timeframe, derived, marked, summary)
    return summary


def _build_series(
    work: Work,
    universe: Universe,
    timeframe: Timeframe,
    derived: Mapping[str, Driver],
    marked: Mapping[str, int],
    summary: DriverSummary,
) -> None:
    if not marked:
        return
    memberships = load_memberships(work, universe)
    rows: dict[str, BarRows] = {}
    changed: dict[str, int] = {}
    for series, from_s in marked.items():
        driver = derived[series]
        gaps_s = np.empty(0, dtype=np.int64)
        if driver.kind == "major":
            rows[series] = _copy_major(work, universe, driver, timeframe, from_s)
        else:
            rows[series], gaps_s = _build_composite(work, universe, driver, timeframe, from_s, memberships.get(driver.name))
            removed = work.bars.remove(BarTable.DRIVERS, timeframe, series, from_s, rows[series].bars.ts_s)
            summary.removed += removed
            if removed:  # the bar after a removed one steps from another
                changed[series] = from_s
            _note_gaps(work, timeframe, series, from_s, rows[series].bars, gaps_s)
        summary.drivers[driver.name] = _describe(rows[series], len(gaps_s))
        components = _components_of(universe, driver, memberships.get(driver.name))
        score_driver(work, driver, series, timeframe, rows[series].bars, rows[series].component_count, components)
    saved = work.bars.save(BarTable.DRIVERS, timeframe, rows)
    first_s = {**saved.first_written_s, **changed}
    mark_consequences(work, universe, BarTable.DRIVERS, timeframe, first_s)
    summary.written += saved.written
    summary.unchanged += saved.unchanged


def _components_of(universe: Universe, driver: Driver, membership: Membership | None) -> list[str]:
    """Series that a driver is made of; of a bucket all that ever were."""
    return [universe.major(contract).series for contract in driver.components] or list(membership or {})


def _note_gaps(work: Work, timeframe: Timeframe, series: str, from_s: int, bars: Bars, gaps_s: IntArray) -> None:
    """Record the grid times without a composite bar between the first derived bar and the newest component bar."""
    newest_s = max([from_s, *bars.ts_s[-1:].tolist(), *gaps_s[-1:].tolist()])
    work.bars.record_gaps(timeframe, COMPOSITE, {series: gaps_s}, {series: (from_s, newest_s + timeframe.seconds)})


def _describe(rows: BarRows, gaps: int) -> DriverRows:
    last_s = int(rows.bars.ts_s[-1]) if len(rows.bars) else None
    components = int(rows.component_count[-1]) if rows.component_count is not None and len(rows.bars) else None
    return DriverRows(len(rows.bars), last_s, components, gaps)


def _copy_major(work: Work, universe: Universe, driver: Driver, timeframe: Timeframe, from_s: int) -> BarRows:
    series = universe.major(driver.components[0]).series
    bars = work.bars.load_after(BarTable.MAJORS, timeframe, {series: from_s - 1}).get(series, Bars.empty())
    n = len(bars)
    return BarRows(bars, (series,), np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.bool_))


def _build_composite(
    work: Work, universe: Universe, driver: Driver, timeframe: Timeframe, from_s: int, membership: Membership | None
) -> tuple[BarRows, IntArray]:
    """Extend the chain from its last bar before `from_s`, or build it from the first component bar there is."""
    table = BarTable.MAJORS if driver.kind == "composite" else BarTable.TOKENS
    names = _components_of(universe, driver, membership)
    own = driver_series(driver.name)
    before = work.bars.load_last(BarTable.DRIVERS, timeframe, {own: from_s - 1}, 1).get(own)
    start = ChainState(int(before.ts_s[-1]), float(before.close[-1])) if before is not None else None
    components = _load_components(work, table, timeframe, names, start)
    spec = CompositeSpec(timeframe, driver.min_components, driver.hl_mode, driver.method)
    result = build_composite(components, membership, spec, start)
    keep = result.bars.ts_s >= from_s
    n = int(keep.sum())
    rows = BarRows(result.bars[keep], (), np.full(n, -1, dtype=np.int64), np.ones(n, dtype=np.bool_), result.component_count[keep])
    return rows, result.gaps_s[result.gaps_s >= from_s]


def _load_components(work: Work, table: BarTable, timeframe: Timeframe, names: list[str], start: ChainState | None) -> Mapping[str, Bars]:
    """Bars of the components after the chain's last bar, each with the bar before that its first relative needs."""
    if start is None:
        return work.bars.load_after(table, timeframe, dict.fromkeys(names))
    anchors = work.bars.load_last(table, timeframe, dict.fromkeys(names, start.ts_s), 1)
    fresh = work.bars.load_after(table, timeframe, dict.fromkeys(names, start.ts_s))
    parts = {name: [found[name] for found in (anchors, fresh) if name in found] for name in names}
    return {name: Bars.concat(bars) for name, bars in parts.items() if bars}
