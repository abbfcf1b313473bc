"""Which streamed candles are bars: evidence, never the clock."""

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.market.candles import Candle, ClosedCandles

M = 60


def candle(minute: int, trades: int, *, is_closed: bool | None = None, symbol: str = "BTC") -> Candle:
    close = 100.0 + trades
    return Candle(symbol, minute * M, 100.0, close, 100.0, close, 10.0 * trades, trades, is_closed)


def closed(*messages: Candle) -> list[Candle]:
    evidence = ClosedCandles()
    return [bar for message in messages if (bar := evidence.take(message)) is not None]


def test_a_venue_that_says_closed_is_believed_and_nothing_else_closes_its_bar() -> None:
    last = candle(2, 9, is_closed=True)
    assert closed(candle(1, 3, is_closed=False), candle(2, 4, is_closed=False), last, candle(3, 1, is_closed=False)) == [last]
    assert closed(candle(1, 3, is_closed=False), candle(2, 4, is_closed=False), candle(3, 1, is_closed=False)) == []


def test_without_a_word_from_the_venue_a_later_candle_closes_the_bar() -> None:
    assert closed(candle(1, 5), candle(2, 1), candle(2, 7)) == []
    assert closed(candle(1, 5), candle(2, 1), candle(2, 7), candle(3, 1)) == [candle(2, 7)]


def test_the_first_bar_of_a_connection_may_have_begun_before_it() -> None:
    assert closed(candle(1, 5), candle(2, 1)) == []
    assert closed(candle(1, 5, is_closed=False), candle(1, 6, is_closed=True)) == []


def test_another_symbol_is_no_evidence() -> None:
    assert closed(candle(1, 5), candle(2, 1), candle(1, 1, symbol="ETH"), candle(3, 1, symbol="ETH")) == []


def test_a_message_made_earlier_never_replaces_a_later_one() -> None:
    assert closed(candle(1, 5), candle(2, 9), candle(2, 4), candle(3, 1)) == [candle(2, 9)]


def test_the_last_word_about_a_closed_bar_is_returned_again_and_repetitions_are_not() -> None:
    messages = (candle(1, 5), candle(2, 4), candle(3, 1), candle(2, 9), candle(2, 9), candle(2, 4))
    assert closed(*messages) == [candle(2, 4), candle(2, 9)]


def test_a_repeated_closing_message_closes_once() -> None:
    last = candle(2, 9, is_closed=True)
    assert closed(candle(1, 3, is_closed=False), last, last, replace(last, is_closed=False)) == [last]


@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=6),
    st.randoms(use_true_random=False),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_no_order_or_repetition_of_messages_yields_a_bar_that_is_not_the_last_word(trades: list[int], random: Random, says: bool) -> None:
    # minute 0 opens the connection, minute n + 1 is there to close minute n
    story = [
        candle(minute, n, is_closed=(n == total) if says else None)
        for minute, total in enumerate([1, *trades, 1])
        for n in range(1, total + 1)
    ]
    told = [message for message in story for _ in range(random.choice([1, 1, 2]))]
    i = random.randrange(len(told) - 1)
    told[i], told[i + 1] = told[i + 1], told[i]
    kept = {bar.ts_s: bar for bar in closed(told[0] if told[0].ts_s == 0 else candle(0, 1), *told)}
    for ts_s, bar in kept.items():
        minute = ts_s // M
        assert minute >= 1
        if minute <= len(trades):
            assert bar.trades == trades[minute - 1]
    if not says:
        assert sorted(kept) == [minute * M for minute in range(1, len(trades) + 1)]
