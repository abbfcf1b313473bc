"""Composites: the worked example 10.8 and the properties of 11.12."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.market.bars import Bars, RawBars, check_bars
from regime_pipeline.market.composite import ChainState, CompositeSpec, Membership, build_composite
from regime_pipeline.market.timeframe import Timeframe
from tests.builders import T0, bars, random_walk

H1 = Timeframe.H1
HOUR = 3600
EXTREME = CompositeSpec(H1, min_components=3, hl_mode="extreme")
MEAN = CompositeSpec(H1, min_components=3, hl_mode="mean")


def bar_after(prev_close: float, o: float, h: float, low: float, c: float, base_volume: float) -> Bars:
    raw = RawBars(
        np.array([T0, T0 + HOUR]),
        np.array([prev_close, o]),
        np.array([prev_close, h]),
        np.array([prev_close, low]),
        np.array([prev_close, c]),
        np.array([0.0, base_volume * c]),
    )
    return Bars.complete(raw, H1)


ALT = {
    "ETH": bar_after(2000, 2000, 2030, 1990, 2020, 10),
    "SOL": bar_after(100, 100.5, 101, 97, 98, 1000),
    "BNB": bar_after(500, 500, 505, 499, 504, 40),
    "HYPE": bar_after(40, 40, 42, 39.8, 41.6, 900),
}


def without(*names: str) -> dict[str, Bars]:
    return {name: part for name, part in ALT.items() if name not in names}


def ohlc(part: Bars, row: int = 0) -> tuple[float, ...]:
    return float(part.open[row]), float(part.high[row]), float(part.low[row]), float(part.close[row])


@pytest.mark.parametrize(
    ("components", "spec", "expected", "volume", "count"),
    [
        (ALT, EXTREME, (100.125, 105, 97, 100.95), 175_800, 4),
        (ALT, MEAN, (100.125, 102.125, 98.95, 100.95), 175_800, 4),
        (without("HYPE"), EXTREME, (100.166666667, 101.5, 97, 99.933333333), 138_360, 3),
    ],
)
def test_worked_example(components: dict[str, Bars], spec: CompositeSpec, expected: tuple[float, ...], volume: float, count: int) -> None:
    result = build_composite(components, None, spec)
    assert ohlc(result.bars) == pytest.approx(expected, abs=1e-9)
    assert result.bars.volume[0] == pytest.approx(volume)
    assert result.component_count.tolist() == [count]
    assert result.bars.bars_used.tolist() == [60 * count]
    assert result.chain_state == ChainState(T0 + HOUR, float(result.bars.close[0]))


def test_worked_example_of_raw_prices() -> None:
    result = build_composite(ALT, None, replace(EXTREME, method="price"))
    assert ohlc(result.bars, 1) == pytest.approx((660.125, 2030, 39.8, 665.9))


def test_too_few_components_give_no_bar_and_no_state() -> None:
    result = build_composite(without("HYPE", "BNB"), None, EXTREME)
    assert len(result.bars) == 0
    assert result.chain_state is None


def test_too_few_components_in_the_middle_give_a_gap() -> None:
    parts = {name: random_walk(10, seed, H1) for seed, name in enumerate("ABC")}
    parts["B"] = parts["B"][np.arange(10) != 6]
    result = build_composite(parts, None, EXTREME)
    assert result.gaps_s.tolist() == [T0 + 6 * HOUR]
    assert T0 + 6 * HOUR not in result.bars.ts_s


def test_hours_without_any_component_are_gaps_too() -> None:
    keep = np.array([0, 1, 2, 5, 6])
    parts = {name: random_walk(7, seed, H1)[keep] for seed, name in enumerate("ABC")}
    assert build_composite(parts, None, EXTREME).gaps_s.tolist() == [T0 + 3 * HOUR, T0 + 4 * HOUR]


def test_a_previous_close_may_be_three_bars_old_and_no_older() -> None:
    parts = {name: random_walk(12, seed, H1) for seed, name in enumerate("ABC")}
    parts["C"] = parts["C"][np.array([0, 1, 4, 5, 9, 10, 11])]  # returns after 3 bar lengths at 4, after 4 at 9
    result = build_composite(parts, None, replace(MEAN, min_components=2))
    count = dict(zip(((result.bars.ts_s - T0) // HOUR).tolist(), result.component_count.tolist(), strict=True))
    assert count[4] == 3
    assert count[9] == 2
    assert count[10] == 3


def test_a_market_wide_outage_does_not_end_the_chain() -> None:
    keep = np.array([0, 1, 2, 30, 31])
    parts = {name: random_walk(32, seed, H1)[keep] for seed, name in enumerate("ABC")}
    result = build_composite(parts, None, EXTREME)
    assert result.component_count.tolist() == [3, 3, 3, 3]


def test_first_bar_after_a_long_hole_needs_a_previous_composite_bar() -> None:
    keep = np.array([0, 30, 31])
    parts = {name: random_walk(32, seed, H1)[keep] for seed, name in enumerate("ABC")}
    assert ((build_composite(parts, None, EXTREME).bars.ts_s - T0) // HOUR).tolist() == [31]


def test_membership_is_that_of_the_bar() -> None:
    parts = {name: random_walk(10, seed, H1) for seed, name in enumerate("ABC")}
    members: Membership = {"A": [(0, None)], "B": [(0, T0 + 4 * HOUR)], "C": [(T0 + 4 * HOUR, T0 + 6 * HOUR), (T0 + 8 * HOUR, None)]}
    spec = CompositeSpec(H1)
    result = build_composite(parts, members, spec)
    assert result.component_count.tolist() == [2, 2, 2, 2, 2, 1, 1, 2, 2]
    later: Membership = {**members, "B": [(0, T0 + 4 * HOUR), (T0 + 9 * HOUR, None)]}
    assert build_composite(parts, later, spec).bars[:8].equals(result.bars[:8])


def test_a_name_without_membership_never_belongs() -> None:
    parts = {name: random_walk(10, seed, H1) for seed, name in enumerate("AB")}
    assert build_composite(parts, {"A": [(0, None)]}, CompositeSpec(H1)).component_count.max() == 1


def test_no_components_give_nothing() -> None:
    assert len(build_composite({}, None, CompositeSpec(H1)).bars) == 0


@st.composite
def holed_components(draw: st.DrawFn) -> dict[str, Bars]:
    n_parts, n_bars = draw(st.integers(1, 10)), draw(st.integers(2, 40))
    parts = {}
    for at in range(n_parts):
        walk = random_walk(n_bars, draw(st.integers(0, 10_000)), H1, price=draw(st.sampled_from([1e-7, 1.0, 3e4])))
        present = draw(st.lists(st.booleans(), min_size=n_bars, max_size=n_bars))
        parts[f"T{at}"] = walk[np.array(present) | (draw(st.integers(0, 3)) > 0)]
    return parts


specs = st.builds(CompositeSpec, st.just(H1), st.integers(1, 3), st.sampled_from(["extreme", "mean"]))


@settings(max_examples=60, deadline=None)
@given(holed_components(), specs, st.integers(0, 40))
def test_extending_equals_a_rebuild_bit_for_bit(parts: dict[str, Bars], spec: CompositeSpec, n_seen: int) -> None:
    whole = build_composite(parts, None, spec)
    seen_to = T0 + n_seen * HOUR
    seen = build_composite({name: part[part.ts_s <= seen_to] for name, part in parts.items()}, None, spec)
    # A live step is handed only the last bar before the state, not the whole history.
    recent = {
        name: part[max(int(np.searchsorted(part.ts_s, seen.chain_state.ts_s if seen.chain_state else 0, side="right")) - 1, 0) :]
        for name, part in parts.items()
    }
    rest = build_composite(recent, None, spec, seen.chain_state)
    assert Bars.concat([seen.bars, rest.bars]).equals(whole.bars)
    assert [*seen.component_count, *rest.component_count] == whole.component_count.tolist()
    assert rest.chain_state == whole.chain_state


@settings(max_examples=60, deadline=None)
@given(holed_components(), specs)
def test_every_composite_bar_is_valid(parts: dict[str, Bars], spec: CompositeSpec) -> None:
    built = build_composite(parts, None, spec).bars
    assert check_bars(built, H1, now_s=T0 + 10_000_000).good.all()


@settings(max_examples=60, deadline=None)
@given(holed_components(), st.integers(1, 3))
def test_mean_high_and_low_lie_within_the_extreme_ones(parts: dict[str, Bars], minimum: int) -> None:
    mean = build_composite(parts, None, CompositeSpec(H1, minimum, "mean")).bars
    extreme = build_composite(parts, None, CompositeSpec(H1, minimum, "extreme")).bars
    assert (mean.high <= extreme.high).all()
    assert (mean.low >= extreme.low).all()


@settings(max_examples=40, deadline=None)
@given(holed_components(), specs, st.randoms())
def test_component_order_changes_nothing(parts: dict[str, Bars], spec: CompositeSpec, rng: Random) -> None:
    names = list(parts)
    rng.shuffle(names)
    assert build_composite({name: parts[name] for name in names}, None, spec).bars.equals(build_composite(parts, None, spec).bars)


@settings(max_examples=40, deadline=None)
@given(holed_components(), specs, st.sampled_from([2.0**-50, 0.25, 1024.0]))
def test_the_price_level_of_a_component_changes_nothing(parts: dict[str, Bars], spec: CompositeSpec, factor: float) -> None:
    first = min(parts)
    moved = replace(parts[first], **{name: getattr(parts[first], name) * factor for name in ("open", "high", "low", "close")})
    assert build_composite({**parts, first: moved}, None, spec).bars.equals(build_composite(parts, None, spec).bars)


@pytest.mark.parametrize("hl_mode", ["mean", "extreme"])
def test_a_component_that_moves_like_the_mean_adds_nothing(hl_mode: str) -> None:
    parts = {name: random_walk(50, seed, H1) for seed, name in enumerate("ABC")}
    spec = CompositeSpec(H1, 3, "mean" if hl_mode == "mean" else "extreme")
    alone = build_composite(parts, None, spec).bars
    mean_bars = build_composite(parts, None, MEAN).bars
    mirror = Bars.concat([bars([100.0], H1), mean_bars])
    joined = build_composite({**parts, "D": mirror}, None, spec).bars
    for column in ("open", "close") if hl_mode == "extreme" else ("open", "high", "low", "close"):
        np.testing.assert_allclose(getattr(joined, column), getattr(alone, column), rtol=1e-12)
