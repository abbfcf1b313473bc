"""What the server answers over a socket: windows, limits, refusals, and the bar that is still open."""

import json
from typing import Any

import numpy as np
import pytest
import requests

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.settings import load_settings
from regime_pipeline.simulation.server import Served
from tests.builders import T0
from tests.simulated import NOON, info, klines, simulated

HTTP = load_settings().shared / "http"
MINUTE = 60
LAST = NOON - 30  # opens at 12:01:00, the bar of this moment


@pytest.fixture(scope="module")
def served() -> Any:
    with simulated() as venue:
        yield venue


def opens(rows: list[list[Any]]) -> list[int]:
    return [row[0] // 1000 for row in rows]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"limit": 3}, [LAST - 120, LAST - 60, LAST]),
        ({"startTime": 1000 * (LAST - 60)}, [LAST - 60, LAST]),
        ({"startTime": 1000 * (LAST - 60) - 59_999, "limit": 1}, [LAST - 60]),
        ({"startTime": 1000 * (LAST - 60) + 1}, [LAST]),
        ({"startTime": 1000 * (LAST - 600), "limit": 2}, [LAST - 600, LAST - 540]),
        ({"startTime": 1000 * (LAST - 120), "endTime": 1000 * (LAST - 60)}, [LAST - 120, LAST - 60]),
        ({"startTime": 1000 * (LAST - 120), "endTime": 1000 * (LAST - 60) - 1}, [LAST - 120]),
        ({"endTime": 1000 * (LAST - 60), "limit": 2}, [LAST - 120, LAST - 60]),
        ({"startTime": 1000 * (LAST + 60)}, []),
    ],
)
def test_a_window_of_klines_is_cut_by_open_times(served: Served, params: dict[str, int], expected: list[int]) -> None:
    assert opens(klines(served, **params)) == expected


def test_an_answer_holds_at_most_what_the_market_allows(served: Served) -> None:
    assert len(klines(served, path="binance/api/v3", limit=5000)) == 1000
    assert len(klines(served, limit=1500)) == 1500
    assert klines(served, limit=1501)["code"] == -1130
    assert len(klines(served)) == 500
    start_s = served.truth.source.time_range("binance_um", "BTCUSDT", Timeframe.D1).first_s  # type: ignore[union-attr]
    assert opens(klines(served, interval="1d", startTime=0, limit=2)) == [start_s, start_s + 86_400]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("symbol=NOPE&interval=1m", -1121),
        ("symbol=BTCUSDT&interval=7m", -1120),
        ("interval=1m", -1102),
        ("symbol=BTCUSDT&interval=1m&limit=x", -1100),
    ],
)
def test_a_bad_question_gets_binances_code(served: Served, query: str, code: int) -> None:
    answer = requests.get(f"{served.url}/binance/api/v3/klines?{query}", timeout=5)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


@pytest.mark.realdata
@pytest.mark.skipif(not HTTP.is_dir(), reason="needs the recorded answers: REGIME_SHARED or ../shared")
def test_an_unknown_symbol_is_refused_in_the_recorded_words(served: Served) -> None:
    recorded = json.loads((HTTP / "binance_error_400_invalid_symbol.json").read_text(encoding="utf-8"))
    assert klines(served, "NOPE") == recorded


def test_closed_bars_are_the_sources_and_the_last_one_is_still_open(served: Served) -> None:
    truth = served.truth.source.fetch_bars("binance_um", "BTCUSDT", Timeframe.M1, LAST - 600, LAST + 60)
    rows = klines(served, startTime=1000 * (LAST - 600))
    for at, column in ((1, truth.open), (2, truth.high), (3, truth.low), (4, truth.close), (7, truth.volume)):
        assert [float(row[at]) for row in rows[:-1]] == column[:-1].tolist()
    last = [float(field) for field in rows[-1][1:5]]
    # Half of the minute has passed: half of the way from the open to the close, and half of the volume.
    assert last[3] == pytest.approx((truth.open[-1] + truth.close[-1]) / 2)
    assert float(rows[-1][7]) == pytest.approx(truth.volume[-1] / 2)
    assert truth.low[-1] <= last[2] <= min(last[0], last[3]) <= max(last[0], last[3]) <= last[1] <= truth.high[-1]


@pytest.mark.parametrize("interval", ["5m", "15m", "1h", "4h", "1d"])
def test_the_open_bar_of_a_longer_timeframe_is_made_of_its_minutes(served: Served, interval: str) -> None:
    timeframe = Timeframe(interval)
    row = klines(served, interval=interval, limit=1)[0]
    minutes = [[float(field) for field in each[1:8]] for each in klines(served, startTime=row[0], limit=1500)]
    columns = np.array(minutes).T
    assert row[0] == 1000 * timeframe.floor(NOON)
    assert [float(field) for field in row[1:5]] == [columns[0][0], columns[1].max(), columns[2].min(), columns[3][-1]]
    assert float(row[7]) == pytest.approx(columns[6].sum())


def test_a_client_that_goes_by_closed_bars_ends_with_the_truth(served: Served) -> None:
    for venue, symbol, timeframe in (("binance_um", "ETHUSDT", Timeframe.M1), ("binance_spot", "BTCUSDT", Timeframe.H1)):
        path = "binance-um/fapi/v1" if venue == "binance_um" else "binance/api/v3"
        truth = served.truth.bars(venue, symbol, timeframe, T0, timeframe.floor(NOON))
        rows = klines(served, symbol, timeframe.value, path, startTime=1000 * T0, endTime=1000 * timeframe.floor(NOON) - 1, limit=1000)
        assert [float(row[7]) for row in rows] == truth.volume.tolist()
        assert [float(row[4]) for row in rows] == truth.close.tolist()


