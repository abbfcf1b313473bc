"""A desk for tests of what stops orders: a migrated database, a latch in a file, a clock that stands still, and facts by the row."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from psycopg.types.json import Jsonb

from regime_pipeline.adapters.latch_file import LatchFile
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.market.bars import Bars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import BarRows, BarTable, Broker
from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import Switch
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings
from regime_pipeline.risk.protections import Trip
from regime_pipeline.services.trading.context import Trading, TradingTerms, VenueClock
from regime_pipeline.services.trading.judge_protections import judge_protections
from regime_pipeline.simulation.clock import VirtualClock
from tests.builders import bars
from tests.fakes_trading import FakeBroker

ACCOUNT, STRATEGY, SYMBOL = "paper-main", "onchain_crypto-1h", "AAVE/USDT"
DAY_S = 86_400
MIDNIGHT_S = 1_780_272_000  # 2026-06-01T00:00Z
NOON_S = MIDNIGHT_S + 12 * 3600


class SafetyDesk:
    """An account with a history that a test writes by the row."""

    def __init__(self, url: str, folder: Path, broker: Broker | None = None) -> None:
        self.url = url
        self.stores = PostgresStores(url)
        self.clock = VirtualClock(NOON_S, 0.0)
        self.latch = LatchFile(folder / "state" / "kill.latch")
        self.broker = broker or FakeBroker(self.clock)
        self.trading = Trading(
            stores=self.stores,
            broker=self.broker,
            terms=TradingTerms(ACCOUNT, Mode.PAPER, "onchain_crypto", trading_enabled=True, holder="desk"),
            limits=RiskSettings(),
            protections=ProtectionSettings(),
            latch=self.latch,
            clock=VenueClock(self.clock.now, 0),
            monotonic=self.clock.now_s,
            sleep=self.clock.advance,
        )

    @property
    def fake(self) -> FakeBroker:
        """The venue in memory."""
        assert isinstance(self.broker, FakeBroker)
        return self.broker

    @property
    def now_s(self) -> int:
        """Time, epoch seconds."""
        return int(self.clock.now_s())

    def go_to(self, now_s: int) -> None:
        """Let time pass until an instant."""
        self.clock.advance(now_s - self.clock.now_s())

    def limit(self, **changes: Any) -> None:
        """Change limits."""
        self.trading = replace(self.trading, limits=self.trading.limits.model_copy(update=changes))

    def execute(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement; its rows, if it gives any."""
        with psycopg.connect(self.url) as conn:
            cursor = conn.execute(query, parameters)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def mark(self, at_s: int, equity: str | int, holdings: Mapping[str, Any] | None = None, account: str = ACCOUNT) -> None:
        """Mark equity."""
        self.execute(
            "insert into equity_points (account, at, equity_quote, cash_quote, holdings) values (%s, to_timestamp(%s), %s, %s, %s)",
            account, at_s, str(equity), "0", Jsonb(dict(holdings or {})),
        )  # fmt: skip

    def flow(self, at_s: int, amount: int, asset: str = "USDT") -> None:
        """Book money that came from outside."""
        self.execute(
            "with batch as (select nextval('ledger_batches') as id) insert into ledger_entries"
            " (batch_id, line, account, strategy, ledger_account, asset, amount, source, booked_for)"
            " select id, line, %s, '_account', kind, %s, amount, 'external:' || id, to_timestamp(%s)"
            " from batch, (values (1, 'WALLET', %s::numeric), (2, 'EXTERNAL', -%s::numeric)) as lines (line, kind, amount)",
            ACCOUNT, asset, at_s, amount, amount,
        )  # fmt: skip

    def position(self, contract: str = "AAVE", timeframe: str = "1h") -> int:
        """Make the position that trades and actions belong to."""
        self.execute(
            "insert into lowcap_positions (token_contract, token_chain, timeframe, token_ticker, status, book_id)"
            " values (%s, 'binance', %s, %s, 'watchlist', 'onchain_crypto') on conflict do nothing",
            contract, timeframe, contract,
        )  # fmt: skip
        rows = self.execute("select id from lowcap_positions where token_contract = %s and timeframe = %s", contract, timeframe)
        return int(rows[0][0])

    def close(self, at_s: int, pnl: str | int, symbol: str = SYMBOL, strategy: str = STRATEGY) -> None:
        """Close a trade."""
        position = self.position(symbol.partition("/")[0], strategy.rpartition("-")[2])
        self.execute(
            "insert into trade_summaries (trade_id, position_id, account, strategy, symbol, opened_at, closed_at, allocated_usd,"
            " extracted_usd, pnl_usd, return_frac, max_drawdown_frac, max_gain_frac, hold_s)"
            " values (%s, %s, %s, %s, %s, to_timestamp(%s), to_timestamp(%s), 1000, 1000, %s, 0, 0, 0, 60)",
            uuid4(), position, ACCOUNT, strategy, symbol, at_s - 60, at_s, str(pnl),
        )  # fmt: skip

    def save_driver(self, series: str, timeframe: Timeframe, made: Bars) -> None:
        """Store bars of a driver."""
        rows = BarRows(made, ("test",), np.zeros(len(made), dtype=np.int64), np.ones(len(made), dtype=np.bool_))
        with self.stores.open() as work:
            work.bars.save(BarTable.DRIVERS, timeframe, {series: rows})

    def save_token(self, timeframe: Timeframe, made: Bars, series: str = "token:AAVE:binance") -> None:
        """Store bars of a token."""
        rows = BarRows(made, ("test",), np.zeros(len(made), dtype=np.int64), np.ones(len(made), dtype=np.bool_))
        with self.stores.open() as work:
            work.bars.save(BarTable.TOKENS, timeframe, {series: rows})

    def feed(self, n_bars: int = 400, calm: float = 0.002) -> None:
        """Give the required drivers calm, whole bars up to now, and the token its own."""
        for timeframe in CHANNEL_TIMEFRAMES:
            for series in ("regime:BTC", "regime:ALT"):
                self.save_driver(series, timeframe, self.calm_bars(timeframe, 60 if timeframe is Timeframe.D1 else n_bars, calm))
        self.save_token(Timeframe.H1, self.calm_bars(Timeframe.H1, n_bars, calm))

    def calm_bars(self, timeframe: Timeframe, n_bars: int, step: float = 0.002) -> Bars:
        """Build bars that go up and down by turns and end with the newest closed one."""
        start_s = timeframe.floor(self.now_s) - n_bars * timeframe.seconds
        return bars([100.0 * (1 + step * (n % 2)) for n in range(n_bars)], timeframe, start_s)

    def judge(self) -> list[Trip]:
        """Judge all protections now."""
        with self.stores.open() as work:
            return judge_protections(work, self.trading, self.now_s)

    def judge_names(self) -> set[str]:
        """Names of the active protections after judging."""
        return {trip.name for trip in self.judge()}

    def switches(self) -> list[Switch]:
        """Kill levels in force by the table."""
        with self.stores.open() as work:
            return work.safety.load_switches(ACCOUNT)


@pytest.fixture
def desk(database: str, tmp_path: Path) -> SafetyDesk:
    """Open a desk whose account began 60 days ago with 100,000 and whose data is whole."""
    opened = SafetyDesk(database, tmp_path)
    opened.mark(NOON_S - 60 * DAY_S, 100_000)
    opened.feed()
    return opened


def money(value: object) -> Decimal:
    """Read an amount."""
    return Decimal(str(value))
