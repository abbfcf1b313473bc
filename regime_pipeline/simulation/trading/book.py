"""The book of one venue account: it takes orders, matches them against a scripted price and keeps what follows from that.

Plain Python without a clock: every method takes the venue's time in epoch milliseconds, so that a property test drives the very code
that is behind the sockets. All methods may be called from any thread.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import wraps
from threading import RLock
from typing import Any, Concatenate, ParamSpec, TypeVar

from regime_pipeline.errors import BadInputError
from regime_pipeline.simulation.trading.accounts import Account, LinearAccount, SpotAccount, release
from regime_pipeline.simulation.trading.checks import check_grid, check_state, reference_price
from regime_pipeline.simulation.trading.matching import crosses, match_new, match_resting
from regime_pipeline.simulation.trading.rules import BPS, DEFAULT_RULES, Rules, compute_fee
from regime_pipeline.simulation.trading.values import (
    DEFAULT_INSTRUMENTS,
    ZERO,
    Flow,
    Instrument,
    MarketType,
    NewOrder,
    Quotes,
    Reason,
    RefusalError,
    Status,
    Trade,
    VenueOrder,
    check_window,
)

PriceOf = Callable[[str, int], Decimal | None]
"""Symbol, epoch ms -> price at that time; None: as it was."""

P = ParamSpec("P")
R = TypeVar("R")


def guarded(method: "Callable[Concatenate[TradingBook, P], R]") -> "Callable[Concatenate[TradingBook, P], R]":
    """Let one thread at a time into a book."""

    @wraps(method)
    def enter(self: "TradingBook", /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.lock:
            return method(self, *args, **kwargs)

    return enter


class TradingBook:
    """Orders, trades, balances and positions of one account on one market type."""

    def __init__(
        self,
        market_type: MarketType | str = MarketType.SPOT,
        instruments: Iterable[Instrument] | None = None,
        balances: Mapping[str, Decimal] | None = None,
        **rules: Any,  # noqa: ANN401 - fields of Rules
    ) -> None:
        """Open an account.

        Parameters
        ----------
        market_type : MarketType or str
            `spot` or `linear`.
        instruments : iterable of Instrument, optional
            What is listed; by default BTC, ETH, SOL (spot: BNB too) against USDT.
        balances : mapping of str to Decimal, optional
            What is held at the start; by default 100 000 USDT.
        **rules
            Fields of `Rules` that differ from the market type's default.
        """
        self.market_type = MarketType(market_type)
        self.instruments = {each.symbol: each for each in instruments or DEFAULT_INSTRUMENTS[self.market_type]}
        self.prices = {symbol: instrument.price for symbol, instrument in self.instruments.items()}
        self.rules: Rules = replace(DEFAULT_RULES[self.market_type], **rules)
        held = dict(balances) if balances is not None else {"USDT": Decimal(100_000)}
        self.account: Account = SpotAccount(held) if self.market_type is MarketType.SPOT else LinearAccount(held, self.prices)
        self.orders: dict[str, VenueOrder] = {}
        self.trades: list[Trade] = []
        # What reads show of the trades; a tester may make it differ from what happened.
        self.rows: list[Trade] = []
        self.flows: list[Flow] = []
        self.accepted: dict[str, list[int]] = {}
        self.lock = RLock()
        self._by_client: dict[str, VenueOrder] = {}
        self._open: dict[str, dict[str, VenueOrder]] = {symbol: {} for symbol in self.instruments}
        self._paths: dict[str, list[tuple[int, Decimal]]] = {}
        self._price_of: PriceOf | None = None
        self._followed_s = 0
        self._next_order, self._next_trade = 1_000_001, 1

    def __deepcopy__(self, memo: dict[int, Any]) -> "TradingBook":
        """Copy everything but the lock."""
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        with self.lock:
            for name, value in self.__dict__.items():
                setattr(twin, name, RLock() if name == "lock" else copy.deepcopy(value, memo))
        return twin

    # ---- orders -------------------------------------------------------------------------------------------------------------------

    @guarded
    def create(self, asked: NewOrder, now_ms: int, *, is_foreign: bool = False) -> VenueOrder:
        """Take an order, match it at once as far as the market allows, and rest or end what is left.

        Raises
        ------
        RefusalError
            When it breaks a rule; nothing has changed then.
        """
        self.advance(now_ms)
        if asked.sent_ms is not None and self.rules.has_expiry:
            check_window(asked.sent_ms, asked.window_ms, now_ms)
        instrument, quotes = self.instrument(asked.symbol), self.quotes(asked.symbol)
        check_grid(asked, instrument, quotes)
        check_state(asked, instrument, self.rules, len(self._open[asked.symbol]), quotes)
        known = self._by_client.get(asked.client_id)
        if known is not None and (known.is_open or self.rules.unique_ids == "ever"):
            raise RefusalError(Reason.DUPLICATE, asked.client_id)
        qty = asked.qty
        if asked.quote_qty is not None:
            qty = floor_to(asked.quote_qty / quotes.ask, instrument.step)
        order = self.draft(asked, qty, now_ms, is_foreign=is_foreign)
        if asked.is_reduce_only and not self.account.reducible(order):
            raise RefusalError(Reason.REDUCE_ONLY, f"{order.side} while nothing can be reduced by it")
        is_taking = asked.trigger is None and crosses(asked, quotes)
        # Bybit takes a post-only order that would match and ends it at once; Binance refuses it.
        if asked.is_post_only and is_taking and self.market_type is MarketType.SPOT:
            raise RefusalError(Reason.WOULD_MATCH)
        self.account.reserve(order, instrument, reference_price(asked, quotes), self.rules)
        self.admit(order)
        if asked.trigger is not None:
            order.status = Status.UNTRIGGERED
        elif asked.is_post_only and is_taking:
            self.end(order, Status.CANCELED, now_ms)
        else:
            match_new(self, order, now_ms)
        return order

    @guarded
    def cancel(
        self, symbol: str | None, now_ms: int, *, order_id: str | None = None, client_id: str | None = None, cancel_id: str = ""
    ) -> VenueOrder:
        """Cancel an open order, by the venue's id or the client's.

        Raises
        ------
        RefusalError
            NOT_OPEN when there is no such open order, CLOSED in `read_only`.
        """
        self.advance(now_ms)
        if self.rules.mode == "read_only":
            raise RefusalError(Reason.CLOSED)
        order = self.orders.get(order_id) if order_id is not None else self._by_client.get(client_id or "")
        if order is None or not order.is_open or symbol not in {None, order.symbol}:
            raise RefusalError(Reason.NOT_OPEN, order_id or client_id or "")
        self.end(order, Status.CANCELED, now_ms)
        order.cancel_id = cancel_id
        return order

    @guarded
    def cancel_all(self, symbol: str | None, now_ms: int) -> list[VenueOrder]:
        """Cancel every open order, of one symbol or of all; foreign ones too."""
        self.advance(now_ms)
        if self.rules.mode == "read_only":
            raise RefusalError(Reason.CLOSED)
        orders = self.list_open(symbol)
        for order in orders:
            self.end(order, Status.CANCELED, now_ms)
        return orders

    # ---- the market ---------------------------------------------------------------------------------------------------------------

    @guarded
    def set_price(self, symbol: str, price: Decimal, now_ms: int) -> list[Trade]:
        """Move the scripted price, wake what it triggers, and match what it reaches; gives the new trades."""
        self.advance(now_ms)
        return self._move(symbol, price, now_ms)

    @guarded
    def set_path(self, symbol: str, points: Sequence[tuple[int, Decimal]]) -> None:
        """Script prices ahead, as (epoch ms, price); each is reached as soon as the clock has passed it."""
        self.instrument(symbol)
        self._paths[symbol] = sorted(points)

    @guarded
    def follow(self, price_of: PriceOf) -> None:
        """Take prices from elsewhere, once in each second in which somebody asks; paths and `set_price` last until the next one."""
        self._price_of = price_of

    @guarded
    def advance(self, now_ms: int) -> None:
        """Go through the price paths up to a time; every request and read does so first."""
        if self._price_of is not None and now_ms // 1000 > self._followed_s:
            self._followed_s = now_ms // 1000
            for symbol in self.instruments:
                price = self._price_of(symbol, now_ms)
                if price and price != self.prices[symbol]:
                    self._move(symbol, price, now_ms)
        while due := [(points[0][0], symbol) for symbol, points in self._paths.items() if points and points[0][0] <= now_ms]:
            at_ms, symbol = min(due)
            self._move(symbol, self._paths[symbol].pop(0)[1], at_ms)

    def _move(self, symbol: str, price: Decimal, now_ms: int) -> list[Trade]:
        if price <= 0:
            raise BadInputError(f"price of {symbol} was {price}: it must be above 0. Give a price in quote.")
        self.instrument(symbol)
        self.prices[symbol] = price
        n_before = len(self.trades)
        match_resting(self, symbol, now_ms)
        return self.trades[n_before:]

    @guarded
    def quotes(self, symbol: str) -> Quotes:
        """Best bid and ask around the scripted price, on the tick."""
        mid, tick = self.prices[self.instrument(symbol).symbol], self.instruments[symbol].tick
        away = mid * self.rules.half_spread_bps / BPS
        return Quotes(floor_to(mid - away, tick), ((mid + away) / tick).to_integral_value(ROUND_CEILING) * tick, mid)

    def instrument(self, symbol: str) -> Instrument:
        """Look up what is listed under a symbol.

        Raises
        ------
        RefusalError
            BAD_SYMBOL when nothing is.
        """
        if symbol not in self.instruments:
            raise RefusalError(Reason.BAD_SYMBOL, symbol)
        return self.instruments[symbol]

    # ---- what matching and a tester's hand do ------------------------------------------------------------------------------------

    @guarded
    def fill(self, order: VenueOrder, qty: Decimal, price: Decimal, now_ms: int, *, is_maker: bool, trade_id: int | None = None) -> Trade:
        """Book one trade of an order, whatever its state; a terminal one stays terminal."""
        instrument = self.instruments[order.symbol]
        fee, asset = compute_fee(self.rules, instrument, order.side, qty, price, is_maker=is_maker)
        # Without enough of a third asset the venue takes its commission from what was received.
        if asset not in {instrument.base, instrument.quote} and self.account.wallet.free.get(asset, ZERO) < fee:
            received = replace(self.rules, fee_asset="received")
            fee, asset = compute_fee(received, instrument, order.side, qty, price, is_maker=is_maker)
        self.account.settle(order, instrument, qty, price, fee, asset)
        order.filled += qty
        order.quote_filled += qty * price
        order.updated_ms = now_ms
        order.fees[asset] = order.fees.get(asset, ZERO) + fee
        if order.is_open:
            order.status = Status.PARTIALLY_FILLED
            if order.filled >= order.qty:
                self.end(order, Status.FILLED, now_ms)
        return self._book(order, qty, price, (fee, asset), now_ms, is_maker=is_maker, trade_id=trade_id)

    def _book(
        self,
        order: VenueOrder,
        qty: Decimal,
        price: Decimal,
        fee: tuple[Decimal, str],
        now_ms: int,
        *,
        is_maker: bool,
        trade_id: int | None,
    ) -> Trade:
        number = trade_id if trade_id is not None else self.take_trade_id()
        rate = self.rules.maker_bps if is_maker else self.rules.taker_bps
        trade = Trade(
            number, order.order_id, order.client_id, order.symbol, order.side, qty, price, *fee, is_maker, now_ms, rate=rate / BPS
        )
        self.trades.append(trade)
        self.rows.append(trade if self.rules.is_fee_shown else replace(trade, fee=None, fee_asset=None))
        return trade

    @guarded
    def end(self, order: VenueOrder, status: Status, now_ms: int) -> None:
        """Make an order terminal and unlock what it held."""
        order.status, order.updated_ms = status, now_ms
        release(self.account.wallet, order)
        self._open[order.symbol].pop(order.order_id, None)

    def take_trade_id(self) -> int:
        """Number the next trade."""
        self._next_trade += 1
        return self._next_trade - 1

    @guarded
    def change(self, /, **rules: Any) -> None:  # noqa: ANN401 - fields of Rules
        """Change fields of `Rules` from now on."""
        self.rules = replace(self.rules, **rules)

    # ---- look-up without what reads hide -----------------------------------------------------------------------------------------

    @guarded
    def list_open(self, symbol: str | None = None) -> list[VenueOrder]:
        """List open orders in the order of their arrival."""
        if symbol is not None:
            return list(self._open[self.instrument(symbol).symbol].values())
        return sorted((order for orders in self._open.values() for order in orders.values()), key=lambda order: order.number)

    @guarded
    def find(self, order_id: str | None = None, client_id: str | None = None) -> VenueOrder | None:
        """Find an order by the venue's id, or the newest of a client id."""
        return self.orders.get(order_id) if order_id is not None else self._by_client.get(client_id or "")

    def draft(self, asked: NewOrder, qty: Decimal, now_ms: int, *, is_foreign: bool = False) -> VenueOrder:
        """Number an order that is not in the book yet."""
        return VenueOrder(self._next_order, self._spell_id(self._next_order), asked, qty, now_ms, now_ms, is_foreign=is_foreign)

    @guarded
    def admit(self, order: VenueOrder) -> None:
        """Put a drafted order into the book as open, without any check."""
        self._next_order += 1
        self.orders[order.order_id] = order
        self._by_client[order.client_id] = order
        self._open[order.symbol][order.order_id] = order
        if not order.is_foreign:
            self.accepted.setdefault(order.client_id, []).append(order.created_ms)

    def _spell_id(self, number: int) -> str:
        if self.market_type is MarketType.SPOT:
            return str(number)
        return f"{number:08x}-0000-4000-8000-{number:012x}"


def floor_to(value: Decimal, step: Decimal) -> Decimal:
    """Round down to a multiple of a step."""
    return (value / step).to_integral_value(ROUND_FLOOR) * step
