from datetime import timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest

from jobs.prune_history import prune_history
from regime_pipeline.clock import utc_now
from regime_pipeline.definitions import build_defs
from regime_pipeline.orchestration.pruning import PruneConfig, prune_runs


@dg.op
def make_something(context: dg.OpExecutionContext) -> None:
    context.log_event(dg.AssetMaterialization("something"))


def run_job(instance: dg.DagsterInstance, name: str) -> str:
    return dg.GraphDefinition(name=name, node_defs=[make_something]).to_job().execute_in_process(instance=instance).run_id


@pytest.fixture
def runs(instance: dg.DagsterInstance) -> dict[str, list[str]]:
    return {name: [run_job(instance, name) for _ in range(n)] for name, n in (("regime_micro", 7), ("regime_meso", 3))}


def test_nothing_young_is_deleted(instance: dg.DagsterInstance, runs: dict[str, list[str]]) -> None:
    assert prune_runs(instance, PruneConfig(), utc_now()).runs == 0
    assert instance.get_runs_count() == 10


def test_runs_go_after_their_job_s_days_with_their_events_and_the_asset_stays_known(
    instance: dg.DagsterInstance, runs: dict[str, list[str]]
) -> None:
    summary = prune_runs(instance, PruneConfig(batch=2), utc_now() + timedelta(days=3))
    assert (summary.runs, summary.by_job, summary.is_done) == (7, {"regime_micro": 7}, True)
    assert {run.run_id for run in instance.get_runs()} == set(runs["regime_meso"])
    assert instance.all_logs(runs["regime_micro"][0]) == []
    assert instance.all_logs(runs["regime_meso"][0]) != []
    assert prune_runs(instance, PruneConfig(), utc_now() + timedelta(days=61)).by_job == {"regime_meso": 3}
    assert instance.get_runs_count() == 0
    assert instance.get_latest_materialization_event(dg.AssetKey("something")) is not None


def test_a_run_under_way_is_never_deleted(instance: dg.DagsterInstance) -> None:
    instance.create_run_for_job(prune_history, status=dg.DagsterRunStatus.STARTED)
    assert prune_runs(instance, PruneConfig(), utc_now() + timedelta(days=1000)).runs == 0


def test_what_is_above_the_limit_waits_for_the_next_day(instance: dg.DagsterInstance, runs: dict[str, list[str]]) -> None:
    summary = prune_runs(instance, PruneConfig(limit=5), utc_now() + timedelta(days=3))
    assert (summary.runs, summary.is_done) == (5, False)
    assert {run.run_id for run in instance.get_runs(dg.RunsFilter(job_name="regime_micro"))} == set(
        runs["regime_micro"][5:]
    )  # oldest go first


def test_the_job_prunes_the_instance_it_runs_on_old_minutes_of_opinions_and_what_is_over(regime_env: str) -> None:
    months = "select relname from pg_class where relname ~ '^(changepoints|hmm_posteriors)_1m_[0-9]+$' order by relname"
    with psycopg.connect(regime_env) as conn:
        conn.execute("select ensure_opinion_months('2025-01-01Z', '2025-01-31Z'), ensure_opinion_months(now(), now())")
        assert len(conn.execute(months).fetchall()) == 4
        conn.execute(
            "insert into bar_gaps (series, timeframe, timestamp, source, reason, resolved_at)"
            " select 's', '1m', at, 'v', 'missing', at from unnest(array['2025-01-01Z', now()]) as at"
        )
    with dg.instance_for_test() as instance:
        run_job(instance, "regime_micro")
        job = build_defs().resolve_job_def("prune_history")
        result = job.execute_in_process(
            instance=instance, run_config={"ops": {"delete_old_runs": {"config": {"days_by_job": {"regime_micro": 0}}}}}
        )
        assert result.success
        (told,) = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT" and event.step_key == "delete_old_rows"]
        rows: Any = told.step_output_data.metadata["rows_deleted"].value
        assert {table: n for table, n in rows.items() if n} == {"bar_gaps": 1}
        assert [run.job_name for run in instance.get_runs()] == ["prune_history"]
    with psycopg.connect(regime_env) as conn:
        left = [name for (name,) in conn.execute(months).fetchall()]
    assert len(left) == 2
    assert not [name for name in left if name.endswith("202501")]
