"""The kill switch: five levels, latched in table and file, raised by anybody and lowered by a named person only."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Final

from regime_pipeline.errors import CallerError, KillSwitchActiveError
from regime_pipeline.risk.purpose import Leg, Purpose

RELEASE_PASS_S: Final = 300


class Level(IntEnum):
    """What may still be done; the higher wins."""

    NORMAL = 0
    ENTRIES_OFF = 1
    REDUCE_ONLY = 2  # entries cancelled; exits and stops stay
    HARD_STOP = 3  # all but protective stops cancelled; flattened if configured
    PROCESS_STOP = 4  # the executor exits and pages; venue stops stay


class Trigger(StrEnum):
    """What raises a level by itself."""

    STALE_DATA = "stale_data"
    BREAKER = "breaker"
    RECON_SMALL = "recon_small"
    RECON_MEDIUM = "recon_medium"
    RECON_ORDER = "recon_order"  # an order at the venue that should not be there, or a fill that cannot be booked
    RECON_FOREIGN = "recon_foreign"  # somebody else's order, until a person acknowledges it
    RECOVERY = "recovery"  # a start-up step failed
    CLOCK = "clock"  # more than 500 ms off the venue's
    PROTECTION = "protection"
    RECON_LARGE = "recon_large"
    UNKNOWN_ORDER = "unknown_order"  # for more than 5 min
    DAILY_LOSS = "daily_loss"  # the hard limit
    WEEKLY_LOSS = "weekly_loss"
    HEALTH_PROBES = "health_probes"  # 6 failed, 30 s apart
    LEDGER_IMBALANCE = "ledger_imbalance"
    STABLECOIN_OFF_PEG = "stablecoin_off_peg"  # by more than 1 %
    DRAWDOWN_KILL = "drawdown_kill"
    CANCEL_FAILURES = "cancel_failures"  # 8 in a row
    MARGIN_RATIO = "margin_ratio"  # below 0.10
    LIQUIDATION_DISTANCE = "liquidation_distance"
    EQUITY_NOT_A_NUMBER = "equity_not_a_number"
    JOURNAL_BROKEN = "journal_broken"
    INVARIANT_BROKEN = "invariant_broken"
    SILENCE = "silence"  # 90 s without a heartbeat, or a critical alert unacknowledged for 10 min


T = Trigger

AUTOMATIC: Final[Mapping[Trigger, Level]] = {
    **dict.fromkeys(
        (
            T.STALE_DATA,
            T.BREAKER,
            T.RECON_SMALL,
            T.RECON_MEDIUM,
            T.RECON_ORDER,
            T.RECON_FOREIGN,
            T.RECOVERY,
            T.CLOCK,
            T.PROTECTION,
            T.SILENCE,
        ),
        Level.ENTRIES_OFF,
    ),
    **dict.fromkeys(
        (T.RECON_LARGE, T.UNKNOWN_ORDER, T.DAILY_LOSS, T.WEEKLY_LOSS, T.HEALTH_PROBES, T.LEDGER_IMBALANCE, T.STABLECOIN_OFF_PEG),
        Level.REDUCE_ONLY,
    ),
    **dict.fromkeys((T.DRAWDOWN_KILL, T.CANCEL_FAILURES, T.MARGIN_RATIO, T.LIQUIDATION_DISTANCE, T.EQUITY_NOT_A_NUMBER), Level.HARD_STOP),
    **dict.fromkeys((T.JOURNAL_BROKEN, T.INVARIANT_BROKEN), Level.PROCESS_STOP),
}


@dataclass(frozen=True, slots=True)
class Scope:
    """Whom a level is for: everybody, or one account, strategy of an account, or symbol of an account."""

    account: str | None = None
    strategy: str | None = None
    symbol: str | None = None

    @property
    def text(self) -> str:
        """The scope as it is stored."""
        named = (("account", self.account), ("strategy", self.strategy), ("symbol", self.symbol))
        return "|".join(f"{name}:{value}" for name, value in named if value is not None) or "global"

    def covers(self, account: str, strategy: str, symbol: str) -> bool:
        """Tell whether an order of this account, strategy and symbol is under it."""
        return self.account in {None, account} and self.strategy in {None, strategy} and self.symbol in {None, symbol}


EVERYBODY: Final = Scope()


@dataclass(frozen=True, slots=True)
class Switch:
    """A level in force: for whom, by what and why."""

    scope: Scope
    level: Level
    source: str  # a trigger, or `manual`
    actor: str
    reason: str
    at_s: int

    @property
    def is_latched(self) -> bool:
        """Tell whether only a person takes it back: REDUCE_ONLY and above, and everything set by hand."""
        return self.level >= Level.REDUCE_ONLY or self.source == "manual"


@dataclass(frozen=True, slots=True)
class KillTransition:
    """A level that rises; its id is also the outbox key, so that two evaluators that see the same thing write one row."""

    transition_id: str
    switch: Switch
    old: Level


def worst_level(switches: Iterable[Switch], account: str, strategy: str, symbol: str) -> Level:
    """Level that an order is under: the worst of its scopes, from table and file together."""
    return max((switch.level for switch in switches if switch.scope.covers(account, strategy, symbol)), default=Level.NORMAL)


def is_allowed(level: Level, leg: Leg, *, by_person: bool) -> bool:
    """Tell whether an order may be sent under a level: entries at L0, exits below L3, then only flatten, `sl` and a person's exit."""
    if leg.purpose is Purpose.ENTRY:
        return level is Level.NORMAL
    if level < Level.HARD_STOP:
        return True
    return level is Level.HARD_STOP and (leg in {Leg.FLATTEN, Leg.SL} or (by_person and leg.purpose is Purpose.EXIT))


