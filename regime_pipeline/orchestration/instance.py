"""Dagster's home for the embedded server: its `dagster.yaml`, and opening the instance from code."""

from pathlib import Path
from typing import Any, Final

import dagster as dg
import yaml  # type: ignore[import-untyped]  # Dagster brings it; its stubs are no package of ours
from dagster._core.instance.ref import InstanceRef  # the only way to hand an instance a password that is in no file

from regime_pipeline.orchestration.policies import ACCOUNT_TAG, BACKFILL_MAX_RUNTIME_S, JOB_TAG, LANE_TAG, OPINION_LANE, PACES
from regime_pipeline.settings import Settings, default_variable

URL_VARIABLE: Final = "REGIME_DAGSTER_DATABASE_URL"
"""Carries the address of Dagster's database, password included: neither dagster.yaml nor the UI's configuration page shows it."""

EVENT_BATCH: Final = ("DAGSTER_EVENT_BATCH_SIZE", "500")
"""A run over a range tells each day's materialization: three years of days are 6,600 events, 20 ms each when written one by one."""


def dagster_home(settings: Settings) -> Path:
    """Folder of Dagster's own configuration and logs."""
    return settings.home.resolve() / "dagster"


def build_config(home: Path) -> dict[str, Any]:
    """Build the configuration of a Dagster instance on Postgres; deploy/dagster.yaml says the same for servers.

    Parameters
    ----------
    home : Path
        Where compute logs go.
    """
    return {
        "storage": {"postgres": {"postgres_url": {"env": URL_VARIABLE}}},
        "compute_logs": {
            "module": "dagster._core.storage.local_compute_log_manager",
            "class": "LocalComputeLogManager",
            "config": {"base_dir": str(home / "compute")},
        },
        "local_artifact_storage": {
            "module": "dagster._core.storage.root",
            "class": "LocalArtifactStorage",
            "config": {"base_dir": str(home)},
        },
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": "QueuedRunCoordinator",
            "config": {"dequeue_interval_seconds": 1},
        },
        # One live run per job at a time, so that a slow minute is never overtaken; one backfill, so that two cores stay for the minute;
        # one tick per account, in the slot that all of those leave free.
        "concurrency": {
            "runs": {
                "max_concurrent_runs": 6,
                "tag_concurrency_limits": [
                    *({"key": JOB_TAG, "value": pace.job, "limit": 1} for pace in PACES.values()),
                    {"key": "dagster/backfill", "limit": 1},
                    {"key": LANE_TAG, "value": OPINION_LANE, "limit": 1},
                    {"key": ACCOUNT_TAG, "value": {"applyLimitPerUniqueValue": True}, "limit": 1},
                ],
            },
        },
        # A killed worker's run stays STARTED: it is ended after its maximum runtime, and its queue slot with it.
        "run_monitoring": {
            "enabled": True,
            # A range of 1,100 days writes an event for each before its run starts: 100 s and more on a busy machine.
            "start_timeout_seconds": 600,
            "cancel_timeout_seconds": 60,
            "max_runtime_seconds": BACKFILL_MAX_RUNTIME_S,
            "poll_interval_seconds": 30,
            "free_slots_after_run_end_seconds": 60,
        },
        # The runs of missed bars are never repeated: the next run makes up for them.
        "run_retries": {"enabled": False},
        "schedules": {"use_threads": True, "num_workers": 4},
        "sensors": {"use_threads": True, "num_workers": 6},
        "retention": {
            "schedule": {"purge_after_days": {"skipped": 2, "success": 2, "failure": 14, "started": 2}},
            "sensor": {"purge_after_days": {"skipped": 1, "success": 7, "failure": 14, "started": 2}},
        },
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
    }


def write_home(settings: Settings) -> Path:
    """Write `dagster.yaml` for this home, readable by its owner only; returns the folder. Safe to repeat."""
    home = dagster_home(settings)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = home / "dagster.yaml"
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text("# Written by `regime up`; deploy/dagster.yaml is the one to copy for a server.\n" + yaml.safe_dump(build_config(home)))
    return home


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Open the instance that `regime up` serves; its database is created on first use.

    Raises
    ------
    DatabaseError
        When the server cannot be reached or started.
    """
    from regime_pipeline.adapters.postgres.connect import database_urls

    home = write_home(settings)
    overrides = {"storage": {"postgres": {"postgres_url": database_urls(settings).dagster}}}
    default_variable(*EVENT_BATCH)
    instance = dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=overrides))
    # Otherwise every event opens connections of its own: 10 ms of a password handshake, three times per event.
    instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=5)
    return instance
