"""Levers: the example of 10.10 cell by cell, the quality ladder of 7.2 and property 10."""

import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.drivers import BUCKETS, CHANNEL_TIMEFRAMES, DRIVER_NAMES
from regime_pipeline.regime.levers import (
    INTENT_DELTAS,
    MULTIPLIERS,
    OTHER_MULTIPLIERS,
    Channel,
    LeverInput,
    LeverResult,
    Quality,
    compute_age_bars,
    compute_intent_deltas,
    compute_levers,
)
from regime_pipeline.regime.levers_vector import build_multipliers, build_raw, build_weight_mask, compute_levers_vector
from regime_pipeline.regime.mapper import map_state

D1, H1, M1 = CHANNEL_TIMEFRAMES
NONE: frozenset[str] = frozenset()

# driver, timeframe, previous state, state, flags, raw a, raw e, contribution a, contribution e
EXAMPLE = [
    ("BTC", D1, "S3", "S3", NONE, 0.20, -0.05, 0.06000, -0.01500),
    ("BTC", H1, "S3", "S3", {"trim"}, -0.05, 0.25, -0.02750, 0.13750),
    ("BTC", M1, "S0", "S1", {"buy"}, 0.45, -0.25, 0.06750, -0.03750),
    ("ALT", D1, "S2", "S2", NONE, 0.10, 0.05, 0.04500, 0.02250),
    ("ALT", H1, "S1", "S1", NONE, 0.25, -0.15, 0.20625, -0.12375),
    ("ALT", M1, "S1", "S0", NONE, -0.70, 0.70, -0.15750, 0.15750),
    ("nano", D1, "S4", "S4", NONE, 0.0, 0.0, 0.0, 0.0),
    ("nano", H1, "S2", "S2", {"rebuy"}, 0.25, -0.05, 0.41250, -0.08250),
    ("nano", M1, "S3", "S3", {"rebuy", "trim"}, 0.15, 0.15, 0.06750, 0.06750),
    ("BTC.d", D1, "S0", "S0", NONE, -0.30, 0.30, 0.09000, -0.09000),
    ("BTC.d", H1, "S3", "S3", NONE, 0.20, -0.05, -0.11000, 0.02750),
    ("BTC.d", M1, "S1", "S1", NONE, 0.25, -0.15, 0.0, 0.0),  # stale
    ("USDT.d", D1, "S1", "S1", NONE, 0.25, -0.15, -0.22500, 0.13500),
    ("USDT.d", H1, "S1", "S1", NONE, 0.25, -0.15, -0.41250, 0.24750),
    ("USDT.d", M1, "S3", "S0", NONE, -0.80, 0.80, 0.36000, -0.36000),
]


def a_channel(
    driver: str = "BTC", timeframe: Timeframe = D1, age_bars: float = 0.0, a: float | None = 0.2, e: float | None = -0.05
) -> Channel:
    return Channel(driver, timeframe, age_bars, a, e, state="S3", prev_state="S3")


def the_example(**changes: object) -> LeverInput:
    channels = []
    for driver, timeframe, prev_state, state, flags, *_ in EXAMPLE:
        delta_a, delta_e = map_state(prev_state, state, flags, immature=False)
        age_bars = 3.5 if (driver, timeframe) == ("BTC.d", M1) else 0.0
        channels.append(Channel(driver, timeframe, age_bars, delta_a, delta_e, None, state, prev_state, tuple(sorted(flags))))
    return replace(LeverInput("1h", "nano", tuple(channels)), **changes)  # type: ignore[arg-type]


def every_channel(a: float = 0.2, e: float = -0.05) -> tuple[Channel, ...]:
    return tuple(a_channel(driver, timeframe, a=a, e=e) for driver in DRIVER_NAMES for timeframe in CHANNEL_TIMEFRAMES)


def quality_of(result: LeverResult, driver: str, timeframe: Timeframe) -> Quality:
    (row,) = [row for row in result.diagnostics.channels if (row.driver, row.timeframe) == (driver, timeframe)]
    return row.quality


# The example of 10.10


