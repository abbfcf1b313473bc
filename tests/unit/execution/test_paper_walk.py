"""Walking paper orders through bars: cut anywhere it fills the same, and it never fills what a venue would not (I16, I17)."""

from dataclasses import replace
from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from regime_pipeline.execution.paper import PaperBar
from regime_pipeline.execution.paper_walk import BarView, PaperStatus, WalkBar, WalkedOrder, WalkFill, walk_bars, walk_book
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Side

D = Decimal
RULES = InstrumentRules("AAVE/USDT", D("0.01"), D("0.001"))
MINUTE, HOUR = 60_000, 3_600_000
EFFECTIVE = 10 * HOUR + 12_345


def an_order(side: Side = Side.BUY, limit: str | None = "100.3", **changes: object) -> WalkedOrder:
    price = None if limit is None else D(limit)
    return replace(WalkedOrder(side, D(5), price, None, False, EFFECTIVE, EFFECTIVE), **changes)  # type: ignore[arg-type]


def a_bar(minute: int, open_: str = "100", low: str | None = None, high: str | None = None, volume: str = "1000") -> WalkBar:
    bar = PaperBar(D(open_), D(high or open_) + (0 if high else 1), D(low or open_) - (0 if low else 1), D(volume))
    return WalkBar(10 * HOUR + minute * MINUTE, bar)


def walk(order: WalkedOrder, *bars: WalkBar, until_minute: int, length_ms: int = MINUTE) -> tuple[WalkedOrder, tuple[WalkFill, ...]]:
    now_ms = 10 * HOUR + until_minute * MINUTE
    known = [bar for bar in bars if bar.open_ms + length_ms <= now_ms]
    view = BarView(length_ms, known, known[-1].open_ms + length_ms if known else 0)
    return walk_bars(order, view, now_ms, RULES, is_major=False)


bars_of_an_hour = st.lists(
    st.tuples(st.integers(9700, 10300), st.integers(0, 300), st.integers(0, 300), st.integers(0, 60), st.booleans()),
    min_size=1,
    max_size=25,
)
orders = st.builds(
    lambda side, limit, stop, ioc, cancel, rests: an_order(
        side,
        None if limit is None else str(D(limit) / 100),
        stop_price=None if stop is None else D(stop) / 100,
        is_ioc=ioc and stop is None,
        cancel_ms=None if cancel is None else EFFECTIVE + cancel,
        rests=rests and limit is not None and stop is None and not ioc,
    ),
    st.sampled_from(Side),
    st.none() | st.integers(9800, 10200),
    st.none() | st.integers(9800, 10200),
    st.booleans(),
    st.none() | st.integers(0, 20 * MINUTE),
    st.booleans(),
)


def make_bars(drawn: list[tuple[int, int, int, int, bool]]) -> list[WalkBar]:
    bars = []
    for minute, (open_, up, down, volume, is_there) in enumerate(drawn):
        if is_there:
            bar = PaperBar(D(open_) / 100, D(open_ + up) / 100, D(open_ - down) / 100, D(volume))
            bars.append(WalkBar(10 * HOUR + minute * MINUTE, bar))
    return bars


NO_BAR = [(9700, 0, 0, 0, False)]


@given(order=orders, drawn=bars_of_an_hour, cuts=st.sets(st.integers(0, 60)))
@example(
    order=an_order(limit=None, cancel_ms=EFFECTIVE + 47_656), drawn=NO_BAR, cuts={11}
)  # the cancel came first, and is read a moment early
@example(order=an_order(limit=None, cancel_ms=EFFECTIVE + 15 * MINUTE), drawn=NO_BAR, cuts={12})  # it gave up first
def test_reading_often_or_once_fills_the_same(order: WalkedOrder, drawn: list[tuple[int, int, int, int, bool]], cuts: set[int]) -> None:
    bars = make_bars(drawn)
    once, whole = walk(order, *bars, until_minute=61)
    seen, parts = order, ()
    for minute in (*sorted(cuts), 61):
        if seen.status is PaperStatus.OPEN:
            seen, more = walk(seen, *bars, until_minute=minute)
            parts = (*parts, *more)
    assert parts == whole
    assert (seen.rest, seen.status, seen.ended_ms) == (once.rest, once.status, once.ended_ms)


