"""A desk for tests of the order path: a migrated database, a venue in memory, a clock that stands still, and short words for both."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.ports import Broker, NewIntent, OrderRow, OrderType, WrittenIntent
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings
from regime_pipeline.risk.purpose import Leg, Purpose, Side
from regime_pipeline.services.trading.context import Trading, TradingTerms, VenueClock
from regime_pipeline.services.trading.execute_pending import ExecutionSummary, execute_pending
from regime_pipeline.services.trading.write_intents import write_intents
from regime_pipeline.simulation.clock import VirtualClock
from tests.builders import T0
from tests.fakes_trading import FakeBroker, FakeLatch

ACCOUNT, STRATEGY, SYMBOL = "paper-main", "onchain_crypto-1h", "AAVE/USDT"
START_S = T0 + 12 * 3600 + 10  # ten seconds after the close of a 1h bar


class Crash(BaseException):
    """What a killed process does not live to see; no handler of the product catches it."""


class Desk:
    """One executor at one venue. A second one on the same database: `desk.another()`."""

    def __init__(self, url: str, broker: Broker | None = None, clock: VirtualClock | None = None, **changes: Any) -> None:
        self.url = url
        self.stores = PostgresStores(url)
        self.clock = clock or VirtualClock(START_S, 0.0)
        self.latch = FakeLatch()
        self.crash_at: str | None = None
        self.passed: list[str] = []
        self.broker = broker or FakeBroker(self.clock)
        fields = {
            "stores": self.stores,
            "broker": self.broker,
            "terms": TradingTerms(ACCOUNT, Mode.PAPER, "onchain_crypto", trading_enabled=True, holder="desk"),
            "limits": RiskSettings(),
            "protections": ProtectionSettings(),
            "latch": self.latch,
            "clock": VenueClock(self.clock.now, 0),
            "monotonic": self.clock.now_s,
            "sleep": self.clock.advance,
            "at": self._pass,
        }
        self.trading = Trading(**{**fields, **changes})

    @property
    def fake(self) -> FakeBroker:
        """The venue in memory."""
        assert isinstance(self.broker, FakeBroker)
        return self.broker

    @property
    def now_ms(self) -> int:
        """Time."""
        return round(self.clock.now_s() * 1000)

    def another(self) -> "Desk":
        """Build an executor with its own connections at the same venue, as one that starts after a crash does."""
        return Desk(self.url, self.broker, self.clock, terms=replace(self.trading.terms, holder="another"))

    def _pass(self, point: str) -> None:
        self.passed.append(point)
        if point == self.crash_at:
            self.crash_at = None
            raise Crash(point)

    def an_intent(self, leg: Leg = Leg.ENTRY, **changes: Any) -> NewIntent:
        """Build a valid intent: one unit at 100, from the bar that has just closed."""
        bar_close_s = changes.pop("bar_close_s", T0 + 12 * 3600)
        key = LogicalKey(ACCOUNT, changes.pop("strategy", STRATEGY), changes.pop("symbol", SYMBOL), bar_close_s, leg, changes.pop("seq", 0))
        fields: dict[str, Any] = {
            "side": Side.BUY if leg.purpose is Purpose.ENTRY else Side.SELL,
            "type": OrderType.LIMIT,
            "qty": Decimal(1),
            "mode": Mode.PAPER,
            "decide_by_ms": self.now_ms + 240_000,
            "limit_price": Decimal(100),
            "decision_mid": Decimal(100),
        }
        return NewIntent(key, **{**fields, **changes})

    def intend(self, leg: Leg = Leg.ENTRY, **changes: Any) -> str:
        """Write an intent; its client order id."""
        return self.write(self.an_intent(leg, **changes))[0].intent.client_order_id

    def write(self, *intents: NewIntent) -> list[WrittenIntent]:
        """Write intents in one transaction."""
        with self.stores.open() as work:
            return write_intents(work, self.trading, intents)

    def execute(self) -> ExecutionSummary:
        """Run one cycle."""
        return execute_pending(self.trading)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    def crash(self, point: str) -> None:
        """Run a cycle that dies at a point, and let its lease end."""
        self.crash_at = point
        with pytest.raises(Crash):
            self.execute()
        self.end_leases()

    def end_leases(self) -> None:
        """Let every lease end, as 16 s of the database's clock would."""
        with psycopg.connect(self.url) as conn:
            conn.execute("update leases set until = clock_timestamp() - interval '2 s' where name like 'dispatch:%'")

    def order(self, client_order_id: str) -> OrderRow:
        """Load an order."""
        with self.stores.open() as work:
            return work.orders.load_orders([client_order_id])[client_order_id]

    def state(self, client_order_id: str) -> OrderState:
        """Where an order is."""
        return self.order(client_order_id).state

    def path(self, client_order_id: str) -> list[str]:
        """States an order went through, from INTENT on."""
        with self.stores.open() as work:
            return [OrderState.INTENT, *(step.new for step in work.orders.load_transitions(client_order_id))]

    def incidents(self) -> list[str]:
        """Kinds of the open incidents, oldest first."""
        with self.stores.open() as work:
            return [incident.kind for incident in reversed(work.recon.load_incidents())]

    def select(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Ask the database."""
        with psycopg.connect(self.url) as conn:
            return conn.execute(query, parameters).fetchall()  # type: ignore[arg-type]


@pytest.fixture
def desk(database: str) -> Desk:
    """Open a desk."""
    return Desk(database)
