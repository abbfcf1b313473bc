"""`regime up` as a process of its own, for tests and benchmarks that talk to it as a user does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[1]
BACKFILL = """mutation ($names: [String!]!, $assets: [AssetKeyInput!]!) {
  launchPartitionBackfill(backfillParams: {partitionNames: $names, assetSelection: $assets}) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}"""
PROGRESS = "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status numCancelable } } }"


class Up:
    """A running `regime up`, its output and its address."""

    def __init__(self, home: Path, *options: str, settings: Mapping[str, str] | None = None, start_s: float = 120) -> None:
        """Start it with `options`, and with settings by variable name; wait until it serves."""
        self.home = home
        self.output = home / "up.out"
        env = {name: value for name, value in os.environ.items() if not name.startswith(("REGIME_", "DAGSTER_"))}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from regime_pipeline.cli import main; main()", "up", *options],
                cwd=ROOT,
                env={**env, "REGIME_HOME": str(home), "PYTHONUNBUFFERED": "1", **(settings or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for(lambda: "Dagster is at" in self.said() or self.process.poll() is not None, start_s)

    def said(self) -> str:
        return self.output.read_text()

    @property
    def address(self) -> str:
        return next(word for word in self.said().split() if word.startswith("http://"))

    def ask(self, query: str, **variables: object) -> Any:
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


def processes_with(home: Path) -> list[tuple[int, str]]:
    """Numbers and command lines of living processes that were started with this home."""
    mark = f"REGIME_HOME={home}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append((int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
        except OSError:
            continue
    return found


def processes_of(home: Path) -> list[str]:
    """Command lines of living processes that were started with this home."""
    return [command for _, command in processes_with(home)]
