"""CoinGecko over a real socket: shares, caps, charts, the key, and one call of the budget per request."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from regime_pipeline.adapters.venues.answers import StayAwayError, TryAgainError
from regime_pipeline.adapters.venues.coingecko import CoinGecko, build_dominance_bars, parse_chart, parse_global, parse_markets
from regime_pipeline.errors import BudgetExhaustedError, ConfigError, SourceError, SourceUnavailableError
from regime_pipeline.market.buckets import CapObservation
from regime_pipeline.market.dominance import DominanceSample
from regime_pipeline.market.timeframe import Timeframe
from tests.unit.adapters.venues.scripted import Reply, serve

T0 = 1_748_779_200  # 2025-06-01T12:00Z
DAY_MS = 86_400_000
TOTAL_USD = 2_830_792_311_397.4883


def whole(**changed: Any) -> dict[str, Any]:
    data = {
        "total_market_cap": {"usd": TOTAL_USD},
        "market_cap_percentage": {"btc": 58.59, "eth": 8.11, "usdt": 5.07},
        "updated_at": T0 - 90,
    }
    return {"data": {**data, **changed}}


def coin(name: str = "aave", **changed: Any) -> dict[str, Any]:
    return {"id": name, "symbol": name[:4], "market_cap": 3.8e9, "last_updated": "2025-06-01T11:58:30.123Z", **changed}


class Calls:
    """Counts, and refuses beyond a limit."""

    def __init__(self, limit: int = 100) -> None:
        self.n, self.limit = 0, limit

    def spend(self) -> None:
        if self.n == self.limit:
            raise BudgetExhaustedError("spent")
        self.n += 1


def client(url: str | None, calls: Calls | None = None, plan: str = "keyless", key: str | None = None) -> CoinGecko:
    spend = (calls or Calls()).spend
    return CoinGecko(plan=plan, key=key, venue_url=url, timeout_s=2.0, clock=lambda: datetime.fromtimestamp(T0, UTC), spend=spend)


def test_one_question_serves_both_dominances() -> None:
    calls = Calls()
    with serve(Reply.of(whole())) as vendor:
        samples, total_usd = client(vendor.url, calls).fetch_dominance()
    assert samples == {"BTC.d": DominanceSample(T0, T0 - 90, 58.59), "USDT.d": DominanceSample(T0, T0 - 90, 5.07)}
    assert total_usd == TOTAL_USD
    assert [asked.path for asked in vendor.asked] == ["/coingecko/api/v3/global"]
    assert calls.n == 1


def test_an_answer_without_usdt_still_holds_bitcoin() -> None:
    samples, _ = parse_global(whole(market_cap_percentage={"btc": 58.59}), T0)
    assert set(samples) == {"BTC.d"}


@pytest.mark.parametrize(
    "changed",
    [
        {"market_cap_percentage": {"usdt": 5.0}},
        {"market_cap_percentage": {"btc": None, "usdt": 5.0}},
        {"market_cap_percentage": {"btc": 58.0, "usdt": None}},
        {"market_cap_percentage": {"btc": 0.0}},
        {"market_cap_percentage": {"btc": 100.0}},
        {"market_cap_percentage": {"btc": 5859.0}},
        {"market_cap_percentage": None},
        {"total_market_cap": {}},
        {"total_market_cap": {"usd": None}},
        {"total_market_cap": {"usd": 0}},
        {"updated_at": None},
        {"updated_at": "yesterday"},
        {"updated_at": T0 + 61},
    ],
)
def test_shares_that_are_missing_null_or_impossible_refuse_the_whole_answer(changed: dict[str, Any]) -> None:
    with pytest.raises(TryAgainError, match="coingecko: the answer to /global"):
        parse_global(whole(**changed), T0)


def test_a_vendor_clock_a_little_ahead_is_not_the_future() -> None:
    samples, _ = parse_global(whole(updated_at=T0 + 30), T0)
    assert samples["BTC.d"] == DominanceSample(T0, T0, 58.59)


def test_caps_are_known_now_and_as_old_as_the_vendor_says() -> None:
    calls = Calls()
    with serve(Reply.of([coin("uniswap", market_cap=4.1e9), coin()])) as vendor:
        caps = client(vendor.url, calls).fetch_caps(["aave", "uniswap", "gone"])
    assert caps == {"uniswap": CapObservation(T0, T0 - 90, 4.1e9), "aave": CapObservation(T0, T0 - 90, 3.8e9)}
    assert vendor.asked[0].params["ids"] == "aave,uniswap,gone"
    assert (vendor.asked[0].params["vs_currency"], vendor.asked[0].params["per_page"]) == ("usd", "250")
    assert calls.n == 1


def test_a_coin_without_a_cap_or_a_time_is_left_out() -> None:
    assert parse_markets([coin(market_cap=None), coin("stellar", last_updated=None)], ["aave", "stellar"], T0) == {}


@pytest.mark.parametrize(
    "rows",
    [
        [coin("dogecoin")],
        [coin(), coin()],
        [coin(market_cap=-1)],
        [coin(market_cap="much")],
        [coin(last_updated="now")],
        [coin(last_updated="2025-06-01T12:05:00Z")],
        [{"id": "aave"}],
        [None],
    ],
)
def test_a_row_that_cannot_be_refuses_all_caps(rows: list[Any]) -> None:
    with pytest.raises(TryAgainError, match="coingecko: the answer to /coins/markets"):
        parse_markets(rows, ["aave"], T0)


@pytest.mark.parametrize(("plan", "header"), [("demo", "x-cg-demo-api-key"), ("pro", "x-cg-pro-api-key")])
def test_a_plan_needs_its_key_and_a_simulated_vendor_never_sees_it(plan: str, header: str) -> None:
    with pytest.raises(ConfigError, match="REGIME_COINGECKO_KEY"):
        client(None, plan=plan)
    assert client(None, plan=plan, key="secret")._session.headers[header] == "secret"
    with serve(Reply.of(whole())) as vendor:
        client(vendor.url, plan=plan, key="secret").fetch_dominance()
    assert "secret" not in str(vendor.asked)


def test_hosts_are_those_of_the_plan() -> None:
    assert client(None)._base == "https://api.coingecko.com/api/v3"
    assert client(None, plan="pro", key="secret")._base == "https://pro-api.coingecko.com/api/v3"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply.of({"status": {"error_code": 429}}, 429), TryAgainError),
        (Reply("<html>", 200), TryAgainError),
        (Reply("[]", 200), TryAgainError),
        (Reply('{"data": {"total', cut=8), TryAgainError),
        (Reply(is_reset=True), TryAgainError),
        (Reply("<html>", 403), StayAwayError),
        (Reply.of({"status": {"error_code": 10002}}, 401), SourceError),
    ],
)
def test_failures_are_told_apart_and_each_costs_one_call(reply: Reply, error: type[SourceError]) -> None:
    calls = Calls()
    with serve(reply) as vendor, pytest.raises(error) as caught:
        client(vendor.url, calls).fetch_dominance()
    assert isinstance(caught.value, SourceUnavailableError) == (error is TryAgainError)
    assert calls.n == 1


def test_without_calls_left_nothing_is_asked() -> None:
    with serve(Reply.of(whole())) as vendor, pytest.raises(BudgetExhaustedError):
        client(vendor.url, Calls(0)).fetch_dominance()
    assert not vendor.asked


def test_charts_are_days_beyond_one_day() -> None:
    total = {"market_cap_chart": {"market_cap": [[DAY_MS, 2.0e12], [2 * DAY_MS, 2.2e12]], "volume": []}}
    with serve(Reply.of(total), Reply.of({"market_caps": [[DAY_MS, 1.0e12]], "prices": []}), Reply.of({"market_caps": []})) as vendor:
        gecko = client(vendor.url, plan="pro")
        stamps_ms, caps_usd = gecko.fetch_total_caps(30)
        assert (stamps_ms.tolist(), caps_usd.tolist()) == ([DAY_MS, 2 * DAY_MS], [2.0e12, 2.2e12])
        assert gecko.fetch_coin_caps("bitcoin", 30)[1].tolist() == [1.0e12]
        assert len(gecko.fetch_coin_caps("bitcoin", 1)[0]) == 0
    assert [asked.path.removeprefix("/coingecko/api/v3") for asked in vendor.asked] == [
        "/global/market_cap_chart",
        "/coins/bitcoin/market_chart",
        "/coins/bitcoin/market_chart",
    ]
    assert [asked.params.get("interval") for asked in vendor.asked] == [None, "daily", None]


@pytest.mark.parametrize("chart", [None, [], {}, {"caps": None}, {"caps": [[1]]}, {"caps": [[1, None]]}, {"caps": [[2, 1.0], [1, 1.0]]}])
def test_a_chart_that_cannot_be_read_is_refused(chart: Any) -> None:
    with pytest.raises(TryAgainError, match="a chart of caps"):
        parse_chart(chart, "caps")


def points(*pairs: tuple[float, float]) -> Any:
    return np.array([round(at_s * 1000) for at_s, _ in pairs], dtype=np.int64), np.array([value for _, value in pairs])


def test_the_point_at_the_end_of_a_bar_is_its_close() -> None:
    day = 86_400
    total = points((10 * day, 2e12), (11 * day, 2e12), (12 * day, 4e12), (12.6 * day, 8e12))
    bitcoin = points((10 * day, 1e12), (11 * day, 1.2e12), (12 * day, 2e12), (12.6 * day, 1e12))
    bars = build_dominance_bars(total, bitcoin, Timeframe.D1, 10 * day, 13 * day)
    # the point of day 10 ends day 9 and opens day 10; 1.2 of 2 is 60 percent, 2 of 4 is 50; day 12 is not over
    assert bars.ts_s.tolist() == [10 * day, 11 * day]
    assert bars.close.tolist() == [60.0, 50.0]
    assert bars.open.tolist() == [50.0, 60.0]
    assert bars.volume.tolist() == [0.0, 0.0]


def test_points_near_the_hour_count_and_the_nearest_wins() -> None:
    total = points((7200, 100.0), (10_800, 100.0))
    coin = points((6901, 1.0), (7199, 40.0), (7260, 2.0), (10_800 + 299, 50.0), (10_800 + 301, 3.0))
    bars = build_dominance_bars(total, coin, Timeframe.H1, 0, 86_400)
    assert bars.ts_s.tolist() == [3600, 7200]
    assert bars.close.tolist() == [40.0, 50.0]


def test_a_bar_that_one_chart_lacks_is_a_gap() -> None:
    total = points((86_400, 100.0), (2 * 86_400, 100.0), (3 * 86_400, 100.0))
    coin = points((86_400, 40.0), (3 * 86_400, 42.0))
    bars = build_dominance_bars(total, coin, Timeframe.D1, 0, 9 * 86_400)
    assert bars.ts_s.tolist() == [0, 2 * 86_400]
    assert len(build_dominance_bars(points(), coin, Timeframe.D1, 0, 9 * 86_400)) == 0
