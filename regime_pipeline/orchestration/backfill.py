"""One run of a spine job over a range of days, in this process: what a backfill from the UI does, without web server or daemon."""

from datetime import date

import dagster as dg

from regime_pipeline.errors import RegimeError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.policies import PACES

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"


class BackfillFailedError(RegimeError):
    """The run ended without success; the next one over the same days heals what it left."""


def materialize_range(timeframe: Timeframe, start_day: date, end_day: date, instance: dg.DagsterInstance | None = None) -> str:
    """Run the job of a timeframe once over the days from `start_day` to `end_day`, both included.

    Parameters
    ----------
    instance : DagsterInstance, optional
        Where the run is recorded; default: that of the settings' home (see `open_instance`).

    Returns
    -------
    str
        The run's id.

    Raises
    ------
    BackfillFailedError
        When the run fails; the message names the step and the reason.
    """
    from regime_pipeline.definitions import build_defs

    if instance is None:
        from regime_pipeline.orchestration.instance import open_instance
        from regime_pipeline.settings import load_settings

        with open_instance(load_settings()) as own:
            return materialize_range(timeframe, start_day, end_day, own)
    job = build_defs().resolve_job_def(PACES[timeframe].job)
    result = job.execute_in_process(
        instance=instance,
        tags={RANGE_START_TAG: start_day.isoformat(), RANGE_END_TAG: end_day.isoformat()},
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    )
    if not result.success:
        failures = [f"{event.step_key}: {_reason(event)}" for event in result.filter_events(lambda event: event.is_step_failure)]
        raise BackfillFailedError(f"run {result.run_id} of {PACES[timeframe].job} failed. {' '.join(failures)}")
    return result.run_id


def _reason(event: dg.DagsterEvent) -> str:
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return "no reason given" if error is None else error.message.strip()
