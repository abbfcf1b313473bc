"""Each rule at its threshold: one step below nothing, on it an alert."""

from collections.abc import Iterable

import pytest

from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.ports import (
    Alert,
    AlertKind,
    Backlog,
    CallBudget,
    DriverAge,
    FailedCheck,
    Halt,
    Heartbeat,
    JobOutcome,
    OpenGaps,
    Refusals,
    Severity,
    SilentFlag,
)
from regime_pipeline.services import judge_health as judge
from tests.alerts import NOW_S

GIB = 1024**3


def only(alerts: Iterable[Alert]) -> Alert:
    (alert,) = alerts
    return alert


def age(driver: str, timeframe: Timeframe, late_s: int, *, state_lag_bars: int = 0, validity: float = 1.0) -> DriverAge:
    """A driver whose next bar should have been there `late_s` ago."""
    bar_s = NOW_S - 2 * timeframe.seconds - late_s
    return DriverAge(driver, timeframe, bar_s, bar_s - state_lag_bars * timeframe.seconds, validity)


@pytest.mark.parametrize("timeframe", REGIME_TIMEFRAMES)
def test_a_driver_is_late_beyond_the_slack_of_its_timeframe(timeframe: Timeframe) -> None:
    slack_s = judge.LATE_AFTER_S[timeframe]
    assert list(judge.judge_freshness([age("BTC", timeframe, slack_s)], 0, NOW_S)) == []
    alert = only(judge.judge_freshness([age("BTC", timeframe, slack_s + 1)], 0, NOW_S))
    assert (alert.kind, alert.scope, alert.severity) == (AlertKind.FRESHNESS, timeframe.value, Severity.CRITICAL)
    # wrong since its last bar ended
    assert alert.since_s == NOW_S - timeframe.seconds - slack_s - 1


def test_late_drivers_of_a_timeframe_are_one_alert_and_optional_ones_a_warning() -> None:
    late = [age(name, Timeframe.M1, 900) for name in ("nano", "small")]
    alert = only(judge.judge_freshness([*late, age("BTC", Timeframe.M1, 0)], 0, NOW_S))
    assert alert.severity is Severity.WARNING
    assert alert.summary.startswith("2 drivers are late on 1m, the oldest by 16 min: nano ends 2025-12-31 23:44 UTC; small")


def test_a_stuck_engine_is_late_although_its_bars_are_fresh() -> None:
    assert list(judge.judge_freshness([age("ALT", Timeframe.M1, 0, state_lag_bars=judge.STATE_LAG_BARS)], 0, NOW_S)) == []
    alert = only(judge.judge_freshness([age("ALT", Timeframe.M1, 0, state_lag_bars=judge.STATE_LAG_BARS + 1)], 0, NOW_S))
    assert "ALT has bars, but states only to" in alert.summary
    young = DriverAge("ALT", Timeframe.M1, NOW_S - 120, None, 1.0)  # fewer than 333 bars: no state is due
    assert list(judge.judge_freshness([young], 0, NOW_S)) == []


def test_a_driver_without_any_bar_is_late_half_an_hour_after_the_database_was_made() -> None:
    bare = DriverAge("BTC", Timeframe.M1, None, None, None)
    assert list(judge.judge_freshness([bare], NOW_S - 1800, NOW_S)) == []
    alert = only(judge.judge_freshness([bare], NOW_S - 1801, NOW_S))
    assert alert.since_s == NOW_S - 1801
    assert "BTC has no bar yet" in alert.summary


def test_validity_alerts_for_required_drivers_below_the_minimum_only() -> None:
    ages = [age("BTC", Timeframe.H1, 0, validity=0.5), age("nano", Timeframe.H1, 0, validity=0.1)]
    assert list(judge.judge_validity(ages, 0.5, NOW_S)) == []
    alert = only(judge.judge_validity([age("ALT", Timeframe.H1, 0, validity=0.49)], 0.5, NOW_S))
    assert (alert.scope, alert.severity) == ("ALT:1h", Severity.CRITICAL)
    assert "0.49" in alert.summary
    assert list(judge.judge_validity([DriverAge("BTC", Timeframe.H1, None, None, None)], 0.5, NOW_S)) == []


@pytest.mark.parametrize(("last_hour", "usual", "is_spike"), [(19, 0, False), (20, 0, True), (50, 10, False), (51, 10, True)])
def test_a_spike_is_many_and_many_more_than_usual(last_hour: int, usual: float, is_spike: bool) -> None:
    assert bool(list(judge.judge_refusals([Refusals("hyperliquid", last_hour, usual, "outlier")], NOW_S))) is is_spike


def test_a_gap_backlog_needs_ten_bars() -> None:
    def gaps(n_bars: int) -> list[Alert]:
        return list(judge.judge_gaps([OpenGaps(Timeframe.M1, n_bars, 2, "token:BTC:binance", NOW_S - 7200)]))

    assert gaps(judge.GAP_BARS - 1) == []
    assert only(gaps(judge.GAP_BARS)).since_s == NOW_S - 7200


