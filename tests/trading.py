"""A simulated venue to trade at, for tests: `with serve_trading() as venue: venue.exchange().create_order(...)`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from regime_pipeline.adapters.venues.ccxt_client import build_exchange
from regime_pipeline.adapters.venues.generated import GeneratedMarket
from regime_pipeline.clock import utc_now
from regime_pipeline.market.universe import Universe, load_universe
from regime_pipeline.ports import BarSource
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.server import SimulatedVenue, serve
from regime_pipeline.simulation.trading import (
    ApiKeys,
    Hand,
    Instrument,
    MarketType,
    ScriptEntry,
    Trade,
    TradingBook,
    TradingFloor,
    follow_bars,
    list_markets,
    make_instrument,
)
from regime_pipeline.simulation.trading.tls import make_certificate

UNIVERSE = Path(__file__).parents[1] / "config" / "universe.toml"
EXCHANGES = {MarketType.SPOT: "binance", MarketType.LINEAR: "bybit"}
CREATE = {MarketType.SPOT: "POST /api/v3/order", MarketType.LINEAR: "POST /v5/order/create"}
"""Endpoint of a create, as scripts name it."""
__all__ = ["CREATE", "TradingVenue", "make_instrument", "serve_trading"]


@dataclass(frozen=True)
class TradingVenue:
    """A running venue with one book (two: say the market type)."""

    url: str
    floor: TradingFloor
    clock: VirtualClock
    market_type: MarketType
    pem: Path | None = None

    @property
    def book(self) -> TradingBook:
        """The very book that the server uses; its methods may be called from any thread, with `now_ms` as the time."""
        return self.floor.desk(self.market_type).book

    @property
    def hand(self) -> Hand:
        """fill, cancel, place, liquidate; repeat_row, alter_row, hide_fee, show_fees, shuffle_rows; deposit, withdraw, pay_funding."""
        return self.floor.hand(self.market_type, self.clock_ms)

    @property
    def keys(self) -> ApiKeys:
        """`keys["trader"]` has `.key` and `.secret`; also kill and snapshot. `revoke(kind)`, `grant(kind, "read", "withdraw")`."""
        return self.floor.keys

    @property
    def now_ms(self) -> int:
        """The venue's time, its skew included."""
        return self.floor.now_ms(self.clock_ms())

    def clock_ms(self) -> int:
        """The clock without skew."""
        return int(1000 * self.clock.now_s())

    def on(self, market_type: MarketType | str) -> "TradingVenue":
        """The same venue seen at its other book."""
        return TradingVenue(self.url, self.floor, self.clock, MarketType(market_type), self.pem)

    def script(self, *entries: ScriptEntry | Mapping[str, Any]) -> None:
        """Add faults, as fields of `ScriptEntry`: `venue.script({"on": "POST /api/v3/order", "status": 504, "body": ""})`."""
        self.floor.script.add(*entries)

    def script_create(self, **fields: Any) -> None:
        """Add a fault to creates, whatever this venue calls them: `venue.script_create(cut="reset")`."""
        self.script({"on": CREATE[self.market_type], **fields})

    def clear_script(self) -> None:
        self.floor.script.reset()

    def change(self, **rules: Any) -> None:
        """Change fields of `Rules`: `venue.change(liquidity=Decimal("0.1"), visibility_ms=4000)`."""
        self.book.change(**rules)

    def skew(self, milliseconds: int) -> None:
        """Let the venue's clock go before (or behind, below 0) its clients'."""
        self.floor.skew_ms = milliseconds

    def set_price(self, symbol: str, price: Decimal | str | int) -> list[Trade]:
        """Move the scripted price now; gives the trades that followed."""
        return self.book.set_price(symbol, Decimal(price), self.now_ms)

    def set_path(self, symbol: str, points: Sequence[tuple[int, Decimal | str]]) -> None:
        """Script prices ahead, as (epoch ms of the venue, price)."""
        self.book.set_path(symbol, [(at_ms, Decimal(price)) for at_ms, price in points])

    def truth(self) -> dict[str, Any]:
        """The judge's view of this book, with `received` (every create that came in) and `requests` (counts by endpoint)."""
        told = self.floor.truth()
        prefix = self.floor.desk(self.market_type).prefix
        received = [note for note in told["received"] if note["venue"] == prefix]
        return {**told["books"][self.market_type.value], "received": received, "requests": told["requests"]}

    def exchange(self, kind: str = "trader", *, timeout_s: float = 5.0, has_limiter: bool = False) -> Any:
        """A real ccxt client of this venue with a key of this kind, pinned as the product pins it; every call makes another one.

        It stamps with the venue's clock, without skew, so that it goes on working when the clock is moved.
        """
        exchange_id = EXCHANGES[self.market_type]
        exchange = build_exchange(exchange_id, self.url, timeout_s)
        exchange.apiKey, exchange.secret = self.keys[kind].key, self.keys[kind].secret
        is_spot = self.market_type is MarketType.SPOT
        exchange.options |= {
            "defaultType": "spot" if is_spot else "swap",
            "fetchMarkets": {"types": ["spot" if is_spot else "linear"]},
            "fetchCurrencies": False,
            "fetchMargins": False,
            "warnOnFetchOpenOrdersWithoutSymbol": False,
            "recvWindow": 5000,
        }
        exchange.has |= {"fetchCurrencies": False}
        exchange.milliseconds = self.clock_ms
        exchange.enableRateLimit = has_limiter
        if self.pem is not None:
            exchange.validateServerSsl = str(self.pem)  # requests takes a path as well
        return exchange


