"""Job `regime_macro` and its schedule: five minutes past midnight UTC."""

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.spine import build_job, build_schedule

regime_macro = build_job(Timeframe.D1, "Every day: daily bars, market-cap buckets, drivers, their trend states and deltas.")

regime_macro_schedule = build_schedule(
    regime_macro,
    Timeframe.D1,
    "Five minutes past midnight UTC, so that venues have published the closed day.",
)
