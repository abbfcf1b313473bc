"""The order path as hypothesis sees it: decisions, deaths, lies, trades and kills in any order; what must hold is checked after each step.

A failing example is kept by hypothesis and tried first the next time. The oracle (tests/oracle.py) shares no code with the product.
"""

import os
import random
from decimal import Decimal
from itertools import count
from typing import ClassVar

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.risk.kill_switch import Level
from tests.oracle import BAD
from tests.oracle_broker import SYMBOLS
from tests.sizes import MACHINE_EXAMPLES, MACHINE_STEPS
from tests.world import KILL_POINTS, World

NUMBERS = count()
fractions = st.integers(1, 10).map(lambda tenths: Decimal(tenths) / 10)
deaths = st.sampled_from((None, *KILL_POINTS))


class OrderMachine(RuleBasedStateMachine):
    """One account, from its opening to the end of its orders."""

    stores: ClassVar[PostgresStores]
    conn: ClassVar[psycopg.Connection]

    @initialize()
    def open(self) -> None:
        self.world = World(self.stores, self.conn, f"m{next(NUMBERS)}")

    @rule(symbol=st.sampled_from(SYMBOLS), frac=fractions, crash_at=st.sampled_from((None, None, "before_intent_commit")))
    def decide(self, symbol: str, frac: Decimal, crash_at: str | None) -> None:
        self.world.decide(symbol, frac, crash_at)

    @rule()
    def repeat_decision(self) -> None:
        self.world.repeat_decision()

    @rule(crash_at=deaths)
    def run_executor(self, crash_at: str | None) -> None:
        self.world.execute(crash_at)

    @rule(crash_at=deaths)
    def run_two_executors(self, crash_at: str | None) -> None:
        self.world.race(crash_at)

    @rule(
        answer=st.sampled_from(("ok", *BAD)),
        taken=st.sampled_from(("now", "never")),
        hidden_ms=st.sampled_from((0, 4000)),
        frac=st.sampled_from((Decimal(0), Decimal("0.3"), Decimal(1))),
    )
    def script_create(self, answer: str, taken: str, hidden_ms: int, frac: Decimal) -> None:
        self.world.script(answer, taken, hidden_ms=hidden_ms, fill_frac=frac)

    @rule(late_ms=st.sampled_from((500, 4500, 7000)))
    def script_late(self, late_ms: int) -> None:
        self.world.script("timeout", "late", late_ms=late_ms)

    @rule(pattern=st.lists(st.booleans(), min_size=1, max_size=6))
    def script_reads(self, pattern: list[bool]) -> None:
        self.world.fail_reads(pattern)

    @rule(frac=fractions)
    def venue_fill(self, frac: Decimal) -> None:
        self.world.fill(frac)

    # no precondition: what has traded depends on threads, and hypothesis wants the same draws of the same choices
    @rule(seed=st.integers(0, 2**16))
    def repeat_and_reorder_fills(self, seed: int) -> None:
        self.world.stream(random.Random(seed))

    @rule()
    def late_fill(self) -> None:
        self.world.late_fill()

    @rule(seconds=st.sampled_from((0.2, 1.0, 5.0, 31.0, 95.0)))
    def advance_clock(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(milliseconds=st.sampled_from((-400, 0, 400)))
    def skew_clock(self, milliseconds: int) -> None:
        self.world.skew(milliseconds)

    @rule(level=st.sampled_from((Level.ENTRIES_OFF, Level.REDUCE_ONLY, Level.HARD_STOP)))
    def kill(self, level: Level) -> None:
        self.world.kill(level)

    @rule()
    def release(self) -> None:
        self.world.release()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check_always()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()
            self.world.judge()


@pytest.mark.timeout(60 + MACHINE_EXAMPLES)
def test_whatever_happens_nothing_is_doubled_or_lost(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"alter database {conn.info.dbname} set synchronous_commit = off")
        OrderMachine.stores, OrderMachine.conn = PostgresStores(database), conn
        run_state_machine_as_test(
            OrderMachine,
            settings=settings(
                max_examples=MACHINE_EXAMPLES,
                stateful_step_count=MACHINE_STEPS,
                deadline=None,
                derandomize="CI" in os.environ,
                suppress_health_check=list(HealthCheck),
            ),
        )
        OrderMachine.stores.close()
