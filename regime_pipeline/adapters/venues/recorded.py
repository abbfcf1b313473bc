"""A folder of recorded bars as a source: parquet or CSV files of symbol, timeframe, ts, open, high, low, close, volume (BASE units).

The venue is what follows the timeframe in a file's name (`ohlcv_1m_binance_um`, `basket_1h_binance_um`: binance_um); a name without
that is a venue of its own. Files named `dominance*` hold percents in `close`, `coingecko_marketcap*` hold market caps. Files are
opened when first asked for, so what nobody refers to may lie beside them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from regime_pipeline.errors import BadInputError, SourceError, SourceUnavailableError
from regime_pipeline.market.bars import FloatArray, IntArray, RawBars
from regime_pipeline.market.buckets import CapObservation
from regime_pipeline.market.dominance import bars_from_closes
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import TimeRange

BAR_COLUMNS: Final = ("symbol", "timeframe", "ts", "open", "high", "low", "close", "volume")
CAP_COLUMNS: Final = ("symbol", "ts", "market_cap")
DOMINANCE_PREFIX: Final = "dominance"
CAP_PREFIX: Final = "coingecko_marketcap"

Series = dict[tuple[str, Timeframe], RawBars]


class RecordedMarket:
    """A `BarSource` over a folder."""

    def __init__(self, folder: Path) -> None:
        """List the folder's files; none is opened yet.

        Raises
        ------
        SourceUnavailableError
            When there is no such folder.
        SourceError
            When it holds no parquet or CSV file.
        """
        if not folder.is_dir():
            raise SourceUnavailableError(f"recorded market was {folder}: no such folder; set REGIME_RECORDED_PATH to one with bar files.")
        self._files = sorted(path for path in folder.iterdir() if path.suffix in {".parquet", ".csv"})
        if not self._files:
            raise SourceError(f"recorded market {folder} holds no .parquet or .csv file; put bar files there or choose another folder.")
        self._series: dict[Path, Series] = {}
        self._found: dict[tuple[str, str, Timeframe], RawBars] = {}

    @property
    def name(self) -> str:
        """Name for the `source` column."""
        return "recorded"

    def venues(self) -> Collection[str]:
        """List the venues that the file names speak of."""
        return {venue_of(path.stem) for path in self._bar_files}

    def time_range(self, venue: str, symbol: str, timeframe: Timeframe) -> TimeRange | None:
        """Tell the first and last recorded bar; None when the series is not recorded."""
        return _range_of(self._find(venue, symbol, timeframe))

    def fetch_bars(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Give the recorded bars of a window in the order of the files, base volume turned into quote by each bar's close."""
        return _window(self._find(venue, symbol, timeframe), start_s, end_s)

    def dominance_range(self, driver: str, timeframe: Timeframe) -> TimeRange | None:
        """Tell the first and last recorded percent; None when there is none for the timeframe."""
        return _range_of(self._dominance.get((driver.upper(), timeframe), RawBars.empty()))

    def fetch_dominance(self, driver: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Give bars made of the recorded percents: each opens at the close before it."""
        return _window(self._dominance.get((driver.upper(), timeframe), RawBars.empty()), start_s, end_s)

    def fetch_market_caps(self, start_s: int, end_s: int) -> Mapping[str, Sequence[CapObservation]]:
        """Give the recorded caps by contract (the upper-case symbol); a recorded cap is known at its own time."""
        seen = {
            contract: [observation for observation in observations if start_s <= observation.known_at_s < end_s]
            for contract, observations in self._market_caps.items()
        }
        return {contract: observations for contract, observations in seen.items() if observations}

    @property
    def _bar_files(self) -> list[Path]:
        return [path for path in self._files if not path.stem.startswith((DOMINANCE_PREFIX, CAP_PREFIX))]

    def _find(self, venue: str, symbol: str, timeframe: Timeframe) -> RawBars:
        key = (venue, symbol, timeframe)
        if key not in self._found:
            files = [path for path in self._bar_files if venue_of(path.stem) == venue and timeframe_of(path.stem) in {timeframe, None}]
            parts = [self._read(path).get((symbol, timeframe), RawBars.empty()) for path in files]
            self._found[key] = RawBars.concat(parts)
        return self._found[key]

    def _read(self, path: Path) -> Series:
        if path not in self._series:
            self._series[path] = _read_series(path)
        return self._series[path]

    @cached_property
    def _dominance(self) -> Series:
        found: Series = {}
        for path in self._files:
            if path.stem.startswith(DOMINANCE_PREFIX):
                for (symbol, timeframe), raw in _read_series(path).items():
                    found[symbol.upper(), timeframe] = bars_from_closes(raw.ts_s, raw.close, timeframe)
        return found

    @cached_property
    def _market_caps(self) -> dict[str, list[CapObservation]]:
        found: dict[str, list[CapObservation]] = {}
        for path in self._files:
            if path.stem.startswith(CAP_PREFIX):
                table = _read_table(path, CAP_COLUMNS)
                rows = zip(
                    table.column("symbol").to_pylist(), _ts_s(table, path).tolist(), _floats(table, "market_cap").tolist(), strict=True
                )
                for symbol, ts_s, cap_usd in rows:
                    found.setdefault(symbol.upper(), []).append(CapObservation(ts_s, ts_s, cap_usd))
        return {contract: sorted(seen, key=lambda each: each.known_at_s) for contract, seen in found.items()}


def venue_of(stem: str) -> str:
    """Name the venue of a file: what follows the timeframe in its stem, else the whole stem."""
    words = stem.split("_")
    at = next((at for at, word in enumerate(words) if word in set(Timeframe)), len(words))
    return "_".join(words[at + 1 :]) or stem


def timeframe_of(stem: str) -> Timeframe | None:
    """Name the timeframe in a file's stem; None when its rows have to say."""
    return next((Timeframe(word) for word in stem.split("_") if word in set(Timeframe)), None)


def _range_of(raw: RawBars) -> TimeRange | None:
    return TimeRange(int(raw.ts_s.min()), int(raw.ts_s.max())) if len(raw) else None


def _window(raw: RawBars, start_s: int, end_s: int) -> RawBars:
    return raw[(raw.ts_s >= start_s) & (raw.ts_s < end_s)]


def _read_series(path: Path) -> Series:
    """Read a bar file and split it by symbol and timeframe, rows in file order."""
    table = _read_table(path, BAR_COLUMNS)
    if table.column("symbol").null_count or table.column("timeframe").null_count:
        raise BadInputError(f"{path} has rows without symbol or timeframe; nobody could ask for them. Fill them in or remove them.")
    close = _floats(table, "close")
    whole = RawBars(
        _ts_s(table, path), _floats(table, "open"), _floats(table, "high"), _floats(table, "low"), close, _floats(table, "volume") * close
    )
    keys = pc.binary_join_element_wise(table.column("symbol").cast("string"), table.column("timeframe").cast("string"), "\0")
    codes = pc.dictionary_encode(keys.combine_chunks())
    code_of_row = codes.indices.to_numpy(zero_copy_only=False)
    series: Series = {}
    for code, key in enumerate(codes.dictionary.to_pylist()):
        symbol, text = key.split("\0")
        if text not in set(Timeframe):
            raise BadInputError(f"{path}: timeframe was {text!r}; allowed: {', '.join(Timeframe)}. Correct those rows.")
        series[symbol, Timeframe(text)] = whole[code_of_row == code]
    return series


def _read_table(path: Path, columns: Iterable[str]) -> pa.Table:
    """Read a file, and refuse it by name when columns are missing."""
    try:
        table = pa_csv.read_csv(path) if path.suffix == ".csv" else pq.read_table(path)
    except OSError as error:
        raise SourceUnavailableError(f"{path} cannot be read: {error}. Check the file and try again.") from error
    except pa.ArrowInvalid as error:
        raise SourceError(f"{path} is not a readable {path.suffix[1:]} file: {error}. Replace the file.") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise BadInputError(f"{path} lacks the column {', '.join(missing)}; it has {', '.join(table.column_names)}. Add what is missing.")
    return table


def _floats(table: pa.Table, column: str) -> FloatArray:
    """Read a number column; what is null becomes NaN, and the bar check names it."""
    try:
        values: FloatArray = table.column(column).cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise BadInputError(f"column {column!r} does not hold numbers: {error}. Correct those rows.") from error
    return values


def _ts_s(table: pa.Table, path: Path) -> IntArray:
    """Read `ts` as epoch seconds; a time without a zone is refused, since it may be anybody's."""
    column = table.column("ts")
    if not pa.types.is_timestamp(column.type) or column.type.tz is None or column.null_count:
        raise BadInputError(f"{path}: column 'ts' was {column.type}; it must be times with a zone, as 2025-01-01T00:00:00Z, none empty.")
    stamps: IntArray = column.cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_numpy()
    if np.any(stamps % 1_000_000_000):
        # Rounding would put an off-grid bar on the grid.
        raise BadInputError(f"{path}: column 'ts' has fractions of a second; a bar opens on a whole one. Correct those rows.")
    return stamps // 1_000_000_000
