"""The one function that moves an order: registry and guards, compare-and-set, transition and outbox, in the caller's transaction."""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from regime_pipeline.errors import ExecutionError, LeaseLostError, TransitionConflictError
from regime_pipeline.execution.order_states import Guard, OrderState, check_step
from regime_pipeline.ports import Lease, OrderChange, OrderRow, OrderStep, Proof, Stepped, Work

EXECUTOR: Final = "executor"
NO_PROOF: Final = Proof()
NO_CHANGE: Final = OrderChange()


def move_order(
    work: Work,
    order: OrderRow,
    new: OrderState,
    held: Collection[Guard],
    *,
    actor: str = EXECUTOR,
    lease: Lease | None = None,
    proof: Proof = NO_PROOF,
    change: OrderChange = NO_CHANGE,
    has_news: bool = False,
    renews_lease: bool = False,
) -> OrderRow:
    """Move an order by one step, or leave it where it is when nothing is new.

    Parameters
    ----------
    work : Work
        The transaction of the step; whatever justifies it (fills, an incident) is written in the same one.
    order : OrderRow
        As loaded from the table: its state and version are what is compared.
    new : OrderState
        Where it goes. The state it has already is no step, unless `has_news` and the registry has such an edge.
    held : collection of Guard
        What the caller has proven.
    actor : str
        executor, tick, reconciler, kill, or a person.
    lease : Lease or None
        Written under it, and refused when it is ours no more; None for what a person or the kill switch does.
    proof, change : Proof, OrderChange
        Why, and what else changes.
    renews_lease : bool
        Whether the lease is renewed by the step, as by the one before the wire.

    Returns
    -------
    OrderRow
        The order after the step.

    Raises
    ------
    ExecutionError
        `InvalidTransitionError`, `TerminalStateError` and the other errors of a guard: nothing was written.
    LeaseLostError
        When the lease is ours no more.
    TransitionConflictError
        When somebody moved the order first, and the step does not follow from where it is now.
    """
    for is_again in (False, True):
        if order.state is new and not (has_news and not new.is_terminal and new not in _WITHOUT_LOOP):
            return order
        _check(order, new, held, is_again=is_again)
        done = work.orders.step(_step_of(order, new, actor, lease, proof, change, renews_lease=renews_lease))
        if done is Stepped.DONE:
            return _apply(order, new, lease, change)
        if done is Stepped.LEASE_LOST:
            msg = (
                f"order {order.client_order_id}: lease {lease.name if lease else ''} was lost before {order.state} -> {new}; recover first"
            )
            raise LeaseLostError(msg)
        order = work.orders.load_orders([order.client_order_id])[order.client_order_id]
    raise TransitionConflictError(
        f"order {order.client_order_id}: was moved to {order.state} twice before {new}; the next cycle looks again"
    )


_WITHOUT_LOOP: Final = frozenset({OrderState.INTENT, OrderState.SUBMITTING, OrderState.UNKNOWN, OrderState.OPEN})
"""States that no edge leads back to: more of the same is no step."""


def _check(order: OrderRow, new: OrderState, held: Collection[Guard], *, is_again: bool) -> None:
    try:
        check_step(order.client_order_id, order.state, new, held)
    except ExecutionError as error:
        if is_again:  # not the caller's mistake: the order is elsewhere than where he saw it
            raise TransitionConflictError(f"{error} It was moved in between; the next cycle looks again.") from error
        raise


def _step_of(
    order: OrderRow, new: OrderState, actor: str, lease: Lease | None, proof: Proof, change: OrderChange, *, renews_lease: bool
) -> OrderStep:
    old = order.state
    done = None
    if old is OrderState.INTENT:
        done = "SUBMIT"
    elif old is OrderState.CANCEL_REQUESTED and new is not old:
        done = "CANCEL"
    added = "CANCEL" if new is OrderState.CANCEL_REQUESTED and new is not old else None
    return OrderStep(
        order.client_order_id, old, new, order.version, actor, lease, proof, change, renews_lease, outbox_done=done, outbox_added=added
    )


def _apply(order: OrderRow, new: OrderState, lease: Lease | None, change: OrderChange) -> OrderRow:
    """The order as the statement has left it."""
    given = {
        name: value
        for name in ("venue_order_id", "sent_at_ms", "request_expires_at_ms", "rest_until_ms", "unknown_at_ms", "last_seen_at_ms")
        if (value := getattr(change, name)) is not None
    }
    first_cancel_ms = order.cancel_requested_at_ms if order.cancel_requested_at_ms is not None else change.cancel_requested_at_ms
    return replace(
        order,
        state=new,
        version=order.version + 1,
        lease_token=max(order.lease_token, lease.token if lease else 0),
        next_look_at_ms=change.next_look_at_ms,
        cancel_requested_at_ms=first_cancel_ms,
        flags=order.flags | set(change.add_flags),
        **given,
    )
