"""What a comparison of orders and fills comes to, and how somebody else's doing is reported."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from regime_pipeline.execution.compare import Pause
from regime_pipeline.ports import ReconFinding, Severity
from regime_pipeline.risk.kill_switch import Trigger
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.incidents import open_incident

Before = Mapping[tuple[str, str], ReconFinding]
"""Findings of the pass before, by (check, scope)."""


@dataclass(slots=True)
class OrderVerdict:
    """What the comparison came to: findings, pauses asked for, why something is unknown, and counts."""

    findings: list[ReconFinding] = field(default_factory=list)
    pauses: set[Pause] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)
    n_orders: int = 0
    n_fills: int = 0


def report_foreign(
    trading: Trading, kind: str, symbol: str, venue_order_id: str, evidence: Mapping[str, str], verdict: OrderVerdict
) -> None:
    """Somebody else's order or trade: entries on its symbol stay off until a person acknowledges the incident."""
    scope = f"{trading.terms.account}|{symbol}|{venue_order_id}"
    with trading.stores.open() as work:
        incident = open_incident(work, kind, Severity.CRITICAL, scope, evidence, "foreign-order")
    action = "" if incident.acked_by else "entries off"
    if action:
        verdict.pauses.add(Pause(Trigger.RECON_FOREIGN, symbol))
    verdict.findings.append(ReconFinding("order", scope, "warning", action=action, evidence=evidence))
