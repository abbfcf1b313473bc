"""Crashes pass when somebody confirms them, bad prints stand out, and neither spoils the bars after it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.adapters.venues.recorded import RecordedMarket
from regime_pipeline.market.bars import BoolArray, FloatArray, RawBars
from regime_pipeline.market.outliers import (
    LIMITS,
    Suspects,
    find_suspects,
    is_confirmed_by,
    is_wrong_unit,
    measure_excursions,
    says_the_same,
)
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.settings import load_settings
from tests.builders import raw_bars

M1, H1 = Timeframe.M1, Timeframe.H1
NOTHING = RawBars.empty()


def calm(n: int, seed: int = 1) -> RawBars:
    rng = np.random.default_rng(seed)
    return raw_bars(100 * np.exp(np.cumsum(rng.normal(0, 0.0005, n))))


def scaled(bars: RawBars, rows: int | slice, factor: float) -> RawBars:
    weight = np.ones(len(bars))
    weight[rows] = factor
    return replace(bars, **{name: getattr(bars, name) * weight for name in ("open", "high", "low", "close")})


def suspects_of(bars: RawBars, before: RawBars = NOTHING, confirmed: BoolArray | None = None) -> list[int]:
    rows: list[int] = find_suspects(before, bars, M1, confirmed).rows.tolist()
    return rows


def test_a_calm_series_has_no_suspects() -> None:
    assert suspects_of(calm(500)) == []


@given(st.integers(5, 90), st.floats(1.2, 1000.0), st.booleans())
@settings(max_examples=60)
def test_a_bad_print_is_the_only_suspect_wherever_it_is(row: int, factor: float, is_up: bool) -> None:
    assert suspects_of(scaled(calm(100), row, factor if is_up else 1 / factor)) == [row]


@given(st.integers(6, 99), st.floats(0.5, 2.0))
@settings(max_examples=60)
def test_a_verdict_does_not_depend_on_where_the_deliveries_are_cut(cut: int, factor: float) -> None:
    bars = scaled(calm(100), 50, factor)
    whole = suspects_of(bars)
    first = suspects_of(bars[:cut])
    believed = np.setdiff1d(np.arange(cut), first)
    second = [row + cut for row in suspects_of(bars[cut:], bars[:cut][believed])]
    assert first + second == whole


def test_two_bad_prints_in_a_row_do_not_vouch_for_each_other() -> None:
    assert suspects_of(scaled(calm(100), slice(50, 52), 1.5)) == [50, 51]


def test_a_bad_first_bar_does_not_condemn_the_series() -> None:
    assert suspects_of(scaled(calm(100), 0, 1000.0)) == [0]


def test_a_new_level_is_suspect_until_one_bar_of_it_is_confirmed() -> None:
    bars = scaled(calm(100), slice(50, None), 0.7)
    assert suspects_of(bars)[0] == 50
    confirmed = np.zeros(100, dtype=bool)
    confirmed[50] = True
    assert suspects_of(bars, confirmed=confirmed) == []


def test_a_lively_series_may_move_further() -> None:
    rng = np.random.default_rng(3)
    lively = raw_bars(100 * np.exp(np.cumsum(rng.normal(0, 0.02, 200))), wick=0.0)
    jump = scaled(lively, slice(150, None), 1.12)  # 0.11 beyond the last close, and 0.05 would be the limit of a calm one
    assert suspects_of(jump[100:], jump[:100]) == []
    assert 10 in suspects_of(scaled(calm(100), slice(10, None), 1.12))


def test_a_hole_before_a_bar_widens_its_limit_but_never_beyond_threefold() -> None:
    bars = calm(100)
    late = replace(bars, ts_s=bars.ts_s + np.where(np.arange(100) >= 50, 600 * 60, 0))
    assert suspects_of(scaled(late, slice(50, None), 0.8)) == []
    assert 50 in suspects_of(scaled(late, slice(50, None), 0.1))


def excursions(bars: RawBars, found: Suspects) -> FloatArray:
    return measure_excursions(bars[found.rows], found.low, found.high)


def test_a_venue_that_went_a_third_as_far_confirms_a_crash_and_a_calm_one_does_not() -> None:
    bars = scaled(calm(100), 50, 0.7)
    found = find_suspects(NOTHING, bars, M1)
    for factor, agrees in ((0.7, True), (0.88, True), (0.9, False), (1.0, False), (1.3, False)):
        other = scaled(calm(100), 50, factor)
        assert is_confirmed_by(excursions(bars, found), excursions(other, found), found.limit).tolist() == [agrees]


def test_a_thousandfold_price_is_another_unit_and_a_crash_is_not() -> None:
    for factor, is_unit in ((1000.0, True), (0.001, True), (0.3, False), (5.0, False)):
        bars = scaled(calm(100), 50, factor)
        found = find_suspects(NOTHING, bars, M1)
        assert is_wrong_unit(bars[found.rows], found.low, found.high).tolist() == [is_unit]


def test_two_answers_say_the_same_within_a_percent() -> None:
    bars = calm(3)
    assert says_the_same(bars, scaled(bars, 1, 1.005)).all()
    assert says_the_same(bars, scaled(bars, 1, 1.02)).tolist() == [True, False, True]
    assert not says_the_same(bars, replace(bars, close=np.full(3, np.nan))).any()


# the one of October 2025 in all of them; the others in one or two: a long squeeze, an exploit, a day of tariffs
VIOLENT_DAYS = {"2024-01-03", "2024-03-05", "2024-08-05", "2025-03-26", "2025-04-07", "2025-06-05", "2025-10-10"}
RECORDED = [
    ("binance_um", symbol, timeframe)
    for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT")
    for timeframe in (Timeframe.M1, Timeframe.H1)
] + [("hyperliquid", symbol, Timeframe.M5) for symbol in ("BTC", "ETH", "SOL", "BNB", "HYPE")]


@pytest.mark.realdata
@pytest.mark.parametrize(("venue", "symbol", "timeframe"), RECORDED)
def test_of_the_recorded_majors_only_known_crashes_are_asked_for_twice(
    recorded: RecordedMarket, venue: str, symbol: str, timeframe: Timeframe
) -> None:
    raw = recorded.fetch_bars(venue, symbol, timeframe, 0, 2_000_000_000)
    found = find_suspects(NOTHING, raw, timeframe)
    days = {str(np.datetime64(int(ts_s), "s"))[:10] for ts_s in raw.ts_s[found.rows]}
    assert days <= VIOLENT_DAYS
    assert not is_wrong_unit(raw[found.rows], found.low, found.high).any()


@pytest.fixture(scope="module")
def recorded() -> RecordedMarket:
    folder = load_settings().shared / "market"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: the recorded market lies beside the checkout")
    return RecordedMarket(folder)


def test_a_longer_bar_may_move_further() -> None:
    limits = [LIMITS[timeframe] for timeframe in Timeframe]
    assert limits == sorted(limits)
