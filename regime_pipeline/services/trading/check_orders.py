"""The order half of a reconciliation: every order by our rows and by the venue, both ways, and every fill.

A listing that failed says nothing. Our orders are settled by what the venue shows; somebody else's are never touched.
"""

from collections.abc import Sequence
from typing import Final

from regime_pipeline.execution.compare import Pause
from regime_pipeline.execution.ladder import needs_lookup
from regime_pipeline.execution.order_states import Guard, OrderState, read_status
from regime_pipeline.ports import (
    Absent,
    Failed,
    OrderChange,
    OrderRow,
    Proof,
    ReconFinding,
    Seeing,
    Severity,
    VenueOrder,
    Work,
)
from regime_pipeline.risk.kill_switch import Trigger
from regime_pipeline.risk.purpose import Purpose
from regime_pipeline.services.trading.adopt_orders import adopt_by_key, find_own_keys
from regime_pipeline.services.trading.book_fills import book_fills
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.move_order import move_order
from regime_pipeline.services.trading.recon_verdict import Before, OrderVerdict, report_foreign

RECONCILER: Final = "reconciler"
MISSING_INCIDENT_MS: Final = 120_000


def check_orders(trading: Trading, before: Before, verdict: OrderVerdict) -> None:
    """Compare open orders both ways and settle what differs; every order in a transaction of its own.

    Parameters
    ----------
    before : Before
        Findings of the pass before: an order must be missing twice.
    """
    account = trading.terms.account
    with trading.stores.open() as work:
        live = work.orders.load_live(account)  # before the venue is asked: what is sent meanwhile is not missing
    listed_ms = trading.clock.now_ms()
    listing = trading.broker.fetch_open_orders()
    if isinstance(listing, Failed):
        verdict.unknown.append(f"open orders: {listing.reason}")
        return
    verdict.n_orders = len(listing.value)
    _check_missing(trading, live, listing.value, listed_ms, before, verdict)
    with trading.stores.open() as work:  # after it was asked: what was sent has its row before it has left
        rows = {row.client_order_id: row for row in _load_rows(work, trading, listing.value)}
        by_venue = {row.venue_order_id: row for row in rows.values()}
    strangers = []
    for shown in listing.value:
        row = rows.get(shown.client_order_id or "") or by_venue.get(shown.venue_order_id)
        if row is None:
            strangers.append(shown)
        else:
            _settle_known(trading, row, shown, verdict)
    if strangers:
        _settle_strangers(trading, strangers, verdict)


def _load_rows(work: Work, trading: Trading, listing: Sequence[VenueOrder]) -> list[OrderRow]:
    found = list(work.orders.load_orders([shown.client_order_id for shown in listing if shown.client_order_id]).values())
    known = {row.client_order_id for row in found}
    rest = [shown.venue_order_id for shown in listing if shown.client_order_id not in known]
    return [*found, *work.orders.load_by_venue_id(trading.broker.traits.venue, trading.terms.account, rest)]


def _settle_known(trading: Trading, row: OrderRow, shown: VenueOrder, verdict: OrderVerdict) -> None:
    """Settle an open order that has a row."""
    if row.state is OrderState.NOT_FOUND:
        surface_order(trading, row, shown, verdict)
    elif row.state.is_terminal:
        _stop_ended(trading, row, shown, verdict)
    elif row.state.is_unresolved:
        with trading.stores.open() as work:  # the ladder finds it now rather than later
            work.orders.note_seen([Seeing(row.client_order_id, trading.clock.now_ms(), trading.clock.now_ms())])


def _check_missing(
    trading: Trading,
    live: Sequence[OrderRow],
    listing: Sequence[VenueOrder],
    listed_ms: int,
    before: Before,
    verdict: OrderVerdict,
) -> None:
    """Orders that we have as resting and the listing has not: read by id, and UNKNOWN after two absences."""
    shown = {order.client_order_id for order in listing} | {order.venue_order_id for order in listing}
    resting = {OrderState.OPEN, OrderState.PARTIAL, OrderState.CANCEL_REQUESTED}
    for row in live:
        if row.state not in resting or row.client_order_id in shown or row.venue_order_id in shown:
            continue
        read = trading.broker.fetch_order(row.symbol, row.client_order_id, row.venue_order_id)
        if isinstance(read, Failed):
            verdict.unknown.append(f"order {row.client_order_id}: {read.reason}")
            continue
        if not isinstance(read, Absent):
            with trading.stores.open() as work:  # it has ended: the executor adopts the status with its fills
                work.orders.note_seen([Seeing(row.client_order_id, trading.clock.now_ms(), trading.clock.now_ms())])
            continue
        _judge_missing(trading, row, listed_ms, before.get(("order", row.client_order_id)), verdict)


def _judge_missing(trading: Trading, row: OrderRow, listed_ms: int, earlier: ReconFinding | None, verdict: OrderVerdict) -> None:
    first_ms = int(earlier.evidence["first_ms"]) if earlier is not None and "first_ms" in earlier.evidence else listed_ms
    absences = [(first_ms, False), (listed_ms, False)] if first_ms != listed_ms else [(listed_ms, False)]
    action = ""
    if needs_lookup(absences, absent_by_id=True):
        with trading.stores.open() as work:
            current = work.orders.load_orders([row.client_order_id])[row.client_order_id]
            if current.version == row.version:
                now_ms = trading.clock.now_ms()
                proof = Proof(code="GONE", evidence={"absent_ms": [at_ms for at_ms, _ in absences], "absent_by_id": True})
                change = OrderChange(unknown_at_ms=now_ms, next_look_at_ms=now_ms)
                move_order(work, current, OrderState.UNKNOWN, {Guard.EVIDENCE_STORED}, actor=RECONCILER, proof=proof, change=change)
                action = "unknown"
            if listed_ms - first_ms > MISSING_INCIDENT_MS:
                open_incident(work, "ORDER_GONE", Severity.WARNING, row.client_order_id, {"first_ms": first_ms}, "order-gone")
    repeats = 1 if earlier is None else earlier.repeats + 1
    verdict.findings.append(
        ReconFinding("order", row.client_order_id, "warning", action=action, repeats=repeats, evidence={"first_ms": first_ms})
    )


