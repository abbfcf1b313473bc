"""CoinGecko: figures of the last refresh, caps that agree with the dominances, and charts as dense as the vendor's."""

import json
from itertools import pairwise
from typing import Any

import pytest
import requests

from regime_pipeline.settings import load_settings
from regime_pipeline.simulation.coingecko import REFRESH_S
from regime_pipeline.simulation.server import Served
from tests.simulated import NOON, simulated

HTTP = load_settings().shared / "http"
REFRESHED = NOON - NOON % REFRESH_S
DAY = 86_400


@pytest.fixture(scope="module")
def served() -> Any:
    with simulated() as venue:
        yield venue


def get(served: Served, path: str, **params: Any) -> Any:
    return requests.get(f"{served.url}/coingecko/api/v3/{path}", params=params, timeout=10).json()


def stamps(points: list[list[float]]) -> list[int]:
    return [int(at_ms) // 1000 for at_ms, _ in points]


def test_dominance_is_the_sources_at_the_last_refresh(served: Served) -> None:
    data = get(served, "global")["data"]
    assert data["updated_at"] == REFRESHED
    assert data["market_cap_percentage"] == {
        "btc": served.truth.dominance("BTC.d", REFRESHED),
        "usdt": served.truth.dominance("USDT.d", REFRESHED),
    }


def test_figures_change_only_when_the_vendor_makes_new_ones() -> None:
    with simulated(start_s=REFRESHED) as served:
        first = get(served, "global")
        served.venue.clock.advance(REFRESH_S - 1)
        assert get(served, "global") == first
        served.venue.clock.advance(1)
        assert get(served, "global")["data"]["updated_at"] == REFRESHED + REFRESH_S


@pytest.mark.realdata
@pytest.mark.skipif(not HTTP.is_dir(), reason="needs the recorded answers: REGIME_SHARED or ../shared")
def test_answers_hold_fields_of_recorded_ones(served: Served) -> None:
    recorded = json.loads((HTTP / "coingecko_global.json").read_text(encoding="utf-8"))["data"]
    assert set(get(served, "global")["data"]) <= set(recorded)
    coin = json.loads((HTTP / "coingecko_coins_markets_example.json").read_text(encoding="utf-8"))[0]
    assert set(get(served, "coins/markets", vs_currency="usd")[0]) <= set(coin)
    chart = json.loads((HTTP / "coingecko_coin_market_chart_example.json").read_text(encoding="utf-8"))
    assert set(get(served, "coins/bitcoin/market_chart", vs_currency="usd", days=1)) == set(chart)


def test_market_caps_are_the_sources_newest_and_ranked(served: Served) -> None:
    caps = served.truth.source.fetch_market_caps(REFRESHED - DAY, REFRESHED + 1)
    rows = get(served, "coins/markets", vs_currency="usd", ids="aave,ethereum,nothing")
    assert [(row["id"], row["market_cap_rank"]) for row in rows] == [("ethereum", 1), ("aave", 2)]
    assert rows[1]["market_cap"] == caps["AAVE"][-1].cap_usd
    assert rows[0]["last_updated"] == "2025-01-01T12:00:00.000Z"
    pages = [get(served, "coins/markets", vs_currency="usd", per_page=3, page=page) for page in (1, 2, 99)]
    assert ([len(page) for page in pages], pages[0][-1]["market_cap"] >= pages[1][0]["market_cap"]) == ([3, 3, 0], True)
    assert requests.get(f"{served.url}/coingecko/api/v3/coins/markets", timeout=5).status_code == 422


@pytest.mark.parametrize(
    ("path", "params", "spacing", "count"),
    [
        ("global/market_cap_chart", {"days": 1}, 3600, 25),
        ("global/market_cap_chart", {"days": 30}, DAY, 31),
        ("coins/bitcoin/market_chart", {"days": 1}, 300, 289),
        ("coins/bitcoin/market_chart", {"days": 2}, 3600, 49),
        ("coins/bitcoin/market_chart", {"days": 91}, DAY, 92),
        ("coins/bitcoin/market_chart", {"days": 30, "interval": "daily"}, DAY, 31),
        ("coins/bitcoin/market_chart/range", {"from": NOON - 2 * DAY, "to": NOON}, 3600, 48),
    ],
)
def test_a_chart_is_as_dense_as_the_vendor_makes_it(served: Served, path: str, params: dict[str, Any], spacing: int, count: int) -> None:
    body = get(served, path, vs_currency="usd", **params)
    at_s = stamps(body["market_cap_chart"]["market_cap"] if "global" in path else body["market_caps"])
    assert abs(len(at_s) - count) <= 1
    assert {later - earlier for earlier, later in pairwise(at_s[:-1])} == {spacing}
    assert REFRESHED - spacing < at_s[-1] <= REFRESHED


@pytest.mark.parametrize(("coin", "driver"), [("bitcoin", "BTC.d"), ("tether", "USDT.d")])
def test_a_coins_cap_over_that_of_all_is_its_dominance(served: Served, coin: str, driver: str) -> None:
    totals = dict(get(served, "global/market_cap_chart", days=90)["market_cap_chart"]["market_cap"])
    caps = get(served, f"coins/{coin}/market_chart", vs_currency="usd", days=90, interval="daily")["market_caps"]
    assert len(caps) == len(totals)
    for at_ms, cap in caps:
        assert 100 * cap / totals[at_ms] == pytest.approx(served.truth.dominance(driver, at_ms / 1000), rel=1e-12)


def test_an_unknown_coin_or_path_is_not_found(served: Served) -> None:
    for path in ("coins/nothing/market_chart", "nothing"):
        assert requests.get(f"{served.url}/coingecko/api/v3/{path}", timeout=5).status_code == 404
