"""What Dagster serves: documented throughout, and cheap to load every minute."""

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from regime_pipeline.definitions import build_defs
from regime_pipeline.orchestration.instance import build_config, write_home
from regime_pipeline.orchestration.plots import MAX_BYTES, MAX_POINTS, draw_bars, draw_equity, draw_states
from regime_pipeline.settings import Settings
from tests.builders import T0

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("ccxt", "sklearn", "matplotlib", "hmmlearn", "pyarrow", "numba", "pandas", "scipy", "plotly", "psycopg")

PORTFOLIO = ("decisions", "orders", "lowcap_positions_pm", "equity_points")


def test_loading_the_definitions_imports_nothing_heavy() -> None:
    code = (
        "import warnings; warnings.simplefilter('ignore'); import sys, json; import regime_pipeline.definitions as d;"
        " d.defs.get_repository_def(); print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(HEAVY) & set(json.loads(done.stdout)) == set()


def test_every_asset_says_what_it_is_whose_and_where_it_belongs() -> None:
    graph = build_defs().resolve_asset_graph()
    definitions = [each for each in build_defs().assets or () if isinstance(each, dg.AssetsDefinition)]
    specs = [spec for each in definitions for spec in each.specs if spec.group_name != "second_opinions" and "domain" not in spec.tags]
    assert len(specs) == 16
    for spec in specs:
        assert spec.description
        assert spec.owners
        assert spec.kinds == {"python", "postgres"}
        assert spec.group_name in {"raw_market", "core_trend", "out_reports"}
        assert spec.tags["layer"] == (spec.group_name or "").partition("_")[0]
        assert graph.get(spec.key).backfill_policy == dg.BackfillPolicy.single_run()
        assert graph.get(spec.key).partitions_def is not None
    keys = [key for key in graph.asset_check_keys if key.asset_key.path[0] not in {"second_opinions", *PORTFOLIO}]
    for key in keys:
        assert graph.get(key).blocking
        assert graph.get(key).description
    named = {key.name for key in keys}
    assert named == {"schema", "grid", "gaps", "prices", "fresh", "components", "states", "deltas"}


def test_the_portfolio_is_four_assets_that_say_what_they_are_and_check_that_the_book_adds_up() -> None:
    graph = build_defs().resolve_asset_graph()
    for name in PORTFOLIO:
        node = graph.get(dg.AssetKey(name))
        assert node.description
        assert (node.owners, node.kinds, node.group_name) == (["team:trading"], {"python", "postgres"}, "out_reports")
        assert node.tags["layer"] == "out"
        assert node.parent_keys
    checks = {key.name: graph.get(key) for key in graph.asset_check_keys if key.asset_key.path[0] in PORTFOLIO}
    assert set(checks) == {"none_unknown", "position_is_fills", "balances_are_entries"}
    assert all(check.description for check in checks.values())


def test_a_tick_is_tried_once_and_ends_in_two_minutes() -> None:
    job = build_defs().resolve_job_def("pm_tick")
    assert job.run_tags["dagster/max_retries"] == "0"
    assert job.run_tags["dagster/max_runtime"] == "120"
    assert [node.definition.name for node in job.nodes] == ["decide_and_execute"]
    assert all(node.definition.retry_policy is None for node in job.nodes if isinstance(node.definition, dg.OpDefinition))
    assert job.hook_defs == set()


def test_every_job_and_schedule_says_what_it_is_and_whose() -> None:
    repository = build_defs().get_repository_def()
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    assert {job.name for job in jobs} == {"regime_micro", "regime_meso", "regime_macro", "prune_history", "refill_bars"} | {
        "pm_tick",
        "portfolio_report",
        "daily_digest",
        "opinions_1m",
        "opinions_15m",
        "opinions_1h",
        "opinions_refit",
        "opinions_evaluation",
    }
    for each in (*jobs, *repository.schedule_defs, *repository.sensor_defs):
        assert each.description
        assert each.owners
        assert each.tags["tier"]
    assert all(schedule.default_status is dg.DefaultScheduleStatus.RUNNING for schedule in repository.schedule_defs)


def test_the_files_for_servers_and_for_the_embedded_one_say_the_same(tmp_path: Path) -> None:
    ours = build_config(tmp_path)
    server = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())
    # where files lie is the embedded server's own business
    assert {key: value for key, value in ours.items() if key not in {"compute_logs", "local_artifact_storage"}} == server


def test_the_written_file_holds_no_secret_and_is_its_owners_alone(tmp_path: Path) -> None:
    home = write_home(Settings(home=tmp_path, dagster_database_url="postgresql://u:geheim@h/d"))
    file = home / "dagster.yaml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "geheim" not in file.read_text()
    assert write_home(Settings(home=tmp_path)) == home


@pytest.mark.parametrize("n_points", [0, 1, MAX_POINTS])
def test_a_picture_of_eight_drivers_stays_small(n_points: int) -> None:
    states = ("S0", "S1", "S2", "S3", "S4")
    points = [(T0 + 60 * at, 100 + (at * 7919 % 101), states[at % 5]) for at in range(n_points)]
    png = draw_states("noise, the worst there is to compress", {f"driver {at}": points for at in range(8)})
    assert png.startswith(b"\x89PNG")
    assert len(png) <= MAX_BYTES


def test_pictures_of_the_portfolio_stay_small() -> None:
    walk = [100_000 + (at * 7919 % 5_003) for at in range(2000)]
    pictures = [
        draw_equity("noise", [T0 + 3600 * at for at in range(2000)], walk),
        draw_equity("nothing", [], []),
        draw_bars("many", {f"name {at}": float(at - 20) for at in range(40)}),
        draw_bars("nothing", {}),
    ]
    for png in pictures:
        assert png.startswith(b"\x89PNG")
        assert len(png) <= MAX_BYTES
