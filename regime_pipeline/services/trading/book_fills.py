"""The one way by which fills are booked, from stream and poll alike: once each, with all that follows from them.

A fill's key is the venue's. Repetitions write nothing, contradictions overwrite nothing, and a fill whose order is not known yet is
booked as nobody's and moved to its order later. Fill, ledger, action, trade and position change in one transaction or not at all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from regime_pipeline.execution.fills import Booking, Fill, OrderFacts, compare_fills, judge_fill
from regime_pipeline.portfolio.money import EXACT, QUANTUM, QUOTIENT, ZERO, to_decimal
from regime_pipeline.ports import BookedOrder, BookingSummary, BrokerTraits, FillRow, Severity, Work
from regime_pipeline.services.trading.context import Checkpoint, pass_by
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.post_fills import FillPoster, find_contract_assets, read_positions, split_symbol, value_fee
from regime_pipeline.services.trading.update_trades import FilledOrder, update_trades

OVERFILL: Final = "overfill"
"""Flag of an order that was filled beyond what it asked: entries on its symbol stop."""

Key = tuple[str, str]  # symbol and fill key


@dataclass(slots=True)
class _Book:
    """What is stored and what is to be written, while reports are judged one by one."""

    orders: dict[Key, BookedOrder]  # by symbol and the venue's order id
    stored: dict[Key, FillRow]
    marks_quote: Mapping[str, Decimal]
    filled: dict[str, Decimal] = field(default_factory=dict)
    new: dict[Key, FillRow] = field(default_factory=dict)
    completed: dict[Key, FillRow] = field(default_factory=dict)
    linked: dict[Key, FillRow] = field(default_factory=dict)
    conflicts: list[tuple[Fill, FillRow]] = field(default_factory=list)
    repeated: int = 0

    def __post_init__(self) -> None:
        """Add up what is booked for each order, and link what was nobody's."""
        for order in self.orders.values():
            self.filled[order.client_order_id] = ZERO
        for row in self.stored.values():
            if row.client_order_id in self.filled:
                self._count(row)
        for key, row in list(self.stored.items()):
            claimed_by = self.orders.get((row.fill.symbol, row.fill.venue_order_id))
            if row.client_order_id is None and claimed_by is not None:
                self.linked[key] = self.stored[key] = self._attach(row, claimed_by)

    def take(self, key: Key, fill: Fill) -> None:
        """Judge one report."""
        known = self.stored.get(key)
        order = self.orders.get((fill.symbol, fill.venue_order_id))
        facts = None if order is None else OrderFacts(order.qty, self.filled[order.client_order_id], order.is_terminal)
        verdict = judge_fill(fill, None if known is None else known.fill, facts)
        match verdict.booking:
            case Booking.REPEATED:
                self.repeated += 1
            case Booking.CONFLICT if known is not None:
                self.conflicts.append((fill, known))
            case Booking.COMPLETE_FEE if known is not None:
                self._complete(key, replace(known, fill=fill, fee_quote=self._value_fee(fill)))
            case _:
                row = FillRow(fill, key[1], fee_quote=self._value_fee(fill))
                self.new[key] = self.stored[key] = row if order is None else self._attach(row, order)

    def order_of(self, row: FillRow) -> BookedOrder | None:
        """Order that a fill belongs to."""
        return None if row.client_order_id is None else self.orders.get((row.fill.symbol, row.fill.venue_order_id))

    @property
    def changed(self) -> dict[Key, FillRow]:
        """Every fill of which something is new."""
        return {key: self.stored[key] for key in (*self.new, *self.linked, *self.completed)}

    def _attach(self, row: FillRow, order: BookedOrder) -> FillRow:
        is_overfill = EXACT.add(self.filled[order.client_order_id], row.fill.qty) > order.qty
        linked = replace(
            row,
            client_order_id=order.client_order_id,
            is_late=order.is_terminal,
            is_overfill=is_overfill,
            decision_mid=order.decision_mid,
        )
        self._count(linked)
        return linked

    def _count(self, row: FillRow) -> None:
        assert row.client_order_id is not None
        self.filled[row.client_order_id] = EXACT.add(self.filled[row.client_order_id], row.fill.qty)

    def _complete(self, key: Key, row: FillRow) -> None:
        self.stored[key] = row
        for part in (self.new, self.linked):
            if key in part:
                part[key] = row
        if key not in self.new:
            self.completed[key] = row

    def _value_fee(self, fill: Fill) -> Decimal | None:
        worth = value_fee(fill, self.marks_quote)
        return None if worth is None else worth.quantize(QUANTUM, context=QUOTIENT)


