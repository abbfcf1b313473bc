"""The files of `regime trend run`: bars and levels read with the line of the first fault, states written whole or not at all."""

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from regime_pipeline.errors import BadInputError
from regime_pipeline.indicators.levels import L_PRICE, L_RAW, LEVEL_COLUMNS, MAX_LEVELS
from regime_pipeline.market.bars import MAX_MOVE, BarReason, Bars, RawBars, check_bars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.trend.engine import Advance, GivenLevels
from regime_pipeline.trend.record import FLAGS, INDEX, STATES

PRICES: Final = ("open", "high", "low", "close")
BAR_COLUMNS: Final = ("ts", *PRICES, "volume")
SCORES: Final = ("ts_score", "ox", "dx", "edx")
OUT_COLUMNS: Final = ("ts", "state", *FLAGS, *SCORES)

MAX_NUMBER: Final = 1e300
"""Far above any price; keeps what is computed from it finite."""

_HEADER_LINES: Final = 1
_RULES: Final = {
    BarReason.OFF_GRID: "ts must be the open of a {timeframe} bar, on the grid that starts at 1970-01-01T00:00Z",
    BarReason.NON_FINITE_PRICE: "prices must be finite numbers",
    BarReason.NON_POSITIVE_PRICE: "prices must be above 0",
    BarReason.INVERTED: "high must be >= open and close, low <= open and close",
    BarReason.BAD_VOLUME: "volume must be a finite number >= 0",
    BarReason.EXTREME_MOVE: f"close/open must lie within 1/{MAX_MOVE:g} and {MAX_MOVE:g}",
}


def read_bars(path: Path, timeframe: Timeframe) -> Bars:
    """Read a CSV file of ts, open, high, low, close, volume, oldest bar first; other columns are passed over.

    The clock is not asked: a bar in a file counts as closed. Volume is taken as it is given.

    Parameters
    ----------
    path : Path
        UTF-8, with a header; `ts` is the bar's OPEN with a zone, as 2025-01-01T00:00:00+00:00.
    timeframe : Timeframe
        Grid of `ts`.

    Returns
    -------
    Bars
        All of the file's bars, shape (n,).

    Raises
    ------
    BadInputError
        When the file cannot be read or one row breaks a rule: the first such line and the rule. Nothing is dropped or repaired.
    """
    table = _read_table(path)
    columns = {name: table.column(name).combine_chunks() for name in BAR_COLUMNS}
    ts_s = _ts_column(path, columns["ts"])
    raw = RawBars(ts_s, *(_number_column(path, name, columns[name]) for name in BAR_COLUMNS[1:]))
    _refuse_bad_rows(path, raw, timeframe, columns)
    return Bars.complete(raw, timeframe)


def read_levels(path: Path) -> GivenLevels:
    """Read a file of `{"ts": ..., "levels": [{"price": ..., "strength": ...}]}` a line, each set in force from its ts on.

    Returns
    -------
    GivenLevels
        Led by an empty set from the beginning of time, so that a file without lines means: no levels.

    Raises
    ------
    BadInputError
        When a line breaks a rule; the message says which.
    """
    starts_s, sizes, sets = [int(np.iinfo(np.int64).min)], [0], [np.zeros((MAX_LEVELS, LEVEL_COLUMNS))]
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        ts_s, levels = _parse_levels(path, number, line)
        if ts_s <= starts_s[-1]:
            _refuse(path, number, f"ts {_stamp(ts_s)} is not after the line before: each set once, oldest first")
        rows = np.zeros((MAX_LEVELS, LEVEL_COLUMNS))
        rows[: len(levels), L_PRICE] = [price for price, _ in levels]
        rows[: len(levels), L_RAW] = [strength for _, strength in levels]
        starts_s.append(ts_s)
        sizes.append(len(levels))
        sets.append(rows)
    return GivenLevels(np.array(starts_s), np.array(sizes), np.array(sets))


