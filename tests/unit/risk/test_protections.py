"""Protections: examples W10, W11, W12 and W16, failing closed, and trips that only time or a person takes back (I18)."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import KillSwitchActiveError
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.risk.kill_switch import EVERYBODY, Scope
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings
from regime_pipeline.risk.protections import (
    FOREVER_S,
    Close,
    Effect,
    EquityPoint,
    Flow,
    Trip,
    Window,
    active_trips,
    compute_drawdown_frac,
    compute_max_age_s,
    compute_volatility,
    has_cleared,
    judge_closing_loss,
    judge_daily_loss,
    judge_drawdown,
    judge_recent_entry,
    judge_stoploss_guard,
    judge_trade_count,
    judge_volatility,
    judge_weekly_loss,
    judge_windows,
    merge_trips,
    plan_daily_window,
    plan_funding_windows,
    release_trip,
    run_protections,
    worst_effect,
)
from regime_pipeline.risk.purpose import Side

D = Decimal
LIMITS, PROTECTIONS = RiskSettings(), ProtectionSettings()
DAY_S = 86_400
T0_S = 20_000 * DAY_S  # 00:00 UTC of some day


def at(clock: str) -> int:
    hours, minutes = clock.split(":")
    return T0_S + 3600 * int(hours) + 60 * int(minutes)


def closes(*rows: tuple[str, int]) -> list[Close]:
    return [Close(at(clock), D(pnl)) for clock, pnl in rows]


# W10: stoploss guard on 1h, 6 bars: look back 6 h from the newest close, hold 6 h.


def test_w10_three_losing_closes_in_six_hours_stop_the_symbol_for_six() -> None:
    trip = judge_stoploss_guard("BTC/USDT", closes(("10:05", -1), ("12:40", -1), ("15:50", -1)), 3600, at("15:51"), PROTECTIONS)
    assert trip is not None
    assert (trip.effect, trip.code, trip.scope) == (Effect.ENTRIES_OFF, ReasonCode.PROT_STOPLOSS, Scope(symbol="BTC/USDT"))
    assert trip.until_s == at("21:50")


@pytest.mark.parametrize(
    "rows",
    [
        [("10:05", -1), ("12:40", -1), ("16:06", -1)],  # 10:05 is outside 10:06 to 16:06
        [("10:05", -1), ("12:40", -1), ("14:00", 1), ("15:50", -1)],  # a win breaks the run
        [("10:05", -1), ("12:40", -1), ("15:50", 0)],  # not lost
        [("12:40", -1), ("15:50", -1)],
    ],
)
def test_w10_else_it_does_not_trip(rows: list[tuple[str, int]]) -> None:
    assert judge_stoploss_guard("BTC/USDT", closes(*rows), 3600, at("16:07"), PROTECTIONS) is None


def test_w10_the_edge_of_the_window_is_inside_and_the_end_of_the_hold_outside() -> None:
    rows = closes(("10:06", -1), ("12:40", -1), ("16:06", -1))
    assert judge_stoploss_guard("BTC/USDT", rows, 3600, at("16:07"), PROTECTIONS) is not None
    assert judge_stoploss_guard("BTC/USDT", rows, 3600, at("22:06"), PROTECTIONS) is None


def test_the_guard_looks_back_an_hour_at_least() -> None:
    # 6 bars of 1m are 6 minutes, the least is 3600 s.
    rows = closes(("10:00", -1), ("10:30", -1), ("11:00", -1))
    assert judge_stoploss_guard("BTC/USDT", rows, 60, at("11:01"), PROTECTIONS) is not None


# W11: drawdown of E*, flows left out.


def a_history(equity: int) -> tuple[list[EquityPoint], list[Flow]]:
    points = [EquityPoint(T0_S, D(100_000)), EquityPoint(T0_S + 7200, D(equity))]
    return points, [Flow(T0_S + 3600, D(5000))]


def test_w11_a_deposit_does_not_hide_a_drawdown() -> None:
    # 96 900 less the deposit of 5 000 is 91 900; 8 100 of 100 000 are 8.1 %.
    points, flows = a_history(96_900)
    assert compute_drawdown_frac(points, flows, T0_S) == D("0.081")
    (trip,) = judge_drawdown(points, flows, T0_S + 7200, LIMITS, PROTECTIONS)
    assert (trip.effect, trip.code, trip.scope) == (Effect.ENTRIES_OFF, ReasonCode.PROT_DRAWDOWN, EVERYBODY)
    assert trip.until_s == T0_S + 7200 + DAY_S


def test_w11_seven_point_nine_percent_pass() -> None:
    points, flows = a_history(97_100)
    assert compute_drawdown_frac(points, flows, T0_S) == D("0.079")
    assert judge_drawdown(points, flows, T0_S + 7200, LIMITS, PROTECTIONS) == []


def test_exactly_eight_percent_trip() -> None:
    points, flows = a_history(97_000)
    assert len(judge_drawdown(points, flows, T0_S + 7200, LIMITS, PROTECTIONS)) == 1


def test_twelve_percent_of_the_30_day_peak_stop_everything_until_a_person() -> None:
    # The peak is 20 days old: 12 % from it, and none from the 7-day peak.
    points = [EquityPoint(T0_S - 20 * DAY_S, D(100_000)), EquityPoint(T0_S, D(88_000))]
    (trip,) = judge_drawdown(points, [], T0_S, LIMITS, PROTECTIONS)
    assert (trip.effect, trip.until_s) == (Effect.HALT, FOREVER_S)


@pytest.mark.parametrize("points", [[], [EquityPoint(T0_S - 31 * DAY_S, D(1))], [EquityPoint(T0_S, D(0))]])
def test_a_drawdown_without_history_cannot_be_judged(points: list[EquityPoint]) -> None:
    with pytest.raises(ValueError, match="no equity above 0 was known"):
        judge_drawdown(points, [], T0_S, LIMITS, PROTECTIONS)


# W12: the day's loss.


@pytest.mark.parametrize(
    ("equity", "effect", "until_s"),
    [
        (98_001, None, None),
        (98_000, Effect.ENTRIES_OFF, T0_S + DAY_S),  # exactly 2 %
        (97_001, Effect.ENTRIES_OFF, T0_S + DAY_S),
        (97_000, Effect.REDUCE_ONLY, FOREVER_S),  # exactly 3 %
        (150_000, None, None),  # a profit never trips a loss rule
    ],
)
def test_w12_the_daily_loss_has_a_soft_and_a_hard_limit(equity: int, effect: Effect | None, until_s: int | None) -> None:
    trip = judge_daily_loss(D(100_000), D(equity), T0_S + 3600, LIMITS)
    assert (trip and trip.effect, trip and trip.until_s) == (effect, until_s)


def test_six_percent_in_seven_days_leave_only_reducing() -> None:
    assert judge_weekly_loss(D(100_000), D(94_001), T0_S, LIMITS) is None
    trip = judge_weekly_loss(D(100_000), D(94_000), T0_S, LIMITS)
    assert trip is not None
    assert (trip.effect, trip.until_s) == (Effect.REDUCE_ONLY, FOREVER_S)


@pytest.mark.parametrize(("start", "now"), [("0", "1"), ("-1", "1"), ("1", "NaN")])
def test_a_loss_of_unknown_equity_cannot_be_judged(start: str, now: str) -> None:
    with pytest.raises(ValueError, match="reconcile, then mark the positions"):
        judge_daily_loss(D(start), D(now), T0_S, LIMITS)


# W16: the volatility halt.


def test_w16_three_times_the_median_halts_for_a_bar() -> None:
    # 0.0125 / 0.0040 is 3.125.
    trip = judge_volatility(0.0125, 0.0040, 3600, T0_S, PROTECTIONS)
    assert trip is not None
    assert (trip.effect, trip.code, trip.until_s) == (Effect.ENTRIES_OFF, ReasonCode.PROT_VOLATILITY, T0_S + 3600)
    assert judge_volatility(0.0119, 0.0040, 3600, T0_S, PROTECTIONS) is None
    assert judge_volatility(0.75, 0.25, 3600, T0_S, PROTECTIONS) is not None  # exactly 3


@pytest.mark.parametrize(("volatility", "median"), [(float("nan"), 0.004), (0.004, float("nan")), (0.004, 0.0), (0.0, 0.0)])
def test_an_unknown_volatility_halts_too(volatility: float, median: float) -> None:
    trip = judge_volatility(volatility, median, 60, T0_S, PROTECTIONS)
    assert trip is not None
    assert trip.until_s == T0_S + 1800  # one bar, and half an hour at least


def test_volatility_is_of_the_newest_twenty_returns_and_unknown_below_fifteen() -> None:
    assert compute_volatility([9.0] * 5 + [0.01, -0.01] * 10, PROTECTIONS) == pytest.approx(0.01 * (20 / 19) ** 0.5)
    assert compute_volatility([0.01] * 15, PROTECTIONS) == 0
    halted = judge_volatility(compute_volatility([0.01] * 14, PROTECTIONS), 0.01, 3600, T0_S, PROTECTIONS)
    assert halted is not None


# Cooldown, windows, counts, age


def test_one_large_loss_stops_entries_for_half_an_hour() -> None:
    loss = Close(T0_S, D(-1000))  # exactly 1 % of 100 000
    trip = judge_closing_loss(loss, D(100_000), T0_S + 1799, PROTECTIONS)
    assert trip is not None
    assert (trip.code, trip.until_s) == (ReasonCode.PROT_COOLDOWN, T0_S + 1800)
    assert judge_closing_loss(loss, D(100_000), T0_S + 1800, PROTECTIONS) is None
    assert judge_closing_loss(Close(T0_S, D(-999)), D(100_000), T0_S, PROTECTIONS) is None
    assert judge_closing_loss(Close(T0_S, D(5000)), D(100_000), T0_S, PROTECTIONS) is None
    with pytest.raises(ValueError, match="equity was 0"):
        judge_closing_loss(loss, D(0), T0_S, PROTECTIONS)


def test_after_an_entry_its_side_pauses_for_thirty_seconds() -> None:
    trip = judge_recent_entry("a", "core-1h", "BTC/USDT", Side.BUY, T0_S, T0_S + 29, PROTECTIONS)
    assert trip is not None
    assert trip.covers("a", "core-1h", "BTC/USDT", Side.BUY)
    assert not trip.covers("a", "core-1h", "BTC/USDT", Side.SELL)
    assert not trip.covers("a", "core-15m", "BTC/USDT", Side.BUY)
    assert judge_recent_entry("a", "core-1h", "BTC/USDT", Side.BUY, T0_S, T0_S + 30, PROTECTIONS) is None


def test_funding_keeps_entries_away_for_two_minutes_on_either_side() -> None:
    windows = plan_funding_windows("BTC/USDT:USDT", [T0_S], PROTECTIONS)
    assert [bool(judge_windows(windows, T0_S + shift)) for shift in (-121, -120, 0, 119, 120)] == [False, True, True, True, False]
    (trip,) = judge_windows(windows, T0_S)
    assert (trip.code, trip.scope, trip.until_s) == (ReasonCode.PROT_WINDOW, Scope(symbol="BTC/USDT:USDT"), T0_S + 120)


def test_a_daily_window_reaches_over_midnight() -> None:
    # 23:00 for two hours: open at 23:30 and at 00:30, closed at 01:00.
    open_at = {
        clock: bool(judge_windows(plan_daily_window("night", 23 * 3600, 7200, at(clock)), at(clock)))
        for clock in ("22:59", "23:30", "00:30", "01:00")
    }
    assert open_at == {"22:59": False, "23:30": True, "00:30": True, "01:00": False}


def test_entries_are_counted_per_strategy_and_per_symbol() -> None:
    def scopes(counts: dict[str, int]) -> list[Scope]:
        return [trip.scope for trip in judge_trade_count("a", "s", counts, T0_S, LIMITS, PROTECTIONS)]

    assert scopes({"X": 2, "Y": 2}) == []
    assert scopes({"X": 3, "Y": 2}) == [Scope("a", "s", "X")]
    assert scopes(dict.fromkeys("ABCDE", 2)) == [Scope("a", "s")]
    (trip,) = judge_trade_count("a", "s", {"X": 3}, T0_S + 5, LIMITS, PROTECTIONS)
    assert (trip.code, trip.until_s) == (ReasonCode.PROT_TRADE_COUNT, T0_S + DAY_S)


@pytest.mark.parametrize(("bar_s", "age_s"), [(60, 180), (900, 1860), (3600, 4020), (86_400, 95_100)])
def test_a_series_may_be_two_bars_old_and_slow_ones_a_tenth(bar_s: int, age_s: int) -> None:
    # 2 x 60 + 60; 2 x 900 + 60; 1.1 x 3600 + 60; 1.1 x 86 400 + 60.
    assert compute_max_age_s(bar_s, PROTECTIONS) == age_s


# Failing closed, and trips as rows


def test_a_protection_that_raises_stops_entries_and_no_other_protection() -> None:
    def broken() -> Trip:
        raise ZeroDivisionError("no peak")

    lists = judge_trade_count("a", "s", {"X": 3}, T0_S, LIMITS, PROTECTIONS)
    trips = run_protections({"drawdown": broken, "none": lambda: None, "count": lambda: lists, "one": lambda: lists[0]}, T0_S)
    assert [trip.code for trip in trips] == [ReasonCode.PROT_ERROR, ReasonCode.PROT_TRADE_COUNT, ReasonCode.PROT_TRADE_COUNT]
    assert trips[0].evidence == "ZeroDivisionError('no peak')"
    assert worst_effect(trips, T0_S) is Effect.ENTRIES_OFF


A_TRIP = Trip("daily_loss", Effect.ENTRIES_OFF, EVERYBODY, ReasonCode.PROT_DAILY_LOSS, T0_S + 100, "d1")


def test_the_worst_active_verdict_wins_and_all_are_kept() -> None:
    hard = replace(A_TRIP, effect=Effect.REDUCE_ONLY, trigger_id="d2", until_s=FOREVER_S)
    assert active_trips([A_TRIP, hard], T0_S) == [hard, A_TRIP]
    assert worst_effect([A_TRIP, hard], T0_S) is Effect.REDUCE_ONLY
    assert worst_effect([A_TRIP], T0_S + 100) is Effect.ALLOW
    assert worst_effect([], T0_S) is Effect.ALLOW


def test_the_same_trigger_counts_once_and_keeps_its_first_time() -> None:
    again = replace(A_TRIP, until_s=T0_S + 5, evidence="evaluated again")
    assert merge_trips([A_TRIP], [again, again]) == [A_TRIP]


def test_a_person_ends_a_trip_and_the_same_trigger_does_not_bring_it_back() -> None:
    released = release_trip(A_TRIP, "ann", "checked", T0_S + 10)
    assert (released.until_s, released.released_by) == (T0_S + 10, "ann")
    assert worst_effect(merge_trips([released], [A_TRIP]), T0_S + 10) is Effect.ALLOW
    assert release_trip(A_TRIP, "ann", "late", T0_S + 500).until_s == A_TRIP.until_s  # never longer


@pytest.mark.parametrize(("actor", "reason"), [("", "checked"), ("ann", " ")])
def test_a_release_without_name_or_reason_is_refused(actor: str, reason: str) -> None:
    with pytest.raises(KillSwitchActiveError, match="name a person and a reason"):
        release_trip(A_TRIP, actor, reason, T0_S)


@pytest.mark.parametrize(
    ("was_clean", "cleared"), [([], False), ([True], False), ([True, False], False), ([False, True], False), ([False, True, True], True)]
)
def test_a_source_lifts_its_stop_after_two_clean_evaluations(was_clean: list[bool], cleared: bool) -> None:
    assert has_cleared(was_clean) is cleared


TRIPS = st.lists(
    st.builds(lambda trigger, until: replace(A_TRIP, trigger_id=trigger, until_s=until), st.sampled_from("abc"), st.integers(0, 9))
)


@settings(max_examples=50)
@given(TRIPS, TRIPS)
def test_evaluating_again_changes_nothing(stored: list[Trip], found: list[Trip]) -> None:
    once = merge_trips(stored, found)
    assert merge_trips(once, found) == once


@settings(max_examples=100)
@given(st.lists(st.integers(90_000, 101_000), min_size=1, max_size=12), st.integers(1, 3 * 3600))
def test_a_tripped_protection_stays_until_its_time_however_equity_moves(path: list[int], every_s: int) -> None:
    rows: list[Trip] = []
    worst = Effect.ALLOW
    for n, equity in enumerate(path):
        now_s = T0_S + n * every_s
        found = judge_daily_loss(D(100_000), D(equity), now_s, LIMITS)
        before = {row.trigger_id: row for row in rows}
        rows = merge_trips(rows, [found] if found else [])
        assert all(row == before[row.trigger_id] for row in rows if row.trigger_id in before)
        if now_s < T0_S + DAY_S:
            now = worst_effect(rows, now_s)
            assert now >= worst
            worst = now


@settings(max_examples=100)
@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_more_loss_never_allows_more(one: int, other: int) -> None:
    def effect(equity: int) -> Effect:
        trip = judge_daily_loss(D(100_000), D(equity), T0_S, LIMITS)
        return trip.effect if trip else Effect.ALLOW

    assert effect(min(one, other)) >= effect(max(one, other))


def test_a_window_says_whom_it_is_for() -> None:
    (trip,) = judge_windows([Window("maintenance", T0_S, T0_S + 60, Scope("binance-main"))], T0_S)
    assert trip.covers("binance-main", "s", "X", Side.BUY)
    assert not trip.covers("paper-main", "s", "X", Side.BUY)
