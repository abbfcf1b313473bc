"""`regime collect`: the resident collector."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from regime_pipeline.services.collect_bars import Flush


def collect(as_json: Annotated[bool, typer.Option("--json", help="Print every write as one line of JSON.")] = False) -> None:
    """Listen to the venues with `stream = true` and write each minute's closed bars five seconds after its end; ctrl-C stops.

    It makes the minute faster, never more right: what it misses, the next run asks for. `regime up --live` runs it beside the daemon.
    """
    import asyncio
    import signal

    from regime_pipeline.adapters.postgres.connect import database_urls
    from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
    from regime_pipeline.adapters.postgres.work import PostgresStores
    from regime_pipeline.adapters.venues.stream import build_streams
    from regime_pipeline.errors import ConfigError
    from regime_pipeline.market.universe import load_universe
    from regime_pipeline.services.collect_bars import Collector
    from regime_pipeline.settings import load_settings

    settings = load_settings()
    universe = load_universe(settings.universe)
    streams = build_streams(universe, settings)
    if not streams:
        raise ConfigError("no venue of the universe has stream = true and a series. Set it in [venues], or do without the collector.")
    url = database_urls(settings).regime

    def tell(flush: "Flush") -> None:
        typer.echo(json.dumps(flush_document(flush)) if as_json else spell_flush(flush))

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        collector = Collector(
            PostgresStores(url), universe, streams, PostgresVenueLedger(url), instance=settings.instance_name, on_flush=tell
        )
        await collector.run(stop)

    if not as_json:
        for stream in streams:
            typer.echo(f"listening to {len(stream.symbols)} markets of {stream.venue}")
    asyncio.run(run())


def flush_document(flush: "Flush") -> dict[str, object]:
    """Spell a write for programs."""
    from regime_pipeline.cli.session import iso_time

    venues = {
        venue: {"written": each.written, "unchanged": each.unchanged, "quarantined": each.quarantined, "series": len(each.series)}
        for venue, each in flush.venues.items()
    }
    return {
        "at": iso_time(flush.at_s),
        "bar": iso_time(flush.newest_s),
        "after_close_s": round(flush.after_close_s, 3),
        "venues": venues,
    }


def spell_flush(flush: "Flush") -> str:
    """Spell a write for people."""
    from regime_pipeline.cli.session import show_time

    parts = ", ".join(f"{venue} {each.written + each.unchanged}" for venue, each in flush.venues.items())
    return f"{show_time(flush.newest_s)}  {parts} bars, {flush.after_close_s:.1f} s after the close"
