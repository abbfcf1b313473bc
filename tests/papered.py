"""A paper account with money and a market of stored bars, and short words for trading in it."""

from collections.abc import Sequence
from decimal import Decimal
from hashlib import sha256
from itertools import count
from typing import Any

import psycopg

from regime_pipeline.adapters.brokers.paper import PaperBroker, PaperTerms
from regime_pipeline.adapters.brokers.paper_market import Levels, StoredMarket
from regime_pipeline.execution.answers import PAPER, AnswerVerdict, classify_answer
from regime_pipeline.execution.fills import Fill
from regime_pipeline.ports import Absent, Balance, CreateReply, Failed, Ok, OrderSpec, OrderType, TimeInForce, VenueOrder
from regime_pipeline.risk.purpose import Side
from regime_pipeline.simulation.clock import VirtualClock
from tests.builders import T0

START_S = T0 + 12 * 3600 + 10  # ten seconds into a minute
WINDOW_MS = 5000


class PaperDesk:
    """A paper broker, its clock and its bars; the token AAVE trades at 100 from a day before on."""

    def __init__(self, url: str, contract: str = "AAVE", price: float = 100.0, cash: str = "100000", **terms: Any) -> None:
        self.url, self.contract, self.price = url, contract, price
        self.terms = PaperTerms(**terms)
        self.symbol = f"{contract}/USDT" + (":USDT" if self.terms.is_linear else "")
        self.clock = VirtualClock(START_S, 0.0)
        self.book: tuple[Levels, Levels] | None = None
        self.ids = count()
        with psycopg.connect(url) as conn:
            conn.execute(
                "insert into lowcap_positions (token_contract, token_chain, timeframe, token_ticker, status, book_id)"
                " values (%s, 'binance', '1h', %s, 'watchlist', 'onchain_crypto') on conflict do nothing",
                (contract, contract),
            )
            conn.execute(
                "insert into paper.balances values (%s, 'USDT', %s) on conflict (account, asset) do nothing", (self.terms.account, cash)
            )
        self.add_bar(START_S - 70, price)
        self.broker = self.open()

    def open(self) -> PaperBroker:
        """Another process with the same account."""
        market = StoredMarket(market_type=self.terms.market_type, book=lambda _symbol: self.book)
        return PaperBroker(self.url, market, self.terms, self.clock.now)

    @property
    def now_ms(self) -> int:
        """Time of the broker."""
        return round(self.clock.now_s() * 1000)

    def add_bar(
        self, open_s: int, price: float, high: float | None = None, low: float | None = None, base: float = 1e6, timeframe: str = "1m",
        close: float | None = None,
    ) -> None:  # fmt: skip
        """Store a closed bar; `base` is its volume in base."""
        close = price if close is None else close
        length_s = {"1m": 60, "1h": 3600}[timeframe]
        high, low = max(price, close, high or 1.002 * price), min(price, close, low or 0.998 * price)
        with psycopg.connect(self.url) as conn:
            conn.execute(
                "insert into lowcap_price_data_ohlc (token_contract, chain, timeframe, timestamp, open_usd, high_usd, low_usd, close_usd,"
                " volume, bars_used, expected_bars, is_final, source)"
                " values (%s, 'binance', %s, to_timestamp(%s), %s, %s, %s, %s, %s, 1, 1, true, 'x') on conflict do nothing",
                (self.contract, timeframe, open_s // length_s * length_s, price, high, low, close, base * close),
            )

    def pass_minute(self, price: float | None = None, **bar: Any) -> None:
        """Let the next minute pass: its bar is stored as it ends."""
        open_s = int(self.clock.now_s()) // 60 * 60 + 60
        self.clock.advance(open_s + 60 - self.clock.now_s())
        self.add_bar(open_s, self.price if price is None else price, **bar)

    def spec(self, side: str = "buy", qty: str = "1", limit: str | None = "100.3", **changes: Any) -> OrderSpec:
        """An order with an id of its own."""
        client_id = changes.pop("client_id", sha256(str(next(self.ids)).encode()).hexdigest()[:32])
        kind = changes.pop("type", OrderType.MARKET if limit is None else OrderType.LIMIT)
        price = None if limit is None else Decimal(limit)
        return OrderSpec(client_id, changes.pop("symbol", self.symbol), Side(side), kind, Decimal(qty), price, **changes)

    def send(self, spec: OrderSpec) -> CreateReply:
        """Send an order now."""
        return self.broker.create_order(spec, self.now_ms, WINDOW_MS)

    def judge(self, spec: OrderSpec, reply: CreateReply | None = None) -> AnswerVerdict:
        """What the answer to an order proves."""
        return classify_answer(PAPER, (reply or self.send(spec)).answer, spec.client_order_id)

    def place(self, side: str = "buy", qty: str = "1", limit: str | None = "100.3", **changes: Any) -> OrderSpec:
        """Send an order that is taken."""
        spec = self.spec(side, qty, limit, **changes)
        verdict = self.judge(spec)
        assert verdict.answer_class.value == "ACCEPTED", verdict
        return spec

    def ioc(self, side: str = "buy", qty: str = "1", limit: str = "100.3") -> OrderSpec:
        """Send an order that trades at once or not at all."""
        return self.place(side, qty, limit, tif=TimeInForce.IOC)

    def read(self, spec: OrderSpec) -> VenueOrder:
        """The order as the broker shows it now."""
        found = self.broker.fetch_order(spec.symbol, spec.client_order_id, None)
        assert isinstance(found, Ok), found
        return found.value

    def is_absent(self, client_order_id: str) -> bool:
        """Whether the broker knows no such order."""
        return isinstance(self.broker.fetch_order(self.symbol, client_order_id, None), Absent)

    def fills(self, spec: OrderSpec | None = None) -> Sequence[Fill]:
        """Trades of the symbol, or of one order."""
        venue_id = None if spec is None else self.read(spec).venue_order_id
        found = self.broker.fetch_fills(self.symbol, 0, venue_id)
        assert isinstance(found, Ok), found
        return found.value

    def balance(self, asset: str) -> Balance:
        """Balance of an asset."""
        found = self.broker.fetch_balances()
        assert not isinstance(found, Failed), found
        return found.value.get(asset, Balance(Decimal(0), Decimal(0)))