@given(order=orders, drawn=bars_of_an_hour)
def test_fills_lie_within_bar_limit_quantity_and_life(order: WalkedOrder, drawn: list[tuple[int, int, int, int, bool]]) -> None:
    bars = make_bars(drawn)
    after, fills = walk(order, *bars, until_minute=61)
    assert sum(each.fill.qty for each in fills) == order.rest - after.rest <= order.rest
    by_minute = {bar.open_ms: bar.bar for bar in bars}
    for each in fills:
        bar = by_minute[each.ts_ms // MINUTE * MINUTE]
        if each.is_maker:  # at the limit, through which the bar has traded; where it jumped over it, that is worse for us than its range
            assert each.fill.price == order.limit_price
            assert bar.low < each.fill.price if order.side is Side.BUY else bar.high > each.fill.price
        else:
            assert bar.low <= each.fill.price <= bar.high
        assert each.fill.qty <= bar.volume / 10
        assert order.accepts(each.fill.price)
        assert order.effective_ms <= each.ts_ms
        assert order.cancel_ms is None or each.ts_ms < order.cancel_ms
    if order.is_ioc:
        assert len(fills) <= 1


def test_a_stop_is_no_order_until_it_is_hit() -> None:
    order = an_order(Side.SELL, None, stop_price=D(98))
    walked, fills = walk(order, a_bar(1, low="98.01"), until_minute=30)
    assert (walked.status, fills, walked.is_triggered) == (PaperStatus.OPEN, (), False)
    walked, (fill,) = walk(walked, a_bar(30, "99", low="97"), until_minute=32)
    assert (walked.status, fill.is_maker) == (PaperStatus.CLOSED, False)
    assert fill.fill.price < 98


def test_minutes_without_trades_are_no_gap() -> None:
    order = an_order(rests=True, limit="99", cancel_ms=EFFECTIVE + 3 * MINUTE)
    # the bar of minute 5 says that minutes 1 to 4 had no trades
    walked, _ = walk(order, a_bar(5), until_minute=6)
    assert (walked.status, walked.ended_ms) == (PaperStatus.CANCELED, order.cancel_ms)


def test_a_cancel_waits_for_the_bar_that_it_lies_in_unless_nothing_can_fill() -> None:
    order = an_order(cancel_ms=EFFECTIVE + MINUTE)
    assert walk(order, until_minute=2)[0].status is PaperStatus.OPEN
    walked, fills = walk(order, a_bar(1), until_minute=2)
    assert (walked.status, len(fills)) == (PaperStatus.CLOSED, 1)
    early = replace(order, cancel_ms=EFFECTIVE + 1000)
    assert walk(early, until_minute=1)[0].status is PaperStatus.CANCELED
    resting = replace(order, rests=True)
    assert walk(resting, until_minute=2)[0].status is PaperStatus.CANCELED


def test_ten_minutes_without_a_bar() -> None:
    order = an_order()
    assert walk(order, until_minute=10)[0].status is PaperStatus.OPEN
    walked, fills = walk(order, a_bar(30), until_minute=40)
    assert (walked.status, walked.ended_ms, fills) == (PaperStatus.CANCELED, EFFECTIVE + 10 * MINUTE, ())
    hourly = walk(order, until_minute=110, length_ms=HOUR)[0]
    assert hourly.status is PaperStatus.OPEN
    assert walk(order, until_minute=131, length_ms=HOUR)[0].status is PaperStatus.CANCELED


def test_a_book_beyond_the_limit_is_not_traded() -> None:
    levels = [(D("100.2"), D(1)), (D("100.3"), D(9))]
    walked, fills = walk_book(an_order(), levels, EFFECTIVE + 1000, RULES)
    # 100.3 and 1 bps is beyond 100.3
    assert [each.fill.qty for each in fills] == [1]
    assert (walked.rests, walked.rest, walked.status) == (True, 4, PaperStatus.OPEN)
    late, none = walk_book(an_order(cancel_ms=EFFECTIVE + 500), levels, EFFECTIVE + 1000, RULES)
    assert (late.status, none) == (PaperStatus.CANCELED, ())
    ioc, _ = walk_book(an_order(is_ioc=True), levels, EFFECTIVE + 1000, RULES)
    assert ioc.status is PaperStatus.EXPIRED
