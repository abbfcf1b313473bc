"""Every trade of the venue in our book: what is missing is booked, what is nobody's is reported, fees are held against the tariff."""

from collections.abc import Iterable, Sequence
from decimal import Decimal, localcontext
from typing import Final

from regime_pipeline.errors import DatabaseError, LeaseLostError, RegimeError
from regime_pipeline.execution.compare import Grade, Pause, judge_fee
from regime_pipeline.execution.fills import Fill
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.portfolio.money import EXACT, ZERO
from regime_pipeline.ports import Failed, FillRow, Ok, ReconFinding, Severity, VenueOrder
from regime_pipeline.risk.kill_switch import Trigger
from regime_pipeline.services.trading.adopt_orders import adopt_by_key, find_own_keys
from regime_pipeline.services.trading.book_fills import book_fills
from regime_pipeline.services.trading.check_orders import surface_order
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.recon_verdict import Before, OrderVerdict, report_foreign

BACK_MS: Final = 3_600_000
FIRST_BACK_MS: Final = 86_400_000
NO_ORDER: Final = "0" * 32
"""A client order id that is nobody's: the venue's id says which order is meant."""


def check_fills(trading: Trading, symbols: Iterable[str], before: Before, verdict: OrderVerdict) -> None:
    """Ask for the trades of each symbol since the newest one known or the oldest without a fee, less an hour; book what is missing."""
    symbols = sorted(symbols)
    now_ms = trading.clock.now_ms()
    with trading.stores.open() as work:
        cursors = work.recon.load_fill_cursors(trading.terms.account, symbols)
        tariffs = work.recon.load_tariffs(trading.broker.traits.venue)
        doubtful = [order for order in work.orders.load_live(trading.terms.account) if order.state.is_unresolved]
    for symbol in symbols:
        sent_ms = [order.sent_at_ms or order.created_at_ms for order in doubtful if order.symbol == symbol]
        # however long ago: an order that nobody can read any more may have traded when it was sent
        since_ms = min(cursors.get(symbol, now_ms - FIRST_BACK_MS), now_ms, *sent_ms)
        read = trading.broker.fetch_fills(symbol, since_ms - BACK_MS)
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
            scope = f"{trading.terms.account}|{symbol}"
            with trading.stores.open() as work:
                open_incident(work, "FILL_MISSING", Severity.CRITICAL, scope, {"why": str(error)}, "fill-missing")
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
    account = trading.terms.account
    with trading.stores.open() as work:
        rows = work.ledger.load_fills(trading.broker.traits.venue, account, {fill.venue_order_id for fill in fills}, ())
        has_doubt = any(order.state.is_unresolved for order in work.orders.load_live(account, symbol))
    rows = [row for row in rows if row.fill.symbol == symbol]
    foreign = {row.fill.venue_order_id for row in rows if row.client_order_id is None}
    for venue_order_id in () if has_doubt else sorted(foreign):
        if _is_claimed(trading, symbol, venue_order_id, verdict):
            continue
        report_foreign(trading, "FOREIGN_FILL", symbol, venue_order_id, {"venue_order_id": venue_order_id, "owner": "_external"}, verdict)
    if tariff is not None:
        _judge_fees(trading, symbol, rows, tariff[1], verdict)


def _is_claimed(trading: Trading, symbol: str, venue_order_id: str, verdict: OrderVerdict) -> bool:
    """Ask whose order has traded before it is called somebody else's: one of ours that ended here, or was given up, takes its trades over.

    True as well when that could not be read, which is asked again by the next pass.
    """
    account = trading.terms.account
    with trading.stores.open() as work:
        reported = {each.scope for each in work.recon.load_incidents() if each.kind == "FOREIGN_FILL"}
    if f"{account}|{symbol}|{venue_order_id}" in reported:
        return False
    read = trading.broker.fetch_order(symbol, NO_ORDER, venue_order_id)
    if isinstance(read, Failed):
        verdict.unknown.append(f"order {venue_order_id}: {read.reason}")
        return True
    client_order_id = read.value.client_order_id if isinstance(read, Ok) else None
    if not isinstance(read, Ok) or client_order_id is None:
        return False
    with trading.stores.open() as work:
        row = work.orders.load_orders([client_order_id]).get(client_order_id)
    if row is None:
        return _is_restored(trading, read.value, verdict)
    if row.intent.key.account != account:
        return False
    with trading.stores.open() as work:
        if row.state is not OrderState.NOT_FOUND:
            book_fills(work, trading.broker.traits, (), trading.clock.now_ms(), known={venue_order_id: client_order_id}, at=trading.at)
            if row.state.is_terminal:
                verdict.pauses.add(Pause(Trigger.RECON_ORDER, symbol))
            return True
    surface_order(trading, row, read.value, verdict)
    return True


def _is_restored(trading: Trading, shown: VenueOrder, verdict: OrderVerdict) -> bool:
    """Tell whether an order without a row is ours by its key, as after a restore; its row is written, the ladder gives it its trades."""
    key = find_own_keys(trading, [shown]).get(shown.client_order_id or "")
    if key is None:
        return False
    action = "adopted" if adopt_by_key(trading, key, shown) else "not adopted"
    verdict.pauses.add(Pause(Trigger.RECON_ORDER, shown.symbol))
    evidence = {"venue_order_id": shown.venue_order_id, "key": key.text}
    verdict.findings.append(ReconFinding("order", key.client_order_id, "warning", action=action, evidence=evidence))
    return True


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
