"""The three spine jobs: how a timeframe's job and its schedule are made. jobs/regime_*.py name them."""

from datetime import datetime
from functools import partial

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition  # what define_asset_job returns

from regime_pipeline.market.timeframe import HORIZONS, Timeframe
from regime_pipeline.orchestration.policies import BAR_TAG, JOB_TAG, PACES, QUANT_TEAM, TELL_EVERY_S
from regime_pipeline.orchestration.schedules import build_bar_schedule, closed_bar_s
from regime_pipeline.orchestration.stages import asset_names
from regime_pipeline.orchestration.window import spell_bar


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
    """Build the schedule that asks for the bar just closed."""
    return build_bar_schedule(job, PACES[timeframe].cron, timeframe, "1", description, partial(plan_run, timeframe))


def plan_run(timeframe: Timeframe, tick: datetime) -> dg.RunRequest:
    """Ask for the bar that closed before a tick, once; the partition is the day the bar opened on."""
    pace = PACES[timeframe]
    bar_s = closed_bar_s(timeframe, tick, pace.delay)
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
