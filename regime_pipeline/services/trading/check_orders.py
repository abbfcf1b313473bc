"""The order half of a reconciliation: every order by our rows and by the venue, both ways, and every fill.

A listing that failed says nothing. Our orders are settled by what the venue shows; somebody else's are never touched.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import Final

from regime_pipeline.errors import DatabaseError, LeaseLostError, RegimeError
from regime_pipeline.execution.compare import Grade, Pause, judge_fee
from regime_pipeline.execution.fills import Fill
from regime_pipeline.execution.ladder import needs_lookup
from regime_pipeline.execution.order_states import Guard, OrderState, read_status
from regime_pipeline.portfolio.money import EXACT, ZERO
from regime_pipeline.ports import (
    Absent,
    Failed,
    FillRow,
    OrderChange,
    OrderRow,
    Proof,
    ReconFinding,
    Seeing,
    Severity,
    VenueOrder,
)
from regime_pipeline.risk.kill_switch import Trigger
from regime_pipeline.risk.purpose import Purpose
from regime_pipeline.services.trading.adopt_orders import adopt_by_key, find_own_keys
from regime_pipeline.services.trading.book_fills import book_fills
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.move_order import move_order

RECONCILER: Final = "reconciler"
MISSING_INCIDENT_MS: Final = 120_000
FILLS_BACK_MS: Final = 3_600_000
LOOK_BACK_MS: Final = 86_400_000
ACK_MS: Final = 60_000
FOREIGN_ORDER: Final = "FOREIGN_ORDER"
FOREIGN_FILL: Final = "FOREIGN_FILL"
ENDED_AT_VENUE_OPEN: Final = "ENDED_ORDER_OPEN"


@dataclass(slots=True)
class OrderVerdict:
    """What the comparison came to: findings, pauses asked for, why something is unknown, and counts."""

    findings: list[ReconFinding] = field(default_factory=list)
    pauses: set[Pause] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)
    n_orders: int = 0
    n_fills: int = 0


@dataclass(frozen=True, slots=True)
class _Book:
    """Our side, read before the venue's: an order that has ended in it had ended before the venue was asked."""

    live: tuple[OrderRow, ...]
    known: Mapping[str, OrderRow]


def check_orders(trading: Trading, before: Mapping[tuple[str, str], ReconFinding], verdict: OrderVerdict) -> None:
    """Compare open orders both ways and settle what differs; every order in a transaction of its own.

    Parameters
    ----------
    before : mapping of (check, scope) to ReconFinding
        Findings of the pass before: an order must be missing twice.
    """
    account = trading.terms.account
    with trading.stores.open() as work:
        live = tuple(work.orders.load_live(account))
        recent = work.orders.load_recent(account, trading.clock.now_ms() - LOOK_BACK_MS)
    listed_ms = trading.clock.now_ms()
    listing = trading.broker.fetch_open_orders()
    if isinstance(listing, Failed):
        verdict.unknown.append(f"open orders: {listing.reason}")
        return
    verdict.n_orders = len(listing.value)
    book = _Book(live, {row.client_order_id: row for row in (*recent, *live)})
    _check_missing(trading, book, listing.value, listed_ms, before, verdict)
    strangers = [order for order in listing.value if not _settle_known(trading, book, order, verdict)]
    if strangers:
        _settle_strangers(trading, strangers, verdict)


def _settle_known(trading: Trading, book: _Book, shown: VenueOrder, verdict: OrderVerdict) -> bool:
    """Settle an open order that has a row; False when it had none before the venue was asked."""
    row = book.known.get(shown.client_order_id or "")
    if row is None:
        with trading.stores.open() as work:
            found = list(work.orders.load_orders([shown.client_order_id]).values()) if shown.client_order_id else []
            found = found or work.orders.load_by_venue_id(trading.broker.traits.venue, trading.terms.account, [shown.venue_order_id])
        if not found:
            return False
        row = found[0]
        if row.created_at_ms > trading.clock.now_ms() - FILLS_BACK_MS:
            return True  # written while the venue was being asked; the executor is at it
    if row.state is OrderState.NOT_FOUND:
        surface_order(trading, row, shown, verdict)
    elif row.state.is_terminal:
        _stop_ended(trading, row, shown, verdict)
    elif row.state.is_unresolved:
        with trading.stores.open() as work:  # the ladder finds it now rather than later
            work.orders.note_seen([Seeing(row.client_order_id, trading.clock.now_ms(), trading.clock.now_ms())])
    return True


def _check_missing(
    trading: Trading,
    book: _Book,
    listing: Sequence[VenueOrder],
    listed_ms: int,
    before: Mapping[tuple[str, str], ReconFinding],
    verdict: OrderVerdict,
) -> None:
    """Orders that we have as resting and the listing has not: read by id, and UNKNOWN after two absences."""
    shown = {order.client_order_id for order in listing} | {order.venue_order_id for order in listing}
    resting = {OrderState.OPEN, OrderState.PARTIAL, OrderState.CANCEL_REQUESTED}
    for row in book.live:
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
        return  # the listing was older than what we know
    evidence = {**_spell(shown), "state": row.state.value}
    with trading.stores.open() as work:
        open_incident(work, ENDED_AT_VENUE_OPEN, Severity.CRITICAL, row.client_order_id, evidence, "ended-order-open")
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
        _report_foreign(trading, FOREIGN_ORDER, shown.symbol, shown.venue_order_id, evidence, verdict)


