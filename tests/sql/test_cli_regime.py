"""`regime drivers`, `levers now` and `replay` on a real database, and the checksums that the demo prints."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from typer.testing import CliRunner

from regime_pipeline.adapters.postgres.checksum import sum_tables
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.cli import app
from regime_pipeline.errors import BadInputError, MigrationError
from regime_pipeline.market.timeframe import Timeframe
from tests.markets import backfill, generated, small_universe

T0 = 1_735_689_600  # 2025-01-01T00:00Z
HOUR = 3600
UNIVERSE = small_universe()


def invoke(*arguments: str) -> str:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False).stdout


@pytest.fixture
def url(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A migrated database that the settings name."""
    monkeypatch.setenv("REGIME_DATABASE_URL", database)
    monkeypatch.setenv("REGIME_DAGSTER_DATABASE_URL", database)
    return database


@pytest.fixture
def filled(url: str) -> str:
    """340 hours of the generated market: eight states of each driver on 1h."""
    backfill(PostgresStores(url), generated(UNIVERSE), UNIVERSE, T0, T0 + 340 * HOUR + 70, (Timeframe.H1,))
    return url


def test_an_empty_database_shows_24_cells_without_a_state(url: str) -> None:
    cells = json.loads(invoke("drivers", "--json"))
    assert len(cells) == 24
    assert {cell["state"] for cell in cells} == {None}
    assert invoke("drivers").count("no state yet") == 24


def test_the_board_says_state_and_bar_time_as_of_any_moment(filled: str) -> None:
    for at, bar in (("2025-01-15T04:30:00+00:00", "2025-01-15T03:00:00+00:00"), ("2025-01-15T02:00:00Z", "2025-01-15T01:00:00+00:00")):
        cells = {(cell["driver"], cell["timeframe"]): cell for cell in json.loads(invoke("drivers", "--json", "--at", at))}
        assert len(cells) == 24
        cell = cells["BTC", "1h"]
        assert cell["ts"] == bar
        assert cell["state"] in {"S0", "S1", "S2", "S3", "S4"}
        assert (cell["immature"], cell["delta_a_raw"], cell["delta_e_raw"]) == (True, 0.0, 0.0)
        assert cells["BTC", "1d"] == {"driver": "BTC", "timeframe": "1d", "state": None}
    text = invoke("drivers", "--at", "2025-01-15T04:30:00+00:00")
    assert text.count("2025-01-15 03:00") == 8
    assert text.count("no state yet") == 16


def test_levers_now_shows_every_channel_it_used(filled: str) -> None:
    token = UNIVERSE.tokens[0]
    answer = json.loads(invoke("levers", "now", token.contract, "--at", "2025-01-15T04:30:00+00:00", "--json"))
    assert (answer["symbol"], answer["bucket"], answer["exec_timeframe"]) == (token.contract, token.bucket, "1h")
    qualities = {(row["driver"], row["timeframe"]): row["quality"] for row in answer["channels"]}
    assert len(qualities) == 15
    assert qualities["BTC", "1h"] in {"immature", "s4"}
    assert qualities["BTC", "1d"] == "absent"
    assert (answer["A_value"], answer["E_value"], answer["degraded"]) == (0.5, 0.5, True)
    assert "DEGRADED" in invoke("levers", "now", token.sources[0].symbol)


@pytest.mark.parametrize("arguments", [("drivers", "--at", "2025-01-15T04:30:00"), ("drivers", "--at", "noon"), ("levers", "now", "NOPE")])
def test_questions_that_cannot_be_answered_are_refused(arguments: tuple[str, ...], url: str) -> None:
    with pytest.raises(BadInputError):
        invoke(*arguments)


