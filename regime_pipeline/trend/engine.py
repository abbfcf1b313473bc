"""The engine of one series: bars in, indicator records, engine records and level sets out, carry kept between calls.

`SeriesEngine.advance` is the only way to step a series: live it is handed one bar, in a backfill or backtest a year of them, and
the kernel below it is the same loop. What it knows of the past is an `EngineCarry`, which `to_bytes` makes a checkpoint of, plus
the tape of the running uptrend (see `tape.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.errors import StepRefusedError
from regime_pipeline.indicators import kernels as ind
from regime_pipeline.indicators import record as ind_record
from regime_pipeline.indicators.levels import LEVEL_COLUMNS, MAX_LEVELS, WINDOW_BARS, build_levels
from regime_pipeline.jit import kernel
from regime_pipeline.market.bars import Bars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.trend import machine
from regime_pipeline.trend import record as trend_record
from regime_pipeline.trend.decay import ADX_MEMORY_BARS
from regime_pipeline.trend.machine import IntArray, step_machine
from regime_pipeline.trend.profile import Constants, Profile
from regime_pipeline.trend.tape import CHUNK_BARS, T_CLOSE, TAPE_COLUMNS

FloatArray = NDArray[np.float64]

WALK_AHEAD_BARS: Final = 160
"""Tape loaded ahead of a window's start: most windows meet a guide within it, the others ask for more."""
HOUR_S: Final = 3600
_NO_LEVELS = np.zeros((0, MAX_LEVELS, LEVEL_COLUMNS))
_NO_STARTS = np.zeros(0, dtype=np.int64)


