"""What a venue's answer to a create means, from its HTTP status and its raw body: a list per venue, and UNKNOWN for all else.

A refusal needs proof from the list, an acceptance the order's id and the echo of ours. The type of an exception proves nothing:
a client library may turn a 200 page into an order and a gateway's 524 into a refusal.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from regime_pipeline.execution.keys import ClientIdForm
from regime_pipeline.execution.order_states import OrderState

MAX_BODY_BYTES: Final = 1_000_000  # an answer to one create is below 10 kB
FIRST_PAUSE_S: Final = 60
LONGEST_PAUSE_S: Final = 900


class Transport(StrEnum):
    """How far a request came, proven below the client library."""

    ANSWERED = "answered"
    TIMED_OUT = "timed_out"
    BROKEN = "broken"  # reset, FIN, truncated body, TLS cut
    NOT_CONNECTED = "not_connected"  # refused or name not resolved, proven by the chain of exceptions
    NOT_BUILT = "not_built"  # the client library refused the order before sending


class AnswerClass(StrEnum):
    """What an answer proves."""

    ACCEPTED = "ACCEPTED"
    REFUSED = "REFUSED"
    LIMITED = "LIMITED"
    CLOCK = "CLOCK"
    DUPLICATE = "DUPLICATE"
    NOT_SENT = "NOT_SENT"
    UNKNOWN = "UNKNOWN"


class Action(StrEnum):
    """What else an answer asks for."""

    RESOLVE = "resolve"  # the ladder
    PAUSE_CREATES = "pause_creates"  # for the IP and the account
    MEASURE_CLOCK = "measure_clock"
    CHECK_BALANCES = "check_balances"
    COUNT_AUTH_REFUSAL = "count_auth_refusal"  # three in a row: entries off, page
    REPORT_CONFIG = "report_config"  # incident: something is set up wrongly
    ENTRIES_OFF = "entries_off"  # while it lasts


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer before anybody has interpreted it."""

    transport: Transport
    status: int | None = None
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """One line of a venue's list: these codes, this text in the message, under these statuses (none: all the venue uses)."""

    answer_class: AnswerClass
    reason: str
    codes: frozenset[str] = frozenset()
    text: str = ""
    statuses: frozenset[int] = frozenset()
    actions: tuple[Action, ...] = ()

    def matches(self, status: int, code: str, text: str) -> bool:
        """Tell whether an answer is the one of this line."""
        return (
            (not self.statuses or status in self.statuses) and (not self.codes or code in self.codes) and self.text.lower() in text.lower()
        )


Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class VenueProfile:
    """Where a venue's answers carry what, and which of its refusals are final; the first rule that matches counts.

    `ended_words` are the statuses by which an acceptance says that the order has traded or ended already, where it says so.
    """

    name: str
    client_id_form: ClientIdForm
    order_id_paths: tuple[Path, ...]
    client_id_paths: tuple[Path, ...]
    code_path: Path
    text_paths: tuple[Path, ...]
    ok_codes: frozenset[str]
    error_statuses: frozenset[int]
    rules: tuple[AnswerRule, ...]
    cancel_echo_paths: tuple[Path, ...]
    expires: bool  # whether the venue refuses a create older than the request window, shown by an acceptance test
    status_paths: tuple[Path, ...] = ()
    ended_words: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AnswerVerdict:
    """Class of an answer, the venue's code for it, the order's next state (None: by its fills) and what else to do.

    `has_moved` tells that an acceptance speaks of trades or of an end: the order is read before the answer is booked.
    """

    answer_class: AnswerClass
    reason: str
    next_state: OrderState | None
    actions: tuple[Action, ...] = ()
    venue_order_id: str | None = None
    code: str = ""
    has_moved: bool = False


NEXT_STATES: Final[Mapping[AnswerClass, OrderState | None]] = {
    AnswerClass.ACCEPTED: None,
    AnswerClass.REFUSED: OrderState.REJECTED,
    AnswerClass.LIMITED: OrderState.REJECTED,
    AnswerClass.CLOCK: OrderState.REJECTED,
    AnswerClass.NOT_SENT: OrderState.REJECTED,
    AnswerClass.DUPLICATE: OrderState.UNKNOWN,
    AnswerClass.UNKNOWN: OrderState.UNKNOWN,
}


