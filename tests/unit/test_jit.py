"""The cache of compiled kernels: keyed by content, tidied, safe where the package cannot be written."""

import os
from pathlib import Path

import pytest

from regime_pipeline import jit

DAY_S = 86_400


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name in ("jit.py", "indicators/kernels.py", "trend/decay.py"):
        file = tmp_path / "package" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# {name}")
    return tmp_path / "package"


def test_key_stays_with_the_content_and_changes_with_any_kernel_file(package: Path) -> None:
    key = jit.cache_key(package)
    (package / "trend/decay.py").touch()
    assert jit.cache_key(package) == key
    (package / "notes.txt").write_text("no kernel")
    assert jit.cache_key(package) == key
    keys = {key}
    for name in ("jit.py", "indicators/kernels.py", "trend/decay.py"):
        (package / name).write_text("changed")
        keys.add(jit.cache_key(package))
    (package / "trend/decay.py").rename(package / "trend/other.py")
    keys.add(jit.cache_key(package))
    assert len(keys) == 5


def test_cache_lies_in_the_package_and_is_found_again(package: Path) -> None:
    folder = jit.prepare_cache(package)
    assert folder.parent == package / "__pycache__"
    (folder / "compiled").write_text("x")
    assert jit.prepare_cache(package) == folder
    assert (folder / "compiled").exists()


def test_outdated_folders_go_and_recent_ones_stay(package: Path) -> None:
    now_s = jit.prepare_cache(package).stat().st_mtime
    for age_days in range(1, 8):
        old = package / "__pycache__" / f"numba-{age_days}"
        old.mkdir()
        os.utime(old, (now_s, now_s - age_days * DAY_S - 60))
    for i in range(3):  # more than we keep, but perhaps in use
        (package / "__pycache__" / f"numba-young{i}").mkdir()
    current = jit.prepare_cache(package)
    left = {folder.name for folder in (package / "__pycache__").iterdir()}
    assert left == {current.name, "numba-young0", "numba-young1", "numba-young2"}


def test_package_that_cannot_be_written_falls_back_to_a_private_folder(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "__pycache__").write_text("a file in the way: works for root as well, whom no mode stops")
    monkeypatch.setattr(jit.tempfile, "tempdir", str(tmp_path))
    folder = jit.prepare_cache(package)
    assert folder.parent.parent == tmp_path
    assert folder.parent.stat().st_mode & 0o077 == 0
    assert jit.prepare_cache(package) == folder


def test_fallback_that_others_can_write_is_not_trusted(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "__pycache__").write_text("in the way")
    monkeypatch.setattr(jit.tempfile, "tempdir", str(tmp_path))
    shared = jit.prepare_cache(package).parent
    shared.chmod(0o777)
    assert jit.prepare_cache(package).parent == tmp_path
