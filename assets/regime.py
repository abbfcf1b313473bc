"""The asset graph: bars, drivers, trend states and deltas of the three regime timeframes. The stages are in orchestration/stages.py.

The minute is one step, because each further step of a run costs 40 ms and eight rows in the event log, 1,440 times a day. Hours and
days are a step per stage, so that one can be run again alone.
"""

import dagster as dg

from regime_pipeline.market.timeframe import HORIZONS, REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.orchestration.stages import BUCKETS, DELTAS, DRIVERS, INGEST, TREND, build_step


def build_timeframe_assets(timeframe: Timeframe) -> list[dg.AssetsDefinition]:
    """Build the steps of one timeframe in data order."""
    horizon = HORIZONS[timeframe]
    if timeframe is Timeframe.M1:
        return [build_step(horizon, (INGEST, DRIVERS, TREND, DELTAS), timeframe)]
    stages = (INGEST, BUCKETS, DRIVERS, TREND, DELTAS) if timeframe is Timeframe.D1 else (INGEST, DRIVERS, TREND, DELTAS)
    return [build_step(f"{horizon}_{stage.name}", (stage,), timeframe) for stage in stages]


REGIME_ASSETS = [step for timeframe in REGIME_TIMEFRAMES for step in build_timeframe_assets(timeframe)]