def surface_order(trading: Trading, row: OrderRow, shown: VenueOrder, verdict: OrderVerdict) -> None:
    """Adopt an order that was given up and shows itself: state, fills and incident in one transaction, exposure counted with it."""
    fills = trading.broker.fetch_fills(row.symbol, (row.sent_at_ms or shown.created_ms) - 60_000, shown.venue_order_id)
    if isinstance(fills, Failed):
        verdict.unknown.append(f"fills of {row.client_order_id}: {fills.reason}")
        return
    symbol, now_ms = row.symbol, trading.clock.now_ms()
    held = {Guard.BY_RECONCILER, Guard.INCIDENT_OPENED, Guard.EXPOSURE_COUNTED}
    with trading.stores.open() as work:
        open_incident(work, "ORDER_SURFACED", Severity.CRITICAL, row.client_order_id, _spell(shown), "order-surfaced")
        rival = next((o for o in work.orders.load_live(row.intent.key.account, symbol) if _same_place(o, row)), None)
        booked = book_fills(work, trading.broker.traits, fills.value, now_ms, known={shown.venue_order_id: row.client_order_id})
        filled = booked.filled.get(row.client_order_id, row.filled)
        reading = read_status(shown.status, row.intent.qty, filled, shown.filled, row.step)
        if rival is None or reading.state.is_terminal:
            change = OrderChange(venue_order_id=shown.venue_order_id, last_seen_at_ms=now_ms, next_look_at_ms=now_ms)
            proof = Proof(code=reading.code or "SURFACED", evidence=_spell(shown))
            if Guard.FILLS_BOOKED in reading.held:
                move_order(work, row, reading.state, held | reading.held, actor=RECONCILER, proof=proof, change=change)
    if rival is not None and not reading.state.is_terminal:
        # Another order holds its place: two live entries must not be, and this one was not counted when the other was decided.
        trading.broker.cancel_order(symbol, row.client_order_id, shown.venue_order_id)
    verdict.pauses.add(Pause(Trigger.RECON_ORDER, symbol))
    verdict.findings.append(ReconFinding("order", row.client_order_id, "warning", action="adopted", evidence=_spell(shown)))


def _stop_ended(trading: Trading, row: OrderRow, shown: VenueOrder, verdict: OrderVerdict) -> None:
    """An order that has ended here rests there: cancelled at once; what it fills is booked late by the pass over the fills."""
    read = trading.broker.fetch_order(row.symbol, row.client_order_id, shown.venue_order_id)
    if isinstance(read, Failed):
        verdict.unknown.append(f"order {row.client_order_id}: {read.reason}")
        return
    if isinstance(read, Absent) or read.value.status != shown.status:
        return  # it had ended since the listing
    evidence = {**_spell(shown), "state": row.state.value}
    with trading.stores.open() as work:
        open_incident(work, "ENDED_ORDER_OPEN", Severity.CRITICAL, row.client_order_id, evidence, "ended-order-open")
    trading.at("before_cancel_wire")
    trading.broker.cancel_order(row.symbol, row.client_order_id, shown.venue_order_id)
    trading.at("after_cancel_wire")
    verdict.pauses.add(Pause(Trigger.RECON_ORDER, row.symbol))
    verdict.findings.append(ReconFinding("order", row.client_order_id, "warning", action="cancelled", evidence=evidence))


def _settle_strangers(trading: Trading, strangers: Sequence[VenueOrder], verdict: OrderVerdict) -> None:
    """Orders without a row: ours by their key are adopted, the rest are foreign and left alone."""
    keys = find_own_keys(trading, strangers)
    for shown in strangers:
        key = keys.get(shown.client_order_id or "")
        if key is not None:
            adopted = adopt_by_key(trading, key, shown)
            verdict.pauses.add(Pause(Trigger.RECON_ORDER, shown.symbol))
            action = "adopted" if adopted else "not adopted"
            verdict.findings.append(ReconFinding("order", key.client_order_id, "warning", action=action, evidence=_spell(shown)))
            continue
        evidence = {**_spell(shown), "owner": "_external"}
        report_foreign(trading, "FOREIGN_ORDER", shown.symbol, shown.venue_order_id, evidence, verdict)


def _same_place(live: OrderRow, row: OrderRow) -> bool:
    """Tell whether two orders may not be live at the same time."""
    return live.purpose is row.purpose and (live.purpose is Purpose.ENTRY or live.intent.key.strategy == row.intent.key.strategy)


def _spell(shown: VenueOrder) -> dict[str, str]:
    return {
        "venue_order_id": shown.venue_order_id,
        "client_id": shown.raw_client_id or shown.client_order_id or "",
        "symbol": shown.symbol,
        "side": shown.side.value,
        "status": shown.status.value,
        "qty": str(shown.qty),
        "filled": str(shown.filled),
    }
