"""What a venue answered, kept before any client has read a meaning into it; and how far a request came that has no answer.

ccxt asks through this session and may make of an answer what it likes: the order path believes only what was kept here.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import MaxRetryError, NewConnectionError

from regime_pipeline.adapters.venues.http import BoundedSession
from regime_pipeline.execution.answers import RawAnswer, Transport

Check = Callable[[requests.PreparedRequest], str | None]
"""Tells what is wrong with a request that is about to leave; None when nothing is."""

LOGGERS: Final = ("urllib3.connectionpool", "ccxt.base.exchange")


class BlockedRequestError(requests.RequestException):
    """A request that was stopped before it left."""


@dataclass(slots=True)
class Capture:
    """What became of the requests of one question.

    Parameters
    ----------
    n_sent : int
        Requests that left, or may have left.
    answer : RawAnswer or None
        Of the last one; None while none has left.
    retry_after_s : int or None
        How long the answer's headers ask for rest.
    headers : dict of str to str
        Of the answer, names in lower case.
    blocked : str
        Why a request was stopped before it left; empty when none was.
    """

    n_sent: int = 0
    answer: RawAnswer | None = None
    retry_after_s: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    blocked: str = ""


class CapturingSession(BoundedSession):
    """A session that lets out only what was announced, to hosts that are allowed, and keeps the answer as it came.

    Parameters
    ----------
    hosts : frozenset of str
        Hosts, without a port, that requests may go to.
    schemes : frozenset of str
        https, and for a simulated venue http.
    timeout_s : float
        Of one request from connecting to the last byte.
    """

    def __init__(self, hosts: frozenset[str], schemes: frozenset[str], timeout_s: float) -> None:
        super().__init__()
        self.max_redirects = 0
        self.hosts, self.schemes, self.timeout_s = hosts, schemes, timeout_s
        self._now: Capture | None = None
        self._check: Check | None = None
        quiet_loggers()

    @contextmanager
    def capturing(self, check: Check | None = None) -> Iterator[Capture]:
        """Keep what comes of the requests within the block; outside of one nothing is sent.

        Parameters
        ----------
        check : Check, optional
            With it exactly one request may leave, and only if it passes: what a library wants to send besides, or again, is stopped.
        """
        self._now, self._check = Capture(), check
        try:
            yield self._now
        finally:
            self._now = self._check = None

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # noqa: ANN401 - as requests has it
        """Send a request of the question that is being asked.

        Raises
        ------
        BlockedRequestError
            When it must not leave.
        requests.RequestException
            When no whole answer came.
        """
        now = self._now
        blocked = "it was asked for by nobody" if now is None else self._judge(request, now)
        if now is None or blocked is not None:
            if now is not None:
                now.blocked = blocked or ""
            raise BlockedRequestError(f"a request was stopped before it left: {blocked}")
        now.n_sent += 1
        now.answer = RawAnswer(Transport.BROKEN)
        try:
            response = super().send(request, **{**kwargs, "timeout": self.timeout_s})
        except requests.TooManyRedirects as error:  # by `max_redirects`, for an answer that is whole and stays where it is
            if error.response is not None:
                now.answer = RawAnswer(Transport.ANSWERED, error.response.status_code, error.response.content)
            raise
        except Exception as error:
            now.answer = RawAnswer(prove_transport(error))
            raise
        now.headers = {name.lower(): value for name, value in response.headers.items()}
        now.retry_after_s = _read_seconds(now.headers.get("retry-after"))
        now.answer = RawAnswer(Transport.ANSWERED, response.status_code, response.content)
        return response

    def _judge(self, request: requests.PreparedRequest, now: Capture) -> str | None:
        split = urlsplit(request.url or "")
        if split.scheme not in self.schemes or split.hostname not in self.hosts:
            allowed = ", ".join(sorted(self.hosts))
            return f"its host was {split.scheme}://{split.hostname}, allowed are {' or '.join(sorted(self.schemes))} to {allowed}"
        if self._check is None:
            return None
        retries = getattr(self.get_adapter(request.url or ""), "max_retries", None)
        if retries is not None and retries.total != 0:  # start-up refuses it; set later, it would repeat the request below this session
            return f"its adapter would send it again, up to {retries.total} times"
        return "another one had left already" if now.n_sent else self._check(request)


def prove_transport(error: Exception) -> Transport:
    """Say how far a request came, from the exception that ended it.

    Only one thing proves that nothing left: urllib3 gave up for the reason that no connection was made (refused, no route, name not
    resolved). `__context__` is not looked at: it may hold an older error that is being handled while this one is raised.
    """
    given_up = error.args[0] if error.args else None
    if (
        isinstance(error, requests.ConnectionError)
        and isinstance(given_up, MaxRetryError)
        and isinstance(given_up.reason, NewConnectionError)
    ):
        return Transport.NOT_CONNECTED
    return Transport.TIMED_OUT if isinstance(error, requests.Timeout) else Transport.BROKEN


def quiet_loggers() -> None:
    """Keep two libraries from logging what they ask for, whatever level is set: addresses with signatures, headers with keys."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if _is_loud not in logger.filters:
            logger.addFilter(_is_loud)


def _is_loud(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _read_seconds(text: str | None) -> int | None:
    """Read a header that gives whole seconds; a date, or anything else, is none."""
    return int(text) if text is not None and text.strip().isdecimal() and len(text) < 10 else None
