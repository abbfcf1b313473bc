"""Markets of a book from bars: what a venue has bars of can be traded, at the price of the bars and on a grid that suits it."""

from decimal import ROUND_FLOOR, Decimal
from typing import Final

from regime_pipeline.simulation.binance import split_symbol
from regime_pipeline.simulation.trading.book import TradingBook, floor_to
from regime_pipeline.simulation.trading.values import Instrument, MarketType
from regime_pipeline.simulation.truth import Listing, Truth
from regime_pipeline.simulation.wire import Api

APIS: Final = {MarketType.SPOT: (Api.SPOT, Api.USDM), MarketType.LINEAR: (Api.USDM,)}
"""Market type -> the APIs whose bars its prices follow, the first that has a symbol. Tokens have bars as perpetuals only."""
_MIN_NOTIONAL: Final = Decimal(5)
_MAX_NOTIONAL: Final = Decimal(10_000_000)


def make_instrument(symbol: str, price: Decimal | str, tick: Decimal | str | None = None, step: Decimal | str | None = None) -> Instrument:
    """Describe a market by its symbol and price.

    Parameters
    ----------
    symbol : str
        As the venue spells it: AAVEUSDT.
    tick, step : Decimal or str, optional
        By default the price has five digits and a step is worth 0.1 to 1 of quote.
    """
    price = Decimal(price)
    base, quote = split_symbol(symbol)
    tick = Decimal(tick) if tick is not None else Decimal(1).scaleb(max(price.adjusted() - 4, -8))
    step = Decimal(step) if step is not None else Decimal(1).scaleb(max(-price.adjusted() - 1, -8))
    max_qty = max((_MAX_NOTIONAL / price / step).to_integral_value(ROUND_FLOOR), Decimal(1)) * step
    return Instrument(symbol, base, quote, tick, step, step, _MIN_NOTIONAL, price, max_qty)


def list_markets(truth: Truth, market_type: MarketType, at_s: float) -> list[Instrument]:
    """Describe every market that has bars at an instant."""
    found = []
    for symbol, listing in _listings(truth, market_type).items():
        price = truth.price(listing, at_s)
        if price is not None:
            rounded = Decimal(repr(price))
            instrument = make_instrument(symbol, rounded)
            found.append(make_instrument(symbol, floor_to(rounded, instrument.tick)))
    return found


def follow_bars(book: TradingBook, truth: Truth) -> None:
    """Let the scripted price of every market of a book be that of its bars, looked at once a second whenever somebody asks the book."""
    listings = _listings(truth, book.market_type)

    def price_of(symbol: str, at_ms: int) -> Decimal | None:
        listing = listings.get(symbol)
        price = truth.price(listing, at_ms / 1000) if listing is not None else None
        return None if price is None else floor_to(Decimal(repr(price)), book.instruments[symbol].tick)

    book.follow(price_of)


def _listings(truth: Truth, market_type: MarketType) -> dict[str, Listing]:
    found: dict[str, Listing] = {}
    for api in APIS[market_type]:
        found = {**truth.listings(api), **found}
    return found
