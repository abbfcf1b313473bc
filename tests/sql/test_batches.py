"""Marked work is split by size, and a long replay of one series keeps nobody else waiting."""

import pytest

from regime_pipeline.adapters.postgres.work import PATIENCE_S, PostgresStores
from regime_pipeline.errors import DatabaseError, RegimeError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Stage
from regime_pipeline.services.batches import BATCH_BARS, RECENT_BARS, find_recent, plan_batches
from regime_pipeline.services.window import Window

NOW_S = 1_735_689_600
RECENT_S = NOW_S - 60 * RECENT_BARS


def _mark(stores: PostgresStores, bars_ago: dict[str, int]) -> None:
    with stores.open() as work:
        work.marks.add(Stage.TREND, Timeframe.M1, {series: NOW_S - 60 * n for series, n in bars_ago.items()})


def _take_patiently(stores: PostgresStores) -> None:
    with stores.open() as patient:
        patient.conn.execute("set local lock_timeout = '200ms'")
        patient.marks.take(Stage.TREND, Timeframe.M1)


def _die_after_taking(stores: PostgresStores) -> None:
    with stores.open() as replay:
        assert replay.marks.take(Stage.TREND, Timeframe.M1)
        raise RegimeError("the run dies")


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


def test_a_series_under_replay_is_marked_without_waiting_and_left_to_a_later_minute(database: str) -> None:
    stores = PostgresStores(database)
    _mark(stores, {"regime:BTC": 5, "regime:ALT": 2})
    with stores.open() as replay:
        assert set(replay.marks.take(Stage.TREND, Timeframe.M1, ["regime:BTC"])) == {"regime:BTC"}
        with stores.open() as live:
            live.conn.execute("set local lock_timeout = '200ms'")
            live.marks.add(Stage.TREND, Timeframe.M1, {"regime:BTC": NOW_S, "regime:ALT": NOW_S})
            assert live.marks.take(Stage.TREND, Timeframe.M1, recent_s=RECENT_S) == {"regime:ALT": NOW_S - 120}
        with pytest.raises(DatabaseError, match="lock timeout"):
            _take_patiently(stores)
    with stores.open() as later:
        assert later.marks.take(Stage.TREND, Timeframe.M1, recent_s=RECENT_S) == {"regime:BTC": NOW_S}
        assert later.marks.load(Stage.TREND, Timeframe.M1) == {}


def test_a_replay_that_dies_leaves_its_marks(database: str) -> None:
    stores = PostgresStores(database)
    _mark(stores, {"regime:BTC": 5})
    with pytest.raises(RegimeError, match="dies"):
        _die_after_taking(stores)
    with stores.open() as next_one:
        assert next_one.marks.take(Stage.TREND, Timeframe.M1, recent_s=RECENT_S) == {"regime:BTC": NOW_S - 300}


def test_a_live_minute_goes_on_while_a_long_replay_is_left_to_its_backfill(database: str) -> None:
    stores = PostgresStores(database)
    _mark(stores, {"regime:BTC": RECENT_BARS + 1})
    assert plan_batches(stores, Stage.TREND, Timeframe.M1, NOW_S, recent_s=RECENT_S) == []
    _mark(stores, {"regime:BTC": 1, "regime:ALT": 1})
    assert plan_batches(stores, Stage.TREND, Timeframe.M1, NOW_S, recent_s=RECENT_S) == [["regime:ALT", "regime:BTC"]]
    with stores.open() as live:
        assert live.marks.take(Stage.TREND, Timeframe.M1, recent_s=RECENT_S) == {"regime:ALT": NOW_S - 60, "regime:BTC": NOW_S - 60}
    with stores.open() as work:
        assert work.marks.load(Stage.TREND, Timeframe.M1) == {"regime:BTC": NOW_S - 60 * (RECENT_BARS + 1)}
        work.conn.execute("update derivation_marks set marked_at = marked_at - %s * interval '1 second'", (PATIENCE_S,))
    with stores.open() as backfill:  # it still writes bars, which it will derive from when it has them all
        backfill.marks.add(Stage.DRIVER, Timeframe.M1, {"regime:BTC": NOW_S - 60 * RECENT_BARS * 20})
    with stores.open() as live:
        assert live.marks.take(Stage.TREND, Timeframe.M1, recent_s=RECENT_S) == {}
    with stores.open() as backfill:
        backfill.marks.take(Stage.DRIVER, Timeframe.M1)
    with stores.open() as live:  # nobody seems to be at it
        assert set(live.marks.take(Stage.TREND, Timeframe.M1, recent_s=RECENT_S)) == {"regime:BTC"}


def test_only_a_live_minute_does_not_wait() -> None:
    live, history = Window(NOW_S, NOW_S, live=True), Window(NOW_S, NOW_S)
    assert [each for each in Timeframe if find_recent(each, live) is not None] == [Timeframe.M1, Timeframe.M5, Timeframe.M15]
    assert {find_recent(each, history) for each in Timeframe} == {None}
