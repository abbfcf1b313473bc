"""Kill levels as rows and as lines of the latch: raised by triggers, lifted by their own source, released by a person."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from regime_pipeline.errors import CallerError, KillSwitchActiveError
from regime_pipeline.ports import Work
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import (
    AUTOMATIC,
    KillTransition,
    Level,
    ReleaseFacts,
    Scope,
    Switch,
    Trigger,
    check_release,
    plan_raise,
    plan_release,
)
from regime_pipeline.risk.protections import Effect, release_trip
from regime_pipeline.services.trading.context import Latch, Trading

_log = logging.getLogger(__name__)
MANUAL: Final = "manual"
_TRIES: Final = 16
"""Each of the sources that rise at the same moment costs the last of them one more look."""


def load_levels(work: Work | None, latch: Latch, account: str | None) -> tuple[Switch, ...]:
    """Levels in force for an account by table and latch together; without a database those of the latch."""
    latched = tuple(switch for switch in latch.read() if account is None or switch.scope.account in {None, account})
    return latched if work is None else (*latched, *work.safety.load_switches(account))


def raise_level(
    work: Work,
    trading: Trading,
    trigger: Trigger,
    reason: str,
    *,
    scope: Scope | None = None,
    actor: str = "executor",
    level: Level | None = None,
) -> bool:
    """Raise the level of a trigger, once: transition and KILL note commit together, a second evaluator adds nothing.

    Parameters
    ----------
    work : Work
        The transaction in which the trigger was seen.
    scope : Scope, optional
        For whom; default: the account.
    level : Level, optional
        A higher one than the trigger's own; default: its own.

    Returns
    -------
    bool
        Whether this call wrote it. From L2 on the latch is written too, before the commit: a roll-back leaves it killed.
    """
    own = AUTOMATIC[trigger]
    if level is not None and level < own:
        raise CallerError(f"level of {trigger} was L{level.value}, its own is L{own.value}; a trigger may only be raised higher")
    wanted = Switch(scope or Scope(trading.terms.account), level or own, trigger.value, actor, reason, trading.clock.now_s())
    written = write_raise(work, wanted, (trading.terms.account,))
    if written and wanted.is_latched:
        try:
            trading.latch.change(lambda levels: add_level(levels, wanted))
        except OSError as error:  # a full disk: the table has it, and either one counts
            _log.error("the kill latch could not be written (%s); the level is in the table", error)
    return written


def write_raise(work: Work, wanted: Switch, accounts: Sequence[str] = ()) -> bool:
    """Write a rise into the table unless its scope and source are at that level already.

    Each source has its own level, so that lifting one leaves the others. Two sources that rise at the same moment name the same
    transition; the one that came second looks again and writes the next.
    """
    for _ in range(_TRIES):
        in_force = [s for s in work.safety.load_switches(wanted.scope.account) if s.scope == wanted.scope and s.source == wanted.source]
        transition = plan_raise(max(in_force, key=lambda s: s.level, default=None), wanted, work.safety.load_tip(wanted.scope))
        if transition is None:
            return False
        told = sorted({*accounts, *work.safety.load_accounts()}) if wanted.scope.account is None else ()
        if work.safety.save_transition(transition, accounts=told):
            return True
    return False


def lift_level(work: Work, trading: Trading, trigger: Trigger, reason: str, *, scope: Scope | None = None, actor: str = "executor") -> bool:
    """Take back what a source stopped by itself, as only it may, after two clean evaluations; a latched level it cannot.

    Returns
    -------
    bool
        Whether there was something to lift.

    Raises
    ------
    KillSwitchActiveError
        When the level is latched: a person releases it.
    """
    wanted = scope or Scope(trading.terms.account)
    in_force = [s for s in work.safety.load_switches(wanted.account) if s.scope == wanted and s.source == trigger.value]
    for switch in in_force:
        if switch.is_latched:
            msg = f"{trigger} of {wanted.text} is at L{switch.level.value}, which is latched; `regime release` takes it back"
            raise KillSwitchActiveError(msg)
        _write_release(work, switch, actor, reason, trading.clock.now_s(), "")
    return bool(in_force)


def adopt_latch(work: Work, latched: Iterable[Switch]) -> list[Switch]:
    """Write levels that only the latch has (the database was down when they were set) into the table; returns those.

    What the table has seen since, a release included, stays as it is there.
    """
    missing = [s for s in latched if s.source != "latch_unreadable" and not work.safety.has_seen(s)]
    return [switch for switch in missing if write_raise(work, switch, (switch.scope.account,) if switch.scope.account else ())]


@dataclass(frozen=True, slots=True)
class Release:
    """What a person asks for: which scope, who, why, and for L3 and above in live the second person."""

    scope: Scope
    actor: str
    reason: str
    second_actor: str = ""


def release(work: Work, latch: Latch, asked: Release, *, mode: Mode, now_s: int) -> list[Switch]:
    """Take every level of a scope back, in the table and in the latch together, with the protections that raised it.

    Parameters
    ----------
    work : Work
        A transaction; the caller clears the latch after its commit (`clear_latch`), so that a crash in between leaves it killed.

    Returns
    -------
    list of Switch
        What was taken back; empty when nothing was in force.

    Raises
    ------
    KillSwitchActiveError
        As `check_release` says, for the first level that may not come down; nothing is changed.
    """
    latched = [switch for switch in latch.read() if switch.scope == asked.scope]
    adopt_latch(work, latched)
    in_table = [switch for switch in work.safety.load_switches(asked.scope.account) if switch.scope == asked.scope]
    known = {switch.source for switch in in_table}
    found = [*in_table, *(switch for switch in latched if switch.source not in known)]
    facts = ReleaseFacts(
        now_s=now_s,
        last_clean_pass_s=work.safety.load_clean_pass_s(asked.scope.account),
        n_unknown=work.safety.count_unknown(asked.scope.account),
        is_live=mode is Mode.LIVE,
        second_actor=asked.second_actor,
    )
    for switch in found:
        check_release(switch, asked.actor, asked.reason, facts)
    for switch in in_table:
        _write_release(work, switch, asked.actor, asked.reason, now_s, asked.second_actor)
    _end_trips(work, asked, now_s)
    return found


def clear_latch(latch: Latch, scope: Scope) -> tuple[Switch, ...]:
    """Take a scope out of the latch; a file that could not be read stands for everybody and goes with everybody's levels."""
    return latch.change(lambda levels: tuple(switch for switch in levels if switch.scope != scope))


def add_level(levels: tuple[Switch, ...], wanted: Switch) -> tuple[Switch, ...]:
    """Levels with one more; of a scope and source the highest stays."""
    same = [switch for switch in levels if (switch.scope, switch.source) == (wanted.scope, wanted.source)]
    if any(switch.level >= wanted.level for switch in same):
        return levels
    return (*(switch for switch in levels if switch not in same), wanted)


def _write_release(work: Work, switch: Switch, actor: str, reason: str, now_s: int, second_actor: str) -> None:
    transition: KillTransition = plan_release(switch, actor, reason, now_s, work.safety.load_tip(switch.scope))
    work.safety.save_transition(transition, second_actor)


def _end_trips(work: Work, asked: Release, now_s: int) -> None:
    """End the protections that made the level: they would raise it again at the next look."""
    account = asked.scope.account
    for trip in work.safety.load_trips(account, now_s) if account else ():
        if trip.effect >= Effect.REDUCE_ONLY and trip.scope == asked.scope:
            work.safety.end_trip(release_trip(trip, asked.actor, asked.reason, now_s), asked.reason)
