"""Every fault of a script, seen by the real ccxt client over sockets, and what the book did meanwhile."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import ccxt
import pytest
import requests

from regime_pipeline.simulation.trading import TradingBook, TradingFloor
from regime_pipeline.simulation.trading.calls import HttpCall
from tests.trading import TradingVenue, serve_trading

PAIR = "BTC/USDT"
ORDER = {"clientOrderId": "a" * 32}


@pytest.fixture(scope="module")
def shared() -> Iterator[TradingVenue]:
    with serve_trading() as running:
        yield running


@pytest.fixture
def venue(shared: TradingVenue) -> Iterator[TradingVenue]:
    yield shared
    shared.clear_script()
    for order in shared.book.list_open():
        shared.hand.cancel(order.order_id)


def create(venue: TradingVenue, timeout_s: float = 5.0, client_id: str = "a") -> Any:
    return venue.exchange(timeout_s=timeout_s).create_order(PAIR, "limit", "buy", 0.1, 39_000, {"clientOrderId": client_id})


def n_open(venue: TradingVenue) -> int:
    return len(venue.book.list_open())


def n_posts(venue: TradingVenue) -> int:
    return venue.truth()["requests"].get("POST /api/v3/order", 0)


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 529, 599])
def test_an_error_page_after_acceptance(venue: TradingVenue, status: int) -> None:
    posts = n_posts(venue)
    venue.script_create(status=status, body="<html>gateway</html>")
    with pytest.raises(ccxt.BaseError):
        create(venue)
    assert (n_open(venue), n_posts(venue) - posts) == (1, 1)


def test_a_redirect_is_sent_with_its_headers(venue: TradingVenue) -> None:
    posts = n_posts(venue)
    venue.script_create(status=307, headers={"Location": f"{venue.url}/binance/api/v3/order"}, body="")
    # ccxt makes an order without an id of it.
    assert create(venue)["id"] is None
    assert (n_open(venue), n_posts(venue) - posts) == (1, 1)


@pytest.mark.parametrize("cut", ["reset", "fin", "truncate", "tls"])
@pytest.mark.parametrize(("accept", "n_orders"), [("before", 1), ("never", 0)])
def test_a_connection_that_breaks(venue: TradingVenue, cut: str, accept: str, n_orders: int) -> None:
    posts = n_posts(venue)
    venue.script_create(cut=cut, accept=accept)
    with pytest.raises(ccxt.NetworkError):
        create(venue)
    assert (n_open(venue), n_posts(venue) - posts) == (n_orders, 1)


@pytest.mark.parametrize("cut", ["reset", "fin", "truncate", "tls"])
def test_a_tls_connection_that_breaks(cut: str) -> None:
    with serve_trading(is_tls=True) as venue:
        assert create(venue, client_id="whole")["status"] == "open"
        venue.script_create(cut=cut)
        with pytest.raises(ccxt.NetworkError):
            create(venue)
        assert [order.client_id for order in venue.book.list_open()] == ["whole", "a"]


def test_tls_is_verified() -> None:
    with serve_trading(is_tls=True) as venue, pytest.raises(requests.exceptions.SSLError) as caught:
        requests.get(f"{venue.url}/binance/api/v3/time", timeout=5)
    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value)


@pytest.mark.parametrize(
    "body", ["<html></html>", "", "null", [], {}, '{"orderId": 1', {"orderId": None}, {"orderId": 7, "clientOrderId": "other"}]
)
def test_a_200_that_proves_nothing(venue: TradingVenue, body: object) -> None:
    venue.script_create(body=body)
    exchange = venue.exchange()
    # Whatever ccxt makes of it, an order without our id or an error, the venue has ours.
    with suppress(ccxt.BaseError, TypeError, AttributeError):
        assert exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000, ORDER)["clientOrderId"] != ORDER["clientOrderId"]
    assert n_open(venue) == 1
    assert exchange.fetch_order(None, PAIR, ORDER)["status"] == "open"


def test_a_limit_with_its_time_to_come_back(venue: TradingVenue) -> None:
    venue.script_create(status=429, headers={"Retry-After": "7"}, body={"code": -1003, "msg": "Too many requests."}, accept="never")
    exchange = venue.exchange()
    with pytest.raises(ccxt.DDoSProtection):
        exchange.create_order(PAIR, "limit", "buy", 0.1, 39_000)
    assert exchange.last_response_headers["Retry-After"] == "7"
    assert n_open(venue) == 0


def test_a_hang_after_acceptance_leaves_the_order(venue: TradingVenue) -> None:
    venue.script_create(delay_ms=60_000)
    with pytest.raises(ccxt.RequestTimeout):
        create(venue, timeout_s=0.3)
    assert n_open(venue) == 1


def test_a_request_that_arrives_after_its_client_left(venue: TradingVenue) -> None:
    venue.script_create(delay_ms=400, accept="after")
    with pytest.raises(ccxt.RequestTimeout):
        create(venue, timeout_s=0.2)
    assert n_open(venue) == 0
    deadline = time.monotonic() + 5
    while not n_open(venue) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert n_open(venue) == 1
    note = venue.truth()["received"][-1]
    assert note["taken_ms"] - note["at_ms"] >= 390


def test_a_request_that_is_late_by_the_venues_clock_is_refused(venue: TradingVenue) -> None:
    venue.script_create(accept="after", late_ms=120_000)
    with pytest.raises(ccxt.InvalidNonce, match="-1021"):
        create(venue)
    assert n_open(venue) == 0
    assert venue.truth()["received"][-1]["code"] == "-1021"


def test_a_venue_without_expiry_takes_it(venue: TradingVenue) -> None:
    venue.change(has_expiry=False)
    try:
        venue.script_create(accept="after", late_ms=120_000)
        assert create(venue)["status"] == "open"
    finally:
        venue.change(has_expiry=True)


def test_a_cancel_that_is_confirmed_and_never_happened(venue: TradingVenue) -> None:
    create(venue)
    venue.script({"on": "DELETE /api/v3/order", "accept": "never"})
    exchange = venue.exchange()
    assert exchange.cancel_order(None, PAIR, {"clientOrderId": "a"})["status"] == "canceled"
    assert exchange.fetch_order(None, PAIR, {"clientOrderId": "a"})["status"] == "open"


def test_a_read_that_fails_or_is_a_page(venue: TradingVenue) -> None:
    create(venue)
    exchange = venue.exchange()
    venue.script(
        {"on": "GET /api/v3/order", "status": 502, "body": "<html/>"},
        {"on": "GET /api/v3/order", "nth": 2, "body": "<html/>"},
        {"on": "GET /api/v3/openOrders", "body": []},
    )
    with pytest.raises(ccxt.ExchangeNotAvailable):
        exchange.fetch_order(None, PAIR, {"clientOrderId": "a"})
    assert exchange.fetch_order(None, PAIR, {"clientOrderId": "a"})["id"] is None
    assert exchange.fetch_order(None, PAIR, {"clientOrderId": "a"})["status"] == "open"
    assert exchange.fetch_open_orders(PAIR) == []
    assert len(exchange.fetch_open_orders(PAIR)) == 1


def test_which_request_it_happens_to(venue: TradingVenue) -> None:
    venue.script({"on": "* /api/v3/open*", "nth": 2, "repeat": 2, "status": 503, "body": ""})
    venue.script({"on": "GET /api/v3/order", "where": {"origClientOrderId": "x"}, "repeat": 0, "status": 504, "body": ""})
    statuses = []
    exchange = venue.exchange()
    for _ in range(4):
        try:
            exchange.fetch_open_orders(PAIR)
            statuses.append("ok")
        except ccxt.ExchangeNotAvailable:
            statuses.append("503")
    assert statuses == ["ok", "503", "503", "ok"]
    for _ in range(3):
        with pytest.raises(ccxt.RequestTimeout):
            exchange.fetch_order(None, PAIR, {"clientOrderId": "x"})
    with pytest.raises(ccxt.OrderNotFound):
        exchange.fetch_order(None, PAIR, {"clientOrderId": "y"})


def test_a_fill_is_seen_before_the_create_is_answered(venue: TradingVenue) -> None:
    venue.script_create(delay_ms=600)
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(create, venue, client_id="early")
        deadline = time.monotonic() + 5
        while not n_open(venue) and time.monotonic() < deadline:
            time.sleep(0.02)
        venue.hand.fill("early", "0.1")
        trades = venue.exchange().fetch_my_trades(PAIR)
        assert not under_way.done()
        assert trades[-1]["amount"] == 0.1
        assert under_way.result()["status"] == "open"


def test_a_venue_that_was_down_comes_back_with_all_that_it_knew() -> None:
    with serve_trading() as venue:
        create(venue)
        exchange = venue.exchange()
    with pytest.raises(ccxt.NetworkError):
        exchange.fetch_time()
    with serve_trading(port=int(venue.url.rpartition(":")[2]), floor=venue.floor):
        assert exchange.fetch_order(None, PAIR, {"clientOrderId": "a"})["status"] == "open"


def test_control_is_never_touched(venue: TradingVenue) -> None:
    venue.script({"on": "*", "repeat": 0, "cut": "reset", "accept": "never"})
    with pytest.raises(ccxt.NetworkError):
        venue.exchange().fetch_time()
    assert requests.get(f"{venue.url}/sim/trading/truth", timeout=5).status_code == 200


def test_without_sockets_the_same_script_and_the_same_answers() -> None:
    floor = TradingFloor(TradingBook())
    floor.script.add({"on": "GET /api/v3/time", "status": 503, "body": "busy"})
    call = HttpCall("GET", "/api/v3/time")
    assert (floor.handle("binance", call, 1000).status, floor.handle("binance", call, 1000).body) == (503, {"serverTime": 1000})


def test_an_entry_must_make_sense() -> None:
    floor = TradingFloor(TradingBook())
    for wrong in ({"on": "GET /", "nth": 0}, {"on": "GET /", "cut": "often"}, {"on": "GET /", "unknown": 1}, {"accept": "before"}):
        with pytest.raises(ValueError, match="validation error"):
            floor.script.add(wrong)
