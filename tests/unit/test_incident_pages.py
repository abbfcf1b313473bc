"""Every page that an incident names is in the runbook, and says how it was tried by a test that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/runbook.md").read_text()
SOURCES = "\n".join(path.read_text() for path in (ROOT / "regime_pipeline/services/trading").glob("*.py"))


def test_every_page_named_in_the_code_is_in_the_runbook() -> None:
    named = set(re.findall(r'open_incident\((?:[^()]|\([^()]*\))*?"([a-z]+(?:-[a-z]+)+)"\s*\)', SOURCES))
    assert "recon-drift" in named
    assert named <= set(re.findall(r"^### ([a-z-]+)$", PAGE, re.MULTILINE))


def test_every_test_that_the_runbook_names_exists() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests/sql/trading").glob("*.py"))
    named = set(re.findall(r"`(test_[a-z_]+)`", PAGE))
    assert named
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []
