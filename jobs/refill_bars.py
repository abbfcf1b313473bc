"""Job `refill_bars`: asks vendors again for the bars that are missing. Requested by the sensor `bar_gaps`."""

import dagster as dg

from regime_pipeline.clock import now_s
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.policies import DATA_TEAM
from regime_pipeline.orchestration.resources import Market, Stores


@dg.op(description="Asks for every gap that is due, writes the bars that come and counts the attempts.", tags={"layer": "upkeep"})
def ask_for_gaps(context: dg.OpExecutionContext, stores: Stores, market: Market) -> None:
    """Repair all timeframes, and tell what came."""
    from regime_pipeline.services.repair_gaps import repair_gaps

    told: dict[str, dict[str, int]] = {}
    failures: list[str] = []
    for timeframe in Timeframe:
        done = repair_gaps(stores, market.source(), market.universe(), timeframe, now_s())
        if done.asked:
            told[timeframe.value] = {name: getattr(done, name) for name in ("asked", "found", "vendor_none", "still_missing")}
        failures += done.failures
    context.add_output_metadata({"gaps": told, "vendors_not_read": failures[:20]})
    context.log.info("asked for the gaps of %s timeframes, %s vendors could not be read", len(told), len(failures))


@dg.job(
    executor_def=dg.in_process_executor,
    owners=[DATA_TEAM],
    tags={"tier": "2"},
    run_tags={"dagster/max_runtime": "900", "dagster/priority": "-2"},
    description="Fetches missing bars again, until they come or the vendors have shown that they have none.",
)
def refill_bars() -> None:
    """Ask again; what follows from the bars is derived by the next run of their timeframe."""
    ask_for_gaps()
