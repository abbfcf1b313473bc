"""One turn of the executor: its lease, what it has seen, and what it has to tell."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from regime_pipeline.errors import (
    DatabaseError,
    ExecutionError,
    InvalidTransitionError,
    LeaseLostError,
    LedgerImbalanceError,
    RegimeError,
    TerminalStateError,
    TransitionConflictError,
)
from regime_pipeline.execution.bounds import next_cancel_ms, next_poll_ms
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.ports import Lease, OrderRow, OrderType, Pause, PauseKind, Severity, TimeInForce, Work
from regime_pipeline.risk.kill_switch import Level, Switch, Trigger, worst_level
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.incidents import open_incident

LEASE_PART: Final = 4
"""A lease confirmed longer ago than this part of the request window is confirmed again before anything is sent."""

_KINDS: Final[tuple[tuple[type[RegimeError], str], ...]] = (
    (InvalidTransitionError, "INVALID_TRANSITION"),
    (TerminalStateError, "TERMINAL_STATE"),
    (LedgerImbalanceError, "LEDGER_IMBALANCE"),
    (ExecutionError, "STEP_REFUSED"),
    (RegimeError, "STEP_FAILED"),
)


@dataclass(frozen=True, slots=True)
class ExecutionSummary:
    """What a turn came to.

    Parameters
    ----------
    has_lease : bool
        False: somebody else is at it, and nothing was done.
    steps : dict of str to int
        Steps by `OLD->NEW`.
    sent, looked, read, cancels_asked : int
        Creates on the wire, looks of the ladder, orders read, and cancels asked for.
    triggers : frozenset of Trigger
        What ought to raise the kill switch.
    wants : frozenset of str
        What others ought to do: `measure_clock`, `check_balances`, `page_auth`.
    failed : tuple of str
        Orders that could not be handled, with an incident each.
    next_due_ms : int or None
        When something is due again; None: when something new comes.
    """

    has_lease: bool
    steps: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    looked: int = 0
    read: int = 0
    cancels_asked: int = 0
    triggers: frozenset[Trigger] = frozenset()
    wants: frozenset[str] = frozenset()
    failed: tuple[str, ...] = ()
    next_due_ms: int | None = None


@dataclass(slots=True)
class Cycle:
    """A turn under way; `confirmed_s` is when, on the monotonic clock, the lease was ours for certain."""

    trading: Trading
    lease: Lease
    confirmed_s: float
    started_ms: int
    orders: dict[str, OrderRow]
    switches: list[Switch]
    pauses: dict[PauseKind, Pause]
    counts: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    triggers: set[Trigger] = field(default_factory=set)
    wants: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)

    @property
    def now_ms(self) -> int:
        """Venue-corrected now."""
        return self.trading.clock.now_ms()

    def live(self, *states: OrderState) -> list[OrderRow]:
        """Orders in these states, as this turn knows them, oldest first."""
        return [order for order in self.orders.values() if order.state in states]

    def keep(self, before: OrderRow, after: OrderRow) -> OrderRow:
        """Remember where an order is once its transaction has committed."""
        if after.version != before.version:
            self.steps[f"{before.state}->{after.state}"] += 1
        self.orders[after.client_order_id] = after
        return after

    def level_of(self, order: OrderRow) -> Level:
        """Worst kill level of an order, by table and file."""
        key = order.intent.key
        return worst_level((*self.switches, *self.trading.latch.read()), key.account, key.strategy, key.symbol)

    def is_confirmed(self) -> bool:
        """Tell whether the lease was ours so lately that a create may leave."""
        return self.trading.monotonic() - self.confirmed_s <= self.trading.limits.request_window_s / LEASE_PART

    def keep_lease(self) -> None:
        """Confirm the lease where that is due.

        Raises
        ------
        LeaseLostError
            When it is ours no more.
        """
        if self.is_confirmed():
            return
        asked_s = self.trading.monotonic()
        with self.trading.stores.open() as work:
            if not work.orders.renew_lease(self.lease):
                raise LeaseLostError(f"lease {self.lease.name} was lost by {self.lease.holder}; nothing more is sent, recover first")
        self.confirmed_s = asked_s

    @contextmanager
    def handling(self, order: OrderRow) -> Iterator[None]:
        """Handle one order: what it is refused stops it and no other; an order that somebody else has moved is left to the next turn."""
        try:
            yield
        except (LeaseLostError, DatabaseError):
            raise
        except TransitionConflictError:
            self.counts["conflicts"] += 1
        except RegimeError as error:
            self._report(order, error)

    def _report(self, order: OrderRow, error: RegimeError) -> None:
        kind = next(name for wrong, name in _KINDS if isinstance(error, wrong))
        evidence = {"error": type(error).__name__, "message": str(error), "symbol": order.symbol, "state": order.state.value}
        with self.trading.stores.open() as work:
            open_incident(work, kind, Severity.CRITICAL, order.client_order_id, evidence)
        self.failed.append(order.client_order_id)
        if isinstance(error, LedgerImbalanceError):
            self.triggers.add(Trigger.LEDGER_IMBALANCE)

    def summarise(self) -> ExecutionSummary:
        """Say what the turn came to."""
        dues = [due_ms for order in self.orders.values() if (due_ms := due_ms_of(order)) is not None]
        return ExecutionSummary(
            has_lease=True,
            steps=dict(self.steps),
            sent=self.counts["sent"],
            looked=self.counts["looked"],
            read=self.counts["read"],
            cancels_asked=self.counts["cancels_asked"],
            triggers=frozenset(self.triggers),
            wants=frozenset(self.wants),
            failed=tuple(self.failed),
            next_due_ms=min(dues, default=None),
        )


def due_ms_of(order: OrderRow) -> int | None:
    """When something is due for an order; None when it has ended or waits for the regular pass."""
    if order.state.is_terminal:
        return None
    if order.state is OrderState.INTENT:
        return order.intent.decide_by_ms
    return min((ms for ms in (order.next_look_at_ms, order.rest_until_ms) if ms is not None), default=None)


def next_look_ms(order: OrderRow, state: OrderState, now_ms: int) -> int | None:
    """When an order in a state is read or asked for again."""
    if state.is_terminal:
        return None
    if state is OrderState.CANCEL_REQUESTED:
        asked_ms = order.cancel_asked_at_ms
        return now_ms if asked_ms is None else next_cancel_ms(asked_ms, order.cancel_tries)
    is_resting = order.intent.type is not OrderType.MARKET and order.intent.tif is not TimeInForce.IOC
    return next_poll_ms(order.sent_at_ms or now_ms, now_ms, is_resting=is_resting)


def note_pause(work: Work, cycle: Cycle, pause: Pause) -> None:
    """Keep a pause over restarts, and for the rest of the turn."""
    work.orders.save_pause(cycle.trading.broker.traits.venue, pause)
    cycle.pauses[pause.kind] = pause
