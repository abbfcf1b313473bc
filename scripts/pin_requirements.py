"""Write requirements.txt: every version and file hash of the product, its tools and its benchmark peers.

uv resolves for all supported platforms; this keeps the hashes of the files those platforms can install and leaves out
where they were fetched from, so that the pins work with any package index. Run it with `make pins` after a change of
the dependencies in pyproject.toml; versions already pinned stay, `--upgrade` renews them.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "requirements.txt"
HEADER = "# Made by `make pins` from pyproject.toml: Python 3.11 to 3.13, Linux (glibc) and macOS. Do not edit.\n"
LINUX_OR_MAC = re.compile(
    r"-(?:cp311-cp311|cp312-cp312|cp313-cp313|(?:cp3\d+|py3|py2\.py3|cp\d+\.cp\d+)-(?:abi3|none))"
    r"-(?:any|(?:manylinux|linux)\S*_(?:x86_64|aarch64)|macosx\S*)\.whl$"
)


def resolve(lock: Path, upgrade: bool) -> None:
    """Let uv resolve pyproject.toml into `lock`, staying at the versions already pinned unless told to upgrade."""
    pinned = [] if upgrade or not PINS.exists() else re.findall(r"^[\w.-]+==[^\s;]+", PINS.read_text(), flags=re.MULTILINE)
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--all-extras", "--universal", "--python-version", "3.11"]
    command += ["--constraint", "-", "--format", "pylock.toml", "--output-file", str(lock), "pyproject.toml"]
    subprocess.run(command, cwd=ROOT, check=True, input="\n".join(pinned), text=True)


def file_hashes(package: dict[str, Any]) -> list[str]:
    """List the sha256 of the sdist and of every wheel that a supported platform can install."""
    files = [wheel for wheel in package.get("wheels", []) if LINUX_OR_MAC.search(wheel_name(wheel))]
    files += [package["sdist"]] if "sdist" in package else []
    return sorted({entry["hashes"]["sha256"] for entry in files})


def wheel_name(wheel: dict[str, Any]) -> str:
    """Name the wheel's file, given by itself or as the end of its address."""
    return wheel.get("name") or wheel["url"].rsplit("/", 1)[-1]


def pin(package: dict[str, Any], everywhere: set[str]) -> str:
    """Write one package as a requirement; a marker that only repeats the supported platforms is left out."""
    marker = package.get("marker", "")
    suffix = f" ; {marker}" if marker and marker not in everywhere else ""
    hashes = file_hashes(package)
    if not hashes:
        raise SystemExit(f"{package['name']} {package['version']} has no file for the supported platforms; choose another version.")
    return f"{package['name']}=={package['version']}{suffix}" + "".join(f" \\\n    --hash=sha256:{one}" for one in hashes) + "\n"


def main() -> None:
    """Resolve, filter, write."""
    lock = ROOT / "build" / "pylock.toml"
    lock.parent.mkdir(exist_ok=True)
    resolve(lock, upgrade="--upgrade" in sys.argv[1:])
    packages = tomllib.loads(lock.read_text())["packages"]
    markers = [package.get("marker", "") for package in packages]
    PINS.write_text(HEADER + "".join(pin(package, {max(set(markers), key=markers.count)}) for package in packages))
    lock.unlink()
    sys.stdout.write(f"{PINS.name}: {len(packages)} packages, {PINS.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