def test_a_database_without_our_schema_is_refused(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_DATABASE_URL", empty_database)
    monkeypatch.setenv("REGIME_DAGSTER_DATABASE_URL", empty_database)
    with pytest.raises(MigrationError, match="Run `regime db migrate`"):
        invoke("drivers")


def test_the_board_is_read_without_slow_imports() -> None:
    modules = "regime_pipeline.cli.session, regime_pipeline.services.read_board, regime_pipeline.services.read_levers"
    code = f"import sys, {modules}; print([m for m in ('numba', 'pandas', 'pyarrow', 'dagster', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def write_folder(folder: Path, n_hours: int) -> Path:
    """Record hours of BTC and ETH of the generated market, base volume as files have it."""
    source = generated(UNIVERSE)
    folder.mkdir()
    with (folder / "ohlcv_1h_binance_um.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["symbol", "timeframe", "ts", "open", "high", "low", "close", "volume"])
        for symbol in ("BTCUSDT", "ETHUSDT"):
            raw = source.fetch_bars("binance_um", symbol, Timeframe.H1, T0, T0 + n_hours * HOUR)
            for row in zip(*(column.tolist() for column in raw.columns()), strict=True):
                writer.writerow([symbol, "1h", f"{np.datetime64(row[0], 's')}Z", *row[1:5], row[5] / row[4]])
    return folder


def test_a_replay_twice_changes_nothing_the_second_time(url: str, conn: psycopg.Connection, tmp_path: Path) -> None:
    folder = str(write_folder(tmp_path / "market", 360))
    first = json.loads(invoke("replay", folder, "--json"))
    sums = sum_tables(conn)
    assert set(first) == {"1h"}  # the folder has no other bars
    assert (first["1h"]["bars_written"], first["1h"]["quarantined"]) == (720, 0)
    assert first["1h"]["bars"] == 360  # BTC; ETH alone is too few components for ALT
    assert sums["uptrend_states"].rows == 360 - 332
    again = json.loads(invoke("replay", folder, "--json", "--timeframes", "1h,1d"))
    assert (again["1h"]["bars_written"], again["1h"]["bars_unchanged"], again["1h"]["bars"]) == (0, 720, 0)
    conn.rollback()
    after = sum_tables(conn)
    assert {name: after[name] for name in sums if name != "derivation_marks"} == {
        name: sums[name] for name in sums if name != "derivation_marks"
    }


def test_a_replay_can_be_cut_to_a_range(url: str, conn: psycopg.Connection, tmp_path: Path) -> None:
    folder = str(write_folder(tmp_path / "market", 48))
    limits = ("--start", "2025-01-01T12:00:00Z", "--end", "2025-01-02T00:00:00Z")
    assert json.loads(invoke("replay", folder, "--json", *limits))["1h"]["bars_written"] == 24
    assert "24 unchanged" in invoke("replay", folder, *limits)
    assert conn.execute("select min(extract(hour from timestamp))::int from majors_price_data_ohlc").fetchone() == (12,)


def test_a_checksum_sees_values_and_revisions_but_neither_order_nor_write_times(conn: psycopg.Connection) -> None:
    insert = "insert into dominance_samples values ('BTC.d', %s, now(), %s, 'test')"

    def sums(*rows: tuple[Any, ...]) -> tuple[int, str]:
        conn.execute("truncate dominance_samples")
        for row in rows:
            conn.execute(insert, row)
        found = sum_tables(conn)["dominance_samples"]
        return found.rows, found.checksum

    one, two = ("2025-01-01T00:00Z", 55.0), ("2025-01-01T00:01Z", 55.5)
    assert sums(one, two) == sums(two, one)
    assert sums(one, two) != sums(one, ("2025-01-01T00:01Z", 55.6))
    assert sums() == (0, "0" * 16)
    gap = (
        "insert into bar_gaps (series, timeframe, timestamp, source, reason, detected_at)"
        " values ('token:BTC:binance', '1h', '2025-01-01T00:00Z', 'generated', 'missing', %s)"
    )
    conn.execute(gap, ("2025-01-02T00:00Z",))
    before = sum_tables(conn)["bar_gaps"]
    conn.execute("update bar_gaps set detected_at = detected_at + interval '1 day'")
    assert sum_tables(conn)["bar_gaps"] == before
