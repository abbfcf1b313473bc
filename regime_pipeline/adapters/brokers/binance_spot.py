"""Binance spot: how it wants orders spelt and asked for, and where its answers carry what (api/v3 and one call of sapi/v1)."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final
from urllib.parse import parse_qsl

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
from regime_pipeline.adapters.brokers.rows import Json, Row, UnreadableError, rows_of
from regime_pipeline.errors import OrderValidationError
from regime_pipeline.execution.answers import BINANCE
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

DAY_MS: Final = 86_400_000
PAGE: Final = 1000
STATUSES: Final = {
    "NEW": VenueStatus.OPEN,
    "PENDING_NEW": VenueStatus.OPEN,
    "PARTIALLY_FILLED": VenueStatus.OPEN,
    "PENDING_CANCEL": VenueStatus.OPEN,
    "FILLED": VenueStatus.CLOSED,
    "CANCELED": VenueStatus.CANCELED,
    "REJECTED": VenueStatus.REJECTED,
    "EXPIRED": VenueStatus.EXPIRED,
    "EXPIRED_IN_MATCH": VenueStatus.EXPIRED,
}
RIGHTS: Final = {
    "enableReading": "read",
    "enableSpotAndMarginTrading": "trade",
    "enableWithdrawals": "withdraw",
    "enableInternalTransfer": "transfer",
    "permitsUniversalTransfer": "transfer",
    "ipRestrict": "ip_bound",
}
_UNCHECKED: Final = frozenset({"newOrderRespType", "signature"})


class BinanceSpot:
    """The dialect of Binance spot."""

    exchange_id = "binance"
    market_type = "spot"
    profile = BINANCE
    # -2026, archived, is no absence: there was such an order.
    codes = Codes("code", "msg", ok=frozenset({""}), absent=frozenset({"-2013"}), limited=frozenset({"-1003", "-1015"}))
    addresses = frozenset({"public", "private", "sapi"})
    options: Mapping[str, Any] = {
        "defaultType": "spot",
        "fetchMarkets": {"types": ["spot"]},
        "fetchMargins": False,
        "createMarketBuyOrderRequiresPrice": False,
    }
    has_venue_stops = False  # a spot stop is not reduce-only: it would go on after the coins were sold
    fallback_fees_bps = (Decimal(10), Decimal(10))

    def create(self, spec: OrderSpec, venue_symbol: str, sent_at_ms: int, window_ms: int) -> Creation:
        """Plan the one call of `create_order`; `timestamp` and `recvWindow` go in with the order."""
        client_id = spell_client_id(spec.client_order_id, self.profile.client_id_form)
        common = {"newClientOrderId": client_id, "timestamp": sent_at_ms, "recvWindow": window_ms}
        wanted: dict[str, object] = {
            "symbol": venue_symbol,
            "side": spec.side.upper(),
            "quantity": spec.qty,
            "newClientOrderId": client_id,
            "timestamp": str(sent_at_ms),
            "recvWindow": str(window_ms),
        }
        price: str | None = None
        extra: dict[str, str] = {}
        match spec.type:
            case OrderType.LIMIT if spec.limit_price is not None:
                kind, price, extra = "limit", spell(spec.limit_price), {"timeInForce": spec.tif.value}
                wanted |= {"type": "LIMIT", "price": spec.limit_price, "timeInForce": spec.tif.value}
            case OrderType.MARKET:
                kind = "market"
                wanted |= {"type": "MARKET"}
            case OrderType.STOP if spec.stop_price is not None:
                kind, extra = "market", {"stopLossPrice": spell(spec.stop_price)}
                wanted |= {"type": "STOP_LOSS", "stopPrice": spec.stop_price}
            case _:
                kind = ""  # no such order: ccxt refuses it, and if it does not, the check does

        def ask(exchange: Exchange) -> object:
            return exchange.create_order(spec.symbol, kind, spec.side.value, spell(spec.qty), price, {**common, **extra})

        def check(request: requests.PreparedRequest) -> str | None:
            if request.method != "POST" or not path_of(request).endswith("/api/v3/order"):
                return f"it was {request.method} {path_of(request)}, no create"
            return find_difference(_form(request.body), wanted, _UNCHECKED)

        return Creation(ask, check)

    def cancel(self, venue_symbol: str, order: OrderId) -> Question:
        """Plan the cancel of one order."""
        return lambda exchange: exchange.private_delete_order({"symbol": venue_symbol, **self._named(order)})

    def cancel_all(self, venue_symbol: str) -> Question:
        """Plan the cancel of every order of a symbol."""
        return lambda exchange: exchange.private_delete_openorders({"symbol": venue_symbol})

    def fetch_markets(self, exchange: Exchange) -> object:
        """Ask ccxt for its markets: one request, exchangeInfo."""
        return exchange.fetch_markets()

    def parse_listing(self, market: Mapping[str, Any], fees_bps: tuple[Decimal, Decimal]) -> Listing | None:
        """Read rules from the filters in the venue's own strings."""
        row = Row.of(market.get("info"), "symbol")
        filters = {each.text("filterType"): each for each in row.rows("filters")}
        if not market.get("spot") or not {"PRICE_FILTER", "LOT_SIZE"} <= filters.keys():
            return None
        price, lot = filters["PRICE_FILTER"], filters["LOT_SIZE"]
        cost = filters.get("NOTIONAL") or filters.get("MIN_NOTIONAL")
        try:
            rules = InstrumentRules(
                str(market["symbol"]),
                price.decimal("tickSize"),
                lot.decimal("stepSize"),
                lot.decimal("minQty"),
                lot.decimal("maxQty"),
                (cost.number("minNotional") if cost else None) or ZERO,
                is_active=row.text("status") == "TRADING" and row.get("isSpotTradingAllowed") is not False,
            )
        except OrderValidationError:
            return None  # a tick of 0 is a symbol without a price grid, which we could not round to
        return Listing(rules, str(market["base"]), str(market["quote"]), *fees_bps)

    def fetch_fees(self, lane: Lane) -> tuple[Decimal, Decimal]:
        """Read the account's commission: as rates, or in older answers as bps."""
        row = Row.of(lane.read(lambda exchange: exchange.private_get_account(), self.codes), "account")
        if row.get("commissionRates") is not None:
            rates = row.row("commissionRates")
            return rates.decimal("maker") * 10_000, rates.decimal("taker") * 10_000
        return row.decimal("makerCommission"), row.decimal("takerCommission")

    def fetch_order(self, lane: Lane, symbols: Symbols, symbol: str, order: OrderId) -> VenueOrder:
        """Read one order by the venue's id or by ours."""
        params = {"symbol": symbols.id_of(symbol), **self._named(order)}
        found = self._order(lane.read(lambda exchange: exchange.private_get_order(params), self.codes), symbols)
        is_asked_for = found.venue_order_id == order.venue if order.venue else found.raw_client_id == order.client
        if found.symbol != symbol or not is_asked_for:
            raise UnreadableError(f"OTHER_ORDER {found.symbol} {found.venue_order_id}")
        return found

    def fetch_open_orders(self, lane: Lane, symbols: Symbols, symbol: str | None, quote: str) -> list[VenueOrder]:  # noqa: ARG002
        """Read open orders, stops included."""
        params = {} if symbol is None else {"symbol": symbols.id_of(symbol)}
        rows = rows_of(lane.read(lambda exchange: exchange.private_get_openorders(params), self.codes), "orders")
        found = [self._order_of(row, symbols) for row in rows]
        demand_symbol(symbol, [each.symbol for each in found])
        return found

    def fetch_closed_orders(self, lane: Lane, symbols: Symbols, symbol: str, since_ms: int, now_ms: int) -> list[VenueOrder]:
        """Read all orders of a symbol since an instant, whatever their status."""
        call = {"symbol": symbols.id_of(symbol)}
        rows = self._history(lane, "private_get_allorders", call, ("orderId", "orderId"), since_ms, now_ms)
        found = {each.venue_order_id: each for row in rows if (each := self._order_of(row, symbols)).created_ms >= since_ms}
        demand_symbol(symbol, [each.symbol for each in found.values()])
        return sorted(found.values(), key=lambda each: each.created_ms)

    def fetch_fills(
        self, lane: Lane, symbols: Symbols, traits: BrokerTraits, symbol: str, since_ms: int, now_ms: int, venue_order_id: str | None
    ) -> list[Fill]:
        """Read own trades of a symbol, of one order where it is named."""
        call = {"symbol": symbols.id_of(symbol)}
        if venue_order_id is not None:
            call |= {"orderId": venue_order_id}
        rows = self._history(lane, "private_get_mytrades", call, ("id", "fromId"), since_ms, now_ms)
        found = [self._fill(row, symbols, traits) for row in rows]
        demand_symbol(symbol, [each.symbol for each in found])
        chosen = [each for each in found if each.venue_ts_ms >= since_ms and venue_order_id in {None, each.venue_order_id}]
        return sorted(chosen, key=lambda each: each.venue_ts_ms)

    def fetch_balances(self, lane: Lane) -> dict[str, Balance]:
        """Read balances; the venue lists assets that are 0 too, so that no list at all is no answer."""
        rows = Row.of(lane.read(lambda exchange: exchange.private_get_account(), self.codes), "account").rows("balances")
        if not rows:
            raise UnreadableError("EMPTY balances")
        found: dict[str, Balance] = {}
        for row in rows:
            free, locked = row.decimal("free"), row.decimal("locked")
            if free + locked:
                found[row.text("asset")] = Balance(free, free + locked)
        return found

    def fetch_positions(self, lane: Lane, symbols: Symbols, quote: str) -> list[VenuePosition]:  # noqa: ARG002 - as Dialect
        """A spot account has none."""
        return []

    def fetch_quote(self, lane: Lane, venue_symbol: str, now_ms: int) -> Quote:
        """Read best prices; the venue gives no time with them, so it is ours."""
        params = {"symbol": venue_symbol}
        row = Row.of(lane.read(lambda exchange: exchange.public_get_ticker_bookticker(params), self.codes), "quote")
        bid, ask = row.above_zero("bidPrice"), row.above_zero("askPrice")
        if row.text("symbol") != venue_symbol or bid is None or ask is None or bid > ask:
            raise UnreadableError("NO_QUOTE")
        return Quote(bid, ask, now_ms)

    def fetch_funding(self, lane: Lane, symbol: str, venue_symbol: str, since_ms: int, now_ms: int) -> list[FundingPayment]:  # noqa: ARG002
        """A spot account has none."""
        return []

    def fetch_time_ms(self, lane: Lane) -> int:
        """Read the venue's clock."""
        return Row.of(lane.read(lambda exchange: exchange.public_get_time(), self.codes), "time").at_ms("serverTime")

    def fetch_permissions(self, lane: Lane) -> frozenset[str]:
        """Read what the key may do (apiRestrictions)."""
        row = Row.of(lane.read(lambda exchange: exchange.sapi_get_account_apirestrictions(), self.codes), "rights")
        return frozenset(right for name, right in RIGHTS.items() if row.flag(name))

    def fetch_account_id(self, lane: Lane) -> str:
        """Read the account's uid."""
        return Row.of(lane.read(lambda exchange: exchange.private_get_account(), self.codes), "account").text("uid")

    def _named(self, order: OrderId) -> dict[str, str]:
        return {"orderId": order.venue} if order.venue else {"origClientOrderId": order.client}

    def _history(self, lane: Lane, method: str, call: Mapping[str, str], cursor: tuple[str, str], since_ms: int, now_ms: int) -> list[Row]:
        """Read a history in windows of a day, and from the first page that is full onwards by id.

        Parameters
        ----------
        cursor : (str, str)
            Field of a row that holds its number, and parameter that asks for rows from a number on.
        """
        field, parameter = cursor

        def ask(**params: object) -> list[Row]:
            answer = lane.read(lambda exchange: getattr(exchange, method)({**call, "limit": PAGE, **params}), self.codes)
            return rows_of(answer, method)

        def from_number(first: str) -> list[Row]:
            def ask_page(number: str | None) -> tuple[list[Row], str | None]:
                rows = ask(**{parameter: number or first})
                return rows, _after(rows, field) if len(rows) >= PAGE else None

            return pages(ask_page)

        is_of_one_order = "orderId" in call  # the venue takes no window with it
        if now_ms - since_ms > 30 * DAY_MS and not is_of_one_order:
            return from_number("0")
        found: list[Row] = []
        spans = [{}] if is_of_one_order else [{"startTime": a, "endTime": b} for a, b in windows(since_ms, now_ms, DAY_MS)]
        for span in spans:
            rows = ask(**span)
            found += rows
            if len(rows) >= PAGE:
                return found + from_number(_after(rows, field))
        return found

    def _order(self, answer: Json, symbols: Symbols) -> VenueOrder:
        return self._order_of(Row.of(answer, "order"), symbols)

    def _order_of(self, row: Row, symbols: Symbols) -> VenueOrder:
        status, raw = row.text("status"), row.text("clientOrderId")
        if status not in STATUSES:
            raise UnreadableError(f"UNKNOWN_STATUS {status[:40]}")
        return VenueOrder(
            venue_order_id=row.text("orderId"),
            client_order_id=ours_or_none(raw),
            symbol=symbols.name_of(row.text("symbol")),
            side=parse_side(row),
            status=STATUSES[status],
            qty=row.decimal("origQty"),
            filled=row.decimal("executedQty"),
            limit_price=row.above_zero("price"),
            stop_price=row.above_zero("stopPrice"),
            created_ms=row.at_ms("time"),
            raw_client_id=raw,
        )

    def _fill(self, row: Row, symbols: Symbols, traits: BrokerTraits) -> Fill:
        fee, asset = row.number("commission"), row.said("commissionAsset")
        is_known = fee is not None and asset is not None
        return Fill(
            venue=traits.venue,
            account=traits.account,
            market_type=traits.market_type,
            symbol=symbols.name_of(row.text("symbol")),
            venue_order_id=row.text("orderId"),
            venue_trade_id=row.text("id"),
            side=Side.BUY if row.flag("isBuyer") else Side.SELL,
            qty=row.decimal("qty"),
            price=row.decimal("price"),
            fee_amount=fee if is_known else None,
            fee_asset=asset if is_known else None,
            venue_ts_ms=row.at_ms("time"),
        )


def _form(body: bytes | str | None) -> dict[str, object]:
    """Fields of a form; a field given twice is not what was decided."""
    text = body.decode() if isinstance(body, bytes) else body or ""
    pairs = parse_qsl(text, keep_blank_values=True)
    return {name: value if [each for each, _ in pairs].count(name) == 1 else "given twice" for name, value in pairs}


def _after(rows: list[Row], field: str) -> str:
    return str(max(int(row.decimal(field)) for row in rows) + 1)
