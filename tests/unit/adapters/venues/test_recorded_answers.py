"""Every recorded body of the venues is parsed or refused as its index says; docs/venues.md lists the verdicts."""

import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from regime_pipeline.adapters.venues.answers import StayAwayError, TryAgainError
from regime_pipeline.adapters.venues.binance import BinanceFeed
from regime_pipeline.adapters.venues.ccxt_bars import CcxtFeed
from regime_pipeline.adapters.venues.ccxt_client import CcxtClient
from regime_pipeline.adapters.venues.coingecko import CoinGecko
from regime_pipeline.adapters.venues.hyperliquid import HyperliquidFeed, parse_mids
from regime_pipeline.adapters.venues.stream import _DIALECTS
from regime_pipeline.errors import SourceError, SourceUnavailableError
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from tests.unit.adapters.venues.scripted import Asked, Reply, serve
from tests.unit.adapters.venues.test_ccxt_bars import ASSETS, PAIR

FOLDER: Final = Path(os.environ.get("REGIME_SHARED", "../shared")) / "http"
PAGE: Final = Path(__file__).parents[4] / "docs" / "venues.md"
NOW: Final = datetime(2026, 6, 1, tzinfo=UTC)
PARSED, AGAIN, REFUSED = "parsed", "refused, asked again", "refused for good"
HALTED, NOT_OURS = "refused, venue halted", "not a feed of ours"

Entry = dict[str, Any]
Check = Callable[[Entry], None]

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no recorded answers: set REGIME_SHARED to the folder that holds http/"),
]


