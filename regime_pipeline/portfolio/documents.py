"""Positions, trades, records and plans as plain JSON values, and back: what is stored is exactly what was decided on.

Money is text without trailing zeros. Zeros are part of a `Decimal` and show up in everything computed from it, so a decision is only
repeated bit for bit when it was taken on values as they come back from storage; `tidy` makes them so.
"""

from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.actions import Action, ActionKind, ActionStatus, Funding, Signal
from regime_pipeline.portfolio.episodes import Block, Episodes, Failure
from regime_pipeline.portfolio.facts import BarFacts
from regime_pipeline.portfolio.money import EXACT
from regime_pipeline.portfolio.plan import Plan
from regime_pipeline.portfolio.pool import Pool
from regime_pipeline.portfolio.position import Position, Status, VenueLimits
from regime_pipeline.portfolio.trade import Trade

Document = dict[str, Any]
NO_EPISODES = Episodes()
NO_BLOCK = Block()


def spell(value: Decimal) -> str:
    """Spell money or a quantity: plain digits, no exponent, no trailing zeros, no negative zero."""
    return format(value.normalize(EXACT), "f") if value else "0"


def tidy(value: Decimal) -> Decimal:
    """Make a value what its stored text reads back as."""
    return Decimal(spell(value))


@lru_cache(maxsize=1024)
def write_limits(limits: VenueLimits) -> Document:
    """Write what the venue demands; many instruments share it, so it is shared too and never changed."""
    return {"min_cost": spell(limits.min_cost_usd), "min_qty": spell(limits.min_qty), "step": spell(limits.step_qty)}


def read_limits(found: Mapping[str, Any]) -> VenueLimits:
    """Read what the venue demands."""
    return VenueLimits(Decimal(found["step"]), Decimal(found["min_qty"]), Decimal(found["min_cost"]))


def write_position(position: Position) -> Document:
    """Write a position; what is empty is left out, since most positions hold nothing."""
    found: Document = {"id": position.position_id, "limits": write_limits(position.limits), "status": position.status.value}
    if position.quantity:
        found["quantity"] = spell(position.quantity)
    if position.trade is not None:
        found["trade"] = write_trade(position.trade)
    if position.episodes != NO_EPISODES:
        found["episodes"] = write_episodes(position.episodes)
    if position.block != NO_BLOCK:
        found["block"] = write_block(position.block)
    if position.last_action_s is not None:
        found["last_action"] = position.last_action_s
    return found


def read_position(found: Mapping[str, Any], timeframe: Timeframe) -> Position:
    """Read a position."""
    return Position(
        position_id=found["id"],
        status=Status(found["status"]),
        timeframe=timeframe,
        limits=read_limits(found["limits"]),
        quantity=Decimal(found.get("quantity", "0")),
        trade=read_trade(found["trade"]) if "trade" in found else None,
        episodes=read_episodes(found["episodes"]) if "episodes" in found else NO_EPISODES,
        block=Block(**found["block"]) if "block" in found else NO_BLOCK,
        last_action_s=found.get("last_action"),
    )


def write_episodes(episodes: Episodes) -> Document:
    """Write where a series stands in its attempt."""
    failure = episodes.failure
    return {
        "attempt_s": episodes.attempt_s,
        "failure": None if failure is None else [failure.started_s, failure.failed_s],
        "s1_s": episodes.s1_s,
        "s2_s": episodes.s2_s,
        "s3_s": episodes.s3_s,
        "state": episodes.state,
    }


def read_episodes(found: Mapping[str, Any]) -> Episodes:
    """Read where a series stands in its attempt."""
    return Episodes(**{**found, "failure": Failure(*found["failure"]) if found["failure"] else None})


def write_block(block: Block) -> Document:
    """Write a block."""
    return {name: getattr(block, name) for name in Block.__slots__}


def write_trade(trade: Trade) -> Document:
    """Write an open trade as its actions folded into it."""
    pool = trade.pool
    return {
        "allocated": spell(trade.allocated_usd),
        "bought": spell(trade.bought_qty),
        "buys": [[ts_s, state] for ts_s, state in trade.buys],
        "exit_due": None if trade.exit_due is None else write_action(trade.exit_due),
        "exit_runs": trade.exit_runs,
        "exit_usd": spell(trade.exit_usd),
        "extracted": spell(trade.extracted_usd),
        "id": str(trade.trade_id),
        "last_action": trade.last_action_s,
        "last_trim": None if trade.last_trim is None else list(trade.last_trim),
        "planned_level": trade.planned_level,
        "pool": {
            "basis": spell(pool.usd_basis),
            "dx_count": pool.dx_count,
            "dx_last_price": _maybe(pool.dx_last_price),
            "dx_next_arm": _maybe(pool.dx_next_arm),
            "recovery_started": pool.recovery_started,
        },
        "s1_bought": trade.s1_bought,
        "sold": spell(trade.sold_qty),
    }


