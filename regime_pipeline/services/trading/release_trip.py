"""Ending a protection before its time, as only a named person may."""

from regime_pipeline.errors import BadInputError
from regime_pipeline.ports import Work
from regime_pipeline.risk.protections import Trip, release_trip


def end_protection(work: Work, name: str, trigger_id: str, *, actor: str, reason: str, now_s: int) -> list[Trip]:
    """End what a trigger tripped, in every scope; its rows stay, so the same trigger does not trip again.

    A protection that latched a kill level leaves it latched: `release` takes both back.

    Raises
    ------
    BadInputError
        When nothing by that name and trigger is active.
    KillSwitchActiveError
        Without a name or a reason.
    """
    found = [trip for trip in work.safety.load_tripped(name, trigger_id) if trip.until_s > now_s]
    if not found:
        raise BadInputError(f"protection was {name} with trigger {trigger_id}, none such is active; list them with `regime protections`")
    ended = [release_trip(trip, actor, reason, now_s) for trip in found]
    for trip in ended:
        work.safety.end_trip(trip, reason)
    return ended
