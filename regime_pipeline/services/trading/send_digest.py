"""The daily digest: what the book made, what it holds, what was ordered, what was refused and why, and what went wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from regime_pipeline.errors import NotifyError
from regime_pipeline.portfolio.money import ZERO, precise
from regime_pipeline.ports import Incident, Message, Notifier, Stores, Work
from regime_pipeline.risk.kill_switch import Switch
from regime_pipeline.services.trading.read_book import Equity, HeldPosition, read_equity, read_positions

DAY_S: Final = 86_400
MAX_LINES: Final = 12
"""Of positions, and of codes per strategy: a message is read on a phone."""


@dataclass(frozen=True, slots=True)
class DigestTerms:
    """Whose day it is: instance, account, book and the asset that money is told in."""

    instance: str
    account: str
    book_id: str
    quote: str
    is_trading: bool


@dataclass(frozen=True, slots=True)
class Digest:
    """A day of the book until an instant, epoch seconds.

    Parameters
    ----------
    day_pnl : Decimal or None
        Change of marked equity over the day less what came from outside; None without a mark at its begin.
    orders, codes : mapping
        Orders of the day by state; decision lines by strategy and code, with the lines in all under the empty code.
    """

    terms: DigestTerms
    until_s: int
    equity: Equity
    day_pnl: Decimal | None
    positions: Sequence[HeldPosition]
    orders: Mapping[str, int]
    codes: Mapping[str, Mapping[str, int]]
    incidents: Sequence[Incident]
    switches: Sequence[Switch]


def build_digest(work: Work, terms: DigestTerms, until_s: int) -> Digest:
    """Gather the day before an instant."""
    since_s = until_s - DAY_S
    codes: dict[str, dict[str, int]] = {}
    for each in work.book.count_codes(terms.account, since_s):
        codes.setdefault(each.strategy, {"": each.n_of})[each.code] = each.n_lines
    return Digest(
        terms=terms,
        until_s=until_s,
        equity=read_equity(work, terms.account, terms.quote),
        day_pnl=compute_day_pnl(work, terms, since_s, until_s),
        positions=read_positions(work, terms.account, terms.book_id, until_s),
        orders=work.book.count_orders(terms.account, since_s),
        codes=codes,
        incidents=work.recon.load_incidents(),
        switches=work.safety.load_switches(terms.account),
    )


@precise
def compute_day_pnl(work: Work, terms: DigestTerms, since_s: int, until_s: int) -> Decimal | None:
    """Tell what a span of time made: equity at its end less equity at its begin less what came from outside in between."""
    first, last = (work.safety.load_mark(terms.account, at_s) for at_s in (since_s, until_s))
    if first is None or last is None:
        return None
    flows = work.safety.load_flows(terms.account, terms.quote, first.at_s, last.at_s)
    return last.equity_quote - first.equity_quote - sum((flow.amount_quote for flow in flows), ZERO)


def write_digest(digest: Digest) -> Message:
    """Write a digest as a message; nothing in it is more than a day old but what is still open."""
    terms, pnl = digest.terms, digest.equity.pnl
    day = f"{datetime.fromtimestamp(digest.until_s, UTC):%Y-%m-%d %H:%M} UTC"
    made = "" if digest.day_pnl is None else f", {digest.day_pnl:+,.2f} {terms.quote} today"
    title = f"[{terms.instance}] {terms.account}{made}"
    lines = [f"day to {day}{'' if terms.is_trading else '; trading is off, plans are withheld'}", *_tell_money(digest)]
    lines += _tell_positions(digest)
    lines.append("orders: " + (", ".join(f"{n} {state}" for state, n in digest.orders.items()) or "none"))
    for strategy, counts in digest.codes.items():
        told = [f"{code} {n}" for code, n in sorted(counts.items(), key=lambda pair: -pair[1]) if code][:MAX_LINES]
        lines.append(f"{strategy}, of {counts['']} lines: {', '.join(told)}")
    lines += [f"L{switch.level.value} {switch.scope.text}: {switch.reason}" for switch in digest.switches]
    lines += [f"incident {each.incident_id} {each.kind} {each.scope} ({each.severity})" for each in digest.incidents[:MAX_LINES]]
    if not digest.incidents:
        lines.append("no incident is open")
    fields: dict[str, str | int | None] = {
        "instance": terms.instance,
        "event": "digest",
        "account": terms.account,
        "until_s": digest.until_s,
        "day_pnl": None if digest.day_pnl is None else f"{digest.day_pnl:.2f}",
        "total_pnl": None if pnl is None else f"{pnl.equity:.2f}",
        "positions": len(digest.positions),
        "incidents": len(digest.incidents),
    }
    return Message(title, "\n".join(lines), fields)


def send_digest(stores: Stores, notifiers: Sequence[Notifier], terms: DigestTerms, until_s: int) -> Message:
    """Build the digest of a day and hand it to every channel.

    Raises
    ------
    NotifyError
        When a channel refused it; the others have it.
    """
    with stores.open() as work:
        message = write_digest(build_digest(work, terms, until_s))
    refused = []
    for notifier in notifiers:
        try:
            notifier.send(message)
        except NotifyError as error:
            refused.append(f"{notifier.channel}: {error}")
    if refused:
        raise NotifyError(f"the digest was not taken by {'; '.join(refused)}")
    return message


def _tell_money(digest: Digest) -> list[str]:
    last, pnl, quote = digest.equity.last, digest.equity.pnl, digest.terms.quote
    if last is None or pnl is None:
        return ["the account has not been marked yet"]
    lines = [f"equity {last.equity:,.2f} {quote}, cash {last.cash:,.2f}, profit since the begin {pnl.equity:+,.2f}"]
    if digest.equity.drawdown_frac is not None:
        lines[0] += f", {100 * digest.equity.drawdown_frac:.2f} % below the highest"
    if not pnl.agree:
        lines.append(f"THE BOOK DISAGREES: {pnl.equity:.2f} by marks, {pnl.ledger:.2f} by the ledger, {pnl.fills:.2f} by the fills")
    return lines


def _tell_positions(digest: Digest) -> list[str]:
    held = [each for each in digest.positions if each.row.quantity and not each.is_dust]
    lines = []
    for each in held[:MAX_LINES]:
        made = "" if each.total_pnl is None else f", {each.total_pnl:+,.2f}"
        worth = "no price" if each.value is None else f"{each.value:,.2f}"
        lines.append(f"  {each.row.contract} {each.row.timeframe}: {float(each.row.quantity):,.6g} worth {worth}{made}")
    more = f", {len(held) - MAX_LINES} more" if len(held) > MAX_LINES else ""
    return [f"positions: {len(held) or 'none'}{more}", *lines]
