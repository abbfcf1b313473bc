"""The rule of decision 13: a throttle that sees storms coming earns its place, and each condition fails for its own reason."""

import numpy as np
import pytest

from regime_pipeline.errors import CallerError
from regime_pipeline.regime.opinions.outcomes import trailing_volatility
from regime_pipeline.regime.opinions.terms import SERIES
from regime_pipeline.regime.opinions.throttle_rule import ThrottleInput, Verdict, compute_null_throttle, judge_throttle

HOUR_S = 3600
HISTORY_H = 2400
WINDOW_H = 200 * 24


def a_market(storm_drift: float = 0.0, window_h: int = WINDOW_H, seed: int = 0) -> list[ThrottleInput]:
    """Six series with day-long storms that begin at midnight; the throttle halves entries whose 24 hours lie in a storm."""
    rng = np.random.default_rng(seed)
    days = (HISTORY_H + window_h) // 24 + 2
    inputs = []
    for series in SERIES:
        storm = np.repeat(rng.random(days) < 0.3, 24)
        returns = np.where(storm, 0.02, 0.004) * rng.normal(size=storm.size) + storm_drift * storm
        close = 100 * np.exp(np.concatenate([[0.0], np.cumsum(returns)]))
        ts_s = HOUR_S * np.arange(close.size, dtype=np.int64)
        at = np.arange(HISTORY_H, HISTORY_H + window_h)
        ahead = np.array([storm[i : i + 24].mean() for i in at])
        inputs.append(ThrottleInput(series, ts_s, close, ts_s[at], np.where(ahead > 0.75, 0.5, 1.0)))
    return inputs


def with_throttle(inputs: list[ThrottleInput], throttle: object) -> list[ThrottleInput]:
    return [ThrottleInput(each.series, each.close_ts_s, each.close, each.ts_s, throttle(each)) for each in inputs]


def failed(verdict: Verdict) -> set[str]:
    assert verdict.earned == all(condition.holds for condition in verdict.conditions)
    return {condition.name for condition in verdict.conditions if not condition.holds}


def test_a_throttle_that_sees_storms_coming_earns_its_place() -> None:
    verdict = judge_throttle(a_market(), resamples=100)
    assert verdict.earned
    assert [condition.name for condition in verdict.conditions] == [
        "enough",
        "saves",
        "beats_null",
        "broad",
        "keeps_what_pays",
        "leaves_a_book",
    ]


def test_no_throttle_saves_nothing() -> None:
    verdict = judge_throttle(with_throttle(a_market(), lambda each: np.ones(each.ts_s.size)), resamples=50)
    assert {"enough", "saves", "beats_null", "broad"} <= failed(verdict)


def test_trailing_volatility_itself_does_not_beat_the_null() -> None:
    def null(each: ThrottleInput) -> np.ndarray:
        return compute_null_throttle(each.close_ts_s, each.close, each.ts_s)

    assert "beats_null" in failed(judge_throttle(with_throttle(a_market(), null), resamples=50))


def test_the_same_size_at_all_times_is_no_throttle() -> None:
    names = failed(judge_throttle(with_throttle(a_market(), lambda each: np.full(each.ts_s.size, 0.5)), resamples=50))
    assert {"saves", "leaves_a_book"} <= names


def test_a_throttle_that_cuts_what_pays_fails_on_that_alone() -> None:
    # storms that drift up by an eighth of a deviation an hour: the tail is still theirs, and so are the gains
    assert failed(judge_throttle(a_market(storm_drift=0.0025), resamples=50)) == {"keeps_what_pays"}


def test_half_a_year_and_four_series_are_asked_for() -> None:
    assert failed(judge_throttle(a_market(window_h=150 * 24), resamples=50)) == {"enough"}
    assert "enough" in failed(judge_throttle(a_market()[:3], resamples=50))


def test_luck_in_one_half_is_not_broad() -> None:
    def first_half_only(each: ThrottleInput) -> np.ndarray:
        late = np.arange(each.ts_s.size) > each.ts_s.size // 2
        return np.where(late, 1.5 - each.throttle, each.throttle)

    assert "broad" in failed(judge_throttle(with_throttle(a_market(), first_half_only), resamples=50))


def test_nothing_to_judge_earns_nothing() -> None:
    assert not judge_throttle([]).earned
    short = [
        ThrottleInput(each.series, each.close_ts_s[-50:], each.close[-50:], each.ts_s[-10:], each.throttle[-10:]) for each in a_market()
    ]
    assert not judge_throttle(short).earned


def test_the_verdict_is_the_same_every_time() -> None:
    assert judge_throttle(a_market(), resamples=20) == judge_throttle(a_market(), resamples=20)


def test_null_throttle_ranks_the_last_day_among_the_ninety_before() -> None:
    each = a_market()[0]
    null = compute_null_throttle(each.close_ts_s, each.close, each.ts_s[:200])
    for i in (0, 57, 199):
        at_s = each.ts_s[i] - HOUR_S * np.arange(2160, -1, -1)
        volatility = trailing_volatility(each.close_ts_s, each.close, at_s)
        rank = np.mean(volatility[:-1] <= volatility[-1])
        assert null[i] == pytest.approx(np.clip(1 - 0.5 * (rank - 0.75) / 0.20, 0.5, 1.0), abs=1e-12)
    # 500 hours of trailing volatility need 24 more of returns before them
    early = compute_null_throttle(each.close_ts_s, each.close, each.close_ts_s[:600])
    assert np.flatnonzero(~np.isnan(early))[0] == 524


def test_callers_mistakes_are_refused() -> None:
    each = a_market(window_h=48)[0]
    with pytest.raises(CallerError, match="each once"):
        judge_throttle([each, each])
    with pytest.raises(CallerError, match=r"\[0.5, 1\]"):
        ThrottleInput("BTC", each.close_ts_s, each.close, each.ts_s, each.throttle + 0.1)
    with pytest.raises(CallerError, match="another length"):
        ThrottleInput("BTC", each.close_ts_s, each.close, each.ts_s, each.throttle[1:])
    with pytest.raises(CallerError, match="ascend"):
        ThrottleInput("BTC", each.close_ts_s, each.close, each.ts_s[::-1], each.throttle)
