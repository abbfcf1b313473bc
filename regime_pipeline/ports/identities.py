"""Which keys, hosts and accounts belong to which mode."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from regime_pipeline.risk.arm import Identity


class IdentityStore(Protocol):
    """What was seen in which mode; nothing in it is a secret, and nothing is ever changed."""

    def load(self) -> Sequence[Identity]:
        """Load all of it: a handful of rows."""
        ...

    def claim(self, identities: Iterable[Identity]) -> None:
        """Add what is new; what is known keeps its mode."""
        ...
