"""Whole lives of paper orders, decided to booked, on one worker: so many per second, and as many after 100,000 of them."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import psycopg

from benchmarks.database import make_database
from benchmarks.measure import Measure
from regime_pipeline.adapters.brokers.paper import PaperBroker
from regime_pipeline.adapters.brokers.paper_market import StoredMarket
from regime_pipeline.adapters.latch_file import LatchFile
from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.embedded import ServerAddress
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.ports import NewIntent, OrderType
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.context import Trading, TradingTerms, VenueClock
from regime_pipeline.services.trading.execute_pending import execute_pending
from regime_pipeline.services.trading.open_account import open_account
from regime_pipeline.services.trading.write_intents import write_intents
from regime_pipeline.simulation.clock import VirtualClock

ACCOUNT, BOOK, STRATEGY = "paper-main", "bench", "bench-1h"
T0: Final = 1_735_689_600
SYMBOLS: Final = 250
ROUNDS: Final = 8
"""Orders per symbol: an entry and adds, as a trade has them."""
STORED: Final = 100_000
PROMISED_S: Final = 0.01


@dataclass
class Bench:
    """A paper account whose market stands still at 100."""

    url: str
    folder: Path

    def __post_init__(self) -> None:
        self.clock = VirtualClock(T0 + 50, 0.0)
        self.stores = PostgresStores(self.url)
        terms = TradingTerms(ACCOUNT, Mode.PAPER, BOOK, trading_enabled=True, holder="bench", opening_cash_quote=Decimal(10) ** 9)
        self.trading = Trading(
            stores=self.stores,
            broker=PaperBroker(self.url, StoredMarket(), clock=self.clock.now),
            terms=terms,
            limits=RiskSettings.model_validate({}),
            protections=ProtectionSettings.model_validate({}),
            latch=LatchFile(self.folder / "kill.latch"),
            clock=VenueClock(self.clock.now, 0),
        )
        self._bars = 0
        open_account(self.trading)

    def prepare(self, first: int, rounds: int) -> list[int]:
        """Store positions and minutes of so many tokens; the positions' numbers."""
        with open_connection(self.url) as conn:
            ids = conn.execute(
                "insert into lowcap_positions (token_contract, token_chain, timeframe, token_ticker, status, book_id)"
                " select 'T' || n, 'bench', '1h', 'T' || n, 'watchlist', %s from generate_series(%s::int, %s) as n returning id",
                (BOOK, first, first + SYMBOLS - 1),
            ).fetchall()
            conn.execute(
                "insert into lowcap_price_data_ohlc (token_contract, chain, timeframe, timestamp, open_usd, high_usd, low_usd, close_usd,"
                " volume, bars_used, expected_bars, is_final, source)"
                " select 'T' || n, 'bench', '1m', to_timestamp(%s + 60 * m), 100, 100.2, 99.8, 100, 1e9, 1, 1, true, 'bench'"
                " from generate_series(%s::int, %s) as n, generate_series(-5, %s) as m",
                (self.clock.now_s() // 60 * 60, first, first + SYMBOLS - 1, 3 * rounds + 5),
            )
            conn.commit()
            conn.autocommit = True
            conn.execute("vacuum analyze")
        return [number for (number,) in ids]

    def live(self, first: int, positions: list[int], rounds: int) -> tuple[int, float]:
        """Let every token buy once a round; how many orders that were, and seconds."""
        began = time.perf_counter()
        for n_round in range(rounds):
            self._decide(first, positions, Leg.ADD if n_round else Leg.ENTRY)
            execute_pending(self.trading)
            self.clock.advance(75)  # the next minute has begun and closed
            execute_pending(self.trading)
            self.clock.advance(45)
        return rounds * len(positions), time.perf_counter() - began

    def _decide(self, first: int, positions: list[int], leg: Leg) -> None:
        """tx1 of a tick, without what it decides on."""
        self._bars += 1
        close_s = T0 + 3600 * self._bars
        with self.stores.open() as work:
            rows = work.conn.execute(
                "insert into pm_actions (idempotency_key, position_id, bar_ts, kind, signal, funding, status, state, level_price, atr,"
                " bars_seen, planned_usd, a_value, e_value, trade_id)"
                " select %s || id, id, %s, %s, %s, 'remaining', 'planned', 'S1', 100, 1, 1, 100, 0.5, 0.5, current_trade_id"
                " from lowcap_positions where id = any(%s) returning id, position_id",
                (f"{close_s}:", datetime.fromtimestamp(close_s - 3600, UTC), leg.value, "dx" if leg is Leg.ADD else "s1_buy", positions),
            )
            action_of = {position_id: action_id for action_id, position_id in rows}
            intents = [
                NewIntent(
                    LogicalKey(ACCOUNT, STRATEGY, f"T{first + n}/USDT", close_s, leg),
                    Side.BUY,
                    OrderType.LIMIT,
                    Decimal(1),
                    Mode.PAPER,
                    self.trading.clock.now_ms() + 3_600_000,
                    limit_price=Decimal("100.3"),
                    action_id=action_of[position_id],
                    decision_mid=Decimal(100),
                )
                for n, position_id in enumerate(positions)
            ]
            write_intents(work, self.trading, intents)

    def check(self, expected: int) -> None:
        """Stop when a life was not whole: a fast benchmark of nothing."""
        with open_connection(self.url) as conn:
            row = conn.execute(
                "select (select count(*) from orders where state = 'FILLED'), (select count(*) from fills),"
                " (select count(*) from ledger_entries), (select count(*) from pm_actions where status = 'done')"
            ).fetchone()
        if row is None or row[:2] != (expected, expected):
            raise RuntimeError(f"orders filled, fills, ledger lines and actions done were {row}, expected {expected} of the first two")


def measure_orders(server: ServerAddress) -> list[Measure]:
    """Measure lives of orders in an empty database, and in one that has seen 100,000."""
    url = make_database(server, "bench_orders")
    with TemporaryDirectory() as folder:
        bench = Bench(url, Path(folder))
        n_warm, _ = bench.live(0, bench.prepare(0, 2), 2)
        n, empty_s = bench.live(1000, bench.prepare(1000, ROUNDS), ROUNDS)
        bench.check(n_warm + n)
        store_history(url)
        n, full_s = bench.live(2000, bench.prepare(2000, ROUNDS), ROUNDS)
        bench.check(n_warm + 2 * n + STORED)
    facts = {"lives per second": f"{n / empty_s:.0f}", f"after {STORED:,}": f"{n / full_s:.0f}"}
    return [
        Measure("order lives", "a paper order, decided to booked", empty_s / n, "a hundredth of a second", PROMISED_S, 1.0, facts),
        Measure("order lives, full", f"the same after {STORED:,} orders", full_s / n, "in an empty database", empty_s / n, 1.25),
    ]


def store_history(url: str) -> None:
    """Write finished orders with everything that belongs to them, as fast as it goes."""
    with psycopg.connect(url) as conn:
        conn.execute("set session_replication_role = replica")  # no trigger: rows are whole as they are written
        for statement in _HISTORY:
            conn.execute(statement, {"n": STORED, "t0": T0 - 100 * 86_400})


_HISTORY: Final = (
    "create temp table h as select n, encode(substr(sha256(n::text::bytea), 1, 16), 'hex') as id, 'H' || n %% 500 || '/USDT' as symbol,"
    " to_timestamp(%(t0)s + 60 * n) as at from generate_series(1, %(n)s) as n",
    "insert into order_intents (client_order_id, account, strategy, symbol, bar_close, leg, seq, purpose, side, type, qty, limit_price,"
    " reduce_only, tif, mode, origin, payload_hash, decide_by, decision_mid)"
    " select id, 'paper-main', 'bench-1h', symbol, at, 'entry', 0, 'entry', 'buy', 'limit', 1, 100, false, 'GTC', 'paper', 'strategy', '',"
    " at, 100 from h",
    "insert into orders (client_order_id, venue, account, strategy, symbol, purpose, state, version, venue_order_id, sent_at, created_at)"
    " select id, 'paper', 'paper-main', 'bench-1h', symbol, 'entry', 'FILLED', 3, 'h' || n, at, at from h",
    "insert into order_transitions (client_order_id, order_seq, from_state, to_state, class, code, raw, actor, lease_token, row_hash)"
    " select id, s.seq, s.old, s.new, s.class, s.class, '{\"orderId\":1,\"clientOrderId\":\"' || id || '\"}', 'executor', 1, id from h,"
    " (values (1, 'INTENT', 'SUBMITTING', null), (2, 'SUBMITTING', 'OPEN', 'ACCEPTED'), (3, 'OPEN', 'FILLED', null))"
    " as s (seq, old, new, class)",
    "insert into outbox (kind, dedupe_key, account, done_at) select 'SUBMIT', id, 'paper-main', at from h",
    "insert into fills (venue, account, market_type, symbol, fill_key, client_order_id, venue_order_id, venue_trade_id, side, qty, price,"
    " fee_amount, fee_asset, venue_ts)"
    " select 'paper', 'paper-main', 'spot', symbol, 'h' || n, id, 'h' || n, 'h' || n, 'buy', 1, 100, 0.001, split_part(symbol, '/', 1), at"
    " from h",
    "insert into ledger_entries (batch_id, line, account, strategy, ledger_account, asset, amount, source, booked_for)"
    " select -n, l.line, 'paper-main', 'bench-1h', l.side, case when l.line in (3, 4) then 'USDT' else split_part(symbol, '/', 1) end,"
    " l.amount, 'fill:h' || n, at from h, (values (1, 'WALLET', 1), (2, 'TRADE', -1), (3, 'WALLET', -100), (4, 'TRADE', 100),"
    " (5, 'WALLET', -0.001), (6, 'FEE', 0.001)) as l (line, side, amount)",
    "insert into paper.orders (account, client_order_id, symbol, side, type, tif, qty, filled, limit_price, reduce_only, status,"
    " created_ms, effective_ms, walked_ms, updated_ms)"
    " select 'paper-main', id, symbol, 'buy', 'limit', 'GTC', 1, 1, 100, false, 'closed', 0, 0, 0, 0 from h",
    "insert into paper.trades (account, venue_order_id, symbol, side, qty, price, fee_amount, fee_asset, maker, ts_ms)"
    " select o.account, o.venue_order_id, o.symbol, 'buy', 1, 100, 0.001, split_part(o.symbol, '/', 1), false, 0"
    " from paper.orders as o join h on h.id = o.client_order_id",
)
