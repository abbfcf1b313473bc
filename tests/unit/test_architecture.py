"""The house rules that a reader could break without noticing: who imports whom, and who reads clock and environment."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[2]


def run_ruff(*arguments: str, source: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251", *arguments]
    return subprocess.run(command, cwd=ROOT, input=source, capture_output=True, text=True, check=False)


def test_import_contracts_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out


def test_clock_and_environment_are_read_in_their_own_files_only() -> None:
    found = run_ruff("regime_pipeline", "assets", "jobs", "sensors", "scripts")
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    "call",
    ["import datetime\ndatetime.datetime.now()", "import time\ntime.time()", "import os\nos.environ['A']", "import os\nos.getenv('A')"],
)
def test_a_read_elsewhere_is_refused(call: str) -> None:
    found = run_ruff("--stdin-filename", "regime_pipeline/market/example.py", "-", source=call + "\n")
    assert found.returncode == 1
    assert "TID251" in found.stdout


@pytest.mark.parametrize("package", ["dagster", "psycopg", "ccxt", "requests"])
def test_outside_libraries_stay_in_their_folders(package: str) -> None:
    homes = {
        "dagster": ("regime_pipeline/orchestration", "regime_pipeline/definitions.py", "assets", "jobs", "sensors"),
        "psycopg": ("regime_pipeline/adapters",),
        "ccxt": ("regime_pipeline/adapters",),
        "requests": ("regime_pipeline/adapters",),
    }[package]
    files = [path for folder in ("regime_pipeline", "assets", "jobs", "sensors") for path in (ROOT / folder).rglob("*.py")]
    outside = [path.relative_to(ROOT).as_posix() for path in files if imports(path, package)]
    assert [name for name in outside if not name.startswith(homes)] == []


def imports(path: Path, package: str) -> bool:
    """Tell whether a module names the package in an import statement, at module level or inside a function."""
    tree = ast.parse(path.read_text())
    named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return any(name.split(".")[0] == package for name in named)
