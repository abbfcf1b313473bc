"""What counts as wrong: each rule turns measured facts into alerts. Pure; `watch_health` gathers the facts.

Thresholds stand here with their reasons; docs/runbook.md tells people what they mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from regime_pipeline.market.timeframe import Timeframe
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
from regime_pipeline.regime.drivers import get_driver
from regime_pipeline.services.alert_kinds import spell_duration

LATE_AFTER_S: Final = {Timeframe.M1: 240, Timeframe.H1: 900, Timeframe.D1: 3600}
"""Seconds past the end of the next bar: a minute may be skipped when the previous one still runs, an hour and a day start late."""
FIRST_HISTORY_S: Final = 1800
"""A new database gets its first bars within half an hour, however slow the venues."""
STATE_LAG_BARS: Final = 3
"""The engine steps in the run that writes the bar; three bars without a state are no coincidence."""
SPIKE_BARS: Final = 20
SPIKE_FACTOR: Final = 5.0
"""A spike is twenty bars in an hour and five times the usual: one bad candle of 29 tokens is no news, an hour of them is."""
GAP_AGE_S: Final = 3600
"""Repair asks every five minutes, and gives up after three answers: what is still open after an hour is not being repaired."""
GAP_BARS: Final = 10
BUDGET_WARNING_FRAC: Final = 0.8
COLLECTOR_SILENT_S: Final = 180
"""It writes its heartbeat every few seconds, and reconnects after 90 s of silence."""
DAEMON_SILENT_S: Final = 300
"""Dagster's daemons beat every 30 s; a long garbage collection or a busy machine is not a death."""
DAEMON_TRADING_S: Final = 75
"""Where orders are sent nothing is decided without them, so that two beats missed are enough: `regime alerts watch --every-s 15` then
tells within 90 s."""
DISK_WARNING_BYTES: Final = 5 * 1024**3
DISK_CRITICAL_BYTES: Final = 1024**3
"""A day writes about 0.1 GiB; Postgres needs room for its log when a backfill runs."""
DAGSTER_WARNING_BYTES: Final = 5 * 1024**3
"""Two days of minute runs, 60 of the others and their ticks are below 1 GiB."""
FLAG_BARS: Final = 5000
"""Of an hourly series, 7 months (specs 11, item 6)."""
MANY_FAILURES: Final = 3


def judge_freshness(ages: Sequence[DriverAge], born_s: int, now_s: int) -> Iterator[Alert]:
    """Find drivers whose newest bar, or the state of it, is late; one alert per timeframe, critical when a required driver is.

    Parameters
    ----------
    born_s : int
        When the database was made, epoch seconds: a driver without any bar is late from then on.
    """
    for timeframe, allowed_s in LATE_AFTER_S.items():
        late: dict[str, int] = {}
        notes = []
        for age in ages:
            if age.timeframe is not timeframe:
                continue
            if age.bar_s is None:
                if now_s - born_s > max(FIRST_HISTORY_S, timeframe.seconds + allowed_s):
                    late[age.driver] = born_s
                    notes.append(f"{age.driver} has no bar yet")
            elif now_s - (age.bar_s + timeframe.seconds) > timeframe.seconds + allowed_s:
                late[age.driver] = age.bar_s + timeframe.seconds
                notes.append(f"{age.driver} ends {_spell(late[age.driver])}")
            elif age.state_s is not None and age.bar_s - age.state_s > STATE_LAG_BARS * timeframe.seconds:
                late[age.driver] = age.state_s + timeframe.seconds
                notes.append(f"{age.driver} has bars, but states only to {_spell(late[age.driver])}")
        if late:
            is_bad = any(get_driver(name).required for name in late)
            since_s = min(late.values())
            text = f"{len(late)} drivers are late on {timeframe}, the oldest by {spell_duration(now_s - since_s)}: {_some(notes)}"
            yield Alert(AlertKind.FRESHNESS, timeframe.value, _severity(is_bad), text, since_s)


