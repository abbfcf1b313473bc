import pytest

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.window import build_window, read_bar, spell_bar
from regime_pipeline.services.window import Window
from tests.builders import T0

DAY = 86_400


def test_days_that_are_over_are_whole() -> None:
    assert build_window(Timeframe.H1, T0, T0 + 2 * DAY, None, T0 + 5 * DAY) == Window(T0, T0 + 2 * DAY)


def test_a_day_under_way_ends_with_the_newest_closed_bar() -> None:
    # at 02:00:59 the hour 01:00 has ended and its minute of grace has not; the newest closed hour opened at 00:00
    assert build_window(Timeframe.H1, T0, T0 + DAY, None, T0 + 7259) == Window(T0, T0 + 3600)
    assert build_window(Timeframe.H1, T0, T0 + DAY, None, T0 + 7260) == Window(T0, T0 + 7200)


def test_days_to_come_are_empty() -> None:
    assert build_window(Timeframe.H1, T0 + DAY, T0 + 2 * DAY, None, T0) == Window(T0 + DAY, T0 + DAY)


def test_a_live_window_ends_with_its_bar_whenever_it_runs() -> None:
    for now_s in (T0 + 605, T0 + 30 * DAY):
        assert build_window(Timeframe.M1, T0, T0 + DAY, spell_bar(T0 + 540), now_s) == Window(T0, T0 + 600, live=True)


@pytest.mark.parametrize("text", ["yesterday", "2025-01-01T00:00:00", "2025-01-01T00:00:30+00:00"])
def test_what_is_no_open_of_a_bar_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="regime/bar_ts"):
        read_bar(Timeframe.M1, text)


def test_a_bar_is_read_as_it_is_spelled() -> None:
    assert read_bar(Timeframe.D1, spell_bar(T0)) == T0
