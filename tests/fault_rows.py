"""Which rows of the fault catalogue a run has covered: tests name theirs by `@pytest.mark.fault_row("X01")`, and the last line counts.

A row is covered when at least one of its tests passed and none failed or was skipped. A test that runs many cells records how many with
the fixture `cells`: `cells(run=12, passed=12)`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final

import pytest

ROWS: Final = {
    "X01": "kill before the intent commits",
    "X02": "kill after the intent",
    "X03": "kill after SUBMITTING, before the wire",
    "X04": "kill awaiting the answer, or before it is booked",
    "X05": "kill inside fill ingestion",
    "X06": "kill between cancel request and answer",
    "X07": "kill in recovery, three times",
    "X08": "frozen between SUBMITTING and wire, lease taken over",
    "X09": "all processes and Postgres killed",
    "X10": "time-out after acceptance",
    "X11": "request reaches the venue late",
    "X12": "reset, FIN, truncated, TLS cut after acceptance",
    "X13": "5xx and 3xx",
    "X14": "200 with a bad body",
    "X15": "429 and 418",
    "X16": "401, 403, 451 page of a proxy",
    "X17": "duplicate-id answer",
    "X18": "clock off",
    "X19": "new order invisible",
    "X20": "look-up itself fails",
    "X21": "order archived",
    "X22": "order surfaces after NOT_FOUND",
    "X23": "reads work, creates refused",
    "X24": "library or proxy retry switched on",
    "X25": "client library changes a mapping or default",
    "X26": "key revoked",
    "X27": "balance refusal though the ledger says enough",
    "X28": "filters, contract size, cost against base amount",
    "X29": "trade repeated, out of order, before the acknowledgement",
    "X30": "one trade id with other content, for two trades, or none",
    "X31": "late fill on a terminal order; overfill",
    "X32": "partial then cancel; cancel races the last fill",
    "X33": "cancel 200 but still open; unknown because filled",
    "X34": "fee in base, third asset, negative, missing",
    "X35": "TTL while the fill is in flight; after a restart",
    "X36": "liquidation, manual order, deposit",
    "X37": "venue position differs; read fails or is empty",
    "X38": "stop fills while an exit is in flight",
    "X39": "unclosed, gapped, NaN, frozen, revised, quarantined series",
    "X40": "three days down; DST, leap day, year end, local zone",
    "X41": "two or three daemons; two ticks at once",
    "X42": "sensor replay, cursor reset, re-execute, backfill, retry",
    "X43": "run executed hours late; stuck STARTED",
    "X44": "daemon dead, web server fine",
    "X45": "Postgres restarts",
    "X46": "answer to COMMIT lost",
    "X47": "deadlock, lock time-out, pool exhausted",
    "X48": "disk full",
    "X49": "restore from last night while the venue moved on",
    "X50": "kill during a create; with Postgres, Dagster or both down",
    "X51": "latch after restart; either half missing",
    "X52": "cancels behind the create limiter",
    "X53": "protection raises; equity, history, peak or volatility missing",
    "X54": "paper key or host in live and the reverse; partial arms",
    "X55": "journal writer or alert channel fails",
}


@pytest.fixture
def cells(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Publish how many cells a test ran and how many passed."""

    def publish(*, run: int, passed: int) -> None:
        record_property("cells_run", run)
        record_property("cells_passed", passed)
        assert passed == run, f"{run - passed} of {run} cells failed"

    return publish


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault_row(id): a row of the fault catalogue that the test injects")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for row in _rows_of(item):
            if row not in ROWS:
                raise pytest.UsageError(f"{item.nodeid}: fault row was {row!r}, known are X01 to X55")
            item.user_properties.append(("fault_row", row))


def pytest_unconfigure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return
    reports = [report for kind in ("passed", "failed", "skipped", "error") for report in reporter.stats.get(kind, ())]
    passed, spoilt, counts = defaultdict[str, int](int), set[str](), [0, 0]
    for report in reports:
        properties = getattr(report, "user_properties", ())
        rows = [value for name, value in properties if name == "fault_row"]
        if report.when == "call" and report.passed:
            for row in rows:
                passed[row] += 1
            counts[0] += sum(value for name, value in properties if name == "cells_run") or bool(rows)
            counts[1] += sum(value for name, value in properties if name == "cells_passed") or bool(rows)
        elif not report.passed:
            spoilt |= set(rows)
    seen = set(passed) | spoilt
    if not seen:
        return
    covered = set(passed) - spoilt
    if missing := sorted(set(ROWS) - covered):
        reporter.write_line(f"rows not covered: {', '.join(missing)}")
    reporter.write_line(f"cells run / passed: {counts[0]} / {counts[1]}")
    reporter.write_line(f"rows covered {len(covered)}/{len(ROWS)}")


def _rows_of(item: pytest.Item) -> Iterator[str]:
    for mark in item.iter_markers("fault_row"):
        yield from mark.args
