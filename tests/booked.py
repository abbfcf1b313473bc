"""Positions, actions and orders as the tick writes them, so that tests of booking can begin with a fill."""

from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from typing import Any
from uuid import UUID

import psycopg

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.execution.answers import PAPER
from regime_pipeline.execution.fills import Fill
from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.portfolio.trade import Trade, fold_trade
from regime_pipeline.ports import BookingSummary, BrokerTraits
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.book_fills import book_fills
from tests.builders import T0

ACCOUNT, BOOK, STRATEGY, SYMBOL = "paper-main", "onchain_crypto", "onchain_crypto-1h", "AAVE/USDT"
SPOT = BrokerTraits("paper", ACCOUNT, Mode.PAPER, "spot", "USDT", PAPER)
LINEAR = BrokerTraits("paper", ACCOUNT, Mode.PAPER, "linear", "USDT", PAPER)
NOW_MS = (T0 + 13 * 3600) * 1000
LEGS = {"entry": Leg.ENTRY, "add": Leg.ADD, "trim": Leg.TRIM, "emergency_exit": Leg.EXIT}
SIGNALS = {"entry": "s1_buy", "add": "dx", "trim": "trim", "emergency_exit": "exit_position"}
FUNDING = {"entry": "remaining", "add": "pool", "trim": "holding", "emergency_exit": "holding"}


