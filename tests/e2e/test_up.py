"""`regime up` as a user starts it: a backfill launched over GraphQL succeeds, and ctrl-C leaves nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from regime_pipeline.adapters.postgres.connect import database_urls
from regime_pipeline.adapters.postgres.embedded import server_status
from regime_pipeline.settings import Settings
from tests.fixtures_postgres import open_home
from tests.served import BACKFILL, PROGRESS, ROOT, Up, processes_of, processes_with, wait_for

DAYS = [f"2025-01-{day:02d}" for day in range(1, 31)]
ASSETS = ("majors_price_data_ohlc", "lowcap_price_data_ohlc", "regime_price_data_ohlc", "uptrend_states", "regime_deltas")

LAUNCH = """mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}"""
TERMINATE = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"
STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def launch(up: Up, job: str, tags: Mapping[str, str] | None = None) -> str:
    """Launch a run of a job as the UI does; returns its id."""
    selector = {"repositoryLocationName": "regime_pipeline", "repositoryName": "__repository__", "jobName": job}
    metadata = {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]}
    answer = up.ask(LAUNCH, params={"selector": selector, "executionMetadata": metadata, "runConfigData": {}})["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return answer["run"]["runId"]


def launches(up: Up, job: str) -> bool:
    """Tell whether a run of a job comes to a good end; while the code server starts, it cannot be launched."""
    try:
        return wait_for_end(up, launch(up, job)) == "SUCCESS"
    except AssertionError:
        return False


def status_of(up: Up, run: str) -> str:
    return up.ask(STATUS, id=run)["runOrError"]["status"]


def wait_for_end(up: Up, run: str) -> str:
    wait_for(lambda: status_of(up, run) in {"SUCCESS", "FAILURE", "CANCELED"}, 120)
    return status_of(up, run)


@pytest.fixture
def home() -> Iterator[Path]:
    with open_home() as path:
        yield path


@pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")
def test_a_backfill_from_the_ui_succeeds_and_ctrl_c_leaves_nothing(home: Path) -> None:
    up = Up(home)
    try:
        said = up.said()
        assert said.index("fetching history first") < said.index("bars written") < said.index("Dagster is at http://127.0.0.1:")
        assert "degraded" not in said
        with psycopg.connect(database_urls(Settings(home=home)).regime) as conn:
            cells = conn.execute("select count(*) from (select distinct driver, timeframe from regime_deltas) as cell").fetchone()
        assert cells == (24,)
        second = subprocess.run(
            [sys.executable, "-c", "from regime_pipeline.cli import main; main()", "up"],
            cwd=ROOT,
            env={**os.environ, "REGIME_HOME": str(home)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 1
        assert "another `regime up` serves" in second.stderr

        answer = up.ask(BACKFILL, names=DAYS, assets=[{"path": [f"{table}_1h"]} for table in ASSETS])["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        status = lambda: up.ask(PROGRESS, id=answer["backfillId"])["partitionBackfillOrError"]["status"]  # noqa: E731
        wait_for(lambda: status() not in {"REQUESTED", "COMPLETED"}, 240)
        assert status() == "COMPLETED_SUCCESS"
        with psycopg.connect(database_urls(Settings(home=home)).regime) as conn:
            rows = conn.execute(
                "select count(*), count(*) filter (where driver = 'BTC') from regime_deltas where timeframe = '1h' and ts < '2025-01-31'"
            ).fetchone()
        assert rows is not None
        assert rows[1] == 30 * 24 - 332
        assert rows[0] > 7 * rows[1]
    finally:
        code = up.stop()
    assert code == 0
    assert up.said().strip().endswith("database stopped")
    assert processes_of(home) == []
    assert server_status(home).state == "stopped"


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_runs_are_forked_and_outlive_their_fork_server_and_code_server(home: Path) -> None:
    up = Up(home)
    try:
        assert wait_for_end(up, launch(up, "prune_history")) == "SUCCESS"
        servers = [pid for pid, command in processes_with(home) if "multiprocessing.forkserver" in command]
        assert servers
        for pid in servers:
            os.kill(pid, signal.SIGKILL)
        assert wait_for_end(up, launch(up, "prune_history")) == "SUCCESS"
        for pid, command in processes_with(home):
            if "api grpc" in command:
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: "code server ended by itself" in up.said(), 90)
        wait_for(lambda: launches(up, "prune_history"), 60)
        days = {"dagster/asset_partition_range_start": "2025-01-01", "dagster/asset_partition_range_end": "2025-03-01"}
        long = launch(up, "regime_micro", days)
        wait_for(lambda: status_of(up, long) == "STARTED", 60)
        assert up.ask(TERMINATE, id=long)["terminateRun"]["__typename"] == "TerminateRunSuccess"
        assert wait_for_end(up, long) == "CANCELED"
    finally:
        assert up.stop() == 0
    assert processes_of(home) == []


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_run_that_died_with_everything_is_ended_by_the_next_start(home: Path) -> None:
    up = Up(home)
    days = {"dagster/asset_partition_range_start": "2025-01-01", "dagster/asset_partition_range_end": "2025-12-01"}
    run = launch(up, "regime_micro", days)
    wait_for(lambda: status_of(up, run) == "STARTED", 60)
    for pid, _ in processes_with(home):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    up.process.wait(60)
    up = Up(home)
    try:
        assert f"run {run} of regime_micro had died" in up.said()
        assert status_of(up, run) == "FAILURE"
    finally:
        assert up.stop() == 0
    assert processes_of(home) == []


def test_read_only_refuses_to_launch(home: Path) -> None:
    up = Up(home, "--read-only", "--no-daemon")
    try:
        answer = up.ask(BACKFILL, names=DAYS[:1], assets=[{"path": ["majors_price_data_ohlc_1h"]}])["launchPartitionBackfill"]
        assert answer["__typename"] == "UnauthorizedError"
    finally:
        assert up.stop() == 0


def test_a_dead_daemon_ends_all_and_names_its_log(home: Path) -> None:
    up = Up(home)
    daemon = subprocess.run(["pgrep", "-P", str(up.process.pid), "-f", "dagster._daemon"], capture_output=True, text=True, check=True)
    os.kill(int(daemon.stdout.split()[0]), signal.SIGKILL)
    assert up.process.wait(60) == 1
    assert "the daemon ended by itself" in up.said()
    assert "daemon.log" in up.said()
    assert processes_of(home) == []