def is_cancelled(level: Level, purpose: Purpose) -> bool:
    """Tell whether a live order is cancelled under a level: entries from L2, all but stops from L3."""
    return (level >= Level.HARD_STOP and purpose is not Purpose.STOP) or (level >= Level.REDUCE_ONLY and purpose is Purpose.ENTRY)


def ends_order(level: Level, leg: Leg, *, by_person: bool) -> bool:
    """Tell whether a live order of a leg is cancelled under a level: what a hard stop still lets leave, it also lets rest."""
    if level is Level.HARD_STOP and is_allowed(level, leg, by_person=by_person):
        return False
    return is_cancelled(level, leg.purpose)


def plan_raise(current: Switch | None, wanted: Switch, last_transition_id: str) -> KillTransition | None:
    """Raise a scope to a level, once: the same or a lower level changes nothing.

    Parameters
    ----------
    current : Switch or None
        What is latched for this very scope.
    wanted : Switch
        What the trigger or the person asks for.
    last_transition_id : str
        Newest transition of the scope, empty before the first; evaluators that start from the same one write the same id.
    """
    old = current.level if current else Level.NORMAL
    if wanted.level <= old:
        return None
    text = f"{wanted.scope.text}|{wanted.level.value}|{last_transition_id}"
    return KillTransition(hashlib.sha256(text.encode()).hexdigest()[:32], wanted, old)


def plan_release(current: Switch, actor: str, reason: str, now_s: int, last_transition_id: str) -> KillTransition:
    """Bring one source of a scope back to normal; whether it may come down is for `check_release` or the source itself to say."""
    text = f"{current.scope.text}|{Level.NORMAL.value}|{current.source}|{last_transition_id}"
    released = Switch(current.scope, Level.NORMAL, current.source, actor, reason, now_s)
    return KillTransition(hashlib.sha256(text.encode()).hexdigest()[:32], released, current.level)


