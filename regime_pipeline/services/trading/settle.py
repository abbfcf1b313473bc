"""What an account made in a window, three ways that must agree: by its value, by its balance, and by its fills (specification 4)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext

from regime_pipeline.errors import BadInputError
from regime_pipeline.execution.fills import FillSums, sum_fills
from regime_pipeline.execution.ledger import compute_net_pnl_quote, compute_price_pnl_quote, is_settled
from regime_pipeline.portfolio.money import EXACT, ZERO, to_decimal
from regime_pipeline.ports import FillRow, FlowKind, FlowRow, Work
from regime_pipeline.services.trading.mark_equity import MarkedEquity, value_account
from regime_pipeline.services.trading.post_fills import split_symbol


@dataclass(frozen=True, slots=True)
class Settlement:
    """Result of an account over a window, in quote; what hurts is negative except fees, which are what was paid.

    Parameters
    ----------
    net_pnl : Decimal
        Value at the end less value at the start, less what came from outside.
    price_pnl : Decimal
        What price alone made of what was both bought and sold within the window, at average prices.
    unrealised_change : Decimal
        What remains of `net_pnl` for what is still, or was already, held.
    fees, third_fees : Decimal
        All fees at their worth, and the part taken in an asset that was not traded.
    funding, external, adjusted : Decimal
        Funding received, money from outside, and what persons have adjusted.
    quote_change : Decimal
        Change of the quote balance.
    is_flat : bool
        Whether nothing was held at either end, so that the balance must explain the result.
    is_explained : bool
        Whether it does, to 1e-8, and whether the fills, the flows and nothing else have moved it. The second is asked of every window,
        except of contracts still open, whose price is not in the balance yet.
    """

    start: MarkedEquity
    end: MarkedEquity
    net_pnl: Decimal
    price_pnl: Decimal
    unrealised_change: Decimal
    fees: Decimal
    third_fees: Decimal
    funding: Decimal
    external: Decimal
    adjusted: Decimal
    quote_change: Decimal
    is_flat: bool
    is_explained: bool
    n_fills: int


def settle(work: Work, account: str, start_s: int, end_s: int, *, venue: str = "paper", quote: str = "USDT") -> Settlement:
    """Settle an account over (start, end], both epoch seconds.

    Raises
    ------
    BadInputError
        When something held at either end, or that came from outside, has no price.
    """
    start, end = (value_account(work, account, at_s * 1000, quote) for at_s in (start_s, end_s))
    flows = work.ledger.load_flows(account, start.at_ms, end.at_ms)
    rows = work.ledger.load_fills_between(venue, account, start.at_ms, end.at_ms)
    external = _sum_flows(work, flows, FlowKind.EXTERNAL, quote)
    external_quote = sum((flow.amount for flow in flows if flow.kind is FlowKind.EXTERNAL and flow.asset == quote), ZERO)
    net_pnl = compute_net_pnl_quote(start.equity_quote, end.equity_quote, [external])
    fees, third = _sum_fees(rows)
    price_pnl = sum((_price_pnl(sums) for sums in _by_symbol(rows).values()), ZERO)
    funding = _sum_flows(work, flows, FlowKind.FUNDING, quote)
    adjusted = _sum_flows(work, flows, FlowKind.ADJUST, quote)
    is_flat = _is_flat(start, rows, quote) and _is_flat(end, rows, quote)
    in_quote = sum((flow.amount for flow in flows if flow.asset == quote), ZERO)
    with localcontext(EXACT):
        quote_change = end.cash_quote - start.cash_quote
        has_contracts = any(row.fill.market_type != "spot" for row in rows)
        by_fills = is_flat or not has_contracts
        is_explained = not by_fills or quote_change == _spent_quote(rows, quote) + in_quote
        return Settlement(
            start=start,
            end=end,
            net_pnl=net_pnl,
            price_pnl=price_pnl,
            unrealised_change=net_pnl - price_pnl + fees - funding - adjusted,
            fees=fees,
            third_fees=third,
            funding=funding,
            external=external,
            adjusted=adjusted,
            quote_change=quote_change,
            is_flat=is_flat,
            is_explained=is_explained and (not is_flat or is_settled(net_pnl, quote_change, external_quote, third)),
            n_fills=len(rows),
        )


def _sum_flows(work: Work, flows: Iterable[FlowRow], kind: FlowKind, quote: str) -> Decimal:
    """Flows of a kind in quote, each at the close known when it came."""
    total = ZERO
    for flow in flows:
        if flow.kind is kind:
            total = EXACT.add(total, flow.amount if flow.asset == quote else EXACT.multiply(flow.amount, _price_at(work, flow)))
    return total


def _price_at(work: Work, flow: FlowRow) -> Decimal:
    closes = work.ledger.load_closes([flow.asset], flow.at_ms)
    if flow.asset not in closes:
        raise BadInputError(f"flow {flow.source} of {flow.amount} {flow.asset} has no price at its time; backfill its bars, then settle")
    return to_decimal(closes[flow.asset])


def _sum_fees(rows: Sequence[FillRow]) -> tuple[Decimal, Decimal]:
    with localcontext(EXACT):
        fees = sum((row.fee_quote for row in rows if row.fee_quote is not None), ZERO)
        third = sum((row.fee_quote for row in rows if row.fee_quote is not None and _is_third(row)), ZERO)
    return fees, third


def _is_third(row: FillRow) -> bool:
    return row.fill.fee_asset is not None and row.fill.fee_asset not in split_symbol(row.fill.symbol)


def _by_symbol(rows: Sequence[FillRow]) -> Mapping[str, FillSums]:
    symbols = {row.fill.symbol for row in rows}
    return {symbol: sum_rows(row for row in rows if row.fill.symbol == symbol) for symbol in symbols}


def sum_rows(rows: Iterable[FillRow]) -> FillSums:
    """Add up booked fills, which are different ones by their keys."""
    return sum_fills(replace(row.fill, venue_trade_id=f"{row.fill.market_type}:{row.fill.symbol}:{row.fill_key}") for row in rows)


def _price_pnl(sums: FillSums) -> Decimal:
    return compute_price_pnl_quote(sums.bought, sums.bought_quote, sums.sold, sums.sold_quote)


def _spent_quote(rows: Sequence[FillRow], quote: str) -> Decimal:
    """Change of the quote balance by fills: what sales brought less what purchases cost, and fees in quote."""
    sums = sum_rows(rows)
    with localcontext(EXACT):
        return sums.sold_quote - sums.bought_quote - sums.fees.get(quote, ZERO)


def _is_flat(marked: MarkedEquity, rows: Sequence[FillRow], quote: str) -> bool:
    """Tell whether nothing was held but what fees are paid with."""
    fee_assets = {f"{row.fill.fee_asset}/{quote}" for row in rows if _is_third(row)}
    return not set(marked.holdings) - fee_assets
