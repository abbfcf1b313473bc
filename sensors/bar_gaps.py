"""Sensor `bar_gaps`: a missing bar is asked for again, without anybody watching."""

from collections.abc import Mapping, Sequence
from typing import Final

import dagster as dg

from jobs.refill_bars import refill_bars
from regime_pipeline.clock import now_s
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.policies import DATA_TEAM
from regime_pipeline.orchestration.resources import Stores
from regime_pipeline.ports import Gap
from regime_pipeline.services.repair_gaps import is_due

REPEAT_S: Final = 600
"""The same gaps in the same state are asked for at most once in this long: a run that fails does not come back at every look."""


def plan_refill(gaps: Mapping[Timeframe, Sequence[Gap]], now_s: int) -> dg.RunRequest | dg.SkipReason:
    """Ask for one run when any gap is due; its key names how many there are and what was tried."""
    due = {timeframe: [gap for gap in found if not gap.is_vendors_own and is_due(gap, now_s)] for timeframe, found in gaps.items()}
    parts = [f"{timeframe}={len(found)}/{sum(gap.attempts for gap in found)}" for timeframe, found in due.items() if found]
    if not parts:
        known = sum(len(found) for found in gaps.values())
        return dg.SkipReason(f"{known} bars are missing, none is due to be asked for")
    return dg.RunRequest(run_key=f"bar_gaps:{','.join(parts)}:{now_s // REPEAT_S}")


@dg.sensor(
    job=refill_bars,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=[DATA_TEAM],
    tags={"tier": "2"},
    description="Asks for a fresh download of missing bars: after two minutes, then at doubling intervals up to six hours.",
)
def bar_gaps(_context: dg.SensorEvaluationContext, stores: Stores) -> dg.RunRequest | dg.SkipReason:
    """Look for gaps that are due; a failed read raises, so that the tick fails in sight."""
    with stores.open() as work:
        gaps = {timeframe: work.quality.load_gaps(timeframe, with_own=False) for timeframe in Timeframe}
    return plan_refill(gaps, now_s())
