"""Job `daily_digest`: once a day the book goes to the people, through the channels of the alerts."""

import dagster as dg

from regime_pipeline.clock import now_s
from regime_pipeline.orchestration.policies import TRADING_TEAM
from regime_pipeline.orchestration.resources import Stores
from regime_pipeline.settings import load_settings


@dg.op(description="Sends P&L, positions, orders, refusals by code and open incidents to every channel.", tags={"layer": "out"})
def send_daily_digest(context: dg.OpExecutionContext, stores: Stores) -> None:
    """Send, and tell what was sent."""
    from regime_pipeline.orchestration.digest import build_channels, digest_terms
    from regime_pipeline.services.trading.send_digest import send_digest

    settings = load_settings()
    notifiers = build_channels(settings)
    message = send_digest(stores, notifiers, digest_terms(settings), now_s())
    context.add_output_metadata(
        {"title": message.title, "body": dg.MetadataValue.md(f"```\n{message.body}\n```"), "channels": len(notifiers)}
    )


@dg.job(
    executor_def=dg.in_process_executor,
    owners=[TRADING_TEAM],
    tags={"tier": "3"},
    run_tags={"dagster/max_runtime": "300", "dagster/priority": "-4", "dagster/max_retries": "0"},
    description="Daily: what the book made and holds, what was refused and why, what went wrong.",
)
def daily_digest() -> None:
    """Send the digest."""
    send_daily_digest()


@dg.schedule(
    job=daily_digest,
    cron_schedule="9 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    owners=[TRADING_TEAM],
    tags={"tier": "3"},
    description="Nine minutes past the hour that REGIME_DIGEST_HOUR names, UTC.",
)
def daily_digest_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Ask once a day; the setting is read at each tick."""
    tick, hour = context.scheduled_execution_time, load_settings().digest_hour
    if tick.hour != hour:
        return dg.SkipReason(f"the digest is sent at {hour:02}:09 UTC")
    return dg.RunRequest(run_key=f"digest:{tick:%Y-%m-%d}")
