"""The paper broker: one account that trades stored bars, with the rules, the delays and the refusals of a venue.

It keeps a book of its own, so that reconciliation compares two, and answers in the words of Binance. A fill is known only when its
bar has closed, a cancel is confirmed only when nothing can come before it any more; both are found out by whoever reads.
"""

import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from functools import wraps
from threading import RLock
from typing import Concatenate, Final, ParamSpec, TypeVar

import psycopg

from regime_pipeline.adapters.brokers.paper_market import PaperMarket
from regime_pipeline.adapters.brokers.paper_store import MAX_OPEN, NewTrade, PaperStore, StoredOrder
from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.clock import Clock, utc_now
from regime_pipeline.errors import DatabaseError
from regime_pipeline.execution.answers import PAPER, RawAnswer, Transport
from regime_pipeline.execution.fills import Fill
from regime_pipeline.execution.ledger import LedgerAccount, PerpPosition, book_perp_fill, book_spot_fill, sum_lines
from regime_pipeline.execution.order_states import VenueStatus
from regime_pipeline.execution.paper import (
    HALF_SPREAD_MAJOR_BPS,
    HALF_SPREAD_OTHER_BPS,
    PERP_TARIFF,
    SPOT_TARIFF,
    FeeTariff,
    PaperFill,
    compute_fee,
    draw_latency_ms,
    is_rejected,
)
from regime_pipeline.execution.paper_walk import BarView, PaperStatus, WalkedOrder, WalkFill, walk_bars, walk_book
from regime_pipeline.portfolio.money import BPS, EXACT, QUANTUM, QUOTIENT, ZERO, is_on_grid
from regime_pipeline.ports import (
    Absent,
    Balance,
    BrokerTraits,
    CreateReply,
    Failed,
    Found,
    FundingPayment,
    Listing,
    Ok,
    OrderSpec,
    OrderType,
    Quote,
    Read,
    VenueOrder,
    VenuePosition,
)
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Side

P = ParamSpec("P")
R = TypeVar("R")

MAX_AHEAD_MS: Final = 1000
MARKET_MARGIN: Final = Decimal("1.05")
"""A market order locks this many times what it would cost at the newest close."""
STEP_WORTH_QUOTE: Final = Decimal("0.1")
PRICE_DIGITS: Final = 5
MIN_COST_QUOTE: Final = Decimal(5)
MAJORS: Final = frozenset({"BTC", "ETH"})

_NO_BARS: Final = BarView(60_000)


@dataclass(frozen=True, slots=True)
class PaperTerms:
    """What a paper account is like.

    Parameters
    ----------
    account, quote, market_type : str
        Its name, its money, and `spot` or `linear`.
    seed : int
        Of the draws.
    refuses_at_random : bool
        Soak mode: a share of 0.002 of the orders is refused.
    majors : frozenset of str
        Tokens with a spread of 1 bps on each side; all others have 5.
    tariff : FeeTariff or None
        Fees; None: 10 and 10 bps on spot, 2 and 6 on contracts.
    """

    account: str = "paper-main"
    quote: str = "USDT"
    market_type: str = "spot"
    seed: int = 7
    refuses_at_random: bool = False
    majors: frozenset[str] = MAJORS
    tariff: FeeTariff | None = None

    @property
    def is_linear(self) -> bool:
        """Whether it trades contracts."""
        return self.market_type == "linear"

    @property
    def fees(self) -> FeeTariff:
        """Fees in force."""
        return self.tariff or (PERP_TARIFF if self.is_linear else SPOT_TARIFF)


class _RefusedError(Exception):
    """A create that is refused, in Binance's words."""

    def __init__(self, code: int, msg: str) -> None:
        super().__init__(msg)
        self.code, self.msg = code, msg


