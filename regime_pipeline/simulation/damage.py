"""What a fault does to the bars of one answer; None where it can do nothing, because there is no such bar."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from regime_pipeline.simulation.faults import Fault, FaultKind
from regime_pipeline.simulation.truth import Listing, Truth
from regime_pipeline.simulation.wire import WireBar, wire_bars

PRICES: Final = ("open", "high", "low", "close")
_RECENT: Final = 3


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault may look at: who is asked and when, and a number drawn for this hit."""

    truth: Truth
    listing: Listing
    now_s: float
    number: int


Rows = Sequence[WireBar]
_Damage = Callable[[Rows, Fault, Scene], Rows | None]


def damage_rows(rows: Rows, fault: Fault, scene: Scene) -> Rows | None:
    """Apply a fault to the rows of an answer."""
    return _DAMAGES[fault.kind](rows, fault, scene)


def _newest_closed(rows: Rows, scene: Scene) -> int | None:
    """Find the row of the newest bar that is over."""
    closed = [at for at, row in enumerate(rows) if row.ts_s + row.timeframe.seconds <= scene.now_s]
    return closed[-1] if closed else None


def _with(rows: Rows, at: int, *instead: WireBar) -> Rows:
    return [*rows[:at], *instead, *rows[at + 1 :]]


def _null_field(rows: Rows, _fault: Fault, scene: Scene) -> Rows | None:
    at = _newest_closed(rows, scene)
    return None if at is None else _with(rows, at, _replaced(rows[at], PRICES[scene.number % len(PRICES)], None))


def _open_candle(rows: Rows, _fault: Fault, scene: Scene) -> Rows | None:
    """Show the bar of this moment under the open time of the one before it, and not that one."""
    at = _newest_closed(rows, scene)
    if at is None:
        return None
    row, now_s = rows[at], int(scene.now_s)
    present = scene.truth.seen(scene.listing, row.timeframe, row.timeframe.floor(now_s), now_s + 1, scene.now_s)
    if not len(present):
        return None
    return [*rows[:at], replace(wire_bars(row.symbol, row.timeframe, present)[-1], open_ms=row.open_ms)]


def _duplicate(rows: Rows, _fault: Fault, scene: Scene) -> Rows | None:
    at = _newest_closed(rows, scene)
    return None if at is None else _with(rows, at, rows[at], rows[at])


def _missing(rows: Rows, _fault: Fault, scene: Scene) -> Rows | None:
    at = _newest_closed(rows, scene)
    return None if at is None else _with(rows, max(0, at - scene.number % _RECENT))


def _outlier(rows: Rows, fault: Fault, scene: Scene) -> Rows | None:
    """Put one price far off: a low downwards, any other upwards."""
    at, name = _newest_closed(rows, scene), PRICES[scene.number % len(PRICES)]
    value = None if at is None else getattr(rows[at], name)
    if at is None or value is None:
        return None
    return _with(rows, at, _replaced(rows[at], name, value / fault.amount if name == "low" else value * fault.amount))


def _wrong_unit(rows: Rows, fault: Fault, _scene: Scene) -> Rows | None:
    return [_scaled(row, fault.amount) for row in rows] or None


def _wrong_symbol(rows: Rows, _fault: Fault, scene: Scene) -> Rows | None:
    """Answer with the bars of the market whose price is farthest from the one asked for."""
    others = [each for each in scene.truth.listings(scene.listing.api).values() if each != scene.listing]
    prices = {each: price for each in others if (price := scene.truth.price(each, scene.now_s))}
    own = scene.truth.price(scene.listing, scene.now_s)
    if not rows or not prices or not own:
        return None
    other = max(prices, key=lambda each: max(prices[each] / own, own / prices[each]))
    timeframe = rows[0].timeframe
    seen = scene.truth.seen(other, timeframe, rows[0].ts_s, rows[-1].ts_s + 1, scene.now_s)
    return wire_bars(other.symbol, timeframe, seen) or None


def _wrong_order(rows: Rows, _fault: Fault, _scene: Scene) -> Rows | None:
    return list(reversed(rows)) if len(rows) > 1 else None


def _shifted_grid(rows: Rows, fault: Fault, _scene: Scene) -> Rows | None:
    by_ms = int(1000 * fault.amount)
    shifted = [replace(row, open_ms=(row.open_ms or 0) + by_ms, close_ms=(row.close_ms or 0) + by_ms) for row in rows]
    return shifted or None


def _replaced(row: WireBar, name: str, value: float | None) -> WireBar:
    values = {each: getattr(row, each) for each in PRICES} | {name: value}
    return replace(row, **values)


def _scaled(row: WireBar, factor: float) -> WireBar:
    """Give a row in another unit: prices times the factor, base volume by it, so that quote volume stays."""
    values = {each: price * factor for each in PRICES if (price := getattr(row, each)) is not None}
    return replace(row, base=None if row.base is None else row.base / factor, **values)


_DAMAGES: Final[dict[FaultKind, _Damage]] = {
    FaultKind.NULL_FIELD: _null_field,
    FaultKind.OPEN_CANDLE: _open_candle,
    FaultKind.DUPLICATE: _duplicate,
    FaultKind.MISSING: _missing,
    FaultKind.OUTLIER: _outlier,
    FaultKind.WRONG_UNIT: _wrong_unit,
    FaultKind.WRONG_SYMBOL: _wrong_symbol,
    FaultKind.WRONG_ORDER: _wrong_order,
    FaultKind.SHIFTED_GRID: _shifted_grid,
}
