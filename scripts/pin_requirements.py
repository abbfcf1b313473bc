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

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "requirements.txt"
HEADER = "# Made by `make pins` from pyproject.toml: Python 3.11 to 3.13, Linux (glibc) and macOS. Do not edit.\n"
# pip checks `name[extra]` against a pin with the same extra only, so extras stay.
COMPILE = ["-m", "uv", "pip", "compile", "--quiet", "--all-extras", "--universal", "--python-version", "3.11", "--no-strip-extras"]
INSTALLABLE = re.compile(
    r"-(?:cp311-cp311|cp312-cp312|cp313-cp313|(?:cp3\d+|py3|py2\.py3|cp\d+\.cp\d+)-(?:abi3|none))"
    r"-(?:any|(?:manylinux|linux)\S*_(?:x86_64|aarch64)|macosx\S*)\.whl$"
)
PINNED = re.compile(r"^([\w.-]+(?:\[[\w,.-]+\])?==[^\s;]+)(?: ; (.+?))?(?: \\)?$", flags=re.MULTILINE)


def resolve(constraints: str, *options: str) -> str:
    """Let uv resolve pyproject.toml within the constraints and return what it writes."""
    command = [sys.executable, *COMPILE, "--constraint", "-", *options, "pyproject.toml"]
    return subprocess.run(command, cwd=ROOT, check=True, input=constraints, stdout=subprocess.PIPE, text=True).stdout


def installable_hashes(lock: str) -> set[str]:
    """Collect the sha256 of every sdist and of every wheel that a supported platform can install."""
    packages = tomllib.loads(lock)["packages"]
    wheels = [wheel for package in packages for wheel in package.get("wheels", []) if INSTALLABLE.search(wheel["url"])]
    sdists = [package["sdist"] for package in packages if "sdist" in package]
    return {file["hashes"]["sha256"] for file in wheels + sdists}


def pin(requirement: str, hashes: list[str], installable: set[str]) -> str:
    """Write one requirement with its hashes."""
    kept = [one for one in hashes if one in installable]
    if not kept:
        sys.exit(f"{requirement}: no file for the supported platforms; choose another version in pyproject.toml")
    return requirement + "".join(f" \\\n    --hash=sha256:{one}" for one in kept) + "\n"


def main() -> None:
    """Resolve, keep what can be installed, write."""
    old = "" if "--upgrade" in sys.argv[1:] or not PINS.exists() else PINS.read_text()
    kept = "\n".join(re.sub(r"\[.*\]", "", name) for name, _ in PINNED.findall(old))
    resolved = resolve(kept, "--generate-hashes", "--no-header", "--no-annotate")
    versions = "\n".join(re.sub(r"\[.*\]", "", name) for name, _ in PINNED.findall(resolved))
    installable = installable_hashes(resolve(versions, "--format", "pylock.toml"))

    blocks = re.split(r"\n(?=\S)", resolved.strip())
    markers = [found[2] for block in blocks if (found := PINNED.match(block))]
    supported = max(set(markers), key=markers.count)  # nearly all lines repeat the supported platforms: not worth reading
    lines = []
    for block in blocks:
        requirement = block.split(" \\")[0].removesuffix(f" ; {supported}")
        lines.append(pin(requirement, re.findall(r"sha256:(\w+)", block), installable))
    PINS.write_text(HEADER + "".join(lines))
    sys.stdout.write(f"{PINS.name}: {len(lines)} packages, {PINS.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
