"""Trading at the simulated venue: real ccxt clients place, read and cancel orders here, and every fault of the order path can be had.

`TradingBook` is one account's book: it takes orders, matches them against a scripted price and keeps trades, balances and positions.
It is plain Python, has no clock and needs no sockets, so a property test drives the code that is behind the servers. `Hand` does in a
book what other clients and the venue do. `TradingFloor` puts a book behind the API of Binance spot (`BinanceDesk`) or Bybit's linear
perpetuals (`BybitDesk`), checks keys, signatures and time, and runs the script of faults; `SimulatedVenue(..., trading=floor)` serves it.

| module | what |
|---|---|
| `values`, `rules` | orders, trades, refusals; the knobs of a venue |
| `book`, `checks`, `matching`, `accounts` | what happens to an order and to the account |
| `reads`, `truth` | what clients may read; what is so |
| `hand` | a tester's hand |
| `listing` | markets and prices from bars |
| `calls`, `keys`, `desk`, `binance`, `bybit` (and their `_rows`) | the APIs |
| `script`, `floor`, `control`, `routes`, `tls` | faults, the whole floor, and HTTP |
"""

from regime_pipeline.simulation.trading.book import TradingBook
from regime_pipeline.simulation.trading.floor import TradingFloor
from regime_pipeline.simulation.trading.hand import Hand
from regime_pipeline.simulation.trading.keys import ApiKeys
from regime_pipeline.simulation.trading.listing import follow_bars, list_markets, make_instrument
from regime_pipeline.simulation.trading.reads import read_open_orders, read_order, read_orders, read_trades
from regime_pipeline.simulation.trading.rules import Rules
from regime_pipeline.simulation.trading.script import Script, ScriptEntry
from regime_pipeline.simulation.trading.truth import tell_truth
from regime_pipeline.simulation.trading.values import (
    Instrument,
    Kind,
    MarketType,
    NewOrder,
    Reason,
    RefusalError,
    Side,
    Status,
    Tif,
    Trade,
    Trigger,
    VenueOrder,
)

__all__ = [
    "ApiKeys",
    "Hand",
    "Instrument",
    "Kind",
    "MarketType",
    "NewOrder",
    "Reason",
    "RefusalError",
    "Rules",
    "Script",
    "ScriptEntry",
    "Side",
    "Status",
    "Tif",
    "Trade",
    "TradingBook",
    "TradingFloor",
    "Trigger",
    "VenueOrder",
    "follow_bars",
    "list_markets",
    "make_instrument",
    "read_open_orders",
    "read_order",
    "read_orders",
    "read_trades",
    "tell_truth",
]
