"""The judge of the order path: a venue and its ledger in plain Python that share no code with the product.

Orders rest until the test fills or cancels them. What a create does and what its sender hears are two things, scripted apart.
"""

from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal

FEE = Decimal("0.001")


@dataclass
class Order:
    id: int
    client_id: str
    symbol: str
    side: str
    qty: Decimal
    price: Decimal | None
    tif: str
    created_ms: int
    visible_ms: int
    status: str = "open"
    filled: Decimal = Decimal(0)

    @property
    def rest(self) -> Decimal:
        return self.qty - self.filled


@dataclass
class Trade:
    id: int
    order_id: int
    symbol: str
    side: str
    qty: Decimal
    price: Decimal
    fee: Decimal
    fee_asset: str
    ms: int


@dataclass
class Script:
    """What happens to a create: taken at once, late (ms) or never; the answer: ok, or one of `BAD`; shown to reads after `hidden_ms`."""

    taken: str = "now"
    answer: str = "ok"
    late_ms: int = 0
    hidden_ms: int = 0
    fill_frac: Decimal = Decimal(0)


BAD = {
    "timeout": None,
    "broken": None,
    "no_connection": None,
    "500": (500, b"oops"),
    "524": (524, b"<html>"),
    "html200": (200, b"<html>hello</html>"),
    "empty200": (200, b""),
    "null200": (200, b"null"),
    "other_id": (200, b'{"orderId": 999999, "clientOrderId": "00000000000000000000000000000000"}'),
    "429": (429, b'{"code": -1003, "msg": "Too many requests."}'),
    "clock": (400, b'{"code": -1021, "msg": "Timestamp for this request is outside of the recvWindow."}'),
    "balance": (400, b'{"code": -2010, "msg": "Account has insufficient balance for requested action."}'),
    "filter": (400, b'{"code": -1013, "msg": "Filter failure: LOT_SIZE"}'),
    "page403": (403, b"<html>forbidden</html>"),
}
NEVER_TAKEN = frozenset({"no_connection", "429", "clock", "balance", "filter"})
"""Answers by which the venue says that it has not taken the order: a venue that says so and takes it is not one to trade with."""


@dataclass
class Venue:
    cash: Decimal
    orders: dict[int, Order] = field(default_factory=dict)
    trades: list[Trade] = field(default_factory=list)
    scripts: deque[Script] = field(default_factory=deque)
    reads: deque[str] = field(default_factory=deque)  # each takes one read: "failed"
    posts: list[str] = field(default_factory=list)
    flying: list[tuple[int, int, Order]] = field(default_factory=list)  # arrives at, expires at
    flows: dict[str, Decimal] = field(default_factory=dict)

    def create(
        self, client_id: str, symbol: str, side: str, qty: Decimal, price: Decimal | None, tif: str, sent_ms: int, window_ms: int, ms: int
    ) -> tuple[int, bytes] | str:
        """Returns (status, body), or how the wire failed."""
        self.posts.append(client_id)
        script = self.scripts.popleft() if self.scripts else Script()
        order = Order(len(self.posts), client_id, symbol, side, qty, price, tif, ms, ms + script.hidden_ms)
        said: tuple[int, bytes] = (200, b'{"orderId": %d, "clientOrderId": "%s"}' % (order.id, client_id.encode()))
        if script.taken == "late":
            self.flying.append((ms + script.late_ms, sent_ms + window_ms, order))
        elif script.taken == "now":
            refusal = self._take(order, sent_ms + window_ms, ms)
            if refusal is not None:
                said = refusal
            elif script.fill_frac:
                self.fill(order.id, order.qty * script.fill_frac, ms)
        if script.answer == "ok":
            return said if script.taken == "now" else "timeout"
        answer = BAD[script.answer]
        return script.answer if answer is None else answer

    def _take(self, order: Order, expires_ms: int, ms: int) -> tuple[int, bytes] | None:
        if ms > expires_ms:
            return 400, b'{"code": -1021, "msg": "Timestamp for this request is outside of the recvWindow."}'
        if any(each.client_id == order.client_id for each in self.orders.values()):
            return 400, b'{"code": -2010, "msg": "Duplicate order sent."}'
        self.orders[order.id] = order
        return None

    def pass_time(self, ms: int) -> None:
        """Late requests arrive; those that have expired are refused without anybody hearing of it."""
        due = [entry for entry in self.flying if entry[0] <= ms]
        self.flying = [entry for entry in self.flying if entry[0] > ms]
        for at_ms, expires_ms, order in due:
            order.created_ms, order.visible_ms = at_ms, at_ms
            self._take(order, expires_ms, at_ms)

    def fill(self, order_id: int, qty: Decimal, ms: int, price: Decimal | None = None) -> Trade | None:
        """Trade a part of an open order."""
        order = self.orders[order_id]
        qty = min(qty, order.rest).quantize(Decimal("0.001"))
        if order.status != "open" or qty <= 0:
            return None
        at = price or order.price or Decimal(100)
        base = order.symbol.partition("/")[0]
        fee, asset = (qty * FEE, base) if order.side == "buy" else (qty * at * FEE, "USDT")
        trade = Trade(len(self.trades) + 1, order.id, order.symbol, order.side, qty, at, fee, asset, ms)
        self.trades.append(trade)
        order.filled += qty
        if order.rest <= 0:
            order.status = "closed"
        return trade

    def late_fill(self, order_id: int, qty: Decimal, ms: int) -> None:
        """A trade that happened before the order ended, told only now."""
        order = self.orders[order_id]
        status, order.status = order.status, "open"
        self.fill(order_id, qty, ms)
        order.status = "closed" if order.rest <= 0 else status

    def cancel(self, client_id: str) -> bool:
        for order in self.orders.values():
            if order.client_id == client_id and order.status == "open":
                order.status = "canceled"
                return True
        return False

    def find(self, client_id: str, ms: int) -> Order | None:
        found = [order for order in self.orders.values() if order.client_id == client_id and order.visible_ms <= ms]
        return found[-1] if found else None

    def seen(self, ms: int) -> list[Order]:
        return [order for order in self.orders.values() if order.visible_ms <= ms]

    def holdings(self) -> dict[str, Decimal]:
        """Assets by trades, fees and flows alone."""
        held = {"USDT": self.cash, **{asset: amount for asset, amount in self.flows.items() if asset != "USDT"}}
        held["USDT"] += self.flows.get("USDT", Decimal(0))
        for trade in self.trades:
            base = trade.symbol.partition("/")[0]
            sign = 1 if trade.side == "buy" else -1
            held[base] = held.get(base, Decimal(0)) + sign * trade.qty
            held["USDT"] -= sign * trade.qty * trade.price
            held[trade.fee_asset] = held.get(trade.fee_asset, Decimal(0)) - trade.fee
        return held
