"""Look at everything that can be wrong, record it, send what is to be said, and tell the watchman outside when all is well."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from regime_pipeline.errors import NotifyError, RegimeError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import (
    Alert,
    AlertKind,
    AlertStore,
    DeadMan,
    DriverAge,
    HealthStore,
    Notifier,
    Scheduler,
    Severity,
    TradingHealth,
)
from regime_pipeline.regime.drivers import get_driver
from regime_pipeline.risk.kill_switch import Switch
from regime_pipeline.services import judge_health as judge
from regime_pipeline.services import judge_trading
from regime_pipeline.services.alert_kinds import Mode, is_critical
from regime_pipeline.services.raise_alerts import AlertPlan, AlertRules, raise_alerts
from regime_pipeline.services.send_notices import send_notices

JOB_QUIET_S: Final = 600
"""A job that failed within ten minutes counts as failing even if it has succeeded since: one that fails now and then is seen."""
NOTIFY_PATIENCE_S: Final = 600
SLOW_EVERY_S: Final = 3600
"""Questions that read thousands of rows are asked once an hour."""
SLOW_KINDS: Final = frozenset({AlertKind.FLAG_SILENT, AlertKind.DAGSTER_SIZE, AlertKind.ALL_HOLD})


@dataclass(frozen=True, slots=True)
class WatchRules:
    """What to expect of this instance, from the settings.

    Parameters
    ----------
    is_growing : bool
        Whether the source gives new bars as time goes by; a recording does not, so its drivers cannot be late.
    has_collector : bool
        Whether a collector should be running once it has run.
    account : str
        Account that is traded here.
    is_trading, has_executor : bool
        Whether its orders may be sent, and whether an executor should be running once it has run.
    """

    alerts: AlertRules
    min_validity: float
    monthly_calls: int
    is_growing: bool
    has_collector: bool
    account: str = ""
    is_trading: bool = False
    has_executor: bool = False


@dataclass(frozen=True, slots=True)
class Watched:
    """Who is asked. `scheduler` is None where there is no Dagster; `free_bytes` tells the room on our disk.

    `trading` is None where no orders are looked after; `read_latch` tells the kill levels of the file.
    """

    health: HealthStore
    alerts: AlertStore
    scheduler: Scheduler | None
    free_bytes: Callable[[], int]
    notifiers: Sequence[Notifier]
    dead_man: DeadMan | None
    trading: TradingHealth | None = None
    read_latch: Callable[[], Sequence[Switch]] = tuple


@dataclass(frozen=True, slots=True)
class WatchSummary:
    """What a look found and did: alerts that hold, changes recorded, messages sent or the error per channel, and the ping."""

    found: list[Alert]
    plan: AlertPlan
    sent: Mapping[str, int | NotifyError]
    is_well: bool
    ping_error: str | None = None


Probe = Callable[[], Iterable[Alert]]


@dataclass(slots=True)
class _Look:
    found: list[Alert] = field(default_factory=list)
    judged: set[AlertKind] = field(default_factory=set)


def watch_health(watched: Watched, rules: WatchRules, now_s: int, *, with_slow: bool) -> WatchSummary:
    """Look once. Meant for once a minute; any number of processes may do it.

    Parameters
    ----------
    with_slow : bool
        Whether to ask the slow questions too (see `SLOW_EVERY_S`).

    Raises
    ------
    DatabaseError
        When the alerts themselves cannot be recorded; a single question that fails becomes an alert `watch_failed`.
    """
    look = _Look()
    for kind, probe in _build_probes(watched, rules, now_s).items():
        if rules.alerts.modes[kind] is Mode.OFF:
            look.judged.add(kind)  # what was open when it was switched off ends
        elif with_slow or kind not in SLOW_KINDS:
            _run_probe(look, kind, probe, now_s)
    look.judged.add(AlertKind.WATCH_FAILED)
    plan = raise_alerts(watched.alerts, rules.alerts, look.found, look.judged, now_s)
    is_well = not any(map(is_critical, look.found)) and (not rules.is_growing or _is_minute_fresh(watched.health.load_driver_ages(), now_s))
    ping_error = _ping(watched, rules, now_s) if watched.dead_man is not None and is_well else None
    sent = send_notices(watched.alerts, watched.notifiers, now_s)
    return WatchSummary(look.found, plan, sent, is_well, ping_error)


def _build_probes(watched: Watched, rules: WatchRules, now_s: int) -> dict[AlertKind, Probe]:
    health, scheduler = watched.health, watched.scheduler
    probes: dict[AlertKind, Probe] = {
        AlertKind.VALIDITY: lambda: judge.judge_validity(health.load_driver_ages(), rules.min_validity, now_s),
        AlertKind.QUARANTINE_SPIKE: lambda: judge.judge_refusals(health.load_refusals(now_s), now_s),
        AlertKind.GAP_BACKLOG: lambda: judge.judge_gaps(health.load_open_gaps(now_s - judge.GAP_AGE_S)),
        AlertKind.VENUE_HALTED: lambda: judge.judge_halts(health.load_halts(now_s)),
        AlertKind.BUDGET: lambda: judge.judge_budgets(health.load_budgets(now_s), rules.monthly_calls, now_s),
        AlertKind.FLAG_SILENT: lambda: judge.judge_flags(health.find_silent_flags(Timeframe.H1, judge.FLAG_BARS)),
        AlertKind.DISK_SPACE: lambda: judge.judge_disk(watched.free_bytes(), now_s),
        AlertKind.NOTIFY_FAILED: lambda: judge.judge_backlogs(
            watched.alerts.load_backlogs(now_s - NOTIFY_PATIENCE_S), rules.alerts.channels
        ),
    }
    if rules.is_growing:
        probes[AlertKind.FRESHNESS] = lambda: judge.judge_freshness(health.load_driver_ages(), health.load_birth_s(), now_s)
    if rules.has_collector:
        probes[AlertKind.COLLECTOR_SILENT] = lambda: judge.judge_collector(health.load_heartbeats(rules.alerts.instance), now_s)
    if scheduler is not None:
        probes[AlertKind.RUN_FAILURE] = lambda: judge.judge_jobs(scheduler.load_failing_jobs(now_s - JOB_QUIET_S))
        probes[AlertKind.CHECK_FAILURE] = lambda: judge.judge_checks(scheduler.load_failed_checks())
        silent_s = judge.DAEMON_TRADING_S if rules.is_trading else judge.DAEMON_SILENT_S
        probes[AlertKind.DAEMON_SILENT] = lambda: judge.judge_daemons(scheduler.load_daemon_beats(), now_s, silent_s)
        probes[AlertKind.DAGSTER_SIZE] = lambda: judge.judge_dagster_size(scheduler.load_size_bytes(), now_s)
    if watched.trading is not None:
        probes |= _build_trading_probes(watched, watched.trading, rules, now_s)
    return probes


def _build_trading_probes(watched: Watched, trading: TradingHealth, rules: WatchRules, now_s: int) -> dict[AlertKind, Probe]:
    probes: dict[AlertKind, Probe] = {
        AlertKind.KILL_LEVEL: lambda: judge_trading.judge_kills([*trading.load_kill_levels(), *watched.read_latch()]),
        AlertKind.ORDER_UNKNOWN: lambda: judge_trading.judge_unknown_orders(
            trading.find_unknown_orders(now_s - judge_trading.UNKNOWN_S), now_s
        ),
        AlertKind.RECONCILIATION: lambda: judge_trading.judge_recon(
            trading.load_recon_states(), rules.account, now_s, is_trading=rules.is_trading
        ),
        AlertKind.INCIDENT: lambda: judge_trading.judge_incidents(trading.load_critical_incidents()),
        AlertKind.OUTBOX_STUCK: lambda: judge_trading.judge_notes(
            trading.find_stuck_notes(now_s - judge_trading.KILL_NOTE_S, now_s - judge_trading.NOTE_S), now_s
        ),
    }
    if rules.is_trading:  # switched off, everything is held for that reason
        probes[AlertKind.ALL_HOLD] = lambda: judge_trading.judge_holds(trading.find_agreed_holds(now_s - judge_trading.HOLD_S), now_s)
    if rules.has_executor:
        probes[AlertKind.EXECUTOR_SILENT] = lambda: judge_trading.judge_executors(trading.load_executor_beats(), rules.account, now_s)
    return probes


def _run_probe(look: _Look, kind: AlertKind, probe: Probe, now_s: int) -> None:
    """Ask one question; one that fails hides no other, and its alerts stay as they are."""
    try:
        look.found += probe()
    except RegimeError as error:
        look.found.append(Alert(AlertKind.WATCH_FAILED, kind.value, Severity.CRITICAL, f"{kind} could not be judged: {error}", now_s))
    else:
        look.judged.add(kind)


def _ping(watched: Watched, rules: WatchRules, now_s: int) -> str | None:
    """Ping, after what is wrong could be recorded; a ping that fails is an alert of ours. Returns why it failed."""
    error = None
    if watched.dead_man is not None:
        try:
            watched.dead_man.ping()
        except NotifyError as refusal:
            error = str(refusal)
    found = [] if error is None else [Alert(AlertKind.DEAD_MAN, "ping", Severity.WARNING, f"the dead-man ping failed: {error}", now_s)]
    raise_alerts(watched.alerts, rules.alerts, found, {AlertKind.DEAD_MAN}, now_s)
    return error


def _is_minute_fresh(ages: Sequence[DriverAge], now_s: int) -> bool:
    minutes = {age.driver: age.bar_s for age in ages if age.timeframe is Timeframe.M1 and get_driver(age.driver).required}
    limit_s = 2 * Timeframe.M1.seconds + judge.LATE_AFTER_S[Timeframe.M1]
    return all(bar_s is not None and now_s - bar_s <= limit_s for bar_s in minutes.values())
