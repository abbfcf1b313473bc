"""The book of the paper broker: schema `paper`, one statement per act, each complete in itself."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from regime_pipeline.execution.ledger import PerpPosition
from regime_pipeline.execution.paper_walk import PaperStatus, WalkedOrder
from regime_pipeline.portfolio.money import EXACT, ZERO
from regime_pipeline.ports import Listing
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Side

MAX_OPEN: Final = 50
"""Open orders per symbol."""

_ORDER: Final = sql.SQL(
    "select venue_order_id, client_order_id, symbol, side, type, tif, qty, filled, limit_price, stop_price, lock_price, reduce_only,"
    " status, created_ms, effective_ms, cancel_ms, walked_ms, triggered, rests, updated_ms from paper.orders where account = %(account)s"
)
_ONE: Final = sql.SQL("{} and client_order_id = %(client_id)s").format(_ORDER)
_BY_VENUE_ID: Final = sql.SQL("{} and venue_order_id = %(venue_id)s").format(_ORDER)
_OPEN: Final = sql.SQL("{} and status = 'open' and (%(symbol)s::text is null or symbol = %(symbol)s) order by venue_order_id").format(
    _ORDER
)
_SINCE: Final = sql.SQL("{} and symbol = %(symbol)s and created_ms >= %(since)s order by venue_order_id").format(_ORDER)

_TRADE: Final = sql.SQL("select trade_id, venue_order_id, symbol, side, qty, price, fee_amount, fee_asset, maker, ts_ms from")
_TRADES: Final = sql.SQL(
    "{} paper.trades where account = %(account)s and symbol = %(symbol)s and ts_ms >= %(since)s order by trade_id"
).format(_TRADE)
# offset 0: the order's few trades are found by its id alone, whatever the planner believes of the other conditions
_TRADES_OF_ORDER: Final = sql.SQL(
    "{} (select * from paper.trades where venue_order_id = %(venue_id)s offset 0) as t"
    " where account = %(account)s and symbol = %(symbol)s and ts_ms >= %(since)s order by trade_id"
).format(_TRADE)
_LOCKED: Final = sql.SQL(
    "(select coalesce(sum((o.qty - o.filled) * coalesce(o.lock_price, 1)), 0) from paper.orders as o where o.account = %(account)s"
    " and o.status = 'open' and not (o.reduce_only and %(is_linear)s) and case when o.lock_price is null"
    " then split_part(o.symbol, '/', 1) else %(quote)s end = %(asset)s)"
)
_MARGIN: Final = sql.SQL("(select coalesce(sum(abs(open_quote)), 0) from paper.positions where account = %(account)s and %(is_linear)s)")
_FACTS: Final = sql.SQL(
    "select coalesce((select total from paper.balances where account = %(account)s and asset = %(asset)s), 0) - {locked} - {margin}"
    " as free, (select count(*) from paper.orders where account = %(account)s and symbol = %(symbol)s and status = 'open') as n_open,"
    " exists (select from paper.orders where account = %(account)s and client_order_id = %(client_id)s) as is_known,"
    " coalesce((select qty from paper.positions where account = %(account)s and symbol = %(symbol)s), 0) as held"
).format(locked=_LOCKED, margin=_MARGIN)
_CREATE: Final = sql.SQL(
    "insert into paper.orders (account, client_order_id, symbol, side, type, tif, qty, limit_price, stop_price, lock_price, reduce_only,"
    " post_only, status, created_ms, effective_ms, walked_ms, rests, updated_ms)"
    " select %(account)s, %(client_id)s, %(symbol)s, %(side)s, %(type)s, %(tif)s, %(qty)s, %(limit_price)s, %(stop_price)s, %(lock_price)s,"
    " %(reduce_only)s, %(post_only)s, 'open', %(now)s, %(effective)s, %(effective)s, %(post_only)s, %(now)s from ({facts}) as f"
    " where not f.is_known and f.n_open < %(max_open)s and f.free >= %(need)s"
    " and (not (%(reduce_only)s and %(is_linear)s) or -%(sign)s * f.held >= %(qty)s)"
    " on conflict do nothing returning venue_order_id"
).format(facts=_FACTS)
_CANCEL: Final = sql.SQL(
    "update paper.orders set cancel_ms = coalesce(cancel_ms, %(cancel_ms)s), updated_ms = %(now)s where account = %(account)s"
    " and client_order_id = %(client_id)s and status = 'open' returning venue_order_id"
)
_WALK: Final = sql.SQL(
    "with moved as (update paper.orders set filled = filled + %(qty)s, status = %(status)s, walked_ms = %(walked)s, triggered = %(hit)s,"
    " rests = %(rests)s, updated_ms = %(now)s where venue_order_id = %(venue_id)s and status = 'open' and filled = %(filled)s"
    " and walked_ms = %(before)s and cancel_ms is not distinct from %(cancel)s returning account),"
    " traded as (insert into paper.trades (account, venue_order_id, symbol, side, qty, price, fee_amount, fee_asset, maker, ts_ms)"
    " select moved.account, %(venue_id)s, %(symbol)s, %(side)s, t.* from moved, unnest(%(qtys)s::numeric[], %(prices)s::numeric[],"
    " %(fees)s::numeric[], %(fee_assets)s::text[], %(makers)s::boolean[], %(times)s::bigint[]) as t),"
    # what leaves is updated, as an insert would be checked before it became an update
    " spent as (update paper.balances as b set total = b.total + d.delta from moved, unnest(%(assets)s::text[], %(deltas)s::numeric[])"
    " as d (asset, delta) where b.account = moved.account and b.asset = d.asset and d.delta < 0),"
    " earned as (insert into paper.balances as b (account, asset, total) select moved.account, d.asset, d.delta from moved,"
    " unnest(%(assets)s::text[], %(deltas)s::numeric[]) as d (asset, delta) where d.delta >= 0"
    " on conflict (account, asset) do update set total = b.total + excluded.total),"
    " held as (insert into paper.positions as p (account, symbol, qty, open_quote) select moved.account, %(symbol)s, %(held)s,"
    " %(open_quote)s from moved where %(is_linear)s and %(has_fills)s on conflict (account, symbol) do update set qty = excluded.qty,"
    " open_quote = excluded.open_quote) select count(*) from moved"
)

Settle = Callable[[PerpPosition], tuple[Mapping[str, Decimal], PerpPosition]]
"""Change of each balance, and the contract position after it, from the position before."""


@dataclass(frozen=True, slots=True)
class StoredOrder:
    """An order as the paper broker keeps it."""

    venue_order_id: int
    client_order_id: str
    symbol: str
    side: Side
    qty: Decimal
    filled: Decimal
    limit_price: Decimal | None
    stop_price: Decimal | None
    reduce_only: bool
    status: PaperStatus
    created_ms: int
    walk: WalkedOrder


@dataclass(frozen=True, slots=True)
class StoredTrade:
    """A trade as the paper broker keeps it."""

    trade_id: int
    venue_order_id: int
    symbol: str
    side: Side
    qty: Decimal
    price: Decimal
    fee_amount: Decimal
    fee_asset: str
    is_maker: bool
    ts_ms: int


@dataclass(frozen=True, slots=True)
class NewTrade:
    """A fill that is to be booked, with its fee."""

    qty: Decimal
    price: Decimal
    fee_amount: Decimal
    fee_asset: str
    is_maker: bool
    ts_ms: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a create is judged on: free money, open orders of the symbol, whether the id is taken, contracts held."""

    free: Decimal
    n_open: int
    is_known: bool
    held: Decimal


