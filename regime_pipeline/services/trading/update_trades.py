"""From booked fills to actions, trades and positions, in the transaction that books them (regime specification 8.4, 8.5).

Nothing here counts on: every number is derived again from the fills of an action and from the actions of a trade, so that a late
fill of an old action changes all that came after it.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from regime_pipeline.execution.ledger import LedgerAccount
from regime_pipeline.portfolio.capital import compute_result
from regime_pipeline.portfolio.money import ZERO
from regime_pipeline.portfolio.position import Status
from regime_pipeline.portfolio.trade import Trade, fold_trade
from regime_pipeline.ports import BalanceKey, BookedOrder, FillRow, PositionTotals, Severity, StoredAction, Work
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.post_fills import split_symbol

TRADES: Final = uuid.UUID("5f0c0f53-5a1e-5a5e-9a67-2f5a3d3c1b7e")
"""Namespace of trade ids: a trade is named by the entry that opened it, so that booking it again opens the same one."""


@dataclass(frozen=True, slots=True)
class FilledOrder:
    """An order and those of its fills, at least one, of which something is new."""

    order: BookedOrder
    rows: tuple[FillRow, ...]


NO_TRADE: Final = Trade(uuid.UUID(int=0))


def update_trades(work: Work, account: str, filled: Sequence[FilledOrder], locked: Mapping[int, PositionTotals]) -> None:
    """Derive actions, trades and positions again that fills have changed.

    Parameters
    ----------
    locked : Mapping of int to PositionTotals
        The orders' positions, locked before the fills were written: whoever else fills the same action waits until we are through.
    """
    by_position: dict[int, list[FilledOrder]] = {}
    for each in filled:
        if each.order.position_id is not None:
            by_position.setdefault(each.order.position_id, []).append(each)
    if not by_position:
        return
    positions = {number: _open_trade(locked[number], [each.order for each in orders]) for number, orders in by_position.items()}
    actions = work.ledger.sum_actions(
        {each.order.action_id: _trade_of(each.order, positions) for each in filled if each.order.action_id is not None}
    )
    balances = work.ledger.load_balances(
        account,
        {each.order.strategy for orders in by_position.values() for each in orders},
        {name for orders in by_position.values() for each in orders for name in _assets_of(each.order.symbol)},
    )
    totals = []
    for number, orders in sorted(by_position.items()):
        mine = [stored for stored in actions if stored.position_id == number]
        _report_strays(work, positions[number], mine)
        trade = _fold(work, locked[number], positions[number], mine)
        totals.append(_total(positions[number], trade, orders, _quantity(orders[0].order, balances)))
    work.ledger.save_positions(totals)


def sum_up(position: PositionTotals, trade: Trade | None, quantity: Decimal, mark_price: Decimal) -> PositionTotals:
    """What a position's row says, given its open trade, what the ledger holds and the last price."""
    now = trade or NO_TRADE
    result = compute_result(quantity, mark_price, now.allocated_usd, now.extracted_usd, now.bought_qty, now.sold_qty)
    return replace(
        position,
        quantity=quantity,
        allocated_usd=now.allocated_usd,
        extracted_usd=now.extracted_usd,
        bought_qty=now.bought_qty,
        sold_qty=now.sold_qty,
        avg_entry_price=result.avg_entry_price,
        avg_exit_price=result.avg_exit_price,
        current_usd=result.current_usd,
        realised_usd=result.realised_usd,
        unrealised_usd=result.unrealised_usd,
        total_usd=result.total_usd,
    )


def _open_trade(position: PositionTotals, orders: Iterable[BookedOrder]) -> PositionTotals:
    """Let the first of the entries that have just got their first fill open a trade, where none is open."""
    keys = [order.opens for order in orders if order.opens is not None]
    if position.trade_id is not None or not keys:
        return position
    return replace(position, trade_id=uuid.uuid5(TRADES, keys[0]), status=Status.ACTIVE, opened_ms=None)


def _trade_of(order: BookedOrder, positions: Mapping[int, PositionTotals]) -> uuid.UUID | None:
    """Trade that an order's action becomes part of; None for all but entries, which the tick has given theirs."""
    return None if order.opens is None or order.position_id is None else positions[order.position_id].trade_id


def _report_strays(work: Work, position: PositionTotals, actions: Iterable[StoredAction]) -> None:
    for stored in actions:
        if stored.action.trade_id not in (None, position.trade_id):
            evidence = {"action": stored.action_id, "trade": str(stored.action.trade_id), "open_trade": str(position.trade_id)}
            open_incident(work, "FILL_OF_CLOSED_TRADE", Severity.WARNING, f"position:{position.position_id}", evidence)


def _fold(work: Work, before: PositionTotals, position: PositionTotals, actions: Sequence[StoredAction]) -> Trade | None:
    """Fold the open trade again; one that has just been opened has no other actions than these."""
    if position.trade_id is None:
        return None
    if before.trade_id is None:
        known = sorted((stored.action for stored in actions), key=lambda action: action.bar_ts_s)
        return fold_trade(position.trade_id, known)
    return fold_trade(position.trade_id, work.ledger.load_trade(position.trade_id))


def _total(position: PositionTotals, trade: Trade | None, orders: Sequence[FilledOrder], quantity: Decimal) -> PositionTotals:
    rows = sorted((row for each in orders for row in each.rows), key=lambda row: row.fill.venue_ts_ms)
    times = [row.fill.venue_ts_ms for row in rows]
    totals = sum_up(position, trade, quantity, rows[-1].fill.price)
    return replace(
        totals,
        opened_ms=min(times[0], position.opened_ms or times[0]) if position.trade_id else position.opened_ms,
        active_ms=max(times[-1], position.active_ms or times[-1]),
    )


def _assets_of(symbol: str) -> tuple[str, str]:
    return symbol, split_symbol(symbol)[0]


def _quantity(order: BookedOrder, balances: Mapping[BalanceKey, Decimal]) -> Decimal:
    """What the ledger holds of an order's instrument for its strategy; a sale booked before its buy counts as nothing held."""
    contract = BalanceKey(order.strategy, LedgerAccount.POSITION, order.symbol)
    coin = BalanceKey(order.strategy, LedgerAccount.WALLET, split_symbol(order.symbol)[0])
    return max(ZERO, balances.get(contract if ":" in order.symbol else coin, ZERO))