def judge_validity(ages: Sequence[DriverAge], min_validity: float, now_s: int) -> Iterator[Alert]:
    """Find required drivers whose newest bar has too low a score; one alert per driver and timeframe."""
    for age in ages:
        if age.validity is not None and age.bar_s is not None and age.validity < min_validity and get_driver(age.driver).required:
            text = f"{age.driver} {age.timeframe} has a validity of {age.validity:.2f} at {_spell(age.bar_s)}, needed is {min_validity:.2f}"
            since_s = min(now_s, age.bar_s + age.timeframe.seconds)
            yield Alert(AlertKind.VALIDITY, f"{age.driver}:{age.timeframe}", Severity.CRITICAL, text, since_s)


def judge_refusals(refusals: Sequence[Refusals], now_s: int) -> Iterator[Alert]:
    """Find venues of which many more bars than usual are refused; one alert per venue."""
    for each in refusals:
        if each.last_hour >= SPIKE_BARS and each.last_hour > SPIKE_FACTOR * each.usual_per_hour:
            text = (
                f"{each.last_hour} bars of {each.source} were refused within an hour, usual are {each.usual_per_hour:.1f};"
                f" most often: {each.reason}"
            )
            yield Alert(AlertKind.QUARANTINE_SPIKE, each.source, Severity.WARNING, text, now_s - 3600)


def judge_gaps(gaps: Sequence[OpenGaps]) -> Iterator[Alert]:
    """Find timeframes with old holes that nobody fills; `gaps` are those older than `GAP_AGE_S`."""
    for each in gaps:
        if each.n_bars >= GAP_BARS:
            text = (
                f"{each.n_bars} {each.timeframe} bars of {each.n_series} series have been missing for over an hour,"
                f" most of {each.worst_series}; the oldest opens {_spell(each.oldest_s)}"
            )
            yield Alert(AlertKind.GAP_BACKLOG, each.timeframe.value, Severity.WARNING, text, each.oldest_s)


def judge_halts(halts: Mapping[str, Halt]) -> Iterator[Alert]:
    """Tell of every halted venue; critical when only a person can end it."""
    for venue, halt in halts.items():
        until = "until somebody resumes it" if halt.until_s is None else f"until {_spell(halt.until_s)}"
        text = f"{venue} is left alone {until}: {halt.reason}"
        yield Alert(AlertKind.VENUE_HALTED, venue, _severity(halt.until_s is None), text, halt.since_s)


def judge_budgets(budgets: Sequence[CallBudget], monthly_calls: int, now_s: int) -> Iterator[Alert]:
    """Find vendors whose calls of the month are nearly or quite spent."""
    for each in budgets:
        if each.used >= BUDGET_WARNING_FRAC * monthly_calls:
            share = 100 * each.used / monthly_calls
            text = f"{each.used} of {monthly_calls} calls to {each.vendor} are spent this month ({share:.0f} %)"
            yield Alert(AlertKind.BUDGET, each.vendor, _severity(each.used >= monthly_calls), text, now_s)


def judge_collector(heartbeats: Sequence[Heartbeat], now_s: int) -> Iterator[Alert]:
    """Find venues whose stream says nothing, or a collector that is gone; one that never ran here is none."""
    for each in heartbeats:
        if now_s - each.beat_s > COLLECTOR_SILENT_S:
            text = f"the collector has not been heard of {each.venue} since {_spell(each.beat_s)}: it is not running"
            yield Alert(AlertKind.COLLECTOR_SILENT, each.venue, Severity.WARNING, text, each.beat_s)
        elif each.last_message_s is None or now_s - each.last_message_s > COLLECTOR_SILENT_S:
            last = "nothing yet" if each.last_message_s is None else f"nothing since {_spell(each.last_message_s)}"
            text = f"the stream of {each.venue} has said {last}{f' ({each.problem})' if each.problem else ''}"
            yield Alert(AlertKind.COLLECTOR_SILENT, each.venue, Severity.WARNING, text, each.last_message_s or each.beat_s)


