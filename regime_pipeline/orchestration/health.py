"""What Dagster knows about its own health, and the watch over everything, wired from the settings."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus  # has no public name

from regime_pipeline.errors import DatabaseError
from regime_pipeline.orchestration.instance import open_instance
from regime_pipeline.orchestration.resources import database_url
from regime_pipeline.ports import FailedCheck, JobOutcome, Scheduler
from regime_pipeline.services.alert_kinds import read_modes
from regime_pipeline.services.raise_alerts import AlertRules
from regime_pipeline.services.watch_health import Watched, WatchRules, WatchSummary, watch_health
from regime_pipeline.settings import Settings, load_settings

MAX_RUNS = 50
"""Of a job's newest finished runs are looked at: enough to count failures in a row."""


class DagsterScheduler:
    """`Scheduler` on an instance.

    Parameters
    ----------
    jobs : sequence of str, and checks : sequence of AssetCheckKey
        What is watched: all that is defined.
    """

    def __init__(self, instance: dg.DagsterInstance, jobs: Sequence[str], checks: Sequence[dg.AssetCheckKey]) -> None:
        self._instance, self._jobs, self._checks = instance, jobs, checks

    def load_failing_jobs(self, since_s: int) -> list[JobOutcome]:
        """Load the jobs whose newest finished run failed, or that failed since then."""
        outcomes = []
        for job in self._jobs:
            ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
            with _translate():
                # by the time of their end: a backfill started long ago may end last
                records = self._instance.get_run_records(
                    dg.RunsFilter(job_name=job, statuses=ended), limit=MAX_RUNS, order_by="update_timestamp"
                )
            failed = [at for at, record in enumerate(records) if record.dagster_run.status is dg.DagsterRunStatus.FAILURE]
            if not failed or (failed[0] > 0 and _end_of(records[failed[0]]) < since_s):
                continue
            good = [at for at in range(len(records)) if at not in set(failed)]
            newest = records[failed[0]]
            run_id = newest.dagster_run.run_id
            outcomes.append(
                JobOutcome(
                    job=job,
                    failed_s=_end_of(newest),
                    run_id=run_id,
                    error=self._error_of(run_id),
                    failures=good[0] if good else len(records),
                    succeeded_s=_end_of(records[good[0]]) if good else None,
                )
            )
        return outcomes

    def load_failed_checks(self) -> list[FailedCheck]:
        """Load the checks that have failed last."""
        with _translate():
            latest = self._instance.event_log_storage.get_latest_asset_check_execution_by_key(list(self._checks))
        failed = []
        for key, record in latest.items():
            event = record.event.dagster_event if record.event is not None else None
            if record.status is not AssetCheckExecutionRecordStatus.FAILED or event is None:
                continue
            verdict = event.asset_check_evaluation_data
            if verdict.severity is dg.AssetCheckSeverity.ERROR:
                faults = verdict.metadata.get("faults")
                n_faults = int(faults.value) if isinstance(faults, dg.IntMetadataValue) and faults.value is not None else None
                failed.append(FailedCheck(key.asset_key.to_user_string(), key.name, record.run_id, int(record.create_timestamp), n_faults))
        return failed

    def load_daemon_beats(self) -> dict[str, int]:
        """Load when each daemon of the instance last gave a sign; one that never did is absent."""
        with _translate():
            wanted, beats = set(self._instance.get_required_daemon_types()), self._instance.get_daemon_heartbeats()
        return {name: int(beat.timestamp) for name, beat in beats.items() if name in wanted}

    def load_size_bytes(self) -> int:
        """Load the size of its database; 0 where it has none."""
        from dagster_postgres.run_storage import PostgresRunStorage
        from sqlalchemy import text

        storage = self._instance.run_storage
        if not isinstance(storage, PostgresRunStorage):
            return 0
        with _translate(), storage.connect() as conn:
            return int(conn.execute(text("select pg_database_size(current_database())")).scalar_one())

    def _error_of(self, run_id: str) -> str:
        """Tell in one line why a run failed: the innermost error of the step that failed first, or of the run."""
        wanted = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
        with _translate():
            records = self._instance.get_records_for_run(run_id, of_type=wanted, limit=1).records
        for record in records:
            event = record.event_log_entry.dagster_event
            data = event.event_specific_data if event is not None else None
            error = getattr(data, "error", None)
            while error is not None and error.cause is not None:
                error = error.cause
            message = error.message if error is not None else (event.message if event is not None else "")
            return " ".join((message or "no message").split())[:300]
        return "ended without a message"


