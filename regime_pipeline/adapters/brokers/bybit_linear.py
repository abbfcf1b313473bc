"""Bybit linear perpetuals (API v5, unified account, one-way mode): how orders are spelt and asked for, and where answers carry what."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import requests

from regime_pipeline.adapters.brokers.dialect import (
    Creation,
    OrderId,
    Symbols,
    demand_symbol,
    ours_or_none,
    pages,
    parse_side,
    spell,
    windows,
)
from regime_pipeline.adapters.brokers.lane import Codes, Exchange, Lane, Question, find_difference, path_of
from regime_pipeline.adapters.brokers.rows import AbsentError, Row, UnreadableError, parse_json
from regime_pipeline.errors import OrderValidationError
from regime_pipeline.execution.answers import BYBIT
from regime_pipeline.execution.fills import Fill
from regime_pipeline.execution.keys import spell_client_id
from regime_pipeline.execution.order_states import VenueStatus
from regime_pipeline.portfolio.money import ZERO
from regime_pipeline.ports import (
    Balance,
    BrokerTraits,
    FundingPayment,
    Listing,
    OrderSpec,
    OrderType,
    Quote,
    VenueOrder,
    VenuePosition,
)
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Side

CATEGORY: Final = "linear"
WEEK_MS: Final = 7 * 86_400_000
STATUSES: Final = {
    "Created": VenueStatus.OPEN,
    "New": VenueStatus.OPEN,
    "Active": VenueStatus.OPEN,
    "PartiallyFilled": VenueStatus.OPEN,
    "Untriggered": VenueStatus.OPEN,
    "Triggered": VenueStatus.OPEN,
    "Filled": VenueStatus.CLOSED,
    "Cancelled": VenueStatus.CANCELED,
    "PartiallyFilledCanceled": VenueStatus.CANCELED,
    "Deactivated": VenueStatus.CANCELED,
    "Rejected": VenueStatus.REJECTED,
}
FILLS: Final = frozenset({"Trade", "BustTrade", "AdlTrade"})  # a liquidation is a trade of ours too
_ORDERS_PAGE, _FILLS_PAGE, _POSITIONS_PAGE = 50, 100, 200


class BybitLinear:
    """The dialect of Bybit's linear perpetuals."""

    exchange_id = "bybit"
    market_type = "linear"
    profile = BYBIT
    codes = Codes("retCode", "retMsg", ok=frozenset({"0"}), absent=frozenset({"110001"}), limited=frozenset({"10006", "10018"}))
    addresses = frozenset({"public", "private"})
    options: Mapping[str, Any] = {
        "defaultType": "swap",
        "fetchMarkets": {"types": ["linear"], "usePrivateInstrumentsInfo": False},
        # Said here, ccxt need not ask for it between the stamp and the order.
        "enableUnifiedMargin": False,
        "enableUnifiedAccount": True,
        "unifiedMarginStatus": 6,
        "createMarketBuyOrderRequiresPrice": False,
    }
    has_venue_stops = True  # reduce-only triggers on the mark price
    fallback_fees_bps = (Decimal(2), Decimal(6))

    def create(self, spec: OrderSpec, venue_symbol: str, sent_at_ms: int, window_ms: int) -> Creation:
        """Plan the one call of `create_order`; stamp and window are headers, which the lane pins."""
        client_id = spell_client_id(spec.client_order_id, self.profile.client_id_form)
        params: dict[str, object] = {"clientOrderId": client_id, "reduceOnly": spec.reduce_only, "positionIdx": 0}
        wanted: dict[str, object] = {
            "category": CATEGORY,
            "symbol": venue_symbol,
            "side": spec.side.capitalize(),
            "qty": spec.qty,
            "orderLinkId": client_id,
            "reduceOnly": spec.reduce_only,
            "positionIdx": 0,
        }
        kind, price = "market", None
        match spec.type:
            case OrderType.LIMIT if spec.limit_price is not None:
                kind, price = "limit", spell(spec.limit_price)
                params |= {"timeInForce": spec.tif.value}
                wanted |= {"orderType": "Limit", "price": spec.limit_price, "timeInForce": spec.tif.value}
            case OrderType.MARKET:
                wanted |= {"orderType": "Market"}
            case OrderType.STOP if spec.stop_price is not None:
                is_falling = spec.side is Side.SELL
                params |= {"triggerPrice": spell(spec.stop_price), "triggerBy": "MarkPrice"}
                params |= {"triggerDirection": "descending" if is_falling else "ascending"}
                wanted |= {"orderType": "Market", "triggerPrice": spec.stop_price, "triggerBy": "MarkPrice"}
                wanted |= {"triggerDirection": 2 if is_falling else 1}
            case _:
                kind = ""  # no such order: ccxt refuses it, and if it does not, the check does

        def ask(exchange: Exchange) -> object:
            return exchange.create_order(spec.symbol, kind, spec.side.value, spell(spec.qty), price, params)

        def check(request: requests.PreparedRequest) -> str | None:
            if request.method != "POST" or not path_of(request).endswith("/v5/order/create"):
                return f"it was {request.method} {path_of(request)}, no create"
            stamps = request.headers.get("X-BAPI-TIMESTAMP"), request.headers.get("X-BAPI-RECV-WINDOW")
            if stamps != (str(sent_at_ms), str(window_ms)):
                return f"stamp and window were {stamps}, decided were {sent_at_ms} and {window_ms}"
            body = parse_json(request.body if isinstance(request.body, bytes) else (request.body or "").encode())
            return find_difference(body, wanted, frozenset()) if isinstance(body, dict) else "its body was no object"

        return Creation(ask, check)

    def cancel(self, venue_symbol: str, order: OrderId) -> Question:
        """Plan the cancel of one order."""
        params = {"category": CATEGORY, "symbol": venue_symbol, **self._named(order)}
        return lambda exchange: exchange.private_post_v5_order_cancel(params)

    def cancel_all(self, venue_symbol: str) -> Question:
        """Plan the cancel of every order of a symbol; without a filter triggers are among them."""
        return lambda exchange: exchange.private_post_v5_order_cancel_all({"category": CATEGORY, "symbol": venue_symbol})

    def fetch_markets(self, exchange: Exchange) -> object:
        """Ask ccxt for its markets, page by page."""
        return exchange.fetch_markets()

    def parse_listing(self, market: Mapping[str, Any], fees_bps: tuple[Decimal, Decimal]) -> Listing | None:
        """Read rules in the venue's own strings; quantities are in base, so that a contract is one of it."""
        if not (market.get("swap") and market.get("linear")):
            return None
        row = Row.of(market.get("info"), "instrument")
        lot = row.row("lotSizeFilter")
        try:
            rules = InstrumentRules(
                str(market["symbol"]),
                row.row("priceFilter").decimal("tickSize"),
                lot.decimal("qtyStep"),
                lot.decimal("minOrderQty"),
                lot.decimal("maxOrderQty"),
                lot.number("minNotionalValue") or ZERO,
                is_active=row.text("status") == "Trading",
            )
        except OrderValidationError:
            return None
        return Listing(rules, str(market["base"]), str(market["quote"]), *fees_bps)

    def fetch_fees(self, lane: Lane) -> tuple[Decimal, Decimal]:
        """Read the account's fees: the highest of any instrument, so that no cost is estimated too low."""
        rows = self._result(lane, lambda exchange: exchange.private_get_v5_account_fee_rate({"category": CATEGORY})).rows("list")
        if not rows:
            raise UnreadableError("EMPTY fees")
        maker, taker = (max(row.decimal(name) for row in rows) for name in ("makerFeeRate", "takerFeeRate"))
        return maker * 10_000, taker * 10_000

    def fetch_order(self, lane: Lane, symbols: Symbols, symbol: str, order: OrderId) -> VenueOrder:
        """Read one order: it is absent when both the recent and the closed orders are without it."""
        params = {"symbol": symbols.id_of(symbol), **self._named(order)}
        for method in ("private_get_v5_order_realtime", "private_get_v5_order_history"):
            try:
                found = [self._order(row, symbols) for row in self._list(lane, method, params, _ORDERS_PAGE)]
            except AbsentError:
                continue
            for each in found:
                is_asked_for = each.venue_order_id == order.venue if order.venue else each.raw_client_id == order.client
                if each.symbol != symbol or not is_asked_for:
                    raise UnreadableError(f"OTHER_ORDER {each.symbol} {each.venue_order_id}")
                return each
        raise AbsentError

    def fetch_open_orders(self, lane: Lane, symbols: Symbols, symbol: str | None, quote: str) -> list[VenueOrder]:
        """Read open orders, triggers included."""
        params = {"settleCoin": quote} if symbol is None else {"symbol": symbols.id_of(symbol)}
        found = [self._order(row, symbols) for row in self._list(lane, "private_get_v5_order_realtime", params, _ORDERS_PAGE)]
        demand_symbol(symbol, [each.symbol for each in found])
        return [each for each in found if each.status is VenueStatus.OPEN]

    def fetch_closed_orders(self, lane: Lane, symbols: Symbols, symbol: str, since_ms: int, now_ms: int) -> list[VenueOrder]:
        """Read all orders of a symbol since an instant: open, just closed, closed, so that one that ends meanwhile is in a later list."""
        params = {"symbol": symbols.id_of(symbol)}
        rows = self._list(lane, "private_get_v5_order_realtime", params, _ORDERS_PAGE)
        rows += self._list(lane, "private_get_v5_order_realtime", {**params, "openOnly": 1}, _ORDERS_PAGE)
        for start_ms, end_ms in windows(since_ms, now_ms, WEEK_MS):
            window = {"startTime": start_ms, "endTime": end_ms}
            rows += self._list(lane, "private_get_v5_order_history", {**params, **window}, _ORDERS_PAGE)
        found = {each.venue_order_id: each for row in rows if (each := self._order(row, symbols)).created_ms >= since_ms}
        demand_symbol(symbol, [each.symbol for each in found.values()])
        return sorted(found.values(), key=lambda each: each.created_ms)

    def fetch_fills(
        self, lane: Lane, symbols: Symbols, traits: BrokerTraits, symbol: str, since_ms: int, now_ms: int, venue_order_id: str | None
    ) -> list[Fill]:
        """Read own trades of a symbol, of one order where it is named; liquidations are trades, funding is none.

        The venue lists the newest first: turned round, those of one millisecond keep their order.
        """
        params = {"symbol": symbols.id_of(symbol), **({"orderId": venue_order_id} if venue_order_id else {})}
        rows = [row for row in reversed(self._executions(lane, params, since_ms, now_ms)) if row.text("execType") in FILLS]
        found = [self._fill(row, symbols, traits) for row in rows]
        demand_symbol(symbol, [each.symbol for each in found])
        chosen = [each for each in found if venue_order_id in {None, each.venue_order_id}]
        return sorted(chosen, key=lambda each: each.venue_ts_ms)

    def fetch_balances(self, lane: Lane) -> dict[str, Balance]:
        """Read the unified wallet; profit not taken yet is not in it."""
        coins = self._coins(lane)
        if not coins:
            raise UnreadableError("EMPTY balances")
        found: dict[str, Balance] = {}
        for name, row in coins.items():
            total = row.decimal("walletBalance")
            bound = sum((row.number(field) or ZERO for field in ("locked", "totalOrderIM", "totalPositionIM")), ZERO)
            if total:
                found[name] = Balance(total - bound, total)
        return found

    def fetch_positions(self, lane: Lane, symbols: Symbols, quote: str) -> list[VenuePosition]:
        """Read positions; an empty list is believed only while the wallet binds no margin for one."""
        rows = self._list(lane, "private_get_v5_position_list", {"settleCoin": quote}, _POSITIONS_PAGE)
        if not rows:
            coin = self._coins(lane).get(quote)
            if coin is not None and (coin.number("totalPositionIM") or ZERO) > 0:
                raise UnreadableError("EMPTY positions while margin is bound")
        return [each for row in rows if (each := self._position(row, symbols)).qty]

    def fetch_quote(self, lane: Lane, venue_symbol: str, now_ms: int) -> Quote:  # noqa: ARG002 - the venue says its time
        """Read best prices and the venue's time of them."""
        params = {"category": CATEGORY, "symbol": venue_symbol}
        answer = self._answer(lane, lambda exchange: exchange.public_get_v5_market_tickers(params))
        for row in answer.row("result").rows("list"):
            bid, ask = row.above_zero("bid1Price"), row.above_zero("ask1Price")
            if row.text("symbol") == venue_symbol and bid is not None and ask is not None and bid <= ask:
                return Quote(bid, ask, answer.at_ms("time"))
        raise UnreadableError("NO_QUOTE")

    def fetch_funding(self, lane: Lane, symbol: str, venue_symbol: str, since_ms: int, now_ms: int) -> list[FundingPayment]:
        """Read funding payments: executions whose fee is what we paid."""
        rows = self._executions(lane, {"symbol": venue_symbol, "execType": "Funding"}, since_ms, now_ms)
        found = [FundingPayment(symbol, -row.decimal("execFee"), row.at_ms("execTime"), row.text("execId")) for row in rows]
        return sorted(found, key=lambda each: each.at_ms)

    def fetch_time_ms(self, lane: Lane) -> int:
        """Read the venue's clock."""
        return self._answer(lane, lambda exchange: exchange.public_get_v5_market_time()).at_ms("time")

    def fetch_permissions(self, lane: Lane) -> frozenset[str]:
        """Read what the key may do; every right over the wallet but withdrawing is a transfer."""
        row = self._result(lane, lambda exchange: exchange.private_get_v5_user_query_api())
        names = {name: _names_in(row.row("permissions").get(name)) for name in ("ContractTrade", "Wallet")}
        rights = {"read"}
        if row.decimal("readOnly") == 0 and "Order" in names["ContractTrade"]:
            rights.add("trade")
        if "Withdraw" in names["Wallet"]:
            rights.add("withdraw")
        if names["Wallet"] - {"Withdraw"}:
            rights.add("transfer")
        if (addresses := _names_in(row.get("ips"))) and "*" not in addresses:
            rights.add("ip_bound")
        return frozenset(rights)

    def fetch_account_id(self, lane: Lane) -> str:
        """Read the account's user id."""
        return self._result(lane, lambda exchange: exchange.private_get_v5_user_query_api()).text("userID")

    def _named(self, order: OrderId) -> dict[str, str]:
        return {"orderId": order.venue} if order.venue else {"orderLinkId": order.client}

    def _answer(self, lane: Lane, question: Question) -> Row:
        return Row.of(lane.read(question, self.codes), "answer")

    def _result(self, lane: Lane, question: Question) -> Row:
        return self._answer(lane, question).row("result")

    def _list(self, lane: Lane, method: str, params: Mapping[str, object], size: int) -> list[Row]:
        """Read all pages of a list."""

        def ask_page(cursor: str | None) -> tuple[list[Row], str | None]:
            call = {"category": CATEGORY, "limit": size, **params, **({"cursor": cursor} if cursor else {})}
            result = self._result(lane, lambda exchange: getattr(exchange, method)(call))
            rows = result.rows("list")
            return rows, result.said("nextPageCursor") if rows else None

        return pages(ask_page)

    def _executions(self, lane: Lane, params: Mapping[str, object], since_ms: int, now_ms: int) -> list[Row]:
        found: list[Row] = []
        for start_ms, end_ms in windows(since_ms, now_ms, WEEK_MS):
            window = {"startTime": start_ms, "endTime": end_ms}
            found += self._list(lane, "private_get_v5_execution_list", {**params, **window}, _FILLS_PAGE)
        return found

    def _coins(self, lane: Lane) -> dict[str, Row]:
        wallets = self._result(lane, lambda exchange: exchange.private_get_v5_account_wallet_balance({"accountType": "UNIFIED"})).rows(
            "list"
        )
        return {row.text("coin"): row for wallet in wallets for row in wallet.rows("coin")}

    def _order(self, row: Row, symbols: Symbols) -> VenueOrder:
        status, raw = row.text("orderStatus"), row.said("orderLinkId") or ""
        if status not in STATUSES:
            raise UnreadableError(f"UNKNOWN_STATUS {status[:40]}")
        return VenueOrder(
            venue_order_id=row.text("orderId"),
            client_order_id=ours_or_none(raw),
            symbol=symbols.name_of(row.text("symbol")),
            side=parse_side(row),
            status=STATUSES[status],
            qty=row.decimal("qty"),
            filled=row.decimal("cumExecQty"),
            limit_price=row.above_zero("price"),
            stop_price=row.above_zero("triggerPrice"),
            reduce_only=row.flag("reduceOnly"),
            created_ms=row.at_ms("createdTime"),
            raw_client_id=raw,
        )

    def _fill(self, row: Row, symbols: Symbols, traits: BrokerTraits) -> Fill:
        fee = row.number("execFee")
        return Fill(
            venue=traits.venue,
            account=traits.account,
            market_type=traits.market_type,
            symbol=symbols.name_of(row.text("symbol")),
            venue_order_id=row.text("orderId"),
            venue_trade_id=row.text("execId"),
            side=parse_side(row),
            qty=row.decimal("execQty"),
            price=row.decimal("execPrice"),
            fee_amount=fee,
            fee_asset=None if fee is None else row.said("feeCurrency") or traits.quote,
            venue_ts_ms=row.at_ms("execTime"),
        )

    def _position(self, row: Row, symbols: Symbols) -> VenuePosition:
        size = row.decimal("size")
        if row.decimal("positionIdx") != 0:
            raise UnreadableError("HEDGED position: the account must be in one-way mode")
        sign = parse_side(row).sign if size else 1
        return VenuePosition(
            symbols.name_of(row.text("symbol")),
            sign * size,
            row.above_zero("avgPrice"),
            row.above_zero("markPrice"),
            row.above_zero("liqPrice"),
        )


def _names_in(value: object) -> set[str]:
    return {each for each in value if isinstance(each, str)} if isinstance(value, list) else set()
