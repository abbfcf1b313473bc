"""`regime sim`: every venue of the universe and CoinGecko on one loopback port."""

import json
import signal
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from regime_pipeline.settings import load_settings

if TYPE_CHECKING:
    from regime_pipeline.market.universe import Universe
    from regime_pipeline.ports import BarSource
    from regime_pipeline.settings import Settings
    from regime_pipeline.simulation.server import Served

GENERATED = "generated"


def sim(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any free one.")] = 8900,
    data: Annotated[
        str, typer.Option(metavar="FOLDER|generated", help="Recorded bars, or the generated market of the settings.")
    ] = GENERATED,
    speed: Annotated[float, typer.Option(min=0, help="Virtual seconds per second. Other than 1, only clients on its clock fit.")] = 1.0,
    start: Annotated[str | None, typer.Option(metavar="TIME", help="Virtual time at the start, with a zone; unset: now.")] = None,
    faults: Annotated[str | None, typer.Option(metavar="FILE|standard", help="Script of faults; unset: nothing goes wrong.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the script's draws.")] = 0,
    bodies: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Recorded error bodies to answer with.")] = None,
    is_trading: Annotated[
        bool, typer.Option("--trading", help="Trade too: Binance spot and Bybit perpetuals, 100 000 USDT each, at the prices of the bars.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when it listens and one when it stops.")] = False,
) -> None:
    """Simulate the venues on this machine until ctrl-C, and say how to point the product at them."""
    from regime_pipeline.cli.session import read_instant
    from regime_pipeline.market.universe import load_universe
    from regime_pipeline.simulation.clock import VirtualClock
    from regime_pipeline.simulation.faults import FaultScript, load_script
    from regime_pipeline.simulation.server import SimulatedVenue, serve

    settings = load_settings()
    universe = load_universe(settings.universe)
    clock = VirtualClock(read_instant(start), speed)
    script = load_script(faults) if faults else FaultScript()
    venue = SimulatedVenue(_open_market(settings, universe, data), universe, clock, script, seed, bodies)
    if is_trading:
        venue.open_floor()
    stop = Event()
    previous = [signal.signal(each, lambda *_: stop.set()) for each in (signal.SIGINT, signal.SIGTERM)]
    try:
        with serve(venue, port) as served:
            typer.echo(json.dumps(_started(served)) if as_json else _invite(served, data))
            stop.wait()
    finally:
        for each, handler in zip((signal.SIGINT, signal.SIGTERM), previous, strict=True):
            signal.signal(each, handler)
    typer.echo(json.dumps({"requests": dict(venue.requests), "faults": dict(served.faults)}) if as_json else _farewell(served))


def _open_market(settings: "Settings", universe: "Universe", data: str) -> "BarSource":
    if data == GENERATED:
        from regime_pipeline.adapters.venues.generated import GeneratedMarket

        return GeneratedMarket(universe, settings.generated_seed)
    from regime_pipeline.adapters.venues.recorded import RecordedMarket

    return RecordedMarket(Path(data))


def _started(served: "Served") -> dict[str, object]:
    floor = served.venue.trading
    return {
        "url": served.url,
        "now": served.venue.clock.now().isoformat(),
        "speed": served.venue.clock.speed,
        "env": environment(served.url),
        **({"keys": {kind: floor.keys[kind].key for kind in floor.keys.kinds()}} if floor else {}),
    }


def environment(url: str) -> dict[str, str]:
    """Name the settings that point the product at a simulated venue."""
    return {"REGIME_SOURCE": "live", "REGIME_VENUE_URL": url, "REGIME_COINGECKO_PLAN": "pro"}


def _invite(served: "Served", data: str) -> str:
    clock = served.venue.clock
    variables = " ".join(f"{name}={value}" for name, value in environment(served.url).items())
    return (
        f"simulated venue at {served.url}, {'generated market' if data == GENERATED else data}, "
        f"{clock.now():%Y-%m-%d %H:%M:%S} UTC at {clock.speed:g}x; ctrl-C stops it\n"
        f"point the product at it:\n  {variables} .venv/bin/regime up\n"
        f"look at it:\n  {served.url}/sim/status"
        + (f"\ntrade at it with the keys of {served.url}/sim/trading/keys" if served.venue.trading else "")
    )


def _farewell(served: "Served") -> str:
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(served.faults.items())) or "none"
    return f"stopped after {sum(served.venue.requests.values())} requests; faults: {faults}"