def read_trade(found: Mapping[str, Any]) -> Trade:
    """Read an open trade."""
    pool, trim, level = found["pool"], found["last_trim"], found["planned_level"]
    return Trade(
        trade_id=UUID(found["id"]),
        allocated_usd=Decimal(found["allocated"]),
        extracted_usd=Decimal(found["extracted"]),
        bought_qty=Decimal(found["bought"]),
        sold_qty=Decimal(found["sold"]),
        pool=Pool(
            usd_basis=Decimal(pool["basis"]),
            recovery_started=pool["recovery_started"],
            dx_count=pool["dx_count"],
            dx_last_price=_decimal(pool["dx_last_price"]),
            dx_next_arm=_decimal(pool["dx_next_arm"]),
        ),
        last_action_s=found["last_action"],
        s1_bought=found["s1_bought"],
        last_trim=None if trim is None else (int(trim[0]), float(trim[1])),
        planned_level=_float(level),
        exit_due=None if found["exit_due"] is None else read_action(found["exit_due"]),
        exit_usd=Decimal(found["exit_usd"]),
        exit_runs=found["exit_runs"],
        buys=tuple((ts_s, state) for ts_s, state in found["buys"]),
    )


def write_action(action: Action) -> Document:
    """Write a recorded action with its fills."""
    return {
        "atr": action.atr,
        "bar_ts": action.bar_ts_s,
        "bars_seen": action.bars_seen,
        "fee_qty": spell(action.fee_qty),
        "fee_usd": spell(action.fee_usd),
        "filled_qty": spell(action.filled_qty),
        "filled_usd": spell(action.filled_usd),
        "funding": action.funding.value,
        "kind": action.kind.value,
        "level_price": action.level_price,
        "signal": action.signal.value,
        "state": action.state,
        "status": action.status.value,
        "trade_id": None if action.trade_id is None else str(action.trade_id),
    }


def read_action(found: Mapping[str, Any]) -> Action:
    """Read a recorded action."""
    return Action(
        bar_ts_s=found["bar_ts"],
        trade_id=None if found["trade_id"] is None else UUID(found["trade_id"]),
        kind=ActionKind(found["kind"]),
        signal=Signal(found["signal"]),
        funding=Funding(found["funding"]),
        status=ActionStatus(found["status"]),
        state=found["state"],
        level_price=_float(found["level_price"]),
        atr=_float(found["atr"]),
        bars_seen=found["bars_seen"],
        filled_qty=Decimal(found["filled_qty"]),
        filled_usd=Decimal(found["filled_usd"]),
        fee_qty=Decimal(found["fee_qty"]),
        fee_usd=Decimal(found["fee_usd"]),
    )


_FLAGS = ("buy", "dx", "emergency_exit", "immature", "reclaim", "s2_retest", "trim")


def write_facts(facts: BarFacts) -> Document:
    """Write the record of a bar; of the flags those that are set."""
    return {
        "atr": facts.atr,
        "bars_seen": facts.bars_seen,
        "ema144": facts.ema144,
        "ema333": facts.ema333,
        "flags": [name for name in _FLAGS if getattr(facts, name)],
        "nearest_level": facts.nearest_level,
        "price": facts.price,
        "state": facts.state,
        "ts": facts.ts_s,
    }


def read_facts_document(found: Mapping[str, Any]) -> BarFacts:
    """Read the record of a bar."""
    return BarFacts(
        ts_s=found["ts"],
        state=found["state"],
        price=float(found["price"]),
        atr=float(found["atr"]),
        ema144=float(found["ema144"]),
        ema333=float(found["ema333"]),
        bars_seen=found["bars_seen"],
        nearest_level=_float(found["nearest_level"]),
        **dict.fromkeys(found["flags"], True),
    )


def write_plan(plan: Plan) -> Document:
    """Write a plan; what a hold does not have is left out."""
    found: Document = {
        "a": plan.a_value,
        "bar_ts": plan.bar_ts_s,
        "codes": [code.value for code in plan.codes],
        "degraded": plan.degraded,
        "e": plan.e_value,
        "outcome": plan.outcome.value,
        "position": plan.position_id,
    }
    if plan.refusals:
        found["refusals"] = [[refusal.rule.value, refusal.code.value, refusal.why] for refusal in plan.refusals]
    if plan.size is not None:
        size = plan.size
        found["size"] = {
            "basis": spell(size.basis),
            "bound": size.bound.value,
            "funding": size.funding.value,
            "notional": _maybe(size.notional_usd),
            "qty": _maybe(size.quantity),
            "share": spell(size.share),
        }
    for name in ("rule", "kind", "signal", "alert", "state", "price", "level_price", "atr", "bars_seen"):
        value = getattr(plan, name)
        if value is not None:
            found[name] = value
    if plan.trade_id is not None:
        found["trade_id"] = str(plan.trade_id)
    return found


def _maybe(value: Decimal | None) -> str | None:
    return None if value is None else spell(value)


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _float(value: float | None) -> float | None:
    """JSON in a database does not tell 1e16 from an integer."""
    return None if value is None else float(value)
