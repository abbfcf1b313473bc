"""What every broker must keep to, whatever is behind it; `test_broker_contract.py` says which ones are asked.

A rig is a broker with money, a symbol that trades near a price, and a way to let time and trade pass.
"""

import json
from collections.abc import Sequence
from decimal import Decimal
from hashlib import sha256
from itertools import count
from typing import Any, Protocol

from regime_pipeline.execution.answers import AnswerClass, AnswerVerdict, classify_answer
from regime_pipeline.execution.fills import Fill
from regime_pipeline.execution.keys import spell_client_id
from regime_pipeline.execution.order_states import VenueStatus
from regime_pipeline.portfolio.money import floor_to
from regime_pipeline.ports import Absent, Broker, CreateReply, Ok, OrderSpec, OrderType, TimeInForce, VenueOrder
from regime_pipeline.risk.purpose import Side

WINDOW_MS = 5000
_IDS = count()


class Rig(Protocol):
    """A broker, and the world around it."""

    broker: Broker
    symbol: str
    price: Decimal

    @property
    def now_ms(self) -> int:
        """The venue's time."""
        ...

    def let_trade(self) -> None:
        """Let what can trade at `price` do so, and cancels take effect."""
        ...


class BrokerContract:
    """The contract, as tests that take a fixture `rig`."""

    def test_an_accepted_order_has_an_id_and_echoes_ours(self, rig: Rig) -> None:
        spec = resting(rig)
        verdict = send(rig, spec)
        assert verdict.answer_class is AnswerClass.ACCEPTED
        assert verdict.venue_order_id
        order = read(rig, spec)
        assert (order.client_order_id, order.venue_order_id) == (spec.client_order_id, verdict.venue_order_id)
        assert (order.symbol, order.side, order.qty, order.limit_price) == (rig.symbol, Side.BUY, spec.qty, spec.limit_price)
        assert (order.status, order.filled) == (VenueStatus.OPEN, 0)

    def test_an_order_is_found_by_either_id(self, rig: Rig) -> None:
        spec = resting(rig)
        venue_id = send(rig, spec).venue_order_id
        by_venue_id = rig.broker.fetch_order(rig.symbol, spec.client_order_id, venue_id)
        assert isinstance(by_venue_id, Ok)
        assert by_venue_id.value.client_order_id == spec.client_order_id

    def test_what_never_was_is_absent(self, rig: Rig) -> None:
        assert isinstance(rig.broker.fetch_order(rig.symbol, an_id(), None), Absent)

    def test_an_id_is_taken_once(self, rig: Rig) -> None:
        spec = resting(rig)
        assert send(rig, spec).answer_class is AnswerClass.ACCEPTED
        assert send(rig, spec).answer_class is AnswerClass.DUPLICATE
        assert sum(order.client_order_id == spec.client_order_id for order in open_orders(rig)) == 1

    def test_a_request_older_than_its_window_is_refused_and_leaves_nothing(self, rig: Rig) -> None:
        spec = resting(rig)
        reply = rig.broker.create_order(spec, rig.now_ms - WINDOW_MS - 1500, WINDOW_MS)
        assert judge(rig, spec, reply).answer_class is AnswerClass.CLOCK
        assert isinstance(rig.broker.fetch_order(rig.symbol, spec.client_order_id, None), Absent)

    def test_more_than_there_is_is_refused(self, rig: Rig) -> None:
        spec = resting(rig, worth=Decimal(10**9))
        verdict = send(rig, spec)
        assert (verdict.answer_class, isinstance(rig.broker.fetch_order(rig.symbol, spec.client_order_id, None), Absent)) == (
            AnswerClass.REFUSED,
            True,
        )

    def test_what_is_off_the_grid_is_refused(self, rig: Rig) -> None:
        rules = listing(rig).rules
        usual = resting(rig)
        for changes in ({"qty": usual.qty + rules.step / 10}, {"limit_price": (usual.limit_price or Decimal(0)) + rules.tick / 10}):
            spec = resting(rig, **changes)
            assert send(rig, spec).answer_class is AnswerClass.REFUSED
            assert isinstance(rig.broker.fetch_order(rig.symbol, spec.client_order_id, None), Absent)

    def test_open_orders_are_listed_alone_and_by_symbol(self, rig: Rig) -> None:
        spec = resting(rig)
        send(rig, spec)
        for symbol in (None, rig.symbol):
            found = [order for order in open_orders(rig, symbol) if order.client_order_id == spec.client_order_id]
            assert [order.status for order in found] == [VenueStatus.OPEN]

    def test_a_cancel_is_done_when_a_read_says_so(self, rig: Rig) -> None:
        spec = resting(rig)
        venue_id = send(rig, spec).venue_order_id
        reply = rig.broker.cancel_order(rig.symbol, spec.client_order_id, venue_id)
        assert reply.answer.status == 200
        rig.let_trade()
        assert read(rig, spec).status is VenueStatus.CANCELED
        assert spec.client_order_id not in {order.client_order_id for order in open_orders(rig)}

    def test_a_cancel_of_what_is_not_open_proves_nothing(self, rig: Rig) -> None:
        unknown = an_id()
        reply = rig.broker.cancel_order(rig.symbol, unknown, None)
        assert judge_cancel(rig, unknown, reply) is not AnswerClass.ACCEPTED

    def test_cancel_all_ends_everything_of_a_symbol(self, rig: Rig) -> None:
        specs = [resting(rig), resting(rig)]
        for spec in specs:
            send(rig, spec)
        rig.broker.cancel_all(rig.symbol)
        rig.let_trade()
        assert open_orders(rig, rig.symbol) == []
        assert {read(rig, spec).status for spec in specs} == {VenueStatus.CANCELED}

    def test_a_marketable_order_fills_within_its_limit_and_its_trades_add_up(self, rig: Rig) -> None:
        spec = marketable(rig)
        venue_id = send(rig, spec).venue_order_id
        rig.let_trade()
        order = read(rig, spec)
        assert (order.status, order.filled) == (VenueStatus.CLOSED, spec.qty)
        fills = fills_of(rig, venue_id)
        assert sum(fill.qty for fill in fills) == spec.qty
        assert all(fill.price <= (spec.limit_price or fill.price) and fill.side is Side.BUY for fill in fills)
        assert {fill.venue_order_id for fill in fills} == {venue_id}
        assert len({fill.key(rig.broker.traits.fill_key_rule) for fill in fills}) == len(fills)
        assert not any(fill.is_provisional for fill in fills)

    def test_balances_move_by_what_was_traded(self, rig: Rig) -> None:
        before = totals(rig)
        spec = marketable(rig)
        venue_id = send(rig, spec).venue_order_id
        rig.let_trade()
        fills, after = fills_of(rig, venue_id), totals(rig)
        quote, base = rig.broker.traits.quote, rig.symbol.partition("/")[0]
        if rig.broker.traits.market_type == "spot":
            spent = sum(fill.qty * fill.price for fill in fills)
            assert before[quote] - after[quote] == spent + fees(fills, quote)
            assert after.get(base, 0) - before.get(base, 0) == spec.qty - fees(fills, base)
        else:
            positions = rig.broker.fetch_positions()
            assert isinstance(positions, Ok)
            assert rig.symbol in {position.symbol for position in positions.value}

    def test_ioc_never_rests(self, rig: Rig) -> None:
        spec = resting(rig, tif=TimeInForce.IOC)
        send(rig, spec)
        rig.let_trade()
        order = read(rig, spec)
        assert order.filled == 0
        assert order.status in (VenueStatus.EXPIRED, VenueStatus.CANCELED)

    def test_closed_orders_are_listed_since_an_instant(self, rig: Rig) -> None:
        began_ms = rig.now_ms - 60_000
        spec = marketable(rig)
        send(rig, spec)
        rig.let_trade()
        found = rig.broker.fetch_closed_orders(rig.symbol, began_ms)
        assert isinstance(found, Ok)
        assert spec.client_order_id in {order.client_order_id for order in found.value}

    def test_the_clock_and_the_quote_are_those_of_the_venue(self, rig: Rig) -> None:
        told, quote = rig.broker.fetch_time_ms(), rig.broker.fetch_quote(rig.symbol)
        assert isinstance(told, Ok)
        assert isinstance(quote, Ok)
        assert abs(told.value - rig.now_ms) < 1000
        assert 0 < quote.value.bid <= quote.value.ask
        assert abs(quote.value.mid / rig.price - 1) < Decimal("0.02")

    def test_nothing_may_be_withdrawn(self, rig: Rig) -> None:
        told = rig.broker.fetch_permissions()
        assert isinstance(told, Ok)
        assert not told.value & {"withdraw", "transfer"}

    def test_positions_and_funding_can_be_read(self, rig: Rig) -> None:
        assert isinstance(rig.broker.fetch_positions(), Ok)
        assert isinstance(rig.broker.fetch_funding(rig.symbol, rig.now_ms - 3_600_000), Ok)


