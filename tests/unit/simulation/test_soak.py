"""The soak's witness and its verdict in words."""

from typing import Any

import numpy as np
import pytest

from regime_pipeline.adapters.venues.generated import GeneratedMarket
from regime_pipeline.cli.soak import MIN_FAULTS, ZEROS, find_problems
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.simulation.board import FaultBoard
from regime_pipeline.simulation.faults import FaultScript
from regime_pipeline.simulation.soak import Pauses
from regime_pipeline.simulation.soak_witness import Lie, Witness, is_far_off
from regime_pipeline.simulation.truth import Truth
from tests.builders import T0, raw_bars
from tests.markets import TamperedMarket, small_universe

UNIVERSE = small_universe()


def times_ten(_symbol: str, _timeframe: Timeframe, raw: RawBars) -> RawBars:
    high = raw.high.copy()
    high[2] *= 10
    return RawBars(raw.ts_s, raw.open, high, raw.low, raw.close, raw.volume)


def test_a_price_at_twice_or_half_the_truth_is_far_off_and_one_without_truth_is_not() -> None:
    true = raw_bars([100.0, 101.0, 102.0, 103.0])
    low = true.low.copy()
    low[1] *= 0.49
    close = true.close.copy()
    close[2] *= 1.9
    said = RawBars(true.ts_s, true.open, true.high, low, close, true.volume)[::-1]
    assert is_far_off(said, true).tolist() == [False, False, True, False]
    assert not is_far_off(said, true[:0]).any()


def test_a_missing_price_is_no_lie() -> None:
    true = raw_bars([100.0, 101.0])
    said = RawBars(true.ts_s, true.open * np.nan, true.high, true.low, true.close, true.volume)
    assert not is_far_off(said, true).any()


def test_a_witness_passes_on_what_it_hears_and_notes_the_lie() -> None:
    market = TamperedMarket(GeneratedMarket(UNIVERSE, 7), times_ten)
    truth = Truth(GeneratedMarket(UNIVERSE, 7), UNIVERSE, FaultBoard(FaultScript(), 0, T0))
    witness = Witness(market, truth, UNIVERSE)
    heard = witness.fetch_bars("binance_um", "SOLUSDT", Timeframe.M1, T0, T0 + 300)
    assert heard.high.tolist() == market.fetch_bars("binance_um", "SOLUSDT", Timeframe.M1, T0, T0 + 300).high.tolist()
    assert witness.lies == {Lie("token:SOL:binance", Timeframe.M1, T0 + 120, "binance_um")}
    caps = witness.fetch_market_caps(T0, T0 + 86_400)
    assert witness.caps == {contract: list(observations) for contract, observations in caps.items()}


def test_pauses_are_counted_and_shortened() -> None:
    pauses = Pauses(speed=1e6)
    pauses(60.0)
    pauses(5.0)
    assert pauses.count == 2


def flawless(hours: float = 24.0) -> dict[str, Any]:
    return {"hours": hours, **dict.fromkeys(ZEROS, 0), "faults": {"latency": MIN_FAULTS, "reset": MIN_FAULTS + 3}}


def test_a_flawless_soak_has_no_problem() -> None:
    assert find_problems(flawless()) == []


@pytest.mark.parametrize("name", ZEROS)
def test_what_must_be_zero_and_is_not_is_a_problem(name: str) -> None:
    assert find_problems(flawless() | {name: 3}) == [f"{name} was 3"]


def test_a_kind_of_fault_that_was_rare_is_a_problem_of_a_whole_day_only() -> None:
    rare = {"faults": {"latency": MIN_FAULTS - 1}}
    assert find_problems(flawless() | rare) == ["latency happened 19 times of 20"]
    assert find_problems(flawless(hours=12) | rare) == []
