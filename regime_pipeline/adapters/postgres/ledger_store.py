"""Fills, ledger and what follows from them in Postgres: each call is one statement, whatever the number of rows."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from regime_pipeline.adapters.postgres.ledger_rows import (
    ADD_FILLS,
    CLOSES,
    COMPLETE_FILLS,
    FILLS,
    FILLS_BETWEEN,
    LOCK_ORDERS,
    POST,
    SUM_ACTIONS,
    TRADE,
    fill_document,
    post_document,
    read_fill,
    read_stored,
    spell_fill,
    write_rows,
)
from regime_pipeline.errors import BadInputError
from regime_pipeline.execution.fills import Fill
from regime_pipeline.execution.ledger import LedgerAccount
from regime_pipeline.execution.order_states import TERMINAL
from regime_pipeline.portfolio.actions import Action
from regime_pipeline.portfolio.position import Status
from regime_pipeline.ports import (
    BalanceKey,
    BookedOrder,
    FillRow,
    FlowKind,
    FlowRow,
    PositionTotals,
    Posting,
    StoredAction,
    SummaryRow,
    TradeSpan,
)
from regime_pipeline.risk.purpose import Side

_TERMINAL: Final = sorted(TERMINAL)


@dataclass(frozen=True, slots=True)
class PostgresLedger:
    """`LedgerStore` on an open transaction."""

    conn: psycopg.Connection

    def lock_orders(
        self, venue: str, account: str, venue_order_ids: Collection[tuple[str, str]], client_order_ids: Collection[str]
    ) -> list[BookedOrder]:
        """Lock orders by (symbol, the venue's id) and by ours; each is listed once."""
        wanted = write_rows({"symbol": symbol, "id": venue_id} for symbol, venue_id in venue_order_ids)
        rows = self.conn.execute(LOCK_ORDERS, (_TERMINAL, wanted, venue, account, list(client_order_ids)))
        return [
            BookedOrder(
                client_id, venue_id, symbol, Side(side), strategy, qty, is_over, action_id, position_id, mid, frozenset(flags), opens
            )
            for client_id, venue_id, symbol, side, strategy, qty, is_over, action_id, position_id, mid, flags, opens in rows
        ]

    def load_fills(self, venue: str, account: str, venue_order_ids: Collection[str], keys: Collection[tuple[str, str]]) -> list[FillRow]:
        """Load the fills of orders at the venue, and those with these (symbol, fill key)."""
        wanted = {
            "venue": venue,
            "account": account,
            "orders": json.dumps(list(venue_order_ids)),
            "keys": write_rows({"symbol": symbol, "key": key} for symbol, key in keys),
        }
        rows = self.conn.cursor(row_factory=dict_row).execute(FILLS, wanted)
        return [read_fill(row) for row in rows]

    def add_fills(self, rows: Sequence[FillRow], received_ms: int) -> set[tuple[str, str]]:
        """Insert fills; returns (symbol, fill key) of those that were not there."""
        added = self.conn.execute(ADD_FILLS, (received_ms, write_rows(map(fill_document, rows))))
        return {(symbol, key) for symbol, key in added}

    def complete_fills(self, rows: Sequence[FillRow]) -> None:
        """Write fees and orders that have become known, and what follows from an order for its fills."""
        self.conn.execute(COMPLETE_FILLS, (write_rows(map(fill_document, rows)),))

    def add_conflicts(self, pairs: Sequence[tuple[Fill, FillRow]], at_ms: int) -> int:
        """Keep reports that contradict a booked fill; returns how many are new."""
        return self.conn.execute(
            "insert into fills_conflict (venue, account, symbol, fill_key, reported, stored, at)"
            " select venue, account, symbol, fill_key, reported, stored, to_timestamp(%s / 1000.0) from unnest(%s::text[], %s::text[],"
            " %s::text[], %s::text[], %s::jsonb[], %s::jsonb[]) as new (venue, account, symbol, fill_key, reported, stored)"
            " on conflict do nothing",
            (
                at_ms,
                [stored.fill.venue for _, stored in pairs],
                [stored.fill.account for _, stored in pairs],
                [stored.fill.symbol for _, stored in pairs],
                [stored.fill_key for _, stored in pairs],
                [Jsonb(spell_fill(reported)) for reported, _ in pairs],
                [Jsonb(spell_fill(stored.fill)) for _, stored in pairs],
            ),
        ).rowcount

    def flag_orders(self, client_order_ids: Collection[str], flag: str) -> None:
        """Flag orders."""
        self.conn.execute(
            "update orders set flags = array_append(flags, %s) where client_order_id = any(%s) and not flags @> array[%s]",
            (flag, list(client_order_ids), flag),
        )

    def post(self, postings: Sequence[Posting]) -> set[str]:
        """Write batches; returns the sources of those that were not there."""
        return {source for (source,) in self.conn.execute(POST, (write_rows(line for each in postings for line in post_document(each)),))}

    def load_balances(
        self, account: str, strategies: Collection[str] | None = None, assets: Collection[str] | None = None
    ) -> dict[BalanceKey, Decimal]:
        """Load balances that are not zero; of some strategies or assets where they are named."""
        rows = self.conn.execute(
            "select strategy, ledger_account, asset, balance from ledger_balances where account = %s and balance <> 0"
            " and (%s::text[] is null or strategy = any(%s)) and (%s::text[] is null or asset = any(%s))",
            (account, *2 * [_list(strategies)], *2 * [_list(assets)]),
        )
        return {BalanceKey(strategy, LedgerAccount(name), asset): balance for strategy, name, asset, balance in rows}

    def load_balances_at(self, account: str, at_ms: int) -> dict[BalanceKey, Decimal]:
        """Load balances as they were after everything booked for times up to an instant."""
        rows = self.conn.execute(
            "select strategy, ledger_account, asset, sum(amount) from (select strategy, ledger_account, asset, balance as amount"
            " from ledger_balances where account = %s union all select strategy, ledger_account, asset, -amount from ledger_entries"
            " where account = %s and booked_for > to_timestamp(%s / 1000.0)) as parts group by 1, 2, 3 having sum(amount) <> 0",
            (account, account, at_ms),
        )
        return {BalanceKey(strategy, LedgerAccount(name), asset): balance for strategy, name, asset, balance in rows}

    def load_flows(self, account: str, after_ms: int, until_ms: int) -> list[FlowRow]:
        """Load flows booked for times in (after, until], oldest first."""
        rows = self.conn.execute(
            "select ledger_account, strategy, asset, -amount, (extract(epoch from booked_for) * 1000)::bigint, source, actor, reason"
            " from ledger_entries where account = %s and ledger_account in ('EXTERNAL', 'FUNDING', 'ADJUST')"
            " and booked_for > to_timestamp(%s / 1000.0) and booked_for <= to_timestamp(%s / 1000.0) order by booked_for, batch_id, line",
            (account, after_ms, until_ms),
        )
        return [FlowRow(FlowKind(kind), *rest) for kind, *rest in rows]

    def load_fills_between(self, venue: str, account: str, after_ms: int, until_ms: int) -> list[FillRow]:
        """Load fills of the venue's times in (after, until], oldest first."""
        window = {"venue": venue, "account": account, "after": after_ms, "until": until_ms}
        rows = self.conn.cursor(row_factory=dict_row).execute(FILLS_BETWEEN, window)
        return [read_fill(row) for row in rows]

    def lock_positions(self, position_ids: Collection[int]) -> dict[int, PositionTotals]:
        """Lock positions, lowest number first."""
        rows = self.conn.execute(
            "select id, status, current_trade_id, total_quantity, total_allocation_usd, total_extracted_usd, total_tokens_bought,"
            " total_tokens_sold, avg_entry_price, avg_exit_price, current_usd_value, realised_pnl_usd, unrealised_pnl_usd, total_pnl_usd,"
            " (extract(epoch from first_entry_timestamp) * 1000)::bigint, (extract(epoch from last_activity_timestamp) * 1000)::bigint"
            " from lowcap_positions where id = any(%s) order by id for update",
            (list(position_ids),),
        )
        return {row[0]: PositionTotals(row[0], Status(row[1]), *row[2:]) for row in rows}

    def sum_actions(self, trades: Mapping[int, UUID | None]) -> list[StoredAction]:
        """Derive what actions have filled from the fills of their orders and write it.

        Each becomes part of the trade given with it, unless it is part of one.
        """
        wanted = write_rows({"action_id": number, "trade_id": trade_id and str(trade_id)} for number, trade_id in trades.items())
        rows = self.conn.cursor(row_factory=dict_row).execute(SUM_ACTIONS, (wanted,))
        return [read_stored(row) for row in rows]

    def load_trade(self, trade_id: UUID) -> list[Action]:
        """Load the actions of a trade, oldest first."""
        rows = self.conn.cursor(row_factory=dict_row).execute(TRADE, (trade_id,))
        return [read_stored(row).action for row in rows]

    def save_positions(self, totals: Sequence[PositionTotals]) -> None:
        """Write what positions' rows say of their trades."""
        for each in totals:  # mostly one; with two, a pipeline would cost more than it saves
            self.conn.execute(
                "update lowcap_positions set status = %s, current_trade_id = %s, total_quantity = %s, total_allocation_usd = %s,"
                " total_extracted_usd = %s, total_tokens_bought = %s, total_tokens_sold = %s, avg_entry_price = round(%s, 18),"
                " avg_exit_price = round(%s, 18), current_usd_value = round(%s, 18), realised_pnl_usd = round(%s, 18),"
                " unrealised_pnl_usd = round(%s, 18), total_pnl_usd = round(%s, 18), first_entry_timestamp = to_timestamp(%s / 1000.0),"
                " last_activity_timestamp = to_timestamp(%s / 1000.0), closed_at = case when %s::uuid is null then closed_at end"
                " where id = %s",
                (
                    each.status, each.trade_id, each.quantity, each.allocated_usd, each.extracted_usd, each.bought_qty, each.sold_qty,
                    each.avg_entry_price, each.avg_exit_price, each.current_usd, each.realised_usd, each.unrealised_usd, each.total_usd,
                    each.opened_ms, each.active_ms, each.trade_id, each.position_id,
                ),
            )  # fmt: skip

    def load_trade_span(self, trade_id: UUID) -> TradeSpan | None:
        """Load when a trade was filled; None without fills."""
        row = self.conn.execute(
            "select (extract(epoch from min(f.venue_ts)) * 1000)::bigint, (extract(epoch from max(f.venue_ts)) * 1000)::bigint,"
            " count(distinct o.client_order_id) filter (where not o.state = any(%s))"
            " from pm_actions as a join order_intents as i on i.action_id = a.id join orders as o using (client_order_id)"
            " left join fills as f using (client_order_id) where a.trade_id = %s",
            (_TERMINAL, trade_id),
        ).fetchone()
        return TradeSpan(*row) if row and row[0] is not None else None

    def add_summary(self, row: SummaryRow) -> bool:
        """Write the summary of a closed trade; False when it has one."""
        done = self.conn.execute(
            "insert into trade_summaries (trade_id, position_id, account, strategy, symbol, opened_at, closed_at, allocated_usd,"
            " extracted_usd, pnl_usd, return_frac, max_drawdown_frac, max_gain_frac, rr, hold_s) values (%s, %s, %s, %s, %s,"
            " to_timestamp(%s / 1000.0), to_timestamp(%s / 1000.0), %s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            (
                row.trade_id, row.position_id, row.account, row.strategy, row.symbol, row.opened_ms, row.closed_ms, row.allocated_usd,
                row.extracted_usd, row.extracted_usd - row.allocated_usd, row.return_frac, row.max_drawdown_frac, row.max_gain_frac,
                row.rr, row.hold_s,
            ),
        )  # fmt: skip
        return done.rowcount == 1

    def close_position(self, totals: PositionTotals, closed_ms: int) -> None:
        """Write a position whose trade has just been closed; what is held stays as it is, which is for fills alone to change."""
        self.conn.execute(
            "update lowcap_positions set status = %s, current_trade_id = null, total_allocation_usd = 0, total_extracted_usd = 0,"
            " total_tokens_bought = 0, total_tokens_sold = 0, avg_entry_price = null, avg_exit_price = null,"
            " current_usd_value = round(%s, 18), realised_pnl_usd = round(%s, 18), unrealised_pnl_usd = round(%s, 18),"
            " total_pnl_usd = round(%s, 18), first_entry_timestamp = null, closed_at = to_timestamp(%s / 1000.0) where id = %s",
            (
                totals.status, totals.current_usd, totals.realised_usd, totals.unrealised_usd, totals.total_usd, closed_ms,
                totals.position_id,
            ),
        )  # fmt: skip

    def load_closes(self, contracts: Collection[str], at_ms: int) -> dict[str, float]:
        """Load the newest close of tokens and majors whose bar had ended at an instant, of whatever bar length ended last."""
        rows = self.conn.execute(CLOSES, {"contracts": list(contracts), "at": at_ms / 1000})
        return dict(rows.fetchall())

    def fund_paper(self, account: str, asset: str, amount: Decimal) -> None:
        """Move money of a paper account at the paper broker, as a transfer from outside does at a venue.

        Raises
        ------
        BadInputError
            When more is taken than there is.
        """
        self.conn.execute(
            "insert into paper.balances (account, asset, total) values (%s, %s, 0) on conflict do nothing",
            (account, asset),
        )
        moved = self.conn.execute(
            "update paper.balances set total = total + %s where account = %s and asset = %s and total + %s >= 0",
            (amount, account, asset, amount),
        )
        if moved.rowcount == 0:
            raise BadInputError(f"withdrawal was {-amount} {asset}, more than {account} has at the paper broker; take less")

    def add_equity_point(
        self, account: str, at_ms: int, equity_quote: Decimal, cash_quote: Decimal, holdings: Mapping[str, tuple[Decimal, Decimal]]
    ) -> bool:
        """Write marked equity at an instant with quantity and mark of each symbol held; False when there is one."""
        done = self.conn.execute(
            "insert into equity_points (account, at, equity_quote, cash_quote, holdings)"
            " values (%s, to_timestamp(%s / 1000.0), round(%s, 18), %s, %s) on conflict do nothing",
            (
                account,
                at_ms,
                equity_quote,
                cash_quote,
                Jsonb({symbol: {"qty": format(qty, "f"), "mark": format(mark, "f")} for symbol, (qty, mark) in holdings.items()}),
            ),
        )
        return done.rowcount == 1


def _list(names: Collection[str] | None) -> list[str] | None:
    return None if names is None else list(names)
