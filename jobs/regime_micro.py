"""Job `regime_micro` and its schedule: every minute, for the minute just closed."""

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.spine import build_job, build_schedule

regime_micro = build_job(Timeframe.M1, "Every minute: bars of majors and tokens, drivers, their trend states and deltas.")

regime_micro_schedule = build_schedule(
    regime_micro,
    Timeframe.M1,
    "Fires at the full minute; the run waits out the rest of the five seconds that venues take to publish.",
)
