"""A venue to trade at that is a list with a memory: it answers as scripted, keeps what it is sent, and fills what a test tells it to."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from regime_pipeline.execution.answers import PAPER, RawAnswer, Transport
from regime_pipeline.execution.fills import Fill
from regime_pipeline.execution.order_states import VenueStatus
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
    Quote,
    Read,
    TimeInForce,
    VenueOrder,
    VenuePosition,
)
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import Switch
from regime_pipeline.risk.purpose import Side
from regime_pipeline.simulation.clock import VirtualClock

QUOTE = "USDT"
WORDS = {
    VenueStatus.OPEN: "NEW",
    VenueStatus.CLOSED: "FILLED",
    VenueStatus.CANCELED: "CANCELED",
    VenueStatus.EXPIRED: "EXPIRED",
    VenueStatus.REJECTED: "REJECTED",
}


@dataclass(frozen=True)
class Scripted:
    """How one request is answered, and whether the venue has done what it asks all the same."""

    status: int | None = 200
    body: bytes | None = None  # None: the venue's own answer
    is_done: bool = True
    transport: Transport = Transport.ANSWERED
    retry_after_s: int | None = None


def lost(*, is_done: bool) -> Scripted:
    """No answer within the time-out."""
    return Scripted(None, b"", is_done, Transport.TIMED_OUT)


def refused(code: int, msg: str = "", status: int = 400, retry_after_s: int | None = None) -> Scripted:
    """A refusal in the venue's words."""
    return Scripted(status, json.dumps({"code": code, "msg": msg}).encode(), is_done=False, retry_after_s=retry_after_s)


def page(status: int, *, is_done: bool = False) -> Scripted:
    """A page of somebody before the venue."""
    return Scripted(status, b"<html>please wait</html>", is_done)


