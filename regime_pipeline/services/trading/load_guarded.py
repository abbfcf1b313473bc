"""What is held, each position with the stop that protects it."""

from dataclasses import dataclass
from decimal import Decimal

from regime_pipeline.execution.bracket import compute_stop_price
from regime_pipeline.execution.rounding import round_stop
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.money import ZERO
from regime_pipeline.ports import GuardedPosition, Work
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Side
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.load_tick import spell_symbol, strategy_of


@dataclass(frozen=True, slots=True)
class Guarded:
    """A position under its stop; `price` is where the stop lies, on the tick."""

    position: GuardedPosition
    strategy: str
    symbol: str
    held: Decimal
    price: Decimal
    rules: InstrumentRules


def load_guarded(work: Work, trading: Trading) -> list[Guarded]:
    """Load what is held with its stop: the plan of its entries, or the default distance from the average entry."""
    traits, terms = trading.broker.traits, trading.terms
    holdings = {(row.strategy, row.asset): row.qty for row in work.safety.load_holdings(terms.account)}
    rules = work.safety.load_rules(traits.venue)
    found = []
    for position in work.recon.load_guarded(terms.account, terms.book_id):
        strategy = strategy_of(terms.book_id, Timeframe(position.timeframe))
        symbol = spell_symbol(position.contract, traits.quote, traits.market_type)
        held = holdings.get((strategy, position.contract if traits.market_type == "spot" else symbol), ZERO)
        rule = rules.get(symbol)
        if rule is None or not held >= rule.step:
            continue
        stop = compute_stop_price(position.average, position.planned, terms.default_stop_frac)
        found.append(Guarded(position, strategy, symbol, held, round_stop(stop, rule.tick, Side.SELL), rule))
    return found
