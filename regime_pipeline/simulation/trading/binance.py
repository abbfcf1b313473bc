"""Binance spot trading as ccxt calls it: signed form requests under /api/v3, and answers with Binance's names and codes."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from regime_pipeline.simulation.answers import Answer
from regime_pipeline.simulation.trading import binance_rows as rows
from regime_pipeline.simulation.trading.book import TradingBook
from regime_pipeline.simulation.trading.calls import BadParameterError, HttpCall
from regime_pipeline.simulation.trading.desk import BaseDesk
from regime_pipeline.simulation.trading.keys import ApiKey, ApiKeys, Right
from regime_pipeline.simulation.trading.reads import read_open_orders, read_order, read_orders, read_trades
from regime_pipeline.simulation.trading.values import (
    DEFAULT_WINDOW_MS,
    Kind,
    NewOrder,
    Reason,
    RefusalError,
    Side,
    Tif,
    Trigger,
    VenueOrder,
    check_window,
)

CLIENT_ID_LETTERS: Final = frozenset(".:/_-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
MAX_CLIENT_ID: Final = 36
MAX_WINDOW_MS: Final = 60_000
DAY_MS: Final = 86_400_000
_DEFAULT_LIMIT, _MAX_LIMIT = 500, 1000

# Reason -> code, message. Messages are the venue's own: clients match them.
REFUSALS: Final[Mapping[Reason, tuple[int, str]]] = {
    Reason.BAD_SYMBOL: (-1121, "Invalid symbol."),
    Reason.CLOSED: (-2010, "Market is closed."),
    Reason.DUPLICATE: (-2010, "Duplicate order sent."),
    Reason.PRICE_FILTER: (-1013, "Filter failure: PRICE_FILTER"),
    Reason.LOT_SIZE: (-1013, "Filter failure: LOT_SIZE"),
    Reason.NOTIONAL: (-1013, "Filter failure: NOTIONAL"),
    Reason.PRECISION: (-1111, "Parameter has too much precision."),
    Reason.TOO_MANY_ORDERS: (-1013, "Filter failure: MAX_NUM_ORDERS"),
    Reason.BALANCE: (-2010, "Account has insufficient balance for requested action."),
    Reason.WOULD_MATCH: (-2010, "Order would immediately match and take."),
    Reason.WOULD_TRIGGER: (-2010, "Stop price would trigger immediately."),
    Reason.REDUCE_ONLY: (-2010, "This action is disabled on this account."),
    Reason.STALE: (-1021, "Timestamp for this request is outside of the recvWindow."),
    Reason.AHEAD: (-1021, "Timestamp for this request was 1000ms ahead of the server's time."),
    Reason.NOT_OPEN: (-2011, "Unknown order sent."),
    Reason.NOT_FOUND: (-2013, "Order does not exist."),
    Reason.ARCHIVED: (-2026, "Order was canceled or expired with no executed qty over 90 days ago and has been archived."),
}

# Type -> kind, whether it has a limit price, whether its trigger lies where the market hurts (None: it has none).
TYPES: Final[Mapping[str, tuple[Kind, bool, bool | None]]] = {
    "LIMIT": (Kind.LIMIT, True, None),
    "LIMIT_MAKER": (Kind.LIMIT, True, None),
    "MARKET": (Kind.MARKET, False, None),
    "STOP_LOSS": (Kind.MARKET, False, True),
    "STOP_LOSS_LIMIT": (Kind.LIMIT, True, True),
    "TAKE_PROFIT": (Kind.MARKET, False, False),
    "TAKE_PROFIT_LIMIT": (Kind.LIMIT, True, False),
}


class BinanceDesk(BaseDesk):
    """Binance's spot API over a book."""

    prefix = "binance"
    create_endpoint = "POST /api/v3/order"

    def __init__(self, book: TradingBook, keys: ApiKeys) -> None:
        super().__init__(book, keys)
        self._n_orders = 0
        # endpoint -> handler, right (None: public), weight
        self._routes: dict[str, tuple[Callable[[HttpCall, int], Any], Right | None, int]] = {
            "GET /api/v3/ping": (lambda _call, _now_ms: {}, None, 1),
            "GET /api/v3/time": (lambda _call, now_ms: {"serverTime": now_ms}, None, 1),
            "GET /api/v3/exchangeInfo": (lambda _call, now_ms: rows.exchange_info(self.book, now_ms), None, 20),
            "GET /api/v3/ticker/bookTicker": (self._tickers(rows.book_ticker), None, 4),
            "GET /api/v3/ticker/price": (self._tickers(rows.price_ticker), None, 4),
            "GET /api/v3/ticker/24hr": (self._tickers(rows.day_ticker), None, 4),
            "GET /api/v3/depth": (self._depth, None, 5),
            "GET /api/v3/account": (lambda _call, now_ms: rows.account(self.book, now_ms), Right.READ, 20),
            "GET /sapi/v1/account/apiRestrictions": (lambda call, _now_ms: rows.restrictions(self._key(call)), Right.READ, 1),
            "GET /sapi/v1/capital/deposit/hisrec": (lambda _call, _now_ms: rows.deposits(self.book), Right.READ, 1),
            "GET /sapi/v1/capital/withdraw/history": (lambda _call, _now_ms: rows.withdrawals(self.book), Right.READ, 1),
            # Asked for by ccxt's load_markets unless it is told not to; there is no margin here, and no list of coins.
            "GET /sapi/v1/margin/allPairs": (lambda _call, _now_ms: [], Right.READ, 1),
            "GET /sapi/v1/margin/isolated/allPairs": (lambda _call, _now_ms: [], Right.READ, 1),
            "GET /sapi/v1/capital/config/getall": (lambda _call, _now_ms: [], Right.READ, 10),
            "POST /api/v3/order": (self._create, Right.TRADE, 1),
            "GET /api/v3/order": (self._read, Right.READ, 4),
            "DELETE /api/v3/order": (self._cancel, Right.TRADE, 1),
            "GET /api/v3/openOrders": (self._open_orders, Right.READ, 6),
            "DELETE /api/v3/openOrders": (self._cancel_all, Right.TRADE, 1),
            "GET /api/v3/allOrders": (self._all_orders, Right.READ, 20),
            "GET /api/v3/myTrades": (self._my_trades, Right.READ, 20),
        }

    def answer(self, call: HttpCall, now_ms: int) -> Answer:
        """Serve a request at the venue's time; whatever is wrong with it is in the answer."""
        route = self._routes.get(call.endpoint)
        if route is None:
            return Answer({"code": -1000, "msg": f"The simulated venue has no {call.endpoint}."}, 404)
        handler, right, weight = route
        headers = self._headers(weight, call, now_ms)
        with self.book.lock:
            try:
                if right is not None and (refusal := self._refuse(call, right, now_ms)) is not None:
                    return Answer(refusal.body, refusal.status, headers)
                return Answer(handler(call, now_ms), 200, headers)
            except RefusalError as refusal_:
                code, message = REFUSALS[refusal_.reason]
                return Answer({"code": code, "msg": message}, 400, headers)
            except BadParameterError as bad:
                return Answer(_bad_parameter(bad), 400, headers)

    def client_id(self, call: HttpCall) -> str:
        """Name the client id that a create asks for."""
        return call.params.get("newClientOrderId", "")

    def _headers(self, weight: int, call: HttpCall, now_ms: int) -> dict[str, str]:
        used = str(self.weigh(weight, now_ms))
        headers = {"x-mbx-used-weight": used, "x-mbx-used-weight-1m": used}
        if call.endpoint == self.create_endpoint:
            self._n_orders += 1
            headers |= {"x-mbx-order-count-10s": str(self._n_orders), "x-mbx-order-count-1d": str(self._n_orders)}
        return headers

    # ---- who asks, and when -------------------------------------------------------------------------------------------------------

    def _refuse(self, call: HttpCall, right: Right, now_ms: int) -> Answer | None:
        """Check key, signature and time, in Binance's order."""
        given = call.headers.get("x-mbx-apikey", "")
        if not given:
            return _error(-2014, "API-key format invalid.", 401)
        key = self.keys.known(given)
        if key is None or right not in key.rights:
            return _error(-2015, "Invalid API-key, IP, or permissions for action.", 401)
        payload, _, signature = (call.query + call.body).rpartition("signature=")
        if not key.signs(payload.rstrip("&"), signature):
            return _error(-1022, "Signature for this request is not valid.")
        window_ms = call.whole("recvWindow", DEFAULT_WINDOW_MS)
        if window_ms > MAX_WINDOW_MS:
            return _error(-1131, "recvWindow must be less than 60000.")
        if "timestamp" not in call.params:
            return _error(-1102, "Mandatory parameter 'timestamp' was not sent, was empty/null, or malformed.")
        if self.book.rules.has_expiry:
            check_window(call.whole("timestamp", 0), window_ms, now_ms)
        return None

    def _key(self, call: HttpCall) -> ApiKey:
        key = self.keys.known(call.headers.get("x-mbx-apikey", ""))
        if key is None:
            raise BadParameterError("x-mbx-apikey", None)
        return key

    # ---- orders -------------------------------------------------------------------------------------------------------------------

    def _create(self, call: HttpCall, now_ms: int) -> dict[str, Any]:
        order = self.book.create(read_new_order(call, self.book), now_ms)
        trades = [trade for trade in self.book.trades[-1:] if trade.order_id == order.order_id]
        return rows.created(order, trades, call.params.get("newOrderRespType", ""), now_ms)

    def _read(self, call: HttpCall, now_ms: int) -> dict[str, Any]:
        symbol = self.book.instrument(call.text("symbol")).symbol
        return rows.order(read_order(self.book, symbol, now_ms, **_named(call)))

    def _cancel(self, call: HttpCall, now_ms: int) -> dict[str, Any]:
        symbol = self.book.instrument(call.text("symbol")).symbol
        cancel_id = call.params.get("newClientOrderId") or f"cancel-{now_ms}-{len(self.book.orders)}"
        return rows.cancelled(self.book.cancel(symbol, now_ms, cancel_id=cancel_id, **_named(call)), now_ms)

    def _cancel_all(self, call: HttpCall, now_ms: int) -> list[dict[str, Any]]:
        orders = self.book.cancel_all(self.book.instrument(call.text("symbol")).symbol, now_ms)
        if not orders:
            raise RefusalError(Reason.NOT_OPEN)
        for number, order in enumerate(orders):
            order.cancel_id = f"cancel-all-{now_ms}-{number}"
        return [rows.cancelled(order, now_ms) for order in orders]

    def _open_orders(self, call: HttpCall, now_ms: int) -> list[dict[str, Any]]:
        symbol = call.params.get("symbol")
        return [rows.order(order) for order in read_open_orders(self.book, symbol, now_ms)]

    def _all_orders(self, call: HttpCall, now_ms: int) -> list[dict[str, Any]]:
        symbol = self.book.instrument(call.text("symbol")).symbol
        start_ms, end_ms = _span(call)
        from_number = call.whole("orderId", 0)
        found: list[VenueOrder] = [
            order
            for order in read_orders(self.book, symbol, now_ms)
            if order.number >= from_number and start_ms <= order.created_ms <= end_ms
        ]
        return [rows.order(order) for order in _page(call, found, is_oldest=from_number > 0 or start_ms > 0)]

    def _my_trades(self, call: HttpCall, now_ms: int) -> list[dict[str, Any]]:
        symbol = self.book.instrument(call.text("symbol")).symbol
        start_ms, end_ms = _span(call)
        from_id, order_id = call.whole("fromId", -1), call.params.get("orderId")
        found = [
            row
            for row in read_trades(self.book, symbol, now_ms)
            if start_ms <= row.at_ms <= end_ms and order_id in {None, row.order_id} and (row.trade_id is None or row.trade_id >= from_id)
        ]
        return [rows.trade(row) for row in _page(call, found, is_oldest=from_id >= 0 or start_ms > 0)]

    # ---- the market ---------------------------------------------------------------------------------------------------------------

    def _tickers(self, spell: Callable[[TradingBook, str, int], dict[str, Any]]) -> Callable[[HttpCall, int], Any]:
        def answer(call: HttpCall, now_ms: int) -> Any:  # noqa: ANN401 - one ticker or a list
            self.book.advance(now_ms)
            symbol, several = call.params.get("symbol"), call.params.get("symbols")
            if symbol is not None:
                return spell(self.book, self.book.instrument(symbol).symbol, now_ms)
            names = several.strip("[]").replace('"', "").split(",") if several else list(self.book.instruments)
            return [spell(self.book, self.book.instrument(name).symbol, now_ms) for name in names]

        return answer

    def _depth(self, call: HttpCall, now_ms: int) -> dict[str, Any]:
        self.book.advance(now_ms)
        return rows.depth(self.book, self.book.instrument(call.text("symbol")).symbol, call.whole("limit", 100), now_ms)