def classify_answer(profile: VenueProfile, answer: RawAnswer, client_id: str) -> AnswerVerdict:
    """Say what an answer to `create_order` proves; never raises, and what is not listed is UNKNOWN.

    Parameters
    ----------
    profile : VenueProfile
        The venue's list.
    answer : RawAnswer
        Status and body as they came, captured before any parsing.
    client_id : str
        Our id as this venue spells it; an acceptance must echo it.
    """
    match answer.transport:
        case Transport.NOT_BUILT:
            return _verdict(AnswerClass.REFUSED, "CONFIG", (Action.REPORT_CONFIG,))
        case Transport.NOT_CONNECTED:
            return _verdict(AnswerClass.NOT_SENT, "NOT_CONNECTED")
        case Transport.TIMED_OUT | Transport.BROKEN:
            return _unknown(answer.transport.name)
    status = answer.status
    if status is None or not 200 <= status < 500:
        return _unknown("NO_STATUS" if status is None else f"HTTP_{status}")
    if 300 <= status < 400:
        return _unknown(f"HTTP_{status}", Action.REPORT_CONFIG)
    body = _parse(answer.body)
    code = _text_at(body, (profile.code_path,))
    if status < 300 and code in profile.ok_codes:
        accepted = _accept(profile, body, client_id)
        if accepted is not None:
            return accepted
    if status in profile.error_statuses:
        text = _text_at(body, profile.text_paths)
        for rule in profile.rules:
            if (code or text) and rule.matches(status, code, text):
                actions = (Action.RESOLVE,) if rule.answer_class is AnswerClass.DUPLICATE else ()
                return _verdict(rule.answer_class, rule.reason, (*actions, *rule.actions), code=code)
    # A page of somebody before the venue: entries wait until the venue itself speaks again.
    off = (Action.ENTRIES_OFF,) if status >= 400 and not code else ()
    return _unknown(f"HTTP_{status}" if status >= 400 else "NO_PROOF", *off, code=code)


def is_cancel_echo(profile: VenueProfile, body: bytes, client_id: str) -> bool:
    """Tell whether an answer to a cancel is about our order; it never proves that the order is cancelled, only a read does."""
    return _text_at(_parse(body), profile.cancel_echo_paths) == client_id


def plan_pause_s(retry_after_s: int | None, last_pause_s: int | None) -> int:
    """Seconds in which no create leaves after LIMITED: what the venue asks, else 60 doubling to 15 min while it goes on."""
    if retry_after_s is not None and retry_after_s > 0:
        return retry_after_s
    return FIRST_PAUSE_S if last_pause_s is None else min(2 * last_pause_s, LONGEST_PAUSE_S)


def _accept(profile: VenueProfile, body: object, client_id: str) -> AnswerVerdict | None:
    order_id = _text_at(body, profile.order_id_paths)
    echo = _text_at(body, profile.client_id_paths)
    if order_id in {"", "0"}:
        return None
    if echo != client_id:
        return _unknown("OTHER_ID" if echo else "NO_ECHO")
    has_moved = _text_at(body, profile.status_paths) in profile.ended_words
    return replace(_verdict(AnswerClass.ACCEPTED, "ACCEPTED", venue_order_id=order_id), has_moved=has_moved)


def _verdict(
    answer_class: AnswerClass, reason: str, actions: tuple[Action, ...] = (), *, venue_order_id: str | None = None, code: str = ""
) -> AnswerVerdict:
    return AnswerVerdict(answer_class, reason, NEXT_STATES[answer_class], actions, venue_order_id, code)


def _unknown(reason: str, *actions: Action, code: str = "") -> AnswerVerdict:
    return _verdict(AnswerClass.UNKNOWN, reason, (Action.RESOLVE, *actions), code=code)


def _parse(body: bytes) -> object:
    """Read JSON, or nothing where there is none that a venue would send."""
    if len(body) > MAX_BODY_BYTES:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _text_at(body: object, paths: tuple[Path, ...]) -> str:
    """Text or whole number at the first path that leads to one, as text; empty where none does."""
    for path in paths:
        here = body
        for key in path:
            if isinstance(key, str) and isinstance(here, dict):
                here = here.get(key)
            elif isinstance(key, int) and isinstance(here, list) and len(here) > key:
                here = here[key]
            else:
                here = None
        if isinstance(here, str) or (isinstance(here, int) and not isinstance(here, bool) and abs(here) < 10**30):
            return str(here)
    return ""


def _codes(*codes: int) -> frozenset[str]:
    return frozenset(map(str, codes))


_A: Final = AnswerClass
_4XX: Final = frozenset(range(400, 500))

BINANCE: Final = VenueProfile(
    name="binance",
    client_id_form=ClientIdForm.HEX,
    order_id_paths=(("orderId",),),
    client_id_paths=(("clientOrderId",),),
    code_path=("code",),
    text_paths=(("msg",),),
    ok_codes=frozenset({""}),
    error_statuses=_4XX,
    cancel_echo_paths=(("origClientOrderId",),),  # `clientOrderId` is the cancel's own
    expires=True,
    status_paths=(("status",),),
    ended_words=frozenset({"PARTIALLY_FILLED", "FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH"}),
    rules=(
        AnswerRule(_A.LIMITED, "RATE", _codes(-1003, -1015), statuses=frozenset({418, 429}), actions=(Action.PAUSE_CREATES,)),
        AnswerRule(_A.CLOCK, "WINDOW", _codes(-1021), actions=(Action.MEASURE_CLOCK,)),
        AnswerRule(_A.DUPLICATE, "DUPLICATE_ID", _codes(-2010), text="duplicate order sent"),
        AnswerRule(_A.DUPLICATE, "DUPLICATE_ID", _codes(-4116)),
        AnswerRule(_A.REFUSED, "BALANCE", _codes(-2010), text="insufficient balance", actions=(Action.CHECK_BALANCES,)),
        AnswerRule(_A.REFUSED, "MARKET_CLOSED", _codes(-2010), text="market is closed", actions=(Action.ENTRIES_OFF,)),
        AnswerRule(_A.REFUSED, "WOULD_MATCH", _codes(-2010), text="would immediately match"),
        AnswerRule(_A.REFUSED, "FILTER", _codes(-1013, -1111)),
        AnswerRule(_A.REFUSED, "BAD_SYMBOL", _codes(-1121)),
        AnswerRule(_A.REFUSED, "BAD_REQUEST", _codes(*range(-1106, -1099))),
        AnswerRule(_A.REFUSED, "AUTH", _codes(-2014, -2015, -1022, -1002), actions=(Action.COUNT_AUTH_REFUSAL,)),
    ),
)

