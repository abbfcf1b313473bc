"""Settings that point every run of this process at the test's own database."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest


@pytest.fixture
def regime_env(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment a run reads: this database for both, the generated market, a home of the test's own."""
    for name, value in {"DATABASE_URL": database, "DAGSTER_DATABASE_URL": database, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(f"REGIME_{name}", value)
    return database


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance in memory."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral
