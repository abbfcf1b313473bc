"""The end of trades: in S0, flat, and nothing under way; once each, with what they came to (regime specification 8.7)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.closing import Hold, TradeSummary, close_trade, may_close
from regime_pipeline.portfolio.position import Position, Status
from regime_pipeline.portfolio.trade import fold_trade
from regime_pipeline.ports import BarTable, PositionTotals, SummaryRow, TradeSpan, Work
from regime_pipeline.services.trading.update_trades import sum_up


@dataclass(frozen=True, slots=True)
class Candidate:
    """A position after its newest bar: where its series stands, and its close."""

    position: Position
    series: str
    symbol: str
    state: str
    close: Decimal


@dataclass(frozen=True, slots=True)
class ClosedPosition:
    """A position whose trade has been closed: judged, without a trade; episodes and block are for the caller to keep."""

    position: Position
    summary: TradeSummary


def close_trades(
    work: Work, account: str, strategy: str, timeframe: Timeframe, candidates: Iterable[Candidate], now_ms: int
) -> dict[int, ClosedPosition]:
    """Close the trades that are over; returns what became of their positions, by number.

    Each is judged on what is stored now: its row is locked, its trade folded again. One whose orders have not all ended, or whose bars
    are not stored yet, waits for the next bar.
    """
    due = [each for each in candidates if may_close(each.position, each.state, each.close)]
    if not due:
        return {}
    locked = work.ledger.lock_positions({each.position.position_id for each in due})
    closed = {}
    for each in due:
        totals = locked[each.position.position_id]
        position = _refresh(work, each.position, totals)
        span = None if position.trade is None else work.ledger.load_trade_span(position.trade.trade_id)
        if span is None or span.n_live or not may_close(position, each.state, each.close):
            continue
        hold = _load_hold(work, each.series, timeframe, span)
        if hold is None:
            continue
        after, summary = close_trade(position, each.state, each.close, hold)
        if summary is None:
            continue
        work.ledger.add_summary(_row(summary, each, account, strategy, span))
        reset = replace(totals, status=Status.WATCHLIST, trade_id=None, opened_ms=None)
        work.ledger.close_position(sum_up(reset, None, totals.quantity, each.close), now_ms)
        closed[after.position_id] = ClosedPosition(after, summary)
    return closed


def _refresh(work: Work, position: Position, totals: PositionTotals) -> Position:
    """Take a position as it is stored now: a fill may have been booked since it was loaded."""
    trade = None if totals.trade_id is None else fold_trade(totals.trade_id, work.ledger.load_trade(totals.trade_id))
    return replace(position, quantity=totals.quantity, trade=trade)


def _load_hold(work: Work, series: str, timeframe: Timeframe, span: TradeSpan) -> Hold | None:
    """Bars from the one with the first fill to the one with the last; None while one of those two is missing."""
    opened_s, closed_s = span.first_ms // 1000, span.last_ms // 1000
    first_s, last_s = timeframe.floor(opened_s), timeframe.floor(closed_s)
    bars = work.bars.load_after(BarTable.TOKENS, timeframe, {series: first_s - 1}, last_s).get(series)
    if bars is None or not len(bars) or int(bars.ts_s[-1]) != last_s:
        return None
    return Hold(opened_s, closed_s, bars.low.tolist(), bars.high.tolist())


def _row(summary: TradeSummary, each: Candidate, account: str, strategy: str, span: TradeSpan) -> SummaryRow:
    return SummaryRow(
        trade_id=summary.trade_id,
        position_id=each.position.position_id,
        account=account,
        strategy=strategy,
        symbol=each.symbol,
        opened_ms=span.first_ms,
        closed_ms=span.last_ms,
        allocated_usd=summary.allocated_usd,
        extracted_usd=summary.extracted_usd,
        return_frac=summary.return_frac,
        max_drawdown_frac=summary.max_drawdown_frac,
        max_gain_frac=summary.max_gain_frac,
        rr=summary.rr,
        hold_s=summary.hold_s,
    )
