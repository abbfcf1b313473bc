"""Every kind of alert, fired by rows that are really bad, read back from the alert file."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from dagster._daemon.types import DaemonHeartbeat  # what the daemon itself writes

from regime_pipeline.adapters.notify.file_notifier import FileNotifier
from regime_pipeline.adapters.postgres.alert_store import PostgresAlerts
from regime_pipeline.adapters.postgres.health_store import PostgresHealth
from regime_pipeline.errors import DatabaseError, NotifyError
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.orchestration.health import DagsterScheduler
from regime_pipeline.orchestration.instance import open_instance
from regime_pipeline.ports import AlertKind
from regime_pipeline.regime.drivers import DRIVER_NAMES
from regime_pipeline.services import judge_health
from regime_pipeline.services.raise_alerts import CLEAR_S
from regime_pipeline.services.watch_health import Watched, WatchRules, WatchSummary, watch_health
from regime_pipeline.settings import Settings
from regime_pipeline.trend.record import FLAGS
from tests.alerts import NOW_S, FakeNotifier, rules

GIB = 1024**3


class FakeDeadMan:
    """Counts its pings; away while `is_away` is set."""

    def __init__(self) -> None:
        self.pings, self.is_away = 0, False

    def ping(self) -> None:
        if self.is_away:
            raise NotifyError("the dead-man address did not answer")
        self.pings += 1


@dataclass
class World:
    """A healthy database, and what a watch over it reads and writes."""

    url: str
    conn: psycopg.Connection
    path: Path
    watched: Watched
    rules: WatchRules
    dead_man: FakeDeadMan

    def look(self, now_s: int = NOW_S, *, with_slow: bool = False) -> WatchSummary:
        return watch_health(self.watched, self.rules, now_s, with_slow=with_slow)

    def told(self) -> list[tuple[str, str, str]]:
        """Event, kind and scope of each line in the alert file."""
        lines = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
        return [(line["event"], line["kind"], line["scope"]) for line in lines]

    def run(self, query: str, *params: object) -> None:
        self.conn.execute(query, params)  # type: ignore[call-overload]
        self.conn.commit()


def spell(at_s: int) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)


def add_bar(world: World, driver: str, timeframe: Timeframe, ts_s: int) -> None:
    world.run(
        "insert into regime_price_data_ohlc (driver, timeframe, timestamp, open_usd, high_usd, low_usd, close_usd, volume,"
        " bars_used, expected_bars, is_final) values (%s, %s, %s, 1, 1, 1, 1, 1, 1, 1, true)",
        driver,
        timeframe.value,
        spell(ts_s),
    )


def add_states(world: World, series: str, n_bars: int, firing: str | None = None) -> None:
    """Hourly states; `firing` is true on the oldest of them."""
    columns = world.conn.execute(
        "select column_name, data_type from information_schema.columns where table_name = 'uptrend_states'"
        " and is_nullable = 'NO' and column_default is null"
    ).fetchall()
    values = {"boolean": "false", "integer": "1", "double precision": "1", "timestamp with time zone": "ts", "text": "'S0'"}
    row = {name: values[kind] for name, kind in columns} | {"series": f"'{series}'", "timeframe": "'1h'"}
    if firing is not None:
        row[firing] = f"ts = to_timestamp({NOW_S - n_bars * 3600})"
    world.run(
        f"insert into uptrend_states ({', '.join(row)}) select {', '.join(row.values())} from generate_series("
        f"to_timestamp({NOW_S - n_bars * 3600}), to_timestamp({NOW_S - 3600}), '1 hour') as ts"
    )


@pytest.fixture
def world(database: str, conn: psycopg.Connection, tmp_path: Path) -> World:
    path, dead_man = tmp_path / "alerts.jsonl", FakeDeadMan()
    watched = Watched(PostgresHealth(database), PostgresAlerts(database, "alpha"), None, lambda: 100 * GIB, [FileNotifier(path)], dead_man)
    made = World(database, conn, path, watched, WatchRules(rules(), 0.5, 10_000, is_growing=True, has_collector=True), dead_man)
    for driver in DRIVER_NAMES:
        for timeframe in REGIME_TIMEFRAMES:
            add_bar(made, driver, timeframe, NOW_S - timeframe.seconds)
    return made


def test_all_is_well_says_nothing_and_pings(world: World) -> None:
    summary = world.look(with_slow=True)
    assert (summary.found, summary.is_well, world.told(), world.dead_man.pings) == ([], True, [], 1)


def make_late(world: World) -> None:
    world.run("delete from regime_price_data_ohlc where driver = 'BTC' and timeframe = '1m'")
    add_bar(world, "BTC", Timeframe.M1, NOW_S - 3600)


def make_invalid(world: World) -> None:
    world.run("insert into bar_validity values ('regime:ALT', '1h', %s, 0.4, 0.4, 1, 1, 1, 1)", spell(NOW_S - 3600))


def refuse_bars(world: World) -> None:
    world.run(
        "insert into bar_quarantine (series, timeframe, timestamp, source, reason, detected_at)"
        " select 'token:BTC:binance', '1m', ts, 'hyperliquid', 'outlier', %s from generate_series(%s, %s, '1 minute') as ts",
        spell(NOW_S - 60),
        spell(NOW_S - 20 * 60),
        spell(NOW_S - 60),
    )


def leave_gaps(world: World) -> None:
    for reason, n_bars in (("missing", 12), ("vendor_none", 500)):
        world.run(
            "insert into bar_gaps (series, timeframe, timestamp, source, reason, detected_at)"
            " select 'token:SOL:binance', '1m', to_timestamp(%s) + at * interval '1 minute', %s, %s, %s from generate_series(1, %s) as at",
            NOW_S - 86_400 if reason == "missing" else NOW_S - 2 * 86_400,
            "live",
            reason,
            spell(NOW_S - 7200),
            n_bars,
        )


def halt_venue(world: World) -> None:
    world.run("insert into venue_halts values ('binance_um', 'status 418', %s, null)", spell(NOW_S - 60))


def spend_budget(world: World) -> None:
    world.run("insert into vendor_calls values ('coingecko', '2025-12-01', 10000, now()), ('coingecko', '2026-01-01', 8000, now())")


def silence_collector(world: World) -> None:
    world.run(
        "insert into collector_heartbeats (instance, venue, beat_at, started_at, connects, bars_written)"
        " values ('alpha', 'hyperliquid', %s, %s, 1, 0), ('another', 'binance_um', '2020-01-01', '2020-01-01', 1, 0)",
        spell(NOW_S - 600),
        spell(NOW_S - 6000),
    )


def silence_flag(world: World) -> None:
    add_states(world, "regime:BTC", 5000, firing="buy")  # the oldest of exactly 5,000 bars
    add_states(world, "regime:ALT", 4999)  # too short to be judged
    world.run("update uptrend_states set rebuy = true, trim = true, emergency_exit = true, reclaimed_ema333 = true where ts > %s", spell(0))


def fill_disk(world: World) -> None:
    world.watched = replace(world.watched, free_bytes=lambda: 2 * GIB)


def lose_watchman(world: World) -> None:
    world.dead_man.is_away = True


def break_question(world: World) -> None:
    world.run("alter table bar_gaps rename to bar_gaps_away")


FIRES: dict[AlertKind, tuple[Callable[[World], None], str]] = {
    AlertKind.FRESHNESS: (make_late, "1m"),
    AlertKind.VALIDITY: (make_invalid, "ALT:1h"),
    AlertKind.QUARANTINE_SPIKE: (refuse_bars, "hyperliquid"),
    AlertKind.GAP_BACKLOG: (leave_gaps, "1m"),
    AlertKind.VENUE_HALTED: (halt_venue, "binance_um"),
    AlertKind.BUDGET: (spend_budget, "coingecko"),
    AlertKind.COLLECTOR_SILENT: (silence_collector, "hyperliquid"),
    AlertKind.FLAG_SILENT: (silence_flag, "regime:BTC"),
    AlertKind.DISK_SPACE: (fill_disk, "home"),
    AlertKind.DEAD_MAN: (lose_watchman, "ping"),
    AlertKind.WATCH_FAILED: (break_question, "gap_backlog"),
}


@pytest.mark.parametrize("kind", FIRES)
def test_a_kind_is_fired_by_bad_rows_and_told_once(world: World, kind: AlertKind) -> None:
    fire, scope = FIRES[kind]
    fire(world)
    for at_s in (NOW_S, NOW_S + 1):
        world.look(at_s, with_slow=True)
    assert world.told() == [("opened", kind.value, scope)]
    line = json.loads(world.path.read_text())
    assert f"docs/runbook.md#{kind}" in line["body"]
    assert line["title"].startswith("[alpha] ")


def test_what_was_found_is_told_as_over_five_minutes_after_it_was_seen_last(world: World) -> None:
    halt_venue(world)
    world.look()
    assert world.dead_man.pings == 0  # a venue that only a person can resume is critical
    world.run("delete from venue_halts")
    world.look(NOW_S + CLEAR_S - 1)
    assert [event for event, _, _ in world.told()] == ["opened"]
    world.look(NOW_S + CLEAR_S)
    assert world.told()[1:] == [("resolved", "venue_halted", "binance_um")]


def test_a_question_that_fails_hides_no_other_and_ends_no_alert(world: World) -> None:
    leave_gaps(world)
    world.look()
    break_question(world)
    halt_venue(world)
    summary = world.look(NOW_S + 2 * CLEAR_S)
    assert {alert.kind for alert in summary.found} >= {AlertKind.WATCH_FAILED, AlertKind.VENUE_HALTED}
    assert summary.plan.resolved == []


def test_no_ping_without_fresh_minutes_even_while_nothing_is_alerted_yet(world: World) -> None:
    world.run("delete from regime_price_data_ohlc where driver = 'ALT' and timeframe = '1m'")
    world.rules = replace(world.rules, alerts=rules("freshness=off"))
    assert world.look().is_well is False
    assert world.dead_man.pings == 0


def test_a_recording_is_never_late(world: World) -> None:
    world.rules = replace(world.rules, is_growing=False, has_collector=False)
    silence_collector(world)
    assert world.look(NOW_S + 400 * 86_400).found == []


def test_a_kind_switched_off_ends_what_was_open(world: World) -> None:
    halt_venue(world)
    world.look()
    world.rules = replace(world.rules, alerts=rules("venue_halted=off"))
    world.look(NOW_S + CLEAR_S)
    assert PostgresAlerts(world.url, "alpha").load_alerts(10, with_resolved=False) == []


def test_a_channel_that_stays_deaf_is_told_to_the_others(world: World) -> None:
    deaf = FakeNotifier("tgram-1", refuses=True)
    world.watched = replace(world.watched, notifiers=[deaf, *world.watched.notifiers])
    world.rules = replace(world.rules, alerts=rules(channels=["tgram-1", "file"]))
    world.rules = replace(world.rules, is_growing=False)
    halt_venue(world)
    world.look()
    world.look(NOW_S + 660)
    assert world.told() == [("opened", "venue_halted", "binance_um"), ("opened", "notify_failed", "tgram-1")]


def test_every_flag_of_the_engine_is_watched_for_silence(world: World) -> None:
    add_states(world, "regime:BTC", 10)
    silent = PostgresHealth(world.url).find_silent_flags(Timeframe.H1, 10)
    assert {(each.series, each.flag, each.n_bars, each.since_s) for each in silent} == {
        ("regime:BTC", flag, 10, NOW_S - 36_000) for flag in FLAGS
    }


def test_a_usual_amount_of_refusals_is_what_the_day_before_had(world: World) -> None:
    world.run(
        "insert into bar_quarantine (series, timeframe, timestamp, source, reason, detected_at) select 's', '1m', ts, 'v', 'high_low', ts"
        " from generate_series(to_timestamp(%s), to_timestamp(%s), '1 minute') as ts",
        NOW_S - 86_400 + 60,
        NOW_S - 60,
    )
    (found,) = PostgresHealth(world.url).load_refusals(NOW_S)
    # one a minute: 59 in the last hour after its first instant, 1,380 in the 23 hours before
    assert (found.last_hour, found.usual_per_hour, found.reason) == (59, pytest.approx(60.0, abs=0.1), "high_low")


@pytest.fixture
def instance(database: str, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    settings = Settings(home=tmp_path, database_url=database, dagster_database_url=database)
    with open_instance(settings) as opened:
        yield opened


def test_failed_runs_failed_checks_silent_daemons_and_a_swollen_history(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"is_broken": True}

    @dg.asset(check_specs=[dg.AssetCheckSpec("grid", asset="bars", blocking=True)])
    def bars() -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        yield dg.MaterializeResult()
        yield dg.AssetCheckResult(passed=not state["is_broken"], check_name="grid", metadata={"faults": 3})

    @dg.op
    def prune() -> None:
        if state["is_broken"]:
            raise ValueError("no\nroom")

    @dg.job
    def prune_history() -> None:
        prune()

    def run() -> int:
        dg.materialize([bars], instance=instance, raise_on_error=False)
        prune_history.execute_in_process(instance=instance, raise_on_error=False)
        return int(instance.get_run_records(limit=1)[0].update_timestamp.timestamp()) + 1

    check = dg.AssetCheckKey(dg.AssetKey("bars"), "grid")
    world.watched = replace(world.watched, scheduler=DagsterScheduler(instance, ["prune_history"], [check]))
    world.rules = replace(world.rules, is_growing=False)
    monkeypatch.setattr(judge_health, "DAGSTER_WARNING_BYTES", 1)
    now_s = run()
    instance.add_daemon_heartbeat(DaemonHeartbeat(now_s - 400.0, "SENSOR", "id", None))
    instance.add_daemon_heartbeat(DaemonHeartbeat(now_s - 10.0, "SCHEDULER", "id", None))
    summary = world.look(now_s, with_slow=True)
    assert sorted(world.told()) == [
        ("opened", "check_failure", "bars:grid"),
        ("opened", "daemon_silent", "dagster"),
        ("opened", "dagster_size", "dagster"),
        ("opened", "run_failure", "prune_history"),
    ]
    told = {alert.kind: alert.summary for alert in summary.found}
    assert "1 failed in a row" in told[AlertKind.RUN_FAILURE]
    assert told[AlertKind.RUN_FAILURE].endswith("no room")
    assert "check grid of bars found 3 faults" in told[AlertKind.CHECK_FAILURE]
    assert not summary.is_well

    state["is_broken"] = False
    now_s = run()
    instance.add_daemon_heartbeat(DaemonHeartbeat(float(now_s), "SENSOR", "id", None))
    found = {alert.kind: alert.summary for alert in world.look(now_s).found}
    assert set(found) == {AlertKind.RUN_FAILURE}  # within ten minutes of its failure it counts, though it has succeeded
    assert "has succeeded since" in found[AlertKind.RUN_FAILURE]
    instance.add_daemon_heartbeat(DaemonHeartbeat(now_s + 700.0, "SENSOR", "id", None))
    instance.add_daemon_heartbeat(DaemonHeartbeat(now_s + 700.0, "SCHEDULER", "id", None))
    assert world.look(now_s + 700).found == []


def test_an_unreadable_dagster_is_an_error_of_ours(database: str, instance: dg.DagsterInstance, conn: psycopg.Connection) -> None:
    scheduler = DagsterScheduler(instance, ["regime_micro"], [])
    assert scheduler.load_failing_jobs(0) == []
    assert scheduler.load_size_bytes() > 0
    conn.execute("alter table runs rename to runs_away")
    conn.commit()
    with pytest.raises(DatabaseError, match="Dagster's database could not be read"):
        scheduler.load_failing_jobs(0)


def test_the_born_time_is_that_of_the_first_migration(world: World) -> None:
    world.run("update schema_migrations set applied_at = %s", spell(NOW_S) - timedelta(days=1))
    assert PostgresHealth(world.url).load_birth_s() == NOW_S - 86_400
