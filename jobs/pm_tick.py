"""Job `pm_tick`: one tick of the portfolio manager for one strategy. Requested by the sensor `regime_bar`.

Dagster only wakes it. Which bar it is about, whether it is decided already and whether it is too late is in the database: a run that is
repeated, doubled or hours late orders nothing twice. It is retried at no layer.
"""

from typing import Any

import dagster as dg

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.policies import TICK_PRIORITY, TICK_RUNTIME_S, TIMEFRAME_TAG, TRADING_TEAM
from regime_pipeline.orchestration.resources import Desk, Market
from regime_pipeline.orchestration.window import spell_bar
from regime_pipeline.services.trading.find_new_bars import execution_timeframes
from regime_pipeline.settings import load_settings


@dg.op(description="Decides the newest closed bar of a strategy, journals it, and on paper sends what it orders.", tags={"layer": "out"})
def decide_and_execute(context: dg.OpExecutionContext, market: Market, desk: Desk) -> None:
    """Tick the strategy that the run's tag names, or every one when somebody launches the job by hand."""
    from regime_pipeline.services.trading.load_tick import TickTerms
    from regime_pipeline.services.trading.run_pm_tick import run_pm_tick
    from regime_pipeline.services.trading.stand_in import stand_in

    trading, universe = desk.open(), market.universe()
    named = context.run.tags.get(TIMEFRAME_TAG)
    terms = TickTerms(min_validity=load_settings().min_validity)
    stand_in(trading)
    for timeframe in [Timeframe(named)] if named else execution_timeframes(universe):
        done = run_pm_tick(trading, universe, timeframe, terms=terms)
        told: dict[str, Any] = {
            "strategy": done.strategy,
            "outcome": done.outcome,
            "bar_close": "none" if done.bar_close_s is None else spell_bar(done.bar_close_s),
            "decision": str(done.decision_id or "none"),
            "took_ms": done.took_ms,
            **done.counts,
        }
        context.log.info("%s", told)
        if done.outcome == "decided":
            context.log_event(dg.AssetMaterialization("decisions", metadata=told))
        if done.execution is not None and done.execution.sent:
            steps = {name.replace("->", " to "): n for name, n in done.execution.steps.items()}
            context.log_event(dg.AssetMaterialization("orders", metadata={"strategy": done.strategy, "sent": done.execution.sent, **steps}))


@dg.job(
    executor_def=dg.in_process_executor,
    owners=[TRADING_TEAM],
    tags={"tier": "1"},
    run_tags={"dagster/max_retries": "0", "dagster/max_runtime": str(TICK_RUNTIME_S), "dagster/priority": str(TICK_PRIORITY)},
    description="One tick of the portfolio manager: levers, plan, risk gate, journal, orders. Never retried.",
)
def pm_tick() -> None:
    """Decide once; what follows from a decision is in the database, and every later run finds it there."""
    decide_and_execute()
