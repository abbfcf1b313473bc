"""The 24-cell board: where each driver stands on each regime timeframe."""

from dataclasses import dataclass

from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.ports import BoardRow, Work
from regime_pipeline.regime.drivers import DRIVER_NAMES
from regime_pipeline.services.derivation import driver_series


@dataclass(frozen=True, slots=True)
class BoardCell:
    """One driver on one timeframe; `row` is None while it has no state.

    `age_bars` counts bar lengths since the bar's end, `validity` says how far its data can be trusted (0 to 1).
    """

    driver: str
    timeframe: Timeframe
    row: BoardRow | None
    age_bars: float | None
    validity: float | None = None


def load_board(work: Work, now_s: int) -> list[BoardCell]:
    """Load all 24 cells in the order of drivers, then timeframes: the newest bar of each that has ended at `now_s`."""
    board = work.regime.load_board(now_s)
    rows = {(row.driver, row.timeframe): row for row in board}
    scores = dict(zip(rows, work.quality.load_scores([(driver_series(row.driver), row.timeframe, row.ts_s) for row in board]), strict=True))
    cells = []
    for driver in DRIVER_NAMES:
        for timeframe in REGIME_TIMEFRAMES:
            row = rows.get((driver, timeframe))
            age = None if row is None else (now_s - row.ts_s - timeframe.seconds) / timeframe.seconds
            cells.append(BoardCell(driver, timeframe, row, age, scores.get((driver, timeframe))))
    return cells
