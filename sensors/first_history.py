"""Sensor `first_history`: an empty database gets the history that its first states need, without anybody asking.

`regime up` fetches it before it serves (services/bootstrap.py), in seconds; this is for servers that are started otherwise.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import dagster as dg

from jobs.regime_macro import regime_macro
from jobs.regime_meso import regime_meso
from jobs.regime_micro import regime_micro
from regime_pipeline.clock import now_s, utc_now
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.market.universe import DRIVERS
from regime_pipeline.orchestration.backfill import RANGE_END_TAG, RANGE_START_TAG
from regime_pipeline.orchestration.policies import DATA_TEAM, PACES
from regime_pipeline.orchestration.resources import Market, Stores
from regime_pipeline.orchestration.window import spell_bar
from regime_pipeline.services.plan_history import Span, find_span

HISTORY_BARS: Final = 1100
"""From the 333rd bar on there are states and from the 1,000th they count as mature; the rest is for bars that a venue lacks."""

FIRST_TAG: Final = "regime/first_history"
REST: Final = timedelta(minutes=10)
"""How long a failed attempt rests: what broke it, say a machine too busy to start it, wants time."""


def plan_first_history(timeframe: Timeframe, span: Span | None) -> dg.RunRequest | None:
    """Ask for the newest bars that a source has (`span`: half-open, epoch seconds), whole days in one run; None: it has none."""
    if span is None:
        return None
    first_s, end_s = max(span[0], span[1] - HISTORY_BARS * timeframe.seconds), span[1] - 1
    start_day, end_day = (spell_bar(Timeframe.D1.floor(at_s))[:10] for at_s in (first_s, end_s))
    return dg.RunRequest(
        run_key=f"first_history:{timeframe}:{end_day}",
        job_name=PACES[timeframe].job,
        tags={FIRST_TAG: f"{timeframe}:{end_day}", RANGE_START_TAG: start_day, RANGE_END_TAG: end_day},
    )


def plan_attempt(request: dg.RunRequest, failed_at: Sequence[datetime], now: datetime) -> dg.RunRequest | None:
    """Ask again after a failed run, under a key of its own; None while the last one rests.

    A run under way or done keeps its key, so nothing is asked for twice; one that left no states is asked for again the next day.
    """
    if failed_at and now - max(failed_at) < REST:
        return None
    return request.with_replaced_attrs(run_key=f"{request.run_key}:{len(failed_at)}") if failed_at else request


@dg.sensor(
    jobs=[regime_micro, regime_meso, regime_macro],
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=[DATA_TEAM],
    tags={"tier": "2"},
    description="Asks once a day, and again ten minutes after a failure, for the newest 1,100 bars of timeframes without any state.",
)
def first_history(context: dg.SensorEvaluationContext, stores: Stores, market: Market) -> dg.SensorResult:
    """Look for timeframes without any state; the run keys keep a restart from asking twice."""
    with stores.audit() as audit:
        drivers = [f"regime:{name}" for name in DRIVERS]
        bare = [each for each in REGIME_TIMEFRAMES if not audit.load_newest("uptrend_states", each, drivers)]
    plans = [plan_first_history(each, find_span(market.source(), market.universe(), each, now_s())) for each in reversed(bare)]
    attempts = [plan_attempt(plan, find_failures(context.instance, plan.tags[FIRST_TAG]), utc_now()) for plan in plans if plan is not None]
    return dg.SensorResult(run_requests=[attempt for attempt in attempts if attempt is not None])


def find_failures(instance: dg.DagsterInstance, span: str) -> list[datetime]:
    """List when runs for a span (value of `FIRST_TAG`) failed or were stopped."""
    over = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    return [record.update_timestamp for record in instance.get_run_records(dg.RunsFilter(tags={FIRST_TAG: span}, statuses=over))]
