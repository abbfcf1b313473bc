"""Snapshot and degradation ladder: freshness to the second, every row of section 14 that shows here, and no certain word without data."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import CallerError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.changepoint import Level
from regime_pipeline.regime.opinions.consensus import Agreement
from regime_pipeline.regime.opinions.hmm_filter import Opinion, unknown_opinion
from regime_pipeline.regime.opinions.ladder import age_s, is_fresh, visible_rows
from regime_pipeline.regime.opinions.quality import Tier
from regime_pipeline.regime.opinions.snapshot import (
    ChangepointReading,
    RegimeSnapshot,
    StrategicReading,
    VolatilityReading,
    build_snapshot,
    risk_throttle,
    snapshot_in_force,
    unknown_snapshot,
)
from regime_pipeline.regime.opinions.survival import Spell
from regime_pipeline.regime.opinions.terms import TERMS, TIMEFRAMES, UNIFORM, Label, Status
from regime_pipeline.regime.opinions.tracker import TrackerState, Transition
from regime_pipeline.regime.opinions.volatility import DirectionAxis, VolAxis, VolRegime

M1, M15, H1 = TIMEFRAMES
NOON_S = 1_746_446_400  # 2025-05-05 12:00 UTC
AT_S = NOON_S + 5 * 60


def newest_visible(timeframe: Timeframe, at_s: int = AT_S) -> int:
    visible = at_s - TERMS[timeframe].visibility_delay_s - timeframe.seconds
    return visible - visible % timeframe.seconds


def known(timeframe: Timeframe, at_s: int = AT_S, **changes: object) -> Opinion:
    opinion = Opinion(
        newest_visible(timeframe, at_s), (0.7, 0.2, 0.1), Label.BEARISH, 0.5, 0.5, -0.6, 0.73, 0.03, 0.2, Tier.FULL, "ab" * 8, Status.OK, 64
    )
    return replace(opinion, **changes)


def a_transition(confirmed_bar_s: int, expires_at_s: int) -> Transition:
    first_s = confirmed_bar_s - 3600
    return Transition("c" * 16, "BTC", Label.BULLISH, Label.BEARISH, first_s, confirmed_bar_s, 2, 0.5, None, "m", False, expires_at_s)


def readings(at_s: int = AT_S) -> dict:
    """Everything known and in time."""
    hour_s = newest_visible(H1, at_s)
    return {
        "opinions": {timeframe: known(timeframe, at_s) for timeframe in TIMEFRAMES},
        "changepoints": {timeframe: ChangepointReading(newest_visible(timeframe, at_s), 0.4, Level.ALERT) for timeframe in TIMEFRAMES},
        "volatility": VolatilityReading(hour_s, VolRegime.DOWN, VolAxis.ELEVATED, DirectionAxis.DOWN, 0.01, 0.85, Status.OK),
        "strategic": StrategicReading(
            hour_s, TrackerState(Label.BEARISH, Label.RANGING, 1), Spell(7, 0.8, 0.2), a_transition(hour_s - 7200, at_s + 1)
        ),
        "trends": {Timeframe.M1: "S1", Timeframe.H1: "S2", Timeframe.D1: "S3"},
    }


def snapshot(at_s: int = AT_S, **changes: object) -> RegimeSnapshot:
    return build_snapshot("BTC", at_s, **(readings(at_s) | changes))


def with_opinion(timeframe: Timeframe, opinion: Opinion | None) -> dict:
    opinions = readings()["opinions"]
    return {each: row for each, row in (opinions | {timeframe: opinion}).items() if row is not None}


def assert_says_nothing(view: object) -> None:
    assert (view.p, view.label, view.conf, view.bias, view.entropy, view.p_switch60) == (UNIFORM, Label.UNKNOWN, 0.0, 0.0, 1.0, None)
    assert view.model_id is None


def test_a_whole_snapshot_says_all_it_was_given() -> None:
    whole = snapshot()
    assert [view.label for view in (whole.m1, whole.m15, whole.h1)] == [Label.BEARISH] * 3
    # 12:05: the last minute closed just now, the quarter five minutes ago and the hour too
    assert [view.age_s for view in (whole.m1, whole.m15, whole.h1)] == [0, 300, 300]
    assert (whole.consensus.agreement, whole.consensus.label) == (Agreement.FULL, Label.BEARISH)
    assert whole.belief.coverage == 1.0
    assert (whole.strategic.label, whole.strategic.candidate, whole.strategic.transition_id) == (Label.BEARISH, Label.RANGING, "c" * 16)
    assert (whole.trend_1m, whole.trend_1h, whole.trend_1d) == ("S1", "S2", "S3")
    # rank 0.85 is half way down the ramp, 0.75; an alert costs 0.90, bearish with confidence 0.5 costs 0.90
    assert (whole.throttle.m_vol, whole.throttle.m_cp, whole.throttle.m_bear) == (pytest.approx(0.75), 0.90, 0.90)


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_rows_turn_stale_one_second_after_their_limit(timeframe: Timeframe) -> None:
    limit = TERMS[timeframe].freshness_s
    close_s = NOON_S + timeframe.seconds
    assert is_fresh(NOON_S, timeframe, close_s + limit)
    assert not is_fresh(NOON_S, timeframe, close_s + limit + 1)
    assert not is_fresh(None, timeframe, close_s)
    assert age_s(NOON_S, timeframe, close_s + limit) == limit
    delay = TERMS[timeframe].visibility_delay_s
    with pytest.raises(CallerError, match="visible_rows"):
        age_s(NOON_S, timeframe, close_s + delay - 1)
    assert age_s(NOON_S, timeframe, close_s + delay) == delay


def test_the_minute_row_is_in_time_at_three_minutes_and_not_at_four() -> None:
    row = known(M1, NOON_S)
    for minutes, status in ((3, Status.OK), (4, Status.STALE)):
        at_s = NOON_S + 60 * minutes
        view = snapshot(at_s, opinions=readings(at_s)["opinions"] | {M1: row}).m1
        assert (view.status, view.age_s) == (status, 60 * minutes)
    assert_says_nothing(view)
    assert view.tier is Tier.NO_MODEL


@given(st.lists(st.integers(0, 300), unique=True, max_size=60), st.integers(0, 400))
@settings(max_examples=50)
def test_visible_rows_are_closed_long_enough(minutes: list[int], at_minute: int) -> None:
    for timeframe in TIMEFRAMES:
        rows = np.array(sorted({minute * 60 // timeframe.seconds * timeframe.seconds for minute in minutes}), dtype=np.int64)
        (index,) = visible_rows(rows, timeframe, np.array([at_minute * 60]))
        allowed = [i for i, ts_s in enumerate(rows) if ts_s + timeframe.seconds + TERMS[timeframe].visibility_delay_s <= at_minute * 60]
        assert index == (allowed[-1] if allowed else -1)


def test_ladder_minute_missing() -> None:
    bare = snapshot(opinions=with_opinion(M1, unknown_opinion(newest_visible(M1), Status.MISSING_BAR)))
    assert_says_nothing(bare.m1)
    assert bare.m1.status is Status.MISSING_BAR
    assert (bare.consensus.agreement, bare.consensus.label, bare.consensus.confidence) == (Agreement.ONLY_15M, Label.BEARISH, 0.25)
    assert bare.belief.coverage == pytest.approx(0.79)
    assert bare.strategic == snapshot().strategic
    assert bare.throttle == snapshot().throttle


def test_ladder_quarter_missing() -> None:
    bare = snapshot(opinions=with_opinion(M15, unknown_opinion(newest_visible(M15), Status.MISSING_BAR)))
    assert (bare.consensus.agreement, bare.consensus.label, bare.consensus.confidence) == (Agreement.ONLY_1M, Label.UNKNOWN, 0.0)
    assert bare.belief.coverage == pytest.approx(0.51)
    assert bare.throttle == snapshot().throttle


def test_ladder_hour_missing() -> None:
    hour_s = newest_visible(H1)
    bare = snapshot(
        opinions=with_opinion(H1, unknown_opinion(hour_s, Status.MISSING_BAR)),
        changepoints=readings()["changepoints"] | {H1: ChangepointReading(hour_s, math.nan, Level.UNKNOWN)},
        volatility=VolatilityReading(
            hour_s, VolRegime.UNKNOWN, VolAxis.UNKNOWN, DirectionAxis.UNKNOWN, math.nan, math.nan, Status.MISSING_BAR
        ),
    )
    assert bare.belief.coverage == pytest.approx(0.70)
    assert (bare.volatility.regime, bare.volatility.band_rank, bare.h1.cp_prob) == (VolRegime.UNKNOWN, None, None)
    assert (bare.throttle.m_vol, bare.throttle.m_cp, bare.throttle.m_bear) == (0.80, 1.0, 1.0)
    assert bare.strategic.label is Label.BEARISH  # the tracker abstains: its label stands


def test_ladder_no_model_or_an_old_one() -> None:
    for status in (Status.NO_MODEL, Status.MODEL_EXPIRED):
        bare = snapshot(opinions={timeframe: unknown_opinion(newest_visible(timeframe), status) for timeframe in TIMEFRAMES})
        assert {view.status for view in (bare.m1, bare.m15, bare.h1)} == {status}
        assert (bare.consensus.label, bare.belief.coverage, bare.belief.p) == (Label.UNKNOWN, 0.0, UNIFORM)
        assert (bare.throttle.m_vol, bare.throttle.m_cp, bare.throttle.m_bear) == (pytest.approx(0.75), 0.90, 1.0)


def test_ladder_hourly_job_dead_leaves_nothing_certain() -> None:
    hour_s = newest_visible(H1) - 6 * 3600
    old = readings(AT_S - 6 * 3600)
    bare = snapshot(
        opinions=with_opinion(H1, replace(known(H1), ts_s=hour_s)),
        changepoints=old["changepoints"],
        volatility=old["volatility"],
        strategic=old["strategic"],
    )
    assert (bare.h1.status, bare.h1.age_s) == (Status.STALE, 6 * 3600 + 300)
    assert_says_nothing(bare.h1)
    assert (bare.strategic.label, bare.strategic.spell_age_bars, bare.strategic.transition_id) == (Label.UNKNOWN, None, None)
    assert (bare.volatility.regime, bare.volatility.band, bare.volatility.status) == (VolRegime.UNKNOWN, None, Status.STALE)
    assert (bare.h1.cp_level, bare.h1.cp_prob) == (Level.UNKNOWN, None)
    assert bare.throttle.value == 0.80


def test_ladder_change_points_warming() -> None:
    warming = {H1: ChangepointReading(newest_visible(H1), math.nan, Level.WARMING)}
    bare = snapshot(changepoints=warming)
    assert (bare.h1.cp_level, bare.h1.cp_prob, bare.throttle.m_cp) == (Level.WARMING, None, 1.0)
    assert bare.m1.cp_level is Level.UNKNOWN


def test_ladder_snapshot_absent_or_old() -> None:
    whole = snapshot()
    assert snapshot_in_force(whole, "BTC", AT_S + 180) is whole
    for newest, at_s in ((whole, AT_S + 181), (None, AT_S)):
        nothing = snapshot_in_force(newest, "BTC", at_s)
        assert nothing == unknown_snapshot("BTC", at_s)
        for view in (nothing.m1, nothing.m15, nothing.h1):
            assert_says_nothing(view)
            assert (view.status, view.age_s, view.cp_level) == (Status.STALE, None, Level.UNKNOWN)
        assert (nothing.consensus.label, nothing.strategic.label, nothing.belief.p) == (Label.UNKNOWN, Label.UNKNOWN, UNIFORM)
        assert risk_throttle(nothing, enabled=True) == 0.80
        assert risk_throttle(nothing, enabled=False) == 1.0


def test_the_throttle_is_one_unless_it_is_switched_on() -> None:
    assert risk_throttle(snapshot(), enabled=False) == 1.0
    assert risk_throttle(snapshot(), enabled=True) == snapshot().throttle.value == pytest.approx(0.75)


def test_an_expired_transition_is_not_offered() -> None:
    hour_s = newest_visible(H1)
    strategic = readings()["strategic"]
    for expires_s, expected in ((AT_S, None), (AT_S + 1, "c" * 16)):
        offered = snapshot(strategic=replace(strategic, transition=a_transition(hour_s, expires_s))).strategic.transition_id
        assert offered == expected
    with pytest.raises(CallerError, match="confirmed after"):
        snapshot(strategic=replace(strategic, transition=a_transition(hour_s + 3600, AT_S + 1)))


@given(
    st.dictionaries(st.sampled_from(TIMEFRAMES), st.sampled_from([*Status]), max_size=3),
    st.dictionaries(st.sampled_from(TIMEFRAMES), st.sampled_from([*Level]), max_size=3),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=60)
def test_columns_hold_everything(statuses: dict, levels: dict, has_vol: bool, has_strategic: bool) -> None:
    all_known = readings()
    opinions = {t: known(t) if status is Status.OK else unknown_opinion(newest_visible(t), status) for t, status in statuses.items()}
    built = build_snapshot(
        "ALT",
        AT_S,
        opinions=opinions,
        changepoints={t: ChangepointReading(newest_visible(t), 0.1, level) for t, level in levels.items()},
        volatility=all_known["volatility"] if has_vol else None,
        strategic=all_known["strategic"] if has_strategic else None,
    )
    columns = built.columns()
    assert RegimeSnapshot.from_columns("ALT", AT_S, columns) == built
    assert columns["throttle_shadow"] == min(columns["throttle_parts"].values())
    for timeframe in TIMEFRAMES:
        certain = columns[f"label_{timeframe}"] != "unknown"
        assert certain == (statuses.get(timeframe) is Status.OK)
        assert certain or columns[f"p_{timeframe}"] == list(UNIFORM)
    assert not any(isinstance(value, float) and math.isnan(value) for value in columns.values())


def test_callers_mistakes_are_refused() -> None:
    with pytest.raises(CallerError, match="full minute"):
        snapshot(AT_S + 1, **readings())
    with pytest.raises(CallerError, match="series"):
        build_snapshot("DOGE", AT_S, **readings())
    with pytest.raises(CallerError, match="visible_rows"):
        snapshot(opinions=with_opinion(M1, replace(known(M1), ts_s=AT_S)))
    for series, at_s in (("ETH", AT_S), ("BTC", AT_S - 1)):
        with pytest.raises(CallerError, match="asked for"):
            snapshot_in_force(snapshot(), series, at_s)
