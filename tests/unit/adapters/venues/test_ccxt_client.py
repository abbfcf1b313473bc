"""The real ccxt classes over real sockets: what each kind of failure becomes, and that nothing leaves the place it was pointed to."""

from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import ccxt
import pytest

from regime_pipeline.adapters.venues.answers import StayAwayError, TryAgainError
from regime_pipeline.adapters.venues.ccxt_client import CcxtClient, build_exchange
from regime_pipeline.adapters.venues.http import Answer
from regime_pipeline.clock import utc_now
from regime_pipeline.errors import ConfigError, SourceError, SourceUnavailableError
from tests.unit.adapters.venues.scripted import Reply, serve

HTML = "<!DOCTYPE html><html><head><title>Checking your browser</title></head></html>"


def ask(client: CcxtClient) -> Answer:
    return client.ask(lambda venue: venue.publicGetKlines({"symbol": "BTCUSDT", "interval": "1m"}))


def client_of(url: str, timeout_s: float = 2.0) -> CcxtClient:
    return CcxtClient("binance_spot", "binance", url, timeout_s, utc_now)


def addresses(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for each in tree.values():
            yield from addresses(each)
    else:
        yield tree


@pytest.mark.parametrize("exchange_id", ["binance", "binanceusdm", "hyperliquid", "kraken"])
@pytest.mark.parametrize("pro", [False, True])
def test_every_address_points_into_the_simulated_venue(exchange_id: str, pro: bool) -> None:
    exchange = build_exchange(exchange_id, "http://127.0.0.1:8900/", 5.0, pro=pro)
    base = {"binanceusdm": "binance-um"}.get(exchange_id, exchange_id)
    for address in addresses(exchange.urls["api"]):
        host = "ws://127.0.0.1:8900" if address.startswith("ws") else "http://127.0.0.1:8900"
        assert address.startswith(f"{host}/{base}")


def test_paths_stay_what_the_venue_knows() -> None:
    urls = build_exchange("binanceusdm", "http://127.0.0.1:8900", 5.0, pro=True).urls["api"]
    assert urls["fapiPublic"] == "http://127.0.0.1:8900/binance-um/fapi/v1"
    assert urls["ws"]["linear"] == "ws://127.0.0.1:8900/binance-um/ws"
    assert build_exchange("hyperliquid", "http://127.0.0.1:8900", 5.0).urls["api"]["public"] == "http://127.0.0.1:8900/hyperliquid"


def test_without_a_simulated_venue_the_addresses_are_ccxts_own() -> None:
    assert build_exchange("hyperliquid", None, 5.0).urls == ccxt.hyperliquid().urls


def test_an_exchange_is_pinned() -> None:
    exchange = build_exchange("binance", None, 7.5)
    assert (exchange.enableRateLimit, exchange.timeout) == (True, 7500)
    assert exchange.options["maxRetriesOnFailure"] == 0
    assert not exchange.session.trust_env
    assert not build_exchange("binance", None, 7.5, pro=True).aiohttp_trust_env


def test_an_exchange_that_ccxt_does_not_know_is_a_mistake_in_the_universe_file() -> None:
    with pytest.raises(ConfigError, match="exchange was 'binanc'"):
        build_exchange("binanc", None, 5.0)


def stamped(ahead_s: float) -> Reply:
    """An answer of a venue whose clock our clock is ahead of."""
    return Reply("[]", headers={"Date": format_datetime(utc_now() - timedelta(seconds=ahead_s), usegmt=True)})


@pytest.mark.parametrize("ahead_s", [30, 7])
def test_an_answer_from_before_it_was_asked_for_is_refused_since_its_open_bar_would_pass_for_closed(ahead_s: float) -> None:
    with serve(stamped(ahead_s)) as venue, pytest.raises(TryAgainError, match="set this machine's clock"):
        ask(client_of(venue.url))


@pytest.mark.parametrize("ahead_s", [2, -600])
def test_a_clock_that_is_a_little_ahead_or_far_behind_harms_nothing(ahead_s: float) -> None:
    with serve(stamped(ahead_s)) as venue:
        assert ask(client_of(venue.url)).body == "[]"


def test_a_venue_that_does_not_tell_the_time_is_believed() -> None:
    with serve(Reply("[]", headers={"Date": "soon"})) as venue:
        assert ask(client_of(venue.url)).body == "[]"


def test_a_good_answer_comes_back_as_it_was_on_the_wire() -> None:
    with serve(Reply('[[1, "2.50"]]')) as venue:
        assert ask(client_of(venue.url)).body == '[[1, "2.50"]]'


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(is_silent=True), "ReadTimeout"),
        (Reply(is_reset=True), "ConnectionError"),
        (Reply('[[1, "2.50"]]', cut=5), "ConnectionError"),
        (Reply('[[1, "2.50"]]' * 100, drip_s=0.01), "ReadTimeout"),
        (Reply("", 500), "answered 500"),
        (Reply(HTML, 502), "answered 502"),
        (Reply(HTML, 503), "answered 503"),
        (Reply('{"code":-1003,"msg":"Too much request weight"}', 429), "answered 429"),
    ],
)
def test_a_read_that_failed_may_be_repeated(reply: Reply, said: str) -> None:
    with serve(reply) as venue, pytest.raises(TryAgainError, match=said):
        ask(client_of(venue.url, 0.3))


def test_nobody_listens() -> None:
    with serve() as venue:
        url = venue.url
    with pytest.raises(TryAgainError, match="ConnectionError"):
        ask(client_of(url))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply('{"code":-1003,"msg":"banned"}', 418, {"Retry-After": "112"}), StayAwayError),
        (Reply('{"code":0,"msg":"restricted location"}', 451), StayAwayError),
        (Reply(HTML, 403), StayAwayError),
        (Reply('{"code":-1121,"msg":"Invalid symbol."}', 400), SourceError),
        (Reply('{"code":-1100,"msg":"Illegal characters"}', 400), SourceError),
        (Reply(HTML, 404), SourceError),
        (Reply("", 302, {"Location": "http://127.0.0.1:1/"}), SourceError),
    ],
)
def test_what_would_be_refused_again_is_not_repeated(reply: Reply, error: type[SourceError]) -> None:
    with serve(reply) as venue, pytest.raises(error) as caught:
        ask(client_of(venue.url))
    assert not isinstance(caught.value, SourceUnavailableError)


@pytest.mark.parametrize("body", [HTML, "", "null", "[]", "{}", '{"code":-1121,"msg":"Invalid"}', '"text"', '[{"code": -2011}]'])
def test_what_ccxt_makes_of_a_200_does_not_matter(body: str) -> None:
    """ccxt takes HTML for an answer, and some JSON for an error; only what was on the wire is handed on."""
    with serve(Reply(body)) as venue:
        assert ask(client_of(venue.url)).body == body


def test_an_answer_of_an_earlier_question_is_never_taken_for_this_one() -> None:
    with serve(Reply("[1]"), Reply(is_reset=True)) as venue:
        client = client_of(venue.url)
        assert ask(client).body == "[1]"
        with pytest.raises(TryAgainError):
            ask(client)


def test_ccxts_limiter_spaces_requests_and_ours_does_not_exist() -> None:
    with serve(Reply("[]"), Reply("[]")) as venue:
        client = client_of(venue.url)
        client.exchange.rateLimit = 400
        ask(client)
        first_ms = client.exchange.milliseconds()
        ask(client)
        spaced_ms = client.exchange.milliseconds() - first_ms
    # klines weigh 0.4 of a unit of 400 ms; clocks of whole milliseconds may lose two, and the answer takes some
    assert spaced_ms >= 140
