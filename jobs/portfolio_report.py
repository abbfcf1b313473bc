"""Job `portfolio_report`: the assets of the portfolio with their pictures and checks, every quarter of an hour."""

import dagster as dg

from regime_pipeline.orchestration.policies import TRADING_TEAM

portfolio_report = dg.define_asset_job(
    "portfolio_report",
    selection=dg.AssetSelection.tag("domain", "portfolio"),
    executor_def=dg.in_process_executor,
    owners=[TRADING_TEAM],
    tags={"tier": "3"},
    run_tags={"dagster/max_runtime": "300", "dagster/priority": "-3"},
    description="Tells decisions, orders, positions and equity from their tables, and checks that the book adds up.",
)

portfolio_report_schedule = dg.ScheduleDefinition(
    name="portfolio_report_schedule",
    job=portfolio_report,
    cron_schedule="7,22,37,52 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    owners=[TRADING_TEAM],
    tags={"tier": "3"},
    description="Seven minutes past each quarter, when the ticks of the quarter are through.",
)
