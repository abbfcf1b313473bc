"""Bars as columns, and the rules that decide whether a delivered bar is believed (spec 1.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
CountArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]
Rows = slice | BoolArray | IntArray

_DTYPES: Final = {"ts_s": np.int64, "bars_used": np.int32, "expected_bars": np.int32}


# A generated __eq__ would compare arrays and raise: `equals` says what is meant.
@dataclass(frozen=True, slots=True, eq=False)
class RawBars:
    """Bars as a source delivered them: columns of equal length that nobody has checked yet.

    Parameters
    ----------
    ts_s : ndarray of int64, shape (n,)
        Bar OPEN time, epoch seconds UTC.
    open, high, low, close : ndarray of float64, shape (n,)
        Prices; in raw bars they may hold anything, NaN included.
    volume : ndarray of float64, shape (n,)
        QUOTE-currency volume.
    """

    ts_s: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray

    def __post_init__(self) -> None:
        """Coerce the columns to their dtypes and refuse unequal lengths."""
        for field in fields(self):
            column = np.asarray(getattr(self, field.name), dtype=_DTYPES.get(field.name, np.float64))
            if column.shape != (len(self.ts_s),):
                raise BadInputError(f"bar column {field.name!r} has shape {column.shape}, ts_s has {len(self.ts_s)} rows; make them equal.")
            object.__setattr__(self, field.name, column)

    def __len__(self) -> int:
        """Count the bars."""
        return len(self.ts_s)

    def __getitem__(self, rows: Rows) -> Self:
        """Take the rows of a slice, mask or index array."""
        # Columns that were checked stay checked: a live minute cuts thousands of these.
        taken = object.__new__(type(self))
        for name in self.__match_args__:
            object.__setattr__(taken, name, getattr(self, name)[rows])
        return taken

    @classmethod
    def empty(cls) -> Self:
        """Build a table without rows."""
        columns: list[Any] = [np.empty(0)] * len(fields(cls))
        return cls(*columns)

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """Join tables end to end, in the order given."""
        if not parts:
            return cls.empty()
        return cls(*(np.concatenate(columns) for columns in zip(*(part.columns() for part in parts), strict=True)))

    def columns(self) -> tuple[NDArray[Any], ...]:
        """List the columns in field order."""
        return tuple(getattr(self, name) for name in self.__match_args__)

    def equals(self, other: Self) -> bool:
        """Tell whether every value is the same, bit for bit (NaN equals NaN)."""
        return len(self) == len(other) and all(
            np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
            for mine, theirs in zip(self.columns(), other.columns(), strict=True)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Bars(RawBars):
    """Believed bars, oldest first, with the base minutes they stand on.

    Parameters
    ----------
    bars_used, expected_bars : ndarray of int32, shape (n,)
        Base minutes present and due in each bar. A composite sums them over its components.
    """

    bars_used: CountArray
    expected_bars: CountArray

    @classmethod
    def complete(cls, raw: RawBars, timeframe: Timeframe) -> "Bars":
        """Take bars delivered whole by a vendor: every base minute counts as used (60/60 for 1h)."""
        minutes = np.full(len(raw), timeframe.minutes, dtype=np.int32)
        return cls(raw.ts_s, raw.open, raw.high, raw.low, raw.close, raw.volume, minutes, minutes)


class BarReason(StrEnum):
    """Why a delivered bar is not believed; the first that applies, in this order, is recorded. The last three need its neighbours."""

    OFF_GRID = "off_grid"
    FUTURE = "future"
    STILL_OPEN = "still_open"
    NON_FINITE_PRICE = "non_finite_price"
    NON_POSITIVE_PRICE = "non_positive_price"
    INVERTED = "inverted"
    BAD_VOLUME = "bad_volume"
    EXTREME_MOVE = "extreme_move"
    DUPLICATE_TS = "duplicate_ts"
    OUT_OF_ORDER = "out_of_order"
    WRONG_UNIT = "wrong_unit"
    DISAGREES = "disagrees"
    OUTLIER = "outlier"


MAX_MOVE: Final = 100.0


@dataclass(frozen=True, slots=True, eq=False)
class BarVerdict:
    """What to do with each row of a delivery.

    Parameters
    ----------
    good : ndarray of bool, shape (n,)
        Rows to keep: valid, strictly ascending in `ts_s`.
    bad : mapping of row number to reason
        Rows for the quarantine.
    n_repeated : int
        Rows equal to an earlier one in every value: dropped, nothing was lost and nothing was wrong.
    """

    good: BoolArray
    bad: Mapping[int, BarReason]
    n_repeated: int


def check_bars(raw: RawBars, timeframe: Timeframe, now_s: int, last_ts_s: int | None = None) -> BarVerdict:
    """Judge delivered bars row by row (spec 1.1); nothing is repaired or reordered.

    Parameters
    ----------
    raw : RawBars
        A delivery in the order of arrival.
    timeframe : Timeframe
        Grid the open times must lie on, and the grace after the bar's end.
    now_s : int
        Instant of the judgement, epoch seconds.
    last_ts_s : int, optional
        For strict append-only streams: a bar at or before this open time is out of order. By default a late bar is welcome.

    Returns
    -------
    BarVerdict
        Only believable rows take part in the order test, so that one bar stamped in 2099 does not condemn those after it.
        Of two different bars with one `ts_s` the first is kept: there is one bar per `ts`, and no way to tell which one lies.
    """
    prices = np.stack([raw.open, raw.high, raw.low, raw.close])
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        move = raw.close / raw.open
        tests: dict[BarReason, BoolArray] = {
            BarReason.OFF_GRID: raw.ts_s % timeframe.seconds != 0,
            BarReason.FUTURE: raw.ts_s > now_s,
            BarReason.STILL_OPEN: raw.ts_s > now_s - timeframe.grace_s - timeframe.seconds,
            BarReason.NON_FINITE_PRICE: np.any(~np.isfinite(prices), axis=0),
            BarReason.NON_POSITIVE_PRICE: np.any(prices <= 0, axis=0),
            BarReason.INVERTED: (raw.high < np.maximum(raw.open, raw.close)) | (raw.low > np.minimum(raw.open, raw.close)),
            BarReason.BAD_VOLUME: ~(np.isfinite(raw.volume) & (raw.volume >= 0)),
            BarReason.EXTREME_MOVE: ~((move >= 1 / MAX_MOVE) & (move <= MAX_MOVE)),
        }
    good = ~np.logical_or.reduce(list(tests.values())) if len(raw) else np.zeros(0, dtype=np.bool_)
    bad = {row: next(reason for reason, hit in tests.items() if hit[row]) for row in np.flatnonzero(~good).tolist()}
    n_repeated = _check_order(raw, good, bad, last_ts_s)
    return BarVerdict(good, bad, n_repeated)


def _check_order(raw: RawBars, good: BoolArray, bad: dict[int, BarReason], last_ts_s: int | None) -> int:
    """Clear `good` on rows that do not ascend, name them in `bad`, and count the mere repetitions."""
    rows = np.flatnonzero(good)
    floor_s = np.iinfo(np.int64).min if last_ts_s is None else last_ts_s
    newest = np.maximum.accumulate(np.concatenate([[floor_s], raw.ts_s[rows]]))[:-1]
    suspects = rows[raw.ts_s[rows] <= newest].tolist()
    if not suspects:
        return 0
    good[suspects] = False
    kept = {int(raw.ts_s[row]): row for row in np.flatnonzero(good).tolist()}
    n_repeated = 0
    for row in suspects:
        twin = kept.get(int(raw.ts_s[row]))
        if twin is None:
            bad[row] = BarReason.OUT_OF_ORDER
        elif raw[twin : twin + 1].equals(raw[row : row + 1]):
            n_repeated += 1
        else:
            bad[row] = BarReason.DUPLICATE_TS
    return n_repeated
