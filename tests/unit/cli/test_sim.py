"""`regime sim` as a process: it says how to be used, answers, and stops at ctrl-C with a count."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parents[3]


@contextmanager
def sim(*args: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", "from regime_pipeline.cli import main; main()", "sim", "--port", "0", *args]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def stop(process: subprocess.Popen[str], how: signal.Signals) -> str:
    process.send_signal(how)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    return said


def test_it_serves_until_ctrl_c_and_counts(tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text('[[faults]]\nkind = "http_502"\nevery = 2\n', encoding="utf-8")
    with sim("--json", "--start", "2025-01-01T12:00:00+00:00", "--speed", "0", "--faults", str(script)) as process:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        assert started["now"] == "2025-01-01T12:00:00+00:00"
        assert started["env"]["REGIME_VENUE_URL"] == started["url"]
        statuses = [requests.get(f"{started['url']}/binance/api/v3/time", timeout=5).status_code for _ in range(4)]
        assert statuses == [200, 502, 200, 502]
        assert json.loads(stop(process, signal.SIGINT)) == {"requests": {"binance/time": 4}, "faults": {"http_502": 2}}


def test_it_trades_when_told_to() -> None:
    with sim("--json", "--trading", "--start", "2025-01-01T12:00:00+00:00", "--speed", "0") as process:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        keys = requests.get(f"{started['url']}/sim/trading/keys", timeout=5).json()
        assert started["keys"] == {key["kind"]: key["key"] for key in keys}
        hand = {"do": "place", "market_type": "linear", "symbol": "BTCUSDT", "side": "BUY", "qty": "0.1"}
        assert requests.post(f"{started['url']}/sim/trading/hand", json=hand, timeout=5).status_code == 200
        books = requests.get(f"{started['url']}/sim/trading/truth", timeout=5).json()["books"]
        assert (books["linear"]["positions"]["BTCUSDT"]["size"], books["spot"]["orders"]) == ("0.1", [])
        assert stop(process, signal.SIGINT)


def test_it_tells_people_how_to_use_it() -> None:
    with sim() as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        url = lines[0].split()[3].rstrip(",")
        assert lines[2].split() == ["REGIME_SOURCE=live", f"REGIME_VENUE_URL={url}", "REGIME_COINGECKO_PLAN=pro", ".venv/bin/regime", "up"]
        assert requests.get(lines[4].strip(), timeout=5).json()["clock"]["speed"] == 1
        assert stop(process, signal.SIGTERM) == "stopped after 0 requests; faults: none\n"


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("--faults", "nowhere.toml"), "fault script nowhere.toml"),
        (("--data", "nowhere"), "recorded market was nowhere"),
        (("--start", "2025-01-01"), "no zone"),
    ],
)
def test_it_refuses_what_it_cannot_use(args: tuple[str, ...], problem: str) -> None:
    with sim(*args) as process:
        _, complaint = process.communicate(timeout=20)
        assert process.returncode == 1
        assert problem in complaint
