"""Bybit v5 linear perpetuals as ccxt calls them: signed headers, JSON bodies, refusals with status 200 and a retCode."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from regime_pipeline.simulation.answers import Answer
from regime_pipeline.simulation.trading import bybit_rows as rows
from regime_pipeline.simulation.trading.book import TradingBook
from regime_pipeline.simulation.trading.calls import BadParameterError, HttpCall
from regime_pipeline.simulation.trading.desk import BaseDesk
from regime_pipeline.simulation.trading.keys import ApiKey, ApiKeys, Right
from regime_pipeline.simulation.trading.reads import read_open_orders, read_orders, read_trades
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

CATEGORY: Final = "linear"
MAX_CLIENT_ID: Final = 36
_RECENT: Final = 500

# Reason -> code, message.
REFUSALS: Final[Mapping[Reason, tuple[int, str]]] = {
    Reason.BAD_SYMBOL: (10001, "params error: symbol invalid"),
    Reason.CLOSED: (110066, "Trading is currently not allowed"),
    Reason.DUPLICATE: (110072, "OrderLinkedID is duplicate"),
    Reason.PRICE_FILTER: (110003, "Order price exceeds the allowable range."),
    Reason.LOT_SIZE: (10001, "Qty invalid"),
    Reason.NOTIONAL: (110094, "Order does not meet minimum order value"),
    Reason.PRECISION: (10001, "params error: too many decimals"),
    Reason.TOO_MANY_ORDERS: (110020, "Not allowed to have more than 500 active orders"),
    Reason.BALANCE: (110007, "ab not enough for new order"),
    Reason.WOULD_MATCH: (110079, "Order would be matched at once"),
    Reason.WOULD_TRIGGER: (110092, "expect Rising, but trigger_price is on the other side of current"),
    Reason.REDUCE_ONLY: (110017, "current position is zero, cannot fix reduce-only order qty"),
    Reason.STALE: (10002, "invalid request, please check your server timestamp or recv_window param"),
    Reason.AHEAD: (10002, "invalid request, please check your server timestamp or recv_window param"),
    Reason.NOT_OPEN: (110001, "order not exists or too late to cancel"),
    Reason.NOT_FOUND: (110001, "Order does not exist"),
    Reason.ARCHIVED: (110001, "Order does not exist"),
}
_TIFS: Final = {"": Tif.GTC, "GTC": Tif.GTC, "PostOnly": Tif.GTC, "IOC": Tif.IOC, "FOK": Tif.FOK}


class BybitDesk(BaseDesk):
    """Bybit's v5 API over a book of perpetuals."""

    prefix = "bybit"
    create_endpoint = "POST /v5/order/create"

    def __init__(self, book: TradingBook, keys: ApiKeys) -> None:
        super().__init__(book, keys)
        # endpoint -> handler, right (None: public)
        self._routes: dict[str, tuple[Callable[[HttpCall, int], dict[str, Any]], Right | None]] = {
            "GET /v5/market/time": (rows.server_time, None),
            "GET /v5/market/instruments-info": (self._instruments, None),
            "GET /v5/market/tickers": (self._tickers, None),
            "GET /v5/market/orderbook": (self._orderbook, None),
            "POST /v5/order/create": (self._create, Right.TRADE),
            "POST /v5/order/cancel": (self._cancel, Right.TRADE),
            "POST /v5/order/cancel-all": (self._cancel_all, Right.TRADE),
            "GET /v5/order/realtime": (self._realtime, Right.READ),
            "GET /v5/order/history": (self._history, Right.READ),
            "GET /v5/execution/list": (self._executions, Right.READ),
            "GET /v5/position/list": (self._positions, Right.READ),
            "GET /v5/account/wallet-balance": (lambda _call, now_ms: rows.wallet(self.book, now_ms), Right.READ),
            "GET /v5/account/info": (rows.account_info, Right.READ),
            "GET /v5/account/transaction-log": (lambda call, _now_ms: _paged(call, rows.flows(self.book), 20), Right.READ),
            "GET /v5/user/query-api": (lambda call, _now_ms: rows.restrictions(self._key(call)), Right.READ),
        }

    def answer(self, call: HttpCall, now_ms: int) -> Answer:
        """Serve a request at the venue's time; whatever is wrong with it is in the answer."""
        route = self._routes.get(call.endpoint)
        if route is None:
            return Answer({"retCode": 404, "retMsg": f"The simulated venue has no {call.endpoint}."}, 404)
        handler, right = route
        headers = {"X-Bapi-Limit": "6000", "X-Bapi-Limit-Status": str(max(6000 - self.weigh(1, now_ms), 0))}
        with self.book.lock:
            try:
                if right is not None and (refusal := self._refuse(call, right, now_ms)) is not None:
                    return _said(*refusal, {}, now_ms, headers)
                return _said(0, "OK", handler(call, now_ms), now_ms, headers)
            except RefusalError as refusal_:
                return _said(*REFUSALS[refusal_.reason], {}, now_ms, headers)
            except BadParameterError as bad:
                return _said(10001, f"params error: {bad.name} invalid", {}, now_ms, headers)

    def client_id(self, call: HttpCall) -> str:
        """Name the client id that a create asks for."""
        return call.params.get("orderLinkId", "")

    # ---- who asks, and when -------------------------------------------------------------------------------------------------------

    def _refuse(self, call: HttpCall, right: Right, now_ms: int) -> tuple[int, str] | None:
        """Check key, time, signature and rights, in Bybit's order."""
        given, stamp = call.headers.get("x-bapi-api-key", ""), call.headers.get("x-bapi-timestamp", "")
        window = call.headers.get("x-bapi-recv-window") or str(DEFAULT_WINDOW_MS)
        key = self.keys.known(given)
        if key is None:
            return 10003, "API key is invalid."
        if not stamp.isdecimal() or not window.isdecimal():
            return REFUSALS[Reason.STALE]
        if self.book.rules.has_expiry:
            check_window(int(stamp), int(window), now_ms)
        signed = call.body if call.method == "POST" else call.query
        if not key.signs(stamp + given + window + signed, call.headers.get("x-bapi-sign", "")):
            return 10004, "error sign! please check your signature generation algorithm."
        if right not in key.rights:
            return 10005, "Permission denied, please check your API key permissions."
        return None

    def _key(self, call: HttpCall) -> ApiKey:
        key = self.keys.known(call.headers.get("x-bapi-api-key", ""))
        if key is None:
            raise BadParameterError("x-bapi-api-key", None)
        return key

    # ---- orders -------------------------------------------------------------------------------------------------------------------

    def _create(self, call: HttpCall, now_ms: int) -> dict[str, Any]:
        _check_category(call)
        return rows.named(self.book.create(read_new_order(call, self.book), now_ms))

    def _cancel(self, call: HttpCall, now_ms: int) -> dict[str, Any]:
        _check_category(call)
        by_id = {"order_id": call.params["orderId"]} if call.params.get("orderId") else {"client_id": call.text("orderLinkId")}
        return rows.named(self.book.cancel(call.text("symbol"), now_ms, **by_id))

    def _cancel_all(self, call: HttpCall, now_ms: int) -> dict[str, Any]:
        _check_category(call)
        symbol = call.params.get("symbol")
        if symbol is None:
            call.text("settleCoin")
        only = call.params.get("orderFilter")
        self.book.advance(now_ms)
        chosen = [order for order in self.book.list_open(symbol) if only is None or rows.order_filter(order) == only]
        done = [self.book.cancel(None, now_ms, order_id=order.order_id) for order in chosen]
        return {"list": [rows.named(order) for order in done], "success": "1"}

    def _realtime(self, call: HttpCall, now_ms: int) -> dict[str, Any]:
        """Open orders; asked for one by id, its end too while it is among the newest 500."""
        _check_category(call)
        if call.params.get("orderId") or call.params.get("orderLinkId"):
            found = read_orders(self.book, call.params.get("symbol"), now_ms)[-_RECENT:]
        else:
            if not call.params.get("symbol"):
                call.text("settleCoin")
            found = read_open_orders(self.book, call.params.get("symbol"), now_ms)
        return _paged(call, [rows.order(order) for order in reversed(found) if _is_asked_for(call, order)], 20)

    def _history(self, call: HttpCall, now_ms: int) -> dict[str, Any]:
        _check_category(call)
        start_ms, end_ms = call.whole("startTime", 0), call.whole("endTime", 2**60)
        spelled = call.params.get("orderStatus")
        found = [
            rows.order(order)
            for order in reversed(read_orders(self.book, call.params.get("symbol"), now_ms))
            if not order.is_open and start_ms <= order.created_ms <= end_ms and _is_asked_for(call, order)
        ]
        return _paged(call, [row for row in found if spelled in {None, row["orderStatus"]}], 20)

    def _executions(self, call: HttpCall, now_ms: int) -> dict[str, Any]:
        _check_category(call)
        start_ms, end_ms = call.whole("startTime", 0), call.whole("endTime", 2**60)
        names = {name: call.params.get(name) for name in ("execType", "orderId", "orderLinkId")}
        found = [
            rows.execution(self.book, row)
            for row in reversed(read_trades(self.book, call.params.get("symbol"), now_ms))
            if start_ms <= row.at_ms <= end_ms
        ]
        chosen = [row for row in found if all(not wanted or row[name] == wanted for name, wanted in names.items())]
        return _paged(call, chosen, 50)

    def _positions(self, call: HttpCall, now_ms: int) -> dict[str, Any]:
        _check_category(call)
        self.book.advance(now_ms)
        symbol = call.params.get("symbol")
        if symbol is None:
            call.text("settleCoin")
            return _paged(call, [row for name in self.book.instruments if (row := rows.position(self.book, name, now_ms))["side"]], 200)
        return _paged(call, [rows.position(self.book, self.book.instrument(symbol).symbol, now_ms)], 200)

    # ---- the market ---------------------------------------------------------------------------------------------------------------

    def _instruments(self, call: HttpCall, _now_ms: int) -> dict[str, Any]:
        is_listed = call.params.get("category") == CATEGORY and call.params.get("status") in {None, "Trading"}
        listed = [rows.instrument(each) for each in self.book.instruments.values()] if is_listed else []
        return {"category": call.params.get("category", ""), "list": listed, "nextPageCursor": ""}

    def _tickers(self, call: HttpCall, now_ms: int) -> dict[str, Any]:
        _check_category(call)
        self.book.advance(now_ms)
        symbol = call.params.get("symbol")
        names = [self.book.instrument(symbol).symbol] if symbol else list(self.book.instruments)
        return {"category": CATEGORY, "list": [rows.ticker(self.book, name, now_ms) for name in names]}

    def _orderbook(self, call: HttpCall, now_ms: int) -> dict[str, Any]:
        _check_category(call)
        self.book.advance(now_ms)
        return rows.orderbook(self.book, self.book.instrument(call.text("symbol")).symbol, call.whole("limit", 25), now_ms)


