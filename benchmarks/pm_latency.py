"""New regime bar to the first step of the portfolio tick, through the real daemon at real pace, and where that time goes.

`python -m benchmarks.pm_latency --minutes 25` starts a simulated venue and `regime up --live` in a home of its own, on a universe whose
tokens are traded on 1m, listens for new bars on the database as the sensor does, and reads the ticks that followed from Dagster's events.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import psycopg

from benchmarks.minute_cycle import Findings as Memory
from benchmarks.minute_cycle import Say, note_memory, open_venue, plain, wait_for_first_states
from regime_pipeline.adapters.postgres.bar_listener import PostgresBarListener
from regime_pipeline.adapters.postgres.connect import database_urls
from regime_pipeline.adapters.postgres.embedded import stop_server
from regime_pipeline.clock import utc_now
from regime_pipeline.errors import DatabaseError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.settings import load_settings
from tests.served import ROOT, Up

PHASES = ("sensor", "queue", "process", "step")
"""Bar told -> run created -> dequeued -> run started (process up, code imported) -> step begun."""
EVENTS = ("PIPELINE_STARTING", "PIPELINE_START", "STEP_START", "STEP_SUCCESS")
LIMITS_S = {50: 4.0, 95: 7.0}
"""What the percentiles may come to."""


@dataclass(slots=True)
class Tick:
    """One tick: the close of its bar, seconds from the word of it to the first step, each phase's, and how long the step took."""

    bar_close: str
    total_s: float
    phases_s: dict[str, float]
    step_s: float


@dataclass(slots=True)
class Findings:
    """What the ticks showed: `unticked` bars were told and started none, `outcomes` is what became of all."""

    ticks: list[Tick] = field(default_factory=list)
    unticked: list[str] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    memory_mb: dict[str, list[float]] = field(default_factory=dict)

    def percentile(self, percent: float, phase: str | None = None) -> float:
        """Percentile of the whole or of a phase, seconds."""
        values = sorted(each.total_s if phase is None else each.phases_s[phase] for each in self.ticks)
        return values[min(len(values) - 1, int(percent / 100 * len(values)))] if values else float("nan")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run for the minutes asked for; print a table, or all of it as JSON; 1 when a promise was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pm_latency", description=__doc__)
    parser.add_argument("--minutes", type=int, default=25, help="minutes to watch, after the first history is there")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    options = parser.parse_args(arguments)
    findings = watch(options.minutes, tell)
    sys.stdout.write((json.dumps(asdict(findings), indent=2) if options.json else render(findings)) + "\n")
    return 0 if all(findings.percentile(percent) <= limit_s for percent, limit_s in LIMITS_S.items()) else 1


def tell(text: str) -> None:
    """Say how far it is."""
    sys.stderr.write(f"{text}\n")


def write_universe(folder: Path) -> Path:
    """Write the shipped universe with every token on 1m."""
    text = (ROOT / "config" / "universe.toml").read_text()
    head, *tokens = text.split("[[tokens]]")
    file = folder / "universe.toml"
    file.write_text(head + "".join('[[tokens]]\ntimeframes = ["1m"]' + token for token in tokens))
    return file


def watch(minutes: int, say: Say) -> Findings:
    """Serve a home for so many minutes and read what happened."""
    home = Path(tempfile.mkdtemp(prefix="regime-ticks-"))
    home.chmod(0o755)
    findings, told, stopped = Findings(), dict[int, float](), threading.Event()
    risk = home / "risk.toml"
    risk.write_text('[portfolio]\nsplit_frac = { "1m" = 1.0 }\n')
    try:
        with open_venue("live") as venue:
            extra = {"REGIME_UNIVERSE": str(write_universe(home)), "REGIME_RISK_FILE": str(risk), "REGIME_TRADING_ENABLED": "true"}
            up = Up(home, "--live", settings={**venue, **extra}, start_s=300)
            say(up.said().strip())
            try:
                urls = database_urls(load_settings({"REGIME_HOME": str(home)}))
                wait_for_first_states(urls.regime, say)
                ear = threading.Thread(target=listen, args=(urls.regime, told, stopped), daemon=True)
                ear.start()
                memory = Memory()
                for minute in range(minutes):
                    time.sleep(60 - utc_now().timestamp() % 60 + 40)
                    note_memory(home, memory)
                    read_ticks(urls.dagster, urls.regime, told, findings)
                    done = f"{len(findings.ticks)} ticks, p50 {findings.percentile(50):.2f} s, p95 {findings.percentile(95):.2f} s"
                    say(f"{minute + 1}/{minutes}: {done}")
                findings.memory_mb = memory.memory_mb
            finally:
                stopped.set()
                up.stop()
    finally:
        stop_server(home)
        subprocess.run(["rm", "-rf", str(home)], check=False)  # noqa: S603, S607
    return findings