BYBIT: Final = VenueProfile(
    name="bybit",
    client_id_form=ClientIdForm.HEX,
    order_id_paths=(("result", "orderId"),),
    client_id_paths=(("result", "orderLinkId"),),
    code_path=("retCode",),
    text_paths=(("retMsg",),),
    ok_codes=frozenset({"0"}),
    error_statuses=_4XX | {200},  # refusals come with 200
    cancel_echo_paths=(("result", "orderLinkId"),),
    expires=True,
    rules=(
        AnswerRule(_A.LIMITED, "RATE", _codes(10006, 10018), actions=(Action.PAUSE_CREATES,)),
        AnswerRule(_A.CLOCK, "WINDOW", _codes(10002), actions=(Action.MEASURE_CLOCK,)),
        AnswerRule(_A.DUPLICATE, "DUPLICATE_ID", _codes(110072, 170141, 12141)),
        AnswerRule(_A.REFUSED, "BALANCE", _codes(110004, 110007, 110012, 110052, 170033, 170131), actions=(Action.CHECK_BALANCES,)),
        AnswerRule(_A.REFUSED, "MARKET_CLOSED", _codes(110066), actions=(Action.ENTRIES_OFF,)),
        AnswerRule(_A.REFUSED, "REDUCE_ONLY", _codes(110017)),
        AnswerRule(_A.REFUSED, "FILTER", _codes(110003, 110094, 170124, 170132, 170133, 170134, 170135, 170136, 170137, 170140)),
        AnswerRule(_A.REFUSED, "BAD_SYMBOL", _codes(170121)),
        AnswerRule(_A.REFUSED, "BAD_REQUEST", _codes(10001)),
        AnswerRule(_A.REFUSED, "AUTH", _codes(10003, 10004, 10005, 10010, 33004), actions=(Action.COUNT_AUTH_REFUSAL,)),
    ),
)

PAPER: Final = replace(BINANCE, name="paper")  # our own broker answers in Binance's words

_HL_STATUS: Final[Path] = ("response", "data", "statuses", 0)

HYPERLIQUID: Final = VenueProfile(
    name="hyperliquid",
    client_id_form=ClientIdForm.HYPERLIQUID,
    order_id_paths=((*_HL_STATUS, "resting", "oid"), (*_HL_STATUS, "filled", "oid")),
    client_id_paths=((*_HL_STATUS, "resting", "cloid"), (*_HL_STATUS, "filled", "cloid")),
    code_path=("status",),
    text_paths=((*_HL_STATUS, "error"), ("response",)),
    ok_codes=frozenset({"ok"}),
    error_statuses=frozenset({200}),  # refusals have no code, only their text
    cancel_echo_paths=(),
    expires=False,  # until an acceptance test has shown that `expiresAfter` is kept
    rules=(
        AnswerRule(_A.LIMITED, "RATE", text="too many cumulative requests sent", actions=(Action.PAUSE_CREATES,)),
        AnswerRule(_A.REFUSED, "BALANCE", text="insufficient margin to place order", actions=(Action.CHECK_BALANCES,)),
        AnswerRule(_A.REFUSED, "BALANCE", text="insufficient spot balance", actions=(Action.CHECK_BALANCES,)),
        AnswerRule(_A.REFUSED, "REDUCE_ONLY", text="reduce only order would increase position"),
        AnswerRule(_A.REFUSED, "WOULD_MATCH", text="post only order would have immediately matched"),
        AnswerRule(_A.REFUSED, "NO_MATCH", text="could not immediately match against any resting orders"),
        AnswerRule(_A.REFUSED, "NO_MATCH", text="no liquidity available for market order"),
        AnswerRule(_A.REFUSED, "FILTER", text="order must have minimum value"),
        AnswerRule(_A.REFUSED, "FILTER", text="price must be divisible by tick size"),
        AnswerRule(_A.REFUSED, "FILTER", text="order has invalid size"),
        AnswerRule(_A.REFUSED, "FILTER", text="order has zero size"),
        AnswerRule(_A.REFUSED, "FILTER", text="away from the reference price"),
        AnswerRule(_A.REFUSED, "AUTH", text="user or api wallet", actions=(Action.COUNT_AUTH_REFUSAL,)),
    ),
)

PROFILES: Final[Mapping[str, VenueProfile]] = {profile.name: profile for profile in (BINANCE, BYBIT, HYPERLIQUID, PAPER)}
