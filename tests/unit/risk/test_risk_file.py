"""The risk file: defaults where it is silent, and refusals with file and line."""

import re
from decimal import Decimal
from pathlib import Path

import pytest

from regime_pipeline.errors import ConfigError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings, describe_range
from regime_pipeline.risk.risk_file import RiskFile, load_risk

SHIPPED = Path(__file__).resolve().parents[3] / "config" / "risk.toml"
D = Decimal


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "risk.toml"
    path.write_text(text)
    return path


def test_the_shipped_file_changes_nothing() -> None:
    assert load_risk(SHIPPED) == RiskFile()


def test_the_shipped_file_shows_every_default_with_its_range() -> None:
    text = SHIPPED.read_text()
    for kind in (RiskSettings, ProtectionSettings):
        for name, field in kind.model_fields.items():
            assert f"# {field.description} Allowed: {describe_range(kind, name)}.\n# {name} = {field.default}\n" in text


def test_a_line_without_its_hash_is_in_force(tmp_path: Path) -> None:
    text = re.sub(r"^# (?=\w+ = )", "", SHIPPED.read_text(), flags=re.MULTILINE)
    assert load_risk(write(tmp_path, text)) == RiskFile()  # the defaults spelled out
    changed = text.replace("max_positions = 20", "max_positions = 5").replace("alloc_pct = 15", "alloc_pct = 7.5")
    risk = load_risk(write(tmp_path, changed))
    assert (risk.limits.max_positions, risk.allocation.alloc_pct) == (5, D("7.5"))


def test_numbers_are_exact_and_splits_are_by_timeframe(tmp_path: Path) -> None:
    text = '[limits]\nmax_weight_frac = 0.1\n[protections]\nguard_losses = 4\n[portfolio]\nalloc_pct = 20\nsplit_frac = { "1h" = 0.7 }\n'
    risk = load_risk(write(tmp_path, text))
    assert risk.limits.max_weight_frac == D("0.1")
    assert risk.protections.guard_losses == 4
    assert (risk.allocation.alloc_pct, risk.allocation.split_frac) == (D(20), {Timeframe.H1: D("0.7")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[limits]\n\nmax_wieght_frac = 0.1\n", r"risk\.toml:3: limit max_wieght_frac was .*nearest is max_weight_frac"),
        ("[limits]\nmax_positions = 3\nmax_weight_frac = 1.5\n", r"risk\.toml:3: limit max_weight_frac was .*above 0 up to 1"),
        ("[protections]\nguard_losses = 0\n", r"risk\.toml:2: limit guard_losses was 0"),
        ("# all else default\n[limits]\nmax_cluster_frac = 0.2\n", r"risk\.toml:3: max_weight_frac was 0\.25, must be at most max_cluster"),
        ("[limits]\nmax_positions = 3\n\n[limit]\n", r"risk\.toml:4: unknown table 'limit'; allowed: limits, protections, portfolio"),
        ("limits = 3\n", r"risk\.toml:1: unknown table 'limits'"),
        ("[portfolio]\nalloc = 3\n", r"risk\.toml:2: alloc was 3, there is no such key; allowed: alloc_pct, split_frac"),
        ("[portfolio]\nalloc_pct = 101\n", r"risk\.toml:2: alloc_pct was 101, must lie between 0 and 100"),
        ("[portfolio]\nalloc_pct = true\n", r"risk\.toml:2: alloc_pct was True, must be a number"),
        ('[portfolio]\nsplit_frac = { "2h" = 0.5 }\n', r"risk\.toml:2: split_frac named the timeframe '2h'; allowed: 1m, 5m"),
        ('[portfolio]\nsplit_frac = { "1h" = 0.6, "4h" = 0.6 }\n', r"risk\.toml:2: split_frac was 1h 0\.6, 4h 0\.6"),
        ("[portfolio.split_frac]\n1h = 2\n", r"risk\.toml:1: split_frac was 1h 2"),
        ("[portfolio]\nsplit_frac = 3\n", r"risk\.toml:2: split_frac was 3, must be a table"),
        ("[limits\n", "is not TOML"),
    ],
)
def test_a_mistake_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_risk(write(tmp_path, text))


def test_a_missing_file_is_no_default(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read .*set REGIME_RISK_FILE"):
        load_risk(tmp_path / "none.toml")
