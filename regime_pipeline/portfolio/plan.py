"""What a decision is: the rule that matched, the action and its size, or why there is none; what it was taken on.

A `Plan` is a frozen value that says everything the journal and the action's row need. `rules.py` makes them.
"""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from regime_pipeline.errors import CallerError
from regime_pipeline.portfolio.actions import Action, ActionKind, ActionStatus, Funding, Signal
from regime_pipeline.portfolio.capital import Allocation
from regime_pipeline.portfolio.reasons import ReasonCode


class Rule(StrEnum):
    """The rules by their numbers in the specification."""

    EXIT_S0 = "1"
    EXIT_S3 = "2"
    FLAT_S3 = "2b"
    TRIM = "3"
    S1_BUY = "4"
    S2_RETEST = "5"
    DX = "6"
    RECLAIM = "7"


class Outcome(StrEnum):
    """What follows: an order, a recorded skip of one too small to send, or nothing."""

    ACT = "act"
    SKIP = "skip"
    HOLD = "hold"


class Bound(StrEnum):
    """What a size ended at."""

    SHARE = "share"
    REMAINING = "remaining"
    FREE_CASH = "free_cash"


class Levers(NamedTuple):
    """A and E in [0, 1], and whether the regime is not fully known; see `regime.levers.compute_levers`."""

    a_value: float
    e_value: float
    degraded: bool


@dataclass(frozen=True, slots=True)
class Book:
    """What all positions of a book share at a bar, USD, and what is switched on.

    Parameters
    ----------
    equity_usd : Decimal
        Cash plus holdings at their closes.
    free_cash_usd : Decimal
        What may be spent now.
    trading_enabled : bool
        Off unless someone says otherwise: then plans are made and withheld.
    is_killed : bool
        The kill switch: no buys.
    """

    equity_usd: Decimal
    free_cash_usd: Decimal
    allocation: Allocation
    trading_enabled: bool = False
    is_killed: bool = False
    allow_immature_entries: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """How much: a share of a basis. A buy is sized in USD, a sale in tokens.

    Parameters
    ----------
    share, basis : Decimal
        Their product is the size before bounds; the basis is in USD for a buy, in tokens for a sale.
    notional_usd : Decimal or None
        To spend, rounded down.
    quantity : Decimal or None
        To sell, rounded down to the venue's step.
    """

    funding: Funding
    share: Decimal
    basis: Decimal
    bound: Bound
    notional_usd: Decimal | None = None
    quantity: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a rule whose signal was there did not act."""

    rule: Rule
    code: ReasonCode
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision of one position on one bar, with all that the journal and the action's row need.

    Parameters
    ----------
    rule, signal, kind, size
        Of the rule that matched; a hold has no kind and no size. A skip has the size that was too small.
    codes : tuple of ReasonCode
        Why nothing is traded, each once; empty when something is.
    refusals : tuple of Refusal
        Every rule that was asked for and why it did not act.
    alert : str or None
        What a person should know: the record of this bar is not there.
    price, level_price, atr, bars_seen, state
        Of the record decided on; None where an exit is carried on without one.
    """

    position_id: int
    bar_ts_s: int
    trade_id: UUID | None
    a_value: float
    e_value: float
    degraded: bool
    outcome: Outcome = Outcome.HOLD
    rule: Rule | None = None
    kind: ActionKind | None = None
    signal: Signal | None = None
    size: Size | None = None
    codes: tuple[ReasonCode, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    alert: str | None = None
    state: str | None = None
    price: float | None = None
    level_price: float | None = None
    atr: float | None = None
    bars_seen: int | None = None


def record_plan(plan: Plan) -> Action:
    """Make the action that a plan is recorded as.

    Raises
    ------
    CallerError
        When the plan is a hold: that makes no action.
    """
    if plan.kind is None or plan.signal is None or plan.size is None:
        raise CallerError(f"position {plan.position_id}, bar {plan.bar_ts_s}: a hold has no action. Record it as NO_TRADE in the journal.")
    return Action(
        bar_ts_s=plan.bar_ts_s,
        trade_id=plan.trade_id,
        kind=plan.kind,
        signal=plan.signal,
        funding=plan.size.funding,
        status=ActionStatus.SKIPPED if plan.outcome is Outcome.SKIP else ActionStatus.PLANNED,
        state=plan.state,
        level_price=plan.level_price,
        atr=plan.atr,
        bars_seen=plan.bars_seen,
    )