@dataclass
class Books:
    """A database with one position per token, and short words for what happens to it."""

    url: str
    traits: BrokerTraits = SPOT
    _bars: Any = field(default_factory=lambda: count(0))

    def __post_init__(self) -> None:
        self.stores = PostgresStores(self.url)
        self.venue_ids: dict[str, str] = {}

    def execute(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Ask or tell the database."""
        with closing(psycopg.connect(self.url)) as conn, conn.transaction():
            cursor = conn.execute(query, parameters)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def position(self, contract: str = "AAVE", timeframe: str = "1h") -> int:
        """Number of a position that may be traded."""
        rows = self.execute(
            "insert into lowcap_positions (token_contract, token_chain, timeframe, token_ticker, status, book_id)"
            " values (%s, 'binance', %s, %s, 'watchlist', %s) on conflict (token_contract, token_chain, timeframe)"
            " do update set book_id = excluded.book_id returning id",
            contract, timeframe, contract, BOOK,
        )  # fmt: skip
        return int(rows[0][0])

    def action(self, kind: str, bar: int, contract: str = "AAVE", trade_id: UUID | None = None, level: float | None = None) -> int:
        """Number of a planned action on a bar."""
        rows = self.execute(
            "insert into pm_actions (idempotency_key, position_id, bar_ts, trade_id, kind, signal, funding, status, state, level_price,"
            " atr, bars_seen, a_value, e_value) values (%s, %s, to_timestamp(%s), %s, %s, %s, %s, 'planned', 'S1', %s, 2.5, %s, 0.5, 0.5)"
            " returning id",
            f"{kind}:{contract}:{bar}", self.position(contract), T0 + bar * 3600, trade_id, kind, SIGNALS[kind], FUNDING[kind],
            level if kind != "trim" or level is not None else 100.0, 1000 + bar,
        )  # fmt: skip
        return int(rows[0][0])

    def order(
        self,
        kind: str = "entry",
        qty: str | Decimal = "1",
        *,
        bar: int | None = None,
        symbol: str = SYMBOL,
        trade_id: UUID | None = None,
        action_id: int | None = None,
        venue_order_id: str | None = "",
        seq: int = 0,
        state: str = "OPEN",
        strategy: str = STRATEGY,
        replaces: str | None = None,
    ) -> str:
        """Client order id of a sent order with its action."""
        bar = next(self._bars) if bar is None else bar
        if action_id is None:
            action_id = self.action(kind, bar, symbol.partition("/")[0], trade_id)
        leg = LEGS[kind]
        key = LogicalKey(ACCOUNT, strategy, symbol, T0 + (bar + 1) * 3600, leg, seq)
        self.insert_order(key, "buy" if kind in ("entry", "add") else "sell", Decimal(qty), action_id, replaces)
        self.venue_ids[key.client_order_id] = venue_id = f"v{key.client_order_id[:8]}" if venue_order_id == "" else venue_order_id or ""
        self.move(key.client_order_id, state, venue_id or None)
        return key.client_order_id

    def insert_order(self, key: LogicalKey, side: str, qty: Decimal, action_id: int | None, replaces: str | None = None) -> None:
        """Write intent and order."""
        leg = key.leg
        self.execute(
            "insert into order_intents (client_order_id, account, strategy, symbol, bar_close, leg, seq, action_id, replaces_id, purpose,"
            " side, type, qty, limit_price, reduce_only, tif, mode, origin, payload_hash, decide_by, decision_mid)"
            " values (%s, %s, %s, %s, to_timestamp(%s), %s, %s, %s, %s, %s, %s, 'limit', %s, 100, false, 'GTC', 'paper', 'strategy', '',"
            " to_timestamp(%s), 100)",
            key.client_order_id, key.account, key.strategy, key.symbol, key.bar_close_s, leg, key.seq, action_id, replaces, leg.purpose,
            side, qty, key.bar_close_s + 300,
        )  # fmt: skip
        self.execute(
            "insert into orders (client_order_id, venue, account, strategy, symbol, purpose, state)"
            " values (%s, %s, %s, %s, %s, %s, 'INTENT')",
            key.client_order_id, self.traits.venue, key.account, key.strategy, key.symbol, leg.purpose,
        )  # fmt: skip

    def move(self, client_order_id: str, state: str, venue_order_id: str | None = None) -> None:
        """Put an order into a state, by the shortest way there is."""
        ways = {"OPEN": ["SUBMITTING", "OPEN"], "SUBMITTING": ["SUBMITTING"], "CANCELLED": ["CANCELLED"], "FILLED": ["FILLED"]}
        (now,) = self.execute("select state from orders where client_order_id = %s", client_order_id)[0]
        for step in ways[state] if now == "INTENT" else [state]:
            self.execute("update orders set state = %s, version = version + 1 where client_order_id = %s", step, client_order_id)
        if venue_order_id is not None:
            self.execute("update orders set venue_order_id = %s where client_order_id = %s", venue_order_id, client_order_id)

    def fill(
        self, client_order_id: str, trade: str, qty: str, price: str, fee: str | None = None, fee_asset: str | None = None, **changes: Any
    ) -> Fill:
        """A report of an order's fill."""
        symbol, side = self.execute("select symbol, side from order_intents where client_order_id = %s", client_order_id)[0]
        fields: dict[str, Any] = {
            "venue": self.traits.venue,
            "account": self.traits.account,
            "market_type": self.traits.market_type,
            "symbol": symbol,
            "venue_order_id": self.venue_ids[client_order_id] or f"v{client_order_id[:8]}",
            "venue_trade_id": trade,
            "side": Side(side),
            "qty": Decimal(qty),
            "price": Decimal(price),
            "fee_amount": None if fee is None else Decimal(fee),
            "fee_asset": fee_asset,
            "venue_ts_ms": NOW_MS - 60_000,
        }
        return Fill(**{**fields, **changes})

    def book(self, *fills: Fill, **options: Any) -> BookingSummary:
        """Book reports in one transaction."""
        with self.stores.open() as work:
            return book_fills(work, self.traits, fills, NOW_MS, **options)

    def wallet(self, asset: str, strategy: str = STRATEGY) -> Decimal:
        """Balance of a wallet."""
        rows = self.execute(
            "select balance from ledger_balances where account = %s and strategy = %s and ledger_account = 'WALLET' and asset = %s",
            ACCOUNT, strategy, asset,
        )  # fmt: skip
        return rows[0][0] if rows else Decimal(0)

    def row(self, contract: str = "AAVE") -> dict[str, Any]:
        """The position's row."""
        with psycopg.connect(self.url, row_factory=psycopg.rows.dict_row) as conn:
            found = conn.execute("select * from lowcap_positions where token_contract = %s", (contract,)).fetchone()
        assert found is not None
        return found

    def trade(self, contract: str = "AAVE") -> Trade:
        """The open trade, folded from the stored actions alone."""
        trade_id = self.row(contract)["current_trade_id"]
        with self.stores.open() as work:
            return fold_trade(trade_id, work.ledger.load_trade(trade_id))

    def incidents(self) -> list[str]:
        """Kinds of open incidents, oldest first."""
        return [kind for (kind,) in self.execute("select kind from incidents where closed_at is null order by id")]
