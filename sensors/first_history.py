"""Sensor `first_history`: an empty database gets the history that its first states need, without anybody asking."""

from typing import Final

import dagster as dg

from jobs.regime_macro import regime_macro
from jobs.regime_meso import regime_meso
from jobs.regime_micro import regime_micro
from regime_pipeline.clock import now_s
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.market.universe import DRIVERS
from regime_pipeline.orchestration.backfill import RANGE_END_TAG, RANGE_START_TAG
from regime_pipeline.orchestration.policies import DATA_TEAM, PACES
from regime_pipeline.orchestration.resources import Market, Stores
from regime_pipeline.orchestration.window import spell_bar
from regime_pipeline.services.plan_history import Span, find_span

HISTORY_BARS: Final = 1100
"""From the 333rd bar on there are states and from the 1,000th they count as mature; the rest is for bars that a venue lacks."""


def plan_first_history(timeframe: Timeframe, span: Span | None) -> dg.RunRequest | None:
    """Ask for the newest bars that a source has (`span`: half-open, epoch seconds), whole days in one run; None: it has none."""
    if span is None:
        return None
    first_s, end_s = max(span[0], span[1] - HISTORY_BARS * timeframe.seconds), span[1] - 1
    start_day, end_day = (spell_bar(Timeframe.D1.floor(at_s))[:10] for at_s in (first_s, end_s))
    return dg.RunRequest(
        run_key=f"first_history:{timeframe}:{end_day}",
        job_name=PACES[timeframe].job,
        tags={RANGE_START_TAG: start_day, RANGE_END_TAG: end_day},
    )


@dg.sensor(
    jobs=[regime_micro, regime_meso, regime_macro],
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=[DATA_TEAM],
    tags={"tier": "2"},
    description="Asks once a day for the newest 1,100 bars of every timeframe on which no driver has a state yet.",
)
def first_history(_context: dg.SensorEvaluationContext, stores: Stores, market: Market) -> dg.SensorResult:
    """Look for timeframes without any state; the run keys keep a restart from asking twice."""
    with stores.audit() as audit:
        drivers = [f"regime:{name}" for name in DRIVERS]
        bare = [each for each in REGIME_TIMEFRAMES if not audit.load_newest("uptrend_states", each, drivers)]
    plans = [plan_first_history(each, find_span(market.source(), market.universe(), each, now_s())) for each in reversed(bare)]
    return dg.SensorResult(run_requests=[plan for plan in plans if plan is not None])
