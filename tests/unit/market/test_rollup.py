"""Rollups: exactness, associativity (11.11), the choice of bar (1.2) and the real 1h file."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.bars import Bars, RawBars
from regime_pipeline.market.rollup import choose_bars, roll_up
from regime_pipeline.market.timeframe import Timeframe
from tests.builders import T0, bars, random_walk

M1, H1, D1 = Timeframe.M1, Timeframe.H1, Timeframe.D1


def test_an_hour_takes_first_open_extremes_last_close_and_counts() -> None:
    minutes = random_walk(60, 1)[np.arange(60) != 59]  # the last minute had no trade
    hour = roll_up(minutes, M1, H1)
    assert hour.ts_s.tolist() == [T0]
    assert hour.open[0] == minutes.open[0]
    assert hour.high[0] == minutes.high.max()
    assert hour.low[0] == minutes.low.min()
    assert hour.close[0] == minutes.close[-1]
    assert (hour.bars_used[0], hour.expected_bars[0]) == (59, 60)


def test_volume_is_rounded_once() -> None:
    minutes = replace(bars([1.0, 1.0, 1.0]), volume=np.array([1e16, 1.0, 1.0]))
    assert roll_up(minutes, M1, H1).volume[0] == 1e16 + 2  # left to right the ones would be lost


def test_a_vendor_hour_counts_as_sixty_minutes_in_its_day() -> None:
    day = roll_up(bars([1.0] * 23, H1), H1, D1)
    assert (day.bars_used[0], day.expected_bars[0]) == (23 * 60, 1440)


def test_no_child_means_no_bar() -> None:
    assert len(roll_up(Bars.empty(), M1, H1)) == 0
    hours = roll_up(random_walk(180, 1)[np.r_[0:60, 120:180]], M1, H1)
    assert hours.ts_s.tolist() == [T0, T0 + 7200]


@pytest.mark.parametrize(("child", "parent"), [(H1, M1), (H1, H1), (D1, H1)])
def test_timeframes_that_do_not_nest_are_refused(child: Timeframe, parent: Timeframe) -> None:
    with pytest.raises(BadInputError, match="longer multiple"):
        roll_up(Bars.empty(), child, parent)


def test_children_out_of_order_are_refused() -> None:
    with pytest.raises(BadInputError, match="must ascend"):
        roll_up(bars([1.0, 2.0])[::-1], M1, H1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4000), st.integers(0, 3000), st.floats(0.05, 1.0))
def test_hours_in_between_change_nothing(seed: int, n_bars: int, offset_min: int, share: float) -> None:
    walk = random_walk(n_bars, seed, start_s=T0 + 60 * offset_min)
    present = walk[np.random.default_rng(seed).random(n_bars) < share]
    straight = roll_up(present, M1, D1)
    for middle in (Timeframe.M5, Timeframe.M15, H1, Timeframe.H4):
        stepped = roll_up(roll_up(present, M1, middle), middle, D1)
        np.testing.assert_allclose(stepped.volume, straight.volume, rtol=1e-12)
        assert replace(stepped, volume=straight.volume).equals(straight)


def test_a_complete_rollup_beats_the_vendor_and_the_vendor_beats_a_partial_one() -> None:
    rolled = replace(bars([1.0, 2.0, 3.0, 4.0], H1), bars_used=np.array([60, 59, 60, 10]))[:4]
    vendor = bars([10.0, 20.0, 30.0], H1)
    chosen, from_vendor = choose_bars(rolled, vendor)
    assert chosen.close.tolist() == [1.0, 20.0, 3.0, 4.0]
    assert from_vendor.tolist() == [False, True, False, False]


def test_either_side_may_be_empty() -> None:
    some = bars([1.0, 2.0], H1)
    assert choose_bars(some, Bars.empty())[0].equals(some)
    chosen, from_vendor = choose_bars(Bars.empty(), some)
    assert chosen.equals(some)
    assert from_vendor.all()
    assert len(choose_bars(Bars.empty(), Bars.empty())[0]) == 0


MARKET = Path(os.environ.get("REGIME_SHARED", "../shared")) / "market"


@pytest.mark.realdata
@pytest.mark.skipif(not MARKET.is_dir(), reason=f"reference bars are not at {MARKET}; set REGIME_SHARED to the folder that holds market/")
@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT"])
def test_real_minutes_roll_up_to_the_real_hours(symbol: str) -> None:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    def read(timeframe: Timeframe) -> Bars:
        table = pq.read_table(MARKET / f"ohlcv_{timeframe}_binance_um.parquet", filters=pc.field("symbol") == symbol)
        open_, high, low, close, volume = (table.column(name).to_numpy() for name in ("open", "high", "low", "close", "volume"))
        ts_s = table.column("ts").cast("int64").to_numpy() // 1000
        return Bars.complete(RawBars(ts_s, open_, high, low, close, volume), timeframe)

    ours, theirs = roll_up(read(M1), M1, H1), read(H1)
    theirs = theirs[np.isin(theirs.ts_s, ours.ts_s)]
    assert len(ours) == len(theirs) == 50 * 24
    # Base volumes, as recorded: the vendor's own decimals are summed here in float64, so only the last digit may differ.
    np.testing.assert_allclose(ours.volume, theirs.volume, rtol=1e-12)
    assert replace(ours, volume=theirs.volume).equals(theirs)
