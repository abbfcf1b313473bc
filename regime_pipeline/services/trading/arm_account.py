"""Arming an account with real money, and taking that back; both are acts of a named person."""

from dataclasses import dataclass
from decimal import Decimal

from regime_pipeline.errors import LiveNotArmedError
from regime_pipeline.ports import Severity, Work
from regime_pipeline.risk.arm import MAX_ARM_S, ArmRow
from regime_pipeline.services.trading.incidents import open_incident


@dataclass(frozen=True, slots=True)
class ArmOrder:
    """What a person allows: which account and key, how much per order and UTC day, and for how many hours."""

    account: str
    fingerprint: str
    max_order_quote: Decimal
    max_day_quote: Decimal
    actor: str
    reason: str
    hours: float = 24.0


def arm_account(work: Work, order: ArmOrder, now_s: int) -> ArmRow:
    """Write the permission; one that stands ends.

    Raises
    ------
    LiveNotArmedError
        Without a name or a reason, for no time or for more than a day, or with a day that does not hold one order.
    """
    _demand_person("arm", order.account, order.actor, order.reason)
    length_s = round(order.hours * 3600)
    if not 0 < length_s <= MAX_ARM_S:
        raise LiveNotArmedError(
            f"{order.account} was to be armed for {order.hours} h, allowed are more than 0 and at most 24; arm it again"
        )
    if order.max_order_quote > order.max_day_quote:
        msg = f"an order of {order.account} was allowed {order.max_order_quote}, more than its whole day, {order.max_day_quote}"
        raise LiveNotArmedError(f"{msg}; lower the first or raise the second")
    row = ArmRow(
        order.account,
        order.fingerprint,
        order.max_order_quote,
        order.max_day_quote,
        now_s,
        now_s + length_s,
        order.actor.strip(),
        order.reason.strip(),
    )
    work.safety.save_arm(row)
    return row


def disarm_account(work: Work, account: str, actor: str, reason: str, now_s: int) -> bool:
    """End the permission that stands; False when none did. Who and why is kept as a closed matter of its own.

    Raises
    ------
    LiveNotArmedError
        Without a name or a reason.
    """
    _demand_person("disarm", account, actor, reason)
    was_armed = work.safety.end_arm(account, now_s)
    if was_armed:
        open_incident(work, "DISARMED", Severity.WARNING, account, {"by": actor, "reason": reason})
        work.recon.close_incidents("DISARMED", account, actor)
    return was_armed


def _demand_person(what: str, account: str, actor: str, reason: str) -> None:
    if not (actor.strip() and reason.strip()):
        raise LiveNotArmedError(f"{what} of {account} was by {actor!r} for {reason!r}; name a person and a reason")
