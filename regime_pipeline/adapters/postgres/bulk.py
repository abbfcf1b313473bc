"""Columns in, columns out: binary COPY to and from numpy, and an upsert that writes only what changed."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString
from zlib import crc32

import numpy as np
import psycopg
from numpy.typing import ArrayLike, NDArray
from psycopg import sql

from regime_pipeline.errors import BadInputError, DatabaseError

PG_EPOCH_S: Final = 946_684_800  # 2000-01-01, where PostgreSQL's timestamps start
CHUNK_BYTES: Final = 1 << 20  # rows are laid out in the cache, not in memory
CHUNK_ROWS: Final = 4096
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = -1
_FLOAT8_OID: Final = 701
TRUNCATE_ROWS: Final = 10_000
"""From here on throwing a file away is cheaper than deleting rows."""

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class FixedColumn:
    """Values of one width: `values` of shape (n,) in PostgreSQL's big-endian layout, `null` of shape (n,) or None for no NULL."""

    values: NDArray[Any]
    null: BoolArray | None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True, eq=False)
class BytesColumn:
    """Values of any length: row i is `items[codes[i]]`, or NULL where the code is -1."""

    items: tuple[bytes, ...]
    codes: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.codes)


Column = FixedColumn | BytesColumn


@dataclass(frozen=True, slots=True)
class UpsertCount:
    """Rows by what happened to them."""

    inserted: int
    updated: int
    unchanged: int


def float8(values: ArrayLike) -> FixedColumn:
    """Build a `double precision` column; NaN becomes NULL, infinity is refused."""
    array = np.asarray(values, dtype=np.float64)
    if np.isinf(array).any():
        raise BadInputError(f"row {int(np.isinf(array).argmax())} was infinite; only finite numbers are stored. Correct the computation.")
    return _fixed(array, ">f8", np.isnan(array))


def int2(values: ArrayLike, null: ArrayLike | None = None) -> FixedColumn:
    """Build a `smallint` column."""
    return _fixed(_integers(values, np.int16), ">i2", null)


def int4(values: ArrayLike, null: ArrayLike | None = None) -> FixedColumn:
    """Build an `integer` column."""
    return _fixed(_integers(values, np.int32), ">i4", null)


def int8(values: ArrayLike, null: ArrayLike | None = None) -> FixedColumn:
    """Build a `bigint` column."""
    return _fixed(_integers(values, np.int64), ">i8", null)


def boolean(values: ArrayLike, null: ArrayLike | None = None) -> FixedColumn:
    """Build a `boolean` column."""
    return _fixed(np.asarray(values).astype(bool), "u1", null)


def timestamptz(ts_s: ArrayLike, null: ArrayLike | None = None) -> FixedColumn:
    """Build a `timestamptz` column from epoch seconds."""
    array = _integers(ts_s, np.int64)
    return _fixed((array - PG_EPOCH_S) * 1_000_000, ">i8", null)


def text(codes: ArrayLike, categories: Sequence[str]) -> BytesColumn:
    """Build a `text` column of few distinct values: row i is `categories[codes[i]]`, NULL where the code is -1."""
    array = np.asarray(codes, dtype=np.intp)
    if array.size and (array.min() < _NULL or array.max() >= len(categories)):
        raise BadInputError(f"codes ran from {array.min()} to {array.max()}, allowed -1 to {len(categories) - 1}. Extend the categories.")
    return BytesColumn(tuple(_utf8(item) for item in categories), array)


def constant(value: str, n: int) -> BytesColumn:
    """Build a `text` column of `n` equal values."""
    return text(np.zeros(n, dtype=np.intp), [value])


def texts(items: Sequence[str | None]) -> BytesColumn:
    """Build a `text` column from strings; None becomes NULL."""
    return byteas([None if item is None else _utf8(item) for item in items])


def byteas(items: Sequence[bytes | None]) -> BytesColumn:
    """Build a `bytea` column from byte strings; None becomes NULL."""
    codes = np.arange(len(items), dtype=np.intp)
    codes[[item is None for item in items]] = _NULL
    return BytesColumn(tuple(item or b"" for item in items), codes)


