"""Bars whose prices leave the neighbourhood of those before them: which are they, and what makes one believable after all.

A crash is real and a bad print is not, and a single bar cannot tell which it is. So nothing is refused for its size alone: a suspect
is believed when another venue saw the same move, or when its own venue says the same again later. The limits are chosen on two years
of hours and 200 days of minutes of majors and 36 tokens: see docs/regimes.md.
"""

import heapq
from dataclasses import dataclass
from typing import Final

import numpy as np

from regime_pipeline.market.bars import BoolArray, FloatArray, IntArray, RawBars
from regime_pipeline.market.timeframe import Timeframe

NEIGHBOURS: Final = 5
"""A bar is compared with the range of so many believed bars before it."""
SCALE_BARS: Final = 60
"""How lively a series is, is judged by its last 60 moves."""
MIN_SCALE_BARS: Final = 20
LIMITS: Final = {
    Timeframe.M1: 0.05,
    Timeframe.M5: 0.08,
    Timeframe.M15: 0.12,
    Timeframe.H1: 0.20,
    Timeframe.H4: 0.30,
    Timeframe.D1: 0.50,
}
"""Natural logarithm of how far beyond that range a price may lie in a calm series."""
SCALES: Final = 15.0
"""In a lively series: so many times its typical move."""
MAX_LIMIT: Final = float(np.log(3.0))
"""However lively the series and long the hole before the bar, three times the price is suspect."""
WRONG_UNIT: Final = float(np.log(50.0))
"""So far off, a price is in another unit (1000 tokens, cents): no answer of the same venue makes it right."""
WITNESS_SHARE: Final = 1 / 3
"""So much of a move another venue must have seen to confirm it."""
SAME: Final = 0.01
"""Two answers whose prices differ by no more than 1 % say the same."""
_MAD: Final = 1.4826  # turns the median absolute deviation of a normal variable into its standard deviation
_FIRST_BARS: Final = 11


@dataclass(frozen=True, slots=True, eq=False)
class Suspects:
    """The rows that left their neighbourhood.

    Parameters
    ----------
    rows : ndarray of int64, shape (k,)
        Rows of the judged bars, ascending.
    low, high : ndarray of float64, shape (k,)
        The range of prices before each.
    limit : ndarray of float64, shape (k,)
        How far beyond it, in logarithm, a price could have been.
    """

    rows: IntArray
    low: FloatArray
    high: FloatArray
    limit: FloatArray

    def __len__(self) -> int:
        """Count the suspects."""
        return len(self.rows)


def find_suspects(before: RawBars, bars: RawBars, timeframe: Timeframe, confirmed: BoolArray | None = None) -> Suspects:
    """Find the bars whose high or low lies further beyond the last believed bars than the series moves.

    Parameters
    ----------
    before : RawBars
        Believed bars that come before, ascending; the last `SCALE_BARS` are enough. Without any, the first bars are compared with the
        median of the first eleven, so that one bad first bar does not condemn a series.
    bars : RawBars
        Valid bars, strictly ascending.
    confirmed : ndarray of bool, shape (n,), optional
        Rows that are believed whatever they say; those after them are compared with them.

    Returns
    -------
    Suspects
        A suspect is not part of the neighbourhood of the bars after it.
    """
    n_before, n = len(before), len(bars)
    high, low, close, ts_s = (np.concatenate([getattr(before, name), getattr(bars, name)]) for name in ("high", "low", "close", "ts_s"))
    free = np.zeros(n, dtype=np.bool_) if confirmed is None else confirmed
    good = np.ones(n_before + n, dtype=np.bool_)
    anchor = float(np.median(bars.close[:_FIRST_BARS])) if n_before == 0 and n else None
    found: list[tuple[int, float, float, float]] = []
    todo = _first_look(high, low, n_before, LIMITS[timeframe], anchor)
    heapq.heapify(todo)
    last = -1
    while todo:
        row = heapq.heappop(todo)
        if row == last or row >= n_before + n:
            continue
        last = row
        bottom, top, limit = _neighbourhood(high, low, close, ts_s, good, row, timeframe, anchor)
        if max(np.log(high[row] / top), np.log(bottom / low[row])) <= limit or free[row - n_before]:
            continue
        good[row] = False
        found.append((row - n_before, bottom, top, limit))
        for later in range(row + 1, row + 1 + NEIGHBOURS):
            heapq.heappush(todo, later)
    rows, bottoms, tops, limits = (np.array(column) for column in zip(*found, strict=True)) if found else (np.empty(0),) * 4
    return Suspects(rows.astype(np.int64), bottoms, tops, limits)


