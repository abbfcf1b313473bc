"""The generated market: one truth for every window, timeframe and order of questions."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.adapters.venues.generated import DAY_S, FIRST_S, N_DAYS, GeneratedMarket
from regime_pipeline.market.bars import Bars, RawBars, check_bars
from regime_pipeline.market.buckets import BucketRule, build_spans
from regime_pipeline.market.rollup import roll_up
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe, load_universe
from tests.builders import T0

UNIVERSE = load_universe(Path(__file__).parents[4] / "config" / "universe.toml")
MARKET = GeneratedMarket(UNIVERSE, seed=7)
M1, H1, D1 = Timeframe.M1, Timeframe.H1, Timeframe.D1
FAR_S = FIRST_S + N_DAYS * DAY_S
SYMBOLS = [("binance_um", "BTCUSDT"), ("hyperliquid", "HYPE"), ("binance_um", "FIOUSDT"), ("binance_um", "AAVEUSDT")]


def fetch(symbol: tuple[str, str], timeframe: Timeframe, start_s: int, end_s: int, market: GeneratedMarket = MARKET) -> RawBars:
    return market.fetch_bars(*symbol, timeframe, start_s, end_s)


@pytest.mark.parametrize("symbol", SYMBOLS)
@pytest.mark.parametrize("start_s", [FIRST_S, T0 + 31 * DAY_S, FAR_S - 2 * DAY_S])
def test_longer_bars_are_the_rollups_of_the_minutes_bit_for_bit(symbol: tuple[str, str], start_s: int) -> None:
    minutes = Bars.complete(fetch(symbol, M1, start_s, start_s + 2 * DAY_S), M1)
    assert len(minutes) == 2 * 1440
    for timeframe in (Timeframe.M5, Timeframe.M15, H1, Timeframe.H4, D1):
        answered = Bars.complete(fetch(symbol, timeframe, start_s, start_s + 2 * DAY_S), timeframe)
        assert answered.equals(roll_up(minutes, M1, timeframe))


def test_dominance_days_are_the_rollups_of_their_minutes() -> None:
    for driver in ("BTC.d", "USDT.d"):
        minutes = Bars.complete(MARKET.fetch_dominance(driver, M1, T0, T0 + DAY_S), M1)
        assert Bars.complete(MARKET.fetch_dominance(driver, D1, T0, T0 + DAY_S), D1).equals(roll_up(minutes, M1, D1))
        assert not minutes.volume.any()


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(SYMBOLS),
    st.sampled_from(list(Timeframe)),
    st.integers(0, 3 * DAY_S),
    st.integers(0, 3 * DAY_S),
    st.integers(0, 3 * DAY_S),
)
def test_a_window_is_the_same_in_any_pieces_and_any_process(symbol: tuple[str, str], timeframe: Timeframe, a: int, b: int, c: int) -> None:
    start_s, cut_s, end_s = sorted((T0 + a, T0 + b, T0 + c))
    whole = fetch(symbol, timeframe, start_s, end_s)
    # The later piece first and from a market of its own: nothing may depend on what was asked before.
    late = fetch(symbol, timeframe, cut_s, end_s, GeneratedMarket(UNIVERSE, seed=7))
    assert RawBars.concat([fetch(symbol, timeframe, start_s, cut_s), late]).equals(whole)
    assert ((whole.ts_s >= start_s) & (whole.ts_s < end_s)).all()


def test_every_bar_ever_made_is_valid() -> None:
    for instrument in UNIVERSE.instruments():
        source = instrument.sources[0]
        days = fetch((source.venue, source.symbol), D1, 0, FAR_S)
        assert len(days) == N_DAYS
        assert check_bars(days, D1, FAR_S + DAY_S).good.all()
    for driver in ("BTC.d", "USDT.d"):
        days = MARKET.fetch_dominance(driver, D1, 0, FAR_S)
        assert check_bars(days, D1, FAR_S + DAY_S).good.all()
        assert days.high.max() < 100
    minutes = fetch(("binance_um", "FIOUSDT"), M1, T0, T0 + 20 * DAY_S)
    assert check_bars(minutes, M1, FAR_S).good.all()
    assert np.array_equal(minutes.open[1:], minutes.close[:-1])


def test_another_seed_is_another_market() -> None:
    other = GeneratedMarket(UNIVERSE, seed=8)
    assert not fetch(SYMBOLS[0], D1, T0, T0 + DAY_S, other).equals(fetch(SYMBOLS[0], D1, T0, T0 + DAY_S))


def test_another_token_in_the_universe_changes_nobodys_bars() -> None:
    smaller = Universe.model_validate({**UNIVERSE.model_dump(), "tokens": [token.model_dump() for token in UNIVERSE.tokens[-3:]]})
    market = GeneratedMarket(smaller, seed=7)
    for symbol in (("binance_um", "BTCUSDT"), ("binance_um", "ZECUSDT")):
        assert fetch(symbol, M1, T0, T0 + DAY_S, market).equals(fetch(symbol, M1, T0, T0 + DAY_S))


def test_every_venue_of_an_instrument_tells_the_same_and_unknown_symbols_nothing() -> None:
    assert fetch(("binance_um", "BTCUSDT"), H1, T0, T0 + DAY_S).equals(fetch(("hyperliquid", "BTC"), H1, T0, T0 + DAY_S))
    assert len(fetch(("binance_um", "NOPE"), H1, T0, T0 + DAY_S)) == 0
    assert MARKET.time_range("binance_um", "NOPE", H1) is None
    assert MARKET.dominance_range("ETH.d", H1) is None
    assert len(MARKET.fetch_dominance("ETH.d", H1, T0, T0 + DAY_S)) == 0
    assert set(MARKET.venues()) == set(UNIVERSE.venues)


def test_windows_outside_the_history_are_cut_to_it() -> None:
    assert fetch(SYMBOLS[0], M1, 0, FIRST_S + 120).ts_s.tolist() == [FIRST_S, FIRST_S + 60]
    assert len(fetch(SYMBOLS[0], M1, 0, 60)) == 0
    assert len(fetch(SYMBOLS[0], H1, FAR_S, FAR_S + DAY_S)) == 0
    time_range = MARKET.time_range(*SYMBOLS[0], M1)
    assert time_range is not None
    assert (time_range.first_s, time_range.last_s) == (FIRST_S, None)


def log_returns(raw: RawBars) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.diff(np.log(raw.close))


@pytest.mark.parametrize(("timeframe", "days", "least"), [(M1, 5, 0.4), (H1, 60, 0.4), (D1, 1100, 0.4)])
def test_coins_move_together_and_tether_dominance_against_them(timeframe: Timeframe, days: int, least: float) -> None:
    bitcoin = log_returns(fetch(("binance_um", "BTCUSDT"), timeframe, T0, T0 + days * DAY_S))
    ether = log_returns(fetch(("binance_um", "ETHUSDT"), timeframe, T0, T0 + days * DAY_S))
    tether = log_returns(MARKET.fetch_dominance("USDT.d", timeframe, T0, T0 + days * DAY_S))
    assert np.corrcoef(bitcoin, ether)[0, 1] > least
    assert np.corrcoef(bitcoin, tether)[0, 1] < -0.25


@pytest.mark.parametrize(("timeframe", "n_bars"), [(D1, 1400), (H1, 1400), (M1, 4000)])
def test_long_uptrends_and_downtrends_occur_on_every_regime_timeframe(timeframe: Timeframe, n_bars: int) -> None:
    ends = [T0 + 200 * DAY_S, T0 + 400 * DAY_S, T0 + 600 * DAY_S]
    stacked_up = stacked_down = 0
    for end_s in ends:
        close = fetch(("binance_um", "BTCUSDT"), timeframe, end_s - n_bars * timeframe.seconds, end_s).close
        fast, mid, slow = (np.convolve(close, np.ones(n) / n, "full")[: len(close)][333:] for n in (30, 144, 333))
        stacked_up += int(((fast > mid) & (mid > slow)).sum())
        stacked_down += int(((fast < mid) & (mid < slow)).sum())
    considered = len(ends) * (n_bars - 333)
    assert stacked_up > 0.05 * considered
    assert stacked_down > 0.05 * considered


def test_caps_start_in_the_assigned_bucket_and_move_between_buckets_over_the_years() -> None:
    caps = MARKET.fetch_market_caps(FIRST_S, FIRST_S + 1400 * DAY_S)
    assert set(caps) == {instrument.contract for instrument in UNIVERSE.instruments()}
    moves = 0
    for token in UNIVERSE.tokens:
        spans = build_spans(caps[token.contract], BucketRule())
        assert spans[0].bucket == token.bucket
        assert len(caps[token.contract]) == 1400
        moves += len(spans) - 1
    assert moves >= 10
