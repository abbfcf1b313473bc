"""requirements.txt must install with hashes from any package index, and cover what pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PINS = (ROOT / "requirements.txt").read_text()
ENTRY = re.compile(
    r"^([\w.-]+)(?:\[[\w,.-]+\])?==([^\s;]+)(?: ; .+?)? \\$"  # name, extras, version, marker
    r"(?:\n    --hash=sha256:[0-9a-f]{64}(?: \\$|$))+",
    flags=re.MULTILINE,
)


def test_every_line_is_a_version_or_a_hash() -> None:
    # What is left after the entries is the one header line: no index option, no address, no path.
    assert re.sub(r"\n+", "\n", ENTRY.sub("", PINS)) == PINS.splitlines()[0] + "\n"
    assert PINS.splitlines()[0].startswith("# Made by `make pins`")


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    asked = [Requirement(text) for group in groups for text in group]
    pinned = {canonicalize_name(name): version for name, version in ENTRY.findall(PINS)}
    assert [str(one) for one in asked if pinned.get(canonicalize_name(one.name), "0") not in one.specifier] == []
