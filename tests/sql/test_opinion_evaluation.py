"""The evaluation on stored snapshots: live and backfilled rows apart, stored once under its id, told in words and as a page."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.board.opinion_report import describe_report, render_html, render_markdown
from regime_pipeline.cli import app
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.services.advance_opinions import advance_posteriors, advance_volatility
from regime_pipeline.services.build_snapshots import build_snapshots
from regime_pipeline.services.evaluate_opinions import EvaluationReport, evaluate_opinions, save_report
from regime_pipeline.services.fit_hmm import fit_models
from tests.opinion_markets import END_S, UNIVERSE, fill_market, plain_fit

HOUR, DAY = 3600, 86_400
FIRST_S = END_S - 10 * DAY


@pytest.fixture
def stores(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PostgresStores:
    """Ten days of hourly opinions, written long after."""
    for name, value in {"DATABASE_URL": database, "DAGSTER_DATABASE_URL": database, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(f"REGIME_{name}", value)
    stores = PostgresStores(database)
    fill_market(stores)
    for day in range(10):
        fit_models(stores, UNIVERSE, Timeframe.H1, FIRST_S + day * DAY, stored_s=None, fit=plain_fit)
    advance_posteriors(stores, UNIVERSE, Timeframe.H1, FIRST_S, END_S, END_S + DAY)
    advance_volatility(stores, UNIVERSE, Timeframe.H1, FIRST_S - 20 * DAY, END_S, END_S + DAY)
    build_snapshots(stores, FIRST_S, END_S, END_S + DAY, every_s=HOUR)
    return stores


def judge(stores: PostgresStores, *, is_live: bool = False) -> EvaluationReport:
    return evaluate_opinions(stores, UNIVERSE, "custom", FIRST_S, END_S, is_live=is_live)


def test_a_report_has_an_id_of_its_content_and_is_kept_once(stores: PostgresStores) -> None:
    report = judge(stores)
    assert set(report.hours.values()) == {240}
    assert judge(stores).evaluation_id == report.evaluation_id
    with stores.open() as work:
        assert save_report(work, report)
    with stores.open() as work:
        assert not save_report(work, report)
        assert work.snapshots.load_evaluation(report.evaluation_id) == json.loads(json.dumps(report.document()))
    assert not report.verdict.earned  # ten days are not enough
    assert "enough" in {each.name for each in report.verdict.conditions if not each.holds}


def test_backfilled_rows_are_never_judged_as_live(stores: PostgresStores) -> None:
    live = judge(stores, is_live=True)
    assert (live.hours, live.evaluation.rows, live.verdict.earned) == ({}, (), False)
    assert "Too few hours" in describe_report(live)[1].words


def test_the_page_tells_the_same_as_the_document(stores: PostgresStores) -> None:
    report = judge(stores)
    sections = describe_report(report)
    markdown, html = render_markdown(sections), render_html(sections)
    for text in (report.evaluation_id, "has not earned its place and stays off", "filled in afterwards"):
        assert text in markdown
        assert text in html
    assert markdown.count("| BTC | label_1h |") >= 3
    assert "http" not in html.replace("http-equiv", "")  # needs no network


def test_the_command_line_judges_shows_and_lists(stores: PostgresStores, tmp_path: Path) -> None:
    def invoke(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    at = "2025-01-01T00:00:00+00:00"
    document = json.loads(invoke("opinions", "evaluate", "--out", str(tmp_path), "--days", "10", "--backfill", "--at", at, "--json"))
    assert document["evaluation_id"] == judge(stores).evaluation_id
    assert {path.suffix for path in tmp_path.glob("opinions-*")} == {".md", ".html"}
    now = {each["series"]: each for each in json.loads(invoke("opinions", "now", "--at", at, "--json"))}
    assert set(now) == {"BTC", "ETH", "SOL", "BNB", "HYPE", "ALT"}
    assert (now["BTC"]["status_1h"], now["BTC"]["label_1m"], now["BTC"]["consensus_label"]) == ("ok", "unknown", "unknown")
    later = json.loads(invoke("opinions", "now", "--at", "2025-01-01T00:03:01+00:00", "--json"))
    assert {each["label_1h"] for each in later} == {"unknown"}
    assert len(json.loads(invoke("opinions", "history", "ETH", "--hours", "5", "--at", at, "--json"))) == 6
    models = json.loads(invoke("hmm", "models", "--json"))
    assert {(each["timeframe"], each["accepted"]) for each in models} == {("1h", True)}
    assert len(models) == 6
    assert "Second opinions" in invoke("opinions", "now", "--at", at)
    assert "Hidden Markov models" in invoke("hmm", "models", "--history")