def jsonbs(items: Sequence[str | None]) -> BytesColumn:
    """Build a `jsonb` column from JSON texts; None becomes NULL."""
    return byteas([None if item is None else b"\x01" + _utf8(item) for item in items])  # the one version of the wire format


def float8_arrays(values: ArrayLike) -> FixedColumn:
    """Build a `double precision[]` column from rows of one length, an array of shape (n, k); NaN stays NaN."""
    array = np.asarray(values, dtype=np.float64)
    n, k = array.shape
    layout = np.dtype([("head", ">i4", (5,)), ("cells", [("length", ">i4"), ("value", ">f8")], (k,))])
    rows = np.zeros(n, layout)
    rows["head"] = (1, 0, _FLOAT8_OID, k, 1)  # dimensions, has NULL, element type, length, first index
    rows["cells"]["length"] = 8
    rows["cells"]["value"] = array
    return FixedColumn(rows.view(f"V{layout.itemsize}"), None)


def encode_copy(columns: Sequence[Column]) -> Iterator[bytes]:
    """Encode equally long columns as a binary COPY stream, in chunks of about a megabyte.

    Each row is laid out at full width; where a value is NULL or shorter than the widest of its chunk, the bytes behind it are
    dropped in one boolean selection.

    Raises
    ------
    BadInputError
        When the columns differ in length.
    """
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        raise BadInputError(f"columns had lengths {sorted(lengths)}, all must be equal. Pass one value per row in each.")
    n = lengths.pop()
    widest = sum(4 + (c.values.itemsize if isinstance(c, FixedColumn) else max(map(len, c.items), default=0)) for c in columns)
    step = max(1, min(CHUNK_ROWS, CHUNK_BYTES // widest))
    yield _HEADER
    for start in range(0, n, step):
        yield _encode_rows(columns, slice(start, min(start + step, n)))
    yield _TRAILER


def copy_into(conn: psycopg.Connection, table: str, names: Sequence[str], columns: Sequence[Column]) -> int:
    """Append rows to a table by binary COPY, within the caller's transaction; returns their number."""
    statement = sql.SQL("copy {} ({}) from stdin (format binary)").format(sql.Identifier(table), _list(names))
    with conn.cursor() as cursor:
        with cursor.copy(statement) as copy:
            for chunk in encode_copy(columns):
                copy.write(chunk)
        return cursor.rowcount


def upsert(
    conn: psycopg.Connection,
    table: str,
    columns: Mapping[str, Column],
    key: Sequence[str],
    *,
    ignore_in_compare: Sequence[str] = ("created_at", "computed_at", "revision"),
    bump_revision: bool = False,
    extra_where: LiteralString | sql.Composable | None = None,
) -> UpsertCount:
    """Insert rows, or update those whose content differs; equal content writes nothing. Within the caller's transaction.

    Parameters
    ----------
    conn : psycopg.Connection
        Connection of the caller, who commits.
    table : str
        Target table.
    columns : mapping of str to Column
        Column name to values, all of n rows; key columns included.
    key : sequence of str
        Columns of the unique index that decides whether a row is there; one row per key.
    ignore_in_compare : sequence of str
        Columns that alone are no reason to write; they are written when another one differs.
    bump_revision : bool
        Whether an update raises `revision` by one.
    extra_where : str or Composable, optional
        Further SQL condition for an update; the stored row is `t`, the new one `excluded`.

    Raises
    ------
    BadInputError
        When two rows have the same key.
    """
    names = list(columns)
    n = len(next(iter(columns.values())))
    if n == 0:
        return UpsertCount(0, 0, 0)
    with _incoming(conn, table, columns) as incoming:
        written = _write(table, incoming, names, key, ignore_in_compare, bump_revision, extra_where)
        count = sql.SQL("select count(*) filter (where is_new), count(*) filter (where not is_new) from written")
        inserted, updated = _run_upsert(conn, table, key, sql.SQL("{} {}").format(written, count))[0]
    return UpsertCount(inserted, updated, n - inserted - updated)


def upsert_and_locate(
    conn: psycopg.Connection,
    table: str,
    columns: Mapping[str, Column],
    key: Sequence[str],
    *,
    group_by: Sequence[str],
    first: str,
    extra_where: LiteralString | sql.Composable | None = None,
) -> tuple[UpsertCount, dict[tuple[str, ...], datetime]]:
    """Upsert as `upsert` does, and tell where the change begins: per group of key columns the smallest `first` that was written."""
    names = list(columns)
    n = len(next(iter(columns.values())))
    if n == 0:
        return UpsertCount(0, 0, 0), {}
    with _incoming(conn, table, columns) as incoming:
        written = _write(table, incoming, names, key, ("created_at", "computed_at", "revision"), False, extra_where)
        statement = sql.SQL(
            "{written} select count(*) filter (where is_new), count(*) filter (where not is_new), min({first}), {groups}"
            " from written group by {groups}"
        ).format(written=written, first=sql.Identifier(first), groups=_list(group_by))
        rows = _run_upsert(conn, table, key, statement)
    inserted, updated = sum(row[0] for row in rows), sum(row[1] for row in rows)
    return UpsertCount(inserted, updated, n - inserted - updated), {tuple(row[3:]): row[2] for row in rows}


def insert_new(conn: psycopg.Connection, table: str, columns: Mapping[str, Column], key: Sequence[str]) -> int:
    """Insert the rows whose key is not there yet, leave the others as they are; returns how many were inserted."""
    names = list(columns)
    if not len(next(iter(columns.values()))):
        return 0
    with _incoming(conn, table, columns) as incoming:
        statement = sql.SQL("insert into {} ({names}) select {names} from {} order by {key} on conflict ({key}) do nothing").format(
            sql.Identifier(table), sql.Identifier(incoming), names=_list(names), key=_list(key)
        )
        return conn.execute(statement).rowcount


@contextmanager
def _incoming(conn: psycopg.Connection, table: str, columns: Mapping[str, Column]) -> Iterator[str]:
    """Copy rows into a temporary table shaped like the columns of `table`; empty again at the end of the block.

    The table is made once a session. One per call would leave its catalog rows to vacuum and its statistics look-ups in the server
    process for ever: 450 MB after twelve days of minutes.
    """
    names = list(columns)
    name = f"incoming_{crc32(','.join(names).encode()):08x}_{table}"[:63]
    create = sql.SQL("create temp table if not exists {} on commit delete rows as select {} from {} with no data")
    conn.execute(create.format(sql.Identifier(name), _list(names), sql.Identifier(table)))
    n = copy_into(conn, name, names, list(columns.values()))
    yield name
    empty = sql.SQL("truncate {}") if n > TRUNCATE_ROWS else sql.SQL("delete from {}")
    conn.execute(empty.format(sql.Identifier(name)))


def _write(
    table: str,
    incoming: str,
    names: Sequence[str],
    key: Sequence[str],
    ignored: Sequence[str],
    bump_revision: bool,
    extra_where: LiteralString | sql.Composable | None,
) -> sql.Composed:
    """The writing part of an upsert, as a common table expression `written` of the key columns and `is_new`."""
    return sql.SQL(
        "with written as (insert into {table} as t ({names}) select {names} from {incoming} order by {key}"
        " on conflict ({key}) {action} returning {returned}, t.xmax = 0 as is_new)"
    ).format(
        table=sql.Identifier(table),
        names=_list(names),
        incoming=sql.Identifier(incoming),
        key=_list(key),  # ordered by key, so that two writers lock shared rows in one order
        action=_conflict_action(names, key, ignored, bump_revision, extra_where),
        returned=sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(name)) for name in key),
    )


