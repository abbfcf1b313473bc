"""The uptrend machine: every row of the transition table, and what each bar of a transition says."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from regime_pipeline.indicators.kernels import new_carry as new_indicator_carry
from regime_pipeline.indicators.levels import LEVEL_COLUMNS, MAX_LEVELS
from regime_pipeline.indicators.record import INDEX as REC
from regime_pipeline.indicators.record import N_FIELDS as N_REC
from regime_pipeline.trend import machine
from regime_pipeline.trend.machine import NONE, S0, S1, S2, S3, S4
from regime_pipeline.trend.profile import V5, Constants
from regime_pipeline.trend.record import FLAGS, INDEX, N_FIELDS, REBUY_SOURCES
from regime_pipeline.trend.tape import CHUNK_BARS, TAPE_COLUMNS

TS_S = 1_735_689_600
BEARISH = {"ema20": 90, "ema30": 91, "ema60": 95, "ema144": 100, "ema250": 105, "ema333": 110}
BULLISH = {"ema20": 115, "ema30": 114, "ema60": 110, "ema144": 106, "ema250": 103, "ema333": 100}
FAST_UP = {"ema20": 97, "ema30": 96, "ema60": 95, "ema144": 100, "ema250": 105, "ema333": 110}
MIXED = {"ema20": 104, "ema30": 101, "ema60": 102, "ema144": 100, "ema250": 105, "ema333": 103}
ALL_BELOW = {"ema20": 109, "ema30": 108, "ema60": 107, "ema144": 106, "ema250": 105, "ema333": 110}


def record(price: float, emas: dict[str, float], **fields: float) -> np.ndarray:
    rec = np.zeros(N_REC)
    for name, value in {"latest_price": price, "atr": 2.0, "atr_mean_20": 2.0, **emas, **fields}.items():
        rec[REC[name]] = value
    return rec


@dataclass
class Bench:
    """A machine in a given state, ready for one bar."""

    state: int
    emergency: bool = False
    levels: list[tuple[float, float]] = field(default_factory=list)
    bootstrap_s3: bool = False
    constants: Constants = V5.constants

    def step(self, rec: np.ndarray) -> dict[str, float]:
        carry = machine.new_carry()
        carry[machine.K_STATE] = self.state
        carry[machine.K_EMERGENCY] = self.emergency
        if self.state == S3:
            carry[machine.K_S3_START_TS] = TS_S - 3600
        rows = np.zeros((MAX_LEVELS, LEVEL_COLUMNS))
        for i, level in enumerate(self.levels):
            rows[i, :2] = level
        carry[machine.K_LEVELS : machine.K_DECAY] = rows.ravel()
        carry[machine.K_N_LEVELS] = len(self.levels)
        pool, chunks, extremes = np.zeros((1, CHUNK_BARS, TAPE_COLUMNS)), np.zeros(1, dtype=np.int32), np.zeros((1, 2))
        pool[0, :, 0] = rec[REC["latest_price"]]  # the S3 start bar, where one lies before
        out = np.empty(N_FIELDS)
        price = float(rec[REC["latest_price"]])
        missing = machine.step_machine(
            carry, new_indicator_carry(), rec, TS_S, price, price, 1.0, self.bootstrap_s3, self.constants, pool, chunks, extremes, out
        )
        assert missing == -1
        return {name: float(out[i]) for name, i in INDEX.items()}


def flags_of(out: dict[str, float]) -> set[str]:
    return {name for name in (*FLAGS, *REBUY_SOURCES) if out[name]}


TABLE = [
    # from, emas, price, bootstrap_s3, to
    (NONE, BEARISH, 80, False, S0),
    (NONE, BEARISH, 80, True, S0),
    (NONE, BULLISH, 120, True, S3),
    (NONE, BULLISH, 120, False, S4),
    (NONE, MIXED, 100, True, S4),
    (S4, BEARISH, 80, True, S0),
    (S4, BULLISH, 120, True, S3),
    (S4, BULLISH, 120, False, S4),
    (S4, MIXED, 100, True, S4),
    (S0, FAST_UP, 96, False, S1),
    (S0, FAST_UP, 95, False, S0),  # p > e60 is strict
    (S0, BEARISH, 120, False, S0),
    (S0, BULLISH, 120, True, S1),  # never straight to S3
    (S0, MIXED, 120, False, S0),  # ema30 is not above ema60
    (S1, BEARISH, 80, False, S0),
    (S1, BEARISH, 120, False, S0),  # the bearish order is asked first
    (S1, MIXED, 103.5, False, S2),
    (S1, MIXED, 103, False, S1),  # p = e333 keeps the state
    (S1, BULLISH, 120, True, S2),  # no S1 -> S3
    (S1, FAST_UP, 96, False, S1),
    (S2, MIXED, 102.5, False, S1),
    (S2, BULLISH, 99, False, S1),  # p < e333 is asked first
    (S2, MIXED, 103, False, S2),
    (S2, BULLISH, 100, False, S3),
    (S2, BULLISH, 120, False, S3),
    (S2, BEARISH, 120, False, S2),  # no S2 -> S0
    (S3, ALL_BELOW, 120, False, S0),
    (S3, BEARISH, 80, False, S0),
    (S3, MIXED, 80, False, S3),  # order lost and price under EMA333: still S3
    (S3, BULLISH, 120, False, S3),
    (S3, {**ALL_BELOW, "ema250": 110}, 80, False, S3),  # one EMA on EMA333 is not below it
]


@pytest.mark.parametrize(("old", "emas", "price", "bootstrap_s3", "new"), TABLE)
def test_transition_table(old: int, emas: dict[str, float], price: float, bootstrap_s3: bool, new: int) -> None:
    rec = record(price, emas)
    assert machine.next_state(old, rec, bootstrap_s3) == new
    out = Bench(old, bootstrap_s3=bootstrap_s3).step(rec)
    assert out["state"] == new
    assert out["prev_state"] == old or (old == NONE and np.isnan(out["prev_state"]))
    assert (out["state_since_ts"] == TS_S) == (old != new)
    for name in FLAGS:
        assert out[name] in (0.0, 1.0)
    assert np.isfinite([out["ts_score"], out["ox"]]).all()


def test_order_of_ema20_and_ema30_never_matters() -> None:
    rng = np.random.default_rng(1)
    for _ in range(2000):
        values = rng.integers(1, 6, 6)
        emas = dict(zip(BEARISH, map(float, values), strict=True))
        swapped = {**emas, "ema20": emas["ema30"], "ema30": emas["ema20"]}
        price = float(rng.integers(0, 7)) + 0.5
        for state in (NONE, S0, S1, S2, S3, S4):
            assert machine.next_state(state, record(price, emas), True) == machine.next_state(state, record(price, swapped), True)


def test_only_the_moves_of_the_table_exist() -> None:
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(20_000):
        emas = dict(zip(BEARISH, rng.permutation(6) + 1.0, strict=True))
        rec = record(float(rng.integers(0, 7)) + 0.5, emas)
        for state in (NONE, S0, S1, S2, S3, S4):
            seen.add((state, machine.next_state(state, rec, True)))
    stay = {(state, state) for state in (S0, S1, S2, S3, S4)}
    moves = {(NONE, S0), (NONE, S3), (NONE, S4), (S4, S0), (S4, S3), (S0, S1), (S1, S0), (S1, S2), (S2, S1), (S2, S3), (S3, S0)}
    assert seen == stay | moves


def test_leaving_s1_downwards_exits_in_an_emergency() -> None:
    out = Bench(S1).step(record(80, BEARISH))
    assert flags_of(out) == {"exit_position", "emergency_exit"}
    assert out["exit_reason"] == machine.REASON_BEARISH


def test_leaving_s3_exits_without_an_emergency_and_forgets_its_start() -> None:
    out = Bench(S3, emergency=True).step(record(120, ALL_BELOW))
    assert flags_of(out) == {"exit_position"}
    assert out["exit_reason"] == machine.REASON_BELOW_333
    assert np.isnan(out["s3_start_ts"])


@pytest.mark.parametrize(("old", "price"), [(S1, 103.5), (S2, 102.5)], ids=["S1 to S2", "S2 to S1"])
def test_crossing_ema333_between_s1_and_s2_says_nothing_but_the_state(old: int, price: float) -> None:
    eager = record(price, MIXED, ema60_slope=1.0, ema333_slope=1.0, rsi_slope_10=5.0, adx_slope_10=2.0)
    out = Bench(old, levels=[(price, 20.0)]).step(eager)
    assert flags_of(out) == set()
    assert np.isnan([out["ts_with_boost"], out["sr_boost"], out["anchor"], out["dx"], out["edx"]]).all()


@pytest.mark.parametrize("old", [S0, S1])
def test_s1_buy_runs_on_the_first_bar_too(old: int) -> None:
    # TS = (clamp01(10/10) + clamp01(2/4)) / 2 = .75; price 1 away from ema60, halo one ATR of 2.
    out = Bench(old).step(record(96, FAST_UP, ema60_slope=1e-4, rsi_slope_10=5.0))
    assert flags_of(out) == {"buy"}
    assert (out["anchor"], out["halo"], out["ts_with_boost"]) == (95.0, 2.0, 0.75)


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"latest_price": 97.5}, "entry_zone_ok"),
        ({"ema60_slope": 0.0, "ema144_slope": -1e-9}, "slope_ok"),
        ({"rsi_slope_10": 1.9}, "ts_ok"),  # TS = (.69 + .5) / 2 = .595
    ],
)
def test_each_condition_of_a_buy_is_needed_and_recorded(change: dict[str, float], failed: str) -> None:
    fields = {"latest_price": 97.0, "ema60_slope": 1e-4, "ema144_slope": -1.0, "rsi_slope_10": 2.0}
    assert flags_of(Bench(S1).step(record(0, FAST_UP, **fields))) == {"buy"}
    out = Bench(S1).step(record(0, FAST_UP, **(fields | change)))
    assert flags_of(out) == set()
    assert [name for name in ("entry_zone_ok", "slope_ok", "ts_ok") if not out[name]] == [failed]


def test_s1_may_buy_below_ema60() -> None:
    assert flags_of(Bench(S1).step(record(93.5, FAST_UP, ema144_slope=0.0, rsi_slope_10=5.0))) == {"buy"}


def test_s2_retest_is_a_rebuy_unless_the_option_makes_it_a_buy() -> None:
    rec = record(104, MIXED, ema333_slope=0.0, rsi_slope_10=5.0)  # price 1 from ema333: exactly half an ATR
    assert flags_of(Bench(S2).step(rec)) == {"rebuy", "rebuy_s2_retest"}
    as_buy = V5.constants._replace(s2_retest_as_buy=1.0)
    assert flags_of(Bench(S2, constants=as_buy).step(rec)) == {"buy"}
    far = record(104.01, MIXED, ema333_slope=0.0, rsi_slope_10=5.0)
    assert flags_of(Bench(S2).step(far)) == set()


@pytest.mark.parametrize("state", [S2, S3])
def test_trim_needs_overextension_and_a_level_within_one_atr(state: int) -> None:
    stretched = record(130, BULLISH if state == S3 else {**BULLISH, "ema20": 109}, dsep_fast_5=0.01, dsep_mid_5=0.01, ema333_slope=-1.0)
    near, far = [(132.0, 5.0)], [(132.1, 5.0)]
    assert flags_of(Bench(state, levels=near).step(stretched)) == {"trim"}
    assert flags_of(Bench(state, levels=far).step(stretched)) == set()
    calm = record(104 if state == S3 else 101, BULLISH if state == S3 else {**BULLISH, "ema20": 109}, ema333_slope=-1.0)
    assert flags_of(Bench(state, levels=[(float(calm[REC["latest_price"]]), 5.0)]).step(calm)) == set()


def test_entering_s3_starts_its_count_and_evaluates_in_full() -> None:
    out = Bench(S2).step(record(120, BULLISH))
    assert (out["s3_start_ts"], out["bars_since_s3"], out["edx"]) == (TS_S, 0.0, 0.5)
    assert np.isfinite([out["dx"], out["dx_threshold"], out["sr_boost"], out["ts_with_boost"]]).all()


def test_emergency_is_a_level_and_reclaim_an_edge() -> None:
    below, on, above = (record(price, BULLISH) for price in (99, 100, 101))
    assert flags_of(Bench(S3).step(below)) == {"emergency_exit"}
    assert flags_of(Bench(S3, emergency=True).step(below)) == {"emergency_exit"}
    for rec in (on, above):
        assert flags_of(Bench(S3, emergency=True).step(rec)) == {"reclaimed_ema333", "rebuy", "rebuy_reclaim"}
        assert flags_of(Bench(S3).step(rec)) == set()


def test_dx_buy_between_ema333_and_ema144_under_bullish_order() -> None:
    # Property 7: price on EMA333, selling spent (vo_z low), momentum turning up.
    dip = record(100, BULLISH, vo_z=-3.0, rsi_slope_10=5.0, adx=25.0, adx_slope_10=1.0, d_ema144_slope=1e-4, ema250_slope=1e-4)
    out = Bench(S3).step(dip)
    assert flags_of(out) == {"rebuy", "rebuy_dx"}
    assert out["dx"] >= out["dx_threshold"]
    both = Bench(S3, emergency=True).step(dip)
    assert flags_of(both) == {"rebuy", "rebuy_dx", "rebuy_reclaim", "reclaimed_ema333"}
    dip[REC["latest_price"]] = 106.01  # above EMA144
    assert flags_of(Bench(S3).step(dip)) == set()
