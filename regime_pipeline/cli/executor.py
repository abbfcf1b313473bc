"""`regime executor`: the resident process that sends, reads, cancels, stops and reconciles."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from regime_pipeline.services.trading.context import Trading
    from regime_pipeline.services.trading.recover import SelfTest
    from regime_pipeline.services.trading.run_executor import Helpers, Tell
    from regime_pipeline.settings import Settings


def executor(as_json: Annotated[bool, typer.Option("--json", help="Print every event as one line of JSON.")] = False) -> None:
    """Look after the account of these settings: recover, then orders, stops, reconciliation and kill levels until ctrl-C or SIGTERM.

    One per account: a second one waits for the lease and does nothing. `regime up` keeps one running on paper; outside paper it is
    started by the user who holds the keys. Exit code 1 when it ended by itself.
    """
    import signal
    from threading import Event

    from regime_pipeline.services.trading.open_account import open_account
    from regime_pipeline.services.trading.run_executor import run_executor
    from regime_pipeline.settings import load_settings

    settings = load_settings()
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())

    def tell(event: str, facts: Mapping[str, object]) -> None:
        typer.echo(json.dumps({"event": event, **facts}, default=str) if as_json else spell_event(event, facts))

    with own_trading(settings) as trading:
        open_account(trading)
        tell("started", {"account": trading.terms.account, "mode": trading.terms.mode.value, "enabled": trading.terms.trading_enabled})
        run_executor(trading, stopped, build_helpers(settings, trading, tell))
    raise typer.Exit(0 if stopped.is_set() else 1)


@contextmanager
def own_trading(settings: "Settings") -> Iterator["Trading"]:
    """Build the order path with the keys of this environment, on a database whose schema is current; its connections are closed after."""
    from regime_pipeline.cli.session import open_stores
    from regime_pipeline.orchestration.trading import build_trading
    from regime_pipeline.settings import load_executor_secrets

    stores = open_stores(settings)
    trading = build_trading(settings, stores=stores, secrets=load_executor_secrets())
    try:
        yield trading
    finally:
        close = getattr(trading.broker, "close", None)  # one that keeps a connection open has it
        if close is not None:
            close()
        stores.close()


def build_helpers(settings: "Settings", trading: "Trading", tell: "Tell") -> "Helpers":
    """Give the loop its ears, its mirror and its self-test."""
    from regime_pipeline.adapters.kill_mirror_file import MIRROR_NAME, MirrorFile
    from regime_pipeline.adapters.postgres.connect import database_urls
    from regime_pipeline.adapters.postgres.order_listener import PostgresOrderListener
    from regime_pipeline.services.trading.run_executor import Helpers

    listener = PostgresOrderListener(database_urls(settings).regime, trading.terms.account)
    return Helpers(listener, MirrorFile(settings.kill_dir / MIRROR_NAME), build_self_test(settings), tell)


def build_self_test(settings: "Settings") -> "SelfTest":
    """What must be true of this installation: a current schema, and a scheduler whose driver can notify."""

    def check() -> None:
        from regime_pipeline.adapters.postgres.connect import DAGSTER_SCHEME, database_urls
        from regime_pipeline.cli.session import open_stores
        from regime_pipeline.errors import ConfigError

        open_stores(settings).close()
        scheme = database_urls(settings).dagster.partition("://")[0]
        if scheme != DAGSTER_SCHEME:
            raise ConfigError(f"Dagster's database address began with {scheme}, must be {DAGSTER_SCHEME}; its runs would never start")

    return check


def spell_event(event: str, facts: Mapping[str, object]) -> str:
    """Spell an event for people."""
    match event:
        case "ready":
            return f"READY in {facts['took_ms']} ms"
        case "not_ready":
            return f"not ready, entries stay off: {facts['failed']} failed: {facts['why']}"
        case "outage":
            return f"the database is away: {facts['why']}"
        case "ended":
            return f"ended: {facts['why']}"
    return f"{event}: " + ", ".join(f"{name} {value}" for name, value in facts.items() if value not in (None, "", [], {}))
