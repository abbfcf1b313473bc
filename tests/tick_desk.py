"""A desk for tests of the portfolio tick: positions, engine records and regime deltas by the row, in an account whose data is whole."""

from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe, load_universe
from regime_pipeline.ports import StoredDecision, StoredLine
from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES, DRIVER_NAMES
from regime_pipeline.services.trading.execute_pending import execute_pending
from regime_pipeline.services.trading.open_account import open_account
from regime_pipeline.services.trading.run_pm_tick import TickSummary, run_pm_tick
from tests.safety_desk import ACCOUNT, NOON_S, STRATEGY, SafetyDesk

HOUR_S = 3600
CLOSE_S = NOON_S
"""Close of the first decided bar."""
LINK = "LINK/USDT"


@lru_cache
def the_universe() -> Universe:
    """The universe of the repository."""
    return load_universe(Path("config/universe.toml"))


class TickDesk(SafetyDesk):
    """A strategy of hourly bars whose first bar closes at noon; AAVE and LINK may be traded."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(url, folder)
        self._blank: dict[str, Any] = {}

    def set_up(self) -> None:
        """Open the account, name the instruments, reconcile, and give the regime and both positions a bar at noon."""
        open_account(self.trading)
        self.feed()
        for contract in ("AAVE", "LINK"):
            self.save_token(Timeframe.H1, self.calm_bars(Timeframe.H1, 400), f"token:{contract}:binance")
            self.rules(f"{contract}/USDT")
            self.position(contract)
        self.reconcile()
        self.regime()
        self.clock.advance(70)

    @property
    def universe(self) -> Universe:
        """Of the repository."""
        return the_universe()

    def rules(self, symbol: str, **changes: Any) -> None:
        """Say what the venue demands of orders in an instrument."""
        terms = {"tick": "0.01", "step": "0.001", "min_qty": "0.01", "min_cost": "5", **changes}
        self.execute(
            "insert into instrument_rules (venue, symbol, tick, step, min_qty, min_cost, maker_bps, taker_bps, is_active, read_at)"
            " values ('paper', %s, %s, %s, %s, %s, 10, 10, true, now())",
            symbol, terms["tick"], terms["step"], terms["min_qty"], terms["min_cost"],
        )  # fmt: skip

    def reconcile(self, status: str = "ok", age_s: int = 0) -> None:
        """Have compared orders and holdings with the venue."""
        for kind in ("orders", "full"):
            self.execute(
                "insert into reconciliation_runs (account, kind, status, began_at, ended_at)"
                " values (%s, %s, %s, to_timestamp(%s), to_timestamp(%s))",
                ACCOUNT, kind, status, self.now_s - age_s, self.now_s - age_s,
            )  # fmt: skip

    def regime(self, close_s: int = CLOSE_S, *, delta: float = 0.2, state: str = "S3") -> None:
        """Give every driver a state and deltas on all regime timeframes, as of a close."""
        keys = [(driver, timeframe) for driver in DRIVER_NAMES for timeframe in CHANNEL_TIMEFRAMES]
        opens_s = [timeframe.floor(close_s) - timeframe.seconds for _, timeframe in keys]
        self._insert([a_record(f"regime:{key[0]}", key[1], ts_s, state=state) for key, ts_s in zip(keys, opens_s, strict=True)])
        self.execute(
            "insert into regime_deltas (driver, timeframe, ts, state, buy, rebuy, trim, emergency_exit, reclaimed_ema333,"
            " exit_position, delta_a_raw, delta_e_raw, immature, engine_version)"
            " select driver, timeframe, to_timestamp(ts_s), %s, false, false, false, false, false, false, delta, 0.0, false, 'm2-v5'"
            " from unnest(%s::text[], %s::text[], %s::float8[], %s::float8[]) as new (driver, timeframe, ts_s, delta)"
            " on conflict do nothing",
            state, [key[0] for key in keys], [key[1].value for key in keys], opens_s,
            [-delta if key[0].endswith(".d") else delta for key in keys],
        )  # fmt: skip

    def record(self, series: str, timeframe: Timeframe, ts_s: int, **values: Any) -> None:
        """Write an engine record."""
        self._insert([a_record(series, timeframe, ts_s, **values)])

    def _insert(self, records: list[dict[str, Any]]) -> None:
        self.execute(
            "insert into uptrend_states select (jsonb_populate_recordset(null::uptrend_states, %s)).* on conflict do nothing",
            Jsonb([{**self._defaults(), **record} for record in records]),
        )

    def _defaults(self) -> dict[str, Any]:
        if not self._blank:
            columns = self.execute(
                "select column_name, data_type from information_schema.columns where table_name = 'uptrend_states' and is_nullable = 'NO'"
            )
            self._blank.update({name: False if kind == "boolean" else 0 for name, kind in columns})
        return self._blank

    def bar(self, contract: str, close_s: int = CLOSE_S, **values: Any) -> None:
        """Write the engine record of a token's bar that closes at an instant."""
        self.record(f"token:{contract}:binance", Timeframe.H1, close_s - HOUR_S, **values)

    def buy_signal(self, contract: str = "AAVE", close_s: int = CLOSE_S, price: float = 100.0) -> None:
        """Write a bar on which a flat position is bought: a retest in S2."""
        self.bar(contract, close_s, state="S2", rebuy=True, rebuy_s2_retest=True, price=price)

    def tick(self, close_s: int | None = None, **changes: Any) -> TickSummary:
        """Run a tick."""
        return run_pm_tick(self.trading, self.universe, Timeframe.H1, close_s, **changes)

    def settle(self) -> None:
        """Let the executor see what the venue has done."""
        self.clock.advance(3)
        execute_pending(self.trading)

    def to_next_bar(self, n: int = 1) -> int:
        """Go to 70 s after the next close, with a young reconciliation; returns the close."""
        close_s = (int(self.clock.now_s()) // HOUR_S + n) * HOUR_S
        self.go_to(close_s + 70)
        self.reconcile()
        return close_s

    def decision(self) -> StoredDecision:
        """The newest decision."""
        with self.stores.open() as work:
            (head, *_) = work.journal.list_decisions(1)
            found = work.journal.load_decision(head.decision_id)
        assert found is not None
        return found

    def line(self, contract: str = "AAVE") -> StoredLine:
        """The line of a token in the newest decision."""
        return next(line for line in self.decision().lines if line.symbol == f"{contract}/USDT")

    def count(self, table: str) -> int:
        """Number of rows of a table."""
        return int(self.execute(f"select count(*) from {table}")[0][0])


def a_record(series: str, timeframe: Timeframe, ts_s: int, **values: Any) -> dict[str, Any]:
    """Build an engine record as JSON values; what is not given is 0, false, or a calm price of 100."""
    price, spelt = float(values.get("price", 100.0)), datetime.fromtimestamp(ts_s, UTC).isoformat()
    known = {"series": series, "timeframe": timeframe.value, "ts": spelt, "state_since_ts": spelt, "computed_at": spelt}
    calm = {"atr": price / 50, "ema144": price * 1.05, "ema333": price * 0.95, "bars_seen": 2000, "latest_price": price, "price": price}
    return {**known, "engine_version": "m2-v5", "state": "S3", **calm, **values}


@pytest.fixture
def desk(database: str, tmp_path: Path) -> TickDesk:
    """Open a desk at 70 s past noon."""
    opened = TickDesk(database, tmp_path)
    opened.set_up()
    return opened


__all__ = ["ACCOUNT", "CLOSE_S", "HOUR_S", "LINK", "STRATEGY", "TickDesk", "desk", "the_universe"]
