"""Job `prune_history`: what nothing else ever deletes is deleted here, old finished runs with their events and logs, and ours that is over.

Dagster keeps its event log for ever; the minute job alone writes about 150 KB a run. Its `retention` block trims ticks only.
"""

from datetime import timedelta
from typing import Final

import dagster as dg

from regime_pipeline.clock import now_s, utc_now
from regime_pipeline.orchestration.policies import DATA_TEAM
from regime_pipeline.orchestration.pruning import PruneConfig, prune_runs
from regime_pipeline.orchestration.resources import Stores
from regime_pipeline.services.prune_tables import prune_tables


@dg.op(description="Deletes finished runs that are older than their job's days, oldest first, in batches.", tags={"layer": "upkeep"})
def delete_old_runs(context: dg.OpExecutionContext, config: PruneConfig) -> None:
    """Delete, and tell how many."""
    summary = prune_runs(context.instance, config, utc_now())
    context.add_output_metadata({"runs_deleted": summary.runs, "by_job": summary.by_job, "is_done": summary.is_done})
    context.log.info("deleted %s runs%s", summary.runs, "" if summary.is_done else "; more are left for the next run")


OPINION_DAYS: Final = 90
"""Minutes of posteriors and change points are kept so long; hours, quarters and snapshots for ever."""


@dg.op(description="Drops the months of minute opinions that are older than 90 days.", tags={"layer": "upkeep"})
def drop_old_opinions(context: dg.OpExecutionContext, stores: Stores) -> None:
    """Drop whole monthly partitions, and tell which."""
    before = utc_now() - timedelta(days=OPINION_DAYS)
    with stores.open() as work:
        dropped = work.opinions.drop_months(int(before.timestamp()))
    context.add_output_metadata({"dropped": ", ".join(dropped) or "none"})


@dg.op(description="Deletes what is over and old from our own tables, in batches: alerts, gaps, tapes ...", tags={"layer": "upkeep"})
def delete_old_rows(context: dg.OpExecutionContext, stores: Stores) -> None:
    """Delete, and tell how many by table."""
    summary = prune_tables(stores.upkeep(), now_s())
    context.add_output_metadata({"rows_deleted": summary.deleted, "is_done": summary.is_done})


@dg.job(
    executor_def=dg.in_process_executor,
    owners=[DATA_TEAM],
    tags={"tier": "3"},
    run_tags={"dagster/max_runtime": "3600", "dagster/priority": "-5"},
    description="Daily: deletes old runs with their events and logs (an asset's newest materialization stays), and rows that are over.",
)
def prune_history() -> None:
    """Prune Dagster's own history, the minutes of the second opinions, and what is over; bars, states and deltas stay for ever."""
    delete_old_runs()
    drop_old_opinions()
    delete_old_rows()


prune_history_schedule = dg.ScheduleDefinition(
    name="prune_history_schedule",
    job=prune_history,
    cron_schedule="23 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    owners=[DATA_TEAM],
    tags={"tier": "3"},
    description="At 03:23 UTC, away from every full hour.",
)
