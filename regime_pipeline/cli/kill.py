"""`regime kill` and `regime release`: stopping orders with nothing to rely on, and the only way back."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from getpass import getuser
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.clock import utc_now
from regime_pipeline.errors import BadInputError
from regime_pipeline.settings import Settings, load_executor_secrets, load_settings

if TYPE_CHECKING:
    from regime_pipeline.ports import Broker, Stores
    from regime_pipeline.risk.kill_switch import Scope, Switch
    from regime_pipeline.services.trading.switch_kill import KillReport, KillTools

PAPER_PATIENCE_S: Final = 5.0
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Account = Annotated[str | None, typer.Option(help="For one account; default: for everybody.")]
Strategy = Annotated[str | None, typer.Option(help="For one strategy of the account.")]
Symbol = Annotated[str | None, typer.Option(help="For one symbol of the account.")]


def kill(
    level: Annotated[str, typer.Option(help="L1 no entries, L2 reduce only, L3 cancel all but stops, L4 the executor ends.")],
    reason: Annotated[str, typer.Option(help="Why; kept for ever.")],
    account: Account = None,
    strategy: Strategy = None,
    symbol: Symbol = None,
    by: Annotated[str | None, typer.Option(help="Your name; default: the user of this machine.")] = None,
    as_json: Json = False,
) -> None:
    """Stop orders at once: a file, the table if it answers in 2 s, then cancels straight at the venue. Needs neither Dagster nor Postgres.

    Exit code 0 when every part succeeded, 2 when creates are stopped and something else failed, 1 when nothing could be stopped.
    """
    from regime_pipeline.risk.kill_switch import Level, Switch
    from regime_pipeline.services.trading.kill_levels import MANUAL
    from regime_pipeline.services.trading.switch_kill import kill as kill_now

    levels = {f"L{each.value}": each for each in Level if each is not Level.NORMAL}
    if level.upper() not in levels:
        raise BadInputError(f"level was {level!r}, allowed are {', '.join(levels)}; `regime release` brings a level down")
    if not reason.strip():
        raise BadInputError("reason was empty; say why, it is what the next person reads")
    settings = load_settings()
    scope = read_scope(settings, account, strategy, symbol)
    report = kill_now(build_tools(settings), Switch(scope, levels[level.upper()], MANUAL, by or getuser(), reason, read_now_s()))
    typer.echo(json.dumps(report_document(report), indent=2) if as_json else "\n".join(tell_report(report)))
    raise typer.Exit(0 if report.is_complete else 2 if report.is_latched else 1)


def release(
    by: Annotated[str, typer.Option(help="Your name.")],
    reason: Annotated[str, typer.Option(help="Why orders may leave again; kept for ever.")],
    second_by: Annotated[str, typer.Option(help="The second person; needed for L3 and L4 in live.")] = "",
    account: Account = None,
    strategy: Strategy = None,
    symbol: Symbol = None,
    as_json: Json = False,
) -> None:
    """Take kill levels back, in table and file together; without a scope, all that are in force for this account.

    Refused without a name and a reason, without a clean full reconciliation in the last 300 s, with an order that is UNKNOWN, on the day
    of a daily loss, and for L3 and L4 in live without a second person.
    """
    from regime_pipeline.adapters.latch_file import LATCH_NAME, LatchFile
    from regime_pipeline.cli.session import open_stores
    from regime_pipeline.risk.arm import Mode
    from regime_pipeline.services.trading.kill_levels import Release, clear_latch, load_levels
    from regime_pipeline.services.trading.kill_levels import release as release_now

    settings = load_settings()
    latch, mode = LatchFile(settings.kill_dir / LATCH_NAME), Mode(settings.trading_mode)
    is_named = any((account, strategy, symbol))
    with open_stores(settings).open() as work:
        in_force = load_levels(work, latch, settings.trading_account)
        scopes = [read_scope(settings, account, strategy, symbol)] if is_named else list(dict.fromkeys(s.scope for s in in_force))
        released = [
            switch
            for scope in scopes
            for switch in release_now(work, latch, Release(scope, by, reason, second_by), mode=mode, now_s=read_now_s())
        ]
    for scope in scopes:
        clear_latch(latch, scope)
    if as_json:
        typer.echo(json.dumps({"released": [switch_document(switch) for switch in released]}, indent=2))
        return
    for switch in released:
        typer.echo(f"released L{switch.level.value} {switch.scope.text} ({switch.source}): {switch.reason}")
    if not released:
        typer.echo("nothing was in force")


def read_scope(settings: Settings, account: str | None, strategy: str | None, symbol: str | None) -> "Scope":
    """Read whom a level is for; a strategy or symbol is one of an account, by default ours."""
    from regime_pipeline.risk.kill_switch import Scope

    return Scope(account or (settings.trading_account if strategy or symbol else None), strategy, symbol)


def build_tools(settings: Settings) -> "KillTools":
    """Gather what a kill may use; opens and starts nothing."""
    from regime_pipeline.adapters.kill_mirror_file import MIRROR_NAME, MirrorFile
    from regime_pipeline.adapters.latch_file import LATCH_NAME, LatchFile
    from regime_pipeline.services.trading.cancel_round import PARTIAL_S
    from regime_pipeline.services.trading.switch_kill import KillTools

    def open_existing() -> "Stores":
        from regime_pipeline.adapters.postgres.connect import find_running_url
        from regime_pipeline.adapters.postgres.work import PostgresStores

        return PostgresStores(find_running_url(settings))

    return KillTools(
        LatchFile(settings.kill_dir / LATCH_NAME),
        MirrorFile(settings.kill_dir / MIRROR_NAME),
        open_existing,
        accounts=(settings.trading_account,),
        brokers={settings.trading_account: open_venue(settings)},
        # a cancel on paper is confirmed when the minute has closed: the executor sees to that, nobody waits for it here
        patience_s=PAPER_PATIENCE_S if settings.trading_mode == "paper" else PARTIAL_S,
    )


def open_venue(settings: Settings) -> "Callable[[], AbstractContextManager[Broker]]":
    """Say how the account's venue is opened for cancels: with the kill key and no database; on paper that database is the venue."""

    @contextmanager
    def open_paper() -> "Iterator[Broker]":
        from regime_pipeline.adapters.brokers.paper import PaperBroker
        from regime_pipeline.adapters.postgres.connect import find_running_url
        from regime_pipeline.adapters.postgres.work import PostgresStores
        from regime_pipeline.orchestration.trading import build_trading

        stores = PostgresStores(find_running_url(settings))
        broker = build_trading(settings, stores=stores).broker
        try:
            yield broker
        finally:
            stores.close()
            if isinstance(broker, PaperBroker):
                broker.close()

    @contextmanager
    def open_real() -> "Iterator[Broker]":
        from regime_pipeline.adapters.brokers.start import TradingAccount, build_kill_broker
        from regime_pipeline.risk.arm import Mode

        account = TradingAccount(
            settings.trading_exchange or "",
            settings.trading_market,
            settings.trading_account,
            Mode(settings.trading_mode),
            settings.trading_quote,
            settings.venue_url if settings.trading_mode == "sandbox" else None,
        )
        yield build_kill_broker(load_executor_secrets(), account, lambda: round(utc_now().timestamp() * 1000))

    return open_paper if settings.trading_mode == "paper" else open_real


