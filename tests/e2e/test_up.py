"""`regime up` as a user starts it: a backfill launched over GraphQL succeeds, and ctrl-C leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import psycopg
import pytest

from regime_pipeline.adapters.postgres.connect import database_urls
from regime_pipeline.adapters.postgres.embedded import server_status
from regime_pipeline.settings import Settings
from tests.fixtures_postgres import open_home

ROOT = Path(__file__).resolve().parents[2]
DAYS = [f"2025-01-{day:02d}" for day in range(1, 31)]
ASSETS = ("majors_price_data_ohlc", "lowcap_price_data_ohlc", "regime_price_data_ohlc", "uptrend_states", "regime_deltas")
BACKFILL = """mutation ($names: [String!]!, $assets: [AssetKeyInput!]!) {
  launchPartitionBackfill(backfillParams: {partitionNames: $names, assetSelection: $assets}) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}"""
PROGRESS = "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status numCancelable } } }"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Up:
    """A running `regime up`, its output and its address."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.output = home / "up.out"
        env = {name: value for name, value in os.environ.items() if not name.startswith(("REGIME_", "DAGSTER_"))}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from regime_pipeline.cli import main; main()", "up", *options],
                cwd=ROOT,
                env={**env, "REGIME_HOME": str(home), "PYTHONUNBUFFERED": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for(lambda: "Dagster is at" in self.said() or self.process.poll() is not None, 120)

    def said(self) -> str:
        return self.output.read_text()

    @property
    def address(self) -> str:
        return next(word for word in self.said().split() if word.startswith("http://"))

    def ask(self, query: str, **variables: object) -> dict[str, dict[str, str]]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        with urlopen(Request(f"{self.address}/graphql", body, {"Content-Type": "application/json"}), timeout=30) as answer:
            return json.load(answer)["data"]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def wait_for(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.2)


def processes_of(home: Path) -> list[str]:
    """Command lines of living processes that were started with this home."""
    mark = f"REGIME_HOME={home}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.fixture
def home() -> Iterator[Path]:
    with open_home() as path:
        yield path


@pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")
def test_a_backfill_from_the_ui_succeeds_and_ctrl_c_leaves_nothing(home: Path) -> None:
    up = Up(home)
    try:
        assert "Dagster is at http://127.0.0.1:" in up.said()
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
