"""What every profile has: a book, its tester's hand, keys, the venue's clock, and counters of what it was asked."""

from copy import deepcopy
from typing import Protocol, Self

from regime_pipeline.simulation.answers import Answer
from regime_pipeline.simulation.trading.book import TradingBook
from regime_pipeline.simulation.trading.calls import HttpCall
from regime_pipeline.simulation.trading.keys import ApiKeys


class Desk(Protocol):
    """One venue's REST API over one book."""

    prefix: str
    create_endpoint: str
    book: TradingBook

    def answer(self, call: HttpCall, now_ms: int) -> Answer:
        """Serve a request at the venue's time; whatever is wrong with it is in the answer."""
        ...

    def client_id(self, call: HttpCall) -> str:
        """Name the client id that a create asks for."""
        ...

    def twin(self) -> "Desk":
        """Copy book and keys: what happens at the copy happens nowhere."""
        ...


class BaseDesk:
    """A desk without an API."""

    def __init__(self, book: TradingBook, keys: ApiKeys) -> None:
        self.book, self.keys = book, keys
        self._minute, self._used = 0, 0

    def twin(self) -> Self:
        """Copy book and keys: what happens at the copy happens nowhere."""
        return type(self)(deepcopy(self.book), deepcopy(self.keys))

    def weigh(self, weight: int, now_ms: int) -> int:
        """Add to the weight used in this minute and tell the sum."""
        minute = now_ms // 60_000
        if minute != self._minute:
            self._minute, self._used = minute, 0
        self._used += weight
        return self._used
