"""Backfill, live minute and board, with the embedded server, against bare COPY-and-upserts of the rows they write."""

import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from benchmarks.market import DAY_S, ShiftedMarket, make_universe
from benchmarks.measure import Measure
from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.embedded import ServerAddress, ensure_server, stop_server
from regime_pipeline.adapters.postgres.migrate import apply_roles, migrate
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.services.run_step import run_timeframe
from regime_pipeline.services.window import Window

M1: Final = Timeframe.M1
TOKENS_OF_A_BACKFILL: Final = 4
LIVE_TOKENS: Final = 1000
LIVE_HISTORY_BARS: Final = 400
PIECE_DAYS: Final = 7
"""As `regime replay` cuts a backfill of minutes."""


@contextmanager
def open_server() -> Iterator[ServerAddress]:
    """Start a server of our own in a temporary home, and leave nothing running."""
    home = Path(tempfile.mkdtemp(prefix="regime-bench-"))
    home.chmod(0o755)
    try:
        yield ensure_server(home)
    finally:
        stop_server(home)
        shutil.rmtree(home)


def make_database(server: ServerAddress, name: str) -> str:
    """Create a migrated database and return its address."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    with open_connection(server.url(name)) as conn:
        migrate(conn)
        apply_roles(conn)
    return server.url(name)


def measure_backfill(server: ServerAddress, market: ShiftedMarket, base: Universe, days: tuple[int, int]) -> list[Measure]:
    """Measure a short and a long backfill of the minutes of all drivers and majors."""
    universe = make_universe(base, TOKENS_OF_A_BACKFILL)
    measures, per_row = [], []
    for n_days in days:
        url = make_database(server, f"backfill_{n_days}")
        stores, end_s = PostgresStores(url), market.start_s + n_days * DAY_S
        began = time.perf_counter()
        for start_s in range(market.start_s, end_s, PIECE_DAYS * DAY_S):
            run_timeframe(stores, market, universe, M1, Window(start_s, min(end_s, start_s + PIECE_DAYS * DAY_S)), end_s + DAY_S)
        ours_s = time.perf_counter() - began
        with open_connection(url) as conn:
            rows = {table: n for table, n in _count_rows(conn).items() if n}
            theirs_s = _bare_upsert(conn, rows)
        total = sum(rows.values())
        per_row.append(1e6 * ours_s / total)
        facts = {"rows written": f"{total:,}", "microseconds a row": f"{per_row[-1]:.1f}"}
        if len(per_row) > 1:
            facts["cost of a row, long over short"] = f"{per_row[-1] / per_row[0]:.2f}"
        measures.append(
            Measure(
                "c", f"backfill of {n_days} days of 1m, bars to deltas", ours_s, "bare COPY-and-upsert of its rows", theirs_s, 3.0, facts
            )
        )
    return measures


def measure_live(server: ServerAddress, market: ShiftedMarket, base: Universe, minutes: int) -> list[Measure]:
    """Measure minutes of the drivers' and 1,000 tokens' series, one new bar each: carries in, a step, states, deltas and carries out."""
    universe = make_universe(base, LIVE_TOKENS)
    url = make_database(server, "live")
    stores, start_s = PostgresStores(url), market.start_s + LIVE_HISTORY_BARS * 60
    run_timeframe(stores, market, universe, M1, Window(market.start_s, start_s), start_s + M1.grace_s)
    engine_s, whole_s, memory_mb = [], [], []
    before: dict[str, int] = {}
    for minute in range(1, minutes + 1):
        now_s = start_s + 60 * minute + M1.grace_s
        marks: dict[str, float] = {}

        def note(step: str, marks: dict[str, float] = marks, is_last: bool = minute == minutes) -> None:
            if is_last and step.startswith("trend"):
                stores.close()  # a session that ends hands its counts over
                before.update(_writes(url))
            marks[step] = time.perf_counter()

        began = time.perf_counter()
        run_timeframe(stores, market, universe, M1, Window(start_s, now_s, live=True), now_s, on_step=note)
        ended = time.perf_counter()
        engine_s.append(ended - marks[f"trend {M1}"])
        whole_s.append(ended - began)
        memory_mb.append(_resident_mb())
    stores.close()
    changed = {table: n - before.get(table, 0) for table, n in _writes(url).items() if n > before.get(table, 0)}
    with open_connection(url) as conn:
        theirs_s = statistics.median(_bare_upsert(conn, changed) for _ in range(5))
    quarter = max(1, minutes // 4)
    facts = {
        "rows": f"{sum(changed.values()):,}",
        "minutes": f"{minutes:,}",
        "with fetch, checks and composites": f"{statistics.median(whole_s[:-1] or whole_s):.2f} s",
        "resident memory": f"{memory_mb[quarter - 1]:,.0f} MB after a quarter, {memory_mb[-1]:,.0f} MB at the end",
    }
    ours = f"live minute of the drivers and {LIVE_TOKENS:,} tokens, engine and mapper"
    return [Measure("d", ours, statistics.median(engine_s), "bare upsert of as many rows", theirs_s, 4.0, facts), _measure_board(url)]


def _measure_board(url: str) -> Measure:
    command = ["env", f"REGIME_DATABASE_URL={url}", str(Path(sys.executable).parent / "regime"), "drivers", "--json"]
    spent = []
    for _ in range(4):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        spent.append(time.perf_counter() - began)
    return Measure("f", "`regime drivers`, process included", statistics.median(spent[1:]), "a second", 1.0, 1.0)


def _count_rows(conn: psycopg.Connection) -> dict[str, int]:
    tables = [row[0] for row in conn.execute("select tablename from pg_tables where schemaname = 'public' order by 1")]
    count = sql.SQL("select count(*) from {}")
    return {table: conn.execute(count.format(sql.Identifier(table))).fetchone()[0] for table in tables}  # type: ignore[index]


def _writes(url: str) -> dict[str, int]:
    """Rows inserted and updated so far, by table."""
    time.sleep(1.2)  # a session hands its counts over at most once a second
    with open_connection(url) as conn:
        return dict(conn.execute("select relname, n_tup_ins + n_tup_upd from pg_stat_user_tables").fetchall())


def _bare_upsert(conn: psycopg.Connection, rows: Mapping[str, int]) -> float:
    """Seconds to upsert the last `rows` of each table into a copy that has the same keys and indexes and lacks them."""
    seconds = 0.0
    for table, n in rows.items():
        name, bare, incoming = sql.Identifier(table), sql.Identifier("bare"), sql.Identifier("incoming")
        keys = [
            row[0]
            for row in conn.execute(
                "select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey) "
                "where i.indrelid = %s::regclass and i.indisprimary",
                [table],
            )
        ]
        columns = [
            row[0]
            for row in conn.execute(
                "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped and attgenerated = ''",
                [table],
            )
        ]
        listed = sql.SQL(", ").join(map(sql.Identifier, columns))
        conn.execute(sql.SQL("create table {} (like {} including all)").format(bare, name))
        newest = sql.SQL("select {} from {} order by ctid desc limit {}").format(listed, name, sql.Literal(n))
        conn.execute(sql.SQL("create temp table newest as {}").format(newest))
        rest = sql.SQL("insert into {} ({}) overriding system value select {} from {} except select {} from newest")
        if n < (conn.execute(sql.SQL("select count(*) from {}").format(name)).fetchone() or (0,))[0]:
            conn.execute(rest.format(bare, listed, listed, name, listed))
        conn.commit()
        with conn.cursor().copy(sql.SQL("copy newest to stdout (format binary)")) as copy:
            data = [bytes(block) for block in copy]
        update = sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(column)) for column in columns if column not in keys
        )
        began = time.perf_counter()
        conn.execute(sql.SQL("create temp table {} on commit drop as select {} from {} with no data").format(incoming, listed, name))
        with conn.cursor().copy(sql.SQL("copy {} from stdin (format binary)").format(incoming)) as copy:
            for block in data:
                copy.write(block)
        conn.execute(
            sql.SQL("insert into {} ({}) overriding system value select {} from {} on conflict ({}) do {}").format(
                bare,
                listed,
                listed,
                incoming,
                sql.SQL(", ").join(map(sql.Identifier, keys)),
                sql.SQL("update set {}").format(update) if update.as_string() else sql.SQL("nothing"),
            )
        )
        conn.commit()
        seconds += time.perf_counter() - began
        conn.execute(sql.SQL("drop table {}; drop table newest").format(bare))
        conn.commit()
    return seconds


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