@dataclass(frozen=True, slots=True)
class ReleaseFacts:
    """What must be known before a level comes down.

    Parameters
    ----------
    now_s : int
        Now, epoch seconds.
    last_clean_pass_s : int or None
        End of the newest full reconciliation without a finding.
    n_unknown : int
        Orders that are UNKNOWN.
    is_live : bool
        Whether the account trades real money.
    second_actor : str
        The second person, who did not ask for it.
    """

    now_s: int
    last_clean_pass_s: int | None
    n_unknown: int
    is_live: bool
    second_actor: str = ""


def check_release(switch: Switch, actor: str, reason: str, facts: ReleaseFacts) -> None:
    """Allow a person to take a level back, or say everything that forbids it.

    Raises
    ------
    KillSwitchActiveError
        Without name or reason, without a clean full pass in the last 300 s, with an UNKNOWN order, on the UTC day of a daily loss,
        or, for L3 and above in live, without a second person.
    """
    refusals = []
    if not actor.strip():
        refusals.append("no name was given")
    if not reason.strip():
        refusals.append("no reason was given")
    if facts.last_clean_pass_s is None or facts.now_s - facts.last_clean_pass_s > RELEASE_PASS_S:
        refusals.append(f"no clean full reconciliation ended in the last {RELEASE_PASS_S} s")
    if facts.n_unknown:
        refusals.append(f"{facts.n_unknown} orders are UNKNOWN")
    if switch.source == Trigger.DAILY_LOSS and facts.now_s // 86_400 <= switch.at_s // 86_400:
        refusals.append("a daily loss is released on the next UTC day at the earliest")
    if facts.is_live and switch.level >= Level.HARD_STOP and facts.second_actor.strip() in {"", actor.strip()}:
        refusals.append(f"L{switch.level.value} in live needs a second person")
    if refusals:
        raise KillSwitchActiveError(
            f"{switch.scope.text} stays at L{switch.level.value}: {'; '.join(refusals)}; see to it and release again"
        )


def write_latch(switches: Iterable[Switch]) -> str:
    """Text of the latch file: the latched levels, one JSON object per line."""
    return "".join(
        json.dumps(
            {
                "account": switch.scope.account,
                "strategy": switch.scope.strategy,
                "symbol": switch.scope.symbol,
                "level": f"L{switch.level.value}",
                "source": switch.source,
                "actor": switch.actor,
                "reason": switch.reason,
                "at": datetime.fromtimestamp(switch.at_s, UTC).isoformat(),
            },
            ensure_ascii=False,
        )
        + "\n"
        for switch in switches
        if switch.is_latched
    )


def read_latch(text: str | None) -> tuple[Switch, ...]:
    """Levels that a latch file holds.

    Parameters
    ----------
    text : str or None
        The file's text; None when it does not exist (no level). A file that is there and cannot be read is given as empty text.

    Returns
    -------
    tuple of Switch
        Anything unreadable or malformed, emptiness included, is L3 for everybody.
    """
    if text is None:
        return ()
    try:
        switches = tuple(_read_line(line) for line in text.splitlines())
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, CallerError) as error:
        return (_unreadable(f"{type(error).__name__}"),)
    return switches or (_unreadable("empty"),)


def _read_line(line: str) -> Switch:
    fields = json.loads(line)
    scope = Scope(*(_text_or_none(fields[name]) for name in ("account", "strategy", "symbol")))
    at = datetime.fromisoformat(fields["at"])
    if at.tzinfo is None or not fields["level"].startswith("L"):
        raise CallerError(f"latch line was {line!r}; it is read as L3")
    level = Level(int(fields["level"][1:]))
    return Switch(scope, level, str(fields["source"]), str(fields["actor"]), str(fields["reason"]), int(at.timestamp()))


def _text_or_none(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise CallerError(f"scope of a latch was {value!r}; it is read as L3")


def _unreadable(why: str) -> Switch:
    return Switch(EVERYBODY, Level.HARD_STOP, "latch_unreadable", "", f"the latch file could not be read ({why})", 0)