def book_fills(
    work: Work,
    traits: BrokerTraits,
    fills: Sequence[Fill],
    now_ms: int,
    *,
    known: Mapping[str, str] | None = None,
    marks_quote: Mapping[str, Decimal] | None = None,
    at: Checkpoint = pass_by,
) -> BookingSummary:
    """Book reported fills.

    Parameters
    ----------
    work : Work
        Transaction of the step that the fills justify.
    traits : BrokerTraits
        Whose fills they are, and what tells two of them apart.
    fills : sequence of Fill
        In any order, with any repetitions.
    now_ms : int
        Venue-corrected now.
    known : mapping of str to str, optional
        The venue's order id to ours, for orders whose row does not carry it yet; their fills that were nobody's are linked, with or
        without a report.
    marks_quote : mapping of str to Decimal, optional
        Price of fee assets that are neither base nor quote; where one is missing the newest stored close counts.
    at : Checkpoint
        Passes `before_fill`, `mid_fills` after every statement that writes, and `after_fills`.

    Returns
    -------
    BookingSummary
        What came of them, with the sum of booked fills of each order concerned.
    """
    reports = [(_key_of(fill, traits), fill) for fill in map(_fit_to_table, fills)]
    marks = _find_marks(work, reports, marks_quote or {}, now_ms)
    book = _open_book(work, traits, reports, known or {}, marks)
    for key, fill in reports:
        book.take(key, fill)
    if book.new or book.linked or book.completed:
        at("before_fill")
        _write(work, traits, book, now_ms, at)
    if book.conflicts and work.ledger.add_conflicts(book.conflicts, now_ms):
        _report_conflicts(work, traits, book.conflicts)
    at("after_fills")
    return BookingSummary(
        booked=len(book.new),
        repeated=book.repeated,
        completed=len(book.completed),
        linked=len(book.linked),
        unlinked=sum(row.client_order_id is None for row in book.new.values()),
        late=sum(row.is_late for row in (*book.new.values(), *book.linked.values())),
        overfilled=sum(row.is_overfill for row in (*book.new.values(), *book.linked.values())),
        conflicts=len(book.conflicts),
        filled=book.filled,
    )


def _open_book(
    work: Work, traits: BrokerTraits, reports: Sequence[tuple[Key, Fill]], known: Mapping[str, str], marks_quote: Mapping[str, Decimal]
) -> _Book:
    """Lock the orders first, then read what is booked for them: a second reader of the same fills waits and sees them booked."""
    at_venue = {(fill.symbol, fill.venue_order_id) for _, fill in reports}
    ours = {client_id: venue_id for venue_id, client_id in known.items()}
    orders: dict[Key, BookedOrder] = {}
    for order in work.ledger.lock_orders(traits.venue, traits.account, at_venue, ours):
        venue_id = order.venue_order_id or ours.get(order.client_order_id)
        if venue_id is not None:
            orders[order.symbol, venue_id] = order
    venue_ids = {venue_id for _, venue_id in at_venue} | set(known)
    stored = work.ledger.load_fills(traits.venue, traits.account, venue_ids, {key for key, _ in reports})
    mine = {(row.fill.symbol, row.fill_key): row for row in stored if row.fill.market_type == traits.market_type}
    return _Book(orders, mine, marks_quote)


def _find_marks(work: Work, reports: Sequence[tuple[Key, Fill]], marks_quote: Mapping[str, Decimal], now_ms: int) -> Mapping[str, Decimal]:
    third = {fill.fee_asset for _, fill in reports if fill.fee_asset is not None and fill.fee_asset not in split_symbol(fill.symbol)}
    missing = third - set(marks_quote)
    if not missing:
        return marks_quote
    stored = work.ledger.load_closes(missing, now_ms)
    return {**{asset: to_decimal(price) for asset, price in stored.items()}, **marks_quote}


