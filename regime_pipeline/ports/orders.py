"""What is to be ordered, where each order is now, who may act on an account, and the store that keeps it.

Instants are epoch milliseconds on the venue-corrected clock; leases alone go by the clock of the database.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final, Protocol
from uuid import UUID

from regime_pipeline.errors import OrderValidationError, UnauthorizedAIActionError
from regime_pipeline.execution.keys import LogicalKey, compute_hash
from regime_pipeline.execution.ladder import Look, Rung, Seen
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.portfolio.money import EXACT, ZERO
from regime_pipeline.ports.broker import OrderSpec, OrderType, TimeInForce
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.gate_view import ORIGINS
from regime_pipeline.risk.purpose import Leg, Purpose, Side

LEASE_S: Final = 15
TAKEOVER_S: Final = 1
"""A lease is taken over only this long after its end: the clock of the holder may differ from the database's."""


@dataclass(frozen=True, slots=True)
class NewIntent:
    """What is to be ordered: written once per logical key, never changed.

    Parameters
    ----------
    key : LogicalKey
        Makes two intents the same one; its hash is the client order id.
    qty, limit_price, stop_price : Decimal, Decimal or None, Decimal or None
        Base and quote, on the grid of the instrument.
    decide_by_ms : int
        Until when it may be sent.
    origin : str
        `strategy`, `human` or `risk`.
    decision_id, action_id : UUID or None, int or None
        Decision and action of the portfolio behind it.
    replaces_id : str or None
        Terminal order that child `seq` > 0 replaces.
    decision_mid : Decimal or None
        Mid when it was decided, for the shortfall.

    Raises
    ------
    UnauthorizedAIActionError
        When nobody entitled asked for it.
    OrderValidationError
        When a price or quantity is missing or not above 0, an entry is reduce-only, or a child names no predecessor.
    """

    key: LogicalKey
    side: Side
    type: OrderType
    qty: Decimal
    mode: Mode
    decide_by_ms: int
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    tif: TimeInForce = TimeInForce.GTC
    reduce_only: bool = False
    origin: str = "strategy"
    decision_id: UUID | None = None
    action_id: int | None = None
    replaces_id: str | None = None
    decision_mid: Decimal | None = None

    def __post_init__(self) -> None:
        if self.origin not in ORIGINS:
            msg = f"origin of {self.key.text} was {self.origin!r}, allowed are {', '.join(ORIGINS)}; nothing is ordered"
            raise UnauthorizedAIActionError(msg)
        for wrong in self._wrongs():
            raise OrderValidationError(f"intent {self.key.text}: {wrong}; correct the plan")

    def _wrongs(self) -> list[str]:
        needed = {"qty": self.qty}
        if self.type is OrderType.LIMIT or self.limit_price is not None:
            needed["limit_price"] = self.limit_price or ZERO
        if self.type is OrderType.STOP or self.stop_price is not None:
            needed["stop_price"] = self.stop_price or ZERO
        wrongs = [f"{name} was {value}, must be above 0" for name, value in needed.items() if not (value.is_finite() and value > 0)]
        if self.reduce_only and self.purpose is Purpose.ENTRY:
            wrongs.append("an entry was reduce-only, which contradicts itself")
        if (self.key.seq > 0) != (self.replaces_id is not None):
            wrongs.append(f"child {self.key.seq} replaced {self.replaces_id}; each child but the first names its terminal predecessor")
        return wrongs

    @property
    def client_order_id(self) -> str:
        """The id as we store it: 32 hex digits."""
        return self.key.client_order_id

    @property
    def purpose(self) -> Purpose:
        """What it does to the exposure."""
        return self.key.leg.purpose

    @property
    def leg(self) -> Leg:
        """Part of the plan."""
        return self.key.leg

    @property
    def spec(self) -> OrderSpec:
        """What is sent."""
        return OrderSpec(
            self.client_order_id,
            self.key.symbol,
            self.side,
            self.type,
            self.qty,
            self.limit_price,
            self.stop_price,
            self.tif,
            self.reduce_only,
        )

    @property
    def payload_hash(self) -> str:
        """SHA-256 of what is sent: an intent with the same key and another payload is a conflict."""
        prices = {
            name: None if price is None else price.normalize(EXACT)
            for name, price in (("qty", self.qty), ("limit_price", self.limit_price), ("stop_price", self.stop_price))
        }
        words = {"side": self.side, "type": self.type, "tif": self.tif, "reduce_only": self.reduce_only, "mode": self.mode}
        return compute_hash({"symbol": self.key.symbol, **prices, **words})


