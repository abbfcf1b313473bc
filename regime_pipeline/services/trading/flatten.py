"""Selling what is held after a hard stop, where that is configured for what caused it: slice by slice, through the book, until flat."""

from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import Final

from regime_pipeline.execution.bracket import free_to_sell
from regime_pipeline.execution.rounding import plan_qty
from regime_pipeline.portfolio.money import QUOTIENT
from regime_pipeline.ports import Failed, Quote, Severity, Work
from regime_pipeline.risk.kill_switch import Level, Switch
from regime_pipeline.risk.purpose import Leg
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.load_guarded import Guarded, load_guarded
from regime_pipeline.services.trading.sell_at_once import Demand, find_lowest_price, sell_at_once

LEAST_QUOTE: Final = Decimal(5)
"""What is worth less stays: it could not be sold anyway."""


@dataclass(slots=True)
class FlattenSummary:
    """What a round came to: orders written, symbols whose price is unknown, and refusals of the gate by symbol."""

    raised: list[str] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)
    refused: dict[str, tuple[str, ...]] = field(default_factory=dict)


def flatten(trading: Trading, switch: Switch) -> FlattenSummary:
    """Write one slice per position that is still held; call it again until nothing is raised.

    Only what the ledger knows is sold, never more than one slice at a time, and it does not pass the parts of the gate that the level
    itself has shut: authority, instrument, position and price are what is checked. Its orders are named after the second in which the level
    was raised, so that two executors, and one that starts again, write the same ones.

    Parameters
    ----------
    switch : Switch
        The hard stop that asks for it.
    """
    summary = FlattenSummary()
    with trading.stores.open() as work:
        held = [each for each in load_guarded(work, trading) if switch.scope.covers(trading.terms.account, each.strategy, each.symbol)]
    for each in held:
        quote = trading.broker.fetch_quote(each.symbol)
        if isinstance(quote, Failed):
            summary.blind.append(each.symbol)
            with trading.stores.open() as work:
                scope = f"{trading.terms.account}|{each.symbol}"
                open_incident(work, "FLATTEN_BLIND", Severity.CRITICAL, scope, {"held": str(each.held), "why": quote.reason}, "kill_level")
            continue
        with trading.stores.open() as work:
            if work.orders.try_lock_account(trading.terms.account):
                _sell_slice(work, trading, switch, each, quote.value, summary)
    return summary


def _sell_slice(work: Work, trading: Trading, switch: Switch, each: Guarded, quote: Quote, summary: FlattenSummary) -> None:
    live = [order for order in work.orders.load_live(trading.terms.account, each.symbol) if order.intent.key.strategy == each.strategy]
    claimed = [(order.purpose, order.remaining) for order in live]  # what a stop at the venue protects is left to it
    limit = find_lowest_price(trading, each, quote.mid)
    with localcontext(QUOTIENT):
        most = trading.limits.max_order_quote / quote.mid
    qty = plan_qty(min(free_to_sell(each.held, claimed, each.rules.step), most), limit, each.rules)
    if qty * quote.mid < LEAST_QUOTE:
        return
    demand = Demand(Leg.FLATTEN, switch.at_s, "FLATTEN_REFUSED", "kill_level")
    sale = sell_at_once(work, trading, each, demand, qty=qty, limit=limit, quote=quote)
    if sale.client_order_id is not None:
        summary.raised.append(sale.client_order_id)
    if sale.codes:
        summary.refused[each.symbol] = sale.codes


def find_cause(switches: tuple[Switch, ...], sources: frozenset[str]) -> Switch | None:
    """The oldest hard stop in force whose source is configured to flatten; None where a higher level forbids it, or there is none."""
    if any(switch.level is Level.PROCESS_STOP for switch in switches):
        return None
    asking = [switch for switch in switches if switch.level is Level.HARD_STOP and switch.source in sources]
    return min(asking, key=lambda switch: switch.at_s, default=None)
