"""Kline rows become bars in quote volume, all of them or none."""

from collections.abc import Callable
from typing import Any

import pytest

from regime_pipeline.adapters.venues.answers import TryAgainError
from regime_pipeline.adapters.venues.binance import PERPETUAL_FIRST_S, SPOT_FIRST_S, BinanceFeed, parse_klines
from regime_pipeline.adapters.venues.ccxt_client import CcxtClient
from regime_pipeline.clock import utc_now
from regime_pipeline.errors import SourceError, SourceUnavailableError
from regime_pipeline.market.timeframe import Timeframe
from tests.unit.adapters.venues.scripted import Reply, serve

T0 = 1_748_779_200  # 2025-06-01T12:00Z
Row = list[Any]


def kline(at: int = 0, timeframe: Timeframe = Timeframe.M1, close: str = "101.5") -> Row:
    """Row of the `at`-th bar after T0: 2 base units, 203.25 of quote volume."""
    ts_ms = (T0 + at * timeframe.seconds) * 1000
    end_ms = ts_ms + timeframe.seconds * 1000 - 1
    return [ts_ms, "100.1", "102.0", "99.9", close, "2.0", end_ms, "203.25", 7, "1.0", "101.0", "0"]


def parse(rows: list[Row], n_bars: int = 3, timeframe: Timeframe = Timeframe.M1) -> Any:
    return parse_klines("binance_um", "klines of BTCUSDT", rows, timeframe, T0, T0 + n_bars * timeframe.seconds, n_bars)


def test_a_row_becomes_a_bar_with_the_quote_volume_of_field_7() -> None:
    bars = parse([kline(0), kline(2)])
    assert bars.ts_s.tolist() == [T0, T0 + 120]
    assert [column.tolist()[0] for column in bars.columns()[1:]] == [100.1, 102.0, 99.9, 101.5, 203.25]


def test_no_rows_are_no_bars() -> None:
    assert len(parse([])) == 0


def test_a_row_repeated_in_every_field_is_dropped() -> None:
    assert parse([kline(0), kline(0), kline(1)]).ts_s.tolist() == [T0, T0 + 60]


def test_a_bar_cut_short_by_a_halt_of_trading_is_kept() -> None:
    row = kline(0, Timeframe.H1)
    row[6] = row[0] + 2_381_646  # as on 2023-03-24: the hour ended at 12:39:41.646
    assert len(parse([row, kline(1, Timeframe.H1)], timeframe=Timeframe.H1)) == 2


def replaced(field: int, value: object) -> Callable[[], list[Row]]:
    def build() -> list[Row]:
        rows = [kline(0), kline(1), kline(2)]
        rows[1][field] = value
        return rows

    return build


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (replaced(1, None), "None where a finite number belongs"),
        (replaced(4, "NaN"), "'NaN' where a finite number"),
        (replaced(7, None), "None where a finite number"),
        (replaced(7, ""), "'' where a finite number"),
        (replaced(0, str(T0 * 1000)), "where a time in milliseconds"),
        (replaced(6, None), "where a time in milliseconds"),
        (lambda: [kline(0), kline(1)[:7]], "a row that was not 12 fields"),
        (lambda: [kline(0), {"t": 1}], "a row that was not 12 fields"),
        (lambda: [kline(0), None], "a row that was not 12 fields"),
        (lambda: [kline(1), kline(0)], "does not follow the one before it"),
        (lambda: [kline(0), kline(0, close="101.6")], "does not follow the one before it"),
        (lambda: [kline(0), kline(1), kline(0)], "does not follow the one before it"),
        (lambda: [kline(-1)], "is not one that was asked for"),
        (lambda: [kline(3)], "is not one that was asked for"),
        (lambda: [kline(0), kline(1), kline(2), kline(3)], "had 4 rows where at most 3"),
        (lambda: [kline(0, Timeframe.M5)], "lasts 300 s where 1m was asked for"),
        (lambda: [kline(0, Timeframe.H1)], "lasts 3600 s where 1m was asked for"),
    ],
)
def test_one_wrong_row_refuses_the_whole_answer(build: Callable[[], list[Row]], said: str) -> None:
    with pytest.raises(TryAgainError, match=said):
        parse(build())


def test_a_shorter_interval_than_the_one_asked_for_is_no_halt() -> None:
    with pytest.raises(TryAgainError, match="lasts 300 s where 1h was asked for"):
        parse([kline(0, Timeframe.M5)], timeframe=Timeframe.H1)


def test_a_shifted_grid_is_refused() -> None:
    row = kline(0)
    row[0] += 14_789  # binance-public-data, issue 14
    row[6] += 14_789
    with pytest.raises(TryAgainError, match="is off the grid"):
        parse([row])


@pytest.mark.parametrize(
    ("exchange", "path", "first_s"),
    [("binance", "/binance/api/v3/klines", SPOT_FIRST_S), ("binanceusdm", "/binance-um/fapi/v1/klines", PERPETUAL_FIRST_S)],
)
def test_a_page_is_one_request_for_the_oldest_bars_of_the_window(exchange: str, path: str, first_s: int) -> None:
    with serve(Reply.of([kline(0), kline(1)])) as venue:
        feed = BinanceFeed(CcxtClient("binance_um", exchange, venue.url, 2.0, utc_now))
        assert len(feed.fetch_page("BTCUSDT", Timeframe.M1, T0, T0 + 3_000_000)) == 2
        assert feed.first_s(Timeframe.M1, T0) == first_s
    (asked,) = venue.asked
    assert asked.path == path
    window = {"startTime": f"{T0}000", "endTime": f"{T0 + 3_000_000 - 1}999"}
    assert asked.params == {"symbol": "BTCUSDT", "interval": "1m", "limit": "1000", **window}


def test_a_symbol_that_the_venue_does_not_list_is_not_asked_for_again() -> None:
    with serve(Reply.of({"code": -1121, "msg": "Invalid symbol."}, 400)) as venue:
        feed = BinanceFeed(CcxtClient("binance_um", "binanceusdm", venue.url, 2.0, utc_now))
        with pytest.raises(SourceError, match="Invalid symbol") as caught:
            feed.fetch_page("NOPE", Timeframe.M1, T0, T0 + 60)
    assert not isinstance(caught.value, SourceUnavailableError)
