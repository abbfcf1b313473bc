"""Dominance minutes: the worked example 10.12 and the flat guard."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.market.bars import BarReason, Bars, check_bars
from regime_pipeline.market.dominance import MAX_AGE_S, DominanceSample, bars_from_closes, build_minute_bars, close_minutes
from regime_pipeline.market.timeframe import Timeframe
from tests.builders import T0

U1, U2 = T0 - 300, T0 + 110


def minute(at: int) -> int:
    return T0 + 60 * at


EXAMPLE = [
    DominanceSample(minute(0) + 2, U1, 57.10),
    DominanceSample(minute(1) + 2, U1, 57.10),
    DominanceSample(minute(2) + 2, U2, 57.16),
    DominanceSample(minute(4) + 2, U2, 57.16),
]


def test_worked_example() -> None:
    result = build_minute_bars(EXAMPLE)
    rows = list(zip(*(column.tolist() for column in result.bars.columns()[:5]), strict=True))
    assert rows == [
        (minute(0), 57.10, 57.10, 57.10, 57.10),
        (minute(1), 57.10, 57.10, 57.10, 57.10),
        (minute(2), 57.10, 57.16, 57.10, 57.16),
        (minute(4), 57.16, 57.16, 57.16, 57.16),
    ]
    assert [sample.percent for sample in result.samples] == [57.10, 57.16]
    assert result.bars.volume.tolist() == [0.0] * 4


def test_several_samples_of_one_minute_span_its_range() -> None:
    answers = [DominanceSample(minute(0) + s, T0 + s, value) for s, value in ((1, 50.0), (20, 52.0), (40, 49.0), (55, 51.0))]
    built = build_minute_bars(answers).bars
    assert (built.open[0], built.high[0], built.low[0], built.close[0]) == (50.0, 52.0, 49.0, 51.0)


def test_an_unchanged_stamp_keeps_the_last_value_whatever_the_answer_says() -> None:
    result = build_minute_bars([DominanceSample(minute(0), U1, 57.0), DominanceSample(minute(1), U1, 99.0)])
    assert result.bars.close.tolist() == [57.0, 57.0]
    assert len(result.samples) == 1


def test_a_figure_older_than_thirty_minutes_closes_nothing() -> None:
    assert len(build_minute_bars([DominanceSample(T0, T0 - 1800, 57.0)]).bars) == 1
    assert len(build_minute_bars([DominanceSample(T0, T0 - 1801, 57.0)]).bars) == 0


@pytest.mark.parametrize("percent", [float("nan"), float("inf"), 0.0, -1.0, 100.0])
def test_what_is_not_a_percent_is_no_answer(percent: float) -> None:
    result = build_minute_bars([DominanceSample(T0, T0, percent)])
    assert len(result.bars) == 0
    assert result.state is None


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.floats(40, 60)), max_size=30), st.integers(0, 7))
def test_minute_by_minute_equals_one_pass(raw: list[tuple[int, int, float]], cut: int) -> None:
    answers = sorted((DominanceSample(T0 + at, T0 + 60 * stamp, value) for at, stamp, value in raw), key=lambda s: s.fetched_at_s)
    whole = build_minute_bars(answers)
    early = build_minute_bars([a for a in answers if a.fetched_at_s < minute(cut)])
    late = build_minute_bars([a for a in answers if a.fetched_at_s >= minute(cut)], early.state)
    assert Bars.concat([early.bars, late.bars]).equals(whole.bars)
    assert late.state == whole.state
    assert check_bars(whole.bars, Timeframe.M1, T0 + 10_000).good.all()


def test_recorded_days_open_at_yesterdays_close_if_there_was_one() -> None:
    day = 86_400
    built = bars_from_closes(np.array([T0, T0 + day, T0 + 3 * day]), np.array([40.0, 41.0, 39.0]), Timeframe.D1)
    assert built.open.tolist() == [40.0, 40.0, 39.0]
    assert built.high.tolist() == [40.0, 41.0, 39.0]
    assert built.low.tolist() == [40.0, 40.0, 39.0]


def test_a_recorded_day_without_percent_is_quarantined_and_opens_nothing() -> None:
    day = 86_400
    built = bars_from_closes(T0 + day * np.arange(3), np.array([40.0, 120.0, 39.0]), Timeframe.D1)
    assert check_bars(built, Timeframe.D1, T0 + 10 * day).bad == {1: BarReason.NON_FINITE_PRICE}
    assert built.open[2] == 39.0


def closes(answers: list[DominanceSample], minutes: int, every_s: int = 300) -> dict[int, float]:
    bars = close_minutes(answers, minute(0), minute(minutes), every_s).bars
    return dict(zip(((bars.ts_s - T0) // 60).tolist(), bars.close.tolist(), strict=True))


def test_minutes_between_two_questions_close_flat_at_the_last_answer() -> None:
    # asked in minutes 0 and 5; minute 5 opens at 57.1, the close before it, and closes at its own answer
    answers = [DominanceSample(minute(0) + 5, U1, 57.1), DominanceSample(minute(5) + 5, U2 + 200, 57.4)]
    assert closes(answers, 8) == {0: 57.1, 1: 57.1, 2: 57.1, 3: 57.1, 4: 57.1, 5: 57.4, 6: 57.4, 7: 57.4}
    fifth = close_minutes(answers, minute(0), minute(8), 300).bars[np.array([5])]
    assert (fifth.open[0], fifth.high[0], fifth.low[0]) == (57.1, 57.4, 57.1)


def test_a_minute_without_an_answer_in_reach_has_no_bar() -> None:
    # every 60 s, and a minute for a late run: the answer of minute 0 closes minute 0 (55 s old), minute 1 (115 s), not minute 2 (175 s)
    assert list(closes([DominanceSample(minute(0) + 5, U1, 57.1), DominanceSample(minute(6) + 5, U1, 57.2)], 7, 60)) == [0, 1, 6]


def test_a_figure_that_grows_older_than_thirty_minutes_closes_no_further_minute() -> None:
    # made 28 minutes before T0: minute 1 ends when it is exactly 30 minutes old, minute 2 when it is 31
    assert list(closes([DominanceSample(minute(0) + 5, minute(-28), 57.1)], 5)) == [0, 1]
    assert closes([DominanceSample(minute(0) + 5, minute(0) + 5 - MAX_AGE_S - 1, 57.1)], 5) == {}


@given(st.integers(1, 19), st.lists(st.integers(0, 19), min_size=1, max_size=12, unique=True))
@settings(max_examples=60, deadline=None)
def test_closing_late_gives_the_bars_that_closing_in_time_gives(cut: int, asked: list[int]) -> None:
    answers = [DominanceSample(minute(at) + 5, minute(at) - at % 3 * 400, 57 + at / 10) for at in sorted(asked)]
    whole = close_minutes(answers, minute(0), minute(20), 180)
    first = close_minutes([each for each in answers if each.fetched_at_s < minute(cut)], minute(0), minute(cut), 180)
    rest = close_minutes(answers, minute(cut), minute(20), 180, first.state)
    assert Bars.concat([first.bars, rest.bars]).equals(whole.bars)