@dataclass(frozen=True, slots=True)
class OrderRow:
    """An order: its intent, where it is, and the sum of its booked fills.

    Parameters
    ----------
    version : int
        Steps taken; a step needs the version it was decided on.
    lease_token : int
        Of the lease under which it was last moved.
    next_look_at_ms : int or None
        When it is read or looked for next; None: with the regular pass.
    filled : Decimal
        Sum of the fills booked for it, base.
    step : Decimal
        Quantity step of its instrument; 0 where no rules are stored, so that nothing counts as a rounding rest.
    payload_hash : str
        As stored with the intent.
    """

    intent: NewIntent
    venue: str
    state: OrderState
    version: int
    payload_hash: str
    created_at_ms: int
    venue_order_id: str | None = None
    lease_token: int = 0
    sent_at_ms: int | None = None
    request_expires_at_ms: int | None = None
    rest_until_ms: int | None = None
    unknown_at_ms: int | None = None
    cancel_requested_at_ms: int | None = None
    cancel_asked_at_ms: int | None = None
    cancel_tries: int = 0
    last_seen_at_ms: int | None = None
    next_look_at_ms: int | None = None
    flags: frozenset[str] = frozenset()
    filled: Decimal = ZERO
    step: Decimal = ZERO

    @property
    def client_order_id(self) -> str:
        """The id as we store it."""
        return self.intent.client_order_id

    @property
    def symbol(self) -> str:
        """Unified symbol."""
        return self.intent.key.symbol

    @property
    def purpose(self) -> Purpose:
        """What it does to the exposure."""
        return self.intent.purpose

    @property
    def remaining(self) -> Decimal:
        """What is not filled, base; 0 after an overfill."""
        return max(ZERO, EXACT.subtract(self.intent.qty, self.filled))


class IntentOutcome(StrEnum):
    """What became of an intent that was to be written."""

    WRITTEN = "written"
    ADOPTED = "adopted"  # the key exists with the same payload: the stored order stands
    CONFLICT = "conflict"  # the key exists with another payload: the stored order stands, with an incident
    BLOCKED = "blocked"  # another live order holds its place, or replaces the same one: nothing was written


