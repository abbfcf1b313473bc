"""Columns of bars and the rules a delivered bar must meet."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.bars import BarReason, Bars, RawBars, check_bars
from regime_pipeline.market.timeframe import Timeframe
from tests.builders import T0, bars, raw_bars

M1 = Timeframe.M1
LATER = T0 + 86_400


def spoiled(row: int, **values: float) -> RawBars:
    raw = raw_bars([100.0, 101.0, 102.0])
    columns = {name: getattr(raw, name).copy() for name in values}
    for name, value in values.items():
        columns[name][row] = value
    return replace(raw, **columns)


def test_unequal_columns_are_refused_by_name() -> None:
    with pytest.raises(BadInputError, match=r"'close' has shape \(1,\)"):
        RawBars(np.arange(2), np.ones(2), np.ones(2), np.ones(2), np.ones(1), np.ones(2))


def test_slicing_and_joining_keep_every_column() -> None:
    whole = bars([1.0, 2.0, 3.0])
    assert Bars.concat([whole[:1], whole[np.array([False, True, True])]]).equals(whole)
    assert Bars.concat([]).equals(Bars.empty())


def test_good_bars_pass() -> None:
    verdict = check_bars(raw_bars([100.0, 101.0, 102.0]), M1, LATER)
    assert verdict.good.all()
    assert verdict.bad == {}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"ts_s": T0 + 61}, BarReason.OFF_GRID),
        ({"ts_s": LATER + 3600}, BarReason.FUTURE),
        ({"ts_s": LATER - 60}, BarReason.STILL_OPEN),
        ({"high": np.nan}, BarReason.NON_FINITE_PRICE),
        ({"high": np.inf}, BarReason.NON_FINITE_PRICE),
        ({"low": 0.0}, BarReason.NON_POSITIVE_PRICE),
        ({"low": -1.0}, BarReason.NON_POSITIVE_PRICE),
        ({"high": 50.0, "low": 150.0}, BarReason.INVERTED),
        ({"high": 100.5}, BarReason.INVERTED),
        ({"low": 100.5}, BarReason.INVERTED),
        ({"volume": -1.0}, BarReason.BAD_VOLUME),
        ({"volume": np.nan}, BarReason.BAD_VOLUME),
        ({"volume": np.inf}, BarReason.BAD_VOLUME),
        ({"close": 100.0 * 101, "high": 100.0 * 102}, BarReason.EXTREME_MOVE),
        ({"close": 0.9, "low": 0.8}, BarReason.EXTREME_MOVE),
        ({"ts_s": T0}, BarReason.DUPLICATE_TS),
    ],
)
def test_each_fault_is_named_and_its_neighbours_stay(values: dict[str, float], reason: BarReason) -> None:
    verdict = check_bars(spoiled(1, **values), M1, LATER)
    assert verdict.good.tolist() == [True, False, True]
    assert verdict.bad == {1: reason}


def test_a_bar_counts_from_its_end_plus_grace() -> None:
    raw = raw_bars([100.0])
    assert check_bars(raw, M1, T0 + 64).bad == {0: BarReason.STILL_OPEN}
    assert check_bars(raw, M1, T0 + 65).good.all()
    hour = raw_bars([100.0], Timeframe.H1)
    assert check_bars(hour, Timeframe.H1, T0 + 3659).bad == {0: BarReason.STILL_OPEN}
    assert check_bars(hour, Timeframe.H1, T0 + 3660).good.all()


def test_a_move_of_exactly_a_hundredfold_is_believed() -> None:
    raw = RawBars(np.array([T0]), np.array([1.0]), np.array([100.0]), np.array([1.0]), np.array([100.0]), np.array([0.0]))
    assert check_bars(raw, M1, LATER).good.all()


def test_a_late_row_is_out_of_order() -> None:
    raw = raw_bars([100.0, 101.0, 102.0])[np.array([0, 2, 1])]
    assert check_bars(raw, M1, LATER).bad == {2: BarReason.OUT_OF_ORDER}


def test_a_repeated_row_is_dropped_without_quarantine() -> None:
    raw = raw_bars([100.0, 101.0])
    verdict = check_bars(RawBars.concat([raw, raw]), M1, LATER)
    assert verdict.good.tolist() == [True, True, False, False]
    assert verdict.bad == {}
    assert verdict.n_repeated == 2


def test_one_far_future_stamp_does_not_condemn_the_rest() -> None:
    verdict = check_bars(spoiled(0, ts_s=T0 + 60 * 10**7), M1, LATER)
    assert verdict.bad == {0: BarReason.FUTURE}


def test_an_append_only_stream_refuses_what_it_has_passed() -> None:
    assert check_bars(raw_bars([100.0, 101.0]), M1, LATER, last_ts_s=T0).bad == {0: BarReason.OUT_OF_ORDER}


awkward = st.one_of(st.floats(), st.sampled_from([0.0, -1.0, 1.0, 2.0, 50.0, 101.0]))


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(-3, 12), awkward, awkward, awkward, awkward, awkward), max_size=12))
def test_every_row_is_kept_named_or_a_repetition_and_the_kept_are_sound(rows: list[tuple[float, ...]]) -> None:
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    raw = RawBars(T0 + 30 * table[:, 0].astype(np.int64), *(table[:, at] for at in range(1, 6)))
    verdict = check_bars(raw, M1, T0 + 300)
    assert int(verdict.good.sum()) + len(verdict.bad) + verdict.n_repeated == len(raw)
    kept = raw[verdict.good]
    assert (np.diff(kept.ts_s) > 0).all()
    assert check_bars(kept, M1, T0 + 300).good.all()
    assert (kept.low > 0).all()
    assert (kept.high >= kept.low).all()
