"""The jobs of the second opinions on a real database: apart from the spine, safe to repeat, silent when switched off."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial

import dagster as dg
import numpy as np
import psycopg
import pytest

from jobs.second_opinions import opinions_1m_schedule, opinions_refit_schedule
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.definitions import build_defs
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.opinion_checks import CHECK_KEYS
from regime_pipeline.orchestration.opinion_plots import MAX_BYTES, draw_fit, plot_fit
from regime_pipeline.orchestration.opinions import BAR_TAG, GROUPS, OPINION_PACES, PREFIX, plan_run
from regime_pipeline.orchestration.policies import PACES
from regime_pipeline.regime.opinions import terms
from regime_pipeline.services import fit_hmm
from sensors.missing_models import plan_first_models
from tests.opinion_markets import END_S, UNIVERSE, fill_market, fit_all, plain_fit

BAR = "2025-01-01T02:00:00+00:00"


@pytest.fixture
def market(regime_env: str) -> str:
    """Bars up to three hours after the models' training, which is in the past: everything is a backfill."""
    stores = PostgresStores(regime_env)
    fill_market(stores, 3 * 3600)
    fit_all(stores)
    return regime_env


def run(instance: dg.DagsterInstance, name: str, bar: str = BAR) -> dg.ExecuteInProcessResult:
    job = build_defs().resolve_job_def(name)
    return job.execute_in_process(instance=instance, partition_key=bar[:10], tags={BAR_TAG: bar}, raise_on_error=False)


def made(instance: dg.DagsterInstance, run_id: str) -> dict[str, int]:
    """Rows written by asset."""
    events = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    found = {}
    for event in events:
        materialization = event.dagster_event.step_materialization_data.materialization
        rows = materialization.metadata.get("rows_written")
        found[materialization.asset_key.to_user_string()] = -1 if rows is None else int(rows.value)
    return found


