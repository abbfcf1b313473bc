"""Timing: peers take turns, so that a busy moment of the machine hits all of them, and the median counts."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Measure:
    """One promise and what came of it: `ratio` is ours over theirs, and at most `limit` was promised."""

    key: str
    ours: str
    ours_s: float
    theirs: str
    theirs_s: float
    limit: float
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Our time as a multiple of theirs."""
        return self.ours_s / self.theirs_s

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        return self.ratio <= self.limit

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"ratio": self.ratio, "holds": self.holds}


def time_in_turns(repeats: int, **calls: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each call, run in turns; collection of garbage is kept out of the timing."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                spent[name].append(time.perf_counter() - began)
    finally:
        gc.enable()
    return {name: statistics.median(times) for name, times in spent.items()}
