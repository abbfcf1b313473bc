from datetime import UTC, datetime, timedelta

import dagster as dg
import psycopg

from jobs.prune_history import prune_history
from regime_pipeline.clock import utc_now
from regime_pipeline.definitions import build_defs
from regime_pipeline.market.timeframe import Timeframe
from sensors.first_history import FIRST_TAG, REST, find_failures, first_history, plan_attempt, plan_first_history
from tests.builders import T0

DAY = 86_400


def test_the_newest_1100_bars_are_asked_for_in_whole_days() -> None:
    # 1,100 hours are 45 days and 20 hours before 2025-01-01T12:00, the 16th of November
    request = plan_first_history(Timeframe.H1, (T0 - 400 * DAY, T0 + DAY // 2))
    assert request is not None
    assert request.job_name == "regime_meso"
    assert request.run_key == "first_history:1h:2025-01-01"
    assert request.tags == {
        "regime/first_history": "1h:2025-01-01",
        "dagster/asset_partition_range_start": "2024-11-16",
        "dagster/asset_partition_range_end": "2025-01-01",
    }


def test_a_source_without_bars_is_asked_for_none_and_a_short_one_for_all() -> None:
    assert plan_first_history(Timeframe.D1, None) is None
    request = plan_first_history(Timeframe.D1, (T0, T0 + 3 * DAY))
    assert request is not None
    assert request.tags["dagster/asset_partition_range_start"] == "2025-01-01"
    assert request.tags["dagster/asset_partition_range_end"] == "2025-01-03"


def test_a_failed_attempt_rests_ten_minutes_and_is_repeated_under_a_key_of_its_own() -> None:
    now = datetime(2025, 1, 1, 12, tzinfo=UTC)
    request = plan_first_history(Timeframe.H1, (T0 - 400 * DAY, T0 + DAY // 2))
    assert request is not None
    assert plan_attempt(request, [], now) == request
    assert plan_attempt(request, [now - REST, now - timedelta(seconds=599)], now) is None
    again = plan_attempt(request, [now - 3 * REST, now - REST], now)
    assert again is not None
    assert again.run_key == "first_history:1h:2025-01-01:2"
    assert (again.tags, again.job_name) == (request.tags, request.job_name)


def test_only_runs_of_this_span_that_failed_or_were_stopped_count_as_failures() -> None:
    span, before = "1h:2025-01-01", utc_now()
    with dg.instance_for_test() as instance:
        for status, tag in (("STARTED", span), ("SUCCESS", span), ("FAILURE", "1d:2025-01-01"), ("FAILURE", span), ("CANCELED", span)):
            instance.create_run_for_job(prune_history, status=dg.DagsterRunStatus[status], tags={FIRST_TAG: tag})
        failed_at = find_failures(instance, span)
    assert len(failed_at) == 2
    assert all(timedelta(seconds=-1) < at - before < timedelta(minutes=1) for at in failed_at)


def ask() -> list[str | None]:
    definitions = build_defs()
    with (
        dg.instance_for_test() as instance,
        dg.build_sensor_context(
            instance=instance, resources=definitions.resources, repository_def=definitions.get_repository_def()
        ) as context,
    ):
        answer = first_history(context)
    assert isinstance(answer, dg.SensorResult)
    return [request.job_name for request in answer.run_requests or ()]


def test_only_timeframes_without_a_state_are_asked_for_days_first(regime_env: str) -> None:
    assert ask() == ["regime_macro", "regime_meso", "regime_micro"]
    with psycopg.connect(regime_env) as conn:
        columns = conn.execute(
            "select column_name, data_type from information_schema.columns where table_name = 'uptrend_states'"
            " and is_nullable = 'NO' and column_default is null"
        ).fetchall()
        values = {"boolean": False, "integer": 1, "double precision": 1.0, "timestamp with time zone": "2025-01-01", "text": "S0"}
        row = {name: values[kind] for name, kind in columns} | {"series": "regime:BTC", "timeframe": "1h"}
        conn.execute(f"insert into uptrend_states ({', '.join(row)}) values ({', '.join(['%s'] * len(row))})", list(row.values()))
    assert ask() == ["regime_macro", "regime_micro"]
