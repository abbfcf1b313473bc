"""The composition root: every definition that Dagster serves. Tests hand in their own resources."""

from collections.abc import Mapping

import dagster as dg

from assets.regime import REGIME_ASSETS
from assets.second_opinions import OPINION_ASSETS
from jobs.prune_history import prune_history, prune_history_schedule
from jobs.refill_bars import refill_bars
from jobs.regime_macro import regime_macro, regime_macro_schedule
from jobs.regime_meso import regime_meso, regime_meso_schedule
from jobs.regime_micro import regime_micro, regime_micro_schedule
from jobs.second_opinions import OPINION_JOBS, OPINION_SCHEDULES
from regime_pipeline.orchestration.opinion_checks import opinion_checks
from regime_pipeline.orchestration.preload import fork_runs
from regime_pipeline.orchestration.resources import Market, Stores
from sensors.bar_gaps import bar_gaps
from sensors.first_history import first_history
from sensors.missing_models import missing_models
from sensors.watch_health import watch_health


def build_defs(**overrides: object) -> dg.Definitions:
    """Build fresh definitions.

    Parameters
    ----------
    **overrides : object
        Resources by name (`stores`, `market`) to use instead of our own.
    """
    resources: Mapping[str, object] = {"stores": Stores(), "market": Market(), **overrides}
    return dg.Definitions(
        assets=[*REGIME_ASSETS, *OPINION_ASSETS],
        asset_checks=[opinion_checks],
        jobs=[regime_micro, regime_meso, regime_macro, prune_history, refill_bars, *OPINION_JOBS],
        schedules=[regime_micro_schedule, regime_meso_schedule, regime_macro_schedule, prune_history_schedule, *OPINION_SCHEDULES],
        sensors=[bar_gaps, first_history, watch_health, missing_models],
        resources=resources,
        executor=dg.in_process_executor,
    )


fork_runs()
defs = build_defs()
