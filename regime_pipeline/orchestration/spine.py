"""The three spine jobs: how a timeframe's job and its schedule are made. jobs/regime_*.py name them."""

from datetime import datetime
from typing import Final

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition  # what define_asset_job returns

from regime_pipeline.market.timeframe import HORIZONS, Timeframe
from regime_pipeline.orchestration.policies import BAR_TAG, JOB_TAG, PACES, QUANT_TEAM, TELL_EVERY_S
from regime_pipeline.orchestration.stages import asset_names
from regime_pipeline.orchestration.window import spell_bar

UNDER_WAY: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def build_job(timeframe: Timeframe, description: str) -> UnresolvedAssetJobDefinition:
    """Build the job that makes every asset of a timeframe, all in the run's own process: another one costs 2 s per step."""
    pace = PACES[timeframe]
    return dg.define_asset_job(
        pace.job,
        selection=dg.AssetSelection.tag("timeframe", timeframe.value),
        executor_def=dg.in_process_executor,
        owners=[QUANT_TEAM],
        tags={"tier": "1", "timeframe": timeframe.value, "horizon": HORIZONS[timeframe]},
        description=description,
    )


def build_schedule(job: UnresolvedAssetJobDefinition, timeframe: Timeframe, description: str) -> dg.ScheduleDefinition:
    """Build the schedule that asks for the bar just closed. It is on from the start: nothing here trades."""
    pace = PACES[timeframe]

    @dg.schedule(
        name=f"{pace.job}_schedule",
        job=job,
        cron_schedule=pace.cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        owners=[QUANT_TEAM],
        tags={"tier": "1", "timeframe": timeframe.value},
        description=description,
    )
    def every_bar(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if _is_under_way(context.instance, pace.job):
            return dg.SkipReason(f"the run before it is still under way; the next {pace.job} makes up for this bar")
        return plan_run(timeframe, context.scheduled_execution_time)

    return every_bar


def plan_run(timeframe: Timeframe, tick: datetime) -> dg.RunRequest:
    """Ask for the bar that closed before a tick, once; the partition is the day the bar opened on."""
    pace = PACES[timeframe]
    bar_s = timeframe.floor(int((tick - pace.delay).timestamp())) - timeframe.seconds
    bar = spell_bar(bar_s)
    tags = {
        BAR_TAG: bar,
        JOB_TAG: pace.job,
        "dagster/priority": str(pace.priority),
        "dagster/max_runtime": str(pace.max_runtime_s),
    }
    with_checks = timeframe is not Timeframe.M1 or (bar_s + timeframe.seconds) % TELL_EVERY_S == 0
    return dg.RunRequest(
        run_key=f"{timeframe}:{bar}",
        partition_key=bar[:10],
        tags=tags,
        asset_selection=None if with_checks else [dg.AssetKey(name) for name in asset_names(timeframe)],
        asset_check_keys=None if with_checks else [],
    )


def _is_under_way(instance: dg.DagsterInstance, job: str) -> bool:
    """Look for a live run of the job: missed ticks must not pile up, because one later run makes up for all of them."""
    return instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=UNDER_WAY, tags={JOB_TAG: job})) > 0
