"""`regime doctor`: each fault has its line and its cure, notes do not fail, and nothing is started."""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regime_pipeline.cli import app
from regime_pipeline.cli.doctor import check_home, check_packages, check_port, check_python, check_shared
from regime_pipeline.settings import Settings


def examine(monkeypatch: pytest.MonkeyPatch, **variables: object) -> tuple[int, dict[str, dict[str, str]]]:
    for name, value in variables.items():
        monkeypatch.setenv(f"REGIME_{name.upper()}", str(value))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    return result.exit_code, {finding["name"]: finding for finding in json.loads(result.stdout)}


def test_a_sound_machine_passes_and_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, findings = examine(monkeypatch, home=tmp_path / "home")
    assert code == 0, findings
    assert findings["database"]["detail"] == "embedded, not created yet; starts on first use"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("variables", "name", "cure"),
    [
        ({"universe": "nowhere.toml"}, "universe", "regime config check"),
        ({"source": "recorded"}, "source", "set REGIME_RECORDED_PATH"),
        ({"source": "recorded", "recorded_path": "nowhere"}, "source", "set REGIME_RECORDED_PATH"),
        ({"database_url": "postgresql://me:secret@127.0.0.1:1/regime"}, "database", "REGIME_DATABASE_URL"),
        ({"source": "guessed"}, "settings", "docs/configuration.md"),
    ],
)
def test_a_fault_is_named_with_its_cure(
    variables: dict[str, str], name: str, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, findings = examine(monkeypatch, home=tmp_path, **variables)
    assert code == 1
    assert findings[name]["status"] == "fail"
    assert cure in findings[name]["cure"]
    assert "secret" not in findings[name]["detail"]
    assert [each for each, finding in findings.items() if finding["status"] == "fail"] == [name]


def test_a_database_without_our_schema_fails(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, findings = examine(monkeypatch, database_url=empty_database)
    assert (code, findings["database"]["status"], findings["database"]["cure"]) == (1, "fail", "regime db migrate")


def test_a_migrated_database_passes(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, findings = examine(monkeypatch, database_url=database)
    assert (code, findings["database"]["status"]) == (0, "ok")


def test_only_supported_pythons_pass() -> None:
    assert [check_python(version).status for version in ((3, 10), (3, 11), (3, 13), (3, 14))] == ["fail", "ok", "ok", "fail"]


def test_missing_packages_are_named() -> None:
    finding = check_packages(("json", "no_such_package"))
    assert (finding.status, finding.detail, finding.cure) == ("fail", "not installed: no_such_package", "make setup")


def test_a_home_that_is_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert check_home(Settings(home=tmp_path / "file" / "home")).status == "fail"


def test_missing_reference_data_and_a_port_in_use_are_notes(tmp_path: Path) -> None:
    assert check_shared(Settings(shared=tmp_path)).status == "note"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert check_port(listener.getsockname()[1]).status == "note"


def test_people_read_one_line_per_finding_and_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_HOME", str(tmp_path))
    monkeypatch.setenv("REGIME_UNIVERSE", "nowhere.toml")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [line[:5].strip() for line in lines if line.startswith(("ok", "FAIL", "note"))].count("FAIL") == 1
    assert next(line for line in lines if "cure" in line).strip() == "cure: edit nowhere.toml, then `regime config check`"