def write_states(path: Path, advance: Advance) -> None:
    """Write one row per record, floats so that they read back as the same numbers; the file appears whole or not at all.

    Raises
    ------
    BadInputError
        When the file cannot be written.
    """
    states = advance.states
    columns: list[list[str]] = [
        [f"{stamp}+00:00" for stamp in np.datetime_as_string(advance.ts_s.astype("datetime64[s]")).tolist()],
        [STATES[code] for code in states[:, INDEX["state"]].astype(int).tolist()],
        *(["1" if flag else "0" for flag in states[:, INDEX[name]].tolist()] for name in FLAGS),
        *(["" if math.isnan(score) else repr(score) for score in states[:, INDEX[name]].tolist()] for name in SCORES),
    ]
    rows = map(",".join, zip(*columns, strict=True))
    draft = None
    try:
        with NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            draft = Path(file.name)
            file.write("\n".join((",".join(OUT_COLUMNS), *rows)) + "\n")
        draft.chmod(0o644)  # a temporary file is private
        draft.replace(path)
    except OSError as error:
        if draft is not None:
            draft.unlink(missing_ok=True)
        raise BadInputError(
            f"{path} cannot be written: {error.strerror or error}. Name a file in a folder that you may write to."
        ) from error


def _read_table(path: Path) -> pa.Table:
    """Read every cell as text: a bad one is then found by us, with its line."""
    data = _read_bytes(path).rstrip()
    header, _, body = data.partition(b"\n")
    ragged: list[pa_csv.InvalidRow] = []

    def note(row: pa_csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    try:
        names = [name.strip().strip('"') for name in header.decode("utf-8-sig").split(",")]
        missing = [name for name in BAR_COLUMNS if name not in names]
        if missing:
            _refuse(path, 1, f"the header was {', '.join(names)!r}, it lacks {', '.join(missing)}")
        if not body:
            return pa.table({name: pa.array([], pa.string()) for name in BAR_COLUMNS})
        return pa_csv.read_csv(
            pa.BufferReader(body),
            read_options=pa_csv.ReadOptions(column_names=names, use_threads=False),
            parse_options=pa_csv.ParseOptions(ignore_empty_lines=False, invalid_row_handler=note),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(BAR_COLUMNS, pa.string()), include_columns=list(BAR_COLUMNS), strings_can_be_null=False
            ),
        )
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not UTF-8: {error}. Save it as UTF-8.") from error
    except pa.ArrowInvalid as error:
        if ragged:
            row = ragged[0]
            _refuse(path, row.number + _HEADER_LINES, f"it has {row.actual_columns} cells, the header {row.expected_columns}")
        raise BadInputError(f"{path} is not a readable CSV file: {error}. Correct it.") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror or error}. Name an existing file.") from error


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not UTF-8: {error}. Save it as UTF-8.") from error


