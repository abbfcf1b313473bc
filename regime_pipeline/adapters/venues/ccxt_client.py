"""ccxt exchanges as we use them: pinned, quiet, pointed where we say, and believed only through the answer on the wire."""

from collections.abc import Callable
from functools import cached_property
from threading import Lock
from typing import Any, Final, TypeAlias

import requests

from regime_pipeline.adapters.venues.answers import TryAgainError, check_clock, check_json, check_status, refuse
from regime_pipeline.adapters.venues.http import Answer, BoundedSession
from regime_pipeline.clock import Clock
from regime_pipeline.errors import ConfigError, SourceError

SIMULATED_PATHS: Final = {"binanceusdm": "binance-um"}
"""Where a simulated venue keeps an exchange, if not under its ccxt id."""

Exchange: TypeAlias = Any
"""A ccxt exchange: its implicit methods are untyped."""
Reply: TypeAlias = Any
Question = Callable[[Exchange], Reply]


def build_exchange(exchange_id: str, venue_url: str | None, timeout_s: float, *, pro: bool = False) -> Exchange:
    """Build a ccxt exchange that neither retries, follows redirects, reads proxy variables nor asks anything by itself.

    Parameters
    ----------
    exchange_id : str
        ccxt's id: binance, binanceusdm, hyperliquid ...
    venue_url : str or None
        Address of a simulated venue; every address of the exchange then points into it, WebSockets included.
    timeout_s : float
        Of one request.
    pro : bool
        An asynchronous one with streams, for one event loop; by default a synchronous one.

    Raises
    ------
    ConfigError
        When ccxt knows no such exchange.
    """
    # slow to import, and a minute whose bars were streamed asks nobody
    if pro:
        import ccxt.pro as library
    else:
        import ccxt as library
    if exchange_id not in library.exchanges:
        raise ConfigError(f"exchange was {exchange_id!r}, which ccxt does not know. Correct `exchange` in [venues] of the universe file.")
    options = {"maxRetriesOnFailure": 0, "warnOnFetchCurrenciesWithoutAuthorization": False}
    config: dict[str, Any] = {"enableRateLimit": True, "timeout": round(timeout_s * 1000), "options": options}
    exchange = getattr(library, exchange_id)(config if pro else {**config, "session": BoundedSession()})
    exchange.trust_env = exchange.aiohttp_trust_env = exchange.requests_trust_env = False
    if venue_url is not None:
        base = f"{venue_url.rstrip('/')}/{SIMULATED_PATHS.get(exchange_id, exchange_id)}"
        exchange.urls = {**exchange.urls, "api": _redirect(exchange.urls["api"], base)}
    return exchange


def _redirect(address: object, base: str) -> object:
    """Keep the path of every address of a tree and replace what is before it; streams stay streams."""
    if isinstance(address, dict):
        return {name: _redirect(each, base) for name, each in address.items()}
    if not isinstance(address, str):
        return address
    scheme, _, rest = address.partition("://")
    host = f"ws{base.removeprefix('http')}" if scheme in {"ws", "wss"} else base
    path = rest.partition("/")[2]
    return f"{host}/{path}" if path else host


class CcxtClient:
    """One exchange of this process, asked one request at a time: its rate limiter and its last answer belong to one caller."""

    def __init__(self, venue: str, exchange_id: str, venue_url: str | None, timeout_s: float, clock: Clock) -> None:
        self.venue = venue
        self.exchange_id = exchange_id
        self._venue_url, self._timeout_s, self._clock = venue_url, timeout_s, clock
        self._lock = Lock()

    @cached_property
    def exchange(self) -> Exchange:
        """The exchange, built when first asked for."""
        return build_exchange(self.exchange_id, self._venue_url, self._timeout_s)

    def ask(self, question: Question) -> Answer:
        """Ask a raw endpoint and return what came over the wire; what ccxt makes of it, exceptions included, is put aside.

        Raises
        ------
        TryAgainError, StayAwayError, SourceError
            By status (`check_status`), when the answer is older than the question (`check_clock`), or when none came.
        """
        with self._lock:
            answer, _, _ = self._ask(question)
        if answer is None:
            raise SourceError(f"{self.venue}: ccxt answered without asking the venue. Report this as a bug.")
        return answer

    def ask_unified(self, what: str, question: Question) -> Reply:
        """Ask a method of ccxt's unified interface and return its result, once the answer on the wire is known to be good.

        Raises
        ------
        TryAgainError, StayAwayError, SourceError
            As `ask`, and when the answer is no JSON or ccxt cannot make sense of it.
        """
        with self._lock:
            answer, result, failure = self._ask(question)
        if answer is not None:
            check_json(self.venue, what, answer)
        if failure is not None:
            refuse(self.venue, what, f"was refused by ccxt ({type(failure).__name__}: {failure})")
        return result

    def _ask(self, question: Question) -> tuple[Answer | None, Reply, Exception | None]:
        import ccxt

        session: BoundedSession = self.exchange.session
        session.forget()
        asked = self._clock()
        result: Reply = None
        failure: Exception | None = None
        try:
            result = question(self.exchange)
        # a lying body makes ccxt's parsers fail in their own ways
        except (ccxt.BaseError, TypeError, ValueError, LookupError, AttributeError) as error:
            failure = error
        answer = session.heard
        if answer is not None:
            check_status(self.venue, answer, self._clock())
            check_clock(self.venue, answer, asked)
        elif failure is not None and isinstance(cause := failure.__cause__, requests.RequestException):
            raise TryAgainError(f"{self.venue} could not be read: {type(cause).__name__}, {cause}. It is asked again later.") from failure
        elif failure is not None:
            what = f"{type(failure).__name__}: {failure}"
            raise SourceError(f"{self.venue}: ccxt refused to ask ({what}). Correct the symbol in the universe file.") from failure
        return answer, result, failure
