"""Columns to and from the database: exact, atomic, and silent when nothing changed."""

from collections.abc import Sequence

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regime_pipeline.adapters.postgres import bulk
from regime_pipeline.adapters.postgres.bulk import Column, UpsertCount, copy_into, encode_copy, fetch_columns, upsert
from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.errors import BadInputError, DatabaseError

TABLE = "f float8, i2 int2, i4 int4, i8 int8, b bool, ts timestamptz, label text, words text, data bytea"
SECONDS = st.integers(-60_000_000_000, 250_000_000_000)  # years 68 to 9892
CELLS = st.tuples(
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.integers(-(2**15), 2**15 - 1),
    st.none() | st.integers(-(2**31), 2**31 - 1),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.booleans(),
    st.none() | SECONDS,
    st.none() | st.sampled_from(["", "S0", "a much longer label", "Ω"]),
    st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.none() | st.binary(max_size=40),
)
LABELS = ["", "S0", "a much longer label", "Ω"]


def columns_of(rows: Sequence[tuple[object, ...]]) -> list[Column]:
    f, i2, i4, i8, b, ts, label, words, data = ([row[k] for row in rows] for k in range(9))

    def filled(values: list[object]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([0 if v is None else v for v in values], dtype=np.int64), np.array([v is None for v in values], dtype=bool)

    return [
        bulk.float8([np.nan if v is None else v for v in f]),
        bulk.int2(*filled(i2)),
        bulk.int4(*filled(i4)),
        bulk.int8(*filled(i8)),
        bulk.boolean(*filled(b)),
        bulk.timestamptz(*filled(ts)),
        bulk.text([-1 if v is None else LABELS.index(v) for v in label], LABELS),
        bulk.texts(words),
        bulk.byteas(data),
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CELLS, max_size=12))
def test_what_is_copied_in_is_what_the_database_reads(conn: psycopg.Connection, rows: list[tuple[object, ...]]) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute(f"create temp table sample ({TABLE})".encode())
        names = [part.split()[0] for part in TABLE.split(", ")]
        assert copy_into(conn, "sample", names, columns_of(rows)) == len(rows)
        found = conn.execute("select f, i2, i4, i8, b, extract(epoch from ts)::int8, label, words, data from sample").fetchall()
        assert found == rows
        back = fetch_columns(conn, "select f, i4, ts, b, label, words, data from sample", nullable=("i4", "ts", "b"))
        for name, k in (("f", 0), ("i4", 2), ("ts", 5), ("b", 4)):
            np.testing.assert_array_equal(back[name], np.array([np.nan if row[k] is None else row[k] for row in rows], dtype=np.float64))
        for name, k in (("label", 6), ("words", 7), ("data", 8)):
            assert back[name].tolist() == [row[k] for row in rows]


