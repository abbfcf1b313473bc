"""The live minute through the real daemon, at real pace: how long after a bar's close its deltas are committed, and where that time goes.

`python -m benchmarks.minute_cycle --minutes 60 --backfill-days 30` starts a simulated venue and `regime up --live` in a home of its own,
lets a backfill of minutes run beside it all the time, and reads what happened from the two databases.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psycopg

from regime_pipeline.adapters.postgres.connect import database_urls
from regime_pipeline.adapters.postgres.embedded import stop_server
from regime_pipeline.clock import utc_now
from regime_pipeline.settings import load_settings
from tests.served import BACKFILL, PROGRESS, ROOT, Up

Say = Callable[[str], None]

PHASES = ("schedule", "queue", "process", "step", "bars", "drivers", "states", "deltas")
"""Bar close -> run created -> dequeued -> run started (process up, code imported) -> step begun -> tables committed, in order."""
MINUTE_TABLES = ("majors_price_data_ohlc_1m", "regime_price_data_ohlc_1m", "uptrend_states_1m", "regime_deltas_1m")

BACKFILL_PAUSE_S = 180
"""Between two backfills: of minutes that have none beside them there are some to compare with."""
_RUN_EVENTS = ("PIPELINE_STARTING", "PIPELINE_START", "STEP_START", "PIPELINE_SUCCESS")
ASSETS = [{"path": [name]} for name in (*MINUTE_TABLES, "lowcap_price_data_ohlc_1m")]


@dataclass(slots=True)
class Minute:
    """One live run: the bar it was for, when its deltas were committed after that bar's close, and each phase's seconds."""

    bar: str
    total_s: float
    phases_s: dict[str, float]


@dataclass(slots=True)
class Findings:
    """What an hour of live minutes showed."""

    minutes: list[Minute] = field(default_factory=list)
    missing_bars: list[str] = field(default_factory=list)
    missing_states: dict[str, int] = field(default_factory=dict)
    failed_runs: int = 0
    overlaps: int = 0
    longest_queue: int = 0
    backfills_done: int = 0
    event_log_mb_per_day: float = 0.0
    memory_mb: dict[str, list[float]] = field(default_factory=dict)

    def percentile(self, percent: float, phase: str | None = None) -> float:
        """Percentile of the whole or of a phase, seconds."""
        values = sorted(each.total_s if phase is None else each.phases_s[phase] for each in self.minutes)
        return values[min(len(values) - 1, int(percent / 100 * len(values)))] if values else float("nan")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run for the minutes asked for; print a table, or all of it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.minute_cycle", description=__doc__)
    parser.add_argument("--minutes", type=int, default=60, help="live minutes to watch, after one to settle")
    parser.add_argument("--backfill-days", type=int, default=30, help="days of 1m that a backfill beside it covers; 0: none")
    parser.add_argument(
        "--source", choices=("live", "generated"), default="live", help="live: real clients and the collector against a simulated venue"
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    options = parser.parse_args(arguments)
    findings = watch(options.minutes, options.backfill_days, options.source, _tell)
    sys.stdout.write((json.dumps(asdict(findings), indent=2) if options.json else render(findings)) + "\n")
    return 0


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def watch(minutes: int, backfill_days: int, source: str, say: Say) -> Findings:
    """Serve a home for so many minutes and read what happened."""
    home = Path(tempfile.mkdtemp(prefix="regime-minutes-"))
    home.chmod(0o755)
    findings = Findings()
    try:
        with open_venue(source) as settings:
            up = Up(home, *(["--live"] if source == "live" else []), settings=settings, start_s=300)
            say(up.said().strip())
            stopped = threading.Event()
            beside = threading.Thread(target=keep_backfilling, args=(up, backfill_days, findings, stopped), daemon=True)
            try:
                urls = database_urls(load_settings({"REGIME_HOME": str(home)}))
                wait_for_first_states(urls.regime, say)
                begin = next_minute(utc_now().timestamp())
                if backfill_days:
                    beside.start()
                events_before = event_log_bytes(urls.dagster)
                time.sleep(max(0.0, begin - utc_now().timestamp()))
                for minute in range(minutes):
                    time.sleep(max(0.0, begin + 60 * (minute + 1) + 30 - utc_now().timestamp()))
                    note_memory(home, findings)
                    findings.longest_queue = max(findings.longest_queue, queued_runs(urls.dagster))
                    read_minutes(urls.dagster, begin, begin + 60 * (minute + 1), findings)
                    say(f"{minute + 1}/{minutes}: p50 {findings.percentile(50):.1f} s, p95 {findings.percentile(95):.1f} s")
                grown = event_log_bytes(urls.dagster) - events_before
                findings.event_log_mb_per_day = grown / 1e6 * 1440 / minutes
                read_states(urls.regime, begin, begin + 60 * minutes, findings)
            finally:
                stopped.set()
                up.stop()
    finally:
        stop_server(home)
        subprocess.run(["rm", "-rf", str(home)], check=False)  # noqa: S603, S607
    return findings


@contextmanager
def open_venue(source: str) -> Iterator[dict[str, str]]:
    """Serve the simulated venue in a process of its own; yields the settings that point at it."""
    if source != "live":
        yield {}
        return
    command = [sys.executable, "-c", "from regime_pipeline.cli import main; main()", "sim", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            yield {
                "REGIME_SOURCE": "live",
                "REGIME_VENUE_URL": json.loads(process.stdout.readline())["url"],
                "REGIME_COINGECKO_PLAN": "pro",
                "REGIME_COINGECKO_KEY": "simulated",
            }
        finally:
            process.terminate()


def keep_backfilling(up: Up, days: int, findings: Findings, stopped: threading.Event) -> None:
    """Ask for ever older ranges of minutes, one after the other, until stopped."""
    last = utc_now().date() - timedelta(days=10)
    while not stopped.is_set():
        names = [str(last - timedelta(days=back)) for back in range(days)]
        last -= timedelta(days=days)
        with suppress(OSError, KeyError):
            answer = up.ask(BACKFILL, names=names[::-1], assets=ASSETS)
            number = answer["launchPartitionBackfill"]["backfillId"]
            while not stopped.wait(2):
                if up.ask(PROGRESS, id=number)["partitionBackfillOrError"]["status"] not in {"REQUESTED", "COMPLETED"}:
                    findings.backfills_done += 1
                    break
        stopped.wait(BACKFILL_PAUSE_S)


def next_minute(at_s: float) -> float:
    """Full minute after the next, epoch seconds: the one under way began before we looked."""
    return (int(at_s) // 60 + 2) * 60


def wait_for_first_states(url: str, say: Say, timeout_s: float = 900) -> None:
    """Wait until BTC has a state on every regime timeframe: the history that a first start asks for is there."""
    deadline = time.monotonic() + timeout_s
    while True:
        with psycopg.connect(url) as conn:
            found = conn.execute("select count(distinct timeframe) from regime_deltas where driver = 'BTC'").fetchone()
            newest = conn.execute(
                "select max(ts) > now() - interval '3 minutes' from regime_deltas where driver = 'BTC' and timeframe = '1m'"
            ).fetchone()
        if found and newest and found[0] == 3 and newest[0]:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"no states on three timeframes within {timeout_s:.0f} s, found {found}")
        say("waiting for the first history ...")
        time.sleep(5)


def event_log_bytes(url: str) -> int:
    """Size of Dagster's event log with its indexes."""
    with psycopg.connect(plain(url)) as conn:
        row = conn.execute("select pg_total_relation_size('event_logs')").fetchone()
    assert row is not None
    return int(row[0])


