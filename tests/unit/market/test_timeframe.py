"""Grid arithmetic of the timeframes."""

import pytest

from regime_pipeline.market.timeframe import HORIZONS, REGIME_TIMEFRAMES, Timeframe
from tests.builders import T0


@pytest.mark.parametrize(("text", "seconds"), [("1m", 60), ("5m", 300), ("15m", 900), ("1h", 3600), ("4h", 14400), ("1d", 86400)])
def test_lengths(text: str, seconds: int) -> None:
    assert Timeframe(text).seconds == Timeframe(text).length.total_seconds() == seconds


def test_the_grid_starts_at_midnight_utc() -> None:
    assert Timeframe.D1.floor(T0 + 86_399) == T0
    assert Timeframe.D1.is_aligned(T0)
    assert not Timeframe.H1.is_aligned(T0 + 60)


@pytest.mark.parametrize("timeframe", list(Timeframe))
def test_the_last_closed_bar_waits_for_its_grace(timeframe: Timeframe) -> None:
    end_s = T0 + timeframe.seconds
    assert timeframe.last_closed(end_s + timeframe.grace_s - 1) == T0 - timeframe.seconds
    assert timeframe.last_closed(end_s + timeframe.grace_s) == T0


def test_regime_timeframes_have_horizons() -> None:
    assert [HORIZONS[timeframe] for timeframe in REGIME_TIMEFRAMES] == ["micro", "meso", "macro"]
