"""What the UI is told of a run."""

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.metadata import tabulate_states
from regime_pipeline.ports import BoardRow
from regime_pipeline.services.read_board import BoardCell


def cell(driver: str, delta: float | None) -> BoardCell:
    row = BoardRow(driver, Timeframe.M1, 0, "S3", "S3", 0, 1.0, ("trim",), delta, delta, immature=False, bars_seen=2000)
    return BoardCell(driver, Timeframe.M1, row, 0.1)


def test_a_state_without_deltas_yet_is_shown_without_them() -> None:
    table = tabulate_states([cell("BTC", 0.2), cell("ALT", None), BoardCell("nano", Timeframe.M1, None, None)], Timeframe.M1).value
    assert table is not None
    rows = [[part.strip() for part in line.split("|")[4:7]] for line in table.splitlines()[2:]]
    assert rows == [["trim", "+0.20", "+0.20"], ["trim", "", ""], ["", "", ""]]
