"""The oracle venue in the words of the broker port; the only place where the judge meets the product's types."""

from collections.abc import Callable, Mapping, Sequence
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
    VenueOrder,
    VenuePosition,
)
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Side
from tests.oracle import Order, Trade, Venue

SYMBOLS = ("AAA/USDT", "BBB/USDT")
STEP = Decimal("0.001")
WIRES = {"timeout": Transport.TIMED_OUT, "broken": Transport.BROKEN, "no_connection": Transport.NOT_CONNECTED}


class OracleBroker:
    """One account at the oracle venue."""

    def __init__(self, venue: Venue, account: str, now_ms: Callable[[], int]) -> None:
        self.venue, self.now_ms = venue, now_ms
        self.traits = BrokerTraits("oracle", account, Mode.PAPER, "spot", "USDT", PAPER)

    def create_order(self, spec: OrderSpec, sent_at_ms: int, window_ms: int) -> CreateReply:
        said = self.venue.create(
            spec.client_order_id,
            spec.symbol,
            spec.side.value,
            spec.qty,
            spec.limit_price,
            spec.tif.value,
            sent_at_ms,
            window_ms,
            self.now_ms(),
        )
        if isinstance(said, str):
            return CreateReply(RawAnswer(WIRES[said]))
        return CreateReply(RawAnswer(Transport.ANSWERED, *said))

    def cancel_order(self, symbol: str, client_order_id: str, venue_order_id: str | None) -> CreateReply:
        self.venue.cancel(client_order_id)
        return CreateReply(RawAnswer(Transport.ANSWERED, 200, b"{}"))

    def cancel_all(self, symbol: str) -> CreateReply:
        for order in self.venue.orders.values():
            if order.symbol == symbol:
                self.venue.cancel(order.client_id)
        return CreateReply(RawAnswer(Transport.ANSWERED, 200, b"{}"))

    def fetch_order(self, symbol: str, client_order_id: str, venue_order_id: str | None) -> Found[VenueOrder]:
        if (failed := self._fails()) is not None:
            return failed
        order = self.venue.find(client_order_id, self.now_ms())
        return Absent() if order is None else Ok(_show(order))

    def fetch_open_orders(self, symbol: str | None = None) -> Read[Sequence[VenueOrder]]:
        return self._fails() or Ok([_show(each) for each in self._seen() if each.status == "open" and symbol in {None, each.symbol}])

    def fetch_closed_orders(self, symbol: str, since_ms: int) -> Read[Sequence[VenueOrder]]:
        return self._fails() or Ok([_show(each) for each in self._seen() if each.symbol == symbol and each.created_ms >= since_ms])

    def fetch_fills(self, symbol: str, since_ms: int, venue_order_id: str | None = None) -> Read[Sequence[Fill]]:
        if (failed := self._fails()) is not None:
            return failed
        trades = [
            trade
            for trade in self.venue.trades
            if trade.symbol == symbol and trade.ms >= since_ms and venue_order_id in {None, str(trade.order_id)}
        ]
        return Ok([self.report(trade) for trade in trades])

    def fetch_balances(self) -> Read[Mapping[str, Balance]]:
        return self._fails() or Ok({asset: Balance(total, total) for asset, total in self.venue.holdings().items() if total})

    def fetch_positions(self) -> Read[Sequence[VenuePosition]]:
        return self._fails() or Ok([])

    def fetch_quote(self, symbol: str) -> Read[Quote]:
        return Ok(Quote(Decimal("99.99"), Decimal("100.01"), self.now_ms()))

    def fetch_funding(self, symbol: str, since_ms: int) -> Read[Sequence[FundingPayment]]:
        return Ok([])

    def fetch_time_ms(self) -> Read[int]:
        return Ok(self.now_ms())

    def fetch_listings(self) -> Read[Mapping[str, Listing]]:
        bps = Decimal(10)
        return Ok(
            {
                symbol: Listing(InstrumentRules(symbol, Decimal("0.01"), STEP, STEP, None, Decimal(5)), symbol[:3], "USDT", bps, bps)
                for symbol in SYMBOLS
            }
        )

    def fetch_permissions(self) -> Read[frozenset[str]]:
        return Ok(frozenset({"read", "trade"}))

    def report(self, trade: Trade) -> Fill:
        """A trade as the venue reports it."""
        traits = self.traits
        return Fill(
            traits.venue,
            traits.account,
            traits.market_type,
            trade.symbol,
            str(trade.order_id),
            str(trade.id),
            Side(trade.side),
            trade.qty,
            trade.price,
            trade.fee,
            trade.fee_asset,
            trade.ms,
        )

    def _seen(self) -> list[Order]:
        return self.venue.seen(self.now_ms())

    def _fails(self) -> Failed | None:
        if self.venue.reads and self.venue.reads.popleft() == "failed":
            return Failed("scripted")
        return None


def _show(order: Order) -> VenueOrder:
    return VenueOrder(
        str(order.id),
        order.client_id,
        order.symbol,
        Side(order.side),
        VenueStatus(order.status),
        order.qty,
        order.filled,
        order.price,
        None,
        False,
        order.created_ms,
        order.client_id,
    )
