"""Step the trend engine of every series whose bars changed: new bars extend it, corrected ones replay it from a checkpoint."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from regime_pipeline.errors import StepRefusedError
from regime_pipeline.indicators.levels import WINDOW_BARS
from regime_pipeline.market.bars import Bars, FloatArray
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarTable, Stage, Stores, Work
from regime_pipeline.services.batches import plan_batches
from regime_pipeline.services.derivation import driver_series
from regime_pipeline.trend import record as trend_record
from regime_pipeline.trend.engine import Advance, EngineCarry, MissingTapeError, SeriesEngine, Tape, TapeChunk, chunks_needed, step_singles
from regime_pipeline.trend.profile import V5, Profile
from regime_pipeline.trend.tape import CHUNK_BARS

ANCHOR_BARS: Final = 720
"""A checkpoint is kept every so many bars of the grid: a correction replays at most that much before the bar it changed."""
SAVE_ROWS: Final = 100_000
"""Records collected before they are written: bounds the memory of a backfill."""

Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class SeriesState:
    """Where a series stands after the run: state (None below 333 bars), open time of its newest bar, bars it has seen."""

    state: str | None
    last_s: int | None
    bars_seen: int


@dataclass(slots=True)
class TrendSummary:
    """What an advance did: bars stepped, state rows written, state changes among them, series that were replayed."""

    bars: int = 0
    written: int = 0
    unchanged: int = 0
    events: int = 0
    replayed: int = 0
    series: dict[str, SeriesState] = field(default_factory=dict)


@dataclass(slots=True)
class _Task:
    """One series to step: where it starts from, what it steps on, what it leaves to be stored."""

    series: str
    engine: SeriesEngine
    bars: Bars
    closes_before: FloatArray
    checkpoints: list[tuple[int, int, bytes, bool]] = field(default_factory=list)
    tapes: dict[int, dict[int, TapeChunk]] = field(default_factory=dict)


def advance_trend(
    stores: Stores,
    universe: Universe,
    timeframe: Timeframe,
    now_s: int,
    profile: Profile = V5,
    progress: Progress | None = None,
    *,
    recent_s: int | None = None,
) -> TrendSummary:
    """Step every marked series of a timeframe up to its newest final bar; the records of a series change in one transaction.

    Parameters
    ----------
    now_s : int
        Epoch seconds, end of the newest bar there may be: says how much there may be to do, see `plan_batches`.
    progress : callable, optional
        Called with the series and the bars just stepped.
    recent_s : int, optional
        Open time from which on marks are taken without waiting for anybody, see `find_recent`; None: all, and held series are waited for.
    """
    summary = TrendSummary()
    for series in plan_batches(stores, Stage.TREND, timeframe, now_s, recent_s=recent_s):
        with stores.open() as work:
            marked = work.marks.take(Stage.TREND, timeframe, series, recent_s=recent_s)
            _advance_series(work, universe, timeframe, marked, profile, progress, summary)
    return summary


def _advance_series(
    work: Work,
    universe: Universe,
    timeframe: Timeframe,
    marked: Mapping[str, int],
    profile: Profile,
    progress: Progress | None,
    summary: TrendSummary,
) -> None:
    tickers = _tickers(universe, timeframe)
    marked = {series: first_s for series, first_s in marked.items() if series in tickers}
    if not marked:
        return
    work.trend.ensure_positions(timeframe, tickers)
    delta_from: dict[str, int] = {}
    stepped: list[str] = []
    for tasks in _batches(_prepare(work, timeframe, profile, marked, summary)):
        advances = _step_all(work, timeframe, tasks)
        saved = work.trend.save(timeframe, profile.engine_version, profile.constants.strength_scale, advances)
        work.trend.save_tapes(timeframe, _tapes_of(tasks))
        work.trend.save_carries(timeframe, profile.engine_version, {task.series: task.checkpoints for task in tasks})
        stepped += [task.series for task in tasks]
        delta_from |= saved.first_written_s
        _summarise(summary, tasks, advances, saved.written, saved.unchanged)
        for task in tasks:
            if progress is not None:
                progress(task.series, len(task.bars))
    drivers = {driver_series(driver.name) for driver in universe.drivers}
    if timeframe in REGIME_TIMEFRAMES:
        work.marks.add(Stage.DELTA, timeframe, {series: first_s for series, first_s in delta_from.items() if series in drivers})
    # positions last, as the mapper of another run does: whoever has the marks of a series goes first
    work.trend.save_snapshots(timeframe, stepped)


def _tickers(universe: Universe, timeframe: Timeframe) -> dict[str, str]:
    """Series the engine runs on in this timeframe, with the name people know them by."""
    tickers = {token.series: token.contract for token in universe.tokens if timeframe in token.timeframes}
    if timeframe in REGIME_TIMEFRAMES:
        tickers |= {driver_series(driver.name): driver.name for driver in universe.drivers}
    return tickers


def _table_of(series: str) -> BarTable:
    return BarTable.DRIVERS if series.startswith("regime:") else BarTable.TOKENS


def _prepare(work: Work, timeframe: Timeframe, profile: Profile, marked: Mapping[str, int], summary: TrendSummary) -> Iterator[_Task]:
    """Load where each series stands and what it has to step on."""
    carries = _load_carries(work, timeframe, profile.engine_version, marked, summary)
    tapes = _load_tapes(work, timeframe, carries)
    for table in (BarTable.DRIVERS, BarTable.TOKENS):
        mine = [series for series in marked if _table_of(series) is table]
        bars = work.bars.load_after(table, timeframe, {series: carries[series].last_ts_s for series in mine})
        closes = _load_closes(work, table, timeframe, carries, bars)
        for series, fresh in bars.items():
            engine = SeriesEngine(timeframe, profile, bootstrap_s3=table is BarTable.DRIVERS, carry=carries[series], tape=tapes.get(series))
            yield _Task(series, engine, fresh, closes.get(series, np.empty(0)))


def _load_carries(
    work: Work, timeframe: Timeframe, version: str, marked: Mapping[str, int], summary: TrendSummary
) -> dict[str, EngineCarry]:
    """Load the carry each series goes on from: its newest, or the newest before the bar that changed.

    A series without a checkpoint that this engine can read (none yet, another version, another layout) starts again at its first bar.
    """
    newest = work.trend.load_checkpoints(timeframe, version, dict.fromkeys(marked))
    behind = {series: first_s for series, first_s in marked.items() if series in newest and newest[series].ts_s >= first_s}
    earlier = work.trend.load_checkpoints(timeframe, version, behind) if behind else {}
    usable = {series: checkpoint for series, checkpoint in newest.items() if series not in behind} | earlier
    carries = {
        series: EngineCarry.from_bytes(usable[series].state)
        if series in usable and EngineCarry.can_read(usable[series].state)
        else EngineCarry()
        for series in marked
    }
    after_s = {series: carry.last_ts_s for series, carry in carries.items() if series in behind or carry.last_ts_s is None}
    work.trend.rewind(timeframe, after_s)
    work.trend.drop_orphans(timeframe, after_s)
    summary.replayed += sum(1 for series in after_s if series in newest)
    return carries


def _load_closes(
    work: Work, table: BarTable, timeframe: Timeframe, carries: Mapping[str, EngineCarry], bars: Mapping[str, Bars]
) -> dict[str, FloatArray]:
    """Closes before the new bars, for the series that will rebuild their levels: at most once an hour of bar time."""
    due = {
        series: last_s
        for series, fresh in bars.items()
        if (last_s := carries[series].last_ts_s) is not None and carries[series].levels_due(int(fresh.ts_s[-1]), timeframe, len(fresh))
    }
    return {series: found.close for series, found in work.bars.load_last(table, timeframe, due, WINDOW_BARS - 1).items()}


def _load_tapes(work: Work, timeframe: Timeframe, carries: Mapping[str, EngineCarry]) -> dict[str, Tape]:
    """Tapes of the series that stand in an uptrend, with the chunks that the next step will read."""
    wanted = {}
    for series, carry in carries.items():
        if (start_s := carry.s3_start_ts_s) is not None:
            wanted[series] = (start_s, carry.bars_since_s3 // CHUNK_BARS, chunks_needed(carry.bars_since_s3))
    stored = work.trend.load_tapes(timeframe, wanted)
    return {series: Tape.of_chunks(stored[series], carries[series].bars_since_s3) for series in wanted}


def _batches(tasks: Iterator[_Task]) -> Iterator[list[_Task]]:
    """Group series so that one batch holds about `SAVE_ROWS` bars: a live minute is one batch, a year of minutes one series."""
    batch: list[_Task] = []
    rows = 0
    for task in tasks:
        if batch and rows + len(task.bars) > SAVE_ROWS:
            yield batch
            batch, rows = [], 0
        batch.append(task)
        rows += len(task.bars)
    if batch:
        yield batch


def _step_all(work: Work, timeframe: Timeframe, tasks: list[_Task]) -> dict[str, Advance]:
    """Step every series of a batch: those with a single bar together as far as that goes, the others each over its bars."""
    singles = [task for task in tasks if len(task.bars) == 1]
    advances: dict[str, Advance] = {}
    if len(singles) > 1:
        done = step_singles([task.engine for task in singles], Bars.concat([task.bars for task in singles]))
        for task, advance in zip(singles, done, strict=True):
            if advance is not None:
                advances[task.series] = advance
                _checkpoint(task, timeframe, int(task.bars.ts_s[0]))
    return {task.series: advances.get(task.series) or _step(work, timeframe, task) for task in tasks}


def _checkpoint(task: _Task, timeframe: Timeframe, ts_s: int, *, is_anchor: bool = False) -> None:
    carry = task.engine.carry
    task.checkpoints.append((ts_s, carry.bars_seen, carry.to_bytes(), is_anchor or _is_anchor(ts_s, timeframe)))


def _step(work: Work, timeframe: Timeframe, task: _Task) -> Advance:
    """Step a series over its bars, in pieces that end on anchor bars, and keep the checkpoints and tape chunks of each piece."""
    ends = _piece_ends(task.bars, timeframe)
    closes = np.concatenate((task.closes_before, task.bars.close)) if len(ends) > 1 else task.closes_before
    parts = []
    begin = 0
    for end in ends:
        before = closes[: len(task.closes_before) + begin] if begin else task.closes_before
        bars = task.bars[begin:end] if len(ends) > 1 else task.bars
        parts.append(_advance_loading(work, timeframe, task, bars, before))
        _checkpoint(task, timeframe, int(task.bars.ts_s[end - 1]), is_anchor=end < len(task.bars))
        begin = end
    return parts[0] if len(parts) == 1 else Advance.concat(parts)


def _advance_loading(work: Work, timeframe: Timeframe, task: _Task, bars: Bars, closes_before: FloatArray) -> Advance:
    """Advance over a piece, loading tape chunks the step turns out to need; keep what it added to the tape."""
    start_s, t = task.engine.carry.s3_start_ts_s, task.engine.carry.bars_since_s3
    while True:
        try:
            advance = task.engine.advance(bars, closes_before)
            break
        except MissingTapeError as missing:
            task.engine.tape.insert(missing.chunk, _load_chunk(work, timeframe, task.series, start_s, missing))
    carry = task.engine.carry
    if (now_s := carry.s3_start_ts_s) is not None:
        first = t // CHUNK_BARS if now_s == start_s else 0
        chunks = task.tapes.setdefault(now_s, {})
        for chunk in range(first, carry.bars_since_s3 // CHUNK_BARS + 1):
            chunks[chunk] = task.engine.tape.stored_chunk(chunk, carry.bars_since_s3)
    return advance


def _load_chunk(work: Work, timeframe: Timeframe, series: str, start_s: int | None, missing: MissingTapeError) -> bytes:
    chunk = missing.chunk
    stored = work.trend.load_tapes(timeframe, {series: (start_s, chunk, [chunk])}) if start_s is not None else {}
    for part in stored.get(series, ()):
        if part.chunk == chunk and part.data is not None:
            return part.data
    msg = f"{series} {timeframe}: tape chunk {chunk} of the uptrend is not stored; replay the series from its first bar"
    raise StepRefusedError(msg) from missing


def _is_anchor(ts_s: int, timeframe: Timeframe) -> bool:
    return (ts_s // timeframe.seconds + 1) % ANCHOR_BARS == 0


def _piece_ends(bars: Bars, timeframe: Timeframe) -> list[int]:
    """Ends (exclusive) of the pieces of a run: after the last bar of each anchor period, and after the last bar."""
    if len(bars) == 1:
        return [1]
    period = (bars.ts_s // timeframe.seconds) // ANCHOR_BARS
    return [*(np.flatnonzero(np.diff(period)) + 1).tolist(), len(bars)]


def _tapes_of(tasks: list[_Task]) -> list[tuple[str, int, TapeChunk]]:
    """Chunks to store. Only an uptrend that holds a checkpoint needs any: one that began and ended between two leaves none."""
    return [(task.series, start_s, chunk) for task in tasks for start_s, chunks in task.tapes.items() for chunk in chunks.values()]


def _summarise(summary: TrendSummary, tasks: list[_Task], advances: Mapping[str, Advance], written: int, unchanged: int) -> None:
    summary.written += written
    summary.unchanged += unchanged
    for task in tasks:
        carry = task.engine.carry
        states = advances[task.series].states
        prev, state = states[:, trend_record.INDEX["prev_state"]], states[:, trend_record.INDEX["state"]]
        summary.bars += len(task.bars)
        summary.events += int((~np.isnan(prev) & (prev != state)).sum())
        name = trend_record.STATES[carry.state] if carry.state != trend_record.NO_STATE else None
        summary.series[task.series] = SeriesState(name, carry.last_ts_s, carry.bars_seen)
