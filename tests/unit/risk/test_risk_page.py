"""The page about risk says what the code does."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings, describe_range

PAGE = (Path(__file__).resolve().parents[3] / "docs/risk.md").read_text()


@pytest.mark.parametrize("kind", [RiskSettings, ProtectionSettings])
def test_every_limit_stands_on_the_page_with_its_default_and_range(kind: type[BaseModel]) -> None:
    for name, field in kind.model_fields.items():
        assert f"| `{name}` | {field.default} | {describe_range(kind, name)} | {field.description} |" in PAGE


def test_the_page_has_every_code_of_the_gate_and_no_other() -> None:
    codes = list(ReasonCode)
    gate = [code.value for code in codes[: codes.index(ReasonCode.IN_POSITION)]]
    table = PAGE.split("## The gate")[1].split("## Limits")[0]
    named = re.findall(r"`([A-Z_]+)`", "\n".join(line for line in table.splitlines() if re.match(r"\| \d", line)))
    assert named == gate
