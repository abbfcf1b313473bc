"""What an answer means before anybody reads its numbers: whom to ask again, whom to leave alone, and what is no answer at all."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf, isfinite
from typing import Any, Final, NoReturn

import numpy as np

from regime_pipeline.adapters.venues.http import Answer
from regime_pipeline.errors import SourceError, SourceUnavailableError
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe

SLOW_DOWN_S: Final = 60.0
"""Binance counts weight per minute: after a 429 without Retry-After the next minute is the first that can be any better."""
BAN_S: Final = 3600.0
"""How long a venue is left alone after a 418 or a 403 that names no time."""
CLOCK_AHEAD_S: Final = float(Timeframe.M1.grace_s)
"""A clock further ahead of a venue's than the grace after a minute's end takes the forming bar for a closed one."""
LONGEST_HALT_S: Final = 86_400.0
"""A header can silence a venue for a day, not for ever."""
BarRow = tuple[int, float, float, float, float, float]
"""Open time in epoch milliseconds, open, high, low, close, quote volume."""
_FAR_MS: Final = 10**14
"""The year 5138; int64 and dates hold it, which cannot be said of every number in a lying body."""
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")


class TryAgainError(SourceUnavailableError):
    """A read that failed and may be repeated.

    Parameters
    ----------
    wait_s : float, optional
        Seconds the venue asked us to wait.
    is_slow_down : bool
        The venue has had too many requests of ours (429): others must not be sent either.
    """

    def __init__(self, message: str, wait_s: float | None = None, *, is_slow_down: bool = False) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.is_slow_down = is_slow_down


class StayAwayError(SourceError):
    """The venue will not talk to us: `halt_s` seconds, or None until a person has looked."""

    def __init__(self, message: str, halt_s: float | None) -> None:
        super().__init__(message)
        self.halt_s = halt_s


def check_status(venue: str, answer: Answer, now: datetime) -> None:
    """Pass a 2xx, and refuse the rest by what to do next.

    Raises
    ------
    StayAwayError
        418 (banned) and 403 that is a page of a firewall, until Retry-After or an hour: they end by themselves. 451 (our country) does
        not: a person must move the machine or drop the venue.
    TryAgainError
        429, 408 and 5xx: reads are safe to repeat.
    SourceError
        Any other status, redirects included: the same question would be refused again.
    """
    if 200 <= answer.status < 300:
        return
    said = f"{venue} answered {answer.status} ({excerpt(answer.body)})"
    asked_s = retry_after_s(answer.headers, now)
    if answer.status == 451:
        raise StayAwayError(f"{said}: it does not serve this place. Run from another, or take its sources out of the universe", None)
    if answer.status == 418 or (answer.status == 403 and not answer.body.lstrip().startswith("{")):
        raise StayAwayError(f"{said}: it has blocked us", min(asked_s or BAN_S, LONGEST_HALT_S))
    if answer.status == 429:
        wait_s = SLOW_DOWN_S if asked_s is None else min(asked_s, LONGEST_HALT_S)
        raise TryAgainError(f"{said}: too many requests; nothing is lost, they are asked again later.", wait_s, is_slow_down=True)
    if answer.status == 408 or answer.status >= 500:
        raise TryAgainError(f"{said}: it is asked again later.", asked_s)
    raise SourceError(f"{said}: the request was refused. Check the symbols and venues of the universe file, and the settings.")


def check_clock(venue: str, answer: Answer, asked: datetime) -> None:
    """Pass an answer that is not older than its question, by the venue's own clock (its Date header, whole seconds, if it has one).

    Our clock decides which bars are closed, and nothing in a REST answer says that one of them is not. A clock behind the venue's only
    makes us late.

    Raises
    ------
    TryAgainError
        When our clock was further ahead than `CLOCK_AHEAD_S`, or an old answer was served again.
    """
    text = next((value for name, value in answer.headers.items() if name.lower() == "date"), "")
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return
    ahead_s = (asked - at.replace(tzinfo=at.tzinfo or UTC)).total_seconds()
    if ahead_s > CLOCK_AHEAD_S:
        said = f"{venue} says that it is {at:%Y-%m-%d %H:%M:%S}, {ahead_s:.0f} s before our clock asked"
        raise TryAgainError(f"{said}: its open bars would pass for closed ones. If other venues say the same, set this machine's clock.")


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Read Retry-After, seconds or an HTTP date, as seconds from now (never negative); None when absent or unreadable."""
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())


