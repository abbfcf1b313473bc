"""`regime soak`: hours of the whole pipeline against the simulated venue with faults, and the verdict on what came out."""

import json
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from regime_pipeline.errors import RegimeError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from regime_pipeline.market.universe import Universe
    from regime_pipeline.settings import Settings
    from regime_pipeline.simulation.faults import FaultScript
    from regime_pipeline.simulation.soak import Diary
    from regime_pipeline.simulation.soak_verdict import BarVerdict, GapVerdict

START: Final = "2025-06-20T12:00:00+00:00"
"""A day's end lies in the middle of 24 hours from noon."""
ZEROS: Final = (
    "bars_missing",
    "bars_wrong",
    "bars_duplicate",
    "open_bars_used",
    "outliers_admitted",
    "outliers_unrefused",
    "gaps_open",
    "gaps_given_up_wrongly",
    "states_different",
)
HOURS_OF_A_DAY: Final = 24
MIN_FAULTS: Final = 20
"""Of each kind of the script in a day; shorter soaks are not long enough for all."""
LIVE_TIMEOUT_S: Final = 2.0
"""Real seconds a request may take: at 60 virtual seconds a second that is two minutes of the pipeline's life already."""


class SoakFailedError(RegimeError):
    """A soak ended with something that must not be."""


def soak(
    hours: Annotated[float, typer.Option(min=0.1, help="Virtual hours with faults.")] = 24.0,
    speed: Annotated[float, typer.Option(min=1, help="Virtual seconds per second.")] = 60.0,
    faults: Annotated[str, typer.Option(metavar="FILE|standard", help="Script of faults.")] = "standard",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the script's draws.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the two databases for a look; the next soak removes them.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as one JSON object.")] = False,
) -> None:
    """Live through hours of faulty venues at many times real pace, and compare what is stored with the truth and with a clean run.

    The soak has its own folder and database server under the home. Exit code 1 when anything is missing, wrong or different.
    """
    from rich.console import Console

    from regime_pipeline.adapters.postgres.embedded import stop_server
    from regime_pipeline.market.universe import load_universe
    from regime_pipeline.settings import load_settings
    from regime_pipeline.simulation.faults import load_script

    console = Console(stderr=as_json)
    settings = load_settings()
    home = settings.home / "soak"
    _remove(home)
    try:
        verdict = run_soak(settings, home, load_universe(settings.universe), load_script(faults), hours, speed, seed, console)
    finally:
        stop_server(home)
        if not keep:
            _remove(home)
    if as_json:
        typer.echo(json.dumps(verdict, indent=2))
    _show(verdict, console)
    problems = find_problems(verdict)
    if problems:
        raise SoakFailedError(f"the soak failed: {'; '.join(problems)}. See the examples; --keep leaves the databases for a look.")


def run_soak(
    settings: "Settings",
    home: "Path",
    universe: "Universe",
    script: "FaultScript",
    hours: float,
    speed: float,
    seed: int,
    console: "Console",
) -> dict[str, Any]:
    """Run a soak in `home` and return the verdict."""
    from regime_pipeline.adapters.postgres.connect import database_urls
    from regime_pipeline.adapters.postgres.embedded import ensure_server
    from regime_pipeline.adapters.postgres.soak_audit import PostgresSoakAudit
    from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
    from regime_pipeline.adapters.venues.generated import GeneratedMarket
    from regime_pipeline.adapters.venues.live import LiveMarket
    from regime_pipeline.adapters.venues.stream import build_streams
    from regime_pipeline.cli.session import open_migrated_stores, read_instant
    from regime_pipeline.clock import monotonic_s
    from regime_pipeline.simulation.clock import VirtualClock
    from regime_pipeline.simulation.server import SimulatedVenue, serve
    from regime_pipeline.simulation.soak import Pauses, Plant, Soak
    from regime_pipeline.simulation.soak_verdict import Judge
    from regime_pipeline.simulation.soak_witness import Witness

    began_s = monotonic_s()
    server = ensure_server(home, settings.postgres_bin)
    ours, clean = (settings.model_copy(update={"home": home, "database_url": server.url(name)}) for name in ("soak", "clean"))
    stores, clean_stores = open_migrated_stores(ours), open_migrated_stores(clean)
    url = database_urls(ours).regime
    clock = VirtualClock(read_instant(START), 0.0)
    venue = SimulatedVenue(GeneratedMarket(universe, settings.generated_seed), universe, clock, script, seed)
    pauses = Pauses(speed)
    seconds: dict[str, float] = {}
    memory_mb: list[float] = []

    def tell(line: str) -> None:
        memory_mb.append(round(_peak_mb(), 1))
        console.print(f"  {line}, {memory_mb[-1]:g} MB", highlight=False)

    with serve(venue) as served:
        live = ours.model_copy(update={"venue_url": served.url, "fetch_timeout_s": LIVE_TIMEOUT_S})
        ledger = PostgresVenueLedger(url)
        market = LiveMarket(
            universe,
            ledger,
            venue_url=served.url,
            timeout_s=LIVE_TIMEOUT_S,
            coingecko_plan="keyless",
            coingecko_key=None,
            coingecko_monthly_calls=settings.coingecko_monthly_calls,
            clock=clock.now,
            sleep=pauses,
        )
        plant = Plant(stores, Witness(market, served.truth, universe), universe, ledger, build_streams(universe, live), served)
        run = Soak(plant, speed, tell)
        with _timed("history", seconds, console):
            run.fetch_history()
        with _timed(f"{hours:g} hours at {speed:g}x", seconds, console):
            run.run(hours)
        with _timed("settling", seconds, console):
            now_s = run.settle()
        judge = Judge(served.truth, universe, stores, int(clock.start_s), now_s)
        with _timed("bars against the truth", seconds, console):
            bars, gaps = judge.judge_bars(plant.market.lies), judge.judge_gaps()
        with _timed("clean run", seconds, console):
            judge.fill_clean(clean_stores, plant.market.caps)
        with _timed("states against the clean run", seconds, console):
            states = judge.compare_derived(clean_stores)
        with stores.open() as work:
            audit = PostgresSoakAudit(work.conn)
            refused, revisions = audit.count_refused(), sum(map(len, audit.load_replaced().values()))
    stores.close()
    clean_stores.close()
    return {
        "hours": hours,
        "speed": speed,
        "seed": seed,
        **_describe_bars(bars),
        **_describe_gaps(gaps),
        "states_different": sum(states.different.values()),
        "rows_compared": states.compared,
        "rows_different": states.different,
        "faults": {kind.value: served.faults.get(kind.value, 0) for kind in sorted(script.kinds())},
        "revisions": revisions,
        "quarantined": refused,
        **_describe_diary(run.diary),
        "retries": pauses.count,
        "requests": dict(venue.requests),
        "memory_peak_mb": round(_peak_mb(), 1),
        "memory_by_hour_mb": memory_mb,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "wall_s": round(monotonic_s() - began_s, 1),
        "examples": [*bars.examples, *gaps.examples, *states.examples],
    }


