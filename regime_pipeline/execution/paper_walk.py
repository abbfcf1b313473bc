"""Where the market takes an order of the paper broker: bar by bar, or against a book, until it is filled, ends, or no more is known.

A walk is a function of the order, the bars and the clock. It may be cut anywhere and taken up again: reading often or seldom, by one
process or another, gives the same fills.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import Final

from regime_pipeline.execution.paper import PaperBar, PaperFill, fill_from_book, fill_market_bar, fill_resting
from regime_pipeline.portfolio.money import EXACT
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Side

PATIENCE_MS: Final = 600_000
"""A marketable order for which no bar comes ends cancelled after this; with bars longer than a minute two whole bars later."""
SLACK_MS: Final = 60_000
"""With bars longer than a minute an order takes part in the bar that opened at most this long before it took effect."""
MINUTE_MS: Final = 60_000


class PaperStatus(StrEnum):
    """What the paper broker says of an order."""

    OPEN = "open"
    CLOSED = "closed"
    CANCELED = "canceled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class WalkedOrder:
    """An order as far as the market has been walked for it.

    Parameters
    ----------
    rest : Decimal
        Not filled yet, base.
    limit_price, stop_price : Decimal or None
        None: at market; no trigger.
    effective_ms : int
        When it took effect, after its latency.
    walked_ms : int
        End of the last bar it was walked through; `effective_ms` before the first.
    cancel_ms : int or None
        When its cancel takes effect.
    is_triggered, rests : bool
        Whether its stop has been hit, and whether it waits in the book, where it fills at its limit only.
    ended_ms : int or None
        When it ended by itself or by its cancel.
    """

    side: Side
    rest: Decimal
    limit_price: Decimal | None
    stop_price: Decimal | None
    is_ioc: bool
    effective_ms: int
    walked_ms: int
    cancel_ms: int | None = None
    is_triggered: bool = False
    rests: bool = False
    status: PaperStatus = PaperStatus.OPEN
    ended_ms: int | None = None

    @property
    def waits_for_stop(self) -> bool:
        """Tell whether its trigger has not been hit."""
        return self.stop_price is not None and not self.is_triggered

    @property
    def takes(self) -> bool:
        """Tell whether it trades with what is there, rather than waiting for its price."""
        return not (self.rests or self.waits_for_stop)

    def first_open_ms(self, length_ms: int) -> int:
        """Earliest open of a bar that it may still trade in."""
        begins_late = self.takes and length_ms > MINUTE_MS and self.walked_ms == self.effective_ms
        return self.walked_ms - SLACK_MS if begins_late else self.walked_ms

    def accepts(self, price: Decimal) -> bool:
        """Tell whether a price is within its limit."""
        return self.limit_price is None or self.side.sign * price <= self.side.sign * self.limit_price


@dataclass(frozen=True, slots=True)
class WalkBar:
    """A closed bar of the walk."""

    open_ms: int
    bar: PaperBar


@dataclass(frozen=True, slots=True)
class BarView:
    """The market of a symbol in its finest stored bars.

    Parameters
    ----------
    length_ms : int
        Of each bar.
    bars : sequence of WalkBar
        Closed ones, oldest first; minutes without trades have none.
    known_ms : int
        End of the newest one: until then nothing is missing that will still come.
    """

    length_ms: int
    bars: Sequence[WalkBar] = ()
    known_ms: int = 0


@dataclass(frozen=True, slots=True)
class WalkFill:
    """A fill of the walk and its time."""

    fill: PaperFill
    is_maker: bool
    ts_ms: int


@dataclass(slots=True)
class _Walk:
    order: WalkedOrder
    rules: InstrumentRules
    is_major: bool
    fills: list[WalkFill] = field(default_factory=list)

    def take(self, fill: PaperFill, ts_ms: int, *, is_maker: bool) -> None:
        """Fill a part; an order without a rest is closed."""
        self.fills.append(WalkFill(fill, is_maker, ts_ms))
        rest = EXACT.subtract(self.order.rest, fill.qty)
        self.order = replace(self.order, rest=rest)
        if rest <= 0:
            self.end(PaperStatus.CLOSED, ts_ms)

    def end(self, status: PaperStatus, at_ms: int) -> None:
        """End the order."""
        self.order = replace(self.order, status=status, ended_ms=at_ms)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.order.status is not PaperStatus.OPEN


def walk_bars(
    order: WalkedOrder, view: BarView, now_ms: int, rules: InstrumentRules, *, is_major: bool
) -> tuple[WalkedOrder, tuple[WalkFill, ...]]:
    """Walk an open order through the bars that are known, and end it where nothing more can come.

    A marketable order takes a tenth of each bar's volume from its open on; a limit that its price has left waits in the book from then
    on, and is filled by bars that lie wholly before its cancel takes effect. IOC has one bar.

    Parameters
    ----------
    view : BarView
        With every bar from `order.first_open_ms` on that had closed by `now_ms`.
    """
    walk = _Walk(order, rules, is_major)
    for each in view.bars:
        if walk.is_over or each.open_ms < walk.order.first_open_ms(view.length_ms):
            continue
        if _is_out_of_reach(walk.order, each.open_ms, view.length_ms):
            break
        _step(walk, each, view.length_ms)
    if not walk.is_over:
        _end_what_is_over(walk, view, now_ms)
    return walk.order, tuple(walk.fills)


def walk_book(
    order: WalkedOrder, levels: Sequence[tuple[Decimal, Decimal]], now_ms: int, rules: InstrumentRules
) -> tuple[WalkedOrder, tuple[WalkFill, ...]]:
    """Let an order that takes trade with a book read at `now_ms`, after it took effect; what its limit leaves waits, or ends if IOC."""
    walk = _Walk(order, rules, is_major=True)
    if order.cancel_ms is not None and order.cancel_ms <= now_ms:
        walk.end(PaperStatus.CANCELED, order.cancel_ms)
        return walk.order, ()
    within = [(price, qty) for price, qty in levels if all(order.accepts(fill.price) for fill in _probe(order, price, rules))]
    stops_at_book = order.is_ioc or order.limit_price is not None
    for fill in fill_from_book(order.side, order.rest, within, rules, is_ioc=stops_at_book) if within else ():
        walk.take(fill, now_ms, is_maker=False)
    if not walk.is_over and order.is_ioc:
        walk.end(PaperStatus.EXPIRED, now_ms)
    walk.order = replace(walk.order, rests=order.limit_price is not None, walked_ms=now_ms)
    return walk.order, tuple(walk.fills)


def _probe(order: WalkedOrder, price: Decimal, rules: InstrumentRules) -> tuple[PaperFill, ...]:
    """What one step would cost at a level, slippage included."""
    return fill_from_book(order.side, rules.step, [(price, rules.step)], rules, is_ioc=True)


def _is_out_of_reach(order: WalkedOrder, open_ms: int, length_ms: int) -> bool:
    """Tell whether a bar comes too late: after the cancel, or after a marketable order has waited long enough."""
    if order.takes and open_ms + length_ms > order.walked_ms + _patience_ms(length_ms):
        return True
    return order.cancel_ms is not None and not _may_trade(order, open_ms, length_ms, order.cancel_ms)


def _may_trade(order: WalkedOrder, open_ms: int, length_ms: int, cancel_ms: int) -> bool:
    """Tell whether a bar may still fill an order whose cancel takes effect then: by its open, or by whatever happens until its end."""
    return open_ms < cancel_ms if order.takes else open_ms + length_ms <= cancel_ms


def _step(walk: _Walk, each: WalkBar, length_ms: int) -> None:
    end_ms = each.open_ms + length_ms
    bar = each.bar
    if walk.order.waits_for_stop:
        hit = _hit_stop(walk.order, bar)
        if hit is not None:
            walk.order = replace(walk.order, is_triggered=True)
            bar = replace(bar, open=hit)
    if walk.order.takes:
        _trade(walk, bar, max(each.open_ms, walk.order.effective_ms))
    cancel_ms = walk.order.cancel_ms
    if walk.order.rests and not walk.is_over and (cancel_ms is None or end_ms <= cancel_ms):
        limit = walk.order.limit_price
        fill = None if limit is None else fill_resting(walk.order.side, walk.order.rest, limit, bar, walk.rules)
        if fill is not None:
            walk.take(fill, end_ms - 1, is_maker=True)
    walk.order = replace(walk.order, walked_ms=end_ms)


def _trade(walk: _Walk, bar: PaperBar, ts_ms: int) -> None:
    """Take what the open of a bar offers; a limit that it lies beyond waits, and an IOC is over either way."""
    order = walk.order
    fill = fill_market_bar(order.side, order.rest, bar, walk.rules, is_major=walk.is_major) if bar.volume > 0 else None
    if fill is not None and order.accepts(fill.price):
        walk.take(fill, ts_ms, is_maker=False)
    elif fill is not None or not order.accepts(bar.open):
        walk.order = replace(order, rests=True)
    if order.is_ioc and not walk.is_over:
        walk.end(PaperStatus.EXPIRED, ts_ms)


def _hit_stop(order: WalkedOrder, bar: PaperBar) -> Decimal | None:
    """Price at which a bar hits a stop: the trigger, or its open where it jumped over it; None when it does not."""
    stop = order.stop_price
    assert stop is not None
    if order.side is Side.SELL:
        return min(bar.open, stop) if bar.low <= stop else None
    return max(bar.open, stop) if bar.high >= stop else None


def _end_what_is_over(walk: _Walk, view: BarView, now_ms: int) -> None:
    """End an order whose cancel nothing can come before any more, or that has waited for the market long enough."""
    order, patience_ms = walk.order, _patience_ms(view.length_ms)
    gives_up_ms = order.walked_ms + patience_ms if order.takes else None
    # whichever came first, however late it is read
    end_ms = min((at_ms for at_ms in (order.cancel_ms, gives_up_ms) if at_ms is not None), default=None)
    if end_ms is not None and _has_ended(order, view, now_ms, gives_up_ms):
        walk.end(PaperStatus.CANCELED, end_ms)
    elif not order.takes:
        walk.order = replace(order, walked_ms=max(order.walked_ms, view.known_ms))


def _has_ended(order: WalkedOrder, view: BarView, now_ms: int, gives_up_ms: int | None) -> bool:
    if gives_up_ms is not None and now_ms >= gives_up_ms:
        return True
    if order.cancel_ms is None or now_ms < order.cancel_ms:
        return False
    next_open_ms = _ceil(max(order.first_open_ms(view.length_ms), view.known_ms), view.length_ms)
    is_certain = not _may_trade(order, next_open_ms, view.length_ms, order.cancel_ms)
    return is_certain or now_ms >= order.cancel_ms + _patience_ms(view.length_ms)


def _patience_ms(length_ms: int) -> int:
    return PATIENCE_MS if length_ms <= MINUTE_MS else PATIENCE_MS + 2 * length_ms


def _ceil(ts_ms: int, grid_ms: int) -> int:
    return -(-ts_ms // grid_ms) * grid_ms
