"""Schedules that follow the bars: one run for a bar that has closed, and none while the run before it is under way."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition  # what define_asset_job returns

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.policies import JOB_TAG, QUANT_TEAM

UNDER_WAY: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def build_bar_schedule(
    job: UnresolvedAssetJobDefinition,
    cron: str,
    timeframe: Timeframe,
    tier: str,
    description: str,
    plan: Callable[[datetime], dg.RunRequest | dg.SkipReason],
) -> dg.ScheduleDefinition:
    """Build the schedule of a timeframe's job; it is on from the start, because nothing here trades.

    Parameters
    ----------
    plan : callable
        Says what a tick asks for. It is not asked while a run of the job that a tick asked for (`JOB_TAG`) is under way: missed ticks
        must not pile up, because one later run makes up for all of them.
    """

    @dg.schedule(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        owners=[QUANT_TEAM],
        tags={"tier": tier, "timeframe": timeframe.value},
        description=description,
    )
    def every_bar(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        live = dg.RunsFilter(job_name=job.name, statuses=UNDER_WAY, tags={JOB_TAG: job.name})
        if context.instance.get_runs_count(live):
            return dg.SkipReason(f"the run before it is still under way; the next {job.name} makes up for this bar")
        return plan(context.scheduled_execution_time)

    return every_bar


def closed_bar_s(timeframe: Timeframe, tick: datetime, delay: timedelta) -> int:
    """Tell the open of the bar that closed `delay` before a tick, epoch seconds; a late tick still means its own bar."""
    return timeframe.floor(int((tick - delay).timestamp())) - timeframe.seconds
