"""Trading the past: the live tick and the paper broker over a generated market, twice the same, never ahead of its clock."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from regime_pipeline.adapters.brokers.paper import PaperBroker, PaperTerms
from regime_pipeline.adapters.brokers.paper_market import StoredMarket
from regime_pipeline.adapters.latch_file import LatchFile
from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.embedded import ServerAddress
from regime_pipeline.adapters.postgres.migrate import apply_roles, migrate
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings
from regime_pipeline.services.run_step import run_timeframe
from regime_pipeline.services.trading.context import Trading, TradingTerms, VenueClock
from regime_pipeline.services.trading.load_tick import TickTerms
from regime_pipeline.services.trading.replay_tick import replay_tick
from regime_pipeline.services.trading.replay_trading import ReplayClock, ReplaySummary, replay_trading
from regime_pipeline.services.window import Window
from tests.builders import T0
from tests.markets import generated, small_universe

HOUR_S = 3600
UNIVERSE = small_universe()
START_S, END_S = T0 + 400 * HOUR_S, T0 + 700 * HOUR_S
TERMS = TickTerms(timeframes=(Timeframe.H1,), allow_immature_entries=True)
TEN_S = timedelta(seconds=10)


@dataclass
class Past:
    """A database with a generated history, and an account that trades it."""

    url: str
    folder: Path

    def trade(self, start_s: int = START_S, end_s: int = END_S, **changes: Any) -> ReplaySummary:
        clock = ReplayClock(start_s - 2 * HOUR_S)
        stores, broker = PostgresStores(self.url), PaperBroker(self.url, StoredMarket("USDT", "spot"), PaperTerms(), clock)
        trading = Trading(
            stores=stores,
            broker=broker,
            terms=TradingTerms("paper-main", Mode.PAPER, "onchain_crypto", trading_enabled=True, holder="replay"),
            limits=RiskSettings(),
            protections=ProtectionSettings(),
            latch=LatchFile(self.folder / "kill.latch"),
            clock=VenueClock(clock, 0),
        )
        with closing(stores), closing(broker):
            return replay_trading(trading, UNIVERSE, clock, Timeframe.H1, start_s, end_s, TERMS, **changes)

    def select(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as conn:
            return conn.execute(query).fetchall()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def history(postgres_server: ServerAddress) -> Iterator[str]:
    """Name of a database with 700 generated hours and all that the engine says of them."""
    name = "replayed_history"
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as admin:
        admin.execute(f"create database {name}")
    with open_connection(postgres_server.url(name)) as conn:
        migrate(conn)
        apply_roles(conn)
    stores = PostgresStores(postgres_server.url(name))
    run_timeframe(stores, generated(UNIVERSE), UNIVERSE, Timeframe.H1, Window(T0, END_S), END_S + 70)
    stores.close()
    yield name
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as admin:
        admin.execute(f"drop database {name} with (force)")


@pytest.fixture
def pasts(history: str, postgres_server: ServerAddress, tmp_path: Path) -> Iterator[list[Past]]:
    """Two copies of that past."""
    names = ["replayed_a", "replayed_b"]
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as admin:
        for name in names:
            admin.execute(f"create database {name} template {history}")
        yield [Past(postgres_server.url(name), tmp_path / name) for name in names]
        for name in names:
            admin.execute(f"drop database {name} with (force)")


def test_the_past_is_traded_the_same_twice(pasts: list[Past]) -> None:
    first, second = pasts
    said: list[tuple[int, int]] = []
    summary = first.trade(progress=lambda done, there: said.append((done, there)))
    n_bars = (END_S - START_S) // HOUR_S
    assert (summary.bars, summary.skipped, said[-1]) == (n_bars, 0, (n_bars, n_bars))
    assert summary.orders >= 3, summary
    assert summary.stops >= 1, summary
    # the second is interrupted once: a replay goes on where it ended
    middle_s = START_S + 130 * HOUR_S
    second.trade(end_s=middle_s)
    assert second.trade(start_s=middle_s).checksums == summary.checksums

    # every bar has one decision, one line per token and one point of the curve
    assert first.select("select count(*), count(distinct bar_close) from decisions") == [(n_bars, n_bars)]
    assert first.select("select count(*) from decision_lines") == [(n_bars * len(UNIVERSE.tokens),)]
    assert first.select("select count(*) from equity_points where extract(epoch from at)::bigint % 3600 = 0") == [(n_bars,)]

    # nothing is known or done before its time
    assert first.select("select min(decided_at - bar_close), max(decided_at - bar_close) from decisions") == [(TEN_S, TEN_S)]
    assert first.select("select min(f.venue_ts - i.bar_close) >= '0' from fills as f join order_intents as i using (client_order_id)") == [
        (True,)
    ]
    newest = "(l.inputs->'facts'->>'ts')::bigint + 3600 <= extract(epoch from bar_close)"
    assert first.select(f"select bool_and({newest}) from decision_lines as l join decisions using (decision_id)") == [(True,)]

    # the money adds up: in both books, and batch by batch
    wallets = "select asset, sum(balance) from ledger_balances where ledger_account = 'WALLET' group by 1 having sum(balance) <> 0"
    assert dict(first.select(wallets)) == dict(first.select("select asset, total from paper.balances where total <> 0"))
    assert first.select("select from ledger_entries group by batch_id, asset having sum(amount) <> 0") == []

    # and every decision can be computed again
    with PostgresStores(first.url).open() as work:
        ids = [row[0] for row in first.select("select distinct decision_id from decision_lines where outcome = 'act' limit 20")]
        assert ids
        assert all(replay_tick(work, decision_id).is_equal for decision_id in ids)


def test_decided_bars_stay_as_they_are(pasts: list[Past]) -> None:
    past = pasts[0]
    end_s = START_S + 20 * HOUR_S
    first = past.trade(end_s=end_s)
    again = past.trade(end_s=end_s)
    assert (first.bars, again.bars, again.skipped) == (20, 0, 20)
    assert again.checksums == first.checksums


def test_clock_goes_forward_only() -> None:
    clock = ReplayClock(100)
    clock.advance(5)
    assert clock().timestamp() == 105
    with pytest.raises(BadInputError, match="only goes forward"):
        clock.go_to(104)
