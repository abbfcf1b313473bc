"""`regime positions`, `orders`, `equity`, `digest`: the book in the terminal, and as JSON with exact decimals as text."""

import json
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from regime_pipeline.ports import OrderView
    from regime_pipeline.services.trading.read_book import Equity, HeldPosition

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def positions(
    show_all: Annotated[bool, typer.Option("--all", help="Those that are flat and may be entered too.")] = False,
    as_json: Json = False,
) -> None:
    """Show what is held, at which price, what it made, and what was decided about it last."""
    from regime_pipeline.cli.session import open_stores, read_instant
    from regime_pipeline.services.trading.read_book import read_positions
    from regime_pipeline.settings import load_settings

    settings = load_settings()
    with open_stores(settings).open() as work:
        held = read_positions(work, settings.trading_account, settings.trading_book, read_instant(None), with_flat=show_all)
    if as_json:
        document = {"account": settings.trading_account, "positions": [position_document(each) for each in held]}
        typer.echo(json.dumps(document, indent=2))
        return
    from rich.console import Console

    Console().print(build_positions(held, f"Positions of {settings.trading_book} on {settings.trading_account}"))


def orders(
    live: Annotated[bool, typer.Option("--live", help="Only those that have not ended.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """Show orders with their fills, their state and why they are in it."""
    from regime_pipeline.cli.session import open_stores
    from regime_pipeline.services.trading.read_book import read_orders
    from regime_pipeline.settings import load_settings

    settings = load_settings()
    with open_stores(settings).open() as work:
        found = read_orders(work, settings.trading_account, limit, live_only=live)
    if as_json:
        document = {"account": settings.trading_account, "orders": [order_document(each) for each in found]}
        typer.echo(json.dumps(document, indent=2))
        return
    from rich.console import Console

    Console().print(build_orders(found, f"{'Live orders' if live else 'Orders'} of {settings.trading_account}"))


def equity(
    days: Annotated[int | None, typer.Option(min=1, help="Days of the curve; default: all of it.")] = None,
    as_json: Json = False,
) -> None:
    """Show what the account is worth, and its profit by marks, by ledger and by fills; exit code 1 when the three disagree."""
    from regime_pipeline.cli.session import open_stores, read_instant
    from regime_pipeline.services.trading.read_book import read_equity
    from regime_pipeline.settings import load_settings

    settings = load_settings()
    since_s = 0 if days is None else read_instant(None) - days * 86_400
    with open_stores(settings).open() as work:
        found = read_equity(work, settings.trading_account, settings.trading_quote, since_s)
    if as_json:
        typer.echo(json.dumps({"account": settings.trading_account, **equity_document(found, with_curve=True)}, indent=2))
    else:
        typer.echo("\n".join(tell_equity(found, settings.trading_account, settings.trading_quote)))
    raise typer.Exit(1 if found.pnl is not None and not found.pnl.agree else 0)


def digest(
    send: Annotated[bool, typer.Option("--send", help="To every channel of the alerts too, as the daily job does.")] = False,
    as_json: Json = False,
) -> None:
    """Show the digest of the last 24 hours: profit, positions, orders, refusals by code, incidents."""
    from regime_pipeline.cli.session import open_stores, read_instant
    from regime_pipeline.orchestration.digest import build_channels, digest_terms
    from regime_pipeline.services.trading.send_digest import send_digest
    from regime_pipeline.settings import load_settings

    settings = load_settings()
    channels = build_channels(settings) if send else []
    message = send_digest(open_stores(settings), channels, digest_terms(settings), read_instant(None))
    typer.echo(
        json.dumps({"title": message.title, "body": message.body, **message.fields}) if as_json else f"{message.title}\n{message.body}"
    )


def position_document(held: "HeldPosition") -> dict[str, Any]:
    """Write a position as plain JSON values."""
    values = plain(asdict(held.row))
    numbers = {"mark": held.mark, "value": held.value, "unrealised_pnl": held.unrealised_pnl, "total_pnl": held.total_pnl}
    return {**values, **{name: None if number is None else format(number, "f") for name, number in numbers.items()}}


def order_document(order: "OrderView") -> dict[str, Any]:
    """Write an order as plain JSON values."""
    return plain(asdict(order))


def equity_document(found: "Equity", *, with_curve: bool) -> dict[str, Any]:
    """Write equity and profit as plain JSON values."""
    from regime_pipeline.cli.session import iso_time

    last, pnl = found.last, found.pnl
    document: dict[str, Any] = {
        "at": None if last is None else iso_time(last.at_s),
        "equity": None if last is None else format(last.equity, "f"),
        "cash": None if last is None else format(last.cash, "f"),
        "opening": format(found.opening, "f"),
        "high_water": None if found.high_water is None else format(found.high_water, "f"),
        "drawdown_frac": None if found.drawdown_frac is None else float(found.drawdown_frac),
        "max_drawdown_frac": None if found.max_drawdown_frac is None else float(found.max_drawdown_frac),
        "pnl": None if pnl is None else {name: format(getattr(pnl, name), ".2f") for name in ("equity", "ledger", "fills")},
        "pnl_agrees": None if pnl is None else pnl.agree,
        "n_fills": found.n_fills,
    }
    if with_curve:
        document["curve"] = [{"at": iso_time(point.at_s), "equity": format(point.equity, "f")} for point in found.curve]
    return document


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Turn decimals into exact text, instants (`_s`) into ISO times (`_at`), and all else into what JSON knows."""
    from regime_pipeline.cli.session import iso_time

    document: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Decimal):
            document[name] = format(value, "f")
        elif name.endswith("_s") and name != "hold_s":
            document[f"{name.removesuffix('_s')}_at"] = None if value is None else iso_time(value)
        elif isinstance(value, tuple):
            document[name] = list(value)
        else:
            document[name] = value if value is None or isinstance(value, (bool, int, float)) else str(value)
    return document


def build_positions(held: "Sequence[HeldPosition]", title: str) -> "Table":
    """Draw positions for the terminal."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, caption="A, E, rule and codes are of the newest decision", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("token", "tf", "status", "state"):
        table.add_column(name)
    for name in ("quantity", "entry", "mark", "value", "P&L", "A", "E"):
        table.add_column(name, justify="right")
    table.add_column("decided")
    for each in held:
        row = each.row
        table.add_row(
            row.contract,
            row.timeframe,
            row.status,
            row.state or "",
            spell_price(row.quantity) if row.quantity else "",
            *(spell_price(price) for price in (row.avg_entry_price, each.mark)),
            "" if each.value is None or not each.value else f"{each.value:,.2f}",
            "" if each.total_pnl is None or not row.allocated else f"{each.total_pnl:+,.2f}",
            *("" if lever is None else f"{lever:.2f}" for lever in (row.a_value, row.e_value)),
            " ".join([*([row.outcome] if row.outcome else []), *([f"rule {row.rule}"] if row.rule else []), *row.codes]),
        )
    return table


def build_orders(found: "Sequence[OrderView]", title: str) -> "Table":
    """Draw orders for the terminal."""
    from rich import box
    from rich.table import Table

    from regime_pipeline.cli.session import show_time

    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("created", "strategy", "symbol", "leg", "side"):
        table.add_column(name)
    for name in ("quantity", "limit", "filled", "average"):
        table.add_column(name, justify="right")
    for name in ("state", "code", "id"):
        table.add_column(name)
    for row in found:
        table.add_row(
            show_time(row.created_s),
            row.strategy,
            row.symbol,
            row.leg,
            row.side,
            spell_price(row.qty),
            spell_price(row.limit_price),
            spell_price(row.filled),
            spell_price(row.avg_price),
            " ".join([row.state, *row.flags]),
            row.code or "",
            row.client_order_id[:8],
        )
    return table


def tell_equity(found: "Equity", account: str, quote: str) -> list[str]:
    """Say what an account is worth and what it made."""
    from regime_pipeline.cli.session import show_time

    last, pnl = found.last, found.pnl
    if last is None or pnl is None:
        return [f"{account} has not been marked yet; it was opened with {found.opening:,.2f} {quote}"]
    lines = [
        f"{account} at {show_time(last.at_s)} UTC: {last.equity:,.2f} {quote}, of it {last.cash:,.2f} in cash",
        f"profit {pnl.equity:+,.2f} by marked equity, {pnl.ledger:+,.2f} by the ledger, {pnl.fills:+,.2f} by {found.n_fills} fills",
    ]
    if not pnl.agree:
        lines.append("the three disagree: see docs/runbook.md, section reconciliation")
    if found.high_water is not None and found.drawdown_frac is not None and found.max_drawdown_frac is not None:
        depth = (
            f"{100 * found.drawdown_frac:.2f} % below its highest, {found.high_water:,.2f}; deepest {100 * found.max_drawdown_frac:.2f} %"
        )
        lines.append(depth)
    return lines


def spell_price(price: Decimal | None) -> str:
    """Spell a price or quantity with six digits, or nothing; a decimal itself would keep its zeros."""
    return "" if price is None else f"{float(price):,.6g}"