@pytest.mark.parametrize(("driver", "timeframe", "raw_a", "raw_e", "contrib_a", "contrib_e"), [row[:2] + row[5:] for row in EXAMPLE])
def test_each_cell_of_the_example(
    driver: str, timeframe: Timeframe, raw_a: float, raw_e: float, contrib_a: float, contrib_e: float
) -> None:
    (row,) = [row for row in compute_levers(the_example()).diagnostics.channels if (row.driver, row.timeframe) == (driver, timeframe)]
    assert (row.raw_a, row.raw_e) == pytest.approx((raw_a, raw_e), abs=1e-12)
    assert (row.contrib_a, row.contrib_e) == pytest.approx((contrib_a, contrib_e), abs=1e-12)


def test_the_example_as_a_whole() -> None:
    result = compute_levers(the_example())
    assert (result.diagnostics.sum_a, result.diagnostics.sum_e) == pytest.approx((0.37625, 0.08625), abs=1e-12)
    assert (result.A_value, result.E_value, result.position_size_frac) == pytest.approx((0.87625, 0.58625, 0.538125), abs=1e-12)
    assert not result.degraded  # the stale channel is a dominance, not BTC or ALT
    assert [row.quality for row in result.diagnostics.channels if row.quality is not Quality.OK] == [Quality.S4, Quality.STALE]
    assert len(result.diagnostics.channels) == 15
    assert [reason.split(",")[0] for reason in result.diagnostics.reasons] == ["nano 1d: s4", "BTC.d 1m: stale"]


def test_half_strength_halves_the_sum() -> None:
    result = compute_levers(the_example(regime_strength=0.5))
    assert (result.A_value, result.E_value) == pytest.approx((0.688125, 0.543125), abs=1e-12)


@pytest.mark.parametrize("bucket", [None, "unknown", "Nano", ""])
def test_an_unknown_bucket_leaves_its_driver_out_and_says_so(bucket: str | None) -> None:
    result = compute_levers(the_example(bucket=bucket))
    assert (result.diagnostics.sum_a, result.diagnostics.sum_e) == pytest.approx((-0.10375, 0.10125), abs=1e-12)
    assert (result.A_value, result.E_value) == pytest.approx((0.39625, 0.60125), abs=1e-12)
    assert quality_of(result, "bucket", H1) is Quality.NO_BUCKET
    assert f"bucket 1h: no_bucket, the position's bucket was {bucket!r}" in result.diagnostics.reasons
    assert not result.degraded


@pytest.mark.parametrize(
    ("exec_timeframe", "a_value", "e_value"),
    [
        ("1m", 1, 0),
        ("5m", 1, 0.245),
        ("15m", 1, 0.3875),
        ("1h", 0.87625, 0.58625),
        ("4h", 0.6075, 0.68875),
        ("1d", 0.4875, 0.6845),
        ("2h", 0.725, 0.6225),
    ],
)
def test_other_execution_timeframes(exec_timeframe: str, a_value: float, e_value: float) -> None:
    result = compute_levers(the_example(exec_timeframe=exec_timeframe))
    assert (result.A_value, result.E_value) == pytest.approx((a_value, e_value), abs=1e-12)


def test_an_execution_timeframe_without_a_row_is_warned_of() -> None:
    diagnostics = compute_levers(the_example(exec_timeframe="2h")).diagnostics
    assert diagnostics.multiplier_row == "other"
    assert "execution timeframe '2h' has no multiplier row: row 'other' used" in diagnostics.reasons
    assert compute_levers(the_example()).diagnostics.multiplier_row == "1h"


def test_multiplier_rows_share_out_exactly_one() -> None:
    assert [math.fsum(row) for row in (*MULTIPLIERS.values(), OTHER_MULTIPLIERS)] == pytest.approx([1.0] * 7)
    assert list(MULTIPLIERS) == list(Timeframe)


# Intents


def test_intents_of_the_example() -> None:
    result = compute_levers(the_example(intents={"hi_buy": 0.8, "profit": 0.5}))
    assert (result.diagnostics.intent_a, result.diagnostics.intent_e) == pytest.approx((0.125, -0.005), abs=1e-12)
    assert (result.A_value, result.E_value) == pytest.approx((1.0, 0.58125), abs=1e-12)


