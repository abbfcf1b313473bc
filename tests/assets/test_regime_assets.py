"""The real jobs on the generated market and a real database."""

from datetime import UTC, date, datetime

import dagster as dg
import psycopg
import pytest

from regime_pipeline.definitions import build_defs
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.backfill import BackfillFailedError, materialize_range
from regime_pipeline.orchestration.policies import BAR_TAG, PACES
from regime_pipeline.orchestration.stages import asset_names

DAYS = (date(2025, 1, 1), date(2025, 1, 16))  # 384 hours: 52 of them with a state
N_HOURS = 384


def materializations(instance: dg.DagsterInstance, run_id: str) -> dict[tuple[str, str | None], dict[str, object]]:
    """Metadata of a run's materializations by asset and partition."""
    return {
        (event.dagster_event.asset_key.to_user_string(), event.dagster_event.partition): {
            key: value.value for key, value in event.dagster_event.step_materialization_data.materialization.metadata.items()
        }
        for event in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    }


def checks(instance: dg.DagsterInstance, run_id: str) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    """Evaluations of a run's checks by asset and name."""
    found = [
        event.dagster_event.asset_check_evaluation_data
        for event in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    ]
    return {(each.asset_key.to_user_string(), each.check_name): each for each in found}


def run_live(instance: dg.DagsterInstance, timeframe: Timeframe, bar: str) -> dg.ExecuteInProcessResult:
    """Run the job of a timeframe as its schedule would for one bar."""
    job = build_defs().resolve_job_def(PACES[timeframe].job)
    return job.execute_in_process(instance=instance, partition_key=bar[:10], tags={BAR_TAG: bar}, raise_on_error=False)


def count(database: str, query: str) -> int:
    with psycopg.connect(database) as conn:
        row = conn.execute(query).fetchone()
        assert row is not None
        return int(row[0])


def seed_off_grid_bar(database: str, timeframe: str, at: str) -> None:
    with psycopg.connect(database) as conn:
        conn.execute(
            "insert into majors_price_data_ohlc (token_contract, chain, timeframe, timestamp, open_usd, high_usd, low_usd, close_usd,"
            " volume, bars_used, expected_bars, is_final, source) values ('BTC', 'binance', %s, %s, 1, 1, 1, 1, 1, 1, 1, true, 'seeded')",
            (timeframe, at),
        )


def test_a_range_of_days_is_one_run_that_ends_with_states_and_deltas(regime_env: str, instance: dg.DagsterInstance) -> None:
    run_id = materialize_range(Timeframe.H1, *DAYS, instance)
    seen = materializations(instance, run_id)
    assert {asset for asset, _ in seen} == {
        f"{table}_1h"
        for table in ("majors_price_data_ohlc", "lowcap_price_data_ohlc", "regime_price_data_ohlc", "uptrend_states", "regime_deltas")
    }
    assert len({partition for _, partition in seen}) == 16
    last = seen["regime_deltas_1h", "2025-01-16"]
    assert "| BTC | " in str(last["states"])
    assert "data:image/png;base64," in str(last["plot"])
    assert len(str(last["plot"])) < 60_000 * 4 / 3 + 100
    assert last["last_bar"] == "2025-01-16T23:00:00+00:00"
    assert "plot" not in seen["regime_deltas_1h", "2025-01-15"]  # or a year would carry 365 copies
    assert all(each.passed for each in checks(instance, run_id).values())
    # BTC has a bar for every hour, and a state from the 333rd on
    assert count(regime_env, "select count(*) from regime_price_data_ohlc where driver = 'BTC'") == N_HOURS
    assert count(regime_env, "select count(*) from uptrend_states where series = 'regime:BTC'") == N_HOURS - 332
    assert count(regime_env, "select count(*) from regime_deltas where driver = 'BTC'") == N_HOURS - 332

    again = materializations(instance, materialize_range(Timeframe.H1, *DAYS, instance))
    assert {metadata["rows_written"] for metadata in again.values()} == {0}


def test_a_live_run_ends_with_its_bar_and_a_late_one_does_nothing(regime_env: str, instance: dg.DagsterInstance) -> None:
    newest = "select extract(epoch from max(timestamp))::bigint from regime_price_data_ohlc where timeframe = '1m'"
    assert run_live(instance, Timeframe.M1, "2025-01-01T00:10:00+00:00").success
    assert count(regime_env, newest) == datetime(2025, 1, 1, 0, 10, tzinfo=UTC).timestamp()
    assert count(regime_env, "select count(*) from majors_price_data_ohlc where token_contract = 'BTC' and timeframe = '1m'") == 11
    late = run_live(instance, Timeframe.M1, "2025-01-01T00:05:00+00:00")
    assert late.success
    assert {metadata["rows_written"] for metadata in materializations(instance, late.run_id).values()} == {0}
    assert run_live(instance, Timeframe.M1, "2025-01-01T00:14:00+00:00").success  # makes up for the three before it
    assert count(regime_env, "select count(*) from majors_price_data_ohlc where token_contract = 'BTC' and timeframe = '1m'") == 15


