"""Every alert of the order path, fired by rows that are really bad, read back from the alert file, and over when they are good."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from regime_pipeline.adapters.latch_file import LATCH_NAME, LatchFile
from regime_pipeline.adapters.notify.file_notifier import FileNotifier
from regime_pipeline.adapters.postgres.alert_store import PostgresAlerts
from regime_pipeline.adapters.postgres.health_store import PostgresHealth
from regime_pipeline.adapters.postgres.trading_health import PostgresTradingHealth
from regime_pipeline.ports import Alert, AlertKind, Severity
from regime_pipeline.risk.kill_switch import Level, Scope, Switch
from regime_pipeline.services.watch_health import Watched, WatchRules, watch_health
from tests.alerts import NOW_S, rules

ACCOUNT = "paper-main"


@dataclass
class World:
    """A database without a fault, a latch file, and what a watch over both tells."""

    conn: psycopg.Connection
    latch: LatchFile
    path: Path
    watched: Watched
    rules: WatchRules

    def look(self, now_s: int = NOW_S) -> list[Alert]:
        return watch_health(self.watched, self.rules, now_s, with_slow=True).found

    def told(self) -> list[tuple[str, str, str]]:
        lines = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
        return [(line["event"], line["kind"], line["scope"]) for line in lines]

    def run(self, query: str, *params: object) -> None:
        self.conn.execute(query, params)  # type: ignore[call-overload]
        self.conn.commit()


@pytest.fixture
def world(database: str, conn: psycopg.Connection, tmp_path: Path) -> World:
    path, latch = tmp_path / "alerts.jsonl", LatchFile(tmp_path / "state" / LATCH_NAME)
    alerts = PostgresAlerts(database, "alpha")
    trading = PostgresTradingHealth(database)
    watched = Watched(
        PostgresHealth(database), alerts, None, lambda: 10**12, [FileNotifier(path)], None, trading=trading, read_latch=latch.read
    )
    told = WatchRules(rules(), 0.5, 10_000, is_growing=False, has_collector=False, account=ACCOUNT, is_trading=True, has_executor=True)
    return World(conn, latch, path, watched, told)


def at(seconds_ago: int) -> datetime:
    return datetime.fromtimestamp(NOW_S - seconds_ago, UTC)


def add_kill(world: World, transition: str, source: str, level: int, old: int, account: str | None = ACCOUNT) -> None:
    world.run(
        "insert into kill_switch (transition_id, account, level, old_level, source, actor, reason, at)"
        " values (%s, %s, %s, %s, %s, 'anna', 'drill', %s)",
        transition,
        account,
        level,
        old,
        source,
        at(60),
    )


def raise_kill(world: World) -> None:
    add_kill(world, "k1", "recon_large", 2, 0)


def silence_executor(world: World) -> None:
    world.run(
        "insert into trading_heartbeats (process, account, at, pid) values ('executor', %s, %s, 1), ('executor', 'paper-other', %s, 2)",
        ACCOUNT,
        at(91),
        at(9_000),
    )


def add_order(world: World, number: int, unknown_ago_s: int) -> None:
    """An order that went INTENT, SUBMITTING, UNKNOWN."""
    name = f"{number:032x}"
    world.run(
        "insert into order_intents (client_order_id, account, strategy, symbol, bar_close, leg, seq, purpose, side, type, qty, limit_price,"
        " reduce_only, tif, mode, origin, payload_hash, decide_by) values (%s, %s, 'b-1h', %s, %s, 'entry', 0, 'entry', 'buy', 'limit', 1,"
        " 1, false, 'GTC', 'paper', 'strategy', 'x', %s)",
        name,
        ACCOUNT,
        f"T{number}/USDT",
        at(3600),
        at(0),
    )
    world.run(
        "insert into orders (client_order_id, venue, account, strategy, symbol, purpose, state) values (%s, 'paper', %s, 'b-1h', %s,"
        " 'entry', 'INTENT')",
        name,
        ACCOUNT,
        f"T{number}/USDT",
    )
    for version, state in ((1, "SUBMITTING"), (2, "UNKNOWN")):
        world.run(
            "update orders set state = %s, version = %s, unknown_at = %s where client_order_id = %s",
            state,
            version,
            at(unknown_ago_s),
            name,
        )


def lose_order(world: World) -> None:
    add_order(world, 1, 301)
    add_order(world, 2, 299)


def add_pass(world: World, kind: str, status: str, ago_s: int, tier: str | None = None, detail: str = "{}") -> None:
    world.run(
        "with r as (insert into reconciliation_runs (account, kind, status, began_at, ended_at, detail) values (%s, %s, %s, %s, %s, %s)"
        " returning run_id) insert into reconciliation_findings (run_id, check_name, scope, tier)"
        " select run_id, 'position', 'AAVE/USDT', tier from r, unnest(%s::text[]) as tier",
        ACCOUNT,
        kind,
        status,
        at(ago_s + 1),
        at(ago_s),
        detail,
        [tier] if tier else [],
    )


def find_difference(world: World) -> None:
    add_pass(world, "full", "ok", 300)
    add_pass(world, "full", "findings", 10, "medium")


def open_incident(world: World) -> None:
    world.run(
        "insert into incidents (kind, severity, scope, opened_at) values ('ID_COLLISION', 'critical', 'order:1', %s),"
        " ('LATE_FILL', 'warning', 'order:2', %s)",
        at(60),
        at(60),
    )


def leave_kill(world: World) -> None:
    world.run(
        "insert into outbox (kind, dedupe_key, account, created_at) values ('KILL', 'a', %s, %s), ('SUBMIT', 'b', %s, %s)",
        ACCOUNT,
        at(11),
        ACCOUNT,
        at(59),
    )


def hold_all(world: World, exception_at: int | None = None) -> None:
    """A decision an hour for a day on two positions, all held for one reason; `exception_at` hours ago one is not."""
    world.run(
        "insert into lowcap_positions (token_contract, token_chain, timeframe, token_ticker, status, book_id)"
        " values ('AAVE', 'binance', '1h', 'AAVE', 'watchlist', 'b'), ('UNI', 'binance', '1h', 'UNI', 'watchlist', 'b')"
    )
    for hour in range(24):
        name = f"00000000-0000-0000-0000-{hour:012d}"
        world.run(
            "insert into decisions (decision_id, account, strategy, bar_close, inputs_hash, inputs, levers, plan, plan_hash, config_hash,"
            " code_version, lease_token) values (%s, %s, 'b-1h', %s, 'i', '{}', '{}', '{}', 'p', 'c', 'v', 1)",
            name,
            ACCOUNT,
            at(3600 * hour),
        )
        world.run(
            "insert into decision_lines (decision_id, symbol, position_id, outcome, a_value, e_value, codes, inputs, plan)"
            " select %s, token_contract || '/USDT', id, 'hold', 0.5, 0.5,"
            " case when %s and token_contract = 'UNI' then '{}'::text[] else '{CONDITION_NOT_MET}' end, '{}', '{}' from lowcap_positions",
            name,
            hour == exception_at,
        )


FIRES: dict[AlertKind, tuple[Callable[[World], None], str, Severity]] = {
    AlertKind.KILL_LEVEL: (raise_kill, f"account:{ACCOUNT}", Severity.CRITICAL),
    AlertKind.EXECUTOR_SILENT: (silence_executor, ACCOUNT, Severity.CRITICAL),
    AlertKind.ORDER_UNKNOWN: (lose_order, f"{ACCOUNT}:T1/USDT", Severity.CRITICAL),
    AlertKind.RECONCILIATION: (find_difference, f"{ACCOUNT}:full", Severity.CRITICAL),
    AlertKind.INCIDENT: (open_incident, "ID_COLLISION:order:1", Severity.CRITICAL),
    AlertKind.OUTBOX_STUCK: (leave_kill, f"{ACCOUNT}:KILL", Severity.CRITICAL),
    AlertKind.ALL_HOLD: (hold_all, f"{ACCOUNT}:b-1h:CONDITION_NOT_MET", Severity.WARNING),
}


def test_a_quiet_order_path_says_nothing(world: World) -> None:
    assert world.look() == []


@pytest.mark.parametrize("kind", FIRES)
def test_a_kind_is_fired_by_bad_rows_and_told_once(world: World, kind: AlertKind) -> None:
    fire, scope, severity = FIRES[kind]
    fire(world)
    (alert,) = world.look()
    world.look(NOW_S + 1)
    assert (alert.kind, alert.scope, alert.severity) == (kind, scope, severity)
    assert ("opened", kind.value, scope) in world.told()
    assert f"docs/runbook.md#{kind}" in json.loads(world.path.read_text().splitlines()[0])["body"]


def test_a_level_that_only_the_file_has_is_told_too_and_the_highest_of_a_scope_is(world: World) -> None:
    add_kill(world, "k1", "breaker", 1, 0, account=None)
    world.latch.change(lambda _: [Switch(Scope(), Level.HARD_STOP, "manual", "anna", "the venue lies", NOW_S)])
    (alert,) = world.look()
    assert (alert.scope, alert.severity) == ("global", Severity.CRITICAL)
    assert alert.summary == "global is at L3 HARD_STOP by hand (anna): the venue lies"


def test_a_released_level_is_told_no_more(world: World) -> None:
    raise_kill(world)
    add_kill(world, "k2", "recon_large", 0, 2)
    assert world.look() == []


def test_a_pass_that_could_not_read_is_critical_once_the_last_clean_one_is_old(world: World) -> None:
    detail = '{"unknown": ["balances: no answer within 4 s"]}'
    add_pass(world, "orders", "ok", 600)
    add_pass(world, "orders", "unknown", 1, detail=detail)
    (alert,) = world.look()
    assert (alert.severity, alert.summary) == (Severity.WARNING, "book and venue could not be compared: balances: no answer within 4 s")
    (alert,) = world.look(NOW_S + 1)
    assert alert.severity is Severity.CRITICAL


def test_no_full_pass_for_ten_minutes_is_told_while_orders_may_be_sent(world: World) -> None:
    add_pass(world, "startup", "ok", 600)
    assert world.look() == []
    (alert,) = world.look(NOW_S + 1)
    assert (alert.kind, alert.severity, alert.summary) == (
        AlertKind.RECONCILIATION,
        Severity.CRITICAL,
        "book and venue were compared last 10 min ago",
    )


def test_an_incident_that_a_person_knows_of_is_a_warning(world: World) -> None:
    open_incident(world)
    world.run("update incidents set acked_by = 'anna', acked_at = %s", at(0))
    (alert,) = world.look()
    assert alert.severity is Severity.WARNING


def test_one_line_that_was_not_held_or_a_day_that_is_not_whole_is_no_alert(world: World) -> None:
    hold_all(world, exception_at=3)
    assert world.look() == []
    world.run("delete from alerts")
    # 24 hours later none of these decisions is within a day; 20 hours later the day begins with a hole
    assert world.look(NOW_S + 20 * 3600) == []
