"""What a person knows about a difference, booked: the one way by which reconciliation is told something that the venue does not say."""

from dataclasses import dataclass
from decimal import Decimal
from uuid import uuid4

from regime_pipeline.errors import BadInputError
from regime_pipeline.ports import ORPHAN
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.open_account import adjust, deposit


@dataclass(frozen=True, slots=True)
class ByHand:
    """What a person explains: an asset, how much of it came (positive) or went, who, why, and whether it is a deposit or withdrawal."""

    asset: str
    amount: Decimal
    actor: str
    reason: str
    is_flow: bool = False


def book_by_hand(trading: Trading, asked: ByHand) -> None:
    """Book what a person explains: a deposit or withdrawal, which is no profit, or else an adjustment; the next two passes lift pauses.

    Raises
    ------
    BadInputError
        When nobody or no reason is named, or the amount is 0.
    """
    if not (asked.actor.strip() and asked.reason.strip()):
        raise BadInputError(f"adjustment was by {asked.actor!r} for {asked.reason!r}; name a person with --by and a reason with --reason")
    account, reference, now_ms = trading.terms.account, uuid4().hex, trading.clock.now_ms()
    who = {"actor": asked.actor.strip(), "reason": asked.reason.strip()}
    with trading.stores.open() as work:
        if asked.is_flow:
            deposit(work, trading.broker.traits, asked.asset, asked.amount, reference, now_ms, **who)
        else:
            adjust(work, account, ORPHAN, asked.asset, asked.amount, reference, now_ms, **who)
