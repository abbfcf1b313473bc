"""Fills, ledger and what follows from them in Postgres: each call is one statement, whatever the number of rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from regime_pipeline.errors import BadInputError
from regime_pipeline.execution.fills import Fill
from regime_pipeline.execution.ledger import LedgerAccount
from regime_pipeline.execution.order_states import TERMINAL
from regime_pipeline.portfolio.actions import Action, ActionKind, ActionStatus, Funding, Signal
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

_FILL: Final = sql.SQL(
    "select venue, account, market_type, symbol, fill_key, client_order_id, venue_order_id, venue_trade_id, side, qty, price, fee_amount,"
    " fee_asset, fee_quote, cumulative_qty, (extract(epoch from venue_ts) * 1000)::bigint as venue_ms, is_late, is_overfill, decision_mid"
    " from fills where venue = %(venue)s and account = %(account)s"
)
_FILLS: Final = sql.SQL(
    "{fill} and venue_order_id = any(%(orders)s) union {fill} and market_type in ('spot', 'linear')"
    " and (symbol, fill_key) in (select * from unnest(%(symbols)s::text[], %(keys)s::text[]))"
).format(fill=_FILL)
_FILLS_BETWEEN: Final = sql.SQL(
    "{fill} and venue_ts > to_timestamp(%(after)s / 1000.0) and venue_ts <= to_timestamp(%(until)s / 1000.0)"
    " order by venue_ts, received_ts, fill_key"
).format(fill=_FILL)
_ACTION: Final = sql.SQL(
    "a.id, a.position_id, a.idempotency_key, extract(epoch from a.bar_ts)::bigint as bar_ts_s, a.trade_id, a.kind, a.signal, a.funding,"
    " a.status, a.state, a.level_price, a.atr, a.bars_seen, a.filled_qty, a.filled_usd, a.fee_qty, a.fee_usd"
)
_SUM_ACTIONS: Final = sql.SQL(
    "update pm_actions as a set trade_id = coalesce(a.trade_id, s.trade_id), filled_qty = s.qty, filled_usd = s.usd, fee_qty = s.fee_qty,"
    " fee_usd = s.fee_usd, status = case when a.status = 'planned' and s.qty >= s.ordered then 'done' else a.status end"
    " from (select i.action_id, t.trade_id, sum(f.qty) as qty, round(sum(f.qty * f.price), 18) as usd, max(i.qty) as ordered,"
    " coalesce(sum(f.fee_amount) filter (where f.fee_asset = split_part(f.symbol, '/', 1)), 0) as fee_qty,"
    " coalesce(sum(f.fee_quote) filter (where f.fee_asset <> split_part(f.symbol, '/', 1)), 0) as fee_usd"
    " from unnest(%s::bigint[], %s::uuid[]) as t (action_id, trade_id) join order_intents as i using (action_id)"
    " join fills as f using (client_order_id) group by i.action_id, t.trade_id) as s"
    " where a.id = s.action_id returning {action}"
).format(action=_ACTION)
_TRADE: Final = sql.SQL("select {action} from pm_actions as a where trade_id = %s order by bar_ts").format(action=_ACTION)
_BARS_OF: Final = sql.SQL(
    "select distinct on (m.contract) m.contract, b.close_usd, b.timestamp + t.length as ended, t.length from ({markets}) as m"
    " cross join (values ('1m', interval '1 minute'), ('5m', '5 minutes'), ('15m', '15 minutes'), ('1h', '1 hour'), ('4h', '4 hours'),"
    " ('1d', '1 day')) as t (timeframe, length)"
    " cross join lateral (select close_usd, timestamp from {bars} as p where p.token_contract = m.contract and p.chain = m.chain and"
    " p.timeframe = t.timeframe and p.is_final and p.timestamp <= to_timestamp(%(at)s) - t.length order by p.timestamp desc limit 1) as b"
    " order by m.contract, ended desc, t.length"
)
_TOKENS: Final = sql.SQL(
    "select distinct token_contract as contract, token_chain as chain from lowcap_positions"
    " where token_contract = any(%(contracts)s) and token_chain <> 'regime'"
)
_MAJORS: Final = sql.SQL(
    "select name as contract, (select chain from majors_price_data_ohlc where token_contract = name limit 1) as chain"
    " from unnest(%(contracts)s::text[]) as given (name)"
)
_CLOSES: Final = sql.SQL(
    "select distinct on (contract) contract, close_usd from (({tokens}) union all ({majors})) as closes"
    " order by contract, ended desc, length"
).format(
    tokens=_BARS_OF.format(markets=_TOKENS, bars=sql.SQL("lowcap_price_data_ohlc")),
    majors=_BARS_OF.format(markets=_MAJORS, bars=sql.SQL("majors_price_data_ohlc")),
)
_TERMINAL: Final = sorted(TERMINAL)


@dataclass(frozen=True, slots=True)
class PostgresLedger:
    """`LedgerStore` on an open transaction."""

    conn: psycopg.Connection

    def lock_orders(
        self, venue: str, account: str, venue_order_ids: Collection[tuple[str, str]], client_order_ids: Collection[str]
    ) -> list[BookedOrder]:
        """Lock orders by (symbol, the venue's id) and by ours; each is listed once."""
        symbols, ids = _columns(venue_order_ids, 2)
        rows = self.conn.execute(
            "select o.client_order_id, o.venue_order_id, o.symbol, i.side, coalesce(p.book_id || '-' || p.timeframe, o.strategy), i.qty,"
            " o.state = any(%s), i.action_id, a.position_id, i.decision_mid, o.flags,"
            " case when a.kind = 'entry' and a.trade_id is null then a.idempotency_key end from orders as o"
            " join order_intents as i using (client_order_id) left join pm_actions as a on a.id = i.action_id"
            " left join lowcap_positions as p on p.id = a.position_id where o.client_order_id in (select client_order_id from orders"
            " where venue = %s and account = %s and (symbol, venue_order_id) in (select * from unnest(%s::text[], %s::text[]))"
            " union all select unnest(%s::text[])) order by o.client_order_id for update of o",
            (_TERMINAL, venue, account, symbols, ids, list(client_order_ids)),
        )
        return [
            BookedOrder(
                client_id, venue_id, symbol, Side(side), strategy, qty, is_over, action_id, position_id, mid, frozenset(flags), opens
            )
            for client_id, venue_id, symbol, side, strategy, qty, is_over, action_id, position_id, mid, flags, opens in rows
        ]

    def load_fills(self, venue: str, account: str, venue_order_ids: Collection[str], keys: Collection[tuple[str, str]]) -> list[FillRow]:
        """Load the fills of orders at the venue, and those with these (symbol, fill key)."""
        symbols, fill_keys = _columns(keys, 2)
        wanted = {"venue": venue, "account": account, "orders": list(venue_order_ids), "symbols": symbols, "keys": fill_keys}
        rows = self.conn.cursor(row_factory=dict_row).execute(_FILLS, wanted)
        return [_read_fill(row) for row in rows]

    def add_fills(self, rows: Sequence[FillRow], received_ms: int) -> set[tuple[str, str]]:
        """Insert fills; returns (symbol, fill key) of those that were not there."""
        fills = [row.fill for row in rows]
        added = self.conn.execute(
            "insert into fills (venue, account, market_type, symbol, fill_key, client_order_id, venue_order_id, venue_trade_id, side, qty,"
            " price, fee_amount, fee_asset, fee_quote, cumulative_qty, venue_ts, received_ts, is_late, is_overfill, decision_mid)"
            " select venue, account, market_type, symbol, fill_key, client_order_id, venue_order_id, venue_trade_id, side, qty, price,"
            " fee_amount, fee_asset, fee_quote, cumulative_qty, to_timestamp(venue_ms / 1000.0), to_timestamp(%s / 1000.0), is_late,"
            " is_overfill, decision_mid from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],"
            " %s::text[], %s::text[], %s::numeric[], %s::numeric[], %s::numeric[], %s::text[], %s::numeric[], %s::numeric[], %s::bigint[],"
            " %s::boolean[], %s::boolean[], %s::numeric[]) as new (venue, account, market_type, symbol, fill_key, client_order_id,"
            " venue_order_id, venue_trade_id, side, qty, price, fee_amount, fee_asset, fee_quote, cumulative_qty, venue_ms, is_late,"
            " is_overfill, decision_mid) on conflict do nothing returning symbol, fill_key",
            (
                received_ms,
                [fill.venue for fill in fills],
                [fill.account for fill in fills],
                [fill.market_type for fill in fills],
                [fill.symbol for fill in fills],
                [row.fill_key for row in rows],
                [row.client_order_id for row in rows],
                [fill.venue_order_id for fill in fills],
                [fill.venue_trade_id for fill in fills],
                [fill.side.value for fill in fills],
                [fill.qty for fill in fills],
                [fill.price for fill in fills],
                [fill.fee_amount for fill in fills],
                [fill.fee_asset for fill in fills],
                [row.fee_quote for row in rows],
                [fill.cumulative_qty for fill in fills],
                [fill.venue_ts_ms for fill in fills],
                [row.is_late for row in rows],
                [row.is_overfill for row in rows],
                [row.decision_mid for row in rows],
            ),
        )
        return {(symbol, key) for symbol, key in added}

    def complete_fills(self, rows: Sequence[FillRow]) -> None:
        """Write fees and orders that have become known, and what follows from an order for its fills."""
        self.conn.execute(
            "update fills as f set client_order_id = new.client_order_id, fee_amount = new.fee_amount, fee_asset = new.fee_asset,"
            " fee_quote = new.fee_quote, is_late = new.is_late, is_overfill = new.is_overfill, decision_mid = new.decision_mid"
            " from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::numeric[], %s::text[], %s::numeric[],"
            " %s::boolean[], %s::boolean[], %s::numeric[]) as new (venue, account, market_type, symbol, fill_key, client_order_id,"
            " fee_amount, fee_asset, fee_quote, is_late, is_overfill, decision_mid) where (f.venue, f.account, f.market_type, f.symbol,"
            " f.fill_key) = (new.venue, new.account, new.market_type, new.symbol, new.fill_key)",
            (
                [row.fill.venue for row in rows],
                [row.fill.account for row in rows],
                [row.fill.market_type for row in rows],
                [row.fill.symbol for row in rows],
                [row.fill_key for row in rows],
                [row.client_order_id for row in rows],
                [row.fill.fee_amount for row in rows],
                [row.fill.fee_asset for row in rows],
                [row.fee_quote for row in rows],
                [row.is_late for row in rows],
                [row.is_overfill for row in rows],
                [row.decision_mid for row in rows],
            ),
        )

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
                [Jsonb(_spell_fill(reported)) for reported, _ in pairs],
                [Jsonb(_spell_fill(stored.fill)) for _, stored in pairs],
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
        lines = [(posting, n, line) for posting in postings for n, line in enumerate(posting.batch.lines, 1)]
        rows = self.conn.execute(
            "with heads as (select source, nextval('ledger_batches') as batch_id from unnest(%s::text[]) as given (source)"
            " where not exists (select from ledger_entries as known where known.source = given.source))"
            " insert into ledger_entries (batch_id, line, account, strategy, ledger_account, asset, amount, source, actor, reason,"
            " booked_for) select batch_id, line, account, strategy, ledger_account, asset, amount, source, actor, reason,"
            " to_timestamp(booked_for_ms / 1000.0) from unnest(%s::text[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[],"
            " %s::numeric[], %s::text[], %s::text[], %s::bigint[]) as new (source, line, account, strategy, ledger_account, asset, amount,"
            " actor, reason, booked_for_ms) join heads using (source) on conflict do nothing returning source",
            (
                [posting.batch.source for posting in postings],
                [posting.batch.source for posting, _, _ in lines],
                [n for _, n, _ in lines],
                [posting.account for posting, _, _ in lines],
                [posting.strategy for posting, _, _ in lines],
                [line.account.value for _, _, line in lines],
                [line.asset for _, _, line in lines],
                [line.amount for _, _, line in lines],
                [posting.batch.actor for posting, _, _ in lines],
                [posting.batch.reason for posting, _, _ in lines],
                [posting.booked_for_ms for posting, _, _ in lines],
            ),
        )
        return {source for (source,) in rows}

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
        rows = self.conn.cursor(row_factory=dict_row).execute(_FILLS_BETWEEN, window)
        return [_read_fill(row) for row in rows]

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
        """Derive what actions have filled from the fills of their orders and write it; one that got all it ordered is done.

        Each becomes part of the trade given with it, unless it is part of one.
        """
        rows = self.conn.cursor(row_factory=dict_row).execute(_SUM_ACTIONS, (list(trades), list(trades.values())))
        return [_read_stored(row) for row in rows]

    def load_trade(self, trade_id: UUID) -> list[Action]:
        """Load the actions of a trade, oldest first."""
        rows = self.conn.cursor(row_factory=dict_row).execute(_TRADE, (trade_id,))
        return [_read_stored(row).action for row in rows]

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
        """Write a position whose trade has just been closed."""
        self.save_positions([totals])
        self.conn.execute(
            "update lowcap_positions set closed_at = to_timestamp(%s / 1000.0) where id = %s", (closed_ms, totals.position_id)
        )

    def load_closes(self, contracts: Collection[str], at_ms: int) -> dict[str, float]:
        """Load the newest close of tokens and majors whose bar had ended at an instant, of whatever bar length ended last."""
        rows = self.conn.execute(_CLOSES, {"contracts": list(contracts), "at": at_ms / 1000})
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


def _columns(rows: Collection[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[at] for row in rows] for at in range(width)]


def _list(names: Collection[str] | None) -> list[str] | None:
    return None if names is None else list(names)


def _read_fill(row: Mapping[str, Any]) -> FillRow:
    fill = Fill(
        venue=row["venue"],
        account=row["account"],
        market_type=row["market_type"],
        symbol=row["symbol"],
        venue_order_id=row["venue_order_id"],
        venue_trade_id=row["venue_trade_id"],
        side=Side(row["side"]),
        qty=row["qty"],
        price=row["price"],
        fee_amount=row["fee_amount"],
        fee_asset=row["fee_asset"],
        venue_ts_ms=row["venue_ms"],
        cumulative_qty=row["cumulative_qty"],
    )
    names = ("fill_key", "client_order_id", "is_late", "is_overfill", "fee_quote", "decision_mid")
    return FillRow(fill, **{name: row[name] for name in names})


def _read_stored(row: Mapping[str, Any]) -> StoredAction:
    action = Action(
        bar_ts_s=row["bar_ts_s"],
        trade_id=row["trade_id"],
        kind=ActionKind(row["kind"]),
        signal=Signal(row["signal"]),
        funding=Funding(row["funding"]),
        status=ActionStatus(row["status"]),
        **{name: row[name] for name in ("state", "level_price", "atr", "bars_seen", "filled_qty", "filled_usd", "fee_qty", "fee_usd")},
    )
    return StoredAction(row["id"], row["position_id"], row["idempotency_key"], action)


def _spell_fill(fill: Fill) -> dict[str, str | None]:
    """Spell a fill for people and for comparison: equal reports are spelt alike."""
    amounts = {name: getattr(fill, name) for name in ("qty", "price", "fee_amount", "cumulative_qty")}
    return {
        "venue_order_id": fill.venue_order_id,
        "venue_trade_id": fill.venue_trade_id,
        "side": fill.side.value,
        "fee_asset": fill.fee_asset,
        "venue_ts_ms": str(fill.venue_ts_ms),
        **{name: None if amount is None else format(amount.normalize(), "f") for name, amount in amounts.items()},
    }
