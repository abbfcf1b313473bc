"""The real daemon, its schedules and sensors at real pace against the simulated venue: every minute in time, nothing left behind."""

import sys

import pytest

from benchmarks.minute_cycle import render, watch
from tests.sizes import LIVE_MINUTES

WITH_HISTORY = {"BTC", "ALT", "nano", "small", "mid", "big"}
"""Drivers whose minutes a bootstrap finds; those of a dominance begin with the first start, and have no state before their 333rd bar."""

HOUR = 60
BACKFILL_DAYS = 30
"""Beside a whole hour of minutes runs one backfill after the other."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900 + 60 * LIVE_MINUTES),
    pytest.mark.skipif(sys.platform != "linux", reason="reads memory in /proc"),
]


def test_every_minute_has_its_states_and_runs_neither_fail_nor_overlap_nor_pile_up() -> None:
    findings = watch(LIVE_MINUTES, BACKFILL_DAYS if LIVE_MINUTES >= HOUR else 0, "live", print)
    print(render(findings))
    assert len(findings.minutes) == LIVE_MINUTES
    assert findings.missing_bars == []
    assert set(findings.missing_states) >= WITH_HISTORY
    assert {driver: missing for driver, missing in findings.missing_states.items() if driver in WITH_HISTORY and missing} == {}
    assert (findings.failed_runs, findings.overlaps, findings.longest_queue) == (0, 0, 0)
    assert findings.event_log_mb_per_day > 0
    assert all(findings.memory_mb.get(name) for name in ("web server", "daemon", "collector", "code server", "regime up"))