def test_hyperliquid_volume_comes_back_as_base_times_close(served: Served) -> None:
    request = {"coin": "SOL", "interval": "1m", "startTime": 1000 * T0, "endTime": 1000 * LAST - 1}
    rows = info(served, type="candleSnapshot", req=request).json()
    truth = served.truth.bars("hyperliquid", "SOL", Timeframe.M1, T0, LAST)
    source = served.truth.source.fetch_bars("hyperliquid", "SOL", Timeframe.M1, T0, LAST)
    assert [row["t"] // 1000 for row in rows] == truth.ts_s.tolist()
    assert [float(row["v"]) * float(row["c"]) for row in rows] == truth.volume.tolist()
    np.testing.assert_allclose(truth.volume, source.volume, rtol=1e-15)


def test_candles_that_reach_into_the_window_belong_to_it(served: Served) -> None:
    request = {"coin": "BTC", "interval": "1h", "startTime": 1000 * (T0 + 5000), "endTime": 1000 * (T0 + 12_000)}
    rows = info(served, type="candleSnapshot", req=request).json()
    assert [row["t"] // 1000 for row in rows] == [T0 + 3600, T0 + 7200, T0 + 10_800]


def test_hyperliquid_keeps_five_thousand_candles(served: Served) -> None:
    rows = info(served, type="candleSnapshot", req={"coin": "BTC", "interval": "1m", "startTime": 0, "endTime": 1000 * NOON}).json()
    assert len(rows) == 5000
    assert rows[-1]["t"] == 1000 * LAST


def test_hyperliquid_refuses_what_it_cannot_read(served: Served) -> None:
    for answer in (info(served, type="nonsense"), info(served, type="candleSnapshot", req={"coin": "BTC"}), info(served)):
        assert (answer.status_code, answer.text) == (422, "Failed to deserialize the JSON body into the target type")
    assert requests.post(f"{served.url}/hyperliquid/info", data=b"{", timeout=5).status_code == 422
    unknown = info(served, type="candleSnapshot", req={"coin": "NOPE", "interval": "1m", "startTime": 0, "endTime": 1})
    assert (unknown.status_code, unknown.text) == (500, "null")


def test_mids_meta_and_contexts_speak_of_the_same_coins(served: Served) -> None:
    mids = info(served, type="allMids").json()
    names = [each["name"] for each in info(served, type="meta").json()["universe"]]
    meta, contexts = info(served, type="metaAndAssetCtxs").json()
    assert list(mids) == names == [each["name"] for each in meta["universe"]] == ["BTC", "ETH", "SOL", "BNB", "HYPE"]
    assert [context["midPx"] for context in contexts] == list(mids.values())
    assert float(mids["BTC"]) == pytest.approx(served.truth.price(served.truth.listings("hyperliquid")["BTC"], NOON))  # type: ignore[index]


def test_every_symbol_of_the_universe_is_listed_where_it_trades(served: Served) -> None:
    spot = requests.get(f"{served.url}/binance/api/v3/exchangeInfo", timeout=5).json()["symbols"]
    perpetual = requests.get(f"{served.url}/binance-um/fapi/v1/exchangeInfo", timeout=5).json()["symbols"]
    assert {each["symbol"] for each in spot} == {"BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT"}
    assert {each["contractType"] for each in perpetual} == {"PERPETUAL"}
    assert ("AAVE", "USDT", "USDT") in {(each["baseAsset"], each["quoteAsset"], each["marginAsset"]) for each in perpetual}


def test_the_venue_tells_its_own_time_and_weight(served: Served) -> None:
    answer = requests.get(f"{served.url}/binance/api/v3/time", timeout=5)
    assert answer.json() == {"serverTime": 1000 * NOON}
    assert answer.headers["Date"] == "Wed, 01 Jan 2025 12:01:30 GMT"
    before = int(answer.headers["x-mbx-used-weight-1m"])
    after = requests.get(f"{served.url}/binance/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=1", timeout=5).headers
    assert int(after["x-mbx-used-weight-1m"]) == before + 2
    assert requests.get(f"{served.url}/binance/api/v3/nothing", timeout=5).status_code == 404


def test_the_control_pages_show_the_truth_and_move_the_clock() -> None:
    with simulated() as served:
        query = f"venue=binance_um&symbol=BTCUSDT&timeframe=1m&start_s={T0}&end_s={T0 + 120}"
        bars = requests.get(f"{served.url}/sim/truth?{query}", timeout=5).json()
        assert bars["close"] == served.truth.bars("binance_um", "BTCUSDT", Timeframe.M1, T0, T0 + 120).close.tolist()
        assert requests.post(f"{served.url}/sim/clock", json={"advance_s": 60, "speed": 0}, timeout=5).json()["now_s"] == NOON + 60
        klines(served, limit=1)
        status = requests.get(f"{served.url}/sim/status", timeout=5).json()
        assert (status["clock"]["now_s"], status["requests"]) == (NOON + 60, {"binance-um/klines": 1})