def test_a_halt_is_critical_when_only_a_person_ends_it() -> None:
    halts = {"binance_um": Halt("status 429", NOW_S, NOW_S + 60), "hyperliquid": Halt("status 418", NOW_S, None)}
    assert {alert.scope: alert.severity for alert in judge.judge_halts(halts)} == {
        "binance_um": Severity.WARNING,
        "hyperliquid": Severity.CRITICAL,
    }


@pytest.mark.parametrize(
    ("used", "severity"), [(7999, None), (8000, Severity.WARNING), (9999, Severity.WARNING), (10_000, Severity.CRITICAL)]
)
def test_a_budget_warns_at_80_percent_and_alarms_at_100(used: int, severity: Severity | None) -> None:
    alerts = list(judge.judge_budgets([CallBudget("coingecko", used)], 10_000, NOW_S))
    assert [alert.severity for alert in alerts] == ([severity] if severity else [])


def heartbeat(beat_s: int, message_s: int | None) -> Heartbeat:
    return Heartbeat("hyperliquid", beat_s, 0, None, message_s, None, None, 1, 0, "connection reset")


def test_a_collector_is_silent_when_it_or_its_venue_says_nothing() -> None:
    limit_s = judge.COLLECTOR_SILENT_S
    assert list(judge.judge_collector([heartbeat(NOW_S - limit_s, NOW_S - limit_s)], NOW_S)) == []
    assert "not running" in only(judge.judge_collector([heartbeat(NOW_S - limit_s - 1, NOW_S)], NOW_S)).summary
    assert "connection reset" in only(judge.judge_collector([heartbeat(NOW_S, NOW_S - limit_s - 1)], NOW_S)).summary
    assert "nothing yet" in only(judge.judge_collector([heartbeat(NOW_S, None)], NOW_S)).summary


def test_a_failing_job_is_critical_after_three_failures_in_a_row() -> None:
    def outcome(failures: int) -> Alert:
        return only(judge.judge_jobs([JobOutcome("regime_micro", NOW_S, "0123456789", "boom", failures, None)]))

    assert outcome(2).severity is Severity.WARNING
    assert outcome(3).severity is Severity.CRITICAL
    assert outcome(0).summary.endswith("the job has succeeded since: boom")


def test_a_failed_check_is_critical_and_names_table_check_and_faults() -> None:
    alert = only(judge.judge_checks([FailedCheck("uptrend_states_1m", "states", "0123456789", NOW_S, 3)]))
    assert (alert.scope, alert.severity) == ("uptrend_states_1m:states", Severity.CRITICAL)
    assert "found 3 faults" in alert.summary


def test_a_daemon_is_dead_after_five_minutes_and_those_that_die_together_are_one_alert() -> None:
    beats = {"SENSOR": NOW_S - 300, "SCHEDULER": NOW_S - 300}
    assert list(judge.judge_daemons(beats, NOW_S)) == []
    beats["SENSOR"] -= 1
    alert = only(judge.judge_daemons(beats, NOW_S))
    assert (alert.summary, alert.since_s) == ("Dagster's daemons have given no sign for 5 min: sensor", NOW_S - 301)
    beats["SCHEDULER"] -= 60
    alert = only(judge.judge_daemons(beats, NOW_S))
    assert (alert.summary, alert.since_s) == ("Dagster's daemons have given no sign for 6 min: all", NOW_S - 360)


def test_silent_flags_of_a_series_are_one_alert() -> None:
    alert = only(judge.judge_flags([SilentFlag("regime:BTC", flag, 5000, NOW_S) for flag in ("buy", "trim")]))
    assert "has had no buy, trim for its last 5000 bars" in alert.summary


@pytest.mark.parametrize(("free", "severity"), [(5 * GIB, None), (5 * GIB - 1, Severity.WARNING), (GIB - 1, Severity.CRITICAL)])
def test_a_disk_that_fills_up_warns_then_alarms(free: int, severity: Severity | None) -> None:
    assert [alert.severity for alert in judge.judge_disk(free, NOW_S)] == ([severity] if severity else [])


def test_dagster_may_have_five_gibibytes() -> None:
    assert list(judge.judge_dagster_size(5 * GIB, NOW_S)) == []
    assert only(judge.judge_dagster_size(5 * GIB + 1, NOW_S)).kind is AlertKind.DAGSTER_SIZE


def test_a_deaf_channel_is_told_unless_it_is_configured_no_more() -> None:
    backlogs = {"tgram-1": Backlog(3, NOW_S - 900, "did not take the message"), "json-9": Backlog(1, 0, "gone")}
    alert = only(judge.judge_backlogs(backlogs, ["file", "tgram-1"]))
    assert (alert.scope, alert.since_s) == ("tgram-1", NOW_S - 900)
