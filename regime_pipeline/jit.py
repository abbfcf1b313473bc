"""The one door to numba: compiled kernels, cached on disk under a key of all kernel sources.

Numba's own cache looks at the file of the function alone, so a change in a kernel that another file inlines would leave the old
code running. Here the cache folder is named after the content of every kernel file: any change is another folder. Processes that
start at once share one safely: numba writes each file aside and renames it.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, cast

import numba
from numba import config

F = TypeVar("F", bound=Callable[..., object])

_PACKAGE: Final = Path(__file__).parent
_KERNEL_FILES: Final = ("jit.py", "indicators/*.py", "trend/*.py", "regime/opinions/*.py")
_KEEP_FOLDERS: Final = 4
_KEEP_S: Final = 86_400.0
"""A process that runs older code may still write into its folder: one used within a day of the newest stays."""


def cache_key(package: Path) -> str:
    """Digest of numba's version and of every kernel file under `package`, names included."""
    digest = hashlib.sha256(numba.__version__.encode())
    for pattern in _KERNEL_FILES:
        for file in sorted(package.glob(pattern)):
            digest.update(b"\0" + file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def prepare_cache(package: Path) -> Path:
    """Make the folder for compiled kernels and remove outdated ones.

    It lies in the package's `__pycache__`, or, where that cannot be written, in a folder of the temporary directory that only this
    user can write: what is in a cache gets executed.
    """
    parent = package / "__pycache__"
    try:
        folder = _claim(parent, f"numba-{cache_key(package)}")
    except OSError:
        parent = Path(tempfile.gettempdir()) / f"regime-pipeline-{os.getuid()}"
        try:
            parent.mkdir(mode=0o700, exist_ok=True)
            owner = parent.lstat()
            if owner.st_uid != os.getuid() or owner.st_mode & 0o022 or parent.is_symlink():
                raise PermissionError(parent)
            folder = _claim(parent, f"numba-{cache_key(package)}")
        except OSError:
            return Path(tempfile.mkdtemp(prefix="regime-pipeline-"))
    _remove_outdated(parent)
    return folder


def _claim(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(folder)
    os.utime(folder)
    return folder


def _remove_outdated(parent: Path) -> None:
    last_used = []
    for folder in parent.glob("numba-*"):
        try:
            last_used.append((folder.stat().st_mtime, folder))
        except FileNotFoundError:  # another process is tidying up as well
            continue
    last_used.sort(reverse=True)
    for used, folder in last_used[_KEEP_FOLDERS:]:
        if last_used[0][0] - used > _KEEP_S:
            shutil.rmtree(folder, ignore_errors=True)


config.CACHE_DIR = str(prepare_cache(_PACKAGE))  # type: ignore[attr-defined]  # numba makes its settings at run time


def kernel(function: F) -> F:
    """Compile for float64 semantics as written: no fast-math, so that one bar at a time equals a batch bit for bit."""
    return cast("F", numba.njit(cache=True, fastmath=False, error_model="numpy")(function))