def _write(work: Work, traits: BrokerTraits, book: _Book, now_ms: int, at: Checkpoint) -> None:
    touched = {order.client_order_id: order for row in book.changed.values() if (order := book.order_of(row)) is not None}
    locked = work.ledger.lock_positions({order.position_id for order in touched.values() if order.position_id is not None})
    if book.new:
        added = work.ledger.add_fills(list(book.new.values()), now_ms)
        at("mid_fills")
        _yield_to_others(work, traits, book, added)
    late = [row for key, row in book.changed.items() if key not in book.new]
    if late:
        work.ledger.complete_fills(late)
        at("mid_fills")
    _post(work, traits, book)
    at("mid_fills")
    changed = book.changed.values()
    filled = [FilledOrder(order, tuple(row for row in changed if row.client_order_id == client_id)) for client_id, order in touched.items()]
    update_trades(work, traits.account, filled, locked)
    at("mid_fills")
    _report(work, [*book.new.values(), *book.linked.values()])


def _yield_to_others(work: Work, traits: BrokerTraits, book: _Book, added: set[Key]) -> None:
    """Judge again what somebody else has booked between our read and our write: fills of unknown orders, which nothing locks."""
    beaten = {key: book.new.pop(key) for key in list(book.new) if key not in added}
    if not beaten:
        return
    for row in work.ledger.load_fills(traits.venue, traits.account, (), beaten):
        key = (row.fill.symbol, row.fill_key)
        mine = beaten[key].fill
        book.stored[key] = row
        if compare_fills(row.fill, mine) is Booking.CONFLICT:
            book.conflicts.append((mine, row))
        else:
            book.repeated += 1


def _post(work: Work, traits: BrokerTraits, book: _Book) -> None:
    contracts = find_contract_assets(book.changed.values())
    balances = work.ledger.load_balances(traits.account, assets=contracts) if contracts else {}
    poster = FillPoster(read_positions(balances))
    for row in book.new.values():
        poster.post_fill(row, _strategy_of(book, row))
    for key, row in book.linked.items():
        fee_is_new = key in book.completed
        moved = replace(row, fill=replace(row.fill, fee_amount=None, fee_asset=None)) if fee_is_new else row
        poster.post_link(moved, _strategy_of(book, row) or "")
    for row in book.completed.values():
        poster.post_fee(row, _strategy_of(book, row))
    if poster.postings:
        work.ledger.post(poster.postings)


def _strategy_of(book: _Book, row: FillRow) -> str | None:
    order = book.order_of(row)
    return None if order is None else order.strategy


def _report(work: Work, rows: Iterable[FillRow]) -> None:
    over = sorted({row.client_order_id for row in rows if row.is_overfill and row.client_order_id is not None})
    if over:
        work.ledger.flag_orders(over, OVERFILL)
    for row in rows:
        fill = row.fill
        evidence = {"fill": row.fill_key, "qty": str(fill.qty), "price": str(fill.price), "side": fill.side.value, "symbol": fill.symbol}
        scope = row.client_order_id or f"{fill.account}|{fill.symbol}"
        if row.is_late:
            open_incident(work, "LATE_FILL", Severity.WARNING, scope, evidence)
        if row.is_overfill:
            open_incident(work, "OVERFILL", Severity.CRITICAL, scope, evidence)
        if row.fee_quote is None and not fill.is_provisional:
            fee = {"fee": str(fill.fee_amount), "asset": fill.fee_asset}
            open_incident(work, "FEE_UNPRICED", Severity.WARNING, scope, {**evidence, **fee})


def _report_conflicts(work: Work, traits: BrokerTraits, conflicts: Iterable[tuple[Fill, FillRow]]) -> None:
    for reported, stored in conflicts:
        evidence = {"symbol": stored.fill.symbol, "fill": stored.fill_key, "reported": str(reported), "stored": str(stored.fill)}
        open_incident(work, "FILL_CONFLICT", Severity.CRITICAL, f"{traits.account}:{stored.fill.symbol}:{stored.fill_key}", evidence)


def _key_of(fill: Fill, traits: BrokerTraits) -> Key:
    return fill.symbol, "|".join(fill.key(traits.fill_key_rule)[4:])


def _fit_to_table(fill: Fill) -> Fill:
    """Round what has more digits than a table keeps, so that the same report is the same fill tomorrow."""
    amounts = {name: getattr(fill, name) for name in ("qty", "price", "fee_amount", "cumulative_qty")}
    changed = {name: amount.quantize(QUANTUM, context=QUOTIENT) for name, amount in amounts.items() if _is_finer(amount)}
    return replace(fill, **changed) if changed else fill


def _is_finer(amount: Decimal | None) -> bool:
    exponent = 0 if amount is None else amount.as_tuple().exponent
    return isinstance(exponent, int) and exponent < -18
