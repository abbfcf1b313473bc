from datetime import UTC, datetime

import dagster as dg
import pytest

from jobs.regime_micro import regime_micro_schedule
from regime_pipeline.definitions import build_defs
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.policies import JOB_TAG
from regime_pipeline.orchestration.spine import plan_run


@pytest.mark.parametrize(
    ("timeframe", "tick", "bar", "day"),
    [
        (Timeframe.M1, datetime(2025, 1, 2, 0, 0, tzinfo=UTC), "2025-01-01T23:59:00+00:00", "2025-01-01"),
        (Timeframe.M1, datetime(2025, 1, 2, 0, 1, tzinfo=UTC), "2025-01-02T00:00:00+00:00", "2025-01-02"),
        (Timeframe.H1, datetime(2025, 1, 2, 0, 2, tzinfo=UTC), "2025-01-01T23:00:00+00:00", "2025-01-01"),
        (Timeframe.H1, datetime(2025, 1, 2, 1, 2, tzinfo=UTC), "2025-01-02T00:00:00+00:00", "2025-01-02"),
        (Timeframe.D1, datetime(2025, 1, 2, 0, 5, tzinfo=UTC), "2025-01-01T00:00:00+00:00", "2025-01-01"),
    ],
)
def test_a_tick_asks_once_for_the_bar_just_closed(timeframe: Timeframe, tick: datetime, bar: str, day: str) -> None:
    request = plan_run(timeframe, tick)
    assert request.run_key == f"{timeframe}:{bar}"
    assert request.tags["regime/bar_ts"] == bar
    assert request.partition_key == day


def test_a_minute_tells_of_its_checks_at_each_quarter_of_an_hour() -> None:
    for minute in range(60):
        request = plan_run(Timeframe.M1, datetime(2025, 1, 2, 1, minute, tzinfo=UTC))
        assert (request.asset_check_keys is None) == (minute % 15 == 0)
        assert request.asset_check_keys in (None, [])
    assert plan_run(Timeframe.H1, datetime(2025, 1, 2, 1, 2, tzinfo=UTC)).asset_check_keys is None


def test_the_minute_goes_before_the_hour_before_the_day_before_backfills() -> None:
    tick = datetime(2025, 1, 2, 1, 5, tzinfo=UTC)
    priorities = [int(plan_run(timeframe, tick).tags["dagster/priority"]) for timeframe in (Timeframe.M1, Timeframe.H1, Timeframe.D1)]
    assert priorities == sorted(priorities, reverse=True)
    assert min(priorities) > 0  # a run without the tag has 0


def test_no_tick_is_added_to_a_run_under_way() -> None:
    tick = datetime(2025, 1, 2, 0, 1, tzinfo=UTC)
    repository = build_defs().get_repository_def()
    with dg.instance_for_test() as instance:

        def evaluate() -> dg.RunRequest | dg.SkipReason:
            with dg.build_schedule_context(instance=instance, scheduled_execution_time=tick, repository_def=repository) as context:
                answer = regime_micro_schedule(context)
            assert isinstance(answer, dg.RunRequest | dg.SkipReason)
            return answer

        assert isinstance(evaluate(), dg.RunRequest)
        job = build_defs().resolve_job_def("regime_micro")
        backfill = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)  # by hand: without the tag
        assert isinstance(evaluate(), dg.RunRequest)
        live = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={JOB_TAG: "regime_micro"})
        assert isinstance(evaluate(), dg.SkipReason)
        instance.report_run_failed(live)
        assert isinstance(evaluate(), dg.RunRequest)
        instance.report_run_failed(backfill)
