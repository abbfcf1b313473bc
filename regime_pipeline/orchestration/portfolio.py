"""What the assets of the portfolio show: positions, equity, orders and decisions as tables and small pictures, and whether they add up."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import dagster as dg

from regime_pipeline.orchestration.policies import TRADING_TEAM
from regime_pipeline.orchestration.window import spell_bar
from regime_pipeline.ports import BookFault, StoredLine, Work
from regime_pipeline.services.judge_trading import UNKNOWN_S
from regime_pipeline.services.trading.read_book import Equity, HeldPosition, read_equity, read_orders, read_positions
from regime_pipeline.settings import Settings

GROUP: Final = "out_reports"
MAX_ROWS: Final = 40
"""Of a table in metadata: it is stored in the event log for as long as the asset lives."""
DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Report:
    """A table of the portfolio as an asset: what it says, and what checks it."""

    name: str
    description: str
    upstream: tuple[str, ...]
    check: str | None
    check_description: str | None
    describe: Callable[[Work, Settings, int], dict[str, Any]]
    find_faults: Callable[[Work, Settings, int], Sequence[str]] | None = None

    @property
    def spec(self) -> dg.AssetSpec:
        """The asset."""
        return dg.AssetSpec(
            self.name,
            deps=list(self.upstream),
            group_name=GROUP,
            owners=[TRADING_TEAM],
            kinds={"python", "postgres"},
            tags={"layer": "out", "domain": "portfolio"},
            description=self.description,
            code_version="1",
        )

    @property
    def check_spec(self) -> dg.AssetCheckSpec | None:
        """Its check; None where it has none."""
        return None if self.check is None else dg.AssetCheckSpec(self.check, asset=self.name, description=self.check_description)


def tell(
    reports: Sequence[Report], work: Work, settings: Settings, now_s: int
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Tell of some reports, each check behind its table."""
    for report in reports:
        yield dg.MaterializeResult(asset_key=report.name, metadata=report.describe(work, settings, now_s))
        if report.check is not None and report.find_faults is not None:
            faults = report.find_faults(work, settings, now_s)
            metadata: dict[str, Any] = {"faults": len(faults)} | ({"first": list(faults[:10])} if faults else {})
            yield dg.AssetCheckResult(passed=not faults, asset_key=report.name, check_name=report.check, metadata=metadata)


def describe_positions(work: Work, settings: Settings, now_s: int) -> dict[str, Any]:
    """Tabulate what is held, and draw what each position made."""
    held = read_positions(work, settings.trading_account, settings.trading_book, now_s)
    return {
        "account": settings.trading_account,
        "held": sum(bool(each.row.quantity) for each in held),
        "value": float(sum((each.value or 0 for each in held), 0)),
        "positions": dg.MetadataValue.md(tabulate_positions(held)),
        "plot": _draw_bars("P&L of open trades", {_name(each): float(each.total_pnl) for each in held if each.total_pnl is not None}),
    }


def tabulate_positions(held: Sequence[HeldPosition]) -> str:
    """Tabulate positions as Markdown."""
    lines = ["| token | tf | state | quantity | entry | mark | value | P&L | A | E | decided |", "|---|---|---|" + "---:|" * 7 + "---|"]
    for each in held[:MAX_ROWS]:
        row = each.row
        numbers = (row.quantity, row.avg_entry_price, each.mark, each.value, each.total_pnl, row.a_value, row.e_value)
        told = " ".join([row.outcome or "", f"rule {row.rule}" if row.rule else "", *row.codes]).strip()
        lines.append(f"| {row.contract} | {row.timeframe} | {row.state or ''} | " + " | ".join(map(_number, numbers)) + f" | {told} |")
    return "\n".join(lines)


def describe_equity(work: Work, settings: Settings, _now_s: int) -> dict[str, Any]:
    """Tell what the account is worth and made, and draw its curve."""
    found = read_equity(work, settings.trading_account, settings.trading_quote)
    return {"account": settings.trading_account, **_money(found), "plot": _draw_equity(found)}


def _money(found: Equity) -> dict[str, Any]:
    if found.last is None or found.pnl is None:
        return {"marked": "not yet"}
    return {
        "marked": spell_bar(found.last.at_s),
        "equity": float(found.last.equity),
        "cash": float(found.last.cash),
        "pnl_by_marks": f"{found.pnl.equity:.2f}",
        "pnl_by_ledger": f"{found.pnl.ledger:.2f}",
        "pnl_by_fills": f"{found.pnl.fills:.2f}",
        "drawdown_pct": float(-100 * (found.drawdown_frac or 0)),
        "fills": found.n_fills,
    }


def describe_orders(work: Work, settings: Settings, now_s: int) -> dict[str, Any]:
    """Tabulate the newest orders, and draw what became of those of the last day."""
    found = read_orders(work, settings.trading_account, MAX_ROWS)
    lines = [
        "| created | strategy | symbol | leg | side | quantity | limit | filled | state | code |",
        "|---|---|---|---|---|---:|---:|---:|---|---|",
    ]
    lines += [
        f"| {spell_bar(row.created_s)} | {row.strategy} | {row.symbol} | {row.leg} | {row.side} | {_number(row.qty)}"
        f" | {_number(row.limit_price)} | {_number(row.filled)} | {row.state} | {row.code or ''} |"
        for row in found
    ]
    states = work.book.count_orders(settings.trading_account, now_s - DAY_S)
    return {
        "account": settings.trading_account,
        "orders_of_the_day": sum(states.values()),
        "orders": dg.MetadataValue.md("\n".join(lines)),
        "plot": _draw_bars("Orders of the last day by state", dict(states)),
    }