def _run_upsert(conn: psycopg.Connection, table: str, key: Sequence[str], statement: sql.Composed) -> list[tuple[Any, ...]]:
    try:
        return conn.execute(statement).fetchall()
    except psycopg.errors.CardinalityViolation as error:
        raise BadInputError(f"rows for {table} held the same key {tuple(key)} twice, allowed once. Drop the duplicates.") from error


def fetch_columns(
    conn: psycopg.Connection, query: LiteralString | sql.Composable, params: Sequence[Any] = (), *, nullable: Collection[str] = ()
) -> dict[str, NDArray[Any]]:
    """Read a query into one array per column, many times faster than row by row.

    Parameters
    ----------
    conn : psycopg.Connection
        Connection of the caller.
    query : str
        A SELECT with `%s` placeholders.
    params : sequence
        Values of the placeholders.
    nullable : collection of str
        Integer, boolean or time columns that may be NULL: they always arrive as float64 (times as epoch seconds), NaN for NULL.

    Returns
    -------
    dict of str to ndarray of shape (n_rows,)
        float64 for `real` and `double precision` (NULL is NaN), int64 for integers and for times (epoch seconds, rounded down),
        bool for booleans, object arrays of str or bytes for `text` and `bytea` (NULL is None).

    Raises
    ------
    DatabaseError
        When a column has another type, or is NULL where it was not said to be nullable.
    """
    text = query if isinstance(query, str) else query.as_string(conn)
    inner = sql.SQL(query) if isinstance(query, str) else query
    with conn.cursor(binary=True) as cursor:
        kinds = _KNOWN_QUERIES.get(text)
        if kinds is None:
            description = cursor.execute(sql.SQL("select * from ({}) as q limit 0").format(inner), params).description or []
            kinds = {column.name: _kind_of(column.name, column.type_code) for column in description}
            _KNOWN_QUERIES[text] = kinds
        # Each column comes as one value: a message per row would cost more than all the rest.
        wanted = sql.SQL(", ").join(sql.SQL(kind.expression).format(sql.Identifier(name)) for name, kind in kinds.items())
        row = cursor.execute(sql.SQL("select {} from ({}) as q").format(wanted, inner), params).fetchone() or ()
    return {name: _plain(name, value, kind, name in nullable) for (name, kind), value in zip(kinds.items(), row, strict=True)}


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a column travels: the SQL that gathers it, its dtype on the wire (None: a list), and what stands for NULL there."""

    expression: LiteralString
    dtype: str | None
    result: type
    null: int | None = None


_INT64_MIN: Final = -(2**63)
_FLOAT: Final = _Kind("string_agg(float8send(coalesce({}::float8, 'NaN')), '')", ">f8", np.float64)
_INT: Final = _Kind("string_agg(int8send(coalesce({}::int8, -9223372036854775808)), '')", ">i8", np.int64, _INT64_MIN)
_KINDS: Final[dict[str, _Kind]] = {
    "float8": _FLOAT,
    "float4": _FLOAT,
    "int2": _INT,
    "int4": _INT,
    "int8": _INT,
    "bool": _Kind("string_agg(int4send(coalesce({}::int4, -1)), '')", ">i4", np.bool_, -1),
    "timestamptz": _Kind("string_agg(timestamptz_send(coalesce({}, '-infinity')), '')", ">i8", np.datetime64, _INT64_MIN),
    "text": _Kind("array_agg({})", None, str),
    "bytea": _Kind("array_agg({})", None, bytes),
}


_KNOWN_QUERIES: Final[dict[str, dict[str, _Kind]]] = {}
"""Columns of the queries asked so far: a live minute asks the same ones again. Their number is that of our query texts."""


def _kind_of(name: str, oid: int) -> _Kind:
    info = psycopg.adapters.types.get(oid)
    type_name = info.name if info else str(oid)
    if type_name not in _KINDS:
        raise DatabaseError(f"column {name} was of type {type_name}, allowed: {', '.join(_KINDS)}. Cast it in the query.")
    return _KINDS[type_name]


def _plain(name: str, value: bytes | list[Any] | None, kind: _Kind, is_nullable: bool) -> NDArray[Any]:
    """Turn a gathered column into an array of native values."""
    if kind.dtype is None:
        cells = np.empty(len(value or ()), dtype=object)
        cells[:] = value or []
        return cells
    wire = np.frombuffer(bytes(value or b""), kind.dtype)
    native = wire.astype(wire.dtype.newbyteorder("="))
    if kind.null is None:
        return native
    missing = native == kind.null
    if kind.result is np.datetime64:
        native = native // 1_000_000 + PG_EPOCH_S
    if is_nullable:
        return np.where(missing, np.nan, native.astype(np.float64))
    if missing.any():
        raise DatabaseError(f"column {name} was NULL in row {int(missing.argmax())}. Name it in `nullable` or leave such rows out.")
    return native.astype(np.bool_) if kind.result is np.bool_ else native


def _encode_rows(columns: Sequence[Column], part: slice) -> bytes:
    """Lay rows out at full width, then drop what NULL and short values do not use."""
    cells = [_cells_of(column, part) for column in columns]
    layout = np.dtype([("n", ">i2"), *(f for i, (v, _) in enumerate(cells) for f in ((f"l{i}", ">i4"), (f"v{i}", v.dtype)))])
    rows = np.empty(len(cells[0][0]), layout)
    rows["n"] = len(columns)
    keep: BoolArray | None = None
    for i, (values, lengths) in enumerate(cells):
        width = values.dtype.itemsize
        rows[f"v{i}"] = values
        rows[f"l{i}"] = width if lengths is None else lengths
        if lengths is None or (lengths == width).all():
            continue
        if keep is None:
            keep = np.ones((len(rows), layout.itemsize), dtype=bool)
        at = layout.fields[f"v{i}"][1] if layout.fields else 0
        keep[:, at : at + width] = np.arange(width) < lengths[:, None]
    if keep is None:
        return rows.tobytes()
    return rows.view(np.uint8).reshape(keep.shape)[keep].tobytes()


def _cells_of(column: Column, part: slice) -> tuple[NDArray[Any], NDArray[np.int32] | None]:
    """Cut a column's values, all at one width, and their lengths (-1 for NULL; None: all at full width)."""
    if isinstance(column, FixedColumn):
        values = column.values[part]
        null = None if column.null is None else column.null[part]
        return values, None if null is None or not null.any() else np.where(null, np.int32(_NULL), np.int32(values.itemsize))
    used, inverse = np.unique(column.codes[part], return_inverse=True)
    items = [b"" if code == _NULL else column.items[code] for code in used]
    lengths = np.array([_NULL if code == _NULL else len(item) for code, item in zip(used, items, strict=True)], dtype=np.int32)
    width = max(1, *map(len, items))
    padded = np.frombuffer(b"".join(item.ljust(width, b"\0") for item in items), dtype=f"V{width}")
    return padded[inverse], lengths[inverse]