@dataclass(frozen=True, slots=True)
class WrittenIntent:
    """An intent and what became of it; `order` is the stored one, None when nothing with its key exists."""

    intent: NewIntent
    outcome: IntentOutcome
    order: OrderRow | None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act alone: whoever takes it over later has a higher token, and every write carries it."""

    name: str
    holder: str
    token: int


@dataclass(frozen=True, slots=True)
class Proof:
    """Why an order makes a step.

    Parameters
    ----------
    answer_class, code, http_status, raw : str or None, str or None, int or None, str or None
        Class of the answer, reason or venue code, HTTP status, and the answer without secrets, at most 4 kB.
    evidence : Mapping of str to object
        Anything else that proves it, as JSON.
    """

    answer_class: str | None = None
    code: str | None = None
    http_status: int | None = None
    raw: str | None = None
    evidence: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OrderChange:
    """What a step changes besides the state; None leaves a value as it is, except that `next_look_at_ms` is always set as given."""

    venue_order_id: str | None = None
    sent_at_ms: int | None = None
    request_expires_at_ms: int | None = None
    rest_until_ms: int | None = None
    unknown_at_ms: int | None = None
    cancel_requested_at_ms: int | None = None
    last_seen_at_ms: int | None = None
    next_look_at_ms: int | None = None
    add_flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OrderStep:
    """One step as it is written: compare, set, transition, and what the outbox gains or has done.

    Parameters
    ----------
    version : int
        Of the row on which the step was decided.
    lease : Lease or None
        Must still be ours; None for steps that need none.
    renews_lease : bool
        Whether the lease is renewed in the same statement, which also needs it not to have ended.
    outbox_done, outbox_added : str or None
        Kind whose open row of this order is marked done, and kind of a row that is added or opened again.
    """

    client_order_id: str
    old: OrderState
    new: OrderState
    version: int
    actor: str
    lease: Lease | None
    proof: Proof = Proof()
    change: OrderChange = OrderChange()
    renews_lease: bool = False
    outbox_done: str | None = None
    outbox_added: str | None = None


class Stepped(StrEnum):
    """What came of a compare-and-set."""

    DONE = "done"
    CONFLICT = "conflict"  # somebody moved the order first
    LEASE_LOST = "lease_lost"


@dataclass(frozen=True, slots=True)
class OrderTransition:
    """A step as recorded."""

    client_order_id: str
    order_seq: int
    old: OrderState
    new: OrderState
    proof: Proof
    actor: str
    lease_token: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Seeing:
    """What a read changes when it shows nothing new: when the order was seen, and when it is read next."""

    client_order_id: str
    next_look_at_ms: int | None
    last_seen_at_ms: int | None = None


class PauseKind(StrEnum):
    """What leaves for a while."""

    CREATES = "creates"  # the venue asked for it
    ENTRIES = "entries"  # somebody before the venue answers in its place


@dataclass(frozen=True, slots=True)
class Pause:
    """Until when nothing of a kind is sent to a venue, and how long the pause was meant to be; kept over restarts."""

    kind: PauseKind
    until_ms: int
    length_s: int


@dataclass(frozen=True, slots=True)
class OpenNote:
    """A row of the outbox that is not done: its age is by the clock of the database."""

    kind: str
    dedupe_key: str
    age_s: int
    attempts: int
    last_error: str | None


class OrderStore(Protocol):
    """Intents, orders, their steps and looks, leases and outbox, in the transaction of the work."""

    def acquire_lease(self, name: str, holder: str, length_s: int = LEASE_S) -> Lease | None:
        """Take a lease for a while by the clock of the database; None while somebody has it, or had it until less than 1 s ago."""
        ...

    def renew_lease(self, lease: Lease) -> bool:
        """Hold a lease for another 15 s; False when it has ended or is somebody else's."""
        ...

    def release_lease(self, lease: Lease) -> None:
        """Give a lease back at once; nothing happens when it is ours no more."""
        ...

    def try_lock_account(self, account: str) -> bool:
        """Lock an account until the transaction ends, without waiting: what tx1 begins with."""
        ...

    def write_intents(self, venue: str, intents: Sequence[NewIntent]) -> list[WrittenIntent]:
        """Write intents, their orders as INTENT, and SUBMIT into the outbox; adopt what exists."""
        ...

    def load_orders(self, client_order_ids: Collection[str]) -> dict[str, OrderRow]:
        """Load orders by id."""
        ...

    def load_by_venue_id(self, venue: str, account: str, venue_order_ids: Collection[str]) -> list[OrderRow]:
        """Load orders by the venue's ids."""
        ...

    def load_live(self, account: str, symbol: str | None = None) -> list[OrderRow]:
        """Load the orders that have not ended, oldest first."""
        ...

    def load_recent(self, account: str, since_ms: int) -> list[OrderRow]:
        """Load all orders written since an instant, newest first."""
        ...

    def step(self, step: OrderStep) -> Stepped:
        """Write one step: compare-and-set, transition and outbox in one statement."""
        ...

    def load_transitions(self, client_order_id: str) -> list[OrderTransition]:
        """Load the steps of an order, oldest first."""
        ...

    def note_seen(self, seen: Sequence[Seeing]) -> None:
        """Record when orders were read and are read next, without a step."""
        ...

    def note_cancels_asked(self, client_order_ids: Collection[str], asked_at_ms: int) -> None:
        """Record that cancels are about to leave: one more try each."""
        ...

    def add_flag(self, client_order_id: str, flag: str) -> None:
        """Flag an order."""
        ...

    def add_look(self, client_order_id: str, look: Look, rungs: Mapping[Rung, Seen]) -> None:
        """Record a look for an UNKNOWN order."""
        ...

    def load_looks(self, client_order_ids: Collection[str]) -> dict[str, tuple[Look, ...]]:
        """Load the looks taken since each order last became UNKNOWN, oldest first."""
        ...

    def load_pauses(self, venue: str) -> dict[PauseKind, Pause]:
        """Load what is or was paused at a venue."""
        ...

    def save_pause(self, venue: str, pause: Pause) -> None:
        """Record a pause; a length of 0 ends it."""
        ...

    def load_last_codes(self, account: str, limit: int) -> list[str]:
        """Load the codes of the newest answers to creates of an account, newest first."""
        ...

    def load_open_notes(self, account: str) -> list[OpenNote]:
        """Load what the outbox of an account still holds, oldest first."""
        ...
