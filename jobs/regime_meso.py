"""Job `regime_meso` and its schedule: two minutes past every hour."""

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.spine import build_job, build_schedule

regime_meso = build_job(Timeframe.H1, "Every hour: hourly bars, drivers, their trend states and deltas.")

regime_meso_schedule = build_schedule(
    regime_meso,
    Timeframe.H1,
    "Two minutes past, so that venues have published the closed hour.",
)