@dataclass(frozen=True, slots=True)
class PaperStore:
    """The book of one account on a connection that commits by itself."""

    conn: psycopg.Connection
    account: str
    quote: str
    is_linear: bool

    def create(self, order: Mapping[str, Any]) -> int | None:
        """Insert an order if its money, its id and its place are free; its venue id, None when one of them is not."""
        with self.conn.transaction():
            self.lock()
            row = self.conn.execute(_CREATE, self._named({**order, "max_open": MAX_OPEN})).fetchone()
        return None if row is None else int(row[0])

    def lock(self) -> None:
        """Let creates of the account happen one after the other: each must see what the one before has locked."""
        self.conn.execute("select pg_advisory_xact_lock(hashtextextended('paper:' || %s, 0))", (self.account,))

    def load_facts(self, order: Mapping[str, Any]) -> Facts:
        """Load what a create is judged on."""
        row = self.conn.execute(_FACTS, self._named(order)).fetchone()
        assert row is not None
        return Facts(*row)

    def cancel(self, client_order_id: str, cancel_ms: int, now_ms: int) -> int | None:
        """Let an open order end at an instant, unless it is to end already; its venue id, None when none is open."""
        row = self.conn.execute(_CANCEL, self._named({"client_id": client_order_id, "cancel_ms": cancel_ms, "now": now_ms})).fetchone()
        return None if row is None else int(row[0])

    def load_order(self, client_order_id: str, venue_order_id: str | None) -> StoredOrder | None:
        """Load an order by our id, or by the broker's where it is given."""
        query = _ONE if venue_order_id is None or not venue_order_id.isdecimal() else _BY_VENUE_ID
        found = self._load(query, {"client_id": client_order_id, "venue_id": venue_order_id})
        return found[0] if found else None

    def load_open(self, symbol: str | None) -> list[StoredOrder]:
        """Load open orders, oldest first."""
        return self._load(_OPEN, {"symbol": symbol})

    def load_since(self, symbol: str, since_ms: int) -> list[StoredOrder]:
        """Load the orders of a symbol created since an instant, oldest first."""
        return self._load(_SINCE, {"symbol": symbol, "since": since_ms})

    def save_walk(self, order: StoredOrder, walked: WalkedOrder, trades: Sequence[NewTrade], settle: Settle, now_ms: int) -> bool:
        """Book what a walk brought, if nobody has walked or cancelled the order since it was read; tells whether."""
        if not (self.is_linear and trades):
            return self._save_walk(order, walked, trades, settle(PerpPosition()), now_ms)
        with self.conn.transaction():
            self.lock()
            before = self.load_positions([order.symbol]).get(order.symbol, PerpPosition())
            return self._save_walk(order, walked, trades, settle(before), now_ms)

    def _save_walk(
        self,
        order: StoredOrder,
        walked: WalkedOrder,
        trades: Sequence[NewTrade],
        settled: tuple[Mapping[str, Decimal], PerpPosition],
        now_ms: int,
    ) -> bool:
        deltas, held = settled
        new = {
            "venue_id": order.venue_order_id,
            "symbol": order.symbol,
            "side": order.side.value,
            "qty": sum((trade.qty for trade in trades), ZERO),
            "status": walked.status.value,
            "walked": walked.walked_ms,
            "hit": walked.is_triggered,
            "rests": walked.rests,
            "now": now_ms,
            "filled": order.filled,
            "before": order.walk.walked_ms,
            "cancel": order.walk.cancel_ms,
            "qtys": [trade.qty for trade in trades],
            "prices": [trade.price for trade in trades],
            "fees": [trade.fee_amount for trade in trades],
            "fee_assets": [trade.fee_asset for trade in trades],
            "makers": [trade.is_maker for trade in trades],
            "times": [trade.ts_ms for trade in trades],
            "assets": list(deltas),
            "deltas": list(deltas.values()),
            "held": held.qty,
            "open_quote": held.open_quote,
            "has_fills": bool(trades),
        }
        row = self.conn.execute(_WALK, self._named(new)).fetchone()
        return row is not None and row[0] == 1

    def end(self, order: StoredOrder, status: PaperStatus, now_ms: int) -> None:
        """End an open order without a trade."""
        self.conn.execute(
            "update paper.orders set status = %s, updated_ms = %s where venue_order_id = %s and status = 'open'",
            (status.value, now_ms, order.venue_order_id),
        )

    def load_trades(self, symbol: str, since_ms: int, venue_order_id: int | None) -> list[StoredTrade]:
        """Load trades of a symbol since an instant, oldest first; of one order where it is named."""
        query = _TRADES if venue_order_id is None else _TRADES_OF_ORDER
        rows = self.conn.execute(query, self._named({"symbol": symbol, "since": since_ms, "venue_id": venue_order_id}))
        return [StoredTrade(trade_id, order_id, name, Side(side), *rest) for trade_id, order_id, name, side, *rest in rows]

    def load_balances(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Load (free, total) of every asset that is not zero."""
        rows = self.conn.execute(
            "select b.asset, b.total, coalesce((select sum((o.qty - o.filled) * coalesce(o.lock_price, 1)) from paper.orders as o"
            " where o.account = b.account and o.status = 'open' and not (o.reduce_only and %(is_linear)s)"
            " and case when o.lock_price is null then split_part(o.symbol, '/', 1) else %(quote)s end = b.asset), 0),"
            " case when b.asset = %(quote)s and %(is_linear)s then (select coalesce(sum(abs(p.open_quote)), 0) from paper.positions as p"
            " where p.account = b.account) else 0 end"
            " from paper.balances as b where b.account = %(account)s and b.total <> 0",
            self._named({}),
        )
        return {asset: (max(ZERO, EXACT.subtract(total, locked + margin)), total) for asset, total, locked, margin in rows}

    def load_positions(self, symbols: Collection[str] | None = None) -> dict[str, PerpPosition]:
        """Load contract positions that are not flat; of some symbols where they are named."""
        rows = self.conn.execute(
            "select symbol, qty, open_quote from paper.positions where account = %s and qty <> 0"
            " and (%s::text[] is null or symbol = any(%s))",
            (self.account, *2 * [None if symbols is None else list(symbols)]),
        )
        return {symbol: PerpPosition(qty, open_quote) for symbol, qty, open_quote in rows}

    def load_listings(self, symbols: Iterable[str]) -> dict[str, Listing]:
        """Load the rules of symbols as they were first said."""
        rows = self.conn.execute(
            "select symbol, tick, step, min_qty, max_qty, min_cost, contract_size, is_active, maker_bps, taker_bps from instrument_rules"
            " where venue = 'paper' and symbol = any(%s)",
            (list(symbols),),
        )
        return {row[0]: _listing(self.quote, InstrumentRules(*row[:8]), row[8], row[9]) for row in rows}

    def save_listings(self, listings: Iterable[Listing], now_ms: int) -> None:
        """Keep the rules of symbols that have none yet."""
        self.conn.cursor().executemany(
            "insert into instrument_rules (venue, symbol, tick, step, min_qty, max_qty, min_cost, contract_size, maker_bps, taker_bps,"
            " is_active, read_at) values ('paper', %s, %s, %s, %s, %s, %s, %s, %s, %s, true, to_timestamp(%s / 1000.0))"
            " on conflict do nothing",
            [
                (
                    each.rules.symbol, each.rules.tick, each.rules.step, each.rules.min_qty, each.rules.max_qty, each.rules.min_cost_quote,
                    each.rules.contract_size, each.maker_bps, each.taker_bps, now_ms,
                )
                for each in listings
            ],
        )  # fmt: skip

    def _load(self, query: sql.Composed, named: Mapping[str, object]) -> list[StoredOrder]:
        rows = self.conn.cursor(row_factory=dict_row).execute(query, self._named(named)).fetchall()
        return [_read(row) for row in rows]

    def _named(self, named: Mapping[str, object]) -> dict[str, object]:
        return {"account": self.account, "quote": self.quote, "is_linear": self.is_linear, **named}


def _listing(quote: str, rules: InstrumentRules, maker_bps: Decimal, taker_bps: Decimal) -> Listing:
    return Listing(rules, rules.symbol.partition("/")[0], quote, maker_bps, taker_bps)


def _read(row: Mapping[str, Any]) -> StoredOrder:
    walk = WalkedOrder(
        side=Side(row["side"]),
        rest=EXACT.subtract(row["qty"], row["filled"]),
        limit_price=row["limit_price"],
        stop_price=row["stop_price"],
        is_ioc=row["tif"] == "IOC",
        effective_ms=row["effective_ms"],
        walked_ms=row["walked_ms"],
        cancel_ms=row["cancel_ms"],
        is_triggered=row["triggered"],
        rests=row["rests"],
        status=PaperStatus(row["status"]),
    )
    names = ("venue_order_id", "client_order_id", "symbol", "qty", "filled", "limit_price", "stop_price", "reduce_only", "created_ms")
    return StoredOrder(side=walk.side, status=walk.status, walk=walk, **{name: row[name] for name in names})
