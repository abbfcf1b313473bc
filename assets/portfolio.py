"""The portfolio as assets: decisions, orders, positions and equity, each told from its table; making one orders nothing."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.orchestration.portfolio import REPORTS, tell
from regime_pipeline.orchestration.resources import Stores
from regime_pipeline.settings import load_settings


@dg.multi_asset(
    name="tell_portfolio",
    specs=[report.spec for report in REPORTS],
    check_specs=[spec for report in REPORTS if (spec := report.check_spec) is not None],
    can_subset=True,
    op_tags={"layer": "out"},
)
def portfolio_report(context: dg.AssetExecutionContext, stores: Stores) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Read the tables and tell what is in them; no row is written."""
    selected = {key.to_user_string() for key in context.selected_asset_keys}
    with stores.open() as work:
        yield from tell([report for report in REPORTS if report.name in selected], work, load_settings(), read_now_s())


PORTFOLIO_ASSETS = [portfolio_report]
