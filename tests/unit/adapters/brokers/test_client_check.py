"""Pinned settings: what is built passes, and every single deviation refuses by name (X24)."""

import logging
from collections.abc import Callable
from typing import Any

import ccxt
import pytest
import requests

from regime_pipeline.adapters.brokers import client_check
from regime_pipeline.adapters.brokers.client_check import (
    CCXT_VERSION,
    DIALECTS,
    HOSTS,
    PINNED_OPTIONS,
    TIMEOUT_S,
    WINDOW_MS,
    build_order_client,
    check_client,
    reach_of,
    read_ccxt_facts,
)
from regime_pipeline.errors import ConfigError
from regime_pipeline.risk.arm import Mode

KEYS = ("key-of-a-test", "secret-of-a-test")
VENUES = sorted(DIALECTS)
SIMULATED = "http://127.0.0.1:9"


def check(change: Callable[[Any], object], venue: tuple[str, str] = ("binance", "spot"), mode: Mode = Mode.LIVE) -> None:
    dialect = DIALECTS[venue]()
    exchange = build_order_client(dialect, mode, KEYS)
    change(exchange)
    check_client(exchange, dialect, mode)


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize("mode", [Mode.SANDBOX, Mode.LIVE])
def test_what_is_built_passes(venue: tuple[str, str], mode: Mode) -> None:
    check(lambda exchange: None, venue, mode)


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize("url", [SIMULATED, "https://127.0.0.1:9"])
def test_a_simulated_venue_is_a_sandbox_on_the_loopback(venue: tuple[str, str], url: str) -> None:
    dialect = DIALECTS[venue]()
    exchange = build_order_client(dialect, Mode.SANDBOX, KEYS, venue_url=url)
    check_client(exchange, dialect, Mode.SANDBOX, url)
    assert all(exchange.urls["api"][name].startswith(url) for name in dialect.addresses)
    with pytest.raises(ConfigError, match=r"address private was http.?://127\.0\.0\.1, must be https to"):
        check_client(exchange, dialect, Mode.SANDBOX)


@pytest.mark.parametrize(
    ("mode", "url"),
    [
        (Mode.LIVE, SIMULATED),
        (Mode.PAPER, SIMULATED),
        (Mode.SANDBOX, "http://10.0.0.1"),
        (Mode.SANDBOX, "http://localhost:9"),
        (Mode.SANDBOX, "https://api.binance.com"),
        (Mode.PAPER, None),
    ],
)
def test_nothing_else_is_reached_in_any_mode(mode: Mode, url: str | None) -> None:
    with pytest.raises(ConfigError, match="mode"):
        reach_of("binance", mode, url)


def test_modes_share_no_host_and_real_ones_are_https() -> None:
    for (exchange, mode), hosts in HOSTS.items():
        others = [each for (name, other), each in HOSTS.items() if (name, other) != (exchange, mode)]
        assert not hosts & frozenset().union(*others)
        assert reach_of(exchange, mode, None).schemes == {"https"}


def set_option(name: str, value: object) -> Callable[[Any], object]:
    return lambda exchange: exchange.options.update({name: value})


def set_field(name: str, value: object) -> Callable[[Any], object]:
    return lambda exchange: setattr(exchange, name, value)


def set_session(name: str, value: object) -> Callable[[Any], object]:
    return lambda exchange: setattr(exchange.session, name, value)


def retry_below(exchange: Any) -> None:
    exchange.session.mount("https://", requests.adapters.HTTPAdapter(max_retries=2))


def move_address(exchange: Any) -> None:
    exchange.urls["api"]["private"] = "https://api.binance.com.example.test/api/v3"


def make_plain(exchange: Any) -> None:
    exchange.urls["api"]["sapi"] = "http://api.binance.com/sapi/v1"


