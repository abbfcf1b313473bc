"""The one door to numba: compiled kernels, cached on disk under a key of all kernel sources.

Numba's own cache looks at the file of the function alone, so a change in a kernel that another file inlines would leave the old
code running. Here the cache folder is named after the content of every kernel file: any change is another folder.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numba
from numba import config

F = TypeVar("F", bound=Callable[..., object])

_PACKAGE = Path(__file__).parent
_KERNEL_FOLDERS = ("indicators", "trend")


def _cache_folder() -> Path:
    digest = hashlib.sha256(numba.__version__.encode())
    for folder in _KERNEL_FOLDERS:
        for file in sorted((_PACKAGE / folder).glob("*.py")):
            digest.update(file.read_bytes())
    name = f"numba-{digest.hexdigest()[:16]}"
    parent = _PACKAGE / "__pycache__"
    parent.mkdir(exist_ok=True) if os.access(_PACKAGE, os.W_OK) else None
    return (parent if os.access(parent, os.W_OK) else Path(tempfile.gettempdir())) / name


config.CACHE_DIR = str(_cache_folder())


def kernel(function: F) -> F:
    """Compile for float64 semantics as written: no fast-math, so that one bar at a time equals a batch bit for bit."""
    return cast(F, numba.njit(cache=True, fastmath=False, error_model="numpy")(function))
