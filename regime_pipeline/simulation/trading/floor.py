"""The trading floor: a desk per venue, one clock with a skew, one script of faults, and the record of every create that came in."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from threading import Lock
from typing import Any, Final

from regime_pipeline.errors import BadInputError
from regime_pipeline.simulation.answers import Answer
from regime_pipeline.simulation.trading.binance import BinanceDesk
from regime_pipeline.simulation.trading.book import TradingBook
from regime_pipeline.simulation.trading.bybit import BybitDesk
from regime_pipeline.simulation.trading.calls import HttpCall
from regime_pipeline.simulation.trading.desk import Desk
from regime_pipeline.simulation.trading.hand import Hand
from regime_pipeline.simulation.trading.keys import ApiKeys
from regime_pipeline.simulation.trading.script import Script, ScriptEntry
from regime_pipeline.simulation.trading.truth import tell_truth
from regime_pipeline.simulation.trading.values import MarketType

_DESKS: Final[dict[MarketType, type[BinanceDesk] | type[BybitDesk]]] = {MarketType.SPOT: BinanceDesk, MarketType.LINEAR: BybitDesk}


@dataclass(slots=True)
class Received:
    """A create that reached the server, whatever became of it."""

    venue: str
    client_id: str
    params: dict[str, str]
    at_ms: int
    taken_ms: int | None = None  # when the book was asked; None: it never was, or not yet
    status: int | None = None  # of the book's own answer
    code: str = ""  # refusal by the book's own answer; empty when accepted


class TradingFloor:
    """Every book of a simulated venue behind its API. It needs no sockets: `handle` serves a request as it came."""

    def __init__(self, *books: TradingBook, keys: ApiKeys | None = None) -> None:
        """Open a desk per book; one book per market type.

        Raises
        ------
        BadInputError
            When two books have one market type.
        """
        self.keys = keys or ApiKeys()
        self.desks: dict[str, Desk] = {}
        for book in books:
            desk: Desk = _DESKS[book.market_type](book, self.keys)
            if desk.prefix in self.desks:
                raise BadInputError(f"market type {book.market_type} was given twice: a venue has one book of each. Give one.")
            self.desks[desk.prefix] = desk
        self.script = Script()
        self.skew_ms = 0
        self.requests: Counter[str] = Counter()
        self._received: list[Received] = []
        self._lock = Lock()

    def desk(self, market_type: MarketType | str) -> Desk:
        """Give the desk of a market type.

        Raises
        ------
        BadInputError
            When there is no such book.
        """
        for desk in self.desks.values():
            if desk.book.market_type == MarketType(market_type):
                return desk
        raise BadInputError(f"market type was {market_type}: this venue has no such book. Construct it with one.")

    def hand(self, market_type: MarketType | str, clock_ms: Callable[[], int]) -> Hand:
        """Give a tester's hand in a book; `clock_ms` is the clock without skew."""
        return Hand(self.desk(market_type).book, partial(self._skewed, clock_ms))

    def now_ms(self, clock_ms: int) -> int:
        """Give the venue's time: the clock's and the skew."""
        return clock_ms + self.skew_ms

    def record(self, desk: Desk, call: HttpCall, now_ms: int) -> Received | None:
        """Count a request, and note it down when it is a create."""
        with self._lock:
            self.requests[call.endpoint] += 1
            if call.endpoint != desk.create_endpoint:
                return None
            note = Received(desk.prefix, desk.client_id(call), dict(call.params), now_ms)
            self._received.append(note)
            return note

    def take(self, desk: Desk, call: HttpCall, now_ms: int, note: Received | None) -> Answer:
        """Let the book serve a request, and note how it answered."""
        answer = desk.answer(call, now_ms)
        if note is not None:
            note.taken_ms, note.status, note.code = now_ms, answer.status, _code(answer)
        return answer

    def handle(self, prefix: str, call: HttpCall, clock_ms: int) -> Answer:
        """Serve a request at once and without sockets; of a script only `accept`, `late_ms` and the answer count."""
        desk, now_ms = self.desks[prefix], self.now_ms(clock_ms)
        note = self.record(desk, call, now_ms)
        entry = self.script.take(call)
        if entry is None:
            return self.take(desk, call, now_ms, note)
        return scripted(entry, self.serve(desk, call, entry, now_ms, note))

    def serve(self, desk: Desk, call: HttpCall, entry: ScriptEntry, now_ms: int, note: Received | None) -> Answer:
        """Let the book serve a scripted request; when it never takes it, a copy says what the answer would have been."""
        if entry.accept == "never":
            return desk.twin().answer(call, now_ms + entry.late_ms)
        return self.take(desk, call, now_ms + entry.late_ms, note)

    def truth(self) -> dict[str, Any]:
        """Tell everything: creates received (refused ones too), requests by endpoint, and each book by market type."""
        with self._lock:
            received = [asdict(note) for note in self._received]
            requests = dict(self.requests)
        books = {desk.book.market_type.value: tell_truth(desk.book) for desk in self.desks.values()}
        return {"received": received, "requests": requests, "books": books}

    def _skewed(self, clock_ms: Callable[[], int]) -> int:
        return self.now_ms(clock_ms())


def scripted(entry: ScriptEntry, normal: Answer) -> Answer:
    """Replace of a normal answer what an entry says."""
    text = entry.text()
    headers = {**normal.headers, **entry.headers}
    if text is None:
        return Answer(normal.body, entry.status or normal.status, headers)
    if "content-type" not in {name.lower() for name in headers}:
        kind = "application/json" if text.lstrip().startswith(("{", "[")) else "text/html"
        headers["Content-Type"] = f"{kind};charset=UTF-8"
    return Answer(text, entry.status or 200, headers)


def _code(answer: Answer) -> str:
    body = answer.body if isinstance(answer.body, dict) else {}
    code = str(body.get("code", body.get("retCode", "")))
    return "" if code == "0" else code