def read_list(venue: str, what: str, answer: Answer) -> list[Any]:
    """Parse a body as a JSON list.

    Raises
    ------
    TryAgainError
        When it is anything else: an HTML page with status 200, a body cut short, `null`, an error object.
    """
    parsed = _read_json(venue, what, answer)
    if not isinstance(parsed, list):
        refuse(venue, what, f"was not a JSON list ({excerpt(answer.body)})")
    return parsed


def read_object(venue: str, what: str, answer: Answer) -> dict[str, Any]:
    """Parse a body as a JSON object.

    Raises
    ------
    TryAgainError
        When it is anything else, as for `read_list`.
    """
    parsed = _read_json(venue, what, answer)
    if not isinstance(parsed, dict):
        refuse(venue, what, f"was not a JSON object ({excerpt(answer.body)})")
    return parsed


def check_json(venue: str, what: str, answer: Answer) -> None:
    """Pass a body that somebody else reads: JSON, a list or an object with something in it.

    Raises
    ------
    TryAgainError
        For all that ccxt's unified methods take for "no bars": a page of HTML, a body cut short, `null`, `{}`.
    """
    parsed = _read_json(venue, what, answer)
    if not isinstance(parsed, list | dict) or parsed == {}:
        refuse(venue, what, f"held nothing ({excerpt(answer.body)})")


def refuse(venue: str, what: str, why: str) -> NoReturn:
    """Refuse a whole answer."""
    raise TryAgainError(f"{venue}: the answer to {what} {why}; nothing of it is used, it is asked again later.")


def read_number(value: object) -> float:
    """Read a number as venues spell it, text or JSON number.

    Raises
    ------
    ValueError
        When it is null, a boolean, not a plain decimal or not finite.
    """
    if type(value) in {int, float} or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        try:
            number = float(value)  # type: ignore[arg-type]  # one of the three
        except OverflowError:  # a JSON integer has no bounds
            number = inf
        if isfinite(number):
            return number
    raise ValueError(f"{value!r} where a finite number belongs")


def read_stamp_ms(value: object) -> int:
    """Read an instant in epoch milliseconds.

    Raises
    ------
    ValueError
        When it is no whole number, or before 1970 or so far ahead that no clock could mean it.
    """
    if type(value) is int and 0 <= value < _FAR_MS:
        return value
    raise ValueError(f"{value!r} where a time in milliseconds belongs")


def find_page_fault(ts_ms: Sequence[int], timeframe: Timeframe, start_s: int, end_s: int, limit: int) -> str | None:
    """Say what is wrong with the open times of a page, or None.

    Parameters
    ----------
    ts_ms : sequence of int
        Open times as delivered, epoch milliseconds.
    start_s, end_s : int
        What was asked for: [start, end), epoch seconds.
    limit : int
        Rows asked for at most.
    """
    if len(ts_ms) > limit:
        return f"had {len(ts_ms)} rows where at most {limit} were asked for"
    opens = np.array(ts_ms, dtype=np.int64)
    faults = {
        "is off the grid": opens % (timeframe.seconds * 1000) != 0,
        "is not one that was asked for": (opens < start_s * 1000) | (opens >= end_s * 1000),
        "does not follow the one before it": np.diff(opens, prepend=opens[:1] - 1) <= 0,
    }
    for fault, rows in faults.items():
        if rows.any():
            row = int(np.argmax(rows))
            return f"had a {timeframe} bar (row {row} of {len(opens)}, {show_ms(ts_ms[row])}) that {fault}"
    return None


def build_bars(venue: str, what: str, rows: Sequence[BarRow], timeframe: Timeframe, start_s: int, end_s: int, limit: int) -> RawBars:
    """Make bars of the rows of a page.

    Raises
    ------
    TryAgainError
        When there is a `find_page_fault`: none of the page is kept then.
    """
    fault = find_page_fault([row[0] for row in rows], timeframe, start_s, end_s, limit)
    if fault is not None:
        refuse(venue, what, fault)
    if not rows:
        return RawBars.empty()
    ts_ms, *values = zip(*rows, strict=True)
    return RawBars([ts // 1000 for ts in ts_ms], *values)  # type: ignore[arg-type]  # RawBars makes arrays of its columns


def show_ms(stamp_ms: int) -> str:
    """Spell an instant for a message; a number that is no instant stays a number."""
    try:
        return f"{datetime.fromtimestamp(stamp_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return str(stamp_ms)


def excerpt(body: str, length: int = 120) -> str:
    """Shorten a body to one line for a message."""
    line = " ".join(body[: 4 * length].split())
    return f"{line[:length]}..." if len(line) > length else line or "empty"


def _read_json(venue: str, what: str, answer: Answer) -> object:
    try:
        return json.loads(answer.body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        refuse(venue, what, f"was not JSON ({excerpt(answer.body)})")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