def queued_runs(url: str) -> int:
    """Live runs that wait in the queue."""
    with psycopg.connect(plain(url)) as conn:
        row = conn.execute("select count(*) from runs where status = 'QUEUED' and pipeline_name = 'regime_micro'").fetchone()
    assert row is not None
    return int(row[0])


def plain(url: str) -> str:
    """Turn SQLAlchemy's address into libpq's."""
    return url.replace("postgresql+psycopg2", "postgresql")


def read_minutes(url: str, begin_s: float, end_s: float, findings: Findings) -> None:
    """Read the live runs of the bars that closed in (begin, end]: when each phase of each run ended."""
    with psycopg.connect(plain(url)) as conn:
        runs = conn.execute(
            "select r.run_id, r.status, t.value, extract(epoch from r.create_timestamp at time zone 'utc') from runs r"
            " join run_tags t on t.run_id = r.run_id and t.key = 'regime/bar_ts'"
            " where r.pipeline_name = 'regime_micro' order by t.value"
        ).fetchall()
        events = conn.execute(
            "select run_id, dagster_event_type, coalesce(asset_key, ''), extract(epoch from timestamp at time zone 'utc') from event_logs"
            " where run_id = any(%s) and dagster_event_type = any(%s)",
            (
                [run for run, *_ in runs],
                [*_RUN_EVENTS, "ASSET_MATERIALIZATION"],
            ),
        ).fetchall()
    at: dict[str, dict[str, float]] = {}
    for run, kind, asset, when in events:
        name = kind if kind != "ASSET_MATERIALIZATION" else asset.strip('[]"')
        at.setdefault(run, {})[name] = float(when)
    minutes, spans = [], []
    findings.failed_runs = 0
    for run, status, bar, created in runs:
        close_s = datetime.fromisoformat(bar).timestamp() + 60
        if not begin_s < close_s <= end_s:
            continue
        findings.failed_runs += status == "FAILURE"
        seen = at.get(run, {})
        if not {*_RUN_EVENTS, *MINUTE_TABLES} <= set(seen):
            continue
        marks = [close_s, float(created), *(seen[name] for name in (*_RUN_EVENTS[:3], *MINUTE_TABLES))]
        phases = {name: round(later - before, 3) for name, before, later in zip(PHASES, marks[:-1], marks[1:], strict=True)}
        minutes.append(Minute(bar, round(marks[-1] - close_s, 3), phases))
        spans.append((seen["PIPELINE_START"], seen["PIPELINE_SUCCESS"]))
    findings.minutes = minutes
    findings.overlaps = sum(later[0] < before[1] for before, later in pairwise(spans))


