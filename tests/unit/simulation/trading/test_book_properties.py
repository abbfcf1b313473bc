"""Whatever is done to a book, its money adds up: what is held is what was there, the trades, the commissions and the flows."""

from collections import defaultdict
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.simulation.trading import (
    Hand,
    Kind,
    MarketType,
    NewOrder,
    RefusalError,
    Side,
    Status,
    Tif,
    TradingBook,
    Trigger,
    VenueOrder,
)
from regime_pipeline.simulation.trading.accounts import LinearAccount
from tests.unit.simulation.trading.orders import T0

PRICES = st.integers(3000, 5000).map(lambda n: Decimal(n) * 10)
QTYS = st.integers(1, 900).map(lambda n: Decimal(n) / 1000)
FEES = st.sampled_from(["received", "base", "quote", "BNB"])


@st.composite
def orders(draw: st.DrawFn) -> NewOrder:
    kind, side = draw(st.sampled_from(Kind)), draw(st.sampled_from(Side))
    trigger = Trigger(draw(PRICES), draw(st.booleans())) if draw(st.integers(0, 4)) == 0 else None
    return NewOrder(
        "BTCUSDT",
        side,
        kind,
        draw(QTYS),
        f"c{draw(st.integers(0, 9))}",
        draw(PRICES) if kind is Kind.LIMIT else None,
        draw(st.sampled_from(Tif)),
        trigger=trigger,
        is_post_only=trigger is None and kind is Kind.LIMIT and draw(st.integers(0, 4)) == 0,
        is_reduce_only=draw(st.integers(0, 3)) == 0,
    )


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), orders()),
        st.tuples(st.just("price"), PRICES),
        st.tuples(st.just("cancel"), st.integers(0, 9).map("c{}".format)),
        st.tuples(st.just("fill"), st.tuples(st.integers(0, 9).map("c{}".format), QTYS)),
        st.tuples(st.just("deposit"), QTYS),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(
    STEPS,
    st.sampled_from(MarketType),
    FEES,
    st.sampled_from([None, Decimal("0.2")]),
    st.sampled_from([Decimal(10), Decimal(0), Decimal(-2)]),
)
def test_money_adds_up(steps: list, market_type: MarketType, fee_asset: str, liquidity: Decimal | None, bps: Decimal) -> None:
    start = {"USDT": Decimal(100_000), "BTC": Decimal(1), "BNB": Decimal(1)}
    fees = {"fee_asset": fee_asset} if market_type is MarketType.SPOT else {}
    book = TradingBook(market_type, balances=start, liquidity=liquidity, taker_bps=bps, maker_bps=bps, **fees)
    hand = Hand(book, lambda: T0)
    for at, (name, what) in enumerate(steps):
        try:
            _do(book, hand, name, what, T0 + at)
        except RefusalError:
            continue
        for order in book.orders.values():
            assert order.is_open or not order.reserved
        if name == "price" and liquidity is None:
            assert not [order for order in book.list_open() if order.status is not Status.UNTRIGGERED and _is_reached(book, order)]
        reserved = defaultdict(Decimal)
        for order in book.list_open():
            reserved[order.reserve_asset] += order.reserved
        assert {asset: qty for asset, qty in book.account.wallet.locked.items() if qty} == {a: q for a, q in reserved.items() if q}
    assert _expected(book, start) == {asset: book.account.wallet.total(asset) for asset in start}


def _do(book: TradingBook, hand: Hand, name: str, what: object, now_ms: int) -> None:
    if name == "create":
        book.create(what, now_ms)
    elif name == "price":
        book.set_price("BTCUSDT", what, now_ms)
    elif name == "cancel":
        book.cancel("BTCUSDT", now_ms, client_id=what)
    elif name == "deposit":
        hand.deposit("USDT", what)
    elif book.find(client_id=what[0]) is not None:
        hand.fill(*what)


def _is_reached(book: TradingBook, order: VenueOrder) -> bool:
    price = book.prices[order.symbol]
    return order.asked.price >= price if order.side is Side.BUY else order.asked.price <= price


def _expected(book: TradingBook, start: dict[str, Decimal]) -> dict[str, Decimal]:
    """Add up by other means than the book: from its trades and flows alone."""
    expected = defaultdict(Decimal, start)
    size = cash = Decimal(0)
    for trade in book.trades:
        sign = 1 if trade.side is Side.BUY else -1
        size += sign * trade.qty
        cash -= sign * trade.qty * trade.price
        expected[trade.fee_asset] -= trade.fee
    for flow in book.flows:
        expected[flow.asset] += flow.amount
    if isinstance(book.account, LinearAccount):
        held = book.account.position("BTCUSDT")
        assert held.size == size
        # What the position cost is not in the wallet yet.
        expected["USDT"] += cash + held.cost
    else:
        expected["BTC"] += size
        expected["USDT"] += cash
    return dict(expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(Side), QTYS, st.booleans(), PRICES), max_size=30))
def test_reduce_only_orders_never_turn_or_enlarge_a_position(steps: list) -> None:
    book = TradingBook("linear", balances={"USDT": Decimal(10**7)})
    for at, (side, qty, is_reduce_only, price) in enumerate(steps):
        before = _size(book)
        try:
            book.create(NewOrder("BTCUSDT", side, Kind.MARKET, qty, f"c{at}", is_reduce_only=is_reduce_only), T0)
        except RefusalError:
            assert _size(book) == before
        after = _size(book)
        if is_reduce_only:
            assert abs(after) <= abs(before)
            assert after * before >= 0
        book.set_price("BTCUSDT", price, T0)


def _size(book: TradingBook) -> Decimal:
    assert isinstance(book.account, LinearAccount)
    return book.account.position("BTCUSDT").size


def test_a_second_book_of_one_market_type_is_refused() -> None:
    from regime_pipeline.errors import BadInputError
    from regime_pipeline.simulation.trading import TradingFloor

    with pytest.raises(BadInputError, match="given twice"):
        TradingFloor(TradingBook(), TradingBook())
