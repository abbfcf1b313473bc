"""Pruning on a real Postgres: what is open, young or still needed stays."""

import psycopg
import pytest

from regime_pipeline.adapters.postgres.upkeep import PostgresUpkeep
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Stage
from regime_pipeline.services.advance_trend import advance_trend
from regime_pipeline.services.prune_tables import DAYS, TAPES, prune_tables
from regime_pipeline.trend.engine import EngineCarry
from regime_pipeline.trend.tape import CHUNK_BARS
from tests.markets import backfill, checksums, generated, small_universe

T0 = 1_735_689_600  # 2025-01-01T00:00Z
HOUR, DAY = 3600, 86_400
H1 = Timeframe.H1
UNIVERSE = small_universe()

# Rows by table: what is put in for an age of {days} days, and whether an old one may go.
BAR = "'token:BTC:binance', '1m', '2024-01-01Z'::timestamptz + {days} * interval '1 minute', 'v'"
AGO = "to_timestamp({now}) - {days} * interval '1 day'"
ENDING = {
    "alerts": f"insert into alerts (kind, scope, severity, summary, since_ts, opened_at, last_seen_at, resolved_at)"
    f" values ('freshness', '{{days}}', 'warning', '', '2024-01-01Z', '2024-01-01Z', '2024-01-01Z', {AGO})",
    "backfill_requests": f"insert into backfill_requests (series, timeframe, start_ts, end_ts, ended_at, outcome)"
    f" values ('s', '1m', '2024-01-01Z', '2024-01-02Z', {AGO}, 'data')",
    "bar_gaps": f"insert into bar_gaps (series, timeframe, timestamp, source, reason, resolved_at) values ({BAR}, 'missing', {AGO})",
    "bar_quarantine": f"insert into bar_quarantine (series, timeframe, timestamp, source, reason, resolved_at)"
    f" values ({BAR}, 'outlier', {AGO})",
    "bar_revisions": f"insert into bar_revisions (series, timeframe, timestamp, old_source, new_source, revised_at, old_open, old_high,"
    f" old_low, old_close, old_volume, new_open, new_high, new_low, new_close, new_volume)"
    f" values ({BAR}, 'v', {AGO}, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)",
    "bar_validity": f"insert into bar_validity values ('s', '1m', {AGO}, 0.5, 1, 1, 1, 1, 0.5)",
    "dominance_questions": f"insert into dominance_questions values ('{{days}}', {AGO}, 0, null)",
    "vendor_calls": f"insert into vendor_calls values ('v', date_trunc('month', {AGO})::date, 1, {AGO})",
}
OPEN = (
    "update alerts set resolved_at = null",
    "update bar_gaps set resolved_at = null",
    "update bar_quarantine set resolved_at = null",
    "update backfill_requests set ended_at = null, outcome = null",
)


@pytest.fixture
def upkeep(database: str) -> PostgresUpkeep:
    return PostgresUpkeep(database)


def count(database: str, table: str) -> int:
    with psycopg.connect(database) as conn:
        row = conn.execute(f"select count(*) from {table}").fetchone()
    assert row is not None
    return int(row[0])


def put(database: str, table: str, *days: int) -> None:
    with psycopg.connect(database) as conn:
        for each in days:
            conn.execute(ENDING[table].format(days=each, now=T0))


def test_every_pruned_table_is_tried_here() -> None:
    assert set(ENDING) | {"alert_notices", TAPES} == set(DAYS)


@pytest.mark.parametrize("table", sorted(ENDING))
def test_old_rows_go_and_young_ones_stay(database: str, upkeep: PostgresUpkeep, table: str) -> None:
    days = DAYS[table]
    put(database, table, days - 40 if table == "vendor_calls" else days - 1, days + 32, days + 64)
    summary = prune_tables(upkeep, T0)
    assert summary.deleted == dict.fromkeys(DAYS, 0) | {table: 2}
    assert summary.is_done
    assert count(database, table) == 1


@pytest.mark.parametrize("change", OPEN)
def test_what_is_open_stays_however_old(database: str, upkeep: PostgresUpkeep, change: str) -> None:
    table = change.split()[1]
    put(database, table, 300)
    with psycopg.connect(database) as conn:
        conn.execute(change)
    prune_tables(upkeep, T0)
    assert count(database, table) == 1


