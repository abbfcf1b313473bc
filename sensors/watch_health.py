"""Sensor `watch_health`: once a minute, is all well? What is not is recorded and sent; when all is, the watchman outside is told."""

import dagster as dg

from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.orchestration.health import watch_once
from regime_pipeline.orchestration.policies import DATA_TEAM
from regime_pipeline.services.watch_health import SLOW_EVERY_S, WatchSummary


def is_slow_due(cursor: str | None, now_s: int) -> bool:
    """Tell whether the slow questions are due; the cursor holds when they were asked last, epoch seconds."""
    return cursor is None or now_s - int(cursor) >= SLOW_EVERY_S


def describe(summary: WatchSummary) -> str:
    """Tell in one line what a look found and sent."""
    sent = ", ".join(f"{channel}: {what}" for channel, what in summary.sent.items()) or "no channel"
    return f"{len(summary.found)} alerts hold, {len(summary.plan.opened)} new, {len(summary.plan.resolved)} over; {sent}"


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=[DATA_TEAM],
    tags={"tier": "1"},
    description="Looks once a minute for everything that docs/runbook.md has a section for, records it, sends it, and starts no run.",
)
def watch_health(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Look once; the tick fails in sight when nothing can be recorded."""
    if context.repository_def is None:
        raise dg.DagsterInvariantViolationError("the sensor was evaluated outside a repository: it cannot know what to watch")
    now_s = read_now_s()
    with_slow = is_slow_due(context.cursor, now_s)
    summary = watch_once(context.instance, context.repository_def, now_s, with_slow=with_slow)
    if with_slow:
        context.update_cursor(str(now_s))
    return dg.SkipReason(describe(summary))
