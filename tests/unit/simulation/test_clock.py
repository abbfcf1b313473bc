"""The virtual clock: it stands, runs at its speed, jumps forward and never back."""

import time
from datetime import UTC, datetime

import pytest

from regime_pipeline.errors import BadInputError
from regime_pipeline.simulation.clock import VirtualClock
from tests.builders import T0


def test_it_stands_still_until_it_is_moved() -> None:
    clock = VirtualClock(T0, 0)
    time.sleep(0.01)
    assert clock.now() == datetime.fromtimestamp(T0, UTC)
    clock.advance(90)
    assert clock.now_s() == T0 + 90


def test_it_runs_at_its_speed_and_keeps_its_time_when_the_speed_changes() -> None:
    clock = VirtualClock(T0, 1000)
    time.sleep(0.02)
    assert T0 + 20 <= clock.now_s() < T0 + 2000
    clock.set_speed(0)
    held_s = clock.now_s()
    time.sleep(0.01)
    assert clock.now_s() == held_s >= T0 + 20


@pytest.mark.parametrize(
    "break_it", [lambda: VirtualClock(T0, -1), lambda: VirtualClock(T0).advance(-1), lambda: VirtualClock(T0).set_speed(-2)]
)
def test_it_refuses_to_run_backwards(break_it: object) -> None:
    with pytest.raises(BadInputError, match="was"):
        break_it()  # type: ignore[operator]