@pytest.mark.parametrize(
    ("intents", "delta_a", "delta_e"),
    [
        ({"hi_buy": 1.7, "mock": -3.0}, 0.25, -0.10),
        ({"mock": 1.0, "sell": 1.0}, -0.40, 0.40),
        ({"hi_buy": 1.0}, 0.25, -0.10),
        ({"med_buy": 1.0}, 0.15, -0.05),
        ({"profit": 1.0}, -0.15, 0.15),
        ({"sell": 1.0}, -0.25, 0.35),
        ({"mock": 1.0}, -0.30, 0.40),  # .50 alone is above the limit
        ({"hi_buy": 1.0, "med_buy": 1.0}, 0.40, -0.15),
        ({"hi_buy": None, "sell": math.nan, "mock": math.inf, "profit": -math.inf}, 0.0, 0.0),
        ({}, 0.0, 0.0),
    ],
)
def test_intent_rows_and_their_limits(intents: dict[str, float | None], delta_a: float, delta_e: float) -> None:
    clamped, found_a, found_e = compute_intent_deltas(intents)
    assert (found_a, found_e) == pytest.approx((delta_a, delta_e), abs=1e-12)
    assert list(clamped) == list(INTENT_DELTAS)
    assert all(0 <= value <= 1 for value in clamped.values())


# The quality ladder


def test_a_channel_turns_stale_strictly_after_three_bars() -> None:
    # A 1h row with ts 10:00 ends at 11:00; 14:00:00 is three bars later, 14:00:01 is more.
    ts_s, now_s = 10 * 3600, 14 * 3600
    ages = [compute_age_bars(ts_s, H1, now_s + late_s) for late_s in (0, 1)]
    results = [compute_levers(LeverInput("1h", None, (a_channel("BTC", H1, age),))) for age in ages]
    assert [quality_of(result, "BTC", H1) for result in results] == [Quality.OK, Quality.STALE]
    assert results[0].diagnostics.sum_a == pytest.approx(0.2 * 0.55)
    assert results[1].diagnostics.sum_a == 0
    assert "BTC 1h" in results[1].diagnostics.degraded_by


@pytest.mark.parametrize("timeframe", CHANNEL_TIMEFRAMES)
@pytest.mark.parametrize("ts_s", [0, 1_760_054_400])
def test_three_bars_are_exact_on_every_timeframe(timeframe: Timeframe, ts_s: int) -> None:
    assert compute_age_bars(ts_s, timeframe, ts_s + 4 * timeframe.seconds) == 3.0
    assert compute_age_bars(ts_s, timeframe, ts_s + 4 * timeframe.seconds + 1) > 3.0
    assert compute_age_bars(ts_s, timeframe, ts_s + timeframe.seconds - 1) < 0


@pytest.mark.parametrize("age_bars", [-1e-9, -1.0, -math.inf, math.nan])
def test_a_row_later_than_now_is_never_read(age_bars: float) -> None:
    result = compute_levers(LeverInput("1h", None, (a_channel("ALT", H1, age_bars),)))
    assert quality_of(result, "ALT", H1) is Quality.ABSENT
    assert result.diagnostics.sum_a == 0
    assert any("ALT 1h: absent, its bar ends after now" in reason for reason in result.diagnostics.reasons)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf, 1e308])
def test_a_channel_without_two_usable_deltas_is_absent(bad: float | None) -> None:
    for channel in (a_channel(a=bad), a_channel(e=bad)):
        result = compute_levers(LeverInput("1h", None, (channel,)))
        assert quality_of(result, "BTC", D1) is Quality.ABSENT
        assert (result.A_value, result.E_value) == (0.5, 0.5)