def _reads(method: Callable[Concatenate["PaperBroker", P], R]) -> Callable[Concatenate["PaperBroker", P], R | Failed]:
    """Let one thread at a time use the connection, and say of a database that fails that the read has failed."""

    @wraps(method)
    def read(self: "PaperBroker", /, *args: P.args, **kwargs: P.kwargs) -> R | Failed:
        try:
            with self._lock:
                return method(self, *args, **kwargs)
        except (psycopg.Error, DatabaseError) as error:
            return Failed(f"the book of the paper broker could not be read: {' '.join(str(error).split())}")

    return read


def _answers(method: Callable[Concatenate["PaperBroker", P], CreateReply]) -> Callable[Concatenate["PaperBroker", P], CreateReply]:
    """Let one thread at a time use the connection; a database that fails is a wire that broke: nobody knows what was done."""

    @wraps(method)
    def answer(self: "PaperBroker", /, *args: P.args, **kwargs: P.kwargs) -> CreateReply:
        try:
            with self._lock:
                return method(self, *args, **kwargs)
        except _RefusedError as refusal:
            return _reply({"code": refusal.code, "msg": refusal.msg}, 400)
        except (psycopg.Error, DatabaseError):
            return CreateReply(RawAnswer(Transport.BROKEN))

    return answer