def find_problems(verdict: dict[str, Any]) -> list[str]:
    """Name what must be zero and is not, and in a day or more the kinds of fault that were too rare to have shown anything."""
    problems = [f"{name} was {verdict[name]}" for name in ZEROS if verdict[name]]
    if verdict["hours"] >= HOURS_OF_A_DAY:
        problems += [f"{kind} happened {count} times of {MIN_FAULTS}" for kind, count in verdict["faults"].items() if count < MIN_FAULTS]
    return problems


def _describe_bars(bars: "BarVerdict") -> dict[str, Any]:
    names = {"missing": "bars_missing", "wrong": "bars_wrong", "duplicate": "bars_duplicate", "open_used": "open_bars_used"}
    names |= {"compared": "bars_compared", "second_choice": "bars_second_choice"}
    return {names.get(name, name): value for name, value in asdict(bars).items() if name != "examples"}


def _describe_gaps(gaps: "GapVerdict") -> dict[str, int]:
    return {f"gaps_{name}": value for name, value in asdict(gaps).items() if name != "examples"}


def _describe_diary(diary: "Diary") -> dict[str, Any]:
    late = sorted(diary.after_close_s) or [0.0]
    return {
        "runs": dict(diary.runs),
        "steps_failed": dict(diary.failed),
        "last_failures": diary.words,
        "questions_failed": diary.vendors_not_read,
        "gaps_asked": diary.gaps_asked,
        "gaps_found": diary.gaps_found,
        "halts": dict(diary.halts),
        "halts_ended_by_operator": diary.resumed,
        "collectors_started": diary.collectors,
        "collector_bars": diary.collector_bars,
        "after_close_virtual_s": {
            "p50": round(late[len(late) // 2], 1),
            "p95": round(late[len(late) * 95 // 100], 1),
            "max": round(late[-1], 1),
        },
        "bars_at_once": diary.bars_at_once,
    }


def _show(verdict: dict[str, Any], console: "Console") -> None:
    """Draw a verdict for people."""
    from rich import box
    from rich.table import Table

    table = Table(title="Verdict", box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name in ZEROS:
        table.add_row(name, f"[{'red' if verdict[name] else 'green'}]{verdict[name]}[/]")
    for name in ("bars_compared", "revisions", "outliers_delivered", "gaps_closed", "gaps_of_vendors", "halts_ended_by_operator"):
        table.add_row(name, f"{verdict[name]:,}")
    console.print(table)
    kinds = Table(title="Faults", box=box.SIMPLE, show_header=False)
    kinds.add_column()
    kinds.add_column(justify="right")
    for kind, count in verdict["faults"].items():
        kinds.add_row(kind, str(count))
    console.print(kinds)
    late = verdict["after_close_virtual_s"]
    pace = f"p50 {late['p50']:g} s, p95 {late['p95']:g} s, at most {late['max']:g} s of virtual time"
    console.print(f"minutes were done {pace} after their end, up to {verdict['bars_at_once']} at once", highlight=False)
    console.print(f"{verdict['wall_s']:g} s in all, memory at its peak {verdict['memory_peak_mb']:g} MB", highlight=False)
    for line in verdict["examples"]:
        console.print(f"  {line}", highlight=False, soft_wrap=True)


@contextmanager
def _timed(name: str, seconds: dict[str, float], console: "Console") -> Iterator[None]:
    from regime_pipeline.clock import monotonic_s

    began_s = monotonic_s()
    yield
    seconds[name] = monotonic_s() - began_s
    console.print(f"{name}: {seconds[name]:.1f} s", highlight=False)


def _remove(home: "Path") -> None:
    from regime_pipeline.adapters.postgres.embedded import stop_server

    if home.exists():
        stop_server(home)
        shutil.rmtree(home)


def _peak_mb() -> float:
    """Memory this process has had at most; macOS counts it in bytes, Linux in KB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
