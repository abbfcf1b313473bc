"""The decision a tick would take, without taking it: nothing is written, nothing is asked of the venue."""

from dataclasses import dataclass

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.portfolio.decide import TickDecision, decide
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.describe_tick import TickTexts, describe_tick
from regime_pipeline.services.trading.load_tick import TickSnapshot, TickTerms, load_tick
from regime_pipeline.services.trading.tick_market import StoredMarket


@dataclass(frozen=True, slots=True)
class PlannedTick:
    """What would be decided, on what, and how it would be written down."""

    snapshot: TickSnapshot
    decision: TickDecision
    texts: TickTexts


def plan_tick(trading: Trading, universe: Universe, timeframe: Timeframe, bar_close_s: int | None, terms: TickTerms) -> PlannedTick:
    """Plan the newest bar of a strategy, or the one that closes at an instant, on the positions as they are now.

    The gate is not asked: what it says depends on the venue at the moment of the order.

    Raises
    ------
    BadInputError
        When the strategy has no bar yet.
    """
    with trading.stores.open() as work:
        work.freeze()
        if bar_close_s is None:
            newest_s = work.portfolio.find_newest_bar(trading.terms.book_id, timeframe)
            if newest_s is None:
                book = trading.terms.book_id
                raise BadInputError(f"book {book} has no {timeframe} bar yet, or no position on it. Let `regime up` fill history.")
            bar_close_s = newest_s + timeframe.seconds
        market = StoredMarket(work, universe, trading.terms.book_id, timeframe, trading.broker.traits.venue)
        snapshot = load_tick(work, trading, market, timeframe, bar_close_s, terms)
    decision = decide(snapshot.inputs)
    return PlannedTick(snapshot, decision, describe_tick(snapshot.inputs, decision))
