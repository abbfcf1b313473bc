"""The control of a venue from another process: `/sim/trading/...`."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.trading import TradingVenue, serve_trading


@pytest.fixture
def venue() -> Iterator[TradingVenue]:
    with serve_trading("spot", "linear", start_s=1_796_000_000, speed=0) as running:
        yield running


def ask(venue: TradingVenue, what: str, expected: int = 200, **fields: Any) -> Any:
    answer = requests.post(f"{venue.url}/sim/trading/{what}", json=fields, timeout=5)
    assert answer.status_code == expected, answer.text
    return answer.json()


def read(venue: TradingVenue, what: str) -> Any:
    return requests.get(f"{venue.url}/sim/trading/{what}", timeout=5).json()


def test_orders_of_others_prices_and_the_truth(venue: TradingVenue) -> None:
    ask(venue, "hand", do="place", symbol="BTCUSDT", side="BUY", qty="0.5", price="39000", client_id="web")
    assert ask(venue, "price", symbol="BTCUSDT", price="38000") == {"trades": 1}
    ask(venue, "hand", do="repeat_row", trade_id=1)
    ask(venue, "hand", do="alter_row", trade_id=1, fee=None, fee_asset=None)
    ask(venue, "hand", do="deposit", asset="USDT", amount="7")
    spot = read(venue, "truth")["books"]["spot"]
    assert [order["status"] for order in spot["orders"]] == ["FILLED"]
    assert [row["fee"] for row in spot["rows"]] == ["0.0005", None]
    # 100 000 - 0.5 x 39 000 + 7.
    assert spot["balances"]["USDT"]["total"] == "80507"


def test_the_other_book_is_named_by_its_market_type(venue: TradingVenue) -> None:
    ask(venue, "hand", do="place", market_type="linear", symbol="BTCUSDT", side="BUY", qty="0.5")
    ask(venue, "hand", do="pay_funding", market_type="linear", symbol="BTCUSDT", rate="0.001")
    assert read(venue, "truth")["books"]["linear"]["positions"]["BTCUSDT"]["size"] == "0.5"
    assert read(venue, "truth")["books"]["spot"]["orders"] == []


def test_the_clock_its_skew_and_paths_of_prices(venue: TradingVenue) -> None:
    start = read(venue, "clock")
    assert start == {"clock_ms": 1_796_000_000_000, "venue_ms": 1_796_000_000_000, "skew_ms": 0}
    ask(venue, "price", symbol="BTCUSDT", path=[[1_796_000_005_000, "41000"]])
    assert ask(venue, "clock", advance_ms=5_000, skew_ms=-1_000)["venue_ms"] == 1_796_000_004_000
    ticker = f"{venue.url}/binance/api/v3/ticker/price?symbol=BTCUSDT"
    assert requests.get(ticker, timeout=5).json()["price"] == "40000.00000000"
    ask(venue, "clock", skew_ms=0)
    assert requests.get(ticker, timeout=5).json()["price"] == "41000.00000000"


def test_script_rules_and_keys(venue: TradingVenue) -> None:
    ask(venue, "script", on="GET /api/v3/time", status=503, body="busy")
    time_url = f"{venue.url}/binance/api/v3/time"
    assert [requests.get(time_url, timeout=5).status_code for _ in range(2)] == [503, 200]
    assert [entry["matches"] for entry in read(venue, "script")] == [2]
    ask(venue, "reset")
    assert read(venue, "script") == []
    assert ask(venue, "rules", liquidity="0.25", visibility_ms=4000)["liquidity"] == "0.25"
    changed = ask(venue, "key", kind="trader", is_revoked=True, rights=["read"])
    assert (changed["is_revoked"], changed["rights"]) == (True, ["read"])
    assert {key["kind"] for key in read(venue, "keys")} == {"trader", "kill", "snapshot"}


@pytest.mark.parametrize(
    ("what", "fields", "status", "word"),
    [
        ("nothing", {}, 404, "none of"),
        ("hand", {"do": "order"}, 400, "must be one of"),
        ("hand", {"do": "fill", "order": "nobody", "qty": "1"}, 400, "nobody"),
        ("price", {"symbol": "BTCUSDT", "price": "-1"}, 400, "above 0"),
        ("price", {"symbol": "XXX", "price": "1"}, 400, "bad_symbol"),
        ("key", {"kind": "master"}, 400, "must be one of"),
        ("rules", {"depth": 1}, 400, "depth"),
        ("script", {"on": "GET /", "cut": "often"}, 400, "cut"),
    ],
)
def test_a_mistake_is_told(venue: TradingVenue, what: str, fields: dict[str, Any], status: int, word: str) -> None:
    assert word in ask(venue, what, status, **fields)["error"]
