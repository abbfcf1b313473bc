"""The composition root: every definition that Dagster serves. Tests hand in their own resources."""

from collections.abc import Mapping

import dagster as dg

from assets.portfolio import PORTFOLIO_ASSETS
from assets.regime import REGIME_ASSETS
from assets.second_opinions import OPINION_ASSETS
from jobs.daily_digest import daily_digest, daily_digest_schedule
from jobs.pm_tick import pm_tick
from jobs.portfolio_report import portfolio_report, portfolio_report_schedule
from jobs.prune_history import prune_history, prune_history_schedule
from jobs.refill_bars import refill_bars
from jobs.regime_macro import regime_macro, regime_macro_schedule
from jobs.regime_meso import regime_meso, regime_meso_schedule
from jobs.regime_micro import regime_micro, regime_micro_schedule
from jobs.second_opinions import OPINION_JOBS, OPINION_SCHEDULES
from regime_pipeline.orchestration.opinion_checks import opinion_checks
from regime_pipeline.orchestration.preload import fork_runs
from regime_pipeline.orchestration.resources import Desk, Market, Stores
from sensors.bar_gaps import bar_gaps
from sensors.first_history import first_history
from sensors.missing_models import missing_models
from sensors.recover_orders import recover_orders
from sensors.regime_bar import regime_bar
from sensors.watch_health import watch_health

SPINE_JOBS = [regime_micro, regime_meso, regime_macro]
SPINE_SCHEDULES = [regime_micro_schedule, regime_meso_schedule, regime_macro_schedule]


def build_defs(**overrides: object) -> dg.Definitions:
    """Build fresh definitions.

    Parameters
    ----------
    **overrides : object
        Resources by name (`stores`, `market`, `desk`) to use instead of our own.
    """
    resources: Mapping[str, object] = {"stores": Stores(), "market": Market(), "desk": Desk(), **overrides}
    return dg.Definitions(
        assets=[*REGIME_ASSETS, *OPINION_ASSETS, *PORTFOLIO_ASSETS],
        asset_checks=[opinion_checks],
        jobs=[*SPINE_JOBS, prune_history, refill_bars, pm_tick, portfolio_report, daily_digest, *OPINION_JOBS],
        schedules=[*SPINE_SCHEDULES, prune_history_schedule, portfolio_report_schedule, daily_digest_schedule, *OPINION_SCHEDULES],
        sensors=[bar_gaps, first_history, watch_health, missing_models, regime_bar, recover_orders],
        resources=resources,
        executor=dg.in_process_executor,
    )


fork_runs()
defs = build_defs()
