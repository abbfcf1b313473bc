"""What a kill needs to know without a database: accounts, symbols and live orders, kept in a file by the executor each minute."""

from dataclasses import dataclass
from typing import Protocol

from regime_pipeline.risk.purpose import Leg


@dataclass(frozen=True, slots=True)
class MirroredOrder:
    """A live order as a cancel needs it."""

    client_order_id: str
    symbol: str
    strategy: str
    leg: Leg
    by_person: bool = False
    venue_order_id: str | None = None


@dataclass(frozen=True, slots=True)
class MirroredAccount:
    """An account as it was at an instant, epoch seconds: where it may have orders, and those we know of."""

    account: str
    at_s: int
    symbols: tuple[str, ...] = ()
    orders: tuple[MirroredOrder, ...] = ()


class KillMirror(Protocol):
    """Keeps what accounts look like."""

    def save(self, account: MirroredAccount) -> None:
        """Replace what is kept of one account; a failure raises OSError and leaves the old text."""
        ...

    def load(self) -> tuple[MirroredAccount, ...]:
        """Load all accounts; none where nothing was ever kept or it cannot be read: then the venue's own listing must do."""
        ...
