"""One ccxt client and what it is used for: creates, cancels and reads each have their own, so that none waits behind another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from threading import RLock
from typing import Any, Final, TypeAlias

import requests

from regime_pipeline.adapters.brokers.capture import Capture, CapturingSession, Check
from regime_pipeline.adapters.brokers.redact import Redactor
from regime_pipeline.adapters.brokers.rows import AbsentError, Json, Row, UnreadableError, parse_json
from regime_pipeline.execution.answers import RawAnswer, Transport
from regime_pipeline.ports import CreateReply

Exchange: TypeAlias = Any
"""A ccxt exchange: its implicit methods are untyped."""
Question = Callable[[Exchange], object]

_MAX_REASON_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question came to: what was on the wire, what ccxt returned, and what it raised."""

    capture: Capture
    result: object
    failure: Exception | None


@dataclass(frozen=True, slots=True)
class Codes:
    """Where a venue's answers say that something is wrong.

    Parameters
    ----------
    code, text : str
        Fields of an answer that refuses.
    ok : frozenset of str
        Codes that mean success; with an empty text: no code at all.
    absent : frozenset of str
        Codes that prove that there is no such order.
    limited : frozenset of str
        Codes that ask for rest.
    """

    code: str
    text: str
    ok: frozenset[str]
    absent: frozenset[str]
    limited: frozenset[str]


class Lane:
    """Asks one question at a time; whatever ccxt raises stays here.

    Parameters
    ----------
    now_ms : callable
        Venue-corrected epoch milliseconds, which requests are stamped with unless a stamp is pinned.
    """

    def __init__(self, exchange: Exchange, session: CapturingSession, redactor: Redactor, now_ms: Callable[[], int]) -> None:
        self.exchange, self.session, self.redactor = exchange, session, redactor
        self._now_ms = now_ms
        self._pinned_ms: int | None = None
        self._lock = RLock()
        exchange.nonce = self._stamp

    def ask(self, question: Question, check: Check | None = None, *, stamp_ms: int | None = None, window_ms: int | None = None) -> Asked:
        """Ask; never raises.

        Parameters
        ----------
        check : Check, optional
            With it one request may leave and only if it passes.
        stamp_ms, window_ms : int, optional
            Time the request is stamped with, and its age from which the venue refuses it; by default now, and the client's option.
        """
        with self._lock:
            usual = self.exchange.options.get("recvWindow")
            self._pinned_ms = stamp_ms
            if window_ms is not None:
                self.exchange.options["recvWindow"] = window_ms
            result, failure = None, None
            try:
                with self.session.capturing(check) as capture:
                    try:
                        result = question(self.exchange)
                    except Exception as error:  # noqa: BLE001 - whatever ccxt makes of an answer is put aside
                        failure = error
            finally:
                self._pinned_ms = None
                self.exchange.options["recvWindow"] = usual
        return Asked(capture, result, failure)

    def read(self, question: Question, codes: Codes) -> Json:
        """Ask for something that is to be read, and give its JSON.

        Raises
        ------
        AbsentError
            When the venue says, with a code of its list, that there is no such thing.
        UnreadableError
            When it says anything else, or nothing.
        """
        return self.judge(self.ask(question), codes)

    def judge(self, asked: Asked, codes: Codes) -> Json:
        """Give the JSON of an answer; raises as `read`."""
        capture, failure = asked.capture, asked.failure
        if capture.answer is None:
            why = capture.blocked or (type(failure).__name__ if failure is not None else "nothing was asked")
            raise UnreadableError(f"NOT_SENT: {why}")
        answer = capture.answer
        if answer.transport is not Transport.ANSWERED or answer.status is None:
            raise UnreadableError(answer.transport.name)
        rest_s = float(capture.retry_after_s) if capture.retry_after_s is not None else None
        try:
            content = parse_json(answer.body)
        except UnreadableError as error:
            raise UnreadableError(f"HTTP_{answer.status} {error.reason}", rest_s) from None
        code, text = _refusal(content, codes)
        if answer.status == 200 and code in codes.ok:
            return content
        if code in codes.absent and answer.status < 500:
            raise AbsentError
        is_limited = answer.status in {418, 429} or code in codes.limited
        raise UnreadableError(
            self.redactor.clean(f"HTTP_{answer.status} {code} {text}".strip())[:_MAX_REASON_CHARS], rest_s if is_limited else None
        )

    def reply(self, asked: Asked) -> CreateReply:
        """Give the answer as it came, without secrets; where nothing left it is NOT_BUILT, with the reason for a body."""
        capture = asked.capture
        if capture.answer is None:
            return self.unsent(capture.blocked or f"{type(asked.failure).__name__}: {asked.failure}")
        answer = capture.answer
        cleaned = RawAnswer(answer.transport, answer.status, self.redactor.clean_bytes(answer.body))
        return CreateReply(cleaned, capture.retry_after_s)

    def unsent(self, reason: str) -> CreateReply:
        """Say that nothing left, and why."""
        return CreateReply(RawAnswer(Transport.NOT_BUILT, None, self.redactor.clean(reason)[:_MAX_REASON_CHARS].encode()))

    def _stamp(self) -> int:
        return self._now_ms() if self._pinned_ms is None else self._pinned_ms


def find_difference(sent: Mapping[str, object], wanted: Mapping[str, object], ignored: frozenset[str]) -> str | None:
    """Compare what is about to leave with what was decided, numbers by their value; names the first field that differs."""
    if unknown := sorted(sent.keys() - wanted.keys() - ignored):
        return f"{unknown[0]} was added"
    for name, value in wanted.items():
        given = sent.get(name)
        if not (_is_number(given, value) if isinstance(value, Decimal) else given == value):
            return f"{name} was {given!r}, decided was {value!s}"
    return None


def _is_number(given: object, wanted: Decimal) -> bool:
    try:
        return isinstance(given, str | int) and Decimal(given) == wanted
    except ArithmeticError:
        return False


def path_of(request: requests.PreparedRequest) -> str:
    """Path of a request, without host and query."""
    return request.path_url.partition("?")[0]


def _refusal(content: Json, codes: Codes) -> tuple[str, str]:
    """Code and text with which an answer refuses; empty where it has none."""
    if not isinstance(content, dict):
        return "", ""
    row = Row(content, "answer")
    return row.said(codes.code) or "", row.said(codes.text) or ""
