"""Candles as a venue streams them while they form, and the evidence that one of them is a closed bar."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Candle:
    """One message about a bar: its content so far.

    Parameters
    ----------
    symbol : str
        As the venue spells it.
    ts_s : int
        Bar OPEN time, epoch seconds UTC.
    volume : float
        QUOTE-currency volume so far.
    trades : int
        Trades so far: they order the messages about one bar, which may arrive twice or out of order.
    is_closed : bool or None
        What the venue says; None where its messages do not say.
    """

    symbol: str
    ts_s: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int
    is_closed: bool | None

    def is_newer(self, other: "Candle") -> bool:
        """Tell whether this message about the same bar was made after the other."""
        return (self.trades, self.volume) > (other.trades, other.volume)


@dataclass(slots=True)
class _Trail:
    """What was seen of a symbol: the bar it began with, the newest one, and the last one that was closed."""

    first_s: int
    present: Candle
    closed: Candle | None = None

    def close(self, candle: Candle) -> Candle | None:
        known = self.closed
        if known is not None and (candle.ts_s < known.ts_s or (candle.ts_s == known.ts_s and not candle.is_newer(known))):
            return None
        self.closed = candle
        return candle


@dataclass(slots=True)
class ClosedCandles:
    """Tells which candles of ONE unbroken connection are closed bars; make a new one for every connection.

    A bar is closed when the venue says so, or, where it never says, when a later candle of the same symbol has come. The first bar
    of each symbol may have begun before the connection did, so it is never believed. No clock is asked.
    """

    _trails: dict[str, _Trail] = field(default_factory=dict)

    def take(self, candle: Candle) -> Candle | None:
        """Take the next message; returns the bar that it shows to be closed, if any.

        A bar is returned again when a message about it turns up that was made later: the last one returned is the one to keep.
        """
        trail = self._trails.get(candle.symbol)
        if trail is None:
            self._trails[candle.symbol] = _Trail(candle.ts_s, candle)
            return None
        if candle.ts_s < trail.first_s:
            return None
        if candle.is_closed is not None:
            return trail.close(candle) if candle.is_closed and candle.ts_s > trail.first_s else None
        before = trail.present
        if candle.ts_s == before.ts_s:
            trail.present = before if before.is_newer(candle) else candle
            return None
        if candle.ts_s < before.ts_s:  # out of order: its bar is closed already, and this may be its last word
            return trail.close(candle) if candle.ts_s > trail.first_s else None
        trail.present = candle
        return trail.close(before) if before.ts_s > trail.first_s else None
