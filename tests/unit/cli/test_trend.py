"""`regime trend run`: what comes out, that it reads back exactly, and that bad files are refused by line with nothing written."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from regime_pipeline.cli import app
from regime_pipeline.cli.trend import ProfileName
from regime_pipeline.cli.trend_files import OUT_COLUMNS, SCORES
from regime_pipeline.errors import BadInputError
from regime_pipeline.market.bars import Bars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.trend.engine import GivenLevels, SeriesEngine
from regime_pipeline.trend.profile import PROFILES, V4, V5
from regime_pipeline.trend.record import FLAGS, INDEX, STATES
from tests.builders import random_walk

HEADER = "ts,open,high,low,close,volume"
GOOD = [
    "2025-01-01T00:00:00+00:00,10,11,9,10.5,100",
    "2025-01-01T01:00:00+00:00,10.5,12,10,11,0",
    "2025-01-01T02:00:00+00:00,11,11.5,10.5,11,5e3",
]


def stamp(ts_s: int) -> str:
    return f"{np.datetime_as_string(np.datetime64(ts_s, 's'))}+00:00"


def write_bars(path: Path, bars: Bars) -> Path:
    columns = (bars.open, bars.high, bars.low, bars.close, bars.volume)
    rows = zip(map(stamp, bars.ts_s.tolist()), *(map(repr, column.tolist()) for column in columns), strict=True)
    path.write_text("\n".join([HEADER, *map(",".join, rows)]) + "\n", encoding="utf-8")
    return path


def run(source: Path, out: Path, *options: str) -> str:
    arguments = ["trend", "run", str(source), "--timeframe", "1h", "--out", str(out), *options]
    return CliRunner().invoke(app, arguments, catch_exceptions=False).stdout


def refusal_of(tmp_path: Path, text: str, *options: str) -> str:
    source, out = tmp_path / "bars.csv", tmp_path / "out.csv"
    source.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError) as caught:
        run(source, out, *options)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".csv" or path.name.startswith(".")) == ["bars.csv"]
    return str(caught.value)


@pytest.mark.parametrize("kind", ["token", "driver"])
@pytest.mark.parametrize("profile", ["v5", "v4"])
def test_rows_are_those_of_the_engine_to_the_last_bit(profile: str, kind: str, tmp_path: Path) -> None:
    bars = random_walk(900, seed=3, timeframe=Timeframe.H1)
    source, out = write_bars(tmp_path / "bars.csv", bars), tmp_path / "out.csv"
    summary = json.loads(run(source, out, "--profile", profile, "--kind", kind, "--json"))
    parameters = PROFILES[profile]._replace(winsorised_volume=PROFILES[profile].winsorised_volume and kind == "token")
    expected = SeriesEngine(Timeframe.H1, parameters, bootstrap_s3=False).advance(bars)
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == OUT_COLUMNS
    assert [row["ts"] for row in rows] == [stamp(ts_s) for ts_s in bars.ts_s[332:].tolist()]
    assert [row["state"] for row in rows] == [STATES[int(state)] for state in expected.states[:, INDEX["state"]]]
    for name in FLAGS:
        assert [int(row[name]) for row in rows] == expected.states[:, INDEX[name]].tolist()
    for name in SCORES:
        scores = [math.nan if row[name] == "" else float(row[name]) for row in rows]
        np.testing.assert_array_equal(scores, expected.states[:, INDEX[name]])
    assert summary["records"] == len(rows) == sum(summary["states"].values())
    assert summary["bars"] == 900
    assert summary["engine_version"] == f"m2-{profile}"


def test_profiles_offered_are_those_of_the_engine() -> None:
    assert {name.value for name in ProfileName} == set(PROFILES)


def test_bootstrap_starts_in_an_uptrend_only_when_asked(tmp_path: Path) -> None:
    climb = random_walk(400, seed=1, timeframe=Timeframe.H1)
    factor = np.exp(0.01 * np.arange(400))
    bars = Bars(climb.ts_s, *(column * factor for column in (climb.open, climb.high, climb.low, climb.close)), *climb.columns()[5:])
    bars = Bars(bars.ts_s, bars.close, bars.close, bars.close, bars.close, *bars.columns()[5:])
    source = write_bars(tmp_path / "bars.csv", bars)
    assert json.loads(run(source, tmp_path / "out.csv", "--json"))["states"]["S3"] == 0
    assert json.loads(run(source, tmp_path / "out.csv", "--bootstrap-s3", "--json"))["states"]["S3"] == 68


def test_given_levels_are_in_force_from_their_ts_on(tmp_path: Path) -> None:
    bars = random_walk(700, seed=5, timeframe=Timeframe.H1)
    starts_s = [int(bars.ts_s[400]), int(bars.ts_s[500])]
    near = [float(bars.close[400]), 3.5]
    lines = [{"ts": stamp(starts_s[0]), "levels": [{"price": near[0], "strength": near[1]}]}, {"ts": stamp(starts_s[1]), "levels": []}]
    levels = tmp_path / "levels.jsonl"
    levels.write_text("\n".join(map(json.dumps, lines)) + "\n")
    source, out = write_bars(tmp_path / "bars.csv", bars), tmp_path / "out.csv"
    run(source, out, "--levels", str(levels), "--profile", "v4")
    sets = np.zeros((3, 12, 3))
    sets[1, 0, :2] = near
    given = GivenLevels(np.array([0, *starts_s]), np.array([0, 1, 0]), sets)
    expected = SeriesEngine(Timeframe.H1, V4, bootstrap_s3=False).advance(bars, given=given)
    with out.open(encoding="utf-8", newline="") as file:
        assert [int(row["trim"]) for row in csv.DictReader(file)] == expected.states[:, INDEX["trim"]].tolist()
    used = expected.states[:, INDEX["nearest_level_price"]]
    assert np.isnan(used[: 400 - 332]).all()
    assert np.isnan(used[500 - 332 :]).all()


def test_a_levels_file_without_lines_means_no_levels(tmp_path: Path) -> None:
    (tmp_path / "levels.jsonl").write_text("")
    bars = random_walk(1500, seed=7, timeframe=Timeframe.H1)
    assert SeriesEngine(Timeframe.H1, V5, bootstrap_s3=False).advance(bars).states[:, INDEX["trim"]].any()
    source = write_bars(tmp_path / "bars.csv", bars)
    summary = json.loads(run(source, tmp_path / "out.csv", "--levels", str(tmp_path / "levels.jsonl"), "--json"))
    assert summary["flags"]["trim"] == 0


def test_too_few_bars_give_a_header_and_say_so(tmp_path: Path) -> None:
    (tmp_path / "bars.csv").write_text("\n".join([HEADER, *GOOD]))
    assert run(tmp_path / "bars.csv", tmp_path / "out.csv").startswith("3 bars, 0 rows")
    (tmp_path / "bars.csv").write_text(HEADER)
    assert run(tmp_path / "bars.csv", tmp_path / "out.csv").startswith("0 bars, 0 rows")
    assert (tmp_path / "out.csv").read_text() == ",".join(OUT_COLUMNS) + "\n"


def test_column_order_other_columns_zones_and_line_ends_do_not_matter(tmp_path: Path) -> None:
    rows = ["x,100,10.5,9,11,10,2025-01-01T00:00:00Z", "y,0,11,10,12,10.5,2025-01-01T02:00:00+01:00"]
    (tmp_path / "bars.csv").write_bytes("\ufeffnote,volume,close,low,high,open,ts\r\n".encode() + "\r\n".join(rows).encode() + b"\r\n\r\n")
    assert run(tmp_path / "bars.csv", tmp_path / "out.csv").startswith("2 bars")


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ("2025-01-01T03:00:00+00:00,10,11,9,nan,1", "prices must be finite"),
        ("2025-01-01T03:00:00+00:00,10,inf,9,10,1", "prices must be finite"),
        ("2025-01-01T03:00:00+00:00,10,11,0,10,1", "prices must be above 0"),
        ("2025-01-01T03:00:00+00:00,10,11,-9,10,1", "prices must be above 0"),
        ("2025-01-01T03:00:00+00:00,10,9,11,10,1", "high must be >= open and close"),
        ("2025-01-01T03:00:00+00:00,10,11,9,10,-1", "volume must be"),
        ("2025-01-01T03:00:00+00:00,10,11,9,10,NaN", "volume must be"),
        ("2025-01-01T03:00:00+00:00,1,1000,1,1000,1", "close/open must lie within"),
        ("2025-01-01T03:00:00+00:00,ten,11,9,10,1", "open was 'ten': it must be a number"),
        ("2025-01-01T03:00:00+00:00,10,11,9,,1", "close was '': it must be a number"),
        ("2025-01-01T03:00:00+00:00,10,11,9,10", "it has 5 cells, the header 6"),
        ("2025-01-01T03:30:00+00:00,10,11,9,10,1", "ts must be the open of a 1h bar"),
        ("2025-01-01T03:00:00.5+00:00,10,11,9,10,1", "a bar opens on a whole second"),
        ("2025-01-01T03:00:00,10,11,9,10,1", "has no zone; write 2025-01-01T03:00:00"),
        ("yesterday,10,11,9,10,1", "ts was 'yesterday'"),
        (",10,11,9,10,1", "ts was ''"),
        ("2025-01-01T02:00:00+00:00,11,11.5,10.5,11,5e3", "each ts once"),
        ("2025-01-01T01:00:00+00:00,11,11.5,10.5,11,1", "oldest bar first"),
        ("\n2025-01-01T03:00:00+00:00,10,11,9,10,1", "ts was ''"),
    ],
)
def test_a_bad_row_is_refused_by_line_and_rule(row: str, rule: str, tmp_path: Path) -> None:
    message = refusal_of(tmp_path, "\n".join([HEADER, *GOOD, row, "2025-01-01T04:00:00+00:00,10,11,9,10,1", ""]))
    assert "bars.csv:5: " in message
    assert rule in message
    assert "nothing was written" in message


def test_the_first_bad_row_is_named(tmp_path: Path) -> None:
    swapped = [HEADER, GOOD[0], GOOD[2], GOOD[1], GOOD[2].replace("11.5", "nan")]
    assert "bars.csv:4: ts is not after 2025-01-01T02:00:00+00:00" in refusal_of(tmp_path, "\n".join(swapped))


@pytest.mark.parametrize(("text", "complaint"), [("", "the header was"), ("ts,open\n1,2\n", "it lacks high, low, close, volume")])
def test_a_file_of_another_kind_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    assert complaint in refusal_of(tmp_path, text)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "it is not JSON"),
        ("[]", "it must be"),
        ('{"ts": "2025-01-01T00:00:00", "levels": []}', "has no zone"),
        ('{"ts": 5, "levels": []}', "ts was 5"),
        ('{"ts": "2024-01-01T00:00:00+00:00", "levels": []}', "oldest first"),
        ('{"ts": "2025-01-02T00:00:00Z", "levels": [{"price": 0, "strength": 1}]}', "price must be above 0"),
        ('{"ts": "2025-01-02T00:00:00Z", "levels": [{"price": 1, "strength": NaN}]}', "finite numbers"),
        ('{"ts": "2025-01-02T00:00:00Z", "levels": [{"price": 1}]}', "finite numbers"),
        ('{"ts": "2025-01-02T00:00:00Z", "levels": [7]}', "level was 7"),
        (json.dumps({"ts": "2025-01-02T00:00:00Z", "levels": [{"price": 1, "strength": 1}] * 13}), "at most 12"),
    ],
)
def test_a_bad_levels_line_is_refused_by_line_and_rule(line: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "levels.jsonl").write_text(f'{{"ts": "2025-01-01T00:00:00+00:00", "levels": []}}\n{line}\n')
    message = refusal_of(tmp_path, "\n".join([HEADER, *GOOD]), "--levels", str(tmp_path / "levels.jsonl"))
    assert "levels.jsonl:2: " in message
    assert complaint in message


def test_a_refused_run_leaves_an_older_file_alone(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    (tmp_path / "bars.csv").write_text("\n".join([HEADER, GOOD[1], GOOD[0]]))
    with pytest.raises(BadInputError):
        run(tmp_path / "bars.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "old"


def test_files_that_cannot_be_read_or_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot be read"):
        run(tmp_path / "nothing.csv", tmp_path / "out.csv")
    (tmp_path / "latin.csv").write_bytes(b"ts,\xe9\n")
    with pytest.raises(BadInputError, match="not UTF-8"):
        run(tmp_path / "latin.csv", tmp_path / "out.csv")
    (tmp_path / "bars.csv").write_text("\n".join([HEADER, *GOOD]))
    with pytest.raises(BadInputError, match="cannot be written"):
        run(tmp_path / "bars.csv", tmp_path / "nowhere" / "out.csv")