def listen(url: str, told: dict[int, float], stopped: threading.Event) -> None:
    """Note when the last word of each minute's bar was told: that of the transaction that completed it."""
    listener = PostgresBarListener(url)
    while not stopped.is_set():
        try:
            if Timeframe.M1 in listener.wait(1.0):
                at_s = utc_now().timestamp()
                told[int(at_s) // 60 * 60] = at_s
        except DatabaseError:
            stopped.wait(1.0)
    listener.close()


def read_ticks(dagster_url: str, url: str, told: dict[int, float], findings: Findings) -> None:
    """Read the runs of the tick for the bars that were told."""
    with psycopg.connect(plain(dagster_url)) as conn:
        runs = conn.execute(
            "select r.run_id, t.value, extract(epoch from r.create_timestamp at time zone 'utc') from runs r"
            " join run_tags t on t.run_id = r.run_id and t.key = 'regime/bar_ts' join run_tags k on k.run_id = r.run_id"
            # a bar that is slow to be decided is asked for again; what counts is the first run
            " and k.key = 'dagster/run_key' and k.value not like '%:again-%' where r.pipeline_name = 'pm_tick' order by t.value"
        ).fetchall()
        events = conn.execute(
            "select run_id, dagster_event_type, extract(epoch from timestamp at time zone 'utc') from event_logs"
            " where run_id = any(%s) and dagster_event_type = any(%s)",
            ([run for run, *_ in runs], list(EVENTS)),
        ).fetchall()
    at: dict[str, dict[str, float]] = {}
    for run, kind, when in events:
        at.setdefault(run, {})[kind] = float(when)
    ticks = []
    for run, bar, created in runs:
        close_s, seen = int(datetime.fromisoformat(bar).timestamp()) + 60, at.get(run, {})
        if close_s in told and set(EVENTS) <= set(seen):
            marks = [told[close_s], float(created), *(seen[name] for name in EVENTS[:3])]
            phases = {name: round(later - before, 3) for name, before, later in zip(PHASES, marks[:-1], marks[1:], strict=True)}
            step_s = round(seen["STEP_SUCCESS"] - seen["STEP_START"], 3)
            ticks.append(Tick(datetime.fromtimestamp(close_s).astimezone().isoformat(), round(marks[-1] - marks[0], 3), phases, step_s))
    findings.ticks = ticks
    ticked = {datetime.fromisoformat(tick.bar_close).timestamp() for tick in ticks}
    now_s = utc_now().timestamp()
    findings.unticked = [f"{close_s}" for close_s in sorted(told) if close_s not in ticked and now_s - close_s > 60]
    with psycopg.connect(url) as conn:
        findings.outcomes = dict(conn.execute("select outcome, count(*)::int from tick_runs group by 1 order by 1").fetchall())


def render(findings: Findings) -> str:
    """Draw the table: whole and phases, then what went wrong and what grew."""
    lines = [f"{len(findings.ticks)} ticks, new regime bar to first step, seconds", "", f"{'':10}{'p50':>8}{'p95':>8}{'max':>8}"]
    lines += [
        f"{phase or 'whole':10}" + "".join(f"{findings.percentile(p, phase):8.2f}" for p in (50, 95, 100)) for phase in (None, *PHASES)
    ]
    steps = sorted(tick.step_s for tick in findings.ticks) or [float("nan")]
    lines += [
        "",
        f"the step itself: p50 {steps[len(steps) // 2]:.2f} s, max {steps[-1]:.2f} s; outcomes {findings.outcomes}",
        f"bars without a tick: {len(findings.unticked)}",
    ]
    lines += [f"memory of {name}: {max(sizes):.0f} MB at most" for name, sizes in findings.memory_mb.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
