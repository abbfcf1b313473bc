"""What every use-case of the order path is handed: database, broker, limits, latch, clocks, and the named points where tests kill it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from time import sleep
from typing import Final, Protocol

from regime_pipeline.clock import Clock, monotonic_s
from regime_pipeline.clock import utc_now as read_utc_now
from regime_pipeline.portfolio.capital import Allocation
from regime_pipeline.ports import Broker, Stores
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import Switch
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings

Checkpoint = Callable[[str], None]
"""Called at every named point of the order path; does nothing in the product."""


def pass_by(_point: str) -> None:
    """Go on."""


class Latch(Protocol):
    """The kill levels kept in a file, which needs no database."""

    def read(self) -> tuple[Switch, ...]:
        """Levels in the file; an unreadable one is L3 for everybody. Cheap: asked before every create."""
        ...

    def change(self, decide: Callable[[tuple[Switch, ...]], Iterable[Switch]]) -> tuple[Switch, ...]:
        """Replace the levels by what `decide` makes of those there are; only latched ones are kept. Returns what the file holds now."""
        ...


@dataclass(slots=True)
class VenueClock:
    """Our wall clock corrected by what the venue's is ahead; `offset_ms` is None until it has been measured."""

    clock: Clock = read_utc_now
    offset_ms: int | None = None

    def now_ms(self) -> int:
        """Venue-corrected epoch milliseconds."""
        return round(self.clock().timestamp() * 1000) + (self.offset_ms or 0)

    def now_s(self) -> int:
        """Venue-corrected epoch seconds."""
        return self.now_ms() // 1000

    def correct(self, ahead_ms: int) -> None:
        """Take note that the venue's clock is so far ahead of this one as it is."""
        self.offset_ms = (self.offset_ms or 0) + ahead_ms


@dataclass(frozen=True, slots=True)
class TradingTerms:
    """What does not change while a process runs.

    Parameters
    ----------
    account, mode, book_id : str, Mode, str
        Venue account in one mode, and the book whose positions it trades.
    trading_enabled : bool
        Off: plans are made and withheld.
    entry_through_bps : Decimal
        How far above the decided price an entry may buy: its limit.
    default_stop_frac : Decimal
        Distance of the protective stop from the average entry where none was planned.
    opening_cash_quote : Decimal
        What a paper account begins with.
    holder : str
        This process, for leases.
    key_fingerprint, acknowledged_account : str, str or None
        Fingerprint of the key in use, and the account that the executor's own environment names: two of the three parts of the live arm.
    flatten_on : frozenset of str
        Sources of a hard stop (triggers, or `manual`) after which what is held is sold too.
    """

    account: str
    mode: Mode
    book_id: str
    trading_enabled: bool
    holder: str
    entry_through_bps: Decimal = Decimal(30)
    default_stop_frac: Decimal = Decimal("0.03")
    opening_cash_quote: Decimal = Decimal(100_000)
    key_fingerprint: str = ""
    acknowledged_account: str | None = None
    flatten_on: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Trading:
    """The order path of one account in one process; `allocation` is what a token of the book may use."""

    stores: Stores
    broker: Broker
    terms: TradingTerms
    limits: RiskSettings
    protections: ProtectionSettings
    latch: Latch
    allocation: Allocation = field(default_factory=Allocation)
    clock: VenueClock = field(default_factory=VenueClock)
    monotonic: Callable[[], float] = monotonic_s
    at: Checkpoint = pass_by
    sleep: Callable[[float], None] = sleep


POINTS: Final = (
    "before_intent_commit",
    "after_intent",
    "before_submitting_commit",
    "before_wire",
    "after_wire",
    "after_answer",
    "after_step",
    "before_fill",
    "mid_fills",
    "after_fills",
    "before_cancel_wire",
    "after_cancel_wire",
    "recovery_step",
)
"""Every named point, in the order an order passes them; `recovery_step` is passed once per step of a recovery."""