def check_fills(trading: Trading, symbols: Iterable[str], before: Mapping[tuple[str, str], ReconFinding], verdict: OrderVerdict) -> None:
    """Ask for the trades of each symbol since the newest one known, less an hour, and book what is missing."""
    symbols = sorted(symbols)
    with trading.stores.open() as work:
        cursors = work.recon.load_fill_cursors(trading.terms.account, symbols)
        tariffs = work.recon.load_tariffs(trading.broker.traits.venue)
    now_ms = trading.clock.now_ms()
    for symbol in symbols:
        read = trading.broker.fetch_fills(symbol, min(cursors.get(symbol, now_ms - LOOK_BACK_MS), now_ms) - FILLS_BACK_MS)
        if isinstance(read, Failed):
            verdict.unknown.append(f"fills of {symbol}: {read.reason}")
        elif read.value:
            _book(trading, symbol, read.value, before.get(("fill", symbol)), verdict)
            _judge_booked(trading, symbol, read.value, tariffs.get(symbol), verdict)


def _book(trading: Trading, symbol: str, fills: Sequence[Fill], earlier: ReconFinding | None, verdict: OrderVerdict) -> None:
    try:
        with trading.stores.open() as work:
            summary = book_fills(work, trading.broker.traits, fills, trading.clock.now_ms(), at=trading.at)
    except (DatabaseError, LeaseLostError):
        raise
    except RegimeError as error:  # one symbol that cannot be booked must not hide the others
        repeats = 1 if earlier is None else earlier.repeats + 1
        verdict.findings.append(
            ReconFinding("fill", symbol, "warning", action="entries off", repeats=repeats, evidence={"why": str(error)})
        )
        verdict.pauses.add(Pause(Trigger.RECON_ORDER, symbol))
        if repeats > 1:
            with trading.stores.open() as work:
                open_incident(work, "FILL_MISSING", Severity.CRITICAL, symbol, {"why": str(error)}, "fill-missing")
        return
    verdict.n_fills += summary.booked
    if summary.booked:
        evidence = {"booked": summary.booked, "late": summary.late, "unlinked": summary.unlinked}
        verdict.findings.append(ReconFinding("fill", symbol, "warning", action="booked", evidence=evidence))
    if summary.late or summary.overfilled or summary.conflicts:
        verdict.pauses.add(Pause(Trigger.RECON_ORDER, symbol))


def _judge_booked(
    trading: Trading, symbol: str, fills: Sequence[Fill], tariff: tuple[Decimal, Decimal] | None, verdict: OrderVerdict
) -> None:
    """Look at what is booked for the orders of these fills: nobody's trades, and fees beyond the tariff."""
    account, now_ms = trading.terms.account, trading.clock.now_ms()
    with trading.stores.open() as work:
        rows = work.ledger.load_fills(trading.broker.traits.venue, account, {fill.venue_order_id for fill in fills}, ())
        has_doubt = any(order.state.is_unresolved for order in work.orders.load_live(account, symbol))
    rows = [row for row in rows if row.fill.symbol == symbol]
    # one of ours is nobody's until its acknowledgement has been read
    foreign = {r.fill.venue_order_id for r in rows if r.client_order_id is None and now_ms - r.fill.venue_ts_ms > ACK_MS}
    for venue_order_id in () if has_doubt else sorted(foreign):
        _report_foreign(trading, FOREIGN_FILL, symbol, venue_order_id, {"venue_order_id": venue_order_id, "owner": "_external"}, verdict)
    if tariff is not None:
        _judge_fees(trading, symbol, rows, tariff[1], verdict)


def _judge_fees(trading: Trading, symbol: str, rows: Sequence[FillRow], taker_bps: Decimal, verdict: OrderVerdict) -> None:
    """Compare the fees of a symbol with its tariff, all fills together: a single one is too small to be judged after rounding."""
    known = [row for row in rows if row.fee_quote is not None]
    with localcontext(EXACT):
        fees = sum((row.fee_quote for row in known if row.fee_quote is not None), ZERO)
        notional = sum((row.fill.qty * row.fill.price for row in known), ZERO)
    grade = judge_fee(fees, notional, taker_bps) if notional else Grade.FINE
    if grade is Grade.FINE:
        return
    evidence = {"fees_quote": str(fees), "notional_quote": str(notional), "taker_bps": str(taker_bps)}
    if grade is Grade.BAD:
        with trading.stores.open() as work:
            open_incident(work, "FEE_OFF_TARIFF", Severity.WARNING, f"{trading.terms.account}|{symbol}", evidence, "fee-off-tariff")
    verdict.findings.append(ReconFinding("fee", symbol, "warning", action="incident" if grade is Grade.BAD else "", evidence=evidence))


def _report_foreign(
    trading: Trading, kind: str, symbol: str, venue_order_id: str, evidence: Mapping[str, str], verdict: OrderVerdict
) -> None:
    """Somebody else's order or trade: entries on its symbol stay off until a person acknowledges the incident."""
    scope = f"{trading.terms.account}|{symbol}|{venue_order_id}"
    with trading.stores.open() as work:
        incident = open_incident(work, kind, Severity.CRITICAL, scope, evidence, "foreign-order")
    action = "" if incident.acked_by else "entries off"
    if action:
        verdict.pauses.add(Pause(Trigger.RECON_FOREIGN, symbol))
    verdict.findings.append(ReconFinding("order", scope, "warning", action=action, evidence=evidence))


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
