"""The second opinions: models, what they say, the snapshots, and what they were worth. No asset of the trading path depends on any."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.orchestration.opinions import GROUPS, PREFIX, TIMEFRAMES, build_refit, build_step, opinion_key
from regime_pipeline.orchestration.policies import QUANT_TEAM
from regime_pipeline.orchestration.resources import Market, Stores


@dg.asset(
    key=[PREFIX, "opinion_evaluation"],
    deps=[opinion_key(group, "regime_snapshots") for group in GROUPS],
    group_name=PREFIX,
    owners=[QUANT_TEAM],
    kinds={"python", "postgres"},
    tags={"layer": PREFIX},
    code_version="so-1",
    description="What followed the opinions of the month and of the year before, live rows and backfilled ones apart. It switches nothing.",
)
def opinion_evaluation(stores: Stores, market: Market) -> dg.MaterializeResult[Any]:
    """Judge and store; the answer in words is in the metadata."""
    from regime_pipeline.board.opinion_report import describe_report, render_markdown
    from regime_pipeline.regime.opinions.evaluation import windows_before
    from regime_pipeline.services.evaluate_opinions import evaluate_opinions, save_report

    metadata: dict[str, Any] = {}
    for window, (start, end) in windows_before(datetime.fromtimestamp(read_now_s(), UTC)).items():
        for origin, is_live in (("live", True), ("backfill", False)):
            bounds_s = (int(start.timestamp()), int(end.timestamp()))
            report = evaluate_opinions(stores, market.universe(), window, *bounds_s, is_live=is_live)
            with stores.open() as work:
                save_report(work, report)
            metadata[f"{window}_{origin}_id"] = report.evaluation_id
            metadata[f"{window}_{origin}"] = dg.MetadataValue.md(render_markdown(describe_report(report)[:3]))
    return dg.MaterializeResult(metadata=metadata)


OPINION_ASSETS = [
    *(build_refit(timeframe) for timeframe in TIMEFRAMES),
    *(build_step(timeframe) for timeframe in TIMEFRAMES),
    opinion_evaluation,
]