DEVIATIONS: dict[str, Callable[[Any], object]] = {
    **{f"option {name}": set_option(name, 7 if value != 7 else 8) for name, value in PINNED_OPTIONS.items()},
    **{f"no option {name}": (lambda exchange, name=name: exchange.options.pop(name)) for name in PINNED_OPTIONS},
    "createOrder.maxRetriesOnFailure": set_option("createOrder", {"maxRetriesOnFailure": 1}),
    "createOrder.createMarketBuyOrderRequiresPrice": set_option("createOrder", {"createMarketBuyOrderRequiresPrice": True}),
    "max_redirects": set_session("max_redirects", 1),
    "trust_env": set_session("trust_env", True),
    "requests_trust_env": set_field("requests_trust_env", True),
    "verbose": set_field("verbose", True),
    "timeout": set_field("timeout", 10_000),
    "session.timeout_s": set_session("timeout_s", 10.0),
    "verify": set_field("verify", False),
    "validateServerSsl": set_field("validateServerSsl", False),
    "session.verify": set_session("verify", False),
    "number": set_field("number", float),
    "sandbox": lambda exchange: exchange.set_sandbox_mode(True),
    "adapter retries": retry_below,
    "proxyUrl": set_field("proxyUrl", "https://proxy.example.test/"),
    "httpsProxy": set_field("httpsProxy", "https://proxy.example.test/"),
    "https_proxy": set_field("https_proxy", "https://proxy.example.test/"),
    "socksProxy": set_field("socksProxy", "socks5://proxy.example.test/"),
    "proxies": set_field("proxies", {"https": "https://proxy.example.test/"}),
    "session.proxies": set_session("proxies", {"https": "https://proxy.example.test/"}),
    "session": set_field("session", requests.Session()),
    "session.reach": set_session("hosts", frozenset({"api.binance.com", "example.test"})),
    "schemes": set_session("schemes", frozenset({"http", "https"})),
    "address private": move_address,
    "address sapi": make_plain,
    "exchange": set_field("id", "binanceus"),
}


@pytest.mark.fault_row("X24")
@pytest.mark.parametrize("name", list(DEVIATIONS))
def test_every_deviation_refuses_by_name(name: str) -> None:
    said = {"schemes": "session.reach", "validateServerSsl": "verify", "session.verify": "verify", "requests_trust_env": "trust_env"}
    expected = said.get(name, name.removeprefix("no ").removeprefix("option "))
    with pytest.raises(ConfigError, match=rf"the binance client is not fit for orders: .*{expected.replace('.', '[.]')}.* was"):
        check(DEVIATIONS[name])


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"verbose was True, must be False.*recvWindow was 10000, must be 5000"):
        check(lambda exchange: (set_field("verbose", True)(exchange), set_option("recvWindow", 10_000)(exchange)))


@pytest.mark.fault_row("X25")
def test_another_version_of_ccxt_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccxt, "__version__", "4.6.0")
    with pytest.raises(ConfigError, match=f"ccxt version was '4.6.0', must be '{CCXT_VERSION}'"):
        check(lambda exchange: None)
    dialect = DIALECTS["binance", "spot"]()
    check_client(build_order_client(dialect, Mode.LIVE, KEYS), dialect, Mode.LIVE, any_version=True)


def test_loggers_that_would_tell_addresses_refuse() -> None:
    def unquiet(_: Any) -> None:
        for name in client_check.LOGGERS:
            logging.getLogger(name).filters.clear()

    with pytest.raises(ConfigError, match="quiet loggers"):
        check(unquiet)


def test_a_refusal_shows_no_key() -> None:
    with pytest.raises(ConfigError) as caught:
        check(set_field("verbose", True))
    assert not any(key in str(caught.value) for key in KEYS)


def test_we_give_up_before_the_venue_does() -> None:
    assert TIMEOUT_S * 1000 < WINDOW_MS


@pytest.mark.parametrize("venue", VENUES)
def test_a_sandbox_goes_to_the_test_system_and_live_does_not(venue: tuple[str, str]) -> None:
    dialect = DIALECTS[venue]()
    hosts = {}
    for mode in (Mode.SANDBOX, Mode.LIVE):
        exchange = build_order_client(dialect, mode, KEYS)
        hosts[mode] = exchange.implode_hostname(exchange.urls["api"]["private"])
    assert "test" in hosts[Mode.SANDBOX]
    assert "test" not in hosts[Mode.LIVE]


def test_facts_of_ccxt_name_version_and_modules() -> None:
    facts = {name: read_ccxt_facts(name) for name in ("binance", "bybit")}
    assert {each.version for each in facts.values()} == {CCXT_VERSION}
    assert len({each.sha256 for each in facts.values()}) == 2
    assert all(len(each.sha256) == 64 for each in facts.values())
    assert read_ccxt_facts("binance") == facts["binance"]
    assert str(facts["bybit"]) == f"ccxt {CCXT_VERSION} sha256:{facts['bybit'].sha256}"
