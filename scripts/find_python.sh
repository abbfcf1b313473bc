#!/usr/bin/env bash
# Print a Python between 3.11 and 3.13 that can create virtual environments, or say what is missing.
set -euo pipefail

is_usable() { "$1" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

without_venv=""
for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
    is_usable "$candidate" || continue
    if has_venv "$candidate"; then
        echo "$candidate"
        exit 0
    fi
    without_venv="${without_venv:-$candidate}"
done

if [ -n "$without_venv" ]; then
    version="$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    echo "error: $without_venv cannot create virtual environments. On Debian or Ubuntu: apt-get install python$version-venv" >&2
else
    found="$(python3 --version 2>&1 || true)"
    echo "error: Python 3.11, 3.12 or 3.13 is needed, python3 was: ${found:-absent}. On Debian or Ubuntu: apt-get install python3 python3-venv;" >&2
    echo "       a Python elsewhere: make setup PYTHON=/path/to/python3.12" >&2
fi
exit 1