def an_id() -> str:
    """Make an id that no other test has used."""
    return sha256(f"contract {next(_IDS)}".encode()).hexdigest()[:32]


def listing(rig: Rig) -> Any:
    """Rules of the rig's symbol."""
    told = rig.broker.fetch_listings()
    assert isinstance(told, Ok)
    return told.value[rig.symbol]


def on_grid(rig: Rig, factor: str, worth: Decimal) -> tuple[Decimal, Decimal]:
    """Price a factor away from the market, and the quantity that is worth so much of it."""
    rules = listing(rig).rules
    price = floor_to(rig.price * Decimal(factor), rules.tick)
    return price, floor_to(worth / price, rules.step)


def resting(rig: Rig, worth: Decimal = Decimal(500), **changes: Any) -> OrderSpec:
    """Bid 5 % below the market."""
    price, qty = on_grid(rig, "0.95", worth)
    fields: dict[str, Any] = {"qty": qty, "limit_price": price, **changes}
    return OrderSpec(an_id(), rig.symbol, Side.BUY, OrderType.LIMIT, **fields)


def marketable(rig: Rig) -> OrderSpec:
    """Bid 0.5 % above the market."""
    price, qty = on_grid(rig, "1.005", Decimal(500))
    return OrderSpec(an_id(), rig.symbol, Side.BUY, OrderType.LIMIT, qty, price)


