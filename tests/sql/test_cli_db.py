"""`regime db`, run as an operator runs it."""

import json
import subprocess
import sys
from pathlib import Path

from tests.fixtures_postgres import open_home


def regime_db(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    code = "from regime_pipeline.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "db", *args], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", **env}
    )


def test_a_life_of_the_embedded_database(tmp_path: Path) -> None:
    with open_home() as folder:
        home = str(folder / "home")
        absent = regime_db("status", "--json", REGIME_HOME=home)
        assert (absent.returncode, json.loads(absent.stdout)["server"]) == (1, "absent")
        first = json.loads(regime_db("migrate", "--json", REGIME_HOME=home).stdout)
        assert first["applied"][0] == "0001_market"
        assert first["roles"] is True
        assert regime_db("migrate", REGIME_HOME=home).stdout == "schema is up to date\n"
        status = regime_db("status", "--json", REGIME_HOME=home)
        assert status.returncode == 0
        assert json.loads(status.stdout) | {"pending": []} == json.loads(status.stdout)
        url = regime_db("url", REGIME_HOME=home).stdout
        assert url.startswith("postgresql://regime:")
        assert regime_db("url", "--dagster", REGIME_HOME=home).stdout.startswith("postgresql+psycopg2://")
        page = tmp_path / "dictionary.md"
        assert "is not what the database says" in regime_db("dictionary", "--check", "--path", str(page), REGIME_HOME=home).stderr
        assert regime_db("dictionary", "--path", str(page), REGIME_HOME=home).returncode == 0
        assert regime_db("dictionary", "--check", "--path", str(page), REGIME_HOME=home).returncode == 0
        assert json.loads(regime_db("stop", "--json", REGIME_HOME=home).stdout) == {"stopped": True}
        assert regime_db("stop", REGIME_HOME=home).stdout == "no server was running\n"
        assert json.loads(regime_db("start", "--json", REGIME_HOME=home).stdout)["server"] == "running"
        assert regime_db("stop", REGIME_HOME=home).returncode == 0


def test_a_wrong_address_is_one_line_without_a_traceback() -> None:
    done = regime_db("migrate", REGIME_DATABASE_URL="postgresql://me:s3cr3t@127.0.0.1:1/regime")
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot connect to database 'regime' at 127.0.0.1:1")
    assert done.stderr.count("\n") == 1
    assert "s3cr3t" not in done.stderr


def test_a_foreign_server_is_not_stopped() -> None:
    done = regime_db("stop", REGIME_DATABASE_URL="postgresql://me@127.0.0.1:1/regime")
    assert "not ours to start or stop" in done.stderr