def _fixed(values: NDArray[Any], wire: str, null: ArrayLike | None) -> FixedColumn:
    mask = None if null is None else np.asarray(null, dtype=bool)
    if mask is not None and mask.shape != values.shape:
        raise BadInputError(f"null mask had shape {mask.shape}, the values {values.shape}. Pass one flag per value.")
    return FixedColumn(values.astype(wire), mask if mask is not None and mask.any() else None)


def _integers(values: ArrayLike, dtype: type[np.signedinteger[Any]]) -> NDArray[Any]:
    """Refuse what does not fit: a cast would wrap around in silence."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise BadInputError(f"values were of dtype {array.dtype}, an integer column takes integers. Convert them, NaN to a null mask.")
    info = np.iinfo(dtype)
    if array.size and (array.min() < info.min or array.max() > info.max):
        raise BadInputError(f"values ran from {array.min()} to {array.max()}, allowed {info.min} to {info.max}. Use a wider column.")
    return array.astype(dtype)


def _utf8(item: str) -> bytes:
    if "\0" in item:
        raise BadInputError(f"text was {item!r}: PostgreSQL stores no NUL character. Remove it.")
    return item.encode()


def _list(names: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _conflict_action(
    names: Sequence[str],
    key: Sequence[str],
    ignored: Sequence[str],
    bump_revision: bool,
    extra_where: LiteralString | sql.Composable | None,
) -> sql.Composable:
    written = [name for name in names if name not in key and not (bump_revision and name == "revision")]
    compared = [name for name in written if name not in ignored]
    if not compared:
        return sql.SQL("do nothing")
    assignments: list[sql.Composable] = [sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in written]
    if bump_revision:
        assignments.append(sql.SQL("revision = t.revision + 1"))
    differs = sql.SQL("({}) is distinct from ({})").format(
        sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(name)) for name in compared),
        sql.SQL(", ").join(sql.SQL("excluded.{}").format(sql.Identifier(name)) for name in compared),
    )
    extra = sql.SQL(extra_where) if isinstance(extra_where, str) else extra_where
    where = differs if extra is None else sql.SQL("{} and ({})").format(differs, extra)
    return sql.SQL("do update set {} where {}").format(sql.SQL(", ").join(assignments), where)