def text_of(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def reply_of(entry: Entry) -> Reply:
    return Reply(text_of(entry["file"]), entry["status"], {"Content-Type": "application/json"})


def client(exchange: str, url: str) -> CcxtClient:
    built = CcxtClient(exchange, exchange, url, 2.0, lambda: NOW)
    built.exchange.rateLimit = 1
    return built


def gecko(url: str) -> CoinGecko:
    return CoinGecko(plan="pro", key=None, venue_url=url, timeout_s=2.0, clock=lambda: NOW, spend=lambda: None)


def klines(reply: Reply, symbol: str = "BTCUSDT", timeframe: Timeframe = Timeframe.H1, first_s: int = 0, n: int = 1000) -> RawBars:
    with serve(reply) as venue:
        return BinanceFeed(client("binance", venue.url)).fetch_page(symbol, timeframe, first_s, first_s + n * timeframe.seconds)


def parses_klines(n: int, entry: Entry) -> None:
    symbol, timeframe = re.findall(r"symbol=(\w+)&interval=(\w+)", entry["endpoint"])[0]
    rows = json.loads(text_of(entry["file"]))
    step = Timeframe(timeframe).seconds
    asked_for = (rows[-1][0] - rows[0][0]) // 1000 // step + 1
    bars = klines(reply_of(entry), symbol, Timeframe(timeframe), rows[0][0] // 1000, asked_for)
    assert len(bars) == len(rows) == n
    assert bars.ts_s.tolist() == [row[0] // 1000 for row in rows]
    for column, field in zip((bars.open, bars.high, bars.low, bars.close, bars.volume), (1, 2, 3, 4, 7), strict=True):
        assert column.tolist() == [float(row[field]) for row in rows]


def candles(reply: Reply, start_s: int = 1_684_699_200, n: int = 24) -> RawBars:
    with serve(reply) as venue:
        feed = HyperliquidFeed(client("hyperliquid", venue.url))
        return feed.fetch_page("kPEPE", Timeframe.H1, start_s, start_s + n * 3600)


def parses_candles(entry: Entry) -> None:
    rows = json.loads(text_of(entry["file"]))
    bars = candles(reply_of(entry))
    assert len(bars) == len(rows) == 24
    assert bars.volume.tolist() == [float(row["v"]) * float(row["c"]) for row in rows]


def parses_mids(entry: Entry) -> None:
    with serve(reply_of(entry)) as venue:
        assert HyperliquidFeed(client("hyperliquid", venue.url)).fetch_mids()["BTC"] == 30135.0


def parses_markets_list(entry: Entry) -> None:
    with serve(reply_of(entry)) as venue:
        symbols = HyperliquidFeed(client("hyperliquid", venue.url)).fetch_symbols()
    assert symbols == {each["name"] for each in json.loads(text_of(entry["file"]))["universe"]}


def parses_stream(exchange: str, seen: list[bool | None], entry: Entry) -> None:
    messages = [json.loads(line) for line in text_of(entry["file"]).splitlines()]
    read = [_DIALECTS[exchange].read(message) for message in messages]
    assert [candle.is_closed for candle in read if candle is not None] == seen


def parses_streamed_mids(entry: Entry) -> None:
    assert parse_mids("hyperliquid", json.loads(text_of(entry["file"]))["data"]["mids"])["BTC"] == 80868.5


def parses_global(btc: float, usdt: float, entry: Entry) -> None:
    with serve(reply_of(entry)) as vendor:
        samples, _ = gecko(vendor.url).fetch_dominance()
    assert (samples["BTC.d"].percent, samples["USDT.d"].percent) == (btc, usdt)
    assert samples["BTC.d"].updated_at_s == json.loads(text_of(entry["file"]))["data"]["updated_at"]


def parses_caps(cap_usd: float, entry: Entry) -> None:
    with serve(reply_of(entry)) as vendor:
        assert gecko(vendor.url).fetch_caps(["bitcoin"])["bitcoin"].cap_usd == cap_usd


def parses_chart(entry: Entry) -> None:
    with serve(reply_of(entry)) as vendor:
        stamps_ms, caps_usd = gecko(vendor.url).fetch_coin_caps("bitcoin", 1)
    points = [list(point) for point in zip(stamps_ms.tolist(), caps_usd.tolist(), strict=True)]
    assert points == json.loads(text_of(entry["file"]))["market_caps"]


def kraken(reply: Reply) -> RawBars:
    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("/AssetPairs"):
            return Reply.of({"error": [], "result": {"XBTUSDT": PAIR}})
        return Reply.of({"error": [], "result": ASSETS}) if asked.path.endswith("/Assets") else reply

    with serve(answer) as venue:
        return CcxtFeed(client("kraken", venue.url)).fetch_page("XBTUSDT", Timeframe.M1, 1_762_777_020, 1_762_777_020 + 120 * 60)


def parses_kraken(entry: Entry) -> None:
    rows = json.loads(text_of(entry["file"]))["result"]["XBTUSDT"]
    bars = kraken(reply_of(entry))
    assert bars.close.tolist() == [float(row[4]) for row in rows]
    assert bars.volume.tolist() == [float(row[6]) * float(row[4]) for row in rows]


def as_klines(reply: Reply) -> object:
    return klines(reply)


def as_candles(reply: Reply) -> object:
    return candles(reply)


def as_global(reply: Reply) -> object:
    with serve(reply) as vendor:
        return gecko(vendor.url).fetch_dominance()


def as_caps(reply: Reply) -> object:
    with serve(reply) as vendor:
        return gecko(vendor.url).fetch_caps(["bitcoin"])


def as_meta(reply: Reply) -> object:
    with serve(reply) as venue:
        return HyperliquidFeed(client("hyperliquid", venue.url)).fetch_symbols()


def as_kraken(reply: Reply) -> object:
    return kraken(reply)


def is_refused(ask: Callable[[Reply], object], error: type[SourceError], entry: Entry) -> None:
    """Served with its own status to the client that would have asked, it gives an error of this kind and no bar."""
    status = entry["status"] if isinstance(entry["status"], int) else 200
    with pytest.raises(error) as caught:
        ask(Reply(text_of(entry["file"]), status, {"Content-Type": "application/json"}))
    assert isinstance(caught.value, SourceUnavailableError) == (error is TryAgainError)


def halts(halt_s: float | None, entry: Entry) -> None:
    headers = {"Retry-After": json.loads(text_of("binance_error_418_klines.headers.json"))["Retry-After"]} if halt_s == 112 else {}
    with pytest.raises(StayAwayError) as caught:
        klines(Reply(text_of(entry["file"]), entry["status"], headers))
    assert caught.value.halt_s == halt_s


def serves_klines_with_headers(entry: Entry) -> None:
    headers = {name: value for name, value in json.loads(text_of(entry["file"])).items() if name.lower() not in {"connection", "date"}}
    bars = klines(Reply(text_of("binance_klines_BTCUSDT_1m.json"), 200, headers), "BTCUSDT", Timeframe.M1, 1_634_943_780, 10)
    assert len(bars) == 10


def again(ask: Callable[[Reply], object]) -> Check:
    return partial(is_refused, ask, TryAgainError)


def for_good(ask: Callable[[Reply], object]) -> Check:
    return partial(is_refused, ask, SourceError)


STREAMED = [None] * 6
CASES: Final[dict[str, tuple[str, str, Check]]] = {
    "binance_klines_BTCUSDT_1h.json": (PARSED, "klines, 500 bars", partial(parses_klines, 500)),
    "binance_klines_BTCUSDT_1d.json": (PARSED, "klines, 500 bars", partial(parses_klines, 500)),
    "binance_klines_ETHUSDT_1h.json": (PARSED, "klines, 500 bars", partial(parses_klines, 500)),
    "binance_klines_ETHUSDT_1d.json": (PARSED, "klines, 500 bars", partial(parses_klines, 500)),
    "binance_klines_SOLUSDT_1h.json": (PARSED, "klines, 500 bars", partial(parses_klines, 500)),
    "binance_klines_SOLUSDT_1d.json": (PARSED, "klines, 500 bars", partial(parses_klines, 500)),
    "binance_klines_BNBUSDT_1h.json": (PARSED, "klines, 500 bars", partial(parses_klines, 500)),
    "binance_klines_BNBUSDT_1d.json": (PARSED, "klines, 500 bars", partial(parses_klines, 500)),
    "binance_klines_BTCUSDT_15m.json": (PARSED, "klines", partial(parses_klines, 672)),
    "binance_klines_BTCUSDT_1h_outage_2023-03-24.json": (
        PARSED,
        "klines, 47 bars: 13:00 is a gap, the bar that the halt cut short is kept",
        partial(parses_klines, 47),
    ),
    "binance_klines_BTCUSDT_1m.json": (PARSED, "klines, 10 bars", partial(parses_klines, 10)),
    "binance_klines_200.headers.json": (PARSED, "headers around klines", serves_klines_with_headers),
    "binance_ws_kline_open.json": (PARSED, "stream: an open bar", partial(parses_stream, "binanceusdm", [False])),
    "binance_ws_kline_closed.json": (PARSED, "stream: a closed bar", partial(parses_stream, "binanceusdm", [True])),
    "binance_error_418_klines.json": (HALTED, "klines; for the 112 s of Retry-After", partial(halts, 112.0)),
    "binance_error_418_klines.headers.json": (HALTED, "headers of the 418: its Retry-After", partial(halts, 112.0)),
    "binance_error_403_cloudfront.html": (HALTED, "klines; for an hour", partial(halts, 3600.0)),
    "binance_error_451_restricted.json": (HALTED, "klines; until a person resumes it", partial(halts, None)),
    "binance_error_429.json": (AGAIN, "klines; no other question for 60 s", again(as_klines)),
    "binance_error_503_cloudfront.html": (AGAIN, "klines", again(as_klines)),
    "binance_error_503_internal.json": (AGAIN, "klines", again(as_klines)),
    "nginx_error_502.html": (AGAIN, "klines", again(as_klines)),
    "binance_error_400_invalid_symbol.json": (REFUSED, "klines: correct the symbol", for_good(as_klines)),
    "hyperliquid_info_candleSnapshot_kPEPE_1h.json": (PARSED, "candleSnapshot, 24 bars", parses_candles),
    "hyperliquid_info_allMids.json": (PARSED, "allMids", parses_mids),
    "hyperliquid_info_meta.json": (PARSED, "meta", parses_markets_list),
    "hyperliquid_ws_allMids.json": (PARSED, "stream: the mids in its envelope", parses_streamed_mids),
    "hyperliquid_ws_candle_AAVE_1m.jsonl": (PARSED, "stream: six messages", partial(parses_stream, "hyperliquid", STREAMED)),
    "hyperliquid_ws_candle_BTC_intervals.jsonl": (
        PARSED,
        "stream: the three 1m messages; those of other timeframes are passed over",
        partial(parses_stream, "hyperliquid", [None] * 3),
    ),
    "hyperliquid_error_422_body.txt": (REFUSED, "candleSnapshot: our request was wrong", for_good(as_candles)),
    "hyperliquid_error_429_body.txt": (AGAIN, "candleSnapshot; no other question for 60 s", again(as_candles)),
    "hyperliquid_info_l2Book.json": (NOT_OURS, "refused as candleSnapshot", again(as_candles)),
    "hyperliquid_info_fundingHistory.json": (NOT_OURS, "refused as candleSnapshot", again(as_candles)),
    "hyperliquid_info_metaAndAssetCtxs.json": (NOT_OURS, "refused as meta", again(as_meta)),
    "hyperliquid_ws_candle_AAVE_1m.recv_ns.txt": (NOT_OURS, "times beside a capture; refused as candleSnapshot", again(as_candles)),
    "coingecko_global.json": (PARSED, "/global", partial(parses_global, 58.58960312785831, 5.065437078614042)),
    "coingecko_global_2021-08-23_trimmed.json": (PARSED, "/global", partial(parses_global, 42.34683123691343, 2.9176856437116854)),
    "coingecko_global_2026_example.json": (PARSED, "/global", partial(parses_global, 57.9539332566265, 7.223241338072757)),
    "coingecko_coins_markets_example.json": (PARSED, "/coins/markets", partial(parses_caps, 1555886872303.0)),
    "coingecko_coins_markets_2018.json": (PARSED, "/coins/markets; too old to move a bucket", partial(parses_caps, 120934444800.105)),
    "coingecko_coin_market_chart_example.json": (PARSED, "/coins/{id}/market_chart", parses_chart),
    "coingecko_error_429.json": (AGAIN, "/global; no other question for 60 s", again(as_global)),
    "coingecko_coin_ohlc_example.json": (NOT_OURS, "refused as /coins/markets", again(as_caps)),
    "coingecko_simple_price_example.json": (NOT_OURS, "refused as /global", again(as_global)),
    "geckoterminal_error_400_aggregate.json": (NOT_OURS, "refused as /global, for good", for_good(as_global)),
    "geckoterminal_ohlcv_example.json": (NOT_OURS, "refused as /global", again(as_global)),
    "geckoterminal_ohlcv_minute_UMIA_trimmed.json": (NOT_OURS, "refused as /global", again(as_global)),
    "geckoterminal_new_pools_example.json": (NOT_OURS, "refused as /global", again(as_global)),
    "geckoterminal_pool_example.json": (NOT_OURS, "refused as /global", again(as_global)),
    "geckoterminal_token_pools_example.json": (NOT_OURS, "refused as /global", again(as_global)),
    "geckoterminal_tokens_multi_example.json": (NOT_OURS, "refused as /global", again(as_global)),
    "dexscreener_token_pairs.json": (NOT_OURS, "refused as /global", again(as_global)),
    "kraken_public_OHLC_XBTUSDT_1m.json": (PARSED, "fetch_ohlcv of ccxt's kraken, 120 bars", parses_kraken),
    "kraken_error_rate_limit.json": (AGAIN, "fetch_ohlcv of ccxt's kraken: an error with status 200", again(as_kraken)),
    "kraken_public_SystemStatus.json": (NOT_OURS, "refused as klines", again(as_klines)),
    "kraken_private_TradesHistory.json": (NOT_OURS, "refused as klines", again(as_klines)),
    "kraken_private_ledgers_example.json": (NOT_OURS, "refused as klines", again(as_klines)),
}


def index() -> list[Entry]:
    """Entries of the index; none where there are no recordings, so that collecting the tests needs none."""
    path = FOLDER / "INDEX.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def test_every_recorded_file_has_a_verdict() -> None:
    recorded = {path.name for path in FOLDER.iterdir()} - {"INDEX.json"}
    assert {entry["file"] for entry in index()} == recorded == set(CASES)


@pytest.mark.parametrize("entry", index(), ids=lambda entry: entry["file"])
def test_a_recorded_answer_is_parsed_or_refused(entry: Entry) -> None:
    verdict, _, check = CASES[entry["file"]]
    assert verdict != PARSED or entry["status"] in {200, "ws"}
    check(entry)


def row_of(entry: Entry) -> str:
    """Spell an entry as a row of the table."""
    verdict, told, _ = CASES[entry["file"]]
    endpoint = entry["endpoint"].replace("|", "\\|")
    return f"| `{entry['file']}` | {endpoint or 'none'} | {entry['status'] or 'none'} | {verdict} | {told} |"


def test_the_page_lists_every_recorded_answer() -> None:
    listed = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    expected = [row_of(entry) for entry in index()]
    assert [row for row in listed if row.split("`")[1] in CASES] == expected, "the table must be:\n" + "\n".join(expected)
