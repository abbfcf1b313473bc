"""What the engine does on two years of real hours: reference counts, every state, flag and transition, start dependence."""

from functools import cache

import numpy as np
import pyarrow.parquet as pq
import pytest

from regime_pipeline.indicators.record import INDEX as REC
from regime_pipeline.market.bars import Bars, RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.settings import load_settings
from regime_pipeline.trend.engine import Advance, SeriesEngine
from regime_pipeline.trend.profile import V5
from regime_pipeline.trend.record import INDEX

FILE = load_settings().shared / "market" / "ohlcv_1h_binance_um.parquet"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not FILE.is_file(), reason=f"no recorded bars in {FILE}; set REGIME_SHARED to the folder that holds market/"),
]


@cache
def hours(symbol: str) -> Bars:
    table = pq.read_table(FILE, filters=[("symbol", "=", symbol)]).sort_by("ts")
    column = {name: table.column(name).to_numpy() for name in ("ts", "open", "high", "low", "close", "volume")}
    ts_s = column["ts"].astype("datetime64[s]").astype(np.int64)
    raw = RawBars(ts_s, column["open"], column["high"], column["low"], column["close"], column["volume"] * column["close"])
    return Bars.complete(raw, Timeframe.H1)


def run(series: Bars) -> Advance:
    return SeriesEngine(Timeframe.H1, V5, bootstrap_s3=True).advance(series)


@cache
def whole(symbol: str) -> Advance:
    return run(hours(symbol))


def test_reference_counts_of_bitcoin() -> None:
    series = hours("BTCUSDT")
    assert len(series) == 18_792
    states = whole("BTCUSDT").states
    at = {name: states[:, i] for name, i in INDEX.items()}
    moves = list(zip(at["prev_state"], at["state"], strict=True))
    counts = {
        "S1 buy": np.count_nonzero((at["buy"] > 0) & (at["state"] == 1)),
        "S2 retest": np.count_nonzero(at["rebuy_s2_retest"] > 0),
        "S2 trim": np.count_nonzero((at["trim"] > 0) & (at["state"] == 2)),
        "DX": np.count_nonzero(at["rebuy_dx"] > 0),
        "reclaim": np.count_nonzero(at["rebuy_reclaim"] > 0),
        "S3 trim": np.count_nonzero((at["trim"] > 0) & (at["state"] == 3)),
        "emergency_exit in S3": np.count_nonzero((at["emergency_exit"] > 0) & (at["state"] == 3)),
        "S1 -> S0": moves.count((1, 0)),
        "S2 -> S3": moves.count((2, 3)),
        "S3 -> S0": moves.count((3, 0)),
        "S2 -> S0": moves.count((2, 0)),
    }
    assert counts == {
        "S1 buy": 101,
        "S2 retest": 34,
        "S2 trim": 563,
        "DX": 98,
        "reclaim": 123,
        "S3 trim": 1962,
        "emergency_exit in S3": 2139,
        "S1 -> S0": 29,
        "S2 -> S3": 17,
        "S3 -> S0": 18,
        "S2 -> S0": 0,
    }
    edx = at["edx"][at["state"] == 3]
    assert [round(float(x), 2) for x in (edx.min(), np.median(edx), np.quantile(edx, 0.95), edx.max())] == [0.25, 0.5, 0.61, 0.74]


@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT"])
def test_every_state_flag_and_move_occurs_on_each_major(symbol: str) -> None:
    states = whole(symbol).states
    state, prev = states[:, INDEX["state"]], states[:, INDEX["prev_state"]]
    assert set(state) >= {0.0, 1.0, 2.0, 3.0}
    assert {(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 0)} <= {(a, b) for a, b in zip(prev, state, strict=True) if a != b}
    for name, where in {
        "buy": 1,
        "rebuy_s2_retest": 2,
        "trim": 2,
        "rebuy_dx": 3,
        "rebuy_reclaim": 3,
        "emergency_exit": 3,
        "exit_position": 0,
    }.items():
        assert (states[state == where, INDEX[name]] > 0).any(), name


@pytest.mark.parametrize("symbol", ["BTCUSDT", "SOLUSDT"])
@pytest.mark.parametrize("skipped", [1000, 2500])
def test_start_of_the_history_is_forgotten(symbol: str, skipped: int) -> None:
    late, full = run(hours(symbol)[skipped:]), whole(symbol)
    mature = late.records[:, REC["immature"]] == 0.0
    rows = np.searchsorted(full.ts_s, late.ts_s[mature])
    states = late.states[mature, INDEX["state"]], full.states[rows, INDEX["state"]]
    assert np.count_nonzero(states[0] != states[1]) <= 0.002 * len(rows)
    # What the later history's first bar still weighs in EMA333: (1 - 2/334)^(n - 1) of how far off its first price was.
    ema = late.records[mature, REC["ema333"]], full.records[rows, REC["ema333"]]
    share = (1 - 2 / 334) ** (late.records[mature, REC["bars_seen"]] - 1)
    first = np.searchsorted(full.ts_s, hours(symbol).ts_s[skipped])
    off = abs(hours(symbol).close[skipped] - full.records[first, REC["ema333"]])
    assert (np.abs(ema[0] - ema[1]) <= share * off + 1e-9 * ema[1]).all()
