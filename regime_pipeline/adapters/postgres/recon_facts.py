"""What reconciliation, recovery and stops read of the order path: symbols, fill cursors, positions under stops, tariffs, the server."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, LiteralString

import psycopg

from regime_pipeline.ports import GuardedPosition, Listing

# Per entry of the open trade what it filled and its planned stop; what names the stop's orders comes from the newest of them.
_GUARDED: Final[LiteralString] = """
select p.id, p.token_contract, p.token_chain, p.timeframe, p.current_trade_id, p.avg_entry_price, e.qty, e.stops,
    extract(epoch from e.bar_close)::bigint, (extract(epoch from e.entered) * 1000)::bigint, e.decision_id
from lowcap_positions as p cross join lateral (
    select array_agg(f.qty order by i.bar_close) as qty, array_agg(i.stop_price order by i.bar_close) as stops,
        max(i.bar_close) as bar_close, max(f.entered) as entered,
        (array_agg(i.decision_id order by i.bar_close desc, i.seq desc))[1] as decision_id
    from pm_actions as a join order_intents as i on i.action_id = a.id
    cross join lateral (
        select sum(qty) as qty, max(venue_ts) as entered from fills where fills.client_order_id = i.client_order_id
    ) as f
    where a.trade_id = p.current_trade_id and i.account = %(account)s and i.purpose = 'entry' and f.qty > 0
) as e
where p.book_id = %(book)s and p.current_trade_id is not null and p.avg_entry_price > 0 and e.bar_close is not null
order by p.id"""


@dataclass(frozen=True, slots=True)
class ReconFacts:
    """The reads of `ReconStore` on an open transaction, and the rules as the venue says them."""

    conn: psycopg.Connection

    def load_symbols(self, account: str, since_ms: int) -> list[str]:
        """Load the symbols with a live order, or with an order written since an instant."""
        rows = self.conn.execute(
            "select symbol from orders where account = %(account)s"
            " and state in ('INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED')"
            " union select symbol from orders where account = %(account)s and created_at >= to_timestamp(%(since)s / 1000.0) order by 1",
            {"account": account, "since": since_ms},
        )
        return [symbol for (symbol,) in rows]

    def load_fill_cursors(self, account: str, symbols: Collection[str]) -> dict[str, int]:
        """Load where to ask for trades from, epoch milliseconds by symbol that has one.

        That is the newest known, or an older one of the last seven days before it whose fee the venue has not said yet.
        """
        rows = self.conn.execute(
            "select symbol, (extract(epoch from least(f.venue_ts, g.venue_ts)) * 1000)::bigint from unnest(%(symbols)s::text[]) as wanted"
            " (symbol) cross join lateral (select venue_ts from fills where account = %(account)s and fills.symbol = wanted.symbol"
            " order by venue_ts desc limit 1) as f"
            " left join lateral (select min(venue_ts) as venue_ts from fills where account = %(account)s and fills.symbol = wanted.symbol"
            " and fee_amount is null and venue_ts >= f.venue_ts - interval '7 days') as g on true",
            {"symbols": list(symbols), "account": account},
        )
        return dict(rows.fetchall())

    def load_strategies(self, account: str) -> list[str]:
        """Load the strategies that ever ordered for an account."""
        rows = self.conn.execute("select distinct strategy from order_intents where account = %s order by 1", (account,))
        return [strategy for (strategy,) in rows]

    def save_listings(self, venue: str, listings: Mapping[str, Listing], now_ms: int) -> None:
        """Keep rules and fees as the venue says them now; what it does not list any more becomes inactive, where it lists anything."""
        rules = [listing.rules for listing in listings.values()]
        self.conn.execute(
            "insert into instrument_rules (venue, symbol, tick, step, min_qty, max_qty, min_cost, contract_size, maker_bps, taker_bps,"
            " is_active, read_at)"
            " select %s, symbol, tick, step, min_qty, max_qty, min_cost, contract_size, maker_bps, taker_bps, is_active,"
            " to_timestamp(%s / 1000.0) from unnest(%s::text[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[],"
            " %s::numeric[], %s::numeric[], %s::numeric[], %s::bool[]) as new (symbol, tick, step, min_qty, max_qty, min_cost,"
            " contract_size, maker_bps, taker_bps, is_active) order by symbol on conflict (venue, symbol) do update set"
            " (tick, step, min_qty, max_qty, min_cost, contract_size, maker_bps, taker_bps, is_active, read_at) = (excluded.tick,"
            " excluded.step, excluded.min_qty, excluded.max_qty, excluded.min_cost, excluded.contract_size, excluded.maker_bps,"
            " excluded.taker_bps, excluded.is_active, excluded.read_at)",
            (
                venue,
                now_ms,
                list(listings),
                *(
                    [getattr(rule, name) for rule in rules]
                    for name in ("tick", "step", "min_qty", "max_qty", "min_cost_quote", "contract_size")
                ),
                [listing.maker_bps for listing in listings.values()],
                [listing.taker_bps for listing in listings.values()],
                [rule.is_active for rule in rules],
            ),
        )
        if listings:
            self.conn.execute(
                "update instrument_rules set is_active = false where venue = %s and is_active and not symbol = any(%s)",
                (venue, list(listings)),
            )

    def load_durability(self) -> dict[str, str]:
        """Load the settings of the server without which a commit is no promise: fsync, synchronous_commit, full_page_writes."""
        rows = self.conn.execute("select name, setting from pg_settings where name in ('fsync', 'synchronous_commit', 'full_page_writes')")
        return dict(rows.fetchall())

    def load_guarded(self, account: str, book_id: str) -> list[GuardedPosition]:
        """Load the positions of a book whose open trade has a filled entry in an account."""
        rows = self.conn.execute(_GUARDED, {"account": account, "book": book_id})
        return [
            GuardedPosition(
                row[0], row[1], row[2], row[3], row[4], row[5], tuple(zip(row[6], row[7], strict=True)), row[8], row[9], row[10]
            )
            for row in rows
        ]

    def load_children(self, account: str, strategy: str, symbol: str, bar_close_s: int, leg: str) -> list[tuple[str, int, str]]:
        """Load client order id, seq and state of every order of a logical key, first child first."""
        return self.conn.execute(
            "select client_order_id, seq, state from order_intents as i join orders as o using (client_order_id)"
            " where i.account = %s and i.strategy = %s and i.symbol = %s and i.bar_close = to_timestamp(%s) and i.leg = %s order by seq",
            (account, strategy, symbol, bar_close_s, leg),
        ).fetchall()

    def find_action(self, position_id: int, bar_ts_s: int) -> int | None:
        """Find the action of a position on a bar."""
        row = self.conn.execute(
            "select id from pm_actions where position_id = %s and bar_ts = to_timestamp(%s)", (position_id, bar_ts_s)
        ).fetchone()
        return int(row[0]) if row else None

    def load_tariffs(self, venue: str) -> dict[str, tuple[Decimal, Decimal]]:
        """Load maker and taker fee in bps by symbol."""
        rows = self.conn.execute("select symbol, maker_bps, taker_bps from instrument_rules where venue = %s", (venue,))
        return {symbol: (maker, taker) for symbol, maker, taker in rows}