def watch_once(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, now_s: int, *, with_slow: bool) -> WatchSummary:
    """Look once at everything that the settings and a repository name."""
    settings = load_settings()
    watched = build_watched(settings, database_url(settings), build_scheduler(instance, repository))
    rules = build_rules(settings, [notifier.channel for notifier in watched.notifiers])
    if rules.has_executor:
        guard_silence(settings, now_s)
    return watch_health(watched, rules, now_s, with_slow=with_slow)


def guard_silence(settings: Settings, now_s: int) -> None:
    """Stop entries while the executor of the account is silent: an alert alone stops no order."""
    from regime_pipeline.adapters.postgres.work import PostgresStores
    from regime_pipeline.services.trading.watch_executor import watch_executor

    stores = PostgresStores(database_url(settings))
    with stores.open() as work:
        watch_executor(work, settings.trading_account, now_s)
    stores.close()


def watch_from_outside(settings: Settings, repository: dg.RepositoryDefinition, now_s: int, *, with_slow: bool) -> WatchSummary:
    """Look once without a daemon.

    Raises
    ------
    DatabaseError
        When one of the two databases cannot be used.
    """
    with _translate(), open_instance(settings) as instance:
        return watch_once(instance, repository, now_s, with_slow=with_slow)


def build_scheduler(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition) -> DagsterScheduler:
    """Watch every job and check that a repository defines."""
    jobs = [job.name for job in repository.get_all_jobs() if not job.name.startswith("__")]
    return DagsterScheduler(instance, jobs, sorted(repository.asset_graph.asset_check_keys))


def build_rules(settings: Settings, channels: Sequence[str]) -> WatchRules:
    """Tell what to expect of this instance.

    Raises
    ------
    ConfigError
        When `alert_modes` cannot be read.
    """
    return WatchRules(
        alerts=AlertRules(settings.instance_name, read_modes(settings.alert_modes), channels),
        min_validity=settings.min_validity,
        monthly_calls=settings.coingecko_monthly_calls,
        is_growing=settings.source != "recorded",
        has_collector=settings.source == "live",
        account=settings.trading_account,
        is_trading=settings.trading_enabled,
        has_executor=settings.with_executor or settings.trading_mode != "paper",
    )


def build_watched(settings: Settings, database_url: str, scheduler: Scheduler | None) -> Watched:
    """Build everything that a watch asks and tells.

    Raises
    ------
    ConfigError
        When an address in `alert_urls` is none that Apprise understands.
    """
    from regime_pipeline.adapters.latch_file import LATCH_NAME, LatchFile
    from regime_pipeline.adapters.notify.channels import build_notifiers
    from regime_pipeline.adapters.notify.dead_man import HttpDeadMan
    from regime_pipeline.adapters.postgres.alert_store import PostgresAlerts
    from regime_pipeline.adapters.postgres.health_store import PostgresHealth
    from regime_pipeline.adapters.postgres.trading_health import PostgresTradingHealth

    return Watched(
        health=PostgresHealth(database_url),
        alerts=PostgresAlerts(database_url, settings.instance_name),
        scheduler=scheduler,
        free_bytes=lambda: shutil.disk_usage(_existing(settings.home)).free,
        notifiers=build_notifiers(settings.alert_file, settings.alert_urls),
        dead_man=HttpDeadMan(settings.dead_man_url) if settings.dead_man_url is not None else None,
        trading=PostgresTradingHealth(database_url),
        read_latch=LatchFile(settings.kill_dir / LATCH_NAME).read,
    )


def _existing(folder: Path) -> Path:
    """Find the folder, or the nearest one above it that exists: with a database elsewhere the home may not."""
    folder = folder.resolve()
    return next(each for each in (folder, *folder.parents) if each.exists())


def _end_of(record: dg.RunRecord) -> int:
    return int(record.end_time if record.end_time is not None else record.update_timestamp.timestamp())


@contextmanager
def _translate() -> Iterator[None]:
    """Turn an unreadable instance into an error of ours."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        raise DatabaseError(
            f"Dagster's database could not be read: {' '.join(str(error).split())[:300]}. See `regime db status`."
        ) from error