def _first_look(high: FloatArray, low: FloatArray, n_before: int, limit: float, anchor: float | None) -> list[int]:
    """Rows that may be suspect: further than the narrowest limit from the extremes of the rows before them, whatever those are."""
    n = len(high)
    rows = np.arange(n_before, n)
    top, bottom = np.full(n, -np.inf), np.full(n, np.inf)
    for back in range(1, NEIGHBOURS + 1):
        top[back:] = np.maximum(top[back:], high[:-back])
        bottom[back:] = np.minimum(bottom[back:], low[:-back])
    if anchor is not None:
        top[:NEIGHBOURS], bottom[:NEIGHBOURS] = anchor, anchor
    with np.errstate(divide="ignore"):
        far = np.maximum(np.log(high[rows] / top[rows]), np.log(bottom[rows] / low[rows]))
    found: list[int] = rows[far > limit].tolist()
    return found


def _neighbourhood(
    high: FloatArray,
    low: FloatArray,
    close: FloatArray,
    ts_s: IntArray,
    good: BoolArray,
    row: int,
    timeframe: Timeframe,
    anchor: float | None,
) -> tuple[float, float, float]:
    """Range of the last believed bars before a row, and how far beyond it the row may go."""
    start = row
    wanted = SCALE_BARS + 1
    reach = max(0, row - 4 * wanted)  # a longer stretch of suspects widens the limit by its length anyway
    near = reach + np.flatnonzero(good[reach:start])[-wanted:]
    if len(near) == 0:
        near = np.flatnonzero(good[:start])[-wanted:]
    if (anchor is not None and row < NEIGHBOURS) or len(near) == 0:
        price = float(close[row]) if anchor is None else anchor
        return price, price, LIMITS[timeframe]
    moves = np.abs(np.diff(np.log(close[near])))
    scale = _MAD * float(np.median(moves)) if len(moves) >= MIN_SCALE_BARS else 0.0
    bars_since = max(1.0, float(ts_s[row] - ts_s[near[-1]]) / timeframe.seconds)
    limit = min(MAX_LIMIT, max(LIMITS[timeframe], SCALES * scale) * float(np.sqrt(bars_since)))
    around = near[-NEIGHBOURS:]
    return float(low[around].min()), float(high[around].max()), limit


def measure_excursions(bars: RawBars, low: FloatArray, high: FloatArray) -> FloatArray:
    """Measure how far bars leave a range: shape (6, n), logarithms, 0 inside; open, high and close above it, open, low and close below.

    Parameters
    ----------
    low, high : ndarray of float64, shape (n,)
        The range of each row.
    """
    above = [np.log(price / high) for price in (bars.open, bars.high, bars.close)]
    below = [np.log(low / price) for price in (bars.open, bars.low, bars.close)]
    excursions: FloatArray = np.maximum(0.0, np.stack([*above, *below]))
    return excursions


def is_confirmed_by(mine: FloatArray, others: FloatArray, limit: FloatArray) -> BoolArray:
    """Tell whether another venue saw the same moves: at least a third as far in logarithm wherever mine went beyond the limit.

    A third, because the depth of a wick is each venue's own: on 2025-10-10 SOL fell 27 % below its range as a perpetual, 12 % on spot.

    Parameters
    ----------
    mine, others : ndarray of float64, shape (6, n)
        From `measure_excursions`, against one range.
    limit : ndarray of float64, shape (n,)
    """
    confirmed: BoolArray = np.all((mine <= limit) | (others >= mine * WITNESS_SHARE), axis=0)
    return confirmed


def is_wrong_unit(bars: RawBars, low: FloatArray, high: FloatArray) -> BoolArray:
    """Tell which bars are as a whole fifty times or more above or below the range before them."""
    return (np.log(bars.low / high) > WRONG_UNIT) | (np.log(low / bars.high) > WRONG_UNIT)


def says_the_same(one: RawBars, other: RawBars) -> BoolArray:
    """Tell which rows of two answers of one venue agree in all four prices; NaN agrees with nothing."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("open", "high", "low", "close")]
    same: BoolArray = np.all([np.abs(np.log(mine / theirs)) <= SAME for mine, theirs in pairs], axis=0)
    return same