@kernel
def _levels_due(carry: FloatArray, ts_s: int, bar_s: int) -> bool:
    """A set is rebuilt when none was built yet or the bar ends in a later hour than the last rebuild's bar."""
    return float((ts_s + bar_s) // 3600) > carry[machine.K_LEVELS_HOUR]


@kernel
def _rebuild_levels(carry: FloatArray, closes: FloatArray, ts_s: int, bar_s: int) -> bool:
    """Build the set of this bar into the carry; True when it differs from the one before."""
    rows = carry[machine.K_LEVELS : machine.K_DECAY].reshape((MAX_LEVELS, LEVEL_COLUMNS))
    before = rows.copy()
    n_before = int(carry[machine.K_N_LEVELS])
    first = carry[machine.K_LEVELS_HOUR] < 0.0
    n = build_levels(closes, ts_s, rows, n_before)
    rows[n:] = 0.0
    carry[machine.K_N_LEVELS] = n
    carry[machine.K_LEVELS_HOUR] = (ts_s + bar_s) // 3600
    changed = first or n != n_before
    for j in range(n):
        for column in range(LEVEL_COLUMNS):
            changed |= rows[j, column] != before[j, column]
    return changed


@kernel
def _copy(source: FloatArray, target: FloatArray) -> None:
    """Element by element: numba's assignment of a slice brings its error text along, a second of compile time each."""
    for i in range(source.size):
        target[i] = source[i]


@kernel
def _run(
    ic: FloatArray,
    tc: FloatArray,
    ts_s: NDArray[np.int64],
    high: FloatArray,
    low: FloatArray,
    close: FloatArray,
    volume: FloatArray,
    closes: FloatArray,
    bar_s: int,
    bootstrap_s3: bool,
    k: Constants,
    given_starts: NDArray[np.int64],
    given_counts: NDArray[np.int64],
    given_levels: FloatArray,
    volume_z: FloatArray,
    pool: FloatArray,
    chunks: IntArray,
    extremes: FloatArray,
    records: FloatArray,
    states: FloatArray,
    set_bar: NDArray[np.int64],
    set_size: NDArray[np.int64],
    sets: FloatArray,
) -> tuple[int, int]:
    """Step over the bars; returns (level sets written, bars done). Stops early only when a tape chunk is missing or none is free."""
    n_sets = 0
    use_given = given_counts.size > 0
    g = -1
    offset = closes.size - close.size
    for i in range(ts_s.size):
        chunk = int(tc[machine.K_T] + 1.0) // CHUNK_BARS if tc[machine.K_STATE] == machine.S3 else 0
        if chunk >= chunks.size or chunks[chunk] < 0:
            return n_sets, i
        ind.step_indicators(ic, ts_s[i], high[i], low[i], close[i], volume[i], bar_s, k.eps, k.rsi_flat, records[i])
        if volume_z.size > 0:
            records[i, ind.F_VO_Z] = volume_z[i]
        if ic[ind.C_BARS] < ind_record.MIN_BARS:
            continue
        if use_given:
            while g + 1 < given_starts.size and given_starts[g + 1] <= ts_s[i]:
                g += 1
            if g >= 0:
                tc[machine.K_N_LEVELS] = given_counts[g]
                _copy(given_levels[g].ravel(), tc[machine.K_LEVELS : machine.K_DECAY])
        elif _levels_due(tc, ts_s[i], bar_s):
            newest = offset + i + 1
            if _rebuild_levels(tc, closes[max(0, newest - WINDOW_BARS) : newest], ts_s[i], bar_s):
                set_bar[n_sets] = ts_s[i]
                set_size[n_sets] = int(tc[machine.K_N_LEVELS])
                _copy(tc[machine.K_LEVELS : machine.K_DECAY], sets[n_sets].ravel())
                n_sets += 1
        missing = step_machine(tc, ic, records[i], ts_s[i], high[i], low[i], volume[i], bootstrap_s3, k, pool, chunks, extremes, states[i])
        if missing >= 0:
            return n_sets, -1 - missing
    return n_sets, ts_s.size


STEPPED: Final = 0
TOO_YOUNG: Final = 1
LEFT_ALONE: Final = 2


@kernel
def _run_singles(
    ics: FloatArray,
    tcs: FloatArray,
    ts_s: NDArray[np.int64],
    high: FloatArray,
    low: FloatArray,
    close: FloatArray,
    volume: FloatArray,
    bar_s: int,
    bootstrap_s3: NDArray[np.bool_],
    k: Constants,
    pool: FloatArray,
    chunks: IntArray,
    extremes: FloatArray,
    records: FloatArray,
    states: FloatArray,
    outcome: NDArray[np.int64],
) -> None:
    """One bar of each series that neither stands in an uptrend, enters one, nor rebuilds its levels: the others are left alone."""
    for i in range(ts_s.size):
        outcome[i] = LEFT_ALONE
        if ts_s[i] <= ics[i, ind.C_LAST_TS] or int(tcs[i, machine.K_STATE]) == machine.S3:
            continue
        ind.step_indicators(ics[i], ts_s[i], high[i], low[i], close[i], volume[i], bar_s, k.eps, k.rsi_flat, records[i])
        if ics[i, ind.C_BARS] < ind_record.MIN_BARS:
            outcome[i] = TOO_YOUNG
        elif not _levels_due(tcs[i], ts_s[i], bar_s):
            state = int(tcs[i, machine.K_STATE])
            if machine.next_state(state, records[i], bootstrap_s3[i]) != machine.S3:
                step_machine(
                    tcs[i], ics[i], records[i], ts_s[i], high[i], low[i], volume[i], bootstrap_s3[i], k, pool, chunks, extremes, states[i]
                )
                outcome[i] = STEPPED


@dataclass(slots=True)
class EngineCarry:
    """All an engine remembers between two bars, except the tape: about 3 KB, the same size after ten bars and ten years."""

    indicators: FloatArray = field(default_factory=ind.new_carry)
    trend: FloatArray = field(default_factory=machine.new_carry)

    @property
    def bars_seen(self) -> int:
        """Bars consumed since the first of the series."""
        return int(self.indicators[ind.C_BARS])

    @property
    def last_ts_s(self) -> int | None:
        """Open of the newest consumed bar, epoch seconds; None before the first."""
        return int(self.indicators[ind.C_LAST_TS]) if self.bars_seen else None

    @property
    def state(self) -> int:
        """State code after the newest bar, NO_STATE before the first step."""
        return int(self.trend[machine.K_STATE])

    @property
    def s3_start_ts_s(self) -> int | None:
        """Start bar of the running S3, None outside S3."""
        return int(self.trend[machine.K_S3_START_TS]) if self.state == machine.S3 else None

    @property
    def bars_since_s3(self) -> int:
        """T of the running S3 (0 on its start bar); meaningless outside S3."""
        return int(self.trend[machine.K_T])

    def levels_due(self, ts_s: int, timeframe: Timeframe, n_bars: int = 1) -> bool:
        """Tell whether the next `n_bars` bars, the last of them at `ts_s`, will rebuild the level set, and so need earlier closes."""
        return self.bars_seen + n_bars >= ind_record.MIN_BARS and bool(_levels_due(self.trend, ts_s, timeframe.seconds))

    def to_bytes(self) -> bytes:
        """Both carries as little-endian float64, for a checkpoint."""
        return np.concatenate((self.indicators, self.trend)).astype("<f8").tobytes()

    @staticmethod
    def can_read(data: bytes) -> bool:
        """Tell whether a checkpoint has the layout of this engine."""
        return len(data) == 8 * (ind.CARRY_SIZE + machine.CARRY_SIZE)

    @classmethod
    def from_bytes(cls, data: bytes) -> "EngineCarry":
        """Read a checkpoint back.

        Raises
        ------
        StepRefusedError
            When the checkpoint was written by a kernel with another layout.
        """
        values = np.frombuffer(data, dtype="<f8").astype(np.float64)
        size = ind.CARRY_SIZE + machine.CARRY_SIZE
        if values.size != size:
            raise StepRefusedError(f"checkpoint had {values.size} values, this engine writes {size}; replay the series from its first bar")
        return cls(values[: ind.CARRY_SIZE].copy(), values[ind.CARRY_SIZE :].copy())

    def copy(self) -> "EngineCarry":
        """An independent copy."""
        return EngineCarry(self.indicators.copy(), self.trend.copy())


@dataclass(frozen=True, slots=True)
class LevelSets:
    """Level sets in the order built: set j is in force from bar `ts_s[j]` until the next. Rows as in `indicators.levels`."""

    ts_s: NDArray[np.int64]
    sizes: NDArray[np.int64]
    rows: FloatArray  # (n_sets, MAX_LEVELS, LEVEL_COLUMNS)


@dataclass(frozen=True, slots=True)
class Advance:
    """What a run of bars produced, only for bars that have a record (from the 333rd of the series on)."""

    ts_s: NDArray[np.int64]
    records: FloatArray  # (n, indicators.record.N_FIELDS)
    states: FloatArray  # (n, trend.record.N_FIELDS)
    level_sets: LevelSets

    @classmethod
    def concat(cls, parts: "Sequence[Advance]") -> "Advance":
        """Join the results of consecutive runs over one series."""
        sets = [part.level_sets for part in parts]
        return cls(
            np.concatenate([part.ts_s for part in parts]),
            np.concatenate([part.records for part in parts]),
            np.concatenate([part.states for part in parts]),
            LevelSets(*(np.concatenate([getattr(each, name) for each in sets]) for name in ("ts_s", "sizes", "rows"))),
        )


class MissingTapeError(StepRefusedError):
    """The step needs a chunk of the uptrend's tape that is not loaded; nothing has changed. Load it and call again."""

    def __init__(self, chunk: int) -> None:
        super().__init__(f"tape chunk {chunk} is not loaded; load it and step again")
        self.chunk = chunk


@dataclass(frozen=True, slots=True)
class TapeChunk:
    """One chunk of a tape as it is stored; `data` is None when only its extremes were read."""

    chunk: int
    data: bytes | None
    close_min: float
    close_max: float


class Tape:
    """The rows of the running uptrend that are in memory, by chunk. A fresh one is empty and grows as bars arrive."""

    def __init__(self) -> None:
        self.pool = np.zeros((4, CHUNK_BARS, TAPE_COLUMNS))
        self.chunks = np.arange(4, dtype=np.int32)
        self.extremes = np.zeros((4, 2))

    @classmethod
    def of_chunks(cls, stored: Sequence[TapeChunk], last_bar: int) -> "Tape":
        """A tape up to bar `last_bar` since the S3 start, of which only some chunks are in memory: the last one among them.

        Every chunk must be named with its extremes. What a chunk holds beyond `last_bar` (a replay starts before it) is passed over.
        """
        tape = cls()
        n = max((part.chunk for part in stored), default=-1) + 1
        loaded = [part for part in stored if part.data is not None]
        tape.pool = np.zeros((len(loaded) + 1, CHUNK_BARS, TAPE_COLUMNS))
        tape.chunks = np.full(n + 1, -1, dtype=np.int32)
        tape.extremes = np.zeros((n + 1, 2))
        for part in stored:
            tape.extremes[part.chunk] = part.close_min, part.close_max
        for slot, part in enumerate(loaded):
            rows = np.frombuffer(part.data or b"", dtype="<f8").reshape(-1, TAPE_COLUMNS)
            tape.pool[slot, : len(rows)] = rows
            tape.chunks[part.chunk] = slot
        tape.chunks[n] = len(loaded)
        last = last_bar // CHUNK_BARS
        closes = tape.pool[tape.chunks[last], : last_bar % CHUNK_BARS + 1, T_CLOSE]
        tape.extremes[last] = closes.min(), closes.max()
        return tape

    def grow(self, chunk: int) -> None:
        """Make room for a new chunk, and as much again as there is."""
        n = len(self.pool)
        self.pool = np.concatenate((self.pool, np.zeros_like(self.pool)))
        room = max(0, chunk + n - len(self.chunks))
        self.chunks = np.concatenate((self.chunks, np.full(room, -1, dtype=np.int32)))
        self.extremes = np.concatenate((self.extremes, np.zeros((room, 2))))
        self.chunks[chunk : chunk + n] = np.arange(n, 2 * n, dtype=np.int32)

    def insert(self, chunk: int, data: bytes) -> None:
        """Put the rows of an older chunk into memory."""
        rows = np.zeros((1, CHUNK_BARS, TAPE_COLUMNS))
        rows[0] = np.frombuffer(data, dtype="<f8").reshape(-1, TAPE_COLUMNS)
        self.chunks[chunk] = len(self.pool)
        self.pool = np.concatenate((self.pool, rows))

    def stored_chunk(self, chunk: int, last_bar: int) -> TapeChunk:
        """A chunk as it is to be stored: its rows up to bar `last_bar` since the S3 start."""
        rows = min(CHUNK_BARS, last_bar + 1 - chunk * CHUNK_BARS)
        data = self.pool[self.chunks[chunk], :rows].astype("<f8").tobytes()
        return TapeChunk(chunk, data, float(self.extremes[chunk, 0]), float(self.extremes[chunk, 1]))


def chunks_needed(bars_since_s3: int) -> list[int]:
    """Tape chunks that the step to T = `bars_since_s3` + 1 will read, as far as can be told before it."""
    t = bars_since_s3 + 1
    last = t // CHUNK_BARS
    wanted = {0, max(0, t - 10) // CHUNK_BARS, bars_since_s3 // CHUNK_BARS}
    for n in (2 * t // 3, t // 3):
        first = max(0, t - n)
        ahead = t if n < ADX_MEMORY_BARS else first + WALK_AHEAD_BARS
        wanted.update(range(first // CHUNK_BARS, min(ahead, t) // CHUNK_BARS + 1))
    return sorted(chunk for chunk in wanted if chunk <= last and chunk * CHUNK_BARS <= bars_since_s3)


@dataclass(frozen=True, slots=True)
class GivenLevels:
    """Level sets from outside, used instead of building any: set j is in force from `ts_s[j]` on."""

    ts_s: NDArray[np.int64]
    sizes: NDArray[np.int64]
    rows: FloatArray


class SeriesEngine:
    """Steps one series. `closes_before` must hold the (up to 999) closes before the first bar of an advance that rebuilds levels."""

    def __init__(
        self, timeframe: Timeframe, profile: Profile, *, bootstrap_s3: bool, carry: EngineCarry | None = None, tape: Tape | None = None
    ) -> None:
        self.timeframe = timeframe
        self.profile = profile
        self.bootstrap_s3 = bootstrap_s3
        self.carry = carry or EngineCarry()
        self.tape = tape or Tape()

    def advance(self, bars: Bars, closes_before: FloatArray | None = None, given: GivenLevels | None = None) -> Advance:
        """Step on every bar in order.

        Parameters
        ----------
        bars : closed, valid bars, oldest first, all after the newest one consumed.
        closes_before : ndarray of shape (m,), closes of the bars before `bars`, oldest first; at least the last 999 there are.
        given : level sets to use instead of building them.

        Raises
        ------
        StepRefusedError
            When a bar's ts does not advance, or the profile's volume z needs the whole history and bars were consumed before;
            nothing has changed then.
        MissingTapeError
            When the tape lacks a chunk; nothing has changed then.
        """
        self._refuse_unordered(bars.ts_s)
        if self.profile.winsorised_volume and self.carry.bars_seen:
            raise StepRefusedError(
                f"profile {self.profile.name} clips volume over the whole history, and {self.carry.bars_seen} bars were consumed before; "
                "advance once, over all bars from the first"
            )
        before = np.zeros(0) if closes_before is None else closes_before[-(WINDOW_BARS - 1) :]
        closes = np.concatenate((before, bars.close))
        ts_s, high, low, close, volume = (_plain(column) for column in (bars.ts_s, bars.high, bars.low, bars.close, bars.volume))
        n = len(bars)
        records = np.empty((n, ind_record.N_FIELDS))
        states = np.empty((n, trend_record.N_FIELDS))
        hours = (ts_s + self.timeframe.seconds) // HOUR_S
        room = 1 + int(np.count_nonzero(np.diff(hours))) if n else 0
        set_bar, set_size, sets = np.empty(room, np.int64), np.empty(room, np.int64), np.empty((room, MAX_LEVELS, LEVEL_COLUMNS))
        volume_z = _winsorised_volume_z(volume) if self.profile.winsorised_volume else np.zeros(0)
        saved = self.carry.copy() if n else self.carry
        skipped = max(0, ind_record.MIN_BARS - 1 - self.carry.bars_seen)
        done = written = 0
        while done < n:
            part = slice(done, n)
            new_sets, bars_done = _run(
                self.carry.indicators,
                self.carry.trend,
                ts_s[part],
                high[part],
                low[part],
                close[part],
                volume[part],
                closes[: len(before) + n],
                self.timeframe.seconds,
                self.bootstrap_s3,
                self.profile.constants,
                _NO_STARTS if given is None else given.ts_s,
                _NO_STARTS if given is None else given.sizes,
                _NO_LEVELS if given is None else given.rows,
                volume_z[part],
                self.tape.pool,
                self.tape.chunks,
                self.tape.extremes,
                records[part],
                states[part],
                set_bar[written:],
                set_size[written:],
                sets[written:],
            )
            if bars_done < 0:
                self.carry = saved
                raise MissingTapeError(-1 - bars_done)
            written += new_sets
            done += bars_done
            if done < n:
                self.tape.grow((self.carry.bars_since_s3 + 1) // CHUNK_BARS)
        keep = slice(min(skipped, n), n)
        return Advance(ts_s[keep], records[keep], states[keep], LevelSets(set_bar[:written], set_size[:written], sets[:written]))

    def _refuse_unordered(self, ts_s: NDArray[np.int64]) -> None:
        last = self.carry.last_ts_s
        if ts_s.size and last is not None and ts_s[0] <= last:
            msg = f"bar ts was {int(ts_s[0])}, the newest consumed bar is {last}: ts must advance; state kept, replay from a checkpoint"
            raise StepRefusedError(msg)
        if ts_s.size > 1 and (np.diff(ts_s) <= 0).any():
            at = int(np.argmax(np.diff(ts_s) <= 0)) + 1
            msg = f"bar ts was {int(ts_s[at])} after {int(ts_s[at - 1])}: bars must be in order, each ts once; state kept"
            raise StepRefusedError(msg)


def step_singles(engines: "Sequence[SeriesEngine]", bars: Bars) -> list[Advance | None]:
    """Step many series by one bar each in one call of the kernel: what a live minute of a thousand series is made of.

    Parameters
    ----------
    engines : all of one timeframe and profile.
    bars : row i is the bar of engine i.

    Returns
    -------
    list of Advance or None
        As `SeriesEngine.advance` of that bar gives; None where the series needs its tape or its closes, or refuses the bar: nothing
        of it has changed, and `advance` is to be called.
    """
    n = len(engines)
    profile, timeframe = engines[0].profile, engines[0].timeframe
    if profile.winsorised_volume:
        return [None] * n
    ics = np.stack([engine.carry.indicators for engine in engines])
    tcs = np.stack([engine.carry.trend for engine in engines])
    records, states = np.empty((n, ind_record.N_FIELDS)), np.empty((n, trend_record.N_FIELDS))
    outcome = np.empty(n, dtype=np.int64)
    tape = Tape()
    ts_s, high, low, close, volume = (_plain(column) for column in (bars.ts_s, bars.high, bars.low, bars.close, bars.volume))
    _run_singles(
        ics,
        tcs,
        ts_s,
        high,
        low,
        close,
        volume,
        timeframe.seconds,
        np.array([engine.bootstrap_s3 for engine in engines]),
        profile.constants,
        tape.pool,
        tape.chunks,
        tape.extremes,
        records,
        states,
        outcome,
    )
    no_sets = LevelSets(np.empty(0, np.int64), np.empty(0, np.int64), _NO_LEVELS)
    advances: list[Advance | None] = []
    for i, (engine, how) in enumerate(zip(engines, outcome.tolist(), strict=True)):
        if how == LEFT_ALONE:
            advances.append(None)
            continue
        engine.carry = EngineCarry(ics[i], tcs[i])
        rows = slice(i, i + (how == STEPPED))
        advances.append(Advance(bars.ts_s[rows], records[rows], states[rows], no_sets))
    return advances


def _plain(column: NDArray[Any]) -> NDArray[Any]:
    """A contiguous, writable array: any other layout would have the kernel compiled a second time for it."""
    return column if column.flags.c_contiguous and column.flags.writeable and column.flags.aligned else column.copy()


@kernel
def _winsorised_volume_z(volume: FloatArray) -> FloatArray:
    """Volume z with all x so far clipped to their 2 % and 98 % quantiles at every bar: quadratic, comparison profile only."""
    n = volume.size
    out = np.empty(n)
    x = np.log1p(np.maximum(volume, 0.0))
    ordered = np.empty(n)
    a = 2.0 / 65.0
    for m in range(n):
        at = np.searchsorted(ordered[:m], x[m])
        ordered[at + 1 : m + 1] = ordered[at:m].copy()
        ordered[at] = x[m]
        count = m + 1
        lo = -np.inf
        hi = np.inf
        if count >= 10:
            lo = ordered[max(0, int(np.floor(0.02 * count)) - 1)]
            hi = ordered[min(count - 1, int(np.floor(0.98 * count)))]
        mean = min(hi, max(lo, x[0]))
        var = 0.0
        value = mean
        for i in range(1, count):
            value = min(hi, max(lo, x[i]))
            new = a * value + (1.0 - a) * mean
            var = (1.0 - a) * (var + a * (value - mean) * (value - new))
            mean = new
        out[m] = max(-4.0, min(6.0, (value - mean) / np.sqrt(max(var, 1e-12))))
    return out
