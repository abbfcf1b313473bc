"""The part of the report about paper trading: equity, the profit told three ways, positions, trades, actions and reasons."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from html import escape
from typing import Any, Final

from regime_pipeline.portfolio.money import ZERO
from regime_pipeline.ports import ActionRow, CodeCount, TradeRow
from regime_pipeline.services.trading.read_book import Equity, HeldPosition

MAX_ROWS: Final = 200
"""Of trades and of actions; the newest."""
MAX_CODES: Final = 12
"""Of each strategy."""


@dataclass(frozen=True, slots=True)
class TradingPage:
    """What the page shows of an account; `traded` says in words which strategies decided how many bars."""

    account: str
    quote: str
    traded: Sequence[str]
    equity: Equity
    positions: Sequence[HeldPosition]
    trades: Sequence[TradeRow]
    actions: Sequence[ActionRow]
    codes: Sequence[CodeCount]
    orders: dict[str, int]


def render_trading(page: TradingPage) -> str:
    """Write the sections."""
    return "".join((_summary(page), _positions(page), _trades(page), _decisions(page)))


def equity_data(page: TradingPage) -> dict[str, Any]:
    """Give the chart its numbers: equity and drawdown by instant, and each closed trade at its end."""
    high, depths = page.equity.curve[0].equity if page.equity.curve else Decimal(1), []
    for point in page.equity.curve:
        high = max(high, point.equity)
        depths.append(round(float(100 * (point.equity - high) / high), 3))
    return {
        "t": [point.at_s for point in page.equity.curve],
        "v": [round(float(point.equity), 2) for point in page.equity.curve],
        "d": depths,
        "trades": [
            {"t": row.closed_s, "p": round(float(row.pnl), 2), "n": f"{row.symbol} {row.pnl:+,.2f}"}
            for row in reversed(page.trades[:MAX_ROWS])
        ],
    }


def _summary(page: TradingPage) -> str:
    last, pnl, quote = page.equity.last, page.equity.pnl, escape(page.quote)
    head = f"<section><h2>Paper trading <small>{escape(page.account)}</small></h2><p>{escape('; '.join(page.traded))}.</p>"
    if last is None or pnl is None:
        return f"{head}<p>The account has not been marked yet.</p></section>"
    wins = sum(row.pnl > 0 for row in page.trades)
    orders = ", ".join(f"{count:,} {escape(state)}" for state, count in page.orders.items()) or "none"
    verdict = "equal to the cent" if pnl.agree else "THEY DISAGREE"
    tiles = (
        (f"Equity {_stamp(last.at_s)}", f"{last.equity:,.2f} {quote}"),
        ("Profit", f"{pnl.equity:+,.2f} {quote}"),
        ("Deepest drawdown", f"{100 * (page.equity.max_drawdown_frac or 0):.2f} %"),
        ("Closed trades", f"{len(page.trades):,}, of them {wins:,} with a profit"),
        ("Orders", orders),
    )
    told = (
        ("Profit by marked equity", pnl.equity, "last equity less what came from outside"),
        ("Profit by the ledger", pnl.ledger, "double entry: WALLET at the same marks less EXTERNAL"),
        (f"Profit by {page.equity.n_fills:,} fills", pnl.fills, "sold less bought, less fees, plus what is left at the same marks"),
    )
    return (
        head
        + '<dl class="tiles">'
        + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)
        + "</dl>"
        + _table(
            (f"Three accounts of the same profit: {verdict}", quote, "How"),
            [f"<th>{name}</th><td>{amount:+,.2f}</td><td>{how}</td>" for name, amount, how in told],
        )
        + '<div class="chart" id="equity"></div></section>'
    )


def _positions(page: TradingPage) -> str:
    rows = [
        f"<th>{escape(each.row.contract)}</th><td>{each.row.timeframe}</td><td>{_state(each.row.state)}</td>"
        f"<td>{_digits(each.row.quantity)}</td><td>{_price(each.row.avg_entry_price)}</td><td>{_price(each.mark)}</td>"
        f"<td>{_money(each.value)}</td>{_result(each.total_pnl)}<td>{_lever(each.row.a_value)}</td><td>{_lever(each.row.e_value)}</td>"
        f"<td>{_codes(each.row.outcome, each.row.rule, each.row.codes)}</td>"
        for each in page.positions
        if each.row.quantity and not each.is_dust
    ]
    dust = [each.value or ZERO for each in page.positions if each.row.quantity and each.is_dust]
    left = f"<p>Closed trades left dust worth {sum(dust, ZERO):.2f} {escape(page.quote)} in {len(dust)} tokens.</p>" if dust else ""
    heads = ("Token", "Timeframe", "State", "Quantity", "Entry", "Mark", "Value", "P&amp;L", "A", "E", "Decided last")
    body = _table(heads, rows) if rows else "<p>Nothing is held.</p>"
    return f"<section><h2>Positions</h2>{body}{left}</section>"


def _trades(page: TradingPage) -> str:
    rows = [
        f"<td>{_stamp(row.closed_s)}</td><th>{escape(row.symbol)}</th><td>{_stamp(row.opened_s)}</td><td>{_money(row.allocated)}</td>"
        f"<td>{_money(row.extracted)}</td>{_result(row.pnl)}<td>{100 * row.return_frac:+.2f} %</td><td>{row.hold_s / 3600:,.1f} h</td>"
        for row in page.trades[:MAX_ROWS]
    ]
    heads = ("Closed", "Symbol", "Opened", "Spent", "Taken out", "P&amp;L", "Return", "Held")
    shown = f"The newest {len(rows)} of {len(page.trades):,}." if len(rows) < len(page.trades) else f"All {len(rows)}."
    body = f"<p>{shown}</p>{_table(heads, rows)}" if rows else "<p>No trade has been closed.</p>"
    return f'<section class="tall"><h2>Closed trades</h2>{body}</section>'


def _decisions(page: TradingPage) -> str:
    actions = [
        f"<td>{_stamp(row.bar_close_s)}</td><th>{escape(row.contract)}</th><td>{escape(row.strategy)}</td><td>{_state(row.state)}</td>"
        f"<td>{escape(row.kind)}</td><td>{escape(row.signal)}</td><td>{row.a_value:.3f}</td><td>{row.e_value:.3f}</td>"
        f"<td>{_digits(row.filled_qty)}</td><td>{_money(row.filled_quote)}</td>"
        for row in page.actions[:MAX_ROWS]
    ]
    heads = ("Bar close", "Token", "Strategy", "State", "Action", "Signal", "A", "E", "Filled", "Worth")
    seen: dict[str, int] = {}
    reasons = []
    for each in page.codes:
        seen[each.strategy] = seen.get(each.strategy, 0) + 1
        if seen[each.strategy] <= MAX_CODES:
            share = 100 * each.n_lines / each.n_of
            reasons.append(
                f"<td>{escape(each.strategy)}</td><th>{escape(each.code)}</th><td>{each.n_lines:,}</td>"
                f'<td><span class="meter"><i class="S2" style="width:{share:.1f}%"></i></span> {share:.1f} %</td>'
            )
    why = _table(("Strategy", "Why nothing was traded", "Lines", "Share of all lines"), reasons)
    acted = _table(heads, actions) if actions else "<p>Nothing was done.</p>"
    return (
        "<section><h2>Decisions and reasons</h2><p>Every position is decided on every bar; a line that orders nothing says why. "
        f"docs/risk.md explains each code.</p>{why}</section>"
        f'<section class="tall"><h2>Actions</h2><p>With the levers they were decided on; the newest {len(actions)}.</p>{acted}</section>'
    )


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{text}</th>" for text in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _codes(outcome: str | None, rule: str | None, codes: Sequence[str]) -> str:
    words = [outcome or "", f"rule {rule}" if rule else "", *codes]
    return escape(" ".join(word for word in words if word))


def _state(state: str | None) -> str:
    return f'<span class="state {state}">{state}</span>' if state else ""


def _result(amount: Decimal | None) -> str:
    return "<td></td>" if amount is None else f'<td class="{"gain" if amount > 0 else "loss" if amount < 0 else ""}">{amount:+,.2f}</td>'


def _money(amount: Decimal | None) -> str:
    return "" if amount is None else f"{amount:,.2f}"


def _price(price: Decimal | None) -> str:
    return "" if price is None else _digits(price)


def _digits(value: Decimal) -> str:
    """Spell six digits; a decimal would keep its zeros."""
    return f"{float(value):,.6g}"


def _lever(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _stamp(ts_s: int) -> str:
    return f"{datetime.fromtimestamp(ts_s, UTC):%Y-%m-%d %H:%M}"
