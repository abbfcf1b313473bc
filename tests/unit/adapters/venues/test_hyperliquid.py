"""Candles become bars in quote volume, all of them or none; mids and markets likewise."""

from typing import Any

import pytest

from regime_pipeline.adapters.venues.answers import TryAgainError
from regime_pipeline.adapters.venues.ccxt_client import CcxtClient
from regime_pipeline.adapters.venues.hyperliquid import HyperliquidFeed, parse_candles, parse_mids, parse_symbols
from regime_pipeline.clock import utc_now
from regime_pipeline.market.timeframe import Timeframe
from tests.unit.adapters.venues.scripted import Reply, serve

T0 = 1_748_779_200  # 2025-06-01T12:00Z
Candle = dict[str, Any]


def candle(at: int = 0, **changed: object) -> Candle:
    ts_ms = (T0 + at * 60) * 1000
    row = {
        "t": ts_ms,
        "T": ts_ms + 59_999,
        "s": "BTC",
        "i": "1m",
        "o": "100.1",
        "c": "101.5",
        "h": "102.0",
        "l": "99.9",
        "v": "2.0",
        "n": 7,
    }
    return {**row, **changed}


def parse(rows: list[Any]) -> Any:
    return parse_candles("hyperliquid", "candleSnapshot", rows, "BTC", Timeframe.M1, T0, T0 + 180)


def test_base_volume_times_the_close_is_the_quote_volume() -> None:
    bars = parse([candle(0), candle(2)])
    assert bars.ts_s.tolist() == [T0, T0 + 120]
    # 2 coins at a close of 101.5
    assert [column.tolist()[0] for column in bars.columns()[1:]] == [100.1, 102.0, 99.9, 101.5, 203.0]


def test_a_candle_repeated_in_every_field_is_dropped_and_none_are_none() -> None:
    assert len(parse([candle(0), candle(0)])) == 1
    assert len(parse([])) == 0


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([candle(0, s="ETH")], "a candle of ETH 1m where BTC 1m"),
        ([candle(0, i="5m")], "a candle of BTC 5m where BTC 1m"),
        ([candle(0, T=(T0 + 300) * 1000 - 1)], "lasts 300 s where 1m"),
        ([candle(0, c=None)], "None where a finite number"),
        ([candle(0, v=None)], "None where a finite number"),
        ([{name: value for name, value in candle(0).items() if name != "h"}], "a row that is no candle"),
        ([None], "a row that is no candle"),
        ([["t", 1]], "a row that is no candle"),
        ([candle(1), candle(0)], "does not follow"),
        ([candle(0), candle(0, c="101.6")], "does not follow"),
        ([candle(3)], "is not one that was asked for"),
        ([candle(0, t=T0 * 1000 + 1, T=T0 * 1000 + 60_000)], "is off the grid"),
    ],
)
def test_one_wrong_candle_refuses_the_whole_answer(rows: list[Any], said: str) -> None:
    with pytest.raises(TryAgainError, match=said):
        parse(rows)


def test_a_page_is_one_candle_snapshot_and_the_venue_keeps_5000_bars() -> None:
    with serve(Reply.of([candle(0)])) as venue:
        feed = HyperliquidFeed(CcxtClient("hyperliquid", "hyperliquid", venue.url, 2.0, utc_now))
        assert len(feed.fetch_page("BTC", Timeframe.M1, T0, T0 + 180)) == 1
        assert feed.first_s(Timeframe.H1, T0 + 59) == T0 - 4999 * 3600
    (asked,) = venue.asked
    assert asked.path == "/hyperliquid/info"
    wanted = {"coin": "BTC", "interval": "1m", "startTime": T0 * 1000, "endTime": (T0 + 180) * 1000 - 1}
    assert asked.body == {"type": "candleSnapshot", "req": wanted}


def test_mids_and_markets_are_asked_for_by_type() -> None:
    meta = {"universe": [{"name": "BTC"}, {"name": "MATIC", "isDelisted": True}]}
    with serve(Reply.of({"BTC": "30135.0", "@1": "2"}), Reply.of(meta)) as venue:
        feed = HyperliquidFeed(CcxtClient("hyperliquid", "hyperliquid", venue.url, 2.0, utc_now))
        assert feed.fetch_mids() == {"BTC": 30135.0, "@1": 2.0}
        assert feed.fetch_symbols() == {"BTC"}
    assert [asked.body for asked in venue.asked] == [{"type": "allMids"}, {"type": "meta"}]


@pytest.mark.parametrize("mids", [{}, {"BTC": None}, {"BTC": "0"}, {"BTC": "-1"}, {"status": "err"}])
def test_mids_that_are_no_prices_are_refused(mids: dict[str, Any]) -> None:
    with pytest.raises(TryAgainError):
        parse_mids("hyperliquid", mids)


@pytest.mark.parametrize("meta", [{}, {"universe": None}, {"universe": [{"symbol": "BTC"}]}, {"universe": ["BTC"]}])
def test_a_meta_without_markets_is_refused(meta: dict[str, Any]) -> None:
    with pytest.raises(TryAgainError):
        parse_symbols("hyperliquid", meta)
