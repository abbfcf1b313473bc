"""A short soak: the whole pipeline through forty minutes of faulty venues, every kind of fault among them, in about a minute."""

import pytest
from rich.console import Console

from regime_pipeline.cli.soak import find_problems, run_soak
from regime_pipeline.settings import Settings
from regime_pipeline.simulation.faults import STANDARD, FaultKind, FaultScript
from tests.fixtures_postgres import open_home
from tests.markets import small_universe

# Bars that are late or revised count when somebody looks in time, which nobody does while the perpetuals are halted.
OFTEN = {FaultKind.LATE: {"every_s": 300}, FaultKind.REVISED: {"every_s": 300}}
THIRDS = FaultScript(
    faults=tuple(
        fault.model_copy(update={"every_s": 1200, "from_s": fault.from_s // 3, "spread": 5} | OFTEN.get(fault.kind, {}))
        for fault in STANDARD.faults
    )
)
"""The standard script with its hours shortened to twenty minutes."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_forty_minutes_of_faults_leave_the_truth_and_the_states_of_a_clean_run() -> None:
    with open_home() as home:
        verdict = run_soak(Settings(), home, small_universe(), THIRDS, hours=2 / 3, speed=60, seed=0, console=Console(stderr=True))
    assert find_problems(verdict) == [], verdict["examples"]
    assert verdict["rows_compared"]["uptrend_states"] > 8 * 40
    assert verdict["bars_compared"] > 9 * 3 * 1100
    assert [kind for kind, count in verdict["faults"].items() if count == 0] == []
    assert verdict["outliers_delivered"] > 0
    assert verdict["revisions"] > 0
    assert verdict["collector_bars"] > 0
    assert verdict["halts_ended_by_operator"] > 0
