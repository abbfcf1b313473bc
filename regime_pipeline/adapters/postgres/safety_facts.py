"""What kill switch, protections and gate are judged on, read from Postgres in one round trip each."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import psycopg
from psycopg import sql

from regime_pipeline.adapters.postgres.series import KEY_COLUMNS, split_series
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.money import ZERO
from regime_pipeline.ports import AcceptedEntry, BarTable, ClosedTrade, EquityMark, HoldingRow, LiveRow, ReconFact, SeriesFacts
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.protections import Close, EquityPoint, Flow
from regime_pipeline.risk.purpose import Leg, Purpose, Side

LIVE_STATES: Final = ["INTENT", "SUBMITTING", "UNKNOWN", "OPEN", "PARTIAL", "CANCEL_REQUESTED"]


@dataclass(frozen=True, slots=True)
class SafetyFacts:
    """The reads of `SafetyStore` on an open transaction."""

    conn: psycopg.Connection

    def load_mark(self, account: str, until_s: int) -> EquityMark | None:
        """Load the newest marked equity at or before an instant."""
        row = self.conn.execute(
            "select extract(epoch from at)::bigint, equity_quote, cash_quote, holdings::text from equity_points"
            " where account = %s and at <= to_timestamp(%s) order by at desc limit 1",
            (account, until_s),
        ).fetchone()
        return EquityMark(row[0], row[1], row[2], _read_marks(row[3])) if row else None

    def load_birth(self, account: str) -> EquityPoint | None:
        """Load the first marked equity above 0: what came in until then was no flow."""
        row = self.conn.execute(
            "select extract(epoch from at)::bigint, equity_quote from equity_points where account = %s and equity_quote > 0"
            " and equity_quote <> 'NaN' order by at limit 1",
            (account,),
        ).fetchone()
        return EquityPoint(row[0], row[1]) if row else None

    def load_peaks(self, account: str, since_s: int, until_s: int, cuts_s: Sequence[int]) -> list[EquityPoint]:
        """Load the highest marked equity of each stretch of [since, until] between cuts, each with the last instant of its stretch."""
        bounds = [since_s, *sorted({cut for cut in cuts_s if since_s < cut <= until_s}), until_s + 1]
        rows = self.conn.execute(
            "select extract(epoch from p.at)::bigint, p.peak from unnest(%s::float8[], %s::float8[]) with ordinality as w (from_s, to_s, n)"
            " cross join lateral (select max(at) as at, max(equity_quote) as peak from equity_points where account = %s"
            " and at >= to_timestamp(w.from_s) and at < to_timestamp(w.to_s) and equity_quote <> 'NaN') as p"
            " where p.at is not null order by w.n",
            (bounds[:-1], bounds[1:], account),
        )
        return [EquityPoint(*row) for row in rows]

    def load_flows(self, account: str, quote: str, since_s: int, until_s: int) -> list[Flow]:
        """Load money that came or went from outside in (since, until]; other assets are worth their next mark."""
        rows = self.conn.execute(
            "select extract(epoch from booked_for)::bigint, -sum(amount), asset, (select holdings::text from equity_points as e"
            " where e.account = l.account and e.at >= l.booked_for order by e.at limit 1)"
            " from ledger_entries as l where account = %s and ledger_account = 'EXTERNAL' and booked_for > to_timestamp(%s)"
            " and booked_for <= to_timestamp(%s) group by account, booked_for, asset order by booked_for",
            (account, since_s, until_s),
        )
        return [
            Flow(at_s, amount if asset == quote else amount * _mark_of(asset, quote, _read_marks(holdings)))
            for at_s, amount, asset, holdings in rows
        ]

    def load_closes(self, account: str, since_s: int, until_s: int) -> list[ClosedTrade]:
        """Load the trades closed in [since, until], oldest first."""
        rows = self.conn.execute(
            "select strategy, symbol, extract(epoch from closed_at)::bigint, pnl_usd from trade_summaries where account = %s"
            " and closed_at between to_timestamp(%s) and to_timestamp(%s) order by closed_at",
            (account, since_s, until_s),
        )
        return [ClosedTrade(strategy, symbol, Close(closed_at_s, pnl)) for strategy, symbol, closed_at_s, pnl in rows]

    def load_entries(self, account: str, since_s: int, until_s: int) -> list[AcceptedEntry]:
        """Load the entries accepted for bars that closed in [since, until], without those that ended unsent."""
        rows = self.conn.execute(
            "select i.strategy, i.symbol, i.side, extract(epoch from i.bar_close)::bigint, extract(epoch from o.sent_at)::bigint"
            " from order_intents as i join orders as o using (client_order_id) where i.account = %s and i.purpose = 'entry'"
            " and i.bar_close between to_timestamp(%s) and to_timestamp(%s) and (o.sent_at is not null or o.state = any(%s))"
            " order by i.bar_close",
            (account, since_s, until_s, LIVE_STATES),
        )
        return [AcceptedEntry(strategy, symbol, Side(side), *rest) for strategy, symbol, side, *rest in rows]

    def load_live(self, account: str) -> list[LiveRow]:
        """Load the orders that have not ended."""
        rows = self.conn.execute(
            "select o.client_order_id, o.strategy, o.symbol, i.side, o.purpose, i.leg, o.state, i.qty, coalesce(f.filled, 0),"
            " coalesce(i.limit_price, i.stop_price, i.decision_mid, 0)"
            " from orders as o join order_intents as i using (client_order_id)"
            " left join lateral (select sum(qty) as filled from fills where fills.client_order_id = o.client_order_id) as f on true"
            " where o.account = %s and o.state in ('INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED')"
            " order by o.client_order_id",
            (account,),
        )
        return [
            LiveRow(id_, strategy, symbol, Side(side), Purpose(purpose), Leg(leg), *rest)
            for id_, strategy, symbol, side, purpose, leg, *rest in rows
        ]

    def load_holdings(self, account: str) -> list[HoldingRow]:
        """Load what the ledger holds, per strategy, without zeros."""
        rows = self.conn.execute(
            "select strategy, asset, ledger_account = 'POSITION', balance from ledger_balances where account = %s"
            " and ledger_account in ('WALLET', 'POSITION') and balance <> 0 order by asset, strategy",
            (account,),
        )
        return [HoldingRow(*row) for row in rows]

    def load_symbols(self, account: str, since_s: int) -> list[str]:
        """Load the symbols of which an order was written since an instant, or is live."""
        rows = self.conn.execute(
            "select symbol from orders where account = %s and created_at >= to_timestamp(%s) union select symbol from orders"
            " where account = %s and state in ('INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED') order by symbol",
            (account, since_s, account),
        )
        return [symbol for (symbol,) in rows]

    def load_turnover(self, account: str, since_s: int, until_s: int) -> Decimal:
        """Load the worth of all fills in [since, until]."""
        row = self.conn.execute(
            "select sum(qty * price) from fills where account = %s and venue_ts between to_timestamp(%s) and to_timestamp(%s)",
            (account, since_s, until_s),
        ).fetchone()
        return (row and row[0]) or ZERO

    def count_sent(self, account: str, since_s: int, until_s: int) -> int:
        """Count the orders sent in [since, until], and those about to be."""
        row = self.conn.execute(
            "select (select count(*) from orders where account = %s and sent_at between to_timestamp(%s) and to_timestamp(%s))"
            " + (select count(*) from orders where account = %s and state = 'INTENT')",
            (account, since_s, until_s, account),
        ).fetchone()
        return int(row[0]) if row else 0

    def count_unknown(self, account: str | None = None) -> int:
        """Count the orders that are UNKNOWN."""
        row = self.conn.execute(
            "select count(*) from orders where state = 'UNKNOWN' and (%s::text is null or account = %s)", (account, account)
        ).fetchone()
        return int(row[0]) if row else 0

    def load_known_ids(self, ids: Iterable[str]) -> frozenset[str]:
        """Load which of these client order ids exist."""
        rows = self.conn.execute("select client_order_id from order_intents where client_order_id = any(%s)", (list(ids),))
        return frozenset(id_ for (id_,) in rows)

    def load_rules(self, venue: str) -> dict[str, InstrumentRules]:
        """Load the rules of every instrument of a venue."""
        rows = self.conn.execute(
            "select symbol, tick, step, min_qty, max_qty, min_cost, contract_size, is_active from instrument_rules where venue = %s",
            (venue,),
        )
        return {row[0]: InstrumentRules(*row) for row in rows}

    def load_recon(self, account: str, until_s: int) -> list[ReconFact]:
        """Load the newest comparison of orders and the newest full one (start-up counts as full) that ended by an instant."""
        rows = self.conn.execute(
            "select distinct on (kind = 'orders') kind <> 'orders', extract(epoch from ended_at)::bigint, status from reconciliation_runs"
            " where account = %s and ended_at <= to_timestamp(%s) order by kind = 'orders', run_id desc",
            (account, until_s),
        )
        return [ReconFact(*row) for row in rows]

    def load_first_sent_s(self, account: str, since_s: int, until_s: int) -> int | None:
        """Load when the first order of [since, until] was sent, or written where it is still to be sent."""
        row = self.conn.execute(
            "select extract(epoch from least((select min(sent_at) from orders where account = %s and sent_at between to_timestamp(%s)"
            " and to_timestamp(%s)), (select min(created_at) from orders where account = %s and state = 'INTENT')))::bigint",
            (account, since_s, until_s, account),
        ).fetchone()
        return row[0] if row else None

    def was_compared_since(self, account: str, since_s: int, until_s: int) -> bool:
        """Tell whether a full comparison that began after an instant and ended by another was clean."""
        row = self.conn.execute(
            "select exists (select from reconciliation_runs where account = %s and kind in ('full', 'startup') and status = 'ok'"
            " and began_at > to_timestamp(%s) and ended_at <= to_timestamp(%s))",
            (account, since_s, until_s),
        ).fetchone()
        return bool(row and row[0])

    def load_clean_pass_s(self, account: str | None) -> int | None:
        """Load when the newest full comparison ended, where that was clean; of all accounts, the oldest of theirs."""
        row = self.conn.execute(
            "select case when bool_and(status = 'ok') then min(ended_s) end from (select distinct on (account) status,"
            " extract(epoch from ended_at)::bigint as ended_s from reconciliation_runs where kind in ('full', 'startup')"
            " and (%s::text is null or account = %s) order by account, run_id desc) as newest",
            (account, account),
        ).fetchone()
        return row[0] if row else None

    def load_accounts(self) -> list[str]:
        """Load every account that has ordered."""
        rows = self.conn.execute(
            "with recursive a as (select min(account) as account from orders union all"
            " select (select min(account) from orders where account > a.account) from a where a.account is not null)"
            " select account from a where account is not null"
        )
        return [account for (account,) in rows]

    def load_series(
        self, series: Iterable[tuple[str, Timeframe]], now_s: int, warmup_bars: int
    ) -> dict[tuple[str, Timeframe], SeriesFacts]:
        """Load how good series are; bars that had not closed at `now_s` do not exist."""
        wanted = sorted(set(series))
        found: dict[tuple[str, Timeframe], SeriesFacts] = {}
        for table, kind in ((BarTable.DRIVERS, "regime:"), (BarTable.TOKENS, "token:")):
            part = [key for key in wanted if key[0].startswith(kind)]
            if part:
                found |= self._load_series(table, part, now_s, warmup_bars)
        return found

    def _load_series(
        self, table: BarTable, wanted: list[tuple[str, Timeframe]], now_s: int, warmup_bars: int
    ) -> dict[tuple[str, Timeframe], SeriesFacts]:
        names = KEY_COLUMNS[table]
        keys = [split_series(series) for series, _ in wanted]
        statement = sql.SQL(
            "select n.newest, w.oldest, w.n_bars, g.n, q.n, coalesce((select score from bar_validity as v"
            " where v.series = k.series and v.timeframe = k.timeframe and v.timestamp = to_timestamp(n.newest)), 1.0)"
            " from unnest(%(series)s::text[], %(timeframe)s::text[], %(length)s::int[], {lists})"
            " with ordinality as k (series, timeframe, length, {keys}, n)"
            " left join lateral (select extract(epoch from b.timestamp)::bigint as newest from {table} as b where {join}"
            " and b.timeframe = k.timeframe and b.is_final and b.timestamp <= to_timestamp(%(now)s - k.length)"
            " order by b.timestamp desc limit 1) as n on true"
            " left join lateral (select count(*) as n_bars, extract(epoch from min(b.timestamp))::bigint as oldest from {table} as b"
            " where {join} and b.timeframe = k.timeframe and b.is_final and b.timestamp <= to_timestamp(n.newest)"
            " and b.timestamp > to_timestamp(n.newest - k.length::bigint * %(warmup)s)) as w on true"
            " left join lateral (select count(distinct timestamp) as n from bar_gaps as b where b.series = k.series"
            " and b.timeframe = k.timeframe and b.resolved_at is null and b.reason <> 'vendor_none'"
            " and b.timestamp >= to_timestamp(w.oldest) and b.timestamp <= to_timestamp(%(now)s - k.length)) as g on true"
            " left join lateral (select count(distinct timestamp) as n from bar_quarantine as b where b.series = k.series"
            " and b.timeframe = k.timeframe and b.resolved_at is null and b.reason <> 'confirmed' and b.timestamp >= to_timestamp(w.oldest)"
            " and b.timestamp <= to_timestamp(%(now)s - k.length) and not exists (select from bar_gaps as own where own.series = b.series"
            " and own.timeframe = b.timeframe and own.timestamp = b.timestamp and own.reason = 'vendor_none')) as q on true order by k.n"
        ).format(
            lists=sql.SQL(", ").join(sql.SQL("%({})s::text[]").format(sql.SQL(name)) for name in names),
            keys=sql.SQL(", ").join(sql.Identifier(name) for name in names),
            join=sql.SQL(" and ").join(sql.SQL("b.{0} = k.{0}").format(sql.Identifier(name)) for name in names),
            table=sql.Identifier(table.value),
        )
        parameters = {
            "series": [series for series, _ in wanted],
            "timeframe": [timeframe.value for _, timeframe in wanted],
            "length": [timeframe.seconds for _, timeframe in wanted],
            "now": now_s,
            "warmup": warmup_bars,
            **{name: [key[at] for key in keys] for at, name in enumerate(names)},
        }
        rows = self.conn.execute(statement, parameters).fetchall()
        return {key: SeriesFacts(*row) for key, row in zip(wanted, rows, strict=True)}


def _read_marks(holdings: str | None) -> dict[str, Decimal]:
    """Marks by symbol of an equity point; what is no number there is no mark."""
    found = json.loads(holdings or "{}", parse_float=Decimal, parse_int=Decimal)
    marks = {symbol: each.get("mark") for symbol, each in found.items() if isinstance(each, dict)}
    return {symbol: Decimal(mark) for symbol, mark in marks.items() if mark is not None}


def _mark_of(asset: str, quote: str, marks: dict[str, Decimal]) -> Decimal:
    """Worth of an asset in quote; without a mark 0: a flow that cannot be valued must not hide a loss."""
    return marks.get(f"{asset}/{quote}", ZERO)
