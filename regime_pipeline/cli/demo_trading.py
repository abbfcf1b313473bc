"""The demo trades: the portfolio manager over the stored history on a paper account, and what it came to."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from regime_pipeline.market.timeframe import Timeframe

if TYPE_CHECKING:
    from regime_pipeline.board.trading_report import TradingPage
    from regime_pipeline.market.universe import Universe
    from regime_pipeline.ports import Stores, Work
    from regime_pipeline.services.trading.replay_trading import ReplaySummary
    from regime_pipeline.settings import Settings

DAY_S: Final = 86_400
EVERYTHING: Final = 1_000_000
REQUIRED: Final = ("BTC", "ALT")
"""Drivers without which no lever is whole."""


@dataclass(slots=True)
class Traded:
    """What was traded, by strategy: the stretch of bar closes (epoch seconds, half-open), the regime used, and what it came to."""

    strategies: dict[str, "Stretch"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stretch:
    """One strategy's history: bars that closed in [start, end) were decided with these regime timeframes; None: decided before."""

    start_s: int
    end_s: int
    regime: tuple[Timeframe, ...]
    summary: "ReplaySummary | None"


def trade_history(
    settings: "Settings", stores: "Stores", universe: "Universe", days: int | None, tell: Callable[[str, int, int], None]
) -> Traded:
    """Trade the newest `days` (None: all) of every strategy; what was decided by an earlier demo stays as it is.

    Parameters
    ----------
    tell : callable
        Called with the strategy, the bars done and the bars there are.
    """
    from regime_pipeline.services.trading.find_new_bars import execution_timeframes
    from regime_pipeline.services.trading.load_tick import strategy_of

    traded = Traded()
    for timeframe in execution_timeframes(universe):
        strategy = strategy_of(settings.trading_book, timeframe)
        stretch = find_stretch(settings, stores, timeframe, days)
        if stretch is not None:
            traded.strategies[strategy] = _trade(settings, stores, universe, timeframe, stretch, tell)
    return traded


def find_stretch(settings: "Settings", stores: "Stores", timeframe: Timeframe, days: int | None) -> Stretch | None:
    """Find which bars can be decided: those on which tokens and the slower regimes have states, the newest `days` of them."""
    from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES

    with stores.open() as work:
        newest_s = work.portfolio.find_newest_bar(settings.trading_book, timeframe)
        oldest_s = work.book.find_oldest_record(settings.trading_book, timeframe)
        if newest_s is None or oldest_s is None:
            return None
        end_s = newest_s + timeframe.seconds + 1
        start_s = max(oldest_s + timeframe.seconds, end_s - DAY_S * days if days is not None else 0)
        spans = {each: _regime_span(work, each) for each in CHANNEL_TIMEFRAMES}
    # a regime that begins within the stretch would make one history of two; minutes are mostly too short for it
    regime = tuple(each for each, span in spans.items() if span is not None and _covers(span, each, start_s, end_s))
    slow = [span[0] + each.seconds for each, span in spans.items() if span is not None and each in regime]
    return Stretch(max([start_s, *slow]), end_s, regime, None)


def _regime_span(work: "Work", timeframe: Timeframe) -> tuple[int, int] | None:
    """Give the opens of the first and the last delta that all required drivers have."""
    spans = [work.book.find_delta_span(driver, timeframe) for driver in REQUIRED]
    if any(span is None for span in spans):
        return None
    known = [span for span in spans if span is not None]
    return max(first for first, _ in known), min(last for _, last in known)


def _covers(span: tuple[int, int], timeframe: Timeframe, start_s: int, end_s: int) -> bool:
    """Tell whether deltas reach over a stretch; their first may come a tenth of it late, which then is not traded."""
    patience_s = (end_s - start_s) // 10
    return span[0] + timeframe.seconds <= start_s + patience_s and span[1] + 3 * timeframe.seconds >= end_s


