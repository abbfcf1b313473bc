"""Jobs of the second opinions: one per timeframe, the daily refit. They come after every spine job in the queue."""

import dagster as dg

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.opinions import GROUPS, LANE, OFF, PREFIX, TIMEFRAMES, build_job, build_schedule, opinion_key, plan_refit
from regime_pipeline.orchestration.policies import QUANT_TEAM
from regime_pipeline.settings import load_settings

opinions_1m = build_job(Timeframe.M1, "Every minute: 1m posteriors and change points, then the snapshot of each series.")
opinions_15m = build_job(Timeframe.M15, "Every quarter: 15m posteriors, change points and volatility regimes.")
opinions_1h = build_job(Timeframe.H1, "Every hour: 1h posteriors, transitions, change points and volatility regimes, and the checks.")
opinions_refit = dg.define_asset_job(
    "opinions_refit",
    selection=dg.AssetSelection.assets(*(opinion_key(group, f"hmm_models_{each}") for group in GROUPS for each in TIMEFRAMES)),
    executor_def=dg.in_process_executor,
    owners=[QUANT_TEAM],
    tags={"tier": "3"},
    description="Every day: refits each hidden Markov model on the bars that closed by midnight UTC.",
)

opinions_1m_schedule = build_schedule(opinions_1m, Timeframe.M1, "Every minute; the run waits a little for the minute's bars.")
opinions_15m_schedule = build_schedule(opinions_15m, Timeframe.M15, "Two minutes past every quarter, when its bar is visible.")
opinions_1h_schedule = build_schedule(opinions_1h, Timeframe.H1, "Four minutes past, after the spine's hourly job.")


@dg.schedule(
    job=opinions_refit,
    cron_schedule="10 0 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    owners=[QUANT_TEAM],
    tags={"tier": "3"},
    description="At 00:10 UTC; the new models serve from 01:00 on.",
)
def opinions_refit_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Ask for today's models."""
    if not load_settings().opinions_enabled:
        return dg.SkipReason(OFF)
    return plan_refit(context.scheduled_execution_time)


opinions_evaluation = dg.define_asset_job(
    "opinions_evaluation",
    selection=dg.AssetSelection.assets(dg.AssetKey([PREFIX, "opinion_evaluation"])),
    executor_def=dg.in_process_executor,
    owners=[QUANT_TEAM],
    tags={"tier": "3"},
    run_tags={**LANE, "dagster/max_runtime": "1800"},
    description="Every month: what followed the opinions, against chance and against trailing volatility.",
)
opinions_evaluation_schedule = dg.ScheduleDefinition(
    name="opinions_evaluation_schedule",
    job=opinions_evaluation,
    cron_schedule="0 2 1 * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    owners=[QUANT_TEAM],
    tags={"tier": "3"},
    description="On the first of each month at 02:00 UTC, for the month and the year before.",
)

OPINION_JOBS = [opinions_1m, opinions_15m, opinions_1h, opinions_refit, opinions_evaluation]
OPINION_SCHEDULES = [
    opinions_1m_schedule,
    opinions_15m_schedule,
    opinions_1h_schedule,
    opinions_refit_schedule,
    opinions_evaluation_schedule,
]
