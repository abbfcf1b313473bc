"""The engine of one series: live equals batch, no look-ahead, scale invariance, flat series, refusals."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import StepRefusedError
from regime_pipeline.indicators.levels import LEVEL_COLUMNS, MAX_LEVELS
from regime_pipeline.indicators.record import INDEX as REC
from regime_pipeline.market.bars import Bars, RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.trend import machine
from regime_pipeline.trend.engine import Advance, EngineCarry, GivenLevels, MissingTapeError, SeriesEngine, Tape, TapeChunk, chunks_needed
from regime_pipeline.trend.profile import V4, V5, Profile
from regime_pipeline.trend.record import FLAGS, INDEX, REBUY_SOURCES
from regime_pipeline.trend.tape import CHUNK_BARS
from tests.builders import T0, bars

H1 = Timeframe.H1
FIRST = 332
"""Index of the first bar with a record."""
DECISIONS = [INDEX[name] for name in ("state", "prev_state", "bars_since_s3", *FLAGS, *REBUY_SOURCES)]
SCORES = [INDEX[name] for name in ("ts_score", "ts_with_boost", "sr_boost", "ox", "dx", "edx", "dx_threshold")]


def example_bars(n: int = 2000) -> Bars:
    """The series of worked example 10.7."""
    i = np.arange(n)
    waves = 0.25 * np.sin(2 * np.pi * i / 900 + 4) + 0.06 * np.sin(2 * np.pi * i / 140) + 0.02 * np.sin(2 * np.pi * i / 29)
    c = 100 * np.exp(waves + 0.012 * (((7919 * i) % 97) / 96 - 0.5))
    o = np.concatenate((c[:1], c[:-1]))
    raw = RawBars(T0 + 3600 * i, o, 1.004 * np.maximum(o, c), 0.996 * np.minimum(o, c), c, 1000.0 + 10 * ((31 * i) % 53))
    return Bars.complete(raw, H1)


def run(series: Bars, profile: Profile = V5, *, bootstrap_s3: bool = False, timeframe: Timeframe = H1) -> Advance:
    return SeriesEngine(timeframe, profile, bootstrap_s3=bootstrap_s3).advance(series)


def column(advance: Advance, name: str) -> np.ndarray:
    return advance.states[:, INDEX[name]]


def bars_where(advance: Advance, name: str) -> list[int]:
    return (np.flatnonzero(column(advance, name) > 0) + FIRST).tolist()


TRANSITIONS = {332: 4, 783: 0, 991: 1, 1050: 0, 1107: 1, 1126: 2, 1245: 3, 1664: 0, 1838: 1, 1875: 0, 1954: 1}
TRANSITIONS |= {1979: 2, 1981: 1, 1982: 2, 1984: 1, 1985: 2, 1986: 1, 1999: 2}


@pytest.mark.parametrize("profile", [V5, V4], ids=["v5", "v4"])
def test_worked_example_walks_through_its_states(profile: Profile) -> None:
    states = column(run(example_bars(), profile), "state").astype(int)
    changes = [0, *(np.flatnonzero(np.diff(states)) + 1)]
    assert {int(i) + FIRST: int(states[i]) for i in changes} == TRANSITIONS
    assert np.bincount(states).tolist() == [518, 155, 125, 419, 451]


@pytest.mark.parametrize(("profile", "early_dx", "s3_trims"), [(V5, [], 85), (V4, [1496, 1498, 1499], 84)], ids=["v5", "v4"])
def test_worked_example_fires_its_flags(profile: Profile, early_dx: list[int], s3_trims: int) -> None:
    got = run(example_bars(), profile)
    state, trim = column(got, "state"), column(got, "trim") > 0
    assert bars_where(got, "buy") == [1865]
    assert bars_where(got, "rebuy_s2_retest") == [1980, 1983]
    assert bars_where(got, "rebuy_dx") == [*early_dx, 1500, 1501, 1503, 1504, 1505, 1507, 1591]
    assert bars_where(got, "rebuy_reclaim") == bars_where(got, "reclaimed_ema333") == [1503, 1589, 1591, 1594, 1597]
    assert np.count_nonzero((column(got, "rebuy") > 0) & (state == machine.S3)) == 10 + len(early_dx)
    assert np.flatnonzero(trim & (state == machine.S2))[0] + FIRST == 1128
    assert (np.count_nonzero(trim & (state == machine.S2)), np.count_nonzero(trim & (state == machine.S3))) == (16, s3_trims)
    assert np.count_nonzero((column(got, "emergency_exit") > 0) & (state == machine.S3)) == 73


def test_worked_example_scores() -> None:
    v5, v4 = run(example_bars()), run(example_bars(), V4)
    at = {name: column(v5, name)[1480 - FIRST] for name in ("ts_score", "ox", "dx", "edx", "bars_since_s3", "dx_threshold")}
    expected = {
        "ts_score": 0.810652489,
        "ox": 0.399520715,
        "dx": 0.338978597,
        "edx": 0.493291087,
        "bars_since_s3": 235,
        "dx_threshold": 0.647582201,
    }
    assert at == pytest.approx(expected, abs=1e-9)
    assert column(v5, "edx")[1350 - FIRST] == pytest.approx(0.643023318, abs=1e-9)
    assert column(v5, "dx_threshold")[1350 - FIRST] == pytest.approx(0.671512, abs=1e-6)
    assert column(v4, "edx")[[1480 - FIRST, 1350 - FIRST]] == pytest.approx([0.432698790, 0.507047739], abs=1e-9)


class Checkpoints:
    """A memory like the database: the carry and tape chunks as bytes, and nothing else, survive from bar to bar."""

    def __init__(self, timeframe: Timeframe, bootstrap_s3: bool) -> None:
        self.timeframe, self.bootstrap_s3 = timeframe, bootstrap_s3
        self.carry = EngineCarry().to_bytes()
        self.chunks: dict[int, TapeChunk] = {}
        self.loads = self.retries = 0

    def engine(self) -> SeriesEngine:
        carry = EngineCarry.from_bytes(self.carry)
        tape = Tape()
        if carry.s3_start_ts_s is not None:
            needed = chunks_needed(carry.bars_since_s3)
            self.loads = max(self.loads, len(needed))
            seen = [part if i in needed else replace(part, data=None) for i, part in self.chunks.items()]
            tape = Tape.of_chunks(seen, carry.bars_since_s3)
        return SeriesEngine(self.timeframe, V5, bootstrap_s3=self.bootstrap_s3, carry=carry, tape=tape)

    def step(self, series: Bars, i: int) -> Advance:
        engine = self.engine()
        before = series.close[max(0, i - 999) : i] if engine.carry.levels_due(int(series.ts_s[i]), self.timeframe) else None
        while True:
            try:
                advance = engine.advance(series[i : i + 1], before)
                break
            except MissingTapeError as missing:
                self.retries += 1
                engine.tape.insert(missing.chunk, self.chunks[missing.chunk].data)
        t = engine.carry.bars_since_s3
        if engine.carry.s3_start_ts_s is None or t == 0:
            self.chunks = {}
        if engine.carry.s3_start_ts_s is not None:
            self.chunks[t // CHUNK_BARS] = engine.tape.stored_chunk(t // CHUNK_BARS, t)
        self.carry = engine.carry.to_bytes()
        return advance


def swinging(seed: int, n: int, sd: float = 0.004, period: int = 700) -> Bars:
    """Noise over slow swings: long enough up and down that every state is met."""
    rng = np.random.default_rng(seed)
    i = np.arange(n)
    swing = 0.3 * np.sin(2 * np.pi * (i / period + rng.random()))
    made = bars(100 * np.exp(swing + rng.normal(0, sd, n).cumsum() * 0.3 + rng.normal(0, sd, n)), H1, wick=sd)
    made.volume[:] = rng.uniform(0, 1e6, n) * (rng.random(n) > 0.1)
    return made


def assert_same(parts: list[Advance], whole: Advance) -> None:
    for name in ("ts_s", "records", "states"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name), err_msg=name)
    for name in ("ts_s", "sizes", "rows"):
        got = np.concatenate([getattr(part.level_sets, name) for part in parts])
        np.testing.assert_array_equal(got, getattr(whole.level_sets, name), err_msg=f"level set {name}")


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10_000), period=st.sampled_from([500, 900]))
def test_live_equals_batch_bit_for_bit_with_a_restart_after_every_bar(seed: int, period: int) -> None:
    series = swinging(seed, 1500, period=period)
    memory = Checkpoints(H1, bootstrap_s3=True)
    assert_same([memory.step(series, i) for i in range(len(series))], run(series, bootstrap_s3=True))


def test_a_long_uptrend_is_stepped_from_a_few_chunks_of_its_tape() -> None:
    rng = np.random.default_rng(4)
    n = 2600
    series = bars(100 * np.exp((2e-4 + rng.normal(0, 0.0015, n)).cumsum()), Timeframe.M1, wick=0.0005)
    whole = SeriesEngine(Timeframe.M1, V5, bootstrap_s3=True)
    expected = whole.advance(series)
    assert whole.carry.bars_since_s3 > 1500
    start = len(series) - 120  # the last two hours live, from the checkpoint that a backfill left
    backfill = SeriesEngine(Timeframe.M1, V5, bootstrap_s3=True)
    parts = [backfill.advance(series[:start])]
    memory = Checkpoints(Timeframe.M1, bootstrap_s3=True)
    t = backfill.carry.bars_since_s3
    memory.carry = backfill.carry.to_bytes()
    memory.chunks = {i: backfill.tape.stored_chunk(i, t) for i in range(t // CHUNK_BARS + 1)}
    parts += [memory.step(series, i) for i in range(start, n)]
    assert_same(parts, expected)
    assert memory.loads < len(memory.chunks) / 3
    assert memory.retries  # chunks that could not be foreseen were asked for


def pieces(n: int, seed: int) -> Iterator[slice]:
    cuts = np.unique(np.random.default_rng(seed).integers(0, n, 12))
    yield from (slice(int(a), int(b)) for a, b in zip([0, *cuts], [*cuts, n], strict=True))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_any_cut_into_pieces_gives_the_same_records(seed: int) -> None:
    series = swinging(seed, 1800)
    engine = SeriesEngine(H1, V5, bootstrap_s3=True)
    parts = [engine.advance(series[piece], series.close[: piece.start]) for piece in pieces(len(series), seed)]
    assert_same(parts, run(series, bootstrap_s3=True))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(334, 1799))
def test_future_bars_never_change_a_record_or_a_level(seed: int, cut: int) -> None:
    series = swinging(seed, 1800)
    full, cut_off = run(series, bootstrap_s3=True), run(series[:cut], bootstrap_s3=True)
    n, sets = len(cut_off.ts_s), len(cut_off.level_sets.ts_s)
    np.testing.assert_array_equal(full.records[:n], cut_off.records)
    np.testing.assert_array_equal(full.states[:n], cut_off.states)
    np.testing.assert_array_equal(full.level_sets.rows[:sets], cut_off.level_sets.rows)
    crashed = replace(series, close=np.where(np.arange(1800) < cut, series.close, series.close / 2))
    np.testing.assert_array_equal(run(crashed, bootstrap_s3=True).states[:n], cut_off.states)


@pytest.mark.parametrize("factor", [2.0**-50, 1e-12, 1e6])
def test_prices_in_any_unit_give_the_same_decisions(factor: float) -> None:
    series = swinging(3, 2500)
    scaled = replace(series, **{name: getattr(series, name) * factor for name in ("open", "high", "low", "close")})
    expected, got = run(series, bootstrap_s3=True), run(scaled, bootstrap_s3=True)
    assert set(column(expected, "state").astype(int)) >= {0, 1, 2, 3}
    np.testing.assert_array_equal(got.states[:, DECISIONS], expected.states[:, DECISIONS])
    np.testing.assert_allclose(got.states[:, SCORES], expected.states[:, SCORES], rtol=0, atol=1e-9)


def test_flat_series_has_no_state_and_no_flag() -> None:
    got = run(bars([57.123] * 1500, H1, volume=0.0, wick=0.0), bootstrap_s3=True)
    assert (column(got, "state") == machine.S4).all()
    assert (column(got, "ts_score") == 0.5).all()
    assert column(got, "ox") == pytest.approx(0.125, abs=1e-15)
    assert not got.states[:, [INDEX[name] for name in FLAGS]].any()
    assert len(got.level_sets.ts_s) == 1  # one empty set
    assert got.level_sets.sizes.tolist() == [0]
    assert np.isfinite(got.records).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), step=st.sampled_from([0.002, 0.02]), drift=st.sampled_from([-0.004, 0.0, 0.004]))
def test_step_flat_series_always_gives_complete_records(seed: int, step: float, drift: float) -> None:
    # Dominance: the vendor refreshes every tenth minute, volume 0.
    rng = np.random.default_rng(seed)
    closes = 50 * np.exp(np.repeat(rng.normal(drift, step, 150).cumsum(), 10))
    got = run(bars(closes, Timeframe.M1, volume=0.0, wick=0.0), bootstrap_s3=True, timeframe=Timeframe.M1)
    assert_complete(got)
    assert (got.records[:, REC["vo_z"]] == 0.0).all()


def assert_complete(got: Advance) -> None:
    """Every score is there exactly where section 4.10 defines it."""
    state, prev = column(got, "state"), column(got, "prev_state")
    assert np.isfinite(got.records).all()
    in_s3 = state == machine.S3
    crossing = ((prev == machine.S1) & (state == machine.S2)) | ((prev == machine.S2) & (state == machine.S1))
    boosted = (in_s3 | (state == machine.S1) | (state == machine.S2)) & ~crossing
    for name, where in {
        "ts_score": np.ones(len(state), bool),
        "ox": np.ones(len(state), bool),
        "sr_boost": boosted,
        "ts_with_boost": boosted,
        "anchor": boosted,
        "dx": in_s3,
        "edx": in_s3,
        "dx_threshold": in_s3,
        "s3_start_ts": in_s3,
    }.items():
        np.testing.assert_array_equal(np.isfinite(column(got, name)), where, err_msg=name)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_step_yields_a_complete_record(seed: int) -> None:
    assert_complete(run(swinging(seed, 1800), bootstrap_s3=True))


def test_levels_are_rebuilt_once_an_hour_of_bar_time_and_stay_in_force_between() -> None:
    rng = np.random.default_rng(8)
    series = bars(100 * np.exp(rng.normal(0, 0.006, 1200).cumsum()), Timeframe.M1)
    got = run(series, timeframe=Timeframe.M1)
    # T0 opens an hour: the first record (bar 332, 05:32) builds, then every bar that ends a new hour.
    assert set((got.level_sets.ts_s[1:] + 60) % 3600) == {0}
    engine = SeriesEngine(Timeframe.M1, V5, bootstrap_s3=False)
    engine.advance(series[:400])
    due = [i for i in range(400, 520) if engine.carry.levels_due(T0 + 60 * i, Timeframe.M1)]
    assert due[0] == 419  # 06:59 ends at 07:00


def test_given_levels_replace_the_built_ones() -> None:
    series = example_bars()
    rows = np.zeros((1, MAX_LEVELS, LEVEL_COLUMNS))
    given_none = GivenLevels(np.array([0]), np.array([0]), rows)
    got = SeriesEngine(H1, V5, bootstrap_s3=False).advance(series, given=given_none)
    assert not column(got, "trim").any()  # without levels no trim can fire
    assert len(got.level_sets.ts_s) == 0


@pytest.mark.parametrize("order", [[0, 1, 1, 2], [0, 2, 1, 3]], ids=["repeated", "backwards"])
def test_bars_out_of_order_are_refused_and_the_state_kept(order: list[int]) -> None:
    series = example_bars(500)
    engine = SeriesEngine(H1, V5, bootstrap_s3=False)
    engine.advance(series[:400])
    before = engine.carry.to_bytes()
    with pytest.raises(StepRefusedError, match="each ts once; state kept"):
        engine.advance(series[400:][np.array(order)])
    for stale in (399, 10):
        with pytest.raises(StepRefusedError, match="ts must advance; state kept"):
            engine.advance(series[stale : stale + 1])
    assert engine.carry.to_bytes() == before
    engine.advance(series[400:])
    assert engine.carry.bars_seen == 500


def test_checkpoint_of_another_layout_is_refused() -> None:
    data = EngineCarry().to_bytes()
    with pytest.raises(StepRefusedError, match=r"checkpoint had \d+ values, this engine writes \d+; replay"):
        EngineCarry.from_bytes(data[:-8])


def test_profile_that_rewrites_the_past_runs_only_from_the_first_bar() -> None:
    series = example_bars(500)
    engine = SeriesEngine(H1, V4, bootstrap_s3=False)
    engine.advance(series[:400])
    before = engine.carry.to_bytes()
    with pytest.raises(StepRefusedError, match="400 bars were consumed before; advance once"):
        engine.advance(series[400:])
    assert engine.carry.to_bytes() == before


def test_no_record_below_333_bars_and_nothing_from_no_bars() -> None:
    engine = SeriesEngine(H1, V5, bootstrap_s3=True)
    assert len(engine.advance(Bars.empty()).ts_s) == 0
    assert len(engine.advance(example_bars(332)).ts_s) == 0
    assert engine.carry.state == machine.NONE
    assert engine.carry.last_ts_s == T0 + 331 * 3600
