"""Any other venue through ccxt's unified interface: Kraken's own endpoints, spoken by the real client."""

from typing import Any

import pytest

from regime_pipeline.adapters.venues.answers import TryAgainError
from regime_pipeline.adapters.venues.ccxt_bars import FIRST_S, CcxtFeed, parse_ohlcv
from regime_pipeline.adapters.venues.ccxt_client import CcxtClient
from regime_pipeline.clock import utc_now
from regime_pipeline.errors import SourceError, SourceUnavailableError
from regime_pipeline.market.timeframe import Timeframe
from tests.unit.adapters.venues.scripted import Asked, Reply, serve

T0 = 1_748_779_200  # 2025-06-01T12:00Z
PAIR = {
    "altname": "XBTUSDT",
    "wsname": "XBT/USDT",
    "aclass_base": "currency",
    "base": "XXBT",
    "aclass_quote": "currency",
    "quote": "USDT",
    "lot": "unit",
    "pair_decimals": 1,
    "cost_decimals": 5,
    "lot_decimals": 8,
    "lot_multiplier": 1,
    "leverage_buy": [],
    "leverage_sell": [],
    "fees": [[0, 0.25]],
    "fees_maker": [[0, 0.16]],
    "ordermin": "0.00005",
    "costmin": "0.5",
    "tick_size": "0.1",
    "status": "online",
}
ASSETS = {name: {"aclass": "currency", "altname": name, "decimals": 10, "display_decimals": 5} for name in ("XXBT", "USDT")}


def kraken(ohlc: Any) -> Any:
    """Answer as Kraken does: every answer is a result beside a list of errors."""

    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("/AssetPairs"):
            return Reply.of({"error": [], "result": {"XBTUSDT": PAIR}})
        if asked.path.endswith("/Assets"):
            return Reply.of({"error": [], "result": ASSETS})
        return ohlc if isinstance(ohlc, Reply) else Reply.of({"error": [], "result": {"XBTUSDT": ohlc, "last": 0}})

    return answer


def row(at: int, close: str = "101.5") -> list[Any]:
    return [T0 + 60 * at, "100.1", "102.0", "99.9", close, "101.0", "2.0", 7]


def feed_of(url: str) -> CcxtFeed:
    client = CcxtClient("kraken", "kraken", url, 2.0, utc_now)
    client.exchange.rateLimit = 1  # Kraken wants a second between requests
    return CcxtFeed(client)


def fetch(url: str, symbol: str = "XBTUSDT", timeframe: Timeframe = Timeframe.M1) -> Any:
    return feed_of(url).fetch_page(symbol, timeframe, T0, T0 + 3 * timeframe.seconds)


@pytest.mark.parametrize("symbol", ["XBTUSDT", "BTC/USDT"])
def test_bars_of_the_window_in_quote_volume(symbol: str) -> None:
    with serve(kraken([row(-1), row(0), row(1), row(2), row(3)])) as venue:
        bars = fetch(venue.url, symbol)
    assert bars.ts_s.tolist() == [T0, T0 + 60, T0 + 120]
    assert [column.tolist()[0] for column in bars.columns()[1:]] == [100.1, 102.0, 99.9, 101.5, 203.0]
    assert feed_of(venue.url).first_s(Timeframe.M1, T0) == FIRST_S


def test_markets_are_loaded_once() -> None:
    with serve(kraken([row(0)])) as venue:
        feed = feed_of(venue.url)
        for _ in range(2):
            feed.fetch_page("XBTUSDT", Timeframe.M1, T0, T0 + 60)
    assert sum(asked.path.endswith("/AssetPairs") for asked in venue.asked) == 1


@pytest.mark.parametrize(
    ("ohlc", "said"),
    [
        ([row(1), row(1, "101.6")], "does not follow"),
        ([[T0 + 1, *row(0)[1:]]], "is off the grid"),
        ([row(0, "")], "None where a finite number"),
        (Reply("<html>"), "was not JSON"),
        (Reply("null"), "held nothing"),
        (Reply("{}"), "held nothing"),
        (Reply('{"error":[],"result":{"XBTUSDT":[[1748779200,'), "was not JSON"),
        (Reply('{"error":["EAPI:Rate limit exceeded"]}'), "refused by ccxt"),
        (Reply("", 502), "answered 502"),
        (Reply(is_reset=True), "ConnectionError"),
    ],
)
def test_a_wrong_answer_is_refused_as_a_whole(ohlc: Any, said: str) -> None:
    with serve(kraken(ohlc)) as venue, pytest.raises(TryAgainError, match=said):
        fetch(venue.url)


def test_an_unknown_symbol_is_not_asked_for_again() -> None:
    with serve(kraken([])) as venue, pytest.raises(SourceError, match="Correct the symbol") as caught:
        fetch(venue.url, "NOPE")
    assert not isinstance(caught.value, SourceUnavailableError)


def test_a_row_that_ccxt_cannot_read_is_a_missing_bar() -> None:
    with serve(kraken([row(0), None, row(2)])) as venue:
        assert fetch(venue.url).ts_s.tolist() == [T0, T0 + 120]


def test_no_bars_are_no_bars() -> None:
    with serve(kraken([])) as venue:
        assert len(fetch(venue.url)) == 0


def test_a_contract_of_another_size_has_no_defined_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(kraken([row(0)])) as venue:
        feed = feed_of(venue.url)
        feed._client.exchange.load_markets()
        feed._client.exchange.markets["BTC/USDT"] |= {"contract": True, "contractSize": 0.01}
        with pytest.raises(SourceError, match="is not one unit"):
            feed.fetch_page("BTC/USDT", Timeframe.M1, T0, T0 + 60)


def test_a_timeframe_that_the_venue_lacks_has_no_bars() -> None:
    with serve(kraken([row(0)])) as venue:
        feed = feed_of(venue.url)
        del feed._client.exchange.timeframes["1m"]
        assert len(feed.fetch_page("XBTUSDT", Timeframe.M1, T0, T0 + 60)) == 0


@pytest.mark.parametrize("rows", [[None], [[T0 * 1000, 1, 1, 1]], [["x", 1, 1, 1, 1, 1]], [[T0 * 1000, 1, 1, 1, None, 1]]])
def test_rows_that_are_not_six_numbers_are_refused(rows: list[Any]) -> None:
    with pytest.raises(TryAgainError):
        parse_ohlcv("kraken", "fetch_ohlcv", rows, Timeframe.M1, T0, T0 + 60)