def test_each_timeframe_writes_its_rows_once(market: str, instance: dg.DagsterInstance) -> None:
    first = run(instance, "opinions_1h")
    assert first.success
    assert made(instance, first.run_id) == {
        f"{PREFIX}/{group}/{name}": rows
        for group, series in GROUPS.items()
        for name, rows in {
            "hmm_posteriors_1h": 3 * len(series),
            "changepoints_1h": 3 * len(series),
            "volatility_regimes_1h": 3 * len(series),
            "regime_transitions": -1,
        }.items()
    }
    pictures = [
        value.value
        for event in instance.all_logs(first.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        for name, value in event.dagster_event.step_materialization_data.materialization.metadata.items()
        if name.startswith("plot_")
    ]
    assert len(pictures) == 2
    for picture in pictures:
        assert picture.startswith("![")
        assert len(picture) < 4 / 3 * 150_000
    again = run(instance, "opinions_1h")
    assert set(made(instance, again.run_id).values()) == {0, -1}
    checks = instance.all_logs(first.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    assert len(checks) == len(CHECK_KEYS)
    verdicts = {(each.check_name, each.passed) for each in (event.dagster_event.asset_check_evaluation_data for event in checks)}
    assert ("posterior_valid", True) in verdicts
    assert ("freshness", False) in verdicts  # the market ended long ago


def test_a_refit_draws_what_the_model_says_of_its_training(
    regime_env: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = PostgresStores(regime_env)
    fill_market(stores)
    monkeypatch.setattr(fit_hmm, "fit_models", partial(fit_hmm.fit_models, fit=plain_fit))
    done = run(instance, "opinions_refit")
    assert done.success
    pictures = {
        (event.dagster_event.step_materialization_data.materialization.asset_key.path[-1], name): value.value
        for event in instance.all_logs(done.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        for name, value in event.dagster_event.step_materialization_data.materialization.metadata.items()
        if name.startswith("plot_")
    }
    assert set(pictures) == {(f"hmm_models_{each}", f"plot_{name}") for each in ("1m", "15m", "1h") for name in ("BTC", "ETH")}
    for picture in pictures.values():
        assert picture.startswith("![")
        assert 5_000 < len(picture) < 4 / 3 * MAX_BYTES
    assert plot_fit(stores, UNIVERSE, "BTC", Timeframe.H1, END_S - 86_400).startswith("no model of BTC 1h")


def test_a_dense_picture_of_a_fit_fits_the_event_log() -> None:
    rng, n = np.random.default_rng(1), 12_000
    p = rng.dirichlet([1, 1, 1], n)
    labels = np.array(["bearish", "ranging", "bullish", "unknown"])[rng.integers(0, 4, n)]
    png = draw_fit("BTC 1m", END_S + 60 * np.arange(n), 100 * np.exp(np.cumsum(rng.normal(0, 0.02, n))), labels, p)
    assert png.startswith(b"\x89PNG")
    assert 10_000 < len(png) < MAX_BYTES


def test_the_minute_ends_with_a_snapshot_of_every_series(market: str, instance: dg.DagsterInstance) -> None:
    done = run(instance, "opinions_1m", "2025-01-01T00:30:00+00:00")
    assert done.success
    assert made(instance, done.run_id)[f"{PREFIX}/majors/regime_snapshots"] == 4 * 31
    with psycopg.connect(market) as conn:
        newest = conn.execute("select count(*), extract(epoch from max(snapshot_ts))::bigint from regime_snapshots").fetchone()
    assert newest == (6 * 31, END_S + 31 * 60)


def test_switched_off_nothing_is_asked_for(market: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    tick = datetime(2025, 1, 2, 0, 10, tzinfo=UTC)
    with dg.instance_for_test() as kept:
        monkeypatch.setenv("REGIME_OPINIONS_ENABLED", "true")
        with dg.build_schedule_context(instance=kept, scheduled_execution_time=tick) as context:
            assert isinstance(opinions_1m_schedule(context), dg.RunRequest)
            assert isinstance(opinions_refit_schedule(context), dg.RunRequest)
        monkeypatch.setenv("REGIME_OPINIONS_ENABLED", "false")
        with dg.build_schedule_context(instance=kept, scheduled_execution_time=tick) as context:
            assert isinstance(opinions_1m_schedule(context), dg.SkipReason)
            assert isinstance(opinions_refit_schedule(context), dg.SkipReason)
    assert not run(instance, "opinions_1m").success


@pytest.mark.parametrize(
    ("timeframe", "tick", "bar"),
    [
        (Timeframe.M1, datetime(2025, 1, 2, 0, 0, tzinfo=UTC), "2025-01-01T23:59:00+00:00"),
        (Timeframe.M15, datetime(2025, 1, 2, 0, 2, tzinfo=UTC), "2025-01-01T23:45:00+00:00"),
        (Timeframe.M15, datetime(2025, 1, 2, 0, 17, tzinfo=UTC), "2025-01-02T00:00:00+00:00"),
        (Timeframe.H1, datetime(2025, 1, 2, 1, 4, tzinfo=UTC), "2025-01-02T00:00:00+00:00"),
    ],
)
def test_a_tick_asks_for_the_slot_just_closed_behind_the_spine(timeframe: Timeframe, tick: datetime, bar: str) -> None:
    request = plan_run(timeframe, tick)
    assert (request.tags[BAR_TAG], request.partition_key) == (bar, bar[:10])
    assert request.tags["regime/lane"] == "opinions"  # one of them at a time
    assert int(request.tags["dagster/priority"]) < min(pace.priority for pace in PACES.values())


def test_no_trading_asset_depends_on_an_opinion_and_no_spine_job_runs_one() -> None:
    definitions = build_defs()
    graph = definitions.resolve_asset_graph()
    ours = {key for key in graph.get_all_asset_keys() if key.path[0] == PREFIX}
    assert len(ours) == 27
    assert [key for key in graph.get_all_asset_keys() - ours if graph.get(key).parent_keys & ours] == []
    for key in ours:
        assert graph.get(key).description
        assert graph.get(key).owners
        assert graph.get(key).kinds
    for job in (*(pace.job for pace in PACES.values()), *(pace.job for pace in OPINION_PACES.values())):
        keys = definitions.resolve_job_def(job).asset_layer.executable_asset_keys
        assert keys
        assert keys <= ours or not keys & ours
    blocking = [key for key in graph.asset_check_keys if key.asset_key.path[0] == PREFIX and graph.get(key).blocking]
    assert blocking == []


def test_groups_are_those_of_the_detectors() -> None:
    assert GROUPS == terms.GROUPS


def test_first_models_are_asked_for_once_an_hour_and_only_where_missing() -> None:
    assert plan_first_models([], END_S) is None
    plan = plan_first_models([Timeframe.H1], END_S + 1800)
    assert plan is not None
    assert plan.run_key == "first_models:2025-01-01T00:00:00+00:00"
    assert [key.path[-1] for key in plan.asset_selection or ()] == ["hmm_models_1h", "hmm_models_1h"]


def test_what_a_minute_imports_is_not_what_a_refit_does() -> None:
    code = (
        "import sys, json, regime_pipeline.adapters.postgres.opinion_store, regime_pipeline.adapters.postgres.snapshot_store;"
        " import regime_pipeline.services.advance_opinions, regime_pipeline.services.build_snapshots;"
        " print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "numba" in loaded
    assert loaded & {"hmmlearn", "sklearn", "pandas", "matplotlib", "dagster", "plotly"} == set()
