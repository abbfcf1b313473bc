"""Checks of the second opinions, in the hourly job. None of them blocks anything: opinions inform, they do not gate."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.orchestration.checks import tabulate
from regime_pipeline.orchestration.opinions import GROUPS, TIMEFRAMES, opinion_key, suffixed
from regime_pipeline.orchestration.resources import Market, Stores

if TYPE_CHECKING:
    from regime_pipeline.adapters.postgres.opinion_audit import OpinionAudit

RECOMPUTED: Final = 20
SETTLED_S: Final = 180
"""Minutes younger than this may still be on their way."""
DAY_S: Final = 86_400

Faults = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Scope:
    """What a check is about."""

    audit: "OpinionAudit"
    stores: Stores
    universe: Universe
    timeframe: Timeframe
    now_s: int


@dataclass(frozen=True, slots=True)
class OpinionCheck:
    """A rule on one asset, on the timeframes that have it; each fault says whether it is a warning or an error."""

    name: str
    asset: str
    description: str
    judge: Callable[[Scope], Faults]
    timeframes: tuple[Timeframe, ...] = TIMEFRAMES

    def each(self) -> Iterator[tuple[str, Timeframe, dg.AssetCheckKey]]:
        """Name the check of every group and timeframe."""
        for group in GROUPS:
            for timeframe in self.timeframes:
                yield group, timeframe, dg.AssetCheckKey(opinion_key(group, suffixed(self.asset, timeframe)), self.name)


def _recompute(scope: Scope) -> Faults:
    """Recompute live rows whose bars are still those of the time they were written."""
    from regime_pipeline.services.opinion_bars import find_bars_of
    from regime_pipeline.services.recheck_opinions import is_same, reach_of, recompute_posterior

    faults = []
    for series, slot_s, written_s in scope.audit.choose_live_rows(scope.timeframe, RECOMPUTED):
        name = find_bars_of(scope.universe, series)[1]
        if scope.audit.has_late_bars(name, scope.timeframe, *reach_of(scope.timeframe, slot_s), written_s):
            continue
        with scope.stores.open() as work:
            stored, again = recompute_posterior(work, scope.universe, series, scope.timeframe, slot_s)
        if not is_same(stored, again):
            faults.append({"severity": "ERROR", "series": series, "slot": slot_s, "stored": str(stored.p), "again": str(again.p)})
    return faults


def _missing_minutes(scope: Scope) -> Faults:
    end_s = (scope.now_s - SETTLED_S) // 60 * 60
    return scope.audit.find_missing_minutes(end_s // DAY_S * DAY_S, end_s)


CHECKS: Final = (
    OpinionCheck(
        "posterior_valid",
        "hmm_posteriors",
        "Posteriors sum to 1 and lie in [0, 1]; unknown rows are exactly uniform with confidence 0.",
        lambda scope: scope.audit.find_bad_posteriors(scope.timeframe),
    ),
    OpinionCheck(
        "freshness",
        "hmm_posteriors",
        "The newest row of each series is younger than its limit; older than four times it is an error.",
        lambda scope: scope.audit.find_stale(scope.timeframe),
    ),
    OpinionCheck(
        "unknown_share",
        "hmm_posteriors",
        "At most 5 % of the last day's rows are unknown; more than half is an error.",
        lambda scope: scope.audit.find_unknown(scope.timeframe),
    ),
    OpinionCheck(
        "point_in_time",
        "hmm_posteriors",
        "Twenty live rows, computed again from the bars stored when they were written, say the same.",
        _recompute,
    ),
    OpinionCheck(
        "label_stability",
        "hmm_models",
        "The newest refit keeps at least 70 % of the labels of the model before; under 40 % is an error.",
        lambda scope: scope.audit.find_unstable_models(scope.timeframe),
    ),
    OpinionCheck(
        "model_health",
        "hmm_models",
        "A model is at most two days old, its labels are neither weak nor one-sided, the last refit was accepted; seven days or none "
        "is an error.",
        lambda scope: scope.audit.find_poor_models(scope.timeframe),
    ),
    OpinionCheck(
        "alert_share",
        "changepoints",
        "At most 20 % of the bars of a week are at level alert or above.",
        lambda scope: scope.audit.find_frequent_alerts(scope.timeframe),
    ),
    OpinionCheck(
        "volatility_shares",
        "volatility_regimes",
        "Shock covers 2 to 15 % of the known bars of 90 days.",
        lambda scope: scope.audit.find_odd_shock_shares(scope.timeframe),
        (Timeframe.M15, Timeframe.H1),
    ),
    OpinionCheck(
        "snapshot_complete",
        "regime_snapshots",
        "Each minute of today has its row, once, for every series.",
        _missing_minutes,
        (Timeframe.M1,),
    ),
)
CHECK_KEYS: Final = {key: (check, group, timeframe) for check in CHECKS for group, timeframe, key in check.each()}


@dg.multi_asset_check(
    name="opinion_checks",
    specs=[dg.AssetCheckSpec(key.name, asset=key.asset_key, description=check.description) for key, (check, _, _) in CHECK_KEYS.items()],
    can_subset=True,
    op_tags={"layer": "second_opinions"},
)
def opinion_checks(context: dg.AssetCheckExecutionContext, stores: Stores, market: Market) -> Iterator[dg.AssetCheckResult]:
    """Judge what is stored, after the hour's rows."""
    from regime_pipeline.adapters.postgres.opinion_audit import OpinionAudit

    now_s = read_now_s()
    with stores.audit() as audit:
        for key in context.selected_asset_check_keys:
            check, group, timeframe = CHECK_KEYS[key]
            scope = Scope(OpinionAudit(audit.conn, GROUPS[group], now_s), stores, market.universe(), timeframe, now_s)
            faults = check.judge(scope)
            severe = any(fault["severity"] == "ERROR" for fault in faults)
            metadata: dict[str, Any] = {"faults": len(faults)} | ({"rows": tabulate(faults)} if faults else {})
            yield dg.AssetCheckResult(
                passed=not faults,
                check_name=key.name,
                asset_key=key.asset_key,
                severity=dg.AssetCheckSeverity.ERROR if severe else dg.AssetCheckSeverity.WARN,
                metadata=metadata,
            )