@dataclass
class FakeBroker:
    """`Broker` in memory, spot.

    Parameters
    ----------
    clock : VirtualClock
        Stamps trades.
    fills_at_once : bool
        Whether what is created trades in full at its limit at once.
    holds_cancels : bool
        Whether a cancel is taken and never carried out.
    """

    clock: VirtualClock
    traits: BrokerTraits = field(default_factory=lambda: BrokerTraits("paper", "paper-main", Mode.PAPER, "spot", QUOTE, PAPER))
    fills_at_once: bool = False
    holds_cancels: bool = False
    mid: Decimal = Decimal(100)

    def __post_init__(self) -> None:
        self.creates: list[tuple[OrderSpec, int, int]] = []
        self.cancels: list[str] = []
        self.reads: list[str] = []
        self.orders: dict[str, VenueOrder] = {}
        self.trades: list[Fill] = []
        self.create_script: list[Scripted] = []
        self.cancel_script: list[Scripted] = []
        self.failing: set[str] = set()  # reads that fail, by name
        self.hidden: set[str] = set()  # orders that no read shows, by our id
        self.on_place: Callable[[str], object] | None = None  # what happens to an order before its create is answered
        self.balances: dict[str, Decimal] = {QUOTE: Decimal(100_000)}

    def fill(self, client_order_id: str, qty: Decimal | str, price: Decimal | str | None = None) -> Fill:
        """Trade a part of an order."""
        order, qty = self.orders[client_order_id], Decimal(qty)
        at = Decimal(price) if price is not None else order.limit_price or self.mid
        base = order.symbol.partition("/")[0]
        fee_asset, fee = (base, qty / 1000) if order.side is Side.BUY else (QUOTE, qty * at / 1000)
        trade = Fill(
            self.traits.venue,
            self.traits.account,
            self.traits.market_type,
            order.symbol,
            order.venue_order_id,
            str(len(self.trades) + 1),
            order.side,
            qty,
            at,
            fee,
            fee_asset,
            round(self.clock.now_s() * 1000),
        )
        self.trades.append(trade)
        for asset, change in ((base, order.side.sign * qty), (QUOTE, -order.side.sign * qty * at), (fee_asset, -fee)):
            self.balances[asset] = self.balances.get(asset, Decimal(0)) + change
        filled = order.filled + qty
        status = VenueStatus.CLOSED if filled >= order.qty else order.status
        self.orders[client_order_id] = replace(order, filled=filled, status=status)
        return trade

    def end(self, client_order_id: str, status: VenueStatus) -> None:
        """End an order as the venue would by itself."""
        self.orders[client_order_id] = replace(self.orders[client_order_id], status=status)

    def place(self, spec: OrderSpec) -> VenueOrder:
        """Put an order into the book, as a create does, or as somebody else does."""
        order = VenueOrder(
            str(1000 + len(self.orders)),
            spec.client_order_id,
            spec.symbol,
            spec.side,
            VenueStatus.OPEN,
            spec.qty,
            Decimal(0),
            spec.limit_price,
            spec.stop_price,
            spec.reduce_only,
            round(self.clock.now_s() * 1000),
            spec.client_order_id,
        )
        self.orders[spec.client_order_id] = order
        if self.on_place is not None:
            self.on_place(spec.client_order_id)
        elif self.fills_at_once:
            self.fill(spec.client_order_id, spec.qty)
        elif spec.tif is TimeInForce.IOC:
            self.end(spec.client_order_id, VenueStatus.EXPIRED)
        return order

    def create_order(self, spec: OrderSpec, sent_at_ms: int, window_ms: int) -> CreateReply:
        """Take an order, answer as scripted; the second create of an id is refused as Binance does."""
        self.creates.append((spec, sent_at_ms, window_ms))
        script = self.create_script.pop(0) if self.create_script else Scripted()
        if spec.client_order_id in self.orders:
            script = refused(-2010, "Duplicate order sent.") if script.body is None else script
        elif script.is_done:
            self.place(spec)
        return self._reply(script, spec.client_order_id, "clientOrderId")

    def cancel_order(self, symbol: str, client_order_id: str, venue_order_id: str | None) -> CreateReply:
        """Cancel an order that is open."""
        self.cancels.append(client_order_id)
        script = self.cancel_script.pop(0) if self.cancel_script else Scripted()
        order = self.orders.get(client_order_id)
        if order is None or order.status is not VenueStatus.OPEN:
            script = refused(-2011, "Unknown order sent.") if script.body is None else script
        elif script.is_done and not self.holds_cancels:
            self.end(client_order_id, VenueStatus.CANCELED)
        return self._reply(script, client_order_id, "origClientOrderId")

    def cancel_all(self, symbol: str) -> CreateReply:
        """Cancel what is open in a symbol."""
        for client_order_id, order in list(self.orders.items()):
            if order.symbol == symbol and order.status is VenueStatus.OPEN:
                self.cancel_order(symbol, client_order_id, order.venue_order_id)
        return CreateReply(RawAnswer(Transport.ANSWERED, 200, b"[]"))

    def _reply(self, script: Scripted, client_order_id: str, echo: str) -> CreateReply:
        body = script.body
        if body is None:
            order = self.orders.get(client_order_id)
            said = {"orderId": order.venue_order_id, "status": _word_for(order)} if order else {}
            body = json.dumps({**said, echo: client_order_id}).encode()
        return CreateReply(RawAnswer(script.transport, script.status, body), script.retry_after_s)

    def _fails(self, name: str) -> bool:
        self.reads.append(name)
        return name in self.failing

    def _shown(self) -> list[VenueOrder]:
        return [order for order in self.orders.values() if order.client_order_id not in self.hidden]

    def fetch_order(self, symbol: str, client_order_id: str, venue_order_id: str | None) -> Found[VenueOrder]:
        """Show one order."""
        if self._fails("fetch_order"):
            return Failed("scripted")
        for order in self._shown():
            wanted = order.client_order_id == client_order_id if venue_order_id is None else order.venue_order_id == venue_order_id
            if wanted and order.symbol == symbol:
                return Ok(order)
        return Absent()

    def fetch_open_orders(self, symbol: str | None = None) -> Read[Sequence[VenueOrder]]:
        """Show what is open."""
        if self._fails("fetch_open_orders"):
            return Failed("scripted")
        return Ok([order for order in self._shown() if order.status is VenueStatus.OPEN and symbol in {None, order.symbol}])

    def fetch_closed_orders(self, symbol: str, since_ms: int) -> Read[Sequence[VenueOrder]]:
        """Show orders since an instant."""
        if self._fails("fetch_closed_orders"):
            return Failed("scripted")
        return Ok([order for order in self._shown() if order.symbol == symbol and order.created_ms >= since_ms])

    def fetch_fills(self, symbol: str, since_ms: int, venue_order_id: str | None = None) -> Read[Sequence[Fill]]:
        """Show trades."""
        if self._fails("fetch_fills"):
            return Failed("scripted")
        hidden = {self.orders[each].venue_order_id for each in self.hidden if each in self.orders}
        return Ok(
            [
                trade
                for trade in self.trades
                if trade.symbol == symbol
                and trade.venue_ts_ms >= since_ms
                and venue_order_id in {None, trade.venue_order_id}
                and trade.venue_order_id not in hidden
            ]
        )

    def fetch_balances(self) -> Read[Mapping[str, Balance]]:
        """Show balances."""
        if self._fails("fetch_balances"):
            return Failed("scripted")
        return Ok({asset: Balance(total, total) for asset, total in self.balances.items() if total})

    def fetch_positions(self) -> Read[Sequence[VenuePosition]]:
        """Show none: this is a spot account."""
        return Failed("scripted") if self._fails("fetch_positions") else Ok([])

    def fetch_quote(self, symbol: str) -> Read[Quote]:
        """Show one tick around the mid."""
        if self._fails("fetch_quote"):
            return Failed("scripted")
        return Ok(Quote(self.mid - Decimal("0.01"), self.mid + Decimal("0.01"), round(self.clock.now_s() * 1000)))

    def fetch_funding(self, symbol: str, since_ms: int) -> Read[Sequence[FundingPayment]]:
        """Show none."""
        return Failed("scripted") if self._fails("fetch_funding") else Ok([])

    def fetch_time_ms(self) -> Read[int]:
        """Show the time."""
        return Failed("scripted") if self._fails("fetch_time_ms") else Ok(round(self.clock.now_s() * 1000))

    def fetch_listings(self) -> Read[Mapping[str, Listing]]:
        """Show none."""
        return Failed("scripted") if self._fails("fetch_listings") else Ok({})

    def fetch_permissions(self) -> Read[frozenset[str]]:
        """Show what a trader's key may do."""
        return Ok(frozenset({"read", "trade"}))


def _word_for(order: VenueOrder) -> str:
    return "PARTIALLY_FILLED" if order.status is VenueStatus.OPEN and order.filled else WORDS[order.status]


@dataclass
class FakeLatch:
    """A latch that holds what a test puts into it."""

    switches: tuple[Switch, ...] = ()

    def read(self) -> tuple[Switch, ...]:
        """Levels."""
        return self.switches

    def change(self, decide: Callable[[tuple[Switch, ...]], Iterable[Switch]]) -> tuple[Switch, ...]:
        """Replace the levels."""
        self.switches = tuple(decide(self.switches))
        return self.switches
