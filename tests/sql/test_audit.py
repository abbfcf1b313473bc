"""Each audit query names what is wrong, and nothing else."""

import psycopg
import pytest

from regime_pipeline.adapters.postgres.audit import PostgresAudit, expected_schema
from regime_pipeline.market.timeframe import Timeframe
from tests.builders import T0

TABLES = (
    "majors_price_data_ohlc",
    "lowcap_price_data_ohlc",
    "regime_price_data_ohlc",
    "token_cap_bucket",
    "uptrend_states",
    "regime_deltas",
)
HOUR = 3600
SPAN = (Timeframe.H1, T0, T0 + 1000 * HOUR)


def add_hours(conn: psycopg.Connection, driver: str, hours: list[float], components: int | None = None) -> None:
    conn.cursor().executemany(
        "insert into regime_price_data_ohlc (driver, timeframe, timestamp, open_usd, high_usd, low_usd, close_usd, volume, component_count,"
        " bars_used, expected_bars, is_final) values (%s, '1h', to_timestamp(%s), 1, 1, 1, 1, 1, %s, 60, 60, true)",
        [(driver, T0 + hour * HOUR, components) for hour in hours],
    )


def add_mark(conn: psycopg.Connection, stage: str) -> None:
    conn.execute("insert into derivation_marks (stage, series, timeframe, from_ts) values (%s, 'regime:BTC', '1h', now())", (stage,))


@pytest.mark.parametrize("table", TABLES)
def test_a_migrated_table_is_what_the_migrations_say(conn: psycopg.Connection, table: str) -> None:
    assert len(expected_schema(table)) > 5
    assert PostgresAudit(conn).find_schema_faults(table) == []


def test_a_changed_lost_or_added_column_and_a_lost_key_are_named(conn: psycopg.Connection) -> None:
    conn.execute("alter table bar_quarantine drop constraint bar_quarantine_pkey, alter column open type real, drop column detected_at")
    conn.execute("alter table bar_quarantine add column mood text")
    assert {fault["part"]: (fault["expected"], fault["found"]) for fault in PostgresAudit(conn).find_schema_faults("bar_quarantine")} == {
        "open": ("double precision", "real"),
        "detected_at": ("timestamp with time zone not null", None),
        "mood": (None, "text"),
        "primary key": ("series, timeframe, timestamp, source, reason", None),
    }


def test_a_bar_off_the_grid_is_found(conn: psycopg.Connection) -> None:
    add_hours(conn, "BTC", [0, 1, 1.5, 2])
    assert [fault["ts"].timestamp() for fault in PostgresAudit(conn).find_off_grid("regime_price_data_ohlc", *SPAN)] == [T0 + 1.5 * HOUR]


def test_a_hundredfold_jump_is_no_price(conn: psycopg.Connection) -> None:
    add_hours(conn, "BTC", [0, 1])
    conn.execute("update regime_price_data_ohlc set open_usd = 101, high_usd = 101 where timestamp = to_timestamp(%s)", (T0 + HOUR,))
    faults = PostgresAudit(conn).find_price_faults("regime_price_data_ohlc", *SPAN)
    assert [(fault["series"], fault["open_usd"]) for fault in faults] == [("regime:BTC", 101)]


def test_only_a_hole_that_nobody_recorded_is_a_fault(conn: psycopg.Connection) -> None:
    audit = PostgresAudit(conn)
    add_hours(conn, "BTC", [0, 1, 4])  # 2 and 3 are missing
    (fault,) = audit.find_unrecorded_gaps("regime_price_data_ohlc", *SPAN)
    assert (fault["missing"], fault["recorded"]) == (2, 0)
    record = "insert into bar_gaps (series, timeframe, timestamp, source, reason) values ('token:BTC:x', '1h', to_timestamp(%s), 's', 'r')"
    conn.cursor().executemany(record, [(T0 + hour * HOUR,) for hour in (2, 3)])
    assert len(audit.find_unrecorded_gaps("regime_price_data_ohlc", *SPAN)) == 1
    assert audit.find_unrecorded_gaps("regime_price_data_ohlc", *SPAN, {"regime:BTC": "token:BTC:x"}) == []
    conn.execute("update bar_gaps set resolved_at = now() where timestamp = to_timestamp(%s)", (T0 + 2 * HOUR,))
    (fault,) = audit.find_unrecorded_gaps("regime_price_data_ohlc", *SPAN, {"regime:BTC": "token:BTC:x"})
    assert fault["recorded"] == 1


def test_a_composite_of_too_few_components_is_found(conn: psycopg.Connection) -> None:
    add_hours(conn, "ALT", [0], components=2)
    add_hours(conn, "ALT", [1], components=3)
    add_hours(conn, "nano", [0], components=1)
    faults = PostgresAudit(conn).find_thin_composites(*SPAN, {"ALT": 3, "nano": 1})
    assert [(fault["series"], fault["component_count"], fault["needed"]) for fault in faults] == [("regime:ALT", 2, 3)]


def test_a_state_is_missing_from_the_333rd_bar_on(conn: psycopg.Connection) -> None:
    audit = PostgresAudit(conn)
    add_hours(conn, "BTC", list(range(332)))
    assert audit.find_missing_states(*SPAN, ["regime:BTC"]) == []
    add_hours(conn, "BTC", [332, 333])
    (fault,) = audit.find_missing_states(*SPAN, ["regime:BTC"])
    assert (fault["series"], fault["missing"], fault["first_ts"].timestamp()) == ("regime:BTC", 2, T0 + 332 * HOUR)
    assert audit.find_missing_states(*SPAN, ["regime:ALT"]) == []  # nobody asked for BTC
    add_mark(conn, "trend")
    assert audit.find_missing_states(*SPAN, ["regime:BTC"]) == []  # about to be stepped


def test_deltas_without_a_state_are_found(conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into regime_deltas (driver, timeframe, ts, state, buy, rebuy, trim, emergency_exit, reclaimed_ema333, exit_position,"
        " delta_a_raw, delta_e_raw, immature, engine_version) values ('BTC', '1h', to_timestamp(%s), 'S1', false, false, false, false,"
        " false, false, 0.25, -0.15, false, 'v5')",
        (T0,),
    )
    (fault,) = PostgresAudit(conn).find_missing_deltas(*SPAN)
    assert (fault["series"], fault["state"], fault["delta_a_raw"]) == ("regime:BTC", None, 0.25)
    add_mark(conn, "delta")
    assert PostgresAudit(conn).find_missing_deltas(*SPAN) == []  # about to be mapped


def test_the_newest_bar_is_told_per_series_that_has_one(conn: psycopg.Connection) -> None:
    add_hours(conn, "BTC", [0, 7])
    newest = PostgresAudit(conn).load_newest("regime_price_data_ohlc", Timeframe.H1, ["regime:BTC", "regime:ALT"])
    assert newest == {"regime:BTC": T0 + 7 * HOUR}
