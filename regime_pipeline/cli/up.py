"""`regime up`: database, Dagster web server, daemon and collector."""

from typing import Annotated

import typer

from regime_pipeline.settings import load_settings


def up(
    host: Annotated[
        str, typer.Option(help="Where the web server listens. Other than 127.0.0.1 lets the whole network launch runs.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Its port; unset: the first free one from 3000 on.")] = None,
    daemon: Annotated[bool, typer.Option("--daemon/--no-daemon", help="Run schedules, sensors, queue and backfills.")] = True,
    read_only: Annotated[bool, typer.Option("--read-only", help="Look only: the web server refuses to launch or switch anything.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Bars from the venues of the universe file: history first if there is none, then the collector.")
    ] = False,
) -> None:
    """Start the database, migrate it, serve Dagster's UI and run the schedules; ctrl-C stops all.

    The web server asks no password and takes launch requests from any page open in the same browser: --read-only refuses them.
    """
    from regime_pipeline.orchestration.up import UpOptions, run_up

    run_up(load_settings(), UpOptions(host, port, daemon, read_only, live), typer.echo)