def read_new_order(call: HttpCall, book: TradingBook) -> NewOrder:
    """Read a create.

    Raises
    ------
    RefusalError, BadParameterError
        When the symbol is not listed, or a parameter is missing or malformed.
    """
    instrument = book.instrument(call.text("symbol"))
    side, spelled = call.text("side"), call.text("type")
    if side not in set(Side) or spelled not in TYPES:
        raise BadParameterError("side" if side not in set(Side) else "type", spelled)
    kind, has_price, hurts = TYPES[spelled]
    tif = call.params.get("timeInForce") or (call.text("timeInForce") if has_price and spelled != "LIMIT_MAKER" else Tif.GTC)
    if tif not in set(Tif):
        raise BadParameterError("timeInForce", tif)
    trigger = None
    if hurts is not None:
        # A stop loss of a buy hurts when the price rises, that of a sell when it falls; a take profit the other way round.
        trigger = Trigger(call.decimal("stopPrice"), is_rising=(side == Side.BUY) is hurts)
    by_quote = spelled == "MARKET" and "quoteOrderQty" in call.params
    return NewOrder(
        instrument.symbol,
        Side(side),
        kind,
        Decimal(0) if by_quote else call.decimal("quantity"),
        _client_id(call, book),
        call.decimal("price") if has_price else None,
        Tif(tif),
        call.decimal("quoteOrderQty") if by_quote else None,
        trigger,
        is_post_only=spelled == "LIMIT_MAKER",
        spelled_type=spelled,
    )