@contextmanager
def serve_trading(
    market_type: MarketType | str = MarketType.SPOT,
    *others: MarketType | str,
    balances: Mapping[str, Decimal | str] | None = None,
    instruments: Sequence[Instrument] | None = None,
    is_following: bool = False,
    speed: float = 1.0,
    start_s: float | None = None,
    is_tls: bool = False,
    port: int = 0,
    floor: TradingFloor | None = None,
    **rules: Any,
) -> Iterator[TradingVenue]:
    """Serve a book on 127.0.0.1 until the block is left.

    Parameters
    ----------
    market_type : MarketType or str
        `spot` (Binance) or `linear` (Bybit); `others` are served beside it with their defaults, see `TradingVenue.on`.
    balances, instruments, rules
        As `TradingBook` takes them; amounts may be text. `make_instrument("AAVEUSDT", "90")` describes one more market.
    is_following : bool
        Every symbol of the universe that has bars is listed, and its price is that of its bars (until the next second, when set by hand).
    speed, start_s
        Of the clock: by default the machine's time at its pace, since ccxt stamps with it.
    is_tls : bool
        Over https with a certificate of its own; clients of `exchange()` trust it.
    port, floor
        Those of a venue that was up before, to let it come back with all that it knew; books are not opened anew then.
    """
    held = {asset: Decimal(amount) for asset, amount in balances.items()} if balances is not None else None
    clock = VirtualClock(utc_now().timestamp() if start_s is None else start_s, speed)
    universe, source = _market()
    venue = SimulatedVenue(source, universe, clock)
    if is_following:
        instruments = list_markets(venue.truth, MarketType(market_type), clock.start_s)
    if floor is None:
        floor = TradingFloor(TradingBook(market_type, instruments, held, **rules), *map(TradingBook, others))
    if is_following:
        follow_bars(floor.desk(market_type).book, venue.truth)
    venue.trading = floor
    with TemporaryDirectory() as folder:
        pem = make_certificate(Path(folder), utc_now) if is_tls else None
        with serve(venue, port, pem) as served:
            yield TradingVenue(served.url, floor, clock, MarketType(market_type), pem)


@cache
def _market() -> tuple[Universe, BarSource]:
    universe = load_universe(UNIVERSE)
    return universe, GeneratedMarket(universe, 7)
