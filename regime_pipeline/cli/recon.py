"""`regime reconcile`, `recover`, `recon adjust` and `incidents`: our book against the venue's, and what people say to it."""

import json
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regime_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from regime_pipeline.ports import Incident
    from regime_pipeline.services.trading.reconcile import ReconSummary

recon_app = typer.Typer(name="recon", help="What reconciliation found, explained by a person.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def reconcile(
    full: Annotated[bool, typer.Option("--full", help="Positions, balances, cash and funding too.")] = False,
    as_json: Json = False,
) -> None:
    """Compare our book with the venue's now, as the executor does each minute, or each five minutes in full.

    Exit code 0 when clean, 2 with findings, 3 when something could not be read.
    """
    from regime_pipeline.cli.executor import own_trading
    from regime_pipeline.ports import PassStatus
    from regime_pipeline.services.trading.reconcile import reconcile_full, reconcile_orders
    from regime_pipeline.settings import load_settings

    with own_trading(load_settings()) as trading:
        summary = reconcile_full(trading) if full else reconcile_orders(trading)
    typer.echo(json.dumps(pass_document(summary), indent=2) if as_json else "\n".join(tell_pass(summary)))
    raise typer.Exit({PassStatus.OK: 0, PassStatus.FINDINGS: 2, PassStatus.UNKNOWN: 3}[summary.run.status])


def recover(as_json: Json = False) -> None:
    """Recover the account once, as the executor does at its start; safe at any time and as often as you like.

    Exit code 0 when it is ready, 3 when a step failed: then entries stay off.
    """
    from regime_pipeline.cli.executor import build_self_test, own_trading
    from regime_pipeline.services.trading.recover import recover as recover_now
    from regime_pipeline.settings import load_settings

    settings = load_settings()
    with own_trading(settings) as trading:
        done = recover_now(trading, build_self_test(settings))
    if as_json:
        document = {"ready": done.is_ready, "took_ms": done.took_ms, "steps_ms": done.steps_ms, "failed": done.failed, "why": done.why}
        typer.echo(json.dumps({**document, "notes": done.notes}, indent=2, default=str))
    else:
        for name, took_ms in done.steps_ms.items():
            typer.echo(f"  {name:16} {took_ms:6} ms{'  FAILED' if name == done.failed else ''}")
        typer.echo(f"READY in {done.took_ms} ms" if done.is_ready else f"not ready, entries stay off: {done.why}")
    raise typer.Exit(0 if done.is_ready else 3)


@recon_app.command("adjust")
def adjust_command(
    asset: Annotated[str, typer.Option(help="Asset, as USDT.")],
    amount: Annotated[str, typer.Option(help="What the ledger lacks, positive; what it has too much, negative.")],
    by: Annotated[str, typer.Option("--by", help="Your name; kept for ever.")],
    reason: Annotated[str, typer.Option(help="What explains it; kept for ever.")],
    flow: Annotated[bool, typer.Option("--flow", help="It is a deposit or a withdrawal, no profit or loss.")] = False,
) -> None:
    """Book what explains a difference; entries that wait for it open after two clean full passes."""
    from regime_pipeline.cli.executor import own_trading
    from regime_pipeline.services.trading.book_by_hand import ByHand, book_by_hand
    from regime_pipeline.settings import load_settings

    with own_trading(load_settings()) as trading:
        book_by_hand(trading, ByHand(asset, read_amount(amount), by, reason, flow))
    typer.echo(f"booked {amount} {asset} as {'a flow' if flow else 'an adjustment'}, by {by}: {reason}")


def incidents(
    ack: Annotated[int | None, typer.Option("--ack", help="Number of an incident that you know of now.")] = None,
    close: Annotated[int | None, typer.Option("--close", help="Number of an incident that is over.")] = None,
    by: Annotated[str, typer.Option("--by", help="Your name, with --ack or --close.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Those that are closed too.")] = False,
    as_json: Json = False,
) -> None:
    """Show what went wrong on the order path, or say that you know of it: entries that wait for you open after two passes."""
    from regime_pipeline.cli.session import open_stores
    from regime_pipeline.services.trading.incidents import ack_incident, close_by_number
    from regime_pipeline.settings import load_settings

    with open_stores(load_settings()).open() as work:
        if ack is not None:
            ack_incident(work, ack, by)
        if close is not None:
            close_by_number(work, close, by)
        found = work.recon.load_incidents(with_closed=everything)
    if as_json:
        typer.echo(json.dumps({"incidents": [incident_document(each) for each in found]}, indent=2))
        return
    for each in found:
        typer.echo(tell_incident(each))
    if not found:
        typer.echo("no incident is open" if not everything else "there never was an incident")


def read_amount(text: str) -> Decimal:
    """Read an exact amount.

    Raises
    ------
    BadInputError
        When it is no number.
    """
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise BadInputError(f"amount was {text!r}; write it as -12.5") from error


def pass_document(summary: "ReconSummary") -> dict[str, Any]:
    """Spell a pass for programs."""
    run = summary.run
    names = ("check", "scope", "tier", "expected", "actual", "diff", "drift_frac", "action", "repeats")
    return {
        "account": run.account,
        "kind": run.kind.value,
        "status": run.status.value,
        "took_ms": run.ended_ms - run.began_ms,
        "unknown": run.detail.get("unknown", []),
        "findings": [{name: _plain(getattr(each, name)) for name in names} for each in run.findings],
        "raised": [[pause.source.value, pause.symbol] for pause in summary.raised],
        "lifted": [[pause.source.value, pause.symbol] for pause in summary.lifted],
        "needs_second": summary.needs_second,
    }


def tell_pass(summary: "ReconSummary") -> list[str]:
    """Tell a pass to a person, one line per finding."""
    run = summary.run
    lines = [f"{run.kind} pass of {run.account}: {run.status}, {run.ended_ms - run.began_ms} ms"]
    lines += [f"  unknown   {why}" for why in run.detail.get("unknown", [])]
    for each in run.findings:
        sides = "" if each.expected is None else f" ledger {_short(each.expected)} venue {_short(each.actual)}"
        lines.append(f"  {each.tier:9} {each.check} {each.scope}{sides}{f' -> {each.action}' if each.action else ''}")
    if summary.needs_second:
        lines.append("  a difference counts when a second pass, five seconds later or more, finds the same")
    return lines


def incident_document(incident: "Incident") -> dict[str, Any]:
    """Spell an incident for programs."""
    from regime_pipeline.cli.session import iso_time

    return {
        "id": incident.incident_id,
        "kind": incident.kind,
        "severity": incident.severity.value,
        "scope": incident.scope,
        "opened_at": iso_time(incident.opened_ms // 1000),
        "repeats": incident.repeats,
        "acked_by": incident.acked_by,
        "closed_by": incident.closed_by,
        "runbook": incident.runbook,
        "evidence": dict(incident.evidence),
    }


def tell_incident(incident: "Incident") -> str:
    """Tell an incident to a person, in one line."""
    from regime_pipeline.cli.session import show_time

    state = f", closed by {incident.closed_by}" if incident.closed_by else f", known to {incident.acked_by}" if incident.acked_by else ""
    again = f", {incident.repeats + 1} times" if incident.repeats else ""
    when = show_time(incident.opened_ms // 1000)
    return f"{incident.incident_id:4} {incident.severity:8} {when} {incident.kind} {incident.scope}{again}{state}"


def _plain(value: object) -> object:
    return format(value, "f") if isinstance(value, Decimal) else value


def _short(value: Decimal | None) -> str:
    return "?" if value is None else f"{value.normalize():f}"