@pytest.mark.parametrize(("channel", "quality"), [
    (replace(a_channel(), state="S4", immature=True), Quality.S4),
    (replace(a_channel(), immature=True), Quality.IMMATURE),
    (replace(a_channel(age_bars=4.0), state="S4"), Quality.STALE),
    (replace(a_channel(age_bars=4.0, a=None)), Quality.ABSENT),
    (a_channel(), Quality.OK),
])  # fmt: skip
def test_the_first_quality_that_holds_is_named(channel: Channel, quality: Quality) -> None:
    result = compute_levers(LeverInput("1h", None, (channel,)))
    assert quality_of(result, "BTC", D1) is quality
    assert (result.diagnostics.sum_a != 0) == (quality is Quality.OK)


def test_s4_and_immature_rows_of_required_drivers_do_not_degrade() -> None:
    channels = tuple(
        replace(channel, state="S4") if channel.driver == "BTC" else replace(channel, immature=True) for channel in every_channel()
    )
    result = compute_levers(LeverInput("1h", "mid", channels))
    assert not result.degraded
    assert (result.A_value, result.E_value) == (0.5, 0.5)


@pytest.mark.parametrize("driver", ["BTC", "ALT"])
@pytest.mark.parametrize("timeframe", CHANNEL_TIMEFRAMES)
def test_one_absent_channel_of_btc_or_alt_degrades(driver: str, timeframe: Timeframe) -> None:
    channels = tuple(channel for channel in every_channel() if (channel.driver, channel.timeframe) != (driver, timeframe))
    result = compute_levers(LeverInput("1h", "big", channels))
    assert result.degraded
    assert result.diagnostics.degraded_by == (f"{driver} {timeframe}",)


def test_absent_buckets_and_dominances_do_not_degrade() -> None:
    channels = tuple(channel for channel in every_channel() if channel.driver in ("BTC", "ALT"))
    assert not compute_levers(LeverInput("1h", "big", channels)).degraded


def test_a_timeframe_not_in_use_is_off_and_named() -> None:
    macro_meso = tuple(channel for channel in every_channel() if channel.timeframe is not M1)
    result = compute_levers(LeverInput("1h", None, macro_meso, timeframes=(D1, H1)))
    assert [quality_of(result, driver, M1) for driver in ("BTC", "bucket", "USDT.d")] == [Quality.OFF] * 3  # off comes before no_bucket
    assert result.diagnostics.no_micro
    assert "no_micro: computed without the 1m channels" in result.diagnostics.reasons
    assert not result.degraded
    assert not compute_levers(LeverInput("1h", None, macro_meso)).diagnostics.no_micro


def test_rows_of_a_timeframe_not_in_use_are_not_read() -> None:
    result = compute_levers(LeverInput("1h", "nano", every_channel(), timeframes=(D1, H1)))
    # 0.2 x (.30 + .55) x (1 + 1.5 + 3 - 1 - 3) = 0.2 x .85 x 1.5
    assert result.diagnostics.sum_a == pytest.approx(0.255)


def test_a_position_hears_only_its_own_bucket() -> None:
    others = tuple(a_channel(bucket, timeframe) for bucket in BUCKETS if bucket != "small" for timeframe in CHANNEL_TIMEFRAMES)
    result = compute_levers(LeverInput("1h", "small", others))
    assert result.diagnostics.sum_a == 0
    assert quality_of(result, "small", H1) is Quality.ABSENT


def test_a_failed_read_leaves_the_intents_and_degrades() -> None:
    result = compute_levers(LeverInput("1h", "nano", None, intents={"sell": 1.0}))
    assert (result.A_value, result.E_value) == pytest.approx((0.25, 0.85))
    assert result.degraded
    assert "the channels could not be read: intents only" in result.diagnostics.reasons
    assert compute_levers(LeverInput("1h", "nano", None, timeframes=())).degraded  # even where every channel is off


@pytest.mark.parametrize("book_id", ["onchain_crypto", "spot_crypto", "perp_crypto"])
def test_crypto_books_share_their_drivers(book_id: str) -> None:
    result = compute_levers(the_example(book_id=book_id))
    assert result.A_value == pytest.approx(0.87625)
    assert result.diagnostics.driver_book == "onchain_crypto"


def test_a_book_without_drivers_finds_every_channel_absent() -> None:
    result = compute_levers(the_example(book_id="stocks"))
    assert {row.quality for row in result.diagnostics.channels} == {Quality.ABSENT}
    assert (result.A_value, result.E_value, result.degraded) == (0.5, 0.5, True)
    assert result.diagnostics.driver_book == "stocks"


