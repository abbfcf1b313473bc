"""The three-part arm without which no live order leaves, and what tells the modes apart: keys by fingerprint, hosts, accounts."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final

MAX_ARM_S: Final = 24 * 3600


class Mode(StrEnum):
    """What orders are worth."""

    PAPER = "paper"
    SANDBOX = "sandbox"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class ArmRow:
    """A person's permission to trade one account with one key for at most a day; instants in epoch seconds."""

    account: str
    fingerprint: str
    max_order_quote: Decimal
    max_day_quote: Decimal
    started_at_s: int
    expires_at_s: int
    actor: str
    reason: str
    ended_at_s: int | None = None


class IdentityKind(StrEnum):
    """What belongs to one mode for ever."""

    KEY = "key"  # fingerprint of an API key
    HOST = "host"
    VENUE_ACCOUNT = "venue_account"  # the venue's own id
    ACCOUNT = "account"  # our name
    SALT = "salt"  # fingerprint of the salt: with another one every key would look new


@dataclass(frozen=True, slots=True)
class Identity:
    """Something that an account in a mode was seen to use."""

    kind: IdentityKind
    value: str
    mode: Mode
    account: str


def identity_conflicts(asked: Iterable[Identity], stored: Iterable[Identity]) -> tuple[str, ...]:
    """Name what was seen in another mode, or under another account, than it is about to be used in; empty when nothing was.

    A paper or sandbox key, host or account in live, or a live one elsewhere, is a mix-up; so is a known account whose key has become
    that of another venue account, since its ledger is not the one that would be traded.
    """
    known, found = list(stored), []
    for each in asked:
        for row in known:
            if row.kind is not each.kind:
                continue
            if each.kind is IdentityKind.SALT and row.value != each.value:
                found.append("the salt is not the one that fingerprints were made with")
            elif each.kind is not IdentityKind.SALT and row.value == each.value and row.mode is not each.mode:
                found.append(f"{each.kind} {each.value} belongs to {row.mode} mode, asked for in {each.mode}")
            elif each.kind is IdentityKind.VENUE_ACCOUNT and row.account == each.account and row.value != each.value:
                found.append(f"account {each.account} is venue account {row.value}, the key is of {each.value}")
    return tuple(dict.fromkeys(found))


def fingerprint_of(salt: str, api_key: str) -> str:
    """First 16 hex digits of the salted SHA-256 of a key."""
    return hashlib.sha256(f"{salt}:{api_key}".encode()).hexdigest()[:16]


def missing_arm_parts(
    *, mode: Mode, account: str, fingerprint: str, acknowledged_account: str | None, row: ArmRow | None, now_s: int
) -> tuple[str, ...]:
    """Name every part of the live arm that is missing, expired or for another account; empty when armed, or when nothing needs arming.

    Parameters
    ----------
    mode : Mode
        From the strict configuration.
    account, fingerprint : str
        Venue account id and the fingerprint of the key in use.
    acknowledged_account : str or None
        Account id in the executor's own environment.
    row : ArmRow or None
        The account's newest arm row.
    now_s : int
        Now, epoch seconds.
    """
    if mode is not Mode.LIVE:
        return ()
    missing = []
    if acknowledged_account != account:
        missing.append(f"acknowledgement was for {acknowledged_account}, account is {account}")
    if row is None:
        return (*missing, "no arm row")
    if row.account != account:
        missing.append(f"arm row was for {row.account}, account is {account}")
    if row.fingerprint != fingerprint:
        missing.append("arm row was for another key")
    if row.ended_at_s is not None or not row.started_at_s <= now_s < row.expires_at_s:
        missing.append("arm row is not in force")
    if row.expires_at_s - row.started_at_s > MAX_ARM_S:
        missing.append(f"arm row was for {row.expires_at_s - row.started_at_s} s, at most {MAX_ARM_S} are allowed")
    if not (row.actor.strip() and row.reason.strip()):
        missing.append("arm row names no person or no reason")
    return tuple(missing)
