"""Marked work is split by size, and a long replay of one series keeps nobody else waiting."""

import pytest

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.errors import DatabaseError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Stage
from regime_pipeline.services.batches import BATCH_BARS, plan_batches

NOW_S = 1_735_689_600


def _mark(stores: PostgresStores, bars_ago: dict[str, int]) -> None:
    with stores.open() as work:
        work.marks.add(Stage.TREND, Timeframe.M1, {series: NOW_S - 60 * n for series, n in bars_ago.items()})


def _mark_briefly(stores: PostgresStores, series: str) -> None:
    with stores.open() as live:
        live.conn.execute("set local lock_timeout = '200ms'")
        live.marks.add(Stage.TREND, Timeframe.M1, {series: NOW_S})


def test_a_live_minute_is_one_transaction_and_a_long_replay_one_of_its_own(database: str) -> None:
    stores = PostgresStores(database)
    _mark(stores, {"regime:ALT": 2, "regime:BTC": 2, "regime:big": BATCH_BARS, "regime:mid": 2})
    assert plan_batches(stores, Stage.TREND, Timeframe.M1, NOW_S) == [["regime:ALT", "regime:BTC"], ["regime:big"], ["regime:mid"]]
    assert plan_batches(stores, Stage.DELTA, Timeframe.M1, NOW_S) == []


def test_planning_takes_and_locks_nothing(database: str) -> None:
    stores = PostgresStores(database)
    _mark(stores, {"regime:BTC": 2})
    with stores.open() as other:
        assert other.marks.take(Stage.TREND, Timeframe.M1) == {"regime:BTC": NOW_S - 120}
        assert plan_batches(stores, Stage.TREND, Timeframe.M1, NOW_S) == [["regime:BTC"]]
    assert plan_batches(stores, Stage.TREND, Timeframe.M1, NOW_S) == []


def test_a_series_under_replay_holds_back_its_own_marks_only(database: str) -> None:
    stores = PostgresStores(database)
    _mark(stores, {"regime:BTC": BATCH_BARS, "regime:ALT": 2})
    with stores.open() as replay:
        replay.marks.take(Stage.TREND, Timeframe.M1, ["regime:BTC"])
        with stores.open() as live:
            live.conn.execute("set local lock_timeout = '200ms'")
            live.marks.add(Stage.TREND, Timeframe.M1, {"regime:ALT": NOW_S})
            assert set(live.marks.take(Stage.TREND, Timeframe.M1, ["regime:ALT"])) == {"regime:ALT"}
        with pytest.raises(DatabaseError, match="lock timeout"):
            _mark_briefly(stores, "regime:BTC")
