"""The tables hold what the specification names, and refuse what it forbids."""

import psycopg
import pytest

from regime_pipeline.adapters.postgres.dictionary import build_dictionary
from regime_pipeline.cli.db import DICTIONARY_PATH
from regime_pipeline.errors import DatabaseError
from regime_pipeline.indicators import record as indicator_record
from regime_pipeline.trend import record as engine_record

BAR = {
    "driver": "'BTC'",
    "timeframe": "'1h'",
    "timestamp": "'2025-01-01Z'",
    "open_usd": "10",
    "high_usd": "12",
    "low_usd": "9",
    "close_usd": "11",
    "volume": "5",
    "bars_used": "60",
    "expected_bars": "60",
    "is_final": "true",
}
TOKEN_BAR = {name: value for name, value in BAR.items() if name != "driver"} | {
    "token_contract": "'SOL'",
    "chain": "'binance'",
    "source": "'binance'",
}


def insert(conn: psycopg.Connection, table: str, row: dict[str, str]) -> None:
    conn.execute(f"insert into {table} ({', '.join(row)}) values ({', '.join(row.values())})".encode())


def test_uptrend_states_has_every_field_of_both_records(conn: psycopg.Connection) -> None:
    query = "select attname from pg_attribute where attrelid = 'uptrend_states'::regclass and attnum > 0"
    found = {name for (name,) in conn.execute(query)}
    assert set(indicator_record.FIELDS) | set(engine_record.FIELDS) <= found
    assert {"series", "timeframe", "ts", "engine_version", "price", "revision", "computed_at"} <= found


@pytest.mark.parametrize(
    ("table", "row"),
    [("regime_price_data_ohlc", BAR), ("majors_price_data_ohlc", TOKEN_BAR), ("lowcap_price_data_ohlc", TOKEN_BAR)],
)
@pytest.mark.parametrize(
    "change",
    [
        {"low_usd": "0"},
        {"low_usd": "-1"},
        {"high_usd": "'nan'"},
        {"open_usd": "'nan'"},
        {"high_usd": "'infinity'"},
        {"high_usd": "10.5"},
        {"low_usd": "10.5"},
        {"volume": "-1"},
        {"volume": "'nan'"},
        {"bars_used": "0"},
        {"bars_used": "61"},
        {"timeframe": "'2h'"},
        {"timestamp": "null"},
    ],
)
def test_an_invalid_bar_never_enters_a_price_table(
    conn: psycopg.Connection, table: str, row: dict[str, str], change: dict[str, str]
) -> None:
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation)), conn.transaction():
        insert(conn, table, row | change)
    insert(conn, table, row)


@pytest.mark.parametrize("driver", ["BTC", "ALT", "nano", "small", "mid", "big", "BTC.d", "USDT.d"])
def test_the_eight_drivers_are_known(conn: psycopg.Connection, driver: str) -> None:
    insert(conn, "regime_price_data_ohlc", BAR | {"driver": f"'{driver}'"})


@pytest.mark.parametrize("change", [{"driver": "'ETH'"}, {"timeframe": "'5m'"}])
def test_a_driver_bar_needs_a_driver_and_a_regime_timeframe(conn: psycopg.Connection, change: dict[str, str]) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        insert(conn, "regime_price_data_ohlc", BAR | change)


def test_the_latest_final_bars_come_from_an_index_in_order(conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into regime_price_data_ohlc (driver, timeframe, timestamp, open_usd, high_usd, low_usd, close_usd, volume, bars_used,"
        " expected_bars, is_final) select 'BTC', '1m', 'epoch'::timestamptz + n * interval '1 minute', 1, 1, 1, 1, 0, 1, 1, true"
        " from generate_series(1, 20000) as n"
    )
    conn.execute("analyze regime_price_data_ohlc")
    query = "select * from regime_price_data_ohlc where driver = 'BTC' and timeframe = '1m' and is_final order by timestamp desc limit 1000"
    plan = "\n".join(line for (line,) in conn.execute(f"explain {query}".encode()))
    assert "Index Scan" in plan
    assert "Sort" not in plan


MEMBER = "insert into token_cap_bucket values ('a', 'solana', {}, {}, 'nano', 5e6, now())"


def test_one_statement_may_close_a_membership_and_open_the_next(conn: psycopg.Connection) -> None:
    conn.execute(MEMBER.format("'2025-01-01Z'", "null").encode())
    conn.commit()
    conn.execute("update token_cap_bucket set valid_to = '2025-02-01Z'")
    conn.execute(MEMBER.format("'2025-02-01Z'", "null").encode())
    conn.commit()
    assert conn.execute("select count(*) from token_cap_bucket").fetchone() == (2,)


@pytest.mark.parametrize(("valid_from", "valid_to"), [("'2025-01-15Z'", "'2025-03-01Z'"), ("'2024-01-01Z'", "'2025-01-02Z'")])
def test_memberships_of_a_token_never_overlap(conn: psycopg.Connection, valid_from: str, valid_to: str) -> None:
    conn.execute(MEMBER.format("'2025-01-01Z'", "'2025-02-01Z'").encode())
    conn.commit()
    conn.execute(MEMBER.format(valid_from, valid_to).encode())
    with pytest.raises(psycopg.errors.ExclusionViolation, match="overlaps"):
        conn.commit()


def test_a_token_has_one_open_membership(conn: psycopg.Connection) -> None:
    conn.execute(MEMBER.format("'2025-01-01Z'", "null").encode())
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute(MEMBER.format("'2025-02-01Z'", "null").encode())


def test_an_empty_level_set_is_one_row_without_a_price(conn: psycopg.Connection) -> None:
    row = "insert into sr_levels values ('regime:BTC', '1h', '2025-01-01Z', {}, {}, 0, 0, '')"
    conn.execute(row.format("'empty'", "null").encode())
    for level_id, price in (("'empty_2'", "null"), ("'empty'", "1")):
        with pytest.raises(psycopg.errors.CheckViolation), conn.transaction():
            conn.execute(row.format(level_id, price).encode())


def test_only_drivers_carry_the_status_regime_driver(conn: psycopg.Connection) -> None:
    columns = "token_contract, token_chain, timeframe, token_ticker, status, book_id"
    row = f"insert into lowcap_positions ({columns}) values ('x', {{}}, '1h', 'X', {{}}, 'b')"
    conn.execute(row.format("'regime'", "'regime_driver'").encode())
    for chain, status in (("'solana'", "'regime_driver'"), ("'regime'", "'active'")):
        with pytest.raises(psycopg.errors.CheckViolation), conn.transaction():
            conn.execute(row.format(chain, status).encode())


def test_the_data_dictionary_in_docs_is_current(conn: psycopg.Connection) -> None:
    assert DICTIONARY_PATH.read_text() == build_dictionary(conn), "run `regime db dictionary` and commit the file"


def test_a_column_without_a_comment_is_refused_by_the_dictionary(conn: psycopg.Connection) -> None:
    conn.execute("alter table regime_deltas add column bare int")
    with pytest.raises(DatabaseError, match=r"no comment on regime_deltas\.bare"):
        build_dictionary(conn)