def read_states(url: str, begin_s: float, end_s: float, findings: Findings) -> None:
    """Look for minutes without a delta of BTC, and count those of every driver."""
    with psycopg.connect(url) as conn:
        rows = conn.execute(
            "select driver, extract(epoch from ts)::bigint from regime_deltas"
            " where timeframe = '1m' and ts >= to_timestamp(%s) and ts < to_timestamp(%s)",
            (begin_s - 60, end_s - 60),
        ).fetchall()
    due = set(range(int(begin_s) - 60, int(end_s) - 60, 60))
    drivers: dict[str, set[int]] = {}
    for driver, ts_s in rows:
        drivers.setdefault(driver, set()).add(ts_s)
    findings.missing_states = {driver: len(due - found) for driver, found in sorted(drivers.items())}
    findings.missing_bars = [datetime.fromtimestamp(ts_s, UTC).isoformat() for ts_s in sorted(due - drivers.get("BTC", set()))]


def note_memory(home: Path, findings: Findings) -> None:
    """Add the memory of each kind of process of the home; what processes share counts in equal parts (PSS)."""
    sums: dict[str, float] = {}
    mark = f"REGIME_HOME={home}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            shares = (folder / "smaps_rollup").read_text().split("\nPss:", 1)[1].split()
            name = next((name for word, name in _PROCESSES.items() if word in command), "other")
            sums[name] = sums.get(name, 0.0) + int(shares[0]) / 1e3
    for name, size in sums.items():
        findings.memory_mb.setdefault(name, []).append(round(size, 1))


_PROCESSES: Mapping[str, str] = {
    "postgres": "database",
    "dagster_webserver": "web server",
    "dagster._daemon": "daemon",
    "multiprocessing.forkserver": "runs and their fork servers",
    "api grpc": "code server",
    "code-server": "code server",
    "main() collect": "collector",
    "main() up": "regime up",
}


def render(findings: Findings) -> str:
    """Draw the table: whole and phases, then what went wrong and what grew."""
    lines = [f"{len(findings.minutes)} live minutes, bar close to deltas committed, seconds", "", f"{'':10}{'p50':>8}{'p95':>8}{'max':>8}"]
    lines += [
        f"{phase or 'whole':10}" + "".join(f"{findings.percentile(p, phase):8.2f}" for p in (50, 95, 100)) for phase in (None, *PHASES)
    ]
    lines += [
        "",
        f"missing minutes {len(findings.missing_bars)}, failed runs {findings.failed_runs}, overlaps {findings.overlaps}, "
        f"longest queue {findings.longest_queue}, backfills done beside it {findings.backfills_done}",
        f"minutes without a delta, by driver: {findings.missing_states}",
        f"event log: {findings.event_log_mb_per_day:.0f} MB a day",
    ]
    for name, sizes in findings.memory_mb.items():
        quarter = sizes[: max(1, len(sizes) // 4)]
        last = sizes[-max(1, len(sizes) // 4) :]
        lines.append(
            f"memory of {name}: {statistics.median(quarter):.0f} MB in the first quarter, {statistics.median(last):.0f} MB in the last"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
