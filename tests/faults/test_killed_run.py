"""A run killed by the system at any moment loses nothing and doubles nothing: the next one finishes its work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.migrate import migrate
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.services.run_step import run_timeframe
from regime_pipeline.services.window import Window
from tests.markets import backfill, checksums, generated, small_universe

T0 = 1_735_689_600
NOW_S = T0 + 400 * 3600 + 70
ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys
from tests.faults.test_killed_run import NOW_S, T0
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.services.run_step import run_timeframe
from regime_pipeline.services.window import Window
from tests.markets import generated, small_universe
universe = small_universe()
run_timeframe(PostgresStores(sys.argv[1]), generated(universe), universe, Timeframe.H1, Window(T0, NOW_S), NOW_S,
              on_step=lambda step: print(step, flush=True))
print("done", flush=True)
"""

pytestmark = pytest.mark.slow


def _start(database: str) -> "subprocess.Popen[str]":
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen([sys.executable, "-c", RUN, database], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("step", ["bars 1h", "drivers 1h", "trend 1h", "deltas 1h"])
def test_a_killed_run_is_finished_by_the_next(step: str, delay_s: float, database: str, empty_database: str) -> None:
    run = _start(database)
    assert run.stdout is not None
    for line in run.stdout:
        if line.strip() == step:
            break
    time.sleep(delay_s)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert run.returncode in {-signal.SIGKILL, 0}  # 0: the step was faster than the delay

    universe = small_universe()
    stores = PostgresStores(database)
    run_timeframe(stores, generated(universe), universe, Timeframe.H1, Window(T0, NOW_S), NOW_S)
    with open_connection(empty_database) as conn:
        migrate(conn)
    backfill(PostgresStores(empty_database), generated(universe), universe, T0, NOW_S, (Timeframe.H1,))
    with open_connection(database) as one, open_connection(empty_database) as other:
        assert checksums(one) == checksums(other)
        marks = one.execute("select count(*) from derivation_marks where timeframe = '1h'")  # those of 1d wait for their job
        assert marks.fetchone() == (0,)
        assert one.execute("select max(revision) from uptrend_states").fetchone() == (0,)
