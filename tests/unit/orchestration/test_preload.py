"""Runs are forked from a preloaded process where Dagster's code server is built as we know it, and started as ever where not."""

import multiprocessing
import os
import subprocess
import sys
from multiprocessing import Queue
from types import SimpleNamespace

import pytest

from regime_pipeline.orchestration.preload import BACKFILL_NICENESS, PRELOADED, fork_runs, give_way

IN_A_CODE_SERVER = """
import warnings
warnings.simplefilter("ignore")
from dagster._grpc.server import DagsterApiServer
from regime_pipeline.orchestration.preload import fork_runs
assert fork_runs()
server = object.__new__(DagsterApiServer)
server._mp_ctx = "what its constructor chose"
print(server._mp_ctx.get_start_method())
"""
THREADS = """
import importlib, os, sys, warnings
warnings.simplefilter("ignore")
for name in sys.argv[1:]:
    importlib.import_module(name)
from regime_pipeline.trend import engine
print(len(os.listdir("/proc/self/task")), bool(engine._run.overloads), "ccxt" in sys.modules)
"""


def _niceness_after_giving_way(answer: "Queue[int]") -> None:
    give_way()
    give_way()
    answer.put(os.nice(0))


def test_the_process_of_a_backfill_gives_way_and_its_caller_does_not() -> None:
    before = os.nice(0)
    give_way()
    assert os.nice(0) == before
    context = multiprocessing.get_context("spawn")
    answer: Queue[int] = context.Queue()
    run = context.Process(target=_niceness_after_giving_way, args=(answer,))
    run.start()
    assert answer.get(timeout=60) == max(before, BACKFILL_NICENESS)
    run.join()


def test_a_process_without_a_code_server_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dagster._grpc.server", raising=False)
    assert not fork_runs()


def test_a_code_server_built_otherwise_starts_its_runs_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class DagsterApiServer:
        def __init__(self) -> None:
            self.context = "spawn"

    monkeypatch.setitem(sys.modules, "dagster._grpc.server", SimpleNamespace(DagsterApiServer=DagsterApiServer))
    assert not fork_runs()
    assert vars(DagsterApiServer()) == {"context": "spawn"}


def test_the_installed_code_server_forks_its_runs() -> None:
    ran = subprocess.run([sys.executable, "-c", IN_A_CODE_SERVER], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["forkserver"]


# OpenBLAS is held to one thread: those it starts of its own it ends before a fork and starts again after it.
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_what_is_preloaded_starts_no_threads_that_a_fork_would_lose() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", THREADS, *PRELOADED], capture_output=True, text=True, check=True, env={"OPENBLAS_NUM_THREADS": "1"}
    )
    assert ran.stdout.split() == ["1", "True", "False"]
