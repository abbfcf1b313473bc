"""`regime trend run --profile v4` on the real reference series: state and flags equal on every bar, scores to 1e-9."""

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regime_pipeline.cli import app
from regime_pipeline.cli.trend_files import OUT_COLUMNS, SCORES
from regime_pipeline.settings import load_settings
from regime_pipeline.trend.record import FLAGS

SERIES = ("BNBUSDT_1d_spot", "BTCUSDT_1h_um", "ETHUSDT_1m_um", "HYPE_1h_hyperliquid", "SOLUSDT_1h_um")

pytestmark = [pytest.mark.golden, pytest.mark.realdata]


@pytest.fixture
def golden() -> Path:
    folder = load_settings().shared / "golden"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: the reference series lie outside the checkout; set REGIME_SHARED to their folder")
    return folder


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", SERIES)
def test_v4_equals_the_golden_file(name: str, golden: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    given = [str(golden / f"{name}.bars.csv"), "--levels", str(golden / f"{name}.levels.jsonl"), "--profile", "v4"]
    CliRunner().invoke(app, ["trend", "run", *given, "--timeframe", name.split("_")[1], "--out", str(out)], catch_exceptions=False)
    ours, theirs = read_rows(out), read_rows(golden / f"{name}.golden.csv")
    assert list(ours[0]) == list(theirs[0]) == list(OUT_COLUMNS)
    for key in ("ts", "state", *FLAGS):
        assert [row[key] for row in ours] == [row[key] for row in theirs], key
    compared = 0
    for mine, golden_row in zip(ours, theirs, strict=True):
        for score in SCORES:
            if golden_row[score] != "":
                assert float(mine[score]) == pytest.approx(float(golden_row[score]), rel=0, abs=1e-9), (mine["ts"], score)
                compared += 1
    assert compared >= len(ours)  # ts_score is defined on every bar