def read_new_order(call: HttpCall, book: TradingBook) -> NewOrder:
    """Read a create.

    Raises
    ------
    RefusalError, BadParameterError
        When the symbol is not listed, or a parameter is missing or malformed.
    """
    instrument = book.instrument(call.text("symbol"))
    side, spelled, tif = call.text("side").upper(), call.text("orderType"), call.params.get("timeInForce", "")
    client_id = call.params.get("orderLinkId") or f"venue-{len(book.orders)}"
    for name, value, is_good in (
        ("side", side, side in set(Side)),
        ("orderType", spelled, spelled in {"Limit", "Market"}),
        ("timeInForce", tif, tif in _TIFS),
        ("orderLinkId", client_id, len(client_id) <= MAX_CLIENT_ID),
        ("positionIdx", call.params.get("positionIdx", "0"), call.params.get("positionIdx", "0") == "0"),
    ):
        if not is_good:
            raise BadParameterError(name, value)
    kind = Kind(spelled.upper())
    trigger = None
    if "triggerPrice" in call.params:
        trigger = Trigger(call.decimal("triggerPrice"), is_rising=call.whole("triggerDirection", 0) == 1)
    return NewOrder(
        instrument.symbol,
        Side(side),
        kind,
        call.decimal("qty"),
        client_id,
        call.decimal("price") if kind is Kind.LIMIT else None,
        Tif.IOC if kind is Kind.MARKET else _TIFS[tif],
        trigger=trigger,
        is_post_only=tif == "PostOnly",
        is_reduce_only=call.params.get("reduceOnly", "false") == "true",
        spelled_type=spelled,
    )


def _check_category(call: HttpCall) -> None:
    if call.text("category") != CATEGORY:
        raise BadParameterError("category", call.params.get("category"))


def _is_asked_for(call: HttpCall, order: VenueOrder) -> bool:
    params = call.params
    return (
        params.get("orderId") in {None, "", order.order_id}
        and params.get("orderLinkId") in {None, "", order.client_id}
        and params.get("orderFilter") in {None, "", rows.order_filter(order)}
    )


def _paged(call: HttpCall, found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Give one page; the cursor is the place of the next row."""
    start, size = call.whole("cursor", 0), max(call.whole("limit", limit), 1)
    more = start + size < len(found)
    return {"category": CATEGORY, "list": found[start : start + size], "nextPageCursor": str(start + size) if more else ""}


def _said(code: int, message: str, result: dict[str, Any], now_ms: int, headers: Mapping[str, str]) -> Answer:
    return Answer({"retCode": code, "retMsg": message, "result": result, "retExtInfo": {}, "time": now_ms}, 200, headers)