def test_more_rows_than_a_chunk_arrive_in_order(conn: psycopg.Connection) -> None:
    n = 10_000
    values = np.where(np.arange(n) % 3 == 0, np.nan, np.arange(n, dtype=np.float64))
    conn.execute("create temp table sample (k int4, v float8, t text)")
    assert sum(1 for _ in encode_copy([bulk.int4(np.arange(n))])) > 3
    copy_into(conn, "sample", ["k", "v", "t"], [bulk.int4(np.arange(n)), bulk.float8(values), bulk.text(np.arange(n) % 2, ["even", "odd"])])
    back = fetch_columns(conn, "select k, v, t from sample order by k")
    np.testing.assert_array_equal(back["k"], np.arange(n))
    np.testing.assert_array_equal(back["v"], values)
    assert back["t"].tolist() == ["even", "odd"] * (n // 2)
    assert (back["k"].dtype, back["v"].dtype) == (np.dtype("int64"), np.dtype("float64"))


def test_long_bytes_are_sent_in_small_chunks() -> None:
    blobs = [bytes([k]) * 400_000 for k in range(8)]
    chunks = list(encode_copy([bulk.byteas(blobs)]))
    assert max(map(len, chunks)) < 2 * bulk.CHUNK_BYTES
    assert sum(map(len, chunks)) == 19 + 8 * (2 + 4 + 400_000) + 2


def test_a_query_is_bound_and_quoted(conn: psycopg.Connection) -> None:
    back = fetch_columns(conn, "select %s::text as a, %s::int4 as b where true", ["it's {} %", 3])
    assert (back["a"].tolist(), back["b"].tolist()) == (["it's {} %"], [3])


def test_no_rows_give_empty_columns_of_the_right_type(conn: psycopg.Connection) -> None:
    back = fetch_columns(conn, "select timestamp, open_usd, driver, is_final from regime_price_data_ohlc")
    assert [(name, len(a), a.dtype.kind) for name, a in back.items()] == [
        ("timestamp", 0, "i"),
        ("open_usd", 0, "f"),
        ("driver", 0, "O"),
        ("is_final", 0, "b"),
    ]


def test_an_unexpected_null_and_an_unknown_type_are_refused(conn: psycopg.Connection) -> None:
    with pytest.raises(DatabaseError, match="column n was NULL in row 1"):
        fetch_columns(conn, "select * from (values (1), (null)) as v (n)")
    conn.rollback()
    with pytest.raises(DatabaseError, match="column m was of type numeric"):
        fetch_columns(conn, "select 1.5 as m")


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: bulk.float8([1.0, np.inf]), "row 1 was infinite"),
        (lambda: bulk.int2([40_000]), "allowed -32768 to 32767"),
        (lambda: bulk.int4([1.5]), "takes integers"),
        (lambda: bulk.int4([1, 2], [True]), "null mask had shape"),
        (lambda: bulk.text([2], ["a", "b"]), "allowed -1 to 1"),
        (lambda: bulk.texts(["a\0b"]), "NUL"),
        (lambda: list(encode_copy([bulk.int4([1]), bulk.int4([1, 2])])), r"lengths \[1, 2\]"),
    ],
)
def test_what_the_database_would_bend_is_refused(build: object, told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        build()  # type: ignore[operator]


def deltas(values: Sequence[float], first_ts_s: int = 60) -> dict[str, Column]:
    n = len(values)
    no = np.zeros(n, dtype=bool)
    flags = ("buy", "rebuy", "trim", "emergency_exit", "reclaimed_ema333", "exit_position", "immature")
    return {
        "driver": bulk.constant("BTC", n),
        "timeframe": bulk.constant("1m", n),
        "ts": bulk.timestamptz(first_ts_s + 60 * np.arange(n)),
        "state": bulk.constant("S1", n),
        "prev_state": bulk.text(np.full(n, -1), []),
        **{flag: bulk.boolean(no) for flag in flags},
        "delta_a_raw": bulk.float8(values),
        "delta_e_raw": bulk.float8(values),
        "engine_version": bulk.constant("m2-v5", n),
    }


KEY = ("driver", "timeframe", "ts")


def test_upsert_counts_and_equal_content_writes_nothing(conn: psycopg.Connection) -> None:
    assert upsert(conn, "regime_deltas", deltas([0.1, 0.2, 0.3]), KEY, bump_revision=True) == UpsertCount(3, 0, 0)
    conn.commit()
    before = conn.execute("select ctid, xmin, * from regime_deltas order by ts").fetchall()
    assert upsert(conn, "regime_deltas", deltas([0.1, 0.2, 0.3]), KEY, bump_revision=True) == UpsertCount(0, 0, 3)
    assert conn.execute("select ctid, xmin, * from regime_deltas order by ts").fetchall() == before
    # one changed, two equal, one new
    assert upsert(conn, "regime_deltas", deltas([0.1, 0.25, 0.3, 0.4]), KEY, bump_revision=True) == UpsertCount(1, 1, 2)
    found = conn.execute("select delta_a_raw, revision from regime_deltas order by ts").fetchall()
    assert found == [(0.1, 0), (0.25, 1), (0.3, 0), (0.4, 0)]


def test_upsert_of_nothing_and_with_a_condition(conn: psycopg.Connection) -> None:
    assert upsert(conn, "regime_deltas", deltas([]), KEY) == UpsertCount(0, 0, 0)
    upsert(conn, "regime_deltas", deltas([0.1, 0.2]), KEY)
    smaller = upsert(conn, "regime_deltas", deltas([0.0, 0.3]), KEY, extra_where="excluded.delta_a_raw > t.delta_a_raw")
    assert smaller == UpsertCount(0, 1, 1)


def test_ignored_columns_are_no_reason_to_write(conn: psycopg.Connection) -> None:
    first = {**deltas([0.1]), "created_at": bulk.timestamptz([1000])}
    upsert(conn, "regime_deltas", first, KEY)
    assert upsert(conn, "regime_deltas", {**first, "created_at": bulk.timestamptz([2000])}, KEY) == UpsertCount(0, 0, 1)


def test_a_key_given_twice_is_refused(conn: psycopg.Connection) -> None:
    twice = {**deltas([0.1, 0.2]), "ts": bulk.timestamptz([60, 60])}
    with pytest.raises(BadInputError, match="same key"):
        upsert(conn, "regime_deltas", twice, KEY)


def test_upsert_belongs_to_the_callers_transaction(conn: psycopg.Connection, database: str) -> None:
    upsert(conn, "regime_deltas", deltas([0.1]), KEY)
    with open_connection(database) as other:
        assert other.execute("select count(*) from regime_deltas").fetchone() == (0,)
    conn.rollback()
    assert conn.execute("select count(*) from regime_deltas").fetchone() == (0,)
    assert conn.execute("select count(*) from pg_class where relname like 'incoming%%'").fetchone() == (0,)
