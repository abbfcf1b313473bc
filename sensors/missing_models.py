"""Sensor `missing_models`: a new database gets its first models as soon as there are bars for them, not only after midnight."""

from collections.abc import Collection

import dagster as dg

from jobs.second_opinions import opinions_refit
from regime_pipeline.clock import now_s
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.opinions import FIRST_TAG, GROUPS, LANE, OFF, TIMEFRAMES, opinion_key
from regime_pipeline.orchestration.policies import BAR_TAG, QUANT_TEAM
from regime_pipeline.orchestration.resources import Stores
from regime_pipeline.orchestration.window import spell_bar
from regime_pipeline.settings import load_settings

HOUR_S = 3600


def plan_first_models(missing: Collection[Timeframe], at_s: int) -> dg.RunRequest | None:
    """Ask once an hour for models of the timeframes on which some series has none and was not tried within the hour."""
    if not missing:
        return None
    hour = spell_bar(at_s // HOUR_S * HOUR_S)
    return dg.RunRequest(
        run_key=f"first_models:{hour}",
        partition_key=hour[:10],
        asset_selection=[opinion_key(group, f"hmm_models_{each}") for group in GROUPS for each in TIMEFRAMES if each in missing],
        tags={**LANE, FIRST_TAG: "yes", BAR_TAG: hour, "dagster/max_runtime": "900"},
    )


@dg.sensor(
    job=opinions_refit,
    minimum_interval_seconds=600,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=[QUANT_TEAM],
    tags={"tier": "3"},
    description="Asks, at most once an hour, for models of series that have none at all.",
)
def missing_models(_context: dg.SensorEvaluationContext, stores: Stores) -> dg.SensorResult | dg.SkipReason:
    """Look for series without a model."""
    from regime_pipeline.services.fit_hmm import find_without_model

    if not load_settings().opinions_enabled:
        return dg.SkipReason(OFF)
    at_s = now_s()
    with stores.open() as work:
        missing = [each for each in TIMEFRAMES if find_without_model(work, each, at_s)]
    plan = plan_first_models(missing, at_s)
    return dg.SkipReason("every series has a model or was tried within the hour") if plan is None else dg.SensorResult(run_requests=[plan])