def describe_decisions(work: Work, settings: Settings, now_s: int) -> dict[str, Any]:
    """Tabulate the newest decision of each strategy line by line, and draw the codes of the last day."""
    heads = work.journal.list_decisions(MAX_ROWS, settings.trading_account)
    lines = ["| bar close | strategy | lines | acted | skipped | held | codes |", "|---|---|---:|---:|---:|---:|---|"]
    lines += [
        f"| {spell_bar(head.bar_close_s)} | {head.strategy} | {head.n_lines} | {head.n_acted} | {head.n_skipped} | {head.n_held}"
        f" | {' '.join(head.codes)} |"
        for head in heads
    ]
    counts = {
        f"{each.strategy} {each.code}": float(each.n_lines) for each in work.book.count_codes(settings.trading_account, now_s - DAY_S)
    }
    newest = work.journal.load_decision(heads[0].decision_id) if heads else None
    return {
        "account": settings.trading_account,
        "decisions": dg.MetadataValue.md("\n".join(lines)),
        "newest": dg.MetadataValue.md(tabulate_lines(newest.lines if newest is not None else ())),
        "plot": _draw_bars("Codes of decision lines of the last day", dict(list(counts.items())[:25])),
    }


def tabulate_lines(lines: Sequence[StoredLine]) -> str:
    """Tabulate decision lines as Markdown, those that act first."""
    table = ["| symbol | outcome | rule | A | E | bucket | codes |", "|---|---|---|---:|---:|---|---|"]
    table += [
        f"| {line.symbol} | {line.outcome} | {line.rule or ''} | {line.a_value:.3f} | {line.e_value:.3f} | {line.bucket or 'unknown'}"
        f" | {' '.join(line.codes)} |"
        for line in sorted(lines, key=lambda line: (line.outcome, line.symbol))[:MAX_ROWS]
    ]
    return "\n".join(table)


def _spell_faults(faults: Sequence[BookFault]) -> list[str]:
    return [f"{each.scope}: expected {each.expected:f}, found {each.actual:f}" for each in faults]


def find_balance_faults(work: Work, settings: Settings, _now_s: int) -> list[str]:
    """Find balances that are not the sum of their entries."""
    return _spell_faults(work.book.find_balance_faults(settings.trading_account))


def find_position_faults(work: Work, settings: Settings, _now_s: int) -> list[str]:
    """Find holdings that are not what their fills say."""
    return _spell_faults(work.book.find_position_faults(settings.trading_account))


def find_stuck_orders(work: Work, settings: Settings, now_s: int) -> list[str]:
    """Find orders that have been UNKNOWN for too long."""
    return list(work.book.find_stuck_orders(settings.trading_account, now_s - UNKNOWN_S))


def _draw_equity(found: Equity) -> dg.MarkdownMetadataValue:
    from regime_pipeline.orchestration.plots import draw_equity

    return _embed(draw_equity("Equity", [each.at_s for each in found.curve], [float(each.equity) for each in found.curve]), "equity")


def _draw_bars(title: str, values: dict[str, float]) -> dg.MarkdownMetadataValue:
    from regime_pipeline.orchestration.plots import draw_bars

    return _embed(draw_bars(title, values), title)


def _embed(png: bytes, what: str) -> dg.MarkdownMetadataValue:
    from regime_pipeline.orchestration.plots import MAX_BYTES, embed_png

    if len(png) > MAX_BYTES:
        return dg.MetadataValue.md(f"picture left out: {len(png)} bytes, more than {MAX_BYTES} would bloat the event log")
    return dg.MetadataValue.md(embed_png(png, what))


def _name(held: HeldPosition) -> str:
    return f"{held.row.contract} {held.row.timeframe}"


def _number(value: Decimal | float | None) -> str:
    return "" if value is None else f"{float(value):,.6g}"


REPORTS: Final = (
    Report(
        "decisions",
        "What the portfolio manager decided on each closed bar: levers, rules, codes; holds too, with their reason.",
        ("regime_deltas_1m", "regime_deltas_1h", "regime_deltas_1d", "uptrend_states_1h"),
        None,
        None,
        describe_decisions,
    ),
    Report(
        "orders",
        "What was ordered, how far it was filled, and why it is in its state.",
        ("decisions",),
        "none_unknown",
        "No order has been UNKNOWN for more than five minutes.",
        describe_orders,
        find_stuck_orders,
    ),
    Report(
        "lowcap_positions_pm",
        "What the portfolio manager holds, at which price, and what it made.",
        ("orders",),
        "position_is_fills",
        "What each strategy holds by the ledger is what its fills, fees and flows say, to the last digit.",
        describe_positions,
        find_position_faults,
    ),
    Report(
        "equity_points",
        "What the account was worth at bar closes, and its profit told by marks, ledger and fills.",
        ("lowcap_positions_pm",),
        "balances_are_entries",
        "Every balance of the ledger is the sum of its entries, to the last digit.",
        describe_equity,
        find_balance_faults,
    ),
)
