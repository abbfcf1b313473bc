"""`regime levers explain`: the shape that comes back, what is refused, and that the command line starts light."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from regime_pipeline.cli import app, main
from regime_pipeline.errors import BadInputError

CHANNEL = {"driver": "BTC", "timeframe": "1d", "age_bars": 0, "delta_a_raw": 0.2, "delta_e_raw": -0.05}
REQUEST = {"exec_timeframe": "1h", "bucket": "nano", "intents": {"hi_buy": 0.2}, "channels": [CHANNEL]}


def explain(document: object, *options: str) -> str:
    text = document if isinstance(document, str) else json.dumps(document)
    result = CliRunner().invoke(app, ["levers", "explain", "-", *options], input=text)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def with_channel(**changes: object) -> dict[str, Any]:
    return {**REQUEST, "channels": [{**CHANNEL, **changes}]}


def test_an_object_comes_back_as_an_object_with_every_contribution() -> None:
    answer = json.loads(explain(REQUEST, "--json"))
    # .5 + .2 x .30 x 1 + .2 x .25 = .61; .5 - .05 x .30 - .2 x .10 = .465; .10 + .50 x .61 = .405
    assert answer["A_value"] == pytest.approx(0.61, abs=1e-12)
    assert answer["E_value"] == pytest.approx(0.465, abs=1e-12)
    assert answer["position_size_frac"] == pytest.approx(0.405, abs=1e-12)
    assert answer["degraded"] is True
    assert (answer["exec_timeframe"], answer["bucket"], answer["book_id"]) == ("1h", "nano", "onchain_crypto")
    rows = answer["diagnostics"]["channels"]
    assert [(row["driver"], row["timeframe"]) for row in rows] == [
        (driver, timeframe) for driver in ("BTC", "ALT", "nano", "BTC.d", "USDT.d") for timeframe in ("1d", "1h", "1m")
    ]
    assert {key: rows[0][key] for key in ("quality", "mult", "weight", "raw_a", "age_bars")} == {
        "quality": "ok",
        "mult": 0.3,
        "weight": 1.0,
        "raw_a": 0.2,
        "age_bars": 0.0,
    }
    assert rows[0]["contrib_a"] == pytest.approx(0.06)
    assert answer["intents"] == {"hi_buy": 0.2}
    assert [{**row, "delta_a_raw": row["raw_a"], "delta_e_raw": row["raw_e"]} for row in rows] == answer["channels"]
    assert {key: answer["channels"][0][key] for key in CHANNEL} == CHANNEL
    assert answer["diagnostics"]["intents"] == {"hi_buy": 0.2, "med_buy": 0.0, "profit": 0.0, "sell": 0.0, "mock": 0.0}


def test_a_list_comes_back_as_a_list_in_its_order() -> None:
    answers = json.loads(explain([REQUEST, {**REQUEST, "exec_timeframe": "1d"}, {**REQUEST, "bucket": None}], "--json"))
    assert [(answer["exec_timeframe"], answer["bucket"]) for answer in answers] == [("1h", "nano"), ("1d", "nano"), ("1h", None)]
    assert answers[1]["A_value"] == pytest.approx(0.5 + 0.2 * 0.8 + 0.05)
    assert json.loads(explain([], "--json")) == []


def test_optional_keys_reach_the_diagnostics() -> None:
    document = with_channel(ts="2025-01-01T02:00:00+02:00", state="S3", prev_state="S2", flags=["trim"], immature=True)
    row = json.loads(explain({**document, "regime_strength": 0.5, "timeframes": ["1d", "1h"]}, "--json"))["diagnostics"]["channels"][0]
    assert {key: row[key] for key in ("ts", "state", "prev_state", "flags", "quality")} == {
        "ts": "2025-01-01T00:00:00+00:00",
        "state": "S3",
        "prev_state": "S2",
        "flags": ["trim"],
        "quality": "immature",
    }


@pytest.mark.parametrize(
    ("change", "quality"),
    [
        ({"age_bars": 3}, "ok"),
        ({"age_bars": 3.0001}, "stale"),
        ({"age_bars": -0.5}, "absent"),
        ({"delta_a_raw": None}, "absent"),
        ({"delta_e_raw": float("nan")}, "absent"),
        ({"state": "S4"}, "s4"),
    ],
)
def test_a_channel_that_does_not_count_says_why(change: dict[str, object], quality: str) -> None:
    answer = json.loads(explain(with_channel(**change), "--json"))
    assert answer["diagnostics"]["channels"][0]["quality"] == quality
    assert any(reason.startswith(f"BTC 1d: {quality}") for reason in answer["diagnostics"]["reasons"]) == (quality != "ok")


def test_an_intent_that_is_no_number_comes_back_as_null() -> None:
    answer = json.loads(explain({**REQUEST, "intents": {"hi_buy": float("nan"), "sell": None}}, "--json"))
    assert answer["intents"] == {"hi_buy": None, "sell": None}
    assert answer["diagnostics"]["intents"]["hi_buy"] == 0.0


def test_channels_null_is_a_failed_read() -> None:
    answer = json.loads(explain({**REQUEST, "channels": None}, "--json"))
    assert (answer["A_value"], answer["degraded"]) == (0.55, True)


def test_the_table_shows_the_levers_on_80_columns() -> None:
    text = explain(with_channel(state="S3"))
    assert "A 0.6100   E 0.4650" in text
    assert "DEGRADED: no buys" in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "+0.0600" in text


def test_a_file_is_read_like_standard_input(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(REQUEST), encoding="utf-8")
    assert CliRunner().invoke(app, ["levers", "explain", str(path), "--json"]).stdout == explain(REQUEST, "--json")


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (7, "levers request: the request was 7"),
        ([REQUEST, "x"], r"levers request\[1\]: the request was 'x'"),
        ({"exec_timeframe": "1h"}, "channels is missing"),
        ({"channels": []}, "exec_timeframe is missing"),
        ({**REQUEST, "buckets": "nano"}, "buckets is not a known key; allowed: exec_timeframe, channels"),
        (with_channel(age=1), r"channels\[0\]\.age is not a known key; allowed: driver, timeframe"),
        (with_channel(driver="ETH"), "driver was 'ETH'"),
        (with_channel(timeframe="5m"), r"channels\[0\]\.timeframe was '5m'"),
        (with_channel(age_bars="1"), r"channels\[0\]\.age_bars was '1'"),
        (with_channel(age_bars=None), r"channels\[0\]\.age_bars was None"),
        (with_channel(age_bars=True), r"channels\[0\]\.age_bars was True"),
        (with_channel(delta_a_raw="high"), r"channels\[0\]\.delta_a_raw was 'high'"),
        (with_channel(delta_e_raw=10**400), r"channels\[0\]\.delta_e_raw was 10"),
        (with_channel(state="S5"), r"channels\[0\]\.state was 'S5'"),
        (with_channel(flags=["sell"]), r"channels\[0\]\.flags\[0\] was 'sell'"),
        (with_channel(ts="2025-01-01T00:00:00"), r"channels\[0\]\.ts was '2025-01-01T00:00:00'.*timezone"),
        ({**REQUEST, "channels": [CHANNEL, CHANNEL]}, "channel BTC 1d was given twice"),
        ({**REQUEST, "intents": {"buy": 1}}, r"intents were \['buy'\]"),
        ({**REQUEST, "intents": {"sell": "1"}}, r"intents\.sell was '1'"),
        ({**REQUEST, "regime_strength": -1}, "regime_strength was -1"),
        ({**REQUEST, "bucket": 3}, "bucket was 3"),
    ],
)
def test_bad_input_is_refused_by_value_and_rule(document: object, complaint: str) -> None:
    with pytest.raises(BadInputError, match=complaint):
        explain(document, "--json")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b'{"a": "\xe9"}')
    for name in ("nothing.json", "latin", "."):
        with pytest.raises(BadInputError, match="cannot be read"):
            CliRunner().invoke(app, ["levers", "explain", str(tmp_path / name)], catch_exceptions=False)


def test_an_error_is_one_line_and_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["regime", "levers", "explain", "nothing.json", "--json"])
    with pytest.raises(SystemExit, match="1"):
        main()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: nothing.json cannot be read")
    assert err.count("\n") == 1


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = "import sys, regime_pipeline.cli; print([m for m in ('numpy', 'numba', 'pandas', 'pyarrow', 'dagster') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
