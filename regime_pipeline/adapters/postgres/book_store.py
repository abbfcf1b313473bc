"""Questions about the book to Postgres: read only, over the indexes that the order path has anyway."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from regime_pipeline.execution.order_states import TERMINAL
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import ActionRow, BookFault, CodeCount, EquityRow, MoneySums, OrderView, PositionView, TradeRow

_TERMINAL: Final = sorted(TERMINAL)
_TRADED: Final = sql.SQL(
    # what each fill moves, asset by asset, before fees
    "select client_order_id, account, market_type, case when market_type = 'spot' then split_part(symbol, '/', 1) else symbol end as asset,"
    " case side when 'buy' then qty else -qty end as amount from fills where account = %(account)s"
    " union all select client_order_id, account, market_type, split_part(split_part(symbol, '/', 2), ':', 1),"
    " case side when 'buy' then -qty * price else qty * price end from fills where account = %(account)s"
)


@dataclass(frozen=True, slots=True)
class PostgresBook:
    """`BookStore` on an open transaction."""

    conn: psycopg.Connection

    def load_positions(self, book_id: str, account: str, *, with_flat: bool = False) -> list[PositionView]:
        """Load positions that are held or have an open trade, largest first; with `with_flat` all that are planned for."""
        rows = self._ask(
            "select p.id as position_id, p.token_contract as contract, p.token_chain as chain, p.timeframe, b.strategy, p.status, p.state,"
            " coalesce(b.quantity, 0) as quantity, p.avg_entry_price, p.total_allocation_usd as allocated,"
            " p.total_extracted_usd as extracted, extract(epoch from p.first_entry_timestamp)::bigint as opened_s,"
            " extract(epoch from p.last_activity_timestamp)::bigint as active_s, l.a_value, l.e_value, l.outcome, l.rule,"
            " coalesce(l.codes, '{}') as codes, extract(epoch from l.bar_close)::bigint as decided_s"
            " from lowcap_positions as p cross join lateral (select p.book_id || '-' || p.timeframe as strategy,"
            " (select sum(balance) from ledger_balances where account = %(account)s and strategy = p.book_id || '-' || p.timeframe"
            " and (ledger_account = 'WALLET' and asset = p.token_contract"
            " or ledger_account = 'POSITION' and asset like p.token_contract || '/%%')) as quantity) as b"
            " left join lateral (select l.*, d.bar_close from decision_lines as l join decisions as d using (decision_id)"
            " where l.position_id = p.id and d.account = %(account)s order by d.bar_close desc limit 1) as l on true"
            " where p.book_id = %(book)s and p.token_chain <> 'regime' and (p.status = 'active' or coalesce(b.quantity, 0) <> 0"
            " or (%(flat)s and p.status = 'watchlist')) order by coalesce(p.current_usd_value, 0) desc, p.token_contract, p.id",
            {"account": account, "book": book_id, "flat": with_flat},
        )
        return [PositionView(**{**row, "timeframe": Timeframe(row["timeframe"]), "codes": tuple(row["codes"])}) for row in rows]

    def load_orders(self, account: str, limit: int, *, live_only: bool = False) -> list[OrderView]:
        """Load the newest orders, newest first; or only those that have not ended."""
        rows = self._ask(
            "select o.client_order_id, extract(epoch from o.created_at)::bigint as created_s, o.strategy, o.symbol, i.leg, i.side, i.type,"
            " i.tif, i.qty, i.limit_price, coalesce(f.filled, 0) as filled, f.quote / nullif(f.filled, 0) as avg_price, o.state,"
            " t.code, o.flags, o.venue_order_id, i.decision_id from (select * from orders where account = %(account)s"
            " and (not %(live)s or state <> all(%(terminal)s)) order by created_at desc limit %(limit)s) as o"
            " join order_intents as i using (client_order_id) left join lateral (select sum(qty) as filled, sum(qty * price) as quote"
            " from fills where fills.client_order_id = o.client_order_id) as f on true"
            " left join order_transitions as t on t.client_order_id = o.client_order_id and t.order_seq = o.version"
            " order by o.created_at desc, o.client_order_id",
            {"account": account, "live": live_only, "terminal": _TERMINAL, "limit": limit},
        )
        return [OrderView(**{**row, "flags": tuple(row["flags"])}) for row in rows]

    def load_equity(self, account: str, since_s: int, max_points: int) -> list[EquityRow]:
        """Load the equity curve from an instant on, thinned to its first, last and evenly chosen points, oldest first."""
        rows = self._ask(
            "select extract(epoch from at)::bigint as at_s, equity_quote, cash_quote, holdings from (select *,"
            " row_number() over (order by at) as nr, count(*) over () as n from equity_points where account = %(account)s"
            " and at >= to_timestamp(%(since)s)) as e where nr in (1, n) or n <= %(most)s"
            " or nr * %(most)s::bigint / n > (nr - 1) * %(most)s::bigint / n order by at",
            {"account": account, "since": since_s, "most": max_points},
        )
        return [EquityRow(row["at_s"], row["equity_quote"], row["cash_quote"], _read_holdings(row["holdings"])) for row in rows]

    def load_trades(self, account: str, since_s: int, limit: int) -> list[TradeRow]:
        """Load trades closed since an instant, newest first."""
        rows = self._ask(
            "select strategy, symbol, extract(epoch from opened_at)::bigint as opened_s, extract(epoch from closed_at)::bigint as closed_s,"
            " allocated_usd as allocated, extracted_usd as extracted, pnl_usd as pnl, return_frac, hold_s from trade_summaries"
            " where account = %s and closed_at >= to_timestamp(%s) order by closed_at desc, symbol limit %s",
            (account, since_s, limit),
        )
        return [TradeRow(**row) for row in rows]

    def load_actions(self, book_id: str, since_s: int, limit: int) -> list[ActionRow]:
        """Load actions of bars opened since an instant, newest first; skips are left out."""
        rows = self._ask(
            "select extract(epoch from a.bar_ts)::bigint as bar_s, p.timeframe, p.book_id || '-' || p.timeframe as strategy,"
            " p.token_contract as contract, a.kind, a.signal, a.status, a.filled_qty, a.filled_usd as filled_quote, a.a_value, a.e_value,"
            " a.state from pm_actions as a join lowcap_positions as p on p.id = a.position_id where p.book_id = %s"
            " and a.bar_ts >= to_timestamp(%s) and a.status <> 'skipped' order by a.bar_ts desc, a.id desc limit %s",
            (book_id, since_s, limit),
        )
        return [ActionRow(row.pop("bar_s") + Timeframe(row.pop("timeframe")).seconds, **row) for row in rows]

    def sum_money(self, account: str) -> MoneySums:
        """Add up ledger and fills."""
        args = {"account": account}
        wallet = self._sums(
            "select asset, sum(balance) from ledger_balances where account = %(account)s and ledger_account = 'WALLET'"
            " group by 1 order by 1",
            args,
        )
        external = self._sums(
            # what entered EXTERNAL left us, and the reverse
            "select asset, -sum(balance) from ledger_balances where account = %(account)s and ledger_account in ('EXTERNAL', 'ADJUST')"
            " group by 1 order by 1",
            args,
        )
        traded = self._sums(sql.SQL("select asset, sum(amount) from ({}) as t group by 1 order by 1").format(_TRADED), args)
        fees = self._sums(
            "select fee_asset, sum(fee_amount) from fills where account = %(account)s and fee_asset is not null group by 1 order by 1", args
        )
        (count,) = self._ask("select count(*)::int as n from fills where account = %(account)s", args)
        return MoneySums(wallet, external, traded, fees, count["n"])

    def count_orders(self, account: str, since_s: int) -> dict[str, int]:
        """Count orders created since an instant by the state they are in."""
        rows = self._ask(
            "select state, count(*)::int as n from orders where account = %s and created_at >= to_timestamp(%s) group by 1 order by 1",
            (account, since_s),
        )
        return {row["state"]: row["n"] for row in rows}

    def count_codes(self, account: str, since_s: int) -> list[CodeCount]:
        """Count the codes of decision lines decided on bars closed since an instant, most frequent first within each strategy."""
        rows = self._ask(
            "with lines as (select d.strategy, l.codes from decisions as d join decision_lines as l using (decision_id)"
            " where d.account = %s and d.bar_close >= to_timestamp(%s)),"
            " totals as (select strategy, count(*)::int as n_of from lines group by strategy)"
            " select strategy, code, count(*)::int as n_lines, n_of from lines cross join unnest(codes) as code"
            " join totals using (strategy) group by strategy, code, n_of order by strategy, n_lines desc, code",
            (account, since_s),
        )
        return [CodeCount(**row) for row in rows]

    def find_oldest_record(self, book_id: str, timeframe: Timeframe) -> int | None:
        """Open of the oldest bar on which a position of the book has an engine record; None without one."""
        (row,) = self._ask(
            "select extract(epoch from min(u.ts))::bigint as oldest_s from lowcap_positions as p cross join lateral (select ts from"
            " uptrend_states as s where s.series = concat_ws(':', 'token', p.token_contract, p.token_chain)"
            " and s.timeframe = p.timeframe order by s.ts limit 1) as u where p.book_id = %s and p.timeframe = %s",
            (book_id, timeframe.value),
        )
        return None if row["oldest_s"] is None else int(row["oldest_s"])

    def find_delta_span(self, driver: str, timeframe: Timeframe) -> tuple[int, int] | None:
        """Opens of the first and of the last bar on which a driver has deltas; None without one."""
        (row,) = self._ask(
            "select extract(epoch from min(ts))::bigint as first_s, extract(epoch from max(ts))::bigint as last_s from regime_deltas"
            " where driver = %s and timeframe = %s",
            (driver, timeframe.value),
        )
        return None if row["first_s"] is None else (row["first_s"], row["last_s"])

    def find_balance_faults(self, account: str) -> list[BookFault]:
        """Find ledger balances that are not the sum of their entries."""
        return self._faults(
            "select concat_ws(' ', strategy, ledger_account, asset) as scope, coalesce(e.total, 0) as expected,"
            " coalesce(b.balance, 0) as actual from (select strategy, ledger_account, asset, sum(amount) as total from ledger_entries"
            " where account = %(account)s group by 1, 2, 3) as e full join (select strategy, ledger_account, asset, balance"
            " from ledger_balances where account = %(account)s) as b using (strategy, ledger_account, asset)"
            " where coalesce(e.total, 0) <> coalesce(b.balance, 0) order by 1 limit 20",
            account,
        )

    def find_position_faults(self, account: str) -> list[BookFault]:
        """Find strategies whose holding by the ledger is not what their fills, fees, flows and adjustments say."""
        # a strategy's holding is told by fills of its orders; fills without one are nobody's and are left to reconciliation
        query = sql.SQL(
            "with o as (select i.client_order_id, coalesce(p.book_id || '-' || p.timeframe, i.strategy) as strategy from order_intents as i"
            " left join pm_actions as a on a.id = i.action_id left join lowcap_positions as p on p.id = a.position_id"
            " where i.account = %(account)s),"
            " f as (select o.strategy, t.asset, sum(t.amount) as amount from ({}) as t join o"
            " using (client_order_id) where t.asset not in (select split_part(split_part(symbol, '/', 2), ':', 1) from fills"
            " where account = %(account)s) group by 1, 2), fee as (select o.strategy, f.fee_asset as asset, -sum(f.fee_amount) as amount"
            " from fills as f join o using (client_order_id) where f.account = %(account)s and f.fee_asset is not null"
            " group by 1, 2), flow as (select strategy, asset, -sum(amount) as amount from ledger_entries where account = %(account)s"
            " and ledger_account in ('EXTERNAL', 'ADJUST', 'FUNDING') group by 1, 2),"
            " told as (select strategy, asset, sum(amount) as amount from (select * from f union all select * from fee"
            " union all select * from flow) as parts group by 1, 2),"
            " held as (select strategy, asset, sum(balance) as amount from ledger_balances where account = %(account)s"
            " and ledger_account in ('WALLET', 'POSITION') group by 1, 2)"
            " select strategy || ' ' || asset as scope, coalesce(told.amount, 0) as expected, held.amount as actual from held"
            " left join told using (strategy, asset) where asset in (select asset from f) and coalesce(told.amount, 0) <> held.amount"
            " order by 1 limit 20"
        )
        return self._faults(query.format(_TRADED), account)

    def find_stuck_orders(self, account: str, unknown_before_s: int) -> list[str]:
        """Find orders that have been UNKNOWN since before an instant, oldest first."""
        rows = self._ask(
            "select client_order_id from orders where account = %s and state = 'UNKNOWN' and unknown_at < to_timestamp(%s)"
            " order by unknown_at limit 20",
            (account, unknown_before_s),
        )
        return [row["client_order_id"] for row in rows]

    def _sums(self, query: LiteralString | sql.Composed, args: Mapping[str, object]) -> dict[str, Decimal]:
        return {asset: total for asset, total in self.conn.execute(query, args).fetchall() if total}

    def _faults(self, query: LiteralString | sql.Composed, account: str) -> list[BookFault]:
        return [BookFault(**row) for row in self._ask(query, {"account": account})]

    def _ask(self, query: LiteralString | sql.Composed, args: Sequence[object] | Mapping[str, object]) -> list[dict[str, Any]]:
        return self.conn.cursor(row_factory=dict_row).execute(query, args).fetchall()


def _read_holdings(document: Mapping[str, Any]) -> dict[str, tuple[Decimal, Decimal]]:
    """Read quantity and mark by symbol, kept as text so that nothing is rounded."""
    return {symbol: (Decimal(str(each["qty"])), Decimal(str(each["mark"]))) for symbol, each in document.items()}
