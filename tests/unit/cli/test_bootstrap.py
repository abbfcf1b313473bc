import pytest
from typer.testing import CliRunner

from regime_pipeline.cli import app
from regime_pipeline.errors import ConfigError


def test_recorded_bars_end_before_now_and_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_SOURCE", "recorded")
    with pytest.raises(ConfigError, match="backfill the recorded days"):
        CliRunner().invoke(app, ["bootstrap"], catch_exceptions=False)