def switch_document(switch: "Switch") -> dict[str, Any]:
    """Spell a level for programs."""
    scope = {"account": switch.scope.account, "strategy": switch.scope.strategy, "symbol": switch.scope.symbol}
    return {**scope, "level": f"L{switch.level.value}", "source": switch.source, "by": switch.actor, "reason": switch.reason}


def report_document(report: "KillReport") -> dict[str, Any]:
    """Spell a report for programs."""
    venues = [
        {"account": v.account, "asked": v.asked, "done": v.is_done, "problem": v.problem, "mirror_age_s": v.mirror_age_s}
        for v in report.venues
    ]
    return {
        **switch_document(report.switch),
        "latched": report.is_latched,
        "complete": report.is_complete,
        "file": report.file_problem or "written",
        "table": report.table_problem or "written",
        "venues": venues,
        "seconds": round(report.seconds, 3),
    }


def tell_report(report: "KillReport") -> list[str]:
    """Tell a report to a person, one line per part."""
    lines = [
        f"L{report.switch.level.value} for {report.switch.scope.text}, by {report.switch.actor}: {report.switch.reason}",
        f"file:  {report.file_problem or 'written; no create leaves any more'}",
        f"table: {report.table_problem or 'written'}",
    ]
    for venue in report.venues:
        age = "no mirror" if venue.mirror_age_s is None else f"mirror {venue.mirror_age_s} s old"
        outcome = "nothing is left to cancel" if venue.is_done else f"PARTIAL: {venue.problem}"
        lines.append(f"venue: {venue.account}: {venue.asked} cancels asked ({age}); {outcome}")
    return [*lines, f"took {report.seconds:.1f} s; `regime release --by NAME --reason TEXT` is the way back"]