def _number_column(path: Path, name: str, cells: pa.Array) -> NDArray[np.float64]:
    try:
        numbers: NDArray[np.float64] = pc.cast(pc.utf8_trim_whitespace(cells), pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        for row, cell in enumerate(cells.to_pylist()):
            if not _is_number(cell):
                _refuse(path, row + _HEADER_LINES + 1, f"{name} was {cell!r}: it must be a number")
        raise
    return numbers


def _is_number(cell: str) -> bool:
    try:
        pc.cast(pa.scalar(cell.strip()), pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _ts_column(path: Path, cells: pa.Array) -> NDArray[np.int64]:
    try:
        stamps_us = pc.cast(cells, pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        stamps_us = np.array([_parse_ts_us(path, row + _HEADER_LINES + 1, cell) for row, cell in enumerate(cells.to_pylist())], np.int64)
    broken = np.flatnonzero(stamps_us % 1_000_000)
    if broken.size:
        row = int(broken[0])
        _refuse(path, row + _HEADER_LINES + 1, f"ts was {cells[row].as_py()!r}: a bar opens on a whole second")
    seconds: NDArray[np.int64] = stamps_us // 1_000_000
    return seconds


def _parse_ts_us(path: Path, line: int, cell: object) -> int:
    """Read a time with a zone as epoch microseconds; one without is refused, for it may be anybody's."""
    stamp = None
    if isinstance(cell, str):
        with suppress(ValueError):
            stamp = datetime.fromisoformat(cell.strip())
    if stamp is None:
        _refuse(path, line, f"ts was {cell!r}: it must be a time such as 2025-01-01T00:00:00+00:00")
    if stamp.tzinfo is None:
        _refuse(path, line, f"ts was {cell!r}: it has no zone; write {stamp.isoformat()}+00:00 if it is UTC")
    return round(stamp.timestamp() * 1_000_000)


def _refuse_bad_rows(path: Path, raw: RawBars, timeframe: Timeframe, cells: dict[str, pa.Array]) -> None:
    """Raise for the first row that breaks a rule of a bar or of their order."""
    if not len(raw):
        return
    after_all = int(raw.ts_s.max()) + 2 * timeframe.seconds + timeframe.grace_s
    bad = {row: _RULES[reason].format(timeframe=timeframe) for row, reason in _bad_values(raw, timeframe, after_all)}
    behind = np.flatnonzero(np.diff(raw.ts_s) <= 0)
    if behind.size:
        row = int(behind[0]) + 1
        before = int(raw.ts_s[row - 1])
        rule = "each ts once" if raw.ts_s[row] == before else "oldest bar first"
        bad.setdefault(row, f"ts is not after {_stamp(before)} of the row before: {rule}")
    if bad:
        row = min(bad)
        shown = ",".join(cells[name][row].as_py() for name in BAR_COLUMNS)
        _refuse(path, row + _HEADER_LINES + 1, f"{bad[row]}; the row was {shown}")


def _bad_values(raw: RawBars, timeframe: Timeframe, now_s: int) -> Iterator[tuple[int, BarReason]]:
    order = (BarReason.DUPLICATE_TS, BarReason.OUT_OF_ORDER)
    return ((row, reason) for row, reason in check_bars(raw, timeframe, now_s).bad.items() if reason not in order)


def _parse_levels(path: Path, number: int, line: str) -> tuple[int, list[tuple[float, float]]]:
    try:
        item: Any = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        _refuse(path, number, f"it is not JSON ({error})")
    if not isinstance(item, dict) or not isinstance(item.get("levels"), list) or "ts" not in item:
        _refuse(path, number, 'it must be {"ts": ..., "levels": [{"price": ..., "strength": ...}, ...]}')
    stamp_us = _parse_ts_us(path, number, item["ts"])
    if len(item["levels"]) > MAX_LEVELS:
        _refuse(path, number, f"it has {len(item['levels'])} levels, at most {MAX_LEVELS} are kept in a set")
    return stamp_us // 1_000_000, [_parse_level(path, number, level) for level in item["levels"]]


def _parse_level(path: Path, number: int, level: Any) -> tuple[float, float]:  # noqa: ANN401 - whatever JSON holds
    values = [level.get("price"), level.get("strength")] if isinstance(level, dict) else [None]
    numbers = [
        float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
    ]
    if len(numbers) < len(values) or len(values) != 2:
        _refuse(path, number, f"level was {level!r}: it needs price and strength as finite numbers")
    price, strength = numbers
    if price <= 0 or strength < 0:
        _refuse(path, number, f"level was {level!r}: price must be above 0 and strength at least 0")
    return price, strength


def _stamp(ts_s: int) -> str:
    return f"{np.datetime_as_string(np.datetime64(ts_s, 's'))}+00:00"


def _refuse(path: Path, line: int | None, rule: str) -> NoReturn:
    where = f"{path}:{line}" if line else str(path)
    raise BadInputError(f"{where}: {rule}. Correct the file; nothing was written.")
