"""On real bars: A and E in the journal are those of the stored channels, by the vector of inputs that was kept and by the tables."""

from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from regime_pipeline.adapters.brokers.paper import PaperBroker, PaperTerms
from regime_pipeline.adapters.brokers.paper_market import StoredMarket
from regime_pipeline.adapters.latch_file import LatchFile
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.adapters.venues.recorded import RecordedMarket
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings
from regime_pipeline.services.read_levers import levers_at
from regime_pipeline.services.run_step import run_timeframe
from regime_pipeline.services.trading.context import Trading, TradingTerms, VenueClock
from regime_pipeline.services.trading.load_tick import TickTerms
from regime_pipeline.services.trading.replay_tick import explain_levers, replay_tick
from regime_pipeline.services.trading.replay_trading import ReplayClock, replay_trading
from regime_pipeline.services.window import Window
from regime_pipeline.settings import load_settings
from tests.markets import small_universe

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

SHARED = load_settings().shared
if not (SHARED / "market").is_dir():
    pytest.skip(f"no recorded market at {SHARED}: set REGIME_SHARED", allow_module_level=True)

HOUR_S, DAY_S = 3600, 86_400
END_S = 1_748_736_000  # 2025-06-01T00:00Z
DAYS = 6
REGIME = (Timeframe.D1, Timeframe.H1)


def test_levers_of_the_journal_are_explained_from_what_is_stored(database: str, tmp_path: Path) -> None:
    universe, market, stores = small_universe(), RecordedMarket(SHARED / "market"), PostgresStores(database)
    for timeframe, days in ((Timeframe.D1, 1100), (Timeframe.H1, 60)):
        run_timeframe(stores, market, universe, timeframe, Window(END_S - days * DAY_S, END_S), END_S + DAY_S)
    clock = ReplayClock(END_S - DAYS * DAY_S - 2 * HOUR_S)
    with closing(PaperBroker(database, StoredMarket("USDT", "spot"), PaperTerms(), clock)) as broker:
        trading = Trading(
            stores=stores,
            broker=broker,
            terms=TradingTerms("paper-main", Mode.PAPER, "onchain_crypto", trading_enabled=True, holder="replay"),
            limits=RiskSettings(),
            protections=ProtectionSettings(),
            latch=LatchFile(tmp_path / "kill.latch"),
            clock=VenueClock(clock, 0),
        )
        terms = TickTerms(timeframes=REGIME)
        summary = replay_trading(trading, universe, clock, Timeframe.H1, END_S - DAYS * DAY_S, END_S, terms)
    assert summary.bars == DAYS * 24
    with psycopg.connect(database) as conn:
        rows = conn.execute(
            "select decision_id, extract(epoch from bar_close)::bigint, symbol, a_value, e_value from decisions"
            " join decision_lines using (decision_id) order by bar_close, symbol"
        ).fetchall()
    assert len(rows) == DAYS * 24 * len(universe.tokens)
    assert len({(row[3], row[4]) for row in rows}) > 10  # the regime moved
    with stores.open() as work:
        for decision_id, close_s, symbol, a_value, e_value in rows[::7]:
            explained = explain_levers(work, symbol, decision_id)
            assert explained.is_equal
            contract = symbol.partition("/")[0]
            from_tables = levers_at(work, universe, contract, Timeframe.H1, close_s, timeframes=REGIME)
            assert (from_tables.A_value, from_tables.E_value) == (a_value, e_value)
            assert from_tables == explained.found
            assert "no_micro: computed without the 1m channels" in explained.found.diagnostics.reasons
        assert all(replay_tick(work, decision_id).is_equal for decision_id in {row[0] for row in rows[::97]})