def judge_jobs(outcomes: Sequence[JobOutcome]) -> Iterator[Alert]:
    """Tell of every job that fails, or failed a few minutes ago; critical after three failures in a row."""
    for each in outcomes:
        text = f"{each.failures} failed in a row, the last (run {each.run_id[:8]}) at {_spell(each.failed_s)}: {each.error}"
        if each.failures == 0:
            text = f"run {each.run_id[:8]} failed at {_spell(each.failed_s)}, the job has succeeded since: {each.error}"
        yield Alert(AlertKind.RUN_FAILURE, each.job, _severity(each.failures >= MANY_FAILURES), text, each.failed_s)


def judge_checks(checks: Sequence[FailedCheck]) -> Iterator[Alert]:
    """Tell of every check whose newest verdict is bad."""
    for each in checks:
        faults = "faults" if each.n_faults is None else f"{each.n_faults} faults"
        text = f"check {each.check} of {each.table} found {faults} at {_spell(each.failed_s)} (run {each.run_id[:8]})"
        yield Alert(AlertKind.CHECK_FAILURE, f"{each.table}:{each.check}", Severity.CRITICAL, text, each.failed_s)


def judge_daemons(beats: Mapping[str, int], now_s: int, silent_s: int = DAEMON_SILENT_S) -> Iterator[Alert]:
    """Find daemons of Dagster that give no sign: one alert, since they die together; an instance whose daemon never ran has none."""
    silent = {daemon.lower(): beat_s for daemon, beat_s in sorted(beats.items()) if now_s - beat_s > silent_s}
    if silent:
        since_s = min(silent.values())
        who = "all" if len(silent) == len(beats) else ", ".join(silent)
        text = f"Dagster's daemons have given no sign for {spell_duration(now_s - since_s)}: {who}"
        yield Alert(AlertKind.DAEMON_SILENT, "dagster", Severity.CRITICAL, text, since_s)


def judge_flags(flags: Sequence[SilentFlag]) -> Iterator[Alert]:
    """Tell of every production flag that has not fired for `FLAG_BARS` bars of an hourly series; one alert per series."""
    by_series: dict[str, list[SilentFlag]] = {}
    for each in flags:
        by_series.setdefault(each.series, []).append(each)
    for series, silent in by_series.items():
        names = ", ".join(each.flag for each in silent)
        text = f"{series} 1h has had no {names} for its last {silent[0].n_bars} bars, since {_spell(silent[0].since_s)}"
        yield Alert(AlertKind.FLAG_SILENT, series, Severity.WARNING, text, silent[0].since_s)


def judge_disk(free_bytes: int, now_s: int) -> Iterator[Alert]:
    """Tell when the disk of our home fills up."""
    if free_bytes < DISK_WARNING_BYTES:
        text = f"{free_bytes / 1024**3:.1f} GiB are free on the disk of our home"
        yield Alert(AlertKind.DISK_SPACE, "home", _severity(free_bytes < DISK_CRITICAL_BYTES), text, now_s)


def judge_dagster_size(size_bytes: int, now_s: int) -> Iterator[Alert]:
    """Tell when Dagster's own history is not pruned."""
    if size_bytes > DAGSTER_WARNING_BYTES:
        text = f"Dagster's database has {size_bytes / 1024**3:.1f} GiB, expected is less than 1"
        yield Alert(AlertKind.DAGSTER_SIZE, "dagster", Severity.WARNING, text, now_s)


def judge_backlogs(backlogs: Mapping[str, Backlog], channels: Sequence[str]) -> Iterator[Alert]:
    """Tell of channels that do not take messages; one that is configured no more is nobody's worry."""
    for channel, backlog in backlogs.items():
        if channel in channels:
            text = f"{backlog.n_notices} messages wait for {channel} since {_spell(backlog.since_s)}: {backlog.last_error}"
            yield Alert(AlertKind.NOTIFY_FAILED, channel, Severity.WARNING, text, backlog.since_s)


def _severity(is_critical: bool) -> Severity:
    return Severity.CRITICAL if is_critical else Severity.WARNING


def _some(notes: Sequence[str], limit: int = 8) -> str:
    more = f" and {len(notes) - limit} more" if len(notes) > limit else ""
    return "; ".join(notes[:limit]) + more


def _spell(at_s: int) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M} UTC"