def _client_id(call: HttpCall, book: TradingBook) -> str:
    given = call.params.get("newClientOrderId") or f"venue-{len(book.orders)}"
    if len(given) > MAX_CLIENT_ID or not CLIENT_ID_LETTERS.issuperset(given):
        raise BadParameterError("newClientOrderId", given)
    return given


def _named(call: HttpCall) -> dict[str, str]:
    """Tell which order a request names: by the venue's id, which wins, or the client's."""
    if call.params.get("orderId"):
        return {"order_id": str(call.whole("orderId", 0))}
    return {"client_id": call.text("origClientOrderId")}


def _span(call: HttpCall) -> tuple[int, int]:
    start_ms, end_ms = call.whole("startTime", 0), call.whole("endTime", 2**60)
    if "startTime" in call.params and "endTime" in call.params and end_ms - start_ms > DAY_MS:
        raise BadParameterError("endTime", "more than 24 hours")
    return start_ms, end_ms


def _page(call: HttpCall, found: list[Any], *, is_oldest: bool) -> list[Any]:
    limit = min(call.whole("limit", _DEFAULT_LIMIT), _MAX_LIMIT)
    return found[:limit] if is_oldest else found[-limit:]


def _bad_parameter(bad: BadParameterError) -> dict[str, Any]:
    if bad.name == "endTime":
        return {"code": -1127, "msg": "More than 24 hours between startTime and endTime."}
    if bad.name == "side":
        return {"code": -1117, "msg": "Invalid side."}
    if bad.name == "type":
        return {"code": -1116, "msg": "Invalid orderType."}
    if bad.name == "timeInForce" and bad.given:
        return {"code": -1115, "msg": "Invalid timeInForce."}
    if bad.given:
        return {"code": -1100, "msg": f"Illegal characters found in parameter '{bad.name}'."}
    return {"code": -1102, "msg": f"Mandatory parameter '{bad.name}' was not sent, was empty/null, or malformed."}


def _error(code: int, message: str, status: int = 400) -> Answer:
    return Answer({"code": code, "msg": message}, status)
