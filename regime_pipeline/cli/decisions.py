"""`regime plan`, `regime decisions`, `regime replay-tick`: what would be decided, what was decided, and whether it would be again."""

import json
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from regime_pipeline.market.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from regime_pipeline.ports import DecisionHead, StoredLine
    from regime_pipeline.services.trading.plan_tick import PlannedTick
    from regime_pipeline.services.trading.replay_tick import TickReplay

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def plan(
    timeframe: Annotated[Timeframe, typer.Option(help="Execution timeframe: which strategy.")] = Timeframe.H1,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="The bar closed by then, with its zone; default: the newest.")] = None,
    as_json: Json = False,
) -> None:
    """Show what the next tick would decide on the positions as they are now; writes nothing and asks no venue."""
    from regime_pipeline.cli.session import open_stores, read_instant
    from regime_pipeline.market.universe import load_universe
    from regime_pipeline.orchestration.trading import build_trading
    from regime_pipeline.services.trading.load_tick import TickTerms
    from regime_pipeline.services.trading.plan_tick import plan_tick
    from regime_pipeline.settings import load_settings

    settings = load_settings()
    trading = build_trading(settings, stores=open_stores(settings))
    close_s = None if at is None else timeframe.floor(read_instant(at))
    planned = plan_tick(trading, load_universe(settings.universe), timeframe, close_s, TickTerms(min_validity=settings.min_validity))
    if as_json:
        typer.echo(json.dumps(plan_document(planned), indent=2, allow_nan=False))
        return
    from rich.console import Console

    Console().print(build_plan(planned))


def decisions(
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 20,
    symbol: Annotated[str | None, typer.Option(help="Only the lines of one symbol or token: AAVE/USDT, AAVE.")] = None,
    as_json: Json = False,
) -> None:
    """Show what was decided: bars with their outcomes, or every line of one symbol with its reasons."""
    from regime_pipeline.cli.session import open_stores
    from regime_pipeline.settings import load_settings

    settings = load_settings()
    with open_stores(settings).open() as work:
        if symbol is not None:
            named = symbol if "/" in symbol else f"{symbol}/{settings.trading_quote}"
            lines = work.journal.list_lines(named, limit, settings.trading_account)
        else:
            heads = work.journal.list_decisions(limit, settings.trading_account)
    if as_json:
        found = [line_document(each) for each in lines] if symbol is not None else [head_document(each) for each in heads]
        name = "decisions" if symbol is None else "lines"
        typer.echo(json.dumps({"account": settings.trading_account, name: found}, indent=2, allow_nan=False))
        return
    from rich.console import Console

    Console().print(build_heads(heads) if symbol is None else build_lines(lines))


def replay_tick(
    decision_id: Annotated[UUID, typer.Argument(metavar="DECISION_ID", help="As `regime decisions` shows it.")],
    as_json: Json = False,
) -> None:
    """Compute a stored decision again from its stored inputs; exit code 1 when anything comes out differently."""
    from regime_pipeline.cli.session import open_stores
    from regime_pipeline.services.trading.replay_tick import replay_tick as replay
    from regime_pipeline.settings import load_settings

    with open_stores(load_settings()).open() as work:
        found = replay(work, decision_id)
    typer.echo(json.dumps(replay_document(found), indent=2) if as_json else "\n".join(tell_replay(found)))
    raise typer.Exit(0 if found.is_equal else 1)


def plan_document(planned: "PlannedTick") -> dict[str, Any]:
    """Write a plan as plain JSON values."""
    from regime_pipeline.cli.session import iso_time
    from regime_pipeline.portfolio.documents import write_plan

    inputs, texts = planned.snapshot.inputs, planned.texts
    return {
        "account": inputs.account,
        "strategy": inputs.strategy,
        "bar_close": iso_time(inputs.bar_close_s),
        "decision_id": str(texts.decision_id),
        "inputs_hash": texts.inputs_hash,
        "plan_hash": texts.plan_hash,
        "shared": inputs.shared_document(),
        "levers": json.loads(texts.levers),
        "lines": [
            {"symbol": line.symbol, "bucket": line.bucket, "plan": write_plan(line.plan), "inputs": given.document()}
            for line, given in zip(planned.decision.lines, inputs.lines, strict=True)
        ],
    }