# What is refused


def test_an_unknown_driver_is_refused() -> None:
    with pytest.raises(BadInputError, match="driver was 'ETH'"):
        a_channel("ETH")


def test_a_timeframe_that_is_no_regime_timeframe_is_refused() -> None:
    with pytest.raises(BadInputError, match="must be one of 1d, 1h, 1m"):
        a_channel("BTC", Timeframe.M5)


@pytest.mark.parametrize("state", [4, "S5", ""])
def test_a_state_that_is_no_name_is_refused(state: object) -> None:
    with pytest.raises(BadInputError, match=r"channel state was .* Pass the name"):
        replace(a_channel(), state=state)  # type: ignore[arg-type]


def test_two_rows_of_one_channel_are_refused() -> None:
    with pytest.raises(BadInputError, match="channel BTC 1d was given twice"):
        LeverInput("1h", None, (a_channel(), a_channel(age_bars=1.0)))


def test_an_unknown_intent_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"intents were \['buy'\], allowed: hi_buy"):
        LeverInput("1h", None, (), intents={"buy": 1.0})


def test_a_timeframe_in_use_must_be_a_regime_timeframe() -> None:
    with pytest.raises(BadInputError, match="timeframes in use were"):
        LeverInput("1h", None, (), timeframes=(Timeframe.H4,))


@pytest.mark.parametrize("strength", [-0.1, math.nan, math.inf])
def test_a_strength_below_zero_or_not_finite_is_refused(strength: float) -> None:
    with pytest.raises(BadInputError, match="regime_strength was"):
        LeverInput("1h", None, (), regime_strength=strength)
    with pytest.raises(BadInputError, match="regime_strength was"):
        compute_levers_vector(np.zeros((8, 3)), np.zeros((8, 3)), np.ones((1, 3)), np.ones((1, 8)), np.zeros((1, 2)), strength)


def test_the_vector_form_refuses_what_is_not_finite() -> None:
    raw = np.zeros((8, 3))
    raw[2, 1] = np.nan
    for args in (
        (raw, raw * 0, np.zeros((1, 2))),
        (np.zeros((8, 3)), raw, np.zeros((1, 2))),
        (np.zeros((8, 3)),) * 2 + (np.array([[np.inf, 0]]),),
    ):
        with pytest.raises(BadInputError, match="not finite"):
            compute_levers_vector(args[0], args[1], np.ones((1, 3)), np.ones((1, 8)), args[2])


# Property 10

any_float = st.floats() | st.none()
deltas = st.floats(-1, 1)
exec_timeframes = st.sampled_from([*MULTIPLIERS, "2h", ""])
buckets = st.sampled_from([*BUCKETS, None, "giant"])
keys = st.tuples(st.sampled_from(DRIVER_NAMES), st.sampled_from(CHANNEL_TIMEFRAMES))


def channels_of(values: st.SearchStrategy[float | None], ages: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[Channel, ...]]:
    rest = st.tuples(ages, values, values, st.sampled_from(["S0", "S3", "S4", None]), st.booleans())
    drawn = st.dictionaries(keys, rest, max_size=24)
    return drawn.map(
        lambda read: tuple(Channel(*key, age, a, e, state=state, immature=immature) for key, (age, a, e, state, immature) in read.items())
    )


def inputs_of(
    channels: st.SearchStrategy[tuple[Channel, ...] | None], values: st.SearchStrategy[float | None]
) -> st.SearchStrategy[LeverInput]:
    intents = st.dictionaries(st.sampled_from(list(INTENT_DELTAS)), values)
    strengths = st.floats(0, 3)
    used = st.sets(st.sampled_from(CHANNEL_TIMEFRAMES)).map(tuple)
    return st.builds(
        LeverInput, exec_timeframes, buckets, channels, intents, strengths, st.sampled_from(["onchain_crypto", "stocks"]), used
    )


ages = st.sampled_from([-0.5, 0.0, 0.4, 3.0, 3.01, 9.0])
usual = inputs_of(channels_of(deltas, ages), st.floats(-1, 2))