def _trade(
    settings: "Settings",
    stores: "Stores",
    universe: "Universe",
    timeframe: Timeframe,
    stretch: Stretch,
    tell: Callable[[str, int, int], None],
) -> Stretch:
    from regime_pipeline.orchestration.trading import build_trading
    from regime_pipeline.services.trading.load_tick import TickTerms, strategy_of
    from regime_pipeline.services.trading.replay_trading import ReplayClock, replay_trading

    strategy = strategy_of(settings.trading_book, timeframe)
    with stores.open() as work:
        heads = work.journal.list_decisions(1, settings.trading_account, strategy)
    begin_s = max(stretch.start_s, heads[0].bar_close_s + timeframe.seconds if heads else 0)
    if begin_s >= stretch.end_s:
        return stretch
    clock = ReplayClock(begin_s - 2 * timeframe.seconds)
    trading = build_trading(settings, clock=clock, stores=stores)
    summary = replay_trading(
        trading,
        universe,
        clock,
        timeframe,
        begin_s,
        stretch.end_s,
        TickTerms(timeframes=stretch.regime, min_validity=settings.min_validity),
        lambda done, there: tell(strategy, done, there),
    )
    return Stretch(stretch.start_s, stretch.end_s, stretch.regime, summary)


def collect_trading(settings: "Settings", work: "Work", traded: Traded) -> "TradingPage":
    """Read what the report shows of the account."""
    from regime_pipeline.board.trading_report import TradingPage
    from regime_pipeline.services.trading.read_book import read_equity, read_positions

    account, book = settings.trading_account, settings.trading_book
    equity = read_equity(work, account, settings.trading_quote)
    at_s = equity.last.at_s if equity.last is not None else 0
    return TradingPage(
        account=account,
        quote=settings.trading_quote,
        traded=[describe_stretch(strategy, stretch) for strategy, stretch in traded.strategies.items()],
        equity=equity,
        positions=read_positions(work, account, book, at_s),
        trades=work.book.load_trades(account, 0, EVERYTHING),
        actions=work.book.load_actions(book, 0, EVERYTHING),
        codes=work.book.count_codes(account, 0),
        orders=work.book.count_orders(account, 0),
    )


def describe_stretch(strategy: str, stretch: Stretch) -> str:
    """Say in words what a strategy has decided."""
    from regime_pipeline.cli.session import show_time

    bars = (stretch.end_s - stretch.start_s) // _timeframe_of(strategy).seconds + 1
    when = f"{show_time(stretch.start_s)} to {show_time(stretch.end_s - 1)} UTC"
    return f"{strategy} decided {bars:,} bars, {when}, on the regime of {', '.join(stretch.regime) or 'no timeframe'}"


def trading_document(page: "TradingPage", traded: Traded) -> dict[str, Any]:
    """Write it as plain JSON values."""
    from regime_pipeline.cli.book import equity_document, position_document
    from regime_pipeline.cli.session import iso_time

    return {
        "account": page.account,
        **equity_document(page.equity, with_curve=False),
        "strategies": {
            strategy: {
                "from": iso_time(stretch.start_s),
                "to": iso_time(stretch.end_s - 1),
                "regime": list(stretch.regime),
                "decided_now": 0 if stretch.summary is None else stretch.summary.bars,
                "stops": 0 if stretch.summary is None else stretch.summary.stops,
                "releases": 0 if stretch.summary is None else stretch.summary.releases,
                "checksums": {} if stretch.summary is None else stretch.summary.checksums,
            }
            for strategy, stretch in traded.strategies.items()
        },
        "orders": page.orders,
        "trades": {"closed": len(page.trades), "with_profit": sum(row.pnl > 0 for row in page.trades)},
        "actions": len(page.actions),
        "positions": [position_document(each) for each in page.positions if each.row.quantity],
        "codes": [{"strategy": each.strategy, "code": each.code, "lines": each.n_lines, "of": each.n_of} for each in page.codes],
    }


def _timeframe_of(strategy: str) -> Timeframe:
    return Timeframe(strategy.rpartition("-")[2])
