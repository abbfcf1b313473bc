"""The asset graph: bars, drivers, trend states and deltas of the three regime timeframes. The stages are in orchestration/stages.py.

The minute is one step, because each further step of a run costs 40 ms and eight rows in the event log, 1,440 times a day. Hours and
days are a step per stage, so that one can be run again alone.
"""

import dagster as dg

from regime_pipeline.market.timeframe import HORIZONS, REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.orchestration.stages import STAGES, build_step


def build_timeframe_assets(timeframe: Timeframe) -> list[dg.AssetsDefinition]:
    """Build the steps of one timeframe in data order."""
    horizon = HORIZONS[timeframe]
    if timeframe is Timeframe.M1:
        return [build_step(horizon, STAGES[timeframe], timeframe)]
    return [build_step(f"{horizon}_{stage.name}", (stage,), timeframe) for stage in STAGES[timeframe]]


REGIME_ASSETS = [step for timeframe in REGIME_TIMEFRAMES for step in build_timeframe_assets(timeframe)]