def build_plan(planned: "PlannedTick") -> "Table":
    """Draw a plan for the terminal."""
    from rich import box
    from rich.table import Table

    from regime_pipeline.cli.session import show_time

    inputs = planned.snapshot.inputs
    book = inputs.book
    notes = [f"equity {book.equity_usd:,.2f}, free {book.free_cash_usd:,.2f}; the gate is asked when an order is written"]
    notes += [f"no entries: {code.value}, {why}" for code, why in inputs.entries_off]
    table = Table(
        title=f"{inputs.strategy} on {inputs.account}, bar closed {show_time(inputs.bar_close_s)} UTC",
        caption="\n".join(notes),
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    for name in ("symbol", "state", "A", "E", "rule", "plan", "size", "why not"):
        table.add_column(name)
    for line in planned.decision.lines:
        found = line.plan
        table.add_row(
            line.symbol,
            found.state or "",
            f"{found.a_value:.2f}",
            f"{found.e_value:.2f}",
            found.rule or "",
            found.kind or found.outcome,
            _size(found.size.notional_usd, found.size.quantity) if found.size else "",
            " ".join(found.codes),
        )
    return table


def head_document(head: "DecisionHead") -> dict[str, Any]:
    """Write a decision's head as plain JSON values."""
    from regime_pipeline.cli.session import iso_time

    return {
        "decision_id": str(head.decision_id),
        "strategy": head.strategy,
        "bar_close": iso_time(head.bar_close_s),
        "decided_at": head.decided_at.isoformat(),
        "codes": list(head.codes),
        "lines": head.n_lines,
        "acted": head.n_acted,
        "skipped": head.n_skipped,
        "held": head.n_held,
        "plan": head.plan,
    }


def line_document(line: "StoredLine") -> dict[str, Any]:
    """Write a line as plain JSON values."""
    from regime_pipeline.cli.session import iso_time

    return {
        "decision_id": str(line.decision_id),
        "strategy": line.strategy,
        "symbol": line.symbol,
        "bar_close": iso_time(line.bar_close_s),
        "outcome": line.outcome,
        "rule": line.rule,
        "A_value": line.a_value,
        "E_value": line.e_value,
        "bucket": line.bucket,
        "codes": list(line.codes),
        "plan": line.plan,
        "gate": line.gate,
        "inputs": line.inputs,
        "client_order_id": line.client_order_id,
    }


def build_heads(heads: "Sequence[DecisionHead]") -> "Table":
    """Draw decisions for the terminal."""
    from rich import box
    from rich.table import Table

    from regime_pipeline.cli.session import show_time

    table = Table(title="Decisions", caption="`regime replay-tick ID` computes one again", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("bar close", "strategy", "lines", "acted", "skipped", "held", "actions, codes", "id"):
        table.add_column(name, overflow="fold")
    for head in heads:
        actions = " ".join(f"{symbol}:{found['kind']}" for symbol, found in head.plan["actions"].items())
        counts = (str(each) for each in (head.n_lines, head.n_acted, head.n_skipped, head.n_held))
        table.add_row(
            show_time(head.bar_close_s), head.strategy, *counts, f"{actions} {' '.join(head.codes)}".strip(), str(head.decision_id)
        )
    return table


def build_lines(lines: "Sequence[StoredLine]") -> "Table":
    """Draw the lines of a symbol for the terminal."""
    from rich import box
    from rich.table import Table

    from regime_pipeline.cli.session import show_time

    table = Table(title=f"Decisions about {lines[0].symbol if lines else 'nothing'}", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("bar close", "strategy", "state", "A", "E", "rule", "outcome", "codes", "why"):
        table.add_column(name)
    for line in lines:
        refused = [why for _, _, why in line.plan.get("refusals", [])] + [why for _, why in (line.gate or {}).get("findings", [])]
        table.add_row(
            show_time(line.bar_close_s),
            line.strategy,
            line.plan.get("state", ""),
            f"{line.a_value:.2f}",
            f"{line.e_value:.2f}",
            line.rule or "",
            line.plan.get("kind", line.outcome),
            " ".join(line.codes),
            "; ".join(refused),
        )
    return table


def replay_document(found: "TickReplay") -> dict[str, Any]:
    """Write a replay as plain JSON values."""
    from regime_pipeline.cli.session import iso_time

    stored = found.stored
    return {
        "decision_id": str(stored.decision_id),
        "strategy": stored.strategy,
        "bar_close": iso_time(stored.bar_close_s),
        "equal": found.is_equal,
        "inputs_hash": {"stored": stored.inputs_hash, "computed": found.inputs_hash},
        "plan_hash": {"stored": stored.plan_hash, "computed": found.plan_hash},
        "differing_plans": list(found.differing_plans),
        "differing_levers": list(found.differing_levers),
        "code_version": stored.code_version,
    }


def tell_replay(found: "TickReplay") -> list[str]:
    """Say whether a decision comes out the same."""
    from regime_pipeline.cli.session import show_time

    stored = found.stored
    said = "EQUAL: the same plan, byte for byte" if found.is_equal else "DIFFERENT"
    lines = [f"{stored.strategy}, bar closed {show_time(stored.bar_close_s)} UTC, {len(stored.lines)} lines: {said}"]
    for name, then, now in (("inputs", stored.inputs_hash, found.inputs_hash), ("plan", stored.plan_hash, found.plan_hash)):
        lines.append(f"{name:7}{then}" + ("" if then == now else f", now {now}"))
    lines += [f"plan of {symbol} comes out differently" for symbol in found.differing_plans]
    lines += [f"levers of bucket {group} come out differently" for group in found.differing_levers]
    if not found.is_equal:
        lines.append(f"it was decided by version {stored.code_version}; compare what changed since, or suspect the table")
    return lines


def _size(notional: object, quantity: object) -> str:
    return f"{notional:,.2f} quote" if notional is not None else f"{quantity:,.6g}"
