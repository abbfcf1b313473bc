import dagster as dg

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.checks import judge_freshness
from tests.builders import T0

WANTED = {"a": T0, "b": T0}


def test_two_bars_behind_is_fresh_enough_and_three_is_late() -> None:
    assert judge_freshness(WANTED, {"a": T0 - 120, "b": T0 + 60}, Timeframe.M1, live=True).faults == []
    (fault,) = judge_freshness(WANTED, {"a": T0 - 180, "b": T0}, Timeframe.M1, live=True).faults
    assert fault == {"series": "a", "newest": "2024-12-31T23:57:00+00:00", "expected": "2025-01-01T00:00:00+00:00"}


def test_a_live_run_stops_only_when_nothing_came_at_all() -> None:
    one = judge_freshness(WANTED, {"b": T0}, Timeframe.M1, live=True)
    assert [fault["series"] for fault in one.faults] == ["a"]
    assert one.severity is dg.AssetCheckSeverity.WARN
    assert judge_freshness(WANTED, {}, Timeframe.M1, live=True).severity is dg.AssetCheckSeverity.ERROR


def test_a_backfill_is_never_stopped_for_its_age() -> None:
    assert judge_freshness(WANTED, {}, Timeframe.M1, live=False).severity is dg.AssetCheckSeverity.WARN


def test_nothing_expected_is_not_late() -> None:
    assert judge_freshness({}, {}, Timeframe.D1, live=False).faults == []
