"""The chain of kill levels holds when many evaluators write at once: nobody deadlocks, and rows are in the order of their hashes."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.risk.kill_switch import AUTOMATIC, Level, Trigger
from regime_pipeline.services.trading.kill_levels import raise_level
from tests.trading_desk import ACCOUNT, Desk

TRIGGERS = [trigger for trigger, level in AUTOMATIC.items() if level is Level.ENTRIES_OFF][:6]


def test_six_triggers_at_once_all_count_and_the_chain_holds(desk: Desk) -> None:
    barrier = Barrier(len(TRIGGERS))

    def evaluate(trigger: Trigger) -> bool:
        stores = PostgresStores(desk.url)
        try:
            with stores.open() as work:
                work.safety.load_switches(ACCOUNT)
                barrier.wait()
                return raise_level(work, desk.trading, trigger, "seen")
        finally:
            stores.close()

    with ThreadPoolExecutor(len(TRIGGERS)) as pool:
        written = list(pool.map(evaluate, TRIGGERS))
    assert written == [True] * len(TRIGGERS)
    with desk.stores.open() as work:
        assert {switch.source for switch in work.safety.load_switches(ACCOUNT)} == {trigger.value for trigger in TRIGGERS}
        assert work.safety.verify_chains() == []
