"""API keys of a simulated venue: what each may do, and how a signature is checked. They are made from their names and guard nothing."""

import hmac
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Final

from regime_pipeline.errors import BadInputError


class Right(StrEnum):
    """What a key may do."""

    READ = "read"
    TRADE = "trade"
    WITHDRAW = "withdraw"
    TRANSFER = "transfer"


KINDS: Final = {
    "trader": frozenset({Right.READ, Right.TRADE}),
    "kill": frozenset({Right.READ, Right.TRADE}),  # no venue has a right to cancel alone
    "snapshot": frozenset({Right.READ}),
}
"""The keys every venue starts with."""


@dataclass(slots=True)
class ApiKey:
    """One key; a tester may revoke it or change its rights while it is in use."""

    kind: str
    key: str
    secret: str
    rights: frozenset[Right]
    is_revoked: bool = False

    def signs(self, payload: str, signature: str) -> bool:
        """Tell whether a signature is this key's HMAC-SHA256 of a payload."""
        return hmac.compare_digest(hmac.new(self.secret.encode(), payload.encode(), sha256).hexdigest(), signature.lower())


class ApiKeys:
    """The keys a venue knows."""

    def __init__(self, account: str = "simulated") -> None:
        """Make one key of each kind; another `account` has other keys."""
        self._by_kind: dict[str, ApiKey] = {}
        for kind, rights in KINDS.items():
            self._by_kind[kind] = ApiKey(kind, _digest(account, kind, "key"), _digest(account, kind, "secret"), rights)

    def __getitem__(self, kind: str) -> ApiKey:
        """Give the key of a kind.

        Raises
        ------
        BadInputError
            When there is none.
        """
        if kind not in self._by_kind:
            raise BadInputError(f"kind of key was {kind!r}: it must be one of {', '.join(self._by_kind)}. Choose one of them.")
        return self._by_kind[kind]

    def known(self, key: str) -> ApiKey | None:
        """Find a key that is in use; None when it is unknown or revoked."""
        return next((each for each in self._by_kind.values() if each.key == key and not each.is_revoked), None)

    def revoke(self, kind: str, *, is_revoked: bool = True) -> None:
        """Revoke a key, or give it back."""
        self[kind].is_revoked = is_revoked

    def grant(self, kind: str, *rights: Right | str) -> None:
        """Give a key exactly these rights."""
        self[kind].rights = frozenset(map(Right, rights))

    def kinds(self) -> list[str]:
        """Name the kinds."""
        return list(self._by_kind)


def _digest(*parts: str) -> str:
    return sha256(":".join(("simulated-venue", *parts)).encode()).hexdigest()
