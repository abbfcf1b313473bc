"""Faults of single requests, by script: which one, whether the book takes it, and what its client hears of that."""

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from threading import Lock
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from regime_pipeline.simulation.trading.calls import HttpCall

FOR_EVER = 0
"""As `repeat`: until the script is reset."""


class ScriptEntry(BaseModel):
    """One fault. It counts the requests that match it and happens to the `nth` and to those after it, `repeat` in all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    on: str = Field(description="Method and path below the venue's prefix, as `POST /api/v3/order`; * matches anything.")
    where: Mapping[str, str] = Field(default_factory=dict, description="Parameters that a request must have to match.")
    nth: int = Field(1, ge=1, description="First match that it happens to, counted from when the entry was added.")
    repeat: int = Field(1, ge=FOR_EVER, description="To how many matches in a row; 0: to all from then on.")
    accept: Literal["before", "after", "never"] = Field("before", description="When the book takes the request: before the delay or after.")
    delay_ms: int = Field(0, ge=0, description="Real milliseconds before the answer; very many: the client gives up first.")
    hold_ms: int = Field(0, ge=0, description="With `accept` after: virtual milliseconds until the request gets to the book.")
    late_ms: int = Field(0, ge=0, description="Virtual milliseconds by which the book sees the request later than it came.")
    status: int | None = Field(None, ge=100, le=599, description="Status of the answer; unset: the book's, or 200 with a body given.")
    headers: Mapping[str, str] = Field(default_factory=dict, description="Headers of the answer, beside or instead of the usual ones.")
    body: Any = Field(None, description="Body of the answer: text as it is, anything else as JSON; unset: the book's answer.")
    cut: Literal["none", "reset", "fin", "truncate", "tls"] = Field("none", description="How the connection ends instead of well.")

    def matches(self, call: HttpCall) -> bool:
        """Tell whether a request is one that it may happen to."""
        return fnmatchcase(call.endpoint, self.on) and all(call.params.get(name) == value for name, value in self.where.items())

    def text(self) -> str | None:
        """Give the body as it is sent; None: the book's own answer."""
        return self.body if self.body is None or isinstance(self.body, str) else json.dumps(self.body)


class Script:
    """The entries in force; of several that are due the one added first happens, and all of them count the request."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._entries: list[ScriptEntry] = []
        self._matches: list[int] = []
        self.happened: list[tuple[str, ScriptEntry]] = []

    def add(self, *entries: ScriptEntry | Mapping[str, Any]) -> None:
        """Add entries, given as such or as their fields."""
        with self._lock:
            for entry in entries:
                self._entries.append(entry if isinstance(entry, ScriptEntry) else ScriptEntry.model_validate(dict(entry)))
                self._matches.append(0)

    def take(self, call: HttpCall) -> ScriptEntry | None:
        """Count a request and give the fault that happens to it."""
        with self._lock:
            chosen = None
            for at, entry in enumerate(self._entries):
                if not entry.matches(call):
                    continue
                self._matches[at] += 1
                since = self._matches[at] - entry.nth
                if chosen is None and since >= 0 and (entry.repeat == FOR_EVER or since < entry.repeat):
                    chosen = entry
            if chosen is not None:
                self.happened.append((call.endpoint, chosen))
            return chosen

    def reset(self) -> None:
        """Forget every entry and every count."""
        with self._lock:
            self._entries, self._matches, self.happened = [], [], []

    def listed(self) -> list[dict[str, Any]]:
        """List the entries and how often each was matched."""
        with self._lock:
            return [
                entry.model_dump(mode="json") | {"matches": matches} for entry, matches in zip(self._entries, self._matches, strict=True)
            ]