def test_a_bad_bar_stops_the_minute_inside_its_step(regime_env: str, instance: dg.DagsterInstance) -> None:
    assert run_live(instance, Timeframe.M1, "2025-01-01T00:05:00+00:00").success
    seed_off_grid_bar(regime_env, "1m", "2025-01-01T00:03:30+00:00")
    result = run_live(instance, Timeframe.M1, "2025-01-01T00:10:00+00:00")
    assert not result.success
    grid = checks(instance, result.run_id)["majors_price_data_ohlc_1m", "grid"]
    assert not grid.passed
    assert grid.severity is dg.AssetCheckSeverity.ERROR
    assert grid.metadata["rows"].records[0].data == {"series": "token:BTC:binance", "ts": "2025-01-01T00:03:30+00:00"}
    assert {asset for asset, _ in materializations(instance, result.run_id)} == {"majors_price_data_ohlc_1m", "lowcap_price_data_ohlc_1m"}
    assert count(regime_env, "select count(*) from regime_price_data_ohlc where driver = 'BTC'") == 6  # as before

    with psycopg.connect(regime_env) as conn:
        conn.execute("delete from majors_price_data_ohlc where source = 'seeded'")
    assert run_live(instance, Timeframe.M1, "2025-01-01T00:10:00+00:00").success  # the marks of the stopped run are still there
    assert count(regime_env, "select count(*) from regime_price_data_ohlc where driver = 'BTC'") == 11


def test_a_minute_without_told_checks_writes_few_events_and_still_stops_at_a_bad_bar(regime_env: str, instance: dg.DagsterInstance) -> None:
    keys = {dg.AssetKey(name) for name in asset_names(Timeframe.M1)}
    quiet = build_defs().resolve_job_def("regime_micro").get_subset(asset_selection=keys, asset_check_selection=set())

    def run(bar: str) -> dg.ExecuteInProcessResult:
        return quiet.execute_in_process(instance=instance, partition_key=bar[:10], tags={BAR_TAG: bar}, raise_on_error=False)

    good = run("2025-01-01T00:05:00+00:00")
    assert good.success
    assert {asset for asset, _ in materializations(instance, good.run_id)} == set(asset_names(Timeframe.M1))
    assert checks(instance, good.run_id) == {}
    assert (
        len(instance.all_logs(good.run_id))
        < len(instance.all_logs(run_live(instance, Timeframe.M1, "2025-01-01T00:06:00+00:00").run_id)) / 2
    )

    seed_off_grid_bar(regime_env, "1m", "2025-01-01T00:03:30+00:00")
    bad = run("2025-01-01T00:10:00+00:00")
    assert not bad.success
    failure = bad.failure_data_for_node("micro")
    assert failure is not None
    assert "check grid of majors_price_data_ohlc_1m failed" in str(failure.user_failure_data and failure.user_failure_data.description)
    assert count(regime_env, "select count(*) from regime_price_data_ohlc where driver = 'BTC'") == 7  # as before


def test_a_bad_bar_stops_the_steps_after_it_and_is_named(regime_env: str, instance: dg.DagsterInstance) -> None:
    seed_off_grid_bar(regime_env, "1d", "2025-01-02T10:00:00+00:00")
    with pytest.raises(BackfillFailedError, match="macro_ingest"):
        materialize_range(Timeframe.D1, date(2025, 1, 1), date(2025, 1, 5), instance)
    run = instance.get_runs(limit=1)[0]
    made = {asset for asset, _ in materializations(instance, run.run_id)}
    assert "regime_price_data_ohlc_1d" not in made
    assert "majors_price_data_ohlc_1d" in made


def test_one_asset_can_be_made_alone(regime_env: str, instance: dg.DagsterInstance) -> None:
    run_live(instance, Timeframe.M1, "2025-01-01T00:10:00+00:00")
    job = build_defs().resolve_job_def("regime_micro")
    result = job.execute_in_process(
        instance=instance,
        partition_key="2025-01-01",
        tags={BAR_TAG: "2025-01-01T00:10:00+00:00"},
        asset_selection=[dg.AssetKey("uptrend_states_1m")],
    )
    assert {asset for asset, _ in materializations(instance, result.run_id)} == {"uptrend_states_1m"}
