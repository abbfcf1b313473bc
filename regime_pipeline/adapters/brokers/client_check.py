"""ccxt clients for orders: built pinned, and read back before the first request, since a default may change with any version.

A client that retries, follows a redirect or reads a proxy from the environment can send one order twice, or to somebody else.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit

import ccxt

from regime_pipeline.adapters.brokers.binance_spot import BinanceSpot
from regime_pipeline.adapters.brokers.bybit_linear import BybitLinear
from regime_pipeline.adapters.brokers.capture import LOGGERS, CapturingSession
from regime_pipeline.adapters.brokers.dialect import Dialect
from regime_pipeline.adapters.brokers.lane import Exchange
from regime_pipeline.adapters.venues.ccxt_client import build_exchange
from regime_pipeline.errors import ConfigError
from regime_pipeline.risk.arm import Mode

CCXT_VERSION: Final = "4.5.90"
"""The version whose answers are in tests/golden/ccxt_answers_*.json; another one is tried there first."""
VERSION: Final = "ccxt version"
TIMEOUT_S: Final = 4.0
"""Of one request: below the request window, so that an answer we no longer wait for is to a request that still could arrive."""
WINDOW_MS: Final = 5_000

DIALECTS: Final[Mapping[tuple[str, str], type[Dialect]]] = {("binance", "spot"): BinanceSpot, ("bybit", "linear"): BybitLinear}
"""By ccxt id and market type: where orders can be sent."""

HOSTS: Final[Mapping[tuple[str, Mode], frozenset[str]]] = {
    ("binance", Mode.LIVE): frozenset({"api.binance.com"}),
    ("binance", Mode.SANDBOX): frozenset({"testnet.binance.vision"}),
    ("bybit", Mode.LIVE): frozenset({"api.bybit.com"}),
    ("bybit", Mode.SANDBOX): frozenset({"api-testnet.bybit.com"}),
}
"""Where each mode may go, and nowhere else; a simulated venue is a sandbox on the loopback."""
LOOPBACK: Final = frozenset({"127.0.0.1"})

PINNED_OPTIONS: Final[Mapping[str, Any]] = {
    "maxRetriesOnFailure": 0,
    "createMarketBuyOrderRequiresPrice": False,
    "warnOnFetchOpenOrdersWithoutSymbol": False,
    "adjustForTimeDifference": False,
    "recvWindow": WINDOW_MS,
    "fetchCurrencies": False,
}


@dataclass(frozen=True, slots=True)
class Reach:
    """Hosts and schemes that a client may use in its mode."""

    hosts: frozenset[str]
    schemes: frozenset[str]


def reach_of(exchange_id: str, mode: Mode, venue_url: str | None) -> Reach:
    """Say where a client may go.

    Raises
    ------
    ConfigError
        When there is no such place: a simulated venue that is not a sandbox on the loopback, or an exchange that is not on the list.
    """
    if venue_url is None:
        if (exchange_id, mode) not in HOSTS:
            known = ", ".join(f"{name} {each}" for name, each in HOSTS)
            raise ConfigError(
                f"orders were to go to {exchange_id} in {mode} mode, which has no hosts; allowed: {known}. Correct the settings."
            )
        return Reach(HOSTS[exchange_id, mode], frozenset({"https"}))
    host = urlsplit(venue_url).hostname
    if mode is not Mode.SANDBOX or host not in LOOPBACK:
        msg = f"venue_url was {venue_url} in {mode} mode; a simulated venue is a sandbox on {min(LOOPBACK)}. Unset it or correct the mode."
        raise ConfigError(msg)
    return Reach(LOOPBACK, frozenset({"http", "https"}))


def build_order_client(
    dialect: Dialect, mode: Mode, credentials: tuple[str, str], *, venue_url: str | None = None, has_limiter: bool = False
) -> Exchange:
    """Build a ccxt client for orders, pinned; its session keeps every answer as it came.

    Parameters
    ----------
    credentials : (str, str)
        Key and secret.
    has_limiter : bool
        Whether ccxt spaces requests out: reads yes; creates and cancels leave at once, their rate is the gate's to limit.

    Raises
    ------
    ConfigError
        As `reach_of`.
    """
    reach = reach_of(dialect.exchange_id, mode, venue_url)
    exchange = build_exchange(dialect.exchange_id, None, TIMEOUT_S)
    if mode is Mode.SANDBOX:
        exchange.set_sandbox_mode(True)
    if venue_url is not None:
        exchange.urls = {**exchange.urls, "api": build_exchange(dialect.exchange_id, venue_url, TIMEOUT_S).urls["api"]}
    exchange.session.close()
    exchange.session = CapturingSession(reach.hosts, reach.schemes, TIMEOUT_S)
    exchange.number = str
    exchange.verbose = False
    exchange.options |= {**dialect.options, **PINNED_OPTIONS}
    exchange.has |= {"fetchCurrencies": False}
    exchange.enableRateLimit = has_limiter
    exchange.apiKey, exchange.secret = credentials
    return exchange


def check_client(exchange: Exchange, dialect: Dialect, mode: Mode, venue_url: str | None = None, *, any_version: bool = False) -> None:
    """Read the pinned settings back, and refuse by name what is not as it must be.

    Parameters
    ----------
    any_version : bool
        Whether another version of ccxt will do, as it does for cancels.

    Raises
    ------
    ConfigError
        When any setting differs; all that do are named.
    """
    reach = reach_of(dialect.exchange_id, mode, venue_url)
    wrong = [
        f"{name} was {_shown(found)}, must be {_shown(wanted)}"
        for name, found, wanted in _settings(exchange, dialect, mode)
        if found != wanted and not (any_version and name == VERSION)
    ]
    wrong += [problem for name in sorted(dialect.addresses) if (problem := _misplaced(exchange, name, reach, mode))]
    session = exchange.session
    wanted = sorted(reach.schemes), sorted(reach.hosts)
    if isinstance(session, CapturingSession) and (found := (sorted(session.schemes), sorted(session.hosts))) != wanted:
        wrong.append(f"session.reach was {found}, must be {wanted}")
    if wrong:
        raise ConfigError(f"the {dialect.exchange_id} client is not fit for orders: {'; '.join(wrong)}. Set it as {__name__} does.")


def _settings(exchange: Exchange, dialect: Dialect, mode: Mode) -> list[tuple[str, object, object]]:
    """List what is pinned: name, value found, value wanted."""
    session, options = exchange.session, exchange.options
    nested = {f"{method}.{name}": each for method, own in options.items() if isinstance(own, dict) for name, each in own.items()}
    proxies = ("proxyUrl", "proxy_url", "httpProxy", "http_proxy", "httpsProxy", "https_proxy", "socksProxy", "socks_proxy", "proxies")
    return [
        (VERSION, ccxt.__version__, CCXT_VERSION),
        ("exchange", exchange.id, dialect.exchange_id),
        ("session", type(session), CapturingSession),
        ("max_redirects", getattr(session, "max_redirects", None), 0),
        ("trust_env", (exchange.trust_env, exchange.requests_trust_env, exchange.aiohttp_trust_env, session.trust_env), (False,) * 4),
        ("verbose", exchange.verbose, False),
        ("timeout", exchange.timeout, round(TIMEOUT_S * 1000)),
        ("session.timeout_s", getattr(session, "timeout_s", None), TIMEOUT_S),
        ("verify", (bool(exchange.verify), bool(exchange.validateServerSsl), bool(session.verify)), (True,) * 3),
        ("number", exchange.number, str),
        ("sandbox", bool(exchange.isSandboxModeEnabled), mode is Mode.SANDBOX),
        ("adapter retries", [each.max_retries.total for each in session.adapters.values()], [0] * len(session.adapters)),
        ("quiet loggers", [name for name in LOGGERS if not _is_quiet(name)], []),
        *((name, getattr(exchange, name, None) or None, None) for name in proxies),
        ("session.proxies", dict(session.proxies), {}),
        *((name, options.get(name), wanted) for name, wanted in PINNED_OPTIONS.items()),
        # ccxt looks at an option of the method first.
        *((name, each, 0) for name, each in nested.items() if name.endswith(".maxRetriesOnFailure")),
        *((name, each, False) for name, each in nested.items() if name.endswith(".createMarketBuyOrderRequiresPrice")),
    ]


def _misplaced(exchange: Exchange, name: str, reach: Reach, mode: Mode) -> str | None:
    """Tell what is wrong with an address; a sandbox may lack one, which nobody then asks."""
    address = exchange.urls["api"].get(name)
    if address is None and mode is Mode.SANDBOX:
        return None
    split = urlsplit(exchange.implode_hostname(address or ""))
    if split.scheme in reach.schemes and split.hostname in reach.hosts:
        return None
    wanted = f"{' or '.join(sorted(reach.schemes))} to {', '.join(sorted(reach.hosts))}"
    return f"address {name} was {split.scheme}://{split.hostname}, must be {wanted}"


def _is_quiet(name: str) -> bool:
    return bool(logging.getLogger(name).filters)


def _shown(value: object) -> str:
    return value.__name__ if isinstance(value, type) else repr(value)


@dataclass(frozen=True, slots=True)
class CcxtFacts:
    """Which ccxt sends our orders: its version and the SHA-256 over the modules that take part, for the start-up journal."""

    version: str
    sha256: str

    def __str__(self) -> str:
        return f"ccxt {self.version} sha256:{self.sha256}"


def read_ccxt_facts(exchange_id: str) -> CcxtFacts:
    """Read version and hash of the ccxt modules that an exchange is made of: its own, its table of endpoints, and all of `ccxt.base`."""
    root = Path(_file_of(ccxt)).parent
    files = [root / "__init__.py", root / f"{exchange_id}.py", root / "abstract" / f"{exchange_id}.py", *(root / "base").glob("*.py")]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(root).as_posix()}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return CcxtFacts(str(ccxt.__version__), digest.hexdigest())


def _file_of(module: ModuleType) -> str:
    if module.__file__ is None:
        raise ConfigError(f"{module.__name__} has no file, so that it cannot be told what sends orders. Install it from its wheel.")
    return module.__file__