def test_sent_messages_go_and_an_alert_stays_while_one_of_its_messages_is_unsent(database: str, upkeep: PostgresUpkeep) -> None:
    put(database, "alerts", 200, 100)
    with psycopg.connect(database) as conn:
        conn.execute(
            "insert into alert_notices (alert_id, channel, event, title, body, posted_at, sent_at) select id, 'file', event, '', '',"
            " '2024-01-01Z', case when event = 'opened' or scope = '200' then '2024-01-01Z'::timestamptz end"
            " from alerts, unnest(array['opened', 'resolved']) as event"
        )
    summary = prune_tables(upkeep, T0)
    assert (summary.deleted["alert_notices"], summary.deleted["alerts"]) == (3, 1)
    with psycopg.connect(database) as conn:
        left = conn.execute("select scope, event from alert_notices join alerts on alerts.id = alert_id").fetchall()
    assert left == [("100", "resolved")]


def test_batches_end_at_the_limit_and_the_rest_waits(database: str, upkeep: PostgresUpkeep) -> None:
    put(database, "bar_gaps", *range(100, 107))
    summary = prune_tables(upkeep, T0, batch=2, limit=4)
    assert (summary.deleted["bar_gaps"], summary.is_done) == (4, False)
    again = prune_tables(upkeep, T0, batch=2, limit=4)
    assert (again.deleted["bar_gaps"], again.is_done) == (3, True)


def spells(database: str) -> dict[tuple[str, float], int]:
    """Stored tapes: chunks by series and start of the uptrend."""
    with psycopg.connect(database) as conn:
        rows = conn.execute("select series, extract(epoch from s3_start_ts)::bigint, count(*) from engine_tape group by 1, 2").fetchall()
    return {(series, start_s): n for series, start_s, n in rows}


def spells_with_a_checkpoint(database: str) -> dict[tuple[str, float], int]:
    """Uptrends that checkpoints stand in, each with the chunks its furthest one needs; read from the carries themselves."""
    needed: dict[tuple[str, float], int] = {}
    with psycopg.connect(database) as conn:
        for series, state in conn.execute("select series, state from engine_checkpoints order by ts").fetchall():
            carry = EngineCarry.from_bytes(state)
            if carry.s3_start_ts_s is not None:
                needed[series, carry.s3_start_ts_s] = carry.bars_since_s3 // CHUNK_BARS + 1
    return needed


@pytest.mark.slow
def test_tapes_go_unless_a_checkpoint_stands_in_their_uptrend_and_replays_find_what_they_need(
    database: str, upkeep: PostgresUpkeep
) -> None:
    now_s = T0 + 120 * DAY + 70
    stores = PostgresStores(database)
    backfill(stores, generated(UNIVERSE), UNIVERSE, T0, now_s, (H1,))
    with psycopg.connect(database) as conn:  # as live bars leave it: most uptrends begin and end between two anchors
        conn.execute("delete from engine_checkpoints where is_anchor and ts between to_timestamp(%s) and '2025-04-20Z'", (T0 + 45 * DAY,))
    stored, needed = spells(database), spells_with_a_checkpoint(database)
    assert len(needed) >= 5
    assert len(set(stored) - set(needed)) >= 3
    waiting = next(series for series, _ in sorted(set(stored) - set(needed)))
    with stores.open() as work:
        work.marks.add(Stage.TREND, H1, {waiting: now_s - HOUR})
    assert prune_tables(upkeep, T0).deleted[TAPES] == 0, "younger than a week"

    summary = prune_tables(upkeep, now_s + 30 * DAY, batch=3)
    left = spells(database)
    assert summary.deleted[TAPES] == len(stored) - len(left) > 0
    assert {key: n for key, n in left.items() if key in needed} == {key: stored[key] for key in needed}
    assert all(left[key] >= n for key, n in needed.items())
    assert {series for series, _ in set(left) - set(needed)} == {waiting}

    with psycopg.connect(database) as conn:
        before = checksums(conn)
        anchors = [
            at_s for (at_s,) in conn.execute("select distinct extract(epoch from ts)::bigint from engine_checkpoints where is_anchor")
        ]
    assert len(anchors) >= 2
    for anchor_s in sorted(anchors, reverse=True):
        with stores.open() as work:
            work.marks.add(Stage.TREND, H1, {series: anchor_s + HOUR for series, _ in stored})
        assert advance_trend(stores, UNIVERSE, H1, now_s).replayed > 0
    with psycopg.connect(database) as conn:
        assert checksums(conn) == before
