"""Which runs are old, and their deletion: a finished run goes with its events and its compute logs."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

import dagster as dg
from dagster._core.storage.compute_log_manager import ComputeLogManager  # its deletion is not on the public instance
from pydantic import Field

FINISHED: Final = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


class PruneConfig(dg.Config):
    """How long finished runs are kept."""

    days_by_job: dict[str, int] = Field({"regime_micro": 2}, description="Days to keep, by job; a minute job fills a disk.")
    days_of_others: int = Field(60, ge=1, description="Days to keep the runs of every other job, and those of assets by hand.")
    batch: int = Field(200, ge=1, description="Runs fetched at a time.")
    limit: int = Field(20_000, ge=1, description="Runs deleted at most; the rest waits for the next day.")


@dataclass(slots=True)
class PruneSummary:
    """Runs deleted, in all and by job, and whether none is left."""

    runs: int = 0
    by_job: dict[str, int] = field(default_factory=dict)
    is_done: bool = True


def prune_runs(instance: dg.DagsterInstance, config: PruneConfig, now: datetime) -> PruneSummary:
    """Delete finished runs older than their days, oldest first; runs under way are never touched.

    A pruning that dies in between is repeated as it is: each run is deleted for itself.
    """
    old = list(islice(find_old_runs(instance, config, now), config.limit + 1))
    deleted: Counter[str] = Counter()
    for run_id, job in old[: config.limit]:
        _delete(instance, run_id)
        deleted[job] += 1
    return PruneSummary(deleted.total(), dict(deleted), is_done=len(old) <= config.limit)


def find_old_runs(instance: dg.DagsterInstance, config: PruneConfig, now: datetime) -> Iterator[tuple[str, str]]:
    """List (run id, job) of what may go. Read before anything is deleted: a page is found by the run that ended the one before."""
    rules: list[tuple[str | None, int]] = [*config.days_by_job.items(), (None, config.days_of_others)]
    for job, days in rules:
        cursor: str | None = None
        while runs := instance.get_runs(
            dg.RunsFilter(job_name=job, statuses=FINISHED, created_before=now - timedelta(days=days)),
            cursor=cursor,
            limit=config.batch,
            ascending=True,
        ):
            yield from ((run.run_id, run.job_name) for run in runs if job is not None or run.job_name not in config.days_by_job)
            cursor = runs[-1].run_id


def _delete(instance: dg.DagsterInstance, run_id: str) -> None:
    logs: ComputeLogManager = instance.compute_log_manager
    logs.delete_logs(prefix=[run_id])
    instance.delete_run(run_id)