class PaperBroker:
    """`Broker` on schema `paper`, with short transactions of its own.

    Parameters
    ----------
    url : str
        Address of the database.
    market : PaperMarket
        What it trades in.
    terms : PaperTerms
        What the account is like.
    clock : Clock
        The broker's clock.
    """

    def __init__(self, url: str, market: PaperMarket, terms: PaperTerms | None = None, clock: Clock = utc_now) -> None:
        self._url, self._market, self._clock = url, market, clock
        self.terms = terms or PaperTerms()
        self.traits = BrokerTraits("paper", self.terms.account, Mode.PAPER, self.terms.market_type, self.terms.quote, PAPER)
        self._lock = RLock()
        self._store: PaperStore | None = None
        self._listings: dict[str, Listing] = {}

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._store is not None:
            self._store.conn.close()

    @_answers
    def create_order(self, spec: OrderSpec, sent_at_ms: int, window_ms: int) -> CreateReply:
        """Take one order, or refuse it as a venue does; see `Broker`."""
        now_ms = self._now_ms()
        if now_ms > sent_at_ms + window_ms:
            raise _RefusedError(-1021, "Timestamp for this request is outside of the recvWindow.")
        if sent_at_ms > now_ms + MAX_AHEAD_MS:
            raise _RefusedError(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
        if self.terms.refuses_at_random and is_rejected(self.terms.seed, spec.client_order_id):
            raise _RefusedError(-2010, "Market is closed.")
        store = self._book()
        order = self._draft(store, spec, now_ms)
        venue_order_id = store.create(order)
        if venue_order_id is None:  # its money may be in fills that nobody has read yet
            self._walk_open(None)
            venue_order_id = store.create(order)
        if venue_order_id is None:
            raise self._explain(store, spec, order)
        return _reply({"orderId": venue_order_id, "clientOrderId": spec.client_order_id, "status": "NEW"})

    @_answers
    def cancel_order(self, symbol: str, client_order_id: str, venue_order_id: str | None) -> CreateReply:  # noqa: ARG002 - ours is enough
        """Let an order end after the latency of its cancel; fills inside that time win."""
        now_ms = self._now_ms()
        cancel_ms = now_ms + draw_latency_ms(self.terms.seed, client_order_id, 1)
        found = self._book().cancel(client_order_id, cancel_ms, now_ms)
        if found is None:
            raise _RefusedError(-2011, "Unknown order sent.")
        return _reply(
            {"symbol": symbol, "orderId": found, "origClientOrderId": client_order_id, "clientOrderId": f"c{client_order_id[:31]}"}
        )

    @_answers
    def cancel_all(self, symbol: str) -> CreateReply:
        """Let all open orders of a symbol end."""
        now_ms, store = self._now_ms(), self._book()
        found = store.load_open(symbol)
        for order in found:
            store.cancel(order.client_order_id, now_ms + draw_latency_ms(self.terms.seed, order.client_order_id, 1), now_ms)
        if not found:
            raise _RefusedError(-2011, "Unknown order sent.")
        return _reply([{"symbol": symbol, "orderId": order.venue_order_id, "origClientOrderId": order.client_order_id} for order in found])

    @_reads
    def fetch_order(self, symbol: str, client_order_id: str, venue_order_id: str | None) -> Found[VenueOrder]:
        """Read one order, after the market has been walked for it."""
        store = self._book()
        order = store.load_order(client_order_id, venue_order_id)
        if order is None or order.symbol != symbol:
            return Absent()
        return Ok(_show(self._walk(store, order)))

    @_reads
    def fetch_open_orders(self, symbol: str | None = None) -> Read[Sequence[VenueOrder]]:
        """Read open orders."""
        walked = self._walk_open(symbol)
        return Ok([_show(order) for order in walked if order.status is PaperStatus.OPEN])

    @_reads
    def fetch_closed_orders(self, symbol: str, since_ms: int) -> Read[Sequence[VenueOrder]]:
        """Read orders of a symbol since an instant, whatever their status."""
        self._walk_open(symbol)
        return Ok([_show(order) for order in self._book().load_since(symbol, since_ms)])

    @_reads
    def fetch_fills(self, symbol: str, since_ms: int, venue_order_id: str | None = None) -> Read[Sequence[Fill]]:
        """Read own trades of a symbol since an instant, oldest first."""
        if venue_order_id is not None and not venue_order_id.isdecimal():
            return Ok([])
        self._walk_open(symbol)
        trades = self._book().load_trades(symbol, since_ms, None if venue_order_id is None else int(venue_order_id))
        return Ok(
            [
                Fill(
                    venue=self.traits.venue,
                    account=self.traits.account,
                    market_type=self.traits.market_type,
                    symbol=trade.symbol,
                    venue_order_id=str(trade.venue_order_id),
                    venue_trade_id=str(trade.trade_id),
                    side=trade.side,
                    qty=trade.qty,
                    price=trade.price,
                    fee_amount=trade.fee_amount,
                    fee_asset=trade.fee_asset,
                    venue_ts_ms=trade.ts_ms,
                )
                for trade in trades
            ]
        )

    @_reads
    def fetch_balances(self) -> Read[Mapping[str, Balance]]:
        """Read all balances that are not zero, without what open orders and contracts lock."""
        self._walk_open(None)
        return Ok({asset: Balance(free, total) for asset, (free, total) in self._book().load_balances().items()})

    @_reads
    def fetch_positions(self) -> Read[Sequence[VenuePosition]]:
        """Read contract positions that are not flat; a spot account has none."""
        if not self.terms.is_linear:
            return Ok([])
        self._walk_open(None)
        store, now_ms = self._book(), self._now_ms()
        shown = []
        for symbol, held in sorted(store.load_positions().items()):
            close = self._market.load_close(store.conn, symbol, now_ms)
            shown.append(VenuePosition(symbol, held.qty, held.average_price, None if close is None else close[0]))
        return Ok(shown)

    @_reads
    def fetch_quote(self, symbol: str) -> Read[Quote]:
        """Read best bid and ask: of the book where one is known, else the newest close with half a spread on either side."""
        now_ms = self._now_ms()
        book = self._market.read_book(symbol)
        if book is not None and book[0] and book[1]:
            return Ok(Quote(book[0][0][0], book[1][0][0], now_ms))
        close = self._market.load_close(self._book().conn, symbol, now_ms)
        if close is None:
            return Failed(f"no bar of {symbol} is stored, so it has no price; collect or backfill its bars")
        with localcontext(QUOTIENT):
            half = close[0] * self._half_spread_bps(symbol) / BPS
            return Ok(Quote(close[0] - half, close[0] + half, close[1]))

    @_reads
    def fetch_funding(self, symbol: str, since_ms: int) -> Read[Sequence[FundingPayment]]:  # noqa: ARG002 - the port asks for them
        """Read funding payments; there are none, as no rates are recorded."""
        return Ok([])

    def fetch_time_ms(self) -> Read[int]:
        """Read the broker's clock."""
        return Ok(self._now_ms())

    @_reads
    def fetch_listings(self) -> Read[Mapping[str, Listing]]:
        """Read rules and fees of all that can be traded and has a price."""
        store = self._book()
        symbols = self._market.list_symbols(store.conn)
        known = store.load_listings(symbols)
        new = [listing for symbol in symbols if symbol not in known and (listing := self._make_listing(store, symbol)) is not None]
        if new:
            store.save_listings(new, self._now_ms())
            known = store.load_listings(symbols)
        self._listings.update(known)
        return Ok(known)

    def fetch_permissions(self) -> Read[frozenset[str]]:
        """Read what may be done: paper has no key, and nothing can be withdrawn."""
        return Ok(frozenset({"read", "trade"}))

    def _book(self) -> PaperStore:
        if self._store is None or self._store.conn.closed:
            conn = open_connection(self._url, autocommit=True)
            weakref.finalize(self, conn.close)
            # Whoever writes down what he was told here commits after it, into the same log, and waits for the disk then. What a crash
            # takes from this book nobody has taken note of: a create that never arrived.
            conn.execute("set synchronous_commit = off")
            self._store = PaperStore(conn, self.terms.account, self.terms.quote, self.terms.is_linear)
        return self._store

    def _now_ms(self) -> int:
        return round(self._clock().timestamp() * 1000)

    def _half_spread_bps(self, symbol: str) -> Decimal:
        return HALF_SPREAD_MAJOR_BPS if self._is_major(symbol) else HALF_SPREAD_OTHER_BPS

    def _is_major(self, symbol: str) -> bool:
        return symbol.partition("/")[0] in self.terms.majors

    def _listing(self, store: PaperStore, symbol: str) -> Listing | None:
        """Rules of a symbol as they were first said: a price that moves on does not move its grid."""
        if symbol not in self._listings:
            found = store.load_listings([symbol])
            if not found and (made := self._make_listing(store, symbol)) is not None:
                store.save_listings([made], self._now_ms())
                found = store.load_listings([symbol])
            self._listings.update(found)
        return self._listings.get(symbol)

    def _make_listing(self, store: PaperStore, symbol: str) -> Listing | None:
        close = self._market.load_close(store.conn, symbol, self._now_ms())
        if close is None:
            return None
        fees = self.terms.fees
        return Listing(make_rules(symbol, close[0]), symbol.partition("/")[0], self.terms.quote, fees.maker_bps, fees.taker_bps)

    def _draft(self, store: PaperStore, spec: OrderSpec, now_ms: int) -> dict[str, object]:
        """Check what needs no book, and write the order down as it would be stored.

        Raises
        ------
        _RefusedError
            When a filter is not met, or a post-only order would trade at once.
        """
        listing = self._listing(store, spec.symbol)
        if listing is None:
            raise _RefusedError(-1121, "Invalid symbol.")
        price = spec.limit_price or spec.stop_price
        if price is None or spec.post_only or spec.type is OrderType.STOP:
            close = self._market.load_close(store.conn, spec.symbol, now_ms)
            if close is None:
                raise _RefusedError(-2010, "Market is closed.")
            self._check_post_only(spec, close[0])
            price = price or close[0]
        _check_filters(spec, price, listing.rules)
        with localcontext(QUOTIENT):
            worst = price if spec.type is OrderType.LIMIT else (price * MARKET_MARGIN).quantize(QUANTUM)
        locks_quote = self.terms.is_linear or spec.side is Side.BUY
        need = ZERO if self.terms.is_linear and spec.reduce_only else EXACT.multiply(spec.qty, worst) if locks_quote else spec.qty
        return {
            "client_id": spec.client_order_id,
            "symbol": spec.symbol,
            "side": spec.side.value,
            "sign": spec.side.sign,
            "type": spec.type.value,
            "tif": spec.tif.value,
            "qty": spec.qty,
            "limit_price": spec.limit_price,
            "stop_price": spec.stop_price,
            "lock_price": worst if locks_quote else None,
            "reduce_only": spec.reduce_only,
            "post_only": spec.post_only,
            "asset": self.terms.quote if locks_quote else listing.base,
            "need": need,
            "now": now_ms,
            "effective": now_ms + draw_latency_ms(self.terms.seed, spec.client_order_id, 0),
        }

    def _check_post_only(self, spec: OrderSpec, close: Decimal) -> None:
        if not spec.post_only or spec.limit_price is None:
            return
        with localcontext(QUOTIENT):
            opposite = close * (1 + spec.side.sign * self._half_spread_bps(spec.symbol) / BPS)
        if spec.side.sign * spec.limit_price >= spec.side.sign * opposite:
            raise _RefusedError(-2010, "Order would immediately match and take.")

    def _explain(self, store: PaperStore, spec: OrderSpec, order: Mapping[str, object]) -> _RefusedError:
        """Say why an order was not taken."""
        facts = store.load_facts(order)
        if facts.is_known:
            return _RefusedError(-2010, "Duplicate order sent.")
        if facts.n_open >= MAX_OPEN:
            return _RefusedError(-1013, "Filter failure: MAX_NUM_ORDERS")
        if self.terms.is_linear and spec.reduce_only and -spec.side.sign * facts.held < spec.qty:
            return _RefusedError(-1013, "ReduceOnly Order is rejected.")
        return _RefusedError(-2010, "Account has insufficient balance for requested action.")

    def _walk_open(self, symbol: str | None) -> list[StoredOrder]:
        store = self._book()
        found = store.load_open(symbol)
        if len(found) < 2:
            return [self._walk(store, order) for order in found]
        try:
            with store.conn.transaction():  # one commit for all that is found
                return [self._walk(store, order) for order in found]
        except psycopg.errors.InFailedSqlTransaction:  # one of them ran away from its money: each for itself
            return [self._walk(store, order) for order in found]

    def _walk(self, store: PaperStore, order: StoredOrder) -> StoredOrder:
        """Walk the market for an open order, book what it brings, and return the order after it."""
        now_ms = self._now_ms()
        if order.status is not PaperStatus.OPEN or now_ms < order.walk.effective_ms:
            return order
        listing = self._listing(store, order.symbol)
        if listing is None:
            return order
        walked, fills = self._meet_market(store, order, listing.rules, now_ms)
        if walked == order.walk:
            return order
        trades = [self._price(order, each, listing) for each in fills]
        try:
            is_saved = store.save_walk(order, walked, trades, lambda held: self._settle(order, trades, held), now_ms)
        except psycopg.errors.CheckViolation:  # a market order that ran away from its money
            store.end(order, PaperStatus.CANCELED, now_ms)
            is_saved = False
        if not is_saved:  # somebody else was faster
            return store.load_order(order.client_order_id, None) or order
        return replace(order, filled=EXACT.subtract(order.qty, walked.rest), status=walked.status, walk=walked)

    def _meet_market(
        self, store: PaperStore, order: StoredOrder, rules: InstrumentRules, now_ms: int
    ) -> tuple[WalkedOrder, tuple[WalkFill, ...]]:
        if order.walk.takes:
            book = self._market.read_book(order.symbol)
            levels = () if book is None else book[1] if order.side is Side.BUY else book[0]
            if levels:
                return walk_book(order.walk, levels, now_ms, rules)
        view = self._market.load_view(store.conn, order.symbol, order.walk.walked_ms, now_ms) or _NO_BARS
        return walk_bars(order.walk, view, now_ms, rules, is_major=self._is_major(order.symbol))

    def _price(self, order: StoredOrder, each: WalkFill, listing: Listing) -> NewTrade:
        """A fill with its fee, on the digits that are stored: against us where there are more."""
        with localcontext(QUOTIENT):
            price = each.fill.price.quantize(QUANTUM)
        tariff = FeeTariff(listing.maker_bps, listing.taker_bps)
        fill = PaperFill(each.fill.qty, price)
        fee, asset = compute_fee(
            fill, order.side, listing.base, listing.quote, tariff, is_maker=each.is_maker, is_spot=not self.terms.is_linear
        )
        return NewTrade(fill.qty, price, fee, asset, each.is_maker, each.ts_ms)

    def _settle(self, order: StoredOrder, trades: Sequence[NewTrade], held: PerpPosition) -> tuple[Mapping[str, Decimal], PerpPosition]:
        """What trades change of balances and of the contract position."""
        base, quote = order.symbol.partition("/")[0], self.terms.quote
        deltas: dict[str, Decimal] = {}
        for n, trade in enumerate(trades):
            fill = Fill(
                self.traits.venue,
                self.traits.account,
                self.traits.market_type,
                order.symbol,
                str(order.venue_order_id),
                str(n),
                order.side,
                trade.qty,
                trade.price,
                trade.fee_amount,
                trade.fee_asset,
                trade.ts_ms,
            )
            batch = book_spot_fill("paper", fill, base, quote)
            if self.terms.is_linear:
                batch, held = book_perp_fill("paper", fill, held, quote)
            for asset, amount in sum_lines(batch.lines, LedgerAccount.WALLET).items():
                deltas[asset] = EXACT.add(deltas.get(asset, ZERO), amount)
        return {asset: QUOTIENT.quantize(amount, QUANTUM) for asset, amount in deltas.items()}, held


def make_rules(symbol: str, price: Decimal) -> InstrumentRules:
    """Rules of an instrument by the magnitude of its price: 5 digits of price, and steps that are worth at most 0.1."""
    tick = Decimal(1).scaleb(price.adjusted() - PRICE_DIGITS + 1)
    with localcontext(QUOTIENT):
        step = Decimal(1).scaleb((STEP_WORTH_QUOTE / price).adjusted())
    return InstrumentRules(symbol, max(tick, QUANTUM), max(step, QUANTUM), min_qty=max(step, QUANTUM), min_cost_quote=MIN_COST_QUOTE)


def _check_filters(spec: OrderSpec, price: Decimal, rules: InstrumentRules) -> None:
    for given in (spec.limit_price, spec.stop_price):
        if given is not None and not is_on_grid(given, rules.tick):
            raise _RefusedError(-1013, "Filter failure: PRICE_FILTER")
    if not is_on_grid(spec.qty, rules.step) or spec.qty < rules.min_qty or (rules.max_qty is not None and spec.qty > rules.max_qty):
        raise _RefusedError(-1013, "Filter failure: LOT_SIZE")
    if EXACT.multiply(spec.qty, price) < rules.min_cost_quote:
        raise _RefusedError(-1013, "Filter failure: NOTIONAL")


def _reply(body: object, status: int = 200) -> CreateReply:
    return CreateReply(RawAnswer(Transport.ANSWERED, status, json.dumps(body).encode()))


def _show(order: StoredOrder) -> VenueOrder:
    return VenueOrder(
        venue_order_id=str(order.venue_order_id),
        client_order_id=order.client_order_id,
        symbol=order.symbol,
        side=order.side,
        status=VenueStatus(order.status.value),
        qty=order.qty,
        filled=order.filled,
        limit_price=order.limit_price,
        stop_price=order.stop_price,
        reduce_only=order.reduce_only,
        created_ms=order.created_ms,
        raw_client_id=order.client_order_id,
    )
