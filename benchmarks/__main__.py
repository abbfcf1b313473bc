"""`python -m benchmarks`: run the benchmarks, print the table, keep nothing unless asked to."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import Measure
from regime_pipeline.clock import now_s
from regime_pipeline.settings import load_settings

PARTS = ("engine", "levers", "opinions", "changepoint", "bootstrap", "backfill", "live", "tick", "orders")


def measure(parts: Sequence[str], repeats: int, days: tuple[int, int], minutes: int) -> list[Measure]:
    """Run the chosen parts, the heavy imports of each inside it."""
    settings = load_settings()
    found: list[Measure] = []
    if "engine" in parts:
        from benchmarks.engine import measure_engine

        found += measure_engine(settings.shared, repeats)
    if "levers" in parts:
        from benchmarks.levers import measure_levers

        found += measure_levers(repeats)
    if "opinions" in parts:
        from benchmarks.opinions import measure_opinions

        found += measure_opinions(settings.shared, repeats)
    if "changepoint" in parts:
        from benchmarks.changepoint import measure_changepoint

        found += measure_changepoint(repeats)
    if "bootstrap" in parts:
        from benchmarks.bootstrap import measure_bootstrap
        from benchmarks.database import open_server
        from regime_pipeline.market.universe import load_universe

        with open_server() as server:
            found += measure_bootstrap(server, load_universe(settings.universe))
    if "tick" in parts:
        from benchmarks.database import open_server
        from benchmarks.tick import measure_tick
        from regime_pipeline.market.universe import load_universe

        with open_server() as server:
            found += measure_tick(server, load_universe(settings.universe), repeats)
    if "orders" in parts:
        from benchmarks.database import open_server
        from benchmarks.orders import measure_orders

        with open_server() as server:
            found += measure_orders(server)
    if {"backfill", "live"} & set(parts):
        from benchmarks.database import measure_backfill, measure_live, open_server
        from benchmarks.market import ShiftedMarket
        from regime_pipeline.market.universe import load_universe

        market, universe = ShiftedMarket(settings.shared), load_universe(settings.universe)
        with ExitStack() as stack:
            server = stack.enter_context(open_server())
            if "backfill" in parts:
                found += measure_backfill(server, market, universe, days)
            if "live" in parts:
                found += measure_live(server, market, universe, minutes)
    return found


def machine() -> str:
    """Name the machine and the versions that matter."""
    names = ("numpy", "numba", "TA-Lib", "ta")
    cpu = next((line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.processor())
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {packages}"


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def as_markdown(found: Sequence[Measure]) -> str:
    """Lay the measures out as a table, with the other facts below it."""
    rows = ["| | ours | s | theirs | s | ratio | at most | |", "|---|---|---|---|---|---|---|---|"]
    rows += [
        f"| {each.key} | {each.ours} | {each.ours_s:.4g} | {each.theirs} | {each.theirs_s:.4g} | {each.ratio:.3g} | {each.limit:g} "
        f"| {'holds' if each.holds else 'MISSED'} |"
        for each in found
    ]
    facts = [
        f"- {each.key}, {each.ours}: " + "; ".join(f"{name} {value}" for name, value in each.facts.items()) for each in found if each.facts
    ]
    return "\n".join([*rows, "", *facts])


def main() -> int:
    """Run from the command line; 1 when a promise was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts by commas, of {', '.join(PARTS)}")
    parser.add_argument("--repeats", type=int, default=3, help="turns of the slow peers; fast ones take five times as many")
    parser.add_argument("--days", type=int, nargs=2, default=(10, 50), metavar=("SHORT", "LONG"), help="lengths of the two backfills")
    parser.add_argument("--minutes", type=int, default=1440, help="live minutes to run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", type=Path, help="put the table into this page, between its two marks")
    given = parser.parse_args()
    parts = given.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only was {given.only!r}: no part is called {', '.join(sorted(unknown))}; allowed: {', '.join(PARTS)}")
    found = measure(parts, given.repeats, (given.days[0], given.days[1]), given.minutes)
    text = f"{datetime.fromtimestamp(now_s(), UTC):%Y-%m-%d}, {machine()}.\n\n{as_markdown(found)}"
    sys.stdout.write(json.dumps([each.document() for each in found], indent=2) if given.json else text)
    sys.stdout.write("\n")
    if given.write:
        head, _, rest = given.write.read_text().partition("<!-- measured -->\n")
        tail = rest.partition("<!-- end -->\n")[2]
        given.write.write_text(f"{head}<!-- measured -->\n{text}\n<!-- end -->\n{tail}")
    return 0 if all(each.holds for each in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
