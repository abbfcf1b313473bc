"""Profile v4 against the numbers of the older engine on five real series: states and flags on every bar, scores within 1e-9."""

import csv
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from regime_pipeline.indicators.levels import LEVEL_COLUMNS, MAX_LEVELS
from regime_pipeline.market.bars import Bars, RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.settings import load_settings
from regime_pipeline.trend.engine import GivenLevels, SeriesEngine
from regime_pipeline.trend.profile import V4
from regime_pipeline.trend.record import FLAGS, INDEX, STATES

FOLDER = load_settings().shared / "golden"
pytestmark = [
    pytest.mark.golden,
    pytest.mark.realdata,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no recorded numbers in {FOLDER}; set REGIME_SHARED to the folder that holds golden/"),
]
SERIES = ["BTCUSDT_1h_um", "SOLUSDT_1h_um", "HYPE_1h_hyperliquid", "BNBUSDT_1d_spot", "ETHUSDT_1m_um"]
SCORES = ("ts_score", "ox", "dx", "edx")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def epoch_s(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def read_bars(name: str, timeframe: Timeframe) -> Bars:
    rows = read_csv(FOLDER / f"{name}.bars.csv")
    columns = (np.array([float(row[key]) for row in rows]) for key in ("open", "high", "low", "close", "volume"))
    return Bars.complete(RawBars(np.array([epoch_s(row["ts"]) for row in rows]), *columns), timeframe)


def read_levels(name: str) -> GivenLevels:
    """The sets in force, an empty one before the first."""
    lines = [json.loads(line) for line in (FOLDER / f"{name}.levels.jsonl").read_text().splitlines()]
    rows = np.zeros((1 + len(lines), MAX_LEVELS, LEVEL_COLUMNS))
    for given, line in zip(rows[1:], lines, strict=True):
        for row, level in zip(given, line["levels"], strict=False):
            row[:2] = level["price"], level["strength"]
    return GivenLevels(
        np.array([0, *(epoch_s(line["ts"]) for line in lines)]), np.array([0, *(len(line["levels"]) for line in lines)]), rows
    )


@pytest.mark.parametrize("name", SERIES)
def test_comparison_profile_reproduces_the_older_engine(name: str) -> None:
    timeframe = Timeframe(name.split("_")[1])
    golden = read_csv(FOLDER / f"{name}.golden.csv")
    engine = SeriesEngine(timeframe, V4, bootstrap_s3=False)
    got = engine.advance(read_bars(name, timeframe), given=read_levels(name))
    assert got.ts_s.tolist() == [epoch_s(row["ts"]) for row in golden]
    assert [STATES[int(code)] for code in got.states[:, INDEX["state"]]] == [row["state"] for row in golden]
    for flag in FLAGS:
        assert got.states[:, INDEX[flag]].astype(int).tolist() == [int(row[flag]) for row in golden], flag
    for score in SCORES:
        # A blank is a bar where the older engine did not define the score.
        expected = np.array([float(row[score] or "nan") for row in golden])
        defined = np.isfinite(expected)
        np.testing.assert_allclose(got.states[defined, INDEX[score]], expected[defined], rtol=0, atol=1e-9, err_msg=score)


@pytest.mark.parametrize("name", ["BTCUSDT_1h_um", "SOLUSDT_1h_um", "HYPE_1h_hyperliquid", "BNBUSDT_1d_spot"])
def test_levels_equal_those_of_the_older_engine_while_the_history_fits_the_window(name: str) -> None:
    # The older engine looked at the whole history, we at the last 1000 closes: up to there both must build the same sets.
    timeframe = Timeframe(name.split("_")[1])
    bars, given = read_bars(name, timeframe), read_levels(name)
    built = SeriesEngine(timeframe, V4, bootstrap_s3=False).advance(bars[:1000]).level_sets
    for ts_s in bars.ts_s[332:1000]:
        ours = int(np.searchsorted(built.ts_s, ts_s, side="right")) - 1
        theirs = int(np.searchsorted(given.ts_s, ts_s, side="right")) - 1
        size = int(given.sizes[theirs])
        assert built.sizes[ours] == size
        np.testing.assert_allclose(built.rows[ours, :size, :2], given.rows[theirs, :size, :2], rtol=1e-9)
