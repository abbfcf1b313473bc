"""A decision as it is journaled: canonical JSON texts, their hashes, and the identity that follows from them."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any
from uuid import UUID

from regime_pipeline.execution.keys import compute_decision_id, compute_hash, write_plain
from regime_pipeline.portfolio.decide import TickDecision
from regime_pipeline.portfolio.documents import spell, write_plan
from regime_pipeline.portfolio.plan import Outcome, Plan
from regime_pipeline.portfolio.tick import TickInputs
from regime_pipeline.regime.levers_document import describe_levers
from regime_pipeline.services.trading.context import Trading


@dataclass(frozen=True, slots=True)
class TickTexts:
    """The texts of a decision; lines are in the order of the inputs.

    Parameters
    ----------
    inputs_hash, plan_hash : str
        SHA-256 of the canonical JSON `[shared, [lines ...]]` and `[plans ...]`: the very texts that are stored, joined.
    """

    decision_id: UUID
    inputs: str
    levers: str
    summary: str
    line_inputs: tuple[str, ...]
    line_plans: tuple[str, ...]
    inputs_hash: str
    plan_hash: str


def describe_tick(inputs: TickInputs, decision: TickDecision) -> TickTexts:
    """Write a decision down."""
    shared = write_plain(inputs.shared_document())
    line_inputs = tuple(write_plain(line.document()) for line in inputs.lines)
    line_plans = tuple(write_plain(write_plan(line.plan)) for line in decision.lines)
    inputs_hash = _hash(["[", shared, ",[", ",".join(line_inputs), "]]"])
    levers = {group: describe_levers(given, found) for group, (given, found) in decision.levers.items()}
    return TickTexts(
        decision_id=compute_decision_id(inputs.account, inputs.strategy, inputs.bar_close_s, inputs_hash),
        inputs=shared,
        levers=write_plain(levers),
        summary=write_plain(summarise_plans((line.symbol, line.plan) for line in decision.lines)),
        line_inputs=line_inputs,
        line_plans=line_plans,
        inputs_hash=inputs_hash,
        plan_hash=_hash(["[", ",".join(line_plans), "]"]),
    )


def hash_inputs(shared: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    """Hash inputs as `describe_tick` does, from their documents."""
    return compute_hash([shared, list(lines)])


def summarise_plans(plans: Iterable[tuple[str, Plan]]) -> dict[str, Any]:
    """Name what is to be done by symbol, and count the rest by its first code."""
    actions: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for symbol, plan in plans:
        if plan.kind is not None and plan.size is not None:
            size = plan.size.quantity if plan.size.notional_usd is None else plan.size.notional_usd
            found = {"kind": plan.kind.value, "outcome": plan.outcome.value, "signal": plan.signal, "unit": "quote"}
            actions[symbol] = {**found, "size": spell(size) if size is not None else None}
            if plan.size.notional_usd is None:
                actions[symbol]["unit"] = "base"
        if plan.outcome is Outcome.HOLD and plan.codes:
            counts[plan.codes[0].value] = counts.get(plan.codes[0].value, 0) + 1
    return {"actions": actions, "holds": counts}


def compute_config_hash(trading: Trading, **terms: object) -> str:
    """Hash the limits and settings in force; who runs and which key it has are none of the decision's business."""
    fixed = trading.terms
    return compute_hash(
        {
            "account": fixed.account,
            "allocation": {
                "pct": trading.allocation.alloc_pct,
                "split": {timeframe.value: share for timeframe, share in trading.allocation.split_frac.items()},
            },
            "book": fixed.book_id,
            "default_stop_frac": fixed.default_stop_frac,
            "entry_through_bps": fixed.entry_through_bps,
            "limits": trading.limits.model_dump(),
            "mode": fixed.mode.value,
            "protections": trading.protections.model_dump(),
            "trading_enabled": fixed.trading_enabled,
            **terms,
        }
    )


@cache
def read_code_version() -> str:
    """Version of the code that decides."""
    return version("regime-pipeline")


def _hash(parts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
    return digest.hexdigest()
