"""Who owns what, how long runs may take, who goes first, what is tried again."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import dagster as dg

from regime_pipeline.market.timeframe import Timeframe

DATA_TEAM: Final = "team:data"
QUANT_TEAM: Final = "team:quant"
TRADING_TEAM: Final = "team:trading"

BAR_TAG: Final = "regime/bar_ts"
"""Run tag of a live run: the open time, ISO 8601 with zone, of the bar it was started for."""
JOB_TAG: Final = "regime/job"
"""Run tag that the queue counts: dagster.yaml lets one live run of each job be under way at a time."""

TELL_EVERY_S: Final = 900
"""A live minute tells Dagster of its checks, and draws its picture, at each quarter of an hour; a check that fails is always told."""

LANE_TAG: Final = "regime/lane"
OPINION_LANE: Final = "opinions"
"""Run tag of every run of the second opinions: of all of them one is under way at a time, so that they never hold a slot that the spine
waits for."""

ACCOUNT_TAG: Final = "regime/account"
"""Run tag of what acts on an account: of each account one such run is under way at a time."""
STRATEGY_TAG: Final = "regime/strategy"
TIMEFRAME_TAG: Final = "regime/exec_timeframe"
TICK_PRIORITY: Final = 15
"""After the minute, before everything else."""
TICK_RUNTIME_S: Final = 120

FETCH_RETRY: Final = dg.RetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""Hours and days ask again themselves. A minute does not: the next one comes sooner and begins where this one stopped."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When a timeframe's job runs and how late it may end."""

    job: str
    cron: str
    delay: timedelta
    max_runtime_s: int
    priority: int


PACES: Final = {
    # cron cannot say "five seconds past": the run starts at the minute and waits out what is left of the grace
    Timeframe.M1: Pace("regime_micro", "* * * * *", timedelta(0), 300, 20),
    Timeframe.H1: Pace("regime_meso", "2 * * * *", timedelta(minutes=2), 900, 10),
    Timeframe.D1: Pace("regime_macro", "5 0 * * *", timedelta(minutes=5), 1800, 5),
}
BACKFILL_MAX_RUNTIME_S: Final = 6 * 3600
"""Of any run that names no maximum itself: a year of minutes takes less."""