def send(rig: Rig, spec: OrderSpec) -> AnswerVerdict:
    """Send an order now; what its answer proves."""
    return judge(rig, spec, rig.broker.create_order(spec, rig.now_ms, WINDOW_MS))


def judge(rig: Rig, spec: OrderSpec, reply: CreateReply) -> AnswerVerdict:
    """What an answer proves."""
    profile = rig.broker.traits.profile
    return classify_answer(profile, reply.answer, spell_client_id(spec.client_order_id, profile.client_id_form))


def judge_cancel(rig: Rig, client_order_id: str, reply: CreateReply) -> AnswerClass:
    """Class of the answer to a cancel, read as if it were one to a create with the cancel's own id."""
    try:
        echo = str(json.loads(reply.answer.body).get("clientOrderId", client_order_id))
    except (ValueError, AttributeError):
        echo = client_order_id
    return classify_answer(rig.broker.traits.profile, reply.answer, echo).answer_class


def read(rig: Rig, spec: OrderSpec) -> VenueOrder:
    """The order as the venue shows it."""
    found = rig.broker.fetch_order(rig.symbol, spec.client_order_id, None)
    assert isinstance(found, Ok), found
    return found.value


def open_orders(rig: Rig, symbol: str | None = None) -> list[VenueOrder]:
    """Open orders."""
    found = rig.broker.fetch_open_orders(symbol)
    assert isinstance(found, Ok), found
    return list(found.value)


def fills_of(rig: Rig, venue_order_id: str | None) -> Sequence[Fill]:
    """Trades of an order."""
    found = rig.broker.fetch_fills(rig.symbol, rig.now_ms - 3_600_000, venue_order_id)
    assert isinstance(found, Ok), found
    return found.value


def fees(fills: Sequence[Fill], asset: str) -> Decimal:
    """Fees of fills in an asset."""
    return sum((fill.fee_amount for fill in fills if fill.fee_asset == asset and fill.fee_amount is not None), Decimal(0))


def totals(rig: Rig) -> dict[str, Decimal]:
    """What the account owns."""
    found = rig.broker.fetch_balances()
    assert isinstance(found, Ok), found
    return {asset: balance.total for asset, balance in found.value.items()}