@settings(max_examples=100, deadline=None)
@given(inputs_of(st.one_of(st.none(), channels_of(any_float, st.floats())), any_float), st.floats(0, allow_infinity=False))
def test_levers_stay_in_bounds_whatever_the_channels_say(given: LeverInput, strength: float) -> None:
    result = compute_levers(replace(given, regime_strength=strength))
    assert 0 <= result.A_value <= 1
    assert 0 <= result.E_value <= 1
    assert 0.1 <= result.position_size_frac <= 0.6
    assert len(result.diagnostics.channels) == 15
    assert all(math.isfinite(row.contrib_a) and math.isfinite(row.contrib_e) for row in result.diagnostics.channels)
    counted = [row for row in result.diagnostics.channels if row.quality is Quality.OK]
    assert (
        len(counted) + sum(": " in reason and reason.split(": ")[1].split(",")[0] in set(Quality) for reason in result.diagnostics.reasons)
        == 15
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(usual, min_size=1, max_size=12))
def test_vector_equals_scalar(positions: list[LeverInput]) -> None:
    first = positions[0]  # the channels are the market's and so the same for every position
    shared = {name: getattr(first, name) for name in ("channels", "regime_strength", "timeframes", "book_id")}
    positions = [replace(position, **shared) for position in positions]
    intents = np.array([compute_intent_deltas(position.intents)[1:] for position in positions])
    a_value, e_value = compute_levers_vector(
        *build_raw(first),
        build_multipliers([position.exec_timeframe for position in positions]),
        build_weight_mask([position.bucket for position in positions]),
        intents,
        first.regime_strength,
    )
    scalar = [compute_levers(position) for position in positions]
    np.testing.assert_allclose(a_value, [result.A_value for result in scalar], rtol=0, atol=1e-12)
    np.testing.assert_allclose(e_value, [result.E_value for result in scalar], rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(usual, keys)
def test_removing_a_channel_equals_a_zero_contribution(given: LeverInput, key: tuple[str, Timeframe]) -> None:
    kept = tuple(channel for channel in given.channels or () if (channel.driver, channel.timeframe) != key)
    without = compute_levers(replace(given, channels=kept))
    zero = compute_levers(replace(given, channels=(*kept, Channel(*key, 0.0, 0.0, 0.0, state="S3"))))
    assert (without.A_value, without.E_value) == (zero.A_value, zero.E_value)


@settings(max_examples=60, deadline=None)
@given(usual, st.randoms())
def test_the_order_of_channels_changes_nothing(given: LeverInput, random: Random) -> None:
    shuffled = list(given.channels or ())
    random.shuffle(shuffled)
    assert compute_levers(replace(given, channels=tuple(shuffled))) == compute_levers(given)


@settings(max_examples=60, deadline=None)
@given(usual)
def test_strength_zero_leaves_the_intents(given: LeverInput) -> None:
    result = compute_levers(replace(given, regime_strength=0.0))
    _, intent_a, intent_e = compute_intent_deltas(given.intents)
    assert (result.A_value, result.E_value) == (0.5 + intent_a, 0.5 + intent_e)


def test_the_example_in_vector_form() -> None:
    names = [*MULTIPLIERS, "2h", "1h"]
    a_value, e_value = compute_levers_vector(
        *build_raw(the_example()), build_multipliers(names), build_weight_mask(["nano"] * 7 + [None]), np.zeros((8, 2))
    )
    assert a_value.tolist() == pytest.approx([1, 1, 1, 0.87625, 0.6075, 0.4875, 0.725, 0.39625], abs=1e-12)
    assert e_value.tolist() == pytest.approx([0, 0.245, 0.3875, 0.58625, 0.68875, 0.6845, 0.6225, 0.60125], abs=1e-12)


def test_no_positions_have_no_levers() -> None:
    a_value, e_value = compute_levers_vector(*build_raw(the_example()), build_multipliers([]), build_weight_mask([]), np.zeros((0, 2)))
    assert (len(a_value), len(e_value)) == (0, 0)
