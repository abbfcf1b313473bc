"""Everything one tick of a strategy is decided on, frozen, as plain JSON values and back.

A decision is a function of this and of the code. What is read back from a document decides the same, bit for bit, if all money in it is
tidy (see `documents`), which `tidy_inputs` sees to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.capital import Allocation
from regime_pipeline.portfolio.documents import (
    Document,
    read_facts_document,
    read_position,
    spell,
    write_facts,
    write_position,
)
from regime_pipeline.portfolio.facts import BarFacts
from regime_pipeline.portfolio.plan import Book
from regime_pipeline.portfolio.position import Position
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES
from regime_pipeline.regime.levers import MIN_VALIDITY, Channel

DOCUMENT_VERSION: Final = 1
_CHANNEL: Final = ("age_bars", "delta_a_raw", "delta_e_raw", "driver", "immature", "prev_state", "state", "ts_s", "validity")
_CHANNEL_FLOATS: Final = ("age_bars", "delta_a_raw", "delta_e_raw", "validity")


@dataclass(frozen=True, slots=True)
class LineInputs:
    """What the plan of one position is computed from.

    Parameters
    ----------
    symbol : str
        Unified symbol; one line each.
    bucket : str or None
        Market-cap bucket at the close of the bar.
    position : Position
        As it was before this bar.
    facts, revision : BarFacts or None, int
        Record of this bar, or the newest older one where it has none and an exit is under way; and how often its row was rewritten.
    """

    symbol: str
    bucket: str | None
    position: Position
    facts: BarFacts | None
    revision: int = 0

    def document(self) -> Document:
        """Plain JSON values."""
        return {
            "bucket": self.bucket,
            "facts": None if self.facts is None else write_facts(self.facts),
            "position": write_position(self.position),
            "revision": self.revision,
            "symbol": self.symbol,
        }


@dataclass(frozen=True, slots=True)
class TickInputs:
    """What all positions of a strategy share at a bar, and each of them.

    Parameters
    ----------
    bar_ts_s : int
        Open of the decided bar, epoch seconds.
    book : Book
        Equity, cash that is free now, allocation and switches.
    channels : tuple of Channel or None
        As of the bar's close; None: their read failed as a whole.
    watermarks : mapping of str to str
        Bar and revision of each channel, as `BTC:1h` to `2026-11-20T18:00:00Z#r0`.
    timeframes, min_validity, regime_strength
        As in `regime.levers.LeverInput`.
    entries_off : tuple of (ReasonCode, str)
        Why no position may buy on this bar, with the reason in words; empty when it may.
    opposed : tuple of str
        Symbols that some strategy of the account is selling: not bought at the same time.
    lines : tuple of LineInputs
        By symbol.
    """

    account: str
    strategy: str
    book_id: str
    timeframe: Timeframe
    bar_ts_s: int
    book: Book
    channels: tuple[Channel, ...] | None
    lines: tuple[LineInputs, ...]
    watermarks: Mapping[str, str] = field(default_factory=dict)
    timeframes: tuple[Timeframe, ...] = CHANNEL_TIMEFRAMES
    min_validity: float = MIN_VALIDITY
    regime_strength: float = 1.0
    entries_off: tuple[tuple[ReasonCode, str], ...] = ()
    opposed: tuple[str, ...] = ()

    @property
    def bar_close_s(self) -> int:
        """Close of the decided bar."""
        return self.bar_ts_s + self.timeframe.seconds

    def shared_document(self) -> Document:
        """Plain JSON values of what all positions share."""
        book = self.book
        return {
            "account": self.account,
            "allocation": {
                "pct": spell(book.allocation.alloc_pct),
                "split": {timeframe.value: spell(share) for timeframe, share in book.allocation.split_frac.items()},
            },
            "allow_immature_entries": book.allow_immature_entries,
            "bar_ts": self.bar_ts_s,
            "book": self.book_id,
            "channels": None if self.channels is None else [_write_channel(channel) for channel in self.channels],
            "entries_off": [[code.value, why] for code, why in self.entries_off],
            "equity": spell(book.equity_usd),
            "free_cash": spell(book.free_cash_usd),
            "is_killed": book.is_killed,
            "min_validity": float(self.min_validity),
            "opposed": list(self.opposed),
            "regime_strength": float(self.regime_strength),
            "strategy": self.strategy,
            "timeframe": self.timeframe.value,
            "timeframes": [timeframe.value for timeframe in self.timeframes],
            "trading_enabled": book.trading_enabled,
            "version": DOCUMENT_VERSION,
            "watermarks": dict(self.watermarks),
        }

    def document(self) -> Document:
        """Plain JSON values of everything."""
        return {"lines": [line.document() for line in self.lines], "shared": self.shared_document()}


def read_tick_inputs(document: Mapping[str, Any]) -> TickInputs:
    """Read what `TickInputs.document` wrote."""
    shared: Mapping[str, Any] = document["shared"]
    lines: Sequence[Mapping[str, Any]] = document["lines"]
    timeframe = Timeframe(shared["timeframe"])
    return TickInputs(
        account=shared["account"],
        strategy=shared["strategy"],
        book_id=shared["book"],
        timeframe=timeframe,
        bar_ts_s=shared["bar_ts"],
        book=_read_book(shared),
        channels=None if shared["channels"] is None else tuple(_read_channel(channel) for channel in shared["channels"]),
        lines=tuple(read_line(line, timeframe) for line in lines),
        watermarks=shared["watermarks"],
        timeframes=tuple(Timeframe(each) for each in shared["timeframes"]),
        min_validity=float(shared["min_validity"]),
        regime_strength=float(shared["regime_strength"]),
        entries_off=tuple((ReasonCode(code), why) for code, why in shared["entries_off"]),
        opposed=tuple(shared["opposed"]),
    )


def read_line(found: Mapping[str, Any], timeframe: Timeframe) -> LineInputs:
    """Read what `LineInputs.document` wrote."""
    facts = found["facts"]
    return LineInputs(
        symbol=found["symbol"],
        bucket=found["bucket"],
        position=read_position(found["position"], timeframe),
        facts=None if facts is None else read_facts_document(facts),
        revision=found["revision"],
    )


def tidy_inputs(inputs: TickInputs) -> TickInputs:
    """Make inputs what they read back as, so that a stored decision repeats bit for bit."""
    return read_tick_inputs(inputs.document())


def _read_book(shared: Mapping[str, Any]) -> Book:
    split = {Timeframe(timeframe): Decimal(share) for timeframe, share in shared["allocation"]["split"].items()}
    return Book(
        equity_usd=Decimal(shared["equity"]),
        free_cash_usd=Decimal(shared["free_cash"]),
        allocation=Allocation(Decimal(shared["allocation"]["pct"]), split),
        trading_enabled=shared["trading_enabled"],
        is_killed=shared["is_killed"],
        allow_immature_entries=shared["allow_immature_entries"],
    )


def _write_channel(channel: Channel) -> Document:
    found: Document = {name: getattr(channel, name) for name in _CHANNEL}
    for name in _CHANNEL_FLOATS:
        if found[name] is not None:
            found[name] = found[name] + 0.0  # a negative zero does not come back from a database
    return {**found, "flags": list(channel.flags), "timeframe": channel.timeframe.value}


def _read_channel(found: Mapping[str, Any]) -> Channel:
    floats = {name: None if found[name] is None else float(found[name]) for name in _CHANNEL_FLOATS}
    return Channel(**{**found, **floats, "flags": tuple(found["flags"]), "timeframe": Timeframe(found["timeframe"])})
